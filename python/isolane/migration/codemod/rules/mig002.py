"""MIG002: a function takes the legacy state."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from isolane.migration.codemod.findings import Finding, Fix, Replacement
from isolane.migration.codemod.module import FunctionNode, Module
from isolane.migration.codemod.names import annotated
from isolane.migration.codemod.rules.base import Rule, terminal

READS = {
    "user_id": "context.user_id",
    "thread_id": "context.thread_id",
    "chat_thread_id": "context.thread_id",
    "run_id": "context.run_id",
    "user_request": "request",
    "user_prompt": "request",
}
"""What a read of the state's field becomes."""

OWN = {"run_id": "context.run_id", "stream_updates": "True"}
"""What the other parameters of ``execute`` become where they are read."""

MODERN_NAME = "execute_with_context"


@dataclass
class _Plan:
    """What would become of one function."""

    function: FunctionNode
    state: ast.arg
    owner: ast.ClassDef | None
    entry: bool
    """Whether it is ``execute`` or another method that the engine calls with ``state, run_id``."""
    replacements: list[Replacement] = field(default_factory=list)
    passes: list[tuple[str, ast.Name]] = field(default_factory=list)
    """Functions of this file that it passes the state to."""
    reads_request: bool = False
    problem: str = ""


def _parameters(function: FunctionNode) -> list[ast.arg]:
    arguments = function.args
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def _state_parameter(module: Module, function: FunctionNode) -> ast.arg | None:
    """Return the parameter with the state: annotated as one, or in its place in a method of the family."""
    scope = module.scope_of(function)
    for one in _parameters(function):
        if module.config.state_list.find(annotated(one.annotation, scope)):
            return one
    if function.name in module.config.legacy_methods:
        named = [one for one in _parameters(function) if one.arg not in {"self", "cls"}]
        if [one.arg for one in named[:2]] == ["state", "run_id"] and named[0].annotation is None:
            return named[0]
    return None


def _defaults(function: FunctionNode) -> set[str]:
    """Return the names of the parameters with a default."""
    positional = [*function.args.posonlyargs, *function.args.args]
    with_default = positional[len(positional) - len(function.args.defaults) :]
    keyword = [one for one, value in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True) if value]
    return {one.arg for one in (*with_default, *keyword)}


def _plan(module: Module, function: FunctionNode, state: ast.arg) -> _Plan:
    around = module.scope_at(function).node
    owner = around if isinstance(around, ast.ClassDef) else None
    plan = _Plan(function, state, owner, entry=owner is not None and function.name in module.config.legacy_methods)
    plan.problem = _obstacle(module, plan)
    scope = module.scope_of(function)
    parameters = {one.arg for one in _parameters(function)}
    # Events of a run always reach whoever listens, so nobody is asked whether they should.
    own = {name: text for name, text in OWN.items() if plan.entry and name in parameters}
    for node in (use for name in (state.arg, *own) for use in module.uses(name, scope)):
        if node.id == state.arg:
            _state_use(module, plan, node)
        else:
            _own_use(module, plan, node, own[node.id])
    return plan


def _obstacle(module: Module, plan: _Plan) -> str:
    """Return why a function cannot take other parameters, whatever is in it; empty if it can."""
    function, name = plan.function, plan.state.arg
    if name in _defaults(function) or plan.state in function.args.posonlyargs:
        return f"{name} has a default, or is positional only"
    taken = next(
        (one for one in ("context", "request") if one != name and one in module.scope_of(function).origins), ""
    )
    if taken:
        return f"{taken} is already a name in it"
    methods = plan.owner.body if plan.owner and plan.entry and function.name == "execute" else ()
    if any(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name == MODERN_NAME for one in methods):
        return f"its class has {MODERN_NAME} already"
    return ""


def _own_use(module: Module, plan: _Plan, node: ast.Name, text: str) -> None:
    if isinstance(node.ctx, ast.Load):
        plan.replacements.append(Replacement(module.source.span(node), text))
    else:
        plan.problem = plan.problem or f"it binds {node.id} anew"


