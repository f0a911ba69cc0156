"""Tool calls: checked, shown in pairs on every way out, within their time, and of one user alone."""

import asyncio
import contextvars
import functools
import gc
import json
import threading
import time
import weakref
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ContaminationDetector,
    ContextIsolationError,
    DispatchStrategy,
    ExecutionEngineFactory,
    Grants,
    PermissionBoundarySystem,
    PermissionDeniedError,
    PermissionEngine,
    ResponseWithheldError,
    RunClosed,
    Tool,
    ToolDispatcherClosedError,
    ToolDispatchRequest,
    ToolExecutionError,
    ToolLimitError,
    ToolNotFoundError,
    ToolParameterError,
    ToolRegistrationError,
    ToolRegistry,
    ToolSanitizeError,
    ToolThreads,
    ToolTimeoutError,
    UnifiedToolDispatcher,
    UnifiedToolDispatcherFactory,
    UserExecutionContext,
    UserToolDispatcher,
    resource_name,
)
from isolane.tools.dispatcher import OWN_SPAN
from isolane.tools.registry import MAX_TOOLS
from pydantic import AfterValidator, BaseModel, Field, field_validator

ALL = PermissionEngine.for_tools({"everyone": ["*"]})


@pytest.fixture
def factory() -> UnifiedToolDispatcherFactory:
    return UnifiedToolDispatcherFactory(permissions=ALL, threads=ToolThreads(4))


@pytest.fixture
def events(read_plain):
    """Return a reader of the tool events of a context: type, tool, and how it ended."""

    def read(context: UserExecutionContext, *, whole: bool = False) -> list[Any]:
        messages = read_plain(context.user_id, context.run_id)
        tools = [message for message in messages if message["type"].startswith("tool_")]
        if whole:
            return tools
        return [(message["type"], message["payload"]["tool_name"], message["payload"]["status"]) for message in tools]

    return read


def pair(tool: str, status: str = "completed") -> list[tuple[str, str, str]]:
    return [("tool_executing", tool, "executing"), ("tool_completed", tool, status)]


async def search(query: str, limit: int = 2) -> list[str]:
    """Find texts."""
    return [query] * limit


# -- making ------------------------------------------------------------------------------------------------------------


def test_a_dispatcher_is_made_by_its_factory_alone(context) -> None:
    with pytest.raises(TypeError, match=r"UnifiedToolDispatcherFactory\(\.\.\.\)\.create_dispatcher"):
        UnifiedToolDispatcher(context)
    assert UserToolDispatcher is UnifiedToolDispatcher
    with pytest.raises(TypeError, match="Expected UserExecutionContext"):
        UnifiedToolDispatcherFactory().create_dispatcher("alice")  # type: ignore[arg-type]


async def test_it_is_there_with_and_without_await(factory, context) -> None:
    dispatcher = await factory.create_dispatcher(context)
    assert await dispatcher is dispatcher
    assert dispatcher.user_context is context
    assert dispatcher.strategy is DispatchStrategy.DEFAULT
    assert (await factory.create_for_request(context, [search])).has_tool("search")


async def test_dispatchers_that_are_made_at_once_have_names_and_ends_of_their_own(factory, context) -> None:
    """Names that ended in milliseconds were the same, so four of five were never cleaned up."""
    made = [factory.create_dispatcher(context) for _ in range(500)]
    assert len({dispatcher.dispatcher_id for dispatcher in made}) == 500
    assert await factory.cleanup_all_dispatchers() == 500
    assert all(dispatcher.is_closed for dispatcher in made)
    assert await factory.cleanup_all_dispatchers() == 0 == factory.get_metrics()["dispatchers_active"]


async def test_two_users_of_one_factory_share_nothing(factory, new_context, alice, bob, events) -> None:
    """A factory that kept the first user's socket manager made emitters bound to it for everybody."""
    factory.set_tool_registry([search])
    mine, theirs = new_context(alice), new_context(bob)
    first = factory.create_dispatcher(mine)
    first.register_tool(lambda: "alice's", name="private")
    second = factory.create_dispatcher(theirs)
    assert not second.has_tool("private")
    await asyncio.gather(first.execute_tool("private"), second.execute_tool("search", {"query": "x"}))
    assert (events(mine), events(theirs)) == (pair("private"), pair("search"))
    with pytest.raises(ContextIsolationError):
        factory.create_dispatcher(theirs, websocket_emitter=mine.get_websocket_emitter())
    factory.set_tool_registry([])
    assert first.has_tool("search")
    assert not factory.create_dispatcher(mine).has_tool("search")


async def test_a_planted_context_gets_no_dispatcher(factory, new_context, alice, bob) -> None:
    context = new_context(alice)
    context.agent_context["other"] = new_context(bob)
    with pytest.raises(ContextIsolationError):
        factory.create_dispatcher(context)


@pytest.mark.parametrize(
    "said", [{"admin": True}, {"resources": ["query"]}, {"timeout": 1.0}, {"description": "x"}, {"name": "find"}]
)
def test_a_tool_that_was_made_is_not_described_anew_in_vain(said) -> None:
    made = Tool.of(search)
    assert ToolRegistry().register(made) is made
    with pytest.raises(ToolRegistrationError, match=r"Tool\.of"):
        ToolRegistry().register(made, **said)


def test_names_that_are_taken_stay_with_their_tool(factory, context) -> None:
    factory.set_tool_registry([search])
    dispatcher = factory.create_dispatcher(context)
    with pytest.raises(ToolRegistrationError, match="already"):
        dispatcher.register_tool(lambda: None, name="search")
    registry = ToolRegistry([search])
    with pytest.raises(ToolRegistrationError, match="already"):
        registry.register(search)
    assert "search" in registry
    assert list(registry) == ["search"]
    assert registry["search"].description == "Find texts."
    for number in range(MAX_TOOLS - 1):
        registry.register(lambda: None, name=f"tool-{number}", parameters={})
    with pytest.raises(ToolRegistrationError, match="1000 tools"):
        registry.register(lambda: None, name="one-more", parameters={})


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:b", "../x", "x" * 129, "ä", 7])
def test_a_name_that_is_no_name_is_refused(name) -> None:
    with pytest.raises(ToolRegistrationError):
        Tool.of(lambda: None, name=name)
    with pytest.raises(ToolRegistrationError):
        Tool.of(functools.partial(print))
    with pytest.raises(ToolRegistrationError):
        Tool.of(object(), name="x")
    with pytest.raises(ToolRegistrationError, match="class"):
        Tool.of(date)


# -- calling -----------------------------------------------------------------------------------------------------------


