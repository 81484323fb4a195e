"""Our server beside those of others, on loopback, with one model and one load generator, in one interleaved run.

    python -m benchmarks.server --out FILE

KServe, MLServer and LitServe get an environment of their own each (uv, pinned versions, the ONNX Runtime of ours, the
same session options); one that cannot be set up is reported with the reason. Every server runs twice: as one process,
and as many workers as cores; ours with each of --ours. Servers that are not being measured are stopped (SIGSTOP).

Each round, in an order drawn anew: latency of one client, one request after the other, and throughput of --clients
connections. JSON and, where it is offered, binary tensors. Goals: a median latency at most 0.7 ms above ONNX Runtime
called in process; 4 times the throughput of the best of the others. With --before, our server of another checkout
runs beside ours of today.
"""

import argparse
import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import http_load, provenance
from benchmarks.http_load import Target
from benchmarks.serving import ROOT
from pipeline.system.files import write_json
from serve import machine
from serve.load.memory import Memory
from serve.model.classifier import OnnxClassifier
from serve.timing import latency

OTHERS = {"kserve": "0.21.0", "mlserver": "1.7.1", "litserve": "0.2.19"}
GOAL_MS, GOAL_TIMES = 0.7, 4.0
BESIDE = {"mlserver": ["uvloop==0.21.0"]}
"""Workers of MLServer 1.7.1 do not start on a newer one."""
QUIET = {"kserve": ["--configure_logging", "False", "--enable_latency_logging", "False"]}
"""No server writes a line for every request."""
PROGRAMS = Path(__file__).parent / "other_servers"
UV = ROOT / ".venv/uv/bin/uv"
_WARM_UP = 30

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.int64]


@dataclass
class Server:
    """A server that runs, the requests it takes, and what was measured."""

    name: str
    variant: str
    group: int
    targets: dict[str, Target]
    latencies: dict[str, list[Samples]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    under_load: dict[str, list[Samples]] = field(default_factory=dict)
    resident: object = None  # bytes, once all is measured


def main() -> None:
    """Set up, measure in turns, and write the JSON."""
    from benchmarks import wrn_onnx  # torch, which the processes of clients, that import this module anew, do without

    arguments = _arguments()
    load_before = machine.load_average()
    cores = machine.num_cores()
    ours = arguments.ours or ["", f"--threads {cores}", f"--workers {cores}"]
    could_not: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        model = wrn_onnx.write(Path(scratch) / "model.onnx", "model")
        classifier = OnnxClassifier(model, device="cpu")
        pixels = np.random.default_rng(0).integers(0, 256, (1, *(classifier.card.image_px,) * 2, 3), dtype=np.uint8)
        servers = []
        for options in ours:
            command = [sys.executable, "-m", "serve", "run", str(model), *shlex.split(options), "--port"]
            servers.append(stack.enter_context(_started("pupil", options or "default", command, [], pixels)))
            if arguments.before is not None:
                moved = ["env", "-C", str(arguments.before.absolute()), *command]
                servers.append(stack.enter_context(_started("before", options or "default", moved, [], pixels)))
        for name in arguments.others.split(",") if arguments.others else []:
            for workers in sorted({1, cores}):
                variant = f"{workers} worker{'s' * (workers > 1)}"
                try:
                    python = _environment(name, (arguments.envs or Path(scratch)) / name)
                    command = [str(python), "-W", "ignore", str(PROGRAMS / f"{name}_server.py"), str(model)]
                    started = _started(name, variant, command, [str(workers), "1", *QUIET.get(name, [])], pixels)
                    servers.append(stack.enter_context(started))
                except (subprocess.CalledProcessError, RuntimeError) as error:
                    could_not[f"{name}, {variant}"] = f"{error} {getattr(error, 'stderr', '') or ''}".strip()
        _check(servers, classifier, pixels)
        in_process = _measure(servers, partial(classifier, pixels), arguments)
        for server in servers:
            memory = Memory(server.group)
            memory.sample(0.0)
            server.resident = memory.to_dict()["last_bytes"]
    rows = [row for server in servers for row in _rows(server)]
    report: dict[str, Any] = {
        **provenance.head(
            "server", load_before, "onnxruntime", "uvicorn", "starlette", "uvloop", "h11", "orjson", after=True
        ),
        "seed": arguments.seed,
        "model": "wrn_16_2, 32 px, 100 classes, fp32, random weights",
        "clients": arguments.clients,
        "client_processes": arguments.client_processes,
        "rounds": arguments.rounds,
        "samples_a_round": arguments.samples,
        "seconds_a_round": arguments.seconds,
        "in_process": latency.summary(in_process).to_dict(),
        "rows": rows,
        "could_not_be_set_up": could_not,
        "goals": _goals(rows, float(np.median(in_process)) / 1e6),
    }
    report["versions"] |= {name: pin for name, pin in OTHERS.items() if any(server.name == name for server in servers)}
    write_json(arguments.out, report)
    _print(report)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description="Our server beside others.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=200, help="of one client, in a round")
    parser.add_argument("--seconds", type=float, default=3.0, help="of all clients, in a round")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--client-processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ours", action="append", metavar="OPTIONS", help="of `serve run`; may be given often")
    parser.add_argument("--before", type=Path, metavar="DIR", help="a checkout whose server is measured too")
    parser.add_argument("--others", default=",".join(OTHERS), help="by commas; empty for none")
    parser.add_argument("--envs", type=Path, help="keep their environments there (default: a temporary folder)")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def _environment(name: str, folder: Path) -> Path:
    """The interpreter of an environment with that server; made if it is not there."""
    python = folder / "bin/python"
    if not python.exists():
        run = partial(subprocess.run, check=True, capture_output=True, text=True, timeout=900)
        run([UV, "venv", "-q", "--python", sys.executable, folder])
        (runtime,) = machine.versions("onnxruntime").values()
        pins = [f"{name}=={OTHERS[name]}", f"onnxruntime=={runtime}", *BESIDE.get(name, [])]
        run([UV, "pip", "install", "-q", "--python", python, *pins])
    return python


@contextmanager
def _started(name: str, variant: str, command: list[str], tail: list[str], pixels: Pixels) -> Iterator[Server]:
    """Start a server in a process group of its own, wait until it answers, and kill the group in the end."""
    port = _free_port()
    targets = _targets(name, port, pixels)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, str(port), *tail], cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            end = time.monotonic() + 120
            while True:
                try:
                    http_load.ask(next(iter(targets.values())))
                    break
                except (OSError, RuntimeError) as error:
                    if process.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        raise RuntimeError(f"{name} did not start ({error}): {log.read()[-500:]}") from error
                    time.sleep(0.2)
            server = Server(name, variant, process.pid, targets)
            os.killpg(process.pid, signal.SIGSTOP)
            yield server
        finally:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    """A port that was free a moment ago, with two more behind it for those who want them."""
    while True:
        first = random.SystemRandom().randrange(20_000, 32_000)
        try:
            for port in range(first, first + 3):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first


