"""MIG008: a copy of a user's data that shares what is inside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding, Fix
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.rules.base import Rule, terminal

_COPIERS = frozenset({"builtins.dict", "builtins.list", "copy.copy"})
_OF_A_CONTEXT = frozenset({"metadata", "messages"})
"""Fields whose names are common: they count where it is known to be a context or a state that has them."""


def _is_context_data(module: Module, node: ast.AST) -> bool:
    name = terminal(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    if name in module.config.context_fields:
        return True
    if not isinstance(node, ast.Attribute):
        return bool(name) and _in_state(module, node)
    types = module.type_of(node.value)
    known = module.config.context_list.find(types) or module.config.state_list.find(types)
    if name in _OF_A_CONTEXT and known:
        return True
    return _in_state(module, node)


def _in_state(module: Module, node: ast.AST) -> bool:
    """Say whether this is in the body of a class that is a legacy state or a context itself."""
    scope = module.scope_at(node).owner()
    own = (module.config.state_list, module.config.context_list)
    return scope is not None and any(names.matches(scope.qualified) for names in own)


def _copies(module: Module) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield every shallow copy, with what is copied."""
    for node in module.nodes(ast.Call):
        called = node.func
        if node.keywords or len(node.args) > 1:
            continue
        if not node.args:
            if isinstance(called, ast.Attribute) and called.attr == "copy":
                yield node, called.value
        elif not _COPIERS.isdisjoint(module.resolve(called)):
            yield node, node.args[0]
    for shown in module.nodes(ast.Dict):
        for key, value in zip(shown.keys, shown.values, strict=True):
            if key is None:
                yield shown if len(shown.keys) == 1 else value, value


def _check(module: Module) -> Iterator[Finding]:
    home = module.scope.origins.get("copy", {"copy"})
    for node, data in _copies(module):
        if not _is_context_data(module, data):
            continue
        named = ast.unparse(data)
        message = f"a shallow copy of {named} shares everything inside it; copy it deeply"
        hidden = home != {"copy"} or module.scope_at(node).home("copy") not in {None, module.scope}
        fix = None if hidden else Fix("unsafe", "copy_deeply", imports=(("copy", ""),))
        no_fix = "copy is something else here" if hidden else ""
        yield module.finding("MIG008", "warning", node, message, fix=fix, no_fix=no_fix)


RULE = Rule(
    code="MIG008",
    severity="warning",
    fix="unsafe",
    title="a shallow copy of a user's data",
    why=(
        "dict.copy(), dict(x), {**x} and copy.copy copy the outermost level: lists and dicts inside are still shared "
        "with whom the data came from. It is reported for the fields of context_fields, for metadata and messages of "
        "what is annotated as a context or a state, and inside the classes of states themselves. Deep copies cost "
        "more, and fail for what cannot be copied, so the fix is unsafe."
    ),
    before="import copy\n\nmine = parent.agent_context.copy()\n",
    after="import copy\n\nmine = copy.deepcopy(parent.agent_context)\n",
    trigger=lambda config: (
        (*config.context_fields, *config.state_list.last_parts, *config.context_list.last_parts),
        ("copy", "**", "dict(", "list("),
    ),
    check=_check,
)
