"""`isolane.compat.websocket_bridge_factory`: the host's names, its own pool, and what reaches the socket."""

import asyncio
import contextlib
import gc
import inspect
import logging
from dataclasses import fields
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import isolane
import pytest
from isolane import ContextIsolationError, InvalidContextError, InvalidEvent, RunClosed, UserContextFactory
from isolane._core import lane_usage, user_streams
from isolane.compat import agent_instance_factory, pool_delivery, websocket_bridge_factory
from isolane.compat.agent_instance_factory import configure_agent_instance_factory
from isolane.compat.execution_engine_factory import ExecutionEngineFactory
from isolane.compat.websocket_bridge_factory import (
    ConnectionStatus,
    UserWebSocketContext,
    UserWebSocketEmitter,
    WebSocketBridgeFactory,
    WebSocketEvent,
    WebSocketFactoryConfig,
    get_websocket_bridge_factory,
)
from isolane.compat.websocket_records import PendingEvents

from tests.compat.pool import WHOLE, Pool, Socket, run_of_an_agent, until
from tests.support.frontend import broken_rules
from tests.support.history import faults


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
async def factory(pool, monkeypatch):
    monkeypatch.setattr(pool_delivery, "FIRST_PAUSE", 0.005)
    made = WebSocketBridgeFactory(WebSocketFactoryConfig(delivery_timeout_seconds=0.5))
    made.configure(pool, SimpleNamespace(), SimpleNamespace())
    yield made
    await made.shutdown()


class TestNames:
    @pytest.mark.parametrize(
        ("method", "names"),
        [
            (UserWebSocketEmitter.notify_agent_started, ["agent_name", "run_id"]),
            (UserWebSocketEmitter.notify_agent_thinking, ["agent_name", "run_id", "thinking"]),
            (UserWebSocketEmitter.notify_tool_executing, ["agent_name", "run_id", "tool_name", "tool_input"]),
            (UserWebSocketEmitter.notify_tool_completed, ["agent_name", "run_id", "tool_name", "tool_output"]),
            (UserWebSocketEmitter.notify_agent_completed, ["agent_name", "run_id", "result"]),
            (UserWebSocketEmitter.notify_agent_error, ["agent_name", "run_id", "error"]),
            (WebSocketBridgeFactory.configure, ["connection_pool", "agent_registry", "health_monitor"]),
            (WebSocketBridgeFactory.create_user_emitter, ["user_id", "thread_id", "connection_id"]),
            (WebSocketBridgeFactory.cleanup_user_context, ["user_id", "connection_id"]),
        ],
    )
    def test_arguments_have_the_hosts_order(self, method, names):
        assert list(inspect.signature(method).parameters) == ["self", *names]

    def test_records_have_the_hosts_fields_and_defaults(self):
        assert [field.name for field in fields(WebSocketEvent)] == (
            ["event_type", "user_id", "thread_id", "data", "timestamp", "event_id", "retry_count", "max_retries"]
        )
        assert [field.name for field in fields(UserWebSocketContext)] == (
            [
                "user_id",
                "thread_id",
                "connection_id",
                "session_id",
                "created_at",
                "event_queue",
                "sent_events",
                "failed_events",
                "last_heartbeat",
                "connection_status",
                "reconnect_attempts",
                "cleanup_callbacks",
            ]
        )
        event = WebSocketEvent("agent_started", "user-7", "thread-7", {})
        assert (event.retry_count, event.max_retries, event.timestamp.tzinfo is None) == (0, 3, False)
        assert event.event_id != WebSocketEvent("agent_started", "user-7", "thread-7", {}).event_id
        assert [status.value for status in ConnectionStatus] == [
            "initializing",
            "healthy",
            "unhealthy",
            "failed",
            "closed",
        ]
        assert UserWebSocketContext("user-7", "thread-7", "c-1").event_queue.maxsize == 1000

    def test_settings_come_from_the_hosts_variables(self, monkeypatch):
        names = [name for name in dir(WebSocketFactoryConfig()) if not name.startswith("_") and name != "from_env"]
        assert WebSocketFactoryConfig.from_env() == WebSocketFactoryConfig(1000, 30.0, 30.0, 3, 3, 5.0, True, True)
        assert len(names) == 8
        for name, value in {
            "MAX_EVENTS_PER_USER": "7",
            "EVENT_TIMEOUT": "8",
            "HEARTBEAT_INTERVAL": "9",
            "MAX_RECONNECT_ATTEMPTS": "1",
            "DELIVERY_RETRIES": "2",
            "DELIVERY_TIMEOUT": "0.5",
            "ENABLE_COMPRESSION": "false",
            "ENABLE_BATCHING": "0",
        }.items():
            monkeypatch.setenv(f"WEBSOCKET_{name}", value)
        assert WebSocketFactoryConfig.from_env() == WebSocketFactoryConfig(7, 8.0, 9.0, 1, 2, 0.5, False, False)
        monkeypatch.setenv("WEBSOCKET_DELIVERY_RETRIES", "many")
        with pytest.raises(ValueError, match="WEBSOCKET_DELIVERY_RETRIES"):
            WebSocketFactoryConfig.from_env()

    def test_the_factory_of_the_process_is_one(self, monkeypatch):
        monkeypatch.setattr(websocket_bridge_factory, "_factory", None)
        assert get_websocket_bridge_factory() is get_websocket_bridge_factory()

    async def test_metrics_have_the_hosts_keys(self, factory, pool, alice):
        pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await run_of_an_agent(emitter, f"run-a-of-{alice}")
        await until(lambda: factory.get_factory_metrics()["events_sent_total"] == 5)
        with pytest.raises(InvalidEvent):
            await emitter.notify_agent_thinking("data", f"run-a-of-{alice}", "too late")
        metrics = factory.get_factory_metrics()
        assert set(metrics) == {
            "emitters_created",
            "emitters_active",
            "emitters_cleaned",
            "events_sent_total",
            "events_failed_total",
            "created_at",
            "active_contexts",
            "config",
            "timestamp",
        }
        assert metrics["config"]["delivery_timeout_seconds"] == 0.5
        counts = [metrics[name] for name in metrics if name not in {"created_at", "config", "timestamp"}]
        assert counts == [1, 1, 0, 5, 1, 1]
        assert await emitter.cleanup() == 0
        metrics = factory.get_factory_metrics()
        counts = [metrics[name] for name in metrics if name not in {"created_at", "config", "timestamp"}]
        assert counts == [1, 0, 1, 5, 1, 0]


