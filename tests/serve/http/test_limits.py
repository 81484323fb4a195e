"""What a hostile or unlucky client can do to a connection: each time one clear sentence or the end, never a leak."""

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h11
import numpy as np
import pytest

from serve.http import tls
from serve.http.app import create_app
from serve.http.batching import Batching
from serve.http.clocks import Clocks
from serve.http.connection import Connection
from serve.http.limits import Limits
from serve.http.metrics import Metrics
from serve.http.server import Server
from serve.model.classifier import OnnxClassifier
from tests import tiny_onnx
from tests.serve.http.test_tls import certify
from tests.waiting import until

METRICS = Metrics()

SHORT = Limits(
    max_body_bytes=2**20,
    max_header_bytes=2000,
    header_timeout_s=0.3,
    body_timeout_s=0.3,
    write_timeout_s=0.3,
    keep_alive_s=1,
    max_connections=4,
    drain_timeout_s=5,
)
HEADER_TOO_LARGE = "The header, or the end of a chunked body, is larger than the limit of 2000 bytes."


@dataclass
class Running:
    """A server on a thread of this process."""

    server: Server
    port: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def num_connections(self) -> int:
        return len(self.server.server_state.connections)

    def is_well(self) -> bool:
        """Does it answer, and is nobody left on it?"""
        with self.connect() as client:
            client.sendall(post(body()))
            assert answer(client)[0] == 200
        until(lambda: self.num_connections() == 0)
        return self.server.server_state.tasks == set()


@contextmanager
def running(
    model: OnnxClassifier, limits: Limits = SHORT, batching: Batching | None = None, https: tls.Files | None = None
) -> Iterator[Running]:
    ready = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = Server(create_app({"student": model}, limits, batching), ready.set, https=https)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert ready.wait(20)
            yield Running(server, port)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxClassifier:
    return OnnxClassifier(tiny_onnx.write(tmp_path_factory.mktemp("onnx") / "student.onnx"))


@pytest.fixture(scope="module")
def server(model: OnnxClassifier) -> Iterator[Running]:
    with running(model) as served:
        yield served


def body() -> bytes:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [7] * 192}
    return json.dumps({"inputs": [tensor]}).encode()


