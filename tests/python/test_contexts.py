"""Contexts: fields, children, copies, runs, states, cleanup and the audit record."""

import asyncio
import contextlib
import copy
import dataclasses
import gc
import json
import pickle
import sys
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import isolane
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isolane import (
    ContextPolicy,
    ContextStateError,
    ExecutionStatus,
    InvalidContextError,
    LimitTimeout,
    RunClosed,
    UserContextFactory,
    UserExecutionContext,
)
from isolane._core import user_streams
from isolane.testing import manual_clock

RESERVED = ("user_id", "thread_id", "run_id", "request_id", "created_at", "db_session", "websocket_client_id")


class Session:
    """A database session that notes how it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


# -- fields ------------------------------------------------------------------------------------------------------------


def test_the_fields_stand_in_the_order_of_the_seed():
    session, created = Session(), datetime(2026, 11, 22, 8, 0, 0, 123456, tzinfo=UTC)
    ctx = UserExecutionContext(
        "user-7",
        "thread-7",
        "run-7",
        "req-7",
        session,
        "ws-7",
        created,
        {"a": 1},
        {"b": 2},
        3,
        "req-0",
        session_id="s-7",
    )
    assert (ctx.user_id, ctx.thread_id, ctx.run_id, ctx.request_id) == ("user-7", "thread-7", "run-7", "req-7")
    assert ctx.db_session is session
    assert (ctx.websocket_client_id, ctx.websocket_connection_id, ctx.session_id) == ("ws-7", "ws-7", "s-7")
    assert ctx.created_at == created
    assert ctx.agent_context == {"a": 1}
    assert (ctx.operation_depth, ctx.parent_request_id, ctx.context_id) == (3, "req-0", "req-7")
    assert ctx.audit_metadata == {
        "b": 2,
        "context_created_at": created.isoformat(),
        "context_version": "1.0",
        "isolation_verified": True,
        "operation_depth": 3,
        "parent_request_id": "req-0",
    }


def test_what_is_left_out_has_a_default():
    before = datetime.now(UTC)
    ctx = UserExecutionContext("user-7", "thread-7", "run-7")
    assert ctx.request_id.startswith("req_")
    assert ctx.request_id != UserExecutionContext("user-7", "thread-7", "run-7").request_id
    assert (ctx.db_session, ctx.websocket_client_id, ctx.session_id, ctx.parent_request_id) == (None, None, None, None)
    assert ctx.agent_context == {}
    assert ctx.operation_depth == 0
    assert before <= ctx.created_at <= datetime.now(UTC)
    assert ctx.created_at.utcoffset().total_seconds() == 0


@pytest.mark.parametrize("field", ["user_id", "agent_context", "status", "anything"])
def test_a_context_cannot_be_changed_or_extended(context, field):
    with pytest.raises(dataclasses.FrozenInstanceError, match=field):
        setattr(context, field, "x")
    with pytest.raises(AttributeError):
        delattr(context, field)


def test_contexts_are_equal_by_their_fields_and_hashed_by_their_ids():
    created = datetime.now(UTC)
    one = UserExecutionContext("user-7", "thread-7", "run-7", "req-7", created_at=created, agent_context={"a": [1]})
    two = UserExecutionContext("user-7", "thread-7", "run-7", "req-7", created_at=created, agent_context={"a": [1]})
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two}) == 1
    two.agent_context["a"].append(2)
    assert one != two
    assert hash(one) == hash(two)
    assert one != UserExecutionContext(
        "user-7", "thread-7", "run-7", "req-8", created_at=created, agent_context={"a": [1]}
    )
    assert one != "user-7"


def test_the_representation_shows_short_ids_and_no_data():
    ctx = UserExecutionContext("user-with-a-long-name", "thread-7", "run-7", agent_context={"secret": "hunter2"})
    assert "user-wit" in repr(ctx)
    assert "user-with-a" not in repr(ctx)
    assert "hunter2" not in repr(ctx)
    assert ctx.get_correlation_id() == f"user-wit:thread-7:run-7:{ctx.request_id[:8]}"


@pytest.mark.parametrize("name", ["agent_context", "audit_metadata"])
@pytest.mark.parametrize("key", RESERVED)
def test_reserved_keys_are_refused_in_both_dictionaries(name, key):
    with pytest.raises(InvalidContextError, match="reserved keys") as caught:
        UserExecutionContext("user-7", "thread-7", "run-7", **{name: {key: "x"}})
    assert (caught.value.field, caught.value.rule) == (name, "reserved")
    assert key in str(caught.value)


def test_reserved_words_below_the_top_level_are_data():
    ctx = UserExecutionContext("user-7", "thread-7", "run-7", agent_context={"row": {"user_id": "someone"}})
    assert ctx.agent_context["row"]["user_id"] == "someone"


@pytest.mark.parametrize("value", [[], "text", 7, [("a", 1)]])
def test_dictionaries_must_be_dictionaries(value):
    with pytest.raises(InvalidContextError, match="agent_context must be a dictionary"):
        UserExecutionContext("user-7", "thread-7", "run-7", agent_context=value)


@pytest.mark.parametrize("value", [datetime(2026, 1, 1), 1.0, "2026-01-01"])  # noqa: DTZ001 - naive on purpose
def test_a_creation_time_must_be_aware(value):
    with pytest.raises(InvalidContextError, match="aware datetime") as caught:
        UserExecutionContext("user-7", "thread-7", "run-7", created_at=value)
    assert caught.value.field == "created_at"


@pytest.mark.parametrize("depth", [11, 4_000_000_000, -1])
def test_an_impossible_depth_is_refused(depth):
    with pytest.raises(InvalidContextError, match="depth"):
        UserExecutionContext("user-7", "thread-7", "run-7", operation_depth=depth)


# -- other constructors ------------------------------------------------------------------------------------------------


def test_from_request_generates_a_request_id_for_a_falsy_one():
    for request_id in (None, ""):
        ctx = UserExecutionContext.from_request("user-7", "thread-7", "run-7", request_id)
        assert ctx.request_id.startswith("req_")
    assert UserExecutionContext.from_request("user-7", "thread-7", "run-7", "req-7").request_id == "req-7"


def test_from_fastapi_request_notes_the_transport_without_the_query():
    request = SimpleNamespace(
        client=SimpleNamespace(host="203.0.113.9"),
        headers={
            "user-agent": "curl",
            "x-request-id": "abc",
            "x-forwarded-for": "198.51.100.1",
            "content-type": "text/csv",
        },
        method="POST",
        url=SimpleNamespace(path="/runs", query="token=hunter2"),
    )
    audit = UserExecutionContext.from_fastapi_request(request, "user-7", "thread-7", "run-7").audit_metadata
    assert (
        audit.items()
        >= {
            "client_ip": "203.0.113.9",
            "user_agent": "curl",
            "method": "POST",
            "url": "/runs",
            "content_type": "text/csv",
            "x_request_id": "abc",
            "x_forwarded_for": "198.51.100.1",
        }.items()
    )
    assert "hunter2" not in json.dumps(audit)


def test_from_fastapi_request_says_unknown_for_what_is_missing():
    audit = UserExecutionContext.from_fastapi_request(SimpleNamespace(), "user-7", "thread-7", "run-7").audit_metadata
    assert {audit[key] for key in ("client_ip", "user_agent", "method", "url", "content_type")} == {"unknown"}


def test_from_request_supervisor_splits_by_whole_names_not_by_substrings():
    ctx = UserExecutionContext.from_request_supervisor(
        "user-7",
        "thread-7",
        "run-7",
        metadata={
            "catalog": 1,
            "login_count": 2,
            "audit_id": 3,
            "trace_id": 4,
            "client_ip": "x",
            "curl": 5,
            "operation_depth": 2,
            "parent_request_id": "req-0",
        },
    )
    assert ctx.agent_context == {"catalog": 1, "login_count": 2, "curl": 5}
    assert ctx.audit_metadata.items() >= {"audit_id": 3, "trace_id": 4, "client_ip": "x"}.items()
    assert (ctx.operation_depth, ctx.parent_request_id) == (2, "req-0")


def test_from_request_supervisor_takes_an_absent_parent_as_none():
    ctx = UserExecutionContext.from_request_supervisor(
        "user-7", "thread-7", "run-7", metadata={"parent_request_id": None}
    )
    assert ctx.parent_request_id is None


def test_metadata_that_is_no_dictionary_is_refused_and_not_dropped(context):
    with pytest.raises(InvalidContextError, match="metadata must be a dictionary"):
        UserExecutionContext.from_request_supervisor("user-7", "thread-7", "run-7", metadata=["a"])
    with pytest.raises(InvalidContextError, match="metadata must be a dictionary"):
        context.create_child_context_supervisor("op", ["a"])


def test_the_older_spelling_of_the_dictionaries_is_split_and_warned_of_where_it_is_used(context):
    with pytest.deprecated_call() as caught:
        here = sys._getframe().f_lineno + 1
        ctx = UserExecutionContext("user-7", "thread-7", "run-7", metadata={"note": [1], "trace_id": 4})
        child = context.create_child_context("op", additional_metadata={"note": 2, "audit_id": 5})
    assert [(one.filename, one.lineno) for one in caught] == [(__file__, here), (__file__, here + 1)]
    assert ctx.agent_context == {"note": [1]}
    assert ctx.audit_metadata["trace_id"] == 4
    assert (child.agent_context["note"], child.audit_metadata["audit_id"]) == (2, 5)
    assert "audit_id" not in child.agent_context


def test_a_warning_that_is_an_error_leaves_nothing_behind(context):
    with pytest.raises(DeprecationWarning):
        context.create_child_context("op", additional_metadata={"note": 1})
    # The name was not taken: the next child of that name is the first.
    assert context.create_child_context("op").request_id == f"{context.request_id}_op"


@pytest.mark.parametrize("newer", ["agent_context", "audit_metadata"])
def test_both_spellings_of_the_dictionaries_at_once_are_refused(context, newer):
    with pytest.raises(InvalidContextError) as caught:
        UserExecutionContext("user-7", "thread-7", "run-7", metadata={}, **{newer: {}})
    assert (caught.value.field, caught.value.rule) == ("metadata", "conflict")
    with pytest.raises(InvalidContextError) as caught:
        context.create_child_context("op", additional_metadata={}, **{f"additional_{newer}": {}})
    assert (caught.value.field, caught.value.rule) == ("additional_metadata", "conflict")


def test_two_ids_of_one_socket_are_refused():
    with pytest.raises(InvalidContextError, match="differ") as caught:
        UserExecutionContext("user-7", "thread-7", "run-7", None, None, "ws-1", websocket_connection_id="ws-2")
    assert (caught.value.field, caught.value.rule) == ("websocket_client_id", "conflict")
    ctx = UserExecutionContext("user-7", "thread-7", "run-7", None, None, "ws-1", websocket_connection_id="ws-1")
    assert ctx.websocket_client_id == "ws-1"


def test_a_scoped_key_is_of_one_request(context):
    key = context.get_scoped_key("cache")
    assert key == f"cache:{context.user_id}:{context.request_id}"
    assert context.create_child_context("op").get_scoped_key("cache") != key
    with pytest.raises(ValueError, match="component must be a non-empty string"):
        context.get_scoped_key(" ")


def test_the_context_factory_generates_ids_that_belong_together():
    ctx = UserContextFactory.create_context("user-7")
    assert isolane.UnifiedIDManager.extract_thread_id(ctx.run_id) == ctx.thread_id
    session = Session()
    assert UserContextFactory.create_with_session("user-7", "thread-7", "run-7", session).db_session is session
    with pytest.raises(InvalidContextError):
        UserContextFactory.create_with_session("user-7", "thread-7", "run-7", None)


def test_validate_user_context_takes_nothing_else(context):
    assert isolane.validate_user_context(context) is context
    with pytest.raises(TypeError, match="Expected UserExecutionContext, got: dict"):
        isolane.validate_user_context({"user_id": "user-7"})


# -- deep isolation of the dictionaries --------------------------------------------------------------------------------

JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=20,
)


def containers(value: object, found: list[int] | None = None) -> list[int]:
    found = [] if found is None else found
    if isinstance(value, (dict, list)):
        found.append(id(value))
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for inner in value:
            containers(inner, found)
    return found


@given(st.dictionaries(st.text().filter(lambda key: key not in RESERVED), JSON_LIKE, max_size=5))
def test_a_dictionary_is_copied_in_all_its_depth(data):
    ctx = UserExecutionContext("user-7", "thread-7", "run-7", agent_context=data, audit_metadata=data)
    child = ctx.create_child_context("op")
    copied = ctx.with_websocket_connection("ws-1")
    assert ctx.agent_context == data
    assert copied.agent_context == data
    everyone = [
        data,
        ctx.agent_context,
        ctx.audit_metadata,
        child.agent_context,
        child.audit_metadata,
        copied.agent_context,
    ]
    everyone += [copied.audit_metadata, ctx.to_dict(), ctx.get_metadata(), dict(ctx.metadata), ctx.get_audit_trail()]
    ids = [one for value in everyone for one in containers(value)]
    assert len(ids) == len(set(ids))


def test_aliases_and_cycles_inside_a_dictionary_are_kept():
    row = [1]
    data: dict = {"one": row, "two": row}
    data["self"] = data
    ctx = UserExecutionContext("user-7", "thread-7", "run-7", agent_context=data)
    assert ctx.agent_context["one"] is ctx.agent_context["two"]
    assert ctx.agent_context["one"] is not row
    assert ctx.agent_context["self"]["self"] is ctx.agent_context["self"]
    assert ctx.agent_context["self"] is not data


def test_objects_are_copied_by_the_copy_module():
    inner = SimpleNamespace(rows=[1])
    ctx = UserExecutionContext("user-7", "thread-7", "run-7", agent_context={"object": inner})
    inner.rows.append(2)
    assert ctx.agent_context["object"].rows == [1]


def test_a_very_deep_tree_is_copied_or_refused_but_does_not_overflow():
    for depth in (100, 300, 100_000):
        data: dict = {}
        for _ in range(depth):
            data = {"d": data}
        try:
            ctx = UserExecutionContext("user-7", "thread-7", "run-7", agent_context=data)
        except InvalidContextError as error:
            assert error.rule == "copy"  # noqa: PT017 - either answer is right
        else:
            assert ctx.agent_context is not data
        while data:
            # Taken apart by hand: the interpreter's own way down is a recursion.
            data = data["d"]


def test_what_cannot_be_copied_is_refused_with_the_remedy():
    with pytest.raises(InvalidContextError, match="agent_context cannot be deep-copied") as caught:
        UserExecutionContext("user-7", "thread-7", "run-7", agent_context={"lock": threading.Lock()})
    assert caught.value.rule == "copy"
    assert "bindings" in str(caught.value)


def test_a_handle_written_into_the_scratch_dictionary_is_refused_as_clearly_by_children(context):
    context.agent_context["lock"] = threading.Lock()
    with pytest.raises(InvalidContextError, match="cannot be deep-copied") as caught:
        context.create_child_context("op")
    assert caught.value.rule == "copy"


def test_strict_contexts_have_read_only_dictionaries_and_so_have_their_children():
    ctx = UserExecutionContext("user-7", "thread-7", "run-7", agent_context={"a": 1}, policy=ContextPolicy(strict=True))
    for one in (ctx, ctx.create_child_context("op"), ctx.with_websocket_connection("ws-1")):
        assert one.agent_context["a"] == 1
        with pytest.raises(TypeError):
            one.agent_context["a"] = 2
        with pytest.raises(TypeError):
            one.audit_metadata["a"] = 2


def test_the_merged_metadata_is_read_only_and_audit_wins():
    ctx = UserExecutionContext("user-7", "thread-7", "run-7", agent_context={"k": 1, "l": 1}, audit_metadata={"k": 2})
    assert (ctx.metadata["k"], ctx.metadata["l"]) == (2, 1)
    with pytest.raises(TypeError):
        ctx.metadata["k"] = 3
    own = ctx.get_metadata()
    own["k"] = 3
    assert ctx.get_metadata()["k"] == 2


# -- children and copies -----------------------------------------------------------------------------------------------


def test_a_child_belongs_to_its_parent(new_user):
    session = Session()
    ctx = UserExecutionContext(
        new_user(), "thread-7", "run-7", "req-7", session, "ws-7", agent_context={"k": [1]}, audit_metadata={"a": 1}
    )
    child = ctx.create_child_context("data", {"extra": True}, {"more": 1})
    assert (child.user_id, child.thread_id, child.run_id) == (ctx.user_id, ctx.thread_id, ctx.run_id)
    assert child.db_session is session
    assert child.websocket_client_id == "ws-7"
    assert (child.request_id, child.parent_request_id, child.operation_depth) == ("req-7_data", "req-7", 1)
    assert child.agent_context == {
        "k": [1],
        "operation_name": "data",
        "parent_operation": "root",
        "operation_depth": 1,
        "extra": True,
    }
    assert (
        child.audit_metadata.items()
        >= {
            "a": 1,
            "more": 1,
            "operation_name": "data",
            "operation_depth": 1,
            "parent_request_id": "req-7",
            "child_created_at": child.created_at.isoformat(),
        }.items()
    )
    grandchild = child.create_child_context(agent_name="report")
    assert grandchild.agent_context["parent_operation"] == "data"
    assert (grandchild.request_id, grandchild.operation_depth) == ("req-7_data_report", 2)
    assert "operation_name" not in ctx.agent_context


def test_a_chain_of_children_reaches_depth_ten_and_no_deeper(context):
    ctx = context
    for _ in range(10):
        ctx = ctx.create_child_context("x")
    assert ctx.operation_depth == 10
    with pytest.raises(
        InvalidContextError, match=r"Maximum operation depth \(10\) exceeded. Current depth: 10"
    ) as caught:
        ctx.create_child_context("x")
    assert caught.value.rule == "depth"


@pytest.mark.parametrize("name", ["", "  ", None, 7])
def test_an_operation_needs_a_name(context, name):
    with pytest.raises(InvalidContextError, match="operation_name must be a non-empty string"):
        context.create_child_context(name)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 30),
            st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=90),
        ),
        max_size=40,
    ),
    st.text(min_size=1, max_size=250, alphabet="reqé_2"),
)
def test_request_ids_are_unique_in_a_run_and_bounded(steps, request):
    """Whatever the operations are called, and however names and counters could be confused."""
    root = UserExecutionContext("user-7", "thread-7", "run-7", f"r{request}")
    family = [root]
    for parent, name in steps:
        above = family[parent % len(family)]
        if above.operation_depth == 10 or not name.strip():
            continue
        child = above.create_child_context(name)
        assert child.parent_request_id == above.request_id
        assert child.operation_depth == above.operation_depth + 1
        family.append(child)
    ids = [ctx.request_id for ctx in family]
    assert len(ids) == len(set(ids))
    assert all(len(one) <= 256 for one in ids)


def test_names_stay_unique_when_there_are_very_many_children(context):
    ids = {context.create_child_context("same").request_id for _ in range(5_000)}
    assert len(ids) == 5_000


def test_children_made_by_several_threads_have_names_of_their_own(context):
    made: list[str] = []

    def make() -> None:
        made.extend([context.create_child_context("same").request_id for _ in range(300)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1_200


def test_a_refused_child_leaves_no_trace(context):
    with pytest.raises(InvalidContextError):
        context.create_child_context("op", {"user_id": "x"})
    assert all(line["event"] != "child_created" for line in context.get_audit_trail()["record"])


def test_a_copy_with_another_session_or_socket_is_the_same_context(context):
    session, ran = Session(), []
    context.agent_context["k"] = [1]
    copied = context.with_db_session(session).with_websocket_connection("ws-9")
    assert (copied.db_session, copied.websocket_client_id) == (session, "ws-9")
    assert (copied.request_id, copied.created_at) == (context.request_id, context.created_at)
    assert copied.agent_context == {"k": [1]}
    assert copied.agent_context["k"] is not context.agent_context["k"]
    copied.register_cleanup_callback(lambda: ran.append("copy's"))
    run = copied.record_run_start(agent_type="data")
    assert run in context.active_runs
    asyncio.run(context.cleanup())
    assert ran == ["copy's"]
    assert copied.status == ExecutionStatus.CLEANED


def test_copies_refuse_nothing_and_blank(context):
    with pytest.raises(InvalidContextError, match="db_session must not be None"):
        context.with_db_session(None)
    for value in ("", "  ", None, 7):
        with pytest.raises(InvalidContextError, match="connection_id"):
            context.with_websocket_connection(value)


def test_copy_is_itself_and_deep_copies_and_pickles_say_why_not(context):
    assert copy.copy(context) is context
    with pytest.raises(TypeError, match="create_child_context"):
        copy.deepcopy(context)
    with pytest.raises(TypeError, match="to_dict"):
        pickle.dumps(context)


def test_to_dict_is_json_able_and_has_both_spellings_and_no_session(new_context):
    ctx = new_context(agent_context={"k": [1]}, websocket_client_id="ws-1").with_db_session(Session())
    view = json.loads(json.dumps(ctx.to_dict()))
    assert view["websocket_client_id"] == view["websocket_connection_id"] == "ws-1"
    assert view["has_db_session"] is True
    assert "db_session" not in view
    assert view["created_at"] == ctx.created_at.isoformat()
    assert view["agent_context"] == {"k": [1]}


# -- runs --------------------------------------------------------------------------------------------------------------


def test_runs_are_recorded_with_their_times_and_results(context):
    with manual_clock() as clock:
        first = context.record_run_start(agent_type="data", metadata={"n": 1})
        second = context.record_run_start("mine", agent_type="report")
        assert (second, context.current_run_id) == ("mine", "mine")
        assert list(context.active_runs) == [first, "mine"]
        clock.advance(2)
        assert context.get_run_duration("mine") == pytest.approx(2)
        context.record_run_success("mine", {"rows": 3})
        clock.advance(1)
        error = ValueError("no")
        context.record_run_failure(first, error)
        clock.advance(5)
        assert context.get_run_duration(first) == pytest.approx(3)
    assert context.get_run_duration("unknown") is None
    assert context.current_run_id is None
    done, failed = context.run_history
    assert (done.run_id, done.status, done.result, done.get_duration()) == (
        "mine",
        ExecutionStatus.COMPLETED,
        {"rows": 3},
        2,
    )
    assert (failed.status, failed.error, failed.metadata) == (ExecutionStatus.FAILED, error, {"n": 1})
    assert done.completed_at > done.started_at
    totals = context.execution_metrics
    assert (totals.total_runs, totals.successful_runs, totals.failed_runs) == (2, 1, 1)
    assert totals.get_success_rate() == 0.5
    assert totals.total_execution_time_ms == pytest.approx(5_000)
    assert totals.avg_execution_time_ms == pytest.approx(2_500)
    assert totals.concurrent_runs_peak == 2
    assert totals.agent_type_counts == {"data": 1, "report": 1}
    assert totals.get_performance_summary()["success_rate"] == 0.5


def test_a_run_ends_once_and_has_its_own_id(context):
    context.record_run_start("r")
    with pytest.raises(ValueError, match="already active"):
        context.record_run_start("r")
    context.record_run_success("r")
    for end in (context.record_run_success, context.record_run_failure):
        with pytest.raises(ValueError, match="no active run"):
            end("r")
    with pytest.raises(ValueError, match="no active run"):
        context.record_run_success("never")


def test_a_failed_start_keeps_nothing_that_the_caller_attached(context):
    class Data:
        """Weakly referable."""

    import weakref  # noqa: PLC0415 - only here

    context.record_run_start("r")
    data = Data()
    held = weakref.ref(data)
    with pytest.raises(ValueError, match="already active"):
        context.record_run_start("r", metadata=data)
    del data
    gc.collect()
    assert held() is None
    context.record_run_success("r")


def test_the_history_is_bounded_and_forgets_what_was_attached(context):
    import weakref  # noqa: PLC0415 - only here

    results = []
    for at in range(130):
        run = context.record_run_start(f"r{at}", agent_type=f"agent{at}")
        result = Session()
        results.append(weakref.ref(result))
        context.record_run_success(run, result)
    del result
    gc.collect()
    assert len(context.run_history) == 100
    assert context.run_history[0].run_id == "r30"
    assert sum(one() is not None for one in results) == 100
    assert context.execution_metrics.total_runs == 130
    assert context.execution_metrics.agent_type_counts["_other"] == 30


def test_active_runs_are_bounded(context):
    for _ in range(1_000):
        context.record_run_start()
    with pytest.raises(ValueError, match="1000 runs are active"):
        context.record_run_start()


def test_child_runs_are_noted(context):
    run = context.record_run_start()
    context.add_child_run(run, "child-1")
    assert context.active_runs[run].child_run_ids == ["child-1"]
    with pytest.raises(ValueError, match="no active run"):
        context.add_child_run("unknown", "child-1")
    context.record_run_success(run)


# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("succeeded", "failed", "left", "expected"),
    [
        (0, 0, 0, "completed"),
        (2, 0, 0, "completed"),
        (1, 1, 0, "partial_failure"),
        (0, 1, 0, "failed"),
        (1, 0, 1, "partial_failure"),
    ],
)
async def test_the_last_state_follows_from_the_runs(context, succeeded, failed, left, expected):
    assert context.status == ExecutionStatus.ACTIVE
    for _ in range(succeeded):
        context.record_run_success(context.record_run_start())
    for _ in range(failed):
        context.record_run_failure(context.record_run_start())
    for _ in range(left):
        context.record_run_start()
        assert context.status == ExecutionStatus.EXECUTING
    seen = []
    context.register_cleanup_callback(lambda: seen.append(context.status.value))
    await context.cleanup()
    assert seen == [expected]
    assert context.status == ExecutionStatus.CLEANED
    assert context.active_runs == {}


async def test_a_context_that_waits_for_a_permit_is_throttled_and_so_are_those_above(context):
    limiter = isolane.FairLimiter(1, 1)
    child = context.create_child_context("op")
    other = limiter.slot_nowait(context.user_id)

    async def step() -> str:
        async with limiter.slot(context.user_id, ctx=child):
            return child.status.value

    task = asyncio.create_task(step())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (child.status, context.status) == (ExecutionStatus.THROTTLED, ExecutionStatus.THROTTLED)
    assert context.get_status_summary()["waiting_runs"] == 1
    run = context.record_run_start()
    assert (child.status, context.status) == (ExecutionStatus.THROTTLED, ExecutionStatus.EXECUTING)
    context.record_run_success(run)
    other.release()
    assert await task == "active"
    assert (child.status, context.status) == (ExecutionStatus.ACTIVE, ExecutionStatus.ACTIVE)


async def test_a_wait_that_times_out_is_throttled_no_longer(context):
    limiter = isolane.FairLimiter(1, 1)
    with limiter.slot_nowait(context.user_id), pytest.raises(LimitTimeout):
        async with limiter.slot(context.user_id, ctx=context, timeout=0.01):
            pass
    assert context.status == ExecutionStatus.ACTIVE


async def test_an_ended_context_refuses_illegal_moves(context):
    await context.cleanup()
    for move in (
        context.record_run_start,
        context.detach,
        context.get_websocket_emitter,
        lambda: context.register_cleanup_callback(print),
    ):
        with pytest.raises(RuntimeError, match=r"clean|cannot"):
            move()
    with pytest.raises(ContextStateError):
        context.record_run_start()
    with pytest.raises(InvalidContextError, match="cleaned up"):
        context.create_child_context("late")


def test_health_and_summary_follow_activity(context):
    with manual_clock() as clock:
        context.update_activity()
        clock.advance(7)
        summary = context.get_status_summary()
        assert summary["idle_seconds"] == pytest.approx(7)
        context.update_activity()
        assert context.get_status_summary()["idle_seconds"] == pytest.approx(0)
    assert context.is_healthy()
    for _ in range(2):
        context.record_run_failure(context.record_run_start())
    assert not context.is_healthy()
    json.dumps(context.get_status_summary())


# -- cleanup -----------------------------------------------------------------------------------------------------------


async def test_callbacks_run_last_first_sync_async_and_whatever_is_awaitable(context):
    ran: list[str] = []

    async def later(name: str) -> None:
        await asyncio.sleep(0)
        ran.append(name)

    context.register_cleanup_callback(lambda: ran.append("sync"))
    context.register_cleanup_callback(lambda: later("lambda that returns a coroutine"))
    context.register_cleanup_callback(lambda: asyncio.ensure_future(later("task")))
    assert context.get_status_summary()["cleanup_callbacks"] == 3
    assert await context.cleanup() == ()
    assert ran == ["task", "lambda that returns a coroutine", "sync"]
    assert await context.cleanup() == ()
    assert len(ran) == 3


async def test_a_callback_that_fails_or_hangs_keeps_no_other_from_running(context):
    ran: list[str] = []
    context.register_cleanup_callback(lambda: ran.append("last"))
    context.register_cleanup_callback(lambda: asyncio.sleep(60), timeout=0.01)

    def fail() -> None:
        raise KeyError("lost")

    context.register_cleanup_callback(fail)
    errors = await asyncio.wait_for(context.cleanup(), 5)
    assert [type(error) for error in errors] == [KeyError, TimeoutError]
    assert ran == ["last"]
    assert context.status == ExecutionStatus.CLEANED


@pytest.mark.parametrize("ticks", range(6))
async def test_cancelling_a_cleanup_still_runs_the_rest(context, ticks):
    ran: list[str] = []
    context.register_cleanup_callback(lambda: ran.append("last"))
    context.register_cleanup_callback(lambda: asyncio.sleep(0))
    context.register_cleanup_callback(lambda: asyncio.sleep(0))
    task = asyncio.ensure_future(context.cleanup())
    for _ in range(ticks):
        await asyncio.sleep(0)
    begun = ticks > 0
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    if begun:
        assert ran == ["last"]
        assert context.status == ExecutionStatus.CLEANED


async def test_a_callback_may_clean_up_its_own_context_without_a_deadlock(context):
    seen: list[str] = []

    async def again() -> None:
        await context.cleanup()
        seen.append("again")

    context.register_cleanup_callback(lambda: seen.append("first registered"))
    context.register_cleanup_callback(again)
    assert await asyncio.wait_for(context.cleanup(), 5) == ()
    assert seen == ["again", "first registered"]


async def test_a_context_is_not_called_cleaned_while_its_callbacks_run(context):
    held, seen = asyncio.Event(), []

    async def slow() -> None:
        await held.wait()
        seen.append(context.status)

    context.register_cleanup_callback(slow)
    first = asyncio.create_task(context.cleanup())
    await asyncio.sleep(0)
    second = asyncio.ensure_future(context.cleanup())
    await asyncio.sleep(0)
    assert context.status == ExecutionStatus.COMPLETED
    held.set()
    await asyncio.gather(first, second)
    assert seen == [ExecutionStatus.COMPLETED]
    assert context.status == ExecutionStatus.CLEANED


def test_callbacks_are_checked_and_bounded(context):
    with pytest.raises(TypeError, match="pass the function, not its result"):
        context.register_cleanup_callback("no")
    for _ in range(1_000):
        context.register_cleanup_callback(print)
    with pytest.raises(RuntimeError, match="1000 cleanup callbacks"):
        context.register_cleanup_callback(print)


async def test_the_session_of_the_run_is_made_once_shared_by_children_and_closed_after_the_callbacks(context):
    made: list[Session] = []

    def factory(ctx: UserExecutionContext) -> Session:
        assert ctx.run_id == context.run_id
        made.append(Session())
        return made[-1]

    context.bind_session_factory(factory)
    child = context.create_child_context("op")
    session = child.get_database_session()
    assert context.get_database_session() is session
    assert len(made) == 1
    await child.cleanup()
    assert session.closed == 0
    order = []
    context.register_cleanup_callback(lambda: order.append(session.closed))
    await context.cleanup()
    assert order == [0]
    assert session.closed == 1
    with pytest.raises(ContextStateError):
        context.get_database_session()


async def test_a_child_of_a_request_that_ended_makes_no_session_and_opens_no_stream(context):
    """Nobody would close them: the request's clean-up has been."""
    made: list[Session] = []
    context.bind_session_factory(lambda ctx: made.append(Session()) or made[-1])
    child = context.create_child_context("op")
    await context.cleanup()
    with pytest.raises(ContextStateError):
        child.get_database_session()
    with pytest.raises((RunClosed, ContextStateError)):
        child.get_websocket_emitter()
    assert made == []
    assert user_streams(context.user_id) == []


