"""Which teacher block attended to which student block, and where the networks look."""

from pipeline.report import attention
from pipeline.report.artefacts import examples as pictures
from pipeline.report.artefacts.results import Results
from pipeline.report.templates import Section

LONGEST_PX = 96
"""Of an image, as the page shows it."""


def section(results: Results) -> Section:
    """Of the methods that have an attention, and of the energy maps."""
    energy = results.attention.energy
    images = [it.model_copy(update={"png": pictures.smaller(it.png, LONGEST_PX)}) for it in energy.images]
    shown = results.attention.model_copy(update={"energy": energy.model_copy(update={"images": tuple(images)})})
    return Section("attention", "Attention", attention.section(shown))