def test_what_a_snapshot_covers_is_no_sent_event():
    pending = PendingEvents(2)
    events = [WebSocketEvent("agent_thinking", "user-7", "thread-7", {"at": at}) for at in range(4)]
    for at, event in enumerate(events):
        pending.add("run-7", at + 1, event)
    assert (pending.qsize(), pending.folded, pending.full()) == (2, 2, True)
    assert pending.delivered("run-7", 4) is events[3]
    assert (pending.empty(), pending.folded) == (True, 3)
    assert pending.delivered("run-7", 5) is None


class TestRefusals:
    async def test_without_a_pool(self, alice):
        factory = WebSocketBridgeFactory(WebSocketFactoryConfig())
        with pytest.raises(RuntimeError, match=r"Factory not configured - call configure\(\) first"):
            await factory.create_user_emitter(alice, "thread-7", "c-1")
        with pytest.raises(ValueError, match="connection_pool cannot be None"):
            factory.configure(None, None, None)

    async def test_a_connection_that_the_pool_does_not_have(self, factory, pool, alice):
        with pytest.raises(RuntimeError, match="No active WebSocket connection"):
            await factory.create_user_emitter(alice, "thread-7", "c-1")
        pool.connections["c-1", alice] = SimpleNamespace()
        with pytest.raises(RuntimeError, match="No active WebSocket connection"):
            await factory.create_user_emitter(alice, "thread-7", "c-1")
        pool.add("c-1", alice).client_state.name = "DISCONNECTED"
        with pytest.raises(RuntimeError, match="No active WebSocket connection"):
            await factory.create_user_emitter(alice, "thread-7", "c-1")
        assert factory.get_factory_metrics()["emitters_created"] == 0

    @pytest.mark.parametrize(
        ("user", "thread", "field"),
        [("", "thread-7", "user_id"), ("default", "thread-7", "user_id"), ("u-7", " ", "thread_id")],
    )
    async def test_bad_ids(self, factory, pool, user, thread, field):
        pool.add("c-1", user)
        with pytest.raises(InvalidContextError) as caught:
            await factory.create_user_emitter(user, thread, "c-1")
        assert caught.value.field == field

    async def test_a_connection_of_another_user(self, factory, pool, alice, bob):
        pool.add("c-1", alice)
        pool.connections["c-1", bob] = pool.connections["c-1", alice]
        with pytest.raises(ContextIsolationError):
            await factory.create_user_emitter(bob, "thread-7", "c-1")

    async def test_a_socket_that_carries_another_users_events(self, factory, pool, alice, bob):
        socket = pool.add("c-1", alice)
        pool.add("c-2", bob, socket)
        await factory.create_user_emitter(alice, "thread-7", "c-1")
        with pytest.raises(ContextIsolationError):
            await factory.create_user_emitter(bob, "thread-7", "c-2")

    async def test_a_run_of_another_user(self, factory, pool, alice, bob):
        pool.add("c-1", alice)
        pool.add("c-2", bob)
        mine = await factory.create_user_emitter(alice, "thread-7", "c-1")
        theirs = await factory.create_user_emitter(bob, "thread-7", "c-2")
        await mine.notify_agent_started("data", f"run-of-{alice}")
        with pytest.raises(ContextIsolationError):
            await theirs.notify_agent_started("data", f"run-of-{alice}")
        with pytest.raises(RunClosed):
            await mine.cleanup()
            await mine.notify_agent_started("data", f"run-of-{alice}")

    async def test_an_agent_without_a_name_and_a_payload_without_a_form(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        with pytest.raises(InvalidEvent):
            await emitter.notify_agent_started(" ", f"run-a-of-{alice}")
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        with pytest.raises(InvalidEvent, match="not JSON-able"):
            await emitter.notify_tool_executing("data", f"run-a-of-{alice}", "load", {"x": object()})
        await emitter.notify_agent_completed("data", f"run-a-of-{alice}", 1)
        assert await emitter.cleanup() == 0
        assert socket.types == ["agent_started", "agent_completed"]
        assert emitter.get_event_stats()["events_refused"] == 2


class TestDelivery:
    async def test_messages_have_the_shape_of_the_browsers_client(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(user_id=alice, thread_id="thread-7", connection_id="c-1")
        await run_of_an_agent(emitter, f"run-a-of-{alice}")
        await emitter.notify_agent_started(agent_name="report", run_id=f"run-a-of-{alice}")
        await emitter.notify_agent_error(
            agent_name="report", run_id=f"run-a-of-{alice}", error="no rows in /home/alice/x.csv"
        )
        assert await emitter.cleanup() == 0
        assert [broken_rules(message) for message in socket.messages] == [[]] * 7
        assert faults(socket.messages) == []
        assert socket.types == [*WHOLE, "agent_started", "agent_error"]
        assert {message["thread_id"] for message in socket.messages} == {"thread-7"}
        assert socket.messages[-1]["payload"]["error_message"] == "no rows in ~/x.csv"

    async def test_what_was_sent_is_told_as_it_was(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        context = emitter.user_context
        assert context.connection_status is ConnectionStatus.HEALTHY
        socket.failures = [ConnectionResetError("again"), OSError("and again")]
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        assert context.event_queue.qsize() == 1
        assert context.sent_events == []
        await until(lambda: context.connection_status is ConnectionStatus.UNHEALTHY)
        await until(lambda: context.sent_events)
        assert context.connection_status is ConnectionStatus.HEALTHY
        (event,) = context.sent_events
        assert (event.event_type, event.retry_count, event.data) == ("agent_started", 2, {})
        assert event.event_id == socket.messages[0]["event_id"]
        assert isinstance(context.last_heartbeat, datetime)
        assert (context.event_queue.empty(), context.failed_events, socket.tries) == (True, [], 3)

    async def test_the_latest_sent_events_are_kept(self, factory, pool, alice):
        pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        for step in range(150):
            await emitter.notify_agent_thinking("data", f"run-a-of-{alice}", f"step {step}")
        await until(lambda: emitter.events_sent == 151)
        assert 50 <= len(emitter.user_context.sent_events) <= 100
        assert emitter.user_context.sent_events[-1].data == {"reasoning": "step 149"}

    async def test_a_socket_that_is_lost_goes_on_where_it_was(self, factory, pool, alice):
        """More failures than tries: the pool is asked again, and no event is missing or doubled."""
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        await until(lambda: socket.texts)
        socket.failures = [OSError("gone")] * 6
        for step in range(20):
            await emitter.notify_agent_thinking("data", f"run-a-of-{alice}", f"step {step}")
        await emitter.notify_agent_completed("data", f"run-a-of-{alice}", None)
        assert await emitter.cleanup() == 0
        assert faults(socket.messages) == []
        assert [message["seq"] for message in socket.messages] == list(range(1, 23))
        assert emitter.user_context.reconnect_attempts == 1

    async def test_a_new_socket_of_the_connection_is_sent_the_run_from_its_beginning(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        await until(lambda: socket.texts)
        socket.client_state.name = "DISCONNECTED"
        socket.failures = [RuntimeError("closed")]
        again = pool.add("c-1", alice)
        await emitter.notify_agent_completed("data", f"run-a-of-{alice}", None)
        assert await emitter.cleanup() == 0
        assert again.types == ["agent_started", "agent_completed"]
        assert len(socket.texts) == 1

    async def test_a_socket_that_stays_lost_is_told(self, factory, pool, alice, caplog):
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        context = emitter.user_context
        pool.connections.clear()
        socket.client_state.name = "DISCONNECTED"
        socket.failures = [OSError("gone")]
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        await until(lambda: context.connection_status is ConnectionStatus.FAILED)
        assert (context.reconnect_attempts, context.sent_events, emitter.events_sent) == (3, [], 0)
        assert lane_usage(alice)["connections"] == 0
        assert await emitter.cleanup() == 1
        assert [event.event_type for event in context.failed_events] == ["agent_started"]
        assert context.connection_status is ConnectionStatus.CLOSED
        assert factory.get_factory_metrics()["events_failed_total"] == 1
        assert "takes no messages" in caplog.text
        assert "before that took 1 events" in caplog.text
        # They stay in the log for whoever comes.
        late = pool.add("c-2", alice)
        other = await factory.create_user_emitter(alice, "thread-7", "c-2")
        await until(lambda: late.types == ["agent_started", "agent_error"])
        await other.cleanup()

    async def test_a_socket_that_takes_too_long_is_closed_for_resume(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        socket.stuck = True
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        await until(lambda: socket.closed_with == 4008)
        await until(lambda: emitter.user_context.connection_status is ConnectionStatus.FAILED)
        assert await emitter.cleanup() == 1

    async def test_a_fourth_socket_replaces_the_one_read_longest_ago(self, factory, pool, alice):
        sockets = [pool.add(f"c-{at}", alice) for at in range(4)]
        emitters = [await factory.create_user_emitter(alice, "thread-7", f"c-{at}") for at in range(4)]
        await until(lambda: sockets[0].closed_with == 4504)
        await until(lambda: emitters[0].user_context.connection_status is ConnectionStatus.FAILED)
        await run_of_an_agent(emitters[0], f"run-a-of-{alice}")
        assert await emitters[0].cleanup() == 5
        await until(lambda: [socket.types for socket in sockets[1:]] == [WHOLE] * 3)

    @pytest.mark.parametrize("error", [NameError("undefined"), RuntimeError("undefined")])
    async def test_a_programming_error_is_no_lost_socket(self, factory, pool, alice, caplog, error):
        socket = pool.add("c-1", alice)
        socket.failures = [error]
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        await until(lambda: emitter.user_context.connection_status is ConnectionStatus.FAILED)
        assert (socket.tries, pool.asked) == (1, 1)
        assert f"{type(error).__name__}: undefined" in caplog.text

    async def test_clean_up_waits_for_a_slow_socket_and_not_for_ever(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        socket.stuck = True
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await emitter.cleanup() == 1
        assert loop.time() - begun < 2
        assert await emitter.cleanup() == 1

    async def test_clean_up_drains_what_was_published(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        for step in range(500):
            await emitter.notify_agent_thinking("data", f"run-a-of-{alice}", f"step {step}")
        assert await emitter.cleanup() == 0
        # And the execution that was left open got its last event.
        assert [message["seq"] for message in socket.messages] == list(range(1, 503))
        assert socket.types[-1] == "agent_error"

    async def test_a_full_log_is_sent_as_a_snapshot_and_counted_as_folded(self, pool, alice):
        factory = WebSocketBridgeFactory(WebSocketFactoryConfig(10, delivery_timeout_seconds=0.5))
        factory.configure(pool)
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        for step in range(100):
            await emitter.notify_agent_thinking("data", f"run-a-of-{alice}", f"step {step}")
        await emitter.notify_agent_completed("data", f"run-a-of-{alice}", None)
        assert await emitter.cleanup() == 0
        stats = emitter.get_event_stats()
        assert stats["events_published"] == 102
        assert stats["events_sent"] + stats["events_folded"] == 102
        assert stats["events_folded"] > 50
        assert (socket.types[0], socket.types[-1]) == ("agent_started", "agent_completed")
        await factory.shutdown()


class TestSharing:
    async def test_two_emitters_of_a_connection_share_no_queue_and_no_thread(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        one = await factory.create_user_emitter(alice, "thread-a", "c-1")
        two = await factory.create_user_emitter(alice, "thread-b", "c-1")
        await one.notify_agent_started("data", f"run-a-of-{alice}")
        await two.notify_agent_started("data", f"run-b-of-{alice}")
        assert await one.cleanup() == 0
        await two.notify_agent_completed("data", f"run-b-of-{alice}", 1)
        assert await two.cleanup() == 0
        threads = {message["run_id"]: message["thread_id"] for message in socket.messages}
        assert threads == {f"run-a-of-{alice}": "thread-a", f"run-b-of-{alice}": "thread-b"}
        assert faults(socket.messages) == []
        assert [event.thread_id for event in two.user_context.sent_events] == ["thread-b"] * 2

    async def test_an_emitter_that_ends_leaves_the_run_to_the_others(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        one = await factory.create_user_emitter(alice, "thread-7", "c-1")
        two = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await one.notify_agent_started("data", f"run-a-of-{alice}")
        await two.notify_agent_started("data", f"run-a-of-{alice}")
        await two.notify_tool_executing("data", f"run-a-of-{alice}", "load", {})
        assert await one.cleanup() == 0
        await two.notify_tool_completed("data", f"run-a-of-{alice}", "load", {})
        await two.notify_agent_completed("data", f"run-a-of-{alice}", 1)
        assert user_streams(alice)[0]["outcome"] is None
        assert await two.cleanup() == 0
        assert faults(socket.messages) == []
        assert user_streams(alice)[0]["outcome"] == "partial"

    async def test_a_run_that_an_engine_opened_ends_with_its_engine(self, factory, pool, alice):
        pool.add("c-1", alice)
        context = UserContextFactory.create_context(alice)
        context.get_websocket_emitter().publish("mine")
        emitter = await factory.create_user_emitter(alice, context.thread_id, "c-1")
        await emitter.notify_agent_started("data", context.run_id)
        assert await emitter.cleanup() == 0
        assert user_streams(alice)[0]["outcome"] is None
        context.get_websocket_emitter().publish("mine")

    async def test_agents_of_one_run_are_nested_and_ended_one_by_one(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await emitter.notify_agent_started("supervisor", f"run-a-of-{alice}")
        await run_of_an_agent(emitter, f"run-a-of-{alice}")
        await run_of_an_agent(emitter, f"run-a-of-{alice}")
        await emitter.notify_agent_completed("supervisor", f"run-a-of-{alice}", "done")
        assert await emitter.cleanup() == 0
        assert faults(socket.messages) == []
        assert len({message["request_id"] for message in socket.messages}) == 3

    async def test_each_socket_of_a_user_is_sent_everything_and_other_users_nothing(self, factory, pool, alice, bob):
        tabs = [pool.add(f"c-{at}", alice) for at in range(2)]
        foreign = pool.add("c-9", bob)
        emitters = [await factory.create_user_emitter(alice, "thread-7", f"c-{at}") for at in range(2)]
        other = await factory.create_user_emitter(bob, "thread-7", "c-9")
        await asyncio.gather(
            run_of_an_agent(emitters[0], f"run-a-of-{alice}"),
            run_of_an_agent(emitters[1], f"run-b-of-{alice}"),
            run_of_an_agent(other, f"run-z-of-{alice}"),
        )
        await until(lambda: len(tabs[0].texts) == len(tabs[1].texts) == 10 and len(foreign.texts) == 5)
        assert {message["run_id"] for message in foreign.messages} == {f"run-z-of-{alice}"}
        assert [emitter.events_sent for emitter in (*emitters, other)] == [5, 5, 5]

    async def test_a_second_emitter_on_a_socket_sends_nothing_twice(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        for run in (f"run-a-of-{alice}", f"run-b-of-{alice}", f"run-c-of-{alice}"):
            emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
            await run_of_an_agent(emitter, run)
            assert await emitter.cleanup() == 0
        assert socket.types == WHOLE * 3

    async def test_a_run_of_an_engine_goes_to_the_socket_of_its_request(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        context = UserContextFactory.create_context(alice, websocket_client_id="c-1")
        emitter = await factory.create_user_emitter(alice, context)
        assert isinstance(emitter, isolane.UserWebSocketEmitter)
        await emitter.notify_agent_started("data")
        await emitter.notify_agent_completed(result=1)
        await context.cleanup()
        assert socket.types == ["agent_started", "agent_completed"]
        assert factory._links == {}

    @pytest.mark.parametrize("engines", [1, 2])
    @pytest.mark.parametrize("asked_for", [False, True])
    async def test_a_run_of_the_hosts_engine_is_followed_to_a_socket(
        self, factory, pool, alice, monkeypatch, asked_for, engines
    ):
        monkeypatch.setattr(agent_instance_factory, "_factory", None)

        class Echo(isolane.BaseAgent):
            async def execute_with_context(self, context: Any, request: Any, results: Any) -> Any:
                return request

        registry = isolane.AgentRegistry()
        registry.register(Echo)
        configure_agent_instance_factory(registry)
        socket = pool.add("c-1", alice)
        context = UserContextFactory.create_context(alice, websocket_client_id="c-1")
        if asked_for:
            await factory.follow(context)
        of_engines = ExecutionEngineFactory(factory)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(engines):
                engine = await stack.enter_async_context(of_engines.user_execution_scope(context))
            assert (await engine.execute_agent_pipeline("Echo", context, "x")).success
        await context.cleanup()
        assert socket.types == ["agent_started", "agent_thinking", "agent_completed"]
        assert faults(socket.messages) == []
        assert factory._links == {}

    async def test_an_engine_without_a_socket_is_followed_nowhere(self, factory, pool, alice):
        of_engines = ExecutionEngineFactory(factory)
        for ids in ({}, {"websocket_client_id": "c-unknown"}):
            async with of_engines.user_execution_scope(UserContextFactory.create_context(alice, **ids)):
                assert factory._links == {}
        assert pool.asked == 1

    async def test_a_socket_of_another_user_makes_no_engine(self, factory, pool, alice, bob):
        pool.connections["c-1", alice] = SimpleNamespace(websocket=Socket(), user_id=bob)
        of_engines = ExecutionEngineFactory(factory)
        context = UserContextFactory.create_context(alice, websocket_client_id="c-1")
        with pytest.raises(isolane.ExecutionEngineFactoryError, match="another user"):
            await of_engines.create_for_user(context)
        assert of_engines.get_active_contexts() == {}
        assert of_engines._slots.stats(alice)["running"] == 0

    async def test_a_context_of_an_unknown_connection_publishes_all_the_same(self, factory, pool, alice):
        context = UserContextFactory.create_context(alice, websocket_client_id="c-1")
        emitter = await factory.create_user_emitter(alice, context)
        assert await emitter.notify_agent_started("data") == 1
        await context.cleanup()


class TestEnding:
    async def test_a_connection_that_ends_takes_its_emitters_with_it(self, factory, pool, alice):
        for connection in ("c-1", "c-2"):
            pool.add(connection, alice)
        emitters = [await factory.create_user_emitter(alice, "thread-7", c) for c in ("c-1", "c-1", "c-2")]
        called = []
        emitters[0].user_context.cleanup_callbacks += [lambda: called.append("sync"), lambda: asyncio.sleep(0)]
        assert await factory.cleanup_user_context(alice, "c-1") == 0
        statuses = [emitter.user_context.connection_status.value for emitter in emitters]
        assert statuses == ["closed", "closed", "healthy"]
        assert factory.get_factory_metrics()["emitters_active"] == 1
        assert called == ["sync"]
        assert lane_usage(alice)["connections"] == 1
        assert await factory.cleanup_user_context(alice, "c-1") == 0
        assert await factory.cleanup_user_emitter(alice) == 1
        assert lane_usage(alice)["connections"] == 0

    async def test_a_run_outlives_the_connection_that_it_was_started_on(self, factory, pool, alice):
        pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        assert await factory.cleanup_user_context(alice, "c-1") == 0
        await emitter.notify_agent_thinking("data", f"run-a-of-{alice}", "still here")
        await emitter.notify_agent_completed("data", f"run-a-of-{alice}", 1)
        assert emitter.get_event_stats()["events_pending"] == 0
        assert await emitter.cleanup() == 0
        late = pool.add("c-2", alice)
        again = await factory.create_user_emitter(alice, "thread-7", "c-2")
        await until(lambda: late.types == ["agent_started", "agent_thinking", "agent_completed"])
        await again.cleanup()

    async def test_an_emitter_that_is_only_dropped_leaves_no_link(self, factory, pool, alice):
        pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await run_of_an_agent(emitter, f"run-a-of-{alice}")
        del emitter
        gc.collect()
        await until(lambda: not factory._links)
        assert lane_usage(alice)["connections"] == 0
        assert [
            task for task in asyncio.all_tasks() if "pool delivery" in task.get_name() and not task.cancelling()
        ] == []

    async def test_a_clean_up_that_is_cancelled_still_lets_go(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        socket.stuck = True
        await emitter.notify_agent_started("data", f"run-a-of-{alice}")
        task = asyncio.create_task(emitter.cleanup())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert factory._links == {}
        assert emitter.events_undelivered == 1
        assert lane_usage(alice)["connections"] == 0

    async def test_many_runs_of_one_emitter_are_ended_when_they_are_delivered(self, factory, pool, alice):
        socket = pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        for at in range(300):
            await run_of_an_agent(emitter, f"run-{at}-of-{alice}")
            await until(lambda at=at: len(socket.texts) == 5 * (at + 1))
        assert sum(stream["outcome"] is None for stream in user_streams(alice)) <= 64
        assert await emitter.cleanup() == 0

    async def test_runs_that_are_not_delivered_are_not_ended(self, factory, pool, alice):
        pool.add("c-1", alice).stuck = True
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        for at in range(80):
            await run_of_an_agent(emitter, f"run-{at}-of-{alice}")
        assert sum(stream["outcome"] is None for stream in user_streams(alice)) == 80
        assert await emitter.cleanup() == 400

    async def test_shutdown_makes_no_more(self, factory, pool, alice):
        pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        await factory.shutdown()
        assert emitter.is_closed
        with pytest.raises(RuntimeError, match="shut down"):
            await factory.create_user_emitter(alice, "thread-7", "c-1")

    async def test_a_callback_that_fails_is_logged(self, factory, pool, alice, caplog):
        pool.add("c-1", alice)
        emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
        emitter.user_context.cleanup_callbacks.append(lambda: 1 / 0)
        with caplog.at_level(logging.ERROR), contextlib.suppress(asyncio.TimeoutError):
            await emitter.cleanup()
        assert "ZeroDivisionError" in caplog.text


async def test_a_socket_that_takes_only_dictionaries(factory, pool, alice):
    class OnlyJson:
        def __init__(self) -> None:
            self.got: list[dict[str, Any]] = []

        async def send_json(self, data: dict[str, Any]) -> None:
            self.got.append(data)

    socket = OnlyJson()
    pool.add("c-1", alice, socket)
    emitter = await factory.create_user_emitter(alice, "thread-7", "c-1")
    await run_of_an_agent(emitter, f"run-a-of-{alice}")
    assert await emitter.cleanup() == 0
    assert [message["type"] for message in socket.got] == WHOLE
