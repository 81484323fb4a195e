"""Small pictures of what the audit found, to be looked at in the report."""

import base64
import io

import numpy as np
from PIL import Image

from pipeline.preparation.audit import Audit, Examined
from pipeline.preparation.one_pass import OnePass

AT_MOST = 48
LONGEST_PX = 64


def with_thumbnails(examined: Examined, images: OnePass) -> Audit:
    """The audit with pictures of its foremost findings, of those that have any."""
    findings = list(examined.audit.findings)
    read = {name: images.rows(name, usable) for name, usable in examined.usable.items() if usable.any()}
    for number in examined.audit.foremost(AT_MOST):
        place = examined.places[number]
        if place is None or not examined.usable[place.split][place.position]:
            continue
        picture = Image.fromarray(read[place.split](np.array([place.position]))[0])
        picture.thumbnail((LONGEST_PX, LONGEST_PX))
        file = io.BytesIO()
        picture.save(file, "PNG")
        thumbnail = base64.b64encode(file.getvalue()).decode()
        findings[number] = findings[number].model_copy(update={"thumbnail": thumbnail})
    return examined.audit.model_copy(update={"findings": tuple(findings)})
