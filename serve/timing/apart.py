"""Call a function in a process of its own: first calls and peak memory need a fresh one, LoadGen one to itself.

The function and its arguments travel as JSON, by name, so that the new process imports what it needs and no more.
"""

import json
import os
import pkgutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serve.errors import ServeError

_ROOT = Path(__file__).parents[2]
"""Where `serve` lies; not `serve` itself, whose rooms would hide modules of Python such as http."""


def call(function: Callable[..., Any], **arguments: object) -> Any:
    """function(**arguments) in a new interpreter; arguments and result are plain JSON data.

    Raises ServeError with the last line of its stderr if it fails. It ends with this process, however that ends.
    """
    search_path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    request = json.dumps({"function": reference(function), "arguments": arguments})
    with subprocess.Popen(
        [sys.executable, "-m", "serve.timing.apart"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search_path},
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        said: list[str] = []
        listener = threading.Thread(target=lambda: said.append(child.stderr.read() if child.stderr else ""))
        listener.start()
        try:
            child.stdin.write(request + "\n")
            child.stdin.flush()
            # stdin stays open until the answer is there: its end tells the child that nobody waits any more.
            answer = child.stdout.read()
        except BrokenPipeError:
            answer = ""
        except BaseException:
            child.kill()
            raise
        child.wait()
        listener.join()
    if child.returncode != 0:
        why = (said[0].strip().splitlines() or [f"status {child.returncode}, no message"])[-1]
        raise ServeError(f"{request[:200]} failed in its own process: {why}")
    return json.loads(answer)


def reference(function: Callable[..., Any]) -> str:
    """module:name, by which another process finds a function of a module.

    Whoever calls this has imported the function, so that the import closure of a stage shows what runs apart, too.
    """
    return f"{function.__module__}:{function.__qualname__}"


def resolve(name: str) -> Callable[..., Any]:
    """The function that `reference` named."""
    function: Callable[..., Any] = pkgutil.resolve_name(name)
    return function


def _main() -> None:
    """Read one request, answer it. What libraries print goes to stderr, so that stdout holds the answer alone."""
    # Ctrl-C in a terminal reaches this process too; an exception inside LoadGen's threads would abort with a core dump.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    answers = os.dup(1)
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    result = resolve(request["function"])(**request["arguments"])
    with os.fdopen(answers, "w", encoding="utf-8") as out:
        json.dump(result, out, allow_nan=False)
        out.flush()
    # Not by way of interpreter shutdown: the reader of stdin and native threads are still running.
    sys.stderr.flush()
    os._exit(0)


def _end_with_parent() -> None:
    # Unbuffered: the lock of sys.stdin must not be held when the interpreter ends.
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    _main()
