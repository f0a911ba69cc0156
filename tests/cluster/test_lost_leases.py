"""What becomes of a run whose slot or permit has lost its lease."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    EngineClosedError,
    ExecutionEngineFactory,
    FairLimiter,
    LeaseLost,
    UserContextFactory,
    UserExecutionContext,
)
from isolane._core import EventCursor


class Goes(BaseAgent):
    """Goes on until it is cancelled; the request says what it does then."""

    name = "goes"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if request == "returns":
                return "all the same"
            if request == "goes on":
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.3)
                return "late"
            raise


@pytest.fixture
async def factory():
    registry = AgentRegistry()
    registry.register(Goes)
    factory = ExecutionEngineFactory(
        agent_factory=AgentInstanceFactory(registry), limiter=FairLimiter(50, 5), max_engines_per_user=5, grace=0.05
    )
    factory._is_shared_over_workers = True
    yield factory
    await factory.shutdown(0)


def context(user: str) -> UserExecutionContext:
    return UserContextFactory().create_context(user, "thread-1")


async def begun(factory: ExecutionEngineFactory, user: str, request: Any = "stops"):
    engine = await factory.create_for_user(context(user))
    run = asyncio.create_task(engine.execute_agent(Goes, request))
    async with asyncio.timeout(20):
        while not engine._permits:
            await asyncio.sleep(0)
    return engine, run


def last_events(engine) -> list[dict[str, Any]]:
    cursor = EventCursor(engine.context.user_id, framed=False)
    cursor.subscribe(engine.context.run_id)
    events = [json.loads(text) for text in cursor.read(1_000)]
    return [event for event in events if event["type"] in {"agent_completed", "agent_error"}]


def fence_of(engine, *, is_slot: bool) -> int:
    return engine._slot_fence if is_slot else next(iter(engine._permits)).fence


@pytest.mark.parametrize("is_slot", [True, False])
@pytest.mark.parametrize("request_of", ["stops", "returns", "goes on"])
async def test_a_run_that_lost_its_lease_ends_with_one_last_event_that_says_so(factory, is_slot, request_of):
    (engine, run), (other, goes) = await begun(factory, "ann", request_of), await begun(factory, "bob")
    # A number that nothing of the first has, whichever limiter's it would be.
    assert not await factory.lose("engines", "ann", 10**9, is_slot=is_slot, cancel=True)
    assert not await factory.lose("engines", "cleo", fence_of(engine, is_slot=is_slot), is_slot=is_slot, cancel=True)
    assert not run.done()
    name = "engines" if is_slot else "permits"
    assert await factory.lose(name, "ann", fence_of(engine, is_slot=is_slot), is_slot=is_slot, cancel=True)
    with pytest.raises(LeaseLost) as caught:
        await run
    assert (caught.value.reason, caught.value.limit, caught.value.retriable) == ("lease_lost", name, True)
    assert engine.end_reason == "lease_lost"
    (last,) = last_events(engine)
    assert last["type"] == "agent_error"
    assert (last["payload"]["code"], last["payload"]["retriable"]) == ("lease_lost", True)
    with pytest.raises(LeaseLost):
        await engine.execute_agent(Goes)
    assert not goes.done()
    assert other.is_active()
    goes.cancel()
    await asyncio.gather(goes, return_exceptions=True)
    metrics = factory.get_factory_metrics()
    assert (metrics["engines_active"], metrics["engines_leaked"]) == (1, 0)


async def test_a_run_that_is_only_flagged_goes_on(factory):
    engine, run = await begun(factory, "ann")
    assert engine.lease_lost is None
    assert await factory.lose("engines", "ann", engine._slot_fence, is_slot=True, cancel=False)
    assert (engine.lease_lost, engine.is_active(), run.done()) == ("engines", True, False)
    assert await factory.lose("permits", "ann", fence_of(engine, is_slot=False), is_slot=False, cancel=True)
    with pytest.raises(LeaseLost):
        await run


async def test_an_engine_that_has_ended_has_nothing_to_lose(factory):
    engine, run = await begun(factory, "ann")
    fence = engine._slot_fence
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    await factory.cleanup_engine(engine)
    assert not await factory.lose("engines", "ann", fence, is_slot=True, cancel=True)
    with pytest.raises(EngineClosedError):
        await engine.execute_agent(Goes)
    assert engine.end_reason == "closed"
