"""What a cache keeps of a teacher's pass, by name, and how that takes the place of the teacher's features again.

    logits, pooled       (B, K) and (B, D) of `Features`
    PLACE.FORM.NUMBERS   of the taps of a place (`blocks`, thinned as methods thin them, or `stages`) in one form
                         (`raw`, `pre`, `act`): (B, H, W) norms or float_norms, (B, C) average or tiled_average

Numbers stay in the precision that they were computed in, which is bf16 for norms of bf16 maps: what a method makes of
them has the bits of what it makes of the maps.
"""

from collections.abc import Callable, Mapping
from math import prod
from types import SimpleNamespace
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from pipeline.distillation.blocks import Kept, norms, thin, tiled_average
from pipeline.models.base import Features, MapShape, pool

NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "norms": norms,
    "float_norms": lambda maps: norms(maps.float()),
    "tiled_average": tiled_average,
    "average": pool,
}


class Layout(BaseModel):
    """How the numbers of one name lie in an image's row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["float32", "bfloat16"]
    shapes: tuple[tuple[int, ...], ...]
    """Of each tensor of one image; they lie behind each other."""
    maps: tuple[MapShape, ...] = ()
    """Sizes of all taps of the place, those too that are thinned out."""

    @property
    def width(self) -> int:
        """W, numbers in a row."""
        return sum(map(prod, self.shapes))

    @property
    def row_bytes(self) -> int:
        """Of one image in one view."""
        return self.width * (2 if self.dtype == "bfloat16" else 4)


def take(t: Features, name: str) -> tuple[Tensor, Layout]:
    """Rows (B, W) of what `name` stands for, float32 or bf16, and their layout."""
    parts: list[Tensor] = []
    maps: tuple[MapShape, ...] = ()
    if "." in name:
        place, form, numbers = name.split(".")
        taps = getattr(t, place)
        maps = tuple(MapShape(*getattr(tap, form).shape[1:]) for tap in taps)
        parts = [NUMBERS[numbers](getattr(tap, form)) for tap in thin(taps)]
    else:
        parts = [getattr(t, name)]
    rows = torch.cat([part.flatten(1) for part in parts], 1)
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if rows.dtype is torch.bfloat16 else "float32"
    return rows, Layout(dtype=dtype, shapes=tuple(tuple(part.shape[1:]) for part in parts), maps=maps)


def restore(rows: Mapping[str, tuple[Tensor, Layout]]) -> Any:
    """What `terms` gets in the place of `Features`: the same attributes, as far as they were kept, maps as `Kept`."""
    features: dict[str, Any] = {}
    taps: dict[str, list[SimpleNamespace]] = {}
    for name, (row, layout) in rows.items():
        sizes = [prod(shape) for shape in layout.shapes]
        parts = [
            torch.unflatten(part, 1, shape)
            for part, shape in zip(torch.split(row, sizes, 1), layout.shapes, strict=True)
        ]
        if "." not in name:
            (features[name],) = parts
            continue
        place, form, numbers = name.split(".")
        everywhere = taps.setdefault(place, [SimpleNamespace() for _ in layout.maps])
        chosen = thin(tuple(zip(everywhere, layout.maps, strict=True)))
        for (tap, sizes_of_map), part in zip(chosen, parts, strict=True):
            earlier = getattr(tap, form, Kept(sizes_of_map, {})).numbers
            setattr(tap, form, Kept(sizes_of_map, {**earlier, numbers: part}))
    return SimpleNamespace(**features, **{place: tuple(found) for place, found in taps.items()})
