"""pipeline.report on small runs written by hand."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from pipeline.errors import PupilError
from pipeline.report import formats, labels, markdown, page, plots, timings, wording
from pipeline.report.collect import Results, Spread, collect, gain
from pipeline.report.measured import Ratio
from stages.report import report

TOP1 = {"vanilla": (60.0, 60.4, 60.2), "kd": (60.0, 61.0, 62.0), "sakd": (63.0, 63.1, 63.2)}
TEACHER_TOP1 = 66.0
ODD_LABEL = "<script>alert('a|b')</script>"


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def evaluation(method: str | None, seed: int, top1: float, scale: int = 1) -> dict[str, Any]:
    test = {"top1": top1, "top5": 90.0, "nll": 1.25, "ece": 0.0314, "later": [1]}
    agreement = {"top1_agreement": 71.5, "kl_from_teacher": 0.5} if method else {}
    return {
        "arch": "resnet8" if scale == 1 else "resnet20",
        "method": method,
        "seed": seed,
        "test": test | agreement,
        "images": 2000,
        "num_parameters": 80_000 * scale,
        "macs": 12_000_000 * scale,
        "size_bytes": 320_000 * scale,
        "later": {"unknown": "key"},
    }


def history(*val_top1: float) -> dict[str, Any]:
    epochs = [
        {"epoch": epoch, "lr": 0.1, "train": {"loss": 1.0, "top1": 50.0}, "val": {"top1": top1, "top5": 90.0}}
        for epoch, top1 in enumerate(val_top1, start=1)
    ]
    best = max(epochs, key=lambda record: record["val"]["top1"])
    last, best = ({"epoch": e["epoch"], "val_top1": e["val"]["top1"]} for e in (epochs[-1], best))
    return {"last": last, "best": best, "shipped_epoch": len(epochs), "epochs": epochs}


def timing(p50_ms: float, n: int) -> dict[str, Any]:
    p99_ms = 2 * p50_ms if n >= 662 else None
    carried = 99 if n >= 662 else 90
    return {
        "n": n,
        "mean_ms": p50_ms,
        "p50_ms": p50_ms,
        "p90_ms": 1.5 * p50_ms,
        "p99_ms": p99_ms,
        "p90_bound_ms": None,
        "images_per_s": 1000 / p50_ms,
        "quantiles_ms": [p50_ms * (0.5 + p / 100) if p <= carried else None for p in range(1, 100)],
    }


def scenario(name: str, **changes: object) -> dict[str, Any]:
    return {
        "scenario": name,
        "seconds": 0.5,
        "official": False,
        "valid": True,
        "reasons": [],
        "queries": 700,
        "samples": 5600,
        "samples_per_s": 2345.6,
        "p50_ms": 0.25,
        "p90_ms": 0.5,
        "p99_ms": 1.5,
        "p90_bound_ms": 0.75,
        "p99_bound_ms": None,
    } | changes


def alone(name: str, top1: float | None) -> dict[str, Any]:
    memory = [{"batch_size": 1, "peak_bytes": 60_000_000}, {"batch_size": 32, "peak_bytes": 67_000_000}]
    return {
        "name": name,
        "device": "cpu",
        "size_bytes": 330_000,
        "top1": top1,
        "threads": [
            {"threads": 1, "batch_size": 1, "p50_ms": 0.4},
            {"threads": 2, "batch_size": 1, "p50_ms": 0.3},
            {"threads": 1, "batch_size": 32, "p50_ms": 9.0},
        ],
        "energy": None,
        "cold_start": {"n": 3, "import_ms": 75.0, "open_ms": 8.5, "first_call_ms": 0.75, "memory": memory},
        "loadgen": [scenario("SingleStream"), scenario("Server", p99_limit_ms=10.0, valid=False, samples_per_s=None)],
    }


def batch(size: int, n: int) -> dict[str, Any]:
    times = {"student_onnx": 0.4, "teacher_onnx": 1.0, "student_torch": 1.2, "teacher_torch": 3.0}
    return {
        "batch_size": size,
        "rounds": n,
        "candidates": {name: timing(ms * size, n) for name, ms in times.items()},
        "ratios": {
            "teacher_onnx / student_onnx": {"median": 2.5, "low": 2.4, "high": 2.6},
            "teacher_torch / teacher_onnx": {"median": 3.0, "low": 2.9, "high": 3.1},
        },
    }


def quantization(int8_accepted: bool) -> dict[str, Any]:
    def student(file: str, top1: float, accepted: bool = True, **more: Any) -> dict[str, Any]:
        scores = {"top1": top1, "nll": 1.0, "float32_agreement": 98.5, "sqnr_db": 31.26}
        reason = "accepted: a drop" if accepted else "refused: 2.50 more than deploy.max_drop; node_Conv_1 <&>"
        record = {"file": file, "accepted": accepted, "reason": reason, "size_bytes": 90_000}
        return record | {"val": scores, "test": scores | {"top1": top1 - 1}} | more

    name = "quantized/student.int8.onnx" if int8_accepted else "quantized/student.int8.refused.onnx"
    float32 = student("student.onnx", 70.5)
    float32["val"]["sqnr_db"] = None
    students = {
        "float32": float32,
        "int8": student(name, 70.25, int8_accepted),
        "fp16": student("quantized/student.fp16.refused.onnx", 0, False, val=None, test=None),
    }
    return {"max_drop": 0.5, "deployed": name if int8_accepted else "student.onnx", "students": students}


class Run:
    """A finished run below a folder; `results` collects it, `report` calls the stage."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for method, values in TOP1.items():
            for seed, top1 in enumerate(values):
                self.write(f"students/{method}/{seed}/evaluation.json", evaluation(method, seed, top1))
                self.write(f"students/{method}/{seed}/history.json", history(20.0, 62.0 + seed, 61.0 + seed))
        self.write("teacher/evaluation.json", evaluation(None, 0, TEACHER_TOP1, scale=4))
        self.write("teacher/history.json", history(30.0, 64.0, 65.0))
        parity = {"batch_size": 1, "max_probability_error": 3.2e-7, "max_logit_error": 4e-6, "top1_equal": True}
        self.write("deploy/parity.json", {"student": [parity], "teacher": [parity], "later": 1})
        self.write("deploy/quantization.json", quantization(int8_accepted=True))
        machine = {
            "cpu": "Fast & Co <9000>",
            "cores": 4,
            "os": "Linux",
            "python": "3.11.7",
            "packages": {"torch": "2.11"},
        }
        latency = {
            "machine": machine,
            "load_average": [0.5, 0.4, 0.3],
            "threads": 1,
            "batches": [batch(32, 70), batch(1, 700)],
            "candidates": [alone("student_onnx", 63.0), alone("teacher_onnx", 66.0)],
            "left_out": {},
            "size_bytes": {"student.onnx": 330_000, "teacher.onnx": 1_200_000},
        }
        self.write("deploy/latency.json", latency)
        card = {
            "source": "digit_pairs",
            "labels": ["cat", ODD_LABEL],
            "image_px": 32,
            "counts": {"train": 100, "val": 20, "test": 2000},
            "class_counts": {"train": [48, 52], "val": [10, 10], "test": [1000, 1000]},
            "normalization": {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.25]},
            "sha256": {"train/images.npy": "ab" * 32},
            "licence": None,
        }
        self.write("data/card.json", card)
        self.params(seeds=[0, 1, 2])

    def write(self, name: str, value: object) -> None:
        write(self.root / name, value)

    def edit(self, name: str, **changes: object) -> None:
        value = json.loads((self.root / name).read_text(encoding="utf-8"))
        self.write(name, value | changes)

    def params(self, seeds: list[int], methods: tuple[str, ...] = ("vanilla", "kd", "sakd")) -> None:
        chosen = {method: {} for method in methods}
        self.write("params.yaml", {"distill": {"seeds": seeds, "methods": chosen}, "deploy": {"method": "sakd"}})

    def paths(self) -> dict[str, Path]:
        names = ("students", "teacher", "deploy", "data")
        return {"params": self.root / "params.yaml", **{name: self.root / name for name in names}}

    def results(self) -> Results:
        return collect(**self.paths())

    def report(self, out: Path) -> dict[str, bytes]:
        report(**self.paths(), out=out)
        return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html[html.index("<main>") :]))


