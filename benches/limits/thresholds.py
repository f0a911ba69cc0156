"""What must hold, and whether it does."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benches.limits.figures import Summary
from benches.limits.limiters import OURS

Summaries = Mapping[tuple[str, str], Summary]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One threshold."""

    what: str
    wanted: str
    measured: str
    met: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the controller must reach in a scenario, relative to the oracle.

    Goodput as the median and of the worst seed, latencies of the worst seed, and seconds to converge after each change,
    median and worst; none where the backend died.
    """

    goodput: float
    goodput_worst: float
    p50: float
    p99: float
    converge: tuple[tuple[float, float] | None, ...] = ()


ORDINARY = Bounds(0.95, 0.91, 1.40, 1.25)
BOUNDS: Mapping[str, Bounds] = {
    "S1": Bounds(0.99, 0.99, 1.05, 1.05),
    "S2": ORDINARY,
    "S3": ORDINARY,
    "S4": Bounds(0.95, 0.91, 1.40, 1.25, ((30, 90), (10, 30))),
    "S5": Bounds(0.95, 0.85, 1.40, 1.25, ((30, 90),)),
    "S6": Bounds(0.93, 0.90, 1.40, 1.25),
    "S7": Bounds(0.90, 0.85, 1.50, 1.30),
    "S8": ORDINARY,
    "S9": Bounds(0.93, 0.90, 1.40, 1.25, (None, (15, 45))),
    "S10": Bounds(0.90, 0.85, 1.50, 1.30),
    "S11": ORDINARY,
}
STEADY = ("S2", "S3", "S6", "S7", "S8", "S11")
"""Where the limit itself must be near the servers, ten of them, and calm."""
SERVERS = 10
LOWEST, HIGHEST, CALM = 0.9, 1.5, 0.25
RIVALS = ("Gradient2", "Envoy", "failsafe-go")
BEHIND = 0.08
"""How much less goodput than a rival is accepted, since the rivals let a queue grow."""
THRASHING = "S7"
MUCH = ("fixed 20", "fixed 50")
"""Fixed limits of twice the servers and more."""


def _least(what: str, wanted: float, measured: float) -> Verdict:
    return Verdict(what, f"≥ {wanted:.2f}", f"{measured:.3f}", measured >= wanted)


def _most(what: str, wanted: float, measured: float, unit: str = "x") -> Verdict:
    shown = "never" if math.isinf(measured) else f"{measured:.2f}{unit}" if unit == "x" else f"{measured:.0f}{unit}"
    return Verdict(what, f"≤ {wanted:.2f}{unit}" if unit == "x" else f"≤ {wanted:.0f}{unit}", shown, measured <= wanted)


def acceptance(found: Summaries) -> Iterator[Verdict]:
    """The controller against the oracle."""
    for key, bounds in BOUNDS.items():
        ours = found[key, OURS]
        yield _least(f"{key} goodput, median", bounds.goodput, ours.goodput)
        yield _least(f"{key} goodput, worst seed", bounds.goodput_worst, ours.goodput_worst)
        yield _most(f"{key} p50 in the backend, worst seed", bounds.p50, ours.p50_worst)
        yield _most(f"{key} p99 in the backend, worst seed", bounds.p99, ours.p99_worst)
        for number, (seconds, times) in enumerate(zip(bounds.converge, ours.converged, strict=False), 1):
            if seconds is not None:
                yield _most(f"{key} converged after change {number}, median", seconds[0], times[0], " s")
                yield _most(f"{key} converged after change {number}, worst seed", seconds[1], times[1], " s")
    for key in STEADY:
        ours = found[key, OURS]
        relative = ours.limit / SERVERS
        yield Verdict(
            f"{key} mean limit, of the servers",
            f"{LOWEST} to {HIGHEST}",
            f"{relative:.2f}",
            LOWEST <= relative <= HIGHEST,
        )
        yield _most(f"{key} deviation of the limit, of its mean", CALM, ours.spread)


def against_references(found: Summaries) -> Iterator[Verdict]:
    """The controller against others on the same seeds; only those that were run."""
    for key in BOUNDS:
        ours = found[key, OURS]
        others = {name: summary for (scenario, name), summary in found.items() if scenario == key and name != OURS}
        for name in RIVALS if key != "S1" else ():
            if name not in others:
                continue
            other = others[name]
            yield _beats(f"{key} p99, against {name}", ours.p99, other.p99)
            wanted = other.goodput - BEHIND
            yield Verdict(
                f"{key} goodput, against {name}", f"≥ {wanted:.3f}", f"{ours.goodput:.3f}", ours.goodput >= wanted
            )
        for name in (*RIVALS, *MUCH) if key == THRASHING else ():
            if name in others:
                best = others[name].goodput
                yield Verdict(
                    f"{key} goodput above {name}", f"> {best:.3f}", f"{ours.goodput:.3f}", ours.goodput > best
                )
        if "fixed 5" in others and key != "S10":
            wanted = others["fixed 5"].goodput - 0.02
            yield Verdict(
                f"{key} goodput, against fixed 5", f"≥ {wanted:.3f}", f"{ours.goodput:.3f}", ours.goodput >= wanted
            )
        if "fixed 20" in others:
            yield _beats(f"{key} p99, against fixed 20", ours.p99, others["fixed 20"].p99)


def _beats(what: str, ours: float, theirs: float) -> Verdict:
    # To the hundredth: in underload both are the oracle's but for the order of some requests.
    return Verdict(what, f"≤ {theirs:.2f}x", f"{ours:.2f}x", round(ours, 2) <= round(theirs, 2))
