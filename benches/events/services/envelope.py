"""The message around a payload, as isolane's clients get it. The peers have the same for every event."""

from typing import Any

ENVELOPE = {
    "type": "agent_progress",
    "run_id": "run_1795363200000_000001_9f2c41d07be35a68",
    "timestamp": "2026-11-22T08:47:41.910516Z",
    "thread_id": "thread_1795363200000_000001_4be07c1a9d2f8365",
    "event_id": "evt_9e1f2077a16a5bf6_417",
    "request_id": "req_1795363200000_000001_c85a1f3e7b90d264",
}


def message(payload: dict[str, Any]) -> dict[str, Any]:
    return {**ENVELOPE, "payload": payload, "seq": payload["number"]}
