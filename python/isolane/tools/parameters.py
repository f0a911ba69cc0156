"""What a tool takes, and whether it was given that: by a model, by the hints of a function, or by a JSON schema."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from isolane._core import UserExecutionContext
from isolane.tools import linear
from isolane.tools.errors import ParameterProblem, ToolParameterError, ToolRegistrationError

MAX_PROBLEMS = 64
"""Most problems of one call that are told."""

INSTALL = "install it with: pip install 'isolane[tools]'"


class Parameters(Protocol):
    """What a tool takes."""

    def validate(self, tool: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the tool is called with. Raises ``ToolParameterError``."""

    def schema(self) -> dict[str, Any] | None:
        """Return the JSON schema, or ``None`` when there is none."""

    def names(self) -> frozenset[str] | None:
        """Return the names under which a tool finds its parameters, or ``None`` when they are not known."""


class AnyParameters:
    """A tool that takes whatever it is given."""

    def validate(self, tool: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was given."""
        return _named(tool, given)

    def schema(self) -> dict[str, Any] | None:
        """There is none."""
        return None

    def names(self) -> frozenset[str] | None:
        """They are not known."""
        return None


class ModelParameters:
    """A pydantic model. Its fields are the tool's parameters, by name."""

    def __init__(self, model: type[Any]) -> None:
        from pydantic import ValidationError  # noqa: PLC0415 - optional, and there, since a model is

        self._refused = ValidationError
        self._model = model
        self._fields = tuple(model.model_fields)
        self._validate = model.__pydantic_validator__.validate_python

    def validate(self, tool: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields as the model has them after its checks."""
        try:
            made = self._validate(given)
        except self._refused as error:
            raise ToolParameterError(tool, _pydantic_problems(error)) from None
        except Exception as error:
            raise ToolParameterError(tool, [_broken(error)]) from error
        values = {name: getattr(made, name) for name in self._fields}
        extra = getattr(made, "__pydantic_extra__", None)
        if extra:
            values.update(extra)
        return values

    def schema(self) -> dict[str, Any] | None:
        """Return the model's JSON schema."""
        schema: dict[str, Any] = self._model.model_json_schema()
        return schema

    def names(self) -> frozenset[str] | None:
        """Return the names of the fields; a model that takes more may have others."""
        return None if self._model.model_config.get("extra") == "allow" else frozenset(self._fields)


class SchemaParameters:
    """A JSON schema of an object. References to other documents are not followed."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            import jsonschema  # noqa: PLC0415 - optional
            import referencing  # noqa: PLC0415 - comes with it
        except ImportError:
            raise ToolRegistrationError(f"a JSON schema needs the package jsonschema; {INSTALL}") from None
        self._schema = dict(schema)
        kind = jsonschema.validators.validator_for(self._schema, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(self._schema)
        except jsonschema.SchemaError as error:
            raise ToolRegistrationError(f"the JSON schema is not valid at {error.json_path}: {error.message}") from None
        kind = jsonschema.validators.extend(kind, linear.RULES)
        linear.check_patterns(self._schema)
        # An empty registry: what is not in the schema itself is not fetched from anywhere.
        self._validator = kind(self._schema, registry=referencing.Registry())

    def validate(self, tool: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was given, if it is valid."""
        values = _named(tool, given)
        problems = []
        try:
            for error in self._validator.iter_errors(values):
                # Its own message repeats the value.
                rule = f"does not follow {error.validator}: {str(error.validator_value)[:120]}"
                problems.append(
                    ParameterProblem(error.json_path.removeprefix("$").removeprefix("."), rule, error.validator)
                )
                if len(problems) >= MAX_PROBLEMS:
                    break
        except Exception as error:  # noqa: BLE001 - such as a reference that leads nowhere
            problems.append(ParameterProblem("", f"the schema cannot be applied: {type(error).__name__}", "schema"))
        if problems:
            raise ToolParameterError(tool, problems)
        return values

    def schema(self) -> dict[str, Any] | None:
        """Return the schema."""
        return dict(self._schema)

    def names(self) -> frozenset[str] | None:
        """Return the names of the properties, if the schema lists them."""
        properties = self._schema.get("properties")
        return frozenset(properties) if isinstance(properties, Mapping) else None


def _named(tool: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in given):
        raise ToolParameterError(tool, [ParameterProblem("", "the names of parameters are texts", "mapping")])
    return dict(given)


def _broken(error: Exception) -> ParameterProblem:
    """A check that raised something of its own: its text may have anything in it."""
    return ParameterProblem("", f"they could not be checked: {type(error).__name__}", "check")


def _pydantic_problems(error: Any) -> list[ParameterProblem]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [ParameterProblem(_path(each["loc"]), each["msg"], each["type"]) for each in found[:MAX_PROBLEMS]]


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path


def is_model(value: object) -> bool:
    """Return whether it is a pydantic model class, without importing pydantic."""
    return isinstance(value, type) and hasattr(value, "model_fields") and hasattr(value, "__pydantic_validator__")


def parameters_of(given: object) -> Parameters:
    """Return the parameters that a caller describes: a pydantic model or a JSON schema."""
    if given is None:
        return AnyParameters()
    if is_model(given):
        return ModelParameters(typing.cast("type[Any]", given))
    if isinstance(given, Mapping):
        return SchemaParameters(given)
    raise ToolRegistrationError(
        f"parameters must be a pydantic model class or a JSON schema, got: {type(given).__name__}"
    )


def _is_context(annotation: object) -> bool:
    """Return whether a hint stands for the user's context, alone or as one of several."""
    return annotation is UserExecutionContext or UserExecutionContext in typing.get_args(annotation)


def context_parameter(function: Callable[..., Any]) -> str | None:
    """Return the name of the parameter through which a function wants the user's context.

    It is the one with that annotation, or one that is named ``context`` and has none. What a caller gives is never put
    there.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    hints = _hints(function)
    for name, parameter in signature.parameters.items():
        if _is_context(hints.get(name, parameter.annotation)):
            return name
    context = signature.parameters.get("context")
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if context is not None and context.annotation is inspect.Parameter.empty and context.kind in named:
        return "context"
    return None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    inner = inspect.unwrap(function)
    inner = getattr(inner, "func", inner)
    if not inspect.isfunction(inner) and not inspect.ismethod(inner):
        inner = getattr(inner, "__call__", inner)  # noqa: B004 - its hints are wanted, not whether it can be called
    try:
        return typing.get_type_hints(inner, include_extras=True)
    except Exception as error:
        raise ToolRegistrationError(
            f"the hints of {getattr(function, '__name__', function)!r} cannot be read ({error}); give parameters="
        ) from error


def signature_parameters(name: str, function: Callable[..., Any]) -> Parameters:
    """Return the parameters that a function's own hints describe. Those it has not are taken as they are."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return AnyParameters()
    hints = _hints(function)
    context = context_parameter(function)
    fields: dict[str, Any] = {}
    takes_more = False
    positional = []
    try:
        from typing import NotRequired  # noqa: PLC0415 - comes with it

        from pydantic import ConfigDict, TypeAdapter, with_config  # noqa: PLC0415 - optional
        from typing_extensions import TypedDict  # noqa: PLC0415 - comes with it
    except ImportError:
        raise ToolRegistrationError(f"parameters with type hints need the package pydantic; {INSTALL}") from None
    for key, parameter in signature.parameters.items():
        if key == context:
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            raise ToolRegistrationError(f"tool {name!r} takes *{key}; parameters of a tool have names")
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            takes_more = True
            continue
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            positional.append(key)
        hint = hints.get(key, Any)
        # A default is left to the function, which may compare with it.
        fields[key] = hint if parameter.default is inspect.Parameter.empty else NotRequired[hint]
    config = ConfigDict(extra="allow" if takes_more else "forbid", arbitrary_types_allowed=True)
    try:
        described = with_config(config)(TypedDict(f"{name}_parameters", fields))  # type: ignore[operator]
        adapter = TypeAdapter(described)
    except Exception as error:
        raise ToolRegistrationError(f"the parameters of tool {name!r} cannot be described: {error}") from error
    return SignatureParameters(adapter, tuple(positional), None if takes_more else frozenset(fields))


class SignatureParameters:
    """The hints of a function, as pydantic checks them."""

    def __init__(self, adapter: Any, positional: tuple[str, ...], names: frozenset[str] | None) -> None:
        from pydantic import ValidationError  # noqa: PLC0415 - optional, and there, since an adapter is

        self._adapter = adapter
        self._validate = adapter.validator.validate_python
        self._refused = ValidationError
        self.positional = positional
        self._names = names

    def validate(self, tool: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters as their hints make them."""
        try:
            values: dict[str, Any] = self._validate(given)
        except self._refused as error:
            raise ToolParameterError(tool, _pydantic_problems(error)) from None
        except Exception as error:
            raise ToolParameterError(tool, [_broken(error)]) from error
        return values

    def schema(self) -> dict[str, Any] | None:
        """Return the JSON schema."""
        schema: dict[str, Any] = self._adapter.json_schema()
        return schema

    def names(self) -> frozenset[str] | None:
        """Return the names of the function's parameters; one with ``**`` takes others."""
        return self._names
