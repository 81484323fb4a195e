"""Work ends with the process that waits for it."""

import signal
import subprocess
import sys

import pytest

from pipeline.system import interruption
from tests import toy

CHILD = """
import time
from pipeline.system import interruption
interruption.stop_with_parent()
print("ready", flush=True)
time.sleep(20)
print("nobody stopped me", flush=True)
"""
LISTENER = """
import time
from pipeline.system import interruption
with interruption.listen() as stop:
    interruption.stop_with_parent()
    print("ready", flush=True)
    for _ in range(2000):
        if stop.received is not None:
            break
        time.sleep(0.01)
    time.sleep(0.3)
    print(f"saved after {stop.received.name}")
"""
PARENT = """
import os, subprocess, sys, threading, time
for _ in range(int(sys.argv[2])):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
environment = os.environ | {sys.argv[3]: str(os.getpid())}
subprocess.run([sys.executable, "-c", sys.argv[1]], env=environment)
"""


on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Linux alone tells a process that its parent ended"
)


def said_after_the_parent_is_killed(child: str, threads: int, variable: str = interruption.PARENT) -> str:
    command = [sys.executable, "-c", PARENT, child, str(threads), variable]
    with subprocess.Popen(command, cwd=toy.ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.SIGKILL)
        # The child holds the other end of this pipe for as long as it lives.
        said = parent.stdout.read()
    assert parent.returncode == -signal.SIGKILL
    return said


@on_linux
@pytest.mark.parametrize("variable", [interruption.PARENT, "DVC_STAGE"])
def test_a_stage_is_stopped_when_the_process_that_started_it_is_killed(variable: str) -> None:
    assert said_after_the_parent_is_killed(CHILD, 0, variable) == ""


@on_linux
def test_a_stage_that_listens_saves_first_however_many_threads_the_killed_one_had() -> None:
    assert said_after_the_parent_is_killed(LISTENER, threads=32) == "saved after SIGTERM\n"


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_a_request_is_noted_once_and_what_is_ignored_stays_so(number: signal.Signals) -> None:
    before = signal.signal(number, signal.default_int_handler)
    try:
        with interruption.listen() as stop:
            signal.raise_signal(number)
            assert stop.received == number
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        signal.signal(number, signal.SIG_IGN)
        with interruption.listen() as stop:
            signal.raise_signal(number)
        assert stop.received is None
    finally:
        signal.signal(number, before)
