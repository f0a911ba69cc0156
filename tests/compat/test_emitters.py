"""`isolane.compat.agent_instance_factory`: the emitter of engines, over a bridge of the host's or isolane's log."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from isolane import (
    AgentRegistry,
    BaseAgent,
    ContextIsolationError,
    InvalidContextError,
    InvalidEvent,
    UnknownAgentError,
    UserContextFactory,
    WebSocketBridgeFactory,
)
from isolane._core import user_streams
from isolane.compat import agent_instance_factory
from isolane.compat.agent_instance_factory import (
    AgentInstanceFactory,
    UserWebSocketEmitter,
    configure_agent_instance_factory,
    get_agent_instance_factory,
)
from isolane.compat.protocols import AgentClassRegistry, AgentWebSocketBridge
from isolane.compat.redaction import is_secret, safe_error, safe_input, safe_output

from tests.support.frontend import broken_rules
from tests.support.history import faults


class Bridge:
    """A bridge of the host's: records the calls, and answers as it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answer: Any = True

    async def _take(self, name: str, arguments: dict[str, Any]) -> bool:
        self.calls.append((name, arguments))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def notify_agent_started(self, **arguments: Any) -> bool:
        return await self._take("started", arguments)

    async def notify_agent_thinking(self, **arguments: Any) -> bool:
        return await self._take("thinking", arguments)

    async def notify_tool_executing(self, **arguments: Any) -> bool:
        return await self._take("tool_executing", arguments)

    async def notify_tool_completed(self, **arguments: Any) -> bool:
        return await self._take("tool_completed", arguments)

    async def notify_agent_completed(self, **arguments: Any) -> bool:
        return await self._take("completed", arguments)

    async def notify_agent_error(self, **arguments: Any) -> bool:
        return await self._take("error", arguments)


CALLS = [
    ("notify_agent_started", ("data", {"k": 1})),
    ("notify_agent_thinking", ("data", "reading", 2, 40.0)),
    ("notify_tool_executing", ("data", "load", {"path": "usage.csv"})),
    ("notify_tool_completed", ("data", "load", {"rows": 3}, 12.5)),
    ("notify_agent_completed", ("data", {"rows": 3}, 20.0)),
]


@pytest.fixture
def bridge() -> Bridge:
    return Bridge()


@pytest.fixture
def run(alice) -> str:
    return f"run-of-{alice}"


class TestNames:
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("__init__", ["user_id", "thread_id", "run_id", "websocket_bridge"]),
            ("notify_agent_started", ["agent_name", "context"]),
            ("notify_agent_thinking", ["agent_name", "reasoning", "step_number", "progress_percentage"]),
            ("notify_tool_executing", ["agent_name", "tool_name", "parameters"]),
            ("notify_tool_completed", ["agent_name", "tool_name", "result", "execution_time_ms"]),
            ("notify_agent_completed", ["agent_name", "result", "execution_time_ms"]),
            ("notify_agent_error", ["agent_name", "error", "error_context"]),
        ],
    )
    def test_arguments_have_the_hosts_order(self, name, arguments):
        parameters = inspect.signature(getattr(UserWebSocketEmitter, name)).parameters
        assert list(parameters) == ["self", *arguments]
        optional = {"context", "step_number", "progress_percentage", "parameters", "result", "execution_time_ms"}
        optional.add("error_context")
        assert all(parameters[one].default is None for one in arguments if one in optional)

    def test_the_factory_of_the_process(self, monkeypatch):
        monkeypatch.setattr(agent_instance_factory, "_factory", None)
        first = get_agent_instance_factory()
        assert first is get_agent_instance_factory()
        registry = AgentRegistry()
        configured = configure_agent_instance_factory(registry)
        assert isinstance(configured, AgentInstanceFactory)
        assert configured is get_agent_instance_factory()
        assert configured.registry is registry

    def test_what_is_refused_at_once(self, alice, bridge):
        with pytest.raises(ValueError, match="websocket_bridge cannot be None"):
            UserWebSocketEmitter(alice, "thread-7", "run-7", None)
        with pytest.raises(InvalidContextError, match="run_id"):
            UserWebSocketEmitter(alice, "thread-7", "registry", bridge)


