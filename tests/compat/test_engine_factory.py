"""The host's engine factory: its state, keys and look-ups, and slots that always come back."""

import asyncio
import gc
import logging
import weakref
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock, patch

import isolane
import pytest
from isolane._core import stream_has_ended
from isolane.compat import agent_instance_factory
from isolane.compat import execution_engine_factory as host
from isolane.compat.execution_context import AgentExecutionContext, AgentExecutionResult
from isolane.compat.execution_engine_factory import (
    ExecutionEngineFactory,
    ExecutionEngineFactoryError,
    UserExecutionEngine,
    configure_execution_engine_factory,
    get_execution_engine_factory,
    user_execution_engine,
)

HERE = "isolane.compat.execution_engine_factory"
METRICS = {
    "total_engines_created",
    "total_engines_cleaned",
    "active_engines_count",
    "creation_errors",
    "cleanup_errors",
    "timeout_cleanups",
    "user_limit_rejections",
}


class Echo(isolane.BaseAgent):
    """Answers with the request, or fails as it says."""

    name = "echo"

    async def execute_with_context(self, context, request):
        match request:
            case BaseException():
                raise request
            case float():
                await asyncio.sleep(request)
            case asyncio.Event():
                await request.wait()
        return request


class Bridge:
    """A bridge of the host's: keeps what it is told, or refuses it."""

    def __init__(self, takes=True):
        self.takes = takes
        self.told = []

    def __getattr__(self, name):
        if not name.startswith("notify_"):
            raise AttributeError(name)

        async def notify(**fields):
            await asyncio.sleep(0)
            self.told.append((name.removeprefix("notify_"), fields))
            return self.takes

        return notify

    @property
    def names(self):
        return [name for name, _ in self.told]


class HostAgents:
    """A factory of the host's: instances by name, with ``execute``."""

    async def create_agent_instance(self, agent_name, user_context):
        async def execute(context, request):
            return {"agent": agent_name, "user": context.user_id, "request": request}

        assert user_context.operation_depth == 1
        return SimpleNamespace(execute=execute)


@pytest.fixture(autouse=True)
def agents():
    registry = isolane.AgentRegistry()
    registry.register(Echo)
    yield agent_instance_factory.configure_agent_instance_factory(registry)
    agent_instance_factory.configure_agent_instance_factory(None)


@pytest.fixture(autouse=True)
def no_configured_factory():
    yield
    host._factory_instance = None


@pytest.fixture
async def factory():
    factory = ExecutionEngineFactory(isolane.WebSocketBridgeFactory())
    yield factory
    await factory.shutdown(drain=0)


@pytest.fixture
def bridge():
    return Bridge()


@pytest.fixture
async def told(bridge):
    factory = ExecutionEngineFactory(bridge)
    yield factory
    await factory.shutdown(drain=0)


def execution(context, name="echo", **fields):
    return AgentExecutionContext(context.run_id, context.thread_id, context.user_id, name, **fields)


def foreign_engine(**fields):
    engine = Mock()
    engine.is_active.return_value = True
    engine.cleanup = AsyncMock()
    engine.created_at = datetime.now(UTC)
    for name, value in fields.items():
        setattr(engine, name, value)
    return engine


class TestState:
    def test_the_bridge_is_required_in_the_words_of_the_host(self):
        for nothing in (None, "", 0):
            with pytest.raises(
                ExecutionEngineFactoryError, match="ExecutionEngineFactory requires websocket_bridge"
            ) as got:
                ExecutionEngineFactory(nothing)
            assert "WebSocket events that enable chat business value" in str(got.value)

    def test_the_state_that_tests_look_at(self, bridge):
        sessions, redis = object(), object()
        factory = ExecutionEngineFactory(bridge, sessions, redis)
        assert factory._websocket_bridge is bridge
        assert (factory._database_session_manager, factory._redis_manager) == (sessions, redis)
        assert factory._active_engines == {}
        assert isinstance(factory._engine_lock, asyncio.Lock)
        assert isinstance(factory._shutdown_event, asyncio.Event)
        assert (factory._max_engines_per_user, factory._engine_timeout_seconds, factory._cleanup_interval) == (
            2,
            300,
            60,
        )
        assert (factory._tool_dispatcher_factory, factory._cleanup_task) == (None, None)
        assert factory._factory_metrics == dict.fromkeys(METRICS, 0)
        assert isinstance(factory, isolane.ExecutionEngineFactory)
        factory.set_tool_dispatcher_factory(redis)
        assert factory._tool_dispatcher_factory is redis
        factory._tool_dispatcher_factory = factory._cleanup_interval = factory._engine_timeout_seconds = 7
        assert (factory.tool_dispatcher_factory, factory.cleanup_interval, factory.engine_timeout_seconds) == (7, 7, 7)
        by_name = ExecutionEngineFactory(
            websocket_bridge=bridge, database_session_manager=sessions, redis_manager=redis
        )
        assert by_name._redis_manager is redis

    def test_the_metrics_by_the_names_of_the_host(self, bridge):
        metrics = ExecutionEngineFactory(bridge).get_factory_metrics()
        assert metrics.keys() == METRICS | {
            "max_engines_per_user",
            "engine_timeout_seconds",
            "cleanup_interval",
            "active_engine_keys",
            "cleanup_task_running",
            "timestamp",
        }
        assert datetime.fromisoformat(metrics["timestamp"]).tzinfo is not None


