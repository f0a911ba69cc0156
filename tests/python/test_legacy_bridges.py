"""The names of older WebSocket managers: what they deliver, and what nobody can make them do."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import json
import threading
import weakref
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import isolane
import pytest
from isolane import BudgetExceeded, ContextIsolationError, InvalidContextError, InvalidEvent, UserContextFactory
from isolane._core import lane_usage, user_streams
from isolane.compat.agent_instance_factory import configure_agent_instance_factory
from isolane.compat.execution_context import AgentExecutionContext
from isolane.compat.execution_engine_factory import configure_execution_engine_factory
from isolane.contexts.caller import Caller
from isolane.migration import legacy
from isolane.migration.legacy import (
    BroadcastDeniedError,
    BroadcastPolicy,
    CompatibilityAdapter,
    CrossUserSendError,
    LegacyContextError,
    LegacyWebSocketBridge,
    ModernWebSocketBridge,
    SendOutcome,
    bind_context,
    configure_legacy,
    convert_legacy_message,
    get_agent_websocket_bridge,
    get_execution_engine,
    get_legacy_websocket_manager,
    get_tool_dispatcher,
    get_websocket_bridge,
    get_websocket_manager,
)
from isolane.migration.legacy import connections as connections_module
from isolane.migration.legacy import mappings as mappings_module
from isolane.migration.legacy import runs as runs_module
from isolane.testing import manual_clock

from tests.compat.pool import WHOLE, Socket, until
from tests.support.frontend import broken_rules
from tests.support.history import faults

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")


class Sink:
    """Takes the events of security."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def record(self, event: Any) -> None:
        self.events.append(event)

    @property
    def reasons(self) -> list[str]:
        return [event.data["reason"] for event in self.events]


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def adapter(sink):
    made = CompatibilityAdapter(audit=sink, broadcast="context_user")
    yield made
    made.close()


@pytest.fixture
def process(sink):
    yield configure_legacy(audit=sink, broadcast="context_user")
    legacy.reset_legacy()


def context_of(user: str) -> isolane.UserExecutionContext:
    return UserContextFactory.create_context(user)


def payloads(socket: Socket, kind: str) -> list[dict[str, Any]]:
    return [message["payload"] for message in socket.messages if message["type"] == kind]


