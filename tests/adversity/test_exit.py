"""The interpreter exits while work is pending: the right exit code, no crash, and no text that nobody can explain."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest

from tests.adversity.programs import run

PREAMBLE = """
import asyncio, atexit, gc, os, signal, sys, threading, time
import isolane
import uvloop
from isolane import (
    AgentInstanceFactory, AgentRegistry, BaseAgent, ExecutionEngineFactory, FairLimiter, UserContextFactory,
    WebSocketBridgeFactory,
)
from isolane._core import EventCursor, emitter_for_user

USER = "ann-of-exits"
limiter = FairLimiter(1, 1, timeout=1000)

class Endless(BaseAgent):
    timeout_seconds = 1000.0
    async def execute_with_context(self, context, request):
        await context.get_websocket_emitter().notify_tool_executing(tool_name="t", params={})
        async with context.acquire_execution_lock():
            await asyncio.sleep(1000)

def started():
    ctx = UserContextFactory.create_context(USER)
    emitter = ctx.get_websocket_emitter()
    emitter.notify_agent_started("data")
    emitter.notify_tool_executing(tool_name="t", params={})
    return ctx, emitter
"""

PENDING = r"Task was destroyed but it is pending!|task: <Task pending .*>"
"""What asyncio says of each task of a loop that was left without being closed."""

# name: (program, exit code, patterns of the lines on stderr that are allowed)
CASES: dict[str, tuple[str, int, str]] = {
    "waiters for a permit on a loop that nobody closed": (
        """
        async def wait():
            await limiter.acquire(USER)
        held = limiter.slot_nowait(USER)
        loop = new_loop()
        tasks = [loop.create_task(wait()) for _ in range(20)]
        loop.run_until_complete(asyncio.sleep(0.01))
        assert limiter.stats()["queued"] == 20
        """,
        0,
        PENDING,
    ),
    "waiters for a permit on a loop that was closed": (
        """
        async def wait():
            async with limiter.slot(USER):
                pass
        held = limiter.slot_nowait(USER)
        loop = new_loop()
        tasks = [loop.create_task(wait()) for _ in range(20)]
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        """,
        0,
        PENDING,
    ),
    "waiters that the runner cancels": (
        """
        async def wait():
            async with limiter.slot(USER):
                pass
        async def main():
            global held, tasks
            held = await limiter.acquire(USER)
            tasks = [asyncio.ensure_future(wait()) for _ in range(20)]
            await asyncio.sleep(0.01)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        assert limiter.stats()["queued"] == 0
        """,
        0,
        "",
    ),
    "events that nobody has read": (
        """
        ctx, emitter = started()
        cursors = [EventCursor(USER) for _ in range(3)]
        for cursor in cursors:
            cursor.subscribe(ctx.run_id)
        for at in range(2_000):
            emitter.publish("mine", {"i": at})
        """,
        0,
        "",
    ),
    "readers that wait": (
        """
        ctx, emitter = started()
        cursor = EventCursor(USER)
        async def wait():
            await cursor.wait()
        loop = new_loop()
        tasks = [loop.create_task(wait()) for _ in range(3)]
        loop.run_until_complete(asyncio.sleep(0.01))
        """,
        0,
        PENDING,
    ),
    "open engines": (
        """
        factory = ExecutionEngineFactory(limiter=limiter)
        async def main():
            return [await factory.create_for_user(UserContextFactory.create_context(USER)) for _ in range(2)]
        with asyncio.Runner(loop_factory=new_loop) as runner:
            engines = runner.run(main())
        assert factory.get_factory_metrics()["engines_active"] == 2
        """,
        0,
        "",
    ),
    "agents that run, on a loop that nobody closed": (
        """
        factory = ExecutionEngineFactory(limiter=limiter)
        async def main():
            global engine, task
            engine = await factory.create_for_user(UserContextFactory.create_context(USER))
            task = engine.start_agent_pipeline([Endless])
            await asyncio.sleep(0.01)
        loop = new_loop()
        loop.run_until_complete(main())
        assert engine.get_user_execution_stats()["concurrent_executions"] == 1
        """,
        0,
        PENDING,
    ),
    "agents that run, when the runner ends": (
        """
        factory = ExecutionEngineFactory(limiter=limiter)
        async def main():
            engine = await factory.create_for_user(UserContextFactory.create_context(USER).detach())
            engine.start_agent_pipeline([Endless])
            await asyncio.sleep(0.01)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        assert limiter.stats()["running"] == 0
        """,
        0,
        "",
    ),
    "sys.exit inside a coroutine": (
        """
        factory = ExecutionEngineFactory(limiter=limiter)
        async def main():
            ctx = UserContextFactory.create_context(USER)
            async with factory.user_execution_scope(ctx) as engine:
                engine.start_agent_pipeline([Endless])
                await asyncio.sleep(0.01)
                sys.exit(7)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        """,
        7,
        "",
    ),
    "sys.exit inside an agent": (
        """
        class Exits(BaseAgent):
            async def execute_with_context(self, context, request):
                context.get_websocket_emitter().publish("mine")
                sys.exit(7)
        factory = ExecutionEngineFactory(limiter=limiter)
        async def main():
            ctx = UserContextFactory.create_context(USER)
            async with factory.user_execution_scope(ctx) as engine:
                await engine.execute_agent(Exits)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        """,
        7,
        "",
    ),
    "an interrupt while an agent runs": (
        """
        # A program that was started in the background ignores interrupts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        factory = ExecutionEngineFactory(limiter=limiter)
        async def main():
            ctx = UserContextFactory.create_context(USER)
            async with factory.user_execution_scope(ctx) as engine:
                asyncio.get_running_loop().call_later(0.02, os.kill, os.getpid(), signal.SIGINT)
                await engine.execute_agent(Endless)
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            assert limiter.stats()["running"] == 0
            assert factory.get_factory_metrics()["engines_active"] == 0
            sys.exit(9)
        """,
        9,
        "",
    ),
    "an error that nobody handles": (
        """
        ctx, emitter = started()
        held = limiter.slot_nowait(USER)
        raise LookupError("as planned")
        """,
        1,
        r'Traceback .*|  File "<string>", line \d+, in <module>|LookupError: as planned',
    ),
    "daemon threads that publish": (
        """
        def publish(number):
            ctx, emitter = started()
            while True:
                emitter.publish("mine", {"of": number, "x": "y" * 200})
                below = ctx.create_child_context("op")
                below.agent_context["me"] = below
        for number in range(4):
            threading.Thread(target=publish, args=(number,), daemon=True).start()
        time.sleep(0.05)
        """,
        0,
        "",
    ),
    "daemon threads that take and wait for permits": (
        """
        def take(number):
            async def main():
                while True:
                    async with limiter.slot(USER):
                        await asyncio.sleep(0)
            asyncio.run(main())
        for number in range(4):
            threading.Thread(target=take, args=(number,), daemon=True).start()
        time.sleep(0.1)
        """,
        0,
        "",
    ),
    "daemon threads that run engines and read": (
        """
        def work(number):
            async def main():
                factory = ExecutionEngineFactory(limiter=FairLimiter())
                cursor = EventCursor(f"{USER}-{number}")
                async def read():
                    while True:
                        await cursor.wait()
                        cursor.read()
                reading = asyncio.ensure_future(read())
                while True:
                    ctx = UserContextFactory.create_context(f"{USER}-{number}")
                    async with factory.user_execution_scope(ctx) as engine:
                        engine.websocket_emitter.publish("mine")
                        await asyncio.sleep(0)
                    await ctx.cleanup()
            asyncio.run(main())
        for number in range(3):
            threading.Thread(target=work, args=(number,), daemon=True).start()
        time.sleep(0.15)
        """,
        0,
        "",
    ),
    "a thread that holds what the main thread waits for": (
        """
        def hold():
            with limiter.slot_nowait(USER):
                time.sleep(0.2)
        thread = threading.Thread(target=hold)
        thread.start()
        time.sleep(0.02)
        async def main():
            with await limiter.acquire(USER):
                pass
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        """,
        0,
        "",
    ),
    "exit handlers that use everything": (
        """
        ctx, emitter = started()
        cursor = EventCursor(USER)
        cursor.subscribe(ctx.run_id)
        def last():
            emitter.notify_tool_completed("t", result=1)
            with limiter.slot_nowait(USER):
                assert UserContextFactory.create_context(USER).create_child_context("op").verify_isolation()
            assert len(cursor.read()) > 0
            assert asyncio.run(closing()) == ()
            os.write(1, b"used")
        async def closing():
            return await ctx.cleanup()
        atexit.register(last)
        """,
        0,
        "",
    ),
    "destructors that run when the modules are gone": (
        """
        class Holder:
            def __init__(self):
                self.ctx, self.emitter = started()
                self.permit = FairLimiter().slot_nowait(USER)
                self.cursor = EventCursor(USER)
                self.me = self
            def __del__(self):
                self.emitter.publish("mine")
                self.permit.release()
                self.cursor.read()
                self.ctx.create_child_context("op")
        holders = [Holder() for _ in range(5)]
        sys.holders = [Holder() for _ in range(5)]
        """,
        0,
        "",
    ),
    "callbacks that were never called": (
        """
        ctx, emitter = started()
        ctx.register_cleanup_callback(lambda: os._exit(99))
        ctx.agent_context["me"] = ctx
        """,
        0,
        "",
    ),
    "a clean-up in the middle of its callbacks": (
        """
        ctx, emitter = started()
        async def slow():
            await asyncio.sleep(1000)
        ctx.register_cleanup_callback(slow, timeout=1000)
        async def clean():
            return await ctx.cleanup()
        loop = new_loop()
        task = loop.create_task(clean())
        loop.run_until_complete(asyncio.sleep(0.01))
        """,
        0,
        PENDING,
    ),
    "an exit without an end": (
        """
        ctx, emitter = started()
        held = limiter.slot_nowait(USER)
        os._exit(5)
        """,
        5,
        "",
    ),
}


LOOPS = ("asyncio", "uvloop")


def cases() -> list[Any]:
    """Return each case with each loop, and those without a loop of their own once."""
    return [
        pytest.param(case, loop, id=f"{case} ({loop})")
        for case, (program, _, _) in CASES.items()
        for loop in LOOPS
        if loop == "asyncio" or "new_loop" in program
    ]


@pytest.mark.parametrize(("case", "loop"), cases())
def test_the_interpreter_exits_in_order(case, loop) -> None:
    program, code, allowed = CASES[case]
    text = f"{PREAMBLE}\nnew_loop = {loop}.new_event_loop\n{textwrap.dedent(program)}"
    # A loop that is not closed is the point of some.
    ended = run(text, options=("-W", "ignore::ResourceWarning"), timeout=30)
    assert ended.code == code, ended.err
    unexpected = [line for line in ended.err.splitlines() if not (allowed and re.fullmatch(allowed, line))]
    assert unexpected == []
    if "used" in program:
        assert ended.out == "used"


def test_the_check_finds_a_crash_and_a_text() -> None:
    """The positive control: a crash is an exit code below zero, and what nobody expects is on stderr."""
    crashed = run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert crashed.code < 0
    assert crashed.err
    noisy = run("import sys; print('a text', file=sys.stderr)")
    assert (noisy.code, noisy.err) == (0, "a text\n")


def test_a_sub_interpreter_is_refused_with_a_reason() -> None:
    """Importing there is an error that says so, and the main interpreter goes on."""
    ended = run(
        """
        import isolane
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        number = interpreters.create()
        program = '''if True:
            try:
                import isolane
            except ImportError as error:
                assert "interpreter" in str(error), error
            else:
                raise AssertionError("it was imported")
        '''
        try:
            problem = interpreters.run_string(number, program)
        finally:
            interpreters.destroy(number)
        assert problem is None, problem
        with isolane.FairLimiter(1, 1).slot_nowait("ann"):
            print("goes on")
        """
    )
    assert (ended.code, ended.out, ended.err) == (0, "goes on\n", "")
