"""The benchmark of the limits: its station, its time, its figures, and that a missed threshold is told."""

from __future__ import annotations

import asyncio
import math
import random

import pytest
from isolane import FairLimiter, LimitRejected, LimitTimeout
from isolane.testing import manual_clock

from benches.limits import fairness, figures, nesting, orders, report, thresholds, virtual_time
from benches.limits.limiters import LIMITERS, OURS, oracle
from benches.limits.references import Fixed
from benches.limits.scenarios import ALL, JUDGED_ON, TUNED_ON, Scenario
from benches.limits.station import Run, run

SHORT = Scenario("short", "ten servers, one and a half times the work", ((0, 150),), seconds=40, warm_up=10)


def test_no_seed_is_both_tuned_and_judged_on():
    assert not set(TUNED_ON) & set(JUDGED_ON)
    assert len(JUDGED_ON) == 40


def test_all_limiters_get_the_same_requests_and_a_run_can_be_repeated():
    first, second = SHORT.draw(3), SHORT.draw(3)
    assert first == second != SHORT.draw(4)
    runs = [run(SHORT, *first, LIMITERS[OURS](SHORT)) for _ in range(2)]
    assert runs[0] == runs[1]


def test_requests_arrive_and_take_as_the_scenario_says():
    arrivals, works = Scenario("", "", ((0, 100), (50, 20)), seconds=100).draw(1)
    early = sum(arrival < 50 for arrival in arrivals)
    assert early == pytest.approx(5_000, rel=0.05)
    assert len(arrivals) - early == pytest.approx(1_000, rel=0.1)
    assert sum(works) / len(works) == pytest.approx(1.0, rel=0.05)


def test_the_station_serves_in_order_and_no_more_than_its_servers():
    # Two servers, calls of 1 s: the third waits inside until the first has ended.
    scenario = Scenario("", "", ((0, 1),), servers=((0, 2),), mean=((0, 1.0),), seconds=10)
    result = run(scenario, [0.0, 0.1, 0.2], [1.0, 1.0, 1.0], Fixed(3))
    assert result.finished == [(1.0, 1.0), (1.1, 1.0), (2.0, pytest.approx(1.8))]
    # With a limit of two it waits in front, which is no part of its latency.
    result = run(scenario, [0.0, 0.1, 0.2], [1.0, 1.0, 1.0], Fixed(2))
    assert result.finished == [(1.0, 1.0), (1.1, 1.0), (2.0, pytest.approx(1.0))]


def test_who_waits_too_long_in_front_or_finds_the_queue_full_is_lost():
    scenario = Scenario("", "", ((0, 1),), servers=((0, 1),), mean=((0, 3.0),), seconds=20, queue=2)
    # The first runs until 3; of the three that wait one finds the queue full, and two give up after 2 s.
    result = run(scenario, [0.0, 0.1, 0.2, 0.3], [1.0] * 4, Fixed(1))
    assert (len(result.finished), result.lost, result.offered) == (1, 3, 4)


def test_a_dead_backend_drops_at_the_time_out_and_a_thrashing_one_is_slower():
    dead = Scenario("", "", ((0, 1),), seconds=10, timeout=1.0, dead=(0.0, 5.0), changes=(0.0, 5.0))
    seen: list[tuple[float, bool]] = []

    class Watched(Fixed):
        def sample(self, now, latency, inflight, dropped, running):
            seen.append((latency, dropped))

    run(dead, [1.0, 6.0], [1.0, 1.0], Watched(5))
    assert seen == [(1.0, True), (pytest.approx(0.1), False)]
    thrashing = Scenario("", "", ((0, 1),), servers=((0, 1),), mean=((0, 1.0),), seconds=20, thrash=0.5)
    # When the second begins nobody else is inside; the first had one more behind it by then, but began alone.
    assert run(thrashing, [0.0, 0.5], [1.0, 1.0], Fixed(2)).finished == [(1.0, 1.0), (2.0, 1.5)]
    # The second begins with a third inside: 1 s x (1 + 0.5 x 1).
    assert run(thrashing, [0.0, 0.5, 0.6], [1.0] * 3, Fixed(3)).finished[1] == (2.5, 2.0)


def test_the_oracle_is_its_own_measure_and_a_high_limit_only_queues():
    arrivals, works = SHORT.draw(1)
    best = run(SHORT, arrivals, works, oracle(SHORT))
    same = figures.measure(SHORT, "oracle", 1, best, best)
    assert (same.goodput, same.p50, same.p99, same.limit, same.spread) == (1.0, 1.0, 1.0, 10.0, 0.0)
    high = figures.measure(SHORT, "fixed 50", 1, run(SHORT, arrivals, works, Fixed(50)), best)
    assert high.goodput == pytest.approx(1.0, abs=0.03)
    assert high.p50 > 4
    low = figures.measure(SHORT, "fixed 5", 1, run(SHORT, arrivals, works, Fixed(5)), best)
    assert low.goodput == pytest.approx(0.5, abs=0.05)
    assert low.p50 == pytest.approx(1.0, abs=0.05)


def test_convergence_takes_three_good_windows_in_a_row():
    best = Run([(second / 10, 0.1) for second in range(1_000)], [], 0, 0)
    # Nothing until 20, then all but for a hole in the window from 30.
    holed = Run([(when, 0.1) for when, _ in best.finished if 20 <= when < 30 or when >= 35], [], 0, 0)
    assert figures.converged(best, best, 0, 100) == 0
    assert figures.converged(holed, best, 0, 100) == 35
    assert figures.converged(holed, best, 0, 45) == math.inf
    slow = Run([(when, 0.2) for when, _ in best.finished], [], 0, 0)
    assert figures.converged(slow, best, 0, 100) == math.inf


