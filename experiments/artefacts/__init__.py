"""What `export` makes of the workdirs of runs."""
