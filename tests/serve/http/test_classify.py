"""POST /classify over real models: what the model answers in process, and one clear sentence for what is wrong."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from serve.errors import ClientLeft, Overloaded
from serve.http.app import create_app
from serve.http.batching import Batching
from serve.http.classify import Decoder
from serve.http.limits import Limits
from serve.model.classifier import OnnxClassifier
from serve.model.decode import decode
from tests import tiny_onnx

LIMIT = 50_000
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OnnxClassifier]:
    sizes = {"student": (8, 7, 0), "teacher": (4, 3, 1)}
    return tiny_onnx.classifiers(tmp_path_factory.mktemp("onnx"), sizes)


@pytest.fixture(scope="module")
def client(models: dict[str, OnnxClassifier]) -> Iterator[TestClient]:
    with TestClient(create_app(models, Limits(max_body_bytes=LIMIT))) as client:
        yield client


def picture(kind: str = "PNG", size: tuple[int, int] = (30, 20), seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def large() -> bytes:
    """A picture that takes a tenth of a second to decode, and 3 kB."""
    file = io.BytesIO()
    Image.new("1", (5000, 5000)).save(file, "PNG")
    return file.getvalue()


def expected(model: OnnxClassifier, data: bytes, top: int) -> list[dict[str, Any]]:
    probabilities = model(decode(data, model.card.image_px, model.card.resize_px)[None])[0]
    best = sorted(range(len(probabilities)), key=lambda k: -probabilities[k])[:top]
    return [{"label": model.card.labels[k], "probability": float(probabilities[k])} for k in best]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", ["student", "teacher"])
def test_it_answers_what_the_model_answers(
    client: TestClient, models: dict[str, OnnxClassifier], kind: str, name: str
) -> None:
    data = picture(kind)
    answer = client.post(f"/classify?model={name}&top=2", content=data, headers={"Content-Type": "image/x"})
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["model", "top", "milliseconds"]
    assert body["model"] == name
    assert body["top"] == expected(models[name], data, 2)
    assert set(body["milliseconds"]) == {"decode", "infer"}
    assert all(0 < value < 10_000 for value in body["milliseconds"].values())


def test_the_first_model_and_five_labels_unless_asked_otherwise(
    client: TestClient, models: dict[str, OnnxClassifier]
) -> None:
    data = picture()
    body = client.post("/classify", content=data, headers=JPEG).json()  # a PNG: what it is sent as plays no part
    assert body["model"] == "student"
    assert body["top"] == expected(models["student"], data, 5)
    every = client.post("/classify?top=999", content=data, headers=JPEG).json()["top"]
    assert every == expected(models["student"], data, 7)
    assert sum(entry["probability"] for entry in every) == pytest.approx(1, abs=1e-6)


def test_without_a_content_type_the_bytes_decide(client: TestClient) -> None:
    request = client.build_request("POST", "/classify", content=picture())
    assert "content-type" not in request.headers
    assert client.send(request).status_code == 200


@pytest.mark.parametrize(
    ("query", "status", "complaint"),
    [
        ("model=nobody", 404, "There is no model 'nobody' here, only student, teacher."),
        ("model=", 404, "There is no model ''"),
        ("model=" + "x" * 5000, 404, "There is no model 'xxx"),
        ("top=0", 400, "'top' must be a number of labels from 1 on, not '0'."),
        ("top=-1", 400, "not '-1'"),
        ("top=2.5", 400, "not '2.5'"),
        ("top=%C2%B2", 400, "not '\u00b2'"),
        ("top=" + "9" * 5000, 400, "'top' must be"),
        ("modle=student", 400, "There is no query parameter 'modle'; there are model and top."),
        ("top=1&top=2", 400, "'top' is given more than once"),
    ],
)
def test_bad_queries(client: TestClient, query: str, status: int, complaint: str) -> None:
    answer = client.post(f"/classify?{query}", content=picture(), headers=JPEG)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert complaint in answer.json()["error"]
    assert len(answer.json()["error"]) < 200


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/plain"])
def test_other_content_types_are_told_how(client: TestClient, kind: str) -> None:
    answer = client.post("/classify", content=picture(), headers={"Content-Type": kind})
    assert answer.status_code == 415
    sentence = f"not {kind.partition(';')[0]}."
    assert answer.json()["error"].startswith("Send the image itself as the body, with Content-Type image/jpeg")
    assert answer.json()["error"].endswith(sentence)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "Expected an image (JPEG, PNG, WebP or HEIC), but nothing came."),
        (b"just words", "something that begins with b'just words'"),
        (b"GIF89a" + bytes(20), "this is a GIF"),
        (picture("JPEG")[:300], "The image ends after 300 bytes"),
        (picture("JPEG")[:-200], "The JPEG file is incomplete or broken"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x75\x30\0\0\x75\x30\1\0\0\0\0" + bytes(30), "30000 x 30000 pixels"),
    ],
)
def test_what_is_no_image_is_a_400_with_one_clear_sentence(client: TestClient, data: bytes, complaint: str) -> None:
    answer = client.post("/classify", content=data, headers={"Content-Type": "image/png"})
    assert answer.status_code == 400
    assert complaint in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_body_beyond_the_limit_is_a_413(client: TestClient) -> None:
    answer = client.post("/classify", content=bytes(LIMIT + 1), headers=JPEG)
    assert answer.status_code == 413
    assert f"limit of {LIMIT} bytes" in answer.json()["error"]


def test_get_is_not_served(client: TestClient) -> None:
    answer = client.get("/classify")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_many_pictures_at_once_get_their_own_answers(models: dict[str, OnnxClassifier]) -> None:
    pictures = [picture(seed=seed) for seed in range(40)]
    app = create_app(models)
    answers: dict[int, bytes] = {}

    async def ask(number: int) -> None:
        scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "root_path": ""}
        scope |= {"path": "/classify", "raw_path": b"/classify", "query_string": b"top=7", "headers": []}
        answers[number] = b""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": pictures[number]}

        async def send(message: Any) -> None:
            answers[number] += message.get("body", b"")

        await app(scope, receive, send)

    async def all_at_once() -> None:
        async with anyio.create_task_group() as group:
            for number in range(len(pictures)):
                group.start_soon(ask, number)

    anyio.run(all_at_once)
    for number, data in enumerate(pictures):
        came = json.loads(answers[number])["top"]
        wanted = expected(models["student"], data, 7)
        assert [entry["label"] for entry in came] == [entry["label"] for entry in wanted]
        # In a batch the last bits may differ.
        np.testing.assert_allclose(
            [entry["probability"] for entry in came], [entry["probability"] for entry in wanted], rtol=1e-5
        )


def test_the_event_loop_is_free_and_the_queue_bounded_while_images_are_decoded() -> None:
    data = large()
    outcomes: list[str] = []
    ticks = 0

    async def ask(decoder: Decoder) -> None:
        try:
            pixels = await decoder(data, 8, 8)
        except Overloaded as error:
            outcomes.append(str(error))
        else:
            outcomes.append(f"{pixels.shape}")

    async def run() -> None:
        nonlocal ticks
        decoder = Decoder(max_running=1, max_waiting=2)
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask, decoder)
            while len(outcomes) < 5:
                await anyio.sleep(0.001)
                ticks += 1

    anyio.run(run)
    assert outcomes == ["2 images wait already to be decoded; try again later."] * 2 + ["(8, 8, 3)"] * 3
    assert ticks > 5


def test_an_image_whose_time_is_over_is_not_begun() -> None:
    asked_for: list[str] = []  # as a thread begins

    def is_left(name: str) -> bool:
        asked_for.append(name)
        return False

    async def run() -> None:
        decoder = Decoder(max_running=1)
        before = asyncio.create_task(decoder(large(), 8, 8, is_left=lambda: is_left("before")))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await decoder(picture(), 8, 8, limit_s=0, is_left=lambda: is_left("too late"))
        await before
        await decoder(picture(), 8, 8, is_left=lambda: is_left("after"))

    asyncio.run(run())
    assert asked_for == ["before", "after"]


def test_clients_that_have_left_make_room_for_others() -> None:
    async def run() -> list[object]:
        decoder = Decoder(max_running=1, max_waiting=2)
        asked = [decoder(large(), 8, 8), *(decoder(picture(), 8, 8, is_left=lambda: True) for _ in range(2))]
        tasks = [asyncio.create_task(each) for each in asked]
        await asyncio.sleep(0)
        assert (await decoder(picture(), 8, 8)).shape == (8, 8, 3)
        return [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)]

    assert asyncio.run(run()) == [np.ndarray, ClientLeft, ClientLeft]


def test_a_picture_that_takes_too_long_is_a_503(models: dict[str, OnnxClassifier]) -> None:
    with TestClient(create_app(models, batching=Batching(deadline_ms=1))) as client:
        answer = client.post("/classify", content=large(), headers=JPEG)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.json()["error"] == "The image was not decoded within 1 ms; try again later."


def test_no_path_from_a_request_touches_the_file_system(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"")
    for name in (f"{tmp_path}/x.onnx", "../student", "student.onnx"):
        assert client.post("/classify", params={"model": name}, content=picture(), headers=JPEG).status_code == 404
