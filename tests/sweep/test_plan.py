"""The table of pairs x methods x seeds: what each run is made of, and what the table says of the runs."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.evaluation.published import Published, Table, Variant
from pipeline.models.base import build, num_parameters
from pipeline.settings.params import Params
from pipeline.settings.reading import parse
from pipeline.sweep import plan as sweep
from pipeline.sweep import table
from pipeline.sweep.rehearsal import rehearse
from pipeline.system import registry
from pipeline.system.errors import CheckpointError, ParamsError
from pipeline.system.files import write_json
from tests import tiny, toy

ROOT = Path(__file__).parents[2]
CIFAR100 = ("apple", "aquarium_fish", "baby", *map(str, range(97)))
SETTINGS = {
    # setting: (teacher parameters, student parameters), as the table of the published project sizes them
    "a": (861_620, 278_324),
    "b": (861_620, 472_756),
    "c": (1_736_564, 278_324),
    "d": (1_736_564, 472_756),
    "e": (1_736_564, 861_620),
    "f": (2_255_156, 703_284),
    "g": (1_736_564, 180_916),
    "h": (1_736_564, 703_284),
    "i": (2_255_156, 472_756),
    "j": (2_255_156, 861_620),
    "resnet50-mobilenet_v2_half": (23_705_252, 812_836),
    "wrn_40_2-mobilenet_v2_half": (2_255_156, 812_836),
    "resnet32x4-resnet8x4": (7_433_860, 1_233_540),
    "vgg13-vgg8": (9_462_180, 3_965_028),
    "resnet50-vgg8": (23_705_252, 3_965_028),
    "resnet32x4-shufflenet_v1": (7_433_860, 949_258),
    "resnet32x4-shufflenet_v2": (7_433_860, 1_355_528),
    "wrn_40_2-shufflenet_v1": (2_255_156, 949_258),
    "vgg13-mobilenet_v2_half": (9_462_180, 812_836),
}
MAPS = "sakd compares square stage maps of equal size"
STAGES = "compares the networks stage by stage, but the student has 4 stages and the teacher 3"
CLASS_MAPS = "catkd weighs the channels of the student's last map"
CHANNELS = "kdsvd compares the channels of the networks' stages one by one"
REGIONS = "sdd lets the student's classifier read the averages of regions"
# Of pairs with a student that divides its maps otherwise: which methods refuse them, by what they say.
REFUSED = {
    "resnet50-mobilenet_v2_half": {"sakd": MAPS, "catkd": CLASS_MAPS, "kdsvd": CHANNELS, "sdd": REGIONS},
    "wrn_40_2-mobilenet_v2_half": {
        "sakd": MAPS,
        "catkd": CLASS_MAPS,
        "kdsvd": CHANNELS,
        "sdd": REGIONS,
        "ofd": f"ofd {STAGES}",
        "reviewkd": f"reviewkd {STAGES}",
    },
}


def plan(
    pairs: str = "a", methods: str = "kd", seeds: tuple[int, ...] = (0,), protocol: str = "unified"
) -> list[sweep.Run]:
    presets = ROOT / "presets"
    return sweep.plan(ROOT / "params.yaml", presets, pairs.split(","), methods.split(","), seeds, protocol, Path("out"))


def settings(run: sweep.Run) -> Params:
    return parse(Params, run.params, "", "run")


@pytest.mark.parametrize("letter", SETTINGS)
def test_a_setting_builds_networks_of_the_published_sizes(letter: str) -> None:
    (run,) = plan(letter)
    params = settings(run)
    sizes = [num_parameters(build({"arch": a, "num_classes": 100})) for a in (params.teacher.arch, params.student.arch)]
    assert tuple(sizes) == SETTINGS[letter]
    assert params.distill.train.epochs == 240
    assert params.distill.train.lr == (0.01 if letter.endswith(("mobilenet_v2_half", "_v1", "_v2")) else 0.05)
    assert params.teacher.train.lr == 0.05


@pytest.mark.parametrize("protocol", ["unified", "short", "published"])
def test_what_a_pair_says_of_its_student_holds_in_every_protocol(protocol: str) -> None:
    for run in plan("wrn_40_2-mobilenet_v2_half", "kd,afd,norm,simkd,vid", protocol=protocol):
        assert settings(run).distill.train.lr == 0.01
    # A recipe of a method's own, which names another rate.
    ((of_pair,), (of_recipe,)) = (
        plan(pair, "reviewkd", protocol="published") for pair in ("resnet50-mobilenet_v2_half", "f")
    )
    assert (settings(of_pair).distill.train.lr, settings(of_recipe).distill.train.lr) == (0.01, 0.1)
    assert settings(of_pair).distill.train.batch_size == settings(of_recipe).distill.train.batch_size == 128


def test_students_of_one_teacher_share_it_whatever_they_learn_at() -> None:
    f, mobile = plan("f,wrn_40_2-mobilenet_v2_half")
    assert f.teacher == mobile.teacher


@pytest.mark.slow
@pytest.mark.parametrize("pair", REFUSED)
def test_what_a_method_refuses_of_a_pair_is_known_before_training_starts(pair: str) -> None:
    for method, said in REFUSED[pair].items():
        (run,) = plan(pair, method)
        with pytest.raises(ParamsError, match=said):
            rehearse(settings(run))
    # SemCKD projects to all stages of a ResNet-50 by 850 million weights, which take 10 seconds to make.
    left_out = {"semckd"} if pair.startswith("resnet50") else set()
    serving = set(registry.names("pipeline.distillation")) - set(REFUSED[pair]) - left_out
    (run,) = plan(pair, "vanilla")
    values = {**run.params, "distill": {**run.params["distill"], "methods": {name: {} for name in serving}}}
    rehearse(parse(Params, values, "", "run"))


@pytest.mark.slow
def test_every_method_fits_every_protocol() -> None:
    methods = ",".join(registry.names("pipeline.distillation"))
    for protocol in (*(path.stem for path in (ROOT / "presets/protocols").glob("*.yaml")), "published"):
        assert len(plan("f", methods, protocol=protocol)) == len(methods.split(","))


def test_one_protocol_is_one_for_all_and_the_published_one_is_the_methods_own() -> None:
    unified = {run.method: settings(run) for run in plan("a", "kd,ofd,sakd")}
    assert len({params.distill.train for params in unified.values()}) == 1
    assert {params.distill.methods[m].get("teacher_bn") for m, params in unified.items()} == {"eval"}
    published = {run.method: settings(run) for run in plan("a", "kd,ofd,sakd", protocol="published")}
    assert published["kd"].distill.train == unified["kd"].distill.train
    assert (published["sakd"].distill.train.momentum, published["sakd"].distill.train.nesterov) == (0.8, True)
    assert published["ofd"].distill.train.batch_size == 128
    assert published["ofd"].distill.methods["ofd"]["teacher_bn"] == "batch"


def test_runs_share_a_teacher_exactly_where_it_is_the_same() -> None:
    runs = plan("a,b,c", "vanilla,kd", (0, 1))
    assert len({run.out for run in runs}) == 12
    by_pair = {pair: {run.teacher for run in runs if run.pair == pair} for pair in "abc"}
    assert by_pair["a"] == by_pair["b"]
    assert not by_pair["a"] & by_pair["c"]
    assert len({run.key for run in runs}) == 12


def test_a_recipe_of_a_methods_own_does_not_ask_for_a_teacher_of_its_own() -> None:
    kd, sakd = plan("a", "kd,sakd", protocol="published")
    assert settings(sakd).augment != settings(kd).augment
    assert sakd.data != kd.data
    assert (sakd.teacher, sakd.teacher_data, sakd.teacher_params) == (kd.teacher, kd.teacher_data, kd.teacher_params)
    assert parse(Params, sakd.teacher_params, "", "run").augment == settings(kd).augment


def test_which_student_params_yaml_would_deploy_is_nothing_to_a_table(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    toy.edit(tmp_path, {"deploy.method": "best"})
    (run,) = sweep.plan(tmp_path / "params.yaml", ROOT / "presets", ["a"], ["kd"], [0], "unified", Path("out"))
    assert parse(Params, run.teacher_params, "", "teacher").data.train_includes_val
    assert [run] == plan("a", "kd")


def test_a_student_that_is_cut_by_its_speed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    shutil.copytree(ROOT / "presets/protocols", tmp_path / "protocols")
    (tmp_path / "pairs/cut.yaml").write_text("student: {arch: pruned, pruned: {speedup: 2.0}}\n")
    with pytest.raises(ParamsError, match=r"they would train different students\. Set student\.pruned\.share_of_macs"):
        sweep.plan(ROOT / "params.yaml", tmp_path, ["cut"], ["kd"], [0], "unified", Path("out"))


def test_weights_from_outside_make_a_run_by_their_bytes(tmp_path: Path) -> None:
    weights, params = tmp_path / "weights.safetensors", tmp_path / "params.yaml"
    params.write_text(f"teacher: {{weights: {weights}}}\nstudent: {{}}\ndistill: {{methods: {{kd: {{}}}}}}\n")

    def planned() -> sweep.Run:
        (run,) = sweep.plan(params, ROOT / "presets", ["a"], ["kd"], [0], "unified", Path("out"))
        return run

    with pytest.raises(CheckpointError, match="there is no such file"):
        planned()
    weights.write_bytes(b"one")
    one = planned()
    weights.write_bytes(b"another")
    assert planned().key != one.key
    assert planned().teacher != one.teacher
    weights.rename(tmp_path / "moved")
    params.write_text(params.read_text().replace("weights.safetensors", "moved"))
    weights.with_name("moved").write_bytes(b"one")
    assert planned().key == one.key


@pytest.mark.parametrize(
    ("pairs", "methods", "protocol", "said"),
    [
        ("z", "kd", "unified", "no preset .*z.yaml. The known ones are a, b"),
        ("a", "kdd", "unified", "did you mean 'kd'"),
        ("a", "kd", "unifed", "no preset"),
    ],
)
def test_what_does_not_exist_is_named_before_anything_runs(pairs: str, methods: str, protocol: str, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        plan(pairs, methods, protocol=protocol)


def test_a_method_that_cannot_serve_a_pair_is_known_before_anything_trains() -> None:
    said = sweep.refusals(plan("wrn_40_2-mobilenet_v2_half", "kd,ofd", (0, 1)))
    assert said.keys() == {("wrn_40_2-mobilenet_v2_half", "ofd")}
    assert "the student has 4 stages and the teacher 3" in said["wrn_40_2-mobilenet_v2_half", "ofd"]


def finished(out: Path, method: str, seed: int, top1: float, seen: bool = False) -> sweep.Run:
    """A run with the files that training and evaluation would have left."""
    folder = out / method / str(seed)
    write_json(out / "data/card.json", tiny.card(classes=100, image_px=32).model_dump() | {"labels": CIFAR100})
    params = {"student": {"arch": "resnet20"}, "distill": {"methods": {method: {}}}}
    run = sweep.Run("a", method, seed, params, {}, out / "data", out / "data", out / "teacher", folder, key="")
    curve = [{"val": {"top1": 1.0}}, {"val": {"top1": top1 - 1}}]
    last, best = {"val_top1": top1 - 1}, {"val_top1": top1 + 1}
    evaluation = {"arch": "resnet20", "num_parameters": 7, "test": {"top1": top1}}
    write_json(run.out / "evaluation.json", evaluation)
    history = {"last": last, "best": best, "shipped_epoch": 2, "val_seen_in_training": seen, "epochs": curve}
    write_json(run.out / "history.json", history)
    return run


PUBLISHED = Published(
    networks={"a": ("resnet56", "resnet20")},
    variants={"mlkd+ls": Variant(method="mlkd", settings={"standardize": True})},
    plain=(
        Table(source="S", teachers="theirs", epochs=240, chosen="last", pairs={"a": {"teacher": 73.03, "kd": 70.57}}),
    ),
    augmented=(
        Table(source="M", teachers="theirs", epochs=480, chosen="best", pairs={"a": {"mlkd": 72.19, "mlkd+ls": 72.33}}),
    ),
)


def aggregated(runs: list[sweep.Run]) -> table.Results:
    write_json(runs[0].teacher / "evaluation.json", {"arch": "resnet56", "test": {"top1": 73.0}})
    return table.aggregate(runs, PUBLISHED, {"title": "T", "remarks": []})


def test_the_table_says_mean_spread_gain_and_published(tmp_path: Path) -> None:
    tops = (("vanilla", 0, 69.0), ("kd", 0, 70.0), ("kd", 1, 72.0), ("afd", 0, 69.3))
    results = aggregated([finished(tmp_path, *top) for top in tops])
    kd = results["pairs"]["a"]["kd"]
    assert kd["test_top1"] == {"mean": 71.0, "std": pytest.approx(2**0.5), "n": 2}
    assert kd["over_vanilla"] == pytest.approx(2.0)
    assert kd["over_published"] == pytest.approx(0.43)
    text = table.markdown(results)
    assert "| teacher | 73.00; published 73.03 (-0.03 =) |" in text
    assert (
        "| kd | **71.00** +- 1.41 (n=2), +2.00 over vanilla; val last 70.00, best 72.00; published 70.57 (+0.43 =) |"
    ) in text
    assert "| afd | **69.30** +- ? (n=1), +0.30 = over vanilla;" in text
    assert "| vanilla | **69.00** +- ? (n=1); val" in text
    assert "Published: teacher, kd by S: 240 epochs; epoch: last; teachers: theirs." in text


def test_figures_stand_beside_the_same_data_and_form_alone_with_a_star_where_views_differ(tmp_path: Path) -> None:
    run = finished(tmp_path, "mlkd", 0, 72.0)
    text = table.markdown(aggregated([run]))
    assert "published 72.19* (-0.19 =)" in text
    assert "mlkd by M: 480 epochs, with other views of the images than crops and flips (*)" in text
    run.params["distill"]["methods"]["mlkd"]["standardize"] = True
    assert "published 72.33* (-0.33 =)" in table.markdown(aggregated([run]))
    run.params["student"]["image_px"] = 24
    assert "; published" not in table.markdown(aggregated([run]))
    del run.params["student"]["image_px"]
    write_json(run.data / "card.json", tiny.card(classes=100, image_px=32).model_dump())
    assert "; published" not in table.markdown(aggregated([run]))


def test_what_a_method_adds_to_its_student_is_no_other_pair(tmp_path: Path) -> None:
    runs = [finished(tmp_path, method, 0, 70.0) for method in ("kd", "vanilla")]
    evaluation = json.loads((runs[0].out / "evaluation.json").read_text())
    write_json(runs[0].out / "evaluation.json", evaluation | {"arch": "resnet20 + reused head"})
    text = table.markdown(aggregated(runs))
    assert "a: resnet56 to resnet20 |" in text
    assert "published 70.57 (-0.57)" in text


def test_the_table_says_where_validation_images_were_trained_on(tmp_path: Path) -> None:
    results = aggregated([finished(tmp_path, "kd", 0, 70.0, seen=True)])
    assert "; val (images seen in training) last 69.00, best 71.00; published" in table.markdown(results)


def test_repeated_views_are_another_run_and_a_teacher_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    shutil.copytree(ROOT / "presets/protocols", tmp_path / "protocols")

    def key(views: str, cache: str) -> str:
        # The protocols themselves have no views that repeat, whatever params.yaml says.
        (tmp_path / "pairs/a.yaml").write_text(f"teach: {{views: {views}, cache: {cache}}}\n")
        (run,) = sweep.plan(ROOT / "params.yaml", tmp_path, ["a"], ["kd"], [0], "unified", Path("out"))
        return run.key

    assert len({key("null", "false"), key("8", "false"), key("9", "false")}) == 3
    with pytest.raises(ParamsError, match="but the runs of a table share no folder"):
        key("8", "true")
