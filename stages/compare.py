"""Set every student beside the baseline and the teacher, image by image on the test split."""

from pathlib import Path

from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.evaluation import comparison, logits_file
from pipeline.evaluation.comparison import Bootstrap, Right
from pipeline.settings import params as parameters
from pipeline.system.files import write_json
from stages import _run


def compare(params: Path, students: Path, teacher: Path, data: Path, out: Path) -> None:
    """Write the JSON file `out`, of the methods and seeds that params.yaml lists; `teacher` is its logits.npy."""
    settings = parameters.load(params)
    card = cards.load(data)
    labels = Split.load(data, "test", card).labels

    def right(path: Path, stage: str) -> Right:
        answers: Right = logits_file.read(path, len(labels), card.num_classes, stage).argmax(1) == labels
        return answers

    by_method = {
        method: {
            seed: right(students / method / str(seed) / "logits.npy", f"evaluate@{method}-{seed}")
            for seed in settings.distill.seeds
        }
        for method in settings.distill.methods
    }
    bootstrap = Bootstrap(settings.evaluate.resamples, settings.evaluate.seed)
    record = comparison.compare(by_method, right(teacher, "evaluate_teacher"), bootstrap)
    write_json(out, record)
    for line in record["methods"]:
        low, high = line["interval"]
        print(f"{line['method']} against {line['against']}: {line['difference']:+.2f} points [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    _run.main(compare)
