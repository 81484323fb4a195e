"""params.yaml, sections evaluate, deploy, quantize and benchmark: what is measured, and what ships."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.settings.section import Distinct, Positive, Section, Seed, SeedOrBest, SomeDistinct
from pipeline.settings.training import Train


class Evaluate(Section):
    """Confidence intervals of the results on the test split, which chooses nothing."""

    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    """Number of bootstrap samples for each confidence interval."""
    seed: Seed = 0
    """Seed of the bootstrap samples."""


class Deploy(Section):
    """Which student is exported, how exactly the ONNX file must agree with it, what a smaller file may cost, and which
    file ships."""

    method: str = "vanilla"
    """The method whose student is exported, one of `distill.methods`. `best` takes the student that has the highest
    top-1 accuracy on the validation split, in the epoch that its training kept; of equal ones the first by name."""
    seed: SeedOrBest = 0
    """The seed of that student, one of `distill.seeds`. `best` chooses as for `method`, among the seeds, and with both
    among all students."""
    opset: Annotated[int, Field(ge=18, le=23)] = 20
    """Version of the ONNX operator set that the files use."""
    max_probability_error: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Largest difference in any probability between torch and ONNX Runtime, both in float32 (stage export)."""
    max_drop: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Percentage points of validation top-1 accuracy that a quantised or half-precision student may lose. If it loses
    more, it is refused (stage quantize). If the validation split is too small to tell, or was trained on
    (data.train_includes_val), the agreement with float32 on images of train decides (docs/quantization.md)."""
    batch_size: Positive = 1
    """Number of images in the calls that decide which file ships: the fastest on this machine of those that were
    accepted (stage ship)."""
    prefer: Literal["speed", "size"] = "speed"
    """`size` ships the smallest accepted file instead. With `speed`, the smaller of two equally fast files ships."""


class TrainInt8(Section):
    """Distillation of the student in eight bits (stage distill_int8): see docs/quantization.md."""

    epochs: Positive = 4
    """Number of passes over the training images."""
    batch_size: Positive = 64
    """Number of images in one training step."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate. It falls to 0 along half a cosine. A tenth to a hundredth of `distill.train.lr` is right,
    because the network is trained already and has no batch normalisation any more."""
    teacher: Literal["teacher", "student"] = "teacher"
    """Whom the int8 student learns from: the pair's teacher, or the student itself in float32 (`student`), which gives
    back what the rounding took."""
    ce_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the cross-entropy with the labels."""
    kl_weight: Annotated[float, Field(ge=0)] = 0.9
    """Weight of the divergence between the softened predictions."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Temperature by which both predictions are softened."""
    unlabelled_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of every batch that are images of `data.unlabelled`, as in `distill.train`."""

    @property
    def recipe(self) -> Train:
        """The same as a training. Without weight decay: a weight that no normalisation follows is no longer free."""
        own = self.model_dump(include={"epochs", "batch_size", "lr", "unlabelled_share"})
        # bf16 would round sums that are integers.
        return Train(**own, schedule="cosine", weight_decay=0, precision="fp32")

    @model_validator(mode="after")
    def _teaches_something(self) -> "TrainInt8":
        if self.ce_weight == 0 and self.kl_weight == 0:
            raise ValueError("ce_weight and kl_weight are both 0, so that nothing would be learnt; raise one of them")
        if self.unlabelled_share and self.kl_weight == 0:
            raise ValueError("images without labels teach by kl_weight alone; raise it, or set unlabelled_share to 0")
        _ = self.recipe  # which refuses batches that cannot be divided
        return self


class Quantize(Section):
    """How the exported student is converted to 8-bit integers and to half precision (stage quantize)."""

    method: Literal["auto", "minmax", "entropy", "percentile", "percentile_99.9", "percentile_99.999"] = "auto"
    """How the range of every tensor is found from the calibration images: from its smallest and largest value
    (`minmax`), by the least KL divergence (`entropy`), or so that it holds 99.99 percent of the values (`percentile`),
    or 99.9 or 99.999. `auto` tries all of them and takes the one whose answers agree with float32 most often on the
    validation split. If it is refused, `auto` leaves the most damaging nodes in float32, as few as needed."""
    images: Annotated[int, Field(ge=1)] = 512
    """Number of calibration images, drawn from the train split. If it has fewer, all of them are used."""
    seed: Seed = 0
    """Seed by which the calibration images are drawn, and for `train` the order and the views of the images."""
    reduce_range: bool | None = None
    """Whether weights are quantised to 7 bits, for x86 processors without VNNI, whose sums of 8-bit products overflow.
    null: if the processor that quantises is one of them. Set it to true if another one will serve the student."""
    train: TrainInt8 | None = None
    """How student.int8.onnx is trained further, in its own arithmetic (stage distill_int8). null: it is not."""
    tensorrt: bool = False
    """Whether to write student.int8_signed.onnx too, with the signed and symmetric integers that TensorRT needs. It is
    slow on a CPU."""

    @property
    def way(self) -> str:
        """How ranges are found where nothing is searched for."""
        return "minmax" if self.method == "auto" else self.method


class LoadGen(Section):
    """The scenarios of MLPerf Inference, run by its own load generator."""

    seconds: Annotated[float, Field(gt=0, le=86_400)] = 0.5
    """Duration of each run. MLPerf asks for 600 seconds; LoadGen's verdict on a shorter run holds for that run
    alone."""
    server_p99_ms: Annotated[float, Field(gt=0)] = 10.0
    """Latency bound in milliseconds: the scenario Server searches for the highest rate of arrivals whose p99 is at most
    this."""


class Benchmark(Section):
    """Latency of the deployed student beside its teacher (stage benchmark)."""

    batch_sizes: SomeDistinct[Positive] = (1, 8, 32)
    """Numbers of images in one call. The report and metrics.json give their answer for the smallest of them."""
    samples: Annotated[int, Field(ge=20)] = 700
    """Number of timed calls of each candidate at batch size 1. Larger batches take fewer, but never fewer than 70. A
    p99 needs 662 calls, a p90 needs 64."""
    warmup: Annotated[int, Field(ge=1)] = 20
    """Number of calls of each candidate at each batch size before timing starts."""
    threads: Positive = 1
    """Number of CPU threads, for ONNX Runtime and torch alike."""
    seed: Seed = 0
    """Seed of the order of the rounds, the test images, the bootstrap, and the samples and arrivals of LoadGen."""
    device: Literal["auto", "cpu"] = "auto"
    """`auto` takes a GPU if ONNX Runtime really runs on one, and then for torch as well. int8 is timed on the CPU
    only."""
    thread_counts: Distinct[Positive] = (1, 2, 4)
    """Further numbers of threads on which the exported files are timed, up to the number of cores of the machine."""
    cold_starts: Annotated[int, Field(ge=0)] = 3
    """Number of new processes that are started with each exported file, to measure the time to the first answer and the
    peak memory."""
    loadgen: LoadGen | None = LoadGen()
    """Settings of MLPerf's load generator. null: it is not run."""
    torch_alone: bool = False
    """Whether to measure cold starts and LoadGen for student and teacher in torch too, which takes about half a minute
    more."""