class TestDelivery:
    async def test_a_message_becomes_an_event_of_its_user(self, adapter, alice, bob):
        mine, theirs = Socket(), Socket()
        await adapter.add_connection(alice, mine)
        await adapter.add_connection(bob, theirs)
        sent = await adapter.send_to_user(alice, {"type": "note", "payload": {"text": "for alice"}})
        assert sent is SendOutcome.QUEUED
        await until(lambda: mine.texts)
        (message,) = mine.messages
        assert (message["type"], message["payload"]) == ("note", {"text": "for alice"})
        assert broken_rules(message) == []
        assert theirs.texts == []

    async def test_messages_arrive_in_order_on_every_socket_of_the_user(self, adapter, alice):
        first, second = Socket(), Socket()
        await adapter.connect_user(alice, first)
        await adapter.connect_user(alice, second)
        for step in range(100):
            await adapter.send_to_user(alice, {"type": "step", "n": step})
        await until(lambda: len(first.texts) == len(second.texts) == 100)
        assert [payload["n"] for payload in payloads(first, "step")] == list(range(100))
        assert first.texts == second.texts

    @pytest.mark.parametrize("run", ["named", "unnamed"])
    async def test_the_six_in_the_shape_of_the_browsers_client(self, adapter, alice, run):
        socket = Socket()
        await adapter.add_connection(alice, socket)
        named = {"run_id": f"run-of-{alice}", "thread_id": "thread-7"} if run == "named" else {}
        for kind, payload in {
            "agent_started": {"status": "started"},
            "agent_thinking": {"reasoning": "hm", "step_number": 1},
            "tool_executing": {"tool_name": "search", "parameters": {"q": 1}},
            "tool_completed": {"tool_name": "search", "result": [1]},
            "agent_completed": {"result": {"rows": 1}, "duration_ms": 5},
        }.items():
            sent = await adapter.send_to_user(alice, {"type": kind, "agent_name": "data", "payload": payload, **named})
            assert sent is SendOutcome.QUEUED
        await until(lambda: len(socket.texts) == 5)
        assert socket.types == WHOLE
        assert [broken_rules(message) for message in socket.messages] == [[]] * 5
        assert faults(socket.messages) == []
        assert {message["agent_name"] for message in socket.messages} == {"data"}
        if run == "named":
            assert {message["run_id"] for message in socket.messages} == {f"run-of-{alice}"}
        assert socket.messages[1]["payload"]["step_number"] == 1
        assert socket.messages[4]["payload"]["result"] == {"rows": 1}
        assert socket.messages[4]["payload"]["duration_ms"] == 5

    @pytest.mark.parametrize("bound", [False, True])
    async def test_what_names_no_run_stays_in_order(self, adapter, alice, bound):
        """Also while the socket takes nothing, so that all of it waits."""
        socket = Socket()
        kinds = [
            "note",
            "agent_started",
            "other",
            "agent_thinking",
            "note",
            "tool_executing",
            "x",
            "agent_completed",
            "y",
        ]
        expected = [*kinds]
        expected.insert(7, "tool_completed")
        with bind_context(context_of(alice)) if bound else contextlib.nullcontext():
            if not bound:
                await adapter.add_connection(alice, Socket())
            for _ in range(5):
                for kind in kinds:
                    await adapter.send_to_user(alice, {"type": kind, "payload": {"tool_name": "load"}})
            await adapter.add_connection(alice, socket)
            await until(lambda: len(socket.texts) == 50)
        assert socket.types == expected * 5

    async def test_keys_of_a_payload_are_nobodys_arguments(self, adapter, sink, alice, bob):
        socket, theirs = Socket(), Socket()
        await adapter.add_connection(alice, socket)
        await adapter.add_connection(bob, theirs)
        foreign = {
            "run_id": f"run-of-{bob}",
            "user_id": bob,
            "self": 1,
            "metadata": {"x": 1},
            "thread_id": "t",
            "seq": 9,
        }
        for kind in WHOLE:
            said = {"tool_name": "load"} if kind.startswith("tool") else {}
            message = {"type": kind, "run_id": f"run-of-{alice}", "agent_name": "data", "payload": {**foreign, **said}}
            assert await adapter.send_to_user(alice, message)
        await until(lambda: len(socket.texts) == 5)
        assert faults(socket.messages) == []
        assert {message["run_id"] for message in socket.messages} == {f"run-of-{alice}"}
        assert [broken_rules(message) for message in socket.messages] == [[]] * 5
        assert theirs.texts == []

    async def test_events_that_presume_others_bring_them_along(self, adapter, alice):
        socket = Socket()
        await adapter.add_connection(alice, socket)
        for message in (
            {"type": "tool_completed", "agent_name": "data", "data": {"tool": "load", "output": 3}},
            {"type": "tool_executing", "agent_name": "data", "data": {"tool": "left open"}},
            {"type": "agent_error", "agent_name": "data", "error": "no rows"},
        ):
            assert await adapter.send_to_user(alice, {**message, "run_id": f"run-of-{alice}"})
        await until(lambda: socket.types[-1:] == ["agent_error"])
        assert faults(socket.messages) == []
        assert socket.types == [
            "agent_started",
            "tool_executing",
            "tool_completed",
            "tool_executing",
            "tool_completed",
            "agent_error",
        ]
        assert socket.messages[-1]["payload"]["error_message"] == "no rows"

    async def test_a_second_beginning_is_merged_with_the_first(self, adapter, alice):
        socket = Socket()
        await adapter.add_connection(alice, socket)
        started = {"type": "agent_started", "agent_name": "data", "run_id": f"run-of-{alice}"}
        assert await adapter.send_to_user(alice, started) is SendOutcome.QUEUED
        assert await adapter.send_to_user(alice, started) is SendOutcome.MERGED
        await adapter.send_to_user(alice, {**started, "type": "agent_completed"})
        await until(lambda: len(socket.texts) == 2)
        assert socket.types == ["agent_started", "agent_completed"]

    async def test_the_same_event_id_arrives_once(self, adapter, alice):
        socket = Socket()
        await adapter.add_connection(alice, socket)
        for _ in range(3):
            await adapter.send_to_user(alice, {"type": "note", "event_id": "mine-1", "payload": {"n": 1}})
        await adapter.send_to_user(alice, {"type": "note", "payload": {"n": 2}})
        await until(lambda: payloads(socket, "note")[-1:] == [{"n": 2}])
        assert payloads(socket, "note") == [{"n": 1}, {"n": 2}]

    async def test_what_was_sent_cannot_be_changed_afterwards(self, adapter, alice):
        socket = Socket()
        await adapter.add_connection(alice, socket)
        message = {"type": "note", "payload": {"rows": [1]}}
        await adapter.send_to_user(alice, message)
        message["payload"]["rows"].append(2)
        await until(lambda: socket.texts)
        assert payloads(socket, "note") == [{"rows": [1]}]

    async def test_a_message_waits_in_the_log_for_who_comes_back(self, adapter, alice):
        with bind_context(context_of(alice)):
            assert await adapter.send_to_user(alice, {"type": "note", "payload": {"n": 1}}) is SendOutcome.STORED
        socket = Socket()
        await adapter.add_connection(alice, socket)
        await until(lambda: socket.texts)
        assert payloads(socket, "note") == [{"n": 1}]

    async def test_all_shapes_of_a_message(self, adapter, alice):
        @dataclass
        class Record:
            type: str
            payload: dict[str, Any]

        model = SimpleNamespace(model_dump=lambda mode: {"type": "note", "payload": {"n": 3, "mode": mode}})
        socket = Socket()
        await adapter.add_connection(alice, socket)
        for message in (
            {"type": "note", "data": {"n": 0}},
            {"event_type": "note", "n": 1, "timestamp": 5},
            Record("note", {"n": 2}),
            model,
            json.dumps({"type": "note", "payload": {"n": 4}}),
            {"type": "note", "payload": [5]},
            {"type": "note"},
        ):
            assert await adapter.send_to_user(alice, message)
        await until(lambda: len(socket.texts) == 7)
        assert payloads(socket, "note") == [
            {"n": 0},
            {"n": 1},
            {"n": 2},
            {"n": 3, "mode": "json"},
            {"n": 4},
            {"payload": [5]},
            {},
        ]

    @pytest.mark.parametrize("message", [None, 5, [], "no json", {}, {"type": 5}, {"type": " "}, {"payload": {}}])
    async def test_what_is_no_message(self, adapter, alice, message):
        await adapter.add_connection(alice, Socket())
        with pytest.raises(InvalidEvent):
            await adapter.send_to_user(alice, message)

    @pytest.mark.parametrize("kind", ["note", "tool_completed", "agent_completed"])
    async def test_a_payload_without_a_form_leaves_nothing_behind(self, adapter, alice, kind):
        socket = Socket()
        await adapter.add_connection(alice, socket)
        with pytest.raises(InvalidEvent):
            await adapter.send_to_user(alice, {"type": kind, "agent_name": "data", "payload": {"x": object()}})
        await adapter.send_to_user(alice, {"type": "last"})
        await until(lambda: socket.texts)
        assert socket.types == ["last"]

    async def test_an_envelope_cannot_be_written_by_a_payload(self, adapter, alice, bob):
        socket = Socket()
        await adapter.add_connection(alice, socket)
        payload = {"type": "x", "seq": 99, "user_id": bob}
        await adapter.send_to_user(alice, {"type": "note", "payload": payload, "seq": 7})
        await until(lambda: socket.texts)
        assert (socket.messages[0]["type"], socket.messages[0]["seq"]) == ("note", 1)


