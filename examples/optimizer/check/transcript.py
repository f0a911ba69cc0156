"""A user's events as aligned lines."""

from collections.abc import Iterator
from typing import Any

from examples.optimizer.check.received import Entry, Inbox

_DETAIL_CHARACTERS = 72


def transcript(inbox: Inbox, own_run_id: str) -> Iterator[str]:
    """One line per event; a foreign one is marked."""
    for entry in inbox.entries():
        message = entry.message
        mark = " " if message.get("run_id") == own_run_id else "!"
        yield (
            f"  {mark} {_numbers(entry):>9}  {entry.seconds:7.3f}s  {message.get('agent_name', ''):<13}"
            f" {message.get('type', ''):<16} {_detail(message.get('payload', {}))}"
        )
    for end in inbox.ends():
        yield f"    {'end':>9}  {'':>8}  {end['outcome']} at number {end['n']}"


def _numbers(entry: Entry) -> str:
    return f"{entry.first}-{entry.last}" if entry.first != entry.last else str(entry.last)


def _detail(payload: dict[str, Any]) -> str:
    for name in ("reasoning", "error_message"):
        if name in payload:
            return _short(str(payload[name]))
    if "tool_name" in payload:
        detail = payload.get("result", payload.get("parameters", ""))
        return _short(f"{payload['tool_name']}: {detail}")
    if "percent" in payload:
        return f"{payload['rows']:,} rows, {payload['percent']} %"
    return ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _DETAIL_CHARACTERS else text[: _DETAIL_CHARACTERS - 1] + "…"
