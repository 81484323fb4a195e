"""From a trained network to one ONNX file that needs nothing beside it.

Pixels go in, probabilities come out: normalisation and softmax are in the graph, labels and provenance in its
metadata. Nothing that was fixed by training is typed a second time by whoever serves the file. What only training
needs, parallel branches and BNs behind convolutions, is merged into the layers beside it (pipeline/models/fold.py).
"""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.deployment import onnx_file
from pipeline.models.base import Classifier, count_macs, title
from pipeline.models.checkpoint import Header
from pipeline.models.fold import folded
from pipeline.settings.data import Normalization
from pipeline.system.errors import ParityError

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]


class Servable(nn.Module):
    """uint8 pixels (B, H, W, 3) -> float32 probabilities (B, K) and logits (B, K)."""

    model: Classifier
    scale: Tensor
    shift: Tensor

    def __init__(self, model: Classifier, normalization: Normalization) -> None:
        super().__init__()
        self.model, self.normalization = model, normalization
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (normalization.mean, normalization.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise, classify, and turn logits into probabilities."""
        images = pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        logits = self.model(images)
        return logits.softmax(1), logits

    def fused(self) -> "Servable":
        """A copy with fewer layers that computes the same, in eval mode: what ships."""
        return Servable(folded(self.model), self.normalization).eval()


def make_card(name: str, header: Header, metrics: dict[str, float]) -> dict[str, Any]:
    """The card that travels in the ONNX file, as plain data, but for what `write_onnx` finds in the network itself."""
    return {
        "format": 1,
        "name": name,
        "precision": "float32",
        "labels": list(header.labels),
        "image_px": header.image_px,
        "resize_px": header.storage_px or header.image_px,
        **({} if header.cut_px is None else {"cut_px": header.cut_px}),
        "mean": list(header.normalization.mean),
        "std": list(header.normalization.std),
        "arch": title(header.model),
        "method": header.method,
        "seed": header.seed,
        "metrics": metrics,
        "params_sha256": header.params_sha256,
        "data_sha256": header.data_sha256,
        "data_licence": header.licence,
    }


def write_onnx(servable: Servable, card: dict[str, Any], path: Path, opset: int) -> None:
    """Fuse it, export it with a free batch axis, and write it with its card, which gets the file's own sizes.

    `servable` is left in eval mode.
    """
    shipped = servable.eval().fused().cpu()
    image_px = card["image_px"]
    # An example batch of 1 would freeze the batch axis at 1.
    example = torch.zeros(2, image_px, image_px, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        # torch's exporter walks its own deprecated tree types.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        program = torch.onnx.export(
            shipped,
            (example,),
            input_names=["pixels"],
            output_names=["probabilities", "logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "torch.onnx.export(dynamo=True) returns a program"
    sizes = {
        # What the exporter took out, such as a bias of zeros, is in no file.
        "num_parameters": onnx_file.num_parameters(program.model_proto, dict(shipped.named_buffers())),
        "macs": count_macs(shipped.model, image_px),
    }
    onnx_file.write(program.model_proto, card | sizes, path)


@torch.inference_mode()
def check_parity(
    servable: Servable,
    exported: Callable[[NDArray[np.uint8]], Outputs],
    pixels: NDArray[np.uint8],
    batch_sizes: Iterable[int],
    max_probability_error: float,
) -> list[dict[str, Any]]:
    """Compare torch and the exported file on real images (N, H, W, 3), batch size by batch size.

    Returns one record per batch size: largest absolute error of probabilities and of logits, and whether every top-1
    agrees. Raises ParityError when a probability is off by more than `max_probability_error`.
    """
    records = []
    for batch_size in batch_sizes:
        batch = np.array(pixels[:batch_size])  # a copy: torch wants to be able to write where it reads
        expected = [x.numpy() for x in servable(torch.from_numpy(batch))]
        came = exported(batch)
        errors = [float(np.abs(a - b).max()) for a, b in zip(expected, came, strict=True)]
        records.append(
            {
                "batch_size": len(batch),
                "max_probability_error": errors[0],
                "max_logit_error": errors[1],
                "top1_equal": bool((expected[0].argmax(1) == came[0].argmax(1)).all()),
            }
        )
        if not errors[0] <= max_probability_error:
            fused = servable.fused()(torch.from_numpy(batch))[0].numpy()
            raise ParityError(
                f"at batch {len(batch)} the exported file's probabilities differ from torch's by up to "
                f"{errors[0]:.2e}, more than deploy.max_probability_error {max_probability_error:.2e}. In torch the "
                f"fused network (branches merged, BNs folded) differs from the trained one by up to "
                f"{np.abs(expected[0] - fused).max():.2e}, and the file from the fused one by up to "
                f"{np.abs(fused - came[0]).max():.2e}. No file was written. If the second is the large one, try "
                "another deploy.opset; raise the tolerance only if this difference is small enough for your use."
            )
    return records
