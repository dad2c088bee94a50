"""Binaries: `python -m experiments.<name> --flags`."""
