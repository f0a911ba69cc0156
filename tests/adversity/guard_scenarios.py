"""The same for the guard of a rollout: steps by hand, runs that are cancelled, the procedure back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from isolane import GuardPolicy, MigrationFeatureFlags, RolloutGuard
from isolane.migration.states import (
    MigrationPhase,
    RollbackProcedure,
    Validation,
    ValidationLayer,
    check_data_integrity,
)

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks

FLAG = "modern_execution"


def guard_of(rollout: int) -> RolloutGuard:
    flags = MigrationFeatureFlags({"schema": 1, "revision": 1, "flags": {FLAG: {"rollout": rollout}}})
    return RolloutGuard(flags, policy=GuardPolicy(min_samples=1, min_dwell_seconds=0))


@uses("RolloutGuard.advance", "RolloutGuard.pause", "RolloutGuard.resume", "RolloutGuard.kill")
async def a_rollout_is_led_by_hand(world: World) -> None:
    guard = guard_of(0)
    assert await guard.advance(actor="ops") == 100
    await ticks(1)
    await guard.pause(actor="ops")
    await ticks(1)
    await guard.resume(actor="ops")
    guard.rollback("a feeling", "ops")
    await ticks(1)
    await guard.resume(actor="ops", ack="INC-1")
    assert guard.status().state == "idle"
    await guard.kill("an exercise", actor="ops")


@uses("ExecutionEngineFactory.roll_back_runs", "RolloutGuard.settled", "RollbackProcedure.run")
async def the_runs_of_a_rollback_are_cancelled(world: World) -> None:
    guard = guard_of(100_000)
    guard.attach(SimpleNamespace(factory=world.factory))  # type: ignore[arg-type]
    engine = await world.factory.create_for_user(world.context())
    running = asyncio.get_running_loop().create_task(engine.execute_agent("worker", 7))
    try:
        await ticks(2)
        guard.rollback("a feeling", "ops", mode="abort")
        await guard.settled()
        assert not engine.is_active()
        assert await RollbackProcedure(guard).run() in {"GracefulFallback", "LegacyModeActivation"}
        assert await world.factory.roll_back_runs(guard.is_modern, "again") == 0
    finally:
        guard.detach()
        running.cancel()
        await asyncio.wait({running})
        await world.factory.cleanup_engine(engine)


@uses("ValidationLayer.run", "MigrationPhase.validate", "check_data_integrity")
async def a_migration_is_validated(world: World) -> None:
    async def look() -> Validation:
        await ticks(1)
        return Validation("a look", (), 1)

    names = ("ContextValidation", "IsolationCheck", "PerformanceCheck", "SecurityAudit")
    assert await ValidationLayer(dict.fromkeys(names, look)).run() == "ProductionReady"
    assert await MigrationPhase(guard_of(100)).validate(world.context()) == "RollbackRequired"
    assert set((await check_data_integrity()).checks) == {"owners", "logs"}
