"""Which of the project's own files a module needs: the closure of its imports, read from the source text.

Text, not `sys.modules`: an import inside a function counts too, whether or not a test happens to call it.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def closure(module: str) -> set[str]:
    """Paths below the project's root of `module` and everything of ours that it imports, packages included."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        path = _path(waiting.pop())
        if path is None or path in found:
            continue
        found.add(path)
        waiting += _imports(ROOT / path)
    return found


def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _path(module: str) -> str | None:
    """pipeline.data.card -> pipeline/data/card.py. The __init__ files decide nothing that an output shows."""
    path = Path(*module.split(".")).with_suffix(".py")
    return path.as_posix() if (ROOT / path).is_file() else None
