"""Models that are loaded and unloaded while a server answers: by the protocol's calls, and by SIGHUP."""

import asyncio
import io
import json
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from httpx import Response
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from tritonclient.utils import InferenceServerException

from benchmarks.serving import Served, served
from serve.http import repository
from serve.http.app import create_app
from serve.http.server import Server
from serve.http.tokens import digest
from serve.model import overflow
from serve.model.classifier import OnnxClassifier
from tests import tiny_onnx
from tests.waiting import until

TOKEN = "s3cret"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
LOAD = "/v2/repository/models/student/load"
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)


def expected(seed: int) -> np.ndarray:
    return tiny_onnx.expected_logits(PIXELS, seed=seed)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return tiny_onnx.write(tmp_path / "student.onnx")


@pytest.fixture
def client(student: Path) -> Iterator[TestClient]:
    app = create_app({"student": OnnxClassifier(student)}, tokens=frozenset([digest(TOKEN.encode())]))
    with TestClient(app, headers=HEADERS) as client:
        yield client


def logits(client: TestClient) -> list[float]:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": PIXELS.ravel().tolist()}
    answer = client.post("/v2/models/student/infer", json={"inputs": [tensor], "outputs": [{"name": "logits"}]})
    found: list[float] = answer.json()["outputs"][0]["data"]
    return found


def test_a_new_file_is_answered_with_once_it_is_loaded(client: TestClient, student: Path) -> None:
    tiny_onnx.write(student, seed=1)
    np.testing.assert_allclose([logits(client)], expected(0), rtol=1e-4, atol=1e-5)
    assert client.post(LOAD).json() == {}
    np.testing.assert_allclose([logits(client)], expected(1), rtol=1e-4, atol=1e-5)


def test_a_file_that_cannot_be_used_leaves_the_model_as_it_was(client: TestClient, student: Path) -> None:
    content = student.read_bytes()
    student.write_bytes(content[:100])
    answer = client.post(LOAD)
    assert answer.status_code == 400
    assert "student.onnx is not a usable Pupil model: it does not end in" in answer.json()["error"]
    tiny_onnx.write(student, "other")
    assert "and is 'other' now; start the server again" in client.post(LOAD).json()["error"]
    student.unlink()
    assert "there is no such file" in client.post(LOAD).json()["error"]
    np.testing.assert_allclose([logits(client)], expected(0), rtol=1e-4, atol=1e-5)


def test_an_unloaded_model_is_gone_until_it_is_loaded(client: TestClient) -> None:
    assert (
        client.post("/v2/repository/models/student/unload", json={"parameters": {"unload_dependents": True}}).json()
        == {}
    )
    index = [{"name": "student", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    assert client.post("/v2/repository/index").json() == index
    assert client.post("/v2/repository/index", json={"ready": True}).json() == []
    for path in ("/v2/models/student", "/v2/models/student/ready"):
        assert client.get(path).status_code == 404
    for path in ("/v2/models/student/infer", "/classify"):
        answer = client.post(path, content=b"")
        assert (answer.status_code, "only none at all" in answer.json()["error"]) == (404, True)
    assert client.get("/models").json() == {"models": []}
    assert client.post(LOAD, json={}).status_code == 200
    np.testing.assert_allclose([logits(client)], expected(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"parameters": {"file:1/model.onnx": "AAAA"}},
            "a model is read from the file that the server was started with",
        ),
        ({"parameters": {"config": "{}"}}, "Parameter 'config' is not offered"),
        ({"parameters": 1}, "'parameters' must be a JSON object"),
        ({"x": 1}, "The body has 'x'; it may have nothing but 'parameters'"),
        ([], "The body must be a JSON object"),
    ],
)
def test_nobody_sends_a_model(client: TestClient, content: object, said: str) -> None:
    answer = client.post(LOAD, json=content)
    assert (answer.status_code, said in answer.json()["error"]) == (400, True), answer.json()


def test_a_model_that_the_server_was_not_started_with_is_404(client: TestClient) -> None:
    answer = client.post("/v2/repository/models/%2e%2e%2fother/load")
    assert answer.status_code == 404
    assert client.post("/v2/repository/models/other/load").status_code == 404
    assert client.post("/v2/repository/index", json={"ready": "yes"}).status_code == 400


