"""MIG004: a getter is awaited that returns at once, or one that has to be awaited is not."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding, Fix
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.rules.base import Rule


def _used_as_result(module: Module, node: ast.Call) -> bool:
    """Say whether a call's value is used as what a coroutine would have returned, not as a coroutine."""
    parent = module.parent(node)
    if isinstance(parent, ast.Expr):
        return True
    if isinstance(parent, ast.Attribute):
        return parent.attr not in {"throw", "close"}
    if not isinstance(parent, ast.Assign) or len(parent.targets) != 1 or not isinstance(parent.targets[0], ast.Name):
        return False
    name = parent.targets[0].id
    home = module.scope_at(parent.targets[0]).home(name)
    uses = [module.parent(one) for one in module.uses(name, home) if isinstance(one.ctx, ast.Load)]
    return bool(uses) and all(isinstance(use, ast.Attribute) for use in uses)


def _check(module: Module) -> Iterator[Finding]:
    getters = module.config.getter_list
    for function in module.functions():
        if function.name in getters.last_parts and module.scope_at(function).parent is None:
            kind = "async" if isinstance(function, ast.AsyncFunctionDef) else "sync"
            module.facts.add(f"{kind}:{module.name}.{function.name}")
    for node in module.nodes(ast.Call):
        name = getters.find(module.resolve(node.func))
        if name is None or name.startswith("isolane."):
            # Ours can be used both ways.
            continue
        last = name.rpartition(".")[2]
        parent = module.parent(node)
        if isinstance(parent, ast.Await):
            message = f"{last}() returns at once; awaiting what it returns raises TypeError"
            fix = Fix("safe", "drop_await")
            yield module.finding("MIG004", "error", parent, message, fix=fix, needs=(f"not-async:{name}",))
        elif _used_as_result(module, node):
            message = f"{last}() has to be awaited; without it this is a coroutine that never runs"
            inside = isinstance(module.function_at(node), ast.AsyncFunctionDef) and not _in_other(module, node)
            no_fix = "" if inside else "it is not in a coroutine function"
            found = Fix("safe", "add_await") if inside else None
            yield module.finding("MIG004", "error", node, message, fix=found, no_fix=no_fix, needs=(f"async:{name}",))


def _in_other(module: Module, node: ast.AST) -> bool:
    """Say whether a function around a node is not the one that would wait: a class's body cannot, for instance."""
    scope = module.scope_at(node)
    function, owner = scope.function(), scope.owner()
    if function is not None and owner is not function.owner():
        return True
    for one in module.parents(node):
        if isinstance(one, ast.Lambda | ast.GeneratorExp):
            return True
        if isinstance(one, ast.stmt):
            return False
    return False


RULE = Rule(
    code="MIG004",
    severity="error",
    fix="safe",
    title="await of a getter that is not async, or no await of one that is",
    why=(
        "A getter that became synchronous, or asynchronous, and a caller that did not notice: the call raises "
        "TypeError, or makes a coroutine that nobody runs. Whether a getter is async is read from its definition where "
        "that is scanned as well, and else from async_getters. The getters of isolane.migration can be used both ways."
    ),
    before="manager = await get_websocket_manager()\n",
    after="manager = get_websocket_manager()\n",
    trigger=lambda config: (tuple(config.getter_list.last_parts),),
    check=_check,
)
