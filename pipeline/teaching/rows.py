"""The arrays of a teacher cache while they grow, and how far they have come: what an interrupted build goes on from."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pipeline.data.arrays import write_header
from pipeline.errors import PupilError
from pipeline.files import write_json
from pipeline.resume import run_key
from pipeline.teaching.card import Facts
from pipeline.teaching.kept import Layout

_PROGRESS = "progress.json"


class Rows:
    """Arrays (K, N, W) that grow at their end, one for each name, and how many of their rows are surely on the disk.

    Appended, not written through a memory map: on a full disk a map ends the process with SIGBUS.

    Args:
        folder: of the arrays; what an earlier build of the same facts and names, by the same code, left there is used.
        facts: what the cache is of.
        names: what is kept; see `kept`.
    """

    def __init__(self, folder: Path, facts: Facts, names: Sequence[str]) -> None:
        self.folder, self.facts = folder, facts
        self.key = run_key({"facts": facts.model_dump(mode="json"), "names": sorted(names)})
        self.done = 0
        """Rows of every array, from 0 to K * N."""
        self.layouts: dict[str, Layout] = {}
        self._files: dict[str, BinaryIO] = {}
        self._take_up()

    def add(self, taken: dict[str, tuple[Tensor, Layout]]) -> None:
        """Append the next rows (B, W) of every name."""
        if not self._files:
            self._start({name: layout for name, (_, layout) in taken.items()})
        for name, (rows, _) in taken.items():
            plain = rows.view(torch.int16) if rows.dtype is torch.bfloat16 else rows
            self._files[name].write(plain.cpu().numpy().tobytes())
        self.done += len(rows)

    def settle(self) -> None:
        """Put what was added on the disk, and only then say how much that is."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        layouts = {name: layout.model_dump(mode="json") for name, layout in self.layouts.items()}
        write_json(self.folder / _PROGRESS, {"key": self.key, "done": self.done, "layouts": layouts})

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            # What could not be written was said when it was tried.
            with suppress(OSError):
                file.close()

    def move_to(self, folder: Path) -> None:
        """Hand the finished arrays over; nothing stays."""
        self.close()
        for name in self.layouts:
            shutil.move(self._path(name), folder)
        self._clear([])

    def _start(self, layouts: dict[str, Layout]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        size = self.facts.num_views * self.facts.num_images * sum(layout.row_bytes for layout in layouts.values())
        free = shutil.disk_usage(self.folder).free
        each = ", ".join(f"{name} {layout.row_bytes:,}" for name, layout in layouts.items())
        if size > free:
            raise PupilError(
                f"a teacher cache of {self.facts.num_views} views takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
                f"are free at {self.folder}. Lower teach.views, leave methods that read much out of distill.methods "
                f"(bytes of an image and view: {each}), or set teach.cache to false."
            )
        print(f"keeping {size / 1e9:.2f} GB; bytes of an image and view: {each}", file=sys.stderr, flush=True)
        self.layouts = layouts
        self._files = {name: self._path(name).open("wb") for name in layouts}
        for name, file in self._files.items():
            file.write(self._header(layouts[name]))
        self.settle()

    def _take_up(self) -> None:
        try:
            found: dict[str, Any] = json.loads((self.folder / _PROGRESS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        layouts = {name: Layout.model_validate(layout) for name, layout in found["layouts"].items()}
        ends = {n: len(self._header(layout)) + found["done"] * layout.row_bytes for n, layout in layouts.items()}
        torn = [n for n, end in ends.items() if not self._path(n).is_file() or self._path(n).stat().st_size < end]
        if found["key"] != self.key or torn:
            why = "belongs to another teacher, other parameters, data, code or versions"
            print(f"starting anew: {self.folder} {'lacks ' + ', '.join(torn) if torn else why}.", file=sys.stderr)
            self._clear(list(layouts))
            return
        for name, end in ends.items():
            self._files[name] = self._path(name).open("r+b")
            self._files[name].truncate(end)
            self._files[name].seek(end)
        self.done, self.layouts = found["done"], layouts
        total = self.facts.num_views * self.facts.num_images
        print(f"resuming after {self.done:,} of {total:,} images, by {self.folder}", file=sys.stderr)

    def _clear(self, names: Sequence[str]) -> None:
        # File by file: the folder comes from the command line, and may hold other things.
        for path in [*map(self._path, names), self.folder / _PROGRESS]:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _header(self, layout: Layout) -> bytes:
        """Of the whole array, however much of it is there."""
        kind = "<i2" if layout.dtype == "bfloat16" else "<f4"
        header = BytesIO()
        write_header(header, kind, (self.facts.num_views, self.facts.num_images, layout.width))
        return header.getvalue()