class TestCreation:
    async def test_an_engine_has_a_slot_and_is_registered(self, factory, context):
        engine = await factory.create_for_user(context)
        assert isinstance(engine, UserExecutionEngine)
        assert isinstance(engine, isolane.UserExecutionEngine)
        assert list(factory._active_engines.values()) == [engine]
        (key,) = factory._active_engines
        assert key.startswith(f"{context.user_id}_{context.run_id}_")
        assert (
            factory._factory_metrics["total_engines_created"] == factory._factory_metrics["active_engines_count"] == 1
        )
        assert factory.get_factory_metrics()["active_engine_keys"] == [key]
        assert factory.get_active_contexts() == {context.user_id: 1}
        assert factory.get_active_engines_summary()[0]["status"] == "active"
        assert not factory._cleanup_task.done()
        assert (engine.database_session_manager, engine.redis_manager) == (None, None)
        assert engine.get_user_context() is context
        await factory.cleanup_engine(engine)
        assert (factory._active_engines, engine.is_active()) == ({}, False)
        assert factory._factory_metrics["total_engines_cleaned"] == 1

    async def test_the_other_name_and_the_managers(self, bridge, context):
        sessions, redis = object(), object()
        factory = ExecutionEngineFactory(bridge, sessions, redis)
        engine = await factory.create_execution_engine(context)
        assert (engine.database_session_manager, engine.redis_manager) == (sessions, redis)
        await factory.shutdown(0)

    @pytest.mark.parametrize("value", [None, "ann", {"user_id": "ann"}])
    async def test_what_is_no_context_is_refused(self, factory, value):
        with pytest.raises(ExecutionEngineFactoryError, match="Invalid user context: Expected UserExecutionContext"):
            await factory.create_for_user(value)
        assert factory._factory_metrics["creation_errors"] == 1

    async def test_the_limit_of_a_user_is_no_limit_of_another(self, factory, new_context, alice, bob):
        engines = [await factory.create_for_user(new_context(alice)) for _ in range(2)]
        with pytest.raises(ExecutionEngineFactoryError, match=r"has reached maximum engine limit \(2/2\)"):
            await factory.create_for_user(new_context(alice))
        assert factory._factory_metrics["user_limit_rejections"] == factory._factory_metrics["creation_errors"] == 1
        assert len(factory._active_engines) == 2
        await factory.create_for_user(new_context(bob))
        await factory.cleanup_engine(engines[0])
        await factory.create_for_user(new_context(alice))

    async def test_the_limit_holds_while_engines_are_built(self, factory, new_context, alice, agents):
        async def slow():
            await asyncio.sleep(0.01)
            return agents

        with patch(f"{HERE}.get_agent_instance_factory", slow):
            made = await asyncio.gather(
                *(factory.create_for_user(new_context(alice)) for _ in range(10)), return_exceptions=True
            )
        assert sum(isinstance(one, UserExecutionEngine) for one in made) == 2
        assert sum(isinstance(one, isolane.EngineLimitError) for one in made) == 8
        assert factory.get_active_contexts() == {alice: 2}

    async def test_nothing_of_an_ended_engine_is_kept(self, factory, new_context):
        references = []
        for _ in range(20):
            context = new_context()
            async with factory.user_execution_scope(context) as engine:
                await engine.execute_agent(execution(context), 1)
            await context.cleanup()
            references += [weakref.ref(engine), weakref.ref(context)]
        del context, engine
        await asyncio.sleep(0)
        gc.collect()
        assert [reference for reference in references if reference() is not None] == []
        assert (factory._keys, factory._numbers, factory._engines, factory._of_context) == ({}, {}, {}, {})

    async def test_children_share_the_engine_above_them_at_any_depth(self, factory, context):
        engine = await factory.create_for_user(context)
        child = context.create_child_context("op")
        for below in (child, child.create_child_context("op")):
            assert await factory.create_for_user(below) is engine
            async with factory.user_execution_scope(below) as shared:
                assert shared is engine
        assert engine.is_active()
        assert factory.get_active_contexts() == {context.user_id: 1}
        await factory.cleanup_engine(engine)
        assert factory.get_active_contexts() == {}

    async def test_children_share_an_engine_of_another_class(self, factory, context):
        engine = foreign_engine()
        with patch(f"{HERE}.UserExecutionEngine", return_value=engine):
            assert await factory.create_for_user(context) is engine
            assert await factory.create_for_user(context.create_child_context("op")) is engine
        assert len(factory._active_engines) == 1

    async def test_the_stream_goes_on_until_the_last_engine_of_its_context_ends(self, factory, context):
        first, second = [await factory.create_for_user(context) for _ in range(2)]
        await first.execute_agent(execution(context), 1)
        await factory.cleanup_engine(first)
        assert not stream_has_ended(context)
        assert (await second.execute_agent(execution(context), 2)).success
        await factory.cleanup_engine(second)
        assert stream_has_ended(context)

    async def test_many_engines_of_one_run_in_one_millisecond_are_all_registered(self, factory, new_context):
        factory._max_engines_per_user = 50
        context = new_context("ann-at-once")
        engines = await asyncio.gather(*(factory.create_for_user(context) for _ in range(50)))
        assert len(factory._active_engines) == 50
        assert len({engine.engine_id for engine in engines}) == 50
        assert await factory.cleanup_user_context("ann-at-once") is True
        assert await factory.cleanup_user_context("ann-at-once") is False
        assert factory._factory_metrics["total_engines_cleaned"] == 50

    async def test_the_limit_cannot_change_under_living_engines(self, factory, context):
        factory._max_engines_per_user = 1
        await factory.create_for_user(context)
        with pytest.raises(RuntimeError, match="before the first"):
            factory._max_engines_per_user = 3

    async def test_a_run_that_has_ended_gets_no_engine(self, factory, context):
        async with factory.user_execution_scope(context) as engine:
            await engine.execute_agent(execution(context), 1)
        with pytest.raises(ExecutionEngineFactoryError, match="new run id"):
            await factory.create_for_user(context)

    @pytest.mark.parametrize("ends", ["the run", "the service"])
    async def test_what_ends_while_a_second_engine_is_built(self, factory, context, agents, ends):
        first, gate = await factory.create_for_user(context), asyncio.Event()

        async def slow():
            await gate.wait()
            return agents

        with patch(f"{HERE}.get_agent_instance_factory", slow):
            second = asyncio.create_task(factory.create_for_user(context))
            await asyncio.sleep(0)
            if ends == "the run":
                await first.execute_agent(execution(context), 1)
                await factory.cleanup_engine(first)
            else:
                await factory.shutdown(0)
            gate.set()
            with pytest.raises(ExecutionEngineFactoryError, match=r"new run id|shutting down"):
                await second
        assert factory.get_active_contexts() == {}


