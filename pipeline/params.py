"""params.yaml as typed, frozen values. Numbers are checked here, at the door, and trusted inside.

A method's or a data source's own settings stand in its own file, as a `Config` beside the code that reads them;
`method_config` and `source_config` find them. `check_all` looks at everything, before anything long starts.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import registry
from pipeline.errors import ParamsError

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Channels = tuple[float, float, float]
Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=0.1, le=10)]
S = TypeVar("S", bound=BaseModel)


class Section(BaseModel):
    """Base of every group of settings: frozen; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Normalization(Section):
    """Per-channel statistics, of pixels scaled to [0, 1]: images = (pixels / 255 - mean) / std."""

    mean: Channels
    """Of red, green and blue."""
    std: Channels
    """Of red, green and blue; above 0."""

    @model_validator(mode="after")
    def _std_is_positive(self) -> "Normalization":
        if min(self.std) <= 0:
            raise ValueError("every std must be above 0")
        return self


class Data(Section):
    """Where images come from and how they are stored (stage prepare)."""

    source: str = "digit_pairs"
    """A file of pipeline/data/sources: digit_pairs, cifar, folder, huggingface, stanford40; docs/data-sources.md."""
    path: str | None = None
    """Folder with the images, for sources that read one; for huggingface also an id on the Hub."""
    image_px: Annotated[int, Field(ge=8, le=1024)] = 32
    """Height and width of the images that the networks see."""
    storage_px: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Height and width of the images on disk; training cuts image_px out of them at random, evaluation out of their
    middle. null: image_px."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of train set aside for validation, drawn class by class."""
    train_includes_val: bool = False
    """Train on the validation images too, as the last step before shipping, or where a paper trained on all images.
    Validation figures are then of images seen in training, and `select: best` is refused."""
    normalization: Normalization | None = None
    """What images are normalised by; null: the mean and std of the train split."""
    on_bad: Literal["fail", "skip"] = "fail"
    """What an image that is missing, empty, unreadable or truncated does: end prepare, or be left out."""
    leaks: Literal["report", "drop"] = "report"
    """What an image of train does whose exact pixels stand in val or test: be reported, or be left out. So for an image
    of val that stands in test; test stays as it is, so that its figures can be compared."""
    seed: Seed = 0
    """Draws the splits that a source lacks, and the images of sources that make them."""
    sources: dict[str, dict[str, Any]] = {}
    """Settings of each source by its name; only the chosen one is read."""

    @property
    def stored_px(self) -> int:
        """Height and width of the images on disk."""
        return self.storage_px or self.image_px

    @model_validator(mode="after")
    def _stored_images_are_large_enough(self) -> "Data":
        if self.stored_px < self.image_px:
            raise ValueError(f"storage_px {self.storage_px} must not lie below image_px {self.image_px}")
        return self


class Augment(Section):
    """Random changes of training images, drawn from (seed, epoch, position) and so repeatable."""

    crop: Literal["padded", "resized"] = "padded"
    """data.image_px of the stored image: as they are, at a random place of the padded image; or out of a box of random
    size and shape, scaled."""
    crop_padding_px: Annotated[int, Field(ge=0, le=64)] = 4
    """Of crop padded: pad the stored image by this much. Where storage_px is image_px, 0 switches the crop off."""
    pad_mode: Literal["zeros", "reflect"] = "zeros"
    """What the padding holds: black, or the mirrored image."""
    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    """Of crop resized: least and greatest area of the box, as a share of the image's."""
    crop_ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    """Of crop resized: least and greatest width of the box, as a share of its height."""
    flip: bool = True
    """Mirror left and right at random. Off for writing and digits."""

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> "Augment":
        for name in ("crop_scale", "crop_ratio"):
            least, greatest = getattr(self, name)
            if least > greatest:
                raise ValueError(f"{name} is [{least:g}, {greatest:g}]; the least comes first")
        return self


