"""Honest load beside an attacker who has no token: is a request lost, is a health probe late, does memory grow?

    python -m benchmarks.attacked --duration 600 --out FILE

First `serve load` searches for the knee while nobody attacks. Then it holds 80 % of that rate, while the attacker sends
one thing after another that has no end, requests in one go whose answers are never read, JSON that is dear to read, and
headers that trickle on many connections. The server has one core, and all the others share the rest. Exit status 1 if
a request is lost, or if a probe fails or takes longer than a second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import provenance, wrn_onnx
from benchmarks.attacks import ENDLESS, connect, flood, head, probe
from benchmarks.serving import ROOT, Served, served
from pipeline.system.files import write_json
from serve import machine
from serve.http.tokens import VARIABLE

MODEL = "wrn_16_2"
INFER = f"/v2/models/{MODEL}/infer"
TOKEN = "of-the-honest"
SHARE = 0.8
PROBE_S = 1.0
PAUSE_S = 0.1
"""Between two attacks, and between two probes."""


def main() -> int:
    """Search, hold, write the JSON; 0 if nobody honest noticed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacked", description="Honest load under attack.")
    parser.add_argument("--duration", type=float, default=600.0, metavar="S", help="seconds under attack")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load_before, cores = machine.load_average(), sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        model = wrn_onnx.write(Path(folder) / "student.onnx")
        with served(model, env=os.environ | {VARIABLE: TOKEN}) as server:
            os.sched_setaffinity(server.process.pid, cores[:1])
            os.sched_setaffinity(0, cores[1:] or cores)
            knee = _load(server, Path(folder) / "knee.json")["knee"]
            rate = SHARE * knee["rate"]
            attacker, probes = Attacker(server.port), list[float]()
            with _repeated(attacker), _repeated(lambda: probes.append(probe(server.port))):
                held = _load(
                    server, Path(folder) / "held.json", "--rate", str(rate), "--duration", str(arguments.duration)
                )
    run = held["run"]
    report = {
        **provenance.head("attacked", load_before, "uvicorn", "h11", "onnxruntime", after=True),
        "knee_per_s": knee["rate"],
        "run": run,
        "attacks": dict(attacker.sent),
        "probes": {"failed": probes.count(float("inf")), "slowest_s": max(probes), "number": len(probes)},
        "memory": held["memory"],
    }
    write_json(arguments.out, report)
    print(json.dumps({name: report[name] for name in ("knee_per_s", "attacks", "probes")}, indent=2))
    print(f"{run['answered']} of {run['due']} answered, p99 {run['latency']['p99_ms']:.1f} ms")
    return int(run["failed"] > 0 or run["answered"] < run["due"] or max(probes) > PROBE_S)


class Attacker:
    """One attack after another, each kind in its turn."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent: Counter[str] = Counter()
        brackets = b"[" * 33 + b'"' + b'\\"' * 2_000_000
        dear = head("POST", INFER, f"Content-Length: {len(brackets)}") + brackets
        self._kinds: dict[str, Callable[[], None]] = {
            **{name: partial(self._flood, *each.against(INFER)) for name, each in ENDLESS.items()},
            "requests in one go": partial(self._flood, b"", head("GET", "/v2/health/live") * 1000),
            "JSON that is dear to read": partial(self._flood, dear, b" ", 0),
            "headers that trickle": self._trickle,
        }

    def __call__(self) -> None:
        """The next attack."""
        kind = list(self._kinds)[self.sent.total() % len(self._kinds)]
        self._kinds[kind]()
        self.sent[kind] += 1

    def _flood(self, opening: bytes, again: bytes, num_bytes: int = 2**25) -> None:
        with connect(self._port) as client:
            flood(client, opening, again, num_bytes)

    def _trickle(self) -> None:
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(connect(self._port)).sendall(b"GET /v2 HTTP/1.1\r\nX: ")
            time.sleep(1)


@contextmanager
def _repeated(step: Callable[[], object]) -> Iterator[None]:
    """Take the step again and again in a thread, with a pause behind each, until the block ends."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(PAUSE_S):
            step()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(repeat)
        try:
            yield
        finally:
            over.set()
        done.result()


def _load(server: Served, out: Path, *arguments: str) -> dict[str, Any]:
    """What `serve load` wrote; its table goes to the screen."""
    command = [
        sys.executable,
        "-m",
        "serve",
        "load",
        server.url,
        "--model",
        MODEL,
        "--pid",
        str(server.process.pid),
        *arguments,
    ]
    # A lost request is an exit status of its own, and stands in the file.
    subprocess.run([*command, "--json", str(out)], cwd=ROOT, env=os.environ | {VARIABLE: TOKEN}, check=False)
    report: dict[str, Any] = json.loads(out.read_text())
    return report


if __name__ == "__main__":
    sys.exit(main())