def post(content: bytes, *lines: str, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    head = ["POST /v2/models/student/infer HTTP/1.1", "Host: x", f"Content-Length: {size}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


def answer(client: socket.socket) -> tuple[int, dict[str, str], str]:
    """Status, headers and the error of one answer; ("" for none)."""
    with client.makefile("rb") as file:
        line = file.readline().split()
        assert line, "the connection was closed without an answer"
        headers: dict[str, str] = {}
        while (header := file.readline()) != b"\r\n":
            name, _, value = header.decode().partition(":")
            headers[name.lower()] = value.strip()
        content = json.loads(file.read(int(headers["content-length"])))
    return int(line[1]), headers, content.get("error", "")


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def trickle_until_closed(client: socket.socket) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            client.sendall(b"a")
        except OSError:  # a reset or a broken pipe, as it comes
            return
        time.sleep(0.01)
    pytest.fail("the server still listens after 20 s")


@pytest.mark.parametrize(
    ("sent", "status", "complaint"),
    [
        (b"POST /v2/mod", 408, "The header of the request took longer than 0.3 s to arrive."),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nX-A: ", 408, "The header of the request took longer than 0.3 s to arrive."),
        (b"\r\n\r\n", 400, "The request cannot be read: no request line received."),
        (post(b"{", length=100), 408, "The body of the request took longer than 0.3 s to arrive."),
        (b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 9000, 431, HEADER_TOO_LARGE),
        (b"GET /" + b"a" * 9000, 431, HEADER_TOO_LARGE),
        (
            b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + b"X: aaaaaaaaaaaaaaa\r\n" * 300 + b"\r\n",
            431,
            HEADER_TOO_LARGE,
        ),
        (b"hello\r\n\r\n", 400, "The request cannot be read: illegal request line"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400, "The request cannot be read"),
        (b"GET /v2 HTTP/1.1\r\n\r\n", 400, "The request cannot be read: Missing mandatory Host: header."),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "The request cannot be read: Found multiple Host"),
        (post(body(), "Content-Length: 3"), 400, "The request cannot be read"),
        (post(body(), "Transfer-Encoding: chunked"), 400, "The request cannot be read"),
        (post(b"", length=2**20 + 1), 413, "The body is larger than the limit of 1048576 bytes"),
        (post(b"", length=2**63), 413, "The body is larger than the limit of 1048576 bytes"),
    ],
)
def test_one_sentence_and_the_end(server: Running, sent: bytes, status: int, complaint: str) -> None:
    with server.connect() as client:
        client.sendall(sent)
        status_, headers, error = answer(client)
        assert (status_, complaint in error) == (status, True), error
        assert headers["content-type"] == "application/json"
        assert is_closed(client)
    assert server.is_well()


def test_who_says_nothing_is_hung_up_on(server: Running) -> None:
    with server.connect() as client:
        assert is_closed(client)
    assert server.is_well()


@pytest.mark.parametrize("start", [b"POST /v2/models/student/infer HTTP/1.1\r\nX: ", post(b"", length=10**5)])
def test_bytes_that_trickle_in_stop_no_clock(server: Running, start: bytes) -> None:
    with server.connect() as client:
        client.sendall(start)
        trickle_until_closed(client)
    assert server.is_well()


def test_an_idle_connection_is_closed(server: Running) -> None:
    with server.connect() as client:
        client.sendall(post(body()))
        assert answer(client)[0] == 200
        assert is_closed(client)
    assert server.is_well()


def test_a_large_body_is_swallowed_and_not_held(model: OnnxClassifier) -> None:
    limits = Limits(max_body_bytes=2**20)
    with running(model, limits) as server, server.connect() as client:
        client.sendall(post(b" " * 50_000_000))
        assert answer(client)[::2] == (
            413,
            "The body is larger than the limit of 1048576 bytes; send a smaller file, or fewer images at once.",
        )
        client.sendall(post(body()))  # and the connection goes on
        assert answer(client)[0] == 200


def test_a_chunked_body_is_read_no_further_than_the_limit(server: Running) -> None:
    head = b"POST /v2/models/student/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.connect() as client:
        client.sendall(head)
        for _ in range(20):
            client.sendall(b"10000\r\n" + b" " * 2**16 + b"\r\n")
        assert answer(client)[0] == 413
    assert server.is_well()


def test_who_sends_on_after_the_answer_is_hung_up_on(server: Running) -> None:
    with server.connect() as client:
        client.sendall(post(b"", length=10**9))
        assert answer(client)[0] == 413
        trickle_until_closed(client)
    assert server.is_well()


def test_who_does_not_read_is_hung_up_on(server: Running) -> None:
    with server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0.2)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 500
        try:
            for _ in range(20):
                client.sendall(request)
        except OSError:
            pass  # it stopped reading, as it should
        until(lambda: server.num_connections() == 0)
    assert server.is_well()


class Unread(Connection):
    """A connection that waits for its answer to be read."""

    def __init__(self, unread: int) -> None:
        self.unread = unread
        self.is_refused, self.is_ended, self.cycle, self.metrics = False, False, None, METRICS
        self.transport, self.conn = self, h11.Connection(h11.SERVER)  # type: ignore[assignment]

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.is_ended = True


def test_answers_that_nobody_reads_are_held_to_a_bound_the_oldest_first() -> None:
    clocks = Clocks(Limits(max_unread_bytes=100, write_timeout_s=1000))
    old, newer, newest = Unread(40), Unread(40), Unread(20)
    clocks.look([old], 0.0)
    clocks.look([newer, old], 1.0)
    clocks.look([newest, newer, old], 2.0)  # which is as much as may be
    assert [each.is_ended for each in (old, newer, newest)] == [False, False, False]
    newest.unread = 70
    clocks.look([newest, newer, old], 3.0)
    assert [each.is_ended for each in (old, newer, newest)] == [True, True, False]
    newest.unread, old.is_ended = 101, False
    old.unread = 0  # it holds nothing, so its end would help nobody
    clocks.look([newest, old], 4.0)
    assert [each.is_ended for each in (old, newest)] == [False, True]


