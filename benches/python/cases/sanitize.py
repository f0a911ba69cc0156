"""Looking through events for secrets and personal data, against Presidio's pattern recognisers on the same texts."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from isolane import DataSanitizer, UserContextFactory, WebSocketBridgeFactory, WebSocketConfig, sweep_lanes

from benches.python.cases.data import PAYLOAD, PAYLOAD_BYTES
from benches.python.cases.events import with_room
from benches.python.measure import Case, Side, calls
from benches.python.peers import presidio

GROUP = "Sanitizer"
OWN = "isolane DataSanitizer"
PRESIDIO = "Presidio's recognisers of e-mail, cards, IBAN, SSN"
MASKED = "secrets masked"
PLAIN = "texts as they are"

EVENT: dict[str, Any] = {
    "tool_name": "price_lookup",
    "status": "completed",
    "result": {
        "summary": "Priced 148213 calls of the week by model and hour; the three most expensive hours are on Tuesday",
        "models": ["small-1", "large-2", "vision-3"],
        "rows": [
            {"model": "large-2", "hour": "2026-11-17T14:00:00+00:00", "cost": 31.514, "share": 0.2718281828459045},
            {"model": "vision-3", "hour": "2026-11-17T15:00:00+00:00", "cost": 28.901, "share": 0.1414213562373095},
        ],
        "source": "https://billing.example.com/export/2026/11?format=csv&limit=1000",
        "request_id": "req_0123456789abcdef0123456789abcdef",
    },
    "note": "The report compares what was paid with what the cheaper model of each kind would have cost.",
    "done": True,
}
"""About 640 bytes of JSON, without anything to find: what nearly all events are."""

FOUND = EVENT | {
    "note": "Paid by card 4111 1111 1111 1111, confirmed to alice@example.com, who asked for a copy of the report.",
}
EVENT_BYTES = len(json.dumps(EVENT, separators=(",", ":")))
CLEAN = f"looking through a {EVENT_BYTES}-byte event"
WITH_FINDINGS = f"masking two findings in a {len(json.dumps(FOUND, separators=(',', ':')))}-byte event"


def publishing(size: int) -> str:
    """The name of the case that publishes so many bytes."""
    return f"publish({size}-byte dict)"


def texts(value: Any) -> Iterator[str]:
    """The texts of a value, keys included: what both sides look at."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def _emitter(mode: Any) -> Any:
    @asynccontextmanager
    async def emitter() -> AsyncIterator[Any]:
        context = UserContextFactory.create_context("user-7c21")
        bridge = WebSocketBridgeFactory(WebSocketConfig(retention_seconds=0, sanitize=mode))
        made = await bridge.create_user_emitter(context.user_id, context)
        await made.notify_agent_started("bench")
        try:
            yield made
        finally:
            await made.cleanup()
            await context.cleanup()
            sweep_lanes()

    return emitter


def _publishing(payload: dict[str, Any], size: int) -> Case:
    async def work(emitter: Any, events: int) -> None:
        publish = emitter.publish
        for _ in range(events):
            publish("agent_progress", payload)

    sides = tuple(Side(name, with_room(_emitter(mode), work)) for name, mode in ((MASKED, "secrets"), (PLAIN, "off")))
    return Case(
        GROUP,
        publishing(size),
        sides,
        own=True,
        note="Events are looked through once, while they are written. `ISOLANE_SANITIZE_EVENTS=off` leaves it out.",
    )


def cases() -> list[Case]:
    """A clean event, one with findings, and publishing with and without the look."""
    sanitizer = DataSanitizer()

    def look() -> Any:
        return sanitizer.sanitize(EVENT, boundary="log", context="user-7c21")

    def mask() -> Any:
        return sanitizer.sanitize(FOUND, boundary="log", context="user-7c21")

    def peer(value: Any) -> tuple[Side, ...]:
        return () if presidio.MISSING else (Side(PRESIDIO, calls(presidio.analyse(texts(value)))),)

    note = presidio.MISSING or "isolane looks for twelve kinds of keys and tokens, and at the names of keys, as well."
    return [
        Case(GROUP, CLEAN, (Side(OWN, calls(look)), *peer(EVENT)), note=note),
        Case(GROUP, WITH_FINDINGS, (Side(OWN, calls(mask)), *peer(FOUND)), note=presidio.MISSING),
        _publishing(PAYLOAD, PAYLOAD_BYTES),
        _publishing(EVENT, EVENT_BYTES),
    ]
