"""python -m serve as a person runs it."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from serve.__main__ import main
from tests import tiny_onnx

ROOT = Path(__file__).parents[2]


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return tiny_onnx.write(tmp_path / "student.onnx")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return tiny_onnx.write(tmp_path / "teacher.onnx", "teacher", image_px=16, num_classes=5)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_run_serves_until_it_is_stopped(student: Path, teacher: Path, stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "serve", "run", str(student), str(teacher), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            found = re.fullmatch(r"Serving student, teacher on (http://127\.0\.0\.1:\d+); try: curl (\S+)\n", line)
            assert found, line
            url, hint = found.groups()
            with urllib.request.urlopen(hint, timeout=10) as answer:
                assert json.load(answer)["name"] == "student"
            tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 16, 16, 3], "data": [7] * 768}
            body = json.dumps({"inputs": [tensor]}).encode()
            with urllib.request.urlopen(f"{url}/v2/models/teacher/infer", body, timeout=10) as answer:
                assert json.load(answer)["outputs"][0]["shape"] == [1, 5]
        finally:
            server.send_signal(stop)
            out, err = server.communicate(timeout=20)
    assert (out, err) == ("", "")
    assert server.returncode == 0


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """What stderr says, once it is known to be one paragraph."""
    assert main([str(argument) for argument in argv]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_one_paragraph_for_what_a_user_can_mend(capsys: pytest.CaptureFixture[str], student: Path) -> None:
    broken = student.with_name("broken.onnx")
    broken.write_bytes(student.read_bytes()[:100])
    for command in ("run", "benchmark"):
        assert "broken.onnx is not a usable Pupil model" in refused(capsys, command, broken)
    twin = student.with_name("twin.onnx")
    twin.write_bytes(student.read_bytes())
    assert "twin.onnx is named 'student' like a model before it" in refused(capsys, "run", student, twin)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Cannot listen on 127.0.0.1 port {port}" in refused(capsys, "run", student, "--port", port)


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "x", "--deadline-ms", "nan"],
        ["run", "x", "--deadline-ms", "inf"],
        ["run", "x", "--deadline-ms", "-1"],
        ["run", "x", "--max-delay-ms", "nan"],
        ["run", "x", "--port", "65536"],
        ["run", "x", "--max-body-mib", "9" * 5000],
        ["run", "x", "--max-connections", "0"],
        ["benchmark", "x", "--seed", "-1"],
        ["benchmark", "x", "--batch-sizes", "1", "1000000000"],
        ["benchmark", "x", "--threads", "100000"],
        ["benchmark", "x", "--loadgen", "1e9"],
        ["load", "http://127.0.0.1:1", "--duration", "1e9"],
        ["load", "http://127.0.0.1:1", "--rate", "nan"],
        ["load", "http://127.0.0.1:1", "--seed", str(2**32)],
        ["package", "x", "--replicas", "-1", "4"],
    ],
    ids=lambda argv: " ".join(argv)[:40],
)
def test_numbers_out_of_range_are_refused_before_anything_begins(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert re.search(r"error: argument --[a-z-]+: (must be in|invalid number)", capsys.readouterr().err)


def test_more_arrivals_than_memory_holds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["load", "http://127.0.0.1:1", "--rate", 100_000, "--duration", 80_000]
    assert "more than 50,000,000 arrivals" in refused(capsys, *argv)


def test_output_that_nobody_reads_is_one_sentence(student: Path) -> None:
    command = [sys.executable, "-m", "serve", "benchmark", str(student), "--samples", "2", "--warmup", "1"]
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "Standard output takes no more (No space left on device)."
    assert "Traceback" not in run.stderr


def table(text: str) -> list[list[str]]:
    """An aligned table as rows of cells."""
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1  # aligned
    return [re.split(r"  +", line.strip()) for line in lines]


def test_benchmark_prints_tables_and_writes_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, student: Path, teacher: Path
) -> None:
    out = tmp_path / "new" / "latency.json"
    argv = ["benchmark", student, teacher, "--batch-sizes", 1, 4, "--samples", 70, "--seed", 3, "--json", out]
    assert main([str(argument) for argument in argv]) == 0
    latencies, ratios, pauses = map(table, capsys.readouterr().out.split("\n\n"))
    assert latencies[0] == ["candidate", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "n"]
    assert [row[:2] for row in latencies[1:]] == [
        ["student", "1"],
        ["teacher", "1"],
        ["student", "4"],
        ["teacher", "4"],
    ]
    assert ratios[0] == ["time / time [95 %]", "batch 1", "batch 4"]
    report = json.loads(out.read_text())
    assert [path.name for path in out.parent.iterdir()] == ["latency.json"]
    assert (report["seed"], report["threads"]) == (3, 1)
    assert report["cards"]["teacher"]["image_px"] == 16
    assert report["machine"]["cores"] >= 1
    measured = [(batch, name, batch["candidates"][name]) for batch in report["batches"] for name in batch["candidates"]]
    for (batch, name, timing), printed in zip(measured, latencies[1:], strict=True):
        assert (timing["n"], batch["rounds"]) == (70, 35)
        assert timing["min_ms"] <= timing["p50_ms"] <= timing["p90_ms"] <= timing["max_ms"]
        assert timing["p99_ms"] is None  # 70 samples carry no p99
        assert printed == [
            name,
            str(batch["batch_size"]),
            f"{timing['p50_ms']:.3f}",
            f"{timing['p90_ms']:.3f}",
            "-",
            f"{timing['images_per_s']:.1f}",
            "70",
        ]
        assert timing["images_per_s"] == pytest.approx(1000 * batch["batch_size"] / timing["mean_ms"])
    assert [list(batch["ratios"]) for batch in report["batches"]] == [["teacher / student"]] * 2
    assert ratios[1][0] == "teacher / student"
    # At the smallest batch size alone.
    first, second = (batch["after_pause"] for batch in report["batches"])
    assert second is None
    assert (first["pause_ms"], first["n"]) == (10, 70)
    assert pauses[1:] == [[name, "10", "1", f"{first['p50_ms'][name]:.3f}", "70"] for name in ("student", "teacher")]
    for record, path in zip(report["candidates"], (student, teacher), strict=True):
        assert record["size_bytes"] == path.stat().st_size
        assert (record["threads"], record["cold_start"], record["loadgen"]) == ([], None, None)


def test_benchmark_measures_threads_starts_and_scenarios_on_demand(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, student: Path
) -> None:
    out = tmp_path / "latency.json"
    asked = ["--thread-counts", 1, 4096, "--cold-starts", 2, "--loadgen", 0.02]
    argv = ["benchmark", student, "--batch-sizes", 2, "--samples", 2, "--warmup", 1, *asked, "--json", out]
    assert main([str(argument) for argument in argv]) == 0
    _, _, starts, threads, scenarios = map(table, capsys.readouterr().out.split("\n\n"))
    (record,) = json.loads(out.read_text())["candidates"]
    assert [entry["threads"] for entry in record["threads"]] == [1], "no machine has 4096 cores"
    assert threads[1][:3] == ["student", "1", "2"]
    assert record["cold_start"]["n"] == 2
    assert starts[1][0] == "student"
    names = ["SingleStream", "MultiStream", "Server", "Offline"]
    assert [run["scenario"] for run in record["loadgen"]] == [row[1] for row in scenarios[1:]] == names
    assert not any(run["official"] for run in record["loadgen"])
    said = [f"{'VALID' if run['valid'] else 'INVALID'}, short" for run in record["loadgen"]]
    assert [row[2] for row in scenarios[1:]] == said


def test_benchmark_says_what_is_missing_for_loadgen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, student: Path
) -> None:
    monkeypatch.setattr("sys.path", [str(ROOT)])
    monkeypatch.delitem(sys.modules, "mlperf_loadgen", raising=False)
    argv = ["benchmark", student, "--batch-sizes", 1, "--samples", 2, "--loadgen", 1]
    assert "Install the package mlcommons-loadgen, or leave LoadGen out" in refused(capsys, *argv)


def test_benchmark_tells_two_files_of_one_name_apart(capsys: pytest.CaptureFixture[str], student: Path) -> None:
    argv = ["benchmark", student, student, "--batch-sizes", 1, "--samples", 2]
    assert main([str(argument) for argument in argv]) == 0
    latencies = table(capsys.readouterr().out.split("\n\n")[0])
    assert [row[0] for row in latencies] == ["candidate", "student#1", "student#2"]


def test_benchmark_warns_on_a_busy_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, student: Path
) -> None:
    argv = ["benchmark", str(student), "--batch-sizes", "1", "--samples", "2"]
    monkeypatch.setattr("os.getloadavg", lambda: (1e6, 0.0, 0.0))
    assert main(argv) == 0
    assert "load average 1000000.0 on" in capsys.readouterr().err
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 9.0, 9.0))
    assert main(argv) == 0
    assert capsys.readouterr().err == ""


def test_benchmark_keeps_its_table_when_json_cannot_be_written(
    capsys: pytest.CaptureFixture[str], student: Path
) -> None:
    argv = ["benchmark", student, "--batch-sizes", 1, "--samples", 2, "--json", student / "latency.json"]
    assert main([str(argument) for argument in argv]) == 1
    out, err = capsys.readouterr()
    assert [len(table(part)) for part in out.split("\n\n")] == [2, 2]
    assert "could not be written" in err


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "x", "--port", "99999"],
        ["run", "x", "--threads", "0"],
        ["benchmark", "x", "--samples", "0"],
        ["benchmark", "x", "--loadgen", "0"],
        ["benchmark", "x", "--loadgen", "nan"],
        [],
    ],
)
def test_impossible_arguments(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err
