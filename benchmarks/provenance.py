"""Where figures come from: what stands at the head of the JSON that a benchmark writes."""

import sys
from typing import Any

from serve import machine


def head(benchmark: str, load_before: float, *packages: str, after: bool = False) -> dict[str, Any]:
    """Command, machine, load average before the first figure (with `after`, now too) and versions of packages."""
    load: dict[str, Any] = {"load_average_before": load_before}
    if after:
        load = {"load_average": {"before": load_before, "after": machine.load_average()}}
    return {
        "command": f"python -m benchmarks.{benchmark} " + " ".join(sys.argv[1:]),
        "machine": machine.describe(),
        **load,
        "versions": machine.versions(*packages),
    }
