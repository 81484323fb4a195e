"""The demo page in headless Chromium: for its tests, and for its picture in the docs:

python -m tests.demo_page artifacts/deploy/deployed.onnx artifacts/deploy/teacher.onnx --samples data/prepared/test

writes docs/demo.png. Chromium is the system's (Debian: apt install chromium); none is downloaded.
"""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.serving import ROOT, served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ANSWERED = "#models[aria-busy=false] .bars li"


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def verdict(page: Page) -> str:
    """The sentence at the top, once there is an answer."""
    page.locator(ANSWERED).first.wait_for()
    return page.locator("#verdict h1").inner_text()


def main() -> None:
    """Take docs/demo.png: of the samples, the first on which the models agree and are right."""
    parser = argparse.ArgumentParser("python -m tests.demo_page")
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "demo.png")
    arguments = parser.parse_args()
    with served(*arguments.models, "--samples", arguments.samples) as server, browser() as chromium:
        page = chromium.new_page(viewport={"width": 1280, "height": 880}, color_scheme="light", reduced_motion="reduce")
        page.goto(server.url)
        note = page.locator("#note")
        for sample in page.locator("#tray input").all():
            sample.check(force=True)
            expect(note).to_contain_text("The data set says")
            if note.inner_text().endswith("too."):
                break
        expect(page.locator("#rounds")).to_contain_text("9 requests")
        page.mouse.move(0, 0)
        page.screenshot(path=arguments.out, full_page=True)


if __name__ == "__main__":
    main()
