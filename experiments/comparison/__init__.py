"""What `compare` needs beside the library."""
