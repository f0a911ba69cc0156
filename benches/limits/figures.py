"""What is measured of a run, relative to the oracle's of the same requests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev

from benches.limits.limiters import LIMITERS, OURS, oracle
from benches.limits.scenarios import ALL, Scenario
from benches.limits.station import Run, run

WINDOW = 5.0
"""Seconds of a window in which a limiter has converged or not."""
IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Figures:
    """One limiter in one scenario with one seed."""

    scenario: str
    limiter: str
    seed: int
    goodput: float
    """Answered requests, of the oracle's."""
    p50: float
    """Median latency in the backend, of the oracle's."""
    p99: float
    limit: float
    """Mean limit after the warm-up."""
    spread: float
    """Standard deviation of the limit, of its mean."""
    lost: float
    """Share of requests that were refused, gave up or were dropped."""
    converged: tuple[float, ...]
    """Seconds after each change until it had converged; infinite when it did not before the next."""


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else math.nan


def _windows(finished: Sequence[tuple[float, float]]) -> dict[int, tuple[int, float]]:
    found: dict[int, list[float]] = {}
    for when, latency in finished:
        found.setdefault(int(when // WINDOW), []).append(latency)
    return {number: (len(latencies), fmean(latencies)) for number, latencies in found.items()}


def converged(ours: Run, best: Run, since: float, until: float) -> float:
    """Seconds from a change to the first of three windows in a row that are good.

    A good one has at least 93 % of the oracle's answers and at most 1.5 times its mean latency.
    """
    mine, theirs = _windows(ours.finished), _windows(best.finished)
    row = 0
    for number in range(int(since // WINDOW), int(until // WINDOW)):
        count, latency = mine.get(number, (0, math.inf))
        most, least = theirs.get(number, (0, math.inf))
        row = row + 1 if most and count >= 0.93 * most and latency <= 1.5 * least else 0
        if row == IN_A_ROW:
            return (number + 1 - IN_A_ROW) * WINDOW - since
    return math.inf


def measure(scenario: Scenario, limiter: str, seed: int, result: Run, best: Run) -> Figures:
    """Compare a run with the oracle's."""
    mine = sorted(latency for when, latency in result.finished if when >= scenario.warm_up)
    theirs = sorted(latency for when, latency in best.finished if when >= scenario.warm_up)
    limits = result.limits[int(scenario.warm_up) :]
    ends = [*scenario.changes, scenario.seconds][1:]
    return Figures(
        scenario=scenario.key,
        limiter=limiter,
        seed=seed,
        goodput=len(mine) / len(theirs),
        p50=quantile(mine, 0.5) / quantile(theirs, 0.5),
        p99=quantile(mine, 0.99) / quantile(theirs, 0.99),
        limit=fmean(limits),
        spread=pstdev(limits) / fmean(limits),
        lost=result.lost / result.offered,
        converged=tuple(
            converged(result, best, since, until) for since, until in zip(scenario.changes, ends, strict=False)
        ),
    )


def measure_seed(task: tuple[str, int, tuple[str, ...]]) -> list[Figures]:
    """All limiters of a scenario on the same requests: (scenario, seed, limiters)."""
    key, seed, limiters = task
    scenario = next(scenario for scenario in ALL if scenario.key == key)
    arrivals, works = scenario.draw(seed)
    best = run(scenario, arrivals, works, oracle(scenario))
    return [
        measure(scenario, name, seed, run(scenario, arrivals, works, LIMITERS[name](scenario)), best)
        for name in limiters
    ]


@dataclass(frozen=True, slots=True)
class Summary:
    """One limiter in one scenario over all its seeds: medians, and the worst seed."""

    seeds: int
    goodput: float
    goodput_worst: float
    p50: float
    p50_worst: float
    p99: float
    p99_worst: float
    limit: float
    spread: float
    lost: float
    converged: tuple[tuple[float, float], ...]
    """After each change: median and worst."""


def summarize(found: Sequence[Figures]) -> dict[tuple[str, str], Summary]:
    """By scenario and limiter."""
    groups: dict[tuple[str, str], list[Figures]] = {}
    for figures in found:
        groups.setdefault((figures.scenario, figures.limiter), []).append(figures)
    return {key: _summary(group) for key, group in groups.items()}


def _summary(group: Sequence[Figures]) -> Summary:
    changes = list(zip(*(figures.converged for figures in group), strict=True))
    return Summary(
        seeds=len(group),
        goodput=median(figures.goodput for figures in group),
        goodput_worst=min(figures.goodput for figures in group),
        p50=median(figures.p50 for figures in group),
        p50_worst=max(figures.p50 for figures in group),
        p99=median(figures.p99 for figures in group),
        p99_worst=max(figures.p99 for figures in group),
        limit=median(figures.limit for figures in group),
        spread=median(figures.spread for figures in group),
        lost=median(figures.lost for figures in group),
        converged=tuple((median(times), max(times)) for times in changes),
    )


__all__ = ["OURS", "Figures", "Summary", "measure_seed", "summarize"]
