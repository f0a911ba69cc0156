"""Who gets the permits: a heavy user beside nine light ones, one with many keys, calls of unequal length, weights.

Everything runs on the real event loop of asyncio in virtual time; the limiter is the package's own.
"""

import asyncio
import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from isolane import FairLimiter, LimitRejected

from benches.limits.figures import quantile
from benches.limits.orders import PATIENCE, TOTAL, GlobalThenUser, Order, Queue, RoundRobin, ours
from benches.limits.thresholds import Verdict
from benches.limits.virtual_time import run

OURS = "isolane"
ORDERS: Mapping[str, Callable[[], Order]] = {
    "global, then the user's while holding it": GlobalThenUser,
    "one queue, the head blocks": lambda: Queue(pass_over=False),
    "one queue, users at their limit passed over": lambda: Queue(pass_over=True),
    OURS: ours,
}
LIGHT, LIGHT_RATE, HEAVY_RATE = 9, 1.0, 200.0
LOOK_BACK = 2 * PATIENCE
MEAN, SIGMA = 0.25, 0.6
"""Mean of the lognormal time under a permit in seconds, and the deviation of its logarithm."""


@dataclass(frozen=True, slots=True)
class Flood:
    """What light users got beside a heavy one."""

    order: str
    keys: int
    p50: float
    p99: float
    timed_out: float
    within: float
    """Share of time-outs among requests of light users that were within their share: none of their own before them, and
    no more permit-seconds in the last patience, and one before it, than everybody may have."""
    heavy: float
    """Requests of the heavy user served a second."""
    used: float
    """Share of the permit-seconds."""


def _arrivals(seed: int, keys: int, seconds: float) -> list[tuple[float, str, float]]:
    draws = random.Random(f"flood {seed}")
    rates = {f"light-{number}": LIGHT_RATE for number in range(LIGHT)}
    rates |= {f"heavy-{number}": HEAVY_RATE / keys for number in range(keys)}
    found = []
    for user, rate in rates.items():
        now = draws.expovariate(rate)
        while now < seconds:
            found.append((now, user))
            now += draws.expovariate(rate)
    location = math.log(MEAN) - SIGMA**2 / 2
    return [(when, user, draws.lognormvariate(location, SIGMA)) for when, user in sorted(found)]


def flood(task: tuple[str, int, int, float]) -> Flood:
    """One order under a flood: (order, keys of the heavy user, seed, seconds)."""
    name, keys, seed, seconds = task
    arrivals = _arrivals(seed, keys, seconds)
    waits: dict[bool, list[float]] = {True: [], False: []}
    given_up: dict[bool, int] = {True: 0, False: 0}
    modest, modest_given_up = 0, 0
    queued: dict[str, int] = defaultdict(int)
    used: dict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=50))
    fair = TOTAL / (LIGHT + keys) * LOOK_BACK
    busy = 0.0

    def recently(user: str, now: float) -> float:
        return sum(max(0.0, min(until, now) - max(since, now - LOOK_BACK)) for since, until in used[user])

    async def request(order: Order, user: str, hold: float, end: float) -> None:
        nonlocal busy, modest, modest_given_up
        loop = asyncio.get_running_loop()
        light, asked = user.startswith("light"), loop.time()
        within = light and not queued[user] and recently(user, asked) <= fair
        modest += within
        queued[user] += 1
        try:
            async with order.slot(user):
                queued[user] -= 1
                granted = loop.time()
                waits[light].append(granted - asked)
                used[user].append((granted, granted + hold))
                await asyncio.sleep(hold)
                busy += max(0.0, min(loop.time(), end) - granted)
        except (TimeoutError, LimitRejected):
            queued[user] -= 1
            given_up[light] += 1
            modest_given_up += within

    async def main() -> None:
        loop = asyncio.get_running_loop()
        order, start = ORDERS[name](), loop.time()
        async with asyncio.TaskGroup() as group:
            for when, user, hold in arrivals:
                await asyncio.sleep(start + when - loop.time())
                group.create_task(request(order, user, hold, start + seconds))

    run(main)
    light = sorted(waits[True])
    return Flood(
        order=name,
        keys=keys,
        p50=quantile(light, 0.5),
        p99=quantile(light, 0.99),
        timed_out=given_up[True] / (len(light) + given_up[True]),
        within=modest_given_up / max(1, modest),
        heavy=len(waits[False]) / seconds,
        used=busy / (TOTAL * seconds),
    )


@dataclass(frozen=True, slots=True)
class Crowd:
    """Users who always wait for more, some with longer calls or with a weight."""

    key: str
    what: str
    users: int = 20
    longer: int = 0
    """Users whose calls take ten times as long."""
    weights: tuple[int, ...] = ()
    """Weights, in turn over the users."""


