"""The host's WebSocket managers, emitters of users, factory adapter and flags, under their own names."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import isolane
import isolane.fastapi
import pytest
from fastapi import Depends, FastAPI
from isolane import ContextIsolationError, InvalidContextError, UserContextFactory
from isolane.compat.dependencies import (
    ExecutionEngineFactoryDep,
    FactoryAdapterDep,
    RequestScopedContextDep,
    UserSessionContextDep,
    WebSocketBridgeFactoryDep,
    get_factory_execution_engine,
    get_factory_websocket_emitter,
)
from isolane.compat.factory_adapter import FactoryAdapter, MigrationMode
from isolane.compat.feature_flags import ProductionFeatureFlags, RolloutStage
from isolane.compat.unified_emitter import CRITICAL_EVENTS, UnifiedWebSocketEmitter
from isolane.compat.user_websocket_emitter import UserWebSocketEmitter
from isolane.compat.websocket_core import (
    UnifiedWebSocketManager,
    WebSocketManager,
    WebSocketManagerAdapter,
    broadcast_message,
    get_legacy_websocket_manager,
    get_websocket_manager,
)
from isolane.migration import legacy
from isolane.migration.deprecation import RemovedInV2Warning
from isolane.migration.flags import MigrationFeatureFlags
from isolane.migration.legacy import BroadcastDeniedError, CrossUserSendError, bind_context, configure_legacy

from tests.compat.pool import WHOLE, Socket, until
from tests.support.frontend import broken_rules
from tests.support.history import faults

quiet = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")
pytestmark = quiet


class Sink:
    """Takes the events of security."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def record(self, event: Any) -> None:
        self.events.append(event)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture(autouse=True)
def process(sink):
    yield configure_legacy(audit=sink, broadcast="context_user")
    legacy.reset_legacy()


class TestManagers:
    @pytest.mark.parametrize(
        "make",
        [
            WebSocketManager,
            UnifiedWebSocketManager,
            WebSocketManagerAdapter,
            get_websocket_manager,
            get_legacy_websocket_manager,
        ],
    )
    async def test_each_of_them_is_the_manager_of_the_process(self, make, alice):
        socket = Socket()
        await (await make()).connect_user(alice, socket)
        await make().send_to_user(alice, {"type": "note", "payload": {"n": 1}})
        await until(lambda: socket.texts)
        assert [broken_rules(message) for message in socket.messages] == [[]]
        assert get_websocket_manager().get_user_connections(alice)
        assert await make().disconnect_user(alice, socket) == 1

    async def test_the_function_that_broadcasts(self, alice, bob):
        mine, theirs = Socket(), Socket()
        manager = get_websocket_manager()
        await manager.connect_user(alice, mine)
        await manager.connect_user(bob, theirs)
        with pytest.raises(BroadcastDeniedError):
            await broadcast_message({"type": "note"})
        with bind_context(UserContextFactory.create_context(alice)):
            assert await broadcast_message({"type": "note"}, room_id="everybody") == 1
            with pytest.raises(CrossUserSendError):
                await broadcast_message({"type": "note"}, user_id=bob)
            assert await broadcast_message({"type": "note"}, user_id=alice)
        await until(lambda: len(mine.texts) == 2)
        assert theirs.texts == []

    def test_coroutine_functions_stay_such(self):
        """Mocks and frameworks ask."""
        for name in ("send_to_user", "send_to_thread", "connect_user", "broadcast_to_all", "emit_critical_event"):
            assert inspect.iscoroutinefunction(getattr(get_websocket_manager(), name)), name

    async def test_the_line_that_calls_is_told(self, alice):
        manager = get_websocket_manager()
        await manager.connect_user(alice, Socket())
        with pytest.warns(RemovedInV2Warning, match=r"send_to_user.*\[ISO-D005\]") as caught:
            await asyncio.create_task(manager.send_to_user(alice, {"type": "note"}))
        assert caught[0].filename == __file__


