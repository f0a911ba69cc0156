"""Nested work: whether it ends when every permit is taken, and how many ran at once at the most."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from isolane import (
    AgentRegistry,
    BaseAgent,
    ExecutionEngineFactory,
    ExecutionStatus,
    FairLimiter,
    LimitRejected,
    UserContextFactory,
    UserExecutionContext,
)
from isolane.agents import AgentInstanceFactory

from benches.limits.thresholds import Verdict
from benches.limits.virtual_time import NothingLeftError, run

USERS, ROOTS, DEPTH, FAN_OUT = 10, 4, 3, 3
LIMIT, PER_USER = 10, 5
PATIENCE = 60.0
OURS = "isolane, permits lent down the tree"
NAIVE = "nested asyncio.Semaphore"


@dataclass(frozen=True, slots=True)
class Tree:
    """What came of runs whose steps have steps."""

    way: str
    roots: int
    finished: int
    nodes: int
    peak: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Pipelines:
    """What came of two pipelines of each user."""

    permits: int
    pipelines: int
    finished: int
    throttled: int
    """How many runs were seen in the state Throttled."""
    peak: int
    seconds: float


class Counter:
    """How many work at once."""

    def __init__(self) -> None:
        self.now = self.peak = self.total = 0

    async def work(self, seconds: float) -> None:
        self.now += 1
        self.total += 1
        self.peak = max(self.peak, self.now)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.now -= 1


async def _ours(counter: Counter) -> Callable[[int], Awaitable[None]]:
    limiter = FairLimiter(LIMIT, PER_USER, timeout=PATIENCE)

    async def node(ctx: UserExecutionContext, depth: int) -> None:
        async with limiter.slot(ctx.user_id, ctx=ctx, admitted=True):
            await counter.work(0.002)
            if depth:
                children = (ctx.create_child_context(f"child {number}") for number in range(FAN_OUT))
                await asyncio.gather(*(node(child, depth - 1) for child in children))

    async def root(number: int) -> None:
        await node(UserContextFactory.create_context(f"tree-{number % USERS}"), DEPTH)

    return root


async def _naive(counter: Counter) -> Callable[[int], Awaitable[None]]:
    total = asyncio.Semaphore(LIMIT)
    users = [asyncio.Semaphore(PER_USER) for _ in range(USERS)]

    async def node(user: int, depth: int) -> None:
        async with asyncio.timeout(PATIENCE) as deadline, total, users[user]:
            deadline.reschedule(None)
            await counter.work(0.002)
            if depth:
                await asyncio.gather(*(node(user, depth - 1) for _ in range(FAN_OUT)))

    async def root(number: int) -> None:
        await node(number % USERS, DEPTH)

    return root


def tree(way: str) -> Tree:
    """All users' runs at once: each node works, then has its children work, and waits for them."""
    counter = Counter()
    finished = 0
    started = 0.0
    ended = 0.0

    async def main() -> None:
        nonlocal finished, started, ended
        loop = asyncio.get_running_loop()
        started = loop.time()
        root = await (_ours if way == OURS else _naive)(counter)
        results = await asyncio.gather(*(root(number) for number in range(USERS * ROOTS)), return_exceptions=True)
        finished = sum(result is None for result in results)
        wrong = [result for result in results if not isinstance(result, TimeoutError | LimitRejected | None)]
        if wrong:
            raise wrong[0]
        ended = loop.time()

    run(main)
    return Tree(way, USERS * ROOTS, finished, counter.total, counter.peak, ended - started)


def pipelines(permits: int | None) -> Pipelines:
    """Each of ten users runs two pipelines of three steps of 5 s, with so many permits in all, or the default's."""
    counter = Counter()
    throttled: set[str] = set()
    finished = 0
    seconds = 0.0

    class Step(BaseAgent):
        async def execute_with_context(self, _context: UserExecutionContext, _request: Any) -> str:
            await counter.work(5)
            return "done"

    class First(Step):
        name = "first"

    class Second(Step):
        name = "second"

    class Third(Step):
        name = "third"

    async def one(factory: ExecutionEngineFactory, user: int) -> bool:
        ctx = UserContextFactory.create_context(f"pipelines-{user}")
        async with factory.user_execution_scope(ctx) as engine:
            watching = asyncio.create_task(_watch(ctx, throttled))
            try:
                return (await engine.execute_agent_pipeline(["first", "second", "third"], request={})).success
            finally:
                watching.cancel()

    async def main() -> None:
        nonlocal finished, seconds
        loop = asyncio.get_running_loop()
        registry = AgentRegistry()
        for agent in (First, Second, Third):
            registry.register(agent)
        limiter = FairLimiter() if permits is None else FairLimiter(permits)
        # By default a run that gets no permit for 2 s is refused, and may come again. Here all are to run.
        agents = AgentInstanceFactory(registry)
        factory = ExecutionEngineFactory(agent_factory=agents, limiter=limiter, admission_timeout=30)
        started = loop.time()
        results = await asyncio.gather(
            *(one(factory, user) for user in range(USERS) for _ in range(2)), return_exceptions=True
        )
        finished = sum(result is True for result in results)
        seconds = loop.time() - started
        await factory.shutdown()

    run(main)
    total = FairLimiter().stats()["total"] if permits is None else permits
    return Pipelines(total, 2 * USERS, finished, len(throttled), counter.peak, seconds)


async def _watch(ctx: UserExecutionContext, seen: set[str]) -> None:
    while True:
        if ctx.status is ExecutionStatus.THROTTLED:
            seen.add(ctx.run_id)
        await asyncio.sleep(0.5)


def verdicts(trees: list[Tree], runs: list[Pipelines]) -> Iterator[Verdict]:
    """What must hold."""
    for found in trees:
        if found.way == OURS:
            what = f"{USERS} users x {ROOTS} runs x depth {DEPTH} x fan-out {FAN_OUT} at {LIMIT} permits"
            yield Verdict(f"{what}: finished", str(found.roots), str(found.finished), found.finished == found.roots)
            yield Verdict(f"{what}: peak", str(LIMIT), str(found.peak), found.peak == LIMIT)
    for row in runs:
        what = f"{USERS} users x 2 pipelines x 3 steps of 5 s at {row.permits} permits"
        yield Verdict(f"{what}: finished", str(row.pipelines), str(row.finished), row.finished == row.pipelines)
        if row.permits == LIMIT:
            yield Verdict(f"{what}: runs seen Throttled", "≥ 1", str(row.throttled), row.throttled >= 1)


__all__ = ["NAIVE", "OURS", "NothingLeftError", "pipelines", "tree", "verdicts"]
