"""pipeline.report on small runs written by hand: what is read, and what is said of it."""

import json
import re
from pathlib import Path

import pytest

from pipeline.report import markdown, page
from pipeline.report.artefacts.collect import gain
from pipeline.report.artefacts.measured import Ratio
from pipeline.report.artefacts.records import Spread
from pipeline.report.artefacts.results import Commit, Results
from pipeline.report.findings import data_and_classes, formats, timings, verdict, wording
from pipeline.report.findings.remarks import remarks
from pipeline.report.pictures import labels, plots
from pipeline.system.errors import PupilError
from stages.report import commit
from tests import toy
from tests.report_run import (
    IMAGES,
    LABELS,
    Run,
    alone,
    analysis,
    audit,
    batch,
    deployed,
    evaluation,
    history,
    quantization,
    scenario,
    text_of,
    timing,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def sentence(results: Results) -> str:
    return "".join(text for text, _ in verdict.headline(results))


def test_the_answer_is_about_the_file_that_ships(run: Run) -> None:
    results = run.results()
    assert sentence(results) == (
        "The student (resnet8 by sakd, int8) is 7.5 % the size of its teacher (resnet20), answers 4.00 times as fast "
        "[3.90, 4.10], and is 3.25 points less accurate [\u22124.75, \u22121.75]."
    )
    assert verdict.details(results) == (
        "90.0 kB against 1.20 MB; 0.250 against 1.00 ms a call at batch 1 (p50); 62.75 against 66.00 % of 2,000 test "
        "images. The first call after a pause of 10 ms takes 0.500 against 2.00 ms (p50). Brackets are 95 % intervals."
    )
    assert results.shipped.file == "quantized/student.int8.onnx"
    text = markdown.render(results)
    assert "is **7.5 % the size** of its teacher" in text
    assert text.index("7.5 % the size") < text.index("## Methods")


@pytest.mark.parametrize("int8_accepted", [True, False])
def test_the_answer_is_about_float32_where_that_ships(int8_accepted: bool, run: Run) -> None:
    run.write("deploy/quantization.json", quantization(int8_accepted))
    run.write("deploy/deployed.json", deployed("student.onnx"))
    results = run.results()
    assert (results.shipped.file, results.shipped.number_format) == ("student.onnx", "fp32")
    assert "(resnet8 by sakd, fp32)" in sentence(results)
    assert "answers 2.50 times as fast [2.40, 2.60]" in sentence(results)


def test_on_a_gpu_the_answer_is_about_half_precision_where_that_ships(run: Run) -> None:
    run.edit("deploy/latency.json", device="cuda")
    run.write("deploy/deployed.json", deployed("quantized/student.fp16.onnx"))
    record = quantization(int8_accepted=True)
    record["students"]["fp16"] = record["students"]["int8"] | {"file": "quantized/student.fp16.onnx"}
    run.write("deploy/quantization.json", record)
    latency = json.loads((run.root / "deploy/latency.json").read_text(encoding="utf-8"))
    for it in latency["batches"]:
        it["candidates"]["student_fp16_onnx"] = timing(0.5, 700)
        if it["after_pause"] is not None:
            it["after_pause"]["p50_ms"]["student_fp16_onnx"] = 0.75
        it["ratios"]["teacher_onnx / student_fp16_onnx"] = {"median": 2.0, "low": 1.9, "high": 2.1}
    latency["machine"]["gpus"] = ["Large GPU"]
    run.write("deploy/latency.json", latency)
    results = run.results()
    assert results.shipped.candidate == "student_fp16_onnx"
    assert wording.machine(results).startswith(f"Large GPU, called from {results.latency.machine.cpu} with ")


def test_validation_figures_of_images_seen_in_training_are_labelled(run: Run) -> None:
    before = run.results()
    run.edit("data/card.json", train_includes_val=True)
    for record in ("chosen.json", "deploy/quantization.json"):
        run.edit(record, val_seen_in_training=True)
    results = run.results()
    assert [it.val_seen_in_training for it in (before.chosen, results.chosen)] == [False, True]
    assert [it.val_seen_in_training for it in (before.quantization, results.quantization)] == [False, True]
    for render in (markdown.render, lambda it: text_of(page.render(it))):
        assert "seen in training" not in render(before)
        said = render(results)
        for label in (
            "val (images seen in training), last epoch %",
            "val (images seen in training), best epoch %",
            "val (images seen in training) top",
            "say nothing of new ones, and only the test split was left out",
            "The validation images were trained on, so that they can only refuse a file",
            "are on val (images seen in training)",
            "what train shares with it is a repetition",
            "train, with val",
        ):
            assert label in re.sub(r"\\(.)", r"\1", said)
    assert "Top-1 on the validation split, images seen in training, in percent" in page.render(results)
    assert "in percent, images seen in training, by epoch" in plots.learning_curves(results)


def test_a_deployed_file_that_was_not_timed_is_named(run: Run) -> None:
    latency = json.loads((run.root / "deploy/latency.json").read_text(encoding="utf-8"))
    for it in latency["batches"]:
        del it["candidates"]["student_int8_onnx"]
    run.write("deploy/latency.json", latency)
    with pytest.raises(PupilError, match=r"quantized/student\.int8\.onnx, which is deployed.*`dvc repro benchmark`"):
        run.results()


def test_a_student_that_is_slower_and_as_good(run: Run) -> None:
    latency = json.loads((run.root / "deploy/latency.json").read_text(encoding="utf-8"))
    latency["batches"][1]["ratios"]["teacher_onnx / student_int8_onnx"] = {"median": 0.5, "low": 0.4, "high": 0.8}
    run.write("deploy/latency.json", latency)
    record = quantization(int8_accepted=True)
    record["students"]["int8"]["against_teacher"] = {"difference": 0.001, "interval": [-0.5, 0.75]}
    run.write("deploy/quantization.json", record)
    results = run.results()
    assert "takes 2.00 times as long [1.25, 2.50], and is as accurate [\u22120.50, +0.75]." in sentence(results)
    assert "test images, a difference that may be chance." in verdict.details(results)


def test_what_distillation_added_is_said_in_words(run: Run) -> None:
    said = verdict.distillation(run.results())
    assert "Trained without its teacher (vanilla, same seed), the student scores 60.00 %" in said
    assert "distilled by sakd, 3.00 points more [+2.00, +4.00]" in said
    assert "150 only the distilled one gets right, 90 only the other" in said
    assert "would come up less than once in 1,000 (McNemar's test, p = 1.3e-04)" in said
    run.edit("comparison.json", baseline=None, pairs=[], methods=[])
    assert verdict.distillation(run.results()).startswith("What distillation added is not known: vanilla")
    run.params(seeds=[0], methods=("vanilla",))
    run.ships("vanilla")
    assert "nothing here comes from distillation" in verdict.distillation(run.results())


@pytest.mark.parametrize(
    ("p", "words"),
    [(0.34, "34 times in 100"), (0.004, "less than once in 100"), (1e-5, "once in 100,000"), (0.0, "in 1,000,000 ")],
)
def test_probabilities_in_words(run: Run, p: float, words: str) -> None:
    record = json.loads((run.root / "comparison.json").read_text(encoding="utf-8"))
    run.edit("comparison.json", pairs=[pair | {"mcnemar_p": p} for pair in record["pairs"]])
    assert words in verdict.distillation(run.results())


def test_a_student_that_learned_nothing_and_a_better_one_at_hand_are_remarked(run: Run) -> None:
    assert remarks(run.results()) == []
    for seed in range(3):
        # The largest of three classes has 14 of 40 images.
        run.write(f"students/kd/{seed}/evaluation.json", evaluation("kd", seed, 36.0))
        run.write(f"students/vanilla/{seed}/history.json", history(20.0, 60.0, 98.0))
        run.write(f"students/sakd/{seed}/history.json", history(20.0, 99.0, 55.0))
    results = run.results()
    chance, better = remarks(results)
    assert chance.startswith("No better than chance: kd. Whoever always names the most frequent class gets 35.00 % of")
    assert better == (
        "On validation, vanilla is 43.00 points ahead of sakd, which ships (98.00 against 55.00 % of 21 images). Set "
        "deploy.method to vanilla to ship it instead."
    )
    for said in (re.sub(r"\\(.)", r"\1", markdown.render(results)), text_of(page.render(results))):
        assert all(remark in said for remark in (chance, better))
    # A student that was chosen by validation is not to be named by hand.
    run.edit("chosen.json", of_methods=3, of_seeds=3)
    assert remarks(run.results()) == [chance]
    run.edit("chosen.json", of_methods=1)
    # What the 21 validation images leave to chance is no lead, and images that were trained on choose nothing.
    run.write("students/vanilla/1/history.json", history(20.0, 60.0, 55.0))
    for seed in (0, 2):
        run.write(f"students/vanilla/{seed}/history.json", history(20.0, 60.0, 75.0))
    assert remarks(run.results()) == [chance]
    for seed in range(3):
        run.write(f"students/vanilla/{seed}/history.json", history(20.0, 60.0, 98.0))
    run.edit("data/card.json", train_includes_val=True)
    assert remarks(run.results()) == [chance]


def test_how_the_student_was_chosen_is_said_where_there_was_a_choice(run: Run) -> None:
    assert "chosen" not in verdict.details(run.results())
    run.edit("chosen.json", of_methods=3, of_seeds=3)
    results = run.results()
    said = (
        "It was chosen from 9 students (methods: 3, seeds: 3) by the highest top-1 on validation, 61.00 % of 21 images."
    )
    for text in (markdown.render(results).replace("\\", ""), text_of(page.render(results))):
        assert said in text


def test_the_code_at_work_is_named_and_whether_it_was_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None
    (tmp_path / "dvc.lock").write_text("a", encoding="utf-8")
    (tmp_path / "code.py").write_text("a", encoding="utf-8")
    toy.run(tmp_path, "git", "init", "-q")
    toy.run(tmp_path, "git", "add", "-A")
    toy.run(tmp_path, "git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-q", "-m", "A")
    (tmp_path / "dvc.lock").write_text("b", encoding="utf-8")
    clean = commit()
    assert clean is not None
    assert (len(clean.sha), clean.edited) == (40, False)
    (tmp_path / "code.py").write_text("b", encoding="utf-8")
    assert commit() == Commit(sha=clean.sha, edited=True)


def test_what_the_audit_found_is_counted_and_what_it_did_not_is_named(run: Run) -> None:
    said = data_and_classes.found(run.results())
    assert "Found: 1 truncated, 1 in two splits. Looked for and not found: tiny." in said
    assert "(data.on_bad: skip)" in said
    assert "(data.leaks: report)" in said
    assert "before val was drawn from train, 4 images are in two splits and 1 stand a second time" in said
    assert data_and_classes.splits(run.results())[0] == (
        "train",
        "100",
        "30 to 40",
        "101",
        "1",
        "3",
        "2",
        "12 to 40",
        "12 to 40",
    )
    nothing = {"counts": {"leak": 0, "tiny": 0}, "findings": [], "on_bad": "fail"}
    nothing["source_splits"] = {"leaks": 0, "repeats": 0}
    run.edit("data/audit.json", **nothing)
    assert data_and_classes.found(run.results()) == "Every image was opened before anything trained. Found: nothing."


def test_images_without_labels_have_a_row_and_their_copies_are_counted(run: Run) -> None:
    splits = audit()["splits"]
    run.edit("data/audit.json", splits=splits | {"unlabelled": splits["train"] | {"class_images": None}})
    assert data_and_classes.splits(run.results())[-1][:6] == ("unlabelled", "100", formats.NONE, "101", "1", "3")
    said = data_and_classes.found(run.results())
    # All that are in two splits: none of them stays.
    assert "3 images without labels are copies of labelled ones and were dropped." in said
    assert "(data.leaks: report)" not in said


def test_examples_say_what_both_networks_said(run: Run) -> None:
    examples = run.results().examples
    assert [(it.position, it.true, it.student, it.teacher) for it in examples.only_student] == [
        (0, "cat", LABELS[1], "cat"),
        (3, "cat", LABELS[1], "cat"),
    ]
    assert examples.mistakes[0].confidence == 0.987


def test_a_position_beyond_the_split_is_refused(run: Run) -> None:
    run.edit("students/sakd/0/analysis.json", mistakes=[analysis()["mistakes"][0] | {"position": IMAGES}])
    with pytest.raises(PupilError, match=f"test image {IMAGES}, but the test split has {IMAGES} images"):
        run.results()


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
    assert "| 61.00 \u00b1 1.00 | +0.80 \\[\u22120.20, +1.80\\] tie |" in rows[0]


@pytest.mark.parametrize(("value", "tie"), [(61.69, True), (61.7, False), (60.7, False), (60.71, True)])
def test_half_a_point_is_no_tie_any_more(value: float, tie: bool) -> None:
    alone = [Spread(mean=top1, std=None, n=1) for top1 in (value, 61.2)]
    assert gain(*alone).tie is tie


def test_the_best_student_and_its_ties_are_marked(run: Run) -> None:
    assert [network.ties_with_best for network in run.results().methods] == [False, False, True]
    run.edit("students/kd/0/evaluation.json", test=evaluation("kd", 0, 66.0)["test"])
    assert [network.ties_with_best for network in run.results().methods] == [False, True, True]


def test_a_published_figure_has_a_star_where_it_must_not_be_ranked_with_the_rest(run: Run) -> None:
    results = run.results()
    assert not wording.has_published(results)
    network = results.methods[0].model_copy(update={"published": 78.44, "published_augmented": True})
    text = markdown.render(results.model_copy(update={"methods": (network, *results.methods[1:])}))
    assert "| published % |" in text
    assert "| 78.44* |" in text


def test_a_busy_machine_is_told(run: Run) -> None:
    assert "other work" not in wording.machine(run.results())
    run.edit("deploy/latency.json", load_average=4.5)
    assert "load average 4.50 (more than it has cores: other work was in the way)" in wording.machine(run.results())


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
    ratios = "2.50 \\[2.40, 2.60\\] | 2.50 \\[2.40, 2.60\\]"
    assert f"| smaller model | teacher / student, both in ONNX Runtime | {ratios} |" in text
    assert "| other runtime | PyTorch / ONNX Runtime, teacher | 3.00 \\[2.90, 3.10\\]" in text
    assert "| student, ONNX Runtime | 1 | 0.400 | 0.600 | 0.800 | 700 | 0.800 |" in text
    assert "| teacher, PyTorch | 32 | 96.0 | 144 | \u2013 | 70 | \u2013 |" in text
    assert "After a pause: the first call after 10 ms, 70 times." in text


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


def test_an_invalid_run_of_loadgen_says_why(run: Run) -> None:
    server = scenario("Server", p99_limit_ms=10.0, valid=False, reasons=["no rate was VALID.", "Run it longer."])
    run.edit("deploy/latency.json", candidates=[alone("student_onnx", 63.0) | {"loadgen": [server]}])
    for text in (markdown.render(run.results()), text_of(page.render(run.results()))):
        assert "student, ONNX Runtime, Server, is INVALID: no rate was VALID. Run it longer." in text


def test_a_latency_file_without_pauses_is_reported_as_before(run: Run) -> None:
    latency = json.loads((run.root / "deploy/latency.json").read_text(encoding="utf-8"))
    for it in latency["batches"]:
        del it["after_pause"]
    run.write("deploy/latency.json", latency)
    text = markdown.render(run.results())
    assert "pause of" not in text
    assert "the first call after" not in text
    latency["batches"][1]["after_pause"] = {"pause_ms": 10, "n": 70, "p50_ms": {"student_onnx": 1.0}}
    run.write("deploy/latency.json", latency)
    with pytest.raises(PupilError, match="after_pause needs all candidates that were timed"):
        run.results()


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
        ("chosen.json", "choose"),
        ("deploy/parity.json", "export"),
        ("deploy/quantization.json", "quantize"),
        ("deploy/deployed.json", "ship"),
        ("deploy/latency.json", "benchmark"),
        ("students/sakd/0/analysis.json", "evaluate@sakd-0"),
        ("comparison.json", "compare"),
        ("energy_maps.json", "energy_maps"),
        ("data/audit.json", "prepare"),
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
    assert [formats.share(x) for x in (1.2, 0.996, 0.304, 0.0123)] == ["120 %", "99.6 %", "30 %", "1.2 %"]
    assert formats.ratio(Ratio(median=2.0, low=1.5, high=2.5)) == "2.00 [1.50, 2.50]"
    assert timings.candidate("student_int8_onnx") == "student int8, ONNX Runtime"


@pytest.mark.parametrize("accepted", [True, False])
def test_the_verdict_on_each_student_file_is_shown_with_its_reason(accepted: bool, run: Run) -> None:
    run.write("deploy/quantization.json", quantization(accepted))
    run.write("deploy/deployed.json", deployed("quantized/student.int8.onnx" if accepted else "student.onnx"))
    int8 = f"quantized/student.int8{'' if accepted else '.refused'}.onnx"
    verdicts = ("accepted", "ships") if accepted else ("ships", "refused")
    text = markdown.render(run.results())
    assert f"| student.onnx | {verdicts[0]} | 64.00 | 63.00 | 98.50 | \u2013 | 90.0 kB |" in text
    assert f"| {int8} | {verdicts[1]} | 63.75 | 62.75 | 98.50 | 31.3 | 90.0 kB |" in text
    assert "| quantized/student.fp16.refused.onnx | refused | \u2013 | \u2013 | \u2013 | \u2013 | 90.0 kB |" in text
    assert (f"{int8}: refused: 2.50 more than" in text) is not accepted


def test_number_formats_are_a_factor_of_their_own_and_points_of_accuracy(run: Run) -> None:
    run.edit("deploy/latency.json", left_out={"fp16": "fp16 is for GPUs, and the measurement ran on the CPU"})
    text = markdown.render(run.results())
    assert "| other numbers | fp32 / int8, student in ONNX Runtime | 1.60 \\[1.50, 1.70\\]" in text
    assert "| all together | teacher, PyTorch / student int8, ONNX Runtime | 12.00 \\[11.00, 13.00\\]" in text
    assert (
        "| smaller model, fewer bits | teacher fp32 / student int8, both in ONNX Runtime | 4.00 \\[3.90, 4.10\\]"
        in text
    )
    assert "Not timed: fp16 is for GPUs, and the measurement ran on the CPU." in text
    assert ">sakd int8<" in plots.accuracy_against_latency(run.results())
    assert ">student int8, ONNX Runtime<" in plots.throughput_against_latency(run.results())


def test_a_file_slower_than_the_teacher_has_its_point_in_the_plot(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = batch(1, 700)
    slow["candidates"]["student_int8_onnx"] = timing(5.0, 700)
    run.edit("deploy/latency.json", batches=[slow])
    rights: list[float] = []
    monkeypatch.setattr(plots.svg, "render", lambda figure, *_: rights.append(figure.axes[0].get_xlim()[1]))
    plots.accuracy_against_latency(run.results())
    assert rights == [pytest.approx(1.3 * 5.0)]
