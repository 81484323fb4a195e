"""serve.http.app over a real model: the protocol's answers, and one clear sentence for everything that is wrong."""

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serve.http import classification
from serve.http.app import VERSION, create_app
from serve.http.batching import Batching
from serve.http.binary_tensors import HEADER
from serve.http.limits import Limits
from serve.http.tokens import digest
from serve.model.classifier import OnnxClassifier
from tests import tiny_onnx

LIMIT = 20_000
INFER = "/v2/models/student/infer"
EXTENSIONS = ["binary_tensor_data", "classification", "model_repository"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OnnxClassifier]:
    sizes = {"student": (8, 3, 0), "teacher": (4, 5, 1)}
    return tiny_onnx.classifiers(tmp_path_factory.mktemp("onnx"), sizes)


@pytest.fixture(scope="module")
def client(models: dict[str, OnnxClassifier]) -> Iterator[TestClient]:
    with TestClient(create_app(models, Limits(max_body_bytes=LIMIT))) as client:
        yield client


def pixels(n: int = 2, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def tensor(images: np.ndarray, **changes: Any) -> dict[str, Any]:
    whole = {"name": "pixels", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}
    return {key: value for key, value in (whole | changes).items() if value is not ...}  # `...` leaves a key out


def request(images: np.ndarray | None = None, **changes: Any) -> dict[str, Any]:
    return {"inputs": [tensor(pixels() if images is None else images, **changes)]}


def test_server_metadata_and_health(client: TestClient) -> None:
    assert client.get("/v2").json() == {"name": "pupil", "version": VERSION, "extensions": EXTENSIONS}
    assert client.get("/v2/").json()["name"] == "pupil"  # the spelling of the OpenAPI file
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/teacher/ready").json() == {"name": "teacher", "ready": True}


def test_version_is_that_of_the_project() -> None:
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert f'\nversion = "{VERSION}"\n' in project


def test_the_metrics_name_the_provider_that_computes(client: TestClient, models: dict[str, OnnxClassifier]) -> None:
    text = client.get("/metrics").text
    for name, model in models.items():
        assert f'pupil_model_provider{{model="{name}",provider="{model.provider}"}} 1.0' in text


def test_model_metadata(client: TestClient, models: dict[str, OnnxClassifier]) -> None:
    assert client.get("/v2/models/teacher").json() == {
        "name": "teacher",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 4, 4, 3]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 5]},
            {"name": "logits", "datatype": "FP32", "shape": [-1, 5]},
        ],
        "parameters": {"labels": list(models["teacher"].card.labels), "provider": models["teacher"].provider},
    }


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("is_nested", [False, True])
def test_infer_answers_what_the_model_answers(
    client: TestClient, models: dict[str, OnnxClassifier], n: int, is_nested: bool
) -> None:
    images = pixels(n)
    data = images.tolist() if is_nested else images.ravel().tolist()
    answer = client.post(INFER, json=request(images, data=data))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["model_name", "model_version", "outputs"]  # no id was given, none comes back
    assert (body["model_name"], body["model_version"]) == ("student", "1")
    names = ["probabilities", "logits"]
    assert [output["name"] for output in body["outputs"]] == names
    for output, expected in zip(body["outputs"], models["student"].outputs(images), strict=True):
        assert output["datatype"] == "FP32"
        assert output["shape"] == [n, 3]
        # Bit for bit: JSON carries a float32 exactly.
        np.testing.assert_array_equal(np.array(output["data"], dtype=np.float32).reshape(n, 3), expected)


@pytest.mark.parametrize("id_", ["42", "", "Grüße", "\U0001f431"])
def test_id_comes_back(client: TestClient, id_: str) -> None:
    content = json.dumps({"id": id_, **request()}).encode()
    assert client.post(INFER, content=content).json()["id"] == id_


def test_parameters_are_accepted(client: TestClient) -> None:
    body = request(parameters={"colour": "blue"}) | {"parameters": {"priority": 1}}
    body["outputs"] = [{"name": "logits", "parameters": {"binary_data": False}}]
    assert client.post(INFER, json=body).status_code == 200


@pytest.mark.parametrize("names", [["logits"], ["logits", "probabilities"], ["probabilities"]])
def test_only_the_outputs_asked_for_in_their_order(client: TestClient, names: list[str]) -> None:
    outputs = [{"name": name} for name in names]
    answer = client.post(INFER, json=request() | {"outputs": outputs}).json()
    assert [output["name"] for output in answer["outputs"]] == names


