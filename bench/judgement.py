"""From trials to figures, from figures to a verdict for each row. Pure: results in, values out.

A ratio is made within a round and its median and range taken over the rounds. Nothing is judged of a row in which nginx
differs from itself by more than 5 %, with fewer than seven rounds, or at all while the median over all rows is off so far; nor of
a value of which the machine's own part, which somebody shows who does without Relay or without a load, is more than half of the floor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.loads import GIB
from bench.record import LEAST_ROUNDS, Results
from bench.rows import Bound, Metric, Row
from bench.trials import Trial

MOST_NOISE = 0.05
MOST_AT_REST = 0.5

HOLDS = "holds"
NOT_REACHED = "not reached"
NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the range around it."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Of these values; None where there are none."""
        return cls(median(values), min(values), max(values), len(values)) if values else None


def _measure(trial: Trial, metric: Metric) -> float | None:
    per: Mapping[str, Callable[[], float]] = {
        "cpu_per_gib": lambda: trial.own_cpu / (trial.bytes / GIB),
        "cpu_per_request": lambda: trial.own_cpu / trial.requests * 1e6,
        "seconds_per_gib": lambda: trial.seconds / (trial.bytes / GIB),
        "gib_per_second": lambda: trial.bytes / GIB / trial.seconds,
        "requests_per_second": lambda: trial.requests / trial.seconds,
    }
    if metric in per:
        return per[metric]() if trial.requests and trial.bytes else None
    return trial.values.get(metric)


def figures(rounds: Sequence[Mapping[str, Trial]], entrant: str, metric: Metric) -> list[float]:
    """What each round says of an entrant."""
    found = (_measure(each[entrant], metric) for each in rounds if entrant in each)
    return [value for value in found if value is not None]


def compared(rounds: Sequence[Mapping[str, Trial]], bound: Bound) -> list[float]:
    """What each round says of a bound."""
    if bound.against is None:
        return figures(rounds, bound.of, bound.metric)
    values = []
    for each in rounds:
        if bound.of in each and bound.against in each:
            ours, theirs = _measure(each[bound.of], bound.metric), _measure(each[bound.against], bound.metric)
            if ours is None or theirs is None or (bound.how == "ratio" and not theirs):
                continue
            values.append(ours - theirs if bound.how == "difference" else ours / theirs)
    return values


def ratios(rounds: Sequence[Mapping[str, Trial]], metric: Metric, of: str, against: str) -> Spread | None:
    """How one entrant compares with another, round by round."""
    return Spread.of(compared(rounds, Bound(metric=metric, of=of, against=against, floor=0.0)))


@dataclass(frozen=True, slots=True)
class Noise:
    """How nginx compares with itself, in processor time and in speed. ``None`` where it was not asked."""

    cpu: Spread | None
    rate: Spread | None

    @property
    def off_by(self) -> float:
        """The larger of the two medians' distances from 1."""
        return max((abs(spread.median - 1.0) for spread in (self.cpu, self.rate) if spread is not None), default=0.0)

    @property
    def is_too_much(self) -> bool:
        """Whether nothing can be judged."""
        return self.off_by > MOST_NOISE


def own_metrics(row: Row) -> tuple[Metric, Metric]:
    """In what a row is told: processor time and speed, in bytes or in requests."""
    return ("cpu_per_request", "requests_per_second") if row.load.is_small else ("cpu_per_gib", "gib_per_second")


def noise_of(row: Row, rounds: Sequence[Mapping[str, Trial]]) -> Noise:
    """How the two of a row that are the same compare."""
    if row.control is None:
        return Noise(None, None)
    one, other = row.control
    cpu, rate = own_metrics(row)
    judges_speed = any(bound.metric == rate for bound in row.bounds)
    return Noise(ratios(rounds, cpu, other, one), ratios(rounds, rate, other, one) if judges_speed else None)


def noise_of_all(rows: Sequence[Row], results: Results) -> Noise:
    """The same over every row of the run: one pair for each round of each row."""
    cpu: list[float] = []
    rate: list[float] = []
    for row in rows:
        if row.control is not None:
            one, other = row.control
            for metric, into in zip(own_metrics(row), (cpu, rate), strict=True):
                into.extend(compared(results.rounds_of(row.name), Bound(metric=metric, of=other, against=one, floor=0.0)))
    return Noise(Spread.of(cpu), Spread.of(rate))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one bound. ``reason`` says why it was not judged."""

    bound: Bound
    spread: Spread | None
    floor: str
    aim: str
    reason: str = ""


def judge(row: Row, results: Results, noise_of_run: Noise) -> list[Verdict]:
    """Judge every bound of a row."""
    rounds = results.rounds_of(row.name)
    noise = noise_of(row, rounds)
    verdicts = []
    for bound in row.bounds:
        spread = Spread.of(compared(rounds, bound))
        reason = _reason(row, results, bound, spread, noise, noise_of_run)
        if reason or spread is None:
            verdicts.append(Verdict(bound, spread, NOT_JUDGED, NOT_JUDGED if bound.aim is not None else "", reason))
            continue
        floor = HOLDS if bound.holds(spread.median, bound.floor) else NOT_REACHED
        aim = "" if bound.aim is None else HOLDS if bound.holds(spread.median, bound.aim) else NOT_REACHED
        verdicts.append(Verdict(bound, spread, floor, aim))
    return verdicts


def _reason(row: Row, results: Results, bound: Bound, spread: Spread | None, noise: Noise, noise_of_run: Noise) -> str:
    if spread is None:
        skipped = results.skipped.get(row.name, {})
        return next((skipped[name] for name in (bound.of, bound.against) if name in skipped), "not measured")
    if results.about.get("scale") == "small":
        return "a small run"
    if spread.count < LEAST_ROUNDS:
        return f"{spread.count} rounds of {LEAST_ROUNDS}"
    return _disturbance(row, results, bound, noise, noise_of_run)


def _disturbance(row: Row, results: Results, bound: Bound, noise: Noise, noise_of_run: Noise) -> str:
    """What made a row say too little of anybody, if anything did."""
    if noise_of_run.is_too_much:
        return f"nginx differs from itself by {noise_of_run.off_by:.1%} over the run"
    if noise.is_too_much:
        return f"nginx differs from itself by {noise.off_by:.1%}"
    if bound.at_rest is not None:
        own = Spread.of(figures(results.rounds_of(row.name), bound.at_rest, bound.metric))
        if own is not None and own.median > MOST_AT_REST * bound.floor:
            return f"{bound.at_rest}: {own.median:.2f}"
    return ""
