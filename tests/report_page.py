"""The report in headless Chromium: for its tests, and for its pictures in the docs:

python -m tests.report_page report/report.html

writes docs/report-desktop.png and docs/report-phone.png: the first screens of each.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page

from benchmarks.serving import ROOT
from tests.demo_page import browser

WIDTHS = {"desktop": 1280, "phone": 390}
_HEIGHTS = {"desktop": 1500, "phone": 1400}
"""Of the pictures: the answer and what follows."""


@contextmanager
def opened(
    chromium: Browser, report: Path, width: str, color_scheme: Literal["light", "dark"] = "light"
) -> Iterator[tuple[Page, list[str]]]:
    """The page at a width of WIDTHS, and what it asked for or complained of meanwhile, itself apart."""
    heard: list[str] = []
    size = {"width": WIDTHS[width], "height": _HEIGHTS[width]}
    context = chromium.new_context(
        viewport={"width": size["width"], "height": size["height"]},
        device_scale_factor=2 if width == "phone" else 1,
        color_scheme=color_scheme,
    )
    page = context.new_page()
    page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url) if not request.url.startswith("data:") else None)
    url = report.absolute().as_uri()
    page.goto(url)
    heard.remove(url)
    yield page, heard
    context.close()


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser("python -m tests.report_page")
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    with browser() as chromium:
        for width in WIDTHS:
            with opened(chromium, arguments.report, width) as (page, _):
                page.screenshot(path=arguments.out / f"report-{width}.png")


if __name__ == "__main__":
    main()
