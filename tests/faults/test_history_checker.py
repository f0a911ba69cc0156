"""The history checker finds what it is there to find: one planted violation of each kind, in a history without any."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.event_history import ClientLog, History, Published, Stream

RUN, EPOCH, SPAN = "run_of_ann", "e1", "req_of_ann"
KINDS = ["agent_started", "note", "text", "text", "progress", "trace", "note", "agent_completed"]
PRIORITIES = [1, 2, 2, 2, 3, 4, 2, 1]


class Story:
    """Two tabs of Ann that saw the whole of her run, one with a break in the middle, and Bob, who saw nothing of it."""

    def __init__(self) -> None:
        self.history = History()
        self.nonce = self.history.nonce("ann")
        self.foreign_nonce = self.history.nonce("bob")
        self.stream: Stream = self.history.opened("ann", RUN, EPOCH)
        for at, (kind, priority) in enumerate(zip(KINDS, PRIORITIES, strict=True), start=1):
            text = kind == "text"
            self.stream.published.append(
                Published(
                    at,
                    kind,
                    SPAN,
                    priority,
                    f"u{at}",
                    at,
                    at + 0.5,
                    None,
                    "m1" if text else None,
                    f"d{at}" if text else None,
                )
            )
        self.stream.outcome, self.stream.head = "completed", len(KINDS)
        self.other = self.history.opened("bob", "run_of_bob", "e2")
        self.tabs = [self.history.client(name, "ann") for name in ("tab-1", "tab-2")]
        self.bob = self.history.client("bob-1", "bob")
        self.frames = [
            self.sub("exact", 0),
            self.ev(self.entry(1), self.entry(2), self.entry(4, first=3, delta="d3d4")),
            {"v": 1, "t": "skip", "s": RUN, "e": EPOCH, "f": 5, "n": 5, "k": 1},
            self.ev(self.entry(7, first=6, skipped=1)),
            {"v": 1, "t": "ping", "head": {RUN: 8}},
            self.ev(self.entry(8)),
            {"v": 1, "t": "end", "s": RUN, "e": EPOCH, "n": 8, "outcome": "completed"},
        ]
        self.later = json.loads(json.dumps(self.frames))
        self.asked: dict[str, Any] = {"t": "sub", "s": RUN}
        self.ack: dict[str, Any] = {"t": "ack", "s": {RUN: 4}}
        self.claims: dict[int, int] = {}

    def sub(self, mode: str, number: int) -> dict[str, Any]:
        return {"v": 1, "t": "sub", "s": RUN, "e": EPOCH, "mode": mode, "n": number, "head": 8}

    def event(self, number: int, delta: str | None = None) -> dict[str, Any]:
        payload: dict[str, Any] = {"owner": self.nonce, "uid": f"u{number}"}
        if KINDS[number - 1] == "text":
            payload |= {"delta": delta or f"d{number}", "message_id": "m1"}
        return {
            "type": KINDS[number - 1],
            "run_id": RUN,
            "request_id": SPAN,
            "event_id": f"evt_{EPOCH}_{number}",
            "payload": payload,
            "seq": number,
        }

    def entry(self, number: int, *, first: int = 0, skipped: int = 0, delta: str | None = None) -> dict[str, Any]:
        entry = {"n": number, "f": first or number, "p": PRIORITIES[number - 1], "ev": self.event(number, delta)}
        return entry | ({"k": skipped} if skipped else {})

    @staticmethod
    def ev(*entries: dict[str, Any]) -> dict[str, Any]:
        return {"v": 1, "t": "ev", "s": RUN, "e": EPOCH, "b": list(entries)}

    def play(self, log: ClientLog, frames: list[dict[str, Any]], *, planted: bool) -> None:
        """What a client would have recorded of the frames."""
        log.opened()
        log.sent(self.asked if planted else {"t": "sub", "s": RUN})
        known = 0
        for at, frame in enumerate(frames):
            match frame["t"]:
                case "ev" if frame["b"]:
                    known = max(known, frame["b"][-1]["n"])
                case "skip" | "snap":
                    known = max(known, frame["n"])
                case "sub":
                    known = frame["n"] if frame["mode"] == "exact" else known
            claimed = self.claims.get(at, known) if planted else known
            log.got(json.dumps(frame), {RUN: (frame.get("e", EPOCH), claimed)})
            if at == 1:
                log.sent(self.ack if planted else {"t": "ack", "s": {RUN: 4}})

    def told(self) -> History:
        """Let the first tab have the frames as they are now, and the second as they were."""
        self.play(self.tabs[0], self.frames, planted=True)
        self.play(self.tabs[1], self.later[:4], planted=False)
        self.tabs[1].opened()
        self.tabs[1].sent({"t": "sub", "s": RUN, "e": EPOCH, "n": 7})
        for frame in (self.sub("exact", 7), *self.later[5:]):
            number = 8 if frame["t"] != "sub" else 7
            self.tabs[1].got(json.dumps(frame), {RUN: (EPOCH, number)})
        return self.history


def test_a_history_without_faults_has_no_violations() -> None:
    history = Story().told()
    totals = history.check()
    assert (totals["delivered"], totals["merged"], totals["skipped"], totals["unaccounted"]) == (10, 2, 4, 0)


def test_a_snapshot_covers_what_is_before_it() -> None:
    story = Story()
    snapshot = {
        "v": 1,
        "t": "snap",
        "s": RUN,
        "e": EPOCH,
        "n": 7,
        "b": [story.event(1), story.event(3, "d3d4"), story.event(7)],
    }
    story.frames = [story.sub("snapshot", 0), snapshot, *story.frames[5:]]
    assert story.told().check()["snapshot"] == 7


def _entries(story: Story, at: int) -> list[dict[str, Any]]:
    return story.frames[at]["b"]


def lose_the_last(story: Story) -> None:
    del story.frames[5:]


def lose_one_in_the_middle(story: Story) -> None:
    del _entries(story, 1)[1]


def lose_the_skip(story: Story) -> None:
    del story.frames[2]


def swap_two_frames(story: Story) -> None:
    story.frames[3], story.frames[5] = story.frames[5], story.frames[3]


def send_one_twice(story: Story) -> None:
    story.frames.insert(2, story.ev(story.entry(4)))


def give_another_event_the_number(story: Story) -> None:
    _entries(story, 1)[1]["ev"]["payload"]["uid"] = "u7"


def give_it_another_number_inside(story: Story) -> None:
    _entries(story, 1)[1]["ev"]["seq"] = 3


def leak_a_nonce(story: Story) -> None:
    _entries(story, 1)[1]["ev"]["payload"]["note"] = story.foreign_nonce


def leak_a_stream(story: Story) -> None:
    story.frames.insert(2, {"v": 1, "t": "ev", "s": "run_of_bob", "e": "e2", "b": []})


def swallow_a_critical_one(story: Story) -> None:
    story.frames[3]["b"] = []
    story.frames[5]["b"] = [story.entry(8, first=6, skipped=2)]
    story.stream.published[6] = Published(7, "tool_completed", SPAN, 1, "u7", 7, 7.5)


def skip_content(story: Story) -> None:
    story.frames[2]["n"], story.frames[2]["k"] = 7, 3
    del story.frames[3]


def count_the_skipped_wrong(story: Story) -> None:
    _entries(story, 3)[0]["k"] = 0


def say_more_were_skipped(story: Story) -> None:
    story.frames[2]["k"] = 2


def merge_another_message(story: Story) -> None:
    story.stream.published[2] = Published(3, "text", SPAN, 2, "u3", 3, 3.5, None, "m2", "d3")


def lose_part_of_a_text(story: Story) -> None:
    _entries(story, 1)[2]["ev"]["payload"]["delta"] = "d4"


def give_a_number_twice(story: Story) -> None:
    story.stream.published.append(Published(7, "note", SPAN, 2, "u9", 7, 7.5))


def number_against_the_time(story: Story) -> None:
    story.stream.published[1] = Published(2, "note", SPAN, 2, "u2", 20, 21)


def _publish_otherwise(story: Story, number: int, kind: str) -> None:
    """The event is of another kind, for its publisher and for both tabs."""
    story.stream.published[number - 1] = Published(number, kind, SPAN, 1, f"u{number}", number, number + 0.5)
    for frame in (*story.frames, *story.later):
        for entry in frame.get("b", ()):
            if entry["n"] == number:
                entry["ev"]["type"] = kind


def end_a_span_twice(story: Story) -> None:
    _publish_otherwise(story, 7, "agent_error")


def say_something_after_the_end_of_a_span(story: Story) -> None:
    _publish_otherwise(story, 7, "agent_completed")
    _publish_otherwise(story, 8, "agent_thinking")


def leave_a_span_open(story: Story) -> None:
    _publish_otherwise(story, 8, "note")


def end_twice(story: Story) -> None:
    story.frames.append(story.frames[-1])


def do_not_end(story: Story) -> None:
    del story.frames[-1]


def end_early(story: Story) -> None:
    story.frames.insert(3, story.frames.pop())


def end_otherwise(story: Story) -> None:
    story.frames[-1]["outcome"] = "failed"


def move_by_a_ping(story: Story) -> None:
    story.frames[4] = {"v": 1, "t": "ping", "s": RUN, "e": EPOCH, "head": {RUN: 8}}
    story.claims[4] = 8


def do_not_move_by_a_skip(story: Story) -> None:
    story.claims[2] = 4


def answer_with_another_position(story: Story) -> None:
    story.asked = {"t": "sub", "s": RUN, "e": EPOCH, "n": 0}
    story.frames[0] = story.sub("exact", 2)
    del _entries(story, 1)[:2]


def announce_a_snapshot_and_send_none(story: Story) -> None:
    story.frames[0] = story.sub("snapshot", 0)


def send_without_a_subscription(story: Story) -> None:
    del story.frames[0]


def send_of_another_epoch(story: Story) -> None:
    story.frames[3]["e"] = "e9"


def go_back_by_a_snapshot(story: Story) -> None:
    story.frames.insert(5, {"v": 1, "t": "snap", "s": RUN, "e": EPOCH, "n": 3, "b": [story.event(1)]})


def lose_the_beginning_in_a_snapshot(story: Story) -> None:
    story.frames[1:4] = [{"v": 1, "t": "snap", "s": RUN, "e": EPOCH, "n": 7, "b": [story.event(7)]}]


def ack_what_was_not_received(story: Story) -> None:
    story.ack = {"t": "ack", "s": {RUN: 5}}


def ack_backwards(story: Story) -> None:
    story.frames.insert(2, {"v": 1, "t": "ping", "head": {}})
    story.tabs[0].opened()
    story.tabs[0].sent({"t": "ack", "s": {RUN: -1}})


PLANTED: list[tuple[Callable[[Story], None], str]] = [
    (lose_the_last, "uncovered"),
    (lose_one_in_the_middle, "hole"),
    (lose_the_skip, "hole"),
    (swap_two_frames, "order"),
    (send_one_twice, "order"),
    (give_another_event_the_number, "content"),
    (give_another_event_the_number, "order"),
    (give_it_another_number_inside, "content"),
    (leak_a_nonce, "foreign"),
    (leak_a_stream, "foreign"),
    (swallow_a_critical_one, "lost"),
    (skip_content, "lost"),
    (count_the_skipped_wrong, "skip"),
    (say_more_were_skipped, "skip"),
    (merge_another_message, "lost"),
    (lose_part_of_a_text, "text"),
    (give_a_number_twice, "number"),
    (number_against_the_time, "order"),
    (end_a_span_twice, "span"),
    (say_something_after_the_end_of_a_span, "span"),
    (leave_a_span_open, "span"),
    (end_twice, "end"),
    (do_not_end, "end"),
    (end_early, "end"),
    (end_otherwise, "end"),
    (move_by_a_ping, "position"),
    (do_not_move_by_a_skip, "position"),
    (answer_with_another_position, "sub"),
    (announce_a_snapshot_and_send_none, "sub"),
    (send_without_a_subscription, "sub"),
    (send_of_another_epoch, "epoch"),
    (go_back_by_a_snapshot, "position"),
    (lose_the_beginning_in_a_snapshot, "lost"),
    (ack_what_was_not_received, "ack"),
    (ack_backwards, "ack"),
]


@pytest.mark.parametrize(("plant", "kind"), PLANTED, ids=lambda each: getattr(each, "__name__", each))
def test_a_planted_violation_is_found(plant: Callable[[Story], None], kind: str) -> None:
    story = Story()
    plant(story)
    history = story.told()
    kinds = {violation.kind for violation in history.violations()}
    assert kind in kinds, f"{plant.__name__} was not found; found was {kinds}"
    with pytest.raises(AssertionError, match=kind):
        history.check()
