"""MIG007: whoever is not known becomes one and the same user."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding
from isolane.migration.codemod.module import FunctionNode, Module
from isolane.migration.codemod.rules.base import Rule, terminal, words

_LOGGERS = frozenset({"logger", "log", "logging", "print", "warnings"})
_NOBODY = frozenset({"me", "self", "current", "all"})
"""Texts that stand for the caller itself, or for everybody, and so make nobody up."""


def _text(node: ast.AST | None) -> str:
    """Return a text that names somebody; empty for anything else, such as a dash in a table."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return ""
    return node.value if any(map(str.isalnum, node.value)) and node.value not in _NOBODY else ""


def _identity(module: Module, node: ast.AST) -> str:
    """Return the identity that an expression reads: a name, an attribute, ``d["user_id"]``, ``d.get(...)``."""
    names = module.config.identity_names
    if isinstance(node, ast.Subscript):
        name = _text(node.slice)
    elif isinstance(node, ast.Call) and terminal(node.func) in {"get", "pop", "getattr"}:
        name = next((text for one in node.args[:2] if (text := _text(one)) in names), "")
    elif isinstance(node, ast.Name | ast.Attribute):
        name = terminal(node)
    else:
        name = ""
    return name if name in names else ""


def _for_display(module: Module, node: ast.AST) -> bool:
    """Say whether an expression is only shown to whoever reads the log."""
    for one in module.parents(node):
        if isinstance(one, ast.Call):
            called = one.func
            owner = words(terminal(called.value)) if isinstance(called, ast.Attribute) else frozenset()
            if not _LOGGERS.isdisjoint(words(terminal(called)) | owner):
                return True
        if isinstance(one, ast.stmt):
            return False
    return False


def _absent(test: ast.expr) -> ast.expr | None:
    """Return what a condition asks the absence of: ``not x``, ``x is None``, ``x == ""``."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Is | ast.Eq):
        other = test.comparators[0]
        return test.left if isinstance(other, ast.Constant) and not other.value else None
    return None


def _choices(module: Module) -> Iterator[tuple[ast.AST, str, str]]:
    """Yield conditions whose one side is the identity and whose other side is a text."""
    for one in module.nodes(ast.IfExp):
        for value, other in ((one.body, one.orelse), (one.orelse, one.body)):
            if (name := _identity(module, value)) and (text := _text(other)):
                yield one, name, text
                break
    for condition in module.nodes(ast.If):
        absent = _absent(condition.test)
        name = _identity(module, absent) if absent is not None else ""
        for statement in condition.body if name else ():
            if (
                isinstance(statement, ast.Assign)
                and any(_identity(module, target) == name for target in statement.targets)
                and (text := _text(statement.value))
            ):
                yield statement, name, text


def _fallbacks(module: Module) -> Iterator[tuple[ast.AST, str, str]]:
    """Yield where one value is taken in the place of another: the node, the identity, and the text."""
    for choice in module.nodes(ast.BoolOp):
        if isinstance(choice.op, ast.Or) and (text := _text(choice.values[-1])):
            for value in choice.values[:-1]:
                if name := _identity(module, value):
                    yield choice, name, text
                    break
    for call in module.nodes(ast.Call):
        places = {"get": 1, "pop": 1, "getattr": 2}
        place = places.get(terminal(call.func), 9)
        if len(call.args) == place + 1 and (text := _text(call.args[place])):
            name = _text(call.args[place - 1])
            if name in module.config.identity_names:
                yield call, name, text


def _constants(module: Module) -> Iterator[tuple[ast.AST, str, str]]:
    """Yield where a text that stands for nobody in particular is given as an identity."""
    literals = set(module.config.identity_literals)
    names = module.config.identity_names
    for function in module.functions():
        yield from ((node, name, text) for node, name, text in _parameters(function) if name in names)
    for keyword in module.nodes(ast.keyword):
        if keyword.arg in names and (text := _text(keyword.value)) in literals:
            yield keyword.value, str(keyword.arg), text
    assigned: list[tuple[ast.stmt, list[ast.expr], ast.expr | None]] = [
        *((one, one.targets, one.value) for one in module.nodes(ast.Assign)),
        *((one, [_target(one)], one.value) for one in module.nodes(ast.AnnAssign)),
    ]
    for statement, targets, value in assigned:
        if (text := _text(value)) in literals:
            for target in targets:
                if name := _identity(module, target):
                    yield statement, name, text


def _target(statement: ast.AnnAssign) -> ast.expr:
    return statement.target


def _parameters(function: FunctionNode) -> Iterator[tuple[ast.AST, str, str]]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        if default is not None and (text := _text(default)):
            yield default, argument.arg, text


def _check(module: Module) -> Iterator[Finding]:
    seen: set[ast.AST] = set()
    for node, name, text in (*_fallbacks(module), *_choices(module), *_constants(module)):
        if node in seen or _for_display(module, node):
            continue
        seen.add(node)
        message = f"whoever has no {name} becomes {text!r}, one identity for all of them; refuse the request instead"
        yield module.finding("MIG007", "error", node, message)


RULE = Rule(
    code="MIG007",
    severity="error",
    fix="none",
    title="an identity that is made up",
    why=(
        "user_id or 'default_user' turns everybody whose id is missing into one user, who then reads what the others "
        "left. Contexts refuse such ids. The fallback is also found in dict.get, getattr, conditions and "
        "parameters' defaults, and the literals of identity_literals wherever they are given as an identity. What is "
        "only written to a log is left alone."
    ),
    before='owner = state.user_id or "default_user"\n',
    after='if not state.user_id:\n    raise PermissionError("sign in first")\nowner = state.user_id\n',
    trigger=lambda config: (config.identity_names, ("'", '"')),
    check=_check,
)
