"""Published figures: which one stands beside ours, and where it comes from."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.evaluation import published
from pipeline.system import registry
from pipeline.system.errors import ParamsError
from tests import toy

CIFAR100 = ("apple", "aquarium_fish", "baby", *map(str, range(97)))


@pytest.fixture(scope="module")
def ours() -> published.Published:
    """The tables of this project."""
    return published.read(toy.ROOT / "results/published_top1.yaml")


def test_figures_stand_beside_the_same_pair_on_the_same_data(ours: published.Published) -> None:
    figures = ours.beside("resnet56", "resnet20", CIFAR100, {32})
    assert [figures[name].top1 for name in ("teacher", "vanilla", "sakd")] == [73.03, 69.40, 71.92]
    assert ours.beside("resnet56", "resnet8", CIFAR100, {32}) == {}
    assert ours.beside("resnet56", "resnet20", CIFAR100, {32, 24}) == {}
    assert ours.beside("resnet56", "resnet20", tuple(map(str, range(100))), {32}) == {}


def test_pairs_are_those_of_the_presets(ours: published.Published) -> None:
    yaml = YAML(typ="safe", pure=True)
    for path in (toy.ROOT / "presets/pairs").glob("*.yaml"):
        preset = yaml.load(path)
        if path.stem in ours.networks:
            assert ours.networks[path.stem] == (preset["teacher"]["arch"], preset["student"]["arch"]), path.stem
    pairs = {pair for table in (*ours.plain, *ours.augmented) for pair in table.pairs}
    assert pairs == set(ours.networks)


def test_no_method_has_figures_of_both_kinds(ours: published.Published) -> None:
    plain, augmented = (
        {name for table in tables for row in table.pairs.values() for name in row} - {"teacher", "vanilla"}
        for tables in (ours.plain, ours.augmented)
    )
    assert not plain & augmented
    known = set(registry.names("pipeline.distillation"))
    assert {"sakd", "afd", "dkd", "lskd", "pkt"} <= known & plain


# As the sources print them: the highest plain figures of three pairs, and others read off by hand.
@pytest.mark.parametrize(
    ("pair", "method", "top1", "augmented"),
    [
        ("a", "dkd+ls", 72.32, False),
        ("f", "wttm+itrd", 76.65, False),
        ("d", "wttm+crd", 74.52, False),
        ("f", "ickd", 75.64, False),
        ("vgg13-vgg8", "fsp", 70.23, False),
        ("resnet50-mobilenet_v2_half", "cc", 65.43, False),
        ("resnet32x4-wrn_40_2", "mlkd+ls", 79.66, True),
        ("resnet32x4-shufflenet_v2", "hsakd*", 80.86, True),
    ],
)
def test_a_figure_is_the_printed_one(
    ours: published.Published, pair: str, method: str, top1: float, augmented: bool
) -> None:
    figure = ours.row(pair)[method]
    assert (figure.top1, figure.augmented) == (top1, augmented)


def test_the_highest_plain_figures(ours: published.Published) -> None:
    highest = {
        pair: max(figure.top1 for name, figure in ours.row(pair).items() if name != "teacher" and not figure.augmented)
        for pair in ("a", "f", "d")
    }
    assert highest == {"a": 72.32, "f": 76.65, "d": 74.52}


def test_of_several_tables_the_first_one_counts_and_the_source_is_said(ours: published.Published) -> None:
    row = ours.row("a")
    assert row["kd"].top1 == 70.57  # 70.66 by the second table
    said = published.sources((name, row[name]) for name in ("kd", "mlkd", "sakd", "kd"))
    assert [line.split(" by ")[0] for line in said] == ["kd, sakd", "mlkd"]
    assert "480 epochs, with other views of the images than crops and flips (*); epoch: best" in said[1]
    assert [str(row[name]) for name in ("kd", "mlkd")] == ["70.57", "72.19*"]


@pytest.mark.parametrize(
    ("method", "settings", "pair", "top1"),
    [
        ("mlkd", {}, "a", 72.19),
        ("mlkd", {"standardize": False, "form": "executed"}, "a", 72.19),
        ("mlkd", {"standardize": True}, "a", 72.33),
        ("mlkd", {"standardize": True, "form": "repaired"}, "a", None),
        ("wttm", {"power": 0.3}, "a", 71.92),
        ("wttm", {"weighted": False}, "a", 71.83),
        ("ickd", {"kl_weight": 1.0}, "f", 75.57),
        ("norm", {}, "f", 75.65),
        ("norm", {"kl_weight": 0.9}, "f", 76.26),
        ("sdd", {"kind": "nkd"}, "vgg13-mobilenet_v2_half", 69.50),
    ],
)
def test_a_figure_is_that_of_the_same_form_of_a_method(
    ours: published.Published, method: str, settings: dict[str, Any], pair: str, top1: float | None
) -> None:
    figure = ours.row(pair).get(ours.row_name(method, settings))
    assert (figure and figure.top1) == top1


def test_variants_are_settings_of_methods(ours: published.Published) -> None:
    for name, variant in ours.variants.items():
        config = registry.find("pipeline.distillation", variant.method, name).Config
        assert variant.is_of(config(**variant.settings, **dict.fromkeys(variant.above_zero, 1)).model_dump()), name
        assert not variant.is_of(config().model_dump()), name
        assert name not in registry.names("pipeline.distillation")


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("networks: {}\nvariants: {}\nplain: []\n", encoding="utf-8")
    with pytest.raises(ParamsError, match=r"p\.yaml: augmented"):
        published.read(tmp_path / "p.yaml")
