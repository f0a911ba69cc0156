"""The host's contexts: its names, its refusals in its words, and none of its gaps."""

import asyncio
import dataclasses
import functools
import gc
import logging
import subprocess
import sys

import isolane
import pytest
from isolane.compat import user_execution_context as host
from isolane.compat.user_execution_context import (
    _SHARED_OBJECT_REGISTRY,
    ContextIsolationError,
    InvalidContextError,
    UserContextFactory,
    UserContextManager,
    UserExecutionContext,
    UserExecutionContextFactory,
    clear_shared_object_registry,
    managed_user_context,
    register_shared_object,
    validate_user_context,
)
from isolane.testing import manual_clock
from starlette.requests import Request


@pytest.fixture(autouse=True)
def no_shared_objects():
    yield
    clear_shared_object_registry()


def new(user="ann-of-compat", run="run-7", **fields):
    return UserExecutionContext(user, "thread-7", run, **fields)


class Session:
    def __init__(self, error=None):
        self.closed = 0
        self.error = error

    async def close(self):
        self.closed += 1
        if self.error is not None:
            raise self.error


class TestSameClasses:
    def test_contexts_and_errors_are_those_of_isolane(self):
        for name in ("UserExecutionContext", "InvalidContextError", "ContextIsolationError", "UserContextFactory"):
            assert getattr(host, name) is getattr(isolane, name)
        assert validate_user_context is isolane.validate_user_context
        assert UserExecutionContextFactory is UserContextFactory

    def test_the_modules_import_by_themselves(self):
        code = "from isolane.compat import user_execution_context as host; print(host.UserContextFactory.__name__)"
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "UserContextFactory\n"


class TestConstruction:
    def test_by_position_in_the_order_of_the_host(self):
        session, at = Session(), new().created_at
        context = UserExecutionContext(
            "ann", "thread", "run", "req", session, "ws", at, {"a": 1}, {"b": 2}, 3, "parent-req"
        )
        assert (context.user_id, context.thread_id, context.run_id, context.request_id) == (
            "ann",
            "thread",
            "run",
            "req",
        )
        assert context.db_session is session
        assert (context.websocket_client_id, context.created_at) == ("ws", at)
        assert (context.agent_context, context.audit_metadata["b"]) == ({"a": 1}, 2)
        assert (context.operation_depth, context.parent_request_id) == (3, "parent-req")

    @pytest.mark.parametrize("name", ["websocket_client_id", "websocket_connection_id"])
    def test_both_names_of_the_socket(self, name):
        for context in (new(**{name: "ws-1"}), UserExecutionContext.from_request("u", "t", "r", **{name: "ws-1"})):
            assert (context.websocket_client_id, context.websocket_connection_id) == ("ws-1", "ws-1")

    @pytest.mark.parametrize("field", ["user_id", "thread_id", "run_id"])
    @pytest.mark.parametrize("value", [None, 0, 123, b"ann", "", "   ", ["ann"]])
    def test_a_required_field_is_refused_in_the_words_of_the_host(self, field, value):
        fields = {"user_id": "ann", "thread_id": "thread", "run_id": "run", field: value}
        with pytest.raises(InvalidContextError, match=f"Required field '{field}' must be a non-empty string, got: "):
            UserExecutionContext(**fields)
        UserExecutionContext(**{**fields, field: "neighbour"})

    @pytest.mark.parametrize(
        "word",
        [
            "registry",
            "placeholder",
            "default",
            "temp",
            "none",
            "null",
            "undefined",
            "0",
            "1",
            "xxx",
            "yyy",
            "example",
            "test",
            "demo",
            "sample",
            "template",
            "mock",
            "fake",
            "dummy",
            "Default",
        ],
    )
    def test_a_placeholder_is_refused_in_the_words_of_the_host(self, word):
        with pytest.raises(InvalidContextError, match="Field 'user_id' contains forbidden placeholder value"):
            new(word)
        new(f"{word}-of-ann-lee-who-lives-here")

    @pytest.mark.parametrize(
        "prefix", ["placeholder_", "registry_", "default_", "temp_", "example_", "demo_", "sample_", "mock_", "fake_"]
    )
    def test_a_placeholder_pattern_is_refused_in_the_words_of_the_host(self, prefix):
        with pytest.raises(InvalidContextError, match="Field 'run_id' appears to contain placeholder pattern"):
            new(run=f"{prefix}x")
        new(run=f"{prefix}{'x' * 20}")

    @pytest.mark.parametrize("name", ["agent_context", "audit_metadata"])
    def test_dictionaries_are_checked_and_copied(self, name):
        with pytest.raises(InvalidContextError, match=f"{name} must be a dictionary, got: "):
            new(**{name: ["a"]})
        for key in ["user_id", "thread_id", "run_id", "request_id", "created_at", "db_session", "websocket_client_id"]:
            with pytest.raises(InvalidContextError, match=f"{name} contains reserved keys: .*{key}"):
                new(**{name: {key: "x"}})
        given = {"rows": [{"user_id": "nested keys are the caller's"}]}
        context = new(**{name: given})
        given["rows"].append("later")
        assert getattr(context, name)["rows"] == [{"user_id": "nested keys are the caller's"}]

    def test_the_audit_keys_win_over_the_caller(self):
        audit = new(audit_metadata={"context_version": "9", "isolation_verified": False, "mine": 1}).audit_metadata
        assert (audit["context_version"], audit["isolation_verified"], audit["mine"]) == ("1.0", True, 1)
        assert {"context_created_at", "operation_depth"} <= audit.keys()

    def test_attributes_are_frozen_and_the_scratch_dictionary_is_not(self):
        context = new()
        with pytest.raises(dataclasses.FrozenInstanceError):
            context.user_id = "bob"
        context.agent_context["x"] = 1
        assert context.agent_context["x"] == 1


