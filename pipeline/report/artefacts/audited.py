"""audit.json of stage prepare as typed, frozen records: what was found when every image was opened."""

from typing import Annotated

from pydantic import Field, StringConstraints

from pipeline.report.artefacts.records import Record

Png = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9+/]+={0,2}\z")]
"""The bytes of a PNG in base64: only such text may stand in a data URI."""


class Extent(Record):
    """Smallest, median and largest of some count or length."""

    min: int
    median: float
    max: int


class AuditedSplit(Record):
    """One split as it was looked at."""

    images: int
    """Looked at."""
    kept: int
    """Of them, in the prepared data."""
    bad: int
    """Of them, not usable."""
    dropped: int
    """Of them, usable and left out because they stand in another split."""
    duplicates: int
    width_px: Extent | None
    """As in the source; None where no image is usable."""
    height_px: Extent | None


class Finding(Record):
    """Something a person should know of one image, or of a class."""

    kind: str
    split: str
    name: str
    label: str
    reason: str
    thumbnail: Png | None = None
    """Longest side at most 64 px."""


class SourceSplits(Record):
    """Same pixels in the splits as the source has them, before val was drawn from train."""

    leaks: int
    """Images that stand in another split too."""
    repeats: int
    """Images that stand a second time in their split."""


class Audit(Record):
    """audit.json."""

    on_bad: str
    """data.on_bad: fail or skip."""
    leaks: str
    """data.leaks: report or drop."""
    splits: dict[str, AuditedSplit]
    source_splits: SourceSplits
    counts: dict[str, int]
    """Findings by kind; kinds that were looked for and not found are there with 0."""
    findings: tuple[Finding, ...] = Field(exclude=True)
