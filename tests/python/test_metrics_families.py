"""Each family of the table moves when the thing happens that it is about: none is there for show."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    AuditClass,
    BaseAgent,
    ContaminationDetector,
    ContextIsolationError,
    EngineLimitError,
    ExecutionEngineFactory,
    FairLimiter,
    FlagEngine,
    LimitRejected,
    LimitTimeout,
    LoopLagMonitor,
    PermissionEngine,
    UnifiedToolDispatcherFactory,
    UserContextFactory,
    install_flags,
)
from isolane._core import (
    DeprecationLedger,
    EventCursor,
    charge_memory,
    emitter_for_context,
    loop_account,
    metric_families,
    metrics_snapshot,
)
from isolane.cluster import Plane
from isolane.cluster.limits import ClusterLimits
from isolane.fastapi import Ctx
from isolane.observability.alerts import AlertManager
from isolane.testing.application import LabApplication
from isolane.testing.users import UserFactory

from tests.support.audit_programs import event, opened
from tests.support.measuring import Changes, changes
from tests.support.metric_names import reserve
from tests.support.redis_server import RedisServer

(TOOL,) = reserve("families.tool", label="tool")
(FLAG,) = reserve("families-flag", label="flag")
(SYMBOL,) = reserve("families.symbol", label="symbol")
reserve("families-works", "families-fails", "families-holds", label="agent")
reserve("families_rule", label="rule")

ALWAYS_THE_SAME = {
    "isolane_build_info": "it says what the process is made of, and that does not change while it lives",
}
"""Families that never move, with why. There is no other reason to be in it."""

Drive = Callable[["Stage"], Awaitable[None]]
DRIVES: dict[str, Drive] = {}


def moves(*families: str) -> Callable[[Drive], Drive]:
    def note(drive: Drive) -> Drive:
        DRIVES.update(dict.fromkeys((f"isolane_{family}" for family in families), drive))
        return drive

    return note


class Works(BaseAgent):
    name = "families-works"

    async def execute_with_context(self, context, request, results) -> Any:
        return "done"


class Fails(BaseAgent):
    name = "families-fails"

    async def execute_with_context(self, context, request, results) -> Any:
        raise ValueError("no")


class Holds(BaseAgent):
    """Holds the loop, and does not let go when it is cancelled."""

    name = "families-holds"
    release: ClassVar[asyncio.Event]

    async def execute_with_context(self, context, request, results) -> Any:
        if request == "block":
            time.sleep(0.08)  # noqa: ASYNC251 - blocking the loop is what is looked for
            return None
        while not self.release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.release.wait()
        return None


class Stage:
    """What a drive has to work with."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.ann, self.bob = (f"{name}-{number}-of-families" for name in ("ann", "bob"))
        self._numbers = iter(range(1_000))
        self.changes = Changes()

    def context(self, user: str | None = None) -> Any:
        number = next(self._numbers)
        user = user or self.ann
        return UserContextFactory.create_context(user, f"thread-{number}-of-{user}", f"run-{number}-of-{user}")

    @contextlib.asynccontextmanager
    async def engines(self, **options: Any) -> AsyncIterator[ExecutionEngineFactory]:
        agents = AgentRegistry()
        for agent in (Works, Fails, Holds):
            agents.register(agent)
        options = {"limiter": FairLimiter(8, 4), **options}
        factory = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(agents), **options)
        try:
            yield factory
        finally:
            await factory.shutdown(0)

    @contextlib.asynccontextmanager
    async def application(self) -> AsyncIterator[tuple[LabApplication, Any]]:
        users = UserFactory()
        lab = LabApplication(_settings(), users)

        @lab.app.get("/who")
        async def who(ctx: Ctx) -> dict[str, str]:
            return {"user": ctx.user_id}

        async with lab:
            yield lab, users("ann")


def _settings() -> Any:
    from isolane.fastapi import IsolaneSettings  # noqa: PLC0415 - it reads the environment

    return IsolaneSettings(drain_seconds=0.1)


# -- contexts, runs, engines, permits ----------------------------------------------------------------------------------


@moves("contexts_active", "contexts_created", "users_active")
async def contexts(stage: Stage) -> None:
    context = stage.context()
    context.create_child_context("part")
    stage.changes.look()


@moves("contexts_closed")
async def closing(stage: Stage) -> None:
    await stage.context().cleanup()