def sentence(results: Results) -> str:
    return "".join(text for text, _ in wording.headline(results))


def test_values_over_seeds(run: Run) -> None:
    vanilla, kd, sakd = run.results().methods
    assert kd.test["top1"] == Spread(mean=61.0, std=1.0, n=3)
    assert vanilla.test["top1"].mean == pytest.approx(60.2)
    assert vanilla.test["top1"].std == pytest.approx(0.2)
    assert kd.val_last == Spread(mean=62.0, std=1.0, n=3)
    assert kd.val_best == Spread(mean=63.0, std=1.0, n=3)
    assert [point.top1.mean for point in kd.curve] == [20.0, 63.0, 62.0]
    assert sakd.gain is not None
    assert sakd.gain.points == pytest.approx(2.9)
    assert vanilla.gain is None


def test_a_gain_within_the_larger_spread_is_a_tie(run: Run) -> None:
    _, kd, sakd = run.results().methods
    assert kd.gain is not None
    assert kd.gain.tie, "0.8 points, with a spread of 1.0"
    assert sakd.gain is not None
    assert not sakd.gain.tie
    rows = [line for line in markdown.render(run.results()).splitlines() if line.startswith("| kd |")]
    assert "| 61.00 \u00b1 1.00 | +0.80 tie |" in rows[0]


