"""Which of the student's files the measured device is to run, and what is known of it."""

from pathlib import Path

from pipeline.report.artefacts.measured import Latency, parts
from pipeline.report.artefacts.records import Quantization
from pipeline.report.artefacts.results import Shipped
from pipeline.system.errors import PupilError


def shipped(latency: Latency, quantization: Quantization) -> Shipped:
    """On a CPU the file that stage quantize named; on a GPU the accepted one in half precision, else float32.

    Raises PupilError where that file was not timed.
    """
    students = quantization.students
    by_candidate = {
        Path(it.file).name.removesuffix(".onnx").replace(".", "_") + "_onnx": it for it in students.values()
    }
    timed = latency.batches[0].candidates
    if latency.device == "cpu":
        wanted = [name for name, it in by_candidate.items() if it.file == quantization.deployed]
    else:
        wanted = [name for name in ("student_fp16_onnx", "student_onnx") if name in by_candidate]
    candidate = next((name for name in wanted if name in timed), None)
    if candidate is None:
        raise PupilError(
            f"latency.json has no times of {quantization.deployed}, which is deployed; it has those of "
            f"{', '.join(timed)}. Run `dvc repro benchmark`."
        )
    it = by_candidate[candidate]
    if it.test is None or it.against_teacher is None:
        raise PupilError(
            f"quantization.json has no test scores of {it.file}, which is deployed. Run `dvc repro quantize`."
        )
    return Shipped(
        file=it.file,
        number_format=parts(candidate)[1],
        candidate=candidate,
        size_bytes=it.size_bytes,
        teacher_size_bytes=latency.size_bytes["teacher.onnx"],
        top1=it.test.top1,
        against_teacher=it.against_teacher,
    )