class TestEmitters:
    async def test_of_a_context(self, alice):
        socket = Socket()
        await get_websocket_manager().connect_user(alice, socket)
        context = UserContextFactory.create_context(alice)
        emitter = UserWebSocketEmitter(context, router=object(), connection_id="conn-7")
        assert await emitter.notify_agent_started("data")
        assert await emitter.notify_agent_thinking("data", "hm", step_number=1)
        assert await emitter.notify_tool_executing("data", "load", {"api_key": "x"})
        assert await emitter.notify_tool_completed("data", "load", [1])
        assert await emitter.notify_agent_completed("data", {"rows": 1})
        await emitter.cleanup()
        await until(lambda: len(socket.texts) == 5)
        assert socket.types == WHOLE
        assert [broken_rules(message) for message in socket.messages] == [[]] * 5
        assert {message["run_id"] for message in socket.messages} == {context.run_id}
        for wrong in (None, SimpleNamespace(user_id=alice, thread_id="t", run_id="r")):
            with pytest.raises(TypeError):
                UserWebSocketEmitter(wrong, None)  # type: ignore[arg-type]

    async def test_what_is_set_on_it_changes_nobody_elses_log(self, alice, bob):
        theirs = Socket()
        await get_websocket_manager().connect_user(bob, theirs)
        context = UserContextFactory.create_context(alice)
        emitter = UserWebSocketEmitter(context, None)
        emitter.user_id, emitter.context = bob, UserContextFactory.create_context(bob)
        assert await emitter.notify_agent_started("data")
        await emitter.notify_agent_completed("data")
        await get_websocket_manager().send_to_user(bob, {"type": "last"})
        await until(lambda: theirs.texts)
        assert theirs.types == ["last"]

    async def test_of_a_manager(self, sink, alice, bob):
        socket = Socket()
        manager = get_websocket_manager()
        await manager.connect_user(alice, socket)
        context = UserContextFactory.create_context(alice)
        emitter = UnifiedWebSocketEmitter(manager, alice, context)
        assert emitter.CRITICAL_EVENTS == CRITICAL_EVENTS == tuple(WHOLE)
        assert await emitter.notify_agent_started("data", {"step": 1})
        assert await emitter.notify_agent_thinking("data", "hm", 1)
        assert await emitter.notify_tool_executing("load", {"password": "x"}, agent_name="data")
        assert await emitter.notify_tool_completed("load", [1], agent_name="data")
        assert await emitter.notify_progress_update(0.5, "half")
        assert await emitter.emit_agent_completed({"agent_name": "data", "result": 1})
        assert await emitter.notify_custom("note", {"n": 1})
        await emitter.acquire()
        await emitter.release()
        await emitter.cleanup()
        await until(lambda: len(socket.texts) == 7)
        assert faults(socket.messages) == []
        assert socket.messages[2]["payload"]["parameters"] == {"password": "[REDACTED]"}
        assert {message["run_id"] for message in socket.messages} == {context.run_id}
        stats = emitter.get_stats()
        assert (stats["total_events"], stats["critical_events"], stats["error_count"]) == (7, 5, 0)
        with pytest.raises(CrossUserSendError):
            UnifiedWebSocketEmitter(manager, bob, context)
        with bind_context(UserContextFactory.create_context(bob)), pytest.raises(CrossUserSendError):
            await emitter.emit("note", {"n": 2})
        with pytest.raises(CrossUserSendError):
            await emitter.emit("note", {"user_id": bob})
        with pytest.raises(InvalidContextError):
            UnifiedWebSocketEmitter(manager)
        assert [event.data["reason"] for event in sink.events] == ["other_user", "other_user", "message"]

    async def test_of_a_manager_of_the_hosts(self, alice):
        got: list[Any] = []

        class HostManager:
            async def emit_critical_event(self, *, user_id: str, event_type: str, data: Any) -> None:
                if event_type == "note":
                    raise ConnectionError("gone")
                got.append((user_id, event_type, data))

        emitter = UnifiedWebSocketEmitter(websocket_manager=HostManager(), user_id=alice)
        assert await emitter.emit("agent_thinking", {"reasoning": "hm"})
        with pytest.raises(ConnectionError):
            await emitter.emit("note")
        assert got == [(alice, "agent_thinking", {"reasoning": "hm"})]
        assert emitter.get_stats()["error_count"] == 1


