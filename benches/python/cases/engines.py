"""Engines: a slot, an emitter, a lifetime, and their end. There is no peer that does the same work."""

import time

from isolane import (
    ExecutionEngineFactory,
    FairLimiter,
    UserContextFactory,
    WebSocketBridgeFactory,
    WebSocketConfig,
    sweep_lanes,
)

from benches.python.measure import Case, Side, Timed, awaits

GROUP = "Engines"
BATCH = 200


def _factory() -> ExecutionEngineFactory:
    bridge = WebSocketBridgeFactory(WebSocketConfig(retention_seconds=0))
    return ExecutionEngineFactory(bridge, limiter=FairLimiter())


def _create_and_clean(*, contexts_too: bool) -> Timed:
    async def run(loops: int) -> float:
        factory = _factory()
        taken = 0.0
        left = loops
        while left > 0:
            batch = min(BATCH, left)
            made = [] if contexts_too else [UserContextFactory.create_context("user-7c21") for _ in range(batch)]
            start = time.perf_counter()
            for number in range(batch):
                context = UserContextFactory.create_context("user-7c21") if contexts_too else made[number]
                engine = await factory.create_for_user(context)
                await factory.cleanup_engine(engine)
                if contexts_too:
                    await context.cleanup()
            taken += time.perf_counter() - start
            for context in made:
                await context.cleanup()
            sweep_lanes()
            left -= batch
        await factory.shutdown(0)
        return taken

    return awaits(run)


def cases() -> list[Case]:
    """An engine alone, and with its context."""
    return [
        Case(
            GROUP,
            "create_for_user and cleanup_engine",
            (Side("isolane ExecutionEngineFactory", _create_and_clean(contexts_too=False)),),
        ),
        Case(
            GROUP,
            "the same with the context made and cleaned up",
            (Side("isolane ExecutionEngineFactory", _create_and_clean(contexts_too=True)),),
        ),
    ]