async def test_a_call_is_shown_executed_and_counted(factory, context, events) -> None:
    dispatcher = factory.create_dispatcher(context, tools=[search])
    assert await dispatcher.execute_tool("search", {"query": "x"}) == ["x", "x"]
    response = await dispatcher.dispatch_tool(ToolDispatchRequest("search", {"query": "y", "limit": 1}))
    assert response.success
    assert response.result == ["y"]
    assert response.error is None
    assert response.metadata["code"] == "ok"
    assert response.metadata["execution_time_ms"] >= 0
    assert (await dispatcher.dispatch_tool("search", {"query": "z", "limit": 1})).result == ["z"]
    assert events(context) == pair("search") * 3
    executing, completed = events(context, whole=True)[:2]
    assert executing["payload"]["parameters"] == {"query": "x"}
    assert completed["payload"]["result"] == ["x", "x"]
    metrics = dispatcher.get_metrics()
    assert (metrics["tools_executed"], metrics["successful_executions"], metrics["websocket_events_sent"]) == (3, 3, 6)
    figures = factory.get_metrics()
    assert figures["tools"]["search"]["ok"] == 3
    assert figures["running"] == 0


async def test_success_is_shown_as_success_and_failure_as_failure(factory, context, events) -> None:
    """The time that a call took went into the parameter of its error, so every good call was shown as an error."""

    def broken() -> None:
        raise ValueError("a secret of the tool's own")

    dispatcher = factory.create_dispatcher(context, tools=[search, broken])
    await dispatcher.execute_tool("search", {"query": "x"})
    with pytest.raises(ToolExecutionError) as failed:
        await dispatcher.execute_tool("broken")
    assert failed.value.error_type == "ValueError"
    assert isinstance(failed.value.__cause__, ValueError)
    good, bad = (message["payload"] for message in events(context, whole=True) if message["type"] == "tool_completed")
    assert good["status"] == "completed"
    assert "error" not in good
    assert good["execution_time_ms"] >= 0
    assert bad["status"] == "error"
    assert bad["error"] == "ValueError"
    assert "result" not in bad
    response = await dispatcher.dispatch_tool("broken")
    assert not response.success
    assert response.error == "tool broken failed: ValueError"
    assert response.metadata["code"] == "tool_failed"
    assert isinstance(response.exception, ToolExecutionError)
    assert "secret" not in json.dumps(events(context, whole=True)) + repr(response) + str(failed.value)
    assert factory.get_metrics()["tools"]["broken"]["failed"] == 2


async def test_what_cannot_be_sent_is_left_out_and_the_call_goes_on(factory, context, events) -> None:
    thing = object()

    async def keep(value: Any) -> Any:
        return value

    dispatcher = factory.create_dispatcher(context, tools=[keep])
    assert await dispatcher.execute_tool("keep", {"value": thing}) is thing
    huge = "x" * 70_000
    assert await dispatcher.execute_tool("keep", {"value": huge}) == huge
    assert events(context) == pair("keep") * 2
    for message in events(context, whole=True):
        omitted = message["payload"].get("parameters_omitted") or message["payload"].get("result_omitted")
        assert omitted in {"InvalidEvent", "EventTooLarge"}


async def test_calls_without_an_agent_are_shown_in_an_execution_of_their_own(factory, context, read_plain) -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    dispatcher = factory.create_dispatcher(context, tools=[search, wait])
    long = asyncio.create_task(dispatcher.execute_tool("wait"))
    await asyncio.sleep(0)
    await dispatcher.execute_tool("search", {"query": "x"})
    gate.set()
    await long
    messages = read_plain(context.user_id, context.run_id)
    assert [message["type"] for message in messages] == [
        *("agent_started", "tool_executing", "tool_executing", "tool_completed", "tool_completed", "agent_completed"),
    ]
    assert {message["agent_name"] for message in messages} == {OWN_SPAN}
    assert context.get_websocket_emitter().failed_events == [], "nothing was tried that has no place"


async def test_a_call_of_an_agent_is_shown_in_the_agents_execution(new_context, alice, read_plain) -> None:
    class Looks(BaseAgent):
        async def execute_with_context(self, context: UserExecutionContext, request: Any, results: Any) -> Any:
            tools = context.get_tool_dispatcher()
            assert tools is context.get_tool_dispatcher()
            assert tools.user_context is context
            return await tools.execute_tool("search", {"query": request})

    registry = AgentRegistry()
    registry.register(Looks)
    tools = UnifiedToolDispatcherFactory([search], permissions=ALL)
    engines = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry), tool_dispatcher_factory=tools)
    context = new_context(alice)
    async with engines.user_execution_scope(context) as engine:
        result = await engine.execute_agent("Looks", "x")
    assert result.success
    assert result.result == ["x", "x"]
    messages = read_plain(alice, context.run_id)
    assert [(message["type"], message["agent_name"]) for message in messages] == [
        (kind, "Looks") for kind in ("agent_started", "tool_executing", "tool_completed", "agent_completed")
    ]
    await context.cleanup()
    await engines.shutdown(0)
    assert tools.get_metrics()["dispatchers_active"] == 0, "it ends with its context"


async def test_a_context_without_tools_says_what_to_do(context) -> None:
    with pytest.raises(RuntimeError, match=r"tools=.*tool_dispatcher_factory="):
        context.get_tool_dispatcher()


async def test_nothing_is_called_after_the_end(factory, new_context, alice) -> None:
    context = new_context(alice)
    context.bind_tool_dispatcher_factory(factory)
    dispatcher = context.get_tool_dispatcher()
    dispatcher.register_tool(search)
    other = factory.create_dispatcher(context, tools=[search])
    await context.cleanup()
    assert dispatcher.is_closed
    with pytest.raises(ToolDispatcherClosedError):
        await dispatcher.dispatch_tool("search", {"query": "x"})
    with pytest.raises(ToolDispatcherClosedError):
        dispatcher.register_tool(search, name="again")
    with pytest.raises(PermissionDeniedError):
        await other.execute_tool("search", {"query": "x"})
    with pytest.raises(RunClosed):
        context.with_websocket_connection("socket-1").get_tool_dispatcher()


# -- permission --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("roles", "why"), [(["admin"], "admin_dispatcher_required"), ([], "admin_role_required")])
async def test_operators_are_told_what_an_administrator_lacks(new_context, alice, roles, why) -> None:
    factory = UnifiedToolDispatcherFactory([Tool.of(search, admin=True)], permissions=ALL)
    tools = factory.create_dispatcher(new_context(alice, permissions=roles))
    response = await tools.dispatch_tool("search", {"query": "x"})
    assert response.metadata["code"] == "permission_denied"
    assert "admin" not in response.error
    assert [violation.code for violation in response.exception.result.violations] == [why]


