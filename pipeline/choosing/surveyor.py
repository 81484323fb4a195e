"""One row of a survey: a student with random weights, exported and timed beside the teacher.

A row is plain JSON data:

    name, student          of the candidate; student is what params.yaml would say to have it
    num_parameters, macs   fused, as it ships; None where the network could not be built
    files                  float32 and int8, each {bytes, batches, peak_bytes}, or None where there is no such file
    int8_error, error      why there is no int8 file, or nothing at all; else None
    refused                method of params.yaml -> why it cannot serve the pair
    tried                  digest of the methods and the recipe that `refused` was found with

`batches` (of `versus.beside` in serve/timing) and `peak_bytes` are what `measure` says of a file.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.choosing.budget import Row, in_words
from pipeline.choosing.candidates import CUT, Candidate
from pipeline.choosing.survey_book import Book
from pipeline.deployment import trial
from pipeline.models import cutting
from pipeline.models.base import Classifier, count_macs, num_parameters
from pipeline.models.fold import folded
from pipeline.settings.networks import Pruned
from pipeline.settings.params import Params
from pipeline.sweep.rehearsal import refusals, stand_in
from pipeline.system.errors import ParamsError

Measure = Callable[[Mapping[str, Path]], dict[str, dict[str, Any]]]
"""Files by name, "teacher" first -> of each other one {"batches": [...], "peak_bytes": n}; the first batch is of 1."""


class Surveyor:
    """Measures one candidate after the other beside the same teacher."""

    def __init__(self, settings: Params, teacher: Classifier, measure: Measure, folder: Path) -> None:
        self._settings, self._teacher, self._measure, self._folder = settings, teacher, measure, folder
        self._image_px, self._teacher_px = settings.student_px, settings.data.image_px
        self._card = stand_in(self._image_px, teacher.spec["num_classes"])
        self._macs = count_macs(folded(teacher), self._teacher_px)
        self._teacher_file: Path | None = None
        self._smallest_cut: dict[str, float | str] = {}

    def left_out(self, candidates: Sequence[Candidate]) -> dict[str, str]:
        """Candidates that are not worth building -> why: no smaller than the teacher, or cuts that are impossible."""
        found = {}
        for candidate in candidates:
            cut = candidate.student.get(CUT)
            if cut is not None and (why := self._cannot_be_cut(Pruned(**cut))) is not None:
                found[candidate.name] = why
            elif candidate.must_be_smaller and candidate.macs(self._teacher, self._image_px) >= self._macs:
                found[candidate.name] = "networks that are not smaller than the teacher"
        return found

    def _cannot_be_cut(self, settings: Pruned) -> str | None:
        """Why the teacher has no such student, in words that are the same for all that have the same reason."""
        way = "whole blocks" if settings.cut == "blocks" else f"a multiple of {settings.round_to} channels"
        if way not in self._smallest_cut:
            cut_to = cutting.cutter(self._teacher, self._image_px, settings)
            try:
                # Some networks can lose nearly all of a layer, but not a part of it: a half is tried too.
                _, network = (cut_to(kept) for kept in (0.5, 1 / cutting.STEPS))
                self._smallest_cut[way] = count_macs(network, self._image_px) / self._macs
            except ParamsError as error:
                self._smallest_cut[way] = str(error)
        smallest = self._smallest_cut[way]
        if isinstance(smallest, str):
            return f"students cut from the teacher, because {smallest}"
        if settings.share_of_macs is None or smallest <= settings.share_of_macs:
            return None
        return f"students cut by {way} with less than {smallest:.3f} of the teacher's MACs, because there are none"

    def look(self, candidate: Candidate, known: Row | None, tried: str, book: Book) -> str:
        """Put a candidate's row into `book`, or why it is left out; what to say of it.

        Of a row that is `known` only the methods are tried anew.
        """
        try:
            network = candidate.build(self._teacher, self._image_px, self._teacher_px)
        except ParamsError as error:
            book.rows[candidate.name] = _empty(candidate) | {"error": str(error), "tried": tried}
            return f"{candidate.name}: {error}"
        if twin := _twin(candidate, self._sizes(network), book):
            book.left_out[candidate.name] = f"it is the same network as {twin}"
            return f"{candidate.name} is left out: {book.left_out[candidate.name]}"
        row = self.row(candidate, network) if known is None else known
        refused = refusals(self._settings, self._teacher, network, self._card)
        row |= {"refused": {name: str(error) for name, error in refused.items()}, "tried": tried}
        book.rows[candidate.name] = row
        if row["error"] is not None:
            return f"{candidate.name}: {row['error']}"
        return in_words(row) + (f"; refused by {', '.join(refused)}" if refused else "")

    def _sizes(self, network: Classifier) -> dict[str, int]:
        lean = folded(network)
        return {"num_parameters": num_parameters(lean), "macs": count_macs(lean, self._px(network))}

    def _px(self, network: Classifier) -> int:
        """Height and width of the images that it sees."""
        return self._teacher_px if network is self._teacher else self._image_px

    def row(self, candidate: Candidate, network: Classifier) -> Row:
        """Export and time one network, beside the teacher unless it is the teacher."""
        row = _empty(candidate) | self._sizes(network)
        opset = self._settings.deploy.opset
        try:
            if self._teacher_file is None:
                self._teacher_file = trial.write(self._teacher, self._teacher_px, opset, self._folder / "teacher.onnx")
            is_teacher = network is self._teacher
            float32 = self._folder / "float32.onnx"
            files = {
                "float32": self._teacher_file if is_teacher else trial.write(network, self._image_px, opset, float32)
            }
        except Exception as error:  # whatever torch's exporter raises of a network that it cannot write down
            return row | {"error": f"it cannot be exported ({_first_line(error)})"}
        try:
            files["int8"] = trial.write_int8(files["float32"], self._folder / "int8.onnx")
        except Exception as error:  # ONNX Runtime's quantiser has no errors of its own
            row["int8_error"] = _first_line(error)
        try:
            came = self._measure({"teacher": self._teacher_file, **files})
        except Exception as error:  # ONNX Runtime's own, of a file that it cannot run
            return row | {"error": f"it cannot be timed ({_first_line(error)})"}
        row["files"] |= {name: {"bytes": path.stat().st_size, **came[name]} for name, path in files.items()}
        return row


def _empty(candidate: Candidate) -> Row:
    return {
        "name": candidate.name,
        "student": candidate.student,
        "num_parameters": None,
        "macs": None,
        "files": {"float32": None, "int8": None},
        "int8_error": None,
        "error": None,
        "refused": {},
        "tried": None,
    }


def _twin(candidate: Candidate, sizes: Mapping[str, int], book: Book) -> str | None:
    """Another student cut from the teacher that is the same network, but for its weights."""
    others = (row for row in book.rows.values() if CUT in row["student"] and row["name"] != candidate.name)
    same = (row["name"] for row in others if sizes.items() <= row.items())
    return next(same, None) if CUT in candidate.student else None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error) or 'no reason is given').splitlines()[0]}"