def summary(**changed: object) -> figures.Summary:
    values = {
        "seeds": 1,
        "goodput": 1.0,
        "goodput_worst": 1.0,
        "p50": 1.0,
        "p50_worst": 1.0,
        "p99": 1.0,
        "p99_worst": 1.0,
        "limit": 10.0,
        "spread": 0.1,
        "lost": 0.0,
        "converged": ((1.0, 1.0), (1.0, 1.0)),
    }
    return figures.Summary(**{**values, **changed})  # type: ignore[arg-type]


def missed(found: dict[tuple[str, str], figures.Summary]) -> list[str]:
    judged = [*thresholds.acceptance(found), *thresholds.against_references(found)]
    return [verdict.what for verdict in judged if not verdict.met]


def test_each_threshold_can_be_missed():
    good = {(scenario.key, OURS): summary() for scenario in ALL}
    assert missed(good) == []
    for changed, what in (
        ({"goodput": 0.949}, "S5 goodput, median"),
        ({"goodput_worst": 0.849}, "S5 goodput, worst seed"),
        ({"p50_worst": 1.41}, "S5 p50 in the backend, worst seed"),
        ({"p99_worst": 1.26}, "S5 p99 in the backend, worst seed"),
        ({"converged": ((31.0, 31.0),)}, "S5 converged after change 1, median"),
        ({"converged": ((1.0, math.inf),)}, "S5 converged after change 1, worst seed"),
    ):
        assert missed({**good, ("S5", OURS): summary(**changed)}) == [what]
    assert missed({**good, ("S6", OURS): summary(limit=8.9)}) == ["S6 mean limit, of the servers"]
    assert missed({**good, ("S6", OURS): summary(spread=0.26)}) == ["S6 deviation of the limit, of its mean"]
    others = {("S7", "Envoy"): summary(p99=0.9, goodput=1.1), ("S7", "fixed 20"): summary(p99=0.9)}
    assert missed({**good, **others}) == [
        "S7 p99, against Envoy",
        "S7 goodput, against Envoy",
        "S7 goodput above Envoy",
        "S7 goodput above fixed 20",
        "S7 p99, against fixed 20",
    ]
    table = report.verdict_table([thresholds.Verdict("what", "1", "2", met=False)])
    assert "**missed**" in table


def test_in_virtual_time_waiting_takes_none_and_the_core_goes_along():
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        limiter = FairLimiter(1, 1)
        async with limiter.slot("ann-in-virtual-time"):
            with pytest.raises(LimitTimeout):
                async with limiter.slot("ann-in-virtual-time", timeout=600):
                    pass
        waited = loop.time() - began
        await asyncio.sleep(86_400)
        return waited, loop.time() - began

    waited, slept = virtual_time.run(main)
    assert waited == pytest.approx(600, abs=0.01)
    assert slept == pytest.approx(87_000, abs=0.01)


def test_in_virtual_time_a_deadlock_is_an_error_and_the_clock_is_given_back():
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(virtual_time.NothingLeftError):
        virtual_time.run(main)
    with manual_clock() as clock:
        clock.advance(1)


@pytest.mark.parametrize("make", [*fairness.ORDERS.values(), orders.RoundRobin])
def test_every_order_keeps_its_limits_and_loses_no_permit(make):
    running: dict[str, int] = {}
    most = {"all": 0, "user": 0}

    async def use(order: orders.Order, user: str, draws: random.Random) -> None:
        try:
            async with order.slot(user):
                running[user] = running.get(user, 0) + 1
                most["all"] = max(most["all"], sum(running.values()))
                most["user"] = max(most["user"], running[user])
                try:
                    await asyncio.sleep(draws.uniform(0, 1.5))
                finally:
                    running[user] -= 1
        except (TimeoutError, LimitRejected):
            pass

    async def main() -> None:
        order, draws = make(), random.Random(5)
        for _ in range(3):
            tasks = [asyncio.create_task(use(order, f"user-{draws.randrange(4)}", draws)) for _ in range(100)]
            await asyncio.sleep(0.7)
            for task in tasks[::7]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert (most["all"], most["user"] <= orders.PER_USER) == (orders.TOTAL, True)
        # All permits are back: as many as ever run at once again.
        for users, wanted in ((4, orders.TOTAL), (1, orders.PER_USER)):
            most["all"] = 0
            await asyncio.gather(*(use(order, f"user-{number % users}", draws) for number in range(20)))
            assert most["all"] == wanted

    virtual_time.run(main)
    assert set(running.values()) == {0}


def test_jain():
    assert fairness.jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert fairness.jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_light_users_starve_in_one_queue_and_not_in_turns():
    blocked = fairness.flood(("one queue, users at their limit passed over", 10, 0, 30.0))
    ours = fairness.flood((fairness.OURS, 10, 0, 30.0))
    assert blocked.timed_out > 0.3
    # Who has used up its share may wait too long, as everybody would; nobody else does.
    assert ours.within == 0
    assert ours.timed_out < 0.01
    assert min(blocked.used, ours.used) > 0.9


def test_nested_semaphores_wait_for_themselves_and_lent_permits_do_not():
    naive, ours = nesting.tree(nesting.NAIVE), nesting.tree(nesting.OURS)
    assert (naive.finished, ours.finished, ours.nodes, ours.peak) == (0, 40, 1_600, 10)
