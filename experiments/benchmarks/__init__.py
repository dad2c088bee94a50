"""What `benchmark` needs beside the library."""
