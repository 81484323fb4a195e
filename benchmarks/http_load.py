"""A load generator that costs the machine little: one HTTP request, made beforehand, sent again and again.

Closed loop: every connection sends its next request when its answer is there. The connections are shared out over
processes, each one thread over select; an answer is read to its end by its Content-Length (or its last chunk) and must
have status 200.
"""

import json
import multiprocessing
import selectors
import socket
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve.http.binary_tensors import HEADER

_CHUNK = 2**16


@dataclass(frozen=True)
class Target:
    """A request and where it goes."""

    port: int
    path: str
    headers: dict[str, str]
    body: bytes

    def request(self) -> bytes:
        """The bytes of the request."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + self.body


def binary_target(port: int, model: str, pixels: npt.NDArray[np.uint8]) -> Target:
    """Pixels (B, H, W, 3) in the protocol's binary form, asking for probabilities in it."""
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(pixels.shape)}
    sized = tensor | {"parameters": {"binary_data_size": pixels.size}}
    wanted = {"name": "probabilities", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [sized], "outputs": [wanted]}).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER: str(len(header))}
    return Target(port, f"/v2/models/{model}/infer", headers, header + pixels.tobytes())


class _Client:
    """One connection."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._request = target.request()
        self.socket = self._connected()
        self._received = bytearray()
        self.sent_ns = 0

    def _connected(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self._target.port), timeout=60)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def send(self) -> None:
        """Send the request; small enough for the buffer of the socket."""
        self._received.clear()
        self.sent_ns = time.perf_counter_ns()
        self.socket.sendall(self._request)

    def receive(self) -> tuple[bytes, bytes] | None:
        """Header and body of the answer, once all of it is there."""
        data = self.socket.recv(_CHUNK)
        if not data:
            raise ConnectionError("the server closed a connection in the middle of an answer")
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        header = bytes(self._received[:end])
        body = self._received[end + 4 :]
        lower = header.lower()
        start = lower.find(b"content-length:")
        if start < 0:
            if not body.endswith(b"0\r\n\r\n"):
                return None
        elif len(body) < int(lower[start + 15 :].split(b"\r\n", 1)[0]):
            return None
        if not header.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server answered {header.splitlines()[0]!r}: {bytes(body[:300])!r}")
        return header, bytes(body)

    def ask(self) -> tuple[bytes, bytes]:
        """One request, and its answer."""
        self.send()
        while (answer := self.receive()) is None:
            pass
        return answer


def ask(target: Target) -> tuple[bytes, bytes]:
    """One request on a connection of its own: header and body of the answer."""
    client = _Client(target)
    with client.socket:
        return client.ask()


def one_at_a_time(target: Target, samples: int) -> npt.NDArray[np.int64]:
    """Nanoseconds of `samples` requests on one connection, one after the other, from sending to the last byte."""
    client = _Client(target)
    taken = np.empty(samples, dtype=np.int64)
    with client.socket:
        for index in range(samples):
            client.ask()
            taken[index] = time.perf_counter_ns() - client.sent_ns
    return taken


def together(target: Target, connections: int, seconds: float, processes: int) -> tuple[float, npt.NDArray[np.int64]]:
    """Answers per second of so many connections at once, and the nanoseconds each took."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    shares = [connections // processes + (index < connections % processes) for index in range(processes)]
    with context.Pool(processes, _begin, (barrier,)) as pool:
        parts = pool.starmap(_share, [(target, share, seconds) for share in shares], chunksize=1)
    return sum(rate for rate, _ in parts), np.concatenate([taken for _, taken in parts])


def _begin(barrier: object) -> None:
    global _BARRIER
    _BARRIER = barrier


_BARRIER: object = None


def _share(target: Target, connections: int, seconds: float) -> tuple[float, npt.NDArray[np.int64]]:
    clients = [_Client(target) for _ in range(connections)]
    selector = selectors.DefaultSelector()
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
    _BARRIER.wait(60)  # type: ignore[attr-defined]
    taken: list[int] = []
    started = time.perf_counter_ns()
    end = started + int(seconds * 1e9)
    for client in clients:
        client.send()
    pending = len(clients)
    while pending:
        for key, _ in selector.select(60):
            client = key.data
            if client.receive() is None:
                continue
            now = time.perf_counter_ns()
            if now < end:
                taken.append(now - client.sent_ns)
                client.send()
            else:
                pending -= 1
    for client in clients:
        client.socket.close()
    return len(taken) / seconds, np.array(taken, dtype=np.int64)
