"""What the demo page is made of: fixed files, cards, samples; a browser's part is in test_page_in_browser.py."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pipeline.data import arrays
from pipeline.data import card as cards
from pipeline.data.card import DataCard
from pipeline.deployment import onnx_file
from pipeline.settings.data import Normalization
from serve.__main__ import main
from serve.errors import ServeError
from serve.http import page as demo
from serve.http.app import create_app
from serve.model.classifier import OnnxClassifier
from tests import tiny_onnx

LABELS = ("class 0", "class 1", "class 2")


def write_split(
    folder: Path, num: int = 40, image_px: int = 8, labels: tuple[str, ...] = LABELS, storage_px: int | None = None
) -> Path:
    """A prepared split `folder`/test with its card, by the pipeline's own writers."""
    generator = np.random.default_rng(0)
    stored_px = storage_px or image_px
    images = generator.integers(0, 256, (num, stored_px, stored_px, 3), dtype=np.uint8)
    images[:, ..., 0] //= 1 + np.arange(num, dtype=np.uint8)[:, None, None] % 5  # of different mean colours
    split = folder / "test"
    split.mkdir(parents=True, exist_ok=True)
    with arrays.ImagesWriter(split / "images.npy", num, stored_px) as writer:
        for image in images:
            writer.add(image)
        writer.finish()
    arrays.write_labels(split / "labels.npy", np.arange(num, dtype=np.int64) % len(labels))
    card = DataCard(
        source="noise",
        labels=labels,
        image_px=image_px,
        storage_px=stored_px,
        counts={"test": num},
        class_counts={"test": tuple(np.bincount(np.arange(num) % len(labels)).tolist())},
        normalization=Normalization(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
        sha256={},
        licence=None,
    )
    (folder / "card.json").write_text(card.model_dump_json())
    return split


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OnnxClassifier]:
    folder = tmp_path_factory.mktemp("onnx")
    return {
        name: OnnxClassifier(tiny_onnx.write(folder / f"{name}.onnx", name, seed=seed), device="cpu")
        for seed, name in enumerate(("student", "teacher"))
    }


@pytest.fixture(scope="module")
def client(models: dict[str, OnnxClassifier], split: Path) -> Iterator[TestClient]:
    with TestClient(create_app(models, samples=demo.load_samples(split, LABELS))) as client:
        yield client


def test_the_page_and_its_parts_come_from_memory(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a request touched the file system")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("os.stat", refuse)
    for path, (_, kind) in demo.FILES.items():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == kind
        assert len(answer.content) > 100
    assert client.get("/samples/3.png").status_code == 200


def test_every_file_of_the_folder_is_served_and_every_reference_leads_somewhere(client: TestClient) -> None:
    assert {name for name, _ in demo.FILES.values()} == {path.name for path in demo.STATIC.iterdir()}
    page = client.get("/").text
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/demo.js", "/models", "/samples", "/samples/0.png"])
def test_nothing_from_elsewhere_and_nothing_inline(client: TestClient, path: str) -> None:
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"https?://(?!127\.0\.0\.1|www\.w3\.org/2000/svg)", answer.text if path[-3:] != "png" else "")


def test_the_page_has_no_inline_script_or_style(client: TestClient) -> None:
    page = client.get("/").text
    assert not re.search(r"<style|style=|<script>|\son[a-z]+=|javascript:", page)
    script = client.get("/static/demo.js").text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_models_are_what_their_cards_say(client: TestClient, models: dict[str, OnnxClassifier], split: Path) -> None:
    listed = client.get("/models").json()["models"]
    assert [model["name"] for model in listed] == ["student", "teacher"]
    card = models["student"].card
    assert listed[0] == {
        "name": "student",
        "arch": card.arch,
        "method": card.method,
        "num_labels": 3,
        "image_px": 8,
        "num_parameters": card.num_parameters,
        "macs": card.macs,
        "file_bytes": models["student"].file_bytes,
        "metrics": {"top1": 50.0, "top5": 100.0},
    }


def test_file_bytes_is_the_size_on_disk(tmp_path: Path) -> None:
    path = tiny_onnx.write(tmp_path / "student.onnx")
    assert OnnxClassifier(path).file_bytes == len(path.read_bytes())


def test_a_sample_is_answered_as_evaluation_would(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "data", image_px=8, storage_px=11)
    path = tmp_path / "student.onnx"
    onnx_file.write(tiny_onnx.build(), tiny_onnx.card("student", LABELS, 8, 11), path)
    model = OnnxClassifier(path, device="cpu")
    split = arrays.Split.load(folder.parent, "test", cards.load(folder.parent))
    answers = model(split.central_reader()(np.arange(len(split))))
    with TestClient(create_app({"student": model}, samples=demo.load_samples(folder, LABELS))) as client:
        listed = client.get("/samples").json()["samples"]
        for sample in listed:
            data = client.get(sample["url"]).content
            (position,) = np.flatnonzero((split.images == np.asarray(Image.open(io.BytesIO(data)))).all((1, 2, 3)))
            top = client.post("/classify?top=3", content=data, headers={"Content-Type": "image/png"}).json()["top"]
            came = {answer["label"]: answer["probability"] for answer in top}
            assert came == pytest.approx(dict(zip(LABELS, answers[position].tolist(), strict=True)), rel=1e-6)


