"""python -m serve run as a process: many clients at once, the way down, several workers, the token, the logs."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.serving import ROOT, Served, served
from serve.__main__ import main
from serve.commands import run
from serve.http import server
from serve.http.limits import Limits
from serve.http.server import Settings, is_loopback
from tests import tiny_onnx
from tests.processes import has_ended, spawned
from tests.waiting import until

pytestmark = pytest.mark.slow

MANY = 12


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return tiny_onnx.write(tmp_path / "student.onnx")


def ask(connection: http.client.HTTPConnection, seed: int) -> http.client.HTTPResponse:
    """Send pixels of that seed in binary, and see that the answer is theirs."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1 + seed % 3, 8, 8, 3), dtype=np.uint8)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape}
    tensor["parameters"] = {"binary_data_size": pixels.size}
    content = json.dumps({"inputs": [tensor], "outputs": [{"name": "logits"}], "id": str(seed)}).encode()
    headers = {"Inference-Header-Content-Length": str(len(content))}
    connection.request("POST", "/v2/models/student/infer", content + pixels.tobytes(), headers)
    response = connection.getresponse()
    assert response.status == 200
    answer = json.load(response)
    assert answer["id"] == str(seed)
    logits = np.array(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"])
    np.testing.assert_allclose(logits, tiny_onnx.expected_logits(pixels), rtol=1e-4, atol=1e-5)
    return response


def at_once(work: Callable[[int], None], num: int = MANY) -> Callable[[], None]:
    """Start threads; the result waits for them and raises what the first of them raised."""
    errors: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(num)]
    for thread in threads:
        thread.start()

    def wait() -> None:
        for thread in threads:
            thread.join(60)
        if errors:
            raise errors[0]

    return wait


@pytest.mark.parametrize("options", [["--parallel", 3, "--max-batch", 5], ["--workers", 2]])
def test_answers_are_never_mixed(student: Path, options: list[object]) -> None:
    with served(student, *options) as server:

        def work(index: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            for seed in range(index, 40 * MANY, MANY):
                ask(connection, seed)
            connection.close()

        at_once(work)()
        # Of all workers; one counts an answer when it has gone, and another one may tell before that.
        until(lambda: metrics(server)["pupil_requests_total", "/v2/models/{name}/infer", "200"] == 40 * MANY)
        assert metrics(server)["pupil_queue_images", "student"] == 0
        assert server.stop() == 0
        assert server.errors() == ""


def metrics(server: Served) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(server.url + "/metrics", timeout=20) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, *(value for name, value in sample.labels.items() if name != "pid")): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("options", [[], ["--workers", 2]])
def test_every_accepted_request_is_answered_on_the_way_down(student: Path, options: list[object]) -> None:
    """Clients ask on and on until they are told that the connection ends; then the port must be closed."""
    counts: Counter[str] = Counter()
    with served(student, *options) as server:
        begun = threading.Barrier(MANY + 1)

        def work(index: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            response = ask(connection, index)
            begun.wait(30)
            while response.headers.get("connection") != "close":
                response = ask(connection, index)  # raises if it is cut off
                counts["answered"] += 1
            counts["told"] += 1
            until_refused(server.port)

        wait = at_once(work)
        begun.wait(30)
        time.sleep(0.2)
        status = server.stop()
        wait()
        assert status == 0
        assert server.errors() == ""
    assert counts["told"] == MANY
    assert counts["answered"] > MANY


def until_refused(port: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=20).close()
        except (ConnectionRefusedError, ConnectionResetError):
            return
        time.sleep(0.01)
    pytest.fail("the port is still open")


def test_a_request_half_sent_is_answered_on_the_way_down(student: Path) -> None:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [7] * 192}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/student/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with served(student) as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(head + body[:100])
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        until_refused(server.port)
        client.sendall(body[100:])
        received = b""
        while data := client.recv(2**16):
            received += data
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in received
        assert server.process.wait(30) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no call that fills the holes of a file")
