"""The 41 failures of the existing service that `isolane.compat` is to replace, grouped, each by its number.

Those of contexts, lanes, limits and the log are in `tests/python/test_regressions.py`; here are those that the host's
own modules could have again under their old names. `BREAKS` puts each failure back, and the tests have to notice.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import enum
import inspect
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import isolane.engines.engine
import pytest
from isolane import AgentRegistry, BaseAgent, UserExecutionContext, default_limiter
from isolane._core import EventCursor, lane_usage
from isolane.compat import (
    agent_instance_factory,
    execution_engine_factory,
    pool_delivery,
    redaction,
    unified_id_generator,
    user_execution_engine,
    websocket_bridge_factory,
    websocket_emitter,
)
from isolane.compat.execution_engine_factory import ExecutionEngineFactory, ExecutionEngineFactoryError
from isolane.compat.pool_delivery import SocketLink
from isolane.compat.unified_id_generator import UnifiedIdGenerator
from isolane.compat.user_execution_context import (
    ContextIsolationError,
    UserContextFactory,
    clear_shared_object_registry,
    register_shared_object,
)
from isolane.compat.websocket_bridge_factory import (
    ConnectionStatus,
    UserWebSocketEmitter,
    WebSocketBridgeFactory,
    WebSocketFactoryConfig,
)

from tests.compat.pool import WHOLE, Pool, Socket, run_of_an_agent, until
from tests.support.frontend import broken_rules
from tests.support.history import faults

REGRESSIONS = Path(__file__).parents[1] / "python/test_regressions.py"

GROUPS = {
    "identity": (1, 2, 3, 4, 5, 6, 7, 8, 9),
    "silent event loss": (10, 11, 12, 13, 14, 15, 16, 17),
    "success and failure mixed up": (18,),
    "deadlocks": (19, 20),
    "slots that never free": (21, 22, 23, 24, 25),
    "one user's things with another": (26, 27, 28, 30, 36),
    "state that is lost or shared": (29, 31, 32, 35, 38),
    "routing": (37,),
    "speed and errors of diagnostics": (33, 34),
    "payloads, names, redaction": (39, 40, 41),
}

NOT_OURS = {
    27: "no dispatcher of tools in this version, so no list of administrators and no parameters merged into arguments",
}
"""Failures that the code cannot have, and why."""


@dataclasses.dataclass
class Host:
    """What a test gets: a pool, a bridge factory, and names that no other test has."""

    pool: Pool
    factory: WebSocketBridgeFactory
    alice: str
    bob: str

    def run(self, name: str = "a") -> str:
        return f"run-{name}-of-{self.alice}"

    async def emitter(self, connection: str = "c-1", thread: str = "thread-7", user: str | None = None) -> Any:
        user = user or self.alice
        if (connection, user) not in self.pool.connections:
            self.pool.add(connection, user)
        return await self.factory.create_user_emitter(user, thread, connection)

    def socket(self, connection: str = "c-1", user: str | None = None) -> Socket:
        return self.pool.connections[connection, user or self.alice].websocket

    def engines(self, *agents: type[BaseAgent]) -> ExecutionEngineFactory:
        registry = AgentRegistry()
        for agent in (Echo, *agents):
            registry.register(agent)
        agent_instance_factory.configure_agent_instance_factory(registry)
        return ExecutionEngineFactory(self.factory)

    def messages(self, user: str, run: str) -> list[dict[str, Any]]:
        cursor = EventCursor(user, framed=False, max_connections=1_000)
        cursor.subscribe(run)
        got = [json.loads(text) for text in cursor.read(10_000)]
        cursor.detach()
        return [message for message in got if message["run_id"] == run]


class Echo(BaseAgent):
    name = "echo"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        await asyncio.sleep(0)
        return request


@pytest.fixture
async def host(alice, bob, monkeypatch) -> AsyncIterator[Host]:
    monkeypatch.setattr(pool_delivery, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(agent_instance_factory, "_factory", None)
    pool = Pool()
    factory = WebSocketBridgeFactory(WebSocketFactoryConfig(delivery_timeout_seconds=0.3))
    factory.configure(pool, None, None)
    yield Host(pool, factory, alice, bob)
    await WebSocketBridgeFactory.shutdown(factory)
    clear_shared_object_registry()


class TestIdentity:
    async def test_3_an_id_that_one_layer_takes_every_layer_takes(self, host: Host) -> None:
        """E-mail addresses passed the context and were refused by the sender."""
        for name in ("{}@example.com", "auth0|{}", "110169484474386276334-{}", "Zoë {}"):
            user = name.format(host.alice)
            assert UnifiedIdGenerator.generate_user_context_ids(user)
            context = UserContextFactory.create_context(user)
            async with host.engines().user_execution_scope(context) as engine:
                assert (await engine.execute_agent_pipeline("echo", context, "x")).success
            emitter = await host.emitter(user=user)
            await run_of_an_agent(emitter, f"run of {user}")
            assert await emitter.cleanup() == 0
            assert host.socket(user=user).types[-5:] == WHOLE

    def test_5_ids_of_one_moment_differ(self, host: Host) -> None:
        """`{operation}_{ms}`: two thousand contexts had seven run ids."""
        made = [UnifiedIdGenerator.generate_user_context_ids(host.alice, "chat") for _ in range(2_000)]
        for kind in zip(*made, strict=True):
            assert len(set(kind)) == 2_000

    async def test_7_what_lets_go_never_matches_by_resemblance(self, host: Host) -> None:
        """`ids_match_for_cleanup` was true for two users' ids of the same operation."""
        emitters = [
            await host.emitter("c-1"),
            await host.emitter("c-10"),
            await host.emitter("c-1", user=f"{host.alice}x"),
        ]
        await host.factory.cleanup_user_context(host.alice, "c-1")
        statuses = [emitter.user_context.connection_status for emitter in emitters]
        assert statuses == [ConnectionStatus.CLOSED, ConnectionStatus.HEALTHY, ConnectionStatus.HEALTHY]

    def test_8_two_users_who_name_a_thread_alike_share_nothing(self, host: Host) -> None:
        """The dictionary of sessions was keyed by the thread's name as the caller gave it."""
        mine, theirs = (
            UnifiedIdGenerator.get_or_create_user_session(user, "my-thread") for user in (host.alice, host.bob)
        )
        assert mine["run_id"] != theirs["run_id"]
        assert mine["run_id"] == UnifiedIdGenerator.get_or_create_user_session(host.alice, "my-thread")["run_id"]

    async def test_9_a_pool_is_asked_for_a_connection_by_user_and_not_by_run(self, host: Host) -> None:
        """A run id was used as a user id for sending, and the messages were lost."""
        asked = []
        get = host.pool.get_connection

        async def note(connection_id: str, user_id: str) -> Any:
            asked.append((connection_id, user_id))
            return await get(connection_id, user_id)

        host.pool.get_connection = note  # type: ignore[method-assign]
        emitter = await host.emitter()
        await run_of_an_agent(emitter, host.run())
        await emitter.cleanup()
        assert asked == [("c-1", host.alice)]