def _state_use(module: Module, plan: _Plan, node: ast.Name) -> None:
    """Note what one use of the state becomes, or why the function stays as it is."""
    parent = module.parent(node)
    if isinstance(parent, ast.Attribute) and isinstance(node.ctx, ast.Load):
        text = READS.get(parent.attr)
        if not isinstance(parent.ctx, ast.Load):
            plan.problem = plan.problem or f"it writes {node.id}.{parent.attr}; return the result instead"
        elif text is None:
            plan.problem = (
                plan.problem or f"it reads {node.id}.{parent.attr}; that comes with results, or as a parameter"
            )
        else:
            plan.reads_request |= text == "request"
            plan.replacements.append(Replacement(module.source.span(parent), text))
        return
    if (
        isinstance(parent, ast.Call)
        and node in parent.args
        and not any(isinstance(a, ast.Starred) for a in parent.args)
    ):
        called = parent.func
        of_self = isinstance(called, ast.Attribute) and terminal(called.value) == "self"
        if isinstance(called, ast.Attribute) and of_self and plan.owner is not None:
            plan.passes.append((f"{plan.owner.name}.{called.attr}", node))
            return
        if isinstance(called, ast.Name):
            plan.passes.append((called.id, node))
            return
    plan.problem = plan.problem or f"it passes {node.id} on, or binds it anew"


def _settle(plans: dict[str, _Plan]) -> None:
    """A function that passes the state to one that keeps taking it keeps taking it, too."""
    changed = True
    while changed:
        changed = False
        for plan in plans.values():
            for called, _ in plan.passes:
                other = plans.get(called)
                if not plan.problem and (other is None or other.problem or other.entry or other.reads_request):
                    plan.problem = f"it passes the state to {called}, which goes on taking it"
                    changed = True


def _check(module: Module) -> Iterator[Finding]:
    plans: dict[str, _Plan] = {}
    for function in module.functions():
        state = _state_parameter(module, function)
        if state is not None:
            plan = _plan(module, function, state)
            key = f"{plan.owner.name}.{function.name}" if plan.owner else function.name
            while key in plans:
                key += "'"
            plans[key] = plan
    _settle(plans)
    for plan in plans.values():
        name = plan.function.name
        message = f"{name} takes the state of all users in {plan.state.arg}; take a UserExecutionContext"
        fix = None
        if not plan.problem:
            passed = tuple(Replacement(module.source.span(node), "context") for _, node in plan.passes)
            arguments = {
                "state": plan.state.arg,
                "entry": "1" if plan.entry else "",
                "name": MODERN_NAME if plan.entry and name == "execute" else name,
                "request": "1" if plan.reads_request or (plan.entry and name == "execute") else "",
            }
            imports = (("isolane", "UserExecutionContext"),)
            fix = Fix("unsafe", "context_signature", arguments, (*plan.replacements, *passed), imports)
        yield module.finding("MIG002", "warning", module.header(plan.function), message, fix=fix, no_fix=plan.problem)


RULE = Rule(
    code="MIG002",
    severity="warning",
    fix="unsafe",
    title="a signature with the legacy state",
    why=(
        "execute(state, run_id, stream_updates) and its family get everything from one object that is passed on and "
        "written to. The fix gives it a context of its own user. It reads what a context has in its place; a function "
        "that writes to the state, or reads results of others from it, has to be changed by hand, and the finding says "
        "what stands in the way. Callers change as well, so it is unsafe."
    ),
    before=(
        "class Triage(BaseAgent):\n"
        "    async def execute(self, state: DeepAgentState, run_id: str, stream_updates: bool) -> str:\n"
        "        return await ask(state.user_request, user=state.user_id)\n"
    ),
    after=(
        "class Triage(BaseAgent):\n"
        "    async def execute_with_context(self, context: UserExecutionContext, request: str) -> str:\n"
        "        return await ask(request, user=context.user_id)\n"
    ),
    trigger=lambda config: (
        (*config.state_list.last_parts, *(f"def {one}(" for one in config.legacy_methods)),
        ("run_id", *config.state_list.last_parts),
    ),
    check=_check,
)
