"""A legacy message, read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from isolane._core import InvalidEvent
from isolane.events.event import MAX_CHARACTERS, WebSocketEvent
from isolane.migration.legacy.errors import CrossUserSendError
from isolane.migration.legacy.mappings import clean

PAYLOAD_KEYS = ("payload", "data")
"""What older messages call what they say; the first that is there counts."""

_ENVELOPE = frozenset(
    {
        "type",
        "event_type",
        "payload",
        "data",
        "user_id",
        "thread_id",
        "run_id",
        "agent_name",
        "event_id",
        "timestamp",
        "message",
        "seq",
        "request_id",
        "parent_request_id",
    }
)
"""Keys of a message's envelope. The log writes its own; nothing of a payload gets there."""


@dataclasses.dataclass(frozen=True, slots=True)
class LegacyMessage:
    """A legacy message as it is understood.

    Attributes:
        kind: its type.
        payload: what it says.
        run_id: the run that it names, if any.
        thread_id: the conversation that it names, if any.
        agent_name: the agent that it names, if any.
        message: the text for people, if any.
        event_id: an id of its own, if it has a usable one: sent twice, it arrives once.
    """

    kind: str
    payload: dict[str, Any]
    run_id: str | None = None
    thread_id: str | None = None
    agent_name: str | None = None
    message: str | None = None
    event_id: str | None = None

    @classmethod
    def read(cls, message: object, user_id: str, *, call: str = "send_to_user") -> LegacyMessage:
        """Read a dictionary, a pydantic model, a dataclass, or the JSON text of an object.

        What stands beside ``payload`` (or ``data``) in a flat message becomes a part of the payload.

        Args:
            message: the message.
            user_id: to whom it goes.
            call: the legacy name, for the error.

        Raises:
            InvalidEvent: it is none of these, or has no type.
            CrossUserSendError: its envelope names another user.
        """
        given = _as_mapping(message)
        named = given.get("user_id")
        if named is not None and (not isinstance(named, str) or clean_or_none(named) != user_id):
            raise CrossUserSendError(
                "the message's user_id is another user's than the one it is sent to; leave user_id out of messages",
                call=call,
                reason="message",
            )
        kind = given.get("type") or given.get("event_type")
        # An enumeration of the service's own.
        kind = getattr(kind, "value", kind)
        if not isinstance(kind, str) or not kind.strip():
            raise InvalidEvent("a legacy message needs a type, a text such as 'agent_started'; pass {'type': ..., ...}")
        payload = _payload(given)
        return cls(
            kind=kind,
            payload=payload,
            run_id=_text(given.get("run_id")),
            thread_id=_text(given.get("thread_id")),
            agent_name=_text(given.get("agent_name")) or _text(payload.get("agent_name")),
            message=_text(given.get("message")),
            event_id=_event_id(given.get("event_id")),
        )

    @classmethod
    def of(cls, event: WebSocketEvent) -> LegacyMessage:
        """Return an event of isolane's as a message."""
        return cls(
            kind=event.event_type,
            payload=dict(event.payload),
            thread_id=event.thread_id,
            agent_name=event.agent_type,
            event_id=event.event_id,
        )


def convert_legacy_message(message: object, user_id: str) -> WebSocketEvent:
    """Return a legacy message as an event of a user. Raises as ``LegacyMessage.read`` does."""
    read = LegacyMessage.read(message, clean(user_id), call="convert_legacy_message")
    own: dict[str, Any] = {} if read.event_id is None else {"event_id": read.event_id}
    return WebSocketEvent(
        read.kind, clean(user_id), read.payload, thread_id=read.thread_id, agent_type=read.agent_name, **own
    )


def _as_mapping(message: object) -> Mapping[str, Any]:
    found: object = message
    if isinstance(message, WebSocketEvent):
        found = {
            "type": message.event_type,
            "payload": dict(message.payload),
            "user_id": message.user_id,
            "thread_id": message.thread_id,
            "agent_name": message.agent_type,
            "event_id": message.event_id,
        }
    elif isinstance(message, (str, bytes)):
        try:
            found = json.loads(message)
        except (ValueError, RecursionError):
            raise InvalidEvent("a legacy message that is a text must be the JSON of an object") from None
    elif callable(dump := getattr(message, "model_dump", None)):
        found = dump(mode="json")
    elif dataclasses.is_dataclass(message) and not isinstance(message, type):
        found = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    if not isinstance(found, Mapping):
        raise InvalidEvent(
            "a legacy message is a dictionary, a pydantic model, a dataclass or the JSON text of an object, got "
            f"{type(message).__name__}"
        )
    return found


def _payload(given: Mapping[str, Any]) -> dict[str, Any]:
    beside = {str(key): value for key, value in given.items() if key not in _ENVELOPE}
    for key in PAYLOAD_KEYS:
        inner = given.get(key)
        if inner is None:
            continue
        # The message's own payload wins over what stands beside it.
        return (
            {**beside, **{str(name): value for name, value in inner.items()}}
            if isinstance(inner, Mapping)
            else {
                **beside,
                key: inner,
            }
        )
    return beside


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def clean_or_none(value: object) -> str | None:
    """Return an id without the blanks around it, or ``None`` for what is none."""
    return value.strip() if isinstance(value, str) and value.strip() else None


def _event_id(value: object) -> str | None:
    usable = isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value
    return str(value) if usable and 0 < len(str(value)) <= MAX_CHARACTERS else None
