"""MIG001: the legacy state is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding, Fix
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.names import Scope
from isolane.migration.codemod.rules.base import Rule

MODERN = ("isolane", "UserExecutionContext")


def _is_used(module: Module, name: str, scope: Scope) -> bool:
    """Say whether anything but its import and docstrings uses a name: code, an annotation in quotes, ``__all__``."""
    if module.uses(name, scope):
        return True
    word = re.compile(rf"\b{re.escape(name)}\b")
    return any(
        isinstance(node.value, str) and word.search(node.value) and not isinstance(module.parent(node), ast.Expr)
        for node in module.nodes(ast.Constant)
    )


def _fix(module: Module, alias: ast.alias) -> tuple[Fix | None, str]:
    bound = alias.asname or alias.name
    scope = module.scope_at(alias)
    if module.path.endswith("__init__.py") or alias.asname == alias.name:
        return None, "other modules may import it from here"
    if "noqa" in module.source.line(alias.end_lineno or alias.lineno):
        return None, "a comment says that it is meant to be there"
    if _is_used(module, bound, scope):
        return None, "it is used in this file; that comes first"
    names = scope.home(MODERN[1])
    swap = "" if names is not None and None not in names.origins[MODERN[1]] else MODERN[1]
    if names is not None and swap:
        return None, f"{MODERN[1]} is something else here"
    arguments = {"module": MODERN[0], "add": swap, "drop": alias.name, "as": alias.asname or ""}
    return Fix("safe", "swap_import", arguments), ""


def _check(module: Module) -> Iterator[Finding]:
    states = module.config.state_list
    for statement in module.nodes(ast.ImportFrom):
        origin = module.imported_module(statement)
        for alias in statement.names:
            if alias.name == "*":
                used = states.find(
                    name
                    for node in module.nodes(ast.Name)
                    for name in module.resolve(node)
                    if name.startswith(f"{origin}.")
                )
                if used:
                    message = f"{used} comes in with everything of its module; import nothing of the legacy state"
                    yield module.finding(
                        "MIG001", "warning", statement, message, no_fix="the import has no name to swap"
                    )
            elif states.matches(f"{origin}.{alias.name}"):
                fix, no_fix = _fix(module, alias)
                message = f"{origin}.{alias.name} is one state for all users; take isolane.UserExecutionContext"
                yield module.finding("MIG001", "warning", alias, message, fix=fix, no_fix=no_fix)
    for node in module.nodes(ast.Attribute):
        name = states.find(module.resolve(node))
        if name and not name.startswith(f"{module.name}."):
            message = f"{name} is one state for all users; take isolane.UserExecutionContext"
            yield module.finding("MIG001", "warning", node, message, no_fix="it is reached through its module")


RULE = Rule(
    code="MIG001",
    severity="warning",
    fix="safe",
    title="an import of the legacy state",
    why=(
        "The legacy state is one mutable object that agents pass on and write to. Whoever imports it works on what "
        "another user's run may have left there. Classes are told by their full names: LangChain's DeepAgentState, "
        "which has the same last name, is never meant."
    ),
    before="from app.agents.state import DeepAgentState\n",
    after="from isolane import UserExecutionContext\n",
    trigger=lambda config: (tuple(config.state_list.last_parts),),
    check=_check,
)