@moves("runs", "run_duration_seconds")
async def runs(stage: Stage) -> None:
    async with stage.engines() as factory:
        engine = await factory.create_for_user(stage.context())
        assert (await engine.execute_agent("families-works")).success
        assert not (await engine.execute_agent("families-fails")).success


@moves("engines_active")
async def engines(stage: Stage) -> None:
    async with stage.engines() as factory:
        engine = await factory.create_for_user(stage.context())
        stage.changes.look()
        await factory.cleanup_engine(engine)


@moves("engine_limit_rejections")
async def engine_limit(stage: Stage) -> None:
    async with stage.engines(max_engines_per_user=1) as factory:
        held = await factory.create_for_user(stage.context())
        with pytest.raises(EngineLimitError):
            await factory.create_for_user(stage.context())
        await factory.cleanup_engine(held)


@moves("permits_active", "permits_limit", "permits_waiting", "permits", "permit_wait_seconds", "users_served")
async def permits(stage: Stage) -> None:
    limiter = FairLimiter(1, 1, queue=1, per_user_queue=1)
    held = limiter.slot_nowait(stage.ann)
    waiting = asyncio.ensure_future(limiter.acquire(stage.ann, timeout=5))
    await asyncio.sleep(0)
    with pytest.raises(LimitRejected):
        await limiter.acquire(stage.ann)
    stage.changes.look()
    held.release()
    (await waiting).release()
    with limiter.slot_nowait(stage.ann), pytest.raises(LimitTimeout):
        await limiter.acquire(stage.bob, timeout=0.01)


@moves("memory_bytes", "user_memory_max_bytes")
async def memory(stage: Stage) -> None:
    charge = charge_memory(stage.context(), 64 << 20)
    stage.changes.look()
    charge.release()


# -- events ------------------------------------------------------------------------------------------------------------


@moves("ws_connections", "ws_events", "ws_event_latency_seconds", "ws_queue_depth")
async def events(stage: Stage) -> None:
    context = stage.context()
    emitter = context.get_websocket_emitter()
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    emitter.notify_agent_started("data")
    cursor.read(10)
    stage.changes.look()
    cursor.detach()


@moves("ws_dropped")
async def full_log(stage: Stage) -> None:
    emitter = emitter_for_context(stage.context(), max_events=4)
    emitter.notify_agent_started("data")
    for number in range(9):
        emitter.publish(f"own-{number}", {})


# -- tools, permissions, boundaries ------------------------------------------------------------------------------------


@moves("tool_calls", "permission_decisions")
async def tools(stage: Stage) -> None:
    factory = UnifiedToolDispatcherFactory(permissions=PermissionEngine.for_tools({"everyone": ["*"]}))
    dispatcher = factory.create_dispatcher(stage.context())
    dispatcher.register_tool(lambda: "found", name=TOOL)
    assert await dispatcher.execute_tool(TOOL) == "found"


@moves("isolation_violations", "boundary_checks")
async def violations(stage: Stage) -> None:
    context = stage.context()
    context.agent_context["thing"] = SimpleNamespace(user_id=stage.bob)
    with pytest.raises(ContextIsolationError):
        context.verify_isolation()


@moves("refused_attempts")
async def refusals(stage: Stage) -> None:
    context, foreign = stage.context(), stage.context(stage.bob)
    foreign.get_websocket_emitter().notify_agent_started("data")
    with pytest.raises(ContextIsolationError):
        context.get_websocket_emitter().notify_agent_started("data", foreign.run_id)


@moves("canary_positive_controls")
async def controls(stage: Stage) -> None:
    ContaminationDetector().sweep()


# -- flags, legacy calls -----------------------------------------------------------------------------------------------


@moves("flag_evaluations", "rollout_percent", "rollbacks")
async def flags(stage: Stage) -> None:
    engine = FlagEngine()
    former = install_flags(engine)
    try:
        engine.load(json.dumps({"schema": 1, "revision": 1, "flags": {FLAG: {"rollout": 100_000}}}))
        assert engine.is_on(FLAG, stage.ann)
        stage.changes.look()
        engine.latch(FLAG, '{"metric": "run_error"}')
    finally:
        install_flags(former)


@moves("legacy_calls")
async def legacy(stage: Stage) -> None:
    DeprecationLedger().note(SYMBOL, "ISO-D003")


# -- the audit log -----------------------------------------------------------------------------------------------------


