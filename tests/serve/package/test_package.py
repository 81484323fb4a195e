"""What `python -m serve package` writes is what Triton and KServe read."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import tritonclient
from google.protobuf import text_format
from ruamel.yaml import YAML

from serve.__main__ import main
from serve.errors import ModelError, ServeError
from serve.package import kserve, triton
from tests import tiny_onnx

ROOT = Path(__file__).parents[3]
# Fields and types of KServe's published schema, as far as a manifest of ours may use them (source: package/kserve.py).
PREDICTOR = {"minReplicas": int, "maxReplicas": int, "scaleMetric": str, "scaleTarget": int, "model": dict}
MODEL = {"modelFormat": dict, "protocolVersion": str, "storageUri": str, "resources": dict}
FORMAT = {"name": str, "version": str}


def model_config_pb2() -> ModuleType:
    """Triton's own protobuf. The package around it refuses to be imported without gRPC, which it does not need."""
    path = Path(tritonclient.__file__).parent / "grpc/model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PB2 = model_config_pb2()


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    teacher = tiny_onnx.write(tmp_path / "teacher.onnx", "teacher", image_px=16, num_classes=5)
    return [tiny_onnx.write(tmp_path / "student.onnx"), teacher]


def package(*argv: object) -> int:
    return main(["package", *map(str, argv)])


def test_triton_reads_the_repository(tmp_path: Path, models: list[Path]) -> None:
    folder = tmp_path / "new" / "repository"
    assert package(*models, "--triton", folder, "--max-batch", 12, "--instances", 3, "--threads", 2) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["student", "teacher"]
    for path, px, classes in zip(models, (8, 16), (3, 5), strict=True):
        of_model = folder / path.stem
        config = text_format.Parse((of_model / "config.pbtxt").read_text(), PB2.ModelConfig())
        assert (config.name, config.backend, config.max_batch_size) == (path.stem, "onnxruntime", 12)
        assert (of_model / "1" / config.default_model_filename).read_bytes() == path.read_bytes()
        graph = onnx.load(of_model / "1/model.onnx").graph
        for described, real in ((config.input, graph.input), (config.output, graph.output)):
            assert [tensor.name for tensor in described] == [tensor.name for tensor in real]
            for tensor, value in zip(described, real, strict=True):
                # Without the batch axis, which max_batch_size stands for.
                assert list(tensor.dims) == [axis.dim_value for axis in value.type.tensor_type.shape.dim][1:]
        assert [tensor.data_type for tensor in config.input] == [PB2.TYPE_UINT8]
        assert [tensor.data_type for tensor in config.output] == [PB2.TYPE_FP32] * 2
        labels = (of_model / config.output[0].label_filename).read_text().splitlines()
        assert labels == [f"class {index}" for index in range(classes)]
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 8, 12]
        assert config.dynamic_batching.max_queue_delay_microseconds == 1000
        assert [warm.batch_size for warm in config.model_warmup] == [1, 4, 8, 12]
        for warm in config.model_warmup:
            assert list(warm.inputs["pixels"].dims) == [px, px, 3]
            assert warm.inputs["pixels"].random_data
        (group,) = config.instance_group
        assert (group.count, group.kind) == (3, PB2.ModelInstanceGroup.KIND_CPU)
        assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert not list(folder.parent.glob(".*"))
    # Another user has to read it.
    assert all(path.stat().st_mode & 0o005 == 0o005 for path in [folder, *folder.rglob("*")] if path.is_dir())


@pytest.mark.parametrize(("max_batch", "preferred"), [(1, (1,)), (3, (3,)), (32, (4, 8, 16, 32))])
def test_preferred_sizes_end_at_the_largest_batch(max_batch: int, preferred: tuple[int, ...]) -> None:
    assert triton.Serving(max_batch=max_batch).preferred == preferred


def test_a_wrong_config_would_be_seen(models: list[Path]) -> None:
    (card,) = triton.read_cards(models[:1]).values()
    text = triton.config(card, triton.Serving(on_gpu=True))
    assert text_format.Parse(text, PB2.ModelConfig()).instance_group[0].kind == PB2.ModelInstanceGroup.KIND_GPU
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text.replace("max_queue_delay_microseconds", "max_queue_delay"), PB2.ModelConfig())