class TestWhose:
    """Each legacy name, and each way of naming another user by it."""

    CALLS: ClassVar = {
        "send_to_user": lambda m, foreign, _: m.send_to_user(foreign, {"type": "note"}),
        "emit_critical_event": lambda m, foreign, _: m.emit_critical_event(foreign, "note", {"n": 1}),
        "broadcast_message": lambda m, foreign, _: m.broadcast_message({"type": "note"}, user_id=foreign),
        "send_to_connection": lambda m, _, connection: m.send_to_connection(connection, {"type": "note"}),
        "connect_user": lambda m, foreign, _: m.connect_user(foreign, Socket()),
        "add_connection": lambda m, foreign, _: call(m.add_connection, foreign, Socket()),
        "disconnect_user": lambda m, foreign, _: m.disconnect_user(foreign),
        "remove_connection": lambda m, _, connection: call(m.remove_connection, connection),
        "get_user_connections": lambda m, foreign, _: call(m.get_user_connections, foreign),
        "get_connection_health": lambda m, foreign, _: call(m.get_connection_health, foreign),
        "is_connection_active": lambda m, foreign, _: call(m.is_connection_active, foreign),
        "update_connection_thread": lambda m, _, connection: call(m.update_connection_thread, connection, "thread-9"),
    }

    @pytest.mark.parametrize("name", sorted(CALLS))
    async def test_code_of_one_user_cannot_name_another(self, process, sink, alice, bob, name):
        manager = get_websocket_manager()
        theirs = Socket()
        connection = await manager.connect_user(bob, theirs)
        with bind_context(context_of(alice)):
            for one in (manager, get_websocket_manager(), await get_legacy_websocket_manager()):
                with pytest.raises(CrossUserSendError) as caught:
                    await self.CALLS[name](one, bob, connection)
                assert caught.value.code == "ISO-E-CROSSUSER"
                assert isinstance(caught.value, ContextIsolationError)
                assert bob not in str(caught.value)
        assert len(sink.events) == 3
        for event in sink.events:
            assert (event.name, event.user_id) == ("isolation_violation", alice)
            assert event.data["call"] == name
        assert process.connections.of_user(bob)[0].websocket is theirs
        assert process.connections.of_user(bob)[0].thread_id is None
        # Its neighbour: the same call for oneself.
        await manager.send_to_user(bob, {"type": "last"})
        await until(lambda: theirs.texts)
        assert theirs.types == ["last"]

    @pytest.mark.parametrize("name", sorted(set(CALLS) - {"connect_user", "add_connection"}))
    async def test_the_same_call_for_oneself(self, process, sink, alice, name):
        manager = get_websocket_manager()
        connection = await manager.connect_user(alice, Socket())
        with bind_context(context_of(alice)):
            assert await self.CALLS[name](manager, alice, connection)
        assert sink.events == []

    async def test_without_a_bound_user_only_who_has_a_socket_is_told(self, process, sink, alice, bob):
        manager = get_websocket_manager()
        socket = Socket()
        connection = await manager.connect_user(alice, socket)
        assert await manager.send_to_user(alice, {"type": "note"})
        with pytest.raises(CrossUserSendError) as caught:
            await manager.send_to_user(bob, {"type": "note"})
        assert caught.value.reason == "not_connected"
        # Somebody who has left is no violation.
        assert [(event.name, event.user_id) for event in sink.events] == [("authz_fail", None)]
        await manager.remove_connection(connection)
        with pytest.raises(CrossUserSendError):
            await manager.send_to_user(alice, {"type": "note"})
        assert user_streams(bob) == []

    async def test_a_message_that_names_another_user(self, process, sink, alice, bob):
        manager = get_websocket_manager()
        socket = Socket()
        await manager.connect_user(alice, socket)
        for named in (bob, f" {bob}", 5, [alice]):
            with pytest.raises(CrossUserSendError):
                await manager.send_to_user(alice, {"type": "note", "user_id": named})
        assert await manager.send_to_user(alice, {"type": "note", "user_id": f" {alice} "})
        await until(lambda: socket.texts)
        assert sink.reasons == ["message"] * 4
        assert len(socket.texts) == 1

    async def test_a_run_of_another_user(self, process, sink, alice, bob):
        manager = get_websocket_manager()
        await manager.connect_user(alice, Socket())
        theirs = Socket()
        await manager.connect_user(bob, theirs)
        await manager.send_to_user(bob, {"type": "note", "run_id": f"run-of-{bob}"})
        for kind in ("note", "agent_started", "agent_completed"):
            with pytest.raises(ContextIsolationError):
                await manager.send_to_user(alice, {"type": kind, "run_id": f"run-of-{bob}", "agent_name": "data"})
        assert sink.reasons == ["bind"] * 3
        await until(lambda: theirs.texts)
        assert theirs.types == ["note"]

    async def test_a_mapping_is_written_once_and_read_once(self, adapter, sink, alice, bob):
        socket, theirs = Socket(), Socket()
        await adapter.connect_user(alice, socket)
        await adapter.connect_user(bob, theirs)
        adapter.map_user("legacy-7", alice)
        adapter.map_user("legacy-7", f" {alice} ")
        with pytest.raises(CrossUserSendError):
            adapter.map_user("legacy-7", bob)
        with pytest.raises(TypeError):
            adapter.legacy_user_mappings["legacy-7"] = bob  # type: ignore[index]
        await adapter.send_to_user("legacy-7", {"type": "note"})
        await until(lambda: socket.texts)
        # A user's own id that somebody maps away is refused where its user's code runs.
        adapter.map_user(alice, bob)
        with bind_context(context_of(alice)), pytest.raises(CrossUserSendError):
            await adapter.send_to_user(alice, {"type": "note"})
        # One step: legacy-7 stands for alice, not for whom alice stands.
        await adapter.send_to_user("legacy-7", {"type": "note"})
        await until(lambda: len(socket.texts) == 2)
        with bind_context(context_of(alice)):
            with pytest.raises(CrossUserSendError):
                adapter.map_user("legacy-8", bob)
            with pytest.raises(CrossUserSendError):
                adapter.unmap_user(alice)
            assert adapter.unmap_user("legacy-7")
        assert theirs.texts == []
        assert sink.reasons == ["mapping", "other_user", "mapping", "other_user"]

    async def test_an_identity_is_not_metadata(self, adapter, sink, alice, bob):
        socket = Socket()
        for metadata in ({"user_id": bob}, {" User_ID ": bob}, {"connection_id": "x"}, {"websocket": 1}):
            with pytest.raises(ValueError, match="metadata of a connection cannot say"):
                await adapter.connect_user(alice, socket, metadata=metadata)
            with pytest.raises(ValueError, match="metadata of a connection cannot say"):
                adapter.add_connection(alice, socket, metadata)
        assert sink.reasons == ["metadata"] * 8
        taken = await adapter.connect_user(bob, Socket(), connection_id="conn-of-bob")
        with pytest.raises(ValueError, match="of this name"):
            await adapter.connect_user(alice, socket, connection_id=taken)
        assert adapter.hub.connections.get(taken).user_id == bob
        assert len(sink.events) == 8
        noted = {"page": "/chat"}
        await adapter.connect_user(alice, socket, metadata=noted, client_ip="127.0.0.1")
        (connection,) = adapter.hub.connections.of_user(alice)
        noted["user_id"] = bob
        assert dict(connection.metadata) == {"page": "/chat", "client_ip": "127.0.0.1"}
        for name, value in (("user_id", bob), ("websocket", Socket()), ("connection_id", "x")):
            with pytest.raises(AttributeError):
                setattr(connection, name, value)

    async def test_a_socket_that_carries_another_users_events(self, adapter, sink, alice, bob):
        socket = Socket()
        await adapter.connect_user(alice, socket)
        with pytest.raises(ContextIsolationError):
            await adapter.connect_user(bob, socket)
        with pytest.raises(ContextIsolationError):
            await adapter.add_connection(bob, socket)
        assert adapter.hub.connections.of_user(bob) == []
        assert sink.reasons == ["bind"] * 2
        assert (lane_usage(bob) or {"connections": 0})["connections"] == 0

    @pytest.mark.parametrize("user", [None, 5, "", "  ", b"alice", ["a"]])
    async def test_what_is_no_user(self, adapter, user):
        with pytest.raises(InvalidContextError):
            await adapter.send_to_user(user, {"type": "note"})
        with pytest.raises((InvalidContextError, TypeError)):
            await adapter.add_connection(user, Socket())

    async def test_a_manager_that_was_got_for_one_user_speaks_for_no_other(self, process, alice, bob):
        """Kept in an attribute, used from a thread that knows no context."""
        with bind_context(context_of(alice)):
            kept = get_websocket_manager()
        await get_websocket_manager().connect_user(bob, Socket())
        raised: list[BaseException] = []

        def in_a_thread() -> None:
            async def send() -> None:
                assert await kept.send_to_user(alice, {"type": "note"}) is SendOutcome.DROPPED
                try:
                    await kept.send_to_user(bob, {"type": "note"})
                except CrossUserSendError as error:
                    raised.append(error)

            asyncio.run(send())

        thread = threading.Thread(target=in_a_thread)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert len(raised) == 1
        # Where another user is bound, that is who counts.
        with bind_context(context_of(bob)):
            assert await kept.send_to_user(bob, {"type": "note"})
            with pytest.raises(CrossUserSendError):
                await kept.send_to_user(alice, {"type": "note"})

    async def test_a_block_cannot_be_bound_inside_another_users(self, process, sink, alice, bob):
        with bind_context(context_of(alice)):
            with bind_context(context_of(alice)):
                pass
            with pytest.raises(ContextIsolationError), bind_context(context_of(bob)):
                pass
            assert [(event.user_id, event.data["call"]) for event in sink.events] == [(alice, "bind_context")]
        with pytest.raises(TypeError), bind_context(SimpleNamespace(user_id=alice)):
            pass

    async def test_an_agent_of_an_engine_is_bound(self, process, sink, alice, bob):
        """Legacy code in an agent: what it sends is in the agent's run, and it cannot name another user."""
        manager = get_websocket_manager()
        socket = Socket()
        await manager.connect_user(alice, socket)
        await manager.connect_user(bob, Socket())

        class Legacy(isolane.BaseAgent):
            name = "legacy"

            async def execute_with_context(self, context: Any, request: Any) -> str:
                own = await get_websocket_manager()
                run = {"run_id": context.run_id, "agent_name": "LegacyTriage"}
                assert await own.send_to_user(alice, {"type": "agent_started", **run}) is SendOutcome.MERGED
                await own.send_to_user(alice, {"type": "agent_thinking", "data": {"thinking": "hm"}, **run})
                await own.send_to_user(alice, {"type": "tool_executing", "data": {"tool": "load"}, **run})
                await own.send_to_user(alice, {"type": "tool_completed", "data": {"tool": "load", "result": 1}, **run})
                await own.broadcast_message({"type": "note", "payload": {"n": 1}})
                assert await own.send_to_user(alice, {"type": "agent_completed", **run}) is SendOutcome.MERGED
                with pytest.raises(CrossUserSendError):
                    await own.send_to_user(bob, {"type": "note"})
                with pytest.raises(CrossUserSendError):
                    await asyncio.create_task(own.send_to_user(bob, {"type": "note"}))
                return "done"

        factory = isolane.ExecutionEngineFactory(process.factory)
        async with factory.user_execution_scope(context_of(alice)) as engine:
            result = await engine.execute_agent(Legacy)
        assert result.result == "done", result.error
        await until(lambda: "agent_completed" in socket.types)
        assert socket.types == [
            "agent_started",
            "agent_thinking",
            "tool_executing",
            "tool_completed",
            "note",
            "agent_completed",
        ]
        assert faults(socket.messages) == []
        assert len({message["run_id"] for message in socket.messages}) == 1
        assert sink.reasons == ["other_user"] * 2
        await factory.shutdown()

    @pytest.mark.parametrize("how", ["task", "thread"])
    async def test_what_an_agent_leaves_behind_speaks_for_its_user(self, process, sink, alice, bob, how):
        """After the agent, its engine and its context have ended."""
        socket = Socket()
        manager = get_websocket_manager()
        await manager.connect_user(alice, socket)
        await manager.connect_user(bob, Socket())
        released, left = asyncio.Event(), []

        async def later() -> list[Any]:
            answers: list[Any] = []
            for user in (alice, bob):
                try:
                    answers.append(await kept[0].send_to_user(user, {"type": "late", "n": 1}))
                except CrossUserSendError as error:
                    answers.append(error.reason)
            return answers

        kept: list[Any] = []

        async def wait() -> list[Any]:
            await released.wait()
            return await (asyncio.to_thread(asyncio.run, later()) if how == "thread" else later())

        class Legacy(isolane.BaseAgent):
            name = "legacy"

            async def execute_with_context(self, context: Any, request: Any) -> None:
                kept.append(get_websocket_manager())
                left.append(asyncio.create_task(wait()))

        factory = isolane.ExecutionEngineFactory(process.factory)
        async with factory.user_execution_scope(context_of(alice)) as engine:
            assert (await engine.execute_agent(Legacy)).success
        del engine
        await factory.shutdown()
        gc.collect()
        released.set()
        assert await left[0] == [SendOutcome.QUEUED, "other_user"]
        await until(lambda: "late" in socket.types)
        assert sink.reasons == ["other_user"]

    async def test_the_engine_runs_nothing_for_another_user(self, process, sink, alice, bob):
        class Echo(isolane.BaseAgent):
            name = "echo"

            async def execute_with_context(self, context: Any, request: Any) -> Any:
                return f"{request} of {context.user_id}"

        agents = isolane.AgentRegistry()
        agents.register(Echo)
        configure_agent_instance_factory(agents)
        factory = await configure_execution_engine_factory(process.factory)
        context = context_of(alice)
        told = AgentExecutionContext(context.run_id, context.thread_id, alice, "echo")
        foreign = AgentExecutionContext(context.run_id, context.thread_id, bob, "echo")
        with bind_context(context):
            with pytest.raises(CrossUserSendError):
                await get_execution_engine().execute_agent(foreign, "secret")
            result = await (await get_execution_engine()).execute_agent(told, "note")
        assert result.data == f"note of {alice}"
        assert sink.reasons == ["other_user"]
        await factory.shutdown()

    async def test_many_threads_at_once(self, process, new_user):
        """Each with a loop of its own, some bound and some with a manager that was got for their user."""
        users = [new_user() for _ in range(6)]
        failed: list[BaseException] = []

        def work(user: str, manager: Any) -> None:
            async def send() -> None:
                for step in range(40):
                    message = {"type": "step", "payload": {"n": step}, "run_id": f"run-of-{user}"}
                    assert await manager.send_to_user(user, message) is SendOutcome.STORED
                    for other in users:
                        if other != user:
                            with pytest.raises(CrossUserSendError):
                                await manager.send_to_user(other, {"type": "leak", "run_id": f"run-of-{other}"})

            try:
                asyncio.run(send())
            except BaseException as error:  # noqa: BLE001 - told by the test
                failed.append(error)

        threads = []
        for user in users:
            with bind_context(context_of(user)):
                threads.append(threading.Thread(target=work, args=(user, get_websocket_manager())))
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert failed == []
        for user in users:
            (stream,) = user_streams(user)
            assert (stream["run_id"], stream["head"]) == (f"run-of-{user}", 40)

    async def test_a_conversation_that_two_users_name_alike(self, process, sink, alice, bob):
        manager = get_websocket_manager()
        mine, theirs = Socket(), Socket()
        await manager.connect_user(alice, mine, thread_id="thread-7")
        assert await manager.send_to_thread("thread-7", {"type": "note", "payload": {"n": 1}})
        assert await manager.send_to_thread("thread-8", {"type": "note"}) is SendOutcome.DROPPED
        connection = await manager.connect_user(bob, theirs)
        assert manager.update_connection_thread(connection, "thread-7")
        with pytest.raises(CrossUserSendError):
            await manager.send_to_thread("thread-7", {"type": "note"})
        with bind_context(context_of(bob)):
            assert await manager.send_to_thread("thread-7", {"type": "note", "payload": {"n": 2}})
        await until(lambda: mine.texts and theirs.texts)
        assert (payloads(mine, "note"), payloads(theirs, "note")) == ([{"n": 1}], [{"n": 2}])
        assert sink.reasons == ["thread"]


