"""What is no longer used is collected, cycles included, and takes its permits, streams and lanes with it."""

import asyncio
import gc
import json
import weakref
from typing import Any

import isolane
import pytest
from isolane import BaseAgent, ExecutionEngineFactory, FairLimiter, UserContextFactory
from isolane._core import EventCursor


class Thing:
    """Weakly referable, and able to hold whatever holds it."""


def collected(reference: weakref.ref) -> bool:
    gc.collect()
    return reference() is None


def test_the_check_for_garbage_finds_a_planted_leak():
    thing = Thing()
    kept = [thing]
    reference = weakref.ref(thing)
    del thing
    assert not collected(reference)
    kept.clear()
    assert collected(reference)


def test_contexts_are_tracked_by_the_collector(context):
    """Or nothing below would mean anything, and the audit would find no context."""
    scratch = context.agent_context
    assert gc.is_tracked(context)
    assert any(thing is scratch for thing in gc.get_referents(context))


CYCLES = {
    "through the scratch dictionary": lambda ctx, thing: ctx.agent_context.__setitem__("thing", thing),
    "through the audit metadata": lambda ctx, thing: ctx.audit_metadata.__setitem__("thing", thing),
    "through a callback": lambda ctx, thing: ctx.register_cleanup_callback(lambda: thing),
    "through a run's metadata": lambda ctx, thing: ctx.record_run_start(metadata=thing),
    "through a run's result": lambda ctx, thing: ctx.record_run_success(ctx.record_run_start(), thing),
    "through a run's error": lambda ctx, thing: ctx.record_run_failure(ctx.record_run_start(), thing),
    "through a session factory": lambda ctx, thing: ctx.bind_session_factory(lambda ctx: thing),
    "through itself": lambda ctx, thing: ctx.agent_context.__setitem__("ctx", [ctx, thing]),
}


@pytest.mark.parametrize("cycle", CYCLES)
def test_a_cycle_of_a_context_is_collected(cycle, new_context):
    ctx, thing = new_context(), Thing()
    thing.ctx = ctx
    CYCLES[cycle](ctx, thing)
    references = [weakref.ref(ctx), weakref.ref(thing)]
    del ctx, thing
    assert all(map(collected, references))


def test_a_session_that_knows_its_context_is_collected_with_it(new_context):
    made = []

    def factory(ctx: isolane.UserExecutionContext) -> Thing:
        session = Thing()
        session.ctx = ctx
        session.close = lambda: None
        made.append(weakref.ref(session))
        return session

    ctx = new_context()
    ctx.bind_session_factory(factory)
    ctx.create_child_context("op").get_database_session()
    session = Thing()
    bound = ctx.with_db_session(session)
    session.ctx = bound
    references = [weakref.ref(ctx), weakref.ref(session), weakref.ref(bound), *made]
    del ctx, session, bound
    assert all(map(collected, references))


def test_a_family_of_contexts_is_collected(new_context):
    ctx = new_context()
    child = ctx.create_child_context("op")
    copied = child.with_websocket_connection("ws-1")
    ctx.agent_context["family"] = [child, copied]
    child.agent_context["above"] = ctx
    copied.get_websocket_emitter().publish("mine")
    references = [weakref.ref(one) for one in (ctx, child, copied)]
    del ctx, child, copied
    assert all(map(collected, references))


def test_a_verified_context_is_collected_and_lets_go_of_its_containers(new_context):
    ctx = new_context()
    ctx.agent_context["rows"] = [[1], {"a": Thing()}]
    thing = weakref.ref(ctx.agent_context["rows"][1]["a"])
    assert ctx.verify_isolation()
    reference = weakref.ref(ctx)
    del ctx
    assert collected(reference)
    assert collected(thing)


async def test_a_cleaned_context_holds_no_callback_session_or_result(context):
    things = {name: Thing() for name in ("callback", "result", "session")}
    references = [weakref.ref(thing) for thing in things.values()]
    context.register_cleanup_callback(lambda thing=things["callback"]: None)
    context.record_run_success(context.record_run_start(), things["result"])
    session = references[2]
    context.bind_session_factory(lambda ctx: session())
    context.get_database_session()
    await context.cleanup()
    things.clear()
    assert all(map(collected, references))


def test_a_dropped_context_ends_its_stream_and_frees_its_lane(alice, new_context):
    ctx = new_context(alice)
    emitter = ctx.get_websocket_emitter()
    emitter.notify_agent_started("data")
    run = ctx.run_id
    cursor = EventCursor(alice)
    cursor.subscribe(run)
    del ctx
    gc.collect()
    # The emitter may still publish: it keeps the stream open, and nothing else.
    emitter.notify_agent_thinking("on my own")
    del emitter
    gc.collect()
    frames = [json.loads(text) for text in cursor.read()]
    assert frames[-1]["t"] == "end"
    assert isolane.lane_usage(alice)["handles"] == 2  # the cursor and the log


