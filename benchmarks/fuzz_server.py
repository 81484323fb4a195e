"""Can a stranger break the server? Requests made up from its OpenAPI document, and malformed binary bodies, in one run.

    python -m benchmarks.fuzz_server --requests 5000 --bodies 20000 --out FILE

After each part the server must still answer a sound request rightly, and its resident memory is read. A status of 5xx,
an answer that the document does not describe, a connection that breaks or a body that is taken though it is malformed
ends the run with status 1.
"""

import argparse
import http.client
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from benchmarks import provenance, wrn_onnx
from benchmarks.serving import served
from pipeline.system.files import write_json
from serve import machine
from serve.http.binary_tensors import HEADER

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
Post = tuple[dict[str, str], bytes]


def main() -> int:
    """Run both parts and write the JSON; 0 if the server stood it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_server", description="Try to break the server.")
    parser.add_argument("--model", type=Path, help="an exported .onnx file (default: a WRN-16-2 with random weights)")
    parser.add_argument("--requests", type=int, default=5000, help="made up from the OpenAPI document")
    parser.add_argument("--bodies", type=int, default=20_000, help="malformed in the binary extension")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load_before = machine.load_average()
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model or wrn_onnx.write(Path(scratch) / "model.onnx")
        with served(model) as server:
            with Target(server.port) as target:
                target.is_well()
                explored = explore(server.url, arguments.requests, arguments.seed, target)
                target.is_well()
                memory = [resident_bytes(server.process.pid)]
                statuses: Counter[str] = Counter()
                tenth = -(-arguments.bodies // 10)
                for part in range(10):
                    statuses += malformed(target, tenth, arguments.seed + part)
                    target.is_well()
                    memory.append(resident_bytes(server.process.pid))
            status = server.stop()
            log = server.errors()
    report = {
        **provenance.head("fuzz_server", load_before, "schemathesis", "hypothesis", "uvicorn", "starlette", after=True),
        "seed": arguments.seed,
        "explored": {"requests": explored.total(), "statuses": dict(sorted(explored.items()))},
        "malformed": {"bodies": statuses.total(), "statuses": dict(sorted(statuses.items()))},
        "resident_bytes": {"after_exploring": memory[0], "after_each_tenth_of_bodies": memory[1:]},
        "exit_status": status,
        "log_lines": len(log.splitlines()),
    }
    write_json(arguments.out, report)
    print(json.dumps(report["explored"]), json.dumps(report["malformed"]), json.dumps(report["resident_bytes"]))
    is_sound = status == 0 and log == "" and not any(key.startswith("5") for key in (explored + statuses))
    return 0 if is_sound else 1


class Target:
    """A connection to the first model of a server, opened anew where the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = self._connect()
        name = re.findall(r'"enum":\["([^"]+)"', self.get("/openapi.json")[1].decode())[0]
        self.path = f"/v2/models/{name}/infer"
        metadata = json.loads(self.get(f"/v2/models/{name}")[1])
        _, height, width, channels = metadata["inputs"][0]["shape"]
        self.pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
        self._expected = self._sound()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)

    def __enter__(self) -> "Target":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def post(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body; one more try where the server closed the connection after the answer before."""
        try:
            self._connection.request("POST", self.path, body, headers)
            answer = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._connection.close()
            self._connection = self._connect()
            self._connection.request("POST", self.path, body, headers)
            answer = self._connection.getresponse()
        return answer.status, answer.read()

    def tensor(self) -> dict[str, Any]:
        """A sound input of two images, in JSON."""
        shape = list(self.pixels.shape)
        return {"name": "pixels", "datatype": "UINT8", "shape": shape, "data": self.pixels.ravel().tolist()}

    def is_well(self) -> None:
        """Raise RuntimeError unless a sound request gets the answer it got at first."""
        if self._sound() != self._expected:
            raise RuntimeError("the server answers a sound request otherwise than at first")

    def _sound(self) -> bytes:
        status, answer = self.post(*sound(self.pixels))
        if status != 200:
            raise RuntimeError(f"the server refuses a sound request: {status} {answer!r:.300}")
        return answer


def sound(pixels: np.ndarray[Any, np.dtype[np.uint8]], **changes: Any) -> Post:
    """Headers and body of a binary request; changes go into its tensor."""
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(pixels.shape)}
    content = json.dumps(
        {"inputs": [tensor | {"parameters": {"binary_data_size": pixels.size}} | changes]}, separators=(",", ":")
    ).encode()
    return {HEADER: str(len(content))}, content + pixels.tobytes()


def explore(url: str, requests: int, first_seed: int, target: Target) -> Counter[str]:
    """At least so many requests that schemathesis makes up, sound and unsound; the statuses of the answers.

    Every answer is held against the document. Half of the sound requests for an inference get sound pixels, which no
    JSON schema can describe: the length of the data is a product.
    """
    schema = schemathesis.openapi.from_url(url + "/openapi.json")
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    counts: Counter[str] = Counter()
    posts = [operation for operation in operations if operation.method == "post"]
    rounds = 0
    while counts.total() < requests:
        # Paths without a body have few cases; they are tried once, the others until there are enough.
        for operation in operations if rounds == 0 else posts:
            for mode in GenerationMode:
                share = max(1, (requests - counts.total()) // (2 * len(posts)))
                _try(operation, mode, min(share, 250), first_seed + rounds, url, target, counts)
        rounds += 1
    return counts


def _try(
    operation: Any, mode: GenerationMode, examples: int, number: int, url: str, target: Target, counts: Counter[str]
) -> None:
    @seed(number)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode), with_pixels=st.booleans())
    def once(case: Any, with_pixels: bool) -> None:
        if mode is GenerationMode.POSITIVE and with_pixels and isinstance(case.body, dict):
            case.body = case.body | {"inputs": [target.tensor()]}
            case.headers = {}
        answer = case.call(base_url=url)
        counts[str(answer.status_code)] += 1
        case.validate_response(answer, checks=CHECKS)

    try:
        once()
    except Unsatisfiable:
        if mode is GenerationMode.POSITIVE:
            raise  # a path without parameters has no unsound request


def malformed(target: Target, bodies: int, number: int) -> Counter[str]:
    """Send so many malformed binary requests; the statuses of the answers.

    Raises RuntimeError if one is taken, or refused without a sentence.
    """
    chance = random.Random(number)
    counts: Counter[str] = Counter()
    for _ in range(bodies):
        kind = chance.choice(_KINDS)
        headers, body = kind(chance, target.pixels)
        status, answer = target.post(headers, body)
        counts[str(status)] += 1
        if status not in (400, 413) or list(json.loads(answer)) != ["error"]:
            raise RuntimeError(f"{kind.__name__}: {status} {answer!r:.300} to {headers} {body!r:.300}")
    return counts


Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def _cut(chance: random.Random, pixels: Pixels) -> Post:
    headers, body = sound(pixels)
    return headers, body[: chance.randrange(len(body))]


def _extra(chance: random.Random, pixels: Pixels) -> Post:
    headers, body = sound(pixels)
    return headers, body + chance.randbytes(chance.randint(1, 5000))


def _wrong_length(chance: random.Random, pixels: Pixels) -> Post:
    headers, body = sound(pixels)
    right = headers[HEADER]
    wrong = ("", "-1", "0", "+1", "1_0", " ", "1.0", "0x10", "NaN", "9" * 40, "\xb2", str(len(body) + 1), "1e3", "a,b")
    offset = chance.choice([-1, 1]) * chance.randint(1, 200)
    return {HEADER: chance.choice([*wrong, str(max(0, int(right) + offset))])}, body


def _no_length(chance: random.Random, pixels: Pixels) -> Post:
    return {}, sound(pixels)[1]


def _random_json(chance: random.Random, pixels: Pixels) -> Post:
    content = chance.randbytes(chance.randint(0, 300))
    return {HEADER: str(len(content))}, content + pixels.tobytes()


def _flipped(chance: random.Random, pixels: Pixels) -> Post:
    """One byte of the structure of the JSON is another."""
    headers, body = sound(pixels)
    position = chance.choice([index for index, byte in enumerate(body[: int(headers[HEADER])]) if byte in b'{}[]:,"'])
    return headers, body[:position] + bytes([chance.choice(b"\x00x!\xff(")]) + body[position + 1 :]


def _strange(chance: random.Random, pixels: Pixels) -> Post:
    """A field of the tensor holds something else."""
    size = pixels.size
    shapes: list[Any] = [
        [],
        [size],
        [-2, *pixels.shape[1:3], -3],
        [0, *pixels.shape[1:]],
        [1, *pixels.shape[1:]],
        [2**64, 1, 1, 1],
        [2**31, 2**31, 2, 3],
        [*pixels.shape, 1],
        [2, pixels.shape[2] * 3, pixels.shape[1], 1],
        list(pixels.shape[::-1]),
    ]
    values: list[Any] = [None, True, 1, -1, 1.5, "", "x" * 1000, [], {}, [[]], 10**400, float("nan"), float("inf")]
    changes: list[dict[str, Any]] = [
        {"shape": chance.choice([*shapes, *values])},
        {"datatype": chance.choice([*values, "INT8", "FP32", "BYTES", "uint8"])},
        {"name": chance.choice([*values, "pixel", "pixels "])},
        {"data": chance.choice([*values[1:], [0] * size])},  # null would be none
        {
            "parameters": {
                "binary_data_size": chance.choice([*values, size - 1, size + 1, -size, float(size), str(size)])
            }
        },
        {"parameters": chance.choice([*values[1:], {}, {"shared_memory_region": "x"}])},
    ]
    return sound(pixels, **chance.choice(changes))


_KINDS: list[Callable[[random.Random, Pixels], Post]] = [
    _cut,
    _extra,
    _wrong_length,
    _no_length,
    _random_json,
    _flipped,
    _strange,
]


def resident_bytes(pid: int) -> int:
    """Physical memory of a process, once it has been idle for a moment."""
    time.sleep(0.2)
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])


if __name__ == "__main__":
    sys.exit(main())
