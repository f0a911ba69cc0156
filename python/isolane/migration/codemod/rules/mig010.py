"""MIG010: a context variable in a middleware whose request runs elsewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding
from isolane.migration.codemod.module import FunctionNode, Module
from isolane.migration.codemod.rules.base import Rule

_BASE = "starlette.middleware.base.BaseHTTPMiddleware"
_METHODS = frozenset({"set", "get", "reset"})
_BINDERS = "structlog.contextvars."


def _variables(module: Module) -> None:
    """Note the context variables that the module makes, for others that import them."""
    for name, values in module.scope.values.items():
        for value in values:
            if isinstance(value, ast.Call) and "contextvars.ContextVar" in module.scope.resolve(value.func):
                module.facts.add(f"contextvar:{module.name}.{name}")


def _uses(module: Module, node: ast.ClassDef | FunctionNode) -> Iterator[tuple[str, str]]:
    """Yield the context variables that are set or read within a node: how they are named, and the fact it takes."""
    for one in ast.walk(node):
        if not isinstance(one, ast.Call):
            continue
        for name in module.resolve(one.func):
            if name.startswith(_BINDERS):
                yield name.rpartition(".")[2], ""
        if isinstance(one.func, ast.Attribute) and one.func.attr in _METHODS:
            variable = one.func.value
            if isinstance(variable, ast.Name) and module.scope_at(variable).home(variable.id) is module.scope:
                yield variable.id, f"contextvar:{module.name}.{variable.id}"
            for name in module.resolve(variable):
                yield ast.unparse(variable), f"contextvar:{name}"


def _places(module: Module) -> Iterator[tuple[ast.ClassDef | FunctionNode, str]]:
    for node in module.nodes(ast.ClassDef):
        if any(_BASE in module.resolve(base) for base in node.bases):
            yield node, f"{node.name} is a BaseHTTPMiddleware"
    for function in module.functions():
        for decorator in function.decorator_list:
            if (
                isinstance(decorator, ast.Call)
                and isinstance(decorator.func, ast.Attribute)
                and decorator.func.attr == "middleware"
                and [one.value for one in decorator.args if isinstance(one, ast.Constant)] == ["http"]
            ):
                yield function, f"@{ast.unparse(decorator.func)} makes {function.name} a BaseHTTPMiddleware"


def _check(module: Module) -> Iterator[Finding]:
    _variables(module)
    for node, what in _places(module):
        seen: set[tuple[str, str]] = set()
        for name, fact in _uses(module, node):
            if (name, fact) in seen:
                continue
            seen.add((name, fact))
            message = f"{what} that uses the context variable {name}; the endpoint may run in another context"
            yield module.finding("MIG010", "warning", module.header(node), message, needs=(fact,) if fact else ())


RULE = Rule(
    code="MIG010",
    severity="warning",
    fix="none",
    title="a BaseHTTPMiddleware with a context variable",
    why=(
        "BaseHTTPMiddleware runs the endpoint in a task of its own. What the endpoint sets does not come back, what a "
        "streamed response reads may be gone, and the middleware is passed over by WebSockets. A middleware of plain "
        "ASGI, or the dependency isolane.fastapi.Ctx, has none of that. A variable counts when it is a ContextVar in "
        "this file or in another one that is scanned."
    ),
    before=(
        "class CurrentUser(BaseHTTPMiddleware):\n"
        "    async def dispatch(self, request, call_next):\n"
        "        current_user.set(request.user)\n"
        "        return await call_next(request)\n"
    ),
    after="async def route(context: Ctx) -> None:\n    print(context.user_id)\n",
    trigger=lambda _: (("BaseHTTPMiddleware", '.middleware("http"', ".middleware('http'", "ContextVar"),),
    check=_check,
)