@contextmanager
def large_answers(folder: Path, limits: Limits, https: tls.Files | None = None) -> Iterator[tuple[Running, bytes]]:
    """A server, and a request for an answer of ten megabytes, which no buffer of the system takes as a whole."""
    model = OnnxClassifier(tiny_onnx.write(folder / "student.onnx", num_classes=1000))
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [256, 8, 8, 3]}
    tensor["parameters"] = {"binary_data_size": 256 * 192}
    content = json.dumps({"inputs": [tensor]}).encode()
    with running(model, limits, https=https) as server:
        yield server, post(content + bytes(256 * 192), f"Inference-Header-Content-Length: {len(content)}")


def test_who_reads_no_large_answer_makes_room_for_others(tmp_path: Path) -> None:
    limits = Limits(max_unread_bytes=2**20, write_timeout_s=1000, keep_alive_s=1000)
    with large_answers(tmp_path, limits) as (server, request), server.connect() as client:
        client.sendall(request)
        until(lambda: server.server.server_state.total_requests == 1 and server.num_connections() == 0)
        assert server.is_well()


def test_over_tls_too_who_does_not_read_is_hung_up_on(tmp_path: Path) -> None:
    files = certify(tmp_path / "files")
    context = ssl.create_default_context(cafile=str(files.certificate))
    limits = Limits(write_timeout_s=0.3, keep_alive_s=1000)
    with (
        large_answers(tmp_path, limits, files) as (server, request),
        context.wrap_socket(server.connect(), server_hostname="localhost") as client,
    ):
        client.sendall(request)
        until(lambda: server.server.server_state.total_requests == 1 and server.num_connections() == 0)
    with (
        large_answers(tmp_path, Limits(keep_alive_s=1000), files) as (server, request),
        context.wrap_socket(server.connect(), server_hostname="localhost") as client,
    ):
        client.sendall(request)
        assert len(answer(client)[2]) == 0  # and who reads has it whole


def test_one_connection_too_many_is_503(server: Running) -> None:
    clients = [server.connect() for _ in range(4)]
    until(lambda: server.num_connections() == 4)
    with server.connect() as surplus:
        surplus.sendall(post(body()))
        status, headers, error = answer(surplus)
        assert (status, headers["retry-after"]) == (503, "1")
        assert error == "4 connections are open, as many as may; try again later."
    for client in clients:
        client.close()
    assert server.is_well()


def test_far_too_many_connections_are_reset(server: Running) -> None:
    clients = [server.connect() for _ in range(90)]
    until(lambda: all(map(is_closed, clients)))
    for client in clients:
        client.close()
    assert server.is_well()


def test_an_upgrade_is_answered_as_none(server: Running) -> None:
    with server.connect() as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert answer(client)[0] == 200
    assert server.is_well()


def test_pipelined_requests_are_answered_in_their_order(server: Running) -> None:
    with server.connect() as client:
        missing = b"GET /v2/models/nobody HTTP/1.1\r\nHost: x\r\n\r\n"
        client.sendall(post(body()) + missing + post(body(), "Connection: close"))
        received = b""
        while data := client.recv(2**16):
            received += data
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"404", b"200"]
    assert server.is_well()


def test_clients_that_leave_cost_nothing_and_disturb_nobody(model: OnnxClassifier) -> None:
    with running(model, Limits(), Batching(max_batch=4)) as server:
        stop = threading.Event()

        def leave() -> None:
            while not stop.is_set():
                for sent in (post(body()), post(body())[:-9], post(body())[:40]):
                    with server.connect() as client:
                        client.sendall(sent)

        leavers = [threading.Thread(target=leave) for _ in range(4)]
        for each in leavers:
            each.start()
        with server.connect() as client:
            for seed in range(100):
                pixels = np.random.default_rng(seed).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
                tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": pixels.ravel().tolist()}
                client.sendall(post(json.dumps({"inputs": [tensor]}).encode()))
                with client.makefile("rb") as file:
                    while (line := file.readline()) != b"\r\n":
                        if line.startswith(b"content-length"):
                            size = int(line.split()[1])
                    logits = json.loads(file.read(size))["outputs"][1]["data"]
                np.testing.assert_allclose(logits, tiny_onnx.expected_logits(pixels)[0], rtol=1e-4, atol=1e-5)
        stop.set()
        for each in leavers:
            each.join(20)
        assert server.is_well()
