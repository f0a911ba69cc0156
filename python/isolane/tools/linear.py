"""The rules of JSON schemas whose usual check takes time out of proportion to the value, which a model chooses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from isolane.tools.errors import ToolRegistrationError

MAX_PATTERNS = 1024
"""Patterns that are held compiled."""


@functools.lru_cache(maxsize=MAX_PATTERNS)
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return whether a text has the pattern, in time that grows with the text alone. Raises for what has no such way.

    pydantic matches with Rust's regex, which does not go back.
    """
    from pydantic import Field, TypeAdapter, ValidationError  # noqa: PLC0415 - optional

    validate = TypeAdapter(Annotated[str, Field(pattern=pattern)]).validator.validate_python

    def matches(text: str) -> bool:
        try:
            validate(text)
        except ValidationError:
            return False
        return True

    return matches


def check_patterns(schema: Any) -> None:
    """Raise ``ToolRegistrationError`` for a schema with a pattern that cannot be matched in linear time."""
    left = [schema]
    seen: dict[int, Any] = {}
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, Mapping):
            if "patternProperties" in part and "unevaluatedProperties" in part:
                raise ToolRegistrationError(
                    "unevaluatedProperties beside patternProperties can take for ever; use additionalProperties"
                )
            for written in part.get("patternProperties") or ():
                _check(written)
            if isinstance(part.get("pattern"), str):
                _check(part["pattern"])
            left.extend(part.values())
        elif isinstance(part, (list, tuple)):
            left.extend(part)


def _check(pattern: str) -> None:
    try:
        _matcher(pattern)
    except ImportError:
        raise ToolRegistrationError(
            "a pattern in a JSON schema needs the package pydantic; install it with: pip install 'isolane[tools]'"
        ) from None
    except Exception:  # noqa: BLE001 - whatever refuses a pattern
        raise ToolRegistrationError(
            f"the pattern {pattern[:120]!r} cannot be matched in linear time; write it without look-around and "
            "back-references"
        ) from None


def pattern(validator: Any, wanted: str, instance: Any, schema: Any) -> Iterator[Any]:
    """``pattern`` of a JSON schema."""
    from jsonschema import ValidationError  # noqa: PLC0415 - optional, and there, since it asks

    del schema
    if validator.is_type(instance, "string") and not _matcher(wanted)(instance):
        yield ValidationError("does not match")


def pattern_properties(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """``patternProperties`` of a JSON schema."""
    del schema
    if validator.is_type(instance, "object"):
        for written, inner in wanted.items():
            matches = _matcher(written)
            for name, value in instance.items():
                if matches(name):
                    yield from validator.descend(value, inner, path=name, schema_path=written)


def additional_properties(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """``additionalProperties`` of a JSON schema."""
    from jsonschema import ValidationError  # noqa: PLC0415 - optional, and there, since it asks

    if not validator.is_type(instance, "object"):
        return
    named, matchers = schema.get("properties", {}), [_matcher(each) for each in schema.get("patternProperties", {})]
    for name, value in instance.items():
        if name in named or any(matches(name) for matches in matchers):
            continue
        if validator.is_type(wanted, "object"):
            yield from validator.descend(value, wanted, path=name)
        elif not wanted:
            yield ValidationError("has more properties than it may")
            return


def unique_items(validator: Any, wanted: bool, instance: Any, schema: Any) -> Iterator[Any]:
    """``uniqueItems`` of a JSON schema."""
    from jsonschema import ValidationError  # noqa: PLC0415 - optional, and there, since it asks

    del schema
    if wanted and validator.is_type(instance, "array"):
        found = set()
        for item in instance:
            key = _hashable(item)
            if key in found:
                yield ValidationError("has elements that are not unique")
                return
            found.add(key)


def _hashable(value: Any) -> Any:
    """Return what is equal for equal JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, Mapping):
        return ("object", frozenset((key, _hashable(each)) for key, each in value.items()))
    if isinstance(value, (list, tuple)):
        return ("array", tuple(_hashable(each) for each in value))
    return value


RULES = {
    "additionalProperties": additional_properties,
    "pattern": pattern,
    "patternProperties": pattern_properties,
    "uniqueItems": unique_items,
}
"""They take the place of jsonschema's own."""