def test_requests_that_have_come_are_answered_by_the_old_model(student: Path) -> None:
    model, release = OnnxClassifier(student), threading.Event()
    outputs = model.outputs

    def slow(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        release.wait(20)
        return outputs(pixels)

    app = create_app({"student": model}, tokens=frozenset([digest(TOKEN.encode())]))
    with TestClient(app, headers=HEADERS) as client:
        model.outputs = slow  # type: ignore[method-assign]
        found: list[list[float]] = []
        waiting = [threading.Thread(target=lambda: found.append(logits(client))) for _ in range(3)]
        for each in waiting:
            each.start()
        old = app.state.repository.batchers["student"]
        until(lambda: old.num_waiting == 2)
        tiny_onnx.write(student, seed=1)
        assert client.post(LOAD).status_code == 200
        np.testing.assert_allclose([logits(client)], expected(1), rtol=1e-4, atol=1e-5)
        release.set()
        for each in waiting:
            each.join(20)
        np.testing.assert_allclose(found, np.repeat(expected(0), 3, 0), rtol=1e-4, atol=1e-5)
        until(lambda: not any(each.name == "student" and each.is_alive() for each in old._threads))


def test_unloaded_and_loaded_again_a_model_has_its_old_place(tmp_path: Path) -> None:
    models = tiny_onnx.classifiers(tmp_path, {"student": (8, 3, 0), "teacher": (4, 5, 1)})
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    app = create_app(models, tokens=frozenset([digest(TOKEN.encode())]))
    with TestClient(app, headers=HEADERS) as client:

        def classify() -> Response:
            return client.post("/classify", content=picture.getvalue(), headers={"Content-Type": "image/png"})

        assert classify().json()["model"] == "student"
        assert client.post("/v2/repository/models/student/unload").status_code == 200
        answer = classify()  # not by the teacher, which nobody asked
        said = "There is no model 'student' here, only teacher."
        assert (answer.status_code, answer.json()["error"]) == (404, said)
        assert client.post(LOAD).status_code == 200
        assert classify().json()["model"] == "student"
        assert [each["name"] for each in client.get("/models").json()["models"]] == ["student", "teacher"]


def providers(client: TestClient) -> dict[str, float]:
    """By model and provider."""
    return {
        f"{sample.labels['model']} {sample.labels['provider']}": sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "pupil_model_provider"
    }


def test_the_metrics_name_the_provider_of_what_is_served_alone(
    client: TestClient, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served_by = f"student {OnnxClassifier(student).provider}"
    assert providers(client) == {served_by: 1}

    class Elsewhere(OnnxClassifier):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.provider = "ElsewhereExecutionProvider"

    monkeypatch.setattr(repository, "OnnxClassifier", Elsewhere)
    tiny_onnx.write(student, "other")
    assert client.post(LOAD).status_code == 400
    assert providers(client) == {served_by: 1}
    assert 'model="other"' not in client.get("/metrics").text
    tiny_onnx.write(student)
    assert client.post(LOAD).status_code == 200
    assert providers(client) == {served_by: 0, "student ElsewhereExecutionProvider": 1}
    assert client.post("/v2/repository/models/student/unload").status_code == 200
    assert providers(client) == {served_by: 0, "student ElsewhereExecutionProvider": 0}


class Held(OnnxClassifier):
    """A model whose loading ends when it may, on what its file was at the beginning."""

    begun = 0
    may_end = threading.Event()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Held.begun += 1
        assert Held.may_end.wait(20)


async def _reach(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_hangup_while_files_are_read_has_them_read_once_more(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app({"student": OnnxClassifier(student)})
    monkeypatch.setattr(repository, "OnnxClassifier", Held)
    monkeypatch.setattr(Held, "begun", 0)
    monkeypatch.setattr(Held, "may_end", threading.Event())

    async def main() -> None:
        server = Server(app, lambda: None)
        server._on_hangup()
        await _reach(lambda: Held.begun == 1)
        tiny_onnx.write(student, seed=1)  # too late for the reading that is under way
        server._on_hangup()
        server._on_hangup()
        Held.may_end.set()
        assert server._reading is not None
        await server._reading
        model = app.state.repository.batchers["student"].model
        np.testing.assert_allclose(model.outputs(PIXELS)[1], expected(1), rtol=1e-4, atol=1e-5)
        assert Held.begun == 2
        server._on_hangup()  # and a later one is heard as the first was
        await server._reading
        assert Held.begun == 3

    asyncio.run(main())


def test_weights_that_overflow_here_are_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "overflows", lambda: True)
    path = tiny_onnx.write(tmp_path / "student.onnx", precision="int8", weight_bits=8)
    create_app({"student": OnnxClassifier(path, device="cpu")})
    assert caplog.messages[0].startswith(f"{path} has weights of 8 bits, whose sums overflow on this processor")


def test_a_hangup_leaves_unloaded_what_was_unloaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    models = tiny_onnx.classifiers(tmp_path, {"student": (8, 3, 0), "teacher": (4, 5, 1)})
    app = create_app(models)
    (tmp_path / "student.onnx").write_bytes(b"torn")

    async def main() -> None:
        server = Server(app, lambda: None)
        await app.state.repository.unload("student")
        server._on_hangup()
        assert server._reading is not None
        await server._reading

    with caplog.at_level("INFO", "serve.http.server"):
        asyncio.run(main())
    # Nothing is said of the student's file: "Until then student is served as it was" would be untrue.
    assert [record.message for record in caplog.records] == ["The files were read again."]
    assert list(app.state.repository.batchers) == ["teacher"]


def test_tritonclient_loads_and_unloads(student: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"other\n{TOKEN}\n")
    with served(student, "--token-file", tmp_path / "token") as server:
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            with pytest.raises(InferenceServerException, match="wants a bearer token"):
                client.unload_model("student")
            client.unload_model("student", HEADERS)
            assert client.get_model_repository_index(HEADERS)[0]["state"] == "UNAVAILABLE"
            assert not client.is_model_ready("student", headers=HEADERS)
            client.load_model("student", HEADERS)
            assert client.is_model_ready("student", headers=HEADERS)
            with pytest.raises(InferenceServerException, match="is not offered"):
                client.load_model("student", HEADERS, config="{}")
        assert server.stop() == 0
        assert server.errors() == ""


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_sighup_takes_new_models_and_tokens_and_loses_no_request(
    student: Path, tmp_path: Path, num_workers: int
) -> None:
    tokens = tmp_path / "token"
    tokens.write_text(TOKEN + "\n")
    with served(student, "--token-file", tokens, "--workers", num_workers) as server:
        if num_workers > 1:
            request = urllib.request.Request(server.url + LOAD, b"{}", HEADERS)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=20)
            assert f"Send SIGHUP to process {server.process.pid}" in json.loads(refused.value.read())["error"]
            refused.value.close()
        over, answers = threading.Event(), list[float]()
        client = threading.Thread(target=lambda: answers.extend(_ask_until(over, server)))
        client.start()
        until(lambda: len(answers) > 0)
        tiny_onnx.write(student, seed=1)
        tokens.write_text(f"new\n{TOKEN}\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: _read_again(server) == num_workers)
        first = len(answers)
        until(lambda: len(answers) > first + 1)
        over.set()
        client.join(20)
        old, new = expected(0)[0, 0], expected(1)[0, 0]
        assert {_nearest(value, old, new) for value in answers} == {old, new}
        assert _nearest(_ask(server, "new"), old, new) == new
        # What cannot be used stays as it was, and the log says so.
        student.write_bytes(b"torn")
        tokens.write_text("")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: _read_again(server) == 2 * num_workers)
        assert _nearest(_ask(server, TOKEN), old, new) == new
        assert server.stop() == 0
        errors = [line["message"] for line in map(json.loads, server.errors().splitlines()) if line["level"] == "error"]
    assert len(errors) == 2 * num_workers
    assert {error.partition("token is")[2] or error.rpartition(" Until")[2] for error in errors} == {
        " empty; write one token into each line. Until then the server goes on with the tokens that it had.",
        " then student is served as it was.",
    }


def _ask(server: Served, token: str) -> float:
    """The first logit."""
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": PIXELS.ravel().tolist()}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "logits"}]}).encode()
    request = urllib.request.Request(
        server.url + "/v2/models/student/infer", body, {"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        value: float = json.loads(answer.read())["outputs"][0]["data"][0]
        return value


def _ask_until(over: threading.Event, server: Served) -> Iterator[float]:
    while not over.is_set():
        yield _ask(server, TOKEN)


def _nearest(value: float, *others: float) -> float:
    return next(other for other in others if abs(value - other) < 1e-4)


def _read_again(server: Served) -> int:
    return server.errors().count("The files were read again.")
