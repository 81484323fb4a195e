"""docs/data-sources.md cannot go stale: every source has a section, its snippet loads, its layouts can be read."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.settings import params
from pipeline.settings.data import Data
from pipeline.settings.reading import parse
from pipeline.sources import folder
from pipeline.system import registry
from tests import pictures

TEXT = (Path(__file__).parents[2] / "docs/data-sources.md").read_text(encoding="utf-8")
SECTIONS = {match[1]: match[2] for match in re.finditer(r"^## [^\n]*`(\w+)`\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)}


def snippet(source: str) -> Data:
    """The data section that the page shows for a source."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", SECTIONS[source], re.MULTILINE | re.DOTALL)
    shown = parse(params.Params, YAML(typ="safe", pure=True).load(text), "", "docs/data-sources.md")
    assert set(shown.data.sources) == {source} == {shown.data.source}
    return shown.data


def test_every_source_has_a_section() -> None:
    assert sorted(SECTIONS) == registry.names("pipeline.sources")


@pytest.mark.parametrize("source", sorted(SECTIONS))
def test_a_snippet_is_valid_and_shows_keys_that_exist(source: str) -> None:
    config = params.source_config(snippet(source))
    assert set(snippet(source).sources[source]) <= set(type(config).model_fields)
    later = SECTIONS[source].partition("Further keys:")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", later)) <= set(type(config).model_fields)


def test_the_layouts_of_folders_are_read_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = re.findall(r"^```\n(.*?)^```$", SECTIONS["folder"], re.MULTILINE | re.DOTALL)
    assert len(layouts) == 2
    for number, layout in enumerate(layouts):
        monkeypatch.chdir(pictures.write(tmp_path / str(number), *layout.split()))
        source = folder.open_source(folder.Config(), snippet("folder"))
        assert source.labels == ("cat", "dog")
        assert [len(records) for records in source.splits.values()] == [2, 2]