class TestFactoryAdapter:
    @pytest.fixture
    async def factories(self):
        bridge = isolane.WebSocketBridgeFactory()
        factory = isolane.ExecutionEngineFactory(bridge)
        yield factory, bridge
        await factory.shutdown()
        await bridge.shutdown()

    async def test_the_modern_way_and_the_older_one(self, factories, alice):
        older = SimpleNamespace(name="older")
        adapter = FactoryAdapter(*factories, legacy_engine=lambda: older, legacy_bridge=older)
        context = UserContextFactory.create_context(alice)
        engine = await adapter.get_execution_engine(context, "/chat")
        assert engine.context is context
        assert (await adapter.get_websocket_bridge(context)).user_id == alice
        adapter.disable_factory_for_route("/old")
        assert await adapter.get_execution_engine(context, "/old") is older
        assert await adapter.get_websocket_bridge(context, "/old") is older
        adapter.enable_factory_for_route("/old")
        assert await adapter.get_websocket_bridge(context, "/old") is not older
        status = adapter.get_migration_status()
        assert (status["migration_mode"], status["factory_requests"], status["legacy_requests"]) == (
            "factory_preferred",
            3,
            2,
        )
        assert alice not in repr(status)
        adapter.disable_factory_for_route("/old")
        with pytest.warns(RemovedInV2Warning, match="ISO-D010"):
            await adapter.get_websocket_bridge(context, "/old")
        await engine.cleanup()

    async def test_users_by_their_flags_and_by_their_routes(self, factories, alice, bob):
        flags = MigrationFeatureFlags(
            {"schema": 1, "revision": 1, "flags": {"modern_execution": {"rollout": 0, "allow": [alice]}}}
        )
        adapter = FactoryAdapter(*factories, "gradual", flags=flags, legacy_bridge="older")
        mine, theirs = UserContextFactory.create_context(alice), UserContextFactory.create_context(bob)
        assert adapter.takes_factory(mine)
        assert await adapter.get_websocket_bridge(theirs) == "older"
        # A run keeps its way, whatever the flags say meanwhile.
        flags.load('{"schema": 1, "revision": 2, "flags": {"modern_execution": {"rollout": 100000}}}')
        assert await adapter.get_websocket_bridge(theirs) == "older"
        assert adapter.takes_factory(UserContextFactory.create_context(bob))
        adapter.enable_factory_for_route("/new")
        assert adapter.takes_factory(theirs, "/new")

    @pytest.mark.parametrize("mode", list(MigrationMode))
    async def test_an_error_sends_nobody_the_older_way_by_itself(self, factories, mode, alice, sink):
        factory, _ = factories
        broken = SimpleNamespace(create_user_emitter=self.fails)
        context = UserContextFactory.create_context(alice)
        for fallback, expected in ((False, "error"), (True, "older")):
            adapter = FactoryAdapter(factory, broken, mode, legacy_bridge="older", legacy_fallback=fallback, audit=sink)
            adapter.enable_factory_for_route("/new")
            if mode is MigrationMode.LEGACY_ONLY:
                assert await adapter.get_websocket_bridge(context, "/new") == "older"
            elif expected == "error" or mode is MigrationMode.FACTORY_ONLY:
                with pytest.raises(OSError, match="no disk"):
                    await adapter.get_websocket_bridge(context, "/new")
            else:
                assert await adapter.get_websocket_bridge(context, "/new") == "older"
                assert adapter.get_migration_status()["fallbacks"] == 1
        names = [event.name for event in sink.events]
        assert names == (
            ["legacy_fallback"] if mode in {MigrationMode.FACTORY_PREFERRED, MigrationMode.GRADUAL} else []
        )

    @staticmethod
    async def fails(*_: Any) -> None:
        raise OSError("no disk")

    async def test_a_refusal_is_no_reason_to_go_the_older_way(self, factories, sink, alice, bob):
        adapter = FactoryAdapter(*factories, legacy_engine="older", legacy_fallback=True, audit=sink)
        engines = [await adapter.get_execution_engine({"user_id": alice, "thread_id": "thread-7"}) for _ in range(2)]
        with pytest.raises(isolane.EngineLimitError):
            await adapter.get_execution_engine({"user_id": alice})
        with pytest.raises(InvalidContextError):
            await adapter.get_execution_engine({"thread_id": "thread-7"})
        with pytest.raises(InvalidContextError):
            await adapter.get_execution_engine({"user_id": "placeholder"})
        with pytest.raises(InvalidContextError):
            await adapter.get_execution_engine()
        with bind_context(UserContextFactory.create_context(bob)), pytest.raises(CrossUserSendError):
            await adapter.get_execution_engine({"user_id": alice})
        assert [event.data["reason"] for event in sink.events] == ["other_user"]
        assert adapter.get_migration_status()["fallbacks"] == 0
        for engine in engines:
            await engine.cleanup()

    def test_settings_come_from_the_hosts_variables(self, monkeypatch):
        monkeypatch.setenv("FACTORY_MIGRATION_MODE", "GRADUAL")
        monkeypatch.setenv("FACTORY_LEGACY_FALLBACK", "true")
        adapter = FactoryAdapter(None, None)  # type: ignore[arg-type]
        assert (adapter.mode, adapter.legacy_fallback) == (MigrationMode.GRADUAL, True)
        monkeypatch.setenv("FACTORY_MIGRATION_MODE", "sometimes")
        with pytest.raises(ValueError, match="FACTORY_MIGRATION_MODE"):
            FactoryAdapter(None, None)  # type: ignore[arg-type]
        monkeypatch.setenv("FACTORY_LEGACY_FALLBACK", "perhaps")
        with pytest.raises(ValueError, match="FACTORY_LEGACY_FALLBACK"):
            FactoryAdapter(None, None, "gradual")  # type: ignore[arg-type]

    async def test_without_an_older_way(self, factories, alice):
        adapter = FactoryAdapter(*factories, MigrationMode.LEGACY_ONLY)
        with pytest.raises(RuntimeError, match="legacy_engine"):
            await adapter.get_execution_engine(UserContextFactory.create_context(alice))

    def test_routes_are_bounded(self):
        adapter = FactoryAdapter(None, None)  # type: ignore[arg-type]
        for number in range(1100):
            adapter.enable_factory_for_route(f"/{number}")
        assert len(adapter.get_migration_status()["routes_enabled"]) == 1000

    async def test_as_a_dependency(self, factories):
        app = FastAPI()

        @app.get("/mode")
        async def mode(adapter: FactoryAdapterDep) -> str:
            return adapter.mode.value

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            with pytest.raises(RuntimeError, match=r"app\.state\.factory_adapter"):
                await client.get("/mode")
            app.state.factory_adapter = FactoryAdapter(*factories, "factory_only")
            assert (await client.get("/mode")).json() == "factory_only"


