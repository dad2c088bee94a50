"""Scores of files of any size, beside the library's of record batches."""