class TestLookUps:
    """The names are looked up when they are called, as the host's tests expect."""

    async def test_an_engine_of_another_class(self, factory, context):
        engine = foreign_engine()
        with patch(f"{HERE}.UserExecutionEngine", return_value=engine) as made:
            assert await factory.create_for_user(context) is engine
        assert made.call_args.kwargs.keys() == {"context", "agent_factory", "websocket_emitter"}
        assert made.call_args.kwargs["context"] is context
        assert list(factory._active_engines.values()) == [engine]
        assert factory.get_active_contexts() == {context.user_id: 1}
        assert (engine.database_session_manager, engine.redis_manager) == (None, None)
        await factory.cleanup_engine(engine)
        await factory.cleanup_engine(engine)
        engine.cleanup.assert_awaited_once()
        assert factory._active_engines == {}

    async def test_an_engine_that_is_given_out_twice_has_two_slots(self, factory, new_context, alice):
        engine = foreign_engine()
        with patch(f"{HERE}.UserExecutionEngine", return_value=engine):
            for _ in range(2):
                await factory.create_for_user(new_context(alice))
            with pytest.raises(isolane.EngineLimitError):
                await factory.create_for_user(new_context(alice))
            for left in (1, 0):
                await factory.cleanup_engine(engine)
                assert len(factory._active_engines) == left
            assert factory._guests == {}
            await factory.create_for_user(new_context(alice))

    async def test_the_emitter_and_the_factory_of_agents(self, factory, context):
        emitter, agents = AsyncMock(), Mock()
        with (
            patch(f"{HERE}.UserWebSocketEmitter", return_value=emitter) as made,
            patch(f"{HERE}.get_agent_instance_factory", return_value=agents),
        ):
            engine = await factory.create_for_user(context)
        assert made.call_args.kwargs == {
            "user_id": context.user_id,
            "thread_id": context.thread_id,
            "run_id": context.run_id,
            "websocket_bridge": factory._websocket_bridge,
        }
        assert (engine.websocket_emitter, engine.agent_factory) == (emitter, agents)

    async def test_a_factory_of_agents_that_is_awaited(self, factory, context):
        agents = HostAgents()
        with patch(f"{HERE}.get_agent_instance_factory", AsyncMock(return_value=agents)):
            assert (await factory.create_for_user(context)).agent_factory is agents

    async def test_the_validation(self, factory, context):
        with (
            patch(f"{HERE}.validate_user_context", side_effect=isolane.InvalidContextError("no good")) as validate,
            pytest.raises(ExecutionEngineFactoryError, match="Invalid user context: no good"),
        ):
            await factory.create_for_user(context)
        validate.assert_called_once_with(context)

    @pytest.mark.parametrize("name", ["get_agent_instance_factory", "UserWebSocketEmitter", "UserExecutionEngine"])
    async def test_what_fails_while_building_leaves_nothing(self, factory, context, name):
        for count in range(1, 4):  # more often than there are slots
            with (
                patch(f"{HERE}.{name}", side_effect=OSError("not today")),
                pytest.raises(ExecutionEngineFactoryError, match="Engine creation failed: not today"),
            ):
                await factory.create_for_user(context)
            assert factory._factory_metrics["creation_errors"] == count
        assert factory._active_engines == {}
        await factory.create_for_user(context)


