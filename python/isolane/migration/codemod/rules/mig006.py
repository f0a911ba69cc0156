"""MIG006: everybody is told what is one user's own."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding, Fix
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.rules.base import Rule, terminal, user_in_scope, words

_SENDERS = frozenset(
    {
        "manager",
        "websocket",
        "websockets",
        "ws",
        "bridge",
        "socket",
        "sockets",
        "connections",
        "hub",
        "broadcaster",
        "notifier",
    }
)


def _is_broadcast(module: Module, node: ast.Call) -> bool:
    methods = module.config.broadcast_methods
    called = node.func
    if isinstance(called, ast.Name):
        # A function that was imported; a mere broadcast() is NumPy's, among others.
        return called.id in methods and called.id != "broadcast" and bool(module.resolve(called))
    if not isinstance(called, ast.Attribute) or called.attr not in methods:
        return False
    if isinstance(called.value, ast.Name) and called.value.id in {"self", "cls"}:
        return False
    if isinstance(called.value, ast.Call) and terminal(called.value) == "super":
        return False
    return called.attr != "broadcast" or not _SENDERS.isdisjoint(words(terminal(called.value)))


def _check(module: Module) -> Iterator[Finding]:
    for node in module.nodes(ast.Call):
        if not _is_broadcast(module, node):
            continue
        known = user_in_scope(module, node)
        if known is None:
            continue
        method = terminal(node.func)
        whose = known.expression or "the user of the run"
        message = f"{method}() sends to everybody what is about {whose}; send it to that user"
        fix, no_fix = None, ""
        if known.expression is None:
            no_fix = "the user's id is not known here"
        elif len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
            no_fix = "it takes more than a message"
        elif not isinstance(node.func, ast.Attribute):
            no_fix = "it is no method"
        else:
            fix = Fix("unsafe", "send_to_one", {"method": module.config.send_method, "user": known.expression})
        yield module.finding("MIG006", "error", node, message, fix=fix, no_fix=no_fix)


RULE = Rule(
    code="MIG006",
    severity="error",
    fix="unsafe",
    title="a broadcast where a user is known",
    why=(
        "What a run says goes to all connected users, and each browser is trusted to leave out what is another's. It "
        "is reported in functions that know a user: by a context, a parameter such as user_id, or the id of a run. A "
        "message that is meant for all, such as a notice of maintenance, wants a comment that ignores the rule."
    ),
    before="async def tell(user_id, message):\n    await manager.broadcast_message(message)\n",
    after="async def tell(user_id, message):\n    await manager.send_to_user(user_id, message)\n",
    trigger=lambda config: (tuple(f"{one}(" for one in config.broadcast_methods),),
    check=_check,
)
