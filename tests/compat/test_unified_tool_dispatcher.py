"""The host's tool dispatcher: its names, its keys and its answers, with isolane's checks, and without its faults."""

import asyncio
import gc
from typing import Any

import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ContextIsolationError,
    ExecutionEngineFactory,
    PermissionDeniedError,
    PermissionEngine,
    UserContextFactory,
    UserExecutionContext,
)
from isolane.compat import unified_tool_dispatcher as module
from isolane.compat.request_scoped_tool_dispatcher import RequestScopedToolDispatcher
from isolane.compat.tool_events import MAX_WAITING, ManagerEvents
from isolane.compat.unified_tool_dispatcher import (
    AuthenticationError,
    DispatchStrategy,
    SecurityViolationError,
    ToolDispatchRequest,
    ToolExecutionResult,
    UnifiedToolDispatcher,
    UnifiedToolDispatcherFactory,
    create_request_scoped_dispatcher,
)
from isolane.migration.legacy import bind_context

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")

EVERYTHING = PermissionEngine.for_tools({"everyone": ["*"]})
METRICS = {
    *("tools_executed", "successful_executions", "failed_executions", "total_execution_time_ms"),
    *("websocket_events_sent", "permission_checks", "permission_denials", "security_violations"),
    *("last_execution_time", "created_at", "user_id", "dispatcher_id"),
}


async def search(query: str) -> list[str]:
    return [query] * 2


async def breaks() -> None:
    raise KeyError("secret of somebody")


async def whose(context: UserExecutionContext) -> str:
    return context.user_id


async def with_context(context: str) -> str:
    return context


def user_admin(account: str) -> str:
    return f"closed {account}"


TOOLS = (search, breaks, whose, user_admin)


@pytest.fixture(autouse=True)
def everything_is_permitted():
    """And nothing of the process is left to the next test."""
    UnifiedToolDispatcherFactory.configure(EVERYTHING)
    yield
    module._process = None


@pytest.fixture
def dispatcher(context):
    return UnifiedToolDispatcher.create_for_user(context, tools=TOOLS)


