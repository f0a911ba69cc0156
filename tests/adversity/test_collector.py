"""Cycles that test_garbage_collection.py does not have: emitters, cursors, engines, factories, waits for permits."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable
from typing import Any

import isolane
import pytest
from isolane import BaseAgent, ExecutionEngineFactory, FairLimiter, UserContextFactory, UserExecutionContext
from isolane._core import EventCursor, emitter_for_user


class Thing:
    """Weakly referable, and able to hold whatever holds it."""


def collected(reference: weakref.ref) -> bool:
    gc.collect()
    return reference() is None


def holding(*things: Any) -> Callable[[], Any]:
    """Return a closure over the things; one in the test itself would let go of them with the test's names."""
    return lambda: things


def in_the_context(ctx: UserExecutionContext, thing: Thing) -> None:
    ctx.agent_context["emitter"] = [ctx.get_websocket_emitter(), thing]


def below_the_context(ctx: UserExecutionContext, thing: Thing) -> None:
    child = ctx.create_child_context("below")
    ctx.agent_context["below"] = [child.get_websocket_emitter(), child, thing]
    child.agent_context["above"] = ctx


def of_the_user(ctx: UserExecutionContext, thing: Thing) -> None:
    emitter = emitter_for_user(ctx.user_id, ctx.thread_id)
    emitter.publish("mine", run_id=ctx.run_id)
    ctx.register_cleanup_callback(lambda: (emitter, ctx, thing))


def of_a_cursor(ctx: UserExecutionContext, thing: Thing) -> None:
    ctx.get_websocket_emitter().publish("mine")
    cursor = EventCursor(ctx.user_id)
    cursor.subscribe(ctx.run_id)
    ctx.agent_context["cursor"] = [cursor, cursor.read, ctx, thing]


def of_a_callback_of_the_context(ctx: UserExecutionContext, thing: Thing) -> None:
    thing.bound = ctx.cleanup
    ctx.register_cleanup_callback(lambda: thing)


def of_a_permit_and_its_limiter(ctx: UserExecutionContext, thing: Thing) -> None:
    limiter = FairLimiter(1, 1)
    ctx.agent_context["limits"] = [
        limiter,
        limiter.slot_nowait(ctx.user_id, ctx=ctx),
        limiter.slot(ctx.user_id, ctx=ctx),
    ]
    ctx.agent_context["thing"] = [thing, ctx]


CYCLES: list[Callable[[UserExecutionContext, Thing], None]] = [
    in_the_context,
    below_the_context,
    of_the_user,
    of_a_cursor,
    of_a_callback_of_the_context,
    of_a_permit_and_its_limiter,
]


@pytest.mark.parametrize("cycle", CYCLES, ids=lambda cycle: cycle.__name__)
def test_a_cycle_is_collected_and_frees_its_lane(cycle, new_user) -> None:
    user = new_user()
    ctx, thing = UserContextFactory.create_context(user), Thing()
    thing.ctx = ctx
    cycle(ctx, thing)
    references = [weakref.ref(ctx), weakref.ref(thing)]
    del ctx, thing
    assert all(map(collected, references))
    # Ended logs stay for their retention; nothing else does.
    usage = isolane.lane_usage(user)
    assert (usage["handles"], usage["connections"]) == (usage["streams"], 0)
    assert all(stream["outcome"] is not None for stream in isolane._core.user_streams(user))


class Endless(BaseAgent):
    timeout_seconds = 1_000.0

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        context.agent_context["request"] = request
        await asyncio.sleep(1_000)


