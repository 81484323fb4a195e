"""Finished runs of a sweep as one table: rows methods, columns pairs, published numbers beside."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data import card as cards
from pipeline.evaluation.comparison import BASELINE, TIE_POINTS
from pipeline.evaluation.metrics import mean_and_spread
from pipeline.evaluation.published import TEACHER, Figure, Published, shown, sources
from pipeline.settings.data import validation_label
from pipeline.sweep.plan import Run

Results = dict[str, Any]


def aggregate(runs: Sequence[Run], published: Published, facts: Mapping[str, Any]) -> Results:
    """Everything the table says of finished runs, as plain data, from the JSON files that they left.

    Args:
        runs: finished; each has evaluation.json and history.json in `out`, its teacher an evaluation.json, and its
            data a card.json.
        published: to stand beside, where data and networks are the same.
        facts: what to say of how it was made: title, remarks, command, machine.
    """
    cells: dict[str, dict[str, list[Results]]] = {}
    for run in runs:
        record = {"seed": run.seed} | {name: _read(run.out / f"{name}.json") for name in ("evaluation", "history")}
        cells.setdefault(run.pair, {}).setdefault(run.method, []).append(record)
    teachers = {run.pair: _read(run.teacher / "evaluation.json") for run in runs}
    data = {folder: cards.load(folder) for folder in {run.data for run in runs}}
    rows: dict[tuple[str, str], tuple[str, Figure]] = {}
    for run in {(run.pair, run.method): run for run in runs}.values():
        student, card = run.params["student"], data[run.data]
        seen_px = {card.image_px, student.get("image_px") or card.image_px}
        printed = published.beside(teachers[run.pair]["arch"], student["arch"], card.labels, seen_px)
        row = published.row_name(run.method, run.params["distill"]["methods"][run.method])
        for who, name in ((TEACHER, TEACHER), (run.method, row)):
            if name in printed:
                rows[run.pair, who] = name, printed[name]
    return {
        **facts,
        "published_by": sources(rows.values()),
        "teachers": {
            pair: {
                "arch": evaluation["arch"],
                "test_top1": evaluation["test"]["top1"],
                **_beside(evaluation["test"]["top1"], rows.get((pair, TEACHER))),
            }
            for pair, evaluation in teachers.items()
        },
        "pairs": {
            pair: {
                method: _cell(seeds, methods.get(BASELINE), rows.get((pair, method)))
                for method, seeds in methods.items()
            }
            for pair, methods in cells.items()
        },
    }


def _beside(top1: float, row: tuple[str, Figure] | None) -> Results:
    figure = None if row is None else row[1]
    return {
        "published": None if figure is None else figure.top1,
        "published_augmented": figure is not None and figure.augmented,
        "over_published": None if figure is None else top1 - figure.top1,
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _cell(
    seeds: Sequence[Mapping[str, Any]], vanilla: Sequence[Mapping[str, Any]] | None, row: tuple[str, Figure] | None
) -> Any:
    test = mean_and_spread([run["evaluation"]["test"]["top1"] for run in seeds])
    gain = None
    if vanilla and seeds is not vanilla:
        gain = test["mean"] - mean_and_spread([run["evaluation"]["test"]["top1"] for run in vanilla])["mean"]
    return {
        "test_top1": test,
        "val_top1_last": mean_and_spread([run["history"]["last"]["val_top1"] for run in seeds]),
        "val_top1_best": mean_and_spread([run["history"]["best"]["val_top1"] for run in seeds]),
        "val_seen_in_training": any(run["history"]["val_seen_in_training"] for run in seeds),
        "over_vanilla": gain,
        **_beside(test["mean"], row),
        "student": seeds[0]["evaluation"]["arch"],
        "num_parameters": seeds[0]["evaluation"]["num_parameters"],
        "epochs": len(seeds[0]["history"]["epochs"]),
        "shipped_epochs": [run["history"]["shipped_epoch"] for run in seeds],
        "seeds": [run["seed"] for run in seeds],
        "curves": {str(run["seed"]): [epoch["val"]["top1"] for epoch in run["history"]["epochs"]] for run in seeds},
    }


def markdown(results: Results) -> str:
    """The table for people. Test top-1 in percent, mean +- standard deviation over n seeds; "=" marks a tie."""
    pairs = list(results["pairs"])
    methods = list(dict.fromkeys(method for pair in pairs for method in results["pairs"][pair]))
    lines = [
        f"# {results['title']}",
        "",
        "\n\n".join(results["remarks"]),
        "",
        "| | " + " | ".join(f"{pair}: {_names(results, pair)}" for pair in pairs) + " |",
        "| :-- |" + " --: |" * len(pairs),
        "| teacher | " + " | ".join(_teacher(results["teachers"][pair]) for pair in pairs) + " |",
    ]
    lines += [
        f"| {method} | " + " | ".join(_text(results["pairs"][pair].get(method)) for pair in pairs) + " |"
        for method in methods
    ]
    lines += [
        "",
        "Each cell: test top-1 in percent of the epoch that ships, mean +- standard deviation over n seeds (unknown "
        f"for n = 1); then the difference to vanilla (= where it is below {TIE_POINTS} points, a tie); the validation "
        "top-1 of the last and of the best epoch; and the published figure, where there is one, with the difference "
        "to it. A star marks one made with other views of the images than crops and flips, which must not be ranked "
        "with the rest.",
        "",
        *(f"Published: {said}" for said in results["published_by"]),
    ]
    return "\n".join(lines)


def _names(results: Results, pair: str) -> str:
    # By its shortest name: a method may have added something.
    student = min((cell["student"] for cell in results["pairs"][pair].values()), key=len)
    return f"{results['teachers'][pair]['arch']} to {student}"


def _teacher(teacher: Mapping[str, Any]) -> str:
    return f"{teacher['test_top1']:.2f}" + _published(teacher)


def _text(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "-"
    test = cell["test_top1"]
    spread = "?" if test["std"] is None else f"{test['std']:.2f}"
    text = f"**{test['mean']:.2f}** +- {spread} (n={test['n']})"
    if cell["over_vanilla"] is not None:
        text += f", {_difference(cell['over_vanilla'])} over vanilla"
    val = validation_label("val", cell["val_seen_in_training"])
    text += f"; {val} last {cell['val_top1_last']['mean']:.2f}, best {cell['val_top1_best']['mean']:.2f}"
    return text + _published(cell)


def _published(cell: Mapping[str, Any]) -> str:
    if cell["published"] is None:
        return ""
    figure = shown(cell["published"], cell["published_augmented"])
    return f"; published {figure} ({_difference(cell['over_published'])})"


def _difference(points: float) -> str:
    return f"{points:+.2f}" + (" =" if abs(points) < TIE_POINTS else "")
