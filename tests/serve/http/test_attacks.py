"""What strangers send, before their token is known and after: in linear time and bounded memory, it disturbs nobody."""

import io
import json
import socket
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.attacks import CHUNKED, ENDLESS, answers, connect, flood, head
from benchmarks.serving import Served, served
from serve.http.limits import Limits
from serve.machine import num_cores
from tests import tiny_onnx
from tests.attacks import INFER, TOKEN, ask, ask_and_close, infer, is_well, post, said_by, withstood
from tests.waiting import until

MIB = 2**20
MANY = 20_000
"""Classes of a model with large answers."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "token").write_text(TOKEN)
    models = tiny_onnx.write(folder / "student.onnx"), tiny_onnx.write(folder / "many.onnx", "many", 8, MANY)
    with served(*models, "--token-file", folder / "token") as running:
        assert is_well(running)
        yield running
        assert running.stop() == 0
        # On a machine with other work the places for connections may run out, which one line a minute says.
        said_by(running, Limits().max_connections)


@pytest.fixture(params=[None, TOKEN], ids=["stranger", "with token"])
def token(request: pytest.FixtureRequest) -> str | None:
    return request.param


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_has_no_end(server: Served, token: str | None, kind: str) -> None:
    with withstood(server), connect(server.port) as client:
        flood(client, *ENDLESS[kind].against(INFER, token))


def test_many_endless_ones_at_once(server: Served, token: str | None) -> None:
    opening = head("POST", INFER, CHUNKED, token=token)
    with withstood(server), ExitStack() as stack:
        clients = [stack.enter_context(connect(server.port)) for _ in range(40)]
        for client in clients:
            flood(client, opening, b"1\r\n \r\n" * 5000, 30_000)


@pytest.mark.parametrize("target", ["/v2", "/v2/health/live", "/nowhere"])
def test_requests_in_one_go_whose_answers_nobody_reads(server: Served, token: str | None, target: str) -> None:
    with withstood(server), connect(server.port) as client:
        flood(client, b"", head("GET", target, token=token) * 1000)


def test_requests_in_one_go_are_all_answered(server: Served) -> None:
    with withstood(server):
        came = ask(server, head("GET", "/v2", token=TOKEN) * 2000)
        assert [status for status, _ in came] == [200] * 2000


JSON = {
    "brackets, a quote and backslashes": b"[" * 33 + b'"' + b'\\"' * (2 * MIB - 20),
    "brackets": b"[" * 4 * MIB,
    "braces": b'{"a":' * (4 * MIB // 5),
    "empty lists": b"[" + b"[]," * (4 * MIB // 3 - 1) + b"[]]",
    "empty objects": b"[" + b"{}," * (4 * MIB // 3 - 1) + b"{}]",
    "a long number": b"9" * 4 * MIB,
    "a long fraction": b"0." + b"1" * (4 * MIB - 2),
    "numbers": b"[" + b"1," * (2 * MIB - 2) + b"1]",
    "escapes": b'{"id":"' + rb"\u0000" * (4 * MIB // 6 - 2) + b'"}',
    "half an escape": b'"' + rb"\ud800" * (4 * MIB // 6 - 1),
    "one key again and again": b"{" + b'"a":1,' * (4 * MIB // 6 - 1) + b'"a":1}',
    "keys": b"{" + b",".join(b'"%x":1' % number for number in range(350_000)) + b"}",
    "white space": b" " * 4 * MIB,
    "nested data": infer(np.zeros((1, 1, 1, 3), np.uint8)).replace(b"0, 0, 0", b"[[" + b"[0]," * 900_000 + b"[0]]]"),
    "outputs": b'{"inputs":[{}],"outputs":[' + b'{"name":"logits"},' * 200_000 + b"{}]}",
}


@pytest.mark.parametrize("kind", JSON)
def test_json_that_is_dear_to_read(server: Served, token: str | None, kind: str) -> None:
    assert len(JSON[kind]) <= 4 * MIB
    # Of a value that is parsed, limits.py says 25 times its text.
    with withstood(server, rise_mib=150):
        for _ in range(2):
            ((status, _),) = ask(server, post(JSON[kind], token=token))
            assert status == (401 if token is None else 400)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-be"])
def test_json_that_is_deep_in_another_encoding(server: Served, encoding: str) -> None:
    with withstood(server):
        ((status, body),) = ask(server, post(("[" * 100_000).encode(encoding)))
        assert (status, b"not JSON in UTF-8" in body) == (400, True)


def test_a_bad_request_behind_a_good_one_leaves_it_its_answer(server: Served) -> None:
    good = post(infer(np.zeros((1, 8, 8, 3), np.uint8)))
    for bad in (b"\0\0\0\0\r\n\r\n", b"GET /v2 HTTP/1.1\r\n\r\n", b"a" * 2**17):
        with withstood(server):
            (first, _), (second, body) = ask(server, good + bad)
            assert (first, second) in ((200, 400), (200, 431))
            assert b"error" in body


def test_a_body_that_breaks_off_in_a_bad_chunk_gets_one_answer(server: Served, token: str | None) -> None:
    for target in (INFER, "/v2/models/nobody/infer", "/v2/health/live"):
        for bad in (b"zz\r\n", b"-1\r\n", b"1\r\nxx\r\n", b"5\r\nab"):
            came = ask(server, head("POST", target, CHUNKED, token=token), b"1\r\n{\r\n", bad)
            is_half_read = target == INFER and token is not None and bad == b"5\r\nab"  # and then the client leaves
            assert len(came) == (0 if is_half_read else 1)
    assert is_well(server)


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: +5"],
        ["Content-Length: 5 "[:-1] + "\x00"],
        ["Content-Length: -1"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Content-Length : 5"],
        [f"Content-Length: {'9' * 5000}"],
        ["Host: elsewhere"],
    ],
)
def test_two_readings_of_one_request_are_refused(server: Served, lines: list[str]) -> None:
    hidden = head("GET", "/v2", token=TOKEN)
    ((status, _),) = ask(server, head("POST", INFER, *lines, token=TOKEN) + b"0\r\n\r\n" + hidden)
    assert status in (400, 413, 501)
    assert is_well(server)


def test_a_header_far_beyond_the_limit_is_answered_by_a_sentence(server: Served) -> None:
    with withstood(server):
        ((status, body),) = ask(server, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 10 * MIB + b"\r\n\r\n")
        assert (status, b"larger than the limit" in body) == (431, True)


def test_clients_that_leave_have_no_image_decoded(server: Served) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(buffer, "PNG", compress_level=1)
    large = post(buffer.getvalue(), "Content-Type: image/png", target="/classify")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    small = post(buffer.getvalue(), "Content-Type: image/png", target="/classify")
    before = counted(server, "left")
    # As many are decoded at once as there are cores, up to four, and a body of each of those that wait is held.
    with withstood(server, rise_mib=250 + 100 * min(4, num_cores())):
        for _ in range(60):
            with connect(server.port) as client:
                client.sendall(large)
        ((status, body),) = ask(server, small)
        assert (status, len(json.loads(body)["top"])) == (200, 3)
    assert counted(server, "left") - before >= 50
    assert counted(server, "deadline") == 0


def counted(server: Served, reason: str) -> float:
    ((_, body),) = ask(server, head("GET", "/metrics", token=TOKEN))
    lines = [line for line in body.decode().splitlines() if line.startswith(f'pupil_errors_total{{reason="{reason}"}}')]
    return float(lines[0].split()[1]) if lines else 0.0


def test_who_leaves_while_the_model_computes_is_no_error(server: Served) -> None:
    one = post(infer(np.zeros((1, 8, 8, 3), np.uint8)))
    with withstood(server):
        for _ in range(100):
            with connect(server.port) as client:
                client.sendall(one)
    ((_, body),) = ask(server, head("GET", "/metrics", token=TOKEN))
    assert b'status="503"' not in body
    assert b'status="500"' not in body


def test_bodies_just_below_the_limit_that_never_end_shut_nobody_out(server: Served) -> None:
    size = 16 * MIB
    with withstood(server, rise_mib=400), ExitStack() as stack:  # 256 MiB of bodies, and what is on its way
        for _ in range(20):
            client = stack.enter_context(connect(server.port))
            flood(client, head("POST", INFER, f"Content-Length: {size}", token=TOKEN), b" " * (MIB - 1), size)
        assert is_well(server)


def test_headers_that_trickle_shut_nobody_out(server: Served) -> None:
    with withstood(server), ExitStack() as stack:
        for _ in range(700):  # more than may be open
            stack.enter_context(connect(server.port)).sendall(b"GET /v2 HTTP/1.1\r\nX: ")


def to_many(num_images: int, **parameters: object) -> bytes:
    """A request to the model of many classes."""
    size = num_images * 8 * 8 * 3
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [num_images, 8, 8, 3]}
    tensor["parameters"] = {"binary_data_size": size}
    outputs = [{"name": name, "parameters": parameters} for name in ("probabilities", "logits")]
    content = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    header = f"Inference-Header-Content-Length: {len(content)}"
    return post(content + bytes(size), header, target="/v2/models/many/infer")


def test_large_answers_that_nobody_reads_fill_no_memory(server: Served) -> None:
    request = to_many(256, binary_data=True)
    # Beside the 256 MiB, what comes between two looks: all of the answers together would be 1,172 MiB.
    with withstood(server, rise_mib=900), ExitStack() as stack:
        for _ in range(30):
            client = stack.enter_context(connect(server.port))
            client.sendall(request)
            assert client.recv(1)  # the rest lies there
        until(lambda: counted(server, "unread") > 10)


def test_more_named_classes_than_an_answer_may_have_are_refused(server: Served) -> None:
    with withstood(server):
        for num_images, status in ((1, 200), (2, 413), (256, 413)):
            ((came, body),) = ask(server, to_many(num_images, classification=10**6))
            assert came == status
        assert b"10,240,000 classes would be named, more than the 65,536 of one answer" in body


def test_half_closed_connections_get_their_answers(server: Served) -> None:
    for request in (head("GET", "/v2", token=TOKEN), post(infer(np.zeros((1, 8, 8, 3), np.uint8)))):
        ((status, _),) = ask(server, request)
        assert status == 200
        with connect(server.port) as client:  # and close later than they ask
            client.sendall(request + request[:9])
            client.shutdown(socket.SHUT_WR)
            assert [status for status, _ in answers(client)] == [200]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bodies_that_unpack_to_a_thousand_times_their_size(server: Served, token: str | None, encoding: str) -> None:
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS + 16 * (encoding == "gzip"))
    packed = b"".join(packer.compress(b" " * 2**20) for _ in range(2**9)) + packer.flush()
    request = post(packed, f"Content-Encoding: {encoding}", "Connection: close", token=token)
    with withstood(server, 16 * 8), ThreadPoolExecutor(8) as clients:
        statuses = [status for status, _ in clients.map(partial(ask_and_close, server), [request] * 24)]
    assert set(statuses) <= ({401} if token is None else {413, 503})


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_scheme_of_a_token_is_read_as_http_says(server: Served, scheme: str) -> None:
    ((status, _),) = ask(server, head("GET", "/v2", f"Authorization: {scheme} {TOKEN}"))
    assert status == 200


@pytest.mark.parametrize("given", ["", "Bearer", f"Bearer{TOKEN}", f"Basic {TOKEN}", "Bearer s3cre", "Bearer \xe9"])
def test_no_other_token_is_taken(server: Served, given: str) -> None:
    ((status, _),) = ask(server, head("GET", "/v2", f"Authorization: {given}"))
    assert status == 401
    ((status, _),) = ask(server, head("GET", "/v2", f"Authorization: {given}", token=TOKEN))
    assert status == 401


def test_no_answer_repeats_the_host(server: Served) -> None:
    for target in ("/v2/", "/v2/models/student/", "//evil.example/", "http://evil.example/v2"):
        with connect(server.port) as client:
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode())
            with client.makefile("rb") as file:
                said = file.read()
        assert b"location:" not in said.lower()


def test_the_files_of_a_server_are_not_reached(server: Served, tmp_path: Path) -> None:
    for target in ("/static/../../../etc/passwd", "/static/%2e%2e/app.py", "/samples/../../x.png", "/%00", "/%ff"):
        ((status, body),) = ask(server, head("GET", target, token=TOKEN))
        assert status == 404
        assert b"root:" not in body