@pytest.mark.parametrize("cycle", ["none", "through the context", "through a callback"])
async def test_engines_that_nobody_ended_are_collected_with_their_factory(cycle, new_user) -> None:
    """The timers of a factory hold it weakly; slots and streams are freed with it."""
    user = new_user()
    factory, ctx, thing = (
        ExecutionEngineFactory(limiter=FairLimiter()),
        UserContextFactory.create_context(user),
        Thing(),
    )
    engine = await factory.create_for_user(ctx)
    engine.websocket_emitter.notify_agent_started("data")
    slots = factory._slots
    if cycle == "through the context":
        ctx.agent_context["all"] = [engine, factory, ctx, thing]
    elif cycle == "through a callback":
        ctx.register_cleanup_callback(holding(engine, thing))
    reader = EventCursor(user)
    reader.subscribe(ctx.run_id)
    references = [weakref.ref(each) for each in (engine, factory, ctx, thing)]
    assert slots.stats()["running"] == 1
    del engine, factory, ctx, thing
    assert all(map(collected, references))
    assert slots.stats()["running"] == 0
    end = json.loads(reader.read()[-1])
    assert (end["t"], end["outcome"]) == ("end", "lost")
    reader.detach()


async def test_an_engine_is_kept_while_its_agent_runs(new_user) -> None:
    """The task of the pipeline holds what it needs, though nobody else does."""
    user = new_user()
    limiter = FairLimiter(1, 1)
    request = Thing()
    reference = weakref.ref(request)

    factory = ExecutionEngineFactory(limiter=limiter)
    engine = await factory.create_for_user(UserContextFactory.create_context(user))
    task = engine.start_agent_pipeline([Endless], request)
    del factory, engine
    await asyncio.sleep(0.01)
    del request
    assert not collected(reference)
    assert limiter.stats()["running"] == 1
    task.cancel()
    await asyncio.wait({task})
    del task
    await asyncio.sleep(0)
    assert collected(reference)
    assert (limiter.stats()["running"], limiter.stats()["queued"]) == (0, 0)


@pytest.mark.parametrize("place", ["agent_context", "callback", "closure"])
async def test_a_wait_that_nobody_awaits_is_collected_and_leaves_the_queue(place, new_user) -> None:
    """A parked request in a cycle with the context for which it was asked."""
    user = new_user()
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait(user)
    ctx = UserContextFactory.create_context(user)
    waiting = limiter.acquire(user, ctx=ctx, timeout=float("inf"))
    assert ctx.status.value == "throttled"
    if place == "agent_context":
        ctx.agent_context["waiting"] = waiting
    elif place == "callback":
        ctx.register_cleanup_callback(holding(waiting))
    else:
        ctx.agent_context["waits"] = holding(waiting, ctx)
    reference = weakref.ref(ctx)
    assert limiter.stats()["queued"] == 1
    del ctx, waiting
    assert collected(reference)
    assert limiter.stats()["queued"] == 0
    held.release()
    assert limiter.stats()["running"] == 0


async def test_a_granted_permit_that_nobody_fetches_is_returned(new_user) -> None:
    """Granted while it was parked; then the awaitable goes away before anybody looks."""
    user = new_user()
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait(user)
    ctx = UserContextFactory.create_context(user)
    ctx.agent_context["waiting"] = [limiter.acquire(user, ctx=ctx, timeout=100), ctx]
    held.release()
    assert limiter.stats()["running"] == 1
    reference = weakref.ref(ctx)
    del ctx
    assert collected(reference)
    assert limiter.stats()["running"] == 0


async def test_a_wait_that_may_still_be_awaited_is_kept(new_user) -> None:
    """The nearest neighbour: somebody outside holds the awaitable, so the context lives."""
    user = new_user()
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait(user)
    ctx = UserContextFactory.create_context(user)
    waiting = limiter.acquire(user, ctx=ctx, timeout=100)
    reference = weakref.ref(ctx)
    del ctx
    assert not collected(reference)
    held.release()
    (await waiting).release()
    del waiting
    assert collected(reference)


def test_a_planted_cycle_through_a_global_is_not_collected(new_user) -> None:
    """The positive control."""
    ctx, thing = UserContextFactory.create_context(new_user()), Thing()
    kept = [thing]
    thing.ctx = ctx
    in_the_context(ctx, thing)
    reference = weakref.ref(ctx)
    del ctx, thing
    assert not collected(reference)
    kept.clear()
    assert collected(reference)
