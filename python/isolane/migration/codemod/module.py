"""One file as the rules see it: its tree, who is whose parent, and what the names stand for."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeVar

from isolane.migration.codemod.config import MigrateConfig
from isolane.migration.codemod.findings import Finding, Fix, Severity, Span
from isolane.migration.codemod.names import Scope, annotated
from isolane.migration.codemod.source import SourceText, statement_starts

_N = TypeVar("_N", bound=ast.AST)
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_NODES = frozenset(
    one
    for one in vars(ast).values()
    if isinstance(one, type)
    and issubclass(one, ast.AST)
    # Contexts and operators are shared objects of the parser that say nothing of their own.
    and not issubclass(one, ast.expr_context | ast.operator | ast.unaryop | ast.boolop | ast.cmpop)
)
_PARAMETERS = ("posonlyargs", "args", "vararg", "kwonlyargs", "kwarg")
_DEFINED = frozenset({"body", "args"})
_EVERYTHING = frozenset({"body", "args", "elt", "key", "value", "generators"})
_INSIDE = {
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef), _DEFINED),
    **dict.fromkeys((ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), _EVERYTHING),
}
"""Which parts of a definition are evaluated in the scope that it makes, and not where it stands."""


class Module:
    """A parsed file. Walks itself once; every rule that has something to look for shares the result."""

    def __init__(self, path: str, name: str, source: SourceText, tree: ast.Module, config: MigrateConfig) -> None:
        self.path = path
        self.name = name
        """Dotted; of an ``__init__.py`` it is that of the package."""
        self.source = source
        self.tree = tree
        self.config = config
        self.facts: set[str] = set()
        """What other files may want to know: ``kind:qualified.name``."""
        self._top = Scope(tree, None, name)
        self._nodes: dict[type[ast.AST], list[ast.AST]] = defaultdict(list)
        self._links: dict[ast.AST, tuple[ast.AST, Scope]] = {}
        self._scopes: dict[ast.AST, Scope] = {tree: self._top}
        self._walked = False
        self.contexts: dict[Scope, list[tuple[int, str]]] = {}
        """For each function that was asked about, its own names of a context, each with the line that gives it."""
        self._uses: dict[str, list[ast.Name]] | None = None
        self._by_home: dict[str, dict[Scope | None, list[ast.Name]]] = {}
        self._given: dict[str, list[ast.expr]] | None = None

    @property
    def scope(self) -> Scope:
        """The scope of the module itself."""
        self._look()
        return self._top

    # How the tree hangs together.

    def nodes(self, kind: type[_N]) -> list[_N]:
        """Return all nodes of a type, in the order in which they were met. The first call walks through the tree."""
        self._look()
        return self._nodes[kind]  # type: ignore[return-value] # they were put there by their types

    def uses(self, name: str, home: Scope | None) -> list[ast.Name]:
        """Return every use of a name that a scope binds. What many findings ask for is looked for once."""
        if self._uses is None:
            self._uses = {}
            for one in self.nodes(ast.Name):
                self._uses.setdefault(one.id, []).append(one)
        if name not in self._by_home:
            by_home = self._by_home[name] = defaultdict(list)
            for one in self._uses.get(name, ()):
                by_home[self.scope_at(one).home(name)].append(one)
        return self._by_home[name].get(home, [])

    def given_to(self, name: str) -> list[ast.expr]:
        """Return what is assigned, anywhere in the file, to a variable or an attribute of a name."""
        if self._given is None:
            self._given = {}
            for assigned in self.nodes(ast.Assign):
                for target in assigned.targets:
                    self._give(target, assigned.value)
            for declared in self.nodes(ast.AnnAssign):
                if declared.value is not None:
                    self._give(declared.target, declared.value)
        return self._given.get(name, [])

    def _give(self, target: ast.expr, value: ast.expr) -> None:
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        if self._given is not None and name:
            self._given.setdefault(name, []).append(value)

    @cached_property
    def starts(self) -> frozenset[tuple[int, int]]:
        """Where the statements begin."""
        return statement_starts(self.tree)

    def functions(self) -> Iterator[FunctionNode]:
        """Yield all functions, of both kinds."""
        yield from self.nodes(ast.FunctionDef)
        yield from self.nodes(ast.AsyncFunctionDef)

    def parent(self, node: ast.AST) -> ast.AST | None:
        """Return what a node is part of."""
        link = self._links.get(node)
        return link[0] if link else None

    def parents(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield what a node is part of, from the inside out."""
        while (link := self._links.get(node)) is not None:
            node = link[0]
            yield node

    def scope_at(self, node: ast.AST) -> Scope:
        """Return the scope in which a node's names are looked up."""
        link = self._links.get(node)
        return link[1] if link else self.scope

    def scope_of(self, node: ast.AST) -> Scope:
        """Return the scope that a function, class, lambda or comprehension makes."""
        return self._scopes[node]

    def function_at(self, node: ast.AST) -> FunctionNode | None:
        """Return the innermost function around a node."""
        scope = self.scope_at(node).function()
        return scope.node if scope else None  # type: ignore[return-value] # a scope's function() is one of a function

    def statement(self, node: ast.AST) -> ast.stmt | None:
        """Return the statement that a node is in."""
        if isinstance(node, ast.stmt):
            return node
        return next((one for one in self.parents(node) if isinstance(one, ast.stmt)), None)

    # What names stand for.

    def resolve(self, node: ast.AST) -> frozenset[str]:
        """Return the qualified names that an expression may stand for."""
        base = node
        while isinstance(base, ast.Attribute):
            base = base.value
        return self.scope_at(base).resolve(node)

    def type_of(self, node: ast.AST) -> frozenset[str]:
        """Return the qualified names of the types that a name is annotated with, or that it was made by calling."""
        if not isinstance(node, ast.Name):
            return frozenset()
        home = self.scope_at(node).home(node.id)
        if home is None:
            return frozenset()
        if node.id in home.annotations:
            return annotated(home.annotations[node.id], home)
        made = [value for value in home.values.get(node.id, ()) if isinstance(value, ast.Call)]
        return frozenset(name for value in made for name in home.resolve(value.func))

    # Findings.

    def finding(
        self,
        rule: str,
        severity: Severity,
        node: ast.AST | Span,
        message: str,
        *,
        fix: Fix | None = None,
        no_fix: str = "",
        needs: tuple[str, ...] = (),
    ) -> Finding:
        """Make a finding of this file."""
        span = node if isinstance(node, Span) else self.source.span(node)
        snippet = self.source.line(span.line).strip()[:200]
        return Finding(rule, severity, self.path, span, message, snippet, fix, no_fix, needs)

    def header(self, node: FunctionNode | ast.ClassDef) -> Span:
        """Return where the line with ``def`` or ``class`` and the name stands, without decorators and body."""
        column = self.source.column(node.lineno, node.col_offset)
        return Span(node.lineno, column, node.lineno, len(self.source.line(node.lineno).rstrip()))

    # The walk.

    def _look(self) -> None:
        if not self._walked:
            self._walked = True
            self._walk()

    def _walk(self) -> None:
        """Visit every node without recursion: trees are deeper than stacks."""
        waiting: list[tuple[ast.AST, Scope]] = [(self.tree, self._top)]
        links, nodes = self._links, self._nodes
        while waiting:
            node, scope = waiting.pop()
            kind = node.__class__
            nodes[kind].append(node)
            if isinstance(node, ast.arguments) and scope.parent is not None:
                # A default is evaluated where the definition stands.
                for default in (*node.defaults, *node.kw_defaults):
                    if default is not None:
                        links[default] = (node, scope.parent)
                        waiting.append((default, scope.parent))
            bind = _BINDERS.get(kind)
            inner = scope if bind is None else (bind(self, node, scope) or scope)
            values = node.__dict__
            for name in kind._fields if kind is not ast.arguments else _PARAMETERS:
                value = values.get(name)
                if value.__class__ is list:
                    child = scope if inner is not scope and name not in _INSIDE[kind] else inner
                    link = (node, child)
                    for item in reversed(value):
                        if item.__class__ in _NODES:
                            links[item] = link
                            waiting.append((item, child))
                elif value.__class__ in _NODES:
                    child = scope if inner is not scope and name not in _INSIDE[kind] else inner
                    links[value] = (node, child)
                    waiting.append((value, child))

    def make_scope(self, node: ast.AST, parent: Scope, qualified: str) -> Scope:
        """Make the scope of a definition or a comprehension."""
        scope = self._scopes[node] = Scope(node, parent, qualified)
        return scope

    def imported_module(self, node: ast.ImportFrom) -> str:
        """Return the full name of the module that names are imported from."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        above = node.level if not self.path.endswith("__init__.py") else node.level - 1
        package = parts[: max(len(parts) - above, 0)] if above else parts
        return ".".join([*package, *([node.module] if node.module else [])])


# What a node binds in its scope, by its type. Each takes its own type of node.


def _bind_import(_: Module, node: ast.Import, scope: Scope) -> None:
    for alias in node.names:
        if alias.asname:
            scope.bind(alias.asname, alias.name)
        else:
            first = alias.name.partition(".")[0]
            scope.bind(first, first)


def _bind_import_from(module: Module, node: ast.ImportFrom, scope: Scope) -> None:
    origin = module.imported_module(node)
    for alias in node.names:
        if alias.name == "*":
            scope.stars.append(origin)
        else:
            scope.bind(alias.asname or alias.name, f"{origin}.{alias.name}" if origin else alias.name)


def _bind_name(_: Module, node: ast.Name, scope: Scope) -> None:
    if not isinstance(node.ctx, ast.Load):
        scope.bind(node.id)


def _bind_argument(_: Module, node: ast.arg, scope: Scope) -> None:
    scope.bind(node.arg)
    if node.annotation is not None:
        scope.annotations[node.arg] = node.annotation


def _bind_assigned(_: Module, node: ast.Assign, scope: Scope) -> None:
    for target in node.targets:
        if isinstance(target, ast.Name):
            scope.binding(target.id).values.setdefault(target.id, []).append(_value(node.value))


def _bind_annotated(_: Module, node: ast.AnnAssign, scope: Scope) -> None:
    if isinstance(node.target, ast.Name):
        home = scope.binding(node.target.id)
        home.annotations[node.target.id] = node.annotation
        if node.value is not None:
            home.values.setdefault(node.target.id, []).append(_value(node.value))


def _bind_captured(_: Module, node: ast.AST, scope: Scope) -> None:
    name = getattr(node, "name", None) or getattr(node, "rest", None)
    if name:
        scope.bind(name)


def _bind_global(_: Module, node: ast.Global, scope: Scope) -> None:
    scope.declared.update(dict.fromkeys(node.names, scope.top()))


def _bind_nonlocal(_: Module, node: ast.Nonlocal, scope: Scope) -> None:
    for name in node.names:
        home = scope.parent.home(name) if scope.parent else None
        if home is not None:
            scope.declared[name] = home


def _value(node: ast.expr) -> ast.expr:
    return node.value if isinstance(node, ast.Await) else node


def _bind_definition(module: Module, node: FunctionNode | ast.ClassDef, scope: Scope) -> Scope:
    qualified = f"{scope.qualified}.{node.name}"
    scope.bind(node.name, qualified)
    return module.make_scope(node, scope, qualified)


def _open_scope(module: Module, node: ast.AST, scope: Scope) -> Scope:
    return module.make_scope(node, scope, scope.qualified)


_BINDERS: dict[type[ast.AST], Callable[[Module, Any, Scope], Scope | None]] = {
    ast.FunctionDef: _bind_definition,
    ast.AsyncFunctionDef: _bind_definition,
    ast.ClassDef: _bind_definition,
    ast.Lambda: _open_scope,
    ast.ListComp: _open_scope,
    ast.SetComp: _open_scope,
    ast.DictComp: _open_scope,
    ast.GeneratorExp: _open_scope,
    ast.Import: _bind_import,
    ast.ImportFrom: _bind_import_from,
    ast.Name: _bind_name,
    ast.arg: _bind_argument,
    ast.Assign: _bind_assigned,
    ast.AnnAssign: _bind_annotated,
    ast.ExceptHandler: _bind_captured,
    ast.MatchAs: _bind_captured,
    ast.MatchStar: _bind_captured,
    ast.MatchMapping: _bind_captured,
    ast.Global: _bind_global,
    ast.Nonlocal: _bind_nonlocal,
}