@pytest.mark.parametrize(("value", "tie"), [(61.69, True), (61.7, False), (60.7, False), (60.71, True)])
def test_half_a_point_is_no_tie_any_more(value: float, tie: bool) -> None:
    alone = [Spread(mean=top1, std=None, n=1) for top1 in (value, 61.2)]
    assert gain(*alone).tie is tie


def test_the_best_student_and_its_ties_are_marked(run: Run) -> None:
    assert [network.ties_with_best for network in run.results().methods] == [False, False, True]
    run.edit("students/kd/0/evaluation.json", test=evaluation("kd", 0, 66.0)["test"])
    assert [network.ties_with_best for network in run.results().methods] == [False, True, True]


def test_the_answer_comes_first_and_is_about_the_student_that_ships(run: Run) -> None:
    assert sentence(run.results()) == (
        "The student (resnet8, sakd) has 25 % of the parameters of its teacher (resnet20), answers 2.50 times "
        "[2.40, 2.60] as fast at batch 1, and is 3.00 points less accurate on the test split "
        "(63.00 against 66.00 %, 2,000 images)."
    )
    html = text_of(page.render(run.results()))
    assert "The student that ships is sakd with seed 0" in html
    assert html.index(sentence(run.results())) < html.index("Methods")
    assert "Fast &amp; Co &lt;9000&gt; with 4 cores, on 1 thread; load average 0.50, 0.40, 0.30 before" in html


def test_a_busy_machine_is_told(run: Run) -> None:
    assert "other work" not in wording.machine(run.results())
    run.edit("deploy/latency.json", load_average=4.5)
    assert "load average 4.50 (more than it has cores: other work was in the way)" in wording.machine(run.results())


def test_a_student_that_is_slower_and_as_good(run: Run) -> None:
    latency = json.loads((run.root / "deploy/latency.json").read_text(encoding="utf-8"))
    latency["batches"][1]["ratios"]["teacher_onnx / student_onnx"] = {"median": 0.5, "low": 0.4, "high": 0.8}
    run.write("deploy/latency.json", latency)
    run.write("teacher/evaluation.json", evaluation(None, 0, 62.6, scale=4))
    assert "takes 2.00 times [1.25, 2.50] as long at batch 1, and is as accurate, within 0.5 points," in sentence(
        run.results()
    )


