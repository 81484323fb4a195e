"""Whether the names of classes tell them apart: for people, for other systems, and as folders elsewhere."""

import unicodedata
from collections.abc import Sequence

from pipeline.preparation.divide import listed
from pipeline.system.errors import DataError


def check(names: Sequence[str], where: str) -> None:
    """Raise DataError where a class has no name, or two have one that differs in blanks or Unicode spelling alone.

    Letter case is left alone: where classes are letters, `a` and `A` are two.

    Args:
        names: of all classes, in the order of their numbers.
        where: the names stand, such as "column 'label'".
    """
    empty = [f"number {number} ({name!r})" for number, name in enumerate(names) if not any(map(_is_seen, name))]
    if empty:
        raise DataError(
            f"{len(empty)} of the {len(names)} classes in {where} have no name that can be seen: {listed(empty)}. "
            "Expected a name for each class; give them one there, or remove their images."
        )
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(" ".join(unicodedata.normalize("NFC", name).split()), []).append(name)
    twice = [" and ".join(map(ascii, same)) for same in spellings.values() if len(same) > 1]
    if twice:
        raise DataError(
            f"In {where}, {len(twice)} classes are spelt in more than one way: {listed(twice, '; ')}. They differ only "
            "in blanks or in how letters are put together, so they would be trained as classes of their own. Use one "
            "spelling for each."
        )


def _is_seen(character: str) -> bool:
    return unicodedata.category(character)[0] not in "ZC"