@moves("audit_records", "audit_checkpoint_size")
async def audit(stage: Stage) -> None:
    log = opened(stage.folder / "log", checkpoint_records=1)
    try:
        for _ in range(3):
            log.record(event(AuditClass.ADMIN, stage.ann))
        await log.flush()
        stage.changes.look()
    finally:
        log.close()


@moves("audit_lost")
async def audit_lost(stage: Stage) -> None:
    log = opened(stage.folder / "log")
    log.close()
    log.record(event(AuditClass.DEBUG, stage.ann))


# -- the loop, the application, alerts ---------------------------------------------------------------------------------


@moves("loop_lag_seconds")
async def lag(stage: Stage) -> None:
    monitor = LoopLagMonitor(every=0.01)
    monitor.start()
    await asyncio.sleep(0)
    time.sleep(0.05)  # noqa: ASYNC251 - blocking the loop is what is looked for
    await asyncio.sleep(0.01)
    stage.changes.look()
    monitor.stop()


@moves("loop_blocks")
async def blocks(stage: Stage) -> None:
    async with stage.engines() as factory:
        engine = await factory.create_for_user(stage.context())
        await engine.execute_agent("families-holds", "block")
    assert loop_account()


@moves("overhead_seconds", "health_checks")
async def requests(stage: Stage) -> None:
    async with stage.application() as (lab, user):
        assert (await lab.get("/who", user)).status == 200
        assert (await lab.get("/_isolane/ready")).status == 200


@moves("forced_cleanups")
async def forced(stage: Stage) -> None:
    Holds.release = asyncio.Event()
    async with stage.engines(grace=0.02) as factory:
        engine = await factory.create_for_user(stage.context())
        task = asyncio.create_task(engine.execute_agent("families-holds"))
        await asyncio.sleep(0.01)
        await factory.cleanup_engine(engine)
        Holds.release.set()
        await asyncio.wait({task})


@moves("alerts", "alerts_active")
async def alerts(stage: Stage) -> None:
    manager = AlertManager((), ())
    manager.raise_alert("families_rule", "warning", "It was asked for.")
    manager.tick()
    stage.changes.look()
    manager.close()


@moves("cluster_state", "cluster_processes", "cluster_calls", "cluster_call_seconds")
async def plane(stage: Stage) -> None:
    with RedisServer(stage.folder / "redis") as server:
        plane = Plane(server.url)
        await plane.start()
        stage.changes.look()
        await plane.stop()


@moves("leases", "lease_results", "lease_mode")
async def leases(stage: Stage) -> None:
    with RedisServer(stage.folder / "redis") as server:
        plane, limits, limiter = Plane(server.url), ClusterLimits(), FairLimiter(2, 1)
        limits.share(limiter, "families")
        plane.add(limits)
        await plane.start()
        async with limiter.slot(stage.ann, timeout=20):
            until = time.monotonic() + 20
            counted = ("isolane_leases", "isolane_lease_results_total")
            while not any(map(stage.changes.of, counted)) and time.monotonic() < until:
                await asyncio.sleep(0.05)
                stage.changes.look()
        server.freeze()
        until = time.monotonic() + 20
        while limits.mode == "whole" and time.monotonic() < until:
            with contextlib.suppress(LimitTimeout, LimitRejected):
                async with limiter.slot(stage.bob, timeout=0.1):
                    pass
            stage.changes.look()
        await plane.stop()


# -- all of them -------------------------------------------------------------------------------------------------------


def test_the_table_of_drives_is_that_of_the_families() -> None:
    families = {family["name"] for family in metric_families()}
    assert DRIVES.keys() | ALWAYS_THE_SAME.keys() == families
    assert not DRIVES.keys() & ALWAYS_THE_SAME.keys()


@pytest.mark.parametrize("name", [family["name"] for family in metric_families()])
async def test_a_family_moves_when_it_happens(name: str, tmp_path: Path) -> None:
    family = next(family for family in metric_families() if family["name"] == name)
    if name in ALWAYS_THE_SAME:
        with changes() as found:
            await contexts(Stage(tmp_path, 0))
        assert not found.of(family["sample"])
        assert metrics_snapshot()[family["sample"]]["series"]
        return
    gc.collect()
    stage = Stage(tmp_path, list(DRIVES).index(name) + 1)
    seen = False
    look = stage.changes.look

    def looking() -> None:
        nonlocal seen
        look()
        seen = seen or bool(stage.changes.of(family["sample"]))

    stage.changes.look = looking  # type: ignore[method-assign]
    await DRIVES[name](stage)
    looking()
    assert seen, f"nothing of {name} moved"
