"""The whole pipeline in a toy repository, run by DVC: what runs after which edit, what repeats, what survives.

The tests start from copies of one finished run.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.model.classifier import OnnxClassifier
from tests import toy

pytestmark = pytest.mark.slow

METHODS = ("vanilla", "kd")
# Reads everything, params.yaml too, and so follows every edit; no expectation here names it.
REPORT = {"report"}
# Arguments of a training by hand, beside the run that DVC knows of.
AGAIN = ("--params", "params.yaml", "--data", "data/prepared", "--out", "again", "--resume", "again.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy project after its first `dvc repro`. Not to be changed; see `project`."""
    folder = toy.make(tmp_path_factory.mktemp("finished"))
    stages, _ = toy.repro(folder)
    students = {f"{stage}@{method}-0" for stage in ("distill", "evaluate") for method in METHODS}
    others = {"prepare", "train_teacher", "teach", "cut_student", "evaluate_teacher", "compare", "energy_maps"}
    others |= {"choose", "export", "distill_int8", "quantize", "ship", "benchmark"}
    assert stages - REPORT == others | students
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be edited."""
    return shutil.copytree(finished, tmp_path / "project")


def after(project: Path, changes: Mapping[str, Any], *arguments: str) -> set[str]:
    """The stages that `dvc repro` runs once params.yaml is edited, preflight and report apart."""
    toy.edit(project, changes)
    return toy.repro(project, *arguments)[0] - REPORT


def test_every_artefact_is_there(finished: Path) -> None:
    students = [finished / "artifacts/students" / method / "0" for method in METHODS]
    for folder in (finished / "artifacts/teacher", *students):
        for name in ("model.safetensors", "history.json", "metrics.json", "evaluation.json", "analysis.json"):
            assert (folder / name).is_file(), folder / name
        for name in ("confusion", "classes", "reliability"):
            assert len((folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()) > 1, name
        assert np.load(folder / "logits.npy").shape == (100, 100)
        assert list((folder / "plots").rglob("*.tsv"))
    for name in ("student.onnx", "teacher.onnx", "deployed.onnx", "parity.json", "quantization.json", "latency.json"):
        assert (finished / "artifacts/deploy" / name).is_file(), name
    for name in ("latency.csv", "throughput.csv"):
        assert len((finished / "artifacts/deploy/plots" / name).read_text().splitlines()) > 4, name
    assert (finished / "artifacts/comparison.json").is_file()
    assert (finished / "artifacts/energy_maps/energy_maps.json").is_file()
    assert list((finished / ".resume").iterdir()) == []


def test_make_repro_works_in_a_tree_that_was_downloaded_without_git(project: Path) -> None:
    shutil.rmtree(project / ".git")
    shutil.copy2(toy.ROOT / "Makefile", project)
    # The environment is there already: `make` is told not to install one.
    said = toy.run(project, "make", "-o", ".venv/installed", "repro")
    assert "Stage 'report' didn't change, skipping" in said
    assert "no_scm = true" in (project / ".dvc/config.local").read_text(encoding="utf-8")


def test_dvc_shows_what_evaluate_plots_under_a_title(finished: Path, tmp_path: Path) -> None:
    toy.run(finished, "python", "-m", "dvc", "plots", "show", "-o", str(tmp_path))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for title in (
        "What kd, seed 0, takes the images of each class for (test split)",
        "Top-1 of the teacher by class, in percent (test split)",
        "How often vanilla, seed 0, is right when it is so confident (test split)",
    ):
        assert title in page


def test_what_is_exported_answers_with_probabilities(finished: Path) -> None:
    images = np.load(finished / "data/prepared/test/images.npy")[:3]
    for name, arch, method in (("student", "resnet8", "kd"), ("teacher", "resnet14", None)):
        classifier = OnnxClassifier(finished / f"artifacts/deploy/{name}.onnx")
        assert (classifier.card.name, classifier.card.arch, classifier.card.method) == (name, arch, method)
        probabilities = classifier(images)
        assert probabilities.shape == (3, 100)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_the_benchmark_measures_both_files_by_every_means(finished: Path) -> None:
    latency = json.loads((finished / "artifacts/deploy/latency.json").read_text())
    record = json.loads((finished / "artifacts/deploy/quantization.json").read_text(encoding="utf-8"))
    int8 = ["student_int8_onnx"] if record["students"]["int8"]["accepted"] else []
    names = ["student_onnx", "teacher_onnx", *int8]
    assert [list(batch["candidates"]) for batch in latency["batches"]] == [
        [*names, "student_torch", "teacher_torch"]
    ] * 2
    assert [it["name"] for it in latency["candidates"]] == names
    metrics = json.loads((finished / "artifacts/deploy/metrics.json").read_text())
    assert metrics["batch_size"] == 1
    assert [f"{name}_onnx" for name in metrics["p50_ms"]] == [f"{name}_onnx" for name in metrics["file_bytes"]] == names
    assert metrics["p50_ms"]["student"] == latency["batches"][0]["candidates"]["student_onnx"]["p50_ms"]
    ratios = latency["batches"][0]["ratios"]
    assert metrics["times_as_fast"] == {
        name.removesuffix("_onnx"): ratios[f"teacher_onnx / {name}"]["median"] for name in ("student_onnx", *int8)
    }
    for it in latency["candidates"]:
        assert 0 <= it["top1"] <= 100
        assert it["cold_start"]["n"] == 1
        assert len(it["threads"]) == 2
        assert [run["scenario"] for run in it["loadgen"]] == ["SingleStream", "MultiStream", "Server", "Offline"]


def test_each_student_in_fewer_bits_stands_under_a_name_that_says_the_verdict(finished: Path) -> None:
    record = json.loads((finished / "artifacts/deploy/quantization.json").read_text(encoding="utf-8"))
    images = np.load(finished / "data/prepared/test/images.npy")[:3]
    assert list(record["students"]) == ["float32", "int8", "fp16"]
    for name in ("int8", "fp16"):
        student = record["students"][name]
        verdict = "" if student["accepted"] else ".refused"
        assert student["file"] == f"quantized/student.{name}{verdict}.onnx"
        classifier = OnnxClassifier(finished / "artifacts/deploy" / student["file"])
        assert (classifier.card.name, classifier.card.precision) == ("student", name)
        np.testing.assert_allclose(classifier(images).sum(1), 1, rtol=1e-5)
    deployed = json.loads((finished / "artifacts/deploy/deployed.json").read_text(encoding="utf-8"))
    assert deployed["file"] in [it["file"] for it in record["students"].values() if it["accepted"]]
    deploy = finished / "artifacts/deploy"
    assert (deploy / "deployed.onnx").read_bytes() == (deploy / deployed["file"]).read_bytes()
    files = [path.name for path in (finished / "artifacts/deploy/quantized").iterdir()]
    assert sorted(files) == sorted(Path(record["students"][name]["file"]).name for name in ("int8", "fp16"))


def test_the_exported_files_can_be_timed(finished: Path) -> None:
    files = [f"artifacts/deploy/{name}.onnx" for name in ("student", "teacher")]
    table = toy.run(finished, "python", "-m", "serve", "benchmark", *files, "--samples", "70")
    latencies, ratios, pauses = table.strip().split("\n\n")
    words = [line.split()[0] for line in latencies.splitlines()]
    assert words[-5:] == ["candidate", "student", "teacher", "student", "teacher"]
    assert "teacher / student" in ratios
    assert {line.split()[0] for line in pauses.splitlines()[-2:]} == {"student", "teacher"}


def test_a_second_run_does_nothing_and_changes_no_byte(project: Path) -> None:
    before = toy.contents(project)
    assert toy.repro(project)[0] == set()
    assert toy.contents(project) == before


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("deploy.max_probability_error", 2e-4, {"export"}),
        ("deploy.max_drop", 1.0, {"quantize"}),
        ("quantize.images", 64, {"distill_int8", "quantize"}),
        ("quantize.train", {"epochs": 1}, {"distill_int8", "quantize"}),
        ("deploy.batch_size", 2, {"ship"}),
        ("deploy.prefer", "size", {"ship"}),
        ("benchmark.samples", 71, {"benchmark"}),
        ("evaluate.seed", 1, {"evaluate_teacher", "evaluate@vanilla-0", "evaluate@kd-0", "compare", "quantize"}),
        # choose, compare and energy_maps read which methods there are.
        ("distill.methods.kd.temperature", 2.0, {"distill@kd-0", "choose", "compare", "energy_maps"}),
        ("deploy.seed", "best", {"choose"}),
        ("distill.train.lr", 0.01, {"distill@vanilla-0", "distill@kd-0"}),
        ("teacher.train.lr", 0.01, {"train_teacher"}),
        ("teach.views", 2, {"teach", "distill@vanilla-0", "distill@kd-0"}),
        ("data.seed", 1, {"prepare"}),
        ("data.sources.huggingface.image_column", "image", set()),
    ],
)
def test_an_edit_touches_only_the_stages_that_read_it(
    key: str, value: object, expected: set[str], project: Path
) -> None:
    """--dry shows the first stages that an edit reaches, not those behind them."""
    assert after(project, {key: value}, "--dry") == expected


def test_what_the_audit_does_with_bad_images_trains_nothing_again_where_there_are_none(project: Path) -> None:
    page = (toy.ROOT / "docs/data-audit.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^```sh\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    toy.edit(project, {"data.on_bad": "skip"})
    said = toy.run(project, *command.split())
    assert "Audit of digit_pairs: 400 images opened" in said
    assert json.loads((project / "data/prepared/audit.json").read_text())["on_bad"] == "skip"
    assert after(project, {}, "--dry") == set()


def test_a_setting_of_deployment_retrains_nothing_and_the_same_weights_export_to_the_same_bytes(project: Path) -> None:
    before = toy.contents(project)
    # Were a byte of an ONNX file another one, the benchmark would run too.
    assert after(project, {"deploy.max_probability_error": 2e-4}, "benchmark") == {"export"}
    assert {path for path, digest in toy.contents(project).items() if before[path] != digest} == {"dvc.lock"}


def test_a_setting_of_one_method_reruns_that_method_alone_and_is_undone_without_training(project: Path) -> None:
    before = toy.contents(project)
    changed = after(project, {"distill.methods.kd.temperature": 2.0}, "evaluate", "benchmark")
    assert changed == {"distill@kd-0", "evaluate@kd-0", "choose", "export", "distill_int8", "quantize", "benchmark"}
    assert after(project, {"distill.methods.kd.temperature": 4.0}, "evaluate", "benchmark") == set()
    assert toy.contents(project) == before


def test_the_best_student_ships_by_itself_and_another_one_runs_what_lies_behind_it(project: Path) -> None:
    behind = {"export", "distill_int8", "quantize", "ship", "benchmark"}
    assert after(project, {"deploy.method": "vanilla"}) == {"choose", "energy_maps"} | behind
    # Either vanilla is the best one too, or DVC remembers what it made of the other.
    assert after(project, {"deploy.method": "best", "deploy.seed": "best"}) == {"choose", "energy_maps"}
    students, chosen = project / "artifacts/students", project / "artifacts/chosen"
    histories = {method: json.loads((students / method / "0/history.json").read_text()) for method in METHODS}
    best = min(METHODS, key=lambda method: (-histories[method]["last"]["val_top1"], method))
    record = json.loads((chosen / "student.json").read_text())
    assert record == {
        "method": best,
        "seed": 0,
        "val_top1": histories[best]["last"]["val_top1"],
        "val_seen_in_training": False,
        "of_methods": 2,
        "of_seeds": 1,
    }
    assert (chosen / "model.safetensors").read_bytes() == (students / best / "0/model.safetensors").read_bytes()
    assert f"The student (resnet8 by {best}, " in (project / "report/RESULTS.md").read_text()


def test_an_int8_student_that_is_trained_further_ships_and_trains_no_other(project: Path) -> None:
    stages = after(project, {"quantize.train": {"epochs": 1, "batch_size": 32}, "deploy.max_drop": 100})
    assert {"distill_int8", "quantize", "ship"} <= stages <= {"distill_int8", "quantize", "ship", "benchmark"}
    distilled = json.loads((project / "artifacts/deploy/distilled/record.json").read_text(encoding="utf-8"))
    assert distilled["distilled"]
    assert distilled["simulation"]["of_allowed"] <= 1
    record = json.loads((project / "artifacts/deploy/quantization.json").read_text(encoding="utf-8"))
    assert record["students"]["int8"]["how"] == "distilled"
    assert list((project / ".resume").iterdir()) == []


def test_a_new_method_or_seed_trains_that_alone(project: Path) -> None:
    assert after(project, {"distill.methods.sakd": {}}, "distill") == {"distill@sakd-0"}
    seeds = after(project, {"distill.seeds": [0, 1]}, "distill", "--dry")
    assert seeds == {"distill@vanilla-1", "distill@kd-1", "distill@sakd-1"}


def test_another_teacher_needs_other_students_of_the_same_data(project: Path) -> None:
    assert after(project, {"teacher.train.epochs": 1}, "distill@kd-0") == {
        "train_teacher",
        "teach",
        "cut_student",
        "distill@kd-0",
    }


def test_a_student_cut_from_its_teacher_is_trained_deployed_and_served(project: Path) -> None:
    cut = {"arch": "pruned", "pretrained": False, "pruned": {"share_of_macs": 0.5, "round_to": 4}}
    stages = after(project, {"student": cut})
    assert {
        "cut_student",
        "distill@kd-0",
        "evaluate@kd-0",
        "choose",
        "export",
        "quantize",
        "ship",
        "benchmark",
    } <= stages
    assert not {"prepare", "train_teacher", "teach"} & stages
    record = json.loads((project / "artifacts/deploy/quantization.json").read_text(encoding="utf-8"))
    images = np.load(project / "data/prepared/test/images.npy")[:3]
    teacher = OnnxClassifier(project / "artifacts/deploy/teacher.onnx")
    for file in ("student.onnx", "deployed.onnx", record["students"]["int8"]["file"]):
        student = OnnxClassifier(project / "artifacts/deploy" / file)
        assert student.card.arch == "resnet14 pruned"
        assert student.card.macs <= teacher.card.macs / 2
        np.testing.assert_allclose(student(images).sum(1), 1, rtol=1e-5)
    assert "resnet14 pruned" in (project / "report/RESULTS.md").read_text(encoding="utf-8")
    # Starting from fresh weights of the same size is another student; what was cut is kept when it comes back.
    fresh = cut | {"pruned": cut["pruned"] | {"keep_weights": False}}
    assert after(project, {"student": fresh}, "distill@kd-0") == {"cut_student", "distill@kd-0"}
    assert not (project / "artifacts/start/weights.safetensors").exists()


def test_a_teacher_cache_gives_the_bytes_of_a_teacher_that_runs_and_switching_it_trains_nothing(project: Path) -> None:
    model = project / "artifacts/students/kd/0/model.safetensors"
    assert after(project, {"teach.views": 2}, "distill@kd-0") == {"teach", "distill@kd-0"}
    running = model.read_bytes()
    assert after(project, {"teach.cache": True}, "distill@kd-0") == {"teach"}
    arguments = ["--method", "kd", "--seed", "0", "--teacher", "artifacts/teacher/model.safetensors", *AGAIN]
    toy.run(project, "python", "-m", "stages.distill", *arguments, "--teaching", "artifacts/teaching")
    assert (project / "again/model.safetensors").read_bytes() == running
    # Another method that reads more: a larger cache, and no other student.
    assert after(project, {"distill.methods.rkd": {}}, "distill@kd-0", "distill@rkd-0") == {"teach", "distill@rkd-0"}
    assert (project / "artifacts/teaching/pooled.npy").is_file()
    assert list((project / ".resume").iterdir()) == []


def test_a_kill_in_training_costs_at_most_an_epoch_and_changes_no_bit(project: Path) -> None:
    epochs = 40  # so many that none is over before the kill
    toy.edit(project, {"distill.train.epochs": epochs})
    state, model = project / ".resume/kd-0.safetensors", project / "artifacts/students/kd/0/model.safetensors"
    with subprocess.Popen(
        ["python", "-m", "dvc", "repro", "distill@kd-0"],
        cwd=project,
        env=toy.environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        deadline = time.monotonic() + 120
        while not state.exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        os.killpg(run.pid, signal.SIGKILL)
        output, _ = run.communicate()
    assert state.exists(), f"was not killed between two epochs:\n{output}"
    assert not model.exists()

    stages, output = toy.repro(project, "distill@kd-0")
    assert stages == {"distill@kd-0"}
    resumed = re.search(r"^resuming after epoch (\d+) from \.resume/kd-0\.safetensors$", output, re.MULTILINE)
    assert resumed, output
    seen = [int(epoch) for epoch in re.findall(rf"^epoch (\d+)/{epochs} ", output, re.MULTILINE)]
    assert seen == list(range(int(resumed[1]) + 1, epochs + 1))
    assert not state.exists()

    # The same training once more, without DVC, asked to stop in the middle.
    arguments = ["--method", "kd", "--seed", "0", "--teacher", "artifacts/teacher/model.safetensors", *AGAIN]
    command = ["python", "-m", "stages.distill", *arguments]
    state = project / AGAIN[AGAIN.index("--resume") + 1]
    with subprocess.Popen(command, cwd=project, env=toy.environment(), stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 120
        while not state.exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        run.terminate()
        _, said = run.communicate()
    assert run.returncode == 128 + signal.SIGTERM, said
    stopped = re.search(
        r"^stopped by SIGTERM in epoch (\d+), after step (\d+)\. The same command goes on", said, re.MULTILINE
    )
    assert stopped, said
    assert f"resuming after epoch {int(stopped[1]) - 1} and {stopped[2]} steps" in toy.run(project, *command)
    assert model.read_bytes() == (project / "again/model.safetensors").read_bytes()


def test_the_same_seed_trains_the_same_bytes(project: Path) -> None:
    toy.run(project, "python", "-m", "stages.train_teacher", *AGAIN)
    again, first = (project / folder / "model.safetensors" for folder in ("again", "artifacts/teacher"))
    assert again.read_bytes() == first.read_bytes()