async def test_what_nothing_permits_is_refused(context, events) -> None:
    called = []
    factory = UnifiedToolDispatcherFactory()
    tools = factory.create_dispatcher(context)
    tools.register_tool(lambda: called.append(1), name="act")
    with pytest.raises(PermissionDeniedError) as refused:
        await tools.execute_tool("act")
    assert refused.value.code == "permission_denied"
    assert not called
    assert events(context) == []
    assert tools.has_tool("act")
    assert tools.get_available_tools() == []
    assert not tools.validate_permissions("act")
    assert factory.get_metrics()["tools"]["act"]["refused"] == 1


async def test_tools_of_administration_need_a_role_whatever_the_dispatcher_is_called(new_context, alice, bob) -> None:
    """A default dispatcher knew no list of such tools, so it ran them without a check."""
    roles = {
        "everyone": {"allow": [{"actions": ["tool.execute", "tool.admin"], "resources": ["tool:*"]}]},
    }
    called: list[str] = []
    factory = UnifiedToolDispatcherFactory(permissions=PermissionEngine(roles))
    factory.set_tool_registry(
        [
            Tool.of(lambda: called.append("user_admin"), name="user_admin"),
            Tool.of(lambda: called.append("purge"), name="purge", admin=True),
        ]
    )
    user = new_context(alice, agent_context={"roles": ["admin"], "is_admin": True})
    for strategy in ("default", "isolated", "legacy"):
        dispatcher = factory.create_dispatcher(user, strategy=strategy)
        for tool in ("user_admin", "purge"):
            assert (await dispatcher.dispatch_tool(tool)).metadata["code"] == "permission_denied"
        assert dispatcher.get_available_tools() == []
    with pytest.raises(PermissionDeniedError):
        factory.create_for_admin(user)
    with pytest.raises(PermissionDeniedError):
        factory.create_dispatcher(user, strategy="admin")
    assert called == []
    admin = new_context(bob, permissions=["admin"])
    assert not (await factory.create_dispatcher(admin).dispatch_tool("purge")).success, "not by a default dispatcher"
    dispatcher = factory.create_for_admin(admin)
    assert dispatcher.get_available_tools() == ["purge", "user_admin"]
    await dispatcher.execute_tool("user_admin")
    assert called == ["user_admin"]
    strict = UnifiedToolDispatcherFactory([Tool.of(lambda: 0, name="purge", admin=True)], permissions=ALL)
    assert not (await strict.create_for_admin(admin).dispatch_tool("purge")).success, "the roles must allow tool.admin"

    class Record:
        user_id = alice
        is_admin = True

    with pytest.raises(PermissionDeniedError):
        factory.create_for_admin(admin, None, Record())
    with pytest.raises(PermissionDeniedError):
        factory.create_for_admin(user, None, Record())


async def test_a_parameter_never_stands_in_for_the_users_context(factory, new_context, alice, bob) -> None:
    """A parameter of this name replaced the context that the tool was given."""
    got: list[Any] = []
    foreign = new_context(bob)

    async def annotated(query: str, who: UserExecutionContext) -> None:
        got.append(who)

    async def named(query: str, context) -> None:
        got.append(context)

    async def takes_all(context: UserExecutionContext, **more: Any) -> None:
        got.append(context)

    async def plain(query: str, context: str) -> None:
        got.append(context)

    context = new_context(alice)
    dispatcher = factory.create_dispatcher(context, tools=[annotated, named, takes_all, plain])
    dispatcher.register_tool(named, name="by_schema", parameters={"type": "object"})
    for tool, key in [("annotated", "who"), ("named", "context"), ("takes_all", "context"), ("by_schema", "context")]:
        with pytest.raises(ToolParameterError):
            await dispatcher.execute_tool(tool, {"query": "x", key: foreign})
        await dispatcher.execute_tool(tool, {"query": "x"})
        assert got.pop() is context
        assert got == []
    await dispatcher.execute_tool("plain", {"query": "x", "context": "only a text"})
    assert got == ["only a text"]

    class Confused(BaseModel):
        context: str

    with pytest.raises(ToolRegistrationError, match="context"):
        dispatcher.register_tool(named, name="confused", parameters=Confused)


async def test_parameters_that_name_what_is_anothers_are_refused(new_context, alice, bob) -> None:
    grants = Grants()
    factory = UnifiedToolDispatcherFactory(permissions=PermissionEngine.for_tools({"everyone": ["*"]}, grants=grants))
    read: list[Any] = []

    def read_one(document: Any) -> None:
        read.append(document)

    def read_all(documents: Any) -> None:
        read.append(documents)

    def profile(user_id: Any) -> None:
        read.append(user_id)

    def fetch(key: Any) -> None:
        read.append(key)

    dispatcher = factory.create_dispatcher(new_context(alice), tools=[profile])
    dispatcher.register_tool(read_one, name="read", resources="document")
    dispatcher.register_tool(read_all, resources=["documents"])
    dispatcher.register_tool(fetch, resources=lambda given: [resource_name("row", *given["key"])])
    own, foreign = resource_name("document", alice, "7"), resource_name("document", bob, "7")
    assert (await dispatcher.dispatch_tool("read", {"document": own})).success
    assert (await dispatcher.dispatch_tool("profile", {"user_id": alice})).success
    assert (await dispatcher.dispatch_tool("fetch", {"key": [alice, "1"]})).success
    for tool, parameters in [
        ("read", {"document": foreign}),
        ("read", {"document": "7"}),
        ("read_all", {"documents": [own, foreign]}),
        ("profile", {"user_id": bob}),
        ("profile", {"user_id": 7}),
        ("fetch", {"key": [bob, "1"]}),
    ]:
        response = await dispatcher.dispatch_tool(tool, parameters)
        assert response.metadata["code"] == "not_found", tool
        assert bob not in str(response.error)
    assert read == [own, alice, [alice, "1"]]
    assert dispatcher.get_metrics()["security_violations"] == 6
    grants.share(bob, alice, foreign)
    assert (await dispatcher.dispatch_tool("read", {"document": foreign})).success


async def test_permissions_are_of_the_dispatchers_user(factory, new_context, alice, bob) -> None:
    dispatcher = factory.create_dispatcher(new_context(alice), tools=[search])
    assert await dispatcher.validate_permissions("search") is True
    assert await dispatcher.validate_permissions("search", alice) is True
    for answer in (dispatcher.validate_permissions("search", bob), dispatcher.validate_permissions("none")):
        assert not answer
        assert await answer is False


class Waits:
    """A service that answers when it is told to."""

    def __init__(self, answer: Any = True) -> None:
        self.answer, self.gate = answer, asyncio.Event()

    async def authorize(self, context: Any, action: str, resources: Any) -> Any:
        await self.gate.wait()
        return self.answer


