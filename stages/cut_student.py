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
"""Training images whose gradients score the channels, and how many at a time."""


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
    from pipeline.data.arrays import Split
    from pipeline.data.feed import Feed
    from pipeline.deployment import trial
    from pipeline.devices.precision import best_device
    from pipeline.models import checkpoint, pruned
    from pipeline.models.base import Classifier, count_macs, num_parameters, title
    from serve.timing import versus

    card = cards.load(data)
    network, header = checkpoint.load(teacher)
    by_gradient = pruned_by.importance == "taylor"
    if by_gradient:
        device = best_device()
        feed = Feed(Split.load(data, "train", card), header.normalization, device)
        pruned.add_gradients(network.to(device), feed.eval_batches(_BATCH, stop=min(_SCORED, len(feed))))
        network.cpu()
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder, "teacher.onnx"), Path(folder, "student.onnx")

        def speedup_of(candidate: Classifier) -> float:
            if not whole.exists():
                trial.write(network, card.image_px, settings.deploy.opset, whole)
            trial.write(candidate, card.image_px, settings.deploy.opset, part)
            return versus.speedup(whole, part, card.image_px, settings.benchmark.threads)

        student = pruned.student_of(network, card.image_px, pruned_by, speedup_of, by_gradient)
    with replacing_folder(out) as scratch:
        write_json(scratch / "spec.json", student.spec, indent=None)
        if pruned_by.keep_weights:
            named = header.model_copy(update={"model": dict(student.spec)})
            checkpoint.save(student, named, scratch / "weights.safetensors")
    macs = [count_macs(model, card.image_px) for model in (student, network)]
    parameters_ = [num_parameters(model) for model in (student, network)]
    print(
        f"student: {title(student.spec)}, {macs[0] / 1e6:.1f} of {macs[1] / 1e6:.1f} million MACs "
        f"({macs[0] / macs[1]:.3f}), {parameters_[0]:,} of {parameters_[1]:,} parameters"
    )


if __name__ == "__main__":
    _run.main(cut_student)
