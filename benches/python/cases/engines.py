"""Engines: a slot, an emitter, a lifetime, and their end."""

from collections.abc import Awaitable, Callable
from typing import Any

from isolane import (
    ExecutionEngineFactory,
    FairLimiter,
    UserContextFactory,
    WebSocketBridgeFactory,
    WebSocketConfig,
    sweep_lanes,
)

from benches.python.measure import Case, Run, Side, awaits, now
from benches.python.peers.dataclass_context import DataclassContext
from benches.python.peers.engine_factory import EngineFactory

GROUP = "Engines"
BATCH = 200
USER = "user-7c21"


class Own:
    """isolane's factory and contexts."""

    def __init__(self) -> None:
        bridge = WebSocketBridgeFactory(WebSocketConfig(retention_seconds=0))
        self.factory = ExecutionEngineFactory(bridge, limiter=FairLimiter())

    def context(self) -> Any:
        return UserContextFactory.create_context(USER)

    async def end(self, context: Any) -> None:
        await context.cleanup()

    async def close(self) -> None:
        sweep_lanes()
        await self.factory.shutdown(0)


class Peer:
    """The same in plain Python."""

    def __init__(self) -> None:
        self.factory = EngineFactory()
        self.made = 0

    def context(self) -> Any:
        self.made += 1
        return DataclassContext(USER, f"thread-{self.made}", f"run-{self.made}")

    async def end(self, context: Any) -> None:
        """A dataclass holds nothing that has to be closed."""

    async def close(self) -> None:
        """Nor does the factory."""


Kit = Own | Peer


async def make_and_end(kit: Kit, count: int) -> float:
    """Engines one after the other, for contexts that exist."""
    factory: Any = kit.factory
    contexts = [kit.context() for _ in range(count)]
    start = now()
    for context in contexts:
        engine = await factory.create_for_user(context)
        await factory.cleanup_engine(engine)
    taken = now() - start
    for context in contexts:
        await kit.end(context)
    return taken


async def _engines_and_contexts(kit: Kit, count: int) -> float:
    factory: Any = kit.factory
    start = now()
    for _ in range(count):
        context = kit.context()
        engine = await factory.create_for_user(context)
        await factory.cleanup_engine(engine)
        await kit.end(context)
    return now() - start


def batches(make: type[Own] | type[Peer], work: Callable[[Kit, int], Awaitable[float]]) -> Run:
    """Some at a time, with a sweep between."""

    async def run(loops: int) -> float:
        kit = make()
        taken = 0.0
        for first in range(0, loops, BATCH):
            taken += await work(kit, min(BATCH, loops - first))
            sweep_lanes()
        await kit.close()
        return taken

    return awaits(run)


OWN = "isolane ExecutionEngineFactory"
PEER = "the same bookkeeping in plain Python"
CREATE = "create_for_user and cleanup_engine"


def cases() -> list[Case]:
    """An engine alone, and with its context."""
    kinds = ((OWN, Own), (PEER, Peer))
    works = (
        (
            CREATE,
            make_and_end,
            "What the peer does and does not do is said in `benches/python/peers/engine_factory.py`.",
        ),
        ("the same with the context made and cleaned up", _engines_and_contexts, ""),
    )
    return [
        Case(GROUP, name, tuple(Side(label, batches(kit, work)) for label, kit in kinds), note=note)
        for name, work, note in works
    ]
