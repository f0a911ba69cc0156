"""Reads tables of the configuration. What is wrong is said with its key, its value, and what is allowed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


class AcceptanceConfigError(ValueError):
    """The configuration of the acceptance suite is not valid.

    Attributes:
        key: the key, with the tables that it is in.
        problem: what is wrong with its value.
        allowed: what is allowed.
    """

    def __init__(self, key: str, problem: str, allowed: str) -> None:
        super().__init__(f"{key}: {problem}. Allowed: {allowed}")
        self.key = key
        self.problem = problem
        self.allowed = allowed


class Table:
    """One table, whose keys are taken one by one; ``done`` refuses what is left.

    Args:
        data: the table as it was read.
        path: its name, empty for the whole file.
    """

    def __init__(self, data: Any, path: str = "") -> None:
        if not isinstance(data, dict):
            raise AcceptanceConfigError(path or "the file", f"is {kind_of(data)}", "a table")
        self._data: dict[str, Any] = data
        self.path = path
        self._taken: list[str] = []

    def key(self, name: str) -> str:
        """Return the full name of a key."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Return whether a key is there."""
        return name in self._data

    def raw(self, name: str) -> Any:
        """Return a value as it is, or ``None``."""
        self._taken.append(name)
        return self._data.get(name)

    def text(self, name: str, default: str | None = None, *, one_of: Sequence[str] = ()) -> str:
        """Return a text. Without a default it must be there."""
        value = self.raw(name)
        if value is None:
            if default is None:
                raise AcceptanceConfigError(self.key(name), "is missing", " or ".join(one_of) or "a text")
            return default
        if not isinstance(value, str):
            raise AcceptanceConfigError(self.key(name), f"is {kind_of(value)}", " or ".join(one_of) or "a text")
        if one_of and value not in one_of:
            raise AcceptanceConfigError(self.key(name), f"is {value!r}", ", ".join(one_of))
        return from_environment(self.key(name), value)

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise AcceptanceConfigError(self.key(name), f"is {value!r}", "true or false")
        return value

    def number(self, name: str, default: float, *, least: float = 0.0, most: float = 1e12) -> float:
        """Return a number."""
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise AcceptanceConfigError(self.key(name), f"is {value!r}", f"a number from {least:g} to {most:g}")
        return float(value)

    def whole(self, name: str, default: int, *, least: int = 1, most: int = 1000) -> int:
        """Return a whole number."""
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise AcceptanceConfigError(self.key(name), f"is {value!r}", f"a whole number from {least} to {most}")
        return value

    def texts(self, name: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        """Return a list of texts."""
        value = self.raw(name)
        if value is None:
            return tuple(default)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise AcceptanceConfigError(self.key(name), f"is {kind_of(value)}", "a list of texts")
        return tuple(value)

    def places(self, name: str) -> tuple[str, ...]:
        """Return JSON pointers: one, or a list; none for an empty text."""
        value = self.raw(name)
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(one, str) and one[:1] in {"", "/"} for one in found):
            raise AcceptanceConfigError(self.key(name), f"is {value!r}", "a JSON pointer such as /type, or a list")
        return tuple(one for one in found if one)

    def wholes(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """Return a list of HTTP status codes."""
        value = self.raw(name)
        if value is None:
            return tuple(default)
        if not isinstance(value, list) or not all(type(one) is int and 100 <= one <= 599 for one in value):  # noqa: PLR2004
            raise AcceptanceConfigError(self.key(name), f"is {value!r}", "a list of status codes, such as [401, 403]")
        return tuple(value)

    def mapping(self, name: str) -> dict[str, str]:
        """Return names with texts."""
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise AcceptanceConfigError(self.key(name), f"is {kind_of(value)}", "a table of texts")
        for key, one in value.items():
            if not isinstance(one, str):
                raise AcceptanceConfigError(f"{self.key(name)}.{key}", f"is {kind_of(one)}", "a text")
        return {key: from_environment(f"{self.key(name)}.{key}", one) for key, one in value.items()}

    def tree(self, name: str) -> Any:
        """Return a value of any kind, the texts in it taken from the environment where they say so."""
        return _resolved(self.key(name), self.raw(name))

    def table(self, name: str) -> Table | None:
        """Return a table in this one, or ``None``."""
        value = self.raw(name)
        return None if value is None else Table(value, self.key(name))

    def tables(self, name: str) -> list[Table]:
        """Return a list of tables."""
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise AcceptanceConfigError(
                self.key(name), f"is {kind_of(value)}", f"a list of tables: [[{self.key(name)}]]"
            )
        return [Table(one, f"{self.key(name)}[{number}]") for number, one in enumerate(value)]

    def done(self) -> None:
        """Refuse keys that nobody took."""
        for name in self._data:
            if name not in self._taken:
                near = difflib.get_close_matches(name, self._taken, 1)
                meant = f"; did you mean {near[0]}?" if near else ""
                raise AcceptanceConfigError(self.key(name), f"is not known{meant}", ", ".join(sorted(set(self._taken))))


def kind_of(value: Any) -> str:
    """Return what kind of value it is, and not the value: it may be secret."""
    names = {dict: "a table", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def from_environment(key: str, value: str) -> str:
    """Return a text, or what the environment has for ``env:NAME``."""
    if not value.startswith("env:"):
        return value
    found = os.environ.get(value[4:])
    if found is None:
        raise AcceptanceConfigError(key, f"is taken from {value[4:]}, which is not set", "a variable that is set")
    return found


def _resolved(key: str, value: Any) -> Any:
    if isinstance(value, str):
        return from_environment(key, value)
    if isinstance(value, dict):
        return {name: _resolved(f"{key}.{name}", one) for name, one in value.items()}
    if isinstance(value, list):
        return [_resolved(f"{key}[{number}]", one) for number, one in enumerate(value)]
    return value


def placeholders(value: Any) -> set[str]:
    """Return the placeholders in texts, also those in lists and tables."""
    if isinstance(value, str):
        return set(PLACEHOLDER.findall(value))
    if isinstance(value, Mapping):
        return set().union(*(placeholders(one) for one in (*value.keys(), *value.values())), set())
    if isinstance(value, (list, tuple)):
        return set().union(*(placeholders(one) for one in value), set())
    return set()


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """Return a value with its placeholders filled in; those without a value stay empty."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda found: values.get(found[1], ""), value)
    if isinstance(value, Mapping):
        return {filled(key, values): filled(one, values) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(one, values) for one in value]
    return value