CROWDS: Sequence[Crowd] = (
    Crowd("equal", "20 users with equal calls"),
    Crowd("one longer", "one of 20 users has calls ten times as long", longer=1),
    Crowd("half longer", "10 of 20 users have calls ten times as long", longer=10),
    Crowd("weights", "20 users with weights 1, 2 and 4", weights=(1, 2, 4)),
)
TASKS = 8
"""Requests of each user that wait or run at any time."""


@dataclass(frozen=True, slots=True)
class Share:
    """How the permit-seconds went to users who always waited."""

    order: str
    crowd: str
    jain: float
    """Jain's index over permit-seconds by weight: 1 when all have the same, 1/n when one has all."""
    used: float


def jain(shares: Sequence[float]) -> float:
    """Jain, Chiu and Hawe's index of fairness: the square of the sum over n times the sum of squares."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def backlog(task: tuple[str, str, int, float]) -> Share:
    """One order with users that are always backlogged: (order, crowd, seed, seconds)."""
    name, key, seed, seconds = task
    crowd = next(crowd for crowd in CROWDS if crowd.key == key)
    held: dict[str, float] = defaultdict(float)
    users = [f"user-{number}" for number in range(crowd.users)]
    weight = {
        user: crowd.weights[number % len(crowd.weights)] if crowd.weights else 1 for number, user in enumerate(users)
    }
    patience = 100 * seconds

    async def worker(order: Order, number: int, user: str, end: float, task_number: int) -> None:
        loop = asyncio.get_running_loop()
        draws = random.Random(f"backlog {seed} {number} {task_number}")
        scale = 10 if number < crowd.longer else 1
        location = math.log(MEAN * scale) - SIGMA**2 / 2
        while loop.time() < end:
            async with order.slot(user):
                granted = loop.time()
                await asyncio.sleep(draws.lognormvariate(location, SIGMA))
                held[user] += max(0.0, min(loop.time(), end) - min(granted, end))

    async def main() -> None:
        order: Order = ours(patience) if name == OURS else RoundRobin(patience)
        if isinstance(order, FairLimiter):
            for user in users:
                if weight[user] != 1:
                    order.set_limit(user=user, weight=weight[user])
        end = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as group:
            for task_number in range(TASKS):
                for number, user in enumerate(users):
                    group.create_task(worker(order, number, user, end, task_number))

    run(main)
    return Share(
        order=name,
        crowd=key,
        jain=jain([held[user] / weight[user] for user in users]),
        used=sum(held.values()) / (TOTAL * seconds),
    )


def average_flood(found: Sequence[Flood]) -> list[Flood]:
    """One row for each order and number of keys: medians over the seeds, the most time-outs."""
    groups: dict[tuple[str, int], list[Flood]] = defaultdict(list)
    for row in found:
        groups[row.order, row.keys].append(row)
    return [
        Flood(
            order=order,
            keys=keys,
            p50=median(row.p50 for row in rows),
            p99=median(row.p99 for row in rows),
            timed_out=max(row.timed_out for row in rows),
            within=max(row.within for row in rows),
            heavy=fmean(row.heavy for row in rows),
            used=fmean(row.used for row in rows),
        )
        for (order, keys), rows in groups.items()
    ]


def verdicts(floods: Sequence[Flood], shares: Sequence[Share]) -> Iterator[Verdict]:
    """What the limiter must reach."""
    for row in floods:
        if row.order != OURS:
            continue
        flooder = "one flooder" if row.keys == 1 else f"{row.keys} keys of a flooder"
        if row.keys == 1:
            yield Verdict(f"light users' p99 wait, {flooder}", "≤ 150 ms", f"{1e3 * row.p99:.0f} ms", row.p99 <= 0.150)
            yield Verdict(f"light users' time-outs, {flooder}", "0", f"{100 * row.timed_out:.2f} %", row.timed_out == 0)
        what = f"time-outs of light users within their share, {flooder}"
        yield Verdict(what, "0", f"{100 * row.within:.2f} %", row.within == 0)
    for row in shares:
        if row.order == OURS:
            what = next(crowd.what for crowd in CROWDS if crowd.key == row.crowd)
            yield Verdict(f"Jain's index on permit-seconds, {what}", "≥ 0.98", f"{row.jain:.4f}", row.jain >= 0.98)
            yield Verdict(f"permits in use, {what}", "≥ 0.99", f"{row.used:.4f}", row.used >= 0.99)


__all__ = ["CROWDS", "ORDERS", "OURS", "PATIENCE", "average_flood", "backlog", "flood", "verdicts"]
