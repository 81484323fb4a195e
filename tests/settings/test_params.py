"""params.yaml at the door: each mistake is named with its dotted key, its value and what is allowed."""

from pathlib import Path

import pytest

from pipeline.settings import params
from pipeline.settings.data import Data
from pipeline.settings.networks import Teacher
from pipeline.system.errors import ParamsError


def load(text: str, tmp_path: Path) -> params.Params:
    (tmp_path / "params.yaml").write_text(text)
    return params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distill: {train: {epoch: 3}}", r"distill\.train\.epoch is not a key \(did you mean 'epochs'\?\)"),
        ("studnet: {arch: resnet8}", r"studnet is not a key \(did you mean 'student'\?\)"),
        ("teacher: {train: {lr: fast}}", r"teacher\.train\.lr is 'fast': .*number"),
        ("teacher: {train: {lr: '0.1'}}", r"teacher\.train\.lr is '0\.1': .*number"),
        ("teacher: {train: {epochs: 1.5}}", r"teacher\.train\.epochs is 1\.5"),
        ("distill: {train: {momentum: 2}}", r"distill\.train\.momentum is 2: .*less than 1"),
        ("augment: {flip: 1}", r"augment\.flip is 1: .*boolean"),
        ("augment: {pad_mode: wrap}", r"augment\.pad_mode is 'wrap': .*'zeros' or 'reflect'"),
        ("distill: {seeds: []}", r"distill\.seeds is \[\]"),
        ("distill: {seeds: [0, 1, 0]}", r"distill\.seeds is \[0, 1, 0\]: .*all values .* more than once: 0"),
        ("benchmark: {batch_sizes: [8, 8]}", r"benchmark\.batch_sizes is \[8, 8\]: .* more than once: 8"),
        ("benchmark: {thread_counts: [1, 1]}", r"benchmark\.thread_counts is \[1, 1\]"),
        ("benchmark: {thread_counts: [1, 2, 2, 1]}", r"benchmark\.thread_counts is .* more than once: 1, 2"),
        ("distill: {methods: {}}", r"distill\.methods is \{\}"),
        ("teacher: {normalization: {mean: [0, 0], std: [1, 1, 1]}}", r"teacher\.normalization\.mean"),
        ("teacher: {normalization: {mean: [0, 0, 0], std: [1, 0, 1]}}", "every std must be above 0"),
        (
            "teacher: {arch: timm/resnet18, pretrained: true, normalization: {mean: [0, 0, 0], std: [1, 1, 1]}}",
            "here all are trained; set data.normalization instead",
        ),
        ("distill: {train: {nesterov: true, momentum: 0}}", "nesterov: true needs a momentum"),
        ("teacher: {train: {label_smoothing: 1}}", r"teacher\.train\.label_smoothing is 1: .*less than 1"),
        ("teacher: {train: {mixup_alpha: -1}}", r"teacher\.train\.mixup_alpha is -1"),
        ("teacher: {train: {cutmix_alpha: .inf}}", r"teacher\.train\.cutmix_alpha is inf: .*finite"),
        ("teacher: {train: {ema_decay: 1.0}}", r"teacher\.train\.ema_decay is 1\.0: .*less than 1"),
        ("teacher: {train: {schedule: linear}}", r"teacher\.train\.schedule is 'linear': .*'one_cycle'"),
        ("distill: {train: {schedule: one_cycle, reset_momentum: true}}", "schedule: one_cycle has none"),
        ("distill: {train: {schedule: cosine, reset_momentum: true}}", "schedule: cosine has none"),
        ("distill: {train: {schedule: one_cycle, warmup_epochs: 5}}", "set warmup_epochs to 0"),
        ("distill: {train: {epochs: 5, warmup_epochs: 5}}", "leaves none of the 5 epochs"),
        ("distill: {train: {base_momentum: 0.85}}", "belongs to schedule: one_cycle, not milestones"),
        ("distill: {train: {schedule: one_cycle, base_momentum: 0.95}}", r"cannot be above momentum: 0\.9"),
        (
            "{data: {train_includes_val: true}, distill: {train: {select: best}}}",
            r"data\.train_includes_val is true and distill\.train\.select is best.*set select to last",
        ),
        (
            "{data: {train_includes_val: true}, teacher: {train: {select: best}}, distill: {train: {select: best}}}",
            r"teacher\.train\.select and distill\.train\.select are best",
        ),
        (
            "{data: {train_includes_val: true}, deploy: {method: best}}",
            r"data\.train_includes_val is true and deploy\.method is best.*cannot tell which student is best",
        ),
        (
            "{data: {train_includes_val: true}, deploy: {method: best, seed: best}}",
            r"deploy\.method and deploy\.seed are best",
        ),
        ("deploy: {seed: bets}", r"deploy\.seed is 'bets': expected a whole number from 0 to 2147483647, or best\.$"),
        ("deploy: {seed: -1}", r"deploy\.seed is -1: expected a whole number from 0"),
        ("deploy: {seed: true}", r"deploy\.seed is True: expected a whole number from 0"),
        (
            "{data: {image_px: 64, storage_px: 96}, student: {image_px: 96}}",
            r"student\.image_px is 96, but what is cut out of the stored images has data\.image_px 64, .*lower student",
        ),
        ("student: {image_px: 4}", r"student\.image_px is 4: .*greater than or equal to 8"),
        ("data: {image_px: 32, storage_px: 16}", r": data: storage_px 16 must not be less than image_px 32\.$"),
        ("data: [1]", "data is"),
        ("data: {", "not valid YAML"),
    ],
)
def test_a_mistake_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=said):
        load(text, tmp_path)


