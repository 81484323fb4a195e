"""What can go wrong for reasons a user can mend. Each message says what was expected, what came, and what to do.

ServeError
+-- ModelError        a file is no usable Pupil model
+-- InputError        what was handed to a model is not what it takes
|   +-- TooLarge          more of it than the server takes at once
|   +-- ImageError        bytes are no image that is decoded here
+-- Unavailable       sound, but not now
    +-- Overloaded        too many requests wait already
    +-- DeadlineExceeded  the answer would come too late
    +-- ClientLeft        nobody is there to take it
"""


class ServeError(Exception):
    """Base of every error that the command line reports as one paragraph, without a traceback."""


class ModelError(ServeError):
    """A file cannot be used as a model: missing, torn, not ONNX, without a card, or contradicting its card."""


class InputError(ServeError):
    """Bad input to a model. A server answers it with status 400."""


class TooLarge(InputError):
    """More input than the server takes at once. A server answers it with status 413."""


class ImageError(InputError):
    """Bytes that cannot be decoded: no JPEG, PNG, WebP or HEIC, torn, or more pixels than are decoded."""


class Unavailable(ServeError):
    """A sound request that cannot be answered now. A server answers it with status 503 and Retry-After."""


class Overloaded(Unavailable):
    """The bounded queue in front of a model is full."""


class DeadlineExceeded(Unavailable):
    """A request was not answered before its deadline."""


class ClientLeft(Unavailable):
    """The connection closed while its request waited."""
