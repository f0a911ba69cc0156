"""``Tool``: one thing that an agent may call, whatever it was written as."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from isolane._core import UserExecutionContext
from isolane.tools.errors import ParameterProblem, ToolParameterError, ToolRegistrationError
from isolane.tools.parameters import (
    AnyParameters,
    Parameters,
    context_parameter,
    parameters_of,
    signature_parameters,
)

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")
"""What a tool may be called: its name is part of the name of a resource, and of an event."""

SHAPE = ("ainvoke", "invoke", "_arun", "_run")
"""The methods by which tools of LangChain and its like are called; one is enough."""

ResourcesOf = Callable[[Mapping[str, Any]], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. ``Tool.of`` makes it of a function, or of an object with a name and ``invoke``.

    Attributes:
        name: letters, digits, ``_``, ``.`` and ``-``, at most 128.
        description: what it does, for whoever chooses tools.
        parameters: what it takes.
        call: what is called.
        is_async: whether it runs on the event loop; otherwise in a thread.
        takes_mapping: whether it is called with all parameters as one mapping.
        context_parameter: the name of the parameter that gets the user's context.
        admin: whether it is a tool of administration.
        timeout: its seconds, or ``None`` for those of the dispatcher.
        resources: names of the parameters that name resources, or a function of the parameters that returns resources.
        resource: the name of the resource that it is to the roles.
    """

    name: str
    description: str
    parameters: Parameters
    call: Callable[..., Any]
    is_async: bool
    takes_mapping: bool = False
    context_parameter: str | None = None
    admin: bool = False
    timeout: float | None = None
    resources: tuple[str, ...] | ResourcesOf = ()
    resource: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Every call asks for the name."""
        object.__setattr__(self, "resource", f"tool:{self.name}")

    @classmethod
    def of(
        cls,
        tool: Any,
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: Any = None,
        admin: bool = False,
        timeout: float | None = None,
        resources: str | Iterable[str] | ResourcesOf = (),
    ) -> Tool:
        """Make a tool of a function, of an object of LangChain's shape, or of a tool.

        Args:
            tool: a function; or an object with ``name`` and one of ``ainvoke``, ``invoke``, ``_arun``, ``_run``, and
                perhaps ``description`` and ``args_schema``.
            name: what it is called. Default: its own name.
            description: what it does. Default: its own, or the first line of its docstring.
            parameters: a pydantic model or a JSON schema. Default: ``args_schema``, or the function's type hints.
            admin: whether it is a tool of administration.
            timeout: its seconds. Default: those of the dispatcher.
            resources: parameters that name resources, such as ``["document"]``; or a function of the parameters.

        Raises ``ToolRegistrationError`` for what cannot be a tool.
        """
        if isinstance(tool, cls):
            if (name, description, parameters, admin, timeout, resources) == (None, None, None, False, None, ()):
                return tool
            # To leave out admin= or resources= unsaid would open what they were to close.
            raise ToolRegistrationError(
                f"{tool.name!r} is a Tool already: describe it where Tool.of makes it, or use dataclasses.replace"
            )
        if isinstance(tool, type):
            raise ToolRegistrationError(f"{tool.__name__} is a class; register an instance, or a function")
        own = name if name is not None else _name_of(tool)
        if not isinstance(own, str) or NAME.fullmatch(own) is None:
            raise ToolRegistrationError(
                f"a tool's name has 1 to 128 of A-Z a-z 0-9 _ . - and begins with a letter, digit or _, got: {own!r}"
            )
        if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
            raise ToolRegistrationError(f"the timeout of tool {own!r} must be more than 0 seconds, got {timeout!r}")
        call, is_async, takes_mapping, taken, context = _shaped(tool, own, parameters)
        return cls(
            name=own,
            description=description if description is not None else _description_of(tool),
            parameters=taken,
            call=call,
            is_async=is_async,
            takes_mapping=takes_mapping,
            context_parameter=context,
            admin=admin,
            timeout=timeout,
            resources=resources if callable(resources) else _resource_names(resources),
        )

    def arguments(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what it is called with, but for the context. Raises ``ToolParameterError``."""
        if type(given) is not dict:
            given = _as_dict(self.name, given)
        arguments = self.parameters.validate(self.name, given)
        if self.context_parameter is not None and self.context_parameter in arguments:
            # The user's context comes from the dispatcher and from nowhere else.
            problem = ParameterProblem(self.context_parameter, "it is not a caller's to give", "extra_forbidden")
            raise ToolParameterError(self.name, [problem])
        return arguments

    def mentioned(self, arguments: Mapping[str, Any]) -> list[Any]:
        """Return what the parameters name: a user, and the resources that the tool was registered with."""
        found: list[Any] = []
        if not self.resources and "user_id" not in arguments:
            return found
        if "user_id" in arguments and arguments["user_id"] is not None:
            found.append(_Named(arguments["user_id"]))
        if callable(self.resources):
            found.extend(self.resources(arguments))
            return found
        for name in self.resources:
            value = arguments.get(name)
            if value is None:
                continue
            if isinstance(value, (list, tuple, set, frozenset)):
                found.extend(value)
            else:
                found.append(value)
        return found

    def start(self, context: UserExecutionContext, arguments: Mapping[str, Any]) -> Any:
        """Call it."""
        if self.takes_mapping:
            return self.call(dict(arguments))
        positional = getattr(self.parameters, "positional", ())
        if positional:
            first = [arguments[key] for key in positional if key in arguments]
            rest = {key: value for key, value in arguments.items() if key not in positional}
            if self.context_parameter is not None:
                rest[self.context_parameter] = context
            return self.call(*first, **rest)
        if self.context_parameter is not None:
            return self.call(**arguments, **{self.context_parameter: context})
        return self.call(**arguments)

    def schema(self) -> dict[str, Any] | None:
        """Return the JSON schema of the parameters, for whoever chooses tools; ``None`` when there is none."""
        return self.parameters.schema()


