"""The demo page as a person uses it: in headless Chromium, by file, by keyboard, by drop and paste, on a phone."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from benchmarks.serving import ROOT, served
from pipeline.deployment import onnx_file
from serve.http import page as demo
from serve.model.classifier import OnnxClassifier
from serve.model.decode import MAX_PIXELS, decode
from tests import tiny_onnx
from tests.demo_page import ANSWERED, CHROMIUM, browser, verdict
from tests.serve.http.test_page import write_split

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt install chromium)")
expect.set_options(timeout=60_000)  # of a machine that is busy with the rest of the suite
MODELS = ("student", "teacher")
LABELS = (
    "cat",
    "<b>a label in tags</b>",
    "Rindfleischetikettierungsueberwachungsaufgabenuebertragungsgesetz",
    "d",
    "e",
    "f",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and a split."""
    folder = tmp_path_factory.mktemp("demo")
    for seed, name in enumerate(MODELS):
        onnx_file.write(tiny_onnx.build(8, len(LABELS), seed), tiny_onnx.card(name, LABELS, 8), folder / f"{name}.onnx")
    write_split(folder, labels=LABELS)
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, OnnxClassifier]:
    return {name: OnnxClassifier(folder / f"{name}.onnx") for name in MODELS}


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(folder / "student.onnx", folder / "teacher.onnx", "--samples", folder / "test") as server:
        yield server.url
        assert server.errors() == ""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as chromium:
        yield chromium


@pytest.fixture
def complaints() -> list[str]:
    """What the browser had to say; a test that expects something takes it out."""
    return []


@pytest.fixture
def page(chromium: Browser, url: str, complaints: list[str]) -> Iterator[Page]:
    page = chromium.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page.set_default_timeout(60_000)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    yield page
    page.close()
    assert complaints == []
    assert requests
    assert [to for to in requests if not to.startswith((f"{url}/", f"blob:{url}/"))] == []


