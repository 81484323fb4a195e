"""Lay a preset over params.yaml and say what changed. No stage of the DAG: it edits what the DAG reads."""

from pathlib import Path

from pipeline.settings import presets
from stages import _run


def apply_preset(preset: Path, params: Path = Path("params.yaml")) -> None:
    """Set in params.yaml what the preset file sets, keeping comments; `git checkout params.yaml` undoes it."""
    changes = presets.apply(preset, params)
    for change in changes:
        print(change)
    print(f"{params}: {len(changes)} of its values changed by {preset}")


if __name__ == "__main__":
    _run.main(apply_preset)
