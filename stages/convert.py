"""Write the deployed student for another runtime, once it answers there as in ONNX Runtime. No stage of the DAG.

python -m stages.convert --to openvino
"""

from pathlib import Path

import numpy as np

from pipeline.conversion import base
from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.settings import params as parameters
from pipeline.system import registry
from pipeline.system.errors import ParamsError
from pipeline.system.files import write_json
from pipeline.system.scratch import replacing_folder
from serve.errors import ServeError
from serve.model.classifier import OnnxClassifier
from stages import _run

_IMAGES = 512
"""Of the test split, at most, that both runtimes are asked."""
_BATCH = 32


def convert(
    to: str,
    onnx: Path = Path("artifacts/deploy/student.onnx"),
    weights: Path = Path("artifacts/chosen/model.safetensors"),
    params: Path = Path("params.yaml"),
    data: Path = Path("data/prepared"),
    out: Path = Path("artifacts/converted"),
) -> None:
    """Write the student for the runtime --to (openvino, litert, executorch) into a folder of its name below --out.

    openvino starts from the file --onnx, which may be the int8 one; litert and executorch start from --weights, and
    --onnx says what they must compute.
    """
    runtime = registry.find("pipeline.conversion", to, "--to")
    base.require(runtime, to)
    settings = parameters.load(params).deploy
    ours = OnnxClassifier(onnx, device="cpu")
    is_float32 = ours.card.precision == "float32"
    if not (is_float32 or runtime.FROM_ONNX):
        raise ParamsError(
            f"--to {to} converts the trained weights, in float32, but --onnx {onnx} computes in {ours.card.precision}. "
            "Name the float32 file."
        )
    test = Split.load(data, "test", cards.load(data), ours.card.image_px)
    pixels = test.central_reader()(np.arange(min(_IMAGES, len(test))))
    with replacing_folder(out / to) as scratch:
        file = runtime.convert(base.Source(onnx, weights, ours.card.image_px), scratch)
        record = base.compare(
            runtime.load(file),
            ours.outputs,
            pixels,
            runtime.BATCH or _BATCH,
            settings.max_probability_error,
            None if is_float32 else settings.max_drop,
        )
        write_json(scratch / "parity.json", record)
        size = sum(path.stat().st_size for path in scratch.iterdir() if path.name != "parity.json")
    print(
        f"{out / to / file.name}: {size / 1e6:.2f} MB; of {record['images']} images {record['top1_agreement']:.2f} % "
        f"have the top-1 of ONNX Runtime, and probabilities differ by up to {record['max_probability_error']:.1e}"
    )


if __name__ == "__main__":
    _run.main(convert, ServeError)
