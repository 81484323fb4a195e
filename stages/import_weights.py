"""Turn a weights file from elsewhere into a safetensors file with this project's names. No stage of the DAG."""

from pathlib import Path

from pipeline.models.base import num_parameters
from pipeline.system.errors import CheckpointError
from pipeline.weights import foreign_weights
from stages import _run


def import_weights(file: Path, /, arch: str, out: Path) -> None:
    """Write the file `out`, which teacher.weights takes, from a weights file or a folder of the Hub, and say what was
    matched. `arch` is the network, as teacher.arch names it. Nothing is unpickled."""
    fitted = foreign_weights.fit(file, arch)
    if fitted.is_ours:
        raise CheckpointError(f"{file} was written by Pupil: teacher.weights takes it as it is.")
    foreign_weights.save(fitted, out)
    print(*fitted.said, sep="\n")
    if fitted.normalization is not None:
        print(foreign_weights.in_words(fitted.normalization, fitted.source))
    print(f"{out}: {arch}, {fitted.model.fc.out_features} classes, {num_parameters(fitted.model):,} parameters")


if __name__ == "__main__":
    _run.main(import_weights)