def test_the_epoch_of_a_teacher_that_is_taken_as_it_is_may_be_chosen_by_anything(tmp_path: Path) -> None:
    text = "{data: {train_includes_val: true}, teacher: {weights: w, train: {select: best}}}"
    assert load(text, tmp_path).teacher.weights is not None
    with pytest.raises(ParamsError, match=r"teacher\.train\.select is best"):
        load(text.replace("weights: w", "weights: w, head: retrain"), tmp_path)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"(?s)epochs.*momentum"):
        load("distill: {train: {epochs: 0, momentum: 2}}", tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="expected a readable YAML file"):
        params.load(tmp_path / "none.yaml")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load("", tmp_path) == params.Params()


def test_numbers_written_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    assert load("teacher: {train: {weight_decay: 5e-4}}", tmp_path).teacher.train.weight_decay == 5e-4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distill: {methods: {skad: {}}}", r"distill\.methods: there is no 'skad' \(did you mean 'sakd'\?\)"),
        ("distill: {methods: {kd: {temprature: 3}}}", r"distill\.methods\.kd\.temprature is not a key .*temperature"),
        ("distill: {methods: {kd: {temperature: 0}}}", r"distill\.methods\.kd\.temperature is 0"),
        ("data: {source: digits}", r"data\.source: there is no 'digits'"),
        ("data: {sources: {digit_pairs: {trian: 6000}}}", r"data\.sources\.digit_pairs\.trian is not a key"),
        ("deploy: {method: kd}", r"deploy\.method is 'kd', which distill\.methods does not list \(vanilla\)"),
        ("deploy: {seed: 3}", r"deploy\.seed is 3, which distill\.seeds does not list \(0\)"),
    ],
)
def test_what_the_sections_say_of_each_other_is_checked_before_anything_runs(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match=said):
        params.check_all(load(text, tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("augment: {}", "lacks data, teacher, teach, student, distill, evaluate, deploy, quantize, benchmark"),
        ("distill: {methods: {kd: {}}}", r"distill\.seeds, distill\.train"),
        ("data: {source: huggingface}", r"data\.sources\.huggingface"),
    ],
)
def test_what_a_stage_would_miss_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=said):
        params.check_complete(load(text, tmp_path))


def test_a_method_that_is_not_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"methods does not list dkd, only vanilla.* add the line `dkd: \{\}` there"):
        params.method_config(load("", tmp_path), "dkd")


def test_params_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load("", tmp_path).student.arch = "resnet8"  # type: ignore[misc]


def test_a_teacher_cache_needs_views_that_repeat(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("teach: {cache: true}")
    with pytest.raises(ParamsError, match="cache: true needs views that repeat; set views to their number"):
        params.load(tmp_path / "params.yaml")


def test_a_teacher_cache_is_of_single_images(tmp_path: Path) -> None:
    text = "teach: {views: 2, cache: true}\ndistill: {train: {mixup_alpha: 0.2}}"
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"single images, but distill\.train\.mixup_alpha or cutmix_alpha mixes them"):
        params.load(tmp_path / "params.yaml")


def test_paths_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert (Data(path="~/images").path, Data(path="a~b").path) == ("/home/me/images", "a~b")
    assert Teacher(weights="~/teacher.safetensors").weights == "/home/me/teacher.safetensors"
