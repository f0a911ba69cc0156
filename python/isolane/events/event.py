"""``WebSocketEvent``: an application's own event as a record."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from isolane._core import InvalidEvent, _refusal, to_json

MAX_BYTES = 64 << 10
"""Bytes of a payload, unless ``WebSocketConfig.max_event_bytes`` says otherwise."""

MAX_CHARACTERS = 128
"""Of a type and of an event id."""

PRIORITIES = range(1, 5)

_KEYS = ("type", "payload", "event_id", "priority", "thread_id", "agent_type")
"""What a dictionary may have that is made an event of."""


def _now() -> datetime:
    return datetime.now(UTC)


def _fresh() -> str:
    return f"evt_{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True)
class WebSocketEvent:
    """An application's own event, for ``bridge.broadcast_to_user(user_id, event)``.

    It is published as it is by ``emitter.publish(**event.as_arguments())`` as well. The payload is written as JSON when
    it is published: what is changed in it before that counts.

    Attributes:
        event_type: any name but the six agent events, 1 to 128 characters.
        user_id: whose it is.
        payload: what it says; see the table of values in the documents.
        event_id: 1 to 128 characters without blanks. The same id published again into the same stream is the same
            event and is delivered once. Default: a new one.
        created_at: when the record was made, aware UTC. The message has the time at which it was published.
        priority: its class: 1 critical, 2 content, 3 progress (the latest of a type counts), 4 debug.
        thread_id: the conversation it belongs to, if any.
        agent_type: the name of the agent it is about, if any.

    Raises ``InvalidEvent`` for a type, id or priority that is not allowed.
    """

    event_type: str
    user_id: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    event_id: str = field(default_factory=_fresh, kw_only=True)
    created_at: datetime = field(default_factory=_now, kw_only=True)
    priority: int = field(default=2, kw_only=True)
    thread_id: str | None = field(default=None, kw_only=True)
    agent_type: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.event_type.strip() or len(self.event_type) > MAX_CHARACTERS:
            raise InvalidEvent(f"event_type must have 1 to {MAX_CHARACTERS} characters")
        printable = self.event_id.isascii() and self.event_id.isprintable() and " " not in self.event_id
        if not self.event_id or len(self.event_id) > MAX_CHARACTERS or not printable:
            raise InvalidEvent(
                f"event_id must have 1 to {MAX_CHARACTERS} graphic ASCII characters; leave it out for one"
            )
        if self.priority not in PRIORITIES:
            raise InvalidEvent(
                f"priority must be 1 (critical), 2 (content), 3 (progress) or 4 (debug), got {self.priority!r}"
            )
        if not isinstance(self.payload, Mapping):
            raise InvalidEvent(f"payload must be a mapping, got {type(self.payload).__name__}")

    @classmethod
    def of(cls, user_id: str, event: WebSocketEvent | Mapping[str, Any]) -> WebSocketEvent:
        """Return the event itself, or one made of a dictionary with ``type``, ``payload`` and the names of the fields.

        Raises ``InvalidEvent`` for other keys and ``ContextIsolationError`` for an event of another user.
        """
        if isinstance(event, WebSocketEvent):
            if event.user_id != user_id:
                raise _refusal("the event belongs to another user than the one it is sent to", "publish")
            return event
        if not isinstance(event, Mapping):
            raise InvalidEvent(
                f"an event is a WebSocketEvent or a dictionary with {', '.join(_KEYS)}; this is {type(event).__name__}"
            )
        wrong = [str(key) for key in event if key not in _KEYS]
        if wrong or "type" not in event:
            what = f"unknown: {', '.join(wrong)}" if wrong else "type is missing"
            raise InvalidEvent(f"an event is a WebSocketEvent or a dictionary with {', '.join(_KEYS)}; {what}")
        fields = {key: event[key] for key in _KEYS[2:] if event.get(key) is not None}
        return cls(event["type"], user_id, event.get("payload") or {}, **fields)

    def as_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``emitter.publish`` and ``emitter.send_custom_event``."""
        arguments: dict[str, Any] = {
            "event_type": self.event_type,
            "payload": dict(self.payload),
            "priority": self.priority,
            "event_id": self.event_id,
        }
        if self.agent_type is not None:
            arguments["agent_name"] = self.agent_type
        return arguments

    def to_json(self) -> str:
        """Return the record as JSON, with ``type`` and ``payload`` as a message has them.

        Raises ``InvalidEvent``, with the path, for a payload that has no JSON form.
        """
        record = {
            "type": self.event_type,
            "agent_name": self.agent_type,
            "timestamp": self.created_at,
            "thread_id": self.thread_id,
            "event_id": self.event_id,
            "user_id": self.user_id,
            "priority": self.priority,
            "payload": dict(self.payload),
        }
        return _json({key: value for key, value in record.items() if value is not None})

    def validate_payload(self, max_bytes: int = MAX_BYTES) -> bool:
        """Return whether publishing would take the payload: it has a JSON form of at most ``max_bytes`` bytes."""
        try:
            return len(_json(dict(self.payload)).encode()) <= max_bytes
        except InvalidEvent:
            return False

    def get_size_bytes(self) -> int:
        """Return the bytes of ``to_json()``. Raises ``InvalidEvent`` for a payload that has no JSON form."""
        return len(self.to_json().encode())


def _json(value: dict[str, Any]) -> str:
    try:
        return to_json(value)
    except ValueError as error:
        raise InvalidEvent(str(error)) from None
