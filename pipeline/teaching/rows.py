"""The arrays of a teacher cache while they grow, and how far they have come: what an interrupted build goes on from."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.arrays import header
from pipeline.system.errors import PupilError
from pipeline.system.growing import Growing
from pipeline.system.run_key import run_key
from pipeline.teaching.card import Facts
from pipeline.teaching.kept import Layout


class Rows:
    """Arrays (K, N, W) that grow at their end, one for each name, and how many of their rows are surely on the disk.

    Args:
        folder: of the arrays; what an earlier build of the same facts and names, by the same code, left there is used.
        facts: what the cache is of.
        names: what is kept; see `kept`.
    """

    def __init__(self, folder: Path, facts: Facts, names: Sequence[str]) -> None:
        self.folder, self.facts = folder, facts
        self._total = facts.num_views * facts.num_images
        key = run_key({"facts": facts.model_dump(mode="json"), "names": sorted(names)}, "torch")
        self._growing = Growing(folder, key)
        found = self._growing.facts
        self.done: int = found.get("done", 0)
        """Rows of every array, from 0 to K * N."""
        self.layouts = {name: Layout.model_validate(layout) for name, layout in found.get("layouts", {}).items()}
        if found:
            print(f"resuming after {self.done:,} of {self._total:,} images, from {folder}", file=sys.stderr)

    def add(self, taken: dict[str, tuple[Tensor, Layout]]) -> None:
        """Append the next rows (B, W) of every name."""
        if not self.layouts:
            self._start({name: layout for name, (_, layout) in taken.items()})
        for name, (rows, _) in taken.items():
            plain = rows.view(torch.int16) if rows.dtype is torch.bfloat16 else rows
            self._growing.append(f"{name}.npy", plain.cpu().numpy().tobytes())
        self.done += len(rows)

    def settle(self) -> None:
        """Put what was added on the disk, and only then say how much that is."""
        self._growing.settle(self._said())

    def close(self) -> None:
        """Close all files."""
        self._growing.close()

    def hand_over(self, folder: Path) -> None:
        """Let the finished arrays be in `folder` too."""
        for name in self.layouts:
            self._growing.hand_over(f"{name}.npy", folder / f"{name}.npy")

    def clear(self) -> None:
        """Forget the pass; nothing stays but what was handed over."""
        self._growing.clear()

    def _start(self, layouts: dict[str, Layout]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        size = self._total * sum(layout.row_bytes for layout in layouts.values())
        free = shutil.disk_usage(self.folder).free
        each = ", ".join(f"{name} {layout.row_bytes:,}" for name, layout in layouts.items())
        if size > free:
            raise PupilError(
                f"a teacher cache of {self.facts.num_views} views takes {size / 1e9:.1f} GB, but only "
                f"{free / 1e9:.1f} GB are free at {self.folder}. Lower teach.views, remove methods that read much "
                f"from distill.methods (bytes per image and view: {each}), or set teach.cache to false."
            )
        print(
            f"the teacher cache takes {size / 1e9:.2f} GB; bytes per image and view: {each}",
            file=sys.stderr,
            flush=True,
        )
        self.layouts = layouts
        self._growing.start({f"{name}.npy": self._header(layout) for name, layout in layouts.items()}, self._said())

    def _said(self) -> dict[str, object]:
        layouts = {name: layout.model_dump(mode="json") for name, layout in self.layouts.items()}
        return {"done": self.done, "layouts": layouts}

    def _header(self, layout: Layout) -> bytes:
        """Of the whole array, however much of it is there."""
        kind = "<i2" if layout.dtype == "bfloat16" else "<f4"
        return header(kind, (self.facts.num_views, self.facts.num_images, layout.width))