class TestSilentEventLoss:
    async def test_10_an_event_that_no_socket_took_is_not_counted_as_sent(self, host: Host) -> None:
        """Events for a user without a socket went into a queue that nobody read, and were reported as sent."""
        emitter = await host.emitter()
        socket = host.socket()
        host.pool.connections.clear()
        socket.client_state.name = "DISCONNECTED"
        socket.failures = [OSError("gone")] * 50
        await run_of_an_agent(emitter, host.run())
        assert await emitter.cleanup() == 5
        assert host.factory.get_factory_metrics()["events_sent_total"] == 0
        assert host.factory.get_factory_metrics()["events_failed_total"] == 5
        assert len(emitter.user_context.failed_events) == 5
        # And whoever comes gets them.
        again = await host.emitter("c-2")
        await until(lambda: host.socket("c-2").types == WHOLE, 1)
        await again.cleanup()

    async def test_11_every_message_has_what_the_browser_needs(self, host: Host) -> None:
        """`event_type` and `data` were sent where the browser wants `type` and `payload`: it dropped every message."""
        emitter = await host.emitter()
        await run_of_an_agent(emitter, host.run())
        await emitter.notify_agent_started("report", host.run())
        await emitter.notify_agent_error("report", host.run(), "no rows")
        await emitter.cleanup()
        assert len(host.socket().messages) == 7
        assert [broken_rules(message) for message in host.socket().messages] == [[]] * 7

    async def test_12_a_failed_write_is_tried_again_on_the_socket(self, host: Host) -> None:
        """The first failed write closed the emitter: the three retries failed at once."""
        emitter = await host.emitter()
        host.socket().failures = [ConnectionResetError("once")]
        await run_of_an_agent(emitter, host.run())
        assert await emitter.cleanup() == 0
        assert host.socket().types == WHOLE
        assert emitter.user_context.reconnect_attempts == 0
        assert emitter.user_context.sent_events[0].retry_count == 1

    async def test_13_clean_up_loses_nothing_and_leaves_the_sibling_alone(self, host: Host) -> None:
        """25 of 50 queued events were thrown away, and a second emitter lost those of its own."""
        one, two = await host.emitter(thread="thread-a"), await host.emitter(thread="thread-b")
        await one.notify_agent_started("data", host.run("a"))
        await two.notify_agent_started("data", host.run("b"))
        for step in range(24):
            await one.notify_agent_thinking("data", host.run("a"), f"step {step}")
            await two.notify_agent_thinking("data", host.run("b"), f"step {step}")
        await one.notify_agent_completed("data", host.run("a"), None)
        assert await one.cleanup() == 0
        await two.notify_agent_completed("data", host.run("b"), None)
        assert await two.cleanup() == 0
        messages = host.socket().messages
        assert faults(messages) == []
        assert {(message["run_id"][:5], message["thread_id"]) for message in messages} == {
            ("run-a", "thread-a"),
            ("run-b", "thread-b"),
        }
        assert len(messages) == 52

    @pytest.mark.parametrize("way", ["returns", "raises", "takes too long", "is cancelled"])
    async def test_14_every_execution_has_exactly_one_last_event(self, host: Host, way: str) -> None:
        """`agent_completed` was never sent, and a time-out raised in its own handler."""

        class Agent(BaseAgent):
            name = "one"
            timeout_seconds = 0.01 if way == "takes too long" else 29.0

            async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
                if way == "raises":
                    raise ValueError("no")
                await asyncio.sleep(0 if way == "returns" else 5)

        context = UserContextFactory.create_context(host.alice)
        async with host.engines(Agent).user_execution_scope(context) as engine:
            task = asyncio.create_task(engine.execute_agent_pipeline("one", context, None))
            await asyncio.sleep(0.005)
            if way == "is cancelled":
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert (await task).success is (way == "returns")
        kinds = [message["type"] for message in host.messages(host.alice, context.run_id)]
        assert kinds == ["agent_started", "agent_thinking", "agent_completed" if way == "returns" else "agent_error"]

    async def test_15_a_programming_error_is_no_connection_issue(self, host: Host) -> None:
        """A NameError was caught by the retry loop and reported to the user as a connection issue."""
        emitter = await host.emitter()
        host.socket().failures = [NameError("undefined")]
        await run_of_an_agent(emitter, host.run())
        await until(lambda: emitter.user_context.connection_status is ConnectionStatus.FAILED, 1)
        assert host.socket().tries == 1
        assert host.pool.asked == 1

    async def test_16_a_payload_cannot_change_the_envelope(self, host: Host) -> None:
        """Thinking events went out with type 'reasoning', because payload keys overwrote the envelope."""
        emitter = await host.emitter()
        forged = {"type": "reasoning", "run_id": "forged", "seq": 99, "thread_id": "forged", "tool_name": "forged"}
        await emitter.notify_agent_started("data", host.run())
        await emitter.notify_tool_executing("data", host.run(), "load", forged)
        await emitter.notify_tool_completed("data", host.run(), "load", forged)
        await emitter.notify_agent_completed("data", host.run(), forged)
        await emitter.cleanup()
        assert faults(host.socket().messages) == []
        assert host.socket().types == ["agent_started", "tool_executing", "tool_completed", "agent_completed"]
        assert {message["thread_id"] for message in host.socket().messages} == {"thread-7"}

    async def test_17_no_setting_turns_the_retries_off_by_default(self, host: Host) -> None:
        """'Performance mode', on by default, turned them off."""
        factory = WebSocketBridgeFactory(WebSocketFactoryConfig(enable_event_batching=True))
        factory.configure(host.pool)
        host.pool.add("c-1", host.alice)
        emitter = await factory.create_user_emitter(host.alice, "thread-7", "c-1")
        host.socket().failures = [OSError("no")] * 3
        await run_of_an_agent(emitter, host.run())
        assert await emitter.cleanup() == 0
        assert host.socket().types == WHOLE
        assert emitter.user_context.reconnect_attempts == 0


