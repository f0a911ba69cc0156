"""Cancellation at every turn of the loop, in every public coroutine, on both kinds of event loop.

Each scenario is run once for each of its turns, cancelled there, until it comes to its end. After each, everything is
back at zero, and the same objects serve the same scenario again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from isolane.testing import manual_clock

from tests.adversity import (  # noqa: F401 - they add their scenarios to the others
    agent_scenarios,
    alert_scenarios,
    auth_scenarios,
    client_scenarios,
    contamination_scenarios,
    dashboard_scenarios,
    flag_scenarios,
    guard_scenarios,
    legacy_scenarios,
    limit_scenarios,
    memory_scenarios,
    pool_scenarios,
    rollout_scenarios,
    security_scenarios,
    testing_scenarios,
    tool_scenarios,
    tracing_scenarios,
)
from tests.adversity.compat_scenarios import COMPAT_COVERED, COMPAT_SCENARIOS
from tests.adversity.public_awaitables import compat_awaitables, public_awaitables
from tests.adversity.scenarios import COVERED, SCENARIOS, Scenario
from tests.adversity.world import World, ticks

MOST_TICKS = 400
SECONDS = 10.0
WRITERS = "waits for a thread that waits for a disk; cancelled in tests/python/test_audit.py"
PLANE = "waits for a Redis, not for turns of the loop; cancelled in tests/cluster/test_plane_faults.py"
LOGS = "waits for what a store says of other workers; cancelled in tests/cluster/test_cluster_logs.py"
SHARED = "waits for a Redis, not for turns of the loop; cancelled in tests/cluster/test_shared_plane.py"
LEASES = "waits for leases of other workers; cancelled in tests/stress/test_cluster_limits.py"
MEMORY = "waits for nothing"
ENDS = "cancels, and returns what comes to its end by itself"
NOT_OURS = {
    "BaseAgent.execute_with_context": "an agent's own, run by execute_agent",
    "PermissionService.authorize": "a protocol; awaited by validate_execution_permissions",
    "MemoryGate.admit": "a protocol; the manager's is below",
    "Quarantinable.cleanup_user_context": "a protocol; the factory's is below",
    "EndsRuns.cleanup_user_context": "the same",
    "ProbeAgent.execute_with_context": "the engine awaits it for the probe",
    "Calls.follow": "the task that calls a tool, which is found and not waited for",
    "Socket.receive": "a protocol",
    "Socket.send": "the same",
    "Socket.close": "the same",
    "WatchedSource.watch": "a protocol; followed by MigrationFeatureFlags.watch",
    "TicketStore.put": "a protocol; the memory's is below",
    "TicketStore.take": "the same",
    "TicketStore.was_taken": "the same",
    "AuditLogger.flush": WRITERS,
    "AuditLogger.checkpoint": WRITERS,
    "AuditLogger.shred_user": WRITERS,
    "AuditLogger.rotate_kek": WRITERS,
    "AuditLogger.generate_security_report": WRITERS,
    "AuditLogger.__aenter__": WRITERS,
    "AuditLogger.__aexit__": WRITERS,
    "Actions.verify": "waits for a thread that reads a disk; cancelled in tests/adversity/test_dashboard.py",
    "LeaseBackend.run": "a protocol",
    "Scripts.script": "the same",
    "MemoryLeaseBackend.run": MEMORY,
    "RedisLeaseBackend.run": PLANE,
    "LeaseDesk.wait": LEASES,
    "ClusterLimits.start": LEASES,
    "ClusterLimits.stop": LEASES,
    "ExecutionEngineFactory.lose": LEASES,
    "send": PLANE,
    "LogStore.append": "a protocol",
    "LogStore.read": "the same",
    "LogStore.announce": "the same",
    "LogStore.forget": "the same",
    "LogStore.runs_of": "the same",
    "LogStore.renew": "the same",
    "LogStore.overdue": "the same",
    "LogStore.claim": "the same",
    "MemoryLogStore.append": MEMORY,
    "MemoryLogStore.read": MEMORY,
    "MemoryLogStore.announce": MEMORY,
    "MemoryLogStore.renew": MEMORY,
    "MemoryLogStore.forget": MEMORY,
    "MemoryLogStore.overdue": MEMORY,
    "MemoryLogStore.claim": MEMORY,
    "MemoryLogStore.runs_of": MEMORY,
    "RedisLogStore.append": PLANE,
    "RedisLogStore.read": PLANE,
    "RedisLogStore.announce": PLANE,
    "RedisLogStore.renew": PLANE,
    "RedisLogStore.forget": PLANE,
    "RedisLogStore.overdue": PLANE,
    "RedisLogStore.claim": PLANE,
    "RedisLogStore.runs_of": PLANE,
    "LogReplica.wait": LOGS,
    "ClusterLogs.start": LOGS,
    "ClusterLogs.stop": LOGS,
    "ClusterLogs.arrive": LOGS,
    "ClusterLogs.find_and_cancel": LOGS,
    "Isolane.arrive": LOGS,
    "Isolane.cancel_run_anywhere": LOGS,
    "Part.start": "the same",
    "Part.stop": "the same",
    "Logouts.start": SHARED,
    "Logouts.stop": SHARED,
    "PlaneTicketStore.put": SHARED,
    "PlaneTicketStore.start": SHARED,
    "PlaneTicketStore.stop": SHARED,
    "PlaneTicketStore.take": SHARED,
    "PlaneTicketStore.was_taken": SHARED,
    "SharedFlagSource.start": SHARED,
    "SharedFlagSource.stop": SHARED,
    "SharedFlagSource.watch": SHARED,
    "SharedLedger.reading": SHARED,
    "SharedLedger.start": SHARED,
    "SharedLedger.stop": SHARED,
    "SharedMetrics.render": SHARED,
    "SharedMetrics.start": SHARED,
    "SharedMetrics.stop": SHARED,
    "SharedQuarantine.start": SHARED,
    "SharedQuarantine.stop": SHARED,
    "Tally.leave": SHARED,
    "Tally.read": SHARED,
    "Tally.tell": SHARED,
    "Plane.start": PLANE,
    "Plane.stop": PLANE,
    "Link.start": PLANE,
    "Link.stop": PLANE,
    "Link.greet": PLANE,
    "Line.stop": PLANE,
    "Line.cancel": ENDS,
    "Link.cancel": ENDS,
    "Subscriber.cancel": ENDS,
    "Ticker.cancel": ENDS,
    "Subscriber.stop": PLANE,
    "Ticker.stop": PLANE,
    "KnowsItsUser.user_of": "a protocol; the request scope's is below",
    "open_websocket": "the websockets library's handshake; cancelled on real sockets in tests/clients",
}

SUITE = (
    *("AcceptanceTestExecutor.", "ExecutionPatternAcceptanceTests.", "IsolationTester.", "EchoAgent.", "Recorder."),
    *("Target.", "OwnTarget.", "ServiceTarget.", "UserSession.", "OwnSession.", "AppSession."),
    *("RecordedHttp.", "ServiceProcess.", "UserSocket."),
    *("user_isolation_boundaries", "performance_requirements", "concurrent_user_support", "websocket_event_isolation"),
    *("resource_management", "error_handling_recovery", "security_boundaries", "legacy_compatibility", "intrusions"),
)
"""The acceptance suite and its parts, which test a service from outside. Cancelled in tests/acceptance."""

THE_HOSTS = ("AgentWebSocketBridge.", "ConnectionPool.", "PooledSocket.")
"""What the host brings: `isolane.compat.protocols` only describes it."""


pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")


@pytest.fixture(autouse=True)
def a_stopped_clock() -> Iterator[None]:
    """Retention is reached by moving the clock."""
    with manual_clock():
        yield


async def run_cancelled_at(world: World, scenario: Scenario, tick: int | None, again: int = 0) -> int | None:
    """Run it, and cancel it after so many turns, and once more ``again`` turns later, when it cleans up.

    Returns the turns that it took, or ``None`` when it was cancelled.
    """
    task = asyncio.get_running_loop().create_task(scenario(world))
    taken = 0
    while not task.done() and taken != tick:
        assert taken < MOST_TICKS, "it does not come to an end"
        await asyncio.sleep(0)
        taken += 1
    if task.done():
        await task
        return taken
    task.cancel()
    if again:
        await ticks(again)
        task.cancel()
    done, _ = await asyncio.wait({task}, timeout=SECONDS)
    assert done, f"cancelled at turn {tick}, it hangs"
    if not task.cancelled():
        error = task.exception()
        raise AssertionError(
            f"cancelled at turn {tick}, it ended with {error!r} and not with CancelledError"
        ) from error
    return None


async def check(scenario: Scenario, user: str, again: int = 0) -> int:
    """Cancel the scenario at each of its turns. Returns how many there were."""
    world = World(user)
    for tick in itertools.count():
        taken = await run_cancelled_at(world, scenario, tick, again)
        await asyncio.wait_for(world.finish(), SECONDS)
        faults = world.faults()
        assert not faults, f"cancelled at turn {tick}: {faults}"
        # The same objects again, from the beginning to the end.
        assert await run_cancelled_at(world, scenario, None) is not None
        await asyncio.wait_for(world.finish(), SECONDS)
        faults = world.faults()
        assert not faults, f"run again after a cancellation at turn {tick}: {faults}"
        if taken is not None:
            return taken
    raise AssertionError


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], scenario: Scenario, user: str, again: int = 0) -> int:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(check(scenario, user, again))


ALL = {**SCENARIOS, **COMPAT_SCENARIOS}


@pytest.mark.parametrize("name", sorted(ALL))
def test_cancelled_at_any_turn_it_leaves_nothing(name, new_loop, new_user) -> None:
    taken = run(new_loop, ALL[name], new_user())
    assert taken > 0, "a scenario without a turn of the loop cannot be cancelled"


@pytest.mark.long
@pytest.mark.parametrize("again", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(ALL))
def test_cancelled_twice_it_leaves_nothing(name, again, new_loop, new_user) -> None:
    """Once more while it cleans up after the first time, as when a request and then the server are stopped."""
    run(new_loop, ALL[name], new_user(), again)


def test_every_public_coroutine_has_a_scenario() -> None:
    """Found by looking: a coroutine that is added has to be added to the scenarios."""
    ours = {name for name in public_awaitables() if not name.startswith(SUITE)}
    assert ours - set(NOT_OURS) == set(COVERED)
    # One is at once what it is awaited for, the other calls LegacyManagers.broadcast_message.
    others = {"get_factory_adapter", "broadcast_message"}
    theirs = {name for name in compat_awaitables() if name.startswith(THE_HOSTS)} | others
    assert compat_awaitables() - theirs == set(COMPAT_COVERED)


# -- the positive controls ---------------------------------------------------------------------------------------------


async def keeps_its_permit(world: World) -> None:
    permit = await world.limiter.acquire(world.user)
    world.kept = permit  # type: ignore[attr-defined]
    await ticks(1)
    permit.release()


async def swallows_its_cancellation(world: World) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await ticks(2)


async def hides_its_cancellation(world: World) -> None:
    try:
        await ticks(2)
    except asyncio.CancelledError:
        raise RuntimeError("something else") from None


async def leaves_a_task_behind(world: World) -> None:
    world.left = asyncio.get_running_loop().create_task(asyncio.sleep(3_600))  # type: ignore[attr-defined]
    await ticks(2)
    world.left.cancel()  # type: ignore[attr-defined]


async def leaves_a_context(world: World) -> None:
    world.kept = world.context().create_child_context("kept")  # type: ignore[attr-defined]
    await ticks(1)
    world.kept = None  # type: ignore[attr-defined]


async def leaves_a_session(world: World) -> None:
    from tests.adversity.world import Session  # noqa: PLC0415

    session = Session()
    await ticks(1)
    await session.aclose()


async def breaks_the_next_use(world: World) -> None:
    assert not getattr(world, "broken", False)
    world.broken = True  # type: ignore[attr-defined]
    await ticks(1)
    world.broken = False  # type: ignore[attr-defined]


PLANTED: dict[Any, str] = {
    keeps_its_permit: "limiter: running",
    swallows_its_cancellation: "and not with CancelledError",
    hides_its_cancellation: "and not with CancelledError",
    leaves_a_task_behind: "tasks that go on",
    leaves_a_context: "in the lane",
    leaves_a_session: "1 sessions opened, 0 closed",
    breaks_the_next_use: "assert not",
}


@pytest.mark.parametrize("scenario", PLANTED, ids=lambda scenario: scenario.__name__)
def test_a_planted_fault_is_found(scenario, new_loop, new_user) -> None:
    with pytest.raises(AssertionError, match=PLANTED[scenario]):
        run(new_loop, scenario, new_user())
    gc.collect()


def test_a_coroutine_without_a_scenario_is_found(monkeypatch) -> None:
    import isolane  # noqa: PLC0415

    async def new(self: Any) -> None:
        """Do something new."""

    monkeypatch.setattr(isolane.ExecutionEngineFactory, "new", new, raising=False)
    assert "ExecutionEngineFactory.new" in public_awaitables() - set(COVERED)
