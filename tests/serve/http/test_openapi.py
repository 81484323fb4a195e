"""The OpenAPI document says what the server does: its routes are the routes, and real answers fit it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import Route

from benchmarks import fuzz_server
from benchmarks.serving import Served, served
from serve.http.app import VERSION, create_app
from serve.http.limits import Limits
from serve.http.openapi import document
from serve.model.classifier import OnnxClassifier
from tests import tiny_onnx


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_onnx.write(tmp_path_factory.mktemp("onnx") / "student.onnx")


@pytest.fixture(scope="module")
def server(student: Path) -> Iterator[Served]:
    with served(student) as running:
        yield running
        assert running.stop() == 0
        assert running.errors() == ""


def test_every_route_is_described_and_nothing_else(student: Path) -> None:
    app = create_app({"student": OnnxClassifier(student)})
    routes = {
        (route.path, method.lower())
        for route in app.routes
        if isinstance(route, Route) and route.path != "/v2/"  # another spelling of /v2
        for method in (route.methods or set()) - {"HEAD"}
    }
    paths = document(VERSION, ["student"], Limits())["paths"]
    described = {(path, method) for path, item in paths.items() for method in item if method != "parameters"}
    assert described == routes


def test_every_reference_leads_somewhere() -> None:
    content = document(VERSION, ["student"], Limits())
    references = [part.split('"')[0] for part in json.dumps(content).split('"$ref": "')[1:]]
    assert references
    for reference in references:
        place = content
        for key in reference.removeprefix("#/").split("/"):
            place = place[key]


@pytest.fixture
def target(server: Served) -> Iterator[fuzz_server.Target]:
    with fuzz_server.Target(server.port) as target:
        yield target
        target.is_well()


def test_the_server_hands_it_out(target: fuzz_server.Target) -> None:
    status, body = target.get("/openapi.json")
    assert status == 200
    assert json.loads(body) == document(VERSION, ["student"], Limits())


@pytest.mark.slow
def test_requests_made_up_from_it_find_no_failure(server: Served, target: fuzz_server.Target) -> None:
    statuses = fuzz_server.explore(server.url, 120, 0, target)
    assert statuses.total() >= 120
    assert {"200", "400", "404"} <= set(statuses) <= {"200", "400", "403", "404", "413", "415"}


def test_malformed_binary_bodies_are_all_refused(target: fuzz_server.Target) -> None:
    assert fuzz_server.malformed(target, 300, 0).total() == 300


def test_the_fuzz_notices_a_malformed_body_that_is_taken(
    target: fuzz_server.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_server, "_KINDS", [lambda chance, pixels: fuzz_server.sound(pixels)])
    with pytest.raises(RuntimeError, match="200"):
        fuzz_server.malformed(target, 1, 0)