class TestSuccessShownAsFailure:
    async def test_18_a_good_tool_call_is_not_shown_as_an_error(self, host: Host) -> None:
        """The execution time went into the parameter of the error: every good call had status 'error'."""
        run = host.run()
        emitter = agent_instance_factory.UserWebSocketEmitter(host.alice, "thread-7", run, host.factory)
        await emitter.notify_agent_started("data")
        await emitter.notify_tool_executing("data", "load", {})
        assert await emitter.notify_tool_completed("data", "load", {"rows": 3}, 12.5) is True
        payload = host.messages(host.alice, run)[-1]["payload"]
        await emitter.cleanup()
        assert (payload["status"], payload["result"]) == ("completed", {"rows": 3})
        assert "error" not in payload


class TestDeadlocks:
    async def test_19_a_callback_that_cleans_up_does_not_deadlock(self, host: Host) -> None:
        """Callbacks were awaited under a lock that they needed themselves."""
        emitter = await host.emitter()
        called = []
        emitter.user_context.cleanup_callbacks += [
            emitter.cleanup,
            lambda: host.factory.cleanup_user_context(host.alice, "c-1"),
            lambda: called.append("first"),
        ]
        # Less than the deadline of a callback, which would hide a deadlock.
        async with asyncio.timeout(0.2):
            await emitter.cleanup()
        assert called == ["first"]

    async def test_20_a_dead_socket_of_one_user_stops_nobody(self, host: Host) -> None:
        """It hung the pool of all users: a lock that is not re-entrant was taken twice."""
        get = host.pool.get_connection

        async def hang(connection_id: str, user_id: str) -> Any:
            if user_id == host.alice:
                await asyncio.sleep(60)
            return await get(connection_id, user_id)

        host.pool.get_connection = hang  # type: ignore[method-assign]
        host.pool.add("c-1", host.alice)
        stuck = asyncio.create_task(host.emitter())
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(1):
                emitter = await host.emitter(user=host.bob)
                await run_of_an_agent(emitter, host.run("b"))
                assert await emitter.cleanup() == 0
        finally:
            stuck.cancel()
            await asyncio.wait({stuck})


