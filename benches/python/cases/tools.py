"""Tool calls without what the tool does, and the decision of the wall."""

from collections.abc import Callable
from typing import Any

from isolane import (
    PermissionBoundarySystem,
    PermissionEngine,
    UnifiedToolDispatcherFactory,
    UserContextFactory,
    WebSocketConfig,
    resource_name,
    sweep_lanes,
)
from isolane._core import GrantBook, OwnershipWall, bind_event_bounds
from isolane.tools import Tool

from benches.python.measure import Case, Run, Side, awaits, now
from benches.python.peers.tool_dispatcher import ToolDispatcher

GROUP = "Tools and permissions"
USER = "user-7c21"
BATCH = 100
PARAMETERS = {"query": "rivers", "limit": 3}


async def search(query: str, limit: int = 3) -> int:
    """A tool that does nothing."""
    return limit if query else 0


class Record:
    """An audit log that takes everything and keeps nothing."""

    def record(self, event: Any) -> None:
        """Taken."""


def own_calls(**options: Any) -> Run:
    """Calls of a tool that does nothing, each context with a dispatcher of its own."""

    async def run(loops: int) -> float:
        factory = UnifiedToolDispatcherFactory(
            [search], permissions=PermissionEngine.for_tools({"everyone": ["search"]}), **options
        )
        taken = 0.0
        for first in range(0, loops, BATCH):
            context = UserContextFactory.create_context(USER)
            bounds = WebSocketConfig(retention_seconds=0).bounds()
            bind_event_bounds(context, **bounds)
            emitter = context.get_websocket_emitter()
            await emitter.notify_agent_started(agent_name="bench")
            dispatcher = factory.create_dispatcher(context)
            start = now()
            for _ in range(min(BATCH, loops - first)):
                await dispatcher.execute_tool("search", PARAMETERS)
            taken += now() - start
            await context.cleanup()
            sweep_lanes()
        return taken

    return awaits(run)


async def _peer(loops: int) -> float:
    dispatcher = ToolDispatcher(USER, "run-1", "thread-1", {"search"})
    dispatcher.register_tool("search", search)
    start = now()
    for _ in range(loops):
        await dispatcher.execute_tool("search", PARAMETERS)
    return now() - start


def _langchain() -> tuple[Run | None, str]:
    try:
        from langchain_core.tools import tool  # noqa: PLC0415 - optional
    except ImportError:
        return None, "langchain-core is not installed"
    made = tool(search)

    async def run(loops: int) -> float:
        start = now()
        for _ in range(loops):
            await made.ainvoke(PARAMETERS)
        return now() - start

    return awaits(run), ""


def _loop(make: Callable[[], Callable[[], Any]]) -> Run:
    def run(loops: int) -> float:
        call = make()
        start = now()
        for _ in range(loops):
            call()
        return now() - start

    return run


async def _decided(loops: int) -> float:
    factory = UnifiedToolDispatcherFactory(permissions=PermissionEngine.for_tools({"everyone": ["search"]}))
    dispatcher, calls = factory.create_dispatcher(_context()), factory.calls
    tool = Tool.of(search)
    start = now()
    for _ in range(loops):
        number = dispatcher._admit(tool, PARAMETERS, PARAMETERS, 30.0)  # noqa: SLF001 - this part of a call alone
        calls.follow(number, 30.0)
        calls.end(number, "ok")
    return now() - start


def _context() -> Any:
    return UserContextFactory.create_context(USER, permissions=["analyst"])


def _passes(resource: str) -> Callable[[], Any]:
    wall, context = OwnershipWall(GrantBook()), _context()
    return lambda: wall.passage(context, resource, "read")


def _checks(resource: str) -> Callable[[], Any]:
    roles = {
        f"role-{number}": {"allow": [{"actions": ["document.read"], "resources": [f"kind-{number}:*"]}]}
        for number in range(30)
    }
    roles["analyst"] = {"allow": [{"actions": ["document.read"], "resources": ["document:*"]}]}
    boundary, context = PermissionBoundarySystem(PermissionEngine(roles), verify_context=False), _context()
    return lambda: boundary.check(context, "document.read", (resource,))


def _casbin() -> tuple[Callable[[], Any] | None, str]:
    try:
        import casbin  # noqa: PLC0415 - optional
    except ImportError:
        return None, "pycasbin is not installed"
    model = casbin.Model()
    model.load_model_from_text(
        "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act\n"
        "[role_definition]\ng = _, _\n[policy_effect]\ne = some(where (p.eft == allow))\n"
        "[matchers]\nm = g(r.sub, p.sub) && keyMatch(r.obj, p.obj) && r.act == p.act\n"
    )
    enforcer = casbin.Enforcer(model)
    for number in range(30):
        enforcer.add_policy(f"role-{number}", f"kind-{number}:*", "document.read")
    enforcer.add_policy("analyst", "document:*", "document.read")
    enforcer.add_grouping_policy(USER, "analyst")
    return lambda: enforcer.enforce(USER, resource_name("document", USER, "7"), "document.read"), ""


def _equal() -> Callable[[], Any]:
    name, user = resource_name("document", USER, "7"), USER

    def call() -> bool:
        return name.partition(":")[2].partition("/")[0] == user

    return call


OWN = "isolane UnifiedToolDispatcher"
AUDITED = "the same, each check recorded"
PEER = "the design document's dispatcher in plain Python"
LANGCHAIN = "langchain-core tool.ainvoke"
CALL = "a tool call without the tool"
DECIDED = "the same, its decision and its book alone"
WALL = "the wall, one's own resource"
WALL_SIDE = "isolane OwnershipWall"
CHECK = "a check of one resource, 31 roles"
CHECK_SIDE = "isolane PermissionBoundarySystem"


def cases() -> list[Case]:
    """A call, the wall, a check."""
    own = resource_name("document", USER, "7")
    langchain, missing = _langchain()
    casbin, casbin_missing = _casbin()
    calls = [Side(OWN, own_calls()), Side(AUDITED, own_calls(audit=Record())), Side(PEER, awaits(_peer))]
    if langchain is not None:
        calls.append(Side(LANGCHAIN, langchain))
    checks = [Side(CHECK_SIDE, _loop(lambda: _checks(own)))]
    if casbin is not None:
        found = casbin
        checks.append(Side("pycasbin enforce", _loop(lambda: found)))
    return [
        Case(
            GROUP,
            CALL,
            tuple(calls),
            note="What the peer leaves out is said in `benches/python/peers/tool_dispatcher.py`. LangChain checks the "
            "parameters and calls the tool, without permissions and events. " + missing,
        ),
        Case(GROUP, DECIDED, (Side(OWN, awaits(_decided)),), note="Without parameters, events and coroutines."),
        Case(
            GROUP,
            WALL,
            (
                Side(WALL_SIDE, _loop(lambda: _passes(own))),
                Side("two partitions and a comparison in Python", _loop(_equal)),
            ),
            note="From Python, with the call of the extension and the parsing of the name.",
        ),
        Case(GROUP, CHECK, tuple(checks), note=casbin_missing),
    ]
