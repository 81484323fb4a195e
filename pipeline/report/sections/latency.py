"""Latency: what makes the speed, how it is distributed, and what each candidate does by itself."""

from markupsafe import Markup

from pipeline.report.artefacts.results import Results
from pipeline.report.findings import formats, timings, wording
from pipeline.report.pictures import plots
from pipeline.report.templates import Section, fill

RATIO_TITLE = "time ratio [95 % interval]"


def section(results: Results) -> Section:
    """Tables and plots."""
    batches = [f"batch {batch.batch_size}" for batch in results.latency.batches]
    html = fill(
        "latency.html.jinja",
        r=results,
        machine=wording.machine(results),
        batch_titles=batches,
        ratio_titles=["", RATIO_TITLE, *batches],
        ratios=timings.ratios(results),
        calls=timings.calls(results),
        distribution=Markup(plots.latency_distribution(results)),
        throughput=Markup(plots.throughput_against_latency(results)),
        sizes=", ".join(f"{name} {formats.size(size)}" for name, size in results.latency.size_bytes.items()),
        t=timings,
    )
    return Section("latency", "Latency", html)
