"""A trained network, fused as it ships, as torch runs it by default; behind the same boundary as the exported file."""

from pathlib import Path

import torch

from pipeline.deployment.export import Servable
from pipeline.devices.precision import forbid_tf32
from pipeline.models import checkpoint
from serve.model.classifier import Pixels
from serve.timing.candidates import Call


def open_torch(path: Path, threads: int, device: str) -> Call:
    """Weights and spec of a safetensors file -> pixels in, probabilities out, both in the host's memory."""
    torch.set_num_threads(threads)
    forbid_tf32()  # as in ONNX Runtime, so that both compute the same
    model, header = checkpoint.load(path)
    servable = Servable(model, header.normalization).fused().to(device)

    def call(pixels: Pixels) -> object:
        with torch.inference_mode():
            # Copying to the host waits for the device.
            return servable(torch.from_numpy(pixels).to(device))[0].cpu().numpy()

    return call
