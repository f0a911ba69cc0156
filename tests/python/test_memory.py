"""Memory accounts, the manager that cleans and refuses by them, tasks and figures of a context."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import mmap
import os
import threading
import time
import weakref

import isolane
import pytest
from isolane import (
    ExecutionEngineFactory,
    MemoryLimitExceededError,
    MemoryLimits,
    MemoryOptimizationManager,
    ResourceMetrics,
    TTLCache,
)
from isolane.contexts.tasks import MAX_TASKS
from isolane.engines.errors import ExecutionEngineFactoryError
from isolane.memory import MemoryAlarm, MemoryUsage, OptimizedCacheManager, charge, set_cpu_source, track
from isolane.memory.manager import MAX_CALLBACKS
from isolane.testing import manual_clock

MB = 1024 * 1024


class Model:
    """Something of the application's that can be referred to weakly."""


def held(user: str) -> int:
    usage = isolane.lane_usage(user)
    return usage["bytes"] if usage else 0


def all_bytes() -> int:
    return isolane.lane_stats()["bytes"]


# -- charging ------------------------------------------------------------------------------------------------------


def test_bytes_are_charged_until_they_are_released(new_context, alice, bob):
    context = new_context(alice)
    empty, process, other = held(alice), all_bytes(), held(bob)
    with charge(context, 1_000) as first:
        second = charge(context, 50)
        assert (held(alice) - empty, all_bytes() - process, held(bob)) == (1_050, 1_050, other)
        assert first.nbytes == 1_000
    assert (held(alice) - empty, first.nbytes) == (50, 0)
    first.release()
    assert held(alice) - empty == 50
    del second
    assert (held(alice), all_bytes()) == (empty, process)
    with pytest.raises(OverflowError):
        charge(context, -1)


def test_a_charge_outlives_its_context_and_keeps_the_account(new_context, alice):
    handle = charge(new_context(alice), 5_000)
    gc.collect()
    isolane.sweep_lanes(idle_lanes=True)
    assert held(alice) > 5_000, "the next context of the user sees it"
    handle.release()
    isolane.sweep_lanes(idle_lanes=True)
    assert held(alice) == 0


def test_a_charge_that_nobody_returns_is_seen(new_context, alice):
    """The positive control: a planted leak shows in the account, and only there."""
    leak = [charge(new_context(alice), 1_000) for _ in range(20)]
    gc.collect()
    isolane.sweep_lanes(idle_lanes=True)
    assert held(alice) > 20_000
    leak.clear()
    isolane.sweep_lanes(idle_lanes=True)
    assert held(alice) == 0


def test_an_object_is_charged_until_it_ends(new_context, alice):
    context = new_context(alice)
    empty = held(alice)
    model = Model()
    model.weights = "x" * 10_000
    track(context, model)
    assert 10_000 < held(alice) - empty < 11_000
    gone = weakref.ref(model)
    del model
    assert gone() is None
    assert held(alice) == empty
    model = Model()
    handle = track(context, model, size=500)
    assert held(alice) - empty == 500
    handle.release()
    assert held(alice) == empty
    del model
    assert held(alice) == empty, "and not twice"


def test_what_cannot_be_tracked_is_refused_and_costs_nothing(new_context, alice):
    context = new_context(alice)
    empty = held(alice)
    with pytest.raises(TypeError, match="cannot be tracked") as caught:
        track(context, "x" * 1_000)
    assert held(alice) == empty, "though the error still holds the frames"
    del caught