class TestSlotsThatNeverFree:
    async def test_21_an_engine_whose_clean_up_fails_frees_its_slot(self, host: Host) -> None:
        """It stayed registered and counted against the limit of two; the host's own test of it failed."""
        factory = host.engines()

        async def fail(*_: Any) -> bool:
            raise OSError("no")

        for _ in range(4):
            engine = await factory.create_for_user(UserContextFactory.create_context(host.alice))
            engine._close = fail  # type: ignore[method-assign]
            await factory.cleanup_engine(engine)
        metrics = factory.get_factory_metrics()
        assert (metrics["active_engines_count"], metrics["cleanup_errors"]) == (0, 4)

    async def test_22_a_refused_engine_is_not_registered(self, host: Host) -> None:
        """It was registered before it was validated: two registered, one usable."""
        factory = host.engines()
        bad = UserContextFactory.create_context(host.alice)
        bad.agent_context["foreign"] = SimpleNamespace(user_id="somebody else")
        for _ in range(3):
            with pytest.raises((ExecutionEngineFactoryError, ContextIsolationError)):
                await factory.create_for_user(bad)
        engines = [await factory.create_for_user(UserContextFactory.create_context(host.alice)) for _ in range(2)]
        assert factory.get_factory_metrics()["active_engines_count"] == 2
        for engine in engines:
            await factory.cleanup_engine(engine)

    async def test_23_engines_of_one_moment_have_keys_of_their_own(self, host: Host) -> None:
        """Keys ended in milliseconds: of five engines of one moment one was registered."""
        factory = host.engines()
        factory._max_engines_per_user = 20
        context = UserContextFactory.create_context(host.alice)
        engines = [await factory.create_for_user(context) for _ in range(20)]
        assert len(factory._active_engines) == 20
        for engine in engines:
            await factory.cleanup_engine(engine)
        assert factory._active_engines == {}

    async def test_24_a_run_cancelled_while_it_waits_is_over(self, host: Host) -> None:
        """It stayed in `active_runs`, because the guard began after the wait."""
        context = UserContextFactory.create_context(host.alice)
        held = [default_limiter().slot_nowait(host.alice) for _ in range(5)]
        async with host.engines().user_execution_scope(context) as engine:
            task = asyncio.create_task(engine.execute_agent_pipeline("echo", context, None))
            await asyncio.sleep(0.01)
            assert context.status.value == "throttled"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert dict(engine.active_runs) == {}
        for permit in held:
            permit.release()