def test_one_seed_has_an_unknown_spread(run: Run) -> None:
    run.params(seeds=[1])
    results = run.results()
    assert results.methods[1].test["top1"] == Spread(mean=61.0, std=None, n=1)
    for text in (text_of(page.render(results)), markdown.render(results)):
        assert "the spread between seeds is unknown" in text
        assert "61.00 \u00b1 ?" in text


def test_only_what_params_list_is_read(run: Run) -> None:
    (run.root / "students/kd/2/evaluation.json").write_text("torn", encoding="utf-8")
    run.write("students/crd/0/evaluation.json", {})
    run.params(seeds=[0], methods=("vanilla", "sakd"))
    assert [network.name for network in run.results().methods] == ["vanilla", "sakd"]


def test_without_a_baseline_there_is_no_gain(run: Run) -> None:
    run.params(seeds=[0], methods=("kd", "sakd"))
    assert [network.gain for network in run.results().methods] == [None, None]
    assert "\u2013" in text_of(page.render(run.results()))


def test_a_teacher_that_was_taken_has_a_level_and_no_curve(run: Run) -> None:
    run.write("teacher/history.json", {"taken": {"val_top1": 65.25}, "epochs": []})
    teacher = run.results().teacher
    assert (teacher.val_last.mean, teacher.val_best, teacher.curve) == (65.25, None, ())
    assert "the dashed line is its level" in text_of(page.render(run.results()))


def test_another_network_borrows_no_latency(run: Run) -> None:
    other = evaluation("kd", 0, 61.0) | {"num_parameters": 90_000}
    run.write("students/kd/0/evaluation.json", other)
    results = run.results()
    assert [network.name for network in results.untimed()] == ["kd"]
    assert ">kd<" not in plots.accuracy_against_latency(results)
    assert ">kd<" in plots.accuracy_against_parameters(results)
    assert "Not timed: kd, another network." in text_of(page.render(results))


def test_latency_tells_the_smaller_model_from_the_other_runtime(run: Run) -> None:
    text = markdown.render(run.results())
    ratios = "2.50 [2.40, 2.60] | 2.50 [2.40, 2.60]"
    assert f"| smaller model | teacher / student, both in ONNX Runtime | {ratios} |" in text
    assert "| other runtime | PyTorch / ONNX Runtime, teacher | 3.00 [2.90, 3.10]" in text
    assert "| student, ONNX Runtime | 1 | 0.400 | 0.600 | 0.800 | 700 |" in text
    assert "| teacher, PyTorch | 32 | 96.0 | 144 | \u2013 | 70 |" in text


def test_number_formats_are_a_factor_of_their_own_and_points_of_accuracy(run: Run) -> None:
    assert "afd int8" not in plots.accuracy_against_latency(run.results())
    latency = json.loads((run.root / "deploy/latency.json").read_text(encoding="utf-8"))
    for it in latency["batches"]:
        it["candidates"]["student_int8_onnx"] = timing(0.2, 700)
        it["ratios"]["student_onnx / student_int8_onnx"] = {"median": 2.0, "low": 1.9, "high": 2.1}
        it["ratios"]["teacher_torch / student_int8_onnx"] = {"median": 15.0, "low": 14.0, "high": 16.0}
    latency["candidates"].append(alone("student_int8_onnx", 62.5))
    latency["left_out"]["fp16"] = "fp16 is for GPUs, and the measurement ran on the CPU"
    run.write("deploy/latency.json", latency)
    text = markdown.render(run.results())
    assert "| other numbers | fp32 / int8, student in ONNX Runtime | 2.00 [1.90, 2.10]" in text
    assert "| all together | teacher, PyTorch / student int8, ONNX Runtime | 15.00 [14.00, 16.00]" in text
    html = page.render(run.results())
    for shown in (text, text_of(html)):
        assert "Not timed: fp16 is for GPUs, and the measurement ran on the CPU." in shown
    assert ">sakd int8<" in plots.accuracy_against_latency(run.results())
    assert "Diamonds: the student that ships in other number formats." in text_of(html)
    assert ">student int8, ONNX Runtime<" in plots.throughput_against_latency(run.results())


