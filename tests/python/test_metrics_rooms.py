"""Events, tools, permissions, flags, rollbacks, legacy calls and boundaries are measured where they happen."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from types import SimpleNamespace
from typing import Any

import pytest
from isolane import (
    ContaminationDetector,
    ContextIsolationError,
    FlagEngine,
    InvalidEvent,
    LoopLagMonitor,
    PermissionBoundarySystem,
    PermissionDeniedError,
    PermissionEngine,
    ToolLimitError,
    ToolNotFoundError,
    UnifiedToolDispatcherFactory,
    install_flags,
    resource_name,
)
from isolane._core import (
    DeprecationLedger,
    EventCursor,
    emitter_for_context,
    lane_stats,
    metrics_snapshot,
    set_metrics_enabled,
)
from isolane.events.lag import RECENT
from isolane.testing import manual_clock

from tests.support.measuring import changes
from tests.support.metric_names import reserve

SEARCH, BROKEN, SLOW, SMALL = reserve("rooms.search", "rooms.broken", "rooms.slow", "rooms.small", label="tool")
FLAG, OTHER_FLAG = reserve("rooms-flag", "rooms-other", label="flag")
(SYMBOL,) = reserve("rooms.symbol", label="symbol")


@pytest.fixture(autouse=True)
def no_context_of_other_tests() -> None:
    gc.collect()


# -- events ------------------------------------------------------------------------------------------------------------


async def test_events_are_told_by_type_and_by_what_became_of_them(context) -> None:
    emitter = context.get_websocket_emitter()
    cursor = EventCursor(context.user_id, framed=False)
    cursor.subscribe(context.run_id)
    with changes() as found:
        await emitter.notify_agent_started("data")
        for _ in range(3):
            await emitter.notify_agent_thinking("so")
        emitter.publish("mine", {"n": 1})
        with pytest.raises(InvalidEvent):
            emitter.notify_agent_thinking("so", agent_name="nobody")
        with pytest.raises(InvalidEvent):
            emitter.publish("agent_started", {})
    assert found.of("isolane_ws_events_total") == {
        ("agent_started", "published"): 1,
        ("agent_thinking", "published"): 3,
        ("custom", "published"): 1,
        ("agent_thinking", "failed"): 1,
        ("agent_started", "failed"): 1,
    }
    assert not found.of("isolane_ws_event_latency_seconds")
    with changes() as found:
        assert len(cursor.read(100)) == 5
    assert found.of("isolane_ws_events_total") == {
        ("agent_started", "sent"): 1,
        ("agent_thinking", "sent"): 3,
        ("custom", "sent"): 1,
    }
    assert found.of("isolane_ws_event_latency_seconds") == {"agent_started": 1, "agent_thinking": 3, "custom": 1}
    assert found.of("isolane_ws_queue_depth") == {(): 1}, "one look found all five"
    with changes() as found:
        assert cursor.read(100) == []
    assert not found, "a look that finds nothing counts nothing"
    cursor.detach()


async def test_what_a_client_asks_for_late_has_no_latency(context) -> None:
    emitter = context.get_websocket_emitter()
    await emitter.notify_agent_started("data")
    cursor = EventCursor(context.user_id, framed=False)
    cursor.subscribe(context.run_id)
    with changes() as found:
        assert len(cursor.read(100)) == 1
    assert found.of("isolane_ws_events_total") == {("agent_started", "sent"): 1}
    assert not found.of("isolane_ws_event_latency_seconds")
    cursor.detach()


async def test_the_latency_is_from_being_published_to_being_handed_out(context) -> None:
    emitter = context.get_websocket_emitter()
    cursor = EventCursor(context.user_id, framed=False)
    cursor.subscribe(context.run_id)
    before = _latency("agent_started")
    with manual_clock() as clock:
        await emitter.notify_agent_started("data")
        clock.advance(0.3)
        cursor.read(100)
    after = _latency("agent_started")
    assert after["sum"] - before["sum"] == pytest.approx(0.3, abs=1e-3)
    at = dict(after["buckets"])
    was = dict(before["buckets"])
    assert (at[0.25] - was.get(0.25, 0), at[0.5] - was.get(0.5, 0)) == (0, 1)
    cursor.detach()


def _latency(kind: str) -> dict[str, Any]:
    family = metrics_snapshot().get("isolane_ws_event_latency_seconds", {"series": []})
    found = [series for series in family["series"] if series["labels"] == {"type": kind}]
    return found[0] if found else {"sum": 0.0, "count": 0, "buckets": []}


def test_what_a_full_log_lets_go_of_is_told_by_type_and_reason(context) -> None:
    emitter = emitter_for_context(context, max_events=8)
    emitter.notify_agent_started("data")
    with changes() as found:
        for number in range(4):
            emitter.publish("trace", {"n": number}, priority=4)
        for number in range(12):
            emitter.publish(f"own-{number % 6}", {"n": number})
    dropped = found.of("isolane_ws_dropped_total")
    assert dropped[("custom", "shed")] == 4
    assert dropped[("agent_started", "folded")] == 1
    assert dropped[("custom", "folded")] > 0
    figures = lane_stats()
    assert figures["events_shed"] >= 4, "the figures are the same as before"


def test_progress_that_is_out_of_date_is_told_as_that(context) -> None:
    emitter = emitter_for_context(context, max_events=8)
    emitter.notify_agent_started("data")
    with changes() as found:
        for number in range(12):
            emitter.publish("progress", {"n": number}, priority=3, key="one")
    assert found.of("isolane_ws_dropped_total")[("custom", "outdated")] > 0
    assert ("custom", "shed") not in found.of("isolane_ws_dropped_total")


def test_what_is_left_out_for_one_socket_counts_once_however_often_it_reads(context) -> None:
    emitter = emitter_for_context(context)
    emitter.notify_agent_started("data")
    cursor = EventCursor(context.user_id, framed=False)
    cursor.subscribe(context.run_id)
    with changes() as found:
        for number in range(5):
            emitter.publish("progress", {"n": number}, priority=3, key="one")
            emitter.publish("note", {"n": number})
        read: list[str] = []
        # Little by little, so that what is left out is looked at again.
        while texts := cursor.read(1):
            read += texts
    assert len(read) == 1 + 5 + 1
    assert found.of("isolane_ws_dropped_total") == {("custom", "skipped"): 4}
    cursor.detach()


def test_open_sockets_are_a_level(context) -> None:
    with changes() as found:
        cursor = EventCursor(context.user_id)
    assert found.of("isolane_ws_connections") == {(): 1}
    with changes() as found:
        cursor.close(4000)
    assert found.of("isolane_ws_connections") == {(): -1}, "one that is to be closed is none"
    cursor.detach()


def test_a_snapshot_is_told_as_one(context) -> None:
    emitter = emitter_for_context(context, max_events=4)
    emitter.notify_agent_started("data")
    for number in range(12):
        emitter.publish(f"own-{number}", {})
    cursor = EventCursor(context.user_id, framed=False)
    with changes() as found:
        cursor.subscribe(context.run_id)
        cursor.read(1_000)
    assert found.of("isolane_ws_events_total")[("snapshot", "sent")] > 0
    cursor.detach()


# -- tools -------------------------------------------------------------------------------------------------------------


async def search(query: str) -> str:
    """Find a text."""
    return query


async def broken(query: str) -> str:
    """Fail."""
    raise ValueError(query)


async def slow() -> None:
    """Take long."""
    await asyncio.sleep(60)


def dispatchers(**options: Any) -> UnifiedToolDispatcherFactory:
    return UnifiedToolDispatcherFactory(permissions=PermissionEngine.for_tools({"everyone": ["*"]}), **options)


def dispatcher_of(factory: UnifiedToolDispatcherFactory, context: Any) -> Any:
    dispatcher = factory.create_dispatcher(context)
    for name, function in ((SEARCH, search), (BROKEN, broken), (SLOW, slow)):
        dispatcher.register_tool(function, name=name)
    return dispatcher


async def test_calls_of_tools_are_told_by_tool_and_how_they_ended(context) -> None:
    dispatcher = dispatcher_of(dispatchers(), context)
    with changes() as found:
        for _ in range(2):
            await dispatcher.execute_tool(SEARCH, {"query": "x"})
        assert not (await dispatcher.dispatch_tool(BROKEN, {"query": "x"})).success
        assert not (await dispatcher.dispatch_tool(SLOW, timeout=0.01)).success
        task = asyncio.create_task(dispatcher.execute_tool(SLOW))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert not (await dispatcher.dispatch_tool(SEARCH, {"wrong": 1})).success
    assert found.of("isolane_tool_calls_total") == {
        (SEARCH, "ok"): 2,
        (BROKEN, "failed"): 1,
        (SLOW, "timed_out"): 1,
        (SLOW, "cancelled"): 1,
        (SEARCH, "refused"): 1,
    }


async def test_unknown_tools_share_a_name_and_a_full_user_is_refused(context) -> None:
    dispatcher = dispatcher_of(dispatchers(calls_per_user=1), context)
    task = asyncio.create_task(dispatcher.execute_tool(SLOW))
    await asyncio.sleep(0)
    with changes() as found:
        for name in ("who-knows", "nobody-knows"):
            with pytest.raises(ToolNotFoundError):
                await dispatcher.execute_tool(name)
        with pytest.raises(ToolLimitError):
            await dispatcher.execute_tool(SEARCH, {"query": "x"})
    calls = found.of("isolane_tool_calls_total")
    assert calls[(SEARCH, "refused")] == 1
    assert sum(calls.values()) == 3
    assert not {name for name, _ in calls} & {"who-knows", "nobody-knows"}
    task.cancel()
    await asyncio.wait({task})


# -- permissions -------------------------------------------------------------------------------------------------------


def test_decisions_are_told_with_the_worst_reason(new_context, alice, bob) -> None:
    boundary = PermissionBoundarySystem(
        PermissionEngine({"reader": {"allow": [{"actions": ["read"], "resources": ["document:*"]}]}})
    )
    context = new_context(alice, permissions=["reader"])
    own, foreign = resource_name("document", alice, "1"), resource_name("document", bob, "1")
    with changes() as found:
        assert boundary.check(context, "read", [own]).permitted
        assert not boundary.check(context, "write", [own]).permitted
        # Several rules are broken, and the worst counts, which is not the first.
        assert not boundary.check(context, "write", ["", foreign]).permitted
        assert not boundary.check(None, "read", [own]).permitted  # type: ignore[arg-type]
    assert found.of("isolane_permission_decisions_total") == {
        ("allow", "permitted"): 1,
        ("deny", "insufficient_permissions"): 1,
        ("deny", "cross_user_access_risk"): 1,
        ("deny", "context_integrity_failure"): 1,
    }


async def test_a_call_of_a_tool_is_one_decision(context) -> None:
    dispatcher = dispatcher_of(dispatchers(), context)
    with changes() as found:
        await dispatcher.execute_tool(SEARCH, {"query": "x"})
    assert found.of("isolane_permission_decisions_total") == {("allow", "permitted"): 1}
    nobody = UnifiedToolDispatcherFactory(permissions=PermissionEngine({}))
    refused = dispatcher_of(nobody, context)
    with changes() as found, pytest.raises(PermissionDeniedError):
        await refused.execute_tool(SEARCH, {"query": "x"})
    assert found.of("isolane_permission_decisions_total") == {("deny", "insufficient_permissions"): 1}


def test_a_permission_that_cannot_be_recorded_counts_as_refused_as_well(new_context, alice) -> None:
    class Sick:
        def record(self, _: object) -> None:
            raise RuntimeError("the disk is full")

    boundary = PermissionBoundarySystem(
        PermissionEngine({"all": {"allow": ["read"]}}, allow_blanket=True), audit=Sick()
    )
    context = new_context(alice, permissions=["all"])
    with changes() as found:
        assert not boundary.check(context, "read", [resource_name("document", alice, "1")]).permitted
    assert found.of("isolane_permission_decisions_total") == {
        ("allow", "permitted"): 1,
        ("deny", "validation_error"): 1,
    }


# -- flags -------------------------------------------------------------------------------------------------------------


def document(revision: int, **flags: Any) -> str:
    return json.dumps({"schema": 1, "revision": revision, "flags": flags})


@pytest.fixture
def engine():
    engine = FlagEngine()
    former = install_flags(engine)
    yield engine
    install_flags(former)


def test_evaluations_are_told_by_flag_answer_and_reason(engine: FlagEngine, new_context) -> None:
    engine.load(document(1, **{FLAG: {"rollout": 100000}, OTHER_FLAG: {"rollout": 0, "allow": ["ann"]}}))
    with changes() as found:
        assert engine.is_on(FLAG, "ann")
        assert engine.decide(FLAG, "ann").value
        assert engine.is_on(OTHER_FLAG, "ann")
        assert not engine.is_on(OTHER_FLAG, "bob")
        assert not engine.is_on("no-such-flag-of-any-document", "bob")
        snapshot = engine.snapshot("ann")
        assert snapshot.is_on(FLAG)
        assert snapshot[FLAG].value
        # What is shown to operators is no evaluation.
        snapshot.to_dict()
        assert engine.flags() == [FLAG, OTHER_FLAG]
    assert found.of("isolane_flag_evaluations_total") == {
        (FLAG, "on", "static"): 4,
        (OTHER_FLAG, "on", "targeting_match"): 1,
        (OTHER_FLAG, "off", "static"): 1,
        ("_other", "off", "error"): 1,
    }
    with pytest.raises(Exception, match="revision"):
        engine.load(document(0, **{FLAG: {"rollout": 0}}))
    with changes() as found:
        engine.is_on(FLAG, "ann")
    assert found.of("isolane_flag_evaluations_total") == {(FLAG, "on", "stale"): 1}


def test_the_rollout_of_a_flag_is_a_level_and_nothing_while_it_is_off(engine: FlagEngine) -> None:
    def percent() -> dict[str, float]:
        series = metrics_snapshot().get("isolane_rollout_percent", {"series": []})["series"]
        return {each["labels"]["flag"]: each["value"] for each in series}

    engine.load(document(1, **{FLAG: {"rollout": 12500}, OTHER_FLAG: {"state": "off", "rollout": 100000}}))
    assert percent() == {FLAG: 12.5, OTHER_FLAG: 0.0}
    engine.kill()
    assert percent()[FLAG] == 0.0
    engine.unkill()
    engine.latch(FLAG, '{"metric": "manual"}')
    assert percent()[FLAG] == 0.0
    engine.release(FLAG)
    assert percent()[FLAG] == 12.5
    install_flags(None)
    assert percent() == {}


def test_a_rollback_counts_once_wherever_it_was_decided() -> None:
    engine = FlagEngine()
    engine.load(document(1, **{FLAG: {"rollout": 50000, "rollback": {"metric": "run_error"}}}))
    engine.load(document(2, **{FLAG: {"rollout": 50000}}))
    with changes() as found:
        engine.latch(FLAG, '{"metric": "slow_run", "reason": "too slow"}')
        engine.latch(FLAG, '{"metric": "manual"}')
        # What the guard then writes into the file comes back with the file.
        engine.load(document(3, **{FLAG: {"rollout": 0, "rollback": {"metric": "slow_run"}}}))
        engine.load(document(4, **{FLAG: {"rollout": 0, "rollback": {"metric": "slow_run"}}}))
    assert found.of("isolane_rollbacks_total") == {(FLAG, "slow_run"): 1}
    elsewhere = FlagEngine()
    elsewhere.load(document(1, **{FLAG: {"rollout": 50000}}))
    with changes() as found:
        elsewhere.load(document(2, **{FLAG: {"rollout": 0, "rollback": {"metric": "run_error"}}}))
        elsewhere.latch(FLAG, '{"metric": "run_error"}')
    assert found.of("isolane_rollbacks_total") == {(FLAG, "run_error"): 1}
    started = FlagEngine()
    with changes() as found:
        started.load(document(7, **{FLAG: {"rollout": 0, "rollback": {"metric": "run_error"}}}))
    assert not found.of("isolane_rollbacks_total"), "it was rolled back before this process began"
    strange = FlagEngine()
    strange.load(document(1, **{FLAG: {"rollout": 50000}}))
    with changes() as found:
        strange.latch(FLAG, "because")
    assert found.of("isolane_rollbacks_total") == {(FLAG, "other"): 1}


# -- legacy calls ------------------------------------------------------------------------------------------------------


def test_legacy_calls_are_told_by_symbol() -> None:
    ledger = DeprecationLedger()
    with changes() as found:
        for _ in range(3):
            ledger.note(SYMBOL, "ISO-D003")
    assert found.of("isolane_legacy_calls_total") == {SYMBOL: 3}


# -- boundaries --------------------------------------------------------------------------------------------------------


def test_the_big_zero_is_told_before_anything_was_found() -> None:
    series = metrics_snapshot()["isolane_isolation_violations_total"]["series"]
    told = {(each["labels"]["boundary"], each["labels"]["tier"]) for each in series}
    assert ("verify", "shared_container") in told
    assert ("http_out", "canary") in told
    assert ("ws_out", "foreign_run") in told
    assert not {boundary for boundary, _ in told} & {"publish", "access", "data_access"}, (
        "they refuse, and find nothing"
    )


def test_what_crossed_and_what_was_refused_are_two_metrics(new_context, alice, bob) -> None:
    context = new_context(alice)
    context.agent_context["thing"] = SimpleNamespace(user_id=bob)
    with changes() as found, pytest.raises(ContextIsolationError):
        context.verify_isolation()
    assert found.of("isolane_isolation_violations_total") == {("verify", "foreign_object"): 1}
    assert not found.of("isolane_refused_attempts_total")
    assert found.of("isolane_boundary_checks_total") == {"verify": 1}
    foreign = new_context(bob)
    foreign.get_websocket_emitter().notify_agent_started("data")
    with changes() as found, pytest.raises(ContextIsolationError):
        new_context(alice).get_websocket_emitter().notify_agent_started("data", foreign.run_id)
    assert sum(found.of("isolane_refused_attempts_total").values()) == 1
    assert not found.of("isolane_isolation_violations_total")


def test_positive_controls_are_told_by_result(alice) -> None:
    detector = ContaminationDetector()
    with changes() as found:
        assert detector.sweep().coverage.controls
    assert found.of("isolane_canary_positive_controls_total") == {"caught": 1}


# -- the loop, the build, the switch -----------------------------------------------------------------------------------


async def test_the_lag_of_the_loop_is_a_level_while_it_is_measured() -> None:
    def level() -> float:
        (series,) = metrics_snapshot()["isolane_loop_lag_seconds"]["series"]
        return series["value"]

    monitor = LoopLagMonitor(every=0.005)
    monitor._fired(0.25)
    assert level() == 0.25
    # Who comes a little later sees it as well, and who comes much later does not.
    monitor._fired(0.001)
    assert level() == 0.25
    for _ in range(RECENT - 1):
        monitor._fired(0.001)
    assert level() == 0.001
    monitor.start()
    monitor.stop()
    assert level() == 0.0


def test_the_build_says_what_it_is_made_of() -> None:
    (series,) = metrics_snapshot()["isolane_build_info"]["series"]
    import platform  # noqa: PLC0415

    import isolane  # noqa: PLC0415

    assert series["value"] == 1
    assert series["labels"]["version"] == isolane.__version__
    assert series["labels"]["python"] == platform.python_version()
    assert series["labels"]["rustc"].startswith("1.")


async def test_nothing_of_it_is_measured_while_that_is_off(context, engine: FlagEngine) -> None:
    engine.load(document(1, **{FLAG: {"rollout": 100000}}))
    dispatcher = dispatcher_of(dispatchers(), context)
    was = set_metrics_enabled(False)
    try:
        with changes() as found:
            engine.is_on(FLAG, "ann")
            DeprecationLedger().note(SYMBOL, "ISO-D003")
            await dispatcher.execute_tool(SEARCH, {"query": "x"})
    finally:
        set_metrics_enabled(was)
    kept = {key[0] for key in found}
    assert not kept & {
        "isolane_flag_evaluations_total",
        "isolane_legacy_calls_total",
        "isolane_tool_calls_total",
        "isolane_permission_decisions_total",
    }
    # What the rooms know without it they still say.
    assert "isolane_ws_events_total" in kept


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_the_child_of_a_fork_begins_at_zero(new_context, alice, bob) -> None:
    context = new_context(alice)
    context.agent_context["thing"] = SimpleNamespace(user_id=bob)
    with pytest.raises(ContextIsolationError):
        context.verify_isolation()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - counted in the parent
        status = 1
        try:
            series = metrics_snapshot()["isolane_isolation_violations_total"]["series"]
            os.write(writer, str(sum(each["value"] for each in series)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    told = os.read(reader, 100)
    os.close(reader)
    assert os.waitpid(child, 0)[1] == 0
    assert told == b"0"
