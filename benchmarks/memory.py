"""Peak resident memory of preparing a data set and of one training epoch on it, as the set grows.

    python -m benchmarks.memory --gigabytes 1,2,4,8 --out FILE

For each size the stage `prepare` runs as a user runs it, on images that the built-in source draws, and then an epoch of
the training loop with next to no network (benchmarks.bare_epoch): what a network takes does not hang on how many images
there are. Each has a process of its own; at most one set lies on the disk at a time, in TMPDIR.

What /proc says of a process is sampled 50 times a second. Anonymous memory is the process's own: there is nowhere else
to put it. File-backed memory is code and mapped pixels: pages of a file that nobody can write through the map, which
the kernel drops without a word when memory is wanted elsewhere, and which it keeps in its cache, mapped or not, as long
as there is room. Processes that `prepare` starts count too. As a hard limit, RLIMIT_DATA refuses each process more than
`--limit-gigabytes` of private writable memory, touched or not. That holds for anonymous memory alone: Linux has no such
limit on mapped files but in a cgroup.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks import provenance
from pipeline.system.files import write_json
from serve import machine

GIGABYTE = 10**9
INTERVAL_S = 0.02
VAL_AND_TEST = 100


def main() -> None:
    """Measure every size and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Measure memory as data grow.")
    parser.add_argument("--gigabytes", default="1,2,4,8", help="sizes of the prepared train split")
    parser.add_argument("--image-px", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--limit-gigabytes", type=float, default=2.0, help="of private writable memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load = machine.load_average()
    results = []
    for gigabytes in map(float, arguments.gigabytes.split(",")):
        params = make_params(gigabytes, arguments.image_px, arguments.batch_size, arguments.seed)
        results.append(measure(params, round(arguments.limit_gigabytes * GIGABYTE)))
        print(_line(results[-1]), flush=True)
    write_json(
        arguments.out,
        {
            **provenance.head("memory", load, "torch", "numpy", "pillow"),
            "seed": arguments.seed,
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
            "image_px": arguments.image_px,
            "batch_size": arguments.batch_size,
            "limit_bytes": round(arguments.limit_gigabytes * GIGABYTE),
            "results": results,
        },
    )


def make_params(gigabytes: float, image_px: int, batch_size: int, seed: int) -> dict[str, Any]:
    """params.yaml for a train split of that many bytes of pixels, and one epoch on it."""
    images = round(gigabytes * GIGABYTE / (3 * image_px**2))
    counts = {"train": images, "val": VAL_AND_TEST, "test": VAL_AND_TEST}
    return {
        "data": {"image_px": image_px, "seed": seed, "sources": {"digit_pairs": counts}},
        "augment": {"flip": False},
        "teacher": {
            "seed": seed,
            "train": {"epochs": 1, "batch_size": batch_size, "lr": 0.01, "milestones": [0.5]},
        },
    }


def measure(params: dict[str, Any], limit_bytes: int) -> dict[str, Any]:
    """Prepare, train one epoch, and forget both; what each took, as plain data."""
    with tempfile.TemporaryDirectory(prefix="pupil-memory-") as scratch:
        folder = Path(scratch)
        with (folder / "params.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(params, file)
        params_file, data = f"{folder}/params.yaml", f"{folder}/data"
        paths = ["--params", params_file, "--source", params_file, "--out", data, "--resume", f"{folder}/pass"]
        prepare, _ = watch(["-m", "stages.prepare", *paths], limit_bytes)
        epoch, said = watch(["-m", "benchmarks.bare_epoch", params_file, data, f"{folder}/state"], limit_bytes)
        return {
            "images": params["data"]["sources"]["digit_pairs"]["train"],
            "bytes": (folder / "data" / "train" / "images.npy").stat().st_size,
            "prepare": asdict(prepare),
            "epoch": asdict(epoch) | {"images_per_s": float(said)},
        }


@dataclass(frozen=True)
class Usage:
    """What a process took. The three peaks need not fall together."""

    seconds: float
    peak_anonymous_bytes: int
    peak_file_bytes: int
    """Code and mapped pixels."""
    peak_resident_bytes: int
    """Of both together, as the kernel keeps it (VmHWM); of several processes as it was seen."""


def watch(arguments: list[str], limit_bytes: int) -> tuple[Usage, str]:
    """Run Python with these arguments and look at its memory until it ends; also what it printed.

    Raises subprocess.CalledProcessError if it fails, for instance because the limit was not enough.
    """
    started = time.monotonic()
    peaks = dict.fromkeys(("RssAnon", "RssFile", "VmHWM"), 0)
    command = [sys.executable, *arguments]
    with tempfile.TemporaryFile("w+") as printed, subprocess.Popen(command, stdout=printed) as run:
        resource.prlimit(run.pid, resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
        while run.poll() is None:
            now = memory(run.pid)
            peaks = {name: max(peak, now.get(name, 0)) for name, peak in peaks.items()}
            time.sleep(INTERVAL_S)
        if run.returncode:
            raise subprocess.CalledProcessError(run.returncode, command)
        printed.seek(0)
        return Usage(time.monotonic() - started, *peaks.values()), printed.read()


def memory(pid: int) -> dict[str, int]:
    """What /proc says in bytes of a process; with what it started, of all together, shared pages counted once.

    Nothing for a process that has just ended.
    """
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        if not children:
            sizes = _sizes(f"/proc/{pid}/status")
            # A file on a tmpfs is mapped as shared memory is.
            return sizes | {"RssFile": sizes.get("RssFile", 0) + sizes.get("RssShmem", 0)}
        # Each page counts for its share in every process that has it.
        shares = [_sizes(f"/proc/{each}/smaps_rollup") for each in (pid, *children)]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    names = {"RssAnon": "Pss_Anon", "RssFile": "Pss_File", "VmHWM": "Pss"}
    return {name: sum(share.get(pss, 0) for share in shares) for name, pss in names.items()}


def _sizes(path: str) -> dict[str, int]:
    text = Path(path).read_text(encoding="utf-8")
    entries = (line.partition(":") for line in text.splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, _, value in entries}


def _line(result: dict[str, Any]) -> str:
    """A size in a line, for a person who waits."""

    def said(usage: dict[str, Any]) -> str:
        own, files = (usage[f"peak_{kind}_bytes"] / GIGABYTE for kind in ("anonymous", "file"))
        return f"{own:.2f} GB anonymous + {files:.2f} GB file-backed in {usage['seconds']:.0f} s"

    stages = ", ".join(f"{stage} {said(result[stage])}" for stage in ("prepare", "epoch"))
    return f"{result['bytes'] / GIGABYTE:.2f} GB of pixels: {stages}"


if __name__ == "__main__":
    main()