def test_what_was_measured_of_one_candidate_alone(run: Run) -> None:
    text = markdown.render(run.results())
    assert "| student, ONNX Runtime | 1 | 9.00 | 0.400 |" in text
    assert "| student, ONNX Runtime | 2 | \u2013 | 0.300 |" in text
    assert "| student, ONNX Runtime | 330 kB | 75.0 | 8.50 | 0.750 | 67.0 MB | \u2013 |" in text
    assert "| student, ONNX Runtime | SingleStream | VALID | 5,600 | 0.250 | 1.50 | 0.750 | \u2013 | 2,346 |" in text
    assert "| Server, p99 within 10 ms | INVALID | 5,600 | 0.250 | 1.50 | 0.750 | \u2013 | \u2013 |" in text
    assert "0.5 s a run; MLPerf asks for 600 s, so these are no MLPerf results" in text
    assert "Medians over 3 fresh processes" in text
    html = text_of(page.render(run.results()))
    assert "0.5 s a run; MLPerf asks for 600 s, so these are no MLPerf results" in html
    assert "Server, p99 within 10 ms" in html
    assert "Energy: not counted by this machine." in html


def test_what_was_not_measured_has_no_table(run: Run) -> None:
    bare = {"threads": [], "cold_start": None, "loadgen": None}
    run.edit("deploy/latency.json", candidates=[alone("student_onnx", 63.0) | bare])
    for text in (markdown.render(run.results()), text_of(page.render(run.results()))):
        assert "LoadGen" not in text
        assert "scenarios" not in text
        assert "fresh processes" not in text


def test_the_plots_of_latency_name_every_candidate(run: Run) -> None:
    for drawn in (plots.latency_distribution(run.results()), plots.throughput_against_latency(run.results())):
        for name in ("student, ONNX Runtime", "teacher, ONNX Runtime", "student, PyTorch", "teacher, PyTorch"):
            assert f">{name}<" in drawn


