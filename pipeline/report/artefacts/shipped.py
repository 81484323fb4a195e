"""Which of the student's files ships, and what is known of it."""

from pathlib import Path

from pipeline.report.artefacts.measured import Latency, parts
from pipeline.report.artefacts.records import Deployed, Quantization
from pipeline.report.artefacts.results import Shipped
from pipeline.system.errors import PupilError


def shipped(latency: Latency, quantization: Quantization, deployed: Deployed) -> Shipped:
    """The file that stage ship chose. Raises PupilError where it was not judged, or not timed."""
    it = next((it for it in quantization.students.values() if it.file == deployed.file), None)
    if it is None or it.test is None or it.against_teacher is None or it.size_bytes is None:
        raise PupilError(
            f"quantization.json has no test scores of {deployed.file}, which is deployed. Run `dvc repro ship`."
        )
    candidate = Path(it.file).name.removesuffix(".onnx").replace(".", "_") + "_onnx"
    timed = latency.batches[0].candidates
    if candidate not in timed:
        raise PupilError(
            f"latency.json has no times of {it.file}, which is deployed; it has those of {', '.join(timed)}. Run `dvc "
            "repro benchmark`."
        )
    return Shipped(
        file=it.file,
        reason=deployed.reason,
        number_format=parts(candidate)[1],
        candidate=candidate,
        size_bytes=it.size_bytes,
        teacher_size_bytes=latency.size_bytes["teacher.onnx"],
        top1=it.test.top1,
        against_teacher=it.against_teacher,
    )
