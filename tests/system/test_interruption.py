"""Work ends with the process that waits for it."""

import signal
import subprocess
import sys

import pytest

from tests import toy

CHILD = """
import time
from pipeline.system import interruption
interruption.stop_with_parent()
print("ready", flush=True)
time.sleep(20)
print("nobody stopped me", flush=True)
"""
PARENT = """
import os, subprocess, sys
from pipeline.system import interruption
environment = os.environ | {interruption.PARENT: str(os.getpid())}
subprocess.run([sys.executable, "-c", sys.argv[1]], env=environment)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a process that its parent ended")
def test_a_stage_is_stopped_when_the_process_that_started_it_is_killed() -> None:
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, cwd=toy.ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.SIGKILL)
        # The child holds the other end of this pipe for as long as it lives.
        assert parent.stdout.read() == ""
    assert parent.returncode == -signal.SIGKILL
