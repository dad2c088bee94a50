"""One run of anything: flags, workdir, loop, checkpoints, progress, pages."""
