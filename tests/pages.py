"""The commands that README and docs/ show, and a person who types them one after the other."""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.toy import ROOT

TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
"""Every page, by its path from the project's root."""
SERVE = "python -m serve run"

Block = tuple[str, str]
"""The language of a fenced block, and one command of it (sh) or all of its text."""


def blocks(text: str) -> list[Block]:
    """What the fenced blocks of a page hold, in its order; of sh a line each, those joined that end in a backslash."""
    found = []
    for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        lines = re.sub(r"\\\n\s*", "", body).splitlines() if kind == "sh" else [body]
        found += [(kind, line) for line in lines]
    return found


def commands(text: str) -> list[str]:
    """The lines of a page's sh blocks."""
    return [line for kind, line in blocks(text) if kind == "sh"]


def run(text: str, folder: Path, environment: Mapping[str, str], kind: str = "sh") -> str:
    """What a command or a Python program prints, all of it; it must succeed."""
    command = ["bash", "-euo", "pipefail", "-c", text] if kind == "sh" else ["python", "-W", "error", "-c", text]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}"
    return done.stdout


@contextmanager
def serving(command: str, folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """The server that a line starts, on a free port: host:port and process id. It must end well when asked to.

    It warms up with small batches only: all sizes up to 32 take a minute with ResNets at 224 pixels.
    """
    with subprocess.Popen(
        [*shlex.split(command), "--port", "0", "--max-batch", "4"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            address = re.search(r"http://(127\.0\.0\.1:\d+)", said)
            assert address, f"{command} said: {said}"
            yield address[1], server.pid
        finally:
            server.terminate()
            server.communicate(timeout=60)
        assert server.returncode == 0


def follow(
    lines: Sequence[Block],
    folder: Path,
    environment: Mapping[str, str],
    instead: Callable[[str, int], str | None] = lambda text, pid: None,
) -> dict[str, str]:
    """Run commands and programs in their order, each server until the next one starts: text -> what it printed.

    instead: called with each command and the server's process id (0 before there is one); what it returns is taken as
    printed, and None means that the command is to be run as it stands.
    """
    said: dict[str, str] = {}
    address, pid = "127.0.0.1:8000", 0
    with ExitStack() as server:
        for kind, text in lines:
            if text.startswith(SERVE):
                server.close()
                address, pid = server.enter_context(serving(text, folder, environment))
                said[text] = address
            else:
                command = text.replace("127.0.0.1:8000", address)
                other = instead(command, pid)
                said[text] = run(command, folder, environment, kind) if other is None else other
    return said