def test_an_empty_list_of_outputs_asks_for_all(client: TestClient) -> None:
    assert len(client.post(INFER, json=request() | {"outputs": []}).json()["outputs"]) == 2


def test_many_clients_get_their_own_answers(client: TestClient, models: dict[str, OnnxClassifier]) -> None:
    def ask(seed: int) -> None:
        images = pixels(1 + seed % 3, seed=seed)
        answer = client.post(INFER, json={"id": str(seed), **request(images)}).json()
        assert answer["id"] == str(seed)
        expected = models["student"](images).ravel()
        np.testing.assert_array_equal(np.array(answer["outputs"][0]["data"], dtype=np.float32), expected)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(60)))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[" * 19_000, "not JSON in UTF-8: depth limit exceeded"),
        (b"[]", "The body must be a JSON object"),
        (b"null", "The body must be a JSON object, not nothing"),
    ],
)
def test_bodies_that_are_no_request(client: TestClient, content: bytes, complaint: str) -> None:
    answer = client.post(INFER, content=content)
    assert answer.status_code == 400
    assert complaint in answer.json()["error"]


HUGE = 10**4000
WRONG = [
    ({"inputs": ...}, "exactly one tensor, 'pixels', not nothing"),
    ({"inputs": []}, "exactly one tensor"),
    ({"inputs": [tensor(pixels()), tensor(pixels())]}, "exactly one tensor"),
    ({"inputs": {}}, "exactly one tensor"),
    ({"inputs": [3]}, "The input must be a JSON object, not 3"),
    (request(name="image"), "must be named 'pixels', not 'image'"),
    (request(name=...), "must be named 'pixels', not nothing"),
    (request(datatype="FP32"), "datatype 'UINT8', not 'FP32'"),
    (request(datatype=...), "datatype 'UINT8', not nothing"),
    (request(parameters=3), "'parameters' must be a JSON object, not 3"),
    (request() | {"parameters": []}, "'parameters' must be a JSON object, not []"),
    (request() | {"id": 42}, "'id' must be a string, not 42"),
    (request(shape=...), "four positive integers [n, H, W, 3], not nothing"),
    (request(shape="2883"), "four positive integers"),
    (request(shape=[8, 8, 3]), "four positive integers [n, H, W, 3], not [8, 8, 3]"),
    (request(shape=[0, 8, 8, 3], data=[]), "four positive integers"),
    (request(shape=[-2, 8, -8, 3]), "four positive integers"),
    (request(shape=[2.0, 8, 8, 3]), "four positive integers"),
    (request(shape=[True, 8, 8, 3]), "four positive integers"),
    (request(shape=[2**64, 8, 8, 3]), "four positive integers"),
    (request(shape=[2**63, 8, 8, 3]), "'data' holds 384"),
    (request(pixels(2, size=4)), "must have shape (N, 8, 8, 3), but these have (2, 4, 4, 3)"),
    (request(shape=[2, 3, 8, 8]), "must have shape (N, 8, 8, 3), but these have (2, 3, 8, 8)"),
    (request(shape=[3, 8, 8, 3]), "asks for 576 values, 'data' holds 384"),
    (request(shape=[1, 8, 8, 3]), "asks for 192 values, 'data' holds 384"),
    (request(data=...), "'data' must be a list of integers, flat or nested as the shape, not nothing"),
    (request(data="AAAA"), "'data' must be a list"),
    (request(data=[]), "asks for 384 values, 'data' holds 0"),
    (request(data=pixels(3).tolist()), "nested otherwise than 'shape' [2, 8, 8, 3] says"),
    (request(data=[[1, 2], [3]]), "nested otherwise"),
    (request(data=[[0] * 192, 0]), "nested otherwise"),
    (request(data=pixels(1)[None].tolist(), shape=[1, 8, 8, 3]), "nested otherwise"),
    (request(data=[0] * 383 + [[0]]), "integers only, not [0]"),
    (request(data=[0] * 383 + [256]), "values in 0..255, not 256"),
    (request(data=[0] * 383 + [-1]), "values in 0..255, not -1"),
    (request(data=[0] * 383 + [2**64 - 1]), "values in 0..255, not 1844"),
    (request(data=[0] * 383 + [HUGE]), "not JSON in UTF-8: number is infinity"),
    (request(data=[0] * 383 + [1.0]), "integers only, not 1.0"),
    (request(data=[0] * 383 + [float("nan")]), "not JSON in UTF-8: unexpected character"),
    (request(data=[0] * 383 + [True]), "integers only, not True"),
    (request(data=[0] * 383 + ["1"]), "integers only, not '1'"),
    (request(data=[0] * 383 + [None]), "integers only, not nothing"),
    (request() | {"outputs": [{"name": "labels"}]}, "no output 'labels'; it has probabilities and logits"),
    (request() | {"outputs": [{"name": ["logits"]}]}, "no output ['logits']"),
    (request() | {"outputs": [{}]}, "no output nothing"),
    (request() | {"outputs": ["logits"]}, "A requested output must be a JSON object, not 'logits'"),
    (request() | {"outputs": {"name": "logits"}}, "'outputs' must be a list"),
    (request() | {"outputs": [{"name": "logits"}] * 2}, "'logits' is requested more than once"),
    (request(name="\ud800"), "not JSON in UTF-8: no low surrogate in string"),
    (request(name="x" * 9999), "must be named 'pixels', not '"),
]


