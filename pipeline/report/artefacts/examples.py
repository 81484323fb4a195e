"""Test images as small pictures that stand in the page itself."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.arrays import RowReader, Split
from pipeline.evaluation import logits_file
from pipeline.report.artefacts.analysed import Analysis
from pipeline.report.artefacts.results import Example, Examples
from pipeline.system.errors import PupilError

LONGEST_PX = 64
_MATRIX_PX = 200
_RIGHT, _WRONG = (128, 128, 128), (214, 90, 48)
SHOWN = 12
"""Of each kind. Three kinds of LONGEST_PX squared are 0.6 MB at worst, as noise."""


def png(pixels: NDArray[np.uint8]) -> str:
    """A picture (H, W, 3) as PNG in base64, its longest side at most LONGEST_PX."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
    return _encoded(image)


def smaller(picture: str, longest_px: int) -> str:
    """A PNG in base64, its longest side at most `longest_px`; one that already is comes back as it was."""
    image = Image.open(io.BytesIO(base64.b64decode(picture, validate=True)))
    if max(image.size) <= longest_px:
        return picture
    image.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    return _encoded(image)


def matrix(confusion: Sequence[Sequence[int]]) -> str:
    """A confusion matrix (K, K) as PNG in base64, which stands on light and on dark.

    A pixel is one cell, or several added up where K is above _MATRIX_PX. Opacity is the cube root of the share of
    the true class, so that small confusions show.
    """
    counts = np.array(confusion, dtype=np.float64)
    owner = np.arange(len(counts)) * min(len(counts), _MATRIX_PX) // len(counts)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    counts = np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    cells = np.empty((*shares.shape, 4), np.uint8)
    cells[..., :3] = np.where(np.eye(len(shares), dtype=bool)[..., None], _RIGHT, _WRONG)
    cells[..., 3] = np.round(255 * np.cbrt(shares))
    return _encoded(Image.fromarray(cells))


def examples(analysis: Analysis, split: Split, labels: Sequence[str], student: Path, teacher: Path) -> Examples:
    """The images that an analysis of the test split points at, with what both networks say of them.

    student, teacher: logits.npy of both. Raises PupilError naming the file that is missing or does not fit.
    """
    logits = [
        logits_file.read(path, len(split), len(labels), stage)
        for path, stage in ((student, "evaluate"), (teacher, "evaluate_teacher"))
    ]
    known = _Known(split, labels, *logits)
    against = analysis.against_teacher
    return Examples(
        only_student=known.examples(against.only_student_positions if against else ()),
        only_teacher=known.examples(against.only_teacher_positions if against else ()),
        mistakes=known.examples([it.position for it in analysis.mistakes], [it.confidence for it in analysis.mistakes]),
    )


class _Known:
    """The split and what was said of it."""

    def __init__(
        self, split: Split, labels: Sequence[str], student: NDArray[np.float32], teacher: NDArray[np.float32]
    ) -> None:
        self._split, self._labels, self._student, self._teacher = split, labels, student, teacher

    def examples(self, positions: Sequence[int], confidences: Sequence[float] = ()) -> tuple[Example, ...]:
        if (last := max(positions, default=0)) >= len(self._split):
            raise PupilError(
                f"analysis.json names test image {last}, but the test split has {len(self._split)} images, counted "
                "from 0. Run `dvc repro evaluate`."
            )
        read = RowReader(self._split.images)
        return tuple(
            Example(
                position=position,
                true=self._labels[self._split.labels[position]],
                student=self._labels[self._student[position].argmax()],
                teacher=self._labels[self._teacher[position].argmax()],
                confidence=confidences[rank] if confidences else None,
                png=png(read(np.array([position]))[0]),
            )
            for rank, position in enumerate(positions[:SHOWN])
        )


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