class Elements(HTMLParser):
    """Checks that elements nest, and gathers what they refer to."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_it(run: Run) -> None:
    html = page.render(run.results())
    elements = Elements(html)
    assert "://" not in html
    assert "@import" not in html
    assert not elements.tags & {"script", "link", "img", "iframe"}
    assert elements.references
    assert all(reference.startswith("#") for reference in elements.references)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert len(elements.ids) == len(set(elements.ids)), "the plots share ids"


def test_plots_take_their_colors_from_the_page(run: Run) -> None:
    html = page.render(run.results())
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--accent)" in drawn
    assert not re.search(r"(fill|stroke): #", drawn)
    for variable in set(re.findall(r"var\((--[a-z0-9-]*)\)", html)):
        assert html.count(f"{variable}: #") >= 2, f"{variable} needs a light and a dark value"


def test_a_persons_own_matplotlib_style_changes_nothing(run: Run) -> None:
    results = run.results()
    plain = plots.learning_curves(results)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert plots.learning_curves(results) == plain


def test_class_names_are_escaped(run: Run) -> None:
    html, text = page.render(run.results()), markdown.render(run.results())
    assert "<script>" not in html
    assert "&lt;script&gt;alert(&#39;a|b&#39;)&lt;/script&gt;" in html
    assert "\\<script\\>alert('a\\|b')\\</script\\>" in text


def test_the_same_run_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    first, second = run.report(tmp_path / "first"), run.report(tmp_path / "second")
    assert first == second
    assert sorted(first) == ["RESULTS.md", "report.html", "results.json"]
    results = json.loads(first["results.json"])
    assert results["methods"][1]["test"]["top1"] == {"mean": 61.0, "std": 1.0, "n": 3}


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("students/kd/1/evaluation.json", "evaluate@kd-1"),
        ("students/kd/1/history.json", "distill@kd-1"),
        ("teacher/evaluation.json", "evaluate_teacher"),
        ("teacher/history.json", "train_teacher"),
        ("deploy/parity.json", "export"),
        ("deploy/quantization.json", "quantize"),
        ("deploy/latency.json", "benchmark"),
        ("data/card.json", "prepare"),
    ],
)
@pytest.mark.parametrize("content", [None, "", '{"epochs": [', "{}", "[]"])
def test_a_missing_or_torn_file_is_named_with_its_stage(run: Run, name: str, stage: str, content: str | None) -> None:
    path = run.root / name
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(PupilError, match=f"(?s){re.escape(str(path))}.*`dvc repro {stage}`"):
        run.results()


def test_what_is_not_a_number_is_refused(run: Run) -> None:
    broken = evaluation("kd", 0, float("nan"))
    run.write("students/kd/0/evaluation.json", broken)
    with pytest.raises(PupilError, match=r"test\.top1"):
        run.results()


def test_names_make_way_for_each_other() -> None:
    assert labels.apart([5.0, 1.0], 1.0, 0.0, 10.0) == [5.0, 1.0]
    assert labels.apart([5.0, 5.0, 5.0], 1.0, 0.0, 10.0) == [4.0, 5.0, 6.0]
    assert labels.apart([9.9, 9.8], 1.0, 0.0, 10.0) == [10.0, 9.0]
    assert labels.apart([0.0, 0.5], 1.0, 0.0, 10.0) == [0.0, 1.0]
    # 2 joins the pair of 1s although it kept its distance from each: the least squares of (1, 1, 2).
    assert labels.apart([1.0, 1.0, 2.0], 1.0, 0.0, 10.0) == pytest.approx([1 / 3, 4 / 3, 7 / 3], abs=1e-12)


def test_numbers_as_a_person_writes_them() -> None:
    assert [formats.milliseconds(x) for x in (0.01234, 1.234, 123.4, 1234.0, None)] == [
        "0.0123",
        "1.23",
        "123",
        "1,234",
        "\u2013",
    ]
    assert [formats.scaled(x) for x in (41_218_000, 1_500, 12)] == ["41.2 M", "1.50 k", "12 "]
    assert [formats.points(x) for x in (1.005, -0.5, -0.001)] == ["+1.00", "\u22120.50", "+0.00"]
    assert [formats.share(x) for x in (1.2, 0.304, 0.0123)] == ["120 %", "30 %", "1.2 %"]
    assert formats.ratio(Ratio(median=2.0, low=1.5, high=2.5)) == "2.00 [1.50, 2.50]"
    assert timings.candidate("student_int8_onnx") == "student int8, ONNX Runtime"


@pytest.mark.parametrize("accepted", [True, False])
def test_the_page_says_which_student_file_is_deployed_and_why_others_are_not(accepted: bool, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.write("deploy/quantization.json", quantization(accepted))
    pages = {name: content.decode() for name, content in run.report(tmp_path / "out").items()}
    int8 = f"quantized/student.int8{'' if accepted else '.refused'}.onnx"
    verdicts = ("accepted", "deployed on CPUs") if accepted else ("deployed on CPUs", "refused")
    text = pages["RESULTS.md"]
    assert f"| student.onnx | {verdicts[0]} | 70.50 | 69.50 | 98.50 | \u2013 | 90.0 kB |" in text
    assert f"| {int8} | {verdicts[1]} | 70.25 | 69.25 | 98.50 | 31.3 | 90.0 kB |" in text
    assert "| quantized/student.fp16.refused.onnx | refused | \u2013 | \u2013 | \u2013 | \u2013 | 90.0 kB |" in text
    page = pages["report.html"]
    assert f'<th scope="row">{int8}</th><td class="text">{verdicts[1]}</td><td>70.25</td>' in page
    for said in (page, text):
        assert (f"{int8}: refused: 2.50 more than" in said) is not accepted
    assert "node_Conv_1 <&>" not in page
