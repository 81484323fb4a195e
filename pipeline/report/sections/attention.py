"""Which teacher block attended to which student block, and where the networks look."""

from pipeline.report import attention
from pipeline.report.results import Results
from pipeline.report.templates import Section


def section(results: Results) -> Section:
    """Of the methods that have an attention, and of the energy maps."""
    return Section("attention", "Attention", attention.section(results.attention))
