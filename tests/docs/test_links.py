"""No page can go stale unseen: links and names resolve, every page is found, what is made from the code is current."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.settings.schema import json_schema
from stages.reference import reference
from tests.pages import TEXTS
from tests.toy import ROOT

MADE = ("docs/params.md", "docs/methods.md", "params.schema.json")
CODE = ("pipeline", "stages", "serve", "tests", "benchmarks", "presets", "results", "docs")
OUTPUTS = ("artifacts/", "data/prepared/", "report/")
SCHEMA = json_schema()


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", TEXTS[page]):
        assert ((ROOT / page).parent / link).exists(), link


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", TEXTS["docs/README.md"]))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", TEXTS)
def test_files_and_keys_that_a_page_names_exist(page: str) -> None:
    for name in re.findall(r"`([\w./-]+)`", TEXTS[page]):
        first, *rest = re.split(r"[./]", name)
        if first in CODE and "/" in name:
            assert (ROOT / name).exists(), name
        elif name.startswith(OUTPUTS):
            assert is_made(name), name
        elif first in SCHEMA["properties"] and rest and "/" not in name and rest[-1] not in ("onnx", "yaml", "json"):
            assert is_key([first, *rest]), name


def is_made(name: str) -> bool:
    """Whether a path is an output of the DAG, or one lies in it or around it; of commands, all of their folders."""
    dvc = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"].values()
    entries = [entry for stage in dvc for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    patterns = [
        re.sub(r"\\\$\\\{.*?\\\}", r"\\w+", re.escape(path))
        for entry in entries
        for path in ([entry] if isinstance(entry, str) else entry)
    ]
    around = any(re.sub(r"\\", "", pattern).startswith(name.rstrip("/") + "/") for pattern in patterns)
    by_command = name.startswith(("artifacts/table/", "artifacts/converted", "report/frontier/", "report/survey"))
    return around or by_command or any(re.match(f"{p}(/|$)", name) for p in patterns)


def is_key(keys: list[str]) -> bool:
    """Whether a dotted key is one of params.yaml."""
    section: Any = SCHEMA
    for key in keys:
        for option in (section, *section.get("anyOf", [])):
            if "$ref" in option:
                section = SCHEMA["$defs"][option["$ref"].rpartition("/")[2]]
        if key not in section.get("properties", {}):
            return False
        section = section["properties"][key]
    return True


def test_what_is_made_from_the_code_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    reference(tmp_path)
    for name in MADE:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), f"{name} is stale: run `make docs`"


def test_every_key_of_params_is_explained() -> None:
    for section in (SCHEMA, *SCHEMA["$defs"].values()):
        for name, value in section.get("properties", {}).items():
            refs = [option["$ref"] for option in (value, *value.get("anyOf", [])) if "$ref" in option]
            sections = [SCHEMA["$defs"][ref.rpartition("/")[2]] for ref in refs]
            assert any("description" in one for one in (value, *sections)), f"{section['title']}: {name}"


def test_the_tree_of_readme_names_what_is_there() -> None:
    tree = TEXTS["README.md"].split("```\nparams.yaml")[1].split("```")[0]
    for name in re.findall(r"\b(\w+)/", tree):
        assert (ROOT / name).is_dir(), name


def test_readme_is_short_and_so_are_its_sentences() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 110
    longest = max(sentences(TEXTS["README.md"]), key=len)
    assert len(longest) < 30, " ".join(longest)


def sentences(page: str) -> list[list[str]]:
    """The words of every sentence of a page's prose: without fenced blocks, pictures and the addresses of links."""
    prose = re.sub(r"^```.*?^```$", "\n", page, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"!\[.*?\]\(.*?\)", "", prose)
    prose = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", prose)
    prose = re.sub(r"`[^`]*`", "code", prose).replace("**", "")
    blocks = re.split(r"\n\s*\n|\n(?=[-#|>]|\d+\. )", prose)
    return [words for block in blocks for end in re.split(r"(?<=[.!?])\s+", block) if (words := end.split())]


def test_sentences_are_counted_as_a_reader_would() -> None:
    page = "# Page\n\n**One two\nthree.** [Four five](six.md) `a b c`!\n- seven\n- eight\n\n```\nnot these words\n```\n"
    assert [len(words) for words in sentences(page)] == [2, 3, 3, 2, 2]
