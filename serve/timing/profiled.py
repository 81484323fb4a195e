"""Where the time of a network goes, by ONNX Runtime's own profile, which is on the CPU."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import onnxruntime  # type: ignore[import-untyped]

from serve.model.classifier import Pixels

_CALLS = 50
_NAMED = 0.05  # operators with a smaller share of the time are not worth a word


def shares(content: bytes, pixels: Pixels, threads: int, calls: int = _CALLS) -> dict[str, float]:
    """Operator -> its share of the time that all kernels took, the largest first. `content` is an exported file."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for _ in range(calls):
            session.run(["probabilities"], {"pixels": pixels})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    took: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            took[event["args"]["op_name"]] += event["dur"]
    return {name: duration / took.total() for name, duration in took.most_common()}


def told(of_operators: dict[str, float]) -> str:
    """`shares` in words: the operators that are worth one, and how much is not computed in integers."""
    named = ", ".join(f"{name} {100 * share:.0f} %" for name, share in of_operators.items() if share >= _NAMED)
    outside = sum(share for name, share in of_operators.items() if not name.startswith(("QLinear", "QGemm")))
    return f"{named}; {100 * outside:.0f} % of it is not in integers"
