"""Percentiles of latencies."""

import math
from collections.abc import Sequence


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that is not below `share` of all of them, which are in order (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(nanoseconds: Sequence[int]) -> dict[str, float]:
    """p50, p99 and the maximum in seconds."""
    if not nanoseconds:
        raise ValueError("there are no latencies: nothing was measured")
    ordered = sorted(nanoseconds)
    found = {"p50": percentile(ordered, 0.5), "p99": percentile(ordered, 0.99), "max": ordered[-1]}
    return {name: value / 1e9 for name, value in found.items()}


def after_warm_up(published: Sequence[int], latencies: Sequence[int], seconds: float) -> list[int]:
    """The latencies of what was published so many seconds after the first event, or later. In nanoseconds."""
    begin = min(published, default=0) + round(seconds * 1e9)
    return [latency for at, latency in zip(published, latencies, strict=True) if at >= begin]