class TestFromRequests:
    def test_from_request_by_position(self):
        session = Session()
        context = UserExecutionContext.from_request("u", "t", "r", "q", session, "ws", {"a": 1}, {"b": 2})
        assert (context.request_id, context.db_session, context.websocket_client_id) == ("q", session, "ws")
        assert UserExecutionContext.from_request("u", "t", "r", "").request_id.startswith("req_")

    def test_from_fastapi_request(self):
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/run",
            "raw_path": b"/run",
            "query_string": b"token=secret",
            "server": ("svc", 80),
            "scheme": "http",
            "client": ("10.0.0.9", 1),
            "headers": [(b"user-agent", b"agent/1"), (b"x-trace-id", b"t-1"), (b"x-request-id", b"q-1")],
        }
        audit = UserExecutionContext.from_fastapi_request(Request(scope), "u", "t", "r", None, "ws").audit_metadata
        assert (audit["client_ip"], audit["user_agent"], audit["method"]) == ("10.0.0.9", "agent/1", "POST")
        assert (audit["content_type"], audit["x_trace_id"], audit["x_request_id"]) == ("unknown", "t-1", "q-1")
        assert "x_correlation_id" not in audit
        assert "secret" not in repr(audit)

    def test_metadata_is_split_by_whole_names(self):
        context = UserExecutionContext.from_request_supervisor(
            "u", "t", "r", "q", None, "ws", {"catalog": 1, "login_count": 2, "trace_id": 3, "operation_depth": 2}
        )
        assert (context.agent_context, context.operation_depth) == ({"catalog": 1, "login_count": 2}, 2)
        assert (context.audit_metadata["trace_id"], context.websocket_client_id) == (3, "ws")


MIXED = {"goal": [1], "login_count": 2, "trace_id": "t-1", "operation_depth": 2, "parent_request_id": "req-0"}
"""Metadata of the older spelling, which goes to four places."""

CONSTRUCTORS = {
    "the class": UserExecutionContext,
    "from_request": UserExecutionContext.from_request,
    "create_for_user": UserExecutionContext.create_for_user,
}


