"""Sentences and headings of the report, for the page and for RESULTS.md alike."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.evaluation.comparison import TIE_POINTS
from pipeline.evaluation.published import shown
from pipeline.report.artefacts.results import Commit, Network, Results
from pipeline.report.findings.formats import (
    NONE,
    PLUS_MINUS,
    bounds,
    count,
    decimal,
    percent,
    points,
    scaled,
    size,
    tiny,
)
from pipeline.settings.data import validation_label

PUBLISHED = (
    "Published: test top-1 on CIFAR-100 of the same two networks, as others printed it. Their recipes differ from row "
    "to row, and so do the teachers:"
)

SEEN = (
    "The validation images are among those that were trained on (data.train_includes_val): validation figures are of "
    "images seen in training and say nothing of new ones, and only the test split was left out."
)


@dataclass(frozen=True)
class Column:
    """A score in the table of methods, beside top-1."""

    key: str
    title: str
    number: Callable[[float], str]


def columns(results: Results) -> tuple[Column, ...]:
    """Scores on the test split that follow top-1."""
    return (
        Column("top5", f"top-{min(5, results.data.num_classes)} %", percent),
        Column("nll", "NLL nats", decimal),
        Column("ece", "ECE", decimal),
        Column("top1_agreement", "agrees with teacher %", percent),
    )


def val(results: Results) -> str:
    """What the validation split is called beside a figure."""
    return validation_label("val", results.data.train_includes_val)


def method_titles(results: Results) -> list[str]:
    """Of the columns of the table of methods."""
    others = ["published %"] if has_published(results) else []
    last = [column.title for column in columns(results)]
    return [
        "",
        "n",
        "test top-1 %",
        "over vanilla",
        *others,
        *(f"{val(results)}, {it} epoch %" for it in ("last", "best")),
        *last,
    ]


def scores(results: Results, network: Network) -> list[str]:
    """The cells of `columns`, means over the seeds."""
    return [
        column.number(network.test[column.key].mean) if column.key in network.test else NONE
        for column in columns(results)
    ]


def has_published(results: Results) -> bool:
    """Whether figures of others stand beside any of ours."""
    return any(network.published is not None for network in results.networks())


def published(network: Network) -> str:
    """What others printed."""
    return NONE if network.published is None else shown(network.published, network.published_augmented)


def machine(results: Results) -> str:
    """Where the latency was measured, and whether the machine was its own."""
    it, timed = results.latency.machine, results.latency
    threads = "1 thread" if timed.threads == 1 else f"{timed.threads} threads"
    cpu = f"{it.cpu} with {it.cores} cores"
    where = (
        f"{cpu}, on {threads}" if timed.device == "cpu" else f"{it.gpus[0] if it.gpus else 'a GPU'}, called from {cpu}"
    )
    load = ", ".join(f"{value:.2f}" for value in timed.load_average)
    busy = " (more than it has cores: other work was in the way)" if timed.load_average[0] > it.cores else ""
    return f"{where}; load average {load}{busy} before the first call"


def notes(results: Results) -> list[str]:
    """How to read the table of methods, one sentence each."""
    test = results.deployed
    low, high = test.top1_interval
    chosen = {"last": "last epoch", "best": "epoch that is best on validation"}[results.select]
    if len(results.seeds["distill"]) == 1:
        spreads = [f"n = 1: the spread between seeds is unknown ({PLUS_MINUS} ?), and any difference may be chance."]
        drawn = "test images: they do not say what another seed would give"
    else:
        spreads = [
            f"{PLUS_MINUS} is the sample standard deviation over n seeds; where n = 1 the spread is unknown.",
            f"The student that ships is {test.method} with seed {test.seed}; the answer above is of that one alone.",
        ]
        drawn = "test images and seeds, and too narrow as long as there are two or three seeds"
    return [
        *spreads,
        f"A difference below {TIE_POINTS} points, or below the larger spread of the two, is a tie. "
        "The best student is set in bold, and so is whatever ties with it. Brackets are 95 % intervals, by paired "
        f"bootstrap over {drawn}.",
        f"The choice of {count(test.images)} test images alone leaves {percent(test.test.top1)} % of {test.method} "
        f"anywhere from {percent(low)} to {percent(high)} % (95 %, bootstrap over images).",
        "The other columns are means over the seeds; their spread is in results.json.",
        f"Students trained for {results.student_epochs} epochs; the {chosen} is the one tested.",
        *([SEEN] if results.data.train_includes_val else []),
        *([" ".join([PUBLISHED, *results.published_by])] if has_published(results) else []),
    ]


def sizes(results: Results) -> list[tuple[str, str, str, str, str]]:
    """Rows of who, network, parameters, multiplications, weights file: one row for all methods of equal networks."""
    groups: dict[tuple[str, int, int], list[Network]] = {}
    for network in results.methods:
        groups.setdefault((network.arch, network.num_parameters, network.macs), []).append(network)
    rows = [("teacher", results.teacher)]
    for members in groups.values():
        who = "every student" if len(groups) == 1 else ", ".join(network.name for network in members)
        rows.append((who, members[0]))
    return [(who, n.arch, count(n.num_parameters), scaled(n.macs), size(n.size_bytes)) for who, n in rows]


SIZE_TITLES = ("", "network", "parameters", "multiplications per image", "weights file")
"""Of the columns of `sizes`."""


def student_files(results: Results) -> list[tuple[str, ...]]:
    """Rows of file, verdict, validation and test top-1, agreement with float32 and SQNR on validation, size."""
    rows: list[tuple[str, ...]] = []
    for it in results.quantization.students.values():
        on_val, test = it.val, it.test
        verdict = "accepted" if it.accepted else "refused"
        rows.append(
            (
                it.file,
                "ships" if it.file == results.shipped.file else verdict,
                NONE if on_val is None else percent(on_val.top1),
                NONE if test is None else percent(test.top1),
                NONE if on_val is None else percent(on_val.float32_agreement),
                NONE if on_val is None or on_val.sqnr_db is None else f"{on_val.sqnr_db:.1f}",
                NONE if it.size_bytes is None else size(it.size_bytes),
            )
        )
    return rows


def student_file_titles(results: Results) -> list[str]:
    """Of the columns of `student_files`."""
    return ["", "", f"{val(results)} top-1 %", "test top-1 %", "agrees with float32 %", "SQNR dB", "size"]


def gate(results: Results) -> str:
    """What decided which files are accepted."""
    decides = (
        "Validation top-1 decides what is accepted, by the images whose answer turned wrong or right. Where these are "
        "too few to show that no more than deploy.max_drop is lost, agreement with float32"
    )
    if results.data.train_includes_val:
        decides = (
            "The validation images were trained on, so that they can only refuse a file, by the images whose answer "
            "turned wrong or right. Otherwise agreement with float32"
        )
    return (
        f"{decides} on images of train decides, each changed answer at what it costs by float32's probabilities. "
        f"Agreement and SQNR (of logits) in the table are on {val(results)}. {results.shipped.file} ships, because "
        f"{results.shipped.reason}."
    )


def verdicts(results: Results) -> list[str]:
    """Why files were refused, and of which ones the validation images could not tell; one sentence each."""
    files = results.quantization.students.values()
    return [f"{it.file}: {it.reason}." for it in files if not (it.accepted and it.validation_tells)]


def gain(network: Network) -> str:
    """Gain over the baseline with its interval, and the word where it is a tie."""
    it = network.gain
    if it is None:
        return NONE
    interval = "" if it.interval is None else f" {bounds(it.interval)}"
    return f"{points(it.points)}{interval}{' tie' if it.tie else ''}"


def parity(results: Results) -> list[list[tuple[str, ...]]]:
    """Of student and of teacher, rows of who, batch, largest error of a probability and of a logit, top-1 equal."""
    return [
        [
            (
                who,
                str(it.batch_size),
                tiny(it.max_probability_error),
                tiny(it.max_logit_error),
                "yes" if it.top1_equal else "no",
            )
            for it in records
        ]
        for who, records in (("student", results.parity.student), ("teacher", results.parity.teacher))
    ]


PARITY_TITLES = ("", "batch", "largest error of a probability", "largest error of a logit", "top-1 equal")
"""Of the columns of `parity`."""


def commands(results: Results) -> list[str]:
    """What to type to make the page again; it installs the pinned packages too."""
    return [*([] if results.commit is None else [f"git checkout {results.commit.sha}"]), "make repro"]


def provenance(results: Results) -> list[tuple[str, str]]:
    """What the numbers were made from and with, as (label, value)."""
    it = results.latency.machine
    packages = [f"Python {it.python}", *(f"{name} {version}" for name, version in sorted(it.packages.items()))]
    seeds = [f"{who} {', '.join(map(str, drawn))}" for who, drawn in results.seeds.items()]
    facts = [
        ("Code", _code(results.commit)),
        ("params.yaml", f"sha256 {results.params_sha256}"),
        *((f"data, {name}", f"sha256 {digest}") for name, digest in sorted(results.data.sha256.items())),
        ("Seeds", "; ".join(seeds)),
        ("Packages", ", ".join(packages)),
        ("Machine", f"{it.cpu}, {it.cores} cores, {it.os}"),
    ]
    if it.governor is not None:
        facts.append(("CPU governor", it.governor))
    if it.gpus:
        facts.append(("GPUs", ", ".join(it.gpus)))
    return facts


def _code(commit: Commit | None) -> str:
    if commit is None:
        return "no git here to ask"
    return f"commit {commit.sha}" + (", with edits that are in no commit" if commit.edited else "")
