"""A teacher cache: the same numbers as a teacher that runs, whatever interrupts its making, and of nothing else."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.data.feed import Feed
from pipeline.devices.precision import autocast, computes_in
from pipeline.distillation.base import Method, Teacher, find
from pipeline.distillation.blocks import energy, energy_and_average, thin
from pipeline.models.base import Features, Tap
from pipeline.settings.data import Augment, Normalization
from pipeline.settings.params import Params
from pipeline.settings.reading import parse
from pipeline.settings.training import Train
from pipeline.system import registry
from pipeline.system.errors import DataError, ParamsError, PupilError, StoppedError
from pipeline.teaching import build as building
from pipeline.teaching import kept, recall, rows
from pipeline.teaching.card import Facts
from pipeline.training import engine
from pipeline.training.resume import Resume
from tests import tiny

AUGMENT = Augment(crop_padding_px=4, flip=True)
VIEWS = 2
READS = {name: find(name).Method.reads for name in registry.names("pipeline.distillation")}
CACHABLE = sorted(name for name, reads in READS.items() if reads is not None)
RESNETS = ("resnet8", "resnet14")


def feed() -> Feed:
    return Feed(tiny.split(), tiny.NORMALIZATION, tiny.CPU, VIEWS)


def facts(precision: str = "fp32", **changes: object) -> Facts:
    known = {
        "teacher_sha256": "t",
        "data_sha256": "d",
        "num_images": 64,
        "image_px": tiny.IMAGE_PX,
        "num_views": VIEWS,
        "augment": AUGMENT,
        "normalization": tiny.NORMALIZATION,
        "precision": precision if precision != "auto" else computes_in(tiny.CPU, "auto"),
    }
    return Facts.model_validate(known | changes)


def build(folder: Path, method: Method, precision: str = "fp32", normalization: Normalization | None = None) -> Path:
    """A cache of what the method reads of its teacher."""
    assert method.reads is not None
    teacher = Teacher(method.teacher, normalization or tiny.NORMALIZATION)
    out = folder / "teaching"
    building.build(teacher, tiny.card(), feed(), facts(precision), method.reads, folder / "partial", out)
    assert not (folder / "partial").exists()
    return out


def history(method: Method, state: Path, precision: str, batch_size: int = 24) -> list[dict[str, float]]:
    settings = Train(epochs=3, batch_size=batch_size, lr=0.02, milestones=(), precision=precision)  # type: ignore[arg-type]
    resume = Resume(state, "k")
    val = tiny.feed(32, seed=1)
    return [r["train"] for r in engine.fit(method, feed(), val, settings, AUGMENT, 5, resume, lambda r: None).history]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pair", "precision"),
    [(name, RESNETS, precision) for name in CACHABLE for precision in ("fp32", "auto")]
    # Where the forms of a tap are not the same.
    + [(name, ("wrn_16_1", "wrn_16_2"), "auto") for name in ("afd", "at", "sakd")],
)
def test_a_cached_run_has_the_losses_and_weights_of_one_whose_teacher_runs(
    name: str, pair: tuple[str, str], precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other weights than the published ones where these keep the teacher's logits out.
    config = {"kl_weight": 0.5, "ce_weight": 0.5, "teacher_bn": "eval"}
    running, cached = (tiny.method(name, *pair, **config) for _ in range(2))
    folder = build(tmp_path, cached, precision)
    torch.manual_seed(0)
    expected = history(running, tmp_path / "running", precision)

    recall.attach(cached, folder, facts(precision))
    asked = cached.teach

    def ask_after_epochs_alone(images: Tensor) -> Features:
        assert not cached.training, "the teacher ran in a step"
        return asked(images)

    monkeypatch.setattr(cached, "teach", ask_after_epochs_alone)
    torch.manual_seed(0)
    came = history(cached, tmp_path / "cached", precision)
    for a, b in zip(came, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-6)
    for key, tensor in running.state_dict().items():
        torch.testing.assert_close(cached.state_dict()[key], tensor, rtol=1e-5, atol=1e-6)


def test_the_methods_that_a_cache_can_serve() -> None:
    named = {"afd", "at", "cc", "crd", "dist", "dkd", "itrd", "kd", "lskd", "pkt", "rkd", "sakd", "sakd_sparse"}
    assert named | {"srrl", "wttm"} <= set(CACHABLE)


def test_a_method_that_needs_whole_maps_says_so_and_its_teacher_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in (tiny.method("fitnet"), tiny.method("at", "mobilenet_v2_half", "wrn_16_2")):
        recall.attach(method, tmp_path / "nowhere", facts())
        assert method.recall is None
        assert "reads whole maps of the teacher, which no cache keeps" in capsys.readouterr().err
    vanilla = tiny.method("vanilla")
    recall.attach(vanilla, tmp_path / "nowhere", facts())
    assert vanilla.recall is None


def test_a_teacher_of_another_normalisation_is_asked_as_it_was_trained(tmp_path: Path) -> None:
    other = Normalization(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    module, network = find("kd"), tiny.network("resnet14", seed=1).eval()
    running, cached = (
        module.Method(module.Config(), tiny.network(seed=2), Teacher(network, other), tiny.card()) for _ in range(2)
    )
    recall.attach(cached, build(tmp_path, cached, normalization=other), facts())
    came, expected = (history(m, tmp_path / n, "fp32") for m, n in ((cached, "cached"), (running, "running")))
    for a, b in zip(came, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-6)


@pytest.mark.parametrize("num_blocks", [3, 54, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_of_many_maps_comes_back_bit_for_bit_at_their_places(num_blocks: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(4, 8 + i % 3, 8, 8).to(dtype) for i in range(num_blocks)]
    taps = tuple(Tap(m, m, m.relu()) for m in maps)
    features = Features(taps[0], taps, taps[-1:], torch.randn(4, 9), torch.randn(4, 5))
    names = ("logits", "pooled", "blocks.act.norms", "blocks.act.tiled_average", "stages.raw.float_norms")
    again = kept.restore({name: kept.take(features, name) for name in names})
    assert torch.equal(again.logits, features.logits)
    assert torch.equal(again.pooled, features.pooled)
    for tap, original in zip(thin(again.blocks), thin(features.blocks), strict=True):
        assert tap.act.shape == original.act.shape
        for a, b in zip(energy_and_average(tap.act), energy_and_average(original.act), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(energy(again.stages[0].raw.float()), energy(maps[-1].float()))


def test_norms_of_bf16_maps_take_two_bytes() -> None:
    with torch.no_grad(), autocast(tiny.CPU, "auto"):
        features = tiny.network("resnet8").eval().features(tiny.batch().images)
    _, layout = kept.take(features, "blocks.act.norms")
    each = 2 if computes_in(tiny.CPU, "auto") == "bf16" else 4
    assert layout.row_bytes == each * (16 * 16 + 8 * 8 + 4 * 4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return build(tmp_path_factory.mktemp("cache"), tiny.method("kd"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher_sha256": "other"}, "teacher_sha256 is t there and other here"),
        ({"data_sha256": "other"}, "data_sha256 is d there and other here"),
        (
            {"augment": Augment(crop_padding_px=2)},
            "augment is .*'crop_padding_px': 4.* there and .*'crop_padding_px': 2",
        ),
        ({"num_views": 3}, "num_views is 2 there and 3 here"),
        ({"precision": "bf16"}, "precision is fp32 there and bf16 here"),
        ({"normalization": Normalization(mean=(0, 0, 0), std=(1, 1, 1))}, "normalization is"),
    ],
)
def test_a_cache_of_another_training_is_refused(change: dict[str, object], said: str, cache: Path) -> None:
    with pytest.raises(
        DataError, match=rf"belongs to another training: {said}.*Run `dvc repro --force --single-item teach`"
    ):
        recall.attach(tiny.method("kd"), cache, facts(**change))


def test_what_moved_to_the_device_is_what_the_files_hold(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for moves in (False, True):
        monkeypatch.setattr(recall, "stays_on", lambda device, num_bytes, moves=moves: moves)
        method = tiny.method("kd")
        recall.attach(method, cache, facts())
        assert method.recall is not None
        answers.append(method.recall(tiny.batch()).logits)
    assert torch.equal(*answers)


def test_a_torn_or_incomplete_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(cache, tmp_path / "copy")

    def said(name: str = "kd") -> str:
        with pytest.raises(DataError) as caught:
            recall.attach(tiny.method(name), copy, facts())
        assert str(caught.value).endswith("Run `dvc repro --force --single-item teach`.")
        return str(caught.value)

    assert "lacks pooled, which rkd reads" in said("rkd")
    os.truncate(copy / "logits.npy", (copy / "logits.npy").stat().st_size - 1)
    assert "logits.npy of the teacher cache is missing or incomplete" in said()
    (copy / "logits.npy").unlink()
    assert "logits.npy of the teacher cache is missing or incomplete" in said()
    (copy / "answers.json").write_text("{}")
    assert "is not the card of a teacher cache" in said()
    (copy / "answers.json").unlink()
    assert "holds no teacher cache" in said()


class Killed(Exception):
    """Stands for the end of the process."""


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int, act: object) -> None:
    """Do something to the build before its teacher's pass number `after`, counted from 0."""
    teach, passes = Method.teach, iter(range(1000))

    def interrupting(method: Method, images: torch.Tensor) -> Features:
        if next(passes) == after:
            act()  # type: ignore[operator]
        return teach(method, images)

    monkeypatch.setattr(Method, "teach", interrupting)