async def test_a_service_that_waits_counts_against_the_time_of_the_call(context, events) -> None:
    service = Waits()
    boundary = PermissionBoundarySystem(ALL, services=[service], service_timeout=60)
    dispatcher = UnifiedToolDispatcherFactory([search], permissions=boundary).create_dispatcher(context)
    with pytest.raises(ToolTimeoutError):
        await dispatcher.execute_tool("search", {"query": "x"}, timeout=0.01)
    assert events(context) == []
    service.gate.set()
    assert await dispatcher.execute_tool("search", {"query": "x"}, timeout=10) == ["x", "x"]
    service.answer = False
    with pytest.raises(PermissionDeniedError):
        await dispatcher.execute_tool("search", {"query": "x"})


# -- parameters --------------------------------------------------------------------------------------------------------


class Row(BaseModel):
    name: str
    price: float


async def test_parameters_are_checked_by_the_hints_of_a_function(factory, context) -> None:
    async def book(
        rows: list[Row], day: date, kind: Literal["a", "b"] = "a", count: Annotated[int, Field(ge=1)] = 1, *, copy: bool
    ) -> Any:
        return rows, day, kind, count, copy

    dispatcher = factory.create_dispatcher(context, tools=[book])
    good = {"rows": [{"name": "x", "price": "2.5"}], "day": "2026-01-31", "copy": True}
    assert await dispatcher.execute_tool("book", good) == ([Row(name="x", price=2.5)], date(2026, 1, 31), "a", 1, True)
    bad = {"rows": [{"name": "x", "price": 1}, {"price": "much"}], "day": "no", "kind": "c", "count": 0, "extra": 1}
    with pytest.raises(ToolParameterError) as refused:
        await dispatcher.execute_tool("book", bad)
    paths = {problem.path for problem in refused.value.problems}
    assert paths == {"rows[1].name", "rows[1].price", "day", "kind", "count", "copy", "extra"}
    assert "much" not in str(refused.value), "it does not repeat the values"
    response = await dispatcher.dispatch_tool("book", bad)
    assert response.metadata["code"] == "invalid_parameters"
    assert len(response.metadata["problems"]) == 7
    for wrong in ([1], "x", {1: 2}):
        with pytest.raises(ToolParameterError):
            await dispatcher.execute_tool("book", wrong)  # type: ignore[arg-type]


async def test_parameters_are_checked_by_a_model(factory, context) -> None:
    dispatcher = factory.create_dispatcher(context)
    tool = dispatcher.register_tool(lambda name, price: (name, price), name="row", parameters=Row)
    assert await dispatcher.execute_tool("row", {"name": "x", "price": 1}) == ("x", 1.0)
    assert (tool.schema() or {})["required"] == ["name", "price"]
    with pytest.raises(ToolParameterError, match="price"):
        await dispatcher.execute_tool("row", {"name": "x"})


async def test_parameters_are_checked_by_a_json_schema(factory, context) -> None:
    pytest.importorskip("jsonschema")
    schema = {
        "type": "object",
        "properties": {"rows": {"type": "array", "items": {"type": "object", "required": ["id"]}}, "n": {"maximum": 3}},
        "additionalProperties": False,
    }
    dispatcher = factory.create_dispatcher(context)
    dispatcher.register_tool(lambda **given: given, name="rows", parameters=schema)
    assert await dispatcher.execute_tool("rows", {"rows": [{"id": 1}]}) == {"rows": [{"id": 1}]}
    with pytest.raises(ToolParameterError) as refused:
        await dispatcher.execute_tool("rows", {"rows": [{"id": 1}, {"secret": 7}], "n": 4})
    assert {problem.path for problem in refused.value.problems} == {"rows[1]", "n"}
    assert "secret" not in str(refused.value)
    with pytest.raises(ToolRegistrationError, match="not valid"):
        dispatcher.register_tool(lambda: 0, name="odd", parameters={"type": "thing"})
    dispatcher.register_tool(lambda: 0, name="remote", parameters={"$ref": "http://127.0.0.1:1/schema.json"})
    with pytest.raises(ToolParameterError, match="cannot be applied"):
        await dispatcher.execute_tool("remote", {})


async def test_functions_of_all_shapes_are_called_as_they_are_written(factory, context) -> None:
    def by_place(a: int, b: int = 2, /, *, schema: str = "x", copy: int = 0) -> Any:
        return a, b, schema, copy

    class Callable:
        async def __call__(self, a: int) -> int:
            return a + 1

    dispatcher = factory.create_dispatcher(context, tools=[by_place])
    dispatcher.register_tool(Callable(), name="object")
    dispatcher.register_tool(functools.partial(search, limit=1), name="partial")
    dispatcher.register_tool(lambda: search("x"), name="hands_out_a_coroutine")
    assert await dispatcher.execute_tool("by_place", {"a": 1, "schema": "y", "copy": 3}) == (1, 2, "y", 3)
    assert await dispatcher.execute_tool("by_place", {"a": 1, "b": 7}) == (1, 7, "x", 0)
    assert await dispatcher.execute_tool("object", {"a": 1}) == 2
    assert await dispatcher.execute_tool("partial", {"query": "q"}) == ["q"]
    assert await dispatcher.execute_tool("hands_out_a_coroutine") == ["x", "x"]
    with pytest.raises(ToolRegistrationError, match="names"):
        dispatcher.register_tool(lambda *rest: rest, name="rest")


class Shaped:
    """The shape of a tool of LangChain, without its base class."""

    name = "shaped"
    description = "Doubles."

    class args_schema(BaseModel):  # noqa: N801 - its name there
        a: int

    def __init__(self) -> None:
        self.threads: list[str] = []

    def invoke(self, given: dict[str, Any]) -> int:
        self.threads.append(threading.current_thread().name)
        return given["a"] * 2


async def test_tools_of_langchains_shape_need_no_langchain(factory, context) -> None:
    shaped = Shaped()

    class Async(Shaped):
        name = "async"

        async def _arun(self, a: int) -> int:
            return a * 3

        async def ainvoke(self, given: dict[str, Any]) -> int:
            return await self._arun(**given)

    class Bare:
        name = "bare"

        def _run(self, a: int) -> int:
            return a * 4

    dispatcher = factory.create_dispatcher(context, tools=[shaped, Async(), Bare()])
    assert await dispatcher.execute_tool("shaped", {"a": "2"}) == 4
    assert shaped.threads[0].startswith("isolane-tool")
    assert await dispatcher.execute_tool("async", {"a": 2}) == 6
    assert await dispatcher.execute_tool("bare", {"a": 2}) == 8
    with pytest.raises(ToolParameterError, match="a: "):
        await dispatcher.execute_tool("shaped", {"a": "two"})


