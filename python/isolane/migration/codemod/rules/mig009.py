"""MIG009: a cohort that is another one in every process, or at every call."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding, Fix
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.rules.base import Rule, names_in, user_in_scope, words

_COHORT = frozenset(
    {
        "rollout",
        "percent",
        "percentage",
        "pct",
        "cohort",
        "canary",
        "experiment",
        "bucket",
        "variant",
        "feature",
        "flag",
        "ramp",
    }
)
_WHO = frozenset(
    {"user", "uid", "account", "tenant", "customer", "member", "visitor", "organization", "org", "subscriber"}
)
_DRAWS = frozenset({"random.random", "random.uniform", "random.randint", "random.randrange"})
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def _is_hash(module: Module, node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and len(node.args) == 1 and module.resolve(node.func) == {"builtins.hash"}


def _says(node: ast.AST, some: frozenset[str]) -> bool:
    return any(not some.isdisjoint(words(name)) for name in names_in(node))


def _is_cohort(module: Module, node: ast.expr) -> bool:
    """Say whether a draw is about who gets something: by what it is compared with, or by its function's name."""
    parent = module.parent(node)
    while isinstance(parent, ast.BinOp | ast.Call | ast.UnaryOp):
        parent = module.parent(parent)
    if isinstance(parent, ast.Compare) and _says(parent, _COHORT):
        return True
    function = module.function_at(node)
    return function is not None and not _COHORT.isdisjoint(words(function.name))


def _comparison(module: Module, node: ast.expr) -> ast.Compare | None:
    """Return the comparison of a share with a limit that a draw is the one side of."""
    parent = module.parent(node)
    while isinstance(parent, ast.BinOp | ast.Call | ast.UnaryOp):
        parent = module.parent(parent)
    if isinstance(parent, ast.Compare) and len(parent.ops) == 1 and isinstance(parent.ops[0], _ORDER):
        return parent
    return None


def _fix(module: Module, node: ast.expr, unit: str | None) -> tuple[ast.expr, Fix | None, str]:
    """Return what to replace, and how; or why not."""
    compare = _comparison(module, node)
    if compare is None:
        return node, None, "it is not compared with a percentage here"
    if unit is None:
        return node, None, "the user's id is not known here"
    left = any(one is node for one in ast.walk(compare.left))
    chosen = isinstance(compare.ops[0], ast.Lt | ast.LtE) == left
    arguments = {"flag": module.config.flag, "unit": unit, "not": "" if chosen else "1"}
    home = module.scope_at(node).home("flags")
    decides = home is not None and None in home.origins["flags"]
    arguments["flags"] = "flags" if decides else "installed_flags()"
    imports = () if decides else (("isolane.migration.flags", "installed_flags"),)
    return compare, Fix("unsafe", "decide", arguments, imports=imports), ""


def _check(module: Module) -> Iterator[Finding]:
    for node in module.nodes(ast.BinOp):
        inner = node.left
        if isinstance(inner, ast.Call) and len(inner.args) == 1 and module.resolve(inner.func) == {"builtins.abs"}:
            inner = inner.args[0]
        if not isinstance(node.op, ast.Mod) or not isinstance(inner, ast.Call) or not _is_hash(module, inner):
            continue
        if not (_says(inner.args[0], _WHO) or _is_cohort(module, node)):
            continue
        known = user_in_scope(module, node)
        unit = ast.unparse(inner.args[0]) if _plain(inner.args[0]) else (known.expression if known else None)
        where, fix, no_fix = _fix(module, node, unit)
        message = "hash() of a text is another number in every process: the cohort changes at each start and worker"
        yield module.finding("MIG009", "error", where, message, fix=fix, no_fix=no_fix)
    for draw in module.nodes(ast.Call):
        if (
            _DRAWS.isdisjoint(module.resolve(draw.func))
            or _comparison(module, draw) is None
            or not _is_cohort(module, draw)
        ):
            continue
        known = user_in_scope(module, draw)
        where, fix, no_fix = _fix(module, draw, known.expression if known else None)
        message = "a draw is another one at each call: one user gets both sides of the cohort"
        yield module.finding("MIG009", "error", where, message, fix=fix, no_fix=no_fix)


def _plain(node: ast.expr) -> bool:
    """Say whether an expression names a user and nothing else: ``user_id``, ``user.id``."""
    return isinstance(node, ast.Name | ast.Attribute)


RULE = Rule(
    code="MIG009",
    severity="error",
    fix="unsafe",
    title="a cohort by hash() or by a draw",
    why=(
        "hash() of a text differs between processes, so a user is in the cohort in one worker and out of it in the "
        "next. A draw differs at each call. hash(x) % n is reported where x names a user, or where it is compared with "
        "a percentage; a draw where it is compared with one. The fix asks the flag named by the setting flag: of an "
        "object called flags, if the file has one, else of the installed ones. The cohort becomes another one, once."
    ),
    before="def long_answers(user_id, flags):\n    return hash(user_id) % 100 < 25\n",
    after='def long_answers(user_id, flags):\n    return flags.decide("modern_execution", user_id).value\n',
    trigger=lambda _: (("hash(", "random()", "uniform(", "randint(", "randrange("), tuple(_COHORT | _WHO)),
    check=_check,
)