async def test_a_permit_in_a_cycle_returns_itself(context):
    limiter = FairLimiter(1, 1)
    slot = limiter.slot(context.user_id, ctx=context)
    permit = await slot.__aenter__()
    context.agent_context["slot"] = [slot, permit]
    context.agent_context["me"] = context
    assert limiter.stats()["running"] == 1
    context.agent_context.clear()
    del slot, permit
    gc.collect()
    assert limiter.stats()["running"] == 0


def test_a_context_that_holds_its_own_slot_is_collected(new_context):
    limiter = FairLimiter(1, 1)
    ctx = new_context()
    ctx.agent_context["slot"] = limiter.slot(ctx.user_id, ctx=ctx)
    ctx.agent_context["permit"] = limiter.slot_nowait(ctx.user_id, ctx=ctx)
    reference = weakref.ref(ctx)
    del ctx
    assert collected(reference)
    assert limiter.stats()["running"] == 0


@pytest.mark.parametrize("wait", ["cursor", "permit"])
def test_a_wait_of_a_loop_that_is_gone_is_collected_when_nothing_could_wake_it(new_context, wait):
    """The cycle goes from the task over the awaitable to its future and back."""
    limiter = FairLimiter(1, 1)
    ctx = new_context()
    held = limiter.slot_nowait("another-user")
    cursor = EventCursor(ctx.user_id)
    thing = Thing()
    reference = weakref.ref(thing)

    async def waiter(held_by_the_frame: Thing) -> None:
        if wait == "cursor":
            await cursor.wait()
        else:
            await limiter.acquire(ctx.user_id, ctx=ctx, timeout=60)

    loop = asyncio.new_event_loop()
    task = loop.create_task(waiter(thing))
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False
    loop.close()
    del task, thing, loop
    cursor.detach()
    held.release()
    assert collected(reference)
    assert (limiter.stats()["running"], limiter.stats()["queued"]) == (0, 0)


@pytest.mark.parametrize("wait", ["cursor", "permit", "slot"])
async def test_a_task_that_nobody_holds_is_not_collected_while_it_waits(context, wait):
    """The loop holds tasks weakly: whoever is going to wake a task has to keep it."""
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("another-user")
    emitter = context.get_websocket_emitter()
    cursor = EventCursor(context.user_id)
    done = asyncio.Event()

    async def waiter() -> None:
        if wait == "cursor":
            await cursor.wait()
        elif wait == "permit":
            (await limiter.acquire(context.user_id, ctx=context, timeout=float("inf"))).release()
        else:
            async with limiter.slot(context.user_id, timeout=float("inf")):
                pass
        done.set()

    asyncio.create_task(waiter())  # noqa: RUF006 - the point
    for _ in range(3):
        await asyncio.sleep(0)
        gc.collect()
    emitter.publish("mine")
    held.release()
    await asyncio.wait_for(done.wait(), 1)
    assert (limiter.stats()["running"], limiter.stats()["queued"]) == (0, 0)


async def test_waits_that_end_keep_nothing(context):
    limiter = FairLimiter(1, 1)
    references = []
    for _ in range(5):
        thing = Thing()
        references.append(weakref.ref(thing))

        async def wait(thing: Thing) -> None:
            await limiter.acquire(context.user_id, ctx=context, timeout=0.001)

        with limiter.slot_nowait("another-user"), pytest.raises(isolane.LimitTimeout):
            await wait(thing)
        del thing
    assert all(map(collected, references))


async def test_engines_contexts_and_agents_are_collected_after_their_run(new_context):
    seen: list[weakref.ref] = []

    class Look(BaseAgent):
        async def execute_with_context(self, context: isolane.UserExecutionContext, request: Any) -> Any:
            seen.extend([weakref.ref(self), weakref.ref(context)])
            return Thing()

    factory = ExecutionEngineFactory(limiter=FairLimiter())
    ctx = new_context()
    async with factory.user_execution_scope(ctx) as engine:
        await engine.execute_agent(Look)
        seen.extend([weakref.ref(engine), weakref.ref(ctx)])
    await ctx.cleanup()
    del ctx, engine
    gc.collect()
    assert [reference() for reference in seen] == [None] * 4


def test_ten_thousand_contexts_leave_no_objects_behind():
    user = "ann-of-garbage"

    def use() -> None:
        for _ in range(1_000):
            ctx = UserContextFactory.create_context(user, agent_context={"k": [1]})
            ctx.create_child_context("op").record_run_start()
            _ = ctx.created_at, ctx.audit_metadata, ctx.metadata
            ctx.verify_isolation()

    use()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(9):
        use()
    gc.collect()
    assert len(gc.get_objects()) - before < 200
    assert isolane.lane_usage(user)["handles"] == 0
