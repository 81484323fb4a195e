"""What a load generator sends to a model by the Open Inference Protocol, and how the answers are read.

Requests are built once, as the bytes that go over the wire. Answers are compared with what the server said to the same
image when it was asked alone, so that one that belongs to another request is seen.
"""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from serve.errors import ServeError
from serve.model.classifier import Floats

HEADER_LENGTH = "inference-header-content-length"
TOLERANCE = 1e-3  # of a probability: the same image in another batch is added up in another order


@dataclass(frozen=True)
class Target:
    """A model on a server, and what to ask it."""

    host: str
    port: int
    model: str
    tensors: str  # "binary" or "json": how pixels travel
    requests: tuple[bytes, ...]  # whole HTTP requests, one image each
    answers: tuple[Floats, ...]  # (K,) each: what the server answered to each request alone
    server: dict[str, Any]  # what it says about itself


def look_up(url: str, model: str, token: str | None, num_images: int = 16, seed: int = 0) -> Target:
    """Ask the server for the model, make random images of its size, and have each answered once.

    Raises ServeError if that does not work out: no server there, no such model, or one that takes no images.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError as error:
        raise ServeError(f"{url!r} is not a URL ({error}); expected something like http://127.0.0.1:8000.") from error
    if parts.scheme != "http" or parts.hostname is None or parts.path.strip("/") or parts.query:
        raise ServeError(f"The server must be given as http://HOST:PORT, not {url!r}.")
    headers = {"Host": parts.netloc} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=30)
    try:
        server = _ask(connection, "GET", "/v2", headers)
        path = f"/v2/models/{quote(model, safe='')}"
        name, shape, output = _signature(_ask(connection, "GET", path, headers), model)
        is_binary = "binary_tensor_data" in server.get("extensions", [])
        requests, answers = [], []
        for pixels in _images(shape, num_images, seed):
            body, extra = _body(name, pixels, output, is_binary)
            requests.append(_wire(f"{path}/infer", headers | extra, body))
            connection.request("POST", f"{path}/infer", body, headers | extra)
            answers.append(_answer(connection))
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise ServeError(f"{url} does not answer ({reason}); is `python -m serve run` running there?") from error
    finally:
        connection.close()
    return Target(
        parts.hostname,
        port,
        model,
        "binary" if is_binary else "json",
        tuple(requests),
        tuple(answers),
        server,
    )


def read_answer(body: bytes, header_length: int | None) -> Floats:
    """The first output of an inference answer, flat. Raises ValueError, KeyError, ... on what is none."""
    if header_length is None:
        return np.array(json.loads(body)["outputs"][0]["data"], dtype=np.float32).ravel()
    size = json.loads(body[:header_length])["outputs"][0]["parameters"]["binary_data_size"]
    return np.frombuffer(body, dtype="<f4", count=size // 4, offset=header_length)


def _ask(connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise ServeError(f"{method} {path}: the server answers {answer.status}, {_said(body)}")
    try:
        content = json.loads(body)
    except ValueError as error:
        raise ServeError(f"{method} {path}: the server's answer is not JSON; does it speak this protocol?") from error
    if not isinstance(content, dict):
        raise ServeError(f"{method} {path}: the server's answer is not a JSON object; does it speak this protocol?")
    return content


def _answer(connection: http.client.HTTPConnection) -> Floats:
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise ServeError(f"The server refuses a single image with status {answer.status}: {_said(body)}")
    length = answer.getheader(HEADER_LENGTH)
    try:
        return read_answer(body, None if length is None else int(length))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ServeError(f"The server's answer cannot be read ({error!r}): {body[:80]!r}") from error


def _said(body: bytes) -> str:
    """The protocol's one sentence on an error, or the beginning of whatever came."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return repr(body[:80])


def _signature(metadata: dict[str, Any], model: str) -> tuple[str, tuple[int, ...], str]:
    """Input name, shape of one image, name of the first output."""
    try:
        (tensor,) = metadata["inputs"]
        shape, output = tensor["shape"], metadata["outputs"][0]
        fits = tensor["datatype"] == "UINT8" and shape[0] == -1 and len(shape) == 4 and min(shape[1:]) > 0
        if not fits or output["datatype"] != "FP32":
            raise ValueError
        return tensor["name"], tuple(shape[1:]), output["name"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ServeError(
            f"Model {model!r} must take one UINT8 tensor of images, [-1, H, W, 3], and answer FP32; its metadata "
            f"are {metadata}."
        ) from error


def _images(shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """(count, H, W, 3) uint8: noise around a colour of its own each, so that answers differ."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 256, (count, 1, 1, shape[-1]))
    noise = generator.integers(-64, 65, (count, *shape))
    images: np.ndarray = np.clip(colours + noise, 0, 255).astype(np.uint8)
    return images


def _body(name: str, pixels: np.ndarray, output: str, is_binary: bool) -> tuple[bytes, dict[str, str]]:
    """The body that asks for one output of one image, and the headers that go with it."""
    tensor: dict[str, Any] = {"name": name, "shape": [1, *pixels.shape], "datatype": "UINT8"}
    wanted: dict[str, Any] = {"name": output}
    if not is_binary:
        request = {"inputs": [tensor | {"data": pixels.ravel().tolist()}], "outputs": [wanted]}
        return json.dumps(request).encode(), {"Content-Type": "application/json"}
    tensor["parameters"] = {"binary_data_size": pixels.size}
    wanted["parameters"] = {"binary_data": True}
    header = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
    return header + pixels.tobytes(), {
        "Content-Type": "application/octet-stream",
        HEADER_LENGTH.title(): str(len(header)),
    }


def _wire(path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body
