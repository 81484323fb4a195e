"""`python -m serve run` as a process of its own, for whoever needs a real server."""

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]


@dataclass
class Served:
    """A server that runs."""

    process: "subprocess.Popen[str]"
    port: int
    log: IO[str]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        self.log.seek(0)
        return self.log.read()

    def stop(self) -> int:
        """SIGTERM, and the status it ends with."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def served(*arguments: object, env: dict[str, str] | None = None) -> Iterator[Served]:
    """Run with these arguments (the models among them) on a free port, and stop at the end of the block."""
    command = [sys.executable, "-m", "serve", "run", *map(str, arguments), "--port", "0"]
    # Appended: `errors` moves the place in the file, which the process shares.
    with tempfile.TemporaryFile("a+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        with process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                found = re.match(r"Serving .* on https?://[^:]+:(\d+)[; ]", line)
                if found is None:
                    log.seek(0)
                    raise RuntimeError(f"the server did not start: {line}{log.read()}")
                running = Served(process, int(found[1]), log)
                yield running
                if process.poll() is None:
                    running.stop()
            finally:
                process.kill()