class Manager:
    """As the host's: it is sent events, and takes its time."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.gate: asyncio.Event | None = None
        self.breaks = False

    async def send_event(self, event_type: str, data: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.breaks:
            raise ConnectionError("gone")
        self.sent.append((event_type, data))


class TestMaking:
    def test_it_is_not_constructed(self):
        with pytest.raises(RuntimeError, match="Direct instantiation of UnifiedToolDispatcher is forbidden"):
            UnifiedToolDispatcher()

    async def test_it_is_there_at_once_and_awaited(self, context):
        made = UnifiedToolDispatcher.create_for_user(context)
        assert await made is made
        assert (made.user_context, made.strategy, made.websocket_manager) == (context, DispatchStrategy.DEFAULT, None)
        assert made.dispatcher_id != UnifiedToolDispatcher.create_for_user(context).dispatcher_id

    @pytest.mark.parametrize("nobody", [None, type("NoUser", (), {"user_id": None})()])
    def test_without_a_user_there_is_none(self, nobody):
        for make in (UnifiedToolDispatcher.create_for_user, UnifiedToolDispatcherFactory.create_for_request):
            with pytest.raises(AuthenticationError):
                make(nobody)
        with pytest.raises(TypeError, match="Expected UserExecutionContext"):
            UnifiedToolDispatcher.create_for_user(type("Other", (), {"user_id": "ann"})())

    async def test_scopes_clean_up(self, context):
        async with UnifiedToolDispatcher.create_scoped(context, tools=TOOLS) as one:
            assert (await one.execute_tool("search", {"query": "x"})).success
        async with create_request_scoped_dispatcher(context) as two:
            pass
        for made in (one, two):
            with pytest.raises(RuntimeError, match="cleaned up"):
                await made.execute_tool("search", {"query": "x"})
            with pytest.raises(RuntimeError, match="cleaned up"):
                made.register_tool(search)

    async def test_the_eleventh_of_a_user_ends_the_oldest_and_nobody_elses(self, context, new_context):
        other = UnifiedToolDispatcher.create_for_user(new_context(), tools=TOOLS)
        made = [UnifiedToolDispatcher.create_for_user(context, tools=TOOLS) for _ in range(11)]
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await made[0].execute_tool("search", {"query": "x"})
        for one in (other, *made[1:]):
            assert (await one.execute_tool("search", {"query": "x"})).success
        factory = module._configured()
        assert await factory.cleanup_all_dispatchers() == 11
        assert factory._open == {}

    async def test_what_nobody_holds_is_not_counted(self, context):
        factory = module._configured()
        for _ in range(30):
            UnifiedToolDispatcher.create_for_user(context)
        gc.collect()
        await asyncio.sleep(0)
        assert sum(map(len, factory._open.values())) <= 10
        del _
        gc.collect()
        assert await factory.cleanup_all_dispatchers() == 0 or not factory._open

    async def test_the_end_of_a_context_closes_the_dispatcher_that_it_made(self, new_context):
        context = new_context()
        context.bind_tool_dispatcher_factory(UnifiedToolDispatcherFactory(EVERYTHING))
        made = context.get_tool_dispatcher()
        assert isinstance(made, UnifiedToolDispatcher)
        await context.cleanup()
        with pytest.raises(RuntimeError):
            await made.execute_tool("search")


class TestCalling:
    async def test_a_result_has_the_hosts_fields(self, dispatcher, context):
        result = await dispatcher.execute_tool("search", {"query": "x"})
        assert isinstance(result, ToolExecutionResult)
        assert (result.success, result.result, result.error, result.status) == (True, ["x", "x"], None, "success")
        assert (result.tool_name, result.user_id, result.permission_check) == ("search", context.user_id, True)
        assert result.execution_time_ms >= 0
        assert result.created_at.tzinfo is not None

    async def test_what_fails_is_a_result(self, dispatcher):
        failed = await dispatcher.execute_tool("breaks")
        assert (failed.success, failed.status, failed.permission_check) == (False, "error", True)
        assert failed.error == failed.error_message
        assert "secret" not in failed.error
        missing = await dispatcher.execute_tool("nothing")
        assert missing.error.startswith("Tool nothing not found in registry")
        assert missing.permission_check is None
        assert not (await dispatcher.execute_tool("search", {"wrong": 1})).success

    @pytest.mark.parametrize("ask", [True, False])
    async def test_nothing_may_be_called_that_no_role_allows_and_no_caller_leaves_the_check_out(self, context, ask):
        module._process = None
        made = UnifiedToolDispatcher.create_for_user(context, tools=TOOLS)
        result = await made.execute_tool("search", {"query": "x"}, require_permission_check=ask)
        assert (result.success, result.permission_check) == (False, False)
        assert made.get_metrics()["permission_denials"] == 1
        assert made.get_available_tools() == []

    async def test_a_tool_of_administration_wants_an_administrator_and_its_dispatcher(self, new_user):
        """And nobody becomes one by what an agent writes, or by a user object that says so."""
        roles = PermissionEngine(
            {
                "everyone": {"allow": [{"actions": ["tool.execute"], "resources": ["tool:*"]}]},
                "admin": {"allow": [{"actions": ["tool.*"], "resources": ["tool:*"]}]},
            }
        )
        factory = UnifiedToolDispatcherFactory.configure(roles)
        factory.set_tool_registry([user_admin])
        plain = UserContextFactory.create_context(new_user(), agent_context={"roles": ["admin"]})
        told = type("User", (), {"is_admin": True, "user_id": plain.user_id})()
        assert not (
            await UnifiedToolDispatcher.create_for_user(plain).execute_tool("user_admin", {"account": "7"})
        ).success
        for make in (
            lambda: UnifiedToolDispatcher.create_for_user(plain, enable_admin_tools=True),
            lambda: UnifiedToolDispatcherFactory.create_for_admin(plain, None, told),
        ):
            with pytest.raises(PermissionDeniedError):
                make()
        admin = UserContextFactory.create_context(new_user(), permissions=["admin"])
        assert not (
            await UnifiedToolDispatcher.create_for_user(admin).execute_tool("user_admin", {"account": "7"})
        ).success
        for made in (
            UnifiedToolDispatcher.create_for_user(admin, enable_admin_tools=True),
            UnifiedToolDispatcherFactory.create_for_admin(admin, None, None),
        ):
            assert made.strategy is DispatchStrategy.ADMIN
            assert (await made.execute_tool("user_admin", {"account": "7"})).result == "closed 7"
        with pytest.raises(PermissionDeniedError):
            UnifiedToolDispatcherFactory.create_for_admin(admin, None, told)

    async def test_a_parameter_never_stands_in_for_the_context(self, dispatcher, new_context):
        assert not (await dispatcher.execute_tool("whose", {"context": new_context()})).success
        assert (await dispatcher.execute_tool("whose")).result == dispatcher.user_context.user_id
        dispatcher.register_tool(with_context)
        assert (await dispatcher.execute_tool("with_context", {"context": "text"})).result == "text"

    async def test_the_ways_to_ask(self, dispatcher):
        for asked in (
            dispatcher.dispatch_tool(ToolDispatchRequest("search", {"query": "x"})),
            dispatcher.dispatch_tool("search", {"query": "x"}),
            dispatcher.dispatch_tool("search", {"query": "x"}, None, dispatcher.user_context.run_id),
            dispatcher.dispatch("search", query="x"),
            dispatcher.dispatch("search", {"query": "x"}),
        ):
            response = await asked
            assert (response.success, response.result) == (True, ["x", "x"])
        other = type("State", (), {"user_id": "somebody-else"})()
        for wrong in ({"run_id": "another-run"}, {"state": other}, {"state": {"user_id": "somebody-else"}}):
            response = await dispatcher.dispatch_tool("search", {"query": "x"}, **wrong)
            assert (response.success, response.metadata["code"]) == (False, "tool_not_found")

    async def test_tools_are_listed_and_cannot_be_changed(self, dispatcher):
        assert dispatcher.has_tool("search")
        assert not dispatcher.has_tool("nothing")
        assert set(dispatcher.tools) == set(dispatcher.registry) == {tool.__name__ for tool in TOOLS}
        with pytest.raises(TypeError):
            dispatcher.tools["search"] = None
        assert "search" in dispatcher.get_available_tools()

    async def test_figures_have_the_hosts_keys(self, dispatcher):
        await dispatcher.execute_tool("search", {"query": "x"})
        await dispatcher.execute_tool("breaks")
        metrics = dispatcher.get_metrics()
        assert set(metrics) == METRICS
        assert (metrics["tools_executed"], metrics["successful_executions"], metrics["failed_executions"]) == (2, 1, 1)
        assert (metrics["permission_checks"], metrics["security_violations"]) == (2, 0)

    async def test_another_users_resource_is_a_security_violation_that_is_counted(self, context):
        made = UnifiedToolDispatcher.create_for_user(context)

        async def read(user_id: str) -> str:
            return user_id

        made.register_tool(read)
        result = await made.execute_tool("read", {"user_id": "somebody-else"})
        assert (result.success, result.permission_check) == (False, False)
        assert made.get_metrics()["security_violations"] == 1


class TestEvents:
    async def test_without_a_manager_they_are_in_the_log(self, dispatcher, context, read_plain):
        await dispatcher.execute_tool("search", {"query": "x"})
        events = [m for m in read_plain(context.user_id, context.run_id) if m["type"].startswith("tool_")]
        assert [event["type"] for event in events] == ["tool_executing", "tool_completed"]
        assert events[1]["payload"]["status"] == "completed"

    async def test_a_manager_gets_them_in_the_hosts_shape_and_success_is_shown_as_success(self, context):
        manager = Manager()
        made = UnifiedToolDispatcher.create_for_user(context, manager, TOOLS)
        await made.execute_tool("search", {"query": "x" * 600})
        await made.execute_tool("breaks")
        (began, told), (ended, completed), _, (_, failed) = manager.sent
        assert (began, ended) == ("tool_executing", "tool_completed")
        ids = {"run_id": context.run_id, "user_id": context.user_id, "thread_id": context.thread_id}
        for data in (told, completed, failed):
            assert {key: data[key] for key in ids} == ids
        assert set(told) == {"tool_name", "parameters", "timestamp", *ids}
        assert completed["status"] == "success"
        assert "error" not in completed
        assert len(completed["result"]) == 500
        assert completed["execution_time_ms"] >= 0
        assert (failed["status"], failed["error"]) == ("error", "KeyError")
        assert made.get_metrics()["websocket_events_sent"] == 4
        assert made.websocket_manager is manager

    async def test_secrets_are_not_told_and_payloads_cannot_take_the_ids(self, context):
        manager = Manager()

        async def login(password: str, rows: list[dict[str, str]]) -> str:
            return "in"

        made = UnifiedToolDispatcher.create_for_user(context, manager, [login])
        await made.execute_tool("login", {"password": "hunter2", "rows": [{"api_key": "k"}]})
        assert "hunter2" not in str(manager.sent)
        assert manager.sent[0][1]["parameters"]["rows"] == [{"api_key": "[REDACTED]"}]

    async def test_a_manager_of_another_user_is_refused(self, context):
        manager = Manager()
        manager.user_id = "somebody-else"
        with pytest.raises(SecurityViolationError) as caught:
            UnifiedToolDispatcher.create_for_user(context, manager)
        assert isinstance(caught.value, ContextIsolationError)

    async def test_a_manager_that_fails_is_no_failure_of_the_tool(self, context, caplog):
        manager = Manager()
        manager.breaks = True
        made = UnifiedToolDispatcher.create_for_user(context, manager, TOOLS)
        assert (await made.execute_tool("search", {"query": "x"})).success
        assert made.get_metrics()["websocket_events_sent"] == 0
        assert "not delivered" in caplog.text

    async def test_calls_at_once_are_told_in_order_and_cancelled_ones_end(self, context):
        manager = Manager()
        made = UnifiedToolDispatcher.create_for_user(context, manager)
        begun = asyncio.Event()

        async def waits() -> None:
            begun.set()
            await asyncio.sleep(60)

        made.register_tool(waits)
        task = asyncio.create_task(made.execute_tool("waits"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await made.cleanup()
        assert [kind for kind, _ in manager.sent] == ["tool_executing", "tool_completed"]
        assert manager.sent[1][1]["status"] == "error"

    async def test_a_slow_manager_is_told_a_bounded_number(self, context, caplog):
        manager = Manager()
        manager.gate = asyncio.Event()
        events = ManagerEvents(manager, context)
        for _ in range(MAX_WAITING + 5):
            events.notify_tool_executing(tool_name="t", params=object())
        assert events.dropped == 5
        manager.gate.set()
        await events.close()
        assert events.sent == MAX_WAITING
        assert manager.sent[0][1]["parameters"] is None


class TestRequestScoped:
    async def test_it_is_constructed_and_answers(self, context):
        made = RequestScopedToolDispatcher(context, TOOLS)
        assert (await made.dispatch("search", query="x")).result == ["x", "x"]
        assert (await made.dispatch_tool("search", {"query": "x"}, None, context.run_id)).success
        wrong = await made.dispatch_tool("search", {"query": "x"}, None, "another-run")
        assert "not found" in wrong.error
        assert (await made.execute_tool("search", {"query": "x"})).success
        assert made.has_tool("search")
        with pytest.raises(AttributeError):
            made._nothing  # noqa: B018 - it is what is tested
        await made.cleanup()
        with pytest.raises(RuntimeError):
            await made.dispatch("search", query="x")

    def test_without_a_user_there_is_none(self):
        with pytest.raises(AuthenticationError):
            RequestScopedToolDispatcher(None)


class TestTheGlobalOne:
    async def test_it_is_that_of_the_user_for_whom_an_agent_runs(self, new_context):
        with pytest.warns(DeprecationWarning, match="ISO-D009"):
            shared = UnifiedToolDispatcherFactory.create_legacy_global(TOOLS)

        class Uses(BaseAgent):
            async def execute_with_context(self, context, request):
                await asyncio.sleep(0)
                first = await shared.execute_tool("whose")
                return first.result, (await shared.execute_tool("whose")).result

        registry = AgentRegistry()
        registry.register(Uses)
        engines = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry))

        async def run() -> tuple[UserExecutionContext, Any]:
            context = new_context()
            async with engines.user_execution_scope(context) as engine:
                return context, (await engine.execute_agent("Uses")).result

        for context, result in await asyncio.gather(*(run() for _ in range(3))):
            assert result == (context.user_id, context.user_id)
        assert shared._made == {}
        with pytest.raises(AuthenticationError, match="there is none here"):
            await shared.execute_tool("whose")
        with bind_context(context := new_context()):
            assert (await shared.execute_tool("whose")).result == context.user_id
        await context.cleanup()
        assert shared._made == {}
