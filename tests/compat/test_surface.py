"""The table of the host's names: what it says is there is there, as it says, and nothing else is."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import isolane
import isolane.compat
import pytest
from isolane.compat.deep_agent_state import DeepAgentState
from isolane.compat.execution_context import AgentExecutionContext, AgentExecutionResult
from isolane.compat.execution_engine_factory import ExecutionEngineFactory
from isolane.compat.surface import SURFACE, Module, Name, markdown, names
from isolane.compat.unified_tool_dispatcher import ToolExecutionResult, UnifiedToolDispatcher
from isolane.compat.user_execution_engine import UserExecutionEngine
from isolane.compat.websocket_records import UserWebSocketContext, WebSocketEvent

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")

ROOT = Path(__file__).resolve().parents[2]
THERE = {"kept", "changed"}
MIRRORS = {module.module for module in SURFACE if module.module is not None}
OUR_OWN = {
    "context_manager",
    "id_parts",
    "pool_delivery",
    "protocols",
    "redaction",
    "run_spans",
    "shared_objects",
    "surface",
    "tool_events",
    "websocket_emitter",
    "websocket_records",
}
"""Modules that the host does not have."""
MISSING = object()

INSTANCES = {
    "ExecutionEngineFactory": lambda: ExecutionEngineFactory(Mock()),
    "UserExecutionEngine": lambda: UserExecutionEngine(
        isolane.UserContextFactory.create_context("ann-of-the-table"), Mock(), AsyncMock()
    ),
    "UnifiedToolDispatcher": lambda: UnifiedToolDispatcher.create_for_user(
        isolane.UserContextFactory.create_context("ann-of-the-table")
    ),
    "ToolExecutionResult": lambda: ToolExecutionResult(success=True),
    "DeepAgentState": DeepAgentState,
    "AgentExecutionContext": lambda: AgentExecutionContext("run", "thread", "ann", "agent"),
    "AgentExecutionResult": lambda: AgentExecutionResult(success=True),
    "WebSocketEvent": lambda: WebSocketEvent("agent_started", "ann", "thread", {}),
    "UserWebSocketContext": lambda: UserWebSocketContext("ann", "thread", "connection"),
}


def find(module, name, *, instance=False):
    """What a module has under a dotted name, or MISSING."""
    found = importlib.import_module(f"isolane.compat.{module}")
    first, *rest = name.split(".")
    found = getattr(found, first, MISSING)
    if instance and found is not MISSING:
        found = INSTANCES[first]()
    for part in rest:
        found = getattr(found, part, MISSING)
    return found


def parameters(text):
    """Names and defaults of positional parameters, as they are written. MISSING stands for no default."""
    arguments = ast.parse(f"def f({text}): ...").body[0].args
    defaults = [ast.literal_eval(default) for default in arguments.defaults]
    listed = [argument.arg for argument in arguments.args]
    return list(zip(listed, [MISSING] * (len(listed) - len(defaults)) + defaults, strict=True))


def signature_problems(found, text):
    """How the parameters of something differ from those that callers of the host rely on."""
    positional = [
        parameter
        for parameter in inspect.signature(found).parameters.values()
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD} and parameter.name != "self"
    ]
    expected = parameters(text)
    problems = []
    for at, (name, default) in enumerate(expected):
        if at >= len(positional) or positional[at].name != name:
            problems.append(f"parameter {at} is not {name}")
        elif positional[at].kind is inspect.Parameter.POSITIONAL_ONLY:
            problems.append(f"{name} cannot be passed by its name")
        elif default is not MISSING and (
            positional[at].default != default or type(positional[at].default) is not type(default)
        ):
            problems.append(f"the default of {name} is {positional[at].default!r}")
    problems += [
        f"{parameter.name} must be passed"
        for parameter in positional[len(expected) :]
        if parameter.default is inspect.Parameter.empty
    ]
    return problems


def keyword_problems(found, older):
    """Which of the older spellings cannot be passed by keyword."""
    taken = inspect.signature(found).parameters
    return [
        f"{name} is not taken by keyword"
        for name in older.split()
        if name not in taken or taken[name].kind is inspect.Parameter.POSITIONAL_ONLY
    ]


def problems(module, row):
    """What is not as a row says."""
    if row.status in THERE:
        if module.module is None:
            return [f"{row.name} is {row.status}, but there is no module for it"]
        found = find(module.module, row.name, instance=row.of_instance)
        if found is MISSING:
            return [f"{module.module}.{row.name} is {row.status}, but is not there"]
        listed = [] if row.signature is None else signature_problems(found, row.signature)
        listed += keyword_problems(found, row.older) if row.older else []
        return [f"{module.module}.{row.name}: {problem}" for problem in listed]
    if not row.name.replace(".", "").isidentifier():
        return []
    known = {(other.module, name.name) for other, name in names() if name.status in THERE}
    where = MIRRORS if module.module is None else {module.module}
    return [
        f"{other}.{row.name} is {row.status}, but is there"
        for other in sorted(where)
        if (other, row.name) not in known and find(other, row.name) is not MISSING
    ]


@pytest.mark.parametrize(
    ("module", "row"),
    [pytest.param(module, row, id=f"{module.host}: {row.name}") for module, row in names()],
)
def test_a_name_is_as_the_table_says(module, row):
    assert problems(module, row) == []


def test_every_row_that_is_not_kept_says_why():
    silent = [row.name for _, row in names() if row.status != "kept" and not row.note]
    assert silent == []


def test_no_name_has_two_rows():
    listed = [(module.host, row.name) for module, row in names()]
    assert len(set(listed)) == len(listed)


def test_every_module_is_in_the_table():
    there = {module.name for module in pkgutil.iter_modules(isolane.compat.__path__)}
    assert there - OUR_OWN == MIRRORS
    assert there >= OUR_OWN


@pytest.mark.parametrize("module", sorted(MIRRORS))
def test_every_public_name_of_a_module_is_in_the_table(module):
    listed = {row.name for other, row in names() if other.module == module and row.status in THERE}
    public = set(importlib.import_module(f"isolane.compat.{module}").__all__)
    # An engine's module passes the records on that its callers need.
    extra = {"AgentExecutionContext", "AgentExecutionResult"} if module == "user_execution_engine" else set()
    assert public - listed == extra


def test_the_document_shows_the_table():
    page = (ROOT / "docs" / "compat.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- surface -->")[2].partition("<!-- /surface -->")[0]
    assert shown.strip() == markdown().strip()


class TestTheTableCanBeWrong:
    """Each kind of untruth is found."""

    CONTEXTS = Module("x", "user_execution_context", ())

    @pytest.mark.parametrize(
        "row",
        [
            Name("UserExecutionContext.nothing", "kept"),
            Name("nothing", "changed", "why"),
            Name("UserExecutionContext.from_request", "kept", "", "thread_id, user_id"),
            Name("UserExecutionContext.from_request", "kept", "", "user_id, thread_id"),
            Name("UserExecutionContext.from_request", "kept", "", "user_id, thread_id, run_id, request_id=''"),
            Name(
                "UserExecutionContext",
                "kept",
                "",
                "user_id, thread_id, run_id, request_id=None, websocket_client_id=None",
            ),
            Name("managed_user_context", "kept", "", "context, cleanup_db_session=1"),
            Name("UserExecutionContext.from_request", "kept", older="metadata context_metadata"),
        ],
        ids=lambda row: f"{row.name}({row.signature}){row.older}",
    )
    def test_a_name_that_is_not_as_told(self, row):
        assert problems(self.CONTEXTS, row)

    def test_a_name_that_is_there_all_the_same(self):
        assert problems(self.CONTEXTS, Name("logger", "left out", "why"))
        assert problems(Module("x", None, ()), Name("logger", "left out", "why"))
        assert not problems(self.CONTEXTS, Name("UserExecutionContext.nothing", "left out", "why"))

    def test_a_name_without_a_module(self):
        assert problems(Module("x", None, ()), Name("UserExecutionContext", "kept"))
