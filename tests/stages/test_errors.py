"""What a person can get wrong, at the command line of a stage: one paragraph that says what to do, and nothing lost."""

import contextlib
import io
import os
import re
import resource
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.models import checkpoint
from pipeline.models.base import build
from pipeline.preparation import prepare
from pipeline.settings.data import Data, Normalization
from stages.distill import distill
from tests import toy

pytestmark = pytest.mark.slow

NUM_CLASSES = 100


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a small params.yaml, and with outputs of an earlier run that must not be lost."""
    shutil.copy(toy.ROOT / "params.yaml", tmp_path)
    toy.edit(tmp_path, toy.SMALL)
    for name in ("data/prepared/card.json", "artifacts/teacher/model.safetensors", "artifacts/deploy/student.onnx"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("of an earlier run")
    return tmp_path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest data set: one image of each class and split."""
    data = Data(image_px=16, sources={"digit_pairs": {"train": 100, "val": 100, "test": 100, "max_shift_px": 1}})
    folder = tmp_path_factory.mktemp("data") / "prepared"
    prepare.prepare(data, folder, progress=False)
    return folder


def network(path: Path, arch: str, num_classes: int = NUM_CLASSES) -> Path:
    """A fresh network in a file with Pupil's header."""
    labels = tuple(f"{k:02d}" for k in range(num_classes))
    header = checkpoint.Header(
        model={"arch": arch, "num_classes": num_classes},
        labels=labels,
        image_px=16,
        normalization=Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        method=None,
        seed=0,
        params_sha256="0" * 64,
        data_sha256="0" * 64,
        licence=None,
    )
    checkpoint.save(build(header.model), header, path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def options(stage: str, *arguments: str | Path) -> list[str]:
    """The arguments of a stage: some share them; those that do not matter to a case are filled in."""
    known = {
        "prepare": ["--source", "params.yaml", "--out", "data/prepared", "--resume", ".resume/prepare"],
        "preflight": ["--out", "artifacts/preflight"],
        "train_teacher": ["--out", "artifacts/teacher", "--resume", ".resume/teacher.safetensors"],
        "distill": ["--out", "artifacts/student", "--resume", ".resume/student.safetensors", "--seed", "0"],
        "export": ["--out", "artifacts/deploy"],
    }
    return ["--params", "params.yaml", *known[stage], *map(str, arguments)]


def by_process(project: Path, stage: str, *arguments: str | Path) -> tuple[int, str]:
    """Exit status of a process of its own, and what it said to stderr."""
    run = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", *options(stage, *arguments)],
        cwd=project,
        env=toy.environment() | {"PYTHONPATH": str(toy.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stderr


def in_process(project: Path, stage: str, *arguments: str | Path) -> tuple[int, str]:
    """The same without a new interpreter, which would spend seconds on importing torch: an error would come through."""
    file, said = toy.ROOT / f"stages/{stage}.py", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.chdir(project)
        patch.setattr("sys.argv", [str(file), *options(stage, *arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(file), run_name="__main__")
    return int(ended.value.code or 0), said.getvalue()


def refused(
    project: Path,
    stage: str,
    *arguments: str | Path,
    run: Callable[..., tuple[int, str]] = in_process,
    touched: str = "",
) -> str:
    """The paragraph with which a stage refuses; no file of the project changes but those below `touched`."""
    untouched = contents(project)
    status, said = run(project, stage, *arguments)
    assert status == 1, said
    assert said.startswith("error: "), said
    assert "Traceback" not in said
    assert len(re.findall("^error: ", said, re.MULTILINE)) == 1, said
    assert "\n\n" not in said.strip(), said
    after = contents(project)
    assert {k: v for k, v in after.items() if k in untouched or not (touched and k.startswith(touched))} == untouched
    return said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {val_fractoin: 0.2}", "data.val_fractoin is not a key (did you mean 'val_fraction'?)"),
        ("techer: {arch: resnet20}", "techer is not a key (did you mean 'teacher'?)"),
        ("data: {sources: {digit_pairs: {trian: 100}}}", "digit_pairs.trian is not a key (did you mean 'train'?)"),
        ("data: {image_px: '32'}", "data.image_px is '32': input should be a valid integer"),
        ("data: {val_fraction: 2}", "data.val_fraction is 2: input should be less than 1"),
        ("data: {sources: {digit_pairs: {train: 99}}}", "data.sources.digit_pairs.train is 99"),
        ("teacher: {train: {lr: .inf}}", "teacher.train.lr is inf"),
        ("data: {source: digit_pair}", "data.source: there is no 'digit_pair' (did you mean 'digit_pairs'?)"),
        ("data: {seed: 1, seed: 2}", "params.yaml is not valid YAML: while constructing a mapping"),
        ("data: [", "params.yaml is not valid YAML"),
        ("- data", "the file is ['data']: input should be an object"),
        ("data: {source: digit_p\xe4rs}", "params.yaml is not valid YAML: 'utf-8' codec can't decode"),
    ],
)
def test_a_bad_value_in_params_yaml_is_named(text: str, said: str, project: Path) -> None:
    (project / "params.yaml").write_text(text, encoding="latin-1")
    assert said in refused(project, "prepare", run=by_process)


def test_a_missing_params_yaml_is_named(project: Path) -> None:
    (project / "params.yaml").unlink()
    assert "params.yaml: expected a readable YAML file (No such file" in refused(project, "prepare", run=by_process)


def test_an_unknown_method_is_named_before_anything_runs(project: Path) -> None:
    toy.edit(project, {"distill.methods.vanila": {}})
    assert "there is no 'vanila' (did you mean 'vanilla'?)" in refused(project, "preflight")


def test_a_teacher_that_no_cache_can_answer_for_is_named_before_anything_runs(project: Path) -> None:
    toy.edit(project, {"teach.views": 2, "teach.cache": True, "distill.methods.kd.teacher_bn": "batch"})
    assert "teach.cache is true, and distill.methods.kd.teacher_bn is batch" in refused(project, "preflight")


def test_missing_teacher_weights_are_named_before_anything_runs(project: Path) -> None:
    toy.edit(project, {"teacher.weights": "weights/none.safetensors"})
    said = refused(project, "preflight", touched="artifacts/preflight/")
    assert "there is no such file or folder as 'weights/none.safetensors'. Set teacher.weights to" in said


@pytest.mark.parametrize(
    ("arch", "seed", "said"),
    [
        ("resnet21", 0, "there is no 'resnet21' (did you mean 'resnet"),
        ("resnet8", 7, "deploy.seed is 7, which distill.seeds does not list (0)"),
    ],
)
def test_what_single_stages_would_meet_late_is_named_before_anything_runs(
    arch: str, seed: int, said: str, project: Path
) -> None:
    toy.edit(project, {"student.arch": arch, "deploy.seed": seed})
    assert said in refused(project, "preflight", touched="artifacts/preflight/")


def other_arch(path: Path) -> None:
    network(path, "resnet8")


def other_classes(path: Path) -> None:
    save_file(build({"arch": "resnet14", "num_classes": 7}).state_dict(), path)


def torn(path: Path) -> None:
    network(path, "resnet14")
    os.truncate(path, path.stat().st_size - 1)


class Trap:
    """Makes a folder where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("sprung",)


def pickled(path: Path) -> None:
    torch.save({"state_dict": Trap()}, path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (other_arch, "does not fit: teacher.arch is resnet14, but the file says resnet8"),
        (other_classes, "knows 7 classes, but the data set has 100. Set teacher.head to retrain"),
        (torn, "is not a complete safetensors file"),
        (pickled, "needs code to be read (posix.mkdir), which is not run"),
    ],
)
def test_unfit_teacher_weights_are_refused(
    make: Callable[[Path], None], said: str, project: Path, prepared: Path
) -> None:
    make(project / "weights")
    toy.edit(project, {"teacher.weights": "weights"})
    message = refused(project, "train_teacher", "--data", prepared)
    assert "error: weights" in message
    assert said in message
    assert not (project / "sprung").exists()


def test_a_prepared_folder_without_its_card_is_named(project: Path) -> None:
    (project / "data/prepared/card.json").unlink()
    said = refused(project, "train_teacher", "--data", "data/prepared", run=by_process)
    assert "data/prepared holds no prepared data: data/prepared/card.json is missing. Run `dvc repro prepare`." in said


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """No file may grow beyond 100 kB, which is enough for small files and not for weights."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        # Where room is short Python would leave torn files beside its own modules.
        patch.setattr("sys.dont_write_bytecode", True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_in_training_leaves_the_earlier_model(project: Path, prepared: Path) -> None:
    toy.edit(project, {"teacher.train.milestones": []})
    with no_room():
        said = refused(
            project, "train_teacher", "--data", prepared, touched="artifacts/teacher/"
        )  # DVCLive's own files
    assert ".resume/teacher.safetensors could not be written" in said
    assert "File too large" in said
    assert "MiB free" in said


def test_a_teacher_of_other_classes_is_refused_where_predictions_are_compared_and_serves_elsewhere(
    project: Path, prepared: Path
) -> None:
    methods: dict[str, dict[str, float]] = {"kd": {}, "at": {"kl_weight": 0.0}, "fitnet": {"kl_weight": 0.5}}
    toy.edit(project, {"distill.train.milestones": [], "distill.methods": methods})
    teacher = network(project / "other.safetensors", "resnet14", 7)
    for method in ("kd", "fitnet"):
        said = refused(project, "distill", "--method", method, "--teacher", teacher, "--data", prepared)
        assert "the teacher knows 7 classes and the data set has 100" in said
        assert "Set kl_weight to 0 or choose another teacher." in said
    distill(project / "params.yaml", "at", 0, teacher, prepared, project / "out", project / "resume.safetensors")
    student, header = checkpoint.load(project / "out/model.safetensors")
    assert student.fc.out_features == len(header.labels) == NUM_CLASSES


@pytest.fixture
def trained(project: Path, prepared: Path) -> list[str | Path]:
    """Weights and scores in the project; the arguments that hand them to export."""
    scores = project / "scores.json"
    scores.write_text('{"test": {"top1": 1.0}}')
    files = [network(project / f"{arch}.safetensors", arch) for arch in ("resnet8", "resnet14")]
    student, teacher = ["--student", files[0], "--student-scores", scores], ["--teacher", files[1]]
    return [*student, *teacher, "--teacher-scores", scores, "--data", prepared]


def test_a_full_disk_in_export_leaves_the_earlier_file(project: Path, trained: list[str | Path]) -> None:
    with no_room():
        said = refused(project, "export", *trained)
    assert ".onnx could not be written" in said
    assert "File too large" in said


def test_an_export_that_computes_something_else_leaves_the_earlier_file(
    project: Path, trained: list[str | Path]
) -> None:
    toy.edit(project, {"deploy.max_probability_error": 1e-12})
    said = refused(project, "export", *trained)
    assert re.search(
        r"probabilities differ from torch's by up to \S+, more than deploy.max_probability_error 1.00e-12", said
    )
    assert "No file was written" in said