class Train(Section):
    """How a network is trained: SGD, and a learning rate that drops at milestones; docs/recipes.md has the rest."""

    epochs: Positive = 240
    """Passes over the training images."""
    batch_size: Positive = 64
    """Images of one step, over all processes."""
    lr: Annotated[float, Field(gt=0)] = 0.05
    """The highest of the schedule."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD: share of the last step that is taken again."""
    nesterov: bool = False
    """Look ahead along the momentum (Nesterov); needs some."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """On all parameters, those of BN and biases too, as in the published recipes."""
    schedule: Literal["milestones", "cosine", "one_cycle"] = "milestones"
    """How the learning rate moves: in drops, down along half a cosine, or up and down again; the last two by steps."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """The learning rate grows linearly over these epochs, step by step. one_cycle has a rise of its own."""
    base_momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Of one_cycle: momentum falls from `momentum` to this and climbs back, against the learning rate; null: stays."""
    milestones: tuple[Annotated[float, Field(gt=0)], ...] = (150, 180, 210)
    """After this many epochs the learning rate is multiplied by `decay`. Below 1: a fraction of `epochs`."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What the learning rate is multiplied by at each milestone."""
    reset_momentum: bool = False
    """Forget the momentum at each milestone, as codes do that build a new optimiser there."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread evenly over all classes, in the cross-entropy with the labels."""
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Above 0, images are mixed in pairs with shares of Beta(alpha, alpha); a teacher sees the same mixtures."""
    cutmix_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Above 0, a box of another image is put in, with such a share. With mixup too, each image has one of the two."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Validate and ship a moving average of the weights, of about the last 1 / (1 - ema_decay) steps; null: none."""
    drop_last: bool = False
    """Leave out the last batch of an epoch where it is smaller than the others."""
    compile: bool = False
    """Compile networks and losses with torch.compile: faster steps after a minute or more, and other last bits."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Networks compute in this; losses are always fp32. auto: bf16 where the processor has it."""
    select: Literal["last", "best"] = "last"
    """Which epoch ships: the last one, or the best on the validation split (never the test split)."""
    processes: Positive = 1
    """How many processes of this machine share each batch; the results are the same but for rounding. With GPUs, one
    each. For several machines, start the stage by torchrun instead, which decides their number."""
    sync_bn: bool = True
    """With several processes, BN sees the whole batch. false: each its own part, faster, and with other results."""

    @model_validator(mode="after")
    def _processes_take_equal_parts(self) -> "Train":
        if self.batch_size % self.processes:
            raise ValueError(f"a batch_size of {self.batch_size} has no equal parts for {self.processes} processes")
        if self.compile and self.processes > 1:
            raise ValueError("compile: true works with one process; set it to false, or processes to 1")
        return self

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "Train":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs a momentum above 0")
        if self.reset_momentum and self.schedule != "milestones":
            raise ValueError(f"reset_momentum acts at milestones, and schedule: {self.schedule} has none; set it false")
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise ValueError("schedule: one_cycle rises by itself; set warmup_epochs to 0")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs} leaves none of the {self.epochs} epochs; lower it")
        if self.base_momentum is not None and self.schedule != "one_cycle":
            raise ValueError(f"base_momentum belongs to schedule: one_cycle, not {self.schedule}; set it to null")
        if self.base_momentum is not None and self.base_momentum > self.momentum:
            raise ValueError(f"base_momentum is the lowest and cannot lie above momentum: {self.momentum}")
        return self

    @property
    def mixes(self) -> bool:
        """Whether images show more than one."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


class Teacher(Section):
    """The good, large network (stage train_teacher)."""

    arch: str = "resnet56"
    """resnet20, wrn_40_2, timm/resnet50, ...: a family file of pipeline/models and a size it knows."""
    pretrained: bool = False
    """Start training from the weights that timm has for this network, fetched where they are not in the cache."""
    weights: str | None = None
    """A safetensors file to take instead of training."""
    normalization: Normalization | None = None
    """What `weights` was trained with, where the file does not say so itself; null: that of the data card."""
    seed: Seed = 0
    """Draws the first weights and the order and views of the images."""
    train: Train = Train()

    @model_validator(mode="after")
    def _weights_are_trained(self) -> "Teacher":
        if self.pretrained and self.weights is not None:
            raise ValueError("with weights nothing is trained, so that pretrained: true has no meaning; drop either")
        return self


class Teach(Section):
    """What the teacher says of the training images, computed once for all students (stage teach)."""

    views: Positive | None = None
    """K, of each training image: epochs e and e + K show the same one, to all students; null: every epoch its own."""
    cache: bool = False
    """Keep on disk what the teacher says of every view, for methods that read no whole maps of it. The same numbers."""

    @model_validator(mode="after")
    def _what_is_kept_repeats(self) -> "Teach":
        if self.cache and self.views is None:
            raise ValueError("cache: true needs views that repeat; set views to their number, such as 8")
        return self


class Student(Section):
    """The small network that is to be deployed."""

    arch: str = "resnet20"
    """As the teacher's."""
    pretrained: bool = False
    """Start training from the weights that timm has for this network, fetched where they are not in the cache."""


