"""The station: a backend of `k` servers with a queue, behind a limiter, in virtual time.

In front of the limiter stands a bounded queue whose requests give up after a while. What was admitted goes to the
servers in order. The latency of a sample counts from the admission, as a caller's would.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benches.limits.scenarios import Scenario

FOREVER = 1e6


class Limiter(Protocol):
    """What stands in front of the station."""

    def limit(self, now: float) -> int:
        """How many requests may be inside now."""

    def sample(self, now: float, latency: float, inflight: int, dropped: bool, running: int) -> None:
        """Takes the end of a request: `inflight` at its admission, itself included, and `running` before its end."""


@dataclass(slots=True)
class Run:
    """What came of one limiter in one scenario with one seed."""

    finished: list[tuple[float, float]]
    """When each request was answered, and its latency since its admission."""
    limits: list[int]
    """The limit at the middle of each second."""
    lost: int
    """Requests that were refused, gave up or were dropped."""
    offered: int


def run(  # noqa: C901, PLR0912, PLR0915 - one loop, which a million events go through
    scenario: Scenario, arrivals: Sequence[float], works: Sequence[float], limiter: Limiter
) -> Run:
    """Let the requests arrive, and tell what came of them. The same arguments give the same result."""
    moments = sorted(
        [(change, True) for change in scenario.changes] + [(s + 0.5, False) for s in range(int(scenario.seconds))]
    )
    moments.append((math.inf, False))
    servers = int(scenario.at(scenario.servers, 0))
    mean = scenario.at(scenario.mean, 0)
    dead = False
    front: deque[int] = deque()
    back: deque[int] = deque()
    ends: list[tuple[float, int, int, bool]] = []
    admitted = [(0.0, 0)] * len(arrivals)
    finished: list[tuple[float, float]] = []
    limits: list[int] = []
    times = [*arrivals, math.inf]
    arrival = moment = busy = inside = lost = started = 0
    patience, room, timeout, thrash = scenario.patience, scenario.queue, scenario.timeout, scenario.thrash
    push, pop, limit_at, sample = heapq.heappush, heapq.heappop, limiter.limit, limiter.sample
    while True:
        ending = ends[0][0] if ends else math.inf
        arriving, changing = times[arrival], moments[moment][0]
        now = min(ending, arriving, changing)
        if now > scenario.seconds:
            return Run(finished, limits, lost, len(arrivals))
        if ending <= now:
            _, _, request, dropped = pop(ends)
            since, inflight = admitted[request]
            busy -= 1
            sample(now, now - since, inflight, dropped, inside)
            inside -= 1
            if dropped:
                lost += 1
            else:
                finished.append((now, now - since))
        elif arriving <= now:
            while front and now - times[front[0]] > patience:
                front.popleft()
                lost += 1
            if len(front) < room:
                front.append(arrival)
            else:
                lost += 1
            arrival += 1
        else:
            if moments[moment][1]:
                servers = int(scenario.at(scenario.servers, now))
                mean = scenario.at(scenario.mean, now)
                dead = scenario.dead is not None and scenario.dead[0] <= now < scenario.dead[1]
            else:
                limits.append(limit_at(now))
            moment += 1
        if front:
            limit = limit_at(now)
            while front and inside < limit:
                request = front.popleft()
                if now - times[request] > patience:
                    lost += 1
                    continue
                inside += 1
                admitted[request] = (now, inside)
                back.append(request)
        while back and busy < servers:
            request = back.popleft()
            busy += 1
            started += 1
            if dead:
                service = FOREVER
            else:
                service = works[request] * mean
                if thrash and inside > servers:
                    service *= 1 + thrash * (inside - servers) / servers
            given_up = admitted[request][0] + timeout
            push(ends, (min(now + service, max(now, given_up)), started, request, now + service > given_up))
