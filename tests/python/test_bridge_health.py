"""Whether events get through, and how late the loop runs."""

# ruff: noqa: ASYNC251 - blocking the loop is what is looked for

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import isolane
import pytest
import uvloop
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ExecutionEngineFactory,
    FairLimiter,
    HealthMonitor,
    LoopLagMonitor,
    UserExecutionContext,
    WebSocketBridgeFactory,
)
from isolane._core import EventCursor, LatencyHistogram, delivery_figures
from isolane.events.ticker import Ticker
from isolane.testing import manual_clock

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def line_of(text: str) -> int:
    """Return the line of this file that a comment marks."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {text}"))


class Sleeper(BaseAgent):
    name = "sleeper"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> str:
        await asyncio.sleep(0)
        time.sleep(0.2)
        await asyncio.sleep(0.001)  # waits after the sleep
        return "done"


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Any]) -> Any:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


async def passed(monitor: LoopLagMonitor, timers: int) -> None:
    """Wait until as many more timers have fired."""
    until = monitor.figures()["count"] + timers
    while monitor.figures()["count"] < until:
        await asyncio.sleep(0.005)


# -- the lag of the loop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_loop", LOOPS)
def test_an_agent_that_blocks_the_loop_is_named_with_user_run_and_line(new_loop, context):
    registry = AgentRegistry()
    registry.register(Sleeper)
    monitor = LoopLagMonitor()

    async def main() -> None:
        factory = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry), limiter=FairLimiter())
        monitor.start()
        await passed(monitor, 1)
        async with factory.user_execution_scope(context) as engine:
            assert (await engine.execute_agent("sleeper")).success
        await passed(monitor, 1)
        monitor.stop()
        await factory.shutdown()

    before = datetime.now(UTC)
    run(new_loop, main)
    own = [lag for lag in monitor.latest if any(block["user_id"] == context.user_id for block in lag.blockers)]
    (lag,) = own
    # The step of 200 ms begins when the next timer is up to 100 ms away.
    assert lag.seconds >= 0.05
    assert before <= lag.at <= datetime.now(UTC)
    block = next(block for block in lag.blockers if block["user_id"] == context.user_id)
    assert (block["run_id"], block["agent"]) == (context.run_id, "sleeper")
    assert (block["file"], block["line"]) == (__file__, line_of("waits after the sleep"))
    assert block["wall"] >= 0.2
    figures = monitor.figures()
    assert figures["longest"] >= lag.seconds - 1e-6
    assert figures["late"] >= 1
    assert {"at": lag.at, "seconds": lag.seconds, "blockers": list(lag.blockers)} in figures["latest"]


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_block_by_what_isolane_does_not_drive_is_measured_and_names_nobody(new_loop):
    monitor = LoopLagMonitor()

    async def main() -> None:
        monitor.start()
        await passed(monitor, 1)
        began = datetime.now(UTC)
        time.sleep(0.3)
        await passed(monitor, 1)
        lag = next(lag for lag in monitor.latest if lag.at >= began)
        assert lag.seconds >= 0.15
        assert lag.blockers == ()
        assert monitor.recent >= lag.seconds
        monitor.stop()
        assert monitor.recent == 0.0

    run(new_loop, main)
    assert monitor.figures()["unnamed"] >= 1


async def test_a_block_that_was_over_before_is_not_named(context):
    async def sleep() -> None:
        time.sleep(0.06)

    monitor = LoopLagMonitor()
    await isolane.account(sleep(), context, agent="earlier")
    await asyncio.sleep(0.02)
    monitor.start()
    await passed(monitor, 1)
    time.sleep(0.3)
    await passed(monitor, 1)
    monitor.stop()
    assert monitor.figures()["late"] >= 1
    named = [block["agent"] for lag in monitor.latest for block in lag.blockers if block["user_id"] == context.user_id]
    assert named == []


async def test_a_monitor_is_one_timer_and_no_thread_and_stops():
    threads, tasks = threading.active_count(), len(asyncio.all_tasks())
    monitor = LoopLagMonitor()
    nothing = dict.fromkeys(("mean", "p50", "p95", "p99", "longest"))
    assert monitor.figures() == {"count": 0, **nothing, "recent": 0.0, "late": 0, "unnamed": 0, "latest": []}
    monitor.start()
    monitor.start()
    assert (threading.active_count(), len(asyncio.all_tasks())) == (threads, tasks)
    assert len(asyncio.get_running_loop()._scheduled) == 1
    await passed(monitor, 2)
    monitor.stop()
    monitor.stop()
    assert not monitor.is_running
    count = monitor.figures()["count"]
    await asyncio.sleep(0.25)
    assert monitor.figures()["count"] == count


def test_a_monitor_that_was_left_on_a_closed_loop_starts_on_another():
    monitor = LoopLagMonitor()

    async def start() -> None:
        monitor.start()

    run(asyncio.new_event_loop, start)
    assert not monitor.is_running

    async def again() -> None:
        monitor.start()
        assert monitor.is_running
        await passed(monitor, 1)
        monitor.stop()

    run(asyncio.new_event_loop, again)
    gc.collect()


async def test_a_ticker_goes_on_after_an_error_and_can_stop_itself():
    calls: list[float] = []
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def call(late: float) -> None:
        calls.append(late)
        if len(calls) == 3:
            ticker.stop()
        raise LookupError("as planned")

    ticker = Ticker(0.001, call)
    ticker.start()
    while len(calls) < 3:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    assert (len(calls), ticker.is_running) == (3, False)
    assert [type(one["exception"]) for one in told] == [LookupError] * 3
    assert all(late >= 0 for late in calls)


def test_a_histogram_of_durations():
    histogram = LatencyHistogram()
    assert histogram.figures()["p99"] is None
    for duration in [0.001] * 98 + [0.5, -1.0]:
        histogram.record(duration)
    figures = histogram.figures()
    assert (figures["count"], figures["longest"]) == (100, 0.5)
    assert 0.001 <= figures["p50"] <= figures["p95"] <= figures["p99"] <= 0.00125


# -- health ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def many_sockets(new_user) -> list[EventCursor]:
    """More framed sockets than other tests leave attached, and an even number of them."""
    gc.collect()
    others = delivery_figures(10.0, 0.9)["framed"]
    return [EventCursor(new_user()) for _ in range(2 * (others + 3))]


def test_sockets_that_do_not_answer_are_unhealthy_when_they_are_many(many_sockets):
    monitor = HealthMonitor()
    assert (monitor.status, monitor.heartbeat_status) == (None, "unknown")
    with manual_clock() as clock:
        for cursor in many_sockets:
            cursor.ping()
        clock.advance(2)
        assert monitor.check().healthy
        clock.advance(2)
        status = monitor.check()
        assert not status.healthy
        assert status.figures["silent"] >= len(many_sockets)
        (reason,) = status.reasons
        assert reason.startswith(f"{status.figures['silent']} of {status.figures['framed']} sockets have not answered")
        assert monitor.heartbeat_status == "unhealthy"
        assert monitor.status is status
        for cursor in many_sockets:
            cursor.handle('{"t":"pong"}')
        assert monitor.check().healthy
        assert monitor.heartbeat_status == "healthy"


def test_a_few_silent_sockets_are_closed_tabs(new_user):
    cursors = [EventCursor(new_user()) for _ in range(2)]
    with manual_clock() as clock:
        for cursor in cursors:
            cursor.ping()
        clock.advance(60)
        status = HealthMonitor().check()
    assert status.figures["silent"] == 2
    assert status.healthy


async def test_a_full_log_is_unhealthy(alice, new_context):
    bridge = WebSocketBridgeFactory(isolane.WebSocketConfig(max_run_bytes=30_000))
    emitter = await bridge.create_user_emitter(alice, new_context(alice))
    monitor = HealthMonitor()
    assert monitor.check().figures["full_logs"] == 0
    refused = 0
    try:
        for at in range(2_000):
            emitter.notify_agent_started(f"agent-{at}")
    except isolane.BudgetExceeded:
        refused = 1
    assert refused
    status = monitor.check()
    assert status.figures["full_logs"] == 1
    assert status.reasons == ("1 logs are full: what their runs publish next is refused",)
    await bridge.shutdown()
    assert monitor.check().healthy


async def test_a_loop_that_runs_late_is_unhealthy_for_a_while():
    lag = LoopLagMonitor()
    monitor = HealthMonitor(lag)
    assert monitor.check().figures["loop_lag"] is None
    lag.start()
    await passed(lag, 1)
    time.sleep(0.4)
    await passed(lag, 1)
    status = monitor.check()
    assert not status.healthy
    assert "isolane.loop_blockers()" in status.reasons[0]
    assert status.figures["loop_lag"] > 0.25
    lag.stop()
    assert monitor.check().healthy


async def test_a_monitor_looks_by_itself():
    monitor = HealthMonitor(interval=0.01)
    monitor.start()
    first = monitor.status
    assert first is not None
    while monitor.status is first:
        await asyncio.sleep(0.005)
    monitor.stop()
    assert not monitor.is_running