class Distill(Section):
    """From teacher to student: every method of `methods` with every seed of `seeds` (stage distill)."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Each draws the first weights and the order and views of the images; several tell a difference from luck."""
    train: Train = Train()
    methods: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = {"vanilla": {}}
    """Settings of each method by its name; what is listed is trained."""


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


class Params(Section):
    """Everything in params.yaml, one section per stage."""

    data: Data = Data()
    augment: Augment = Augment()
    teacher: Teacher = Teacher()
    teach: Teach = Teach()
    student: Student = Student()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    deploy: Deploy = Deploy()
    quantize: Quantize = Quantize()
    benchmark: Benchmark = Benchmark()

    @model_validator(mode="after")
    def _a_cache_is_of_single_images(self) -> "Params":
        if self.teach.cache and self.distill.train.mixes:
            raise ValueError(
                "teach.cache keeps what the teacher says of single images, and distill.train.mixup_alpha or "
                "cutmix_alpha mixes them; set cache to false, or both to 0"
            )
        return self

    @model_validator(mode="after")
    def _no_epoch_is_chosen_on_images_seen_in_training(self) -> "Params":
        chosen = [
            f"{name}.train.select"
            for name, train in (("teacher", self.teacher.train), ("distill", self.distill.train))
            if train.select == "best"
        ]
        if self.data.train_includes_val and chosen:
            raise ValueError(
                f"data.train_includes_val is true and {' and '.join(chosen)} is best: the validation images are then "
                "trained on, so that they cannot tell which epoch is best, whether they are drawn from train or "
                "the source's own split; set select to last, or train_includes_val to false"
            )
        return self

    @model_validator(mode="after")
    def _a_mirror_reaches_as_far_as_the_padding(self) -> "Params":
        if self.augment.pad_mode == "reflect" and self.augment.crop_padding_px >= self.data.stored_px:
            raise ValueError(
                f"augment.crop_padding_px is {self.augment.crop_padding_px}, and images of {self.data.stored_px} px "
                f"mirror {self.data.stored_px - 1} at most; lower it, or set augment.pad_mode to zeros"
            )
        return self


def load(path: Path) -> Params:
    """Read and check params.yaml.

    Raises ParamsError naming every bad key with its value, what is allowed, and the nearest valid key.
    """
    raw = read_yaml(path, YAML(typ="safe", pure=True))
    return parse(Params, raw if raw is not None else {}, "", str(path))


def read_yaml(path: Path, yaml: YAML) -> Any:
    """What a YAML file holds. Raises ParamsError, naming it, where it cannot be read or is not valid."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(f"{path}: expected a readable YAML file ({error.strerror}).") from error
    except (YAMLError, UnicodeDecodeError) as error:
        # Behind an empty line ruamel only explains how to switch a check off.
        problem = str(error).split("\n\n")[0]
        raise ParamsError(f"{path} is not valid YAML: {problem}") from error


def parse(model: type[S], raw: object, prefix: str, where: str) -> S:
    """A checked section from plain values; `prefix` is its dotted key, `where` the file to name in an error.

    Goes through JSON because only there strict means what a person means: a list may become a tuple, a string or a
    number in quotes may not become a number.
    """
    try:
        return model.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        lines = [_explain(model, item, prefix) for item in error.errors(include_url=False)]
        raise ParamsError(f"{where}: " + " ".join(lines)) from error
    except TypeError as error:
        raise ParamsError(f"{where}: {prefix or 'the file'} holds a value that is not plain data ({error}).") from error


def method_config(params: Params, name: str) -> Any:
    """The typed settings of one distillation method: `distill.methods.NAME` as that method's `Config`."""
    module = registry.find("pipeline.distillation", name, "distill.methods")
    return parse(module.Config, params.distill.methods[name], f"distill.methods.{name}", "params.yaml")