class TestOlderSpellings:
    """The host's callers broke for days when its parameters were renamed: here both names work, and one is told of."""

    @pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
    def test_metadata_is_split(self, make):
        with pytest.deprecated_call(match="pass agent_context= and audit_metadata="):
            context = make("ann-of-compat", "thread-7", "run-7", metadata=MIXED)
        assert context.agent_context == {"goal": [1], "login_count": 2}
        assert context.agent_context["goal"] is not MIXED["goal"]
        assert context.audit_metadata["trace_id"] == "t-1"
        assert (context.operation_depth, context.parent_request_id) == (2, "req-0")

    @pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
    def test_the_warning_names_the_line_of_the_caller(self, make):
        with pytest.deprecated_call() as caught:
            here = sys._getframe().f_lineno + 1
            make("ann-of-compat", "thread-7", "run-7", metadata={"a": 1})
        assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, here)]

    @pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
    @pytest.mark.parametrize("newer", ["agent_context", "audit_metadata"])
    def test_both_spellings_at_once_are_refused(self, make, newer):
        with pytest.raises(InvalidContextError, match="metadata is given together with the newer names") as caught:
            make("ann-of-compat", "thread-7", "run-7", metadata={"a": 1}, **{newer: {"b": 2}})
        assert (caught.value.field, caught.value.rule) == ("metadata", "conflict")
        with pytest.deprecated_call():
            make("ann-of-compat", "thread-7", "run-7", metadata={"a": 1}, **{newer: None})

    @pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
    def test_no_metadata_warns_of_nothing(self, make):
        assert make("ann-of-compat", "thread-7", "run-7", metadata=None).agent_context == {}

    def test_metadata_has_no_place_in_the_order(self):
        with pytest.raises(TypeError, match="positional"):
            UserExecutionContext("u", "t", "r", None, None, None, None, None, None, 0, None, {"a": 1})

    def test_what_metadata_may_not_hold(self):
        with pytest.deprecated_call(), pytest.raises(InvalidContextError, match="reserved keys"):
            new(metadata={"user_id": "bob"})
        with pytest.deprecated_call(), pytest.raises(InvalidContextError, match="metadata must be a dictionary"):
            new(metadata=["a"])

    def test_a_child_takes_the_older_spelling(self):
        parent = new(agent_context={"goal": [1]})
        with pytest.deprecated_call(match="pass additional_agent_context= and additional_audit_metadata=") as caught:
            here = sys._getframe().f_lineno + 1
            child = parent.create_child_context("pricing", additional_metadata={"note": 1, "trace_id": "t-2"})
        assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, here)]
        assert (child.agent_context["goal"], child.agent_context["note"]) == ([1], 1)
        assert child.audit_metadata["trace_id"] == "t-2"
        assert "trace_id" not in child.agent_context
        assert child.operation_depth == 1

    @pytest.mark.parametrize("newer", ["additional_agent_context", "additional_audit_metadata"])
    def test_a_child_refuses_both_spellings(self, newer):
        with pytest.raises(InvalidContextError) as caught:
            new().create_child_context("pricing", additional_metadata={"a": 1}, **{newer: {"b": 2}})
        assert (caught.value.field, caught.value.rule) == ("additional_metadata", "conflict")

    def test_what_the_host_calls_supervisor_warns_of_nothing(self):
        context = UserExecutionContext.from_request_supervisor("u", "t", "r", metadata={"note": 1})
        child = context.create_child_context_supervisor("pricing", {"note": 2})
        copy = child.with_websocket_connection_supervisor("ws-2")
        assert (copy.websocket_client_id, copy.request_id) == ("ws-2", child.request_id)
        assert (context.agent_context["note"], copy.agent_context["note"]) == (1, 2)
        with pytest.raises(InvalidContextError):
            child.with_websocket_connection_supervisor(" ")