@pytest.mark.parametrize(("body", "complaint"), WRONG, ids=[complaint for _, complaint in WRONG])
def test_bad_requests_get_400_and_one_clear_sentence(client: TestClient, body: dict[str, Any], complaint: str) -> None:
    content = json.dumps({key: value for key, value in body.items() if value is not ...}).encode()
    answer = client.post(INFER, content=content)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    message = answer.json()["error"]
    assert complaint in message
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize("path", ["/v2/models/nobody", "/v2/models/nobody/ready", "/v2/models/%F0%9F%90%88"])
def test_unknown_model(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "only student, teacher" in answer.json()["error"]
    assert client.post("/v2/models/nobody/infer", json=request()).status_code == 404


def test_unknown_path_and_method(client: TestClient) -> None:
    answer = client.get("/v1/models")
    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "GET /v1/models is not served here; /openapi.json lists what is."},
    )
    answer = client.get(INFER)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "GET /v2/models/student/infer is not served here" in answer.json()["error"]


def test_body_at_the_limit_is_read(client: TestClient) -> None:
    content = json.dumps(request()).encode()
    assert client.post(INFER, content=content.ljust(LIMIT)).status_code == 200
    answer = client.post(INFER, content=content.ljust(LIMIT + 1))
    assert answer.status_code == 413
    assert f"larger than the limit of {LIMIT} bytes" in answer.json()["error"]


def exchange(app: Starlette, next_message: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """One POST of the bare ASGI kind: what the application sends while it is fed message after message."""
    path = {"path": INFER, "raw_path": INFER.encode(), "root_path": "", "query_string": b""}
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "headers": [], **path}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next_message()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    anyio.run(app, scope, receive, send)
    return sent


def test_an_endless_body_is_read_no_further_than_the_limit(models: dict[str, OnnxClassifier]) -> None:
    taken = 0

    def chunk() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    start, body = exchange(create_app(models, Limits(max_body_bytes=LIMIT)), chunk)
    assert start["status"] == 413
    assert "larger than the limit" in json.loads(body["body"])["error"]
    assert taken == LIMIT // 1000 + 1


def test_a_client_that_leaves_is_no_failure(models: dict[str, OnnxClassifier]) -> None:
    exchange(create_app(models), lambda: {"type": "http.disconnect"})  # would raise ClientDisconnect


class Wrapped(OnnxClassifier):
    """A real model that does something else before it answers."""

    def __init__(self, model: OnnxClassifier, before: Callable[[], object]) -> None:
        self.__dict__ = model.__dict__ | {"before": before}

    def outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.before()
        return super().outputs(pixels)


def test_a_failing_model_is_a_500_that_tells_nothing_away(models: dict[str, OnnxClassifier]) -> None:
    def fail() -> None:
        raise RuntimeError("secret")

    app = create_app({"student": Wrapped(models["student"], fail)})
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post(INFER, json=request())
        assert answer.status_code == 500
        assert answer.json() == {"error": "The server failed on this request; its log says why."}
        assert client.post(INFER, json=request(name="x")).status_code == 400  # and it lives on


