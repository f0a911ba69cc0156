"""The check can fail: each planted fault is found, and a faultless history is not blamed."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from examples.optimizer.check.judge import PIPELINE, Expectation, judge
from examples.optimizer.check.received import Inbox

RUN = "run-own"
EXPECTED = Expectation(RUN, ("bob-nonce", "run-of-bob"))
Frames = list[dict[str, Any]]


def history() -> Frames:
    """What a user receives when everything is right."""
    messages = [
        {"type": kind, "agent_name": agent, "request_id": f"span-{agent}", "payload": {"tool_name": "tool"}}
        for agent in PIPELINE
        for kind in ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")
    ]
    for number, message in enumerate(messages, 1):
        message |= {"run_id": RUN, "timestamp": "2026-11-02T10:00:00Z", "event_id": f"event-{number}"}
    frames: Frames = [{"t": "welcome", "streams": []}, {"t": "sub", "s": RUN, "mode": "exact", "n": 0}]
    frames += [{"t": "ev", "s": RUN, "b": [{"f": n, "n": n, "ev": message}]} for n, message in enumerate(messages, 1)]
    return [*frames, {"t": "end", "s": RUN, "n": len(messages), "outcome": "completed"}]


def problems(frames: Frames) -> list[str]:
    inbox = Inbox()
    for frame in frames:
        inbox.add(json.dumps(frame))
    return judge(inbox, EXPECTED)


def event(frames: Frames, number: int) -> dict[str, Any]:
    message: dict[str, Any] = frames[number + 1]["b"][0]["ev"]
    return message


def swap(frames: Frames) -> None:
    frames[4], frames[5] = frames[5], frames[4]


def fold(frames: Frames) -> None:
    del frames[3]
    frames[3]["b"][0]["f"] -= 1


def renumber(frames: Frames, drop: int) -> None:
    """Lose an event where the log, not the wire, loses it: the numbers stay dense."""
    del frames[drop + 1]
    for number, frame in enumerate(frames[2:-1], 1):
        frame["b"][0] |= {"f": number, "n": number}
    frames[-1]["n"] -= 1


FAULTS: dict[str, tuple[Callable[[Frames], object], str]] = {
    "missing on the wire": (lambda frames: frames.pop(5), "missing: number 4"),
    "missing terminal": (lambda frames: renumber(frames, 5), "missing: data neither completed nor failed"),
    "missing start": (lambda frames: renumber(frames, 1), "before its span's start"),
    "missing tool end": (lambda frames: renumber(frames, 4), "never completed the tool"),
    "missing tool start": (lambda frames: renumber(frames, 3), "completes a tool that did not start"),
    "missing end": (lambda frames: frames.pop(), "ended 0 times"),
    "early end": (lambda frames: frames[-1].update(n=3), "ended at number 3"),
    "failed run": (lambda frames: frames[-1].update(outcome="failed"), "outcome is failed"),
    "swapped": (swap, "out of order"),
    "doubled on the wire": (lambda frames: frames.insert(5, deepcopy(frames[4])), "doubled or out of order"),
    "doubled event": (
        lambda frames: event(frames, 4).update(event_id="event-3"),
        "came before under the same event id",
    ),
    "foreign run": (lambda frames: event(frames, 4).update(run_id="run-of-bob"), "foreign event"),
    "foreign data": (lambda frames: event(frames, 4)["payload"].update(model="bob-nonce"), "foreign data"),
    "foreign control frame": (lambda frames: frames[0].update(streams=["run-of-bob"]), "foreign data"),
    "no payload": (lambda frames: event(frames, 4).pop("payload"), "has no payload"),
    "no agent": (lambda frames: event(frames, 4).pop("agent_name"), "has no agent_name"),
    "after the terminal": (lambda frames: event(frames, 6).update(request_id="span-data"), "span"),
    "agents out of order": (
        lambda frames: [event(frames, number).update(agent_name="report") for number in range(1, 6)],
        "the agents that ran are report, optimization, report",
    ),
}


def test_a_faultless_history_passes() -> None:
    """No blame without a fault."""
    assert problems(history()) == []


def test_folded_events_count_as_received() -> None:
    """An event whose range covers earlier numbers leaves no hole."""
    frames = history()
    fold(frames)
    assert problems(frames) == []


@pytest.mark.parametrize(("plant", "found"), FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_fault_is_found(plant: Callable[[Frames], object], found: str) -> None:
    """Each fault is named."""
    frames = history()
    plant(frames)
    assert any(found in problem for problem in problems(frames)), problems(frames)
