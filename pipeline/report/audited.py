"""audit.json of stage prepare as typed, frozen records: what was found when every image was opened."""

from typing import Annotated

from pydantic import Field, StringConstraints

from pipeline.report.artefacts import Record

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
    duplicates: int
    class_images: Extent
    """Images per class."""
    width_px: Extent
    height_px: Extent


class Finding(Record):
    """Something a person should know of one image, or of a class."""

    kind: str
    split: str
    name: str
    label: str
    reason: str
    twin: str | None = None
    """The other image of a pair."""
    thumbnail: Png | None = None
    """Longest side at most 64 px."""


class Audit(Record):
    """audit.json."""

    on_bad: str
    """data.on_bad: fail or skip."""
    leaks: str
    """data.leaks: report or drop."""
    splits: dict[str, AuditedSplit]
    counts: dict[str, int]
    """Findings by kind; kinds that were looked for and not found are there with 0."""
    findings: tuple[Finding, ...] = Field(exclude=True)
