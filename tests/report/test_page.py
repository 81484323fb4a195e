"""report.html: complete and with parts absent, with hostile names, large, and in headless Chromium."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from playwright.sync_api import Browser

from pipeline.report import page
from pipeline.report.artefacts.results import Results
from pipeline.report.pictures import plots
from pipeline.system.errors import PupilError
from tests.demo_page import CHROMIUM, browser
from tests.report_page import WIDTHS, opened
from tests.report_run import ODD_LABEL, Run, analysis, png, text_of

MOST_BYTES = 2_000_000


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Of a run that has everything."""
    return Run(tmp_path_factory.mktemp("run")).results()


@pytest.fixture(scope="module")
def html(complete: Results) -> str:
    return page.render(complete)


class Elements(HTMLParser):
    """Checks that elements nest, and gathers what they refer to."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_it(html: str) -> None:
    elements = Elements(html)
    assert "://" not in html
    assert "@import" not in html
    assert not elements.tags & {"script", "link", "iframe"}
    assert elements.references
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in elements.references)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert len(elements.ids) == len(set(elements.ids)), "two elements share an id"
    targets = {reference[1:] for reference in elements.references if reference.startswith("#")}
    assert targets <= set(elements.ids), "a link leads nowhere"


def test_sections_stand_in_order_and_in_the_contents(html: str) -> None:
    order = ["data", "curves", "methods", "cost", "classes", "attention", "examples", "latency", "files", "provenance"]
    assert re.findall(r'<h2 id="(\w+)">', html) == order
    assert re.findall(r'<a href="#(\w+)">', html) == order
    text = text_of(html)
    assert text.index("7.5 % the size") < text.index("Every image was opened")


def test_every_part_shows_what_it_read(html: str) -> None:
    text = text_of(html)
    for said in (
        "Trained without its teacher (vanilla, same seed)",
        "Found: 1 truncated, 1 in two splits.",
        "test row 3 (&lt;i&gt;)",
        "1 without a picture",
        "afd would",
        "student: dog, 98.7 %",
        "the student alone 60",
        "ships",
        "30.75",
        "make repro",
        "no git here to ask",
        "Fast &amp; Co &lt;9000&gt; with 4 cores, on 1 thread; load average 0.50, 0.40, 0.30 before",
    ):
        assert said in text, said


def test_headings_do_not_skip_a_level_and_tables_and_pictures_are_named(html: str) -> None:
    levels = [int(level) for level in re.findall(r"<h(\d)", html)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert "<th></th>" not in html
    assert all('scope="' in head for head in re.findall(r"<th\b[^>]*>", html))
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img\b[^>]*>", html))
    for svg in re.findall(r"<svg\b[^>]*>", html):
        assert 'role="img"' in svg
        assert 'aria-label="' in svg


def test_names_are_escaped(html: str) -> None:
    assert "<script>" not in html
    assert "<img src=x>" not in html
    assert "K\u00fcche/&lt;img src=x&gt;.png" in html
    assert "&lt;script&gt;alert(&#39;a|b&#39;)&lt;/script&gt;" in html


def test_a_thumbnail_that_is_no_base64_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    finding = {"kind": "tiny", "split": "train", "name": "a", "label": "cat", "reason": "", "thumbnail": '"><script>'}
    run.edit("data/audit.json", findings=[finding])
    with pytest.raises(PupilError, match=r"findings\.0\.thumbnail"):
        run.results()


def test_plots_take_their_colors_from_the_page(html: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--accent)" in drawn
    assert not re.search(r"(fill|stroke): #", drawn)
    for variable in set(re.findall(r"var\((--[a-z0-9-]*)\)", html)):
        assert html.count(f"{variable}: #") >= 2, f"{variable} needs a light and a dark value"


def test_words_stand_out_from_the_paper_in_both_modes(html: str) -> None:
    light, dark = (re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", block) for block in _roots(html))
    for colors in (dict(light), dict(light) | dict(dark)):
        for name in ("--ink", "--muted", "--accent", *(f"--series-{index}" for index in range(1, 7))):
            assert _contrast(colors[name], colors["--paper"]) >= 4.5, name


def _roots(html: str) -> list[str]:
    return re.findall(r":root \{(.*?)\}", html, flags=re.DOTALL)[:2]


def _contrast(a: str, b: str) -> float:
    """Of two colours, by WCAG 2.2: (lighter + 0.05) / (darker + 0.05) of their relative luminance."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_a_persons_own_matplotlib_style_changes_nothing(complete: Results) -> None:
    plain = plots.learning_curves(complete)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert plots.learning_curves(complete) == plain


def test_parts_that_are_absent_are_left_out_with_a_sentence(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.edit("comparison.json", baseline=None, pairs=[], methods=[])
    run.edit("data/audit.json", findings=[], counts={"leak": 0}, source_splits={"leaks": 0, "repeats": 0})
    run.edit(
        "students/sakd/0/analysis.json",
        against_teacher=None,
        mistakes=[],
        largest_confusions=[],
        confusion=None,
        classes=[*analysis()["classes"], {"label": "empty", "images": 0, "top1": None, "interval": None}],
    )
    run.write("teacher/history.json", {"taken": {"val_top1": 65.25}, "epochs": []})
    run.params(seeds=[0], methods=("kd", "sakd"))
    text = text_of(page.render(run.results()))
    for said in (
        "What distillation added is not known",
        "Found: nothing.",
        "The student was not held against its teacher image by image.",
        "No class was taken for another.",
        "The teacher was not trained here; the dashed line is its level, which says little where it was trained on "
        "images that are set aside here.",
        "No method of this run has an attention",
    ):
        assert said in text
    for absent in ("Wrong with most confidence", "without a picture", "True classes from top"):
        assert absent not in text


def test_thousands_of_classes_and_findings_do_not_explode_the_page(tmp_path: Path) -> None:
    run, many = Run(tmp_path), 3000
    names = [f"{ODD_LABEL} {number}" for number in range(many)]
    one = analysis()["classes"][0]
    run.edit("students/sakd/0/analysis.json", classes=[one | {"label": name} for name in names], confusion=None)
    counts = {"train": [*range(1, many + 1)], "val": [7] * many, "test": [1] * many}
    run.edit("data/card.json", labels=names, class_counts=counts)
    finding = {"kind": "tiny", "split": "train", "name": "x" * 80, "label": names[0], "reason": "y" * 80, "twin": None}
    pictured = [finding | {"thumbnail": png(number, 64)} for number in range(48)]
    run.edit("data/audit.json", findings=pictured + [finding] * 5000, counts={"tiny": 5048})
    run.logits(many)
    results = run.results()
    html = page.render(results)
    assert len(html.encode()) < MOST_BYTES
    assert len(results.model_dump_json()) < MOST_BYTES / 4
    assert "4,930 more are in audit.json" in html
    assert "Images per class in train" in html


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    with browser() as one:
        yield one


def test_a_browser_shows_it_at_any_width_and_asks_for_nothing(html: str, tmp_path: Path, chromium: Browser) -> None:
    report = tmp_path / "report.html"
    report.write_text(html, encoding="utf-8")
    for width in WIDTHS:
        with opened(chromium, report, width, "dark" if width == "phone" else "light") as (shown, heard):
            shown.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)")
            assert heard == []
            assert shown.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
            broken = "[...document.images].filter(it => !it.naturalWidth).length"
            assert shown.evaluate(broken) == 0
            shown.get_by_role("link", name="Provenance").click()
            assert shown.get_by_role("heading", name="Provenance").is_visible()
