"""Runs steps against the Python reader, and gives their effects in the form that vectors have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isolane.client import Ended, Event, Position, Replaced, Skipped
from isolane.client.reader import Broken, Bye, Cancelled, Expiring, Send, StreamReader, Welcomed


def told(effect: Any) -> list[Any]:  # noqa: PLR0911 - a table
    match effect:
        case Send(frame):
            return ["send", frame]
        case Event():
            return ["event", effect.run_id, effect.number, effect.message, effect.skipped]
        case Skipped():
            return ["skip", effect.run_id, effect.number, effect.count]
        case Replaced():
            return ["replace", effect.run_id, effect.messages, effect.number]
        case Ended():
            return ["end", effect.run_id, effect.outcome]
        case Welcomed():
            return ["welcome", effect.attempts, round(effect.ping_seconds * 1000)]
        case Cancelled():
            return ["cancel", effect.run_id, effect.cid, effect.state]
        case Expiring():
            return ["expiring", round(effect.seconds * 1000)]
        case Bye():
            return ["bye", round(effect.retry_seconds * 1000) if effect.retry_seconds else None]
        case Broken():
            return ["broken"]
    raise AssertionError(effect)


def take(reader: StreamReader, step: dict[str, Any]) -> list[list[Any]]:
    """Do one step."""
    if "connected" in step:
        reader.connected()
    elif "follow" in step:
        reader.follow(step["follow"])
    elif "restore" in step:
        run, *position = step["restore"]
        reader.restore(run, Position(*position))
    elif "subscribe" in step:
        frame = reader.subscribe(step["subscribe"])
        return [["send", frame]] if frame else []
    else:
        effects = [told(effect) for effect in reader.receive(step["receive"])]
        if reader.ack_due:
            effects.append(["send", reader.take_ack()])
        return effects
    return []


class PythonReader:
    def run(self, steps: Sequence[dict[str, Any]]) -> list[list[Any]]:
        reader = StreamReader()
        return [take(reader, step) for step in steps]

    def close(self) -> None:
        pass
