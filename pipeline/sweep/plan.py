"""The table of pairs x methods x seeds as independent runs, each a pure function of parameters, data and teacher.

A run's parameters are params.yaml with three presets laid over it: the protocol, where that is "published" the method's
own recipe, and last the pair, because its student may need another learning rate than a recipe has. Runs that need the
same data or the same teacher name the same folder for it; a teacher never follows a method's recipe, as one teacher
stands behind each column of a published table.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.settings import presets
from pipeline.settings.params import Params, check_all
from pipeline.settings.reading import parse
from pipeline.sweep.rehearsal import rehearse
from pipeline.system.errors import ParamsError
from pipeline.system.files import write_json
from pipeline.weights import weight_files

PUBLISHED = "published"
_DECIDING = ("data", "augment", "teach", "student", "distill", "evaluate")


@dataclass(frozen=True)
class Run:
    """One student to train: what it is called in the table, with what, and where things lie."""

    pair: str
    method: str
    seed: int
    params: dict[str, Any]
    """A whole params.yaml as plain data, with this method alone."""
    teacher_params: dict[str, Any]
    """The same for the teacher and its data."""
    data: Path
    teacher_data: Path
    teacher: Path
    out: Path
    key: str
    """Digest of what decides the result; a finished run with the same key need not be trained again."""

    def is_done(self) -> bool:
        """Whether this very run has been trained and evaluated."""
        mark = self.out / "run.json"
        return mark.is_file() and json.loads(mark.read_text(encoding="utf-8")).get("key") == self.key

    def mark_done(self) -> None:
        """Say so, as the last thing of a run."""
        write_json(self.out / "run.json", {"key": self.key})


def plan(
    params: Path,
    folder: Path,
    pairs: Iterable[str],
    methods: Iterable[str],
    seeds: Iterable[int],
    protocol: str,
    out: Path,
) -> list[Run]:
    """Every run of a table, checked; `folder` holds the presets, `out` will hold the runs.

    Raises ParamsError for a pair, protocol, method or setting that does not exist, before anything runs.
    """
    runs = []
    for pair in pairs:
        recipe, networks = _preset(folder / "protocols", _base_protocol(protocol)), _preset(folder / "pairs", pair)
        common = presets.overlaid(params, [recipe, networks])
        common.pop("deploy", None)  # a table deploys nothing, so what chooses the student contradicts nothing here
        parse(Params, common, "", pair)
        weights = common["teacher"].get("weights")
        # By its bytes: another file at the same path is another teacher.
        known = {**common["teacher"], "weights": weights and weight_files.sha256(Path(weights).expanduser())}
        teacher = digest(known, common.get("augment"), common.get("data"))
        for method in methods:
            own = folder / "published" / f"{method}.yaml"
            layers = [recipe, own, networks] if protocol == PUBLISHED and own.exists() else [recipe, networks]
            values = _for_one_method(presets.overlaid(params, layers), method)
            for seed in seeds:
                values = {**values, "distill": {**values["distill"], "seeds": [seed]}}
                values["deploy"] = {"method": method, "seed": seed}
                checked = parse(Params, values, "", f"{pair}, {method}")
                check_all(checked)
                _check_for_a_table(checked)
                deciding = {name: values.get(name) for name in _DECIDING}
                runs.append(
                    Run(
                        pair,
                        method,
                        seed,
                        values,
                        common,
                        data=_data(out, values),
                        teacher_data=_data(out, common),
                        teacher=out / "teachers" / f"{common['teacher']['arch']}-{teacher}",
                        out=out / protocol / pair / method / str(seed),
                        key=digest(teacher, deciding),
                    )
                )
    return runs


def _check_for_a_table(settings: Params) -> None:
    if settings.teach.cache:
        raise ParamsError(
            "teach.cache is true, but the runs of a table share no folder in which a teacher cache could lie. Set it "
            "to false; teach.views may stay, and the numbers are the same."
        )
    if settings.student.pruned is not None and settings.student.pruned.speedup is not None:
        raise ParamsError(
            "student.pruned.speedup is measured where a student is cut, and the runs of a table cut theirs one by one, "
            "beside other work: they would train different students. Set student.pruned.share_of_macs instead."
        )


def refusals(runs: Iterable[Run]) -> dict[tuple[str, str], str]:
    """(pair, method) -> why the method cannot serve the pair; each is tried once, on blank networks."""
    reasons = {}
    for place, run in {(run.pair, run.method): run for run in runs}.items():
        try:
            rehearse(parse(Params, run.params, "", " ".join(place)))
        except ParamsError as error:
            reasons[place] = str(error)
    return reasons


def digest(*values: Any) -> str:
    """Twelve hex digits that name plain data."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _data(out: Path, values: dict[str, Any]) -> Path:
    return out / "data" / digest(values.get("data"))


def _for_one_method(values: dict[str, Any], method: str) -> dict[str, Any]:
    config = values["distill"]["methods"].get(method, {})
    return {**values, "distill": {**values["distill"], "methods": {method: config}}}


def _base_protocol(protocol: str) -> str:
    return "unified" if protocol == PUBLISHED else protocol


def _preset(folder: Path, name: str) -> Path:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ParamsError(f"there is no preset {path}. The known ones are {known}.")
    return path