def _targets(name: str, port: int, pixels: Pixels) -> dict[str, Target]:
    """The same pixels as each server takes them, asking for probabilities."""
    if name == "litserve":
        body = json.dumps({"pixels": pixels[0].tolist()}).encode()
        return {"json": Target(port, "/predict", {"Content-Type": "application/json"}, body)}
    path = "/v2/models/model/infer"
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(pixels.shape)}
    listed = {"inputs": [tensor | {"data": pixels.ravel().tolist()}], "outputs": [{"name": "probabilities"}]}
    targets = {"json": Target(port, path, {"Content-Type": "application/json"}, json.dumps(listed).encode())}
    if name != "mlserver":  # which answers the binary extension with 500
        targets["binary"] = http_load.binary_target(port, "model", pixels)
    return targets


@contextmanager
def _running(server: Server) -> Iterator[None]:
    os.killpg(server.group, signal.SIGCONT)
    try:
        yield
    finally:
        os.killpg(server.group, signal.SIGSTOP)


def _check(servers: list[Server], classifier: OnnxClassifier, pixels: Pixels) -> None:
    """Raise RuntimeError unless every server gives the model's own answer."""
    expected = classifier(pixels)[0]
    for server in servers:
        with _running(server):
            for form, target in server.targets.items():
                header, body = http_load.ask(target)
                came = _probabilities(server.name, form, header, body)
                if came.shape != expected.shape or not np.allclose(came, expected, rtol=1e-3, atol=1e-6):
                    raise RuntimeError(f"{server.name} ({form}) answers something else than the model")


