"""The knee of a server: the highest rate of arrivals that it answers without a loss and in time.

A rate holds if, in an open-loop run at it, every arrival is answered well (none refused, lost, wrong or too late) and
p99 of the latency, from when the arrival was due, is within the bound. The search doubles the rate until one fails and
then halves the ratio between the highest that held and the lowest that failed, until they are `PRECISION` apart. A rate
must fail twice to count as failed: one stall of the machine says nothing of the server. The knee is the highest that
held, so that it is an underestimate by up to `PRECISION`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serve.load.outcome import Outcome

PRECISION = 0.05
LOWEST, HIGHEST = 5.0, 2.0**17  # rates tried at most, arrivals/s


@dataclass(frozen=True)
class Knee:
    """What a search found."""

    rate: float | None  # arrivals/s; None if no rate held
    limited_by: str  # "server", or what ended the search before its limit was seen: "generator", "interruption"
    outcomes: tuple[Outcome, ...]  # every run, in the order of the search

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data."""
        runs = [outcome.to_dict() for outcome in self.outcomes]
        return {"rate": self.rate, "limited_by": self.limited_by, "precision": PRECISION, "runs": runs}


async def find(measure: Callable[[float, int], Awaitable[Outcome]], first: float) -> Knee:
    """Search from the rate `first` on. `measure` takes a rate and the number of the run, counted from 0."""
    held: float | None = None
    failed: float | None = None
    outcomes: list[Outcome] = []
    rate = first
    while LOWEST <= rate <= HIGHEST:
        for _ in range(2):
            outcomes.append(await measure(rate, len(outcomes)))
            if outcomes[-1].interrupted:
                return Knee(held, "interruption", tuple(outcomes))
            if outcomes[-1].verdict == "holds":
                break
        if outcomes[-1].verdict == "unknown":
            return Knee(held, "generator", tuple(outcomes))
        if outcomes[-1].verdict == "holds":
            held = rate
        else:
            failed = rate
        if held is None:
            rate /= 2
        elif failed is None:
            rate *= 2
        elif failed / held <= 1 + PRECISION:
            break
        else:
            rate = (held * failed) ** 0.5
    return Knee(held, "generator" if failed is None else "server", tuple(outcomes))
