"""How much a client may ask of the server, in bytes, seconds and numbers."""

from dataclasses import dataclass

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may take. Limits of batches and queues are in batching.Batching."""

    max_body_bytes: int = 16 * MEBIBYTE
    max_json_bytes: int = 4 * MEBIBYTE  # a parsed value takes up to 25 times the memory of its text
    max_pending_bytes: int = 256 * MEBIBYTE  # of all bodies that are read or computed
    max_unread_bytes: int = 256 * MEBIBYTE  # of all answers that wait to be read; looked at ten times a second
    max_header_bytes: int = 16 * 2**10
    header_timeout_s: float = 10.0  # from the connection, or the first byte of a request, to the end of its header
    body_timeout_s: float = 30.0  # from the end of the header to the last byte
    write_timeout_s: float = 30.0  # a client may leave its answer unread so long
    linger_s: float = 2.0  # a refused client is listened to so long, because a reset would take its answer away
    keep_alive_s: float = 60.0  # an idle connection is closed after that
    max_connections: int = 512
    drain_timeout_s: float = 30.0  # after SIGTERM, for the requests already accepted