class TestCleanup:
    async def test_nothing_and_strangers_are_ignored(self, factory, context, agents):
        await factory.cleanup_engine(None)
        await factory.cleanup_engine(foreign_engine())
        stranger = UserExecutionEngine(context, agents, AsyncMock())
        await factory.cleanup_engine(stranger)
        assert stranger.is_active()
        assert factory._factory_metrics["total_engines_cleaned"] == 0
        await stranger.cleanup()

    async def test_a_slot_comes_back_from_an_engine_whose_cleanup_fails(self, factory, new_context, alice, caplog):
        with caplog.at_level(logging.CRITICAL):
            for _ in range(3):  # more often than there are slots
                engine = foreign_engine(cleanup=AsyncMock(side_effect=OSError("stuck")))
                with patch(f"{HERE}.UserExecutionEngine", return_value=engine):
                    await factory.create_for_user(new_context(alice))
                await factory.cleanup_engine(engine)
        assert factory._active_engines == {}
        assert factory._factory_metrics["cleanup_errors"] == 3
        assert factory.get_active_contexts() == {}

    async def test_an_engine_whose_cleanup_hangs_is_given_up(self, factory, context):
        factory.grace = 0.05
        engine = foreign_engine(cleanup=lambda: asyncio.sleep(30))
        with patch(f"{HERE}.UserExecutionEngine", return_value=engine):
            await factory.create_for_user(context)
        await asyncio.wait_for(factory.cleanup_engine(engine), 5)
        assert factory._active_engines == {}

    async def test_an_engine_that_cleans_itself_up_is_taken_out(self, factory, context):
        engine = await factory.create_for_user(context)
        await engine.cleanup()
        await engine.cleanup()
        assert factory._active_engines == {}
        assert factory._factory_metrics["total_engines_cleaned"] == 1

    async def test_a_cleanup_callback_may_end_its_engine(self, factory, context):
        engine = await factory.create_for_user(context)
        context.register_cleanup_callback(lambda: factory.cleanup_engine(engine))
        async with asyncio.timeout(5):
            assert await context.cleanup() == ()
        assert factory._active_engines == {}

    @pytest.mark.parametrize(
        ("fields", "timeouts"),
        [
            ({"is_active": Mock(return_value=False)}, 0),
            ({"is_active": Mock(side_effect=OSError("broken"))}, 0),
            ({"created_at": datetime.now(UTC) - timedelta(seconds=301)}, 1),
            ({"created_at": datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=301)}, 1),
        ],
    )
    @pytest.mark.parametrize("put_in", [False, True], ids=["made here", "put into the dictionary"])
    async def test_the_sweep_ends_what_is_over_and_leaves_its_neighbour(
        self, factory, new_context, fields, timeouts, put_in, caplog
    ):
        over, well = foreign_engine(**fields), foreign_engine()
        with caplog.at_level(logging.CRITICAL):
            for number, engine in enumerate((over, well)):
                if put_in:
                    factory._active_engines[f"key-{number}"] = engine
                else:
                    with patch(f"{HERE}.UserExecutionEngine", return_value=engine):
                        await factory.create_for_user(new_context())
            await factory._cleanup_inactive_engines()
        over.cleanup.assert_awaited_once()
        well.cleanup.assert_not_awaited()
        assert list(factory._active_engines.values()) == [well]
        assert factory._factory_metrics["timeout_cleanups"] == timeouts
        assert factory._factory_metrics["active_engines_count"] == 1

    async def test_an_engine_that_sweeps_while_it_is_swept(self, factory, context):
        engine = foreign_engine(cleanup=AsyncMock(side_effect=factory._cleanup_inactive_engines))
        engine.is_active.return_value = False
        factory._active_engines["key"] = engine
        async with asyncio.timeout(5):
            await factory._cleanup_inactive_engines()
        engine.cleanup.assert_awaited_once()

    async def test_two_sweeps_at_once_end_an_engine_once(self, factory):
        factory._active_engines["key"] = engine = foreign_engine()
        engine.is_active.return_value = False
        await asyncio.gather(*(factory._cleanup_inactive_engines() for _ in range(2)))
        engine.cleanup.assert_awaited_once()
        assert factory._factory_metrics["total_engines_cleaned"] == 1

    async def test_an_inactive_engine_does_not_count_against_its_user(self, factory, new_context, alice):
        for _ in range(5):
            engine = foreign_engine()
            with patch(f"{HERE}.UserExecutionEngine", return_value=engine):
                await factory.create_for_user(new_context(alice))
            engine.is_active.return_value = False
        assert len(factory._active_engines) == 1

    async def test_a_lifetime_ends(self, factory, context):
        factory._engine_timeout_seconds = 0.05
        engine = await factory.create_for_user(context)
        async with asyncio.timeout(5):
            while engine.is_active() or factory._active_engines:
                await asyncio.sleep(0.01)
        assert factory._factory_metrics["timeout_cleanups"] == 1

    async def test_the_task_sweeps_and_ends_with_the_last_engine(self, factory, context):
        factory._cleanup_interval = 0.02
        engine = foreign_engine()
        with patch(f"{HERE}.UserExecutionEngine", return_value=engine):
            await factory.create_for_user(context)
        engine.is_active.return_value = False
        async with asyncio.timeout(5):
            await factory._cleanup_task
        assert factory._active_engines == {}
        assert factory.get_factory_metrics()["cleanup_task_running"] is False

    async def test_shutdown_ends_everything_and_reopen_begins_again(self, factory, new_context):
        await factory.create_for_user(new_context())
        factory._active_engines["mine"] = stranger = foreign_engine()
        await factory.cleanup_all_contexts()
        stranger.cleanup.assert_awaited_once()
        assert (factory._active_engines, factory._cleanup_task) == ({}, None)
        assert factory._shutdown_event.is_set()
        with pytest.raises(ExecutionEngineFactoryError, match="shutting down"):
            await factory.create_for_user(new_context())
        factory.reopen()
        await factory.create_for_user(new_context())
        assert factory.get_factory_metrics()["cleanup_task_running"]

    async def test_the_task_does_not_keep_a_factory_alive(self, bridge, new_context):
        factory = ExecutionEngineFactory(bridge)
        await factory.create_for_user(new_context())
        await asyncio.sleep(0)
        task, reference = factory._cleanup_task, weakref.ref(factory)
        del factory
        gc.collect()
        assert reference() is None
        task.cancel()
        await asyncio.wait([task])

    def test_a_factory_may_outlive_an_event_loop(self, bridge, new_context, caplog):
        factory = ExecutionEngineFactory(bridge)

        async def work(last):
            engine = await factory.create_for_user(new_context())
            await asyncio.sleep(0)
            assert factory.get_factory_metrics()["cleanup_task_running"]
            if last:
                await factory.shutdown(0)
            else:
                await factory.cleanup_engine(engine)

        for last in (False, False, True):
            asyncio.run(work(last))
        gc.collect()
        assert caplog.records == []