class TestBothNamesOfTheSocket:
    MAKERS = (
        UserExecutionContext,
        UserExecutionContext.from_request,
        UserExecutionContext.create_for_user,
        UserExecutionContext.from_request_supervisor,
        functools.partial(UserExecutionContext.from_fastapi_request, Request({"type": "http", "headers": []})),
    )

    @pytest.mark.parametrize("make", MAKERS)
    @pytest.mark.parametrize("name", ["websocket_client_id", "websocket_connection_id"])
    def test_either_is_taken_and_both_read(self, make, name):
        context = make("u", "t", "r", **{name: "ws-1"})
        assert (context.websocket_client_id, context.websocket_connection_id) == ("ws-1", "ws-1")

    @pytest.mark.parametrize("make", MAKERS)
    def test_two_that_differ_are_refused(self, make):
        with pytest.raises(InvalidContextError, match="two names of one field") as caught:
            make("u", "t", "r", websocket_client_id="ws-1", websocket_connection_id="ws-2")
        assert (caught.value.field, caught.value.rule) == ("websocket_client_id", "conflict")
        same = make("u", "t", "r", websocket_client_id="ws-1", websocket_connection_id="ws-1")
        assert same.websocket_client_id == "ws-1"
        one = make("u", "t", "r", websocket_client_id=None, websocket_connection_id="ws-2")
        assert one.websocket_client_id == "ws-2"

    def test_by_position_each_stands_where_the_host_has_it(self):
        with pytest.raises(InvalidContextError, match="two names of one field"):
            UserExecutionContext("u", "t", "r", None, None, "ws-1", websocket_connection_id="ws-2")
        with pytest.raises(InvalidContextError, match="two names of one field"):
            UserExecutionContext.from_request_supervisor("u", "t", "r", None, None, "ws-1", websocket_client_id="ws-2")


class TestScopedKeys:
    def test_a_key_names_component_user_and_request(self):
        assert new(request_id="req-7").get_scoped_key("cache") == "cache:ann-of-compat:req-7"
        assert new().get_scoped_key("cache") != new().get_scoped_key("cache")

    @pytest.mark.parametrize("component", ["", "  "])
    def test_a_blank_component_is_refused(self, component):
        with pytest.raises(ValueError, match="component must be a non-empty string"):
            new().get_scoped_key(component)


class TestChildren:
    def test_a_child_by_position(self):
        parent = new(agent_context={"goal": [1]}, db_session=Session(), websocket_client_id="ws")
        child = parent.create_child_context("pricing", {"a": 1}, {"b": 2})
        assert (child.user_id, child.thread_id, child.run_id) == (parent.user_id, parent.thread_id, parent.run_id)
        assert child.db_session is parent.db_session
        assert child.parent_request_id == parent.request_id != child.request_id
        assert child.agent_context == {
            "goal": [1], "a": 1, "parent_operation": "root", "operation_name": "pricing", "operation_depth": 1,
        }  # fmt: skip
        assert child.audit_metadata["b"] == 2
        assert {
            "parent_request_id",
            "operation_name",
            "operation_depth",
            "child_created_at",
        } <= child.audit_metadata.keys()
        assert child.agent_context["goal"] is not parent.agent_context["goal"]
        assert parent.create_child_context_supervisor("x", {"note": 1}).agent_context["note"] == 1

    @pytest.mark.parametrize("name", ["", "  ", None])
    def test_a_child_needs_a_name(self, name):
        with pytest.raises(InvalidContextError, match="operation_name must be a non-empty string"):
            new().create_child_context(name)

    def test_a_chain_reaches_depth_ten(self):
        context = new()
        for _ in range(10):
            context = context.create_child_context("step")
        assert context.operation_depth == 10
        with pytest.raises(InvalidContextError, match=r"Maximum operation depth \(10\) exceeded. Current depth: 10"):
            context.create_child_context("step")

    def test_copies_are_the_same_request(self):
        context, session = new(), Session()
        for copy in (context.with_db_session(session), context.with_websocket_connection("ws-2")):
            assert (copy.request_id, copy.created_at) == (context.request_id, context.created_at)
        for refused in (lambda: context.with_db_session(None), lambda: context.with_websocket_connection("  ")):
            with pytest.raises(InvalidContextError):
                refused()