def picture(path: Path, colour: tuple[int, int, int] = (250, 40, 10), size: tuple[int, int] = (60, 40)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def choose(page: Page, path: Path) -> None:
    page.locator("#file").set_input_files(path)


def shown(page: Page, model: str) -> list[tuple[str, str]]:
    """(label, percent) of each bar."""
    bars = page.get_by_role("article", name=model).locator(".bars li")
    texts = [(bar.locator(".label").inner_text(), bar.locator(".share").inner_text()) for bar in bars.all()]
    return [(label.removesuffix(" \u2013 true label"), share.replace("\u202f%", "")) for label, share in texts]


def expected(model: OnnxClassifier, data: bytes) -> list[tuple[str, str]]:
    probabilities = model(decode(data, 8)[None])[0]
    return [(LABELS[k], f"{100 * probabilities[k]:.1f}") for k in np.argsort(-probabilities)[:5]]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_file_gets_the_answers_of_both_models(
    page: Page, models: dict[str, OnnxClassifier], tmp_path: Path, suffix: str
) -> None:
    path = picture(tmp_path / f"picture.{suffix}")
    choose(page, path)
    expect(page.locator("#preview")).to_have_attribute("alt", path.name)
    wanted = {name: expected(model, path.read_bytes()) for name, model in models.items()}
    best = {name: bars[0][0] for name, bars in wanted.items()}
    for name in models:
        article = page.get_by_role("article", name=name)
        expect(article.locator(".answer")).to_have_text(best[name])
        assert shown(page, name) == wanted[name]
        expect(article.locator(".took")).to_contain_text(re.compile(r"^\d[\d.]*\u202fms$"))
        expect(article.locator(".bytes")).to_contain_text("kB")
        width = article.locator(".fill").first.evaluate("bar => bar.offsetWidth / bar.parentElement.offsetWidth")
        assert width == pytest.approx(float(wanted[name][0][1]) / 100, abs=0.02)
    if best["student"] == best["teacher"]:
        expect(page.locator("#verdict h1")).to_have_text(f"Student and teacher agree: {best['student']}.")
    else:
        said = f"Student says {best['student']}, teacher says {best['teacher']}."
        expect(page.locator("#verdict h1")).to_have_text(said)
    expect(page.locator("#rounds")).to_contain_text("9 requests")


def test_agreement_and_disagreement_are_said_in_words(
    page: Page, models: dict[str, OnnxClassifier], tmp_path: Path
) -> None:
    seen = set()
    generator = np.random.default_rng(0)
    for number in range(40):
        path = picture(tmp_path / f"{number}.png", tuple(generator.integers(0, 256, 3).tolist()))
        student, teacher = (expected(model, path.read_bytes()) for model in models.values())
        agree = student[0][0] == teacher[0][0]
        if agree in seen:
            continue
        seen.add(agree)
        choose(page, path)
        if agree:
            expect(page.locator("#verdict h1")).to_have_text(f"Student and teacher agree: {student[0][0]}.")
            expect(page.locator("#note")).to_have_text("")
        else:
            said = f"Student says {student[0][0]}, teacher says {teacher[0][0]}."
            expect(page.locator("#verdict h1")).to_have_text(said)
            expect(page.locator("#note")).to_contain_text(f"They disagree: {student[0][0]} is")
    assert seen == {True, False}


def test_a_sample_is_shown_first_with_its_true_label(page: Page, folder: Path) -> None:
    verdict(page)
    sample = demo.load_samples(folder / "test", LABELS)[0]
    expect(page.locator("#tray input").first).to_be_checked()
    expect(page.locator("#note")).to_contain_text(f"The data set says {sample.label}")
    expect(page.locator("#tray input")).to_have_count(demo.NUM_SAMPLES)


def test_the_keyboard_is_enough(page: Page, tmp_path: Path) -> None:
    page.on("filechooser", lambda chooser: None)  # from now on; begun with the key press it may come too late
    verdict(page)
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    assert page.locator("#drop").evaluate("drop => getComputedStyle(drop).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(picture(tmp_path / "mine.png"))
    expect(page.locator("#preview")).to_have_attribute("alt", "mine.png")
    expect(page.locator("#tray input:checked")).to_have_count(0)
    page.keyboard.press("Tab")
    expect(page.locator("#tray input").first).to_be_focused()
    page.keyboard.press("Space")
    expect(page.locator("#preview")).to_have_attribute("alt", "Sample 1")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#preview")).to_have_attribute("alt", "Sample 2")
    second = page.locator("#tray label").nth(1)
    assert second.evaluate("label => getComputedStyle(label).outlineStyle") == "solid"
    expect(page.locator("#note")).to_contain_text("The data set says")
    page.keyboard.press("Tab")  # past the whole tray, which is one stop
    expect(page.locator("#tray input:focus")).to_have_count(0)


def test_what_happens_is_announced(page: Page) -> None:
    verdict(page)
    assert page.locator("[role=status]").evaluate("region => region.contains(document.querySelector('h1'))")
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.get_by_role("radio").first).to_have_accessible_name(re.compile(r"^Sample 1, "))
    expect(page.get_by_role("group", name="Samples from the data set")).to_be_visible()
    expect(page.get_by_label("Choose")).to_have_count(1)
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_file_that_is_no_image_is_told_in_the_servers_words(
    page: Page, complaints: list[str], tmp_path: Path
) -> None:
    verdict(page)
    text = tmp_path / "text.png"
    text.write_text("<i>hello</i>")
    choose(page, text)
    expect(page.get_by_role("alert")).to_contain_text(
        "Expected an image (JPEG, PNG, WebP or HEIC), but this is something that"
    )
    expect(page.get_by_role("alert")).to_contain_text("<i>hello</i>")  # as text
    expect(page.locator(".bars li")).to_have_count(0)
    expect(page.locator("#verdict h1")).to_have_text("No answer.")
    choose(page, picture(tmp_path / "fine.png"))
    expect(page.locator(ANSWERED)).to_have_count(10)
    expect(page.get_by_role("alert")).to_have_text("")
    assert all("status of 400" in complaint for complaint in complaints)
    complaints.clear()


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(page: Page, tmp_path: Path, event: str) -> None:
    verdict(page)
    data = base64.b64encode(picture(tmp_path / "x.png").read_bytes()).decode()
    page.evaluate(
        """([event, data]) => {
            const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], `${event}.png`, { type: "image/png" }));
            const options = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
            document.body.dispatchEvent(
                event === "drop" ? new DragEvent(event, options) : new ClipboardEvent(event, options));
        }""",
        [event, data],
    )
    expect(page.locator("#preview")).to_have_attribute("alt", f"{event}.png")
    expect(page.locator("#verdict h1")).to_contain_text(re.compile("agree|says"))


@pytest.mark.parametrize("width", [320, 360, 390, 700, 900, 1280, 2560])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    verdict(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = "all => all.filter(e => e.offsetWidth && e.getBoundingClientRect().right > innerWidth + 1).length"
    assert page.locator("main *").evaluate_all(outside) == 0


def test_the_answers_are_in_the_first_screen_of_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    verdict(page)
    assert page.locator("#verdict h1").evaluate("heading => heading.getBoundingClientRect().bottom") < 844


def test_dark_light_and_still(chromium: Browser, url: str) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page = chromium.new_page(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]  # a literal
        page.goto(url)
        verdict(page)
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page.locator(".fill").first.evaluate("bar => getComputedStyle(bar).transitionDuration") == "0s"
        page.close()
    assert colours == {"light": "rgb(253, 252, 250)", "dark": "rgb(23, 23, 22)"}


def test_paper_shows_the_answers_and_no_controls(page: Page) -> None:
    verdict(page)
    page.emulate_media(media="print")
    for selector in ("#samples", "#hint", "#drop .call"):
        expect(page.locator(selector)).to_be_hidden()
    for selector in ("#verdict h1", "#preview", ".bars li >> nth=0"):
        expect(page.locator(selector)).to_be_visible()


def test_the_last_picture_wins(page: Page, tmp_path: Path, models: dict[str, OnnxClassifier]) -> None:
    verdict(page)
    for number in range(12):
        last = picture(tmp_path / f"{number}.png", (20 * number, 255 - 20 * number, 90))
        choose(page, last)
    expect(page.locator("#rounds")).to_contain_text("9 requests")
    page.wait_for_timeout(300)
    for name, model in models.items():
        assert shown(page, name) == expected(model, last.read_bytes())


def test_a_file_chosen_before_the_page_is_ready_is_not_lost(page: Page, tmp_path: Path) -> None:
    page.route("**/models", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.reload(wait_until="commit")
    path = picture(tmp_path / "early.png")
    choose(page, path)
    verdict(page)
    expect(page.locator("#rounds")).to_contain_text("9 requests")
    expect(page.locator("#preview")).to_have_attribute("alt", "early.png")
    expect(page.locator("#note")).not_to_contain_text("The data set says")


def test_one_model_without_samples(chromium: Browser, folder: Path, tmp_path: Path) -> None:
    with served(folder / "teacher.onnx") as server:
        page = chromium.new_page()
        page.goto(server.url)
        expect(page.locator("#verdict h1")).to_have_text("Show it a picture.")
        expect(page.locator("#samples")).to_be_hidden()
        choose(page, picture(tmp_path / "x.png"))
        expect(page.locator("#verdict h1")).to_have_text(re.compile(r"^(?!Show).+\.$"))
        expect(page.locator("#shares")).to_have_text("")
        page.close()


def test_a_token_is_asked_for_and_kept_by_the_page_alone(chromium: Browser, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("open-sesame\n")
    with served(folder / "student.onnx", "--samples", folder / "test", "--token-file", secret) as server:
        page = chromium.new_page()
        page.goto(server.url)
        field = page.get_by_label("This server asks for a token.")
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(field).to_be_visible()
        expect(page.get_by_role("alert")).to_contain_text("bearer token")
        field.fill("open-sesame")
        page.keyboard.press("Enter")
        verdict(page)
        expect(field).to_be_hidden()
        expect(page.locator("#tray img").first).to_have_attribute("src", re.compile("^blob:"))
        stored = page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
        )
        assert json.loads(stored) == [{}, {}, "", f"{server.url}/"]
        page.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_guide_says_what_works(url: str, folder: Path, tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "demo.md").read_text()
    run, curl, picture_ = re.findall(r"```sh\n(.*)\n```", guide)
    assert run.removeprefix("python -m serve run") == picture_.removeprefix("python -m tests.demo_page")
    assert run.split()[3:] == [
        "run",
        *(f"artifacts/deploy/{n}.onnx" for n in MODELS),
        "--samples",
        "data/prepared/test",
    ]
    assert f"at most {MAX_PIXELS // 10**6} million pixels" in guide
    picture(tmp_path / "picture.jpg")
    command = curl.replace("http://127.0.0.1:8000", url).replace("curl", "curl --silent --show-error --fail", 1)
    said = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    (example,) = re.findall(r"```json\n(.*)\n```", guide)
    answer, shape = json.loads(said.stdout), json.loads(example)
    assert len(answer["top"]) == 3
    assert list(answer) == list(shape)
    assert list(answer["top"][0]) == list(shape["top"][0])
    assert list(answer["milliseconds"]) == list(shape["milliseconds"])


def test_the_docs_picture_is_taken(folder: Path, tmp_path: Path) -> None:
    paths, out = [folder / f"{name}.onnx" for name in MODELS], tmp_path / "demo.png"
    command = [sys.executable, "-m", "tests.demo_page", *paths, "--samples", folder / "test", "--out", out]
    subprocess.run(command, cwd=ROOT, check=True)
    with Image.open(out) as image:
        assert image.width == 1280


def test_a_server_that_has_gone_is_told(chromium: Browser, folder: Path, tmp_path: Path) -> None:
    page = chromium.new_page()
    with served(folder / "student.onnx") as server:
        page.goto(server.url)
        page.locator("article").wait_for()
    choose(page, picture(tmp_path / "x.png"))
    expect(page.get_by_role("alert")).to_have_text("The server does not answer. Is it still running?")
    page.close()
