"""params.yaml, sections evaluate, deploy, quantize and benchmark: what is measured, and what ships."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.section import Positive, Section, Seed


class Evaluate(Section):
    """The test split, touched once, and how sure what it says is (stages evaluate and compare)."""

    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    """Bootstrap samples behind each interval."""
    seed: Seed = 0
    """Draws them."""


class Deploy(Section):
    """Which student is exported, how exactly the ONNX file must agree with it, and what a smaller file may cost."""

    method: str = "vanilla"
    """One of `distill.methods`."""
    seed: Seed = 0
    """One of `distill.seeds`."""
    opset: Annotated[int, Field(ge=18, le=23)] = 20
    """Version of ONNX's operators that the files use."""
    max_probability_error: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Largest difference in any probability between torch and ONNX Runtime, both in float32 (stage export)."""
    max_drop: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Points of validation top-1 that a quantised or half-precision student may lose; else it is refused (quantize)."""


class Quantize(Section):
    """The exported student in integers, and in half precision (stage quantize)."""

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How the range of every tensor is read off calibration images: extremes; least KL divergence; see percentile."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    """Of method percentile: the share of values, in percent, that the range holds."""
    images: Annotated[int, Field(ge=1)] = 512
    """Calibration images, drawn from train; all of train where it has fewer."""
    seed: Seed = 0
    """Draws them."""
    exclude: tuple[str, ...] = ()
    """Nodes of student.onnx that stay in float32, by name. A refusal names those that would help."""
    reduce_range: bool = False
    """Weights in 7 bits: for processors without VNNI, whose sums of 8-bit products overflow."""
    tensorrt: bool = False
    """Make student.int8_signed.onnx too: signed, symmetric, as TensorRT wants it; slow on a CPU."""


class LoadGen(Section):
    """MLPerf Inference's scenarios, run by its own load generator."""

    seconds: Annotated[float, Field(gt=0, le=86_400)] = 0.5
    """Of each run. MLPerf asks for 600; LoadGen's verdict on a shorter one is of that one alone."""
    server_p99_ms: Annotated[float, Field(gt=0)] = 10.0
    """Scenario Server looks for the highest rate of arrivals whose p99 is at most this."""


class Benchmark(Section):
    """Latency of the deployed student beside its teacher (stage benchmark)."""

    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 8, 32)
    """Images of one call; the first one is what the report answers with."""
    samples: Annotated[int, Field(ge=20)] = 700
    """Timed calls of each candidate at batch 1; larger batches take fewer, never below 70. p99 needs 662, p90 64."""
    warmup: Annotated[int, Field(ge=1)] = 20
    """Calls of each candidate at each batch size before the clock starts."""
    threads: Positive = 1
    """Of ONNX Runtime and of torch alike."""
    seed: Seed = 0
    """Draws the order of the rounds, the test images, the bootstrap, and LoadGen's samples and arrivals."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU where ONNX Runtime really runs on one, for torch as well; int8 is timed on the CPU only."""
    thread_counts: tuple[Positive, ...] = (1, 2, 4)
    """The exported files are also timed on so many threads, up to the cores of the machine."""
    cold_starts: Annotated[int, Field(ge=0)] = 3
    """Fresh processes of each exported file, for the time to the first answer and the peak of memory."""
    loadgen: LoadGen | None = LoadGen()
    """null: not run."""
    torch_alone: bool = False
    """Cold starts and LoadGen for student and teacher in torch too; about half a minute more."""
