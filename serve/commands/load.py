"""Load a running server with random arrivals: find its knee, or hold one rate for long."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import uvloop

from serve import arguments as shared
from serve import json_file, machine
from serve.errors import ServeError
from serve.http import tokens
from serve.load import knee
from serve.load import run as load
from serve.load.memory import Memory
from serve.load.open_loop import Limits, Progress
from serve.load.outcome import Outcome
from serve.load.target import Target, look_up

MAX_ARRIVALS = 50_000_000
HELP = "load a running server with random arrivals, to its knee or at one rate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `load` takes."""
    parser.add_argument("url", metavar="URL", help="the server, such as http://127.0.0.1:8000")
    parser.add_argument("--model", default="student", help="name of the model to ask (default student)")
    parser.add_argument(
        "--rate",
        type=shared.number(0.001, knee.HIGHEST),
        help="hold this rate of arrivals per second; without it, search for the knee",
    )
    parser.add_argument(
        "--duration",
        type=shared.number(0.001, shared.DAY_S),
        metavar="S",
        help="seconds at --rate (default 60), or of each run of the search for the knee (default 10)",
    )
    parser.add_argument(
        "--first",
        type=shared.number(knee.LOWEST, knee.HIGHEST),
        default=50.0,
        help="rate at which the search begins (default 50)",
    )
    parser.add_argument(
        "--bound-ms",
        type=shared.number(0.001, 1000 * shared.DAY_S),
        default=20.0,
        help="upper bound on p99 (default 20)",
    )
    parser.add_argument(
        "--timeout",
        type=shared.number(0.001, shared.DAY_S),
        default=10.0,
        help="seconds that an answer may take (default 10)",
    )
    parser.add_argument(
        "--connections",
        type=shared.whole(1, 60_000),
        default=256,
        help="connections that are open at once (default 256)",
    )
    parser.add_argument("--pid", type=shared.whole(1, 2**22), help="process id of the server, to watch its memory")
    parser.add_argument(
        "--seed", type=shared.whole(0, shared.SEED), default=0, help="seed of the images and arrivals (default 0)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file too")