async def call(function, *arguments):
    """What a plain function returns; what it returns may be awaitable."""
    answer = function(*arguments)
    return await answer if hasattr(answer, "__await__") else answer


class TestBroadcasts:
    async def two(self, adapter, alice, bob):
        mine, theirs = Socket(), Socket()
        await adapter.connect_user(alice, mine)
        await adapter.connect_user(bob, theirs)
        return mine, theirs

    @pytest.mark.parametrize("name", ["broadcast_message", "broadcast_to_all", "broadcast"])
    async def test_by_default_it_goes_to_the_bound_user(self, adapter, sink, alice, bob, name):
        mine, theirs = await self.two(adapter, alice, bob)
        with bind_context(context_of(alice)):
            assert await getattr(adapter, name)({"type": "note"}) == 1
        with pytest.raises(BroadcastDeniedError):
            await getattr(adapter, name)({"type": "note"})
        await until(lambda: mine.texts)
        assert theirs.texts == []
        assert [(event.name, event.data["reason"]) for event in sink.events] == [("authz_fail", "broadcast")]

    async def test_denied(self, sink, alice, bob):
        adapter = LegacyWebSocketBridge(audit=sink, broadcast="deny")
        mine, theirs = await self.two(adapter, alice, bob)
        with bind_context(context_of(alice)), pytest.raises(BroadcastDeniedError):
            await adapter.broadcast_message({"type": "note"})
        with bind_context(context_of(alice)):
            assert await adapter.broadcast_message({"type": "note"}, user_id=alice)
        await until(lambda: mine.texts)
        assert (len(mine.texts), theirs.texts) == (1, [])
        assert sink.reasons == ["broadcast"]
        adapter.close()

    async def test_what_is_listed_is_for_everybody_and_nothing_else_is(self, sink, monkeypatch, alice, bob):
        monkeypatch.setenv("ISOLANE_LEGACY_BROADCAST", "allow: system_notice, maintenance")
        adapter = CompatibilityAdapter(audit=sink)
        mine, theirs = await self.two(adapter, alice, bob)
        notice = {"type": "system_notice", "payload": {"text": "soon"}, "run_id": "run-x", "thread_id": "thread-x"}
        with bind_context(context_of(alice)):
            assert await adapter.broadcast_message(notice) == 2
            assert await adapter.broadcast_to_all(notice, exclude_users=[alice]) == 1
            assert await adapter.broadcast_message({"type": "note"}) == 1
            for leak in ({"user_id": alice}, {"payload": {"user_id": alice}}):
                with pytest.raises(CrossUserSendError):
                    await adapter.broadcast_message({"type": "system_notice", **leak})
        with pytest.raises(BroadcastDeniedError):
            await adapter.broadcast_message({"type": "note"})
        await until(lambda: len(mine.texts) == len(theirs.texts) == 2)
        assert (mine.types, theirs.types) == (["system_notice", "note"], ["system_notice"] * 2)
        assert "run-x" not in "".join(theirs.texts)
        assert "thread-x" not in "".join(theirs.texts)
        assert sink.reasons == ["message", "message", "broadcast"]
        adapter.close()

    @pytest.mark.parametrize(
        "text", ["all", "allow", "allow:", "allow: ,", "allow:*", "allow:agent_thinking", "Deny", "allow:agent_*"]
    )
    def test_policies_that_are_none(self, text):
        with pytest.raises(ValueError, match="ISOLANE_LEGACY_BROADCAST"):
            BroadcastPolicy.parse(text)

    async def test_a_broadcast_names_no_other_user(self, adapter, sink, alice, bob):
        _, theirs = await self.two(adapter, alice, bob)
        with bind_context(context_of(alice)), pytest.raises(CrossUserSendError):
            await adapter.broadcast_message({"type": "note", "user_id": bob})
        assert theirs.texts == []
        assert sink.reasons == ["message"]


