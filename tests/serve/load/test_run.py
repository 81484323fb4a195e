"""The load generator against real servers, some of which stall, refuse, lie or hang up."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import uvicorn

from benchmarks.serving import served
from serve.errors import ServeError
from serve.http.app import create_app
from serve.load import knee, open_loop
from serve.load import memory as memory_module
from serve.load import run as load
from serve.load.alarm import Alarm
from serve.load.memory import Memory
from serve.load.open_loop import Limits, Progress
from serve.load.outcome import Outcome
from serve.load.target import Target, look_up
from serve.model.classifier import OnnxClassifier
from tests import tiny_onnx

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
# Other tests run beside these: what is late because of them must not decide.
PATIENT = Limits(bound_ms=20_000.0, timeout_s=30.0)
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_onnx.write(tmp_path_factory.mktemp("load") / "student.onnx")


class Faulty:
    """The real application, with something that goes wrong in front of it."""

    def __init__(self, path: Path) -> None:
        self._app = create_app({"student": OnnxClassifier(path)})
        self.fault: Callable[[int, Any, Any, Any, Asgi], Awaitable[None]] | None = None
        self.num_inferences = 0  # the first of them are those of look_up

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/infer"):
            self.num_inferences += 1
            if self.fault is not None and self.num_inferences > 16:
                await self.fault(self.num_inferences - 17, scope, receive, send, self._app)
                return
        await self._app(scope, receive, send)


@pytest.fixture
def faulty(student: Path) -> Iterator[tuple[Faulty, str]]:
    app = Faulty(student)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield app, f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)


def measure(target: Target, rate: float, duration_s: float, limits: Limits = PATIENT, **options: Any) -> Outcome:
    return asyncio.run(load.run(target, rate, duration_s, 0, limits, **options))


def test_arrivals_are_poisson_and_repeat() -> None:
    times = load.arrivals(1000, 20, seed=3)
    assert (times == load.arrivals(1000, 20, seed=3)).all()
    assert (times[:100] != load.arrivals(1000, 20, seed=4)[:100]).any()
    assert len(times) == pytest.approx(20_000, abs=5 * 20_000**0.5)
    gaps = np.diff(times) / 1e6
    assert times[0] >= 0
    assert times[-1] < 20e9
    assert gaps.min() >= 0
    # Exponential gaps: deviation as large as the mean, and e^-1 of them longer than it.
    assert gaps.mean() == pytest.approx(1, rel=0.04)
    assert gaps.std() == pytest.approx(1, rel=0.06)
    assert (gaps > 1).mean() == pytest.approx(np.exp(-1), abs=0.02)
    assert len(load.arrivals(0.01, 1, seed=0)) <= 1


@pytest.mark.parametrize("fine", [True, False])
def test_an_alarm_rings_once_and_not_early(fine: bool) -> None:
    async def ring() -> list[float]:
        late: list[float] = []
        rung = asyncio.Event()

        def note() -> None:
            late.append((time.monotonic_ns() - at) / 1e6)
            rung.set()

        alarm = Alarm(note, fine)
        for delay_ms in (-5, 0, 0.3, 2, 20):
            rung.clear()
            at = time.monotonic_ns() + int(delay_ms * 1e6)
            alarm.set(at)
            await asyncio.wait_for(rung.wait(), 10)
        await asyncio.sleep(0.03)
        alarm.set(time.monotonic_ns() + 10**7)
        alarm.close()
        await asyncio.sleep(0.05)
        return late

    late = asyncio.run(ring())
    assert len(late) == 5
    assert min(late) >= (0 if fine else -1)


def test_every_arrival_is_answered_rightly_and_timed(faulty: tuple[Faulty, str]) -> None:
    target = look_up(faulty[1], "student", None)
    assert target.tensors == "binary"
    outcome = measure(target, 300, 4)
    assert outcome.errors == {}
    assert outcome.due == outcome.answered == len(load.arrivals(300, 4, 0))
    assert outcome.due > len(outcome.latencies) == len(outcome.lags) > 662  # the warm-up is left out
    assert (outcome.latencies >= outcome.since_sent).all()
    assert (outcome.latencies - outcome.since_sent == outcome.lags).all()
    assert outcome.since_sent.min() > 0
    assert outcome.lags.min() >= 0
    assert outcome.verdict == "holds"
    assert outcome.to_dict()["latency"]["n"] == len(outcome.latencies)  # type: ignore[index]


def test_json_tensors_where_a_server_knows_no_other(
    faulty: tuple[Faulty, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.http.protocol.EXTENSIONS", ())
    target = look_up(faulty[1], "student", None)
    assert target.tensors == "json"
    assert measure(target, 100, 1).errors == {}


def test_a_stall_is_charged_with_all_that_came_due_meanwhile(faulty: tuple[Faulty, str]) -> None:
    app, url = faulty
    began: list[float] = []

    async def stall(number: int, scope: Any, receive: Any, send: Any, real: Asgi) -> None:
        began.append(time.monotonic())
        await asyncio.sleep(began[0] + 2.5 - began[-1] if 1.5 <= began[-1] - began[0] < 2.5 else 0)
        await real(scope, receive, send)

    app.fault = stall
    # One connection: a generator that waited for its answer would see one slow request.
    outcome = measure(look_up(url, "student", None), 100, 4, Limits(20_000.0, 30.0, connections=1))
    assert outcome.errors == {}
    # About a hundred came due in the second; half of them waited longer than half of it.
    assert (outcome.latencies > 0.5e9).sum() >= 25
    assert outcome.latencies.max() >= 0.9e9
    assert len(began) == outcome.due


def test_failures_are_counted_by_kind(faulty: tuple[Faulty, str]) -> None:
    app, url = faulty
    last: list[Any] = []

    async def fail(number: int, scope: Any, receive: Any, send: Any, real: Asgi) -> None:
        kind = number % 16
        said: list[Any] = []

        async def keep(message: Any) -> None:
            said.append(message)
            await send(message)

        if kind == 3:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        elif kind == 5 and last:  # the answer to another request
            for message in last[0]:
                await send(message)
        elif kind == 7:
            body = b"no tensor"
            length = str(len(body)).encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
            await send({"type": "http.response.body", "body": body})
        elif kind == 9:  # promises more than it sends, and uvicorn hangs up
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ConnectionAbortedError
        elif kind == 11:
            await asyncio.sleep(6)
        else:
            await real(scope, receive, keep)
            if number == 0:
                last.append(said)

    app.fault = fail
    # So slow that requests are served in the order of their arrival, and each kind hits a known image.
    outcome = measure(look_up(url, "student", None), 20, 4, Limits(20_000.0, timeout_s=2.0))
    expected = outcome.due / 16
    assert set(outcome.errors) == {"status 503", "wrong answer", "connection lost", "no answer within 2 s"}
    assert outcome.errors["wrong answer"] == pytest.approx(2 * expected, abs=2)
    for kind in ("status 503", "connection lost", "no answer within 2 s"):
        assert outcome.errors[kind] == pytest.approx(expected, abs=1)
    assert outcome.answered + sum(outcome.errors.values()) == outcome.due
    assert outcome.verdict == "fails"


def test_connections_that_the_server_closes_are_replaced(faulty: tuple[Faulty, str]) -> None:
    app, url = faulty

    async def close(number: int, scope: Any, receive: Any, send: Any, real: Asgi) -> None:
        async def closing(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await real(scope, receive, closing)

    app.fault = close
    outcome = measure(look_up(url, "student", None), 100, 2, Limits(20_000.0, 30.0, connections=2))
    assert outcome.errors == {}
    assert outcome.answered == outcome.due


def test_a_server_that_goes_away_fails_what_comes_after(student: Path) -> None:
    with served(student) as server:
        target = look_up(server.url, "student", None)

        def stop(progress: Progress) -> None:
            if progress.sent > 20 and server.process.poll() is None:
                server.process.kill()
                server.process.wait()

        outcome = measure(target, 50, 3, Limits(20_000.0, 5.0), observe=stop)
    assert outcome.answered > 0
    assert set(outcome.errors) <= {"connection lost", "no connection: Connection refused"}
    assert outcome.answered + sum(outcome.errors.values()) == outcome.due
    assert outcome.verdict == "fails"
    stopped = measure(target, 50, 600, Limits(20_000.0, 5.0), to_first_failure=True)
    assert stopped.elapsed_s < 60
    assert stopped.errors


def test_a_generator_that_was_late_says_so(faulty: tuple[Faulty, str]) -> None:
    target = look_up(faulty[1], "student", None)
    # Once a second the generator does something else for 0.4 s, as on a machine that has too much to do. The bound lies
    # far above what the server takes on a busy machine: only the generator's tenth of it is exceeded.
    outcome = measure(target, 250, 4, Limits(3000.0, 30.0), observe=lambda progress: time.sleep(0.4))
    assert outcome.errors == {}
    assert outcome.invalid is not None
    assert re.search(r"the generator was late itself, p99 \d+\.\d+ ms, where 300 ms are allowed", outcome.invalid)
    assert outcome.verdict == "unknown"
    few = measure(target, 50, 2)
    assert few.invalid is not None
    assert re.fullmatch(r"only \d+ arrivals were measured, and a p99 needs 662", few.invalid)


def test_what_breaks_in_the_generator_is_no_result(faulty: tuple[Faulty, str], monkeypatch: pytest.MonkeyPatch) -> None:
    target = look_up(faulty[1], "student", None)

    def broken(body: bytes, header_length: int | None) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(open_loop, "read_answer", broken)
    with pytest.raises(AssertionError, match="a bug"):
        measure(target, 50, 5)


@pytest.mark.parametrize(
    ("url", "model", "complaint"),
    [
        ("127.0.0.1:8000", "student", "must be given as http://HOST:PORT"),
        ("https://localhost", "student", "must be given as http://HOST:PORT"),
        ("http://localhost:port", "student", "is not a URL"),
        (
            "http://127.0.0.1:9",
            "student",
            "does not answer (Connection refused); is `python -m serve run` running there?",
        ),
        (None, "nobody", "GET /v2/models/nobody: the server answers 404, There is no model"),
    ],
)
def test_a_wrong_target_is_named(faulty: tuple[Faulty, str], url: str | None, model: str, complaint: str) -> None:
    with pytest.raises(ServeError) as caught:
        look_up(url or faulty[1], model, None)
    assert complaint in str(caught.value).replace("[Errno 111] ", "")


def made_up(rate: float, holds: bool, late: bool = False, interrupted: bool = False) -> Outcome:
    """What a run would have measured at 1 ms, or at 100 ms beyond the knee, 50 ms of them the generator's if late."""
    latency = np.full(700, 1_000_000 if holds else 100_000_000)
    lags = np.full(700, 50_000_000 if late else 0)
    return Outcome(rate, 0, 10.0, 800, 800, latency + lags, latency, lags, {}, 0.1, interrupted, 20.0)


