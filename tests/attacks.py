"""Is a server well, and within its memory, while it is attacked? How long others wait is benchmarks/attacked.py's."""

import json
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.attacks import answers, connect, head, probe
from benchmarks.serving import Served
from serve.load.memory import Memory
from tests import tiny_onnx

TOKEN = "s3cret"
INFER = "/v2/models/student/infer"


def full(places: int) -> str:
    """What the log of a server with so many places for connections says when all are taken, at most once a minute."""
    return f"{places} connections are open, which is as many as may (--max-connections); others are answered 503."


def said_by(server: Served, places: int) -> list[str]:
    """What the log of a server says: nothing but that its places for connections are taken, and that seldom.

    Nothing that a client does is a traceback, or fills the log.
    """
    said = [json.loads(line)["message"] for line in server.errors().splitlines()]
    assert set(said) <= {full(places)}
    assert len(said) < 10
    return said


def post(content: bytes, *lines: str, target: str = INFER, token: str | None = TOKEN) -> bytes:
    """A whole request."""
    return head("POST", target, f"Content-Length: {len(content)}", *lines, token=token) + content


def infer(pixels: np.ndarray) -> bytes:
    """What `student` takes."""
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def ask(server: Served, *sent: bytes) -> list[tuple[int, bytes]]:
    """All answers to what is sent on one connection, its sending half closed behind it."""
    with connect(server.port) as client:
        for part in sent:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        return answers(client)


def ask_and_close(server: Served, request: bytes) -> tuple[int, bytes]:
    """The answer to a request that says `Connection: close`."""
    with connect(server.port) as client:
        client.sendall(request)
        (answer,) = answers(client)
        return answer


def is_well(server: Served) -> bool:
    """Does it give an honest client the answer of the model?"""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    status, body = ask_and_close(server, post(infer(pixels), "Connection: close"))
    logits = json.loads(body)["outputs"][1]["data"]
    return status == 200 and np.allclose(logits, tiny_onnx.expected_logits(pixels)[0], rtol=1e-4, atol=1e-5)


@contextmanager
def withstood(server: Served, rise_mib: float = 48, tries: int = 1) -> Iterator[None]:
    """See that no health probe fails, or waits until it times out, `tries` times in a row throughout the block, that
    memory rises by no more, and that all is well.
    """
    memory = Memory(server.process.pid)
    over, failed = threading.Event(), [0]
    memory.sample(0.0)

    def watch() -> None:
        while not over.wait(0.02):
            failed[0] += all(math.isinf(probe(server.port)) for _ in range(tries))
            memory.sample(0.0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert is_well(server)
    memory.sample(0.0)
    sizes = memory.to_dict()
    assert failed[0] == 0, f"{failed[0]} health probes failed"
    rise = (sizes["max_bytes"] - sizes["first_bytes"]) / 2**20
    assert rise < rise_mib, f"the server took {rise:.0f} MiB more"
