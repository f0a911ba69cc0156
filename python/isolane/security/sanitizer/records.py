"""What the sanitizer takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

Mode = Literal["off", "detect", "mask", "block"]
"""What is done with a finding: it is not looked for, reported, replaced, or the whole value is refused."""

Boundary = Literal["input", "llm", "tool_params", "ws_event", "log", "audit", "error"]
"""Where a value leaves one part of the application for another."""

Detector = Callable[[str], Iterable[tuple[str, int, int]]]
"""Finds what only the application knows: ``(kind, start, end)`` of each finding in a text, in characters."""


@dataclass(frozen=True, slots=True)
class Modes:
    """What is done at one boundary.

    Attributes:
        secret: with what lets somebody do something: keys, tokens, passwords.
        personal: with what is about a person, and with what detectors of the application find.
    """

    secret: Mode
    personal: Mode


class Finding(NamedTuple):
    """Something that was found. It says where and what kind, never what was there.

    Attributes:
        path: where in the value, from ``$``: ``$.user.mail``, ``$.rows[2]``; ``$.~key`` is a key of ``$`` itself. Keys
            in which something was masked are shown with the mask.
        kind: ``EMAIL``, ``CARD``, ``JWT`` and so on, or what a detector of the application named.
        start: the first character, in the text as it was given.
        end: the one behind the last.
        action: ``detect``, ``mask`` or ``block``.
    """

    path: str
    kind: str
    start: int
    end: int
    action: str


class Sanitized(NamedTuple):
    """A value that may pass.

    Attributes:
        value: the same object if nothing was masked, else a copy in which it was. What was given is never changed.
        findings: what was found, in the order of the value.
    """

    value: Any
    findings: tuple[Finding, ...]

    @property
    def masked(self) -> bool:
        """Whether anything was masked."""
        return any(finding.action == "mask" for finding in self.findings)


@runtime_checkable
class References(Protocol):
    """Knows what belongs to another user, by what was put there to be known again, not by guessing."""

    def foreign_spans(self, text: str, user_id: str) -> Iterable[tuple[int, int]]:
        """Return where a text has something of another user than this one, in characters."""
