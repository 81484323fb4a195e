"""Run, serve and time an exported Pupil model where torch is not installed; an ONNX file is all it needs to know."""
