"""NVIDIA's client of the Open Inference Protocol against a real server process: what it asks for, it gets."""

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from benchmarks.serving import Served, served
from tests import tiny_onnx


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("onnx")
    student = tiny_onnx.write(folder / "student.onnx")
    teacher = tiny_onnx.write(folder / "teacher.onnx", "teacher", image_px=4, num_classes=5, seed=1)
    with served(student, teacher) as running:
        yield running
        assert running.stop() == 0
        assert running.errors() == ""


@pytest.fixture
def client(server: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


def images(n: int, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def pixels(values: np.ndarray, is_binary: bool) -> list[triton.InferInput]:
    tensor = triton.InferInput("pixels", list(values.shape), "UINT8")
    tensor.set_data_from_numpy(values, binary_data=is_binary)
    return [tensor]


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    extensions = ["binary_tensor_data", "classification", "model_repository"]
    assert client.get_server_metadata()["extensions"] == extensions
    assert client.get_model_metadata("student")["parameters"]["labels"] == ["class 0", "class 1", "class 2"]
    for version in ("", "1"):
        assert client.is_model_ready("student", version)
        assert client.get_model_metadata("teacher", version)["versions"] == ["1"]
    assert not client.is_model_ready("student", "2")
    assert not client.is_model_ready("nobody")


@pytest.mark.parametrize("is_binary_in", [True, False])
@pytest.mark.parametrize("is_binary_out", [True, False])
@pytest.mark.parametrize(("model", "size", "num_classes", "seed"), [("student", 8, 3, 0), ("teacher", 4, 5, 1)])
def test_tensors_in_json_and_in_binary_both_ways(
    client: triton.InferenceServerClient,
    is_binary_in: bool,
    is_binary_out: bool,
    model: str,
    size: int,
    num_classes: int,
    seed: int,
) -> None:
    values = images(3, size)
    outputs = [triton.InferRequestedOutput(name, binary_data=is_binary_out) for name in ("logits", "probabilities")]
    answer = client.infer(model, pixels(values, is_binary_in), "1", outputs=outputs, request_id="42", timeout=10**7)
    response = answer.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == (model, "1", "42")
    assert [output["name"] for output in response["outputs"]] == ["logits", "probabilities"]
    assert [("data" in output) for output in response["outputs"]] == [not is_binary_out] * 2
    logits, probabilities = answer.as_numpy("logits"), answer.as_numpy("probabilities")
    assert logits.dtype == probabilities.dtype == np.float32
    expected = tiny_onnx.expected_logits(values, num_classes, seed)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    powers = np.exp(expected - expected.max(1, keepdims=True))
    np.testing.assert_allclose(probabilities, powers / powers.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_binary_in", [True, False])
def test_without_outputs_asked_for_the_client_gets_all_in_binary(
    client: triton.InferenceServerClient, is_binary_in: bool
) -> None:
    values = images(1)
    answer = client.infer("student", pixels(values, is_binary_in))
    assert all("binary_data_size" in output["parameters"] for output in answer.get_response()["outputs"])
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny_onnx.expected_logits(values), rtol=1e-4, atol=1e-5)


def test_one_output_in_json_and_the_other_in_binary(client: triton.InferenceServerClient) -> None:
    outputs = [
        triton.InferRequestedOutput("probabilities", binary_data=False),
        triton.InferRequestedOutput("logits", binary_data=True),
    ]
    answer = client.infer("student", pixels(images(2), True), outputs=outputs)
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny_onnx.expected_logits(images(2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(answer.as_numpy("probabilities").sum(1), 1, rtol=1e-5)


def test_the_client_understands_our_errors(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="There is no model 'nobody' here, only student, teacher"):
        client.infer("nobody", pixels(images(1), True))
    with pytest.raises(InferenceServerException, match="has no version '7', only 1"):
        client.infer("student", pixels(images(1), True), "7")
    with pytest.raises(InferenceServerException, match=r"pixels must have shape \(N, 8, 8, 3\)"):
        client.infer("student", pixels(images(1, 9), True))
    floats = triton.InferInput("pixels", [1, 8, 8, 3], "FP32")
    floats.set_data_from_numpy(np.full((1, 8, 8, 3), np.nan, np.float32))
    with pytest.raises(InferenceServerException, match="must have datatype 'UINT8', not 'FP32'"):
        client.infer("student", [floats])
    with pytest.raises(InferenceServerException, match=r"only where the server asks for a token \(--token-file\)"):
        client.unload_model("student")


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("num_best", [1, 2, 3, 1000])
def test_the_best_classes_by_value_index_and_label(
    client: triton.InferenceServerClient, num_best: int, is_binary: bool
) -> None:
    values = images(4)
    asked = [
        triton.InferRequestedOutput("logits", binary_data=is_binary, class_count=num_best),
        triton.InferRequestedOutput("probabilities", binary_data=is_binary),
    ]
    answer = client.infer("student", pixels(values, True), outputs=asked)
    expected = tiny_onnx.expected_logits(values)
    best = answer.as_numpy("logits")
    assert best.shape == (4, min(num_best, 3))
    for texts, logits in zip(best, expected, strict=True):
        split = [(text.decode() if is_binary else text).split(":") for text in texts]
        order = np.argsort(-logits)[:num_best]
        assert [int(index) for _, index, _ in split] == order.tolist()
        assert [label for _, _, label in split] == [f"class {k}" for k in order]
        np.testing.assert_allclose([float(value) for value, _, _ in split], logits[order], rtol=1e-4, atol=1e-5)
    assert answer.as_numpy("probabilities").shape == (4, 3)


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies(client: triton.InferenceServerClient, algorithm: str, is_binary: bool) -> None:
    values = images(3)
    answer = client.infer(
        "student",
        pixels(values, is_binary),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny_onnx.expected_logits(values), rtol=1e-4, atol=1e-5)


def test_the_index_of_the_repository(client: triton.InferenceServerClient) -> None:
    assert client.get_model_repository_index() == [
        {"name": "student", "version": "1", "state": "READY", "reason": ""},
        {"name": "teacher", "version": "1", "state": "READY", "reason": ""},
    ]
