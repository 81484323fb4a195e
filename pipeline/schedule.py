"""The learning rate of each epoch."""

import sys

from pipeline.params import Train


def milestone_epochs(settings: Train) -> list[int]:
    """After how many epochs the learning rate drops; fractions are resolved, and one never reached is warned about."""
    drops = [round(m * settings.epochs) if m < 1 else round(m) for m in settings.milestones]
    for milestone, drop in zip(settings.milestones, drops, strict=True):
        if drop >= settings.epochs:
            advice = "Train longer" if milestone < 1 else "Write milestones as fractions of the epochs (0.625)"
            print(
                f"warning: milestone {milestone:g} is never reached in {settings.epochs} epochs, so the learning rate "
                f"does not drop there. {advice} to let it act.",
                file=sys.stderr,
            )
    return drops