def test_the_event_loop_stays_free_while_a_model_computes(models: dict[str, OnnxClassifier]) -> None:
    started, release = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        assert release.wait(10)

    app = create_app({"student": Wrapped(models["student"], wait)})
    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        pending = pool.submit(client.post, INFER, json=request())
        assert started.wait(10)
        assert client.get("/v2/health/live").status_code == 200
        assert not pending.done()
        release.set()
        assert pending.result(10).status_code == 200


def binary(images: np.ndarray, header: str | None = None, cut: int = 0, extra: bytes = b"", **changes: Any) -> Any:
    """Keyword arguments of a POST that carries the pixels behind the JSON."""
    whole = tensor(images, **{"data": ..., "parameters": {"binary_data_size": images.size}} | changes)
    content = json.dumps({"inputs": [whole]}).encode()
    body = content + images.tobytes() + extra
    given = str(len(content)) if header is None else header
    return {"content": body[: len(body) - cut], "headers": {HEADER: given} if given else {}}


def test_binary_pixels_and_answers(client: TestClient, models: dict[str, OnnxClassifier]) -> None:
    images = pixels(3)
    request_ = {"inputs": [tensor(images, data=..., parameters={"binary_data_size": images.size})], "id": "x"}
    request_["outputs"] = [{"name": "logits"}, {"name": "probabilities", "parameters": {"binary_data": False}}]
    request_["parameters"] = {"binary_data_output": True}
    content = json.dumps(request_).encode()
    answer = client.post(INFER, content=content + images.tobytes(), headers={HEADER: str(len(content))})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers[HEADER])
    body = json.loads(answer.content[:size])
    assert body["id"] == "x"
    assert body["outputs"][0] == {
        "name": "logits",
        "datatype": "FP32",
        "shape": [3, 3],
        "parameters": {"binary_data_size": 36},
    }
    probabilities, logits = models["student"].outputs(images)
    assert answer.content[size:] == logits.astype("<f4").tobytes()
    assert np.array(body["outputs"][1]["data"], np.float32).tobytes() == probabilities.tobytes()


def test_json_may_come_with_the_length_of_its_header(client: TestClient) -> None:
    content = json.dumps(request()).encode()
    assert client.post(INFER, content=content, headers={HEADER: str(len(content))}).status_code == 200


