"""What `train_reranker` needs beside the library."""
