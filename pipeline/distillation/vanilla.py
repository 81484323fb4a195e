"""Vanilla: train on the labels alone. The baseline of every student, and how a teacher itself is trained.

    L = ce_weight * CE(y, z)

y (B,) labels, z (B, K) logits. No teacher takes part; nothing is trained beside the network.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.distillation import base
from pipeline.settings.section import Section


class Config(Section):
    """No term but the cross-entropy."""

    ce_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the cross-entropy with the labels."""


class Method(base.Method):
    """Cross-entropy with the labels."""

    needs_teacher: ClassVar[bool] = False