BINARY = [
    (binary(pixels(), header=""), "not JSON"),
    (binary(pixels(), header="0"), "not JSON"),
    (binary(pixels(), header="-1"), "must be a number of bytes in 0.."),
    (binary(pixels(), header="+9"), "must be a number of bytes in 0.."),
    (binary(pixels(), header="1e2"), "must be a number of bytes in 0.."),
    (binary(pixels(), header="9" * 30), "must be a number of bytes in 0.."),
    (binary(pixels(), header="9999"), "must be a number of bytes in 0.."),
    (binary(pixels(), header="20"), "not JSON"),
    (binary(pixels(), cut=1), "'binary_data_size' is 384, and 383 bytes follow the JSON"),
    (binary(pixels(), cut=384), "'binary_data_size' is 384, and 0 bytes follow the JSON"),
    (binary(pixels(), extra=b"x"), "'binary_data_size' is 384, and 385 bytes follow the JSON"),
    (binary(pixels(), parameters={"binary_data_size": 383}), "asks for 384 bytes, 'binary_data_size' is 383"),
    (binary(pixels(), parameters={"binary_data_size": -1}), "'binary_data_size' is -1"),
    (binary(pixels(), parameters={"binary_data_size": 384.0}), "'binary_data_size' is 384.0"),
    (binary(pixels(), parameters={"binary_data_size": "384"}), "'binary_data_size' is '384'"),
    (binary(pixels(), parameters={"binary_data_size": None}), "384 bytes follow the JSON, and no input has"),
    (binary(pixels(), parameters={}), "384 bytes follow the JSON, and no input has a 'binary_data_size'"),
    (binary(pixels(), shape=[1, 8, 8, 3]), "asks for 192 bytes, 'binary_data_size' is 384"),
    (binary(pixels(), shape=[-2, 8, -8, 3]), "four positive integers"),
    (binary(pixels(2, 4)), "must have shape (N, 8, 8, 3), but these have (2, 4, 4, 3)"),
    (binary(pixels(), datatype="INT8"), "datatype 'UINT8', not 'INT8'"),
    (binary(pixels(), name="image"), "must be named 'pixels', not 'image'"),
    (binary(pixels(), parameters={"shared_memory_region": "x"}), "belongs to an extension that is not offered"),
    (
        {"json": request(data=..., parameters={"binary_data_size": 384})},
        "without the header Inference-Header-Content-Length",
    ),
    (
        {"json": request() | {"outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]}},
        "'binary_data' must be true or false, not 1",
    ),
    ({"json": request() | {"parameters": {"binary_data_output": "yes"}}}, "'binary_data_output' must be true or false"),
    ({"json": request() | {"parameters": {"timeout": -1}}}, "'timeout' must be an integer of microseconds"),
    ({"json": request() | {"parameters": {"timeout": 1.5}}}, "'timeout' must be an integer of microseconds"),
]


@pytest.mark.parametrize(("post", "complaint"), BINARY, ids=[complaint for _, complaint in BINARY])
def test_bad_binary_requests_get_400_and_one_clear_sentence(
    client: TestClient, post: dict[str, Any], complaint: str
) -> None:
    answer = client.post(INFER, **post)
    assert answer.status_code == 400
    message = answer.json()["error"]
    assert complaint in message
    assert len(message) < 200


def test_data_and_binary_data_together_are_refused(client: TestClient) -> None:
    images = pixels()
    content = json.dumps(request(parameters={"binary_data_size": images.size})).encode()
    answer = client.post(INFER, content=content + images.tobytes(), headers={HEADER: str(len(content))})
    assert (answer.status_code, "send one of them" in answer.json()["error"]) == (400, True)


def test_brackets_in_strings_are_no_depth(client: TestClient) -> None:
    for id_ in ("[" * 9000, '\\"' + "]" * 9000):
        assert client.post(INFER, json={"id": id_, **request()}).status_code == 200


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be", "utf-8-sig"])
def test_json_is_utf_8_alone(client: TestClient, encoding: str) -> None:
    for text in (json.dumps(request()), "[" * 4000):
        answer = client.post(INFER, content=text.encode(encoding))
        assert (answer.status_code, "not JSON in UTF-8" in answer.json()["error"]) == (400, True)


def test_null_is_absence_and_no_time_is_no_limit(client: TestClient) -> None:
    nothing: dict[str, Any] = {"id": None, "parameters": None, "outputs": None}
    plain = client.post(INFER, json=request()).json()
    tensor = request(parameters=None)
    assert client.post(INFER, json=tensor | nothing).json() == plain
    flags = {"timeout": None, "binary_data_output": None, "sequence_id": None}
    assert (
        client.post(INFER, json=request(parameters={"binary_data_size": None}) | {"parameters": flags}).json() == plain
    )
    outputs = [{"name": "probabilities", "parameters": None}, {"name": "logits", "parameters": {"binary_data": None}}]
    assert client.post(INFER, json=request() | {"outputs": outputs, "parameters": {"timeout": 0}}).json() == plain


def test_versions(client: TestClient) -> None:
    for path in ("", "/ready"):
        assert (
            client.get(f"/v2/models/student/versions/1{path}").json() == client.get(f"/v2/models/student{path}").json()
        )
        answer = client.get(f"/v2/models/student/versions/2{path}")
        assert (answer.status_code, answer.json()) == (404, {"error": "Model student has no version '2', only 1."})
    assert client.post("/v2/models/student/versions/1/infer", json=request()).status_code == 200
    assert client.post("/v2/models/student/versions/9/infer", json=request()).status_code == 404


def test_more_json_than_allowed_is_sent_to_the_binary_extension(models: dict[str, OnnxClassifier]) -> None:
    with TestClient(create_app(models, Limits(max_json_bytes=500))) as client:
        answer = client.post(INFER, json=request())
        assert answer.status_code == 413
        assert "send the tensor as binary data, or fewer images" in answer.json()["error"]
        assert client.post(INFER, **binary(pixels())).status_code == 200


def test_too_many_images_are_413(models: dict[str, OnnxClassifier]) -> None:
    with TestClient(create_app(models, batching=Batching(max_images=2))) as client:
        assert client.post(INFER, json=request(pixels(2))).status_code == 200
        answer = client.post(INFER, json=request(pixels(3)))
        assert (answer.status_code, answer.json()["error"][:40]) == (413, "3 images are more than the 2 of one requ")


def test_bodies_beyond_the_memory_set_aside_are_503(models: dict[str, OnnxClassifier]) -> None:
    with TestClient(create_app(models, Limits(max_pending_bytes=500))) as client:
        for _ in range(2):
            answer = client.post(INFER, json=request())
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert client.post(INFER, json=request(pixels(1), shape=[1], data=[])).status_code == 400  # nothing is pending


def test_a_late_answer_is_503(models: dict[str, OnnxClassifier]) -> None:
    release = threading.Event()
    app = create_app({"student": Wrapped(models["student"], lambda: release.wait(10))})
    with TestClient(app) as client:
        answer = client.post(INFER, json=request() | {"parameters": {"timeout": 20_000}})
        release.set()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"error": "There was no answer within 20 ms; try again later."}


def test_a_full_queue_is_503(models: dict[str, OnnxClassifier]) -> None:
    started, release = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        assert release.wait(10)

    app = create_app({"student": Wrapped(models["student"], wait)}, batching=Batching(max_queue=1))
    with TestClient(app) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, INFER, json=request())
        assert started.wait(10)
        second = pool.submit(client.post, INFER, json=request())
        while app.state.repository.batchers["student"].num_waiting == 0:
            pass
        answer = client.post(INFER, json=request())
        release.set()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "images wait already, which is as many as may; try again later." in answer.json()["error"]
        assert (first.result(10).status_code, second.result(10).status_code) == (200, 200)