async def test_real_tools_of_langchain_run_where_they_belong(factory, context, events) -> None:
    tools = pytest.importorskip("langchain_core.tools")
    threads: list[str] = []

    @tools.tool
    def double(a: int) -> int:
        """Double."""
        threads.append(threading.current_thread().name)
        return a * 2

    @tools.tool
    async def triple(a: int) -> int:
        """Triple."""
        threads.append(threading.current_thread().name)
        return a * 3

    dispatcher = factory.create_dispatcher(context, tools=[double, triple])
    assert await dispatcher.execute_tool("double", {"a": 2}) == 4
    assert await dispatcher.execute_tool("triple", {"a": 2}) == 6
    assert threads[0].startswith("isolane-tool")
    assert threads[1] == threading.current_thread().name
    assert events(context) == pair("double") + pair("triple")
    with pytest.raises(ToolParameterError):
        await dispatcher.execute_tool("double", {"a": "x"})


# -- time and cancellation ---------------------------------------------------------------------------------------------


async def test_a_tool_that_takes_too_long_is_ended_and_shown_as_ended(factory, context, events) -> None:
    cancelled = []

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    dispatcher = factory.create_dispatcher(context)
    dispatcher.register_tool(forever, timeout=0.02)
    with pytest.raises(ToolTimeoutError) as late:
        await dispatcher.execute_tool("forever")
    assert isinstance(late.value, TimeoutError)
    assert late.value.timeout == 0.02
    assert cancelled == [True]
    assert asyncio.current_task().cancelling() == 0, "the caller is not cancelled"
    assert (await dispatcher.dispatch_tool("forever", timeout=0.01)).metadata["code"] == "tool_timeout"
    assert events(context) == pair("forever", "error") * 2
    assert factory.get_metrics()["tools"]["forever"]["timed_out"] == 2