class TestOverABridgeOfTheHost:
    async def test_everything_is_handed_on_by_name(self, alice, bridge, run):
        assert isinstance(bridge, AgentWebSocketBridge)
        emitter = UserWebSocketEmitter(alice, "thread-7", run, bridge)
        for method, arguments in CALLS:
            assert await getattr(emitter, method)(*arguments) is True
        assert await emitter.notify_agent_error("data", "no rows", {"at": 3}) is True
        assert emitter.adopt_execution("data", UserContextFactory.create_context(alice)) is True
        base = {"run_id": run, "agent_name": "data"}
        assert bridge.calls == [
            ("started", {**base, "context": {"k": 1}}),
            ("thinking", {**base, "reasoning": "reading", "step_number": 2, "progress_percentage": 40.0}),
            ("tool_executing", {**base, "tool_name": "load", "parameters": {"path": "usage.csv"}}),
            ("tool_completed", {**base, "tool_name": "load", "result": {"rows": 3}, "execution_time_ms": 12.5}),
            ("completed", {**base, "result": {"rows": 3}, "execution_time_ms": 20.0}),
            ("error", {**base, "error": "no rows", "error_context": {"at": 3}}),
        ]
        status = emitter.get_emitter_status()
        assert (status["run_id"], status["event_count"], status["failed_count"]) == (run, 6, 0)
        assert user_streams(alice) == []

    @pytest.mark.parametrize(("method", "arguments"), CALLS)
    async def test_an_event_that_was_not_taken_is_no_success(self, alice, bridge, run, method, arguments):
        emitter = UserWebSocketEmitter(alice, "thread-7", run, bridge)
        bridge.answer = False
        with pytest.raises(ConnectionError):
            await getattr(emitter, method)(*arguments)
        bridge.answer = KeyError("k")
        with pytest.raises(RuntimeError, match="KeyError") as caught:
            await getattr(emitter, method)(*arguments)
        assert caught.value.__cause__ is bridge.answer
        assert emitter.get_emitter_status()["failed_count"] == 2

    async def test_reporting_an_error_never_hides_it(self, alice, bridge, run):
        emitter = UserWebSocketEmitter(alice, "thread-7", run, bridge)
        for answer in (False, KeyError("k"), OSError("no")):
            bridge.answer = answer
            assert await emitter.notify_agent_error("data", "no rows") is False
        assert emitter.get_emitter_status()["event_count"] == 0


class TestOverTheLog:
    async def test_events_are_those_of_the_browsers_client(self, alice, run, read_plain):
        emitter = UserWebSocketEmitter(alice, "thread-7", run, WebSocketBridgeFactory())
        for method, arguments in CALLS:
            assert await getattr(emitter, method)(*arguments) is True
        await emitter.notify_agent_started("report")
        assert await emitter.notify_agent_error("report", "no rows in /home/ann/x", {"token": "hunter2"}) is True
        await emitter.cleanup()
        messages = read_plain(alice, run)
        assert [broken_rules(message) for message in messages] == [[]] * 7
        assert faults(messages) == []
        payloads = [message["payload"] for message in messages]
        assert payloads[0]["context"] == {"k": 1}
        assert (payloads[1]["step_number"], payloads[1]["progress_percentage"]) == (2, 40.0)
        assert payloads[-1]["error_context"] == {"token": "[REDACTED]"}
        assert payloads[-1]["error_message"] == "no rows in ~/x"
        assert user_streams(alice)[0]["outcome"] == "partial"

    async def test_an_event_out_of_order_is_an_error_with_its_cause(self, alice, run):
        emitter = UserWebSocketEmitter(alice, "thread-7", run, WebSocketBridgeFactory())
        with pytest.raises(RuntimeError) as caught:
            await emitter.notify_agent_thinking("data", "before the start")
        assert isinstance(caught.value.__cause__, InvalidEvent)
        assert await emitter.notify_agent_error("data", "before the start") is False

    async def test_a_run_of_another_user(self, alice, bob, run):
        mine = UserWebSocketEmitter(alice, "thread-7", run, WebSocketBridgeFactory())
        theirs = UserWebSocketEmitter(bob, "thread-7", run, WebSocketBridgeFactory())
        await mine.notify_agent_started("data")
        with pytest.raises(ContextIsolationError):
            await theirs.notify_agent_started("data")
        with pytest.raises(ContextIsolationError):
            await theirs.notify_agent_error("data", "no")
        with pytest.raises(ContextIsolationError):
            theirs.adopt_execution("data", UserContextFactory.create_context(alice, "thread-7", run))

    async def test_an_execution_of_an_engine_is_one_span(self, alice, read_plain):
        context = UserContextFactory.create_context(alice)
        emitter = UserWebSocketEmitter(alice, context.thread_id, context.run_id, WebSocketBridgeFactory())
        step = context.create_child_context("data")
        assert emitter.adopt_execution("data", step) is True
        assert emitter.adopt_execution("data", context.create_child_context("data")) is False
        await emitter.notify_agent_started("data")
        await step.get_websocket_emitter().notify_agent_thinking("of the agent itself", {})
        await emitter.notify_agent_completed("data", 1)
        messages = read_plain(alice, context.run_id)
        assert {message["request_id"] for message in messages} == {step.request_id}
        assert len(messages) == 3
        # The engine's stream is the engine's to end, whatever else is published into it.
        await emitter.notify_agent_started("another")
        await emitter.notify_agent_completed("another")
        await emitter.cleanup()
        assert user_streams(alice)[0]["outcome"] is None

    async def test_an_execution_that_another_emitter_began_is_found_by_its_agent(self, alice, run, read_plain):
        engine, agent = (UserWebSocketEmitter(alice, "thread-7", run, WebSocketBridgeFactory()) for _ in range(2))
        await engine.notify_agent_started("data")
        await agent.notify_tool_executing("data", "load", {})
        await agent.notify_tool_completed("data", "load", {})
        await engine.notify_agent_completed("data", 1)
        with pytest.raises(RuntimeError, match="InvalidEvent"):
            await agent.notify_agent_thinking("data", "too late")
        for emitter in (engine, agent):
            await emitter.cleanup()
        messages = read_plain(alice, run)
        assert faults(messages) == []
        assert len({message["request_id"] for message in messages}) == 1

    async def test_two_emitters_of_a_run_do_not_close_each_others_executions(self, alice, run, read_plain):
        one, two = (UserWebSocketEmitter(alice, "thread-7", run, WebSocketBridgeFactory()) for _ in range(2))
        await one.notify_agent_started("data")
        await two.notify_agent_started("data")
        await one.cleanup()
        await two.notify_agent_completed("data", 1)
        await two.cleanup()
        await two.cleanup()
        assert faults(read_plain(alice, run)) == []