class TestGetters:
    GETTERS = (
        get_websocket_manager,
        get_legacy_websocket_manager,
        get_websocket_bridge,
        get_agent_websocket_bridge,
        get_execution_engine,
        get_tool_dispatcher,
    )

    @pytest.mark.parametrize("getter", GETTERS, ids=lambda getter: getter.__name__)
    async def test_directly_awaited_and_as_a_truth(self, process, getter):
        held = getter()
        assert held
        assert await held is held
        assert await held is held
        assert await asyncio.wait_for(getter(), 1) is not None
        (gathered,) = await asyncio.gather(held)
        assert gathered is held
        assert repr(held)

    async def test_from_threads_and_at_the_same_time(self, process, alice):
        found = await asyncio.gather(*(asyncio.to_thread(get_websocket_manager) for _ in range(20)))
        assert set(found) == {get_websocket_manager()}
        with bind_context(context_of(alice)):
            assert get_websocket_manager() != found[0]

    async def test_the_bridge_speaks_for_whom_the_code_runs(self, process, alice):
        socket = Socket()
        await get_websocket_manager().connect_user(alice, socket)
        bridge, run = get_websocket_bridge(), f"run-of-{alice}"
        with pytest.raises(LegacyContextError):
            await bridge.notify_agent_started(run, "data")
        with bind_context(context_of(alice)):
            assert await bridge.notify_agent_started(run, "data", {"step": 1})
            assert await bridge.notify_agent_thinking(run_id=run, agent_name="data", reasoning="hm", step_number=1)
            assert await bridge.notify_tool_executing(run, "data", "load", {"q": 1})
            assert await bridge.notify_tool_completed(run, "data", "load", [1], 5.0)
            assert await bridge.notify_agent_completed(run, "data", {"rows": 1}, 7.0)
            await bridge.notify_agent_error(run, "report", ValueError("no rows"), {"at": 1})
        await until(lambda: len(socket.texts) == 7)
        assert socket.types == [*WHOLE, "agent_started", "agent_error"]
        assert [broken_rules(message) for message in socket.messages] == [[]] * 7

    async def test_what_belongs_to_a_run_wants_one(self, process, alice):
        with pytest.raises(LegacyContextError):
            await get_execution_engine().execute_agent(SimpleNamespace(agent_name="x"))
        with pytest.raises(LegacyContextError):
            get_tool_dispatcher().execute_tool("x")
        assert not hasattr(get_tool_dispatcher(), "__len__")