class Late:
    """A service that takes its time, and does not let itself be cancelled."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def authorize(self, context: Any, action: str, resources: Any) -> bool:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return True


async def test_what_a_service_took_is_taken_off_the_time_of_the_call(context, events) -> None:
    for service, seconds, begun in ((Late(3600), 0.02, False), (Late(0.3), 1.0, True)):
        boundary = PermissionBoundarySystem(ALL, services=[service], service_timeout=60)
        dispatcher = UnifiedToolDispatcherFactory(permissions=boundary).create_dispatcher(context)
        dispatcher.register_tool(asyncio.sleep, name="sleep", parameters={})
        with pytest.raises(ToolTimeoutError) as late:
            await dispatcher.execute_tool("sleep", {"delay": 3600}, timeout=seconds)
        assert late.value.timeout < seconds - 0.2 if begun else late.value.timeout == seconds
        assert bool(events(context)) is begun
        assert dispatcher.get_metrics()["running_executions"] == 0


async def test_a_later_call_does_not_put_off_an_earlier_deadline(factory, context) -> None:
    dispatcher = factory.create_dispatcher(context)
    dispatcher.register_tool(asyncio.sleep, name="sleep", parameters={})
    first = asyncio.create_task(dispatcher.execute_tool("sleep", {"delay": 3600}, timeout=0.05))
    await asyncio.sleep(0.04)
    second = asyncio.create_task(dispatcher.execute_tool("sleep", {"delay": 3600}, timeout=0.04))
    done, _ = await asyncio.wait({first, second}, timeout=10)
    assert [type(each.exception()) for each in (first, second) if each in done] == [ToolTimeoutError] * 2


def test_calls_of_another_loop_do_not_put_off_a_deadline(new_context) -> None:
    factory = UnifiedToolDispatcherFactory(permissions=ALL)
    ended, busy = threading.Event(), threading.Event()
    outcome = []

    async def late() -> None:
        dispatcher = factory.create_dispatcher(new_context("ann"))
        dispatcher.register_tool(asyncio.sleep, name="sleep", parameters={})
        call = asyncio.create_task(dispatcher.execute_tool("sleep", {"delay": 5}, timeout=0.1))
        await asyncio.sleep(0)
        busy.set()
        await asyncio.wait({call})
        outcome.append(type(call.exception()))

    async def others() -> None:
        dispatcher = factory.create_dispatcher(new_context("bob"))
        dispatcher.register_tool(asyncio.sleep, name="sleep", parameters={})
        while not ended.is_set():
            await dispatcher.execute_tool("sleep", {"delay": 0.01}, timeout=30)

    def run() -> None:
        try:
            asyncio.run(late())
        finally:
            ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert busy.wait(10)
    asyncio.run(others())
    thread.join()
    assert outcome == [ToolTimeoutError]


async def test_a_longer_timeout_cannot_be_asked_for(factory, context) -> None:
    dispatcher = factory.create_dispatcher(context)
    dispatcher.register_tool(asyncio.sleep, name="sleep", timeout=0.02, parameters={})
    dispatcher.register_tool(lambda: None, name="quick")
    with pytest.raises(ToolTimeoutError):
        await dispatcher.execute_tool("sleep", {"delay": 3600}, timeout=3600)
    with pytest.raises(ValueError, match="timeout"):
        await dispatcher.execute_tool("quick", timeout=0)


async def test_a_tool_that_keeps_its_cancellation_to_itself_is_too_late(factory, context, events) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "here all the same"
        return "never"

    async def raises() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ValueError("other") from None

    dispatcher = factory.create_dispatcher(context, tools=[stubborn, raises])
    for tool in ("stubborn", "raises"):
        with pytest.raises(ToolTimeoutError):
            await dispatcher.execute_tool(tool, timeout=0.01)
    assert asyncio.current_task().cancelling() == 0
    assert events(context) == pair("stubborn", "error") + pair("raises", "error")


async def test_a_cancelled_call_completes_on_the_stream(factory, context, events) -> None:
    dispatcher = factory.create_dispatcher(context)
    dispatcher.register_tool(asyncio.sleep, name="sleep", parameters={})
    task = asyncio.create_task(dispatcher.execute_tool("sleep", {"delay": 3600}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events(context) == pair("sleep", "error")
    assert events(context, whole=True)[1]["payload"]["error"] == "cancelled"
    assert factory.get_metrics()["tools"]["sleep"]["cancelled"] == 1
    assert factory.get_metrics()["running"] == 0


async def test_cancelled_at_any_turn_each_call_that_begins_completes(factory, new_context, events) -> None:
    async def steps() -> None:
        for _ in range(4):
            await asyncio.sleep(0)

    def in_a_thread() -> None:
        time.sleep(0.001)

    for tool in (steps, in_a_thread):
        for turns in range(9):
            context = new_context()
            dispatcher = factory.create_dispatcher(context, tools=[tool])
            task = asyncio.create_task(dispatcher.execute_tool(tool.__name__))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            shown = [kind for kind, _, _ in events(context)]
            assert shown in ([], ["tool_executing", "tool_completed"]), turns
            assert factory.get_metrics()["running"] == 0


async def test_an_outer_deadline_is_told_from_an_inner_one(factory, context) -> None:
    async def inner() -> None:
        await asyncio.sleep(3600)

    dispatcher = factory.create_dispatcher(context, tools=[inner])

    async def outer() -> str:
        with pytest.raises(ToolTimeoutError):
            await dispatcher.execute_tool("inner", timeout=0.01)
        return "went on"

    dispatcher.register_tool(outer)
    assert await dispatcher.execute_tool("outer") == "went on"
    with pytest.raises(TimeoutError) as told:
        async with asyncio.timeout(0.01):
            await dispatcher.execute_tool("inner")
    assert not isinstance(told.value, ToolTimeoutError)

    async def nested() -> None:
        await dispatcher.execute_tool("inner", timeout=60)

    dispatcher.register_tool(nested)
    with pytest.raises(ToolTimeoutError) as told:
        await dispatcher.execute_tool("nested", timeout=0.01)
    assert told.value.tool_name == "nested"


async def test_one_timer_serves_deadlines_in_any_order(factory, context) -> None:
    dispatcher = factory.create_dispatcher(context)
    dispatcher.register_tool(asyncio.sleep, name="sleep", parameters={})
    seconds = [0.06, 0.01, 30.0, 0.03]
    ended: list[float] = []

    async def call(seconds: float) -> None:
        with pytest.raises((ToolTimeoutError, asyncio.CancelledError)):
            await dispatcher.execute_tool("sleep", {"delay": 3600}, timeout=seconds)
        ended.append(seconds)

    tasks = [asyncio.create_task(call(each)) for each in seconds]
    await asyncio.wait([tasks[0], tasks[1], tasks[3]], timeout=10)
    assert ended == [0.01, 0.03, 0.06]
    await dispatcher.cleanup()
    await asyncio.wait(tasks)
    assert ended[-1] == 30.0


async def test_the_clean_up_ends_what_runs(factory, context, events) -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        gate.set()
        await asyncio.sleep(3600)

    dispatcher = factory.create_dispatcher(context, tools=[wait])
    task = asyncio.create_task(dispatcher.execute_tool("wait"))
    await gate.wait()
    await dispatcher.cleanup()
    assert task.cancelled()
    assert events(context) == pair("wait", "error")
    await dispatcher.cleanup()
    async with factory.create_scoped(context, tools=[search]) as scoped:
        assert await scoped.execute_tool("search", {"query": "x"})
    assert scoped.is_closed


# -- threads -----------------------------------------------------------------------------------------------------------


async def test_synchronous_tools_do_not_hold_the_loop(factory, context) -> None:
    dispatcher = factory.create_dispatcher(context)
    release = threading.Event()
    dispatcher.register_tool(lambda: release.wait(30), name="block")
    task = asyncio.create_task(dispatcher.execute_tool("block"))
    turns = 0
    while factory.threads.stats()["running"] == 0 or turns < 5:
        await asyncio.sleep(0)
        turns += 1
    release.set()
    assert await task is True


async def test_context_variables_go_in_and_nothing_comes_out(factory, new_context, alice, bob) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody")

    def read_and_write(name: str) -> str:
        seen = variable.get()
        variable.set(f"left behind by {name}")
        return seen

    async def call(user: str) -> list[str]:
        dispatcher = factory.create_dispatcher(new_context(user), tools=[read_and_write])
        variable.set(user)
        seen = [await dispatcher.execute_tool("read_and_write", {"name": user}) for _ in range(8)]
        return [*seen, variable.get()]

    mine, theirs = await asyncio.gather(asyncio.create_task(call(alice)), asyncio.create_task(call(bob)))
    assert set(mine) == {alice}
    assert set(theirs) == {bob}


async def test_a_user_gets_a_share_of_the_threads_and_abandoned_ones_count(new_context, alice, bob) -> None:
    threads = ToolThreads(2, per_user=1)
    factory = UnifiedToolDispatcherFactory(permissions=ALL, threads=threads)
    release = threading.Event()
    mine, theirs = factory.create_dispatcher(new_context(alice)), factory.create_dispatcher(new_context(bob))
    for dispatcher in (mine, theirs):
        dispatcher.register_tool(lambda: release.wait(30), name="block")
        dispatcher.register_tool(lambda: "done", name="quick")
    with pytest.raises(ToolTimeoutError):
        await mine.execute_tool("block", timeout=0.02)
    with pytest.raises((ToolLimitError, ToolTimeoutError)):
        await mine.execute_tool("quick", timeout=0.02)
    assert await theirs.execute_tool("quick") == "done"
    release.set()
    assert await mine.execute_tool("quick") == "done"
    for wrong in ({"threads": 0}, {"threads": 2, "per_user": 3}):
        with pytest.raises(ValueError, match="must be"):
            ToolThreads(**wrong)


async def test_odd_exceptions_of_threads_end_the_call(factory, context) -> None:
    dispatcher = factory.create_dispatcher(context)

    def raises(name: str) -> None:
        raise {"stop": StopIteration, "cancelled": asyncio.CancelledError, "exit": SystemExit}[name]("odd")

    dispatcher.register_tool(raises)
    with pytest.raises(ToolExecutionError):
        await dispatcher.execute_tool("raises", {"name": "stop"}, timeout=10)
    for name in ("cancelled", "exit"):
        with pytest.raises(ToolExecutionError):
            await dispatcher.execute_tool("raises", {"name": name}, timeout=10)


async def test_a_user_with_too_many_calls_is_refused_and_others_are_not(new_context, alice, bob) -> None:
    factory = UnifiedToolDispatcherFactory(permissions=ALL, calls_per_user=2)
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "done"

    mine = factory.create_dispatcher(new_context(alice), tools=[wait])
    also_mine = factory.create_dispatcher(new_context(alice), tools=[wait])
    theirs = factory.create_dispatcher(new_context(bob), tools=[wait])
    tasks = [asyncio.create_task(each.execute_tool("wait")) for each in (mine, also_mine, theirs)]
    await asyncio.sleep(0)
    with pytest.raises(ToolLimitError) as refused:
        await also_mine.execute_tool("wait")
    assert refused.value.status_code == 429
    assert refused.value.retry_after >= 1
    gate.set()
    assert await asyncio.gather(*tasks) == ["done"] * 3
    assert await mine.execute_tool("wait") == "done"


# -- sanitizing and isolation ------------------------------------------------------------------------------------------


class Masks:
    """A sanitizer of the smallest kind."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def sanitize(self, value: Any, *, boundary: str, context: Any) -> "Masks":
        text = json.dumps(value)
        if "forbidden" in text:
            raise ValueError(text)
        return Masks(json.loads(text.replace("secret", f"[{boundary}]")))