class TestCrossUser:
    async def test_26_a_shared_factory_binds_each_engine_to_its_own_user(self, host: Host) -> None:
        """User A's socket manager was stored on a global factory, and user B's emitter was bound to it."""
        factory = host.engines()
        contexts = [UserContextFactory.create_context(user) for user in (host.alice, host.bob)]

        async def use(context: UserExecutionContext) -> None:
            async with factory.user_execution_scope(context) as engine:
                assert engine.websocket_emitter.user_id == context.user_id
                await asyncio.sleep(0)
                assert (await engine.execute_agent_pipeline("echo", context, f"of {context.user_id}")).success

        await asyncio.gather(*map(use, contexts))
        for context in contexts:
            messages = host.messages(context.user_id, context.run_id)
            assert messages[-1]["payload"]["result"] == f"of {context.user_id}"

    async def test_28_what_cannot_be_isolated_does_not_run(self, host: Host) -> None:
        """A context that could not be built was answered with the shared engine of everybody."""
        factory = host.engines()
        for wrong in (None, object(), SimpleNamespace(user_id=host.alice, thread_id="thread-7", run_id="run-7")):
            with pytest.raises(ExecutionEngineFactoryError, match="Invalid user context"):
                await factory.create_for_user(wrong)  # type: ignore[arg-type]
        with pytest.raises(ContextIsolationError):
            host.pool.connections["c-9", host.bob] = SimpleNamespace(websocket=Socket(), user_id=host.alice)
            await host.emitter("c-9", user=host.bob)
        assert factory.get_factory_metrics()["total_engines_created"] == 0

    async def test_36_what_lives_as_long_as_a_connection_ends_with_it(self, host: Host) -> None:
        """Each connection leaked a handler; then one shared handler sent all events to the last client."""
        for at in range(20):
            emitter = await host.emitter(f"c-{at}")
            await host.factory.cleanup_user_context(host.alice, f"c-{at}")
            assert lane_usage(host.alice)["connections"] == 0
            del emitter
        one, two = await host.emitter("tab-1"), await host.emitter("tab-2")
        await run_of_an_agent(two, host.run())
        await until(lambda: host.socket("tab-1").types == host.socket("tab-2").types == WHOLE, 1)
        await one.cleanup()
        await two.cleanup()
        assert lane_usage(host.alice)["connections"] == 0


class TestState:
    def test_32_a_shared_object_is_found(self, host: Host) -> None:
        """The check tested `hasattr(dict, '__dict__')`, which is never true."""
        shared: dict[str, Any] = {}
        register_shared_object(shared)
        context = UserContextFactory.create_context(host.alice)
        assert context.verify_isolation()
        context.agent_context["d"] = shared
        with pytest.raises(ContextIsolationError):
            context.verify_isolation()

    async def test_35_callbacks_are_awaited_whatever_they_are(self, host: Host) -> None:
        """Lambdas that return coroutines were never awaited."""
        ran = []

        async def close() -> None:
            await asyncio.sleep(0)
            ran.append("closed")

        emitter = await host.emitter()
        emitter.user_context.cleanup_callbacks.append(lambda: close())  # noqa: PLW0108 - the point
        await emitter.cleanup()
        assert ran == ["closed"]

    def test_38_a_conversation_keeps_its_run_and_contexts_do_not_pile_up(self, host: Host) -> None:
        """Each message made new ids: conversations lost their memory."""
        made = [UnifiedIdGenerator.get_or_create_user_session(host.alice, "my-thread") for _ in range(50)]
        assert len({session["run_id"] for session in made}) == 1
        assert len({session["request_id"] for session in made}) == 50
        assert lane_usage(host.alice) is None


class TestRouting:
    async def test_37_a_socket_needs_to_know_no_thread_to_get_its_events(self, host: Host) -> None:
        """The thread is unknown when a socket connects, and routing by thread found nobody."""
        emitters = [await host.emitter(thread=f"thread-{at}") for at in range(3)]
        for at, emitter in enumerate(emitters):
            await run_of_an_agent(emitter, host.run(str(at)))
        assert [await emitter.cleanup() for emitter in emitters] == [0, 0, 0]
        assert {message["thread_id"] for message in host.socket().messages} == {"thread-0", "thread-1", "thread-2"}


