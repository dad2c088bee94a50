"""What `sweep_tradeoff` needs beside the library."""