class TestScope:
    async def test_the_scope_ends_its_engine(self, factory, context):
        with pytest.raises(KeyError):
            async with factory.user_execution_scope(context) as engine:
                assert engine.is_active()
                raise KeyError
        assert not engine.is_active()
        assert factory._active_engines == {}

    async def test_errors_of_the_cleanup_are_swallowed(self, factory, context, caplog):
        engine = foreign_engine(cleanup=AsyncMock(side_effect=OSError("stuck")))
        with caplog.at_level(logging.CRITICAL), patch(f"{HERE}.UserExecutionEngine", return_value=engine):
            async with factory.user_execution_scope(context):
                pass
        assert factory._factory_metrics["cleanup_errors"] == 1


class TestModule:
    async def test_the_factory_of_the_process(self, bridge, context):
        with pytest.raises(ExecutionEngineFactoryError, match="not configured"):
            await get_execution_engine_factory()
        factory = await configure_execution_engine_factory(bridge, "sessions", redis_manager="redis")
        assert host._factory_instance is factory is await get_execution_engine_factory()
        assert (factory._database_session_manager, factory._redis_manager) == ("sessions", "redis")
        async with user_execution_engine(context) as engine:
            assert list(factory._active_engines.values()) == [engine]
        assert factory._active_engines == {}
        second = await configure_execution_engine_factory(bridge)
        assert await get_execution_engine_factory() is second
        with pytest.raises(ExecutionEngineFactoryError, match="shutting down"):
            await factory.create_for_user(context)
        await factory.shutdown(0)
        await second.shutdown(0)

    async def test_the_factory_of_an_application_comes_first(self, bridge):
        await configure_execution_engine_factory(bridge)
        mine = ExecutionEngineFactory(bridge)
        app = SimpleNamespace(state=SimpleNamespace(execution_engine_factory=mine))
        assert await get_execution_engine_factory(app) is mine
        assert await get_execution_engine_factory(SimpleNamespace(state=SimpleNamespace())) is host._factory_instance

    def test_the_names_of_the_errors(self):
        assert ExecutionEngineFactoryError is isolane.ExecutionEngineFactoryError is host.UserExecutionEngineError
        assert host.UserIsolationError is isolane.ContextIsolationError