class TestViews:
    def test_the_keys_of_the_dictionaries(self):
        context = new(websocket_client_id="ws")
        assert {
            "user_id", "thread_id", "run_id", "request_id", "created_at", "operation_depth", "parent_request_id",
            "has_db_session", "websocket_client_id", "agent_context", "audit_metadata", "websocket_connection_id",
            "metadata", "implementation", "compatibility_layer_active",
        } <= context.to_dict().keys()  # fmt: skip
        assert {
            "correlation_id", "user_id", "thread_id", "run_id", "request_id", "created_at", "operation_depth",
            "parent_request_id", "has_db_session", "has_websocket", "audit_metadata", "context_age_seconds",
        } <= context.get_audit_trail().keys()  # fmt: skip
        assert context.get_correlation_id() == f"ann-of-c:thread-7:run-7:{context.request_id[:8]}"

    def test_writing_into_the_merged_metadata_is_refused_instead_of_lost(self):
        with pytest.raises(TypeError):
            new().metadata["a"] = 1


class TestSharedObjects:
    def test_a_shared_session_is_found(self):
        session = object()
        context, other = new(db_session=session), new(db_session=object())
        assert validate_user_context(context) is context
        register_shared_object(session)
        with pytest.raises(ContextIsolationError, match="Database session is shared between contexts"):
            context.verify_isolation()
        assert other.verify_isolation()

    def test_a_shared_dictionary_is_found_wherever_it_is(self):
        shared = {"cache": []}
        register_shared_object(shared)
        context = new()
        context.agent_context["deep"] = [{"below": shared}]
        with pytest.raises(ContextIsolationError, match="below"):
            validate_user_context(context)
        assert new(agent_context={"cache": shared}).verify_isolation(), "a context that was given it has a copy"

    def test_a_registered_object_cannot_be_mistaken_for_a_later_one(self):
        register_shared_object([1])
        gc.collect()
        contexts = [new(db_session=[number]) for number in range(200)]
        assert all(context.verify_isolation() for context in contexts)

    def test_clearing_forgets(self):
        session = object()
        register_shared_object(session)
        register_shared_object(session)
        assert id(session) in _SHARED_OBJECT_REGISTRY
        assert len(_SHARED_OBJECT_REGISTRY) == 1
        clear_shared_object_registry()
        assert not _SHARED_OBJECT_REGISTRY
        assert new(db_session=session).verify_isolation()

    def test_there_is_a_bound(self, monkeypatch):
        monkeypatch.setattr("isolane.compat.shared_objects.MAX_OBJECTS", 2)
        kept = [object(), object(), object()]
        register_shared_object(kept[0])
        register_shared_object(kept[1])
        with pytest.raises(RuntimeError, match="clear_shared_object_registry"):
            register_shared_object(kept[2])


class TestValidate:
    @pytest.mark.parametrize("value", [None, "ann", {"user_id": "ann"}, object()])
    def test_what_is_no_context_is_refused(self, value):
        with pytest.raises(TypeError, match="Expected UserExecutionContext, got: "):
            validate_user_context(value)


class TestManagedContext:
    async def test_the_session_is_closed_and_the_callbacks_run(self):
        session, order = Session(), []
        context = new(db_session=session)
        context.register_cleanup_callback(lambda: order.append(("callback", session.closed)))
        context.register_cleanup_callback(lambda: asyncio.sleep(0, order.append("a lambda that returns a coroutine")))
        async with managed_user_context(context) as managed:
            assert managed is context
        assert order == ["a lambda that returns a coroutine", ("callback", 0)]
        assert session.closed == 1

    async def test_the_session_can_be_kept_open(self):
        session = Session()
        async with managed_user_context(new(db_session=session), cleanup_db_session=False):
            pass
        assert session.closed == 0

    async def test_the_error_of_the_block_is_the_one_that_is_seen(self, caplog):
        session = Session(OSError("the database is away"))
        with pytest.raises(KeyError, match="mine"), caplog.at_level(logging.WARNING):
            async with managed_user_context(new(db_session=session)):
                raise KeyError("mine")
        assert session.closed == 1
        assert "closing the database session" in caplog.text

    async def test_a_close_that_fails_is_only_logged(self, caplog):
        async with managed_user_context(new(db_session=Session(OSError("away")))):
            pass
        assert "closing the database session" in caplog.text

    async def test_a_cancelled_block_closes_the_session(self):
        session = Session()

        async def block():
            async with managed_user_context(new(db_session=session)):
                await asyncio.sleep(30)

        task = asyncio.create_task(block())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.closed == 1

    async def test_a_context_that_is_not_its_own_does_not_enter(self):
        session = object()
        register_shared_object(session)
        with pytest.raises(ContextIsolationError):
            async with managed_user_context(new(db_session=session)):
                pytest.fail("entered")


