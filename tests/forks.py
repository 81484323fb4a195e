"""A `python` and a `dvc` that start at once: copies of one process that has imported torch, DVC and the rest before.

Importing takes longer than what a stage does in a toy project. A command still runs in a process of its own, from the
code of the folder it is called in, with its own environment, arguments, files and exit status; only packages from
outside are there already. `python -m MODULE` and `dvc` are answered so; any other command goes to the real python.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple, NoReturn

PACKAGES = (
    *("torch", "torch.onnx", "torch.export", "torch.distributed", "torch.utils.flop_counter", "onnx", "onnxscript"),
    *("scipy.stats", "sklearn.base", "matplotlib.pyplot", "pydantic", "ruamel.yaml", "safetensors.torch", "jinja2"),
    *("PIL.Image", "tqdm", "starlette", "uvicorn", "dvc.cli.parser", "dvc.repo.reproduce", "dvc.stage.run"),
    *("dvc.dvcfile", "dvc.output"),
)
"""What takes long to import and starts no thread: of two threads a copy has one, and waits for the other's locks."""
# Run by a Python without packages, in a hundredth of a second.
CLIENT = r"""#!{python} -IS
import json, os, signal, socket, sys
arguments = ["-m", "dvc", *sys.argv[1:]] if os.path.basename(sys.argv[0]) == "dvc" else sys.argv[1:]
if arguments[:1] != ["-m"]:
    os.execv({python!r}, [{python!r}, *arguments])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"."], [0, 1, 2])
answers = server.makefile("rw")
print(json.dumps([arguments[1:], os.getcwd(), dict(os.environ)]), file=answers, flush=True)
worker = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda received, frame: os.kill(worker, received))
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class Command(NamedTuple):
    """What a client asks for: a module and its arguments, and where."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]


@functools.cache
def folder() -> Path:
    """Where `python` and `dvc` lie, for the front of PATH; what stands behind them ends with this process."""
    # Names of sockets are short, and TMPDIR may be long.
    home = Path(tempfile.mkdtemp(prefix="forks", dir="/tmp"))
    for name in ("python", "dvc"):
        text = CLIENT.format(python=sys.executable, address=str(home / "socket"))
        (home / name).write_text(text, encoding="utf-8")
        (home / name).chmod(0o755)
    # Bound before all is imported: who comes earlier waits.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "socket"))
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(listener.fileno())],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
    atexit.register(_end, server, home)
    return home


def _end(server: subprocess.Popen[bytes], home: Path) -> None:
    server.communicate()
    shutil.rmtree(home)


def serve(listener: socket.socket) -> Command | None:
    """Copy this process for each command, until the other end of stdin is closed; a copy gets its command returned."""
    for name in PACKAGES:
        importlib.import_module(name)
    sys.executable = str(Path(listener.getsockname()).with_name("python"))  # what a copy starts, starts at once too
    gc.freeze()
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            return _keep(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                """One that has ended."""
    return None


def _keep(connection: socket.socket) -> Command:
    """Return in one more copy; this one waits for its end, reports it, and kills it when nobody is there to hear."""
    _, files, *_ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as asked:
        command = Command(*json.loads(asked.readline()))
    if (worker := os.fork()) == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return command
    for file in files:
        os.close(file)
    connection.sendall(f"{worker}\n".encode())

    def listen() -> None:
        connection.recv(1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


def become(command: Command) -> NoReturn:
    """`python -m` with these arguments, in this folder; ended without taking apart what a copy shares with others."""
    os.chdir(command.folder)
    os.environ.clear()
    os.environ.update(command.environment)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(file, "w", encoding="utf-8", buffering=1, closefd=False) for file in (1, 2))  # noqa: SIM115
    sys.path[0] = command.folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.argv = command.arguments
    status = 0
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    if given := serve(socket.socket(fileno=int(sys.argv[1]))):
        become(given)
