"""The report as one HTML file that needs nothing beside it: no network, no script."""

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pipeline.report import formats, plots, timings, wording
from pipeline.report.collect import Results
from pipeline.report.measured import SMALLER_MODEL

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def render(results: Results) -> str:
    """The whole page. Whatever comes from data or parameters is escaped; only the plots are markup."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    html = template.render(
        r=results,
        f=formats,
        w=wording,
        t=timings,
        formats=[it.name for it in results.latency.candidates if timings.number_format(it.name) != "fp32"],
        columns=wording.columns(results),
        shares=shares(results),
        learning_curves=Markup(plots.learning_curves(results)),
        latency_distribution=Markup(plots.latency_distribution(results)),
        throughput_against_latency=Markup(plots.throughput_against_latency(results)),
        accuracy_against_latency=Markup(plots.accuracy_against_latency(results)),
        accuracy_against_parameters=Markup(plots.accuracy_against_parameters(results)),
    )
    # Lines do not break between a number and its sign.
    return html.replace(" %", "\u00a0%").replace(f"{formats.PLUS_MINUS} ", f"{formats.PLUS_MINUS}\u00a0")


def shares(results: Results) -> list[tuple[str, float]]:
    """What of the teacher's cost and accuracy the student has, as (label, fraction of 1)."""
    student, teacher = results.deployed, results.teacher_evaluation
    batch = wording.smallest_batch(results)
    return [
        ("Parameters", student.num_parameters / teacher.num_parameters),
        ("Multiplications", student.macs / teacher.macs),
        (f"Time at batch {batch.batch_size}", 1 / batch.ratios[SMALLER_MODEL].median),
        ("Top-1 accuracy", student.test.top1 / teacher.test.top1 if teacher.test.top1 else 0.0),
    ]