class TestPayloadsAndNames:
    async def test_39_models_dates_and_enums_are_sent(self, host: Host) -> None:
        """They killed the connection. Here they have a form, and what has none fails its own event."""

        class Color(enum.Enum):
            RED = "red"

        emitter = await host.emitter()
        await emitter.notify_agent_started("data", host.run())
        await emitter.notify_tool_executing("data", host.run(), "load", {"at": date(2026, 11, 22), "color": Color.RED})
        with pytest.raises(ValueError, match="not JSON-able"):
            await emitter.notify_tool_completed("data", host.run(), "load", object())
        await emitter.notify_tool_completed("data", host.run(), "load", [datetime(2026, 11, 22, tzinfo=UTC)])
        await emitter.notify_agent_completed("data", host.run(), None)
        assert await emitter.cleanup() == 0
        payloads = [message["payload"] for message in host.socket().messages]
        assert payloads[1]["parameters"] == {"at": "2026-11-22", "color": "red"}
        assert payloads[2]["result"][0].startswith("2026-11-22T00:00:00")
        assert host.socket().types[-1] == "agent_completed"

    async def test_40_arguments_go_by_position_and_by_the_hosts_names(self, host: Host) -> None:
        """Renames broke callers for days."""
        emitter = await host.emitter()
        agent, run = "data", host.run()
        await emitter.notify_agent_started(agent_name=agent, run_id=run)
        await emitter.notify_agent_thinking(agent_name=agent, run_id=run, thinking="x")
        await emitter.notify_tool_executing(agent_name=agent, run_id=run, tool_name="t", tool_input={})
        await emitter.notify_tool_completed(agent_name=agent, run_id=run, tool_name="t", tool_output={})
        await emitter.notify_agent_completed(agent_name=agent, run_id=run, result={})
        await run_of_an_agent(emitter, run)
        assert await emitter.cleanup() == 0
        assert host.socket().types == WHOLE * 2

    async def test_41_secrets_are_redacted_and_what_only_looks_like_them_is_not(self, host: Host) -> None:
        """`keyword` and `author` were redacted, `[{"password": …}]` was not."""
        emitter = await host.emitter()
        await emitter.notify_agent_started("data", host.run())
        secret = {"logins": [{"password": "hunter2"}], "keyword": "rows", "author": "ann", "api_key": "hunter2"}
        await emitter.notify_tool_executing("data", host.run(), "load", secret)
        await emitter.cleanup()
        assert host.socket().messages[1]["payload"]["parameters"] == {
            "logins": [{"password": "[REDACTED]"}],
            "keyword": "rows",
            "author": "ann",
            "api_key": "[REDACTED]",
        }


# -- each of them can fail ---------------------------------------------------------------------------------------------


def _only_plain_ids(patch: pytest.MonkeyPatch, host: Host) -> None:
    def create(user: str, *_: Any) -> Any:
        if not re.fullmatch(r"[\w-]+", user):
            raise ValueError("a strange user id")

    patch.setattr(websocket_bridge_factory, "UserContextFactory", SimpleNamespace(create_context=create))


def _ids_of_the_moment(patch: pytest.MonkeyPatch, host: Host) -> None:
    patch.setattr(unified_id_generator, "new_digits", lambda: datetime.now(UTC).strftime("%H%M%S"))


def _by_resemblance(patch: pytest.MonkeyPatch, host: Host) -> None:
    async def cleanup(self: WebSocketBridgeFactory, user_id: str, connection_id: str) -> int:
        for one in list(self._followed):
            if one.user_id.startswith(user_id) and one.connection_id.startswith(connection_id):
                await one.release()
        return 0

    patch.setattr(WebSocketBridgeFactory, "cleanup_user_context", cleanup)


def _sessions_by_thread(patch: pytest.MonkeyPatch, host: Host) -> None:
    real = UnifiedIdGenerator.get_or_create_user_session
    shared = staticmethod(lambda _user, thread: real("everybody", thread))
    patch.setattr(UnifiedIdGenerator, "get_or_create_user_session", shared)


def _sent_without_sending(patch: pytest.MonkeyPatch, host: Host) -> None:
    async def pretend(_socket: Any, _text: str) -> None:
        return

    patch.setattr(pool_delivery, "_write", pretend)


def _rewritten(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[pytest.MonkeyPatch, Host], None]:
    async def write(socket: Any, text: str) -> None:
        await socket.send_text(json.dumps(change(json.loads(text))))

    return lambda patch, _: patch.setattr(pool_delivery, "_write", write)


def _renamed(message: dict[str, Any]) -> dict[str, Any]:
    message["event_type"], message["data"] = message.pop("type"), message.pop("payload")
    return message


def _merged(message: dict[str, Any]) -> dict[str, Any]:
    payload = message["payload"]
    inner = payload.get("parameters") or payload.get("result") or {}
    return {**message, **inner} if isinstance(inner, dict) else message


