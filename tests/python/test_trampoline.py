"""A coroutine that is accounted for behaves as one that is not: each scenario is run both ways, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import os
import subprocess
import sys
import traceback
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import isolane
import pytest
import uvloop

Drive = Callable[[Any], Any]
Scenario = Callable[[Drive], Coroutine[Any, Any, Any]]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def bare(awaitable: Any) -> Any:
    return awaitable


@pytest.fixture
def drive(new_context) -> Drive:
    context = new_context()
    return lambda awaitable: isolane.account(awaitable, context, agent="tested")


def told(error: BaseException) -> tuple[Any, ...]:
    """Return an exception as far as it must be the same: its type, its text, its inner frames, what it came from."""
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    inner = [told(one) for one in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    return type(error).__name__, str(error), frames, error.__cause__ and told(error.__cause__), inner


async def outcome(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is compared
        return told(error)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@scenario
async def returns(drive: Drive) -> Any:
    async def give(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    seen = []
    for value in (None, 1, (), (1, 2), [3], "text"):
        seen += [await drive(give(value)), await asyncio.create_task(drive(give(value)))]
    for value in (StopIteration(5), ValueError("kept"), StopAsyncIteration((1, 2))):
        for got in (await drive(give(value)), await asyncio.create_task(drive(give(value)))):
            assert got is value
    return seen


@scenario
async def returns_at_once(drive: Drive) -> Any:
    async def give(value: Any) -> Any:
        return value

    return [await drive(give((1, 2))), await asyncio.create_task(drive(give((1, 2))))]


async def fails_inside() -> None:
    await asyncio.sleep(0)
    try:
        await deeper()
    except KeyError as error:
        raise ValueError("wrong") from error


async def deeper() -> None:
    await turns(1)
    raise KeyError("missing")


@scenario
async def raises(drive: Drive) -> Any:
    return await outcome(drive(fails_inside()))


@scenario
async def raises_in_a_task(drive: Drive) -> Any:
    return await outcome(asyncio.create_task(drive(fails_inside())))


@scenario
async def raises_stop_iteration(drive: Drive) -> Any:
    async def stop() -> None:
        raise StopIteration(7)

    return [await outcome(drive(stop())), await outcome(asyncio.create_task(drive(stop())))]


@scenario
async def is_cancelled(drive: Drive) -> Any:
    seen = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("finally")
            await turns()
            seen.append("cleaned")

    task = asyncio.create_task(drive(work()))
    await turns()
    task.cancel("enough")
    seen.append(await outcome(task))
    return seen, task.cancelled(), task.cancelling()


@scenario
async def is_cancelled_before_its_first_step(drive: Drive) -> Any:
    seen = []

    async def work() -> None:
        seen.append("began")

    task = asyncio.create_task(drive(work()))
    task.cancel()
    return await outcome(task), seen


@scenario
async def swallows_a_cancellation(drive: Drive) -> Any:
    async def work() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await turns()
        return "went on"

    task = asyncio.create_task(drive(work()))
    await turns()
    task.cancel()
    return await task, task.cancelling(), task.cancelled()


@scenario
async def is_cancelled_at_every_tick(drive: Drive) -> Any:
    seen = []

    async def work(log: list[Any]) -> str:
        lock = asyncio.Lock()
        try:
            for number in range(3):
                async with lock:
                    log.append(number)
                    await asyncio.sleep(0)
        finally:
            log.append("finally")
            await asyncio.sleep(0)
        return "done"

    for tick in range(8):
        log: list[Any] = []
        task = asyncio.create_task(drive(work(log)))
        await turns(tick)
        task.cancel()
        seen.append((await outcome(task), log))
    return seen


@scenario
async def times_out(drive: Drive) -> Any:
    async def inside() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        except TimeoutError:
            return "inside"
        return "never"

    async def around() -> None:
        async with asyncio.timeout(0):
            await drive(asyncio.sleep(60))

    async def raised() -> None:
        raise TimeoutError("its own")

    return [
        await drive(inside()),
        await outcome(around()),
        await outcome(asyncio.wait_for(drive(asyncio.sleep(60)), 0.001)),
        await outcome(drive(asyncio.wait_for(asyncio.sleep(60), 0.001))),
        await asyncio.wait_for(drive(asyncio.sleep(0, "in time")), 60),
        await outcome(drive(raised())),
    ]


@scenario
async def groups_of_tasks(drive: Drive) -> Any:
    log = []

    async def sleeper() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async def inside() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(sleeper())
            group.create_task(deeper())
            await asyncio.sleep(60)

    async def around() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(drive(sleeper()))
            group.create_task(drive(deeper()))

    async def well() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(drive(asyncio.sleep(0, number))) for number in range(3)]
        return [task.result() for task in tasks]

    return await outcome(drive(inside())), await outcome(around()), await drive(well()), log


@scenario
async def gathers(drive: Drive) -> Any:
    async def give(number: int) -> int:
        await turns(number)
        if number == 2:
            raise ValueError("two")
        return number

    together = await asyncio.gather(*(drive(give(number)) for number in range(4)), return_exceptions=True)
    return [told(one) if isinstance(one, Exception) else one for one in together]


@scenario
async def shields_and_waits(drive: Drive) -> Any:
    inner = asyncio.create_task(drive(asyncio.sleep(0.01, "kept")))

    async def work() -> Any:
        return await asyncio.shield(inner)

    outer = asyncio.create_task(drive(work()))
    await turns()
    outer.cancel()
    done, pending = await asyncio.wait([inner, outer])
    return await outcome(outer), inner.result(), len(done), len(pending)


@scenario
async def async_generators(drive: Drive) -> Any:
    log: list[Any] = []

    async def numbers() -> Any:
        try:
            for number in range(5):
                got = yield number
                log.append(got)
                await asyncio.sleep(0)
        finally:
            log.append("closed")

    async def work() -> list[Any]:
        generator = numbers()
        seen = [await anext(generator), await generator.asend("sent")]
        async for number in generator:
            seen.append(number)  # noqa: PERF401 - an async comprehension is another thing
        async with contextlib.aclosing(numbers()) as other:
            async for number in other:
                seen.append(number)
                break
        return seen

    return await drive(work()), log


@scenario
async def context_managers_and_variables(drive: Drive) -> Any:
    variable = contextvars.ContextVar("variable", default="outside")
    log = []

    @contextlib.asynccontextmanager
    async def manager() -> Any:
        try:
            yield await drive(asyncio.sleep(0, "given"))
        except LookupError as error:
            log.append(told(error))

    async def work() -> str:
        variable.set("inside")
        async with manager() as given:
            log.append(given)
            await drive(deeper())
        return "after"

    before = await drive(work()), variable.get()
    variable.set("again")
    return before, await asyncio.create_task(drive(work())), variable.get(), log


@scenario
async def the_current_task_is_the_same(drive: Drive) -> Any:
    async def who() -> Any:
        await asyncio.sleep(0)
        return asyncio.current_task()

    task = asyncio.create_task(drive(who()))
    return await drive(who()) is asyncio.current_task(), await task is task


@scenario
async def a_task_shows_its_frames(drive: Drive) -> Any:
    gate = asyncio.Event()

    async def named() -> None:
        await gate.wait()

    task = asyncio.create_task(drive(named()), name="shown")
    await turns()
    stack = [frame.f_code.co_name for frame in task.get_stack()]
    coroutine: Any = task.get_coro()
    seen = [stack, coroutine.cr_running, coroutine.cr_code.co_name, coroutine.cr_frame.f_code.co_name]
    seen += [type(coroutine.cr_await).__name__, coroutine.__name__, coroutine.__qualname__]
    seen += ["named() running at" in repr(task), asyncio.iscoroutine(coroutine), inspect.isawaitable(coroutine)]
    gate.set()
    await task
    return [*seen, coroutine.cr_frame]


@scenario
async def steps_by_hand(drive: Drive) -> Any:
    @types.coroutine
    def ask(question: str) -> Any:
        return (yield question)

    async def talk() -> Any:
        first = await ask("one?")
        try:
            second = await ask("two?")
        except KeyError as error:
            second = error.args[0]
        return first, second

    seen: list[Any] = []
    for step in ("send", "throw"):
        coroutine = drive(talk())
        seen += [coroutine.send(None), coroutine.send(1)]
        try:
            coroutine.send(2) if step == "send" else coroutine.throw(KeyError("thrown"))
        except StopIteration as stop:
            seen.append(stop.value)
        seen.append(await outcome(coroutine))
    with pytest.raises(TypeError, match="just-started"):
        coroutine = drive(talk())
        coroutine.send("too early")
    coroutine.close()
    return seen


@scenario
async def closes(drive: Drive) -> Any:
    log: list[str] = []

    async def work(name: str) -> None:
        try:
            log.append(f"{name} began")
            await asyncio.sleep(60)
        finally:
            log.append(f"{name} finally")

    async def outer(name: str) -> None:
        try:
            await drive(work(name))
        finally:
            log.append("outer finally")

    async def stubborn() -> None:
        with contextlib.suppress(GeneratorExit):
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    for coroutine in (drive(work("begun")), outer("nested"), drive(outer("twice"))):
        coroutine.send(None)
        coroutine.close()
        coroutine.close()
    drive(work("not begun")).close()
    ignoring = drive(stubborn())
    ignoring.send(None)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        ignoring.close()
    return log


@scenario
async def throws_into_what_has_not_begun(drive: Drive) -> Any:
    async def never() -> None:
        raise AssertionError

    seen = []
    for arguments in ((KeyError("x"),), (KeyError,)):
        coroutine = drive(never())
        try:
            coroutine.throw(*arguments)
        except KeyError as error:
            seen.append(told(error))
    coroutine = drive(never())
    with pytest.raises(TypeError):
        coroutine.throw()
    coroutine.close()
    return seen


@scenario
async def is_awaited_once(drive: Drive) -> Any:
    coroutine = drive(asyncio.sleep(0, 1))
    return await coroutine, await outcome(coroutine)


@scenario
async def does_not_run_in_itself(drive: Drive) -> Any:
    itself: list[Any] = []

    async def work() -> Any:
        return await outcome(itself[0])

    itself.append(drive(work()))
    return (await itself[0])[:2]


@scenario
async def drives_what_is_no_coroutine(drive: Drive) -> Any:
    class Twice:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            yield
            return "twice"

    class Iterator:
        """Has neither ``send`` nor ``throw`` nor ``close``."""

        def __init__(self) -> None:
            self.left = 2

        def __await__(self) -> Any:
            return self

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise StopIteration("iterated")

    @types.coroutine
    def old() -> Any:
        yield
        return "old"

    async def around(awaitable: Any) -> Any:
        return await drive(awaitable)

    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, "future")
    seen = [await drive(one) for one in (Twice(), Iterator(), old(), future)]
    async with isolane.FairLimiter().slot("of-the-trampoline") as permit:
        seen.append(await drive(permit) is permit)
    for error in (KeyError("x"), GeneratorExit()):
        coroutine = around(Iterator())
        coroutine.send(None)
        with contextlib.suppress(KeyError, GeneratorExit):
            coroutine.throw(error)
            seen.append("went on")
        coroutine.close()
    task = asyncio.create_task(around(Iterator()))
    task.cancel()
    return [*seen, await outcome(task)]


@scenario
async def is_traced(drive: Drive) -> Any:
    seen: list[str] = []

    def trace(frame: types.FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename == __file__:
            seen.append(f"{event} {frame.f_code.co_name}")
            return trace
        return None

    async def traced() -> str:
        with contextlib.suppress(KeyError):
            await deeper()
        return "traced"

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = await drive(traced())
    finally:
        sys.settrace(before)
    assert "line traced" in seen
    return result, [what for what in seen if what.split()[1] in {"traced", "deeper", "turns"}]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_different(name, loop, drive):
    def run(how: Drive) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            return runner.run(SCENARIOS[name](how))

    assert run(drive) == run(bare)


# -- what only an accounted coroutine has ------------------------------------------------------------------------------


def test_what_cannot_be_awaited_is_refused(drive):
    for value in (None, 5, (number for number in ())):
        with pytest.raises(TypeError, match="awaitable is needed"):
            drive(value)


def test_a_coroutine_that_is_never_awaited_is_told_by_its_own_name(drive):
    async def forgotten() -> None: ...

    with pytest.warns(RuntimeWarning, match=r"forgotten' was never awaited"):
        drive(forgotten())


async def test_a_cycle_through_it_is_collected(drive):
    class Mark: ...

    async def work(held: list[Any], mark: Mark) -> None:
        await asyncio.sleep(60)
        print(held, mark)

    held: list[Any] = []
    mark = Mark()
    gone = weakref.ref(mark)
    coroutine = drive(work(held, mark))
    held.append(coroutine)
    coroutine.send(None)
    del coroutine, held, mark
    gc.collect()
    assert gone() is None


def test_other_attributes_are_not_the_coroutines(drive):
    coroutine = drive(asyncio.sleep(0))
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = coroutine.colour
    assert repr(coroutine).startswith("<AccountedCoroutine of <coroutine object sleep")
    coroutine.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_after_a_fork_it_is_refused_and_the_step_that_forked_goes_on(drive, new_context):
    async def forks() -> str:
        return "child" if os.fork() == 0 else "parent"

    waiting = drive(asyncio.sleep(60))
    user = new_context()
    with contextlib.suppress(StopIteration):
        isolane.account(asyncio.sleep(0), user).send(None)
    status = 1
    try:
        drive(forks()).send(None)
    except StopIteration as stop:
        if stop.value == "child":
            try:
                with pytest.raises(isolane.ForkedProcessError):
                    waiting.send(None)
                waiting.close()
                assert isolane.loop_account()["steps"] == 0
                assert isolane.loop_blockers() == []
                with contextlib.suppress(StopIteration):
                    isolane.account(asyncio.sleep(0), isolane.UserContextFactory.create_context("of-a-child")).send(
                        None
                    )
                assert isolane.loop_account("of-a-child")["steps"] == 1
                status = 0
            finally:
                os._exit(status)
    _, code = os.wait()
    assert os.waitstatus_to_exitcode(code) == 0
    waiting.close()


def test_without_the_fast_slot_everything_is_the_same():
    """As on an interpreter that steps by ``__next__`` alone."""
    if os.environ.get("ISOLANE_NO_AM_SEND"):
        pytest.skip("this is that run")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "ISOLANE_NO_AM_SEND": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