async def test_what_goes_in_and_out_is_sanitized_before_it_is_shown(context, events) -> None:
    factory = UnifiedToolDispatcherFactory(permissions=ALL, sanitizer=Masks(None), threads=ToolThreads(1))
    dispatcher = factory.create_dispatcher(context)
    dispatcher.register_tool(lambda text: f"{text} and a secret", name="echo")
    assert await dispatcher.execute_tool("echo", {"text": "my secret"}) == "my [tool_params] and a [llm]"
    assert "secret" not in json.dumps(events(context, whole=True))
    with pytest.raises(ToolSanitizeError) as refused:
        await dispatcher.execute_tool("echo", {"text": "forbidden"})
    assert "forbidden" not in str(refused.value)
    dispatcher.register_tool(lambda: "forbidden", name="leak")
    with pytest.raises(ToolSanitizeError):
        await dispatcher.execute_tool("leak")
    assert events(context)[2:] == pair("leak", "error")
    assert "forbidden" not in json.dumps(events(context, whole=True))


async def test_an_isolated_dispatcher_shares_no_object_with_its_tools(factory, context) -> None:
    kept: list[Any] = []

    async def keep(rows: Any) -> Any:
        kept.append(rows)
        return rows

    rows = [[1]]
    isolated = factory.create_dispatcher(context, tools=[keep], strategy=DispatchStrategy.ISOLATED)
    result = await isolated.execute_tool("keep", {"rows": rows})
    assert result == rows == kept[0]
    assert result is not kept[0]
    assert kept[0] is not rows
    plain = factory.create_dispatcher(context, tools=[keep])
    assert await plain.execute_tool("keep", {"rows": rows}) is rows


async def test_a_tool_that_there_is_not_is_not_found(factory, context, events) -> None:
    dispatcher = factory.create_dispatcher(context)
    with pytest.raises(ToolNotFoundError, match="not found in registry") as told:
        await dispatcher.execute_tool("x" * 500)
    assert isinstance(told.value, LookupError)
    assert len(str(told.value)) < 300
    assert events(context) == []
    assert factory.get_metrics()["tools"]["_unknown"]["refused"] == 1


async def test_what_is_dropped_is_freed(factory, new_context) -> None:
    context = new_context()
    context.bind_tool_dispatcher_factory(factory)
    dispatcher = context.get_tool_dispatcher()
    dispatcher.register_tool(search)
    await dispatcher.execute_tool("search", {"query": "x"})
    held = weakref.ref(dispatcher), weakref.ref(context)
    await context.cleanup()
    del dispatcher, context
    gc.collect()
    assert [reference() for reference in held] == [None, None]


class Renamed(BaseModel):
    whose: str = Field(alias="user_id")


async def test_a_user_is_named_whatever_the_tool_calls_it(factory, new_context, alice, bob) -> None:
    dispatcher = factory.create_dispatcher(new_context(alice))

    async def of_model(**given: Any) -> dict[str, Any]:
        return given

    async def of_hints(whose: Annotated[str, Field(alias="user_id")]) -> str:
        return whose

    dispatcher.register_tool(of_model, parameters=Renamed)
    dispatcher.register_tool(of_hints)
    for tool in ("of_model", "of_hints"):
        assert (await dispatcher.dispatch_tool(tool, {"user_id": bob})).metadata["code"] == "not_found"
        assert (await dispatcher.dispatch_tool(tool, {"user_id": alice})).success


def test_a_resource_that_is_no_parameter_is_not_passed_over() -> None:
    async def read(document: str) -> str:
        return document

    async def read_all(**given: Any) -> None:
        """Takes what it is given."""

    for parameters in (None, {"type": "object", "properties": {"document": {"type": "string"}}}):
        with pytest.raises(ToolRegistrationError, match=r"no parameter 'documnt'.*document"):
            Tool.of(read, resources=["documnt"], parameters=parameters)
        assert Tool.of(read, resources="document", parameters=parameters).resources == ("document",)
    with pytest.raises(ToolRegistrationError, match="user_id"):
        Tool.of(read_all, resources=["user_id"], parameters=Renamed)
    assert Tool.of(read_all, resources=["anything"]).resources == ("anything",)


PATTERN = {"type": "string", "pattern": "^(a+)+$"}
TOO_LONG_FOR_GOING_BACK = "a" * 5_000 + "!"


@pytest.mark.parametrize(
    ("rules", "good", "bad"),
    [
        ({"properties": {"v": PATTERN}}, {"v": "aaa"}, {"v": TOO_LONG_FOR_GOING_BACK}),
        ({"propertyNames": PATTERN}, {"aa": 1}, {TOO_LONG_FOR_GOING_BACK: 1}),
        (
            {"patternProperties": {"^(a+)+$": {"type": "integer"}}, "additionalProperties": False},
            {"aa": 1},
            {TOO_LONG_FOR_GOING_BACK: 1},
        ),
        ({"patternProperties": {"^a": {"type": "integer"}}}, {"a": 1, "b": "x"}, {"a": "x"}),
        ({"properties": {"v": {}}, "additionalProperties": {"type": "integer"}}, {"v": "x", "w": 1}, {"w": "x"}),
        (
            {"properties": {"v": {"uniqueItems": True}}},
            {"v": [1, True, "1", [1], [True], {"a": 1}, {"a": True}, None]},
            {"v": [*({"number": number} for number in range(20_000)), {"number": 0.0}]},
        ),
    ],
)
async def test_no_value_takes_for_ever_to_be_checked(factory, context, rules, good, bad) -> None:
    dispatcher = factory.create_dispatcher(context)

    async def echo(**given: Any) -> dict[str, Any]:
        return given

    dispatcher.register_tool(echo, parameters={"type": "object", **rules})
    assert await dispatcher.execute_tool("echo", good) == good
    with pytest.raises(ToolParameterError):
        await dispatcher.execute_tool("echo", bad)


@pytest.mark.parametrize(
    "rules",
    [
        {"properties": {"v": {"prefixItems": [{"pattern": "(?=a)b"}]}}},
        {"patternProperties": {r"(a)\1": {}}},
        {"patternProperties": {"a": {}}, "unevaluatedProperties": False},
    ],
)
def test_a_schema_that_cannot_be_checked_in_time_is_not_taken(rules) -> None:
    with pytest.raises(ToolRegistrationError, match=r"linear time|for ever"):
        Tool.of(search, parameters={"type": "object", **rules})


