"""A server without a token and with few places, for its own machine alone: what pages of browsers and crowds can do."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from benchmarks.attacks import answers, connect, head
from benchmarks.serving import Served, served
from tests import tiny_onnx
from tests.attacks import ask, full, infer, is_well, said_by, withstood

INFER = "/v2/models/student/infer"
PLACES = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    student = tiny_onnx.write(tmp_path_factory.mktemp("attacked") / "student.onnx")
    with served(student, "--max-connections", PLACES) as running:
        assert is_well(running)
        yield running
        assert running.stop() == 0
        said_by(running, PLACES)


def sent_by_a_browser(server: Served, *lines: str, host: str | None = None, method: str = "POST") -> int:
    body = infer(np.zeros((1, 8, 8, 3), np.uint8))
    own = f"localhost:{server.port}"
    lines = tuple(line.replace("OWN", own) for line in lines)
    request = head(method, INFER, *lines, f"Content-Length: {len(body)}").replace(
        b"localhost", (host or own).encode(), 1
    )
    ((status, _),) = ask(server, request + body)
    return status


@pytest.mark.parametrize(
    "lines",
    [
        ["Origin: http://evil.example", "Content-Type: text/plain"],
        ["Origin: null", "Content-Type: text/plain"],
        ["Origin: http://localhost:1"],
        ["Origin: http://OWN.evil.example"],
        ["Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: same-site", "Origin: http://OWN"],
    ],
)
def test_a_page_of_another_origin_has_nothing_computed(server: Served, lines: list[str]) -> None:
    assert sent_by_a_browser(server, *lines) == 403


@pytest.mark.parametrize(
    "lines", [[], ["Origin: http://OWN"], ["Sec-Fetch-Site: same-origin"], ["Content-Type: text/plain"]]
)
def test_the_own_page_and_programs_have(server: Served, lines: list[str]) -> None:
    assert sent_by_a_browser(server, *lines) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "["]
)
def test_a_page_that_gave_its_name_our_address_is_refused(server: Served, host: str) -> None:
    for target in ("/v2", "/", "/models", INFER):
        ((status, body),) = ask(server, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (status, b"student" in body) == (421, False)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "192.168.1.7", "page.localhost"])
def test_names_of_this_machine_are_not(server: Served, host: str) -> None:
    for named in (host, f"{host}:{server.port}"):
        ((status, _),) = ask(server, f"GET /v2 HTTP/1.1\r\nHost: {named}\r\n\r\n".encode())
        assert status == 200


def test_health_is_answered_to_any_name(server: Served) -> None:
    ((status, _),) = ask(server, b"GET /v2/health/ready HTTP/1.1\r\nHost: 10.1.2.3.probe\r\n\r\n")
    assert status == 200


def test_http_1_0_needs_no_host_but_has_no_name_of_this_machine(server: Served) -> None:
    ((status, _),) = ask(server, b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /v2 HTTP/1.1\r\nX: ",
        head("POST", INFER, "Content-Length: 1000"),
        head("POST", INFER, "Transfer-Encoding: chunked") + b"1\r\n",
        head("GET", "/v2"),
    ],
    ids=["nothing", "half a header", "no body", "half a chunk", "one request"],
)
def test_a_crowd_leaves_health_its_answer_and_old_clients_theirs(server: Served, sent: bytes) -> None:
    with connect(server.port) as old, withstood(server), ExitStack() as stack:
        old.sendall(head("GET", "/v2"))
        assert old.recv(2**16).startswith(b"HTTP/1.1 200")
        crowd = [stack.enter_context(connect(server.port)) for _ in range(PLACES + 30)]
        for each in crowd:
            each.sendall(sent)
        ((status, body),) = ask(server, head("GET", "/v2"))
        assert (status, b"connections are open" in body) == (503, True)
        assert full(PLACES) in said_by(server, PLACES)
        ((status, _),) = ask(server, head("GET", "/v2/health/ready"))
        assert status == 200
        old.sendall(head("GET", "/v2", "Connection: close"))
        assert [status for status, _ in answers(old)] == [200]


def test_far_more_connections_than_may_be(server: Served) -> None:
    # In such a rush a probe's connection may be the oldest that has not asked yet, which makes room for newcomers.
    with withstood(server, tries=2), ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(connect(server.port))


def test_connections_that_come_and_go(server: Served) -> None:
    with withstood(server):
        for number in range(1000):
            with connect(server.port) as client:
                if number % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, no goodbye
                client.sendall(head("GET", "/v2")[: number % 50])
