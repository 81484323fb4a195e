"""Survey before training: what each student that could be trained would cost, beside the teacher."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.choosing.candidates import Candidate
from pipeline.choosing.survey_book import Book
from pipeline.choosing.surveyor import Measure, Surveyor
from pipeline.data import card as cards
from pipeline.models import base, checkpoint
from pipeline.models.base import Classifier
from pipeline.settings.params import Params
from pipeline.sweep.plan import digest
from pipeline.sweep.rehearsal import CLASSES
from pipeline.system.errors import ParamsError


def teacher_of(settings: Params, data: Path) -> Classifier:
    """The teacher of params.yaml with random weights, and as many classes as the data have if they are prepared.

    Of a teacher whose file alone knows what network it is, that of the file. Raises ParamsError for an unknown one.
    """
    weights, arch = settings.teacher.weights, settings.teacher.arch
    if weights is not None and arch in ("pruned", "reused"):
        return checkpoint.load(Path(weights))[0]
    num_classes = cards.load(data).num_classes if (data / "card.json").is_file() else CLASSES
    try:
        network = base.build(base.spec_of(arch, num_classes, settings.data.image_px))
        base.shapes(network, settings.data.image_px)
    except ParamsError as error:
        raise ParamsError(f"params.yaml: teacher.arch: {error}") from error
    return network


def survey(
    settings: Params,
    teacher: Classifier,
    candidates: Sequence[Candidate],
    measure: Measure,
    book: Book,
    say: Callable[[str], None],
) -> None:
    """Measure the teacher and every candidate that `book` does not know, and write each down when it is there.

    `say` gets a line for each candidate. Wherever this is broken off, the same call goes on from there.

    Raises ParamsError where the teacher cannot be measured.
    """
    tried = digest(settings.distill.model_dump(mode="json"))
    with tempfile.TemporaryDirectory() as folder:
        surveyor = Surveyor(settings, teacher, measure, Path(folder))
        if book.teacher is None:
            row = surveyor.row(Candidate(base.title(teacher.spec), {"arch": settings.teacher.arch}), teacher)
            if row["error"] is not None:
                raise ParamsError(f"params.yaml: teacher.arch: {row['error']}")
            book.teacher = row
            book.write()
        book.left_out = surveyor.left_out(candidates)
        if book.left_out:
            say(f"left out: {'; '.join(dict.fromkeys(book.left_out.values()))}")
        candidates = [candidate for candidate in candidates if candidate.name not in book.left_out]
        for number, candidate in enumerate(candidates, start=1):
            known = book.rows.get(candidate.name)
            if known is None or known["tried"] != tried:
                said = surveyor.look(candidate, known, tried, book)
                book.write()
                say(f"[{number}/{len(candidates)}] {said}")
