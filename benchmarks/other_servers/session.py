"""The ONNX Runtime session that every server of the comparison computes with, set up as ours is."""

import sys
from pathlib import Path
from typing import Any

import onnxruntime  # type: ignore[import-untyped]


def open_session(path: Path, threads: int) -> Any:
    """A session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def arguments() -> tuple[Path, int, int, int]:
    """MODEL PORT WORKERS THREADS of the command line."""
    path, port, workers, threads = sys.argv[1:5]  # a server may read more
    return Path(path), int(port), int(workers), int(threads)