class TestContextManager:
    def test_a_context_is_found_again_and_is_no_copy(self):
        manager, context = UserContextManager(), new(db_session=object())
        manager.set_context("ann:thread-7", context)
        assert manager.get_context("ann:thread-7") is context
        assert manager.get_context("ann:other") is None
        assert manager.validate_isolation("ann:thread-7") is True
        assert manager.validate_isolation("ann:other") is False
        assert [event["event"] for event in manager.get_audit_trail("ann:thread-7")] == [
            "context_set",
            "isolation_checked",
        ]
        assert manager.clear_context("ann:thread-7") is True
        assert manager.clear_context("ann:thread-7") is False
        assert len(manager) == 0

    def test_a_key_is_of_one_user(self):
        manager, ann = UserContextManager(), new()
        manager.set_context("thread-7", ann)
        with pytest.raises(ContextIsolationError):
            manager.set_context("thread-7", new("bob-of-compat"))
        assert manager.get_context("thread-7") is ann
        manager.set_context("thread-7", again := new())
        assert manager.get_context("thread-7") is again

    def test_bad_keys_and_values(self):
        manager = UserContextManager()
        for key in ("", "  ", None, 7):
            with pytest.raises(InvalidContextError, match="context_key"):
                manager.set_context(key, new())
        with pytest.raises(TypeError, match="Expected UserExecutionContext"):
            manager.set_context("key", {"user_id": "ann"})

    def test_the_one_used_longest_ago_goes_first_of_the_same_user(self, monkeypatch):
        monkeypatch.setattr(UserContextManager, "MAX_CONTEXTS_PER_USER", 2)
        manager = UserContextManager()
        manager.set_context("bob", new("bob-of-compat"))
        for key in ("first", "second"):
            manager.set_context(key, new())
        assert manager.get_context("first") is not None
        manager.set_context("third", new())
        kept = {key for key in ("bob", "first", "second", "third") if manager.get_context(key) is not None}
        assert kept == {"bob", "first", "third"}

    def test_all_users_together_have_a_bound(self, monkeypatch):
        monkeypatch.setattr(UserContextManager, "MAX_TOTAL_CONTEXTS", 3)
        manager = UserContextManager()
        for number in range(5):
            manager.set_context(str(number), new(f"user-{number}-of-compat"))
        assert [manager.get_context(str(number)) is not None for number in range(5)] == [False, False, True, True, True]
        assert len(manager._of_user) == 3

    def test_an_entry_ends_after_its_time(self):
        with manual_clock() as clock:
            manager = UserContextManager()
            for number in range(3):
                manager.set_context(str(number), new())
            clock.advance(UserContextManager.DEFAULT_CONTEXT_TTL - 1)
            assert manager.get_context("0") is not None
            clock.advance(2)
            assert manager.get_context("0") is not None
            assert manager.get_context("1") is None
            manager.set_context("new", new())
            assert len(manager) == 2, "what was not asked for is swept as well"

    def test_the_trail_has_a_bound(self):
        manager, context = UserContextManager(), new()
        for _ in range(1_100):
            manager.set_context("key", context)
        assert len(manager.get_audit_trail("key")) == 1_000