def test_workers_have_the_room_of_their_metrics_before_they_serve(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with served(student, "--workers", 2) as server:
        files = {path: path.stat() for path in tmp_path.glob("pupil-metrics-*/*.db")}
        assert len(files) == 2 * 4  # counters, histograms and two kinds of gauges
        assert [path for path, stat in files.items() if stat.st_blocks * 512 < stat.st_size] == []
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        ask(connection, 3)
        connection.close()
        assert {path: path.stat().st_size for path in files} == {path: stat.st_size for path, stat in files.items()}
        assert server.stop() == 0


def test_a_worker_that_dies_is_replaced(student: Path) -> None:
    with served(student, "--workers", 2) as server:
        before = spawned(server.process.pid)
        os.kill(before[-1], signal.SIGKILL)
        until(lambda: len(set(spawned(server.process.pid)) - set(before)) >= 1)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        ask(connection, 3)
        connection.close()
        assert server.stop() == 0
        record = json.loads(server.errors().splitlines()[0])
        assert record["message"] == f"Worker {before[-1]} ended with status -9; another takes its place."


def test_workers_that_cannot_be_replaced_end_nobody_and_are_once_they_can(student: Path) -> None:
    away = student.with_name("away")
    with served(student, "--workers", 2) as server:
        (_, survivor) = before = spawned(server.process.pid)
        student.rename(away)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: "there is no such file" in server.errors())
        assert survivor in spawned(server.process.pid)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        ask(connection, 3)
        os.kill(survivor, signal.SIGKILL)  # and with nobody left, the parent still tries
        away.rename(student)
        until(lambda: len(spawned(server.process.pid)) == 2)
        connection.close()
        ask(connection, 4)
        connection.close()
        assert server.stop() == 0
        assert "Traceback" not in server.errors()


def test_a_worker_killed_while_it_starts_ends_nobody(student: Path) -> None:
    with served(student, "--workers", 2) as server:
        before = spawned(server.process.pid)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(set(spawned(server.process.pid)) - set(before)) == 1)
        (new,) = set(spawned(server.process.pid)) - set(before)
        os.kill(new, signal.SIGKILL)  # long before it has imported what it needs
        until(lambda: f"Worker {new} ended with status -9" in server.errors())
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        ask(connection, 3)
        connection.close()
        assert server.stop() == 0


def test_workers_do_not_outlive_a_parent_that_is_killed(student: Path) -> None:
    with served(student, "--workers", 2) as server:
        workers = spawned(server.process.pid)
        assert len(workers) == 2
        server.process.kill()
        server.process.wait(20)
        until(lambda: all(map(has_ended, workers)))


def test_a_model_that_no_worker_can_load_ends_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "missing.onnx"), "--workers", "2", "--port", "0"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "missing.onnx is not a usable Pupil model: there is no such file" in err


def test_the_token_comes_from_a_file_or_the_environment(student: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    for arguments, env in ((["--token-file", file], None), ([], os.environ | {"PUPIL_TOKEN": "s3cret"})):
        with served(student, *arguments, env=env) as server:
            request = urllib.request.Request(server.url + "/v2", headers={"Authorization": "Bearer s3cret"})
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert answer.status == 200
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(server.url + "/v2", timeout=20)


def test_a_server_open_to_others_says_so_unless_it_asks_for_a_token(student: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    for options, warning in (([], "may use the server, which asks for no token"), (["--token-file", "token"], "")):
        given = [tmp_path / each if each == "token" else each for each in options]
        with served(student, "--host", "0.0.0.0", *given) as server:
            with urllib.request.urlopen(server.url + "/v2/health/ready", timeout=20) as answer:
                assert answer.status == 200
            assert server.stop() == 0
            assert (warning in server.errors(), server.errors() == "") == (True, warning == "")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", ("http://127.0.0.1:PORT", "")),
        ("localhost", ("http://localhost:PORT", "")),
        ("0.0.0.0", ("http://127.0.0.1:PORT", " and on this machine's other IPv4 addresses")),
        ("", ("http://127.0.0.1:PORT", " and on this machine's other IPv4 addresses")),
    ],
)
def test_the_address_that_is_printed_leads_to_the_server(host: str, expected: tuple[str, str]) -> None:
    with socket.create_server((host, 0)) as listener:
        url, others = run.address(listener, host)
        assert (url.replace(str(listener.getsockname()[1]), "PORT"), others) == expected
        assert is_loopback(listener) == (others == "")