class TestDependencies:
    async def test_all_are_those_of_who_has_signed_in(self, alice, bob):
        app = FastAPI()

        @app.get("/who")
        async def who(
            context: RequestScopedContextDep,
            session: UserSessionContextDep,
            engines: ExecutionEngineFactoryDep,
            bridges: WebSocketBridgeFactoryDep,
            engine: Annotated[Any, Depends(get_factory_execution_engine)],
            emitter: Annotated[Any, Depends(get_factory_websocket_emitter)],
        ) -> list[Any]:
            held = app.state.isolane
            return [
                context.user_id,
                session is context,
                engine.context is context,
                emitter is context.get_websocket_emitter(),
                engines is held.factory,
                bridges is held.bridge,
            ]

        def signed_in(conn: Any) -> isolane.fastapi.Principal | None:
            user = conn.headers.get("x-user")
            return None if user is None else isolane.fastapi.Principal(user)

        held = isolane.fastapi.setup(app, authenticate=signed_in)
        app.state.isolane = held
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            answers = await asyncio.gather(*(client.get("/who", headers={"x-user": user}) for user in (alice, bob)))
            assert [answer.json() for answer in answers] == [[user, *[True] * 5] for user in (alice, bob)]
            assert (await client.get("/who")).status_code == 401


class TestFlags:
    def flags(self, **flags: Any) -> ProductionFeatureFlags:
        return ProductionFeatureFlags(MigrationFeatureFlags({"schema": 1, "revision": 1, "flags": flags}))

    async def test_answers_are_there_at_once_and_awaited(self, alice, bob):
        flags = self.flags(new_chat={"rollout": 0, "allow": [alice]})
        for user, expected in ((alice, True), (bob, False)):
            answer = flags.is_enabled_for_user("new_chat", user)
            assert bool(answer) is expected
            assert await answer is expected
        assert not flags.is_enabled_for_user("unknown", alice)
        assert not flags.is_enabled_for_user("new_chat", None)  # type: ignore[arg-type]

    def test_stages(self, alice):
        flags = self.flags(
            a={"rollout": 0}, b={"rollout": 5000}, c={"rollout": 50000}, d={"rollout": 100000}, e={"state": "off"}
        )
        stages = [flags.get_rollout_stage(name) for name in "abcdex"]
        assert stages == [
            RolloutStage.INTERNAL,
            RolloutStage.CANARY,
            RolloutStage.STAGED,
            RolloutStage.FULL,
            RolloutStage.OFF,
            RolloutStage.OFF,
        ]
        assert flags.is_enabled_for_user("d", alice)
        flags.emergency_disable_all("too slow")
        assert not flags.is_enabled_for_user("d", alice)
        assert flags.get_rollout_stage("d") is RolloutStage.OFF
        flags.emergency_enable_all()
        assert flags.is_enabled_for_user("d", alice)

    def test_without_flags_nothing_is_on(self, alice):
        assert not ProductionFeatureFlags().is_enabled_for_user("modern_execution", alice)


def test_what_is_refused_is_one_kind_of_error():
    assert issubclass(CrossUserSendError, ContextIsolationError)
    assert issubclass(BroadcastDeniedError, ContextIsolationError)
