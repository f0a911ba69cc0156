"""Contexts and their children against the same rules in a frozen dataclass and a frozen pydantic model."""

from collections.abc import Callable
from typing import Any

from isolane import UserExecutionContext

from benches.python.cases.data import nodes, tree
from benches.python.measure import Case, Run, Side, calls, now
from benches.python.peers.dataclass_context import DataclassContext
from benches.python.peers.pydantic_context import PydanticContext
from benches.python.reading import read_all

GROUP = "Contexts"
IDS = {"user_id": "user-7c21", "thread_id": "thread-5d0a", "run_id": "run-93ab"}
SIBLINGS = 10

Make = Callable[..., Any]
OWN = "isolane UserExecutionContext"
DATACLASS = "frozen dataclass"
PYDANTIC = "frozen pydantic model"

SIZE = f"{nodes(tree())} values"
CREATED = "created, empty"
CREATED_TREE = f"created, {SIZE}"
READ = "created and every field read, empty"
READ_TREE = f"created and every field read, {SIZE}"
CHILD = "child, empty"
CHILD_TREE = f"child, {SIZE}"
CHILD_READ = "child and every field read, empty"
CHILD_READ_TREE = f"child and every field read, {SIZE}"
SAME_NAME = "child, 500 of one name under one root"

NOTE = (
    "The peers check the same rules: required ids, their length, control characters, placeholder words and beginnings, "
    "reserved keys, an aware creation time; they copy both dictionaries deeply and add the keys of the audit metadata. "
    "They do not keep a lane, a table of run states or an audit record, and their time and audit metadata are made at "
    "once, as in a dataclass. isolane makes these when they are read: hence the cases with every field read."
)

Make = Callable[..., Any]
KINDS: tuple[tuple[str, Make], ...] = (
    (OWN, UserExecutionContext),
    (DATACLASS, DataclassContext),
    (PYDANTIC, PydanticContext),
)


def _creation(make: Make, data: dict[str, Any] | None, *, read: bool) -> Run:
    ids = IDS if data is None else {**IDS, "agent_context": data}
    if read:
        return calls(lambda: read_all(make(**ids)))
    return calls(lambda: make(**ids))


def children(make: Make, data: dict[str, Any] | None, siblings: int, *, read: bool) -> Run:
    """Children under roots that were made before; each root gets as many as a pipeline has steps."""
    ids = IDS if data is None else {**IDS, "agent_context": data}
    names = [f"step_{n}" for n in range(siblings)]

    def run(loops: int) -> float:
        roots = [make(**ids) for _ in range(-(-loops // siblings))]
        left = loops
        start = now()
        for root in roots:
            for name in names[:left]:
                child = root.create_child_context(name)
                if read:
                    read_all(child)
            left -= siblings
        return now() - start

    return run


def _same_name(make: Make, siblings: int) -> Run:
    """Children of one root that all ask for the same name."""

    def run(loops: int) -> float:
        roots = [make(**IDS) for _ in range(-(-loops // siblings))]
        left = loops
        start = now()
        for root in roots:
            for _ in range(min(siblings, left)):
                root.create_child_context("step")
            left -= siblings
        return now() - start

    return run


def _case(name: str, timed: Callable[[Make], Run], note: str = "") -> Case:
    return Case(GROUP, name, tuple(Side(label, timed(make)) for label, make in KINDS), note=note)


def cases() -> list[Case]:
    """Creation and children, empty and with data, untouched and read."""
    data = tree()
    return [
        _case(CREATED, lambda make: _creation(make, None, read=False), NOTE),
        _case(READ, lambda make: _creation(make, None, read=True)),
        _case(CREATED_TREE, lambda make: _creation(make, data, read=False)),
        _case(READ_TREE, lambda make: _creation(make, data, read=True)),
        _case(CHILD, lambda make: children(make, None, SIBLINGS, read=False)),
        _case(CHILD_READ, lambda make: children(make, None, SIBLINGS, read=True)),
        _case(CHILD_TREE, lambda make: children(make, data, SIBLINGS, read=False)),
        _case(CHILD_READ_TREE, lambda make: children(make, data, SIBLINGS, read=True)),
        _case(SAME_NAME, lambda make: _same_name(make, 500)),
    ]