class TestRedaction:
    @pytest.mark.parametrize(
        "key",
        [
            "password",
            "api_key",
            "apiKey",
            "API_KEY",
            "access-token",
            "userPassword",
            "Authorization",
            "auth",
            "APIKey",
            "authtoken",
            "dbpassword",
            "accesskey",
            "clientSecrets",
            "password1",
            "key",
            "tokens",
        ],
    )
    def test_keys_that_name_a_secret(self, key):
        assert is_secret(key)

    @pytest.mark.parametrize(
        "key", ["keyword", "author", "monkey", "tokenizer", "keyboard", "authored_by", "secretary", "hockey", "whiskey"]
    )
    def test_keys_that_only_look_like_it(self, key):
        assert not is_secret(key)

    def test_counts_of_tokens_are_shown(self):
        counts = {"input_tokens": 12, "max_tokens": 0.5, "tokens": ["hunter2"], "password": 7, "token_password": 7}
        assert safe_input(counts) == {
            "input_tokens": 12,
            "max_tokens": 0.5,
            "tokens": "[REDACTED]",
            "password": "[REDACTED]",
            "token_password": "[REDACTED]",
        }

    def test_at_any_depth_and_in_lists(self):
        value = {"a": [{"password": "hunter2", "keyword": "rows"}], "b": ({"token": "hunter2"},), "c": "x" * 500}
        assert safe_input(value) == {
            "a": [{"password": "[REDACTED]", "keyword": "rows"}],
            "b": [{"token": "[REDACTED]"}],
            "c": "x" * 200 + "...",
        }
        assert value["a"][0]["password"] == "hunter2"

    def test_models_and_dataclasses_are_looked_into(self):
        import dataclasses  # noqa: PLC0415 - only here

        @dataclasses.dataclass
        class Login:
            user: str
            password: str

        assert safe_input({"login": Login("alice", "hunter2")}) == {
            "login": {"user": "alice", "password": "[REDACTED]"}
        }

    def test_internals_of_an_output(self):
        value = [{"system_prompt": "be nice", "debug_info": {}, "internal_reasoning": "", "rows": "x" * 20_000}]
        assert safe_output(value) == [{"rows": "x" * 10_000 + "..."}]

    def test_paths_in_an_error(self):
        text = safe_error(OSError("no file '/home/alice/usage.csv' nor C:\\Users\\alice\\usage.csv"))
        assert "alice" not in text
        assert len(safe_error("x" * 1000)) == 300


class TestAgents:
    def test_an_agent_of_isolane(self, alice):
        class Data(BaseAgent):
            async def execute_with_context(self, context: Any, request: Any, results: Any) -> Any:
                return request

        registry = AgentRegistry()
        registry.register(Data)
        factory = AgentInstanceFactory(registry)
        context = UserContextFactory.create_context(alice)
        one, two = (factory.create_agent_instance("Data", context) for _ in range(2))
        assert isinstance(one, Data)
        assert one is not two
        with pytest.raises(UnknownAgentError):
            factory.create_agent_instance("other", context)

    def test_an_agent_of_the_hosts_registry(self, alice):
        class Data:
            pass

        agents: dict[str, Any] = {"data": Data, "shared": Data()}
        registry = SimpleNamespace(get_agent_class=agents.get)
        assert isinstance(registry, AgentClassRegistry)
        factory = AgentInstanceFactory(registry)
        context = UserContextFactory.create_context(alice)
        one, two = (factory.create_agent_instance("data", context) for _ in range(2))
        assert isinstance(one, Data)
        assert one is not two
        with pytest.raises(UnknownAgentError):
            factory.create_agent_instance("other", context)
        with pytest.raises(TypeError, match="users would share"):
            factory.create_agent_instance("shared", context)
        with pytest.raises(TypeError, match="Expected UserExecutionContext"):
            factory.create_agent_instance("data", object())
