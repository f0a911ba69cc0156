"""The rules by which the existing service's browser client takes a message.

A message that breaks one of them is discarded by that client, or shown without its data.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

HANDLED = {
    "agent_started": ("status",),
    "agent_thinking": ("reasoning",),
    "tool_executing": ("tool_name", "parameters"),
    "tool_completed": ("tool_name", "result", "execution_time_ms"),
    "agent_completed": ("result", "execution_time_ms"),
    "agent_error": ("error_message",),
}
"""What the client reads from the payload of each agent event."""

TOP_LEVEL = {"type", "agent_name", "run_id", "timestamp", "message"}
"""What the client reads beside the payload."""

IGNORED = {"thread_id", "event_id", "request_id", "parent_request_id", "seq", "payload"}
"""What it passes over, apart from the payload itself."""


def broken_rules(message: Any) -> list[str]:
    """Return what the client would stumble over, in words."""
    if not isinstance(message, dict):
        return ["a message is an object"]
    broken = []
    kind = message.get("type")
    if not isinstance(kind, str):
        broken.append("`type` is a string, else the message is discarded")
    if not isinstance(message.get("payload"), dict):
        broken.append("`payload` is an object, else the client makes an empty one for most types")
    missing = [name for name in ("agent_name", "run_id") if kind in HANDLED and not isinstance(message.get(name), str)]
    broken += [f"`{name}` stands at the top level" for name in missing]
    try:
        moment = datetime.fromisoformat(message["timestamp"])
        if moment.tzinfo is None:
            broken.append("`timestamp` says its zone")
    except (KeyError, TypeError, ValueError):
        broken.append("`timestamp` is ISO 8601")
    payload = message.get("payload")
    if isinstance(payload, dict):
        broken += [f"payload of {kind} has `{key}`" for key in HANDLED.get(str(kind), ()) if key not in payload]
    unknown = set(message) - TOP_LEVEL - IGNORED
    if unknown:
        broken.append(f"nothing of the payload reaches the envelope: {sorted(unknown)}")
    return broken