class TestSockets:
    async def test_a_slow_socket_holds_nobody(self, adapter, alice, bob):
        slow, fast, theirs = Socket(), Socket(), Socket()
        slow.stuck = True
        await adapter.connect_user(alice, slow)
        await adapter.connect_user(alice, fast)
        await adapter.connect_user(bob, theirs)
        async with asyncio.timeout(2):
            for step in range(50):
                await adapter.send_to_user(alice, {"type": "step", "n": step})
                await adapter.send_to_user(bob, {"type": "step", "n": step})
            await until(lambda: len(fast.texts) == len(theirs.texts) == 50)
        assert slow.texts == []

    async def test_a_socket_that_dies_is_forgotten_and_the_others_go_on(self, adapter, alice, monkeypatch):
        from isolane.compat import pool_delivery  # noqa: PLC0415

        monkeypatch.setattr(pool_delivery, "FIRST_PAUSE", 0.001)
        dying, living = Socket(), Socket()
        await adapter.connect_user(alice, dying)
        await adapter.connect_user(alice, living)
        await adapter.send_to_user(alice, {"type": "step", "n": 0})
        await until(lambda: dying.texts)
        dying.client_state.name = "DISCONNECTED"
        dying.failures = [RuntimeError("closed")] * 9
        for step in range(1, 10):
            await adapter.send_to_user(alice, {"type": "step", "n": step})
        await until(lambda: len(living.texts) == 10)
        await until(lambda: len(adapter.get_user_connections(alice)) == 1)
        assert [payload["n"] for payload in payloads(living, "step")] == list(range(10))

    async def test_a_record_of_the_hosts(self, adapter, alice):
        socket = Socket()
        record = SimpleNamespace(connection_id="conn-7", user_id=alice, websocket=socket, metadata={"page": "/"})
        assert await adapter.add_connection(record) == "conn-7"
        assert adapter.get_user_connections(alice) == ["conn-7"]
        assert await adapter.add_connection(record) == "conn-7"
        assert len(adapter.get_user_connections(alice)) == 1
        assert adapter.get_connection_health(alice)["active_connections"] == 1
        assert adapter.remove_connection("conn-7")
        assert not adapter.remove_connection("conn-7")
        assert not await adapter.remove_connection("unknown")
        with pytest.raises(TypeError):
            adapter.add_connection(alice)

    async def test_without_an_await(self, adapter, alice):
        """As a service does whose methods are plain functions."""
        socket = Socket()
        name = adapter.add_connection(alice, socket)
        assert isinstance(name, str)
        await adapter.send_to_user(alice, {"type": "note"})
        await until(lambda: socket.texts)
        adapter.remove_connection(alice, socket)
        assert adapter.get_user_connections(alice) == []
        assert lane_usage(alice)["connections"] == 0

    async def test_disconnecting_ends_no_run(self, adapter, alice):
        first, second = Socket(), Socket()
        await adapter.connect_user(alice, first)
        await adapter.connect_user(alice, second)
        await adapter.send_to_user(alice, {"type": "agent_started", "agent_name": "a", "run_id": f"run-of-{alice}"})
        assert await adapter.disconnect_user(alice, first) == 1
        assert await adapter.disconnect_user(alice) == 1
        assert await adapter.disconnect_user(alice) == 0
        again = Socket()
        await adapter.connect_user(alice, again)
        await adapter.send_to_user(alice, {"type": "agent_completed", "agent_name": "a", "run_id": f"run-of-{alice}"})
        await until(lambda: len(again.texts) == 2)
        assert again.types == ["agent_started", "agent_completed"]

    async def test_cancelled_at_any_turn_nothing_is_left(self, adapter, alice):
        for turns in range(12):
            socket = Socket()

            async def work(socket: Socket = socket) -> None:
                await adapter.connect_user(alice, socket)
                try:
                    await adapter.send_to_user(alice, {"type": "note"})
                    await asyncio.sleep(0)
                finally:
                    await adapter.disconnect_user(alice, socket)

            task = asyncio.create_task(work())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            await asyncio.sleep(0)
            assert adapter.get_user_connections(alice) == []
            assert (lane_usage(alice) or {"connections": 0})["connections"] == 0

    @pytest.mark.parametrize("leaves", ["cancelled", "removed", "another"])
    async def test_a_socket_of_which_it_is_still_asked_whose_it_is(self, adapter, sink, alice, bob, leaves):
        asked, answer = asyncio.Event(), asyncio.get_running_loop().create_future()

        class Asked:
            known_user = None

            async def user_of(self, connection: Any) -> str:
                asked.set()
                return await asyncio.shield(answer)

        socket = Socket()
        socket.scope = {"state": {"isolane": Asked()}}  # type: ignore[attr-defined]
        name = adapter.add_connection(alice, socket)
        await asked.wait()
        assert await adapter.send_to_user(alice, {"type": "note"}) is SendOutcome.STORED
        if leaves == "cancelled":
            name.begun.cancel()
            await asyncio.wait({name.begun})
        elif leaves == "removed":
            assert adapter.remove_connection(name)
        answer.set_result(bob if leaves == "another" else alice)
        with contextlib.suppress(CrossUserSendError, asyncio.CancelledError):
            await name
        assert adapter.get_user_connections(alice) == []
        assert lane_usage(alice)["connections"] == 0
        assert sink.reasons == (["socket"] if leaves == "another" else [])
        assert socket.texts == []

    async def test_a_socket_that_waited_is_sent_what_was_told_meanwhile(self, adapter, alice):
        answer = asyncio.get_running_loop().create_future()

        class Asked:
            known_user = None

            async def user_of(self, connection: Any) -> str:
                return await answer

        socket = Socket()
        socket.scope = {"state": {"isolane": Asked()}}  # type: ignore[attr-defined]
        name = adapter.add_connection(alice, socket)
        for step in range(3):
            await adapter.send_to_user(alice, {"type": "step", "n": step})
        answer.set_result(f" {alice} ")
        assert await name == name
        await adapter.send_to_user(alice, {"type": "step", "n": 3})
        await until(lambda: len(socket.texts) == 4)
        assert [payload["n"] for payload in payloads(socket, "step")] == [0, 1, 2, 3]

    async def test_many_at_once(self, adapter, new_user):
        users = [new_user() for _ in range(10)]
        sockets = {user: Socket() for user in users}
        await asyncio.gather(*(adapter.connect_user(user, socket) for user, socket in sockets.items()))

        async def sender(user: str) -> None:
            for step in range(50):
                await adapter.send_to_user(user, {"type": "step", "n": step, "whose": user})
                await asyncio.sleep(0)

        await asyncio.gather(*map(sender, users))
        await until(lambda: all(len(socket.texts) == 50 for socket in sockets.values()))
        for user, socket in sockets.items():
            assert [(one["n"], one["whose"]) for one in payloads(socket, "step")] == [(n, user) for n in range(50)]