def test_other_encodings_of_a_body_are_415(client: TestClient) -> None:
    answer = client.post(INFER, content=b"", headers={"Content-Encoding": "br"})
    said = "Content-Encoding must be one of gzip, deflate and identity, not br."
    assert (answer.status_code, answer.json()["error"]) == (415, said)


def packed(content: bytes, encoding: str) -> bytes:
    return gzip.compress(content) if encoding == "gzip" else zlib.compress(content)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZip"])
def test_a_compressed_body_is_unpacked_within_the_limit(client: TestClient, encoding: str) -> None:
    def post(content: bytes) -> tuple[int, dict[str, Any]]:
        answer = client.post(INFER, content=content, headers={"Content-Encoding": encoding})
        return answer.status_code, answer.json()

    whole = packed(json.dumps(request()).encode(), encoding.lower())
    assert post(whole)[0] == 200
    status, said = post(packed(b" " * (LIMIT + 1), encoding.lower()))
    assert (status, f"larger than the limit of {LIMIT} bytes" in said["error"]) == (413, True)
    for content, fault in (
        (whole[:-1], "is cut short"),
        (whole + b"x", "has more bytes behind its end"),
        (b"x" * 100, "is not what its Content-Encoding"),
        (b"", "is cut short"),
    ):
        status, said = post(content)
        assert (status, fault in said["error"]) == (400, True), said


def test_unpacked_bodies_are_counted_as_pending(models: dict[str, OnnxClassifier]) -> None:
    content = gzip.compress(json.dumps(request()).encode())
    limits = Limits(max_body_bytes=LIMIT, max_pending_bytes=LIMIT)
    with TestClient(create_app(models, limits)) as client:
        for _ in range(3):  # and given back
            assert client.post(INFER, content=content, headers={"Content-Encoding": "gzip"}).status_code == 503
            assert client.post(INFER, json=request()).status_code == 200


def test_the_memory_for_bodies_takes_the_largest_one_packed_and_unpacked(models: dict[str, OnnxClassifier]) -> None:
    content = tensor(pixels(1), data=..., parameters={"binary_data_size": 192})
    body = json.dumps({"inputs": [content]}).encode()
    # gzip's level 0 makes it larger, so that the limit is on the packed body.
    sent = gzip.compress(body + pixels(1).tobytes(), 0)
    headers = {"Content-Encoding": "gzip", HEADER: str(len(body))}
    for missing, status in ((0, 200), (1, 503)):
        limits = Limits(max_body_bytes=len(sent), max_pending_bytes=2 * len(sent) - missing)
        with TestClient(create_app(models, limits)) as client:
            assert client.post(INFER, content=sent, headers=headers).status_code == status


