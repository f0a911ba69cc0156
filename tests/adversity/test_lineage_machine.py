"""Lineage against a model: children and copies, their ids, depths and data, and who is found to share a container."""

from __future__ import annotations

import copy
import gc
import itertools
from dataclasses import dataclass, field
from typing import Any

import isolane
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from isolane import (
    ContextIsolationError,
    InvalidContextError,
    UserContextFactory,
    UserExecutionContext,
    audit_isolation,
)

pytestmark = pytest.mark.timeout(1_800)

_examples = itertools.count(1)
USERS = ("ann", "ben")
OPERATIONS = ("a", "b", "a_b", "b_2", "a_2", "Ärger 7")
KEYS = ("rows", "deep", "note")
MAX_DEPTH = 10

plain = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3)
trees = st.recursive(
    plain,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("xyz"), below, max_size=3),
    max_leaves=6,
)
scratch = st.dictionaries(st.sampled_from(KEYS), trees, max_size=3)


def containers(value: Any) -> list[Any]:
    """Return all dictionaries and lists of a tree."""
    if isinstance(value, dict):
        return [value, *itertools.chain.from_iterable(containers(inner) for inner in value.values())]
    if isinstance(value, list):
        return [value, *itertools.chain.from_iterable(containers(inner) for inner in value)]
    return []


@dataclass(eq=False)
class Expected:
    """What a context must be. ``agent`` and ``audit`` equal its dictionaries, in objects of the model's own."""

    ctx: UserExecutionContext
    user: str
    thread: str
    run: str
    request: str
    depth: int
    parent: str | None
    session: object
    socket: str | None
    agent: dict[str, Any]
    audit: dict[str, Any]
    path: tuple[int, ...]
    taken: set[str] = field(repr=False)
    """The request ids of the run, shared by its family."""


class LineageMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.example = next(_examples)
        self.nodes: list[Expected] = []
        self.given: list[tuple[dict[str, Any], dict[str, Any]]] = []
        """Dictionaries that callers handed in and what was in them."""
        self.made = 0

    def node(self, data: st.DataObject) -> Expected:
        return data.draw(st.sampled_from(self.nodes), label="context")

    # -- making --------------------------------------------------------------------------------------------------------

    @rule(user=st.sampled_from(USERS), agent=scratch, audit=scratch)
    def root(self, user: str, agent: dict[str, Any], audit: dict[str, Any]) -> None:
        self.made += 1
        name = f"{user}-{self.example}-of-lineage"
        ctx = UserContextFactory.create_context(name, agent_context=agent, audit_metadata=audit)
        self.given += [(agent, copy.deepcopy(agent)), (audit, copy.deepcopy(audit))]
        self.nodes.append(
            Expected(
                ctx=ctx,
                user=name,
                thread=ctx.thread_id,
                run=ctx.run_id,
                request=ctx.request_id,
                depth=0,
                parent=None,
                session=None,
                socket=None,
                agent=copy.deepcopy(agent),
                audit=copy.deepcopy(audit),
                path=tuple(ctx._lineage),
                taken={ctx.request_id},
            )
        )
        assert len(ctx._lineage) == 1

    def child_of(self, node: Expected, operation: str, agent: dict[str, Any] | None, audit: Any) -> Any:
        return node.ctx.create_child_context(operation, agent, audit)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), operation=st.sampled_from(OPERATIONS), agent=st.none() | scratch, audit=st.none() | scratch)
    def child(self, data: st.DataObject, operation: str, agent: Any, audit: Any) -> None:
        node = self.node(data)
        if node.depth == MAX_DEPTH:
            with pytest.raises(InvalidContextError) as caught:
                node.ctx.create_child_context(operation)
            assert (caught.value.field, caught.value.rule) == ("operation_depth", "depth")
            return
        ctx = self.child_of(node, operation, agent, audit)
        base = request = f"{node.request}_{operation}"
        counter = itertools.count(2)
        while request in node.taken:
            request = f"{base}_{next(counter)}"
        node.taken.add(request)
        expected_agent = copy.deepcopy({**node.agent, **(agent or {})})
        expected_agent["parent_operation"] = node.agent.get("operation_name", "root")
        expected_agent["operation_name"] = operation
        expected_agent["operation_depth"] = node.depth + 1
        self.nodes.append(
            Expected(
                ctx=ctx,
                user=node.user,
                thread=node.thread,
                run=node.run,
                request=request,
                depth=node.depth + 1,
                parent=node.request,
                session=node.session,
                socket=node.socket,
                agent=expected_agent,
                audit=copy.deepcopy({**node.audit, **(audit or {})}),
                path=(*node.path, ctx._lineage[-1]),
                taken=node.taken,
            )
        )
        assert ctx._lineage[-1] not in {number for other in self.nodes[:-1] for number in other.path}

    @precondition(lambda self: any(node.depth for node in self.nodes))
    @rule(data=st.data(), times=st.integers(2, 6))
    def chain(self, data: st.DataObject, times: int) -> None:
        """Reach the depth that is refused."""
        for _ in range(times):
            deepest = max(self.nodes, key=lambda node: node.depth)
            others, self.nodes = self.nodes, [deepest]
            self.child(data, "a", None, None)
            self.nodes = [*others, *self.nodes[1:]]

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), session=st.booleans())
    def copied(self, data: st.DataObject, session: bool) -> None:
        """A copy is the same place of the run with one thing changed, and with data of its own."""
        node = self.node(data)
        held, socket = (object(), node.socket) if session else (node.session, f"ws-{self.made}")
        self.made += 1
        ctx = node.ctx.with_db_session(held) if session else node.ctx.with_websocket_connection(str(socket))
        changed = Expected(**{**vars(node), "ctx": ctx, "session": held, "socket": socket})
        changed.agent, changed.audit = copy.deepcopy(node.agent), copy.deepcopy(node.audit)
        self.nodes.append(changed)
        assert copy.copy(node.ctx) is node.ctx
        with pytest.raises(TypeError, match="deep-copied"):
            copy.deepcopy(node.ctx)

    # -- writing -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), key=st.sampled_from(KEYS), value=trees, audit=st.booleans())
    def write(self, data: st.DataObject, key: str, value: Any, audit: bool) -> None:
        node = self.node(data)
        real = node.ctx.audit_metadata if audit else node.ctx.agent_context
        model = node.audit if audit else node.agent
        real[key], model[key] = value, copy.deepcopy(value)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), at=st.integers(0, 20), audit=st.booleans())
    def write_deep(self, data: st.DataObject, at: int, audit: bool) -> None:
        """Change a container somewhere inside: nobody else may see it."""
        node = self.node(data)
        pairs = [(node.ctx.audit_metadata, node.audit)] if audit else [(node.ctx.agent_context, node.agent)]
        pairs = [
            pair
            for real, model in pairs
            for key in KEYS
            if key in model
            for pair in zip(containers(real[key]), containers(model[key]), strict=True)
        ]
        if not pairs:
            return
        for container in pairs[at % len(pairs)]:
            if isinstance(container, dict):
                container["x"] = "changed"
            else:
                container.append("changed")

    @precondition(lambda self: self.given)
    @rule(at=st.integers(0, 100))
    def caller_changes_what_it_gave(self, at: int) -> None:
        given, _ = self.given[at % len(self.given)]
        for container in containers(given):
            if isinstance(container, dict):
                container["x"] = "of the caller"
            else:
                container.append("of the caller")

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def reader_changes_what_it_got(self, data: st.DataObject) -> None:
        node = self.node(data)
        for container in containers(node.ctx.get_metadata()) + containers(node.ctx.to_dict()):
            if isinstance(container, dict):
                container["x"] = "of the reader"
            else:
                container.append("of the reader")
        with pytest.raises(TypeError):
            node.ctx.metadata["x"] = 1
        with pytest.raises(AttributeError):
            node.ctx.user_id = "somebody"

    # -- sharing -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(data=st.data())
    def share_a_container(self, data: st.DataObject) -> None:
        """Whoever is verified first owns it; the other one is found until it has let go."""
        one, other = self.node(data), self.node(data)
        if one is other:
            assert one.ctx.verify_isolation()
            return
        shared: list[int] = [1]
        one.ctx.agent_context["note"] = other.ctx.agent_context["note"] = shared
        assert one.ctx.verify_isolation()
        with pytest.raises(ContextIsolationError) as caught:
            other.ctx.verify_isolation()
        assert caught.value.boundary == "verify"
        assert not any(user in str(caught.value) for user in USERS)
        assert one.ctx.verify_isolation()
        other.ctx.agent_context["note"] = other.agent["note"] = "own"
        assert other.ctx.verify_isolation()
        one.agent["note"] = [1]

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), key=st.sampled_from(["user_id", "run_id", "db_session"]))
    def plant_a_reserved_key(self, data: st.DataObject, key: str) -> None:
        node = self.node(data)
        node.ctx.agent_context[key] = "x"
        with pytest.raises(ContextIsolationError):
            node.ctx.verify_isolation()
        del node.ctx.agent_context[key]
        assert node.ctx.verify_isolation()

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def every_context_is_what_the_model_says(self) -> None:
        for node in self.nodes:
            ctx = node.ctx
            assert (ctx.user_id, ctx.thread_id, ctx.run_id) == (node.user, node.thread, node.run)
            assert (ctx.request_id, ctx.context_id) == (node.request, node.request)
            assert (ctx.operation_depth, ctx.parent_request_id) == (node.depth, node.parent)
            assert (ctx.websocket_client_id, ctx.websocket_connection_id) == (node.socket, node.socket)
            assert ctx.db_session is node.session
            assert tuple(ctx._lineage) == node.path
            assert ctx.agent_context == node.agent
            audit = ctx.audit_metadata
            assert {key: value for key, value in audit.items() if key in KEYS} == node.audit
            assert audit["operation_depth"] == node.depth
            assert audit.get("parent_request_id") == node.parent
            assert ctx == ctx and hash(ctx) == hash(ctx)  # noqa: PLR0124, PT018

    @invariant()
    def no_two_contexts_hold_the_same_container(self) -> None:
        owners: dict[int, int] = {}
        for at, node in enumerate(self.nodes):
            for container in containers(node.ctx.agent_context) + containers(node.ctx.audit_metadata):
                assert owners.setdefault(id(container), at) == at

    @invariant()
    def request_ids_of_a_run_name_one_place_each(self) -> None:
        places: dict[tuple[str, str], tuple[int, ...]] = {}
        for node in self.nodes:
            assert places.setdefault((node.run, node.ctx.request_id), node.path) == node.path

    def teardown(self) -> None:
        for node in self.nodes:
            assert node.ctx.verify_isolation()
        mine = {node.ctx.get_correlation_id() for node in self.nodes}
        assert not [finding for finding in audit_isolation() if finding.context in mine]
        users = {node.user for node in self.nodes}
        self.nodes.clear()
        node = None
        gc.collect()
        for user in users:
            assert isolane.lane_usage(user)["handles"] == 0