class TestBounds:
    async def test_runs_that_are_told_nothing_end(self, adapter, alice, bob):
        with manual_clock() as clock, bind_context(context_of(alice)):
            for kind in ("note", "agent_started"):
                await adapter.send_to_user(alice, {"type": kind, "run_id": f"{kind}-of-{alice}", "agent_name": "a"})
            # A second more: the time of the clock is a float, whose differences are not exact.
            clock.advance(runs_module.IDLE_SECONDS + 1)
            adapter.hub.end_idle()
            outcomes = {stream["run_id"]: stream["outcome"] for stream in user_streams(alice)}
            assert outcomes[f"note-of-{alice}"] is not None
            assert outcomes[f"agent_started-of-{alice}"] is None
            clock.advance(runs_module.ABANDONED_SECONDS)
            adapter.factory.end_idle_notices()
            assert len(adapter.hub.runs) == 0

    async def test_the_runs_of_a_user_are_bounded(self, adapter, alice):
        with bind_context(context_of(alice)):
            for number in range(40):
                await adapter.send_to_user(alice, {"type": "note", "run_id": f"run-{number}-of-{alice}"})
        assert len(adapter.hub.runs) == runs_module.MAX_RUNS_OF_A_USER
        live = [stream for stream in user_streams(alice) if stream["outcome"] is None]
        assert len(live) <= runs_module.MAX_RUNS_OF_A_USER

    async def test_the_users_with_runs_are_bounded(self, adapter, monkeypatch, new_user):
        monkeypatch.setattr(runs_module, "MAX_USERS", 3)
        for _ in range(8):
            user = new_user()
            with bind_context(context_of(user)):
                await adapter.send_to_user(user, {"type": "note", "run_id": f"run-of-{user}"})
        assert len(adapter.hub.runs) == 3

    async def test_sockets_and_mappings_are_bounded(self, adapter, alice):
        adapter.hub.connections.limit = 2
        for _ in range(2):
            await adapter.connect_user(alice, Socket())
        with pytest.raises(BudgetExceeded):
            await adapter.connect_user(alice, Socket())
        adapter.hub.mappings.limit = 1
        adapter.map_user("legacy-1", alice)
        with pytest.raises(BudgetExceeded):
            adapter.map_user("legacy-2", alice)
        assert connections_module.MAX_CONNECTIONS == mappings_module.MAX_MAPPINGS == 10_000

    async def test_a_fourth_socket_takes_the_place_of_one(self, adapter, alice):
        sockets = [Socket() for _ in range(4)]
        for socket in sockets:
            await adapter.connect_user(alice, socket)
        await until(lambda: sum(socket.closed_with == 4504 for socket in sockets) == 1)
        await until(lambda: len(adapter.get_user_connections(alice)) == 3)

    async def test_what_is_closed_is_gone(self, alice):
        adapter = CompatibilityAdapter()
        await adapter.connect_user(alice, Socket())
        await adapter.send_to_user(alice, {"type": "note", "run_id": f"run-of-{alice}"})
        adapter.close()
        assert (len(adapter.hub.runs), len(adapter.hub.connections)) == (0, 0)
        assert lane_usage(alice)["connections"] == 0

    async def test_statistics_name_nobody(self, adapter, alice):
        await adapter.connect_user(alice, Socket())
        await adapter.send_to_user(alice, {"type": "note"})
        with contextlib.suppress(CrossUserSendError):
            await adapter.send_to_user("nobody-here", {"type": "note"})
        stats = adapter.get_stats()
        assert alice not in repr(stats)
        assert (stats["active_connections"], stats["unique_users"]) == (1, 1)
        assert stats["messages"] == {"queued": 1, "stored": 0, "merged": 0, "dropped": 0}
        assert stats["refused"] == {"not_connected": 1}


