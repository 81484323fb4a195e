"""Kill a training at random moments and let it go on: does it end in the same file, byte for byte?

    python -m benchmarks.kill --times 20 --out results/kill.json

For each of `--times` the same distillation starts as a process of its own, gets SIGKILL after a random share of the
time that it takes undisturbed, and is started again. Its model.safetensors is compared with that of a run that nobody
killed. Methods take turns. Some moments come while the process still starts, or after it has written its model: what
was there then is in the output.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.files import sha256, write_json
from serve import machine

PARAMS: dict[str, Any] = {
    "data": {"image_px": 16, "sources": {"digit_pairs": {"train": 2000, "val": 200, "test": 200, "max_shift_px": 1}}},
    "augment": {"crop_padding_px": 2},
    "teacher": {"arch": "resnet14", "train": {"epochs": 1, "batch_size": 32}},
    "student": {"arch": "resnet8"},
    "distill": {"train": {"epochs": 8, "batch_size": 32}},
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
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _prepare(folder, methods)
        whole = {method: _undisturbed(folder, method) for method in methods}
        rounds = []
        for number in range(arguments.times):
            method = methods[number % len(methods)]
            expected, seconds = whole[method]
            record = {"method": method} | _killed(folder, method, f"kill-{number}", draw.uniform(0, seconds))
            record["identical"] = record.pop("sha256") == expected
            rounds.append(record)
            print(f"[{number + 1}/{arguments.times}] {record}", flush=True)
    identical = sum(record["identical"] for record in rounds)
    print(f"{identical} of {len(rounds)} end in the same bytes as a run that nobody killed.")
    result = {
        "command": "python -m benchmarks.kill " + " ".join(sys.argv[1:]),
        "machine": machine.describe(),
        "versions": {name: version(name) for name in ("torch", "safetensors")},
        "seed": arguments.seed,
        "params": PARAMS,
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


def _undisturbed(folder: Path, method: str) -> tuple[str, float]:
    """Checksum of the trained student, and the seconds that it took."""
    started = time.monotonic()
    subprocess.run(_distill(folder, method, f"whole-{method}"), check=True, stderr=subprocess.DEVNULL)
    return sha256(folder / f"whole-{method}" / "model.safetensors"), time.monotonic() - started


def _killed(folder: Path, method: str, name: str, after_s: float) -> dict[str, Any]:
    """When it was killed, what stood there then, and the checksum of what the second start made."""
    command = _distill(folder, method, name)
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
        try:
            run.wait(after_s)
        except subprocess.TimeoutExpired:
            run.kill()
    state, model = folder / f"{name}.resume", folder / name / "model.safetensors"
    found = {"killed_after_s": after_s, "state_there": state.exists(), "model_there": model.exists()}
    second = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    resumed = [line.partition(" from ")[0] for line in second.stderr.splitlines() if line.startswith("resuming after")]
    return found | {"said": resumed[0] if resumed else "started anew", "sha256": sha256(model)}


if __name__ == "__main__":
    main()
