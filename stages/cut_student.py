"""Say what network a student is before it is trained; one that is cut from its teacher is cut here, for all methods."""

import tempfile
from pathlib import Path

from pipeline.data import card as cards
from pipeline.settings import params as parameters
from pipeline.settings.networks import Pruned
from pipeline.settings.params import Params
from pipeline.system.files import write_json
from pipeline.system.scratch import replacing_folder
from stages import _run

_SCORED, _BATCH = 512, 64
"""Training images that show what channels and blocks are worth, and how many at a time."""

_TOO_SLOW = 0.6
"""Of the speed that the share of multiply-accumulates promises: below it, what is left does not fill the processor."""


def cut_student(params: Path, teacher: Path, data: Path, out: Path) -> None:
    """Leave in the folder `out` spec.json, and weights.safetensors where training is to start from the teacher's."""
    settings = parameters.load(params)
    if settings.student.pruned is not None:
        _cut(settings, settings.student.pruned, teacher, data, out)
        return
    with replacing_folder(out) as scratch:
        num_classes = cards.load(data).num_classes
        write_json(scratch / "spec.json", {"arch": settings.student.arch, "num_classes": num_classes})


def _cut(settings: Params, pruned_by: Pruned, teacher: Path, data: Path, out: Path) -> None:
    # torch takes seconds to import, and for other students this stage has no use for it.
    import torch

    from pipeline.data.arrays import Split
    from pipeline.data.feed import Feed
    from pipeline.deployment import trial
    from pipeline.models import checkpoint, cutting
    from pipeline.models.base import Classifier, count_macs, num_parameters, title
    from serve.timing import versus

    card = cards.load(data)
    px = settings.student.image_px or card.image_px
    network, header = checkpoint.load(teacher)
    # Few images on a network that is fast: the processor does.
    feed = Feed(Split.load(data, "train", card, px), header.normalization, torch.device("cpu"))
    shown = feed.eval_batches(_BATCH, stop=min(_SCORED, len(feed)))
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder, "teacher.onnx"), Path(folder, "student.onnx")

        def speedup_of(candidate: Classifier) -> float:
            if not whole.exists():
                trial.write(network, card.image_px, settings.deploy.opset, whole)
            trial.write(candidate, px, settings.deploy.opset, part)
            return versus.speedup(whole, part, settings.benchmark.threads)

        student = cutting.student_of(network, px, pruned_by, speedup_of, shown, card.image_px)
        times = speedup_of(student)
    with replacing_folder(out) as scratch:
        write_json(scratch / "spec.json", student.spec, indent=None)
        if pruned_by.keep_weights:
            sizes = {"image_px": px, "cut_px": card.image_px if px != card.image_px else None}
            named = header.model_copy(update={"model": dict(student.spec), **sizes})
            checkpoint.save(student, named, scratch / "weights.safetensors")
    macs = [count_macs(student, px), count_macs(network, card.image_px)]
    parameters_ = [num_parameters(model) for model in (student, network)]
    print(
        f"student: {title(student.spec)}, {macs[0] / 1e6:.1f} of {macs[1] / 1e6:.1f} million MACs "
        f"({macs[0] / macs[1]:.3f}), {parameters_[0]:,} of {parameters_[1]:,} parameters, {times:.2f} times as fast"
    )
    if pruned_by.cut == "channels" and times < _TOO_SLOW * macs[1] / macs[0]:
        print(
            "Its layers are too thin to be as fast as their multiply-accumulates promise. Try student.pruned.cut: "
            "blocks, which takes whole residual blocks out, or another round_to; `python -m stages.survey` compares "
            "them before anything trains."
        )


if __name__ == "__main__":
    _run.main(cut_student)
