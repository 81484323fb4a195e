"""Distillation methods, one file each; the file name is the method's name in params.yaml and in every table."""
