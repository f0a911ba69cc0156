"""MIG012: a lock of threads is held while a coroutine waits."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.rules.base import Rule, terminal, words

_LOCKS = frozenset(
    {"threading.Lock", "threading.RLock", "threading.Condition", "threading.Semaphore", "threading.BoundedSemaphore"}
)
_NAMED = frozenset({"lock", "rlock", "mutex"})


def _made(module: Module, node: ast.expr) -> set[str]:
    """Return what the scanned file assigns to a name or an attribute: the qualified names that are called."""
    found: set[str] = set()
    if isinstance(node, ast.Name):
        home = module.scope_at(node).home(node.id)
        values: list[ast.expr] = home.values.get(node.id, []) if home else []
    elif isinstance(node, ast.Attribute):
        values = module.given_to(node.attr)
    else:
        return found
    for value in values:
        if isinstance(value, ast.Call):
            found |= module.resolve(value.func)
    return found


def _is_thread_lock(module: Module, node: ast.expr) -> bool:
    made = _made(module, node)
    if made:
        return not _LOCKS.isdisjoint(made)
    # Made elsewhere: what is called a lock and entered without `async` is one of threads.
    return isinstance(node, ast.Name | ast.Attribute) and not _NAMED.isdisjoint(words(terminal(node)))


def _waits(body: list[ast.stmt]) -> ast.AST | None:
    """Return the first thing in some statements that waits, outside of functions that are only defined there."""
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
            return node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += reversed(list(ast.iter_child_nodes(node)))
    return None


def _check(module: Module) -> Iterator[Finding]:
    for node in module.nodes(ast.With):
        if not isinstance(module.function_at(node), ast.AsyncFunctionDef):
            continue
        lock = next((item.context_expr for item in node.items if _is_thread_lock(module, item.context_expr)), None)
        if lock is None:
            continue
        place = _waits(node.body)
        if place is not None:
            line = place.lineno  # type: ignore[attr-defined] # what waits is an expression or a statement
            message = (
                f"{ast.unparse(lock)} is a lock of threads and is held across the await in line {line}; "
                "copy what it guards, then send without it"
            )
            yield module.finding("MIG012", "error", lock, message)


RULE = Rule(
    code="MIG012",
    severity="error",
    fix="none",
    title="a threading lock that is held across an await",
    why=(
        "While the coroutine waits, the loop runs others; one that wants the lock stops the whole loop, and the first "
        "never goes on. Where sockets are written to, one slow client stops everybody. Copy what the lock guards, "
        "leave it, then send; or use asyncio.Lock, with `async with`."
    ),
    before=(
        "async def send(message):\n"
        "    with lock:\n"
        "        for socket in sockets:\n"
        "            await socket.send_json(message)\n"
    ),
    after=(
        "async def send(message):\n"
        "    with lock:\n"
        "        current = list(sockets)\n"
        "    for socket in current:\n"
        "        await socket.send_json(message)\n"
    ),
    trigger=lambda _: (("async def",), ("await", "async for", "async with"), ("ock", "utex", "threading")),
    check=_check,
    pattern=r"(?m)^[ \t]+with\b",
)
