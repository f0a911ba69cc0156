"""What the limiters are put through: a station of `k` servers, and how requests come to it."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

Steps = tuple[tuple[float, float], ...]
"""A value that changes in steps: (from second, value), the first at 0."""

TUNED_ON = range(20)
"""The seeds on which the controller was tuned."""
JUDGED_ON = range(100, 140)
"""The seeds on which it is judged. It was not tuned on them."""

SPREAD = 0.5
"""Coefficient of variation of the service time, which is lognormal."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One station and its traffic. Times in seconds, rates a second."""

    key: str
    what: str
    rate: Steps
    servers: Steps = ((0, 10),)
    mean: Steps = ((0, 0.1),)
    seconds: float = 300
    warm_up: float = 60
    """What happens before it is not counted."""
    patience: float = 2
    """How long a request waits in front of the limiter before it gives up."""
    queue: int = 200
    """How many wait there at most."""
    thrash: float = 0
    """By how much each request beyond the servers stretches the service, relative to their number."""
    slow: tuple[float, float, float] | None = None
    """Two kinds of work: the share of the second kind, and the scale of either."""
    timeout: float = math.inf
    """When a call is given up as dropped, counted from its admission."""
    dead: tuple[float, float] | None = None
    """From when until when the station answers nothing."""
    changes: tuple[float, ...] = field(default=())
    """When the station changes, for which reconvergence is measured."""

    def at(self, steps: Steps, second: float) -> float:
        """The value of `steps` at a moment."""
        return [value for since, value in steps if since <= second][-1]

    def draw(self, seed: int) -> tuple[list[float], list[float]]:
        """When requests arrive, and how much work each is in units of the mean. All limiters get the same."""
        arrivals, works = random.Random(f"arrivals {seed}"), random.Random(f"work {seed}")
        spread = math.sqrt(math.log(1 + SPREAD**2))
        location = -0.5 * math.log(1 + SPREAD**2)
        times: list[float] = []
        amounts: list[float] = []
        now = 0.0
        while True:
            now += arrivals.expovariate(self.at(self.rate, now))
            if now > self.seconds:
                return times, amounts
            scale = 1.0
            if self.slow is not None:
                share, quick, long = self.slow
                scale = quick if works.random() > share else long
            times.append(now)
            amounts.append(scale * works.lognormvariate(location, spread))


def _bursts(high: float, low: float, half: float, seconds: float) -> Steps:
    return tuple((i * half, low if i % 2 else high) for i in range(math.ceil(seconds / half)))


ALL: Sequence[Scenario] = (
    Scenario("S1", "underload, 60 % of the capacity", ((0, 60),)),
    Scenario("S2", "saturated, 150 %", ((0, 150),)),
    Scenario("S3", "overload, 400 %", ((0, 400),)),
    Scenario(
        "S4",
        "capacity 10, 4, 10",
        ((0, 120),),
        servers=((0, 10), (120, 4), (240, 10)),
        seconds=360,
        warm_up=30,
        changes=(120, 240),
    ),
    Scenario(
        "S5",
        "service time doubles",
        ((0, 150),),
        mean=((0, 0.1), (120, 0.2)),
        seconds=360,
        warm_up=30,
        changes=(120,),
    ),
    Scenario("S6", "two kinds of work, a tenth is eleven times as long", ((0, 150),), slow=(0.1, 0.5, 5.5)),
    Scenario("S7", "thrashing beyond the capacity", ((0, 150),), thrash=0.3),
    Scenario(
        "S8",
        "calls of 2 s, as a language model's",
        ((0, 7.5),),
        mean=((0, 2.0),),
        seconds=1200,
        warm_up=240,
        patience=10,
        queue=100,
    ),
    Scenario(
        "S9",
        "dead for a minute",
        ((0, 150),),
        timeout=1.0,
        dead=(100, 160),
        warm_up=30,
        changes=(100, 160),
    ),
    Scenario("S10", "two servers", ((0, 30),), servers=((0, 2),), seconds=400),
    Scenario("S11", "bursts of 10 s", _bursts(250, 30, 10, 300)),
)
