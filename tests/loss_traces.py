"""Twenty steps of every method on fixed data: the losses that tests/loss_traces.json freezes.

python -m tests.loss_traces            adds those of methods that have none yet
python -m tests.loss_traces NAME ...   writes those of these methods anew, after a change that is meant to alter them
"""

import json
import sys
from pathlib import Path

import pytest
import torch

from pipeline.distillation.batch import Batch
from pipeline.system import registry
from tests import tiny

PATH = Path(__file__).parent / "loss_traces.json"
STEPS = 20


def trace(name: str) -> list[float]:
    """The loss before each of 20 SGD steps on tiny data of 32 px: ResNet-14 teaches ResNet-8, float32, one thread."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "IMAGE_PX", 32)
        method, feed = tiny.method(name), tiny.feed()
    method.begin(feed.labels)
    method.train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.002, momentum=0.9)
    losses = []
    torch.manual_seed(7)
    for step in range(STEPS):
        positions = torch.arange(8 * step, 8 * step + 8) % len(feed)
        pixels = feed.pixels(positions).permute(0, 3, 1, 2).float()
        batch = Batch(
            pixels / 128 - 1,
            feed.labels[positions],
            positions,
            progress=step / STEPS,
            epoch=step,
            strong=pixels.flip(3) / 256 - 1,  # mirrored and darker
        )
        loss = torch.stack(list(method(batch).terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def freeze(renewed: list[str]) -> None:
    """Write the file: what stands in it stays, apart from `renewed` methods and those that are no more."""
    # On another processor the last digits of all methods come out differently: they would bury what has changed.
    names, frozen = registry.names("pipeline.distillation"), json.loads(PATH.read_text(encoding="utf-8"))
    for name in [name for name in names if name not in frozen] + renewed:
        frozen[name] = [float(f"{loss:.7g}") for loss in trace(name)]
    PATH.write_text(json.dumps({name: frozen[name] for name in names}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    freeze(sys.argv[1:])
