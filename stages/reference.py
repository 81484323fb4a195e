"""Write what is made from the code: the schema of params.yaml and two pages of docs/. No stage of the DAG."""

from pathlib import Path

from ruamel.yaml import YAML

from pipeline.evaluation import published as figures
from pipeline.settings import reference as pages
from pipeline.settings.reading import read_yaml
from pipeline.settings.schema import json_schema
from pipeline.system.files import replacing, write_json
from stages import _run


def reference(root: Path = Path(".")) -> None:
    """Write params.schema.json, docs/params.md and docs/methods.md below the project's folder `root`."""
    schema = json_schema()
    yaml = YAML(typ="safe", pure=True)
    published = figures.read(Path("results/published_top1.yaml"))
    presets = {path.stem: read_yaml(path, yaml) for path in sorted(Path("presets/pairs").glob("*.yaml"))}
    pairs = {name: f"{preset['teacher']['arch']} to {preset['student']['arch']}" for name, preset in presets.items()}
    write_json(root / "params.schema.json", schema)
    said = {
        pair: {name: _said(name, figure) for name, figure in published.row(pair).items()} for pair in published.networks
    }
    texts = {"params": pages.params_page(schema), "methods": pages.methods_page(schema, said, pairs)}
    for name, text in texts.items():
        with replacing(root / f"docs/{name}.md") as scratch:
            scratch.write_text(text, encoding="utf-8")


def _said(name: str, figure: figures.Figure) -> str:
    """The figure, and in brackets the student alone, where the same source gives it."""
    alone = "" if figure.alone is None or name == "vanilla" else f" ({figure.alone:.2f})"
    return f"{figure}{alone}"


if __name__ == "__main__":
    _run.main(reference)
