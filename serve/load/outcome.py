"""What a run of load at one rate measured, and what that says about the server: it holds, it fails, or nobody knows."""

from dataclasses import dataclass

from serve.timing.latency import Samples, minimum_samples, summary

MAX_LAG = 0.1  # p99 of the generator's own lateness in a valid run, as a part of the bound on the latency


@dataclass(frozen=True)
class Outcome:
    """What a run at one rate measured. Arrivals of the warm-up are in no samples."""

    rate: float  # asked for, arrivals/s
    seed: int
    elapsed_s: float  # from the first moment an arrival could be due to the last answer
    due: int  # arrivals
    answered: int
    latencies: Samples  # (n,) ns from due to answered
    since_sent: Samples  # (n,) ns from sent to answered
    lags: Samples  # (n,) ns from due to sent: the generator's own lateness
    errors: dict[str, int]  # kind -> arrivals that were not answered well
    generator_cpu: float  # share of one core that the generator took
    interrupted: bool
    bound_ms: float

    @property
    def invalid(self) -> str | None:
        """Why the latencies are not the server's, or carry no p99; None if they can be believed."""
        if len(self.lags) < minimum_samples(99):
            return f"only {len(self.lags)} arrivals were measured, and a p99 needs {minimum_samples(99)}"
        lag, limit = _p99_ms(self.lags), MAX_LAG * self.bound_ms
        if lag <= limit:
            return None
        return f"the generator was late itself, p99 {lag:.2f} ms, where {limit:g} ms are allowed"

    @property
    def verdict(self) -> str:
        """ "holds", "fails", or "unknown" where the generator was too late to blame the server for what it measured.

        The rate holds if every arrival is answered well and p99 is within the bound. It fails whatever the generator
        did if an arrival fails, or if p99 is beyond the bound even from when the requests were sent.
        """
        if self.errors or (len(self.since_sent) >= minimum_samples(99) and _p99_ms(self.since_sent) > self.bound_ms):
            return "fails"
        if self.invalid:
            return "unknown"
        return "holds" if _p99_ms(self.latencies) <= self.bound_ms else "fails"

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data."""
        samples = {"latency": self.latencies, "latency_since_sent": self.since_sent, "generator_lag": self.lags}
        return {
            "rate": self.rate,
            "seed": self.seed,
            "elapsed_s": self.elapsed_s,
            "due": self.due,
            "answered": self.answered,
            "failed": sum(self.errors.values()),
            "errors": self.errors,
            **{name: summary(values).to_dict() if len(values) else None for name, values in samples.items()},
            "generator_cpu": self.generator_cpu,
            "verdict": self.verdict,
            "invalid": self.invalid,
            "interrupted": self.interrupted,
        }


def _p99_ms(samples: Samples) -> float:
    p99 = summary(samples).p99_ms
    assert p99 is not None, "callers count first"
    return p99
