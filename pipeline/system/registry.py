"""The file name is the registry: `find("pipeline.distillation", "crd")` imports `pipeline/distillation/crd.py`.

There is no table to edit. A table would be a dependency of every DVC stage that reads it, so that adding one method
would train all students again.
"""

import difflib
import importlib
import pkgutil
from types import ModuleType

from pipeline.system.errors import ParamsError

# Files of a plug-in package that hold its contract, or work on all plug-ins.
CONTRACTS = frozenset({"base", "batch", "blocks", "checkpoint", "cutting", "fold"})


def names(package: str) -> list[str]:
    """Every plug-in of a package such as "pipeline.distillation", sorted."""
    path = importlib.import_module(package).__path__
    found = (module.name for module in pkgutil.iter_modules(path))
    return sorted(name for name in found if not name.startswith("_") and name not in CONTRACTS)


def find(package: str, name: str, key: str) -> ModuleType:
    """Import the plug-in `name` of `package`.

    Raises ParamsError, naming the params.yaml key that asked for it and the nearest name, when there is no such file.
    """
    known = names(package)
    if name not in known:
        raise ParamsError(f"{key}: there is no '{name}'{nearest(name, known)}. The known ones are {', '.join(known)}.")
    return importlib.import_module(f"{package}.{name}")


def nearest(word: str, known: list[str]) -> str:
    """' (did you mean ...?)' or nothing, to be put behind an unknown name."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