def source_config(data: Data) -> Any:
    """The typed settings of the chosen data source: `data.sources.NAME` as that source's `Config`."""
    module = registry.find("pipeline.data.sources", data.source, "data.source")
    return parse(module.Config, data.sources.get(data.source, {}), f"data.sources.{data.source}", "params.yaml")


def check_all(params: Params) -> None:
    """Check what single stages would only meet later: every method and source, and what `deploy` points at."""
    for name in params.data.sources:
        registry.find("pipeline.data.sources", name, "data.sources")
    source_config(params.data)
    for name in params.distill.methods:
        method_config(params, name)
    if params.deploy.method not in params.distill.methods:
        listed = ", ".join(params.distill.methods)
        raise ParamsError(
            f"params.yaml: deploy.method is '{params.deploy.method}', which distill.methods does not list ({listed})."
        )
    if params.deploy.seed not in params.distill.seeds:
        seeds = ", ".join(map(str, params.distill.seeds))
        raise ParamsError(f"params.yaml: deploy.seed is {params.deploy.seed}, distill.seeds lists {seeds}.")


def check_complete(params: Params) -> None:
    """Check that nothing is left to a default that a stage lists: DVC would say so only when it comes to that stage."""
    missing = [name for name in Params.model_fields if name not in params.model_fields_set]
    missing += [f"distill.{name}" for name in Distill.model_fields if name not in params.distill.model_fields_set]
    if params.data.source not in params.data.sources:
        missing.append(f"data.sources.{params.data.source}")
    if missing:
        raise ParamsError(f"params.yaml lacks {', '.join(missing)}: write them down, the stages of dvc.yaml read them.")


def json_schema() -> dict[str, Any]:
    """A JSON schema of params.yaml, with the settings of every method and source, for editors to complete and check."""
    schema = Params.model_json_schema()
    definitions = schema["$defs"]
    for section, key, package in (
        ("Distill", "methods", "pipeline.distillation"),
        ("Data", "sources", "pipeline.data.sources"),
    ):
        properties: dict[str, Any] = {}
        for name in registry.names(package):
            model = registry.find(package, name, key).Config
            config = model.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(config.pop("$defs", {}))
            for setting, text in _inherited(model).items():
                config["properties"][setting].setdefault("description", text)
            properties[name] = {**config, "title": name}
        target = definitions[section]["properties"][key]
        target["properties"] = properties
        target["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _inherited(model: type[BaseModel]) -> dict[str, str]:
    """What the classes above say of settings: one that sets another default says nothing anew."""
    found: dict[str, str] = {}
    for kind in reversed([base for base in model.__mro__ if issubclass(base, BaseModel)]):
        found |= {name: field.description for name, field in kind.model_fields.items() if field.description}
    return {name: text for name, text in found.items() if name in model.model_fields}


def _explain(model: type[BaseModel], item: Any, prefix: str) -> str:
    """One sentence for one pydantic error: the dotted key, what came, what is allowed."""
    location = [str(part) for part in item["loc"]]
    key = ".".join([*([prefix] if prefix else []), *location]) or "the file"
    if item["type"] == "extra_forbidden":
        known = list(_section_at(model, location[:-1]).model_fields)
        return f"{key} is not a key{registry.nearest(location[-1], known)}; known here: {', '.join(known)}."
    return f"{key} is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}."


def _section_at(model: type[BaseModel], location: list[str]) -> type[BaseModel]:
    """The section that holds a key, found by walking down from the outermost one."""
    for name in location:
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        inner = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            break
        model = inner[0]
    return model