def test_two_threads_that_ask_at_once_get_one_session(context):
    barrier = threading.Barrier(2, timeout=5)

    def factory(ctx: UserExecutionContext) -> Session:
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(0.5)
        return Session()

    context.bind_session_factory(factory)
    got: list[Session] = []
    threads = [threading.Thread(target=lambda: got.append(context.get_database_session())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got[0] is got[1]
    asyncio.run(context.cleanup())
    assert got[0].closed == 1


def test_without_a_session_factory_the_error_says_where_sessions_come_from(context):
    with pytest.raises(RuntimeError, match="session_factory"):
        context.get_database_session()
    session = Session()
    assert context.with_db_session(session).get_database_session() is session


async def test_a_session_factory_that_is_a_coroutine_function_is_refused(context):
    async def factory(ctx: UserExecutionContext) -> Session:
        return Session()

    made = []
    context.bind_session_factory(lambda ctx: made.append(factory(ctx)) or made[-1])
    # A coroutine has a close method of its own, which must not make it pass for a session.
    try:
        with pytest.raises(TypeError, match="session_factory must return a session"):
            context.get_database_session()
    finally:
        made[0].close()


# -- audit record ------------------------------------------------------------------------------------------------------


async def test_the_audit_record_tells_the_life_of_a_context_and_cannot_be_edited(context):
    run = context.record_run_start()
    context.record_run_success(run)
    child = context.create_child_context("op")
    context.verify_isolation()
    context.get_audit_trail()["record"].clear()
    context.audit_metadata.clear()
    await context.cleanup()
    trail = context.get_audit_trail()
    events = [line["event"] for line in trail["record"]]
    assert events == [
        "created",
        "run_started",
        "run_succeeded",
        "child_created",
        "isolation_verified",
        "concluded",
        "cleaned",
    ]
    assert [line["subject"] for line in trail["record"]][:4] == [context.request_id, run, run, child.request_id]
    assert trail["record"] == sorted(trail["record"], key=lambda line: line["at"])
    assert trail["correlation_id"] == context.get_correlation_id()
    assert trail["has_websocket"] is False
    json.dumps(trail)


def test_the_audit_record_is_bounded_and_says_what_it_left_out(context):
    for _ in range(200):
        context.verify_isolation()
    trail = context.get_audit_trail()
    assert trail["record"][0]["event"] == "created"
    assert len(trail["record"]) + trail["record_dropped"] == 201
    assert len(trail["record"]) <= 65


def test_detached_contexts_say_so(context):
    assert context.detach() is context
    assert context.is_detached
    assert context.get_audit_trail()["record"][-1]["event"] == "detached"