def search(measure: Callable[[float, int], Outcome], first: float = 50.0) -> knee.Knee:
    async def awaited(rate: float, run: int) -> Outcome:
        return measure(rate, run)

    return asyncio.run(knee.find(awaited, first))


@pytest.mark.parametrize("capacity", [7.0, 49.0, 51.0, 1234.0, 90_000.0])
def test_the_knee_is_found_from_below(capacity: float) -> None:
    found = search(lambda rate, run: made_up(rate, rate <= capacity))
    assert found.limited_by == "server"
    assert found.rate is not None
    assert found.rate <= capacity <= found.rate * (1 + knee.PRECISION)
    assert len(found.outcomes) < 40


def test_one_stall_does_not_decide() -> None:
    # Every other run of a rate fails; failing twice in a row, rates above 500 do.
    found = search(lambda rate, run: made_up(rate, rate <= 500 and run % 2 == 1))
    assert found.rate is not None
    assert found.rate == pytest.approx(500, rel=knee.PRECISION)


def test_a_search_ends_where_it_knows_no_more() -> None:
    late = search(lambda rate, run: made_up(rate, True, late=rate > 300))
    assert (late.rate, late.limited_by) == (200.0, "generator")
    # Beyond the bound even from when they were sent: the server's, however late the generator was.
    both = search(lambda rate, run: made_up(rate, rate <= 300, late=rate > 300))
    assert both.limited_by == "server"
    stopped = search(lambda rate, run: made_up(rate, True, interrupted=run == 3))
    assert (stopped.rate, stopped.limited_by, len(stopped.outcomes)) == (200.0, "interruption", 4)
    assert search(lambda rate, run: made_up(rate, False)).rate is None
    assert search(lambda rate, run: made_up(rate, True)).limited_by == "generator"


