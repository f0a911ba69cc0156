"""docs/errors.md says something of each exception, and its table is what the code answers."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
import threading
from pathlib import Path

import isolane
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from isolane.fastapi import Ctx, Principal, setup
from isolane.fastapi.principal import NotAuthenticatedError
from isolane.fastapi.problems import PROBLEMS
from isolane.tools.errors import ParameterProblem

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^### (\w+)\n\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
SECTIONS = dict(SECTION.findall(PAGE))
ROW = re.compile(
    r"^\| `(?P<name>\w+)`(?: of the (?P<whose>[\w ]+))? \| (?P<status>\d{3}) \| `(?P<code>\w+)` "
    r"\| (?P<back>yes|no) \| (?P<close>\d{4}) \| (?P<todo>.+) \|$",
    re.MULTILINE,
)
SCOPES = {"user": ["user"], "process": ["global"], "run or the user": ["run", "user"]}


def exception_classes() -> dict[str, type[Exception]]:
    """All public exception classes of the package, but those of the drop-in, which has a page of its own."""
    found = {}
    for module in pkgutil.walk_packages(isolane.__path__, "isolane."):
        if module.name.startswith("isolane.compat"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if (
                isinstance(value, type)
                and issubclass(value, Exception)
                and value.__module__.startswith("isolane")
                and not name.startswith("_")
            ):
                found[value.__name__] = value
    return found


CLASSES = exception_classes()
TOOL_FAILURES = {
    isolane.ToolDispatchError: "ValueError",
    isolane.ToolExecutionError: "ValueError",
    isolane.ToolParameterError: [ParameterProblem("rows[0].price", "the value is ann's", "int_parsing")],
    isolane.ToolTimeoutError: 3.0,
}


def example(name: str, scope: str | None) -> Exception:
    """An exception of the class, of a limit of the user or of the process."""
    cls = CLASSES[name]
    if cls is isolane.BudgetExceeded:
        return cls("full", 10, "process" if scope == "global" else scope)
    if cls in {isolane.AuditUnavailableError, isolane.ForeignQueryError}:
        return cls("permission", "refused")
    if cls in TOOL_FAILURES:
        return cls("search", TOOL_FAILURES[cls])
    if cls is isolane.ToolLimitError:
        return cls("search", "full", 0)
    return cls("refused", scope) if scope else cls("refused")


def test_the_search_finds_the_exceptions():
    assert {isolane.LimitTimeout, isolane.InvalidContextError, NotAuthenticatedError} <= set(CLASSES.values())
    assert len(CLASSES) > 15


def test_each_exception_has_a_section_and_each_section_an_exception():
    assert set(SECTIONS) == set(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_section_says_what_it_is(name):
    text = SECTIONS[name]
    bases = {base.__name__ for base in CLASSES[name].__mro__[1:]}
    named = re.match(r"An? `(\w+)`", text)
    assert named is not None, "a section begins with the base class"
    assert named[1] in bases
    assert len(text) > 80
    fields = {name for name in vars(CLASSES[name]) if not name.startswith("_")}
    assert "Fields as above" in text or {field for field in fields if f"`{field}`" not in text} == set()


def test_the_table_has_each_problem_and_nothing_else():
    assert {row["name"] for row in ROW.finditer(PAGE)} == {cls.__name__ for cls in PROBLEMS}


@pytest.mark.parametrize("row", list(ROW.finditer(PAGE)), ids=lambda row: f"{row['name']}-{row['whose'] or 'all'}")
def test_the_table_is_what_a_client_is_told(row):
    for scope in SCOPES[row["whose"]] if row["whose"] else [None]:
        error = example(row["name"], scope)
        problem = PROBLEMS[type(error)](error)
        told = (problem.status, problem.code, problem.retry_after is not None, problem.close_code)
        assert told == (int(row["status"]), row["code"], row["back"] == "yes", int(row["close"]))


@pytest.mark.parametrize("name", sorted(name for name in CLASSES if name.startswith("Tool")))
def test_a_client_is_not_told_what_a_tool_says(name):
    if CLASSES[name] in PROBLEMS:
        error = example(name, None)
        detail = PROBLEMS[type(error)](error).detail
        assert not any(word in detail for word in ("ann", "ValueError", "()"))


def test_a_tool_that_fails_in_a_route_is_told_to_client_and_operator(caplog):
    app = FastAPI()
    setup(app, authenticate=lambda _: Principal("ann"), registry=isolane.AgentRegistry())
    tools = isolane.UnifiedToolDispatcherFactory(permissions=isolane.PermissionEngine.for_tools({"everyone": ["*"]}))

    @app.get("/{name}")
    async def call(name: str, context: Ctx) -> None:
        dispatcher = tools.create_dispatcher(context)

        async def broken() -> None:
            raise KeyError("a secret")

        dispatcher.register_tool(broken)
        await dispatcher.execute_tool(name)

    with TestClient(app) as client:
        answer = client.get("/broken")
        assert (answer.status_code, answer.json()["code"]) == (502, "tool_failed")
        assert "secret" not in answer.text
        assert "a secret" in caplog.text
        answer = client.get("/nothing")
        assert (answer.status_code, answer.json()["code"]) == (404, "tool_not_found")


def make(user: str = "ann", thread: str = "thread-3", run: str = "run-9", **fields):
    return isolane.UserExecutionContext(user, thread, run, **fields)


def child_of_a_cleaned_one():
    context = make()

    async def clean() -> None:
        await context.cleanup()

    asyncio.run(clean())
    context.create_child_context("late")


RULES = {
    "required": lambda: make(" "),
    "length": lambda: make("a" * 257),
    "control": lambda: make("ann\n"),
    "surrogate": lambda: make("ann\ud800"),
    "placeholder": lambda: make("default"),
    "prefix": lambda: make("temp_7"),
    "type": lambda: make(agent_context=[1]),
    "reserved": lambda: make(agent_context={"user_id": "bob"}),
    "copy": lambda: make(agent_context={"lock": threading.Lock()}),
    "depth": lambda: make(operation_depth=11),
    "conflict": lambda: make(websocket_client_id="ws-1", websocket_connection_id="ws-2"),
    "mismatch": lambda: make(
        run=isolane.UnifiedIDManager.generate_run_id("thread-4"), policy=isolane.ContextPolicy(strict=True)
    ),
    "cleaned": child_of_a_cleaned_one,
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_what_refuses(rule):
    with pytest.raises(isolane.InvalidContextError) as caught:
        RULES[rule]()
    assert caught.value.rule == rule


def test_each_rule_of_a_refused_context_is_explained():
    rows = re.findall(r"^\| (`.+?) \|", SECTIONS["InvalidContextError"], re.MULTILINE)
    explained = set(re.findall(r"`(\w+)`", " ".join(rows))) - {"rule"}
    assert explained == set(RULES)


def test_the_rules_of_the_core_are_all_known_here():
    core = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "context").glob("*.rs"))
    used = set(re.findall(r'\brule: "(\w+)"', core))
    assert len(used) > 5
    # Those of the arguments, which only Python has.
    surface = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "py").glob("*.rs"))
    of_arguments = set(re.findall(r'\brefused\((?:[^,;]+,){3}\s*"(\w+)"', surface))
    assert {"conflict", "mismatch", "copy", "type"} <= of_arguments
    assert (used | of_arguments) - set(RULES) == set()