def kill() -> None:
    raise Killed


@pytest.fixture
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_BATCH", 24)  # 3 to a view


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("_small_batches")
@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_a_killed_build_goes_on_from_its_last_whole_view_to_the_same_bytes(
    after: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = build(tmp_path / "whole", tiny.method("sakd", teacher_bn="eval"))
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, after, kill)
        with pytest.raises(Killed):
            build(tmp_path, tiny.method("sakd", teacher_bn="eval"))
    assert not (tmp_path / "teaching").exists()
    with pytest.MonkeyPatch.context() as patch:
        # What comes after the whole views is asked again, and nothing before.
        passes = 6 - after // 3 * 3
        interrupted(patch, passes, kill)
        came = build(tmp_path, tiny.method("sakd", teacher_bn="eval"))
    assert ("resuming after" in capsys.readouterr().err) == (after > 0)
    assert contents(came) == contents(whole)


@pytest.mark.usefixtures("_small_batches")
def test_a_build_that_is_asked_to_stop_goes_on_from_its_last_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = build(tmp_path / "whole", tiny.method("afd"))
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(StoppedError, match="stopped by SIGTERM in view 2 of 2"):
            build(tmp_path, tiny.method("afd"))
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, 1, kill)  # one batch is left
        came = build(tmp_path, tiny.method("afd"))
    assert "resuming after 112 of 128 images" in capsys.readouterr().err
    assert contents(came) == contents(whole)


