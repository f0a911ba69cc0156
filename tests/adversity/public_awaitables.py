"""Everything public that can be awaited, found by looking: from the package's modules and from the extension's stub."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import isolane


def _is_awaitable(function: Any) -> bool:
    """Coroutine functions, async generators, async context managers, and what returns a task."""
    inner = inspect.unwrap(function)
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        return True
    returns = getattr(inner, "__annotations__", {}).get("return", "")
    return "Task[" in str(returns) or "Awaitable[" in str(returns)


def _of_the_package(*, compat: bool) -> set[str]:
    found = set()
    for module in pkgutil.walk_packages(isolane.__path__, "isolane."):
        if module.name.startswith("isolane._core") or module.name.startswith("isolane.compat") is not compat:
            continue
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            if getattr(value, "__module__", None) != loaded.__name__ or name.startswith("_"):
                continue
            if inspect.isclass(value):
                for member, function in vars(value).items():
                    if member.startswith("_") and not member.startswith("__"):
                        continue
                    # What is deprecated is a function in a coat.
                    if inspect.isfunction(inspect.unwrap(function)) and _is_awaitable(function):
                        found.add(f"{name}.{member}")
            elif inspect.isfunction(inspect.unwrap(value)) and _is_awaitable(value):
                found.add(name)
    return found


def _of_the_extension() -> set[str]:
    stub = Path(isolane.__file__).with_name("_core.pyi")
    found = set()
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        for member in members:
            if not isinstance(member, ast.FunctionDef) or member.returns is None:
                continue
            returns = ast.unparse(member.returns)
            if "Awaitable" in returns or returns == "Slot":
                found.add(f"{node.name}.{member.name}" if isinstance(node, ast.ClassDef) else member.name)
    return found


def public_awaitables() -> set[str]:
    """Return their names: ``Class.method`` or ``function``; without those of ``isolane.compat``."""
    return _of_the_package(compat=False) | _of_the_extension()


def compat_awaitables() -> set[str]:
    """Return the names of those in ``isolane.compat``."""
    return _of_the_package(compat=True)
