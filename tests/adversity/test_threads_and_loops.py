"""Many threads, each with a loop of its own, on one limiter and one log; wakes over threads; loops that go away."""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import isolane
import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    BudgetExceeded,
    ExecutionEngineFactory,
    FairLimiter,
    LimitTimeout,
    UserContextFactory,
    UserExecutionContext,
    WebSocketBridgeFactory,
)
from isolane._core import EventCursor, emitter_for_context, end_stream

THREADS = 8
SECONDS = 30.0


@pytest.fixture(autouse=True)
def threads_that_change_often() -> Iterator[None]:
    """Let the interpreter change threads a hundred times as often as it does by itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def in_threads(new_loop) -> Callable[..., list[Any]]:
    """Return a runner: the coroutine function with 0, 1, 2 ... each in a thread and loop of its own, begun together."""

    def run(function: Callable[[int], Any], count: int = THREADS) -> list[Any]:
        barrier = threading.Barrier(count)
        results: list[Any] = [None] * count
        errors: list[BaseException] = []

        def body(number: int) -> None:
            try:
                with asyncio.Runner(loop_factory=new_loop) as runner:
                    runner.get_loop()
                    barrier.wait(SECONDS)
                    results[number] = runner.run(function(number))
            except BaseException as error:  # noqa: BLE001 - told to the test
                errors.append(error)

        threads = [threading.Thread(target=body, args=(number,), daemon=True) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a thread hangs"
        if errors:
            raise errors[0]
        return results

    return run


def idle(limiter: FairLimiter) -> bool:
    limiter.evict(0)
    stats = limiter.stats()
    return (stats["running"], stats["queued"], stats["users"]) == (0, 0, 0) and stats["granted"] == stats["released"]


def test_the_runner_tells_what_goes_wrong_in_a_thread(in_threads) -> None:
    async def body(number: int) -> int:
        if number == 3:
            raise LookupError("as planned")
        return number

    with pytest.raises(LookupError):
        in_threads(body)


# -- permits -----------------------------------------------------------------------------------------------------------


def test_one_limiter_serves_many_loops(in_threads) -> None:
    """Neither limit is exceeded at any moment, nobody is left waiting, and each wait ends on the loop that began it."""
    limiter = FairLimiter(3, 2, queue=10_000, per_user_queue=10_000)
    users = ("ann", "ben", "cho")
    running: collections.Counter[str] = collections.Counter()
    guard = threading.Lock()
    peaks: collections.Counter[str] = collections.Counter()

    async def job(user: str, at: int) -> None:
        thread = threading.get_ident()
        async with limiter.slot(user, timeout=SECONDS):
            assert threading.get_ident() == thread
            with guard:
                running[user] += 1
                peaks[user] = max(peaks[user], running[user])
                peaks["all"] = max(peaks["all"], sum(running.values()))
            for _ in range(at % 3):
                await asyncio.sleep(0)
            with guard:
                running[user] -= 1

    async def body(number: int) -> None:
        await asyncio.gather(*(job(users[(number + at) % 3], at) for at in range(60)))

    in_threads(body)
    assert limiter.stats()["granted"] == THREADS * 60
    assert peaks["all"] <= 3
    assert all(peaks[user] <= 2 for user in users)
    assert limiter.stats()["peak"] == 3
    assert idle(limiter)


def test_cancellations_in_many_loops_lose_no_permit(in_threads) -> None:
    limiter = FairLimiter(2, 2, queue=10_000, per_user_queue=10_000)

    async def job() -> None:
        async with limiter.slot("ann", timeout=SECONDS):
            await asyncio.sleep(0)

    async def body(number: int) -> None:
        for at in range(10):
            tasks = [asyncio.get_running_loop().create_task(job()) for _ in range(10)]
            for tick in range(4):
                await asyncio.sleep(0)
                tasks[(number + at + tick) % 10].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    in_threads(body)
    assert idle(limiter)


def test_a_permit_is_released_by_another_thread(new_loop) -> None:
    """The loop that waits is asleep in its selector: it has to be woken."""
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    waits = threading.Event()

    async def wait() -> float:
        asking = limiter.acquire("ann", timeout=SECONDS)
        waits.set()
        with await asking:
            return time.monotonic()

    def release() -> None:
        waits.wait(SECONDS)
        # By now the loop has nothing to do.
        time.sleep(0.05)
        held.release()

    thread = threading.Thread(target=release)
    thread.start()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        began = time.monotonic()
        assert runner.run(wait()) - began < SECONDS / 3
    thread.join()
    assert idle(limiter)


def test_time_runs_out_while_other_threads_release(in_threads) -> None:
    """A waiter whose time is over in the moment of its grant has the permit or has not, and never half."""
    limiter = FairLimiter(1, 1, queue=10_000, per_user_queue=10_000)
    outcomes: collections.Counter[str] = collections.Counter()

    async def body(number: int) -> None:
        for at in range(20):
            try:
                # A step of an admitted run is not refused early.
                async with limiter.slot("ann", timeout=0.001 * ((number + at) % 6), admitted=True):
                    await asyncio.sleep(0.002)
                outcomes["had"] += 1
            except LimitTimeout:
                outcomes["too late"] += 1

    in_threads(body)
    assert sum(outcomes.values()) == THREADS * 20
    assert len(outcomes) == 2
    assert limiter.stats()["timed_out"] == outcomes["too late"]
    assert idle(limiter)


@pytest.mark.parametrize("release_first", [True, False])
def test_a_loop_is_closed_while_tasks_of_it_wait(release_first, new_loop) -> None:
    """What is granted to a loop that is gone goes on to who can use it."""
    limiter = FairLimiter(1, 1, queue=100, per_user_queue=100)
    held = limiter.slot_nowait("ann")

    async def wait() -> None:
        await limiter.acquire("ann", timeout=SECONDS)

    def left_behind() -> list[asyncio.Task[None]]:
        loop = new_loop()
        tasks = [loop.create_task(wait()) for _ in range(5)]
        loop.run_until_complete(asyncio.sleep(0.01))
        if release_first:
            # Granted, and the loop never looks.
            held.release()
        loop.close()
        return tasks

    tasks = left_behind()
    for task in tasks:
        task._log_destroy_pending = False
    with asyncio.Runner(loop_factory=new_loop) as runner:

        async def after() -> str:
            asking = asyncio.ensure_future(_permit(limiter))
            await asyncio.sleep(0)
            held.release()
            return await asyncio.wait_for(asking, SECONDS)

        if release_first:
            # The first of them has been granted the permit on a loop that was still open. It is returned with its task.
            del tasks, task
            gc.collect()
        assert runner.run(after()) == "had it"
    tasks = []
    task = None  # type: ignore[assignment]
    gc.collect()
    assert idle(limiter)


async def _permit(limiter: FairLimiter) -> str:
    with await limiter.acquire("ann", timeout=SECONDS):
        return "had it"


# -- events ------------------------------------------------------------------------------------------------------------


def test_threads_publish_and_loops_read(in_threads, new_user) -> None:
    """Half of the threads publish into one small log, the others read it on their loops: each history is unbroken."""
    user = new_user()
    ctx = UserContextFactory.create_context(user)
    root = emitter_for_context(ctx, max_events=50)
    emitters = [ctx.create_child_context(f"c{at}").get_websocket_emitter() for at in range(THREADS)]
    cursors = [EventCursor(user, framed=True, max_connections=THREADS) for _ in range(THREADS)]
    for cursor in cursors:
        cursor.subscribe(ctx.run_id)
    left = threading.Semaphore(THREADS // 2)
    count = 300

    async def publish(number: int) -> list[int]:
        numbers = []
        for at in range(count):
            numbers.append(emitters[number].publish("mine", {"of": number, "i": at}))
            if at % 7 == 0:
                await asyncio.sleep(0)
        left.acquire()
        if not left._value:
            end_stream(ctx)
        return numbers

    async def read(number: int) -> int:
        cursor, position = cursors[number], 0
        while True:
            for text in cursor.read(7):
                frame = json.loads(text)
                if frame["t"] == "snap":
                    assert frame["n"] > position
                    position = frame["n"]
                elif frame["t"] == "ev":
                    for entry in frame["b"]:
                        assert entry["n"] == position + 1
                        position += 1
                elif frame["t"] == "end":
                    assert frame["n"] == position
                    return position
            await cursor.wait()

    results = in_threads(lambda number: publish(number) if number < THREADS // 2 else read(number))
    published, seen = results[: THREADS // 2], results[THREADS // 2 :]
    total = count * THREADS // 2
    assert sorted(number for own in published for number in own) == list(range(1, total + 1))
    assert all(own == sorted(own) for own in published)
    assert seen == [total] * (THREADS // 2)
    assert root.get_event_stats()["stream_head"] == total
    for cursor in cursors:
        cursor.detach()


def test_a_reader_that_sleeps_is_woken_by_another_thread(new_loop, new_user) -> None:
    user = new_user()
    ctx = UserContextFactory.create_context(user)
    emitter = ctx.get_websocket_emitter()
    cursor = EventCursor(user)
    cursor.subscribe(ctx.run_id)
    cursor.read()

    def publish() -> None:
        for at in range(20):
            time.sleep(0.002)
            emitter.publish("mine", {"i": at})

    async def read() -> int:
        seen = 0
        while seen < 20:
            await asyncio.wait_for(cursor.wait(), SECONDS)
            seen += sum(len(json.loads(text).get("b", ())) for text in cursor.read())
        return seen

    thread = threading.Thread(target=publish)
    thread.start()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(read()) == 20
    thread.join()
    cursor.detach()


def test_a_loop_is_closed_while_a_reader_of_it_waits(new_loop, new_user) -> None:
    """Publishing does not mind, and the same cursor is waited for on the next loop."""
    user = new_user()
    ctx = UserContextFactory.create_context(user)
    emitter = ctx.get_websocket_emitter()
    cursor = EventCursor(user)
    cursor.subscribe(ctx.run_id)
    cursor.read()

    async def wait() -> None:
        await cursor.wait()

    loop = new_loop()
    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    task._log_destroy_pending = False
    emitter.publish("mine")
    assert cursor.read()
    with asyncio.Runner(loop_factory=new_loop) as runner:

        async def again() -> None:
            waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            emitter.publish("mine")
            await asyncio.wait_for(waiting, SECONDS)

        runner.run(again())
    assert cursor.read()
    cursor.detach()


def test_users_of_many_threads_share_the_bounds_and_nothing_else(in_threads, new_user) -> None:
    """Logs of one user in many threads make room for each other, which takes the locks of several logs."""
    users = [new_user("shared"), new_user("other")]
    bridge = WebSocketBridgeFactory()
    refused: collections.Counter[str] = collections.Counter()

    async def body(number: int) -> None:
        user = users[number % 2]
        for _ in range(4):
            ctx = UserContextFactory.create_context(user)
            emitter = emitter_for_context(ctx, max_user_bytes=60_000)
            await bridge.create_user_emitter(user, ctx)
            for at in range(60):
                try:
                    emitter.publish("mine", {"of": user, "text": "x" * (at * 10)})
                except BudgetExceeded:
                    refused[user] += 1
                if at % 10 == 0:
                    await asyncio.sleep(0)
            if number % 4:
                await ctx.cleanup()

    in_threads(body)
    for user in users:
        assert isolane.lane_usage(user)["event_bytes"] <= 60_000 + 10_000
        cursor = EventCursor(user, framed=False, max_connections=100)
        for stream in isolane._core.user_streams(user):
            cursor.subscribe(stream["run_id"])
        messages = [json.loads(text) for _ in range(100) for text in cursor.read(1_000)]
        assert messages
        assert {message["payload"].get("of", user) for message in messages} == {user}
        cursor.detach()


def test_emitters_are_made_and_collected_in_many_threads(in_threads, new_user) -> None:
    """The latest emitter of a user is forgotten in one thread while another makes the next."""
    user, bridge = new_user(), WebSocketBridgeFactory()

    async def body(_: int) -> None:
        for _ in range(500):
            ctx = UserContextFactory.create_context(user)
            await bridge.create_user_emitter(user, ctx)
            await ctx.cleanup()

    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(body)
    finally:
        sys.setswitchinterval(often)
    gc.collect()
    assert bridge.get_user_emitter(user) is None
    assert bridge.get_factory_metrics()["emitters_created"] == THREADS * 500
    assert bridge.get_factory_metrics()["emitters_active"] == 0


# -- contexts and engines ----------------------------------------------------------------------------------------------


def test_children_of_one_context_are_made_in_many_threads(in_threads, new_user) -> None:
    ctx = UserContextFactory.create_context(new_user(), agent_context={"rows": [1]})

    async def body(number: int) -> list[str]:
        made = []
        for _ in range(50):
            child = ctx.create_child_context("same")
            child.agent_context["rows"].append(number)
            assert child.agent_context["rows"] == [1, number]
            child.verify_isolation()
            run = ctx.record_run_start(agent_type="same")
            ctx.record_run_success(run)
            made.append(child.request_id)
            await asyncio.sleep(0)
        return made

    names = [name for made in in_threads(body) for name in made]
    assert len(set(names)) == THREADS * 50
    assert ctx.execution_metrics.total_runs == ctx.execution_metrics.successful_runs == THREADS * 50
    assert ctx.agent_context == {"rows": [1]}


class Publisher(BaseAgent):
    name = "publisher"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        emitter = context.get_websocket_emitter()
        await emitter.notify_tool_executing(tool_name="tool", params={})
        await asyncio.sleep(0)
        await emitter.notify_tool_completed(tool_name="tool", result=request)
        return request


def test_engines_of_many_loops_share_one_limiter(in_threads, new_user) -> None:
    """A factory belongs to a loop, whose timers it uses; the limiter may be everybody's."""
    limiter = FairLimiter(3, 1, queue=10_000, per_user_queue=10_000)
    registry = AgentRegistry()
    registry.register(Publisher)
    users = [new_user() for _ in range(4)]

    async def body(number: int) -> int:
        factory = ExecutionEngineFactory(
            agent_factory=AgentInstanceFactory(registry), limiter=limiter, max_engines_per_user=100
        )
        done = 0
        for at in range(15):
            ctx = UserContextFactory.create_context(users[(number + at) % 4])
            async with factory.user_execution_scope(ctx) as engine:
                engine._admitted = True  # a step of a run that was admitted: it waits as long as it takes
                result = await engine.execute_agent("publisher", at)
                assert result.result == at
                done += 1
            assert await ctx.cleanup() == ()
        await factory.shutdown()
        assert factory.get_factory_metrics()["engines_active"] == 0
        return done

    assert in_threads(body) == [15] * THREADS
    assert limiter.stats()["peak"] <= 3
    assert idle(limiter)
