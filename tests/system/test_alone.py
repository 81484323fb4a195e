"""One process at a time works on a path, and the next one goes on when it has ended, whatever ended it."""

import errno
import fcntl
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.system.alone import alone_at
from pipeline.system.errors import PupilError
from tests import toy

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.system.alone import alone_at
with alone_at(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


def test_the_second_waits_for_the_first_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "state"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=toy.ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "holds\n"
        threading.Timer(0.5, first.send_signal, [signal.SIGKILL]).start()
        with alone_at(path):
            assert first.wait(20) == -signal.SIGKILL
    assert f"waiting for process {first.pid}, which works on {path} already" in capsys.readouterr().err
    assert list(path.parent.iterdir()) == []


def test_many_that_wait_come_one_by_one(tmp_path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with alone_at(tmp_path / "state"):
                inside.append(None)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80


def test_a_folder_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PupilError, match=r"\.state\.lock could not be written"), alone_at(tmp_path / "file" / "state"):
        pass


def test_where_there_are_no_locks_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone_at(tmp_path / "state"):
        pass
    assert f"note: {tmp_path} knows no locks, so nothing keeps a second run off" in capsys.readouterr().err
