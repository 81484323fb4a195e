"""One file per source of images; the file name is the source's name in params.yaml."""