def test_nothing_is_left_behind_by_what_cannot_be_written(
    tmp_path: Path, models: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(models[0].read_bytes()[:100])
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    twin = tmp_path / "twin.onnx"
    twin.write_bytes(models[0].read_bytes())
    int8 = tiny_onnx.write(tmp_path / "int8.onnx", precision="int8")
    target = tmp_path / "repository"
    for argv, complaint in (
        ([models[0], broken, "--triton", target], "broken.onnx is not a usable Pupil model"),
        ([models[0], twin, "--triton", target], "twin.onnx has the same name as a model before it, 'student'"),
        ([models[0], int8, "--triton", target], "but these are student, student; package one of each"),
        ([models[0], "--triton", full], "full exists already and is not an empty folder"),
        ([models[0], "--triton", full / "mine" / "below"], "could not be written"),
        ([models[0]], "Nothing to write"),
        ([models[0], "--kserve", tmp_path / "k.yaml"], "--kserve needs --storage-uri"),
        ([models[0], "--triton", target, "--kserve", tmp_path / "k.yaml", "--storage-uri", "models"], "must say where"),
    ):
        assert package(*argv) == 1
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
        assert not target.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in (*models, broken, full, twin, int8)),
    }


def test_a_label_of_two_lines_is_named(tmp_path: Path, models: list[Path]) -> None:
    ((path, card),) = triton.read_cards(models[:1]).items()
    card = dataclasses.replace(card, labels=("ant", "two\nlines", "cow"))
    with pytest.raises(ModelError, match=re.escape("student.onnx has the label 'two\\nlines'")):
        triton.write(tmp_path / "repository", {path: card}, triton.Serving())
    assert set(tmp_path.iterdir()) == set(models)


def test_a_kill_leaves_no_half_repository(tmp_path: Path, models: list[Path]) -> None:
    # Killed by the copying of the second model: the first one is complete by then.
    script = (
        "import os, shutil, sys; from pathlib import Path; from serve.__main__ import main; copy = shutil.copyfile\n"
        "def killed(source, target):\n"
        "    copy(source, target)\n"
        "    if 'teacher' in str(source): os._exit(9)\n"
        "shutil.copyfile = killed\n"
        "main(sys.argv[1:])"
    )
    target = tmp_path / "repository"
    command = [sys.executable, "-c", script, "package", *map(str, models), "--triton", str(target)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 9
    assert not target.exists()
    assert package(*models, "--triton", target) == 0


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest as Kubernetes reads it."""
    service = kserve.Service(**({"name": "pupil", "storage_uri": "s3://bucket/models"} | changes))
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(kserve.manifest(service, triton.Serving(instances=2)))
    return content


def test_the_manifest_has_the_fields_that_kserve_knows(tmp_path: Path, models: list[Path]) -> None:
    path, uri = tmp_path / "new/pupil.yaml", 's3://bucket/it\'s:"odd"#models'
    assert package(models[0], "--kserve", path, "--storage-uri", uri, "--replicas", 0, 9) == 0
    content = YAML(typ="safe", pure=True).load(path)
    assert content["spec"]["predictor"]["model"]["storageUri"] == uri
    assert [content["spec"]["predictor"][f"{end}Replicas"] for end in ("min", "max")] == [0, 9]
    assert set(content) == {"apiVersion", "kind", "metadata", "spec"}
    assert (content["apiVersion"], content["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert set(content["spec"]) == {"predictor"}
    predictor = content["spec"]["predictor"]
    for part, known in (
        (predictor, PREDICTOR),
        (predictor["model"], MODEL),
        (predictor["model"]["modelFormat"], FORMAT),
    ):
        assert {key: type(value) for key, value in part.items()} == known
    assert predictor["model"]["modelFormat"] == {"name": "triton", "version": "2"}
    assert predictor["scaleMetric"] in {"concurrency", "rps", "cpu", "memory"}
    assert {path.name for path in path.parent.iterdir()} == {"pupil.yaml"}


def test_replicas_are_asked_for_when_every_copy_has_its_batch() -> None:
    predictor = manifest()["spec"]["predictor"]
    assert predictor["scaleTarget"] == 64
    assert predictor["model"]["resources"] == {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}
    service = kserve.Service("pupil", "pvc://claim/models")
    text = kserve.manifest(service, triton.Serving(on_gpu=True))
    resources = YAML(typ="safe", pure=True).load(text)["spec"]["predictor"]["model"]["resources"]
    assert resources["limits"] == {"cpu": "1", "nvidia.com/gpu": "1"} == resources["requests"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "My_Model"}, "A service's name"),
        ({"name": "x" * 64}, "A service's name"),
        ({"name": "x-"}, "A service's name"),
        ({"storage_uri": "/models"}, "--storage-uri must say where"),
        ({"storage_uri": "s3://a b"}, "--storage-uri must say where"),
        ({"min_replicas": 5}, "--replicas takes the fewest and the most replicas"),
        ({"min_replicas": 0, "max_replicas": 0}, "--replicas takes the fewest and the most replicas"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_here(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ServeError, match=re.escape(complaint)):
        manifest(**changes)