def _as_dict(name: str, given: object) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    raise ToolParameterError(name, [ParameterProblem("", "a mapping with names is wanted", "mapping")])


class _Named:
    """A user who is named in the parameters, as a resource."""

    __slots__ = ("user_id",)

    def __init__(self, user_id: Any) -> None:
        self.user_id = user_id


def _resource_names(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _name_of(tool: Any) -> Any:
    name = getattr(tool, "name", None)
    return name if isinstance(name, str) else getattr(getattr(tool, "func", tool), "__name__", None)


def _description_of(tool: Any) -> str:
    description = getattr(tool, "description", None)
    if isinstance(description, str):
        return description
    return (inspect.getdoc(tool) or "").partition("\n")[0]


def _shaped(tool: Any, name: str, parameters: Any) -> tuple[Callable[..., Any], bool, bool, Parameters, str | None]:
    """Return the call, whether it is async, whether it takes one mapping, its parameters, and the context's."""
    if isinstance(getattr(tool, "name", None), str) and any(callable(getattr(tool, method, None)) for method in SHAPE):
        schema = parameters if parameters is not None else getattr(tool, "args_schema", None)
        method, is_async = _method_of(tool)
        taken = parameters_of(schema) if schema is not None else AnyParameters()
        return getattr(tool, method), is_async, not method.startswith("_"), taken, None
    if not callable(tool):
        raise ToolRegistrationError(
            f"a tool is a function, or has a name and one of {', '.join(SHAPE)}; got: {type(tool).__name__}"
        )
    context = context_parameter(tool)
    taken = parameters_of(parameters) if parameters is not None else signature_parameters(name, tool)
    schema = (taken.schema() or {}) if parameters is not None else {}
    if context is not None and context in schema.get("properties", {}):
        raise ToolRegistrationError(
            f"tool {name!r} gets the user's context as {context!r}, which no caller may give; use another name"
        )
    is_async = inspect.iscoroutinefunction(tool) or inspect.iscoroutinefunction(getattr(tool, "__call__", None))  # noqa: B004
    is_async = is_async or inspect.iscoroutinefunction(getattr(tool, "func", None))
    return tool, is_async, False, taken, context


def _method_of(tool: Any) -> tuple[str, bool]:
    """Return by which method an object is called, and whether that runs on the loop.

    Tools of LangChain have an ``ainvoke`` even when they are synchronous: it would run them in a thread of the loop's
    own pool, which all users share without limits.
    """
    has = functools.partial(_has, tool)
    coroutine = getattr(tool, "coroutine", None)
    own_async = _overrides(tool, "_arun") if coroutine is None and not hasattr(type(tool), "coroutine") else True
    own_async = own_async and not (coroutine is None and hasattr(tool, "coroutine"))
    if has("ainvoke") and (own_async or not has("invoke")):
        return "ainvoke", True
    if has("invoke"):
        return "invoke", False
    if has("_arun") and (own_async or not has("_run")):
        return "_arun", True
    return "_run", False


def _has(tool: Any, method: str) -> bool:
    return callable(getattr(tool, method, None))


def _overrides(tool: Any, method: str) -> bool:
    """Return whether the object's class has the method from somewhere else than LangChain's base classes."""
    for base in type(tool).__mro__:
        if method in base.__dict__:
            return not base.__module__.startswith("langchain_core.")
    return False
