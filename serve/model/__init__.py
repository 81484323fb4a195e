"""An exported ONNX file as a function, and an image file as the pixels that it takes.

Every room of serve and the stages enter. It imports numpy, onnxruntime and pillow alone.
"""
