"""The deployed student for other runtimes than ONNX Runtime: a file for each, whose packages nobody has to install."""