_profile = settings.get_profile("machines")
# Each example ends with two looks over the whole heap.
LineageMachine.TestCase.settings = settings(
    _profile, max_examples=max(1, _profile.max_examples // 3), stateful_step_count=25
)
TestLineage = LineageMachine.TestCase


def aliased(node: Expected, operation: str, agent: Any, audit: Any) -> Any:
    """A child that has its parent's containers instead of copies."""
    ctx = node.ctx.create_child_context(operation, agent, audit)
    for key, value in node.ctx.agent_context.items():
        if key in KEYS and key not in (agent or {}):
            ctx.agent_context[key] = value
    return ctx


def numbered_badly(node: Expected, operation: str, agent: Any, audit: Any) -> Any:
    """A child whose name was given before."""
    ctx = node.ctx.create_child_context(operation, agent, audit)
    return UserExecutionContext(
        ctx.user_id, ctx.thread_id, ctx.run_id, f"{node.request}_{operation}", agent_context=ctx.agent_context
    )


def too_deep(node: Expected, operation: str, agent: Any, audit: Any) -> Any:
    return node.ctx.create_child_context("between").create_child_context(operation, agent, audit)


@pytest.mark.parametrize("fault", [aliased, numbered_badly, too_deep])
def test_the_machine_finds_a_planted_fault(fault) -> None:
    class Faulty(LineageMachine):
        def child_of(self, *arguments: Any) -> Any:
            return fault(*arguments)

    with pytest.raises((AssertionError, ContextIsolationError, ExceptionGroup)):
        run_state_machine_as_test(Faulty, settings=settings(settings.get_profile("short"), phases=[Phase.generate]))
    gc.collect()