def has_both() -> bool:
    """Whether one socket takes connections by IPv6 and by IPv4; where IPv6 is switched off, one can still be made."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return socket.has_dualstack_ipv6()
    except OSError:
        return False


@pytest.mark.skipif(not has_both(), reason="IPv6 is needed, with IPv4 on one socket")
def test_all_addresses_of_ipv6_are_those_of_ipv4_too(
    student: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reach(settings: Settings, listener: socket.socket, ready: Callable[[list[str]], None]) -> None:
        ready(["student"])
        for own in ("127.0.0.1", "::1"):
            socket.create_connection((own, listener.getsockname()[1]), 20).close()

    monkeypatch.setattr(server, "serve", reach)
    assert main(["run", str(student), "--host", "::", "--port", "0"]) == 0
    out, err = capsys.readouterr()
    assert re.match(r"Serving student on http://\[::1\]:\d+ and on this machine's other addresses; try: curl", out)
    assert err.startswith("Everybody who reaches this machine may use the server")
    # As where one socket cannot take both.
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with pytest.raises(ConnectionRefusedError):
        main(["run", str(student), "--host", "::", "--port", "0"])
    assert " and on this machine's other IPv6 addresses; try" in capsys.readouterr().out


def test_the_memory_for_bodies_grows_with_the_largest_one(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Limits] = []
    monkeypatch.setattr(server, "serve", lambda settings, *_: found.append(settings.limits))
    for mib in (16, 300):
        assert main(["run", str(student), "--port", "0", "--max-body-mib", str(mib)]) == 0
    assert [(each.max_body_bytes // 2**20, each.max_pending_bytes // 2**20) for each in found] == [
        (16, 256),
        (300, 600),
    ]


def test_a_server_takes_no_more_connections_than_files_may_be_open(student: Path) -> None:
    command = [sys.executable, "-m", "serve", "run", str(student), "--port", "0", "--max-connections", "1000"]
    limited = ["bash", "-c", 'ulimit -n 300; exec "$@"', "bash", *command]
    with subprocess.Popen(limited, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split(" on ")[1].partition(";")[0]
        clients = [socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20) for _ in range(290)]
        with urllib.request.urlopen(url + "/v2/health/live", timeout=20) as answer:
            assert answer.status == 200
        for client in clients:
            client.close()
        server.terminate()
        _, err = server.communicate(timeout=60)
    lines = [json.loads(line)["message"] for line in err.splitlines()]
    assert lines == [
        "This process may open 300 files (ulimit -n), so it takes 172 connections at once, "
        "not 1000 (--max-connections).",
        "172 connections are open, which is as many as may (--max-connections); others are answered 503.",
    ]


def test_a_full_disk_behind_standard_output_is_no_reason_not_to_serve(student: Path) -> None:
    command = [sys.executable, "-m", "serve", "run", str(student), "--port", "0"]
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True) as server,
    ):
        assert server.stderr is not None
        url = server.stderr.readline().split(" on ")[1].partition(";")[0]
        with urllib.request.urlopen(url + "/v2", timeout=20) as answer:
            assert answer.status == 200
        server.terminate()
        assert "Traceback" not in server.communicate(timeout=60)[1]


@pytest.mark.parametrize("content", ["", "two words", "\u00fcber", "\n"])
def test_an_impossible_token_is_refused(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    assert main(["run", str(student), "--port", "0", "--token-file", str(file)]) == 1
    said = "must be one word of visible ASCII characters" if content.strip() else "is empty; write one token into each"
    assert said in capsys.readouterr().err
    assert main(["run", str(student), "--port", "0", "--token-file", str(tmp_path / "none")]) == 1
    assert "cannot be read" in capsys.readouterr().err


TRACE = f"00-{'4b' * 16}-{'f0' * 8}-01"


def test_the_access_log_is_a_line_of_json_for_each_request(student: Path) -> None:
    with served(student, "--access-log") as server:
        for path, trace in (("/v2", TRACE), ("/v2/models/x%0Ay", TRACE + "-more")):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            connection.request("GET", path, headers={"traceparent": trace})
            connection.getresponse().read()
            connection.close()
        server.stop()
        first, second = map(json.loads, server.errors().splitlines())
    assert (first["method"], first["path"], first["status"], first["client"]) == ("GET", "/v2", 200, "127.0.0.1")
    assert (first["level"], first["logger"], first["ms"] > 0) == ("info", "serve.access", True)
    assert (second["path"], second["status"]) == ("/v2/models/x\ny", 404)
    assert (first["traceparent"], "traceparent" in second) == (TRACE, False)


def test_ctrl_c_of_a_terminal_ends_workers_in_order(student: Path) -> None:
    command = [sys.executable, "-m", "serve", "run", str(student), "--workers", "2", "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("Serving student on")
        os.killpg(server.pid, signal.SIGINT)
        out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (0, "", "")


IN_TERMINAL = "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"
"""A session's first process takes the terminal that it opens, on Linux."""


@pytest.mark.skipif(sys.platform != "linux", reason="a terminal is taken in another way")
@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_a_server_ends_with_its_terminal(student: Path, options: list[str]) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "serve", "run", str(student), "--port", "0", *options]
    with subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, os.ttyname(theirs), *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("Serving student on")
        for end in (ours, theirs):
            os.close(end)
        try:
            out, err = server.communicate(timeout=60)
        finally:
            server.kill()
    assert (server.returncode, out, err) == (0, "", "")