def test_threads_that_charge_never_pass_the_limit(new_context, alice):
    context = new_context(alice)
    manager = MemoryOptimizationManager(MemoryLimits(1_000, held(alice) + 10_000, 2**40))
    allowed = manager.limits.user_refuse
    most, refused = [0] * 8, [0] * 8

    def work(index: int) -> None:
        for _ in range(3_000):
            try:
                with manager.charge(context, 3_000):
                    most[index] = max(most[index], held(alice))
            except MemoryLimitExceededError:
                refused[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    before = held(alice)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before < max(most) <= allowed
    assert held(alice) == before
    kept = [manager.charge(context, 3_000) for _ in range(3)]
    with pytest.raises(MemoryLimitExceededError):
        manager.charge(context, 3_000)
    assert len(kept) == 3


def test_a_manager_refuses_a_charge_over_a_limit(new_context, alice, bob):
    context = new_context(alice)
    manager = MemoryOptimizationManager()
    handle = manager.charge(context, 1_000 * MB)
    with pytest.raises(MemoryLimitExceededError) as caught:
        manager.charge(context, 30 * MB)
    error = caught.value
    assert (error.limit, error.allowed, error.retry_after) == ("user", 1_024 * MB, 5)
    assert error.used == held(alice)
    assert alice not in str(error)
    model = Model()
    with pytest.raises(MemoryLimitExceededError):
        manager.track(context, model, 30 * MB)
    second = manager.charge(new_context(bob), 1_000 * MB)
    with pytest.raises(MemoryLimitExceededError) as caught:
        manager.charge(new_context(bob), 0 + 23 * MB)
        manager.charge(new_context(), 100 * MB)
    assert caught.value.limit == "global"
    assert manager.get_memory_metrics()["refused"] == 3
    handle.release()
    second.release()


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"user_throttle": 0},
        {"user_throttle": 2 * 1024 * MB},
        {"user_alarm": 1},
        {"process_refuse": 0},
        {"cleanup_threshold": 0.0},
        {"cleanup_threshold": 0.99},
        {"force_cleanup_threshold": 1.1},
    ],
)
def test_limits_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match="must"):
        MemoryLimits(**arguments)


def test_the_limits_are_those_of_the_documents():
    limits = MemoryLimits()
    assert (limits.user_throttle, limits.user_refuse, limits.process_refuse) == (256 * MB, 1024 * MB, 2048 * MB)
    assert limits.user_alarm / MB == pytest.approx(1.2 * 1024, abs=1)
    manager = MemoryOptimizationManager()
    assert (manager.user_memory_limit, manager.global_memory_limit) == (256.0, 2048.0)


def test_below_the_thresholds_a_run_may_begin(new_context, alice):
    context, manager = new_context(alice), MemoryOptimizationManager()
    assert manager.check(context) is None
    with charge(context, 200 * MB):
        assert manager.check(context) is None


def test_at_the_threshold_the_user_is_cleaned_and_then_throttled(new_context, alice, bob):
    context, other = new_context(alice), new_context(bob)
    manager = MemoryOptimizationManager()
    cleaned = []
    manager.on_cleanup(cleaned.append)
    context.context_cache.set("large", "v", size=60 * MB)
    context.context_cache.set("small", "v", size=1_000)
    other.context_cache.set("large", "v", size=60 * MB)
    with charge(context, 150 * MB):
        assert manager.check(context) is None, "cleaning was enough"
        assert (list(context.context_cache), cleaned) == (["small"], [alice])
        assert list(other.context_cache) == ["large"], "another user is left alone"
    with charge(context, 205 * MB):
        assert manager.check(context) == "throttle"
        assert list(context.context_cache) == ["small"]
    with charge(context, 250 * MB):
        assert manager.check(context) == "throttle"
        assert list(context.context_cache) == [], "from .95 on nothing is spared"


def test_a_gigabyte_is_refused(new_context, alice):
    context, manager = new_context(alice), MemoryOptimizationManager()
    with charge(context, 1_024 * MB - held(alice) - 1):
        assert manager.check(context) == "throttle"
    with charge(context, 1_024 * MB), pytest.raises(MemoryLimitExceededError) as caught:
        manager.check(context)
    assert (caught.value.limit, caught.value.allowed) == ("user", 1_024 * MB)
    assert manager.check(context) is None