def _no_retries(patch: pytest.MonkeyPatch, host: Host) -> None:
    real = SocketLink.__init__

    def init(self: SocketLink, user: str, connection: str, pool: Any, config: Any, settings: Any) -> None:
        real(self, user, connection, pool, dataclasses.replace(config, delivery_retries=0), settings)

    patch.setattr(SocketLink, "__init__", init)


def _no_draining(patch: pytest.MonkeyPatch, host: Host) -> None:
    async def drain(*_: Any) -> bool:
        return True

    patch.setattr(SocketLink, "drain", drain)


def _no_last_event(patch: pytest.MonkeyPatch, host: Host) -> None:
    async def tell(*_: Any) -> None:
        return

    patch.setattr(user_execution_engine.UserExecutionEngine, "_tell_end", tell)
    # And the clean-up that would close the execution.
    patch.setattr(agent_instance_factory.RunSpans, "close", tell)
    patch.setattr(isolane.engines.engine, "end_stream", lambda *_: None)


def _every_error_is_the_connections(patch: pytest.MonkeyPatch, host: Host) -> None:
    patch.setattr(pool_delivery, "OSError", Exception, raising=False)


def _time_for_error(patch: pytest.MonkeyPatch, host: Host) -> None:
    async def notify(self: Any, *, run_id: str, agent_name: str, execution_time_ms: float, **_: Any) -> bool:
        emitter = self.spans.of(agent_name)
        await emitter.notify_agent_error(agent_name=agent_name, run_id=run_id, error=str(execution_time_ms))
        return True

    patch.setattr(agent_instance_factory._LogBridge, "notify_tool_completed", notify)


def _under_a_lock(name: str) -> Callable[[pytest.MonkeyPatch, Host], None]:
    def put(patch: pytest.MonkeyPatch, host: Host) -> None:
        cls: Any = UserWebSocketEmitter if hasattr(UserWebSocketEmitter, name) else WebSocketBridgeFactory
        real, guard = getattr(cls, name), asyncio.Lock()

        async def locked(*arguments: Any) -> Any:
            async with guard:
                return await real(*arguments)

        patch.setattr(cls, name, locked)

    return put


def _slot_last(patch: pytest.MonkeyPatch, host: Host) -> None:
    async def end(self: Any, engine: Any, _how: str, reason: str) -> None:
        await engine._close(5.0, reason)

    patch.setattr(ExecutionEngineFactory, "_end", end)


def _registered_first(patch: pytest.MonkeyPatch, host: Host) -> None:
    real = ExecutionEngineFactory.create_for_user

    async def create(self: ExecutionEngineFactory, context: Any) -> Any:
        self._active_engines[f"early_{id(object())}"] = SimpleNamespace(cleanup=lambda: None)
        return await real(self, context)

    patch.setattr(ExecutionEngineFactory, "create_for_user", create)


def _keys_of_the_moment(patch: pytest.MonkeyPatch, host: Host) -> None:
    moment = SimpleNamespace(generate_request_id=lambda: "req_" + datetime.now(UTC).strftime("%H%M%S"))
    patch.setattr(execution_engine_factory, "UnifiedIDManager", moment)


def _active_while_it_waits(patch: pytest.MonkeyPatch, host: Host) -> None:
    real = user_execution_engine.UserExecutionEngine._execute

    async def execute(self: Any, steps: Any, request: Any, results: Any) -> Any:
        record = self.context.record_run_start(agent_type="echo")
        outcome = await real(self, steps, request, results)
        self.context.record_run_success(record)
        return outcome

    patch.setattr(user_execution_engine.UserExecutionEngine, "_execute", execute)


def _the_first_emitter_for_everybody(patch: pytest.MonkeyPatch, host: Host) -> None:
    made: list[Any] = []
    real = agent_instance_factory.UserWebSocketEmitter

    def make(**arguments: Any) -> Any:
        made.append(real(**arguments))
        return made[0]

    patch.setattr(execution_engine_factory, "UserWebSocketEmitter", make)


def _fails_open(patch: pytest.MonkeyPatch, host: Host) -> None:
    async def create(self: ExecutionEngineFactory, context: Any) -> Any:
        return SimpleNamespace(shared=True)

    patch.setattr(ExecutionEngineFactory, "create_for_user", create)


def _kept_for_ever(patch: pytest.MonkeyPatch, host: Host) -> None:
    async def release(*_: Any) -> None:
        return

    patch.setattr(WebSocketBridgeFactory, "_release", release)


def _new_run_for_each_message(patch: pytest.MonkeyPatch, host: Host) -> None:
    patch.setattr(unified_id_generator, "SESSION_SECONDS", -1.0)