def main(arguments: argparse.Namespace) -> None:
    """Print a row for each run; with --json, also write everything there. Ctrl-C ends it with what was measured.

    Raises ServeError, at the end, for a run at one rate that lost arrivals or is not valid, and for no knee.
    """
    if arguments.rate is not None and arguments.rate * (arguments.duration or 60.0) > MAX_ARRIVALS:
        raise ServeError(f"That is more than {MAX_ARRIVALS:,} arrivals, which are held in memory; lower --duration.")
    target = look_up(arguments.url, arguments.model, os.environ.get(tokens.VARIABLE), seed=arguments.seed)
    memory = None if arguments.pid is None else Memory(arguments.pid)
    report: dict[str, object] = {
        "command": ["python", "-m", "serve", *sys.argv[1:]],
        "url": arguments.url,
        "model": target.model,
        "tensors": target.tensors,
        "server": target.server,
        "bound_ms": arguments.bound_ms,
        "machine": machine.describe(),
        "load_average_before": machine.load_average(),
        "versions": {"numpy": numpy.__version__, "uvloop": version("uvloop")},
    }
    print(f"{target.model} at {arguments.url}, {target.tensors} tensors, p99 within {arguments.bound_ms:g} ms")
    print(_HEADER, flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if arguments.rate is None:
            found = runner.run(_search(target, arguments, memory))
            report["knee"], complaint = found.to_dict(), _of_knee(found)
        else:
            outcome = runner.run(_hold(target, arguments, memory))
            report["run"], complaint = outcome.to_dict(), _of_outcome(outcome)
    report["memory"] = memory and memory.to_dict()
    if memory is not None:
        _print_memory(memory.to_dict())
    if arguments.json is not None:
        json_file.write(arguments.json, report)
    if complaint is not None:
        raise ServeError(complaint)


async def _search(target: Target, arguments: argparse.Namespace, memory: Memory | None) -> knee.Knee:
    least_s = arguments.duration or 10.0

    async def measure(rate: float, run: int) -> Outcome:
        return await _measure(target, arguments, memory, rate, load.duration_for(rate, least_s), arguments.seed + run)

    return await knee.find(measure, arguments.first)


async def _hold(target: Target, arguments: argparse.Namespace, memory: Memory | None) -> Outcome:
    return await _measure(target, arguments, memory, arguments.rate, arguments.duration or 60.0, arguments.seed)


async def _measure(
    target: Target, arguments: argparse.Namespace, memory: Memory | None, rate: float, duration_s: float, seed: int
) -> Outcome:
    limits = Limits(arguments.bound_ms, arguments.timeout, arguments.connections)
    observe = _observer(duration_s, memory)
    outcome = await load.run(target, rate, duration_s, seed, limits, observe, to_first_failure=arguments.rate is None)
    print(_row(outcome), flush=True)
    for kind, count in sorted(outcome.errors.items()):
        print(f"  {count} of {outcome.due}: {kind}", flush=True)
    return outcome


def _observer(duration_s: float, memory: Memory | None) -> Callable[[Progress], None]:
    """Shows where a run stands on one line of a terminal, and takes a sample of the memory."""

    def observe(progress: Progress) -> None:
        if memory is not None:
            memory.sample(progress.elapsed_s)
        if sys.stderr.isatty():
            text = f"{progress.elapsed_s:.0f} of {duration_s:.0f} s: {progress.sent} sent, "
            text += f"{progress.outstanding} without answer yet, {progress.failed} failed"
            print(f"\r{text:<{len(_HEADER)}}\r", end="", file=sys.stderr, flush=True)

    return observe


_COLUMNS = ("arrivals/s", "answered/s", "p50 ms", "p90 ms", "p99 ms", "lag p99 ms", "failed", "n", "verdict")
_WIDTH = 10
_HEADER = "  ".join(name.rjust(_WIDTH) for name in _COLUMNS)


def _row(outcome: Outcome) -> str:
    content: Any = outcome.to_dict()
    latency, lag = content["latency"] or {}, content["generator_lag"] or {}
    cells = [
        f"{outcome.rate:.1f}",
        f"{outcome.answered / outcome.elapsed_s:.1f}" if outcome.elapsed_s else "-",
        *(_ms(latency.get(f"p{percent}_ms")) for percent in (50, 90, 99)),
        _ms(lag.get("p99_ms")),
        str(content["failed"]),
        str(len(outcome.latencies)),
        outcome.verdict,
    ]
    return "  ".join(cell.rjust(_WIDTH) for cell in cells)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _of_knee(found: knee.Knee) -> str | None:
    """Print the knee; why there is none, or it is not the server's."""
    if found.limited_by == "interruption":
        return "Interrupted before the knee was found."
    if found.limited_by == "generator":
        known = f"The knee is at {found.rate:.1f} arrivals/s or above" if found.rate else "The knee is not known"
        reason = found.outcomes[-1].invalid or "no rate was too high"
        return f"{known}: {reason}. Give the generator cores of its own, or a machine of its own."
    if found.rate is None:
        return (
            "No rate held, not even the lowest: the last rows say what failed. Is --bound-ms below one answer's time?"
        )
    print(f"Knee: {found.rate:.1f} arrivals/s; 80 % of it: --rate {0.8 * found.rate:.0f}")
    return None


def _of_outcome(outcome: Outcome) -> str | None:
    """Why a run at one rate is no good news."""
    if outcome.interrupted:
        return f"Interrupted after {outcome.elapsed_s:.0f} s; what is shown covers these."
    if outcome.errors:
        return f"{sum(outcome.errors.values())} of {outcome.due} arrivals failed."
    return None if outcome.invalid is None else f"The run is not valid: {outcome.invalid}."


def _print_memory(content: dict[str, Any]) -> None:
    if content["samples"]:
        first, last, most = (content[f"{key}_bytes"] / 2**20 for key in ("first", "last", "max"))
        growth = content["growth_bytes"]
        grown = "" if growth is None else f", first to last fifth {growth / 2**20:+.1f}"
        print(
            f"Resident memory of the server, MiB: {first:.1f} at first, {last:.1f} at last, {most:.1f} at most{grown}"
        )