def test_memory_is_that_of_the_process_and_its_children() -> None:
    script = "import sys, time; kept = b'x' * (64 * 2**20); print('up', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        memory = Memory(process.pid)
        for second in range(10):
            memory.sample(float(second))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        memory.sample(10.0)  # gone: no sample of nothing
    content: Any = memory.to_dict()
    assert content["max_bytes"] > 64 * 2**20
    assert len(content["samples"]) == 10
    assert content["growth_bytes"] == pytest.approx(0, abs=2**20)
    with pytest.raises(ServeError, match=f"There is no process {process.pid}"):
        Memory(process.pid)


def test_growth_is_from_the_first_fifth_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(os.getpid())
    monkeypatch.setattr(psutil.Process, "children", lambda process, recursive: [])
    for second in range(1000):
        monkeypatch.setattr(memory_module, "_resident_bytes", lambda process, kib=1000 + second: kib * 1024)
        memory.sample(float(second))
    content: Any = memory.to_dict()
    assert (content["first_bytes"], content["last_bytes"], content["max_bytes"]) == (1_024_000, 2_046_976, 2_046_976)
    assert content["growth_bytes"] == 800 * 1024
    assert len(content["samples"]) == 100


def command(*argv: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "serve", "load", *map(str, argv)]


def test_one_rate_from_the_command_line(student: Path, tmp_path: Path) -> None:
    out = tmp_path / "new/load.json"
    with served(student, env=os.environ | {"PUPIL_TOKEN": "secret"}) as server:
        options = ("--rate", 400, "--duration", 4, "--bound-ms", 20000, "--pid", server.process.pid, "--json", out)
        argv = command(server.url, *options)
        refused = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert "401" in refused.stderr
        assert refused.stderr.count("\n") == 1
        environment = os.environ | {"PUPIL_TOKEN": "secret"}
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    run = report["run"]
    assert (run["failed"], run["verdict"], run["invalid"]) == (0, "holds", None)
    assert run["latency"]["p99_ms"] >= run["latency"]["p50_ms"] > 0
    assert report["tensors"] == "binary"
    assert report["memory"]["max_bytes"] > 10 * 2**20
    assert report["machine"]["cores"] >= 1
    assert "secret" not in out.read_text()
    title, header, row, memory = done.stdout.splitlines()
    assert title.startswith("student at http://127.0.0.1:")
    assert len(row) == len(header)
    assert row.split()[-1] == "holds"
    assert memory.startswith("Resident memory of the server, MiB: ")
    assert list(out.parent.iterdir()) == [out]


def test_the_knee_from_the_command_line(student: Path, tmp_path: Path) -> None:
    out = tmp_path / "knee.json"
    with served(student) as server:
        # Nothing is answered within a microsecond, so that no rate holds.
        argv = command(server.url, "--first", 400, "--duration", 1, "--bound-ms", 0.001, "--json", out)
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            rows = [process.stdout.readline() for _ in range(4)]
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert [row.split()[-1] for row in rows[2:]] == ["fails", "fails"]
    assert process.returncode == 1
    assert said == "Interrupted before the knee was found.\n"
    found = json.loads(out.read_text())["knee"]
    assert (found["rate"], found["limited_by"]) == (None, "interruption")
    assert [run["rate"] for run in found["runs"][:2]] == [400.0, 400.0]
    assert found["runs"][-1]["interrupted"]
