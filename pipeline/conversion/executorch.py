"""ExecuTorch's program (.pte) with XNNPACK's kernels, in float32, from the trained weights. One image at a time.

With a free batch axis the program is written too, but its runtime refuses the input (seen with 1.5.1).
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.conversion.base import Call, Source
from pipeline.deployment.export import Outputs

NEEDS = {"executorch": "executorch", "torchao": "torchao"}
FROM_ONNX = False
BATCH: int | None = 1


def convert(source: Source, folder: Path) -> Path:
    """Export it with torch, and hand to XNNPACK all that it can compute."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    example = torch.zeros(1, source.image_px, source.image_px, 3, dtype=torch.uint8)
    program = to_edge_transform_and_lower(
        torch.export.export(source.servable(), (example,)), partitioner=[XnnpackPartitioner()]
    )
    path = folder / f"{source.onnx.stem}.pte"
    path.write_bytes(program.to_executorch().buffer)
    return path


def load(path: Path) -> Call:
    """The program in ExecuTorch's runtime."""
    from executorch.runtime import Runtime

    content = path.read_bytes()
    program = Runtime.get().load_program(content)
    method = program.load_method("forward")
    # A method reads on from the bytes of its program, and keeps neither alive: calls failed at random without these.
    kept = content, program

    def call(pixels: NDArray[np.uint8], kept: object = kept) -> Outputs:
        probabilities, logits = method.execute([torch.from_numpy(np.array(pixels))])
        return probabilities.numpy(), logits.numpy()

    return call
