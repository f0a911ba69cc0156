"""What a rule is, and what several of them ask."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from isolane.migration.codemod.config import MigrateConfig
from isolane.migration.codemod.findings import Finding, Severity
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.names import Scope, annotated


@dataclass(frozen=True)
class Rule:
    """One pattern of a service of singletons.

    Attributes:
        code: ``MIG001`` to ``MIG012``.
        severity: ``error``: somebody sees what is another's, or the call fails; ``warning``: it can come to that;
            ``info``: a guess that somebody should look at.
        fix: whether there is a fix, and whether it is a safe one.
        title: what it finds, in a few words.
        why: what goes wrong, in a few sentences.
        before, after: an example, and what should be there instead.
        trigger: makes groups of words. The rule looks at a text that has one word of each group; the others are not
            even walked through.
        check: yields the findings of a module.
    """

    code: str
    severity: Severity
    fix: Literal["safe", "unsafe", "none"]
    title: str
    why: str
    before: str
    after: str
    trigger: Callable[[MigrateConfig], tuple[tuple[str, ...], ...]]
    check: Callable[[Module], Iterator[Finding]]
    pattern: str = ""
    """A regular expression that a text must match as well."""


def terminal(node: ast.AST) -> str:
    """Return the last name of an expression: ``c`` of ``a.b.c``, of ``a.b.c()`` and of ``(await a.b.c())``."""
    while isinstance(node, ast.Call | ast.Await):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")


def words(name: str) -> frozenset[str]:
    """Return the words of a name: ``userCache_v2`` has ``user``, ``cache`` and ``v2``."""
    return frozenset(word.lower() for word in _WORD.findall(name))


def names_in(node: ast.AST) -> Iterator[str]:
    """Yield every name, attribute, parameter and text within an expression."""
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            yield one.id
        elif isinstance(one, ast.Attribute):
            yield one.attr
        elif isinstance(one, ast.keyword) and one.arg:
            yield one.arg
        elif isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def within(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is in a function's own body, without the functions and classes inside it."""
    waiting = list(getattr(node, "body", []))
    while waiting:
        one = waiting.pop()
        yield one
        if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(one)


def context_in_scope(module: Module, node: ast.AST) -> str | None:
    """Return the name of a parameter or variable that holds a per-user context where a node stands."""
    own = scope = module.scope_at(node).function()
    while scope is not None:
        # Asked for each call in a function, and the same for all of them.
        if scope not in module.contexts:
            module.contexts[scope] = list(_contexts_of(module, scope))
        for line, name in module.contexts[scope]:
            # What is made below is not there yet; what is made around a function is, by the time it is called.
            if scope is not own or line <= node.lineno:  # type: ignore[attr-defined] # an expression has it
                return name
        scope = scope.parent.function() if scope.parent else None
    return None


def _contexts_of(module: Module, scope: Scope) -> Iterator[tuple[int, str]]:
    for name, annotation in scope.annotations.items():
        if module.config.context_list.find(annotated(annotation, scope)):
            yield annotation.lineno, name
    for name, values in scope.values.items():
        for value in values:
            made = scope.resolve(value.func) if isinstance(value, ast.Call) else frozenset()
            if any(module.config.context_list.find([one, one.rpartition(".")[0]]) for one in made):
                yield (value.end_lineno or value.lineno) + 1, name


@dataclass(frozen=True)
class KnownUser:
    """What a function knows of the user whom it serves."""

    expression: str | None
    """The user's id; ``None`` where only a run or thread of the user's is known."""


def user_in_scope(module: Module, node: ast.expr) -> KnownUser | None:
    """Return what the function around a node knows of its user, as its names tell; ``None`` if it knows nothing."""
    context = context_in_scope(module, node)
    if context is not None:
        return KnownUser(f"{context}.user_id")
    function = module.function_at(node)
    if function is None:
        return None
    names = set(module.config.user_names)
    arguments = function.args
    parameters = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    exact = next((name for name in parameters if name in names), None)
    if exact is not None:
        return KnownUser(exact)
    known = KnownUser(None) if not {"run_id", "thread_id"}.isdisjoint(parameters) else None
    for one in within(function):
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store) and one.id in names:
            if (one.lineno, one.col_offset) < (node.lineno, node.col_offset):
                return KnownUser(one.id)
        elif isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Load) and one.attr in {"user_id", "run_id"}:
            if one.attr == "user_id" and isinstance(one.value, ast.Name) and one.value.id in parameters:
                return KnownUser(f"{one.value.id}.user_id")
            known = known or KnownUser(None)
    return known
