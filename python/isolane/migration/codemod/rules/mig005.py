"""MIG005: a module or a class keeps what is one user's own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from isolane.migration.codemod.findings import Finding
from isolane.migration.codemod.module import Module
from isolane.migration.codemod.rules.base import Rule, terminal

_MUTABLE_CALLS = frozenset({"dict", "list", "set", "defaultdict", "deque", "OrderedDict", "Counter"})
_CHANGES = (
    *("append", "appendleft", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "popleft"),
    *("remove", "discard", "clear"),
)
# Their machinery gives every instance its own copy, or allows none.
_COPIED = frozenset(
    {
        "BaseModel",
        "BaseSettings",
        "RootModel",
        "SQLModel",
        "Struct",
        "TypedDict",
        "NamedTuple",
        "Enum",
        "IntEnum",
        "StrEnum",
    }
)
_CHANGED = re.compile(
    rf"\bself\.(\w+)(?:\.(?:{'|'.join(_CHANGES)})\(|\[[^\]\n]*\][ \t]*(?:[-+|&*/]?=)(?!=)|[ \t]*[+|&]=)"
)
_BASES = re.compile(r"^[ \t]*class[ \t]+\w+[ \t]*\(([^)]*)\)", re.MULTILINE)


def facts(text: str) -> Iterator[str]:
    """Yield what subclasses in a text change of their bases: ``mutates:Base.attribute``. The text is enough for it."""
    changed = set(_CHANGED.findall(text)) if "self." in text else None
    if changed:
        bases = {base.strip().rpartition(".")[2] for listed in _BASES.findall(text) for base in listed.split(",")}
        yield from (f"mutates:{base}.{name}" for base in bases if base.isidentifier() for name in changed)


def _per_user_instances(module: Module) -> Iterator[Finding]:
    per_user = module.config.per_user_list
    for node in module.nodes(ast.Call):
        called = module.resolve(node.func)
        name = per_user.find({*called, *(one.rpartition(".")[0] for one in called)})
        if name is None:
            continue
        place = _shared_place(module, node)
        if place:
            last = name.rpartition(".")[2]
            message = f"{place} keeps a {last} for all users; make one for each run"
            yield module.finding("MIG005", "error", node, message)


def _shared_place(module: Module, node: ast.Call) -> str:
    """Return what keeps the value of an expression that is evaluated once for all users; empty if nothing does."""
    inner: ast.AST = node
    for one in module.parents(node):
        if isinstance(one, ast.Lambda | ast.comprehension):
            return ""
        if isinstance(one, ast.arguments):
            return "a default of a parameter" if inner in (*one.defaults, *one.kw_defaults) else ""
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            return ""
        if isinstance(one, ast.If) and "__main__" in ast.dump(one.test):
            return ""
        if isinstance(one, ast.ClassDef):
            return "the class"
        inner = one
    return "the module"


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp):
        return True
    return isinstance(value, ast.Call) and terminal(value.func) in _MUTABLE_CALLS


def _defaults(node: ast.ClassDef) -> Iterator[tuple[str, ast.stmt]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            target, value = statement.target, statement.value
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            if not isinstance(statement.targets[0], ast.Name):
                continue
            target, value = statement.targets[0], statement.value
        else:
            continue
        if _is_mutable(value) and not target.id.startswith("__"):
            yield target.id, statement


def _own(node: ast.ClassDef) -> tuple[set[str], set[str]]:
    """Return the attributes of ``self`` that the methods of a class change, and those that they give an instance."""
    changed: set[str] = set()
    given: set[str] = set()
    in_place: set[ast.expr] = set()
    for one in ast.walk(node):
        if isinstance(one, ast.AugAssign):
            # For a container: the class's own is changed, and then also put into the instance.
            in_place.add(one.target)
            changed |= _self_attribute(one.target)
        elif isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr in _CHANGES:
            changed |= _self_attribute(one.func.value)
        elif isinstance(one, ast.Subscript) and not isinstance(one.ctx, ast.Load):
            changed |= _self_attribute(one.value)
        elif isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store) and one not in in_place:
            given |= _self_attribute(one)
    return changed, given


def _self_attribute(node: ast.expr) -> set[str]:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return {node.attr}
    return set()


def _classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Yield all classes but those within functions, without a look at expressions."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef):
            yield node
            waiting += node.body
        elif isinstance(node, ast.If | ast.Try):
            waiting += [*node.body, *node.orelse]


def _class_defaults(module: Module) -> Iterator[Finding]:
    text = module.source.text
    for node in _classes(module.tree):
        if any(terminal(base) in _COPIED for base in node.bases) or "dataclass" in map(terminal, node.decorator_list):
            continue
        defaults = list(_defaults(node))
        if not defaults:
            continue
        # Most are tables that nothing here touches: the text says so faster than the tree.
        touched = any(f"self.{name}" in text for name, _ in defaults)
        changed, given = _own(node) if touched else (set(), set())
        for name, statement in defaults:
            if name in given:
                continue
            message = (
                f"{node.name}.{name} is one container for all instances, and methods change it; make it in __init__"
            )
            needs = () if name in changed else (f"mutates:{node.name}.{name}",)
            yield module.finding("MIG005", "error", statement, message, needs=needs)


def _check(module: Module) -> Iterator[Finding]:
    if any(name in module.source.text for name in module.config.per_user_list.last_parts):
        yield from _per_user_instances(module)
    yield from _class_defaults(module)


RULE = Rule(
    code="MIG005",
    severity="error",
    fix="none",
    title="a module or class that keeps what is a user's own",
    why=(
        "An instance of a per-user class in a module, in a class or in a parameter's default lives as long as the "
        "process and serves whoever comes. A list, dict or set in the body of a class is the same one in all of them; "
        "it is reported where a method of the class, or of a subclass in the scanned files, changes it through self. "
        "Tables that nobody changes are left alone."
    ),
    before=("class Agent:\n    transcript = []\n\n    def note(self, line):\n        self.transcript.append(line)\n"),
    after=(
        "class Agent:\n"
        "    def __init__(self):\n"
        "        self.transcript = []\n"
        "\n"
        "    def note(self, line):\n"
        "        self.transcript.append(line)\n"
    ),
    trigger=lambda config: (("class ", *config.per_user_list.last_parts),),
    check=_check,
)
