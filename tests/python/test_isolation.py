"""verify_isolation and audit_isolation: what is planted is found, what is innocent is not, and no text has data."""

import gc
import sys
from types import SimpleNamespace

import isolane
import pytest
from isolane import ContextIsolationError, UserContextFactory, UserExecutionContext, audit_isolation
from isolane._core import EventCursor


class Session:
    """A database session."""


@pytest.fixture(autouse=True)
def nothing_was_planted_before():
    """Contexts of other tests must not be found by the audits of these."""
    gc.collect()
    assert audit_isolation() == []


def of(contexts: list[UserExecutionContext]) -> list:
    ids = {ctx.get_correlation_id() for ctx in contexts}
    return [finding for finding in audit_isolation() if finding.context in ids]


# -- the same container in two live contexts ---------------------------------------------------------------------------


PLACES = {
    "at the top": lambda ctx, value: ctx.agent_context.__setitem__("k", value),
    "deep inside": lambda ctx, value: ctx.agent_context.__setitem__("k", {"a": [1, {"b": value}]}),
    "in a tuple": lambda ctx, value: ctx.agent_context.__setitem__("k", (1, (value,))),
    "in the audit metadata": lambda ctx, value: ctx.audit_metadata.__setitem__("k", value),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shared", [{"s": 1}, [1], {1}, bytearray(b"x")], ids=lambda value: type(value).__name__)
def test_a_container_in_two_live_contexts_is_found(new_context, place, shared):
    one, two = new_context(), new_context()
    assert one.verify_isolation()
    PLACES[place](one, shared)
    PLACES[place](two, shared)
    findings = of([one, two])
    assert findings
    assert {finding.kind for finding in findings} == {"shared_container"}
    assert all("k" in finding.path for finding in findings)
    assert one.verify_isolation()
    with pytest.raises(ContextIsolationError, match="held by another live context") as caught:
        two.verify_isolation()
    assert caught.value.boundary == "verify"
    assert one.user_id not in str(caught.value)
    assert one.user_id[:8] not in str(caught.value).replace(two.user_id, "")


def test_the_audit_finds_what_no_context_ever_verified(new_context):
    one, two = new_context(), new_context()
    one.agent_context["rows"] = two.agent_context["rows"] = [1]
    (finding,) = of([one, two])
    assert (finding.kind, finding.path) == ("shared_container", "agent_context['rows']")
    assert {finding.context, finding.other} == {one.get_correlation_id(), two.get_correlation_id()}
    assert "copy of its own" in finding.detail
    assert "rows" in repr(finding)


def test_contexts_of_one_user_do_not_share_containers_either(new_context, alice):
    one, two = new_context(alice), new_context(alice)
    one.agent_context["rows"] = two.agent_context["rows"] = [1]
    assert len(of([one, two])) == 1


def test_a_parent_and_its_child_do_not_share_containers(context):
    context.agent_context["rows"] = [1]
    child = context.create_child_context("op")
    assert of([context, child]) == []
    child.agent_context["rows"] = context.agent_context["rows"]
    assert context.verify_isolation()
    with pytest.raises(ContextIsolationError):
        child.verify_isolation()


def test_a_container_that_moved_is_not_shared(new_context):
    one, two = new_context(), new_context()
    rows = [1]
    one.agent_context["rows"] = rows
    assert one.verify_isolation()
    two.agent_context["rows"] = one.agent_context.pop("rows")
    assert two.verify_isolation()
    assert one.verify_isolation()
    one.agent_context["rows"] = rows
    with pytest.raises(ContextIsolationError):
        one.verify_isolation()


def test_a_container_of_a_context_that_is_gone_is_not_shared(new_context):
    """An id-based registry goes stale when an address is used again (failure 32)."""
    for _ in range(200):
        ctx = new_context()
        ctx.agent_context["rows"] = [1]
        ctx.agent_context["more"] = {"a": [1]}
        assert ctx.verify_isolation()
        del ctx
    rows = [1]
    one, two = new_context(), new_context()
    one.agent_context["rows"] = rows
    assert one.verify_isolation()
    del one
    gc.collect()
    two.agent_context["rows"] = rows
    assert two.verify_isolation()


async def test_a_container_of_a_context_that_ended_is_not_held_by_it_any_more(new_context):
    one, two = new_context(), new_context()
    one.agent_context["rows"] = two.agent_context["rows"] = [1]
    assert one.verify_isolation()
    await one.cleanup()
    assert two.verify_isolation()


def test_the_same_container_twice_in_one_context_is_its_own(context):
    rows = [1]
    context.agent_context["a"] = context.agent_context["b"] = rows
    context.agent_context["self"] = context.agent_context
    assert context.verify_isolation()
    assert of([context]) == []


def test_equal_and_immutable_values_are_not_shared_containers(new_context):
    text, number, pair, frozen = "x" * 1_000, 10**20, (1, 2), frozenset({1})
    contexts = [new_context() for _ in range(2)]
    for ctx in contexts:
        ctx.agent_context.update(text=text, number=number, pair=pair, frozen=frozen, rows=[1])
        assert ctx.verify_isolation()
    assert of(contexts) == []


# -- a session of two users --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", ["construction", "with_db_session"])
def test_a_session_of_two_users_is_found_in_both_contexts(new_context, bind):
    session = Session()
    if bind == "construction":
        one, two = (
            UserExecutionContext(f"user-{name}-of-isolation", "thread-7", f"run-{name}", db_session=session)
            for name in "ab"
        )
    else:
        one, two = (new_context().with_db_session(session) for _ in range(2))
    for ctx in (one, two):
        with pytest.raises(ContextIsolationError, match="Database session is shared between contexts") as caught:
            ctx.verify_isolation()
        assert one.user_id not in str(caught.value)
        assert two.user_id not in str(caught.value)
    assert {finding.kind for finding in of([one, two])} == {"shared_session"}


def test_a_session_may_serve_the_children_and_copies_of_its_context(new_context):
    session = Session()
    ctx = new_context().with_db_session(session)
    family = [ctx, ctx.create_child_context("op"), ctx.with_websocket_connection("ws-1")]
    assert all(one.verify_isolation() for one in family)


async def test_a_session_is_free_when_its_context_ended_or_is_gone(new_context):
    session = Session()
    for end in ("cleanup", "collect"):
        one = new_context().with_db_session(session)
        if end == "cleanup":
            await one.cleanup()
        else:
            del one
            gc.collect()
        two = new_context().with_db_session(session)
        assert two.verify_isolation()
        del two


# -- a forged owner ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_an_object_of_another_user_is_found(new_context, bob, place):
    ctx = new_context()
    PLACES[place](ctx, SimpleNamespace(user_id=bob, secret="hunter2"))
    with pytest.raises(ContextIsolationError, match="Cross-user contamination") as caught:
        ctx.verify_isolation()
    assert bob not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    (finding,) = of([ctx])
    assert finding.kind == "foreign_object"
    assert bob not in repr(finding)


def test_contexts_emitters_and_cursors_of_another_user_are_found(new_context, bob):
    foreign = new_context(bob)
    for thing in (foreign, foreign.get_websocket_emitter(), EventCursor(bob)):
        ctx = new_context()
        ctx.agent_context["thing"] = thing
        with pytest.raises(ContextIsolationError):
            ctx.verify_isolation()


def test_objects_of_ones_own_and_of_nobody_are_fine(context):
    context.agent_context["own"] = SimpleNamespace(user_id=context.user_id)
    context.agent_context["nobody"] = SimpleNamespace(user_id=None)
    context.agent_context["row"] = {"user_id": "a column of the data"}

    class Angry:
        @property
        def user_id(self) -> str:
            raise RuntimeError("not now")

    context.agent_context["angry"] = Angry()
    assert context.verify_isolation()


@pytest.mark.parametrize("key", ["user_id", "db_session", "request_id"])
def test_a_reserved_key_written_later_is_found(context, key):
    context.agent_context[key] = "forged"
    with pytest.raises(ContextIsolationError, match="reserved key"):
        context.verify_isolation()
    assert of([context])[0].kind == "reserved_key"
    context.agent_context.pop(key)
    assert context.verify_isolation()


# -- cost and counts ---------------------------------------------------------------------------------------------------


def test_each_violation_is_counted_at_its_boundary(new_context, bob):
    ctx = new_context()
    ctx.agent_context["thing"] = SimpleNamespace(user_id=bob)
    before = isolane.isolation_violations()
    assert set(before) == {"publish", "subscribe", "write", "bind", "verify", "content", "access"}
    with pytest.raises(ContextIsolationError):
        ctx.verify_isolation()
    assert isolane.isolation_violations()["verify"] == before["verify"] + 1


def test_a_verification_is_bounded(context):
    nested: dict = {}
    for _ in range(50_000):
        nested = {"d": nested}
    context.agent_context["deep"] = nested
    context.agent_context["wide"] = [[] for _ in range(50_000)]
    assert context.verify_isolation()
    context.agent_context.clear()
    while nested:
        nested = nested["d"]


def test_what_a_key_says_of_itself_cannot_change_what_is_walked(context):
    class Key(int):
        def __repr__(self) -> str:
            context.agent_context["late"] = 1
            return "key"

    context.agent_context[Key(7)] = [1]
    assert context.verify_isolation()


def test_the_audit_does_not_keep_contexts_alive(new_context):
    ctx = new_context()
    references = sys.getrefcount(ctx)
    audit_isolation()
    assert sys.getrefcount(ctx) == references


def test_contexts_with_generated_ids_never_meet():
    contexts = [
        UserContextFactory.create_context(f"user-{at}-of-isolation", agent_context={"k": [at]}) for at in range(300)
    ]
    assert all(ctx.verify_isolation() for ctx in contexts)
    assert of(contexts) == []
    assert len({ctx.run_id for ctx in contexts}) == 300
