"""The load generator of the server benchmark counts answers, and takes no error for one."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import http_load
from benchmarks.fuzz_server import sound
from benchmarks.http_load import Target
from benchmarks.serving import served
from tests import tiny_onnx


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with served(tiny_onnx.write(tmp_path_factory.mktemp("onnx") / "student.onnx")) as server:
        yield server.port


def target(port: int, path: str = "/v2/models/student/infer") -> Target:
    return Target(port, path, *sound(np.zeros((1, 8, 8, 3), np.uint8)))


def test_one_answer_is_read_to_its_end(port: int) -> None:
    header, body = http_load.ask(target(port))
    assert header.startswith(b"HTTP/1.1 200 OK")
    assert f"content-length: {len(body)}".encode() in header.lower()


def test_one_client_and_many(port: int) -> None:
    alone = http_load.one_at_a_time(target(port), 20)
    assert alone.shape == (20,)
    rate, together = http_load.together(target(port), connections=5, seconds=0.5, processes=2)
    assert rate == len(together) / 0.5 > 0
    assert (alone > 0).all()
    assert (together > 0).all()


def test_an_error_ends_the_run(port: int) -> None:
    with pytest.raises(RuntimeError, match=r"answered b'HTTP/1\.1 404 Not Found'"):
        http_load.one_at_a_time(target(port, "/v2/models/nobody/infer"), 1)
