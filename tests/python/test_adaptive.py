"""The adaptive controller through its Python face: it is told of calls and says how many may run."""

import asyncio
import gc
import os
import threading
import tracemalloc

import isolane
import pytest
from isolane import AdaptiveController, FairLimiter
from isolane._core import monotonic
from isolane.testing import manual_clock

from benches.limits import virtual_time


class Station:
    """Servers in parallel, always with work waiting, behind a controller: where more run than servers, calls wait."""

    def __init__(self, controller: AdaptiveController) -> None:
        self.controller = controller
        self.now = 1.0
        self.calls = 0

    def run(self, calls: int, servers: int, service: float, outcome: str = "ok") -> None:
        for _ in range(calls):
            limit = self.controller.limit
            noise = (0.8, 1.0, 1.25, 0.9, 1.1)[self.calls % 5]
            latency = service * max(1.0, limit / servers) * noise
            self.calls += 1
            changes = self.controller.state()["changes"]
            changed = changes[-1]["at"] if changes else 0.0
            self.now = max(self.now + latency / limit, changed + latency + 1e-6)
            self.controller.sample(latency, limit, outcome, now=self.now)

    def mean(self, servers: int, service: float) -> float:
        seen = []
        for _ in range(50):
            self.run(24, servers, service)
            seen.append(self.controller.predict_optimal_capacity())
        return sum(seen) / len(seen)


def test_it_finds_what_a_backend_takes_at_once():
    station = Station(AdaptiveController())
    assert station.controller.limit == 2
    station.run(2_000, servers=10, service=0.1)
    assert 9 <= station.mean(servers=10, service=0.1) <= 15
    assert station.controller.state()["baseline"] == pytest.approx(0.1, rel=0.15)


def test_it_follows_a_service_time_that_doubles():
    station = Station(AdaptiveController())
    station.run(2_000, servers=10, service=0.1)
    station.run(600, servers=10, service=0.2)
    assert station.controller.state()["baseline"] == pytest.approx(0.2, rel=0.15)
    assert 9 <= station.mean(servers=10, service=0.2) <= 15


def test_it_follows_a_backend_that_loses_servers():
    station = Station(AdaptiveController())
    station.run(2_000, servers=10, service=0.1)
    station.run(600, servers=4, service=0.1)
    assert 3 <= station.mean(servers=4, service=0.1) <= 6


def test_dropped_calls_lower_the_limit_and_cancelled_ones_do_not():
    station = Station(AdaptiveController())
    station.run(2_000, servers=10, service=0.1)
    before = station.controller.predict_optimal_capacity()
    station.run(500, servers=10, service=0.1, outcome="ignored")
    assert station.controller.predict_optimal_capacity() == before
    for _ in range(100):
        station.run(1, servers=10, service=1.0, outcome="dropped")
        station.run(1, servers=10, service=0.1)
    assert station.controller.limit == 1
    assert station.controller.state()["changes"][-1]["reason"] == "outage"


def test_the_limit_stays_between_its_bounds():
    station = Station(AdaptiveController(4, 3, 6))
    station.run(2_000, servers=64, service=0.1)
    assert station.controller.predict_optimal_capacity() == 6
    station.run(500, servers=64, service=1.0, outcome="dropped")
    assert station.controller.limit == 3


def test_units_of_work_divide_the_latency():
    plain, heavy = AdaptiveController(), AdaptiveController()
    for call in range(24):
        plain.sample(0.1, 2, now=1.0 + call)
        heavy.sample(0.8, 2, units=8, now=1.0 + call)
    assert heavy.state()["baseline"] == pytest.approx(plain.state()["baseline"], rel=1e-6)


def test_sampling_says_whether_the_limit_changed():
    controller = AdaptiveController()
    told = 0
    for call in range(200):
        before = controller.limit
        changed = controller.sample(0.1, controller.limit, now=10.0 + call)
        assert changed == (controller.limit != before)
        told += changed
    assert told > 0


def test_without_a_time_the_clock_of_the_process_counts():
    controller = AdaptiveController()
    with manual_clock() as clock:
        for _ in range(60):
            clock.advance(1.0)
            controller.sample(0.1, controller.limit)
        first = controller.state()["changes"][0]
        assert first["at"] <= monotonic()
        assert first["at"] > 0


