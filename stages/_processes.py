"""Start a stage in several processes of this machine, and end it with one message whatever becomes of them.

torchrun's store listens on every network address; these meet in a file and talk over the loopback device alone.
Across machines, start the stage by torchrun: then it has a RANK, and starts nothing.
"""

import functools
import inspect
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import torch
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException, start_processes

from pipeline.settings import params as parameters
from pipeline.system import interruption
from pipeline.system.errors import PupilError, StoppedError, TrainingError
from serve import machine

P = ParamSpec("P")


def in_processes(number_of: Callable[[parameters.Params], int]) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Run a stage in as many processes as `number_of` reads from its `params` file."""

    def wrap(stage: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(stage)
        def start(*args: P.args, **kwargs: P.kwargs) -> None:
            params = inspect.signature(stage).bind(*args, **kwargs).arguments["params"]
            if "RANK" in os.environ or (number := number_of(parameters.load(params))) == 1:
                stage(*args, **kwargs)
            else:
                _watch(functools.partial(start, *args, **kwargs), number)

        return start

    return wrap


def _watch(stage: Callable[[], None], number: int) -> None:
    """Wait for all processes; pass SIGTERM and Ctrl-C on, and say what one of them said, or which one was lost."""
    # It would say which process it terminates after another one failed: our own message says so.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch, interruption.listen() as stop:
        folder, asked = Path(scratch), False
        running: Any = start_processes(_work, (stage, number, folder, os.getpid()), number, join=False)  # type: ignore[no-untyped-call]
        try:
            while not running.join(timeout=0.2, grace_period=5):
                if stop.received is not None and not asked:
                    asked = True
                    for process in running.processes:
                        process.terminate()
        except ProcessException as error:
            if said := _said(folder):
                raise PupilError(said) from None
            # Those that wait for a lost one are terminated, or fail because it does not answer; slow ones are killed.
            ends = ((i, -(process.exitcode or 0)) for i, process in enumerate(running.processes))
            lost = {i: signal.Signals(end).name for i, end in ends if end > 0 and end != signal.SIGTERM}
            if not lost and (by := stop.received) is not None and isinstance(error, ProcessExitedException):
                raise StoppedError(f"stopped by {by.name}. The same command goes on from the last state.", by) from None
            if not lost:
                raise
            first = error.error_index if error.error_index in lost else min(lost)
            raise TrainingError(
                f"process {first} of {number} was ended by {lost[first]}, and the training ended with it. The state of "
                "the last epoch is kept: the same command goes on from there."
            ) from error
        if stop.received is not None and (said := _said(folder)):
            raise StoppedError(said, stop.received)


def _work(rank: int, stage: Callable[[], None], number: int, folder: Path, parent: int) -> None:
    """One of the processes."""
    interruption.follow(parent, signal.SIGTERM)  # torch does so too, but on Linux alone
    os.setpgrp()  # Ctrl-C reaches the watching process alone, which passes it on once
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)}
    os.environ |= {"PUPIL_STORE": str(folder / "store"), "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, machine.num_cores() // number))
    if rank:
        # What all say alike is said by the first one; an error goes to the file below.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    try:
        stage()
    except PupilError as error:
        (folder / f"said-{rank}").write_text(str(error), encoding="utf-8")
        sys.exit(0 if isinstance(error, StoppedError) else 1)


def _said(folder: Path) -> str:
    """What the first of them said that said something."""
    return next((file.read_text(encoding="utf-8") for file in sorted(folder.glob("said-*"))), "")
