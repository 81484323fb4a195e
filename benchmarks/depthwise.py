"""Training steps with depthwise convolutions in float32 and in bf16, of networks that have them, in turns, in one run.

    python -m benchmarks.depthwise --networks mobilenet_v2_half@32,timm/efficientnet_b0@64 --out FILE

"bf16" leaves all to autocast, "mixed" is what a training does (`pipeline.devices.precision.place`), and "fp32" has no
autocast. Fresh networks on a batch of noise. A processor without bf16 has nothing to compare.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import provenance
from benchmarks.pair import CLASSES, CPU, SETTINGS, make_card, step_of
from pipeline.devices.memory import keep_freed_memory
from pipeline.devices.precision import DepthwiseConv2d, computes_in, place
from pipeline.distillation import vanilla
from pipeline.models.base import build
from pipeline.system.files import write_json
from serve import machine
from serve.timing import latency

AT_32 = "mobilenet_v2_half@32,shufflenet_v1@32,shufflenet_v2@32"
AT_64 = "timm/mobilenetv3_small_050@64,timm/efficientnet_b0@64"
KINDS = ("bf16", "mixed", "fp32")


def main() -> None:
    """Measure every network and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depthwise", description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=f"{AT_32},{AT_64}", help="network@px of its images, ...")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    assert computes_in(CPU, "auto") == "bf16", "this processor does not compute in bf16"
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    load = machine.load_average()
    networks = [network.split("@") for network in arguments.networks.split(",")]
    results = [_row(arch, int(px), arguments.rounds) for arch, px in networks]
    write_json(
        arguments.out,
        {
            **provenance.head("depthwise", load, "torch", "timm", after=True),
            "seed": 0,
            "threads": arguments.threads,
            "batch_size": SETTINGS.batch_size,
            "rounds": arguments.rounds,
            "results": results,
        },
    )


def _row(arch: str, image_px: int, rounds: int) -> dict[str, Any]:
    samples = latency.measure({kind: _step(arch, image_px, kind) for kind in KINDS}, rounds, warmup=1)
    speed = {kind: SETTINGS.batch_size / float(np.median(taken)) * 1e9 for kind, taken in samples.items()}
    ratio = latency.paired_ratio(samples["bf16"], samples["mixed"])
    print(f"{arch} at {image_px} px: {speed}, mixed is {ratio.median:.2f} times as fast as bf16", flush=True)
    return {
        "network": arch,
        "image_px": image_px,
        "images_per_s": speed,
        "mixed_over_bf16": ratio.to_dict(),
        "mixed_over_fp32": latency.paired_ratio(samples["fp32"], samples["mixed"]).to_dict(),
    }


def _step(arch: str, image_px: int, kind: str) -> Callable[[], object]:
    torch.manual_seed(0)
    method = vanilla.Method(vanilla.Config(), build({"arch": arch, "num_classes": CLASSES}), None, make_card(1))
    place(method, CPU)
    if kind == "bf16":
        for module in method.modules():
            if isinstance(module, DepthwiseConv2d):
                module.__class__ = torch.nn.Conv2d  # type: ignore[assignment]
    settings = SETTINGS.model_copy(update={"precision": "fp32" if kind == "fp32" else "bf16"})
    return step_of(method, image_px, settings)


if __name__ == "__main__":
    main()