def test_its_state_can_be_read_by_an_operator():
    station = Station(AdaptiveController())
    state = station.controller.state()
    assert state == {
        "phase": "start",
        "limit": 2,
        "estimate": 2.0,
        "baseline": None,
        "ratio": None,
        "medians": [],
        "collected": 0,
        "changes": [],
    }
    phases = set()
    for _ in range(400):
        station.run(24, servers=5, service=0.1)
        phases.add(station.controller.state()["phase"])
    state = station.controller.state()
    assert {"steady", "probe"} <= phases
    assert len(state["changes"]) == 16
    assert len(state["medians"]) == 10
    for earlier, later in zip(state["changes"], state["changes"][1:], strict=False):
        assert earlier["at"] <= later["at"]
        assert earlier["after"] == later["before"]
        assert set(later) == {"at", "before", "after", "reason"}
    assert repr(station.controller) == f"<AdaptiveController {station.controller.limit} of 1 to 64>"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"min": 0}, "min must be at least 1"),
        ({"initial": 1, "min": 2}, "between min and max"),
        ({"initial": 65}, "between min and max"),
        ({"tolerance": 1.0}, "tolerance must be above 1"),
        ({"tolerance": float("nan")}, "tolerance must be above 1"),
    ],
)
def test_settings_out_of_order_are_refused(arguments, what):
    with pytest.raises(ValueError, match=what):
        AdaptiveController(**arguments)


def test_the_nearest_settings_in_order_are_taken():
    assert AdaptiveController(min=1, max=1, initial=1).limit == 1
    assert AdaptiveController(64, 64, 64, tolerance=2.0).limit == 64


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((-0.1, 1), "latency must be 0 or more"),
        ((float("nan"), 1), "latency must be 0 or more"),
        ((float("inf"), 1), "latency must be 0 or more"),
        ((0.1, 1, "fine"), "'dropped' or 'ignored', got \"fine\""),
        ((0.1, 1, "ok", 0.0), "units must be a number above 0"),
        ((0.1, 1, "ok", float("nan")), "units must be a number above 0"),
        ((0.1, 1, "ok", 1.0, -1.0), "now must be 0 or more"),
    ],
)
def test_samples_that_are_none_are_refused(arguments, what):
    controller = AdaptiveController()
    with pytest.raises(ValueError, match=what):
        controller.sample(*arguments)
    assert controller.state()["collected"] == 0
    controller.sample(0.0, 0, "ok", 1.0, 0.0)
    assert controller.state()["collected"] == 1


def test_threads_may_sample_at_once():
    controller = AdaptiveController()

    def work() -> None:
        for _ in range(5_000):
            controller.sample(0.01, controller.limit)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= controller.limit <= 64


def test_it_does_not_grow():
    controller = AdaptiveController()
    station = Station(controller)
    station.run(500, servers=10, service=0.1)
    gc.collect()
    tracemalloc.start()
    station.run(5_000, servers=10, service=0.1)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 20_000


def test_after_a_fork_it_belongs_to_the_parent():
    controller = AdaptiveController()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - the other process
        try:
            controller.sample(0.1, 1)
        except isolane.ForkedProcessError:
            os.write(write, b"refused")
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 20) == b"refused"
    os.close(read)


async def work_behind(limiter: FairLimiter, servers: asyncio.Semaphore, until: float, seconds: float) -> None:
    """Ask for permits all the time, for calls to a backend of a few servers."""
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        async with limiter.slot("ann-behind-a-backend") as permit:
            try:
                async with asyncio.timeout(2), servers:
                    await asyncio.sleep(seconds)
            except TimeoutError:
                permit.record("dropped")
            else:
                permit.record("ok")


@pytest.mark.parametrize("servers", [3, 10])
def test_a_limiter_that_follows_a_backend_lets_in_what_it_takes_at_once(servers):
    controller = AdaptiveController()
    seen = []

    async def main() -> None:
        limiter = FairLimiter(64, 64, timeout=60, adaptive=controller)
        until = asyncio.get_running_loop().time() + 120
        backend = asyncio.Semaphore(servers)
        workers = [work_behind(limiter, backend, until, 0.08 + 0.001 * number) for number in range(40)]
        tasks = [asyncio.create_task(worker) for worker in workers]
        await asyncio.sleep(60)
        for _ in range(50):
            await asyncio.sleep(1)
            seen.append(limiter.stats()["running"])
        await asyncio.gather(*tasks)
        assert limiter.stats()["running"] == 0

    virtual_time.run(main)
    assert servers * 0.9 <= sum(seen) / len(seen) <= servers * 1.6
    assert controller.state()["baseline"] == pytest.approx(0.1, rel=0.3)