def test_more_classes_than_one_answer_may_name_are_413(
    models: dict[str, OnnxClassifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification, "MAX_TEXTS", 12)
    computed: list[None] = []
    app = create_app({"student": Wrapped(models["student"], lambda: computed.append(None))})
    asked = {"name": "logits", "parameters": {"classification": 1000}}  # of three
    both = [asked, {"name": "probabilities", "parameters": {"classification": 1}}]
    tensors = [{"name": "logits"}, {"name": "probabilities"}]
    with TestClient(app) as client:
        for images, outputs, status in (
            (4, [asked], 200),
            (5, [asked], 413),
            (3, both, 200),
            (4, both, 413),
            (5, tensors, 200),
        ):
            computed.clear()
            answer = client.post(INFER, json=request(pixels(images)) | {"outputs": outputs})
            assert (answer.status_code, len(computed)) == (status, int(status == 200))
        answer = client.post(INFER, json=request(pixels(5)) | {"outputs": [asked]})
    assert answer.json()["error"] == (
        "15 classes would be named, more than the 12 of one answer; ask for fewer ('classification'), or for the "
        "tensor as binary data."
    )


PAGE = {"Origin": "https://example.org", "Sec-Fetch-Site": "cross-site"}


def test_pages_of_a_named_origin_may_ask_and_read(models: dict[str, OnnxClassifier]) -> None:
    app = create_app(models, tokens=frozenset([digest(b"secret")]), origins=["https://example.org"])
    with TestClient(app, headers=PAGE) as client:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        may = client.options(INFER, headers=asked)
        assert (may.status_code, may.headers["access-control-allow-origin"]) == (200, "https://example.org")
        right = {"Authorization": "Bearer secret"}
        for answer, status in (
            (client.post(INFER, json=request(), headers=right), 200),
            (client.post(INFER, json=request()), 401),
        ):
            allowed = answer.headers["access-control-allow-origin"]
            assert (answer.status_code, allowed) == (status, "https://example.org")
        other = PAGE | {"Origin": "https://example.com"}
        assert client.options(INFER, headers=asked | other).status_code == 400
        answer = client.post(INFER, json=request(), headers=right | other)
        assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (403, False)


def test_pages_of_no_other_origin_may_ask_by_default(models: dict[str, OnnxClassifier]) -> None:
    with TestClient(create_app(models), headers=PAGE) as client:
        for answer in (client.options(INFER), client.get("/v2"), client.post(INFER, json=request())):
            assert not any(name.startswith("access-control") for name in answer.headers)
    with TestClient(create_app(models, origins=["*"]), headers=PAGE) as client:
        assert client.post(INFER, json=request()).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer"}, {"Authorization": "Bearer secre"}, {"Authorization": "Basic secret"}],
)
def test_without_the_token_nothing_but_health_answers(
    models: dict[str, OnnxClassifier], headers: dict[str, str]
) -> None:
    with TestClient(create_app(models, tokens=frozenset([digest(b"secret")]))) as client:
        for path in ("/v2", "/v2/models/student", "/metrics", "/openapi.json", "/v2/models/nobody", "/x"):
            answer = client.get(path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "wants a bearer token" in answer.json()["error"]
        assert client.post(INFER, json=request(), headers=headers).status_code == 401
        assert client.get("/v2/health/live", headers=headers).status_code == 200
        assert client.get("/v2/health/ready", headers=headers).status_code == 200
        right = {"Authorization": "Bearer secret"}
        assert client.post(INFER, json=request(), headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200


def test_metrics_count_requests_batches_and_errors_by_reason(models: dict[str, OnnxClassifier]) -> None:
    with TestClient(create_app(models)) as client:
        for _ in range(3):
            client.post(INFER, json=request(pixels(2)))
        client.post(INFER, json=request(name="x"))
        client.get("/v2/models/nobody")
        client.get("/etc/passwd")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    infer = "/v2/models/{name}/infer"
    assert samples["pupil_requests_total", infer, "200"] == 3
    assert samples["pupil_requests_total", infer, "400"] == 1
    assert samples["pupil_requests_total", "none", "404"] == 1
    assert samples["pupil_model_requests_total", "student", "200"] == 3
    assert samples["pupil_model_requests_total", "student", "400"] == 1
    assert not any("nobody" in labels for labels in samples)
    assert samples["pupil_request_seconds_count", infer] == 4
    assert samples["pupil_errors_total", "bad_input"] == 1
    assert samples["pupil_errors_total", "http_404"] == 2
    assert samples["pupil_batch_images_sum", "student"] == 6
    assert samples["pupil_batch_images_count", "student"] == 3
    assert samples["pupil_queue_images", "student"] == 0
    assert samples["pupil_queue_seconds_count", "student"] == 3
    assert samples["pupil_compute_seconds_count", "student"] == 3
    assert samples["process_resident_memory_bytes",] > 0
