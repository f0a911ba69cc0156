"""What older code keeps longer than it should, or for the wrong user, and what outlives the run that made it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
from collections import OrderedDict, defaultdict, deque
from types import SimpleNamespace
from typing import Any, ClassVar

import isolane
import pytest
from isolane import AgentMigrationTemplate, ContextIsolationError, LegacyExecutionAdapter, UserContextFactory
from isolane._core import user_streams
from isolane.migration import legacy
from isolane.migration.agents import FrozenLegacyState
from isolane.migration.legacy import (
    BroadcastDeniedError,
    CrossUserSendError,
    HybridBridge,
    LegacyContextError,
    SendOutcome,
    bind_context,
    configure_legacy,
    get_websocket_bridge,
    get_websocket_manager,
)
from isolane.testing import manual_clock

from tests.compat.pool import Socket, until
from tests.support.legacy_states import DeepAgentState, PlainState

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")


@pytest.fixture
def process():
    yield configure_legacy(broadcast="context_user")
    legacy.reset_legacy()


def context_of(user: str) -> isolane.UserExecutionContext:
    return UserContextFactory.create_context(user)


def engines_of(*agents: type) -> isolane.ExecutionEngineFactory:
    registry = isolane.AgentRegistry()
    for agent in agents:
        registry.register(agent)
    return isolane.ExecutionEngineFactory(
        agent_factory=isolane.AgentInstanceFactory(registry),
        tool_dispatcher_factory=isolane.UnifiedToolDispatcherFactory(),
    )


class TestWhatOutlivesItsRun:
    async def test_a_task_of_an_agent_is_its_users_when_nothing_else_of_the_run_is_left(self, process, alice, bob):
        """It fetches the manager then: nothing has kept for whom the code runs but the task itself."""
        theirs = Socket()
        await get_websocket_manager().connect_user(bob, theirs)
        released, left = asyncio.Event(), []

        async def later() -> str:
            await released.wait()
            try:
                await get_websocket_manager().send_to_user(bob, {"type": "note", "payload": {"text": "of alice"}})
            except CrossUserSendError as error:
                return error.reason
            return "sent"

        class Leaves:
            name = "leaves"

            async def execute(self, state: Any, run_id: str, stream_updates: bool) -> None:
                left.append(asyncio.create_task(later()))

        factory, context = engines_of(Leaves), context_of(alice)
        async with factory.user_execution_scope(context) as engine:
            assert (await engine.execute_agent("leaves", "q")).success
        await context.cleanup()
        await factory.shutdown()
        del engine, context
        gc.collect()
        released.set()
        assert await left[0] == "other_user"
        assert theirs.texts == []

    async def test_what_is_told_after_the_end_does_not_take_the_place_of_the_log(self, process, alice, read_plain):
        released, left = asyncio.Event(), []

        async def later(user: str, run_id: str) -> None:
            await released.wait()
            about = {"run_id": run_id, "agent_name": "leaves"}
            await get_websocket_manager().send_to_user(user, {"type": "agent_thinking", "thinking": "late", **about})

        class Leaves:
            name = "leaves"

            async def execute(self, state: Any, run_id: str, stream_updates: bool) -> str:
                left.append(asyncio.create_task(later(state.user_id, run_id)))
                return "the answer"

        factory, context = engines_of(Leaves), context_of(alice)
        async with factory.user_execution_scope(context) as engine:
            assert (await engine.execute_agent("leaves", "q")).success
        released.set()
        await left[0]
        # Somebody who comes now still reads how the run ended.
        messages = read_plain(alice, context.run_id)
        assert [message["type"] for message in messages] == ["agent_started", "agent_completed"]
        (late,) = [stream["run_id"] for stream in user_streams(alice) if stream["run_id"] != context.run_id]
        assert [message["type"] for message in read_plain(alice, late)] == ["agent_started", "agent_thinking"]
        await factory.shutdown()

    async def test_nor_does_what_is_told_of_a_run_that_somebody_else_has_ended(self, process, alice, read_plain):
        context = context_of(alice)
        about = {"run_id": "run-of-others", "agent_name": "x"}
        with bind_context(context):
            await get_websocket_manager().send_to_user(alice, {"type": "agent_started", **about})
            isolane._core.end_stream(isolane.UserExecutionContext(alice, "legacy", "run-of-others"))
            await get_websocket_manager().send_to_user(alice, {"type": "note", "n": 1, **about})
        assert read_plain(alice, "run-of-others")[0]["type"] == "agent_started"


class TestKeptForAnother:
    async def test_a_kept_manager_does_not_say_whose_a_message_is(self, process, alice, bob):
        """Got for alice, cached in the process, and used in a thread that works for bob and knows no context."""
        mine = Socket()
        await get_websocket_manager().connect_user(alice, mine)
        with bind_context(context_of(alice)):
            manager, bridge = get_websocket_manager(), get_websocket_bridge()
        context = context_of(bob)

        async def of_bob() -> None:
            about = {"type": "note", "payload": {"text": "of bob"}}
            with pytest.raises(BroadcastDeniedError):
                await manager.broadcast_message(about)
            with pytest.raises(BroadcastDeniedError):
                await manager.broadcast_to_all(about)
            assert await manager.send_to_thread(context.thread_id, about) is SendOutcome.DROPPED
            with pytest.raises(LegacyContextError):
                await bridge.notify_agent_thinking(context.run_id, "x", "of bob")

        await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(of_bob()))
        assert [stream["run_id"] for stream in user_streams(alice)] == []
        assert mine.texts == []

    async def test_a_kept_bridge_speaks_for_the_runs_of_its_user(self, process, alice):
        context = context_of(alice)
        with bind_context(context):
            bridge = get_websocket_bridge()
            assert await bridge.notify_agent_started(context.run_id, "x")

        def later() -> bool:
            return asyncio.run(bridge.notify_agent_thinking(context.run_id, "x", "hm"))

        assert await asyncio.get_running_loop().run_in_executor(None, later)

    async def test_a_conversation_of_another_user_is_not_the_bound_ones(self, process, alice, bob):
        mine, theirs = Socket(), Socket()
        manager = get_websocket_manager()
        await manager.connect_user(alice, mine)
        await manager.connect_user(bob, theirs, thread_id="thread-of-bob")
        context = context_of(alice)
        with bind_context(context):
            with pytest.raises(CrossUserSendError) as caught:
                await manager.send_to_thread("thread-of-bob", {"type": "note", "payload": {"text": "for bob"}})
            assert caught.value.reason == "thread"
            assert await manager.send_to_thread(context.thread_id, {"type": "note", "n": 1})
            assert await manager.send_to_thread("a-new-thread", {"type": "note", "n": 2})
        await until(lambda: len(mine.texts) == 2)
        assert [message["payload"]["n"] for message in mine.messages] == [1, 2]
        assert theirs.texts == []

    async def test_a_dispatcher_kept_in_a_class_is_not_the_next_users(self, new_context):
        class Keeps:
            name = "keeps"
            kept: ClassVar[list[Any]] = []

            def __init__(self, tool_dispatcher: Any) -> None:
                self.kept.append(tool_dispatcher)

            async def execute(self, state: Any, run_id: str, stream_updates: bool) -> Any:
                return self.kept[0].user_context.user_id

        factory, first = engines_of(Keeps), new_context()
        async with factory.user_execution_scope(first) as engine:
            assert (await engine.execute_agent("keeps", "q")).result == first.user_id
        async with factory.user_execution_scope(new_context()) as engine:
            outcome = await engine.execute_agent("keeps", "q")
        assert isinstance(outcome.error, ContextIsolationError)
        await factory.shutdown()

    async def test_an_instance_of_a_template_works_for_one_user(self, new_context):
        class Waits(AgentMigrationTemplate):
            async def _execute_agent_logic(self, request: Any) -> str:
                await asyncio.sleep(0)
                return self._user_context.user_id

        first, second, agent = new_context(), new_context(), Waits()
        outcomes = await asyncio.gather(
            agent.execute_with_context(first, "q", {}),
            agent.execute_with_context(second, "q", {}),
            return_exceptions=True,
        )
        assert outcomes[0] == first.user_id
        assert isinstance(outcomes[1], ContextIsolationError)
        with pytest.raises(ContextIsolationError):
            await Waits.create_with_context(first).execute_with_context(second, "q", {})

    async def test_a_kept_state_makes_no_context_for_somebody_else(self, alice, bob):
        kept = PlainState(user_id=bob, thread_id="thread-7", run_id=f"run-of-{bob}")
        adapter = LegacyExecutionAdapter(kept)
        with bind_context(context_of(alice)), pytest.raises(ContextIsolationError, match="another user"):
            adapter.create_temporary_context()
        await adapter.create_temporary_context().cleanup()

    async def test_a_state_into_which_anothers_was_merged_is_no_result(self, new_context, bob):
        other = {"user_id": bob, "final_report": "of bob"}

        class Merges:
            name = "merges"

            async def execute(self, state: Any, run_id: str, stream_updates: bool) -> Any:
                vars(state).update(other)

        factory = engines_of(Merges)
        async with factory.user_execution_scope(new_context()) as engine:
            outcome = await engine.execute_agent("merges", "q")
        assert isinstance(outcome.error, ContextIsolationError)
        await factory.shutdown()


class TestSocketsThatAreRefused:
    async def test_without_a_loop_nothing_is_kept(self, process, alice):
        def add() -> None:
            with pytest.raises(RuntimeError):
                get_websocket_manager().add_connection(alice, Socket())

        await asyncio.to_thread(add)
        assert len(process.connections) == 0
        assert not process.is_connected(alice)


class TestWritesThatFreezingDoesNotRefuse:
    @pytest.mark.parametrize(
        ("value", "write"),
        [
            (defaultdict(list), lambda held: held["x"].append(1)),
            (OrderedDict(), lambda held: held.update(a=1)),
            (deque(), lambda held: held.append(1)),
            (bytearray(), lambda held: held.append(1)),
            (SimpleNamespace(inner=SimpleNamespace(n=1)), lambda held: setattr(held.inner, "n", 2)),
            ([defaultdict(list)], lambda held: held[0].update(a=1)),
        ],
    )
    async def test_below_a_state(self, value, write):
        state = PlainState(user_id="ann-7", thread_id="t-7", run_id="run-ann-kept", value=value)
        context = LegacyExecutionAdapter(state).create_temporary_context()
        write(state.value)
        (error,) = await context.cleanup()
        assert isinstance(error, FrozenLegacyState)
        assert error.field == "value"

    @pytest.mark.parametrize("kind", [PlainState, DeepAgentState])
    def test_past_the_attributes(self, kind):
        state = kind(user_id="ann-7", chat_thread_id="t-7", run_id="run-ann-7", user_request="q")
        adapter = LegacyExecutionAdapter(state, writes="lenient")
        assert adapter.check_writes() == []
        vars(state)["user_request"] = "other"
        assert adapter.check_writes() == ["user_request"]

    def test_reading_is_no_write(self):
        import functools  # noqa: PLC0415

        class State(PlainState):
            @functools.cached_property
            def words(self) -> int:
                return 7

        class Service:
            def __deepcopy__(self, memo: Any) -> Service:
                return self

        service = Service()
        state = State(user_id="ann-7", thread_id="t-7", run_id="run-ann-7", service=service, held=([1], {"a": [2]}))
        adapter = LegacyExecutionAdapter(state)
        assert state.words == 7
        # It is shared, so nothing is lost.
        service.calls = 1  # type: ignore[attr-defined]
        assert (state.held[0][0], json.dumps(state.held[1])) == (1, '{"a": [2]}')
        assert adapter.check_writes() == []

    def test_a_list_that_holds_itself_is_copied_twice(self):
        own: list[Any] = [1]
        own.append(own)
        table: dict[str, Any] = {"n": [1]}
        table["self"] = table
        state = PlainState(user_id="ann-7", thread_id="t-7", run_id="run-ann-7", own=own, table=table)
        for _ in range(2):
            adapter = LegacyExecutionAdapter(state)
            held = adapter._data
            assert held["own"][1] is held["own"]
            assert held["table"]["self"] is held["table"]
            assert type(held["own"]) is list
            assert type(held["table"]["n"]) is list


class OlderManager:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        self.sent.append((user_id, message["type"]))


class TestHybridInSeveralLoops:
    def test_a_bridge_goes_on_in_the_next_loop(self, alice):
        older = OlderManager()
        bridge = HybridBridge(older)
        kept = []

        async def run(*, to_the_end: bool) -> None:
            context = context_of(alice)
            kept.append(context)
            emitter = await bridge.create_user_emitter(alice, context)
            await emitter.notify_agent_started("triage")
            if to_the_end:
                await emitter.notify_agent_completed("urgent")
                await context.cleanup()
                await bridge.close()
            else:
                await until(lambda: older.sent)

        asyncio.run(run(to_the_end=False))
        asyncio.run(run(to_the_end=True))
        assert older.sent == [(alice, "agent_started"), (alice, "agent_started"), (alice, "agent_completed")]
        assert bridge.get_stats()["forward_failed"] == 0
        assert bridge.get_stats()["forwarding_users"] == 0

    async def test_what_has_ended_is_read_no_more(self, new_user):
        """Users who were told something once are not read for ever."""
        older = OlderManager()
        bridge = HybridBridge(older)
        with manual_clock() as clock:
            for number in range(40):
                user = new_user()
                with bind_context(context_of(user)):
                    about = {"run_id": f"run-of-{user}", "agent_name": "x"}
                    await bridge.notify_agent_event(user, {"type": "agent_started", **about})
                await until(lambda told=number: len(older.sent) > told)
                clock.advance(600)
            assert bridge.get_stats()["forwarding_users"] <= 10
        await bridge.close()


async def test_a_block_that_ends_in_another_context_is_over(alice):
    """As a dependency does that is a plain generator: the framework runs each half in a copy of the context."""

    def dependency() -> Any:
        with bind_context(context_of(alice)):
            yield

    halves = dependency()
    contextvars.copy_context().run(next, halves)
    with pytest.raises(StopIteration):
        contextvars.copy_context().run(next, halves)
