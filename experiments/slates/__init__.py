"""What `select_slates` needs beside the library."""
