"""An exported ONNX file as a function, and an image file as the pixels that it takes.

It imports numpy, onnxruntime, pillow and pillow_heif alone.
"""
