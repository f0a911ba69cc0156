"""Who uses the event loop: times, steps, lines, blockers and budgets, by run and by user."""

# ruff: noqa: ASYNC251 - blocking the loop is what is looked for

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import isolane
import pytest
import uvloop
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ExecutionEngineFactory,
    FairLimiter,
    LoopAccount,
    LoopBudgetExceeded,
    UserExecutionContext,
)

BLOCK = 0.06
"""Seconds that a step takes which blocks the loop: the limit is 50 ms."""


def line_of(text: str) -> int:
    """Return the line of this file that a comment marks."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {text}"))


class Blocks(BaseAgent):
    name = "blocks"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> str:
        await asyncio.sleep(0)
        await self.fetch()
        return "done"

    async def fetch(self) -> None:
        time.sleep(BLOCK)
        await asyncio.sleep(0.001)  # waits after the block


class Quick(BaseAgent):
    name = "quick"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> int:
        for _ in range(9):
            await asyncio.sleep(0)
        return 9


class RunsAnother(BaseAgent):
    name = "runs-another"
    factory: ClassVar[ExecutionEngineFactory]

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        engine = await self.factory.create_for_user(context)
        return (await engine.execute_agent("blocks")).result


class Greedy(BaseAgent):
    """Holds the loop in turns of 5 ms, and cleans up when it is told to stop."""

    name = "greedy"
    loop_seconds = 0.02
    log: ClassVar[list[str]] = []
    turns: ClassVar[int] = 200

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> str:
        try:
            for _ in range(self.turns):
                time.sleep(0.005)
                await asyncio.sleep(0)
        except LoopBudgetExceeded:
            self.log.append("told")
            raise
        finally:
            await asyncio.sleep(0)
            self.log.append("cleaned up")
        return "finished"


class GreedyWithoutLimit(Greedy):
    name = "greedy-without-limit"
    loop_seconds = None


@pytest.fixture
def new_factory() -> Callable[..., ExecutionEngineFactory]:
    registry = AgentRegistry()
    for agent in (Blocks, Quick, RunsAnother, Greedy, GreedyWithoutLimit):
        registry.register(agent)
    Greedy.log.clear()
    return lambda **options: ExecutionEngineFactory(
        agent_factory=AgentInstanceFactory(registry), limiter=FairLimiter(), **options
    )


def blocks_of(user: str) -> list[dict[str, Any]]:
    return [block for block in isolane.loop_blockers() if block["user_id"] == user]


async def test_a_block_is_told_with_its_run_its_agent_and_its_line(new_factory, context, caplog):
    before = datetime.now(UTC)
    with caplog.at_level(logging.WARNING, "isolane.loop"):
        async with new_factory().user_execution_scope(context) as engine:
            assert (await engine.execute_agent("blocks")).success
            figures = engine.loop_account
            assert engine.get_user_execution_stats()["loop"] == figures
    (block,) = blocks_of(context.user_id)
    assert (block["run_id"], block["agent"], block["file"]) == (context.run_id, "blocks", __file__)
    assert (block["line"], block["function"]) == (line_of("waits after the block"), "Blocks.fetch")
    assert (block["where"], len(block["stack"])) == ("suspended", 1)
    assert block["stack"][0].endswith("Blocks.execute_with_context")
    assert block["wall"] >= BLOCK > block["cpu"]
    assert before <= block["at"] <= datetime.now(UTC)
    assert figures["blocks"] == 1
    assert figures["longest"] == {key: block[key] for key in figures["longest"]}
    assert figures["wall"] >= BLOCK
    assert figures["cpu"] <= figures["wall"]
    (record,) = [record for record in caplog.records if record.name == "isolane.loop"]
    told = record.getMessage()
    assert "agent 'blocks' blocked the event loop for" in told
    assert f"{__file__}:{block['line']} in Blocks.fetch" in told
    assert context.user_id not in told
    assert context.run_id not in told


async def test_what_is_short_blocks_nobody(new_factory, context, caplog):
    with caplog.at_level(logging.WARNING, "isolane.loop"):
        async with new_factory().user_execution_scope(context) as engine:
            await engine.execute_agent("quick")
            figures = engine.loop_account
    assert (figures["steps"], figures["blocks"]) == (10, 0)
    assert 0 < figures["p50"] <= figures["p99"] <= figures["longest"]["wall"] <= figures["wall"]
    assert blocks_of(context.user_id) == []
    assert not [record for record in caplog.records if record.name == "isolane.loop"]


async def test_an_account_is_of_one_run_and_a_users_of_all_its_runs(new_factory, new_context, alice, bob):
    factory = new_factory()
    steps = []
    for user in (alice, alice, bob):
        async with factory.user_execution_scope(new_context(user)) as engine:
            await engine.execute_agent("quick")
            steps.append(engine.loop_account["steps"])
    assert steps == [10, 10, 10]
    assert (isolane.loop_account(alice)["steps"], isolane.loop_account(bob)["steps"]) == (20, 10)
    assert isolane.loop_account()["steps"] >= 30
    counts = {"wall": 0.0, "cpu": 0.0, "steps": 0, "blocks": 0}
    assert isolane.loop_account("nobody-of-tests") == {**counts, "p50": None, "p99": None, "longest": None}


async def test_who_runs_another_agent_is_not_charged_for_it(new_factory, context):
    RunsAnother.factory = factory = new_factory()
    began = time.perf_counter()
    async with factory.user_execution_scope(context) as engine:
        assert (await engine.execute_agent("runs-another")).result == "done"
        figures = engine.loop_account
    taken = time.perf_counter() - began
    # Counted twice it would be more than there was.
    assert BLOCK <= figures["wall"] <= taken * 1.001
    (block,) = blocks_of(context.user_id)
    assert block["agent"] == "blocks"
    assert figures["blocks"] == 1


async def test_processor_time_tells_computing_from_blocking(context):
    async def compute() -> None:
        until = time.thread_time() + BLOCK
        while time.thread_time() < until:
            pass

    async def sleep() -> None:
        time.sleep(BLOCK)

    figures = []
    for work in (compute, sleep):
        account = LoopAccount(context)
        await account.drive(work(), work.__name__)
        figures.append(account.figures())
    assert figures[0]["cpu"] >= BLOCK - 0.001
    # Up to a millisecond of what the thread did before the step is in it.
    assert figures[1]["cpu"] < BLOCK / 2 <= figures[1]["wall"]
    assert all(one["cpu"] <= one["wall"] for one in figures)


async def test_where_a_step_ended_that_left_no_frame(context):
    async def returns() -> None:  # returns
        time.sleep(BLOCK)

    async def fails() -> None:
        await asyncio.sleep(0)
        time.sleep(BLOCK)
        raise KeyError("x")  # fails

    await isolane.account(returns(), context, agent="returns")
    with contextlib.suppress(KeyError):
        await isolane.account(fails(), context, agent="fails")
    failed, returned = blocks_of(context.user_id)
    assert (failed["where"], failed["line"]) == ("raised", line_of("fails"))
    assert failed["function"].endswith("fails")
    assert (returned["where"], returned["line"]) == ("returned", line_of("returns"))
    assert returned["function"].endswith("returns")


async def test_a_block_while_cancelled_and_closed_is_counted(context):
    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            time.sleep(BLOCK)

    task = asyncio.create_task(isolane.account(slow_to_end(), context, agent="cancelled"))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    closed = isolane.account(slow_to_end(), context, agent="closed")
    closed.send(None)
    closed.close()
    assert [block["agent"] for block in blocks_of(context.user_id)] == ["closed", "cancelled"]


async def test_a_block_behind_other_awaitables_is_placed_where_code_is_left(context):
    async def outer() -> None:
        async with asyncio.timeout(5):
            await asyncio.gather(asyncio.sleep(0))
            await isolane.account(inner(), context, agent="inner")

    async def inner() -> None:
        time.sleep(BLOCK)
        await asyncio.wait_for(asyncio.sleep(0.001), 5)  # behind asyncio

    await isolane.account(outer(), context, agent="outer")
    (block,) = blocks_of(context.user_id)
    assert (block["agent"], block["line"]) == ("inner", line_of("behind asyncio"))


async def test_a_log_that_fails_keeps_the_agent_from_nothing(context, monkeypatch):
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    handler = Broken()
    logger = logging.getLogger("isolane.loop")
    logger.addHandler(handler)
    try:

        async def work() -> str:
            time.sleep(BLOCK)
            return "done"

        seen: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda raised: seen.append(raised.exc_value))
        assert await isolane.account(work(), context, agent="of a broken log") == "done"
        assert [str(error) for error in seen] == ["disk full"]
    finally:
        logger.removeHandler(handler)


async def test_warnings_of_one_agent_come_now_and_then(context, caplog):
    async def work() -> None:
        time.sleep(BLOCK)

    with caplog.at_level(logging.WARNING, "isolane.loop"):
        for _ in range(3):
            await isolane.account(work(), context, agent="talks too much")
    assert len([record for record in caplog.records if "talks too much" in record.getMessage()]) == 1
    assert isolane.loop_account(context.user_id)["blocks"] == 3


# -- budgets -----------------------------------------------------------------------------------------------------------


async def test_an_agent_that_uses_too_much_of_the_loop_is_ended_and_cleans_up(new_factory, context):
    factory = new_factory()
    async with factory.user_execution_scope(context) as engine:
        result = await engine.execute_agent("greedy")
        stats = engine.get_user_execution_stats()
    assert not result.success
    error = result.error
    assert isinstance(error, LoopBudgetExceeded)
    assert (error.scope, error.limit) == ("agent", 0.02)
    assert error.used > 0.02
    assert 'agent "greedy" used' in str(error)
    assert "raise loop_seconds of the agent's class" in str(error)
    assert Greedy.log == ["told", "cleaned up"]
    assert stats["failed_executions"] == 1
    assert stats["loop"]["wall"] < 1


async def test_without_a_budget_it_may(new_factory, context, monkeypatch):
    monkeypatch.setattr(Greedy, "turns", 10)
    async with new_factory().user_execution_scope(context) as engine:
        assert (await engine.execute_agent("greedy-without-limit")).result == "finished"
        assert engine.loop_account["wall"] >= 0.05


async def test_a_run_has_a_budget_for_all_its_agents(new_factory, context, new_context):
    async with new_factory(loop_seconds=0.03).user_execution_scope(context) as engine:
        result = await engine.execute_agent_pipeline(["greedy-without-limit", "quick"])
        assert isinstance(result.error, LoopBudgetExceeded)
        assert (result.error.scope, result.agent_name) == ("run", "greedy-without-limit")
        assert "raise loop_seconds of the engine factory" in str(result.error)
        # What is left of a run that has used its budget does not begin.
        again = await engine.execute_agent("quick")
        assert isinstance(again.error, LoopBudgetExceeded)
    async with new_factory(loop_seconds=60).user_execution_scope(new_context(context.user_id)) as engine:
        assert (await engine.execute_agent("quick")).success


async def test_who_catches_the_error_and_goes_on_is_told_again(context):
    told = []

    async def work() -> str:
        for _ in range(12):
            try:
                time.sleep(0.01)
                await asyncio.sleep(0)
            except LoopBudgetExceeded as error:
                told.append(error.used)
        return "went on"

    assert await isolane.account(work(), context, loop_seconds=0.03) == "went on"
    assert 1 < len(told) < 5
    assert told == sorted(told)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_budget_of_nothing_is_refused(seconds, context):
    with pytest.raises(ValueError, match="loop_seconds must be more than 0"):
        LoopAccount(context, loop_seconds=seconds)
    with pytest.raises(ValueError, match="loop_seconds must be more than 0"):
        ExecutionEngineFactory(loop_seconds=seconds)


# -- loops and threads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_loops_of_several_threads_count_into_one_account(new_loop, context):
    account = LoopAccount(context)

    async def work() -> None:
        for _ in range(200):
            await asyncio.sleep(0)

    async def many() -> None:
        await asyncio.gather(*(account.drive(work(), "work") for _ in range(5)))

    def run() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(many())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert account.figures()["steps"] == isolane.loop_account(context.user_id)["steps"] == 4 * 5 * 201


async def test_a_coroutine_that_moves_to_another_thread_is_still_accounted(context):
    async def work() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    coroutine = isolane.account(work(), context)
    coroutine.send(None)
    await asyncio.to_thread(coroutine.send, None)
    await asyncio.to_thread(coroutine.send, None)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert coroutine.figures()["steps"] == 4
