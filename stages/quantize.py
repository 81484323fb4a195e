"""Make the exported student smaller: in 8-bit integers and in half precision, accepted only where it is as accurate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.data import card as cards
from pipeline.deployment import gate, onnx_file
from pipeline.deployment import quantize as quantizing
from pipeline.deployment.judge import Judge, Judged, made
from pipeline.deployment.search import Search
from pipeline.evaluation import logits_file
from pipeline.evaluation.comparison import Bootstrap
from pipeline.settings import params as parameters
from pipeline.system.files import write_json
from pipeline.system.scratch import replacing_folder
from stages import _run


def quantize(
    params: Path, student: Path, teacher: Path, data: Path, out: Path, record: Path, distilled: Path | None = None
) -> None:
    """Write the students into the folder `out`, with .refused in the name of each that is, and why to `record`.

    `teacher` is its logits.npy, to say how far each student lies from it on the test split. `distilled` is the folder
    of stage distill_int8.
    """
    everything = parameters.load(params)
    settings, max_drop = everything.quantize, everything.deploy.max_drop
    data_card, (model, card) = cards.load(data), onnx_file.read(student)
    said = logits_file.read(teacher, data_card.counts["test"], data_card.num_classes, "evaluate_teacher")
    bootstrap = Bootstrap(everything.evaluate.resamples, everything.evaluate.seed)
    judge = Judge(model, data, data_card, card["image_px"], max_drop, said.argmax(1), bootstrap)
    batches, search = quantizing.calibration(judge.train, settings), Search(judge)

    def int8() -> Judged:
        trained = quantizing.distilled(distilled)
        if trained is not None and (judged := judge.judge(trained)).verdict.accepted:
            return judged
        return search.run(model, batches, settings)

    def int8_signed() -> Judged:
        way = search.way or settings.way
        return judge.judge(quantizing.Quantizer(model, batches, way, settings.reduce_range, signed=True).model())

    makers: dict[str, Callable[[], Judged]] = {"int8": int8}
    if settings.tensorrt:
        makers["int8_signed"] = int8_signed
    makers["fp16"] = lambda: judge.judge(quantizing.half(model))
    students: dict[str, Any] = {
        "float32": {
            "file": student.name,
            "accepted": True,
            "reason": "the student as exported",
            "drop_points": 0.0,
            **judge.float32_scores(),
            "size_bytes": student.stat().st_size,
        }
    }
    with replacing_folder(out) as folder:
        for name, make in makers.items():
            judged = made(make)
            verdict, scores = judged.verdict, judge.scores(judged)
            print(f"student.{name}: {verdict.reason}")
            file = folder / f"student.{name}{'' if verdict.accepted else '.refused'}.onnx"
            if judged.network is not None:
                bits = quantizing.weight_bits(judged.network)
                own = {"precision": name, "weight_bits": bits, "metrics": gate.measured(scores["test"])}
                onnx_file.write(judged.network, card | own, file)
            students[name] = {
                "file": f"{out.name}/{file.name}",
                "accepted": verdict.accepted,
                "reason": verdict.reason,
                "drop_points": verdict.drop_points,
                "validation_tells": verdict.validation_tells,
                **scores,
                "size_bytes": None if judged.network is None else file.stat().st_size,
            }
    how = "distilled" if search.way is None else "post-training"
    students["int8"] |= {"how": how, "tried": search.to_dict(), "nodes": search.nodes}
    if search.nodes:
        print(f"int8: {gate.name_worst(search.nodes)}")
    write_json(
        record, {"max_drop": max_drop, "val_seen_in_training": data_card.train_includes_val, "students": students}
    )


if __name__ == "__main__":
    _run.main(quantize)
