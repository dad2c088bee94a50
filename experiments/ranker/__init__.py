"""What `train_auc` needs beside the library."""
