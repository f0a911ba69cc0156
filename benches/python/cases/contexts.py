"""Contexts and their children against the same rules in a frozen dataclass and a frozen pydantic model."""

import time
from collections.abc import Callable
from typing import Any

from isolane import UserExecutionContext

from benches.python.cases.data import nodes, tree
from benches.python.measure import Case, Side, Timed, calls
from benches.python.peers.dataclass_context import DataclassContext
from benches.python.peers.pydantic_context import PydanticContext

GROUP = "Contexts"
IDS = {"user_id": "user-7c21", "thread_id": "thread-5d0a", "run_id": "run-93ab"}
SIBLINGS = 10

Make = Callable[..., Any]
KINDS: tuple[tuple[str, Make], ...] = (
    ("isolane UserExecutionContext", UserExecutionContext),
    ("frozen dataclass", DataclassContext),
    ("frozen pydantic model", PydanticContext),
)


def read_all(ctx: Any) -> tuple[Any, ...]:
    """Read every field, so that nothing is left to be made later."""
    return (
        ctx.user_id,
        ctx.thread_id,
        ctx.run_id,
        ctx.request_id,
        ctx.db_session,
        ctx.websocket_client_id,
        ctx.created_at,
        ctx.agent_context,
        ctx.audit_metadata,
        ctx.operation_depth,
        ctx.parent_request_id,
    )


def _creation(make: Make, data: dict[str, Any] | None, *, read: bool) -> Timed:
    ids = IDS if data is None else {**IDS, "agent_context": data}
    if read:
        return calls(lambda: read_all(make(**ids)))
    return calls(lambda: make(**ids))


def _children(make: Make, data: dict[str, Any] | None, siblings: int, *, read: bool) -> Timed:
    """Children under roots that were made before; each root gets as many as a pipeline has steps."""
    ids = IDS if data is None else {**IDS, "agent_context": data}
    names = [f"step_{n}" for n in range(siblings)]

    def run(loops: int) -> float:
        roots = [make(**ids) for _ in range(-(-loops // siblings))]
        left = loops
        start = time.perf_counter()
        for root in roots:
            for name in names[:left]:
                child = root.create_child_context(name)
                if read:
                    read_all(child)
            left -= siblings
        return time.perf_counter() - start

    return run


def _same_name(make: Make, siblings: int) -> Timed:
    """Children of one root that all ask for the same name."""

    def run(loops: int) -> float:
        roots = [make(**IDS) for _ in range(-(-loops // siblings))]
        left = loops
        start = time.perf_counter()
        for root in roots:
            for _ in range(min(siblings, left)):
                root.create_child_context("step")
            left -= siblings
        return time.perf_counter() - start

    return run


def _case(name: str, timed: Callable[[Make], Timed]) -> Case:
    return Case(GROUP, name, tuple(Side(label, timed(make)) for label, make in KINDS))


def cases() -> list[Case]:
    """Creation and children, empty and with data, untouched and read."""
    data = tree()
    size = f"{nodes(data)} values"
    return [
        _case("created, empty", lambda make: _creation(make, None, read=False)),
        _case("created and every field read, empty", lambda make: _creation(make, None, read=True)),
        _case(f"created, {size}", lambda make: _creation(make, data, read=False)),
        _case(f"created and every field read, {size}", lambda make: _creation(make, data, read=True)),
        _case("child, empty", lambda make: _children(make, None, SIBLINGS, read=False)),
        _case("child and every field read, empty", lambda make: _children(make, None, SIBLINGS, read=True)),
        _case(f"child, {size}", lambda make: _children(make, data, SIBLINGS, read=False)),
        _case(f"child and every field read, {size}", lambda make: _children(make, data, SIBLINGS, read=True)),
        _case("child, 500 of one name under one root", lambda make: _same_name(make, 500)),
    ]
