"""What `train_predictor` needs beside the library."""
