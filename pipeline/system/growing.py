"""Files that grow at their ends, and how much of them is surely on the disk: what an interrupted pass goes on from.

They lie outside DVC's outputs, which DVC deletes before a rerun. What has another key belongs to another pass: it is
named and removed, never used.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.system.files import write_json

_PROGRESS = "progress.json"


class Growing:
    """The files of one pass, in a folder of their own.

    Appended, not written through a memory map: on a full disk a map ends the process with SIGBUS.

    Args:
        folder: of the files; what an earlier pass with the same key left there is taken up.
        key: of the pass; see `run_key`.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self._key = folder, key
        self.facts: dict[str, Any] = {}
        """What was said at the last `settle`; empty before the first."""
        self._files: dict[str, BinaryIO] = {}
        self._take_up()

    def start(self, beginnings: Mapping[str, bytes], facts: dict[str, Any]) -> None:
        """Make the files, by their names, with what they begin with."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files = {name: (self.folder / name).open("wb") for name in beginnings}
        for name, beginning in beginnings.items():
            self.append(name, beginning)
        self.settle(facts)

    def append(self, name: str, content: bytes | memoryview) -> None:
        """Put bytes at the end of a file. Raises OSError when the disk refuses."""
        self._files[name].write(content)

    def settle(self, facts: dict[str, Any]) -> None:
        """Put what was appended on the disk, and only then say how much that is; `facts` is plain data."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        sizes = {name: file.tell() for name, file in self._files.items()}
        write_json(self.folder / _PROGRESS, {"key": self._key, "sizes": sizes, "facts": facts})
        self.facts = facts

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            # What could not be written was said when it was tried.
            with suppress(OSError):
                file.close()

    def hand_over(self, name: str, target: Path) -> None:
        """Let `target` be a finished file, which is no longer appended to.

        It stays here too, as the same file or, on another disk, as a second one, so that nothing is lost if `target` is
        given up before `clear`. Only where the file system has no hard links does it go from here at once.
        """
        self._files[name].close()
        try:
            os.link(self.folder / name, target)
        except OSError as error:
            hand = shutil.copyfile if error.errno == errno.EXDEV else shutil.move
            hand(self.folder / name, target)

    def clear(self) -> None:
        """Forget the pass: nothing of it stays but what was handed over."""
        self.close()
        self._remove(list(self._files))
        self._files = {}

    def _take_up(self) -> None:
        try:
            found: dict[str, Any] = json.loads((self.folder / _PROGRESS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        paths = {name: self.folder / name for name in found["sizes"]}
        torn = [n for n, size in found["sizes"].items() if not paths[n].is_file() or paths[n].stat().st_size < size]
        if found["key"] != self._key or torn:
            why = "belongs to a run with other parameters, data, code or versions"
            print(f"starting anew: {self.folder} {'lacks ' + ', '.join(torn) if torn else why}.", file=sys.stderr)
            self._remove(list(paths))
            return
        for name, size in found["sizes"].items():
            _own(paths[name])
            self._files[name] = paths[name].open("r+b")
            self._files[name].truncate(size)
            self._files[name].seek(size)
        self.facts = found["facts"]

    def _remove(self, names: list[str]) -> None:
        # File by file: the folder comes from the command line, and may hold other things.
        for name in [*names, _PROGRESS]:
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


def _own(path: Path) -> None:
    """Let a file be no other one too: that was handed over by a pass which ended before its `clear`."""
    if path.stat().st_nlink > 1:
        copy = path.with_name(f"{path.name}.copy")
        shutil.copyfile(path, copy)
        copy.replace(path)
