"""What the names in a module stand for, as far as its text tells."""

from __future__ import annotations

import ast
from collections.abc import Iterable

FOREIGN = frozenset({"deepagents"})
"""Packages of others whose names are like those of a legacy service. Nothing of them is ever meant."""


class NameList:
    """Fully qualified names. One stands for itself and for the same name below any package.

    ``app.agents.state.DeepAgentState`` is also ``service.app.agents.state.DeepAgentState``, and never a mere
    ``DeepAgentState``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._by_last: dict[str, list[str]] = {}
        for name in self.names:
            self._by_last.setdefault(name.rpartition(".")[2], []).append(name)

    @property
    def last_parts(self) -> frozenset[str]:
        """The last part of each, which is how a text that uses it names it."""
        return frozenset(self._by_last)

    def matches(self, name: str) -> bool:
        """Say whether a fully qualified name is one of them."""
        last = name.rpartition(".")[2]
        if last not in self._by_last or not FOREIGN.isdisjoint(name.split(".")):
            return False
        return any(name == one or name.endswith(f".{one}") for one in self._by_last[last])

    def find(self, names: Iterable[str]) -> str | None:
        """Return the first of the names that is one of them."""
        return next((name for name in sorted(names) if self.matches(name)), None)


class Scope:
    """The names that a module, a class, a function or a comprehension binds."""

    def __init__(self, node: ast.AST, parent: Scope | None, qualified: str) -> None:
        self.node = node
        self.parent = parent
        self.qualified = qualified
        """The scope's own name: ``package.module.Class.method``."""
        self.is_class = isinstance(node, ast.ClassDef)
        self.is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        self.origins: dict[str, set[str | None]] = {}
        """For each name what it is bound to: a qualified name, or ``None`` for any other value."""
        self.values: dict[str, list[ast.expr]] = {}
        """For each name the expressions that are assigned to it alone."""
        self.annotations: dict[str, ast.expr] = {}
        self.declared: dict[str, Scope] = {}
        """Names that ``global`` or ``nonlocal`` says are bound further out, and where."""
        self.stars: list[str] = []
        """Modules of which everything is imported."""

    def bind(self, name: str, origin: str | None = None) -> None:
        """Note that the scope binds a name."""
        self.binding(name).origins.setdefault(name, set()).add(origin)

    def binding(self, name: str) -> Scope:
        """Return the scope in which a name is bound that is assigned to here."""
        return self.declared.get(name, self)

    def home(self, name: str) -> Scope | None:
        """Return the scope that a name used here is looked up in; ``None`` if nothing in the module binds it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.origins and (scope is self or not scope.is_class):
                return scope
            scope = scope.parent
        return None

    def top(self) -> Scope:
        """Return the module's scope."""
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope

    def function(self) -> Scope | None:
        """Return the innermost function that this is in, if it is in one."""
        scope: Scope | None = self
        while scope is not None and not isinstance(scope.node, ast.FunctionDef | ast.AsyncFunctionDef):
            scope = scope.parent
        return scope

    def owner(self) -> Scope | None:
        """Return the innermost class that this is in, if it is in one."""
        scope: Scope | None = self
        while scope is not None and not scope.is_class:
            scope = scope.parent
        return scope

    def resolve(self, node: ast.AST) -> frozenset[str]:
        """Return the qualified names that an expression may stand for; none if it is anything else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return frozenset()
        tail = "".join(f".{part}" for part in reversed(parts))
        return frozenset(f"{origin}{tail}" for origin in self.resolve_name(node.id))

    def resolve_name(self, name: str) -> frozenset[str]:
        """Return the qualified names that a name may stand for. What nothing binds is a builtin, or is starred."""
        home = self.home(name)
        if home is None:
            return frozenset([f"builtins.{name}", *(f"{module}.{name}" for module in self.top().stars)])
        return frozenset(origin for origin in home.origins[name] if origin is not None)


_WRAPPERS = frozenset({"Optional", "Union", "Annotated", "Final"})


def annotated(annotation: ast.expr | None, scope: Scope) -> frozenset[str]:
    """Return the qualified names of the types that an annotation allows for the value itself, not within containers."""
    found: set[str] = set()
    waiting: list[ast.AST] = [annotation] if annotation is not None else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                waiting.append(ast.parse(node.value, mode="eval").body)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            waiting += [node.left, node.right]
        elif isinstance(node, ast.Subscript):
            outer = node.value
            if (outer.attr if isinstance(outer, ast.Attribute) else getattr(outer, "id", "")) in _WRAPPERS:
                waiting += node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        else:
            found |= scope.resolve(node)
    return frozenset(found)