def test_the_process_is_cleaned_and_then_refuses_everybody(new_context, alice, bob):
    heavy, light = new_context(alice), new_context(bob)
    with manual_clock() as clock, charge(heavy, 800 * MB), charge(new_context(), 800 * MB):
        manager = MemoryOptimizationManager(MemoryLimits(process_refuse=all_bytes() + 100 * MB))
        heavy.context_cache.set("a", "v", size=60 * MB)
        new_context().context_cache.set("freed with its context", "v", size=60 * MB)
        assert manager.check(light) is None
        assert len(heavy.context_cache) == 0, "the idle user made room"
        with charge(heavy, 101 * MB):
            clock.advance(1)
            with pytest.raises(MemoryLimitExceededError) as caught:
                manager.check(light)
        assert caught.value.limit == "global"
        heavy.context_cache.set("a", "v", size=60 * MB)
        with charge(heavy, 41 * MB), pytest.raises(MemoryLimitExceededError):
            manager.check(light)  # within a second no second look at all lanes
        assert len(heavy.context_cache) == 1
        clock.advance(1)
        with charge(heavy, 41 * MB):
            assert manager.check(light) is None
        assert len(heavy.context_cache) == 0


def test_idle_users_are_cleaned_before_busy_ones_and_the_heaviest_first(new_context, new_user):
    contexts = {name: new_context(new_user(name)) for name in ("busy", "light", "heavy", "waiting")}
    sizes = {"busy": 60, "light": 20, "heavy": 40, "waiting": 50}
    floor = all_bytes()
    manager = MemoryOptimizationManager(MemoryLimits(process_refuse=(floor + 135 * MB) * 10 // 8))
    cleaned = []
    manager.on_cleanup(cleaned.append)
    for name, context in contexts.items():
        context.context_cache.set("a", "v", size=sizes[name] * MB)
        manager.memory_tracker.register(context)
    contexts["busy"].record_run_start("r1", "agent")
    contexts["waiting"].record_run_start("r1", "agent")
    report = manager.reclaim()
    assert cleaned == [contexts["heavy"].user_id], "that was enough"
    assert (report.users, report.entries) == (1, 1)
    assert 40 * MB < report.bytes < 41 * MB
    contexts["heavy"].context_cache.set("b", "v", size=40 * MB)
    with charge(contexts["light"], 80 * MB):
        manager.reclaim()
    order = [name for user in cleaned[1:] for name in contexts if contexts[name].user_id == user]
    assert order == ["light", "heavy", "busy"], "the charge made light the heaviest; the busy one came last"
    assert len(contexts["waiting"].context_cache) == 1


def test_the_alarm_rings_once_until_the_user_is_below(new_context, alice, caplog):
    alarms: list[MemoryAlarm] = []
    context, manager = new_context(alice), MemoryOptimizationManager(on_alarm=alarms.append)
    for round_number in (1, 2):
        with charge(context, 1_230 * MB):
            with caplog.at_level(logging.ERROR, "isolane.memory"):
                for _ in range(3):
                    with pytest.raises(MemoryLimitExceededError):
                        manager.check(context)
                manager.cleanup_scheduler.run()
            assert len(alarms) == round_number
        manager.check(context)
    assert alarms[0].user_id == alice
    assert alarms[0].bytes >= 1_230 * MB
    assert len(caplog.records) == 2
    assert alice not in caplog.text
    assert manager.get_memory_metrics()["alarms"] == 2


def test_what_hooks_raise_is_logged(new_context, alice, caplog):
    def fails(_):
        raise RuntimeError("hook")

    context, manager = new_context(alice), MemoryOptimizationManager(on_alarm=fails, release_idle_connections=fails)
    with charge(context, 1_300 * MB), pytest.raises(MemoryLimitExceededError):
        manager.check(context)
    assert len([record for record in caplog.records if record.exc_info]) == 2
    for _ in range(MAX_CALLBACKS - 1):
        manager.on_cleanup(fails)
    with pytest.raises(RuntimeError, match="100"):
        manager.on_cleanup(fails)


# -- admission -----------------------------------------------------------------------------------------------------


async def test_a_throttled_run_waits_until_memory_falls(new_context, alice, bob):
    context = new_context(alice)
    manager = MemoryOptimizationManager()
    factory = ExecutionEngineFactory(memory=manager, wait_timeout=30)
    handle = charge(context, 210 * MB)
    waiting = asyncio.create_task(factory.create_for_user(context))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert context.status is isolane.ExecutionStatus.THROTTLED
    assert factory.get_factory_metrics()["engines_active"] == 0, "it holds no slot meanwhile"
    async with factory.user_execution_scope(new_context(bob)):
        pass
    handle.release()
    engine = await waiting
    assert context.status is isolane.ExecutionStatus.ACTIVE
    assert manager.get_memory_metrics()["throttled"] == 1
    await factory.cleanup_engine(engine)
    await factory.shutdown()


async def test_a_throttled_run_begins_when_it_has_waited_long_enough(new_context, alice):
    context = new_context(alice)
    factory = ExecutionEngineFactory(memory=MemoryOptimizationManager(), wait_timeout=0.05)
    with charge(context, 210 * MB):
        engine = await factory.create_for_user(context)
        await factory.cleanup_engine(engine)
    await factory.shutdown()


async def test_a_cancelled_wait_leaves_nothing(new_context, alice):
    context = new_context(alice)
    factory = ExecutionEngineFactory(memory=MemoryOptimizationManager(), wait_timeout=30)
    with charge(context, 210 * MB):
        waiting = asyncio.create_task(factory.create_for_user(context))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert context.status is isolane.ExecutionStatus.ACTIVE
    assert factory.get_factory_metrics()["engines_active"] == 0
    await factory.shutdown()


async def test_a_run_over_the_limit_is_refused_before_it_has_a_slot(new_context, alice, bob):
    context = new_context(alice)
    factory = ExecutionEngineFactory(memory=MemoryOptimizationManager(), max_engines_per_user=1)
    with charge(context, 1_100 * MB):
        for _ in range(3):
            with pytest.raises(MemoryLimitExceededError):
                await factory.create_for_user(context)
        async with factory.user_execution_scope(new_context(bob)):
            pass
    async with factory.user_execution_scope(context):
        pass
    await factory.shutdown()


async def test_a_run_that_ended_while_it_waited_gets_no_engine(new_context, alice):
    context = new_context(alice)
    factory = ExecutionEngineFactory(memory=MemoryOptimizationManager(), wait_timeout=0.2)
    with charge(context, 210 * MB):
        waiting = asyncio.create_task(factory.create_for_user(context))
        await asyncio.sleep(0.05)
        await context.cleanup()
        with pytest.raises(ExecutionEngineFactoryError, match="the run of this context has ended"):
            await waiting
    await factory.shutdown()


async def test_a_run_that_waits_while_the_factory_shuts_down_is_sent_elsewhere(new_context, alice):
    context = new_context(alice)
    factory = ExecutionEngineFactory(memory=MemoryOptimizationManager(), wait_timeout=0.2)
    with charge(context, 210 * MB):
        waiting = asyncio.create_task(factory.create_for_user(context))
        await asyncio.sleep(0.05)
        await factory.shutdown()
        with pytest.raises(isolane.EngineDrainingError):
            await waiting


# -- the manager's methods -----------------------------------------------------------------------------------------


async def test_a_memory_optimized_context_has_the_cache_of_the_manager(alice):
    manager = MemoryOptimizationManager(caches=OptimizedCacheManager(max_size=3, ttl_seconds=7))
    context = await manager.create_memory_optimized_context(alice, agent_context={"plan": "pro"})
    assert (context.user_id, context.agent_context["plan"]) == (alice, "pro")
    assert (context.context_cache.maxsize, context.context_cache.ttl) == (3, 7.0)
    context.context_cache["text"] = "the same words, " * 10_000
    assert context.context_cache.nbytes < 50_000, "compressed"
    named = await manager.create_memory_optimized_context(alice, "thread-1", "run-7")
    assert (named.thread_id, named.run_id) == ("thread-1", "run-7")
    usage = await manager.memory_tracker.get_context_memory_usage(context)
    assert isinstance(usage, MemoryUsage)
    assert usage.bytes == held(alice)
    assert usage.percentage == pytest.approx(usage.mb / 256)
    assert not manager.memory_tracker.is_idle(alice) or context.status is isolane.ExecutionStatus.ACTIVE


async def test_a_memory_optimized_context_is_refused_when_cleaning_is_not_enough(new_context, alice):
    manager = MemoryOptimizationManager()
    context = new_context(alice)
    cache = TTLCache(alice, maxbytes=900 * MB)
    cache.set("a", "v", size=800 * MB)
    with charge(context, 300 * MB):
        assert not await manager.memory_tracker.can_allocate_user_context(alice)
        await manager.create_memory_optimized_context(alice)
        assert len(cache) == 0
        with charge(context, 800 * MB), pytest.raises(MemoryLimitExceededError):
            await manager.create_memory_optimized_context(alice)
    assert await manager.memory_tracker.can_allocate_user_context(alice)


async def test_a_context_is_optimized_as_far_as_it_needs(alice):
    manager = MemoryOptimizationManager(caches=OptimizedCacheManager(compress_data=False))
    context = await manager.create_memory_optimized_context(alice)
    cache = context.context_cache
    cache["text"] = "the same words, " * 10_000
    cache["large"] = "x" * 2 * MB
    await manager.optimize_context_memory(context)
    assert sorted(cache) == ["large", "text"]
    assert cache.nbytes > 2 * MB
    with charge(context, 210 * MB):
        await manager.optimize_context_memory(context)
    assert list(cache) == ["text"]
    assert cache.nbytes < 50_000, "compressed"
    with charge(context, 250 * MB):
        await manager.optimize_context_memory(context)
        assert not await manager.memory_tracker.is_over_limit(context)
    assert len(cache) == 0
    with charge(context, 1_100 * MB):
        assert await manager.memory_tracker.is_over_limit(context)
        with pytest.raises(MemoryLimitExceededError):
            await manager.optimize_context_memory(context)


async def test_an_emergency_empties_the_caches_of_one_user(new_context, alice, bob):
    manager = MemoryOptimizationManager()
    caches = [new_context(alice).context_cache, TTLCache(alice), TTLCache(bob)]
    for cache in caches:
        cache.set("a", "v", size=1_000)
    assert await manager.emergency_cache_clear(alice) > 1_000
    assert [len(cache) for cache in caches] == [0, 0, 1] or [len(cache) for cache in caches[1:]] == [0, 1]
    assert await manager.cache_manager.emergency_cache_clear(bob) > 1_000


async def test_cleanings_take_out_what_has_expired(alice):
    manager = MemoryOptimizationManager(cleanup_interval=0.01)
    with manual_clock() as clock:
        cache = TTLCache(alice, ttl=10)
        cache.set("a", "v", size=5_000)
        assert (await manager.cleanup_scheduler.run_immediate_cleanup()).entries == 0
        clock.advance(10)
        assert manager.cleanup_scheduler.run_if_due().entries == 1
        cache.set("a", "v", size=5_000)
        short = TTLCache(alice, ttl=1)
        short.set("a", "v", size=5_000)
        clock.advance(4)
        assert manager.cleanup_scheduler.run_if_due().entries == 0, "it is not due"
        clock.advance(2)
        assert manager.cleanup_scheduler.run_if_due().entries == 1
        clock.advance(4)
        report = await manager.cleanup_scheduler.run_immediate_cleanup()
        assert report.entries == 1
        assert report.bytes >= 5_000
        cache.set("a", "v", size=5_000)
        clock.advance(10)
        manager.cleanup_scheduler.start()
        manager.cleanup_scheduler.start()
        for _ in range(500):
            if cache.stats()["entries"] == 0:
                break
            await asyncio.sleep(0.01)
        assert cache.stats()["entries"] == 0
        await manager.cleanup_scheduler.stop()
        await manager.cleanup_scheduler.stop()


def test_the_tracker_forgets_contexts_that_end(new_context, alice):
    manager = MemoryOptimizationManager()
    for _ in range(100):
        manager.check(new_context(alice))
    context = new_context(alice)
    manager.check(context)
    manager.check(context)
    assert list(manager.memory_tracker.contexts(alice)) == [context]
    asyncio.run(_clean(context))
    assert list(manager.memory_tracker.contexts(alice)) == []
    del context
    gc.collect()
    assert manager.memory_tracker._contexts == {}


# -- tasks ---------------------------------------------------------------------------------------------------------


async def test_a_task_ends_with_its_context(new_context):
    context = new_context()
    order = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            order.append("task")

    async def quick() -> int:
        return 5

    task = context.create_task(work(), name="the work")
    done = context.create_task(quick())
    context.register_cleanup_callback(lambda: order.append("callback"))
    assert task.get_name() == "the work"
    assert context.get_resource_usage().pending_tasks == 2
    assert await done == 5
    await asyncio.sleep(0)
    assert context.get_resource_usage().pending_tasks == 1
    assert await context.cleanup() == ()
    assert task.cancelled()
    assert order == ["task", "callback"], "what callbacks free may be in use by tasks"
    coroutine = quick()
    with pytest.raises(isolane.ContextStateError):
        context.create_task(coroutine)
    assert coroutine.cr_frame is None, "closed, so nothing warns that it was never awaited"


async def test_the_tasks_of_children_end_with_the_root(new_context):
    root = new_context()
    child = root.create_child_context("step")
    other = root.create_child_context("other")
    tasks = [context.create_task(asyncio.sleep(60)) for context in (root, child, other)]
    assert child.get_resource_usage().pending_tasks == 1
    await child.cleanup()
    assert [task.done() for task in tasks] == [False, True, False]
    await root.cleanup()
    assert all(task.cancelled() for task in tasks)


async def test_a_task_may_clean_up_its_own_context(new_context):
    context = new_context()

    async def last() -> str:
        await context.cleanup()
        return "done"

    other = context.create_task(asyncio.sleep(60))
    assert await context.create_task(last()) == "done"
    assert other.cancelled()


async def test_tasks_are_bounded_and_bad_ones_refused(new_context):
    context = new_context()
    with pytest.raises(TypeError, match="takes a coroutine"):
        context.create_task(len)
    for _ in range(MAX_TASKS):
        context.create_task(asyncio.sleep(60))
    with pytest.raises(RuntimeError, match="1000"):
        context.create_task(asyncio.sleep(60))
    await context.cleanup()


def test_a_task_needs_a_loop(new_context):
    coroutine = asyncio.sleep(1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        new_context().create_task(coroutine)
    assert coroutine.cr_frame is None


async def test_a_task_that_will_not_end_is_reported(new_context, monkeypatch):
    context = new_context()
    go = asyncio.Event()

    async def stubborn() -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    task = context.create_task(stubborn())
    await asyncio.sleep(0)
    from isolane.contexts import closing  # noqa: PLC0415 - its patience is shortened

    within = closing._within
    monkeypatch.setattr(closing, "_within", lambda _seconds, call: within(0.05, call))
    (error,) = await context.cleanup()
    assert isinstance(error, TimeoutError)
    go.set()
    await task


def test_tasks_of_another_loop_are_cancelled_there(new_context):
    context = new_context()
    started, ended = threading.Event(), threading.Event()

    def serve() -> None:
        async def main() -> None:
            task = context.create_task(asyncio.sleep(60))
            started.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            ended.set()

        asyncio.run(main())

    thread = threading.Thread(target=serve)
    thread.start()
    started.wait(10)
    asyncio.run(_clean(context))
    assert ended.wait(10)
    thread.join()


async def _clean(context: isolane.UserExecutionContext) -> None:
    await context.cleanup()


# -- figures -------------------------------------------------------------------------------------------------------


def test_resources_are_those_of_the_user_and_of_the_process(new_context, alice):
    context = new_context(alice)
    with charge(context, 64 * MB):
        usage = context.get_resource_usage()
        assert isinstance(usage, ResourceMetrics)
        assert 64 < usage.memory_usage_mb < 65
    assert (usage.active_connections, usage.pending_tasks, usage.cpu_usage_percent) == (0, 0, 0.0)
    from isolane._core import EventCursor  # noqa: PLC0415 - what makes a connection

    cursor = EventCursor(alice)
    assert context.get_resource_usage().active_connections == 1
    cursor.detach()
    assert context.get_resource_usage().active_connections == 0
    with pytest.raises(AttributeError):
        usage.pending_tasks = 5


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not tell")  # noqa: PTH112 - short
def test_descriptors_and_resident_memory_are_the_processs(new_context):
    context = new_context()
    before = context.get_resource_usage()
    pipes = [os.pipe() for _ in range(10)]
    # Pages of its own: what Python allocates may be memory that was used and freed before.
    blob = mmap.mmap(-1, 30 * MB)
    for page in range(0, 30 * MB, mmap.PAGESIZE):
        blob[page] = 1
    after = context.get_resource_usage()
    assert after.open_file_descriptors - before.open_file_descriptors == 20
    assert after.rss_mb > before.rss_mb + 20
    assert before.max_file_descriptors is None or before.max_file_descriptors > 20
    for pipe in itertools.chain.from_iterable(pipes):
        os.close(pipe)
    blob.close()


async def test_processor_time_is_what_the_agents_of_the_user_used(new_context, alice):
    context = new_context(alice)

    async def burn(seconds: float) -> None:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    assert context.get_resource_usage().cpu_usage_percent == 0.0
    await isolane.account(burn(0.05), context, agent="burner")
    assert context.get_resource_usage().cpu_usage_percent > 0.0
    other = new_context("bob-of-processor-time")
    assert other.get_resource_usage().cpu_usage_percent == 0.0
    assert other.get_resource_usage().cpu_usage_percent == 0.0, "the time of another user is not counted"


def test_processor_time_comes_from_whoever_measures_it(new_context, alice):
    seconds = {alice: 2.0}
    context = new_context(alice)
    set_cpu_source(seconds.get)
    try:
        with manual_clock() as clock:
            assert context.get_resource_usage().cpu_usage_percent == 0.0, "there is nothing to compare with yet"
            seconds[alice] += 0.5
            clock.advance(2)
            assert context.get_resource_usage().cpu_usage_percent == pytest.approx(25.0)
            clock.advance(2)
            assert context.get_resource_usage().cpu_usage_percent == 0.0
    finally:
        set_cpu_source(None)


def metrics(**fields) -> ResourceMetrics:
    values = {
        "memory_usage_mb": 0.0, "active_connections": 0, "pending_tasks": 0, "cpu_usage_percent": 0.0,
        "open_file_descriptors": 0, "rss_mb": 10.0, "max_file_descriptors": 100,
    }  # fmt: skip
    return ResourceMetrics(**{**values, **fields})


@pytest.mark.parametrize(
    ("fields", "within", "score"),
    [
        ({}, True, 100),
        ({"memory_usage_mb": 128.0, "cpu_usage_percent": 50.0}, True, 100),
        ({"memory_usage_mb": 192.0}, True, 80),
        ({"memory_usage_mb": 255.9}, True, 60),
        ({"memory_usage_mb": 256.0}, False, 60),
        ({"memory_usage_mb": 9_999.0}, False, 60),
        ({"pending_tasks": 1_000}, False, 80),
        ({"open_file_descriptors": 75}, True, 90),
        ({"open_file_descriptors": 100}, False, 80),
        ({"open_file_descriptors": None, "max_file_descriptors": 5}, True, 100),
        ({"open_file_descriptors": 99, "max_file_descriptors": None}, True, 100),
        ({"cpu_usage_percent": 250.0}, True, 80),
        (
            {
                "memory_usage_mb": 999.0,
                "pending_tasks": 1_000,
                "open_file_descriptors": 100,
                "cpu_usage_percent": 100.0,
            },
            False,
            0,
        ),
    ],
)
def test_the_score_follows_its_formula(fields, within, score):
    assert (metrics(**fields).is_within_limits(), metrics(**fields).get_health_score()) == (within, score)
    assert isinstance(metrics(**fields).get_health_score(), int)
