"""Laying a preset over params.yaml: values change, comments stay, and a bad result is never written."""

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.settings import params, presets
from pipeline.settings.data import Augment, Data
from pipeline.settings.networks import Teach
from pipeline.settings.reading import read_yaml
from pipeline.settings.training import Train
from pipeline.system.errors import ParamsError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def write(text: str, tmp_path: Path) -> Path:
    (tmp_path / "preset.yaml").write_text(text)
    return tmp_path / "preset.yaml"


def comments(path: Path) -> list[str]:
    return [line.split("#", 1)[1].strip() for line in path.read_text().splitlines() if "#" in line]


def test_what_the_preset_sets_changes_and_the_rest_stays(target: Path, tmp_path: Path) -> None:
    before = params.load(target)
    changes = presets.apply(write("teacher: {train: {epochs: 77}, weights: w.safetensors}\n", tmp_path), target)
    after = params.load(target)
    assert changes == [
        f"teacher.train.epochs: {before.teacher.train.epochs} -> 77",
        "teacher.weights: None -> w.safetensors",
    ]
    assert (after.teacher.train.epochs, after.teacher.weights) == (77, "w.safetensors")
    assert after.model_copy(update={"teacher": before.teacher}) == before


def test_comments_survive(target: Path, tmp_path: Path) -> None:
    before = comments(target)
    presets.apply(write("data: {image_px: 64}\ndistill: {train: {milestones: [0.5]}}\n", tmp_path), target)
    assert comments(target) == before


def test_a_key_that_is_new_stands_within_its_section(target: Path, tmp_path: Path) -> None:
    presets.apply(write("student: {image_px: null}\ndistill: {train: {schedule: cosine}}\n", tmp_path), target)
    text = target.read_text()
    assert "docs/large-images.md\n  image_px: null\n  arch: resnet8\n" in text
    assert "  train:\n    schedule: cosine\n    epochs: 8\n" in text


def test_applying_twice_changes_nothing_more(target: Path, tmp_path: Path) -> None:
    preset = write("student: {arch: wrn_16_1}\n", tmp_path)
    presets.apply(preset, target)
    once = target.read_bytes()
    assert presets.apply(preset, target) == []
    assert target.read_bytes() == once


def test_the_methods_that_a_preset_lists_are_those_that_are_trained(target: Path, tmp_path: Path) -> None:
    before = params.load(target).distill.methods
    preset = write("distill: {methods: {kd: {temperature: 2.0}, dkd: {}}}\ndeploy: {method: kd}\n", tmp_path)
    changes = presets.apply(preset, target)
    assert params.load(target).distill.methods == {"kd": before["kd"] | {"temperature": 2.0}, "dkd": {}}
    assert f"distill.methods.sakd: removed, because {preset} lists kd, dkd" in changes


def test_a_preset_that_takes_the_deployed_method_away_says_so(target: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"deploy\.method is 'afd', which .* does not list \(kd\)\. Set it to one"):
        presets.apply(write("distill: {methods: {kd: {}}}\n", tmp_path), target)


def test_a_preset_may_know_methods_without_asking_for_them(target: Path, tmp_path: Path) -> None:
    before = params.load(target).distill.methods
    preset = write("method_settings: {kd: {temperature: 2.0}, dkd: {warmup_epochs: 1}}\n", tmp_path)
    assert presets.apply(preset, target) == ["distill.methods.kd.temperature: 4.0 -> 2.0"]
    assert params.load(target).distill.methods == before | {"kd": before["kd"] | {"temperature": 2.0}}
    known = presets.overlaid(target, [preset])["distill"]["methods"]
    assert known["dkd"] == {"warmup_epochs": 1}
    with pytest.raises(ParamsError, match="method_settings must be a map"):
        presets.apply(write("method_settings: [kd]\n", tmp_path), target)


@pytest.mark.parametrize("name", ["stanford40", "published/ofd"])
def test_a_shipped_recipe_of_one_method_trains_that_one(name: str, target: Path) -> None:
    presets.apply(ROOT / f"presets/{name}.yaml", target)
    after = params.load(target)
    assert list(after.distill.methods) == [after.deploy.method] == [{"stanford40": "afd"}.get(name, "ofd")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("teacher: {train: {epoch: 3}}", r"teacher\.train\.epoch is not a key"),
        ("distill: {train: {lr: -1}}", r"distill\.train\.lr is -1"),
        ("distill: {methods: {nope: {}}}", "there is no 'nope'"),
        ("[1, 2]", "expected a map"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_preset_that_would_break_params_is_refused_and_nothing_written(
    text: str, said: str, target: Path, tmp_path: Path
) -> None:
    before = target.read_bytes()
    with pytest.raises(ParamsError, match=said):
        presets.apply(write(text, tmp_path), target)
    assert target.read_bytes() == before


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_fits_params_yaml(preset: Path, target: Path) -> None:
    presets.apply(preset, target)
    params.check_all(params.load(target))


@pytest.mark.parametrize("path", sorted((ROOT / "presets/protocols").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_protocol_leaves_nothing_that_decides_a_result_to_params_yaml(path: Path) -> None:
    protocol = read_yaml(path, YAML(typ="safe", pure=True))
    free = {"compile", "precision", "processes"}  # of the machine; results are the same but for rounding
    for section in ("teacher", "distill"):
        assert set(protocol[section]["train"]) == set(Train.model_fields) - free
    # Which images there are, a table takes from params.yaml; how they are stored, seen and normalised, from here.
    of_the_images = {"source", "path", "image_px", "val_fraction", "on_bad", "leaks", "unlabelled", "seed", "sources"}
    assert set(protocol["data"]) == set(Data.model_fields) - of_the_images
    assert set(protocol["augment"]) == set(Augment.model_fields) - {"crop_scale", "crop_ratio"}
    assert (protocol["augment"]["crop"], protocol["augment"]["strong"]) == ("padded", False)
    assert set(protocol["teach"]) == set(Teach.model_fields)
    assert protocol["student"] == {"image_px": None}


@pytest.mark.parametrize("names", [("cifar100", "protocols/unified", "pairs/a"), ("cifar100_quick",)], ids=str)
def test_what_params_yaml_said_of_other_images_is_no_more(names: tuple[str, ...], target: Path, tmp_path: Path) -> None:
    fresh = Path(shutil.copy(target, tmp_path / "fresh.yaml"))
    crops = "crop: resized, crop_scale: [0.08, 1], crop_ratio: [0.75, 1.3333]"
    scaled = "normalization: {mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}"
    photos = f"data: {{image_px: 224, storage_px: 256, {scaled}}}\naugment: {{{crops}}}\nstudent: {{image_px: 160}}\n"
    presets.apply(write(photos, tmp_path), target)
    for name in names:
        presets.apply(ROOT / f"presets/{name}.yaml", target)
        presets.apply(ROOT / f"presets/{name}.yaml", fresh)
    assert params.load(target) == params.load(fresh)
    assert params.load(target).data.stored_px == 32


def test_a_protocol_trains_on_new_views_and_needs_no_cache(target: Path, tmp_path: Path) -> None:
    presets.apply(write("teach: {views: 2, cache: true}\n", tmp_path), target)
    presets.apply(ROOT / "presets/protocols/unified.yaml", target)
    assert params.load(target).teach == Teach()


def test_a_preset_that_is_no_text_is_refused(target: Path, tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_bytes(b"teacher: {arch: \xff}")
    with pytest.raises(ParamsError, match="not valid YAML"):
        presets.apply(tmp_path / "preset.yaml", target)
