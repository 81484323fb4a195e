"""One thin file per DVC stage: paths from the command line, numbers from params.yaml, work from the library."""