@pytest.mark.usefixtures("_small_batches")
def test_what_a_build_of_something_else_left_is_said_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, 4, kill)
        with pytest.raises(Killed):
            build(tmp_path, tiny.method("rkd"))
    (tmp_path / "partial/mine.txt").write_text("not the cache's")
    building.build(
        Teacher(tiny.method("kd").teacher, tiny.NORMALIZATION),
        tiny.card(),
        feed(),
        facts(),
        ["logits"],
        tmp_path / "partial",
        tmp_path / "out",
    )
    assert "starting anew: " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "partial").iterdir()] == ["mine.txt"]
    assert set(contents(tmp_path / "out")) == {"logits.npy", "answers.json", "views.json"}


@pytest.mark.usefixtures("_small_batches")
def test_a_torn_array_of_an_interrupted_build_is_said_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = build(tmp_path / "whole", tiny.method("kd"))
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, 4, kill)
        with pytest.raises(Killed):
            build(tmp_path, tiny.method("kd"))
    os.truncate(tmp_path / "partial/logits.npy", 200)
    came = build(tmp_path, tiny.method("kd"))
    assert "lacks logits" in capsys.readouterr().err
    assert contents(came) == contents(whole)


def test_no_room_is_said_before_the_teacher_is_asked_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1))  # type: ignore[attr-defined]
    with pytest.raises(PupilError, match=r"takes 0\.0 GB, but only 0\.0 GB are free .* logits 16"):
        build(tmp_path, tiny.method("kd"))


def test_a_teacher_that_normalises_by_the_batch_is_refused(cache: Path) -> None:
    said = r"distill\.methods\.{}\.teacher_bn is batch: what the teacher says of an image then depends on the others"
    with pytest.raises(ParamsError, match=said.format("kd")):
        recall.attach(tiny.method("kd", teacher_bn="batch"), cache, facts())
    with pytest.raises(ParamsError, match=said.format("sakd")):
        recall.needed(settings({"kd": {}, "sakd": {}}))


@pytest.mark.parametrize("name", ["mlkd", "crld"])
def test_a_method_of_two_views_is_refused(name: str, cache: Path) -> None:
    said = f"teach.cache is true, but {name} learns from two views .* Set teach.cache to false, or remove {name} from"
    with pytest.raises(ParamsError, match=said):
        recall.attach(tiny.method(name), cache, facts())
    with pytest.raises(ParamsError, match=said):
        recall.needed(settings({"kd": {}, name: {}}))
    assert recall.needed(settings({"kd": {}, name: {}}, cache=False)) == []


def settings(methods: dict[str, dict[str, object]], cache: bool = True) -> Params:
    raw = {"teach": {"views": 2, "cache": cache}, "distill": {"methods": methods}}
    return parse(Params, json.loads(json.dumps(raw)), "", "test")


def test_a_cache_has_to_keep_what_any_method_reads() -> None:
    methods: dict[str, dict[str, object]] = {"vanilla": {}, "kd": {}, "rkd": {}, "fitnet": {}}
    assert recall.needed(settings(methods)) == ["logits", "pooled"]
    assert recall.needed(settings({"vanilla": {}, "fitnet": {}})) == []
    assert recall.needed(settings(methods, cache=False)) == []