class TestEngine:
    """The engine alone, and over both kinds of bridges."""

    def test_it_is_constructed_directly_in_the_order_of_the_host(self, context, agents):
        emitter = AsyncMock()
        engine = UserExecutionEngine(context, agents, emitter)
        assert (engine.context, engine.agent_factory, engine.websocket_emitter) == (context, agents, emitter)
        assert (engine.active_runs, engine.run_history, engine.max_concurrent) == ({}, [], 3)
        assert engine.execution_stats == {
            "total_executions": 0,
            "concurrent_executions": 0,
            "queue_wait_times": [],
            "execution_times": [],
            "failed_executions": 0,
            "timeout_executions": 0,
            "dead_executions": 0,
        }
        assert engine.AGENT_EXECUTION_TIMEOUT == 30.0
        assert engine.is_active()

    def test_bad_arguments(self, context, agents, new_context):
        with pytest.raises(TypeError, match="Expected UserExecutionContext"):
            UserExecutionEngine("ann", agents, AsyncMock())
        with pytest.raises(ValueError, match="AgentInstanceFactory cannot be None"):
            UserExecutionEngine(context, None, AsyncMock())
        with pytest.raises(ValueError, match="UserWebSocketEmitter cannot be None"):
            UserExecutionEngine(context, agents, None)
        foreign = new_context().get_websocket_emitter()
        with pytest.raises(isolane.ContextIsolationError):
            UserExecutionEngine(context, agents, foreign)

    async def test_the_bridge_is_told_in_order(self, told, bridge, context):
        engine = await told.create_for_user(context)
        result = await engine.execute_agent(execution(context, metadata={"tag": 1}), {"n": 1})
        assert isinstance(result, AgentExecutionResult)
        assert (result.success, result.agent_name, result.data, result.error) == (True, "echo", {"n": 1}, None)
        assert (result.user_context, result.metadata) == (context, {"tag": 1})
        assert result.duration > 0
        assert bridge.names == ["agent_started", "agent_thinking", "agent_completed"]
        assert {fields["run_id"] for _, fields in bridge.told} == {context.run_id}
        assert bridge.told[-1][1]["result"] == {"n": 1}
        assert engine.run_history == [result]
        assert engine.active_runs == {}

    async def test_a_factory_of_the_host(self, told, bridge, context):
        with patch(f"{HERE}.get_agent_instance_factory", HostAgents):
            engine = await told.create_for_user(context)
        result = await engine.execute_agent(execution(context, "triage"), "q")
        assert result.data == {"agent": "triage", "user": context.user_id, "request": "q"}

    async def test_an_error_of_the_agent(self, told, bridge, context):
        engine = await told.create_for_user(context)
        with pytest.raises(RuntimeError, match="Agent execution failed: no data") as got:
            await engine.execute_agent(execution(context), OSError("no data"))
        assert isinstance(got.value.__cause__, OSError)
        assert bridge.names == ["agent_started", "agent_thinking", "agent_error"]
        result = await engine.execute_agent_pipeline("echo", context, ValueError("no data"))
        assert (result.success, result.error) == (False, "Agent execution failed: no data")
        assert bridge.names[3:] == ["agent_started", "agent_thinking", "agent_error"]
        assert engine.execution_stats["failed_executions"] == 2
        assert (await engine.execute_agent_pipeline("echo", context, 7)).data == 7

    async def test_an_agent_may_answer_with_a_result(self, told, bridge, context):
        engine = await told.create_for_user(context)
        good = AgentExecutionResult(success=True, agent_name="echo", data={"n": 1}, metrics={"tokens": 5})
        assert await engine.execute_agent(execution(context), good) is good
        assert bridge.told[-1][1]["result"] == {"n": 1}
        bad = AgentExecutionResult(success=False, agent_name="echo", error="no data")
        assert await engine.execute_agent(execution(context), bad) is bad
        assert bridge.names[-1] == "agent_error"
        assert bridge.told[-1][1]["error"] == "no data"
        assert engine.execution_stats["failed_executions"] == context.execution_metrics.failed_runs == 1

    async def test_an_agent_out_of_time(self, told, bridge, context):
        engine = await told.create_for_user(context)
        result = await engine.execute_agent(execution(context, timeout=0.02), 30.0)
        assert (result.success, result.data) == (False, None)
        assert "took longer than its 0.02 s" in result.error
        assert bridge.names == ["agent_started", "agent_thinking", "agent_error"]
        assert engine.get_user_execution_stats()["timeout_executions"] == 1
        with patch.object(engine, "AGENT_EXECUTION_TIMEOUT", 0.02):
            assert (await engine.execute_agent(execution(context), 30.0)).success is False
        with patch.object(Echo, "timeout_seconds", 0.01):
            assert "0.01 s" in (await engine.execute_agent(execution(context), 30.0)).error
        # A time limit of the agent's own is an error as any other.
        with pytest.raises(RuntimeError, match="Agent execution failed"):
            await engine.execute_agent(execution(context), TimeoutError("the database"))

    async def test_a_cancelled_agent_has_a_last_event_and_leaves_nothing(self, told, bridge, context):
        engine = await told.create_for_user(context)
        task = asyncio.create_task(engine.execute_agent(execution(context), 30.0))
        while "agent_thinking" not in bridge.names or not engine.active_runs:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bridge.names == ["agent_started", "agent_thinking", "agent_error"]
        assert engine.active_runs == {}
        assert engine.execution_stats["concurrent_executions"] == 0
        assert engine.execution_stats["dead_executions"] == 1

    async def test_one_cancelled_while_it_waits_leaves_nothing(self, told, bridge, context):
        engine = await told.create_for_user(context)
        gate = asyncio.Event()
        running = [asyncio.create_task(engine.execute_agent(execution(context), gate)) for _ in range(3)]
        while bridge.names.count("agent_thinking") < 3:
            await asyncio.sleep(0)
        waiting = asyncio.create_task(engine.execute_agent(execution(context), gate))
        await asyncio.sleep(0.01)
        assert bridge.names.count("agent_started") == 3, "max_concurrent"
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(engine.active_runs) == 3
        gate.set()
        assert all(result.success for result in await asyncio.gather(*running))
        assert engine.active_runs == {}
        assert not engine.semaphore.locked()

    async def test_executions_of_others_are_refused(self, told, bridge, context, bob, caplog):
        engine = await told.create_for_user(context)
        foreign = AgentExecutionContext(context.run_id, context.thread_id, bob, "echo")
        with pytest.raises(ValueError, match="another user"):
            await engine.execute_agent(foreign, 1)
        with pytest.raises(ValueError, match="another user"):
            await engine.execute_agent(execution(context), isolane.UserContextFactory.create_context(bob))
        with pytest.raises(TypeError, match="execute_agent_pipeline"):
            await engine.execute_agent("echo", 1)
        for run in ("registry", " Registry ", "", None):
            with pytest.raises(ValueError, match="run_id must be that of a real run"):
                await engine.execute_agent(AgentExecutionContext(run, "t", context.user_id, "echo"), 1)
        assert bridge.told == []
        with caplog.at_level(logging.WARNING, "isolane.compat"):
            other_run = AgentExecutionContext("another-run", "t", context.user_id, "echo")
            assert (await engine.execute_agent(other_run, 1)).data == 1
        assert "another-run" in caplog.text
        assert {fields["run_id"] for _, fields in bridge.told} == {context.run_id}

    async def test_a_bridge_that_takes_nothing_does_not_fail_the_run(self, context, agents, caplog):
        factory = ExecutionEngineFactory(Bridge(takes=False))
        engine = await factory.create_for_user(context)
        with caplog.at_level(logging.WARNING, "isolane.compat"):
            result = await engine.execute_agent(execution(context), 1)
        assert (result.success, result.data) == (True, 1)
        assert "was not delivered" in caplog.text
        await factory.shutdown(0)

    async def test_a_result_that_cannot_be_sent_is_returned_and_named(self, factory, context, read_plain):
        engine = await factory.create_for_user(context)
        value = object()
        assert (await engine.execute_agent(execution(context), value)).data is value
        last = read_plain(context.user_id, context.run_id)[-1]
        assert last["type"] == "agent_completed"
        assert "result_omitted" in last["payload"]["result"]

    async def test_in_the_log_an_execution_is_one_span_whoever_publishes(
        self, factory, agents, new_context, read_plain
    ):
        @agents.registry.register
        class Both(isolane.BaseAgent):
            name = "both"

            async def execute_with_context(self, context, request):
                await context.get_websocket_emitter().notify_agent_thinking("by the context")
                await request.wait()
                return "done"

        context, gate = new_context(), asyncio.Event()
        engine = await factory.create_for_user(context)
        running = [asyncio.create_task(engine.execute_agent(execution(context, "both"), gate)) for _ in range(2)]
        await asyncio.sleep(0.01)
        gate.set()
        assert [result.data for result in await asyncio.gather(*running)] == ["done", "done"]
        spans = {}
        for message in read_plain(context.user_id, context.run_id):
            spans.setdefault(message["request_id"], []).append(message["type"])
        assert list(spans.values()) == [["agent_started", "agent_thinking", "agent_thinking", "agent_completed"]] * 2

    async def test_an_emitter_of_isolane_does_as_well(self, agents, context, read_plain):
        engine = UserExecutionEngine(context, agents, context.get_websocket_emitter())
        assert (await engine.execute_agent(execution(context), 1)).data == 1
        await engine.cleanup()
        messages = read_plain(context.user_id, context.run_id)
        assert [message["type"] for message in messages] == ["agent_started", "agent_thinking", "agent_completed"]

    async def test_closing_cancels_what_runs_and_cleans_the_emitter_up(self, factory, context, read_plain):
        engine = await factory.create_for_user(context)
        task = asyncio.create_task(engine.execute_agent(execution(context), 30.0))
        await asyncio.sleep(0.01)
        await factory.cleanup_engine(engine)
        assert task.cancelled()
        assert [message["type"] for message in read_plain(context.user_id, context.run_id)][-1] == "agent_error"
        with pytest.raises(isolane.EngineClosedError):
            await engine.execute_agent(execution(context), 1)
        emitter = AsyncMock()
        alone = UserExecutionEngine(isolane.UserContextFactory.create_context("ann-alone"), Mock(), emitter)
        await alone.cleanup()
        await alone.cleanup()
        emitter.cleanup.assert_awaited_once()
        assert not alone.is_active()

    async def test_an_agent_may_run_another_on_its_own_turn(self, told, agents, context):
        @agents.registry.register
        class Outer(isolane.BaseAgent):
            name = "outer"

            async def execute_with_context(self, _context, request):
                if request == 0:
                    return "inner"
                return (await engine.execute_agent(execution(context, "outer"), request - 1)).data

        engine = await told.create_for_user(context)
        engine.semaphore = asyncio.Semaphore(1)
        async with asyncio.timeout(5):
            assert (await engine.execute_agent(execution(context, "outer"), 3)).data == "inner"

    async def test_no_permit_is_shown(self, told, bridge, context):
        engine = await told.create_for_user(context)
        limiter = isolane.default_limiter()
        held = [limiter.slot_nowait(context.user_id) for _ in range(5)]
        try:
            with pytest.raises(isolane.LimitTimeout):
                await engine.execute_agent(execution(context), 1)
        finally:
            for permit in held:
                permit.release()
        assert bridge.names == ["agent_started", "agent_error"]
        assert (await engine.execute_agent(execution(context), 1)).data == 1

    async def test_histories_are_bounded(self, told, context):
        engine = await told.create_for_user(context)
        for number in range(120):
            await engine.execute_agent(execution(context), number)
        assert [result.data for result in engine.run_history] == list(range(20, 120))
        stats = engine.get_user_execution_stats()
        assert len(stats["queue_wait_times"]) == len(stats["execution_times"]) == 100
        assert stats["total_executions"] == 120
