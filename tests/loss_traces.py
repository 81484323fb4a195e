"""Twenty steps of every method on fixed data: the losses that tests/loss_traces.json freezes.

python -m tests.loss_traces    writes the file anew, after a change that is meant to alter results
"""

import json
from pathlib import Path

import torch

from pipeline import registry
from pipeline.distillation.base import Batch
from tests import tiny

PATH = Path(__file__).parent / "loss_traces.json"
STEPS = 20


def trace(name: str) -> list[float]:
    """The loss before each of 20 SGD steps on the tiny data set: ResNet-14 teaches ResNet-8, float32, one thread."""
    torch.set_num_threads(1)
    method = tiny.method(name)
    feed = tiny.feed()
    method.begin(feed.labels)
    method.train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.002, momentum=0.9)
    losses = []
    torch.manual_seed(7)
    for step in range(STEPS):
        positions = torch.arange(8 * step, 8 * step + 8) % len(feed)
        pixels = feed.pixels(positions).permute(0, 3, 1, 2).float()
        batch = Batch(pixels / 128 - 1, feed.labels[positions], positions, progress=step / STEPS, epoch=step)
        loss = torch.stack(list(method(batch).terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    traces = {name: [float(f"{loss:.7g}") for loss in trace(name)] for name in registry.names("pipeline.distillation")}
    PATH.write_text(json.dumps(traces, indent=1) + "\n", encoding="utf-8")