def _probabilities(name: str, form: str, header: bytes, body: bytes) -> npt.NDArray[np.float32]:
    start = body.index(b"{")  # behind the size of a chunk, where the answer comes as one
    if form == "binary":
        length = re.search(rb"inference-header-content-length: (\d+)", header, re.IGNORECASE)
        assert length is not None
        end = body.rfind(b"\r\n0\r\n\r\n")
        return np.frombuffer(body[start + int(length[1]) : end if end >= 0 else None], dtype="<f4")
    content, _ = json.JSONDecoder().raw_decode(body[start:].decode())
    values = content["probabilities"] if name == "litserve" else content["outputs"][0]["data"]
    return np.array(values, dtype=np.float32).ravel()


def _measure(servers: list[Server], in_process: Callable[[], object], arguments: argparse.Namespace) -> Samples:
    """Fill in what was measured; nanoseconds of the calls in process."""
    chance = random.Random(arguments.seed)
    turns: list[tuple[Server, str] | None] = [(server, form) for server in servers for form in server.targets]
    turns.append(None)
    calls: list[Samples] = []
    for number in range(arguments.rounds):
        chance.shuffle(turns)
        for turn in turns:
            if turn is None:
                calls.append(_call(in_process, arguments.samples))
                continue
            server, form = turn
            target = server.targets[form]
            with _running(server):
                http_load.one_at_a_time(target, _WARM_UP)
                samples = http_load.one_at_a_time(target, arguments.samples)
                rate, loaded = http_load.together(
                    target, arguments.clients, arguments.seconds, arguments.client_processes
                )
            server.latencies.setdefault(form, []).append(samples)
            server.rates.setdefault(form, []).append(rate)
            server.under_load.setdefault(form, []).append(loaded)
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    return np.concatenate(calls)


def _call(function: Callable[[], object], samples: int) -> Samples:
    for _ in range(_WARM_UP):
        function()
    taken = np.empty(samples, dtype=np.int64)
    for index in range(samples):
        started = time.perf_counter_ns()
        function()
        taken[index] = time.perf_counter_ns() - started
    return taken


def _rows(server: Server) -> list[dict[str, Any]]:
    return [
        {
            "server": server.name,
            "variant": server.variant,
            "form": form,
            "one_client": latency.summary(np.concatenate(server.latencies[form])).to_dict(),
            "requests_per_s": float(np.median(server.rates[form])),
            "requests_per_s_of_rounds": server.rates[form],
            "all_clients": latency.summary(np.concatenate(server.under_load[form])).to_dict(),
            "resident_bytes": server.resident,
        }
        for form in server.targets
    ]


def _goals(rows: list[dict[str, Any]], in_process_ms: float) -> dict[str, Any]:
    ours = [row for row in rows if row["server"] == "pupil"]
    others = [row for row in rows if row["server"] in OTHERS]
    above = {f"{row['variant']}, {row['form']}": row["one_client"]["p50_ms"] - in_process_ms for row in ours}
    best = max(ours, key=lambda row: row["requests_per_s"])
    goals: dict[str, Any] = {
        "latency_above_in_process_ms": above,
        "latency_goal_ms": GOAL_MS,
        "latency_goal_is_met": min(above.values()) <= GOAL_MS,
        "our_best": {key: best[key] for key in ("variant", "form", "requests_per_s")},
        "throughput_goal_times": GOAL_TIMES,
    }
    for key, chosen in (
        ("best_other_with_one_worker", [row for row in others if row["variant"] == "1 worker"]),
        ("best_other", others),
    ):
        if chosen:
            rival = max(chosen, key=lambda row: row["requests_per_s"])
            goals[key] = {name: rival[name] for name in ("server", "variant", "form", "requests_per_s")}
            goals[f"times_{key}"] = best["requests_per_s"] / rival["requests_per_s"]
    return goals


def _print(report: dict[str, Any]) -> None:
    print(f"in process: p50 {report['in_process']['p50_ms']:.3f} ms")
    for row in report["rows"]:
        one, many = row["one_client"], row["all_clients"]
        print(
            f"{row['server']:9} {row['variant']:28} {row['form']:7} p50 {one['p50_ms']:7.3f} ms, "
            f"{report['clients']} clients {row['requests_per_s']:7.1f}/s, p50 {many['p50_ms']:7.2f} ms, "
            f"{row['resident_bytes'] / 2**20:.0f} MiB resident"
        )
    for name, reason in report["could_not_be_set_up"].items():
        print(f"{name} could not be set up: {reason}")
    print(json.dumps(report["goals"], indent=2))


if __name__ == "__main__":
    main()
