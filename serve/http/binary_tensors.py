"""The binary tensor extension of the Open Inference Protocol v2: JSON first, then the bytes of the tensors.

    Inference-Header-Content-Length   bytes of the JSON; the tensors follow it without a gap
    binary_data_size                  parameter of a tensor: it has so many bytes there, and no 'data'

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol/binary-tensor-data-extension.
Little-endian, row-major.
"""

from serve.errors import InputError

HEADER = "Inference-Header-Content-Length"


def split(body: bytes, header: str | None) -> tuple[bytes, memoryview | None]:
    """The JSON of a request and the bytes behind it; None where the request has no binary part. Raises InputError."""
    if header is None:
        return body, None
    # isdecimal alone takes digits of every script, and int() would take '+1' and '1_0'.
    if not (header.isascii() and header.isdecimal() and len(header) < 20 and int(header) <= len(body)):
        raise InputError(
            f"{HEADER} must be a number of bytes in 0..{len(body)}, the size of the body, not {header:.40}."
        )
    size = int(header)
    return body[:size], memoryview(body)[size:]


def join(content: bytes, tensors: list[bytes]) -> bytes:
    """The body of an answer: its JSON, then its binary tensors in their order."""
    return b"".join([content, *tensors])