class TestModernBridge:
    async def test_emitters_and_events(self, sink, alice, bob):
        bridge = ModernWebSocketBridge(audit=sink)
        context = context_of(alice)
        emitter = await bridge.create_user_emitter(alice, context)
        await emitter.notify_agent_started("data")
        with pytest.raises(ContextIsolationError):
            await bridge.create_user_emitter(bob, context)
        with bind_context(context):
            assert await bridge.notify_agent_event(alice, isolane.WebSocketEvent("note", alice, {"n": 1}))
            with pytest.raises(CrossUserSendError):
                await bridge.notify_agent_event(bob, {"type": "note"})
            with pytest.raises(CrossUserSendError):
                await bridge.notify_agent_event(alice, isolane.WebSocketEvent("note", bob, {"n": 1}))
            with pytest.raises(CrossUserSendError):
                await bridge.cleanup_user_session(bob)
            assert await bridge.cleanup_user_session(alice) == 1
        assert sink.reasons == ["bind", "other_user", "message", "other_user"]
        (stream,) = user_streams(alice)
        assert (stream["run_id"], stream["head"]) == (context.run_id, 3)


async def test_what_a_request_leaves_behind_keeps_only_whose_it_was(alice):
    class Scope:
        isolane = run_context = None
        known_user = alice

        async def user_of(self, connection: Any) -> str:
            return alice

    scope, connection = Scope(), {"headers": []}
    caller = Caller(scope, connection)
    assert await caller.resolve() == alice
    held = weakref.ref(scope)
    caller.close()
    caller.close()
    del scope
    gc.collect()
    assert held() is None
    assert (caller.user_id, await caller.resolve(), caller.run_context, caller.application) == (
        alice,
        alice,
        None,
        None,
    )


def test_a_message_is_converted_to_an_event(alice, bob):
    event = convert_legacy_message({"type": "note", "thread_id": "t-1", "agent_name": "data", "n": 1}, f" {alice} ")
    assert (event.event_type, event.user_id, dict(event.payload)) == ("note", alice, {"n": 1})
    assert (event.thread_id, event.agent_type) == ("t-1", "data")
    with pytest.raises(CrossUserSendError):
        convert_legacy_message({"type": "note", "user_id": bob}, alice)


def test_errors_can_be_copied(alice):
    error = CrossUserSendError("text", "publish", call="send_to_user", reason="run")
    assert str(copy.copy(error)) == "text"
    gc.collect()