async def test_a_check_of_parameters_that_breaks_off_is_a_refusal(factory, context) -> None:
    class Odd(BaseModel):
        value: int

        @field_validator("value")
        @classmethod
        def check(cls, value: int) -> int:
            raise KeyError(f"a secret {value}")

    async def odd(value: Annotated[int, AfterValidator(Odd.check)]) -> int:
        return value

    dispatcher = factory.create_dispatcher(context)
    dispatcher.register_tool(odd)
    dispatcher.register_tool(odd, name="model", parameters=Odd)
    for tool in ("odd", "model"):
        answer = await dispatcher.dispatch_tool(tool, {"value": 1})
        assert answer.metadata["code"] == "invalid_parameters"
        assert "secret" not in answer.error


async def test_a_tool_that_awaits_what_was_cancelled_has_failed_and_cancels_nobody(factory, context, events) -> None:
    dispatcher = factory.create_dispatcher(context)

    async def leans_on_another() -> None:
        other = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
        other.cancel()
        await other

    dispatcher.register_tool(leans_on_another)
    with pytest.raises(ToolExecutionError, match="CancelledError"):
        await dispatcher.execute_tool("leans_on_another")
    assert asyncio.current_task().cancelling() == 0
    assert len(events(context)) == 2


def test_a_generator_is_no_tool() -> None:
    def some():
        yield 1

    async def more():
        yield 1

    for tool in (some, more):
        with pytest.raises(ToolRegistrationError, match="yields"):
            Tool.of(tool)


@pytest.fixture
def detector():
    """Return a maker of detectors that the process's boundaries ask, until the test ends."""
    made = []

    def make(modes: Any = "enforce") -> ContaminationDetector:
        made.append(ContaminationDetector(modes))
        made[-1].install()
        return made[-1]

    yield make
    for each in made:
        each.uninstall()


class Rows:
    """Tools that give and raise what they were told to, on the loop and off it."""

    def __init__(self, given: Any) -> None:
        self.given = given
        self.called = 0

    async def rows(self, what: Any = None) -> Any:
        self.called += 1
        return {"rows": [self.given]}

    def rows_of_thread(self) -> Any:
        self.called += 1
        return {"rows": [self.given]}

    def broken(self) -> Any:
        raise LookupError(f"no such row: {self.given}")

    async def slow(self) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            raise LookupError(self.given)


async def test_what_a_tool_gives_of_another_user_gets_nowhere(detector, factory, new_context, alice, bob, read_plain):
    found = detector({"tool_in": "enforce", "tool_out": "enforce", "ws_out": "observe"})
    foreign = found.mint(bob)
    ctx = new_context(alice)
    tools = Rows(foreign)
    dispatcher = factory.create_dispatcher(ctx, tools=[tools.rows, tools.rows_of_thread, tools.broken])
    for name in ("rows", "rows_of_thread", "broken"):
        with pytest.raises(ResponseWithheldError) as caught:
            await dispatcher.execute_tool(name)
        assert caught.value.boundary == "tool_out"
        assert caught.value.__cause__ is caught.value.__context__ is None, "what the tool raised is not behind it"
        response = await dispatcher.dispatch_tool(name)
        assert (response.success, response.result, response.metadata["code"]) == (False, None, "response_withheld")
        assert foreign not in f"{response.error} {response.exception!r}"
    messages = read_plain(ctx.user_id, ctx.run_id)
    ends = [each["payload"] for each in messages if each["type"] == "tool_completed"]
    assert [(each["status"], each["error"]) for each in ends] == [("error", "response_withheld")] * 6
    assert sum(each["type"] == "tool_executing" for each in messages) == 6
    assert foreign not in json.dumps(messages)
    assert dispatcher.get_metrics()["failed_executions"] == 6
    assert found.figures()["boundaries"]["tool_out"]["foreign"] == 6
    # The nearest neighbours: one's own canary, and a boundary that only observes.
    own = Rows(found.mint(alice))
    assert await dispatcher.execute_tool(dispatcher.register_tool(own.rows, name="own").name) == {"rows": [own.given]}
    found.set_mode("tool_out", "observe")
    found.set_mode("ws_out", "off")
    assert await dispatcher.execute_tool("rows") == {"rows": [foreign]}


async def test_a_tool_is_not_called_with_what_is_another_users(detector, factory, new_context, alice, bob, events):
    found = detector({"tool_in": "enforce", "ws_out": "off"})
    foreign = found.mint(bob)
    ctx = new_context(alice)
    tools = Rows("x")
    dispatcher = factory.create_dispatcher(ctx, tools=[tools.rows])
    for what in (foreign, {"deep": [{foreign: 1}]}, new_context(bob)):
        with pytest.raises(ResponseWithheldError) as caught:
            await dispatcher.execute_tool("rows", {"what": what})
        assert caught.value.boundary == "tool_in"
    assert (tools.called, events(ctx)) == (0, [])
    assert (await dispatcher.execute_tool("rows", {"what": found.mint(alice)}), tools.called) == ({"rows": ["x"]}, 1)
    found.set_mode("tool_in", "observe")
    await dispatcher.execute_tool("rows", {"what": foreign})
    assert found.figures()["boundaries"]["tool_in"]["foreign"] == 4


async def test_a_result_that_is_withheld_from_the_stream_alone_is_a_pair_as_well(
    detector, factory, new_context, alice, bob, events
):
    found = detector({"ws_out": "enforce", "tool_out": "off", "tool_in": "off"})
    ctx = new_context(alice)
    tools = Rows(found.mint(bob))
    dispatcher = factory.create_dispatcher(ctx, tools=[tools.rows])
    with pytest.raises(ResponseWithheldError) as caught:
        await dispatcher.execute_tool("rows")
    assert caught.value.boundary == "ws_out"
    assert events(ctx) == [("tool_executing", "rows", "executing"), ("tool_completed", "rows", "error")]
    with pytest.raises(ResponseWithheldError):
        await dispatcher.execute_tool("rows", {"what": tools.given})
    assert tools.called == 1, "a call that cannot be shown is not made"
    found.set_mode("ws_out", "off")
    assert await dispatcher.execute_tool("rows") == {"rows": [tools.given]}


async def test_a_tool_that_raises_when_it_is_ended_is_withheld_too(detector, factory, new_context, alice, bob):
    found = detector({"tool_out": "enforce", "ws_out": "off"})
    tools = Rows(found.mint(bob))
    dispatcher = factory.create_dispatcher(new_context(alice), tools=[tools.slow])
    with pytest.raises(ToolTimeoutError) as caught:
        await dispatcher.execute_tool("slow", timeout=0.01)
    assert caught.value.__cause__ is caught.value.__context__ is None
    found.set_mode("tool_out", "observe")
    with pytest.raises(ToolTimeoutError) as caught:
        await dispatcher.execute_tool("slow", timeout=0.01)
    assert tools.given in repr(caught.value.__cause__)