def _never_awaited(patch: pytest.MonkeyPatch, host: Host) -> None:
    def forget(result: Any) -> bool:
        if inspect.iscoroutine(result):
            result.close()
        return False

    patch.setattr(websocket_emitter, "inspect", SimpleNamespace(isawaitable=forget))


def _routed_by_thread(patch: pytest.MonkeyPatch, host: Host) -> None:
    real = SocketLink._send

    async def send(self: SocketLink, message: Any) -> None:
        if '"thread_id":"thread-0"' in message["text"]:
            await real(self, message)

    patch.setattr(SocketLink, "_send", send)


def _only_json(patch: pytest.MonkeyPatch, host: Host) -> None:
    patch.setattr(redaction, "to_json", json.dumps)


def _another_name(patch: pytest.MonkeyPatch, host: Host) -> None:
    async def notify(self: Any, agent: str, run: str, thought: str) -> None:
        return

    patch.setattr(UserWebSocketEmitter, "notify_agent_thinking", notify)


def _by_substring(patch: pytest.MonkeyPatch, host: Host) -> None:
    patch.setattr(redaction, "is_secret", lambda key, _: any(word in key for word in ("key", "auth", "password")))


BREAKS: dict[int, Callable[[pytest.MonkeyPatch, Host], None]] = {
    3: _only_plain_ids,
    5: _ids_of_the_moment,
    7: _by_resemblance,
    8: _sessions_by_thread,
    9: lambda patch, host: patch.setattr(
        WebSocketBridgeFactory,
        "_socket",
        lambda _self, pool, connection, _user: _socket_of(pool, connection, host.run()),
    ),
    10: _sent_without_sending,
    11: _rewritten(_renamed),
    12: _no_retries,
    13: _no_draining,
    14: _no_last_event,
    15: _every_error_is_the_connections,
    16: _rewritten(_merged),
    17: _no_retries,
    18: _time_for_error,
    19: _under_a_lock("cleanup"),
    20: _under_a_lock("create_user_emitter"),
    21: _slot_last,
    22: _registered_first,
    23: _keys_of_the_moment,
    24: _active_while_it_waits,
    26: _the_first_emitter_for_everybody,
    28: _fails_open,
    32: lambda patch, _: patch.setitem(globals(), "register_shared_object", lambda _obj: None),
    35: _never_awaited,
    36: _kept_for_ever,
    37: _routed_by_thread,
    38: _new_run_for_each_message,
    39: _only_json,
    40: _another_name,
    41: _by_substring,
}
"""Puts a failure back, by its number."""


async def _socket_of(pool: Pool, connection: str, user: str) -> Any:
    return getattr(await pool.get_connection(connection, user), "websocket", None)


def _tests() -> dict[int, tuple[type, str]]:
    """Return the tests of this file by the number of the failure."""
    found = {}
    for cls in [value for name, value in globals().items() if name.startswith("Test")]:
        for name in dir(cls):
            if match := re.match(r"test_(\d+)_", name):
                assert int(match[1]) not in found
                found[int(match[1])] = (cls, name)
    return found


def _elsewhere() -> dict[int, str]:
    """Return the tests of the core's file by the number of the failure."""
    tree = ast.parse(REGRESSIONS.read_text())
    names = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {int(match[1]): name for name in names if (match := re.match(r"test_(\d+)_", name))}


@pytest.mark.parametrize("number", sorted(BREAKS))
async def test_the_test_of_a_failure_can_fail(number: int, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, name = _tests()[number]
    test = getattr(cls(), name)
    arguments = [host, "returns"] if "way" in inspect.signature(test).parameters else [host]
    with monkeypatch.context() as patch:
        BREAKS[number](patch, host)
        with pytest.raises((Exception, pytest.fail.Exception)) as caught:
            result = test(*arguments)
            if inspect.isawaitable(result):
                await result
    # Noticed, and not broken by the break itself.
    assert not isinstance(caught.value, (NameError, AttributeError)), caught.value


def test_every_failure_has_a_test_or_a_reason():
    here, core = _tests(), _elsewhere()
    assert set(here) | set(core) | set(NOT_OURS) == set(range(1, 42))
    assert not (set(here) | set(core)) & set(NOT_OURS)
    assert sorted(number for numbers in GROUPS.values() for number in numbers) == list(range(1, 42))
    assert set(BREAKS) == set(here)
    assert all(reason for reason in NOT_OURS.values())