def test_samples_are_images_of_the_split_with_their_true_labels(client: TestClient, split: Path) -> None:
    images, labels = np.load(split / "images.npy"), np.load(split / "labels.npy")
    listed = client.get("/samples").json()["samples"]
    assert len(listed) == demo.NUM_SAMPLES
    found = []
    for sample in listed:
        answer = client.get(sample["url"])
        assert answer.headers["content-type"] == "image/png"
        pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
        (position,) = np.flatnonzero((images == pixels).all(axis=(1, 2, 3)))
        assert sample["label"] == LABELS[labels[position]]
        found.append(position)
    assert len(set(found)) == demo.NUM_SAMPLES
    assert demo.load_samples(split, LABELS) == demo.load_samples(split, LABELS)


def test_a_small_split_is_shown_whole(tmp_path: Path) -> None:
    assert len(demo.load_samples(write_split(tmp_path, num=5), LABELS)) == 5


def test_without_samples_there_are_none(models: dict[str, OnnxClassifier]) -> None:
    with TestClient(create_app(models)) as client:
        assert client.get("/samples").json() == {"samples": []}
        answer = client.get("/samples/0.png")
    assert answer.status_code == 404
    assert answer.json()["error"] == "There is no sample 0; there are 0, counted from 0."


@pytest.mark.parametrize(
    "path", ["/samples/24.png", "/samples/-1.png", "/samples/x.png", "/samples/99999999999999999999.png"]
)
def test_samples_that_are_none(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/index.html",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "//etc/passwd",
    ],
)
def test_paths_that_lead_out_lead_nowhere(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "is not served here" in answer.json()["error"]


def broken(tmp_path: Path, images: object = None, labels: object = None, card: str | None = None) -> Path:
    split = write_split(tmp_path)
    for name, value in (("images", images), ("labels", labels)):
        if isinstance(value, bytes):
            (split / f"{name}.npy").write_bytes(value)
        elif value is not None:
            np.save(split / f"{name}.npy", np.asarray(value), allow_pickle=True)
    if card is not None:
        (tmp_path / "card.json").write_text(card)
    return split


NAMES = json.dumps({"labels": LABELS})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"card": "{"}, "is no prepared split"),
        ({"card": "[]"}, "is of another data set"),
        ({"card": json.dumps({"labels": ["cat", "dog", "cow"]})}, "is of another data set"),
        ({"images": b"no array"}, "is no prepared split"),
        ({"images": np.array([{}, {}], dtype=object)}, "is no prepared split (Array can"),
        ({"images": np.zeros((40, 8, 8, 3), np.float32)}, "images.npy is float32 (40, 8, 8, 3), expected uint8"),
        ({"images": np.zeros((40, 8, 8), np.uint8)}, "images.npy is uint8 (40, 8, 8), expected uint8 (N, H, W, 3)"),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8)}, "images.npy is uint8 (0, 8, 8, 3)"),
        ({"labels": np.zeros(39, np.int64)}, "labels.npy is int64 (39,), expected int64 (40,)"),
        ({"labels": np.zeros(40, np.float64)}, "labels.npy is float64 (40,), expected int64 (40,)"),
        ({"labels": np.full(40, 3), "card": NAMES}, "labels.npy holds class numbers outside of 0..2"),
    ],
)
def test_folders_that_are_no_split_are_named(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ServeError) as error:
        demo.load_samples(broken(tmp_path, **changes), LABELS)  # type: ignore[arg-type]
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_says_what_a_folder_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_onnx.write(tmp_path / "student.onnx")
    assert main(["run", str(path), "--samples", str(tmp_path / "nowhere")]) == 1
    assert "nowhere is no prepared split" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(client: TestClient, scheme: str) -> None:
    """Contrast of at least 4.5 by WCAG 2.2, success criterion 1.4.3."""
    light, dark = re.findall(r":root \{([^}]*--paper[^}]*--accent[^}]*)\}", client.get("/static/demo.css").text)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light if scheme == "light" else dark))

    def luminance(colour: str) -> float:
        values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for text, background in [("ink", "paper"), ("muted", "paper"), ("accent", "paper"), ("ink", "well")]:
        low, high = sorted([luminance(colours[text]), luminance(colours[background])])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, background)
