"""MIG003: a singleton getter is called."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding, Fix
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.rules.base import Rule, context_in_scope
from isolane.migration.codemod.source import marker_line

MARKER = "TODO(MIG003):"
_DEPENDS = frozenset({"fastapi.Depends", "fastapi.params.Depends", "fastapi.Security"})


def _marked(module: Module, node: ast.expr) -> bool:
    """Say whether a marker of an earlier run stands where one would be put."""
    for statement in (node, *module.parents(node)):
        if isinstance(statement, ast.stmt) and (line := marker_line(module.source, module.starts, statement)):
            return line > 1 and module.source.line(line - 1).lstrip().startswith(f"# {MARKER}")
    return False


def _injected(module: Module, node: ast.Call) -> str | None:
    """Return the getter that FastAPI is told to call: ``Depends(get_websocket_manager)``."""
    if node.args and _DEPENDS.intersection(module.resolve(node.func)):
        return module.config.getter_list.find(module.resolve(node.args[0]))
    return None


def _fix(module: Module, node: ast.Call, name: str) -> Fix:
    context = context_in_scope(module, node)
    parent = module.parent(node)
    whole = "1" if isinstance(parent, ast.Await) else ""
    if context is not None and not node.args and not node.keywords:
        for getters, method in (
            (module.config.emitter_list, "get_websocket_emitter"),
            (module.config.dispatcher_list, "get_tool_dispatcher"),
        ):
            if getters.matches(name):
                return Fix("unsafe", "replace_call", {"text": f"{context}.{method}()", "await": whole})
    last = name.rpartition(".")[2]
    text = f"# {MARKER} {last}() is one object for all users; take it from the context of the user"
    return Fix("unsafe", "mark", {"text": text})


def _check(module: Module) -> Iterator[Finding]:
    getters = module.config.getter_list
    for node in module.nodes(ast.Call):
        name = getters.find(module.resolve(node.func)) or _injected(module, node)
        if name is None:
            continue
        message = f"{name.rpartition('.')[2]}() returns one object for all users; take it from the user's context"
        marked = _marked(module, node)
        fix = None if marked else _fix(module, node, name)
        no_fix = "it is marked already" if marked else ""
        yield module.finding("MIG003", "warning", node, message, fix=fix, no_fix=no_fix)


RULE = Rule(
    code="MIG003",
    severity="warning",
    fix="unsafe",
    title="a call of a singleton getter",
    why=(
        "What a getter returns is shared by all users, so whatever is kept in it or sent through it can reach another "
        "one. Where a context is in scope, the fix takes the user's own emitter or dispatcher from it. Where none is, "
        "it leaves a marker, since somebody has to bring the context there. Depends(getter) of FastAPI is a call, too."
    ),
    before=("async def think(context: UserExecutionContext) -> None:\n    emitter = get_websocket_manager()\n"),
    after=("async def think(context: UserExecutionContext) -> None:\n    emitter = context.get_websocket_emitter()\n"),
    trigger=lambda config: (tuple(config.getter_list.last_parts),),
    check=_check,
)
