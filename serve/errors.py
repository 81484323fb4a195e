"""What can go wrong for reasons a user can mend. Each message says what was expected, what came, and what to do.

ServeError
+-- ModelError   a file is no usable Pupil model
+-- InputError   what was handed to a model is not what it takes
"""


class ServeError(Exception):
    """Base of every error that the command line reports as one paragraph, without a traceback."""


class ModelError(ServeError):
    """A file cannot be used as a model: missing, torn, not ONNX, without a card, or contradicting its card."""


class InputError(ServeError):
    """Bad input to a model. A server answers it with status 400."""
