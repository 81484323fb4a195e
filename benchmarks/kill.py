"""Kill a training at random moments and let it go on: does it end in the same file, byte for byte?

    python -m benchmarks.kill --times 20 --out results/kill.json

For each of `--times` the same distillation starts as a process of its own, gets SIGKILL, and is started again. Its
model.safetensors is compared with that of a run that nobody killed. Methods take turns. A run has as many parts as
epochs and one more: up to the end of the first epoch, then up to that of each other, then to the end of the process.
The moments are spread evenly over these parts, one in each of `--times` equal shares of them all, in random order. The
part is awaited, whatever else the machine does, by the line that every epoch prints; the time within it is that of the
run that nobody killed. What a run had said and left on the disk when it was hit is in the output.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks import provenance
from pipeline.system.files import sha256, write_json
from serve import machine

EPOCHS = 8
PARAMS: dict[str, Any] = {
    "data": {"image_px": 16, "sources": {"digit_pairs": {"train": 1000, "val": 200, "test": 200, "max_shift_px": 1}}},
    "augment": {"crop_padding_px": 2},
    "teacher": {"arch": "resnet14", "train": {"epochs": 1, "batch_size": 32, "milestones": [0.5]}},
    "student": {"arch": "resnet8"},
    "distill": {"train": {"epochs": EPOCHS, "batch_size": 32, "milestones": [0.5]}},
}


def main() -> None:
    """Prepare, train the undisturbed runs, kill and resume, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description="Kill trainings, resume, compare.")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--methods", default="kd,afd,crd,sakd_sparse")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    head = provenance.head("kill", machine.load_average(), "torch", "safetensors")
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _prepare(folder, methods)
        whole = {method: _undisturbed(folder, method) for method in methods}
        rounds: list[dict[str, Any]] = []
        for number, share in enumerate(shares(arguments.times, draw)):
            method = methods[number % len(methods)]
            part, rest = divmod(share * (EPOCHS + 1), 1)
            wait_s = rest * whole[method].parts_s[int(part)]
            record = {"method": method, "share": share} | _killed(folder, method, f"kill-{number}", int(part), wait_s)
            record["identical"] = record.pop("sha256") == whole[method].sha256
            rounds.append(record)
            print(f"[{number + 1}/{arguments.times}] {record}", flush=True)
    identical = sum(record["identical"] for record in rounds)
    moments = dict(Counter(record["moment"] for record in rounds))
    print(f"{identical} of {len(rounds)} end in the same bytes as a run that nobody killed. Killed: {moments}")
    result = {
        **head,
        "seed": arguments.seed,
        "params": PARAMS,
        "undisturbed": {method: asdict(run) for method, run in whole.items()},
        "moments": moments,
        "identical": identical,
        "rounds": rounds,
    }
    write_json(arguments.out, result)


def _prepare(folder: Path, methods: list[str]) -> None:
    params = {**PARAMS, "distill": {**PARAMS["distill"], "methods": {method: {} for method in methods}}}
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(params, file)
    for stage, options in (
        ("prepare", {"out": "data"}),
        ("train_teacher", {"data": "data", "out": "teacher", "resume": "teacher.resume"}),
    ):
        subprocess.run(_command(folder, stage, {"params": "params.yaml", **options}), check=True)


def _command(folder: Path, stage: str, options: dict[str, str]) -> list[str]:
    paths = [part for name, value in options.items() for part in (f"--{name}", str(folder / value))]
    return [sys.executable, "-m", f"stages.{stage}", *paths]


def _distill(folder: Path, method: str, name: str) -> list[str]:
    files = {"params": "params.yaml", "teacher": "teacher/model.safetensors", "data": "data"}
    own = {"out": name, "resume": f"{name}.resume"}
    return [*_command(folder, "distill", files | own), "--method", method, "--seed", "0"]


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed."""

    sha256: str
    parts_s: tuple[float, ...]
    """How long each epoch took, the start counted to the first, and what came after the last."""


def shares(times: int, draw: random.Random) -> list[float]:
    """One number out of each of `times` equal parts of [0, 1), in random order."""
    return draw.sample([(part + draw.random()) / times for part in range(times)], times)


def _undisturbed(folder: Path, method: str) -> Undisturbed:
    times, name = [time.monotonic()], f"whole-{method}"
    with subprocess.Popen(_distill(folder, method, name), stderr=subprocess.PIPE, text=True) as run:
        times += [time.monotonic() for _ in _epoch_lines(run)]
    times.append(time.monotonic())
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, run.args)
    parts = tuple(later - earlier for earlier, later in pairwise(times))
    return Undisturbed(sha256(folder / name / "model.safetensors"), parts)


def _killed(folder: Path, method: str, name: str, part: int, wait_s: float) -> dict[str, Any]:
    """Where a run was when it was killed, `wait_s` after the start of a part, and the checksum of what it then made."""
    command, started = _distill(folder, method, name), time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        lines = _epoch_lines(run)
        epochs = len(list(islice(lines, part)))
        with suppress(subprocess.TimeoutExpired):
            run.wait(wait_s)
        run.kill()
        after_s = time.monotonic() - started
        epochs += len(list(lines))
    state, model = folder / f"{name}.resume", folder / name / "model.safetensors"
    found: dict[str, Any] = {
        "killed_after_s": after_s,
        "moment": moment(run.returncode, epochs, model.exists()),
        "epochs_done": epochs,
        "state_there": state.exists(),
        "model_there": model.exists(),
    }
    second = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    resumed = [line.partition(" from ")[0] for line in second.stderr.splitlines() if line.startswith("resuming after")]
    return found | {"said": resumed[0] if resumed else "started anew", "sha256": sha256(model)}


def _epoch_lines(run: "subprocess.Popen[str]") -> Iterator[str]:
    """What a training says after every epoch, as it says it."""
    return (line for line in run.stderr or () if line.startswith("epoch "))


def moment(returncode: int, epochs: int, model_there: bool) -> str:
    """Where a run was when the signal came, in words. Raises RuntimeError for a run that failed by itself."""
    if returncode == 0:
        return "had ended"
    if returncode != -signal.SIGKILL:
        raise RuntimeError(f"the run that was to be killed failed by itself, with status {returncode}")
    if model_there:
        return "after its model was written"
    if epochs == EPOCHS:
        return "between the last epoch and the model"
    return "in a later epoch" if epochs else "in the first epoch or before"


if __name__ == "__main__":
    main()
