"""MIG011: a cache key in which no user is named."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.rules.base import Rule, names_in, terminal, words

_METHODS = frozenset(
    {"get", "set", "add", "setex", "aget", "aset", "get_or_set", "aget_or_set", "getset", "hget", "hset", "setnx"}
)


_CALL = re.compile(rf"[a-z0-9_)]\s*\.(?:{'|'.join(sorted(_METHODS))})\(\s*(?:[rb]?f[rb]?['\"]|[a-z_])")


def _formatted(module: Module, node: ast.expr) -> ast.JoinedStr | None:
    """Return the f-string that a key is: itself, or the one value of the name that it is given by."""
    if isinstance(node, ast.Name):
        home = module.scope_at(node).home(node.id)
        values = home.values.get(node.id, []) if home else []
        if home is None or len(values) != 1 or home.function() is None or len(home.origins[node.id]) != 1:
            return None
        node = values[0]
    if isinstance(node, ast.JoinedStr) and any(isinstance(one, ast.FormattedValue) for one in node.values):
        return node
    return None


def _check(module: Module) -> Iterator[Finding]:
    caches = set(module.config.cache_names)
    lowered = module.source.text.lower()
    if not any(name in lowered for name in caches) or not _CALL.search(lowered):
        return
    whose = set(module.config.user_words)
    for node in module.nodes(ast.Call):
        called = node.func
        if not isinstance(called, ast.Attribute) or called.attr not in _METHODS or not node.args:
            continue
        if caches.isdisjoint(words(terminal(called.value))):
            continue
        key = _formatted(module, node.args[0])
        if key is None or not whose.isdisjoint(word for name in names_in(key) for word in words(name)):
            continue
        message = f"the key {ast.unparse(key)} names no user, so users share what is kept under it"
        yield module.finding("MIG011", "info", node, message)


RULE = Rule(
    code="MIG011",
    severity="info",
    fix="none",
    title="a cache key without a user",
    why=(
        "What is kept under a key that is the same for two users is shown to both. It is reported for keys that are "
        "f-strings, of whatever is called a cache, without a word for a user in it. What is the same for all users is "
        "right that way, so this is a question and not a mistake: context.get_scoped_key() makes a key of a user's own."
    ),
    before='answer = cache.get(f"answer:{question}")\n',
    after='answer = cache.get(f"answer:{user_id}:{question}")\n',
    trigger=lambda _: (('f"', "f'", 'F"', "F'", 'r"', "r'"), tuple(f".{one}(" for one in _METHODS)),
    check=_check,
)
