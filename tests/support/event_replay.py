"""Replays one client of a history from the raw frames, by the rule of the protocol, and says what the server broke.

Two things are followed for each stream: the place of the server's cursor on the connection, which must cover every
number after the answer to a subscription, and the position of the client, which only the frames with events move.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.support.event_history import NONCE, Account, ClientLog, History, Published, Violation

Place = tuple[str, str]


@dataclass(slots=True)
class Follow:
    """A stream as the server sends it on one connection, since the latest ``sub``."""

    epoch: str
    place: int
    snapshot_due: bool = False
    ended: bool = False
    asked_back: bool = False
    """The client has asked from further back than it was."""
    asks_again: bool = False
    """The client was sent what overlaps with what it has, and waits for the answer to its next ``sub``."""


@dataclass(slots=True)
class Connected:
    """One connection of the client."""

    follows: dict[str, Follow] = field(default_factory=dict)
    asked: dict[str, list[tuple[Any, Any]]] = field(default_factory=lambda: defaultdict(list))


class Replay:
    """One client, from its first frame to its last."""

    def __init__(self, history: History, log: ClientLog, truths: dict[Place, dict[int, Published]]) -> None:
        self.history = history
        self.log = log
        self.truths = truths
        self.found: list[Violation] = []
        self.accounts: dict[Place, Account] = defaultdict(Account)
        self.identities: dict[tuple[str, str, int], str] = {}
        self.spans: dict[Place, dict[int, tuple[str, str]]] = defaultdict(dict)
        self.positions: dict[str, tuple[str, int]] = {}
        self.received: dict[str, int] = defaultdict(int)
        self.acked: dict[str, int] = defaultdict(int)
        self.ends: dict[Place, tuple[int, str]] = {}
        self.gone: set[str] = set()
        self.texts: dict[Place, dict[str, str]] = defaultdict(dict)
        self.connected = Connected()

    def flag(self, kind: str, text: str) -> None:
        self.found.append(Violation(kind, self.log.name, text))

    def run(self) -> list[Violation]:
        """Replay, and return what was broken."""
        for step in self.log.steps:
            match step:
                case ("opened",):
                    self.connected = Connected()
                case ("sent", frame):
                    self._said(frame)
                case ("forgot",):
                    for kept in (self.positions, self.accounts, self.ends, self.texts, self.acked):
                        kept.clear()
                case ("got", text, positions):
                    self._foreign(text)
                    frame = json.loads(text)
                    self._heard(frame)
                    stream = frame.get("s")
                    claimed, right = positions.get(stream), self.positions.get(stream)
                    if claimed != right and (claimed or ("", 0))[1] != (right or ("", 0))[1]:
                        self.flag("position", f"{frame['t']} moved {str(stream)[-12:]} to {claimed}, not {right}")
        self._coverage()
        return self.found

    def _foreign(self, text: str) -> None:
        own = self.history.nonce(self.log.user)
        for nonce in NONCE.findall(text):
            if nonce != own:
                self.flag("foreign", f"{nonce} is not the user's: {text[:160]}")

    def _said(self, frame: dict[str, Any]) -> None:
        if frame.get("t") == "sub" and isinstance(frame.get("s"), str):
            self.connected.asked[frame["s"]].append((frame.get("e"), frame.get("n")))
        if frame.get("t") == "ack" and isinstance(frame.get("s"), dict):
            for stream, number in frame["s"].items():
                if not isinstance(number, int) or number > self.received[stream] or number < self.acked[stream]:
                    known = self.received[stream]
                    self.flag("ack", f"{number!r} of {stream[-12:]}, of which {known} was received")
                else:
                    self.acked[stream] = number

    def _heard(self, frame: dict[str, Any]) -> None:
        match frame.get("t"):
            case "sub":
                self._subscribed(frame)
            case "ev" | "skip" | "snap" | "end":
                self._owned(frame)
                follow = self.connected.follows.get(frame["s"])
                if follow is None:
                    self.flag("sub", f"{frame['t']} of {frame['s'][-12:]} without a sub before it")
                elif follow.epoch != frame["e"]:
                    self.flag("epoch", f"{frame['t']} of {frame['e']}, subscribed was {follow.epoch}")
                else:
                    getattr(self, f"_{frame['t']}")(frame, follow)

    def _owned(self, frame: dict[str, Any]) -> None:
        stream = self.history.streams.get((frame["s"], frame["e"]))
        if stream is not None and stream.user != self.log.user:
            self.flag("foreign", f"{frame['t']} of {frame['s'][-12:]}, which is a stream of {stream.user}")

    def _subscribed(self, frame: dict[str, Any]) -> None:
        name, mode = frame["s"], frame["mode"]
        # Whoever starts over acknowledges again from there.
        self.acked.pop(name, None)
        waiting = self.connected.asked[name]
        is_announced = self._is_announced(frame, waiting)
        epoch, number = waiting.pop(0) if waiting and not is_announced else (None, None)
        if mode == "gone":
            self.gone.add(name)
            self.connected.follows.pop(name, None)
            self.positions.pop(name, None)
            return
        follow = Follow(frame["e"], frame["n"], snapshot_due=mode == "snapshot")
        self.connected.follows[name] = follow
        own = self.positions.get(name)
        follow.asked_back = own is not None and own[0] == epoch and isinstance(number, int) and number < own[1]
        follow.asked_back |= is_announced
        if mode == "exact":
            asked = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**64
            other = epoch != frame["e"] if isinstance(epoch, str) else frame["n"] != 0
            if asked and (other or number != frame["n"]):
                self.flag("sub", f"exact at {frame['e']} {frame['n']}, asked was {epoch} {number}")
            if own is None or own[0] != frame["e"]:
                # From here on: it has none of the stream yet.
                if frame["n"] and not asked:
                    self.flag("sub", f"exact at {frame['n']}, and nothing was asked for")
                self.positions[name] = (frame["e"], frame["n"])
        elif mode == "reset" or own is None or own[0] != frame["e"]:
            self.positions[name] = (frame["e"], 0)
            self.texts[name, frame["e"]] = {}
            self.accounts.pop((name, frame["e"]), None)
            follow.place = 0

    def _is_announced(self, frame: dict[str, Any], waiting: list[tuple[Any, Any]]) -> bool:
        """Whether it is no answer: a worker begins to show a run of another one, just when its client asks for it."""
        begins = frame["mode"] == "exact" and frame["n"] == 0
        asks_on = bool(waiting) and waiting[0][0] == frame.get("e") and waiting[0][1] is not None and waiting[0][1] != 0
        return self.history.several_workers and begins and asks_on

    def _place(self, follow: Follow, frame: dict[str, Any], first: int, number: int) -> bool:
        """Whether the range comes right after what the connection was sent before."""
        if follow.ended:
            self.flag("end", f"{frame['t']} {first}..{number} after the end")
        if follow.snapshot_due:
            self.flag("sub", f"{frame['t']} {first}..{number} where a snapshot was announced")
        if not 1 <= first <= number:
            self.flag("hole", f"a range {first}..{number}")
            return False
        if number <= follow.place:
            self.flag("order", f"{first}..{number} after {follow.place} in {frame['s'][-12:]}")
            return False
        if first != follow.place + 1:
            kind = "hole" if first > follow.place + 1 else "order"
            self.flag(kind, f"{first}..{number} after {follow.place} in {frame['s'][-12:]}")
        follow.place = number
        return True

    def _ev(self, frame: dict[str, Any], follow: Follow) -> None:
        place = (frame["s"], frame["e"])
        for entry in frame["b"]:
            first, number, skipped = entry["f"], entry["n"], entry.get("k", 0)
            if not self._place(follow, frame, first, number):
                continue
            self.received[frame["s"]] = max(self.received[frame["s"]], number)
            self._same(place, number, entry["ev"])
            self._inside(place, entry, first, number, skipped)
            known = self.positions.get(frame["s"], (frame["e"], 0))[1]
            if number <= known or follow.asks_again:
                self.accounts[place].doubled += 1
            elif first != known + 1:
                follow.asks_again = True
                if first > known + 1:
                    self.flag("hole", f"{first}..{number} for a client at {known}")
            else:
                self.positions[frame["s"]] = (frame["e"], number)
                account = self.accounts[place]
                account.delivered += 1
                account.skipped += skipped
                account.merged += number - first - skipped
                self._read(place, entry["ev"])

    def _inside(self, place: Place, entry: dict[str, Any], first: int, number: int, skipped: int) -> None:
        """What the entry covers beside itself must be its own message's deltas, or events that may be skipped."""
        if first == number and not skipped:
            return
        truth = self.truths.get(place, {})
        last = truth.get(number)
        may_skip, merged = 0, []
        for covered in range(first, number):
            event = truth.get(covered)
            if event is not None and event.priority >= 3:
                may_skip += 1
            elif event is not None and last is not None and event.message_id and event.message_id == last.message_id:
                merged.append(event)
            else:
                what = "unknown" if event is None else f"{event.kind} of class {event.priority}"
                self.flag("lost", f"{covered}, {what}, is inside {first}..{number}")
        if skipped != may_skip:
            self.flag("skip", f"{first}..{number} says {skipped} were skipped, it is {may_skip}")
        if merged and last is not None:
            text = "".join(event.delta or "" for event in [*merged, last])
            if entry["ev"]["payload"].get("delta") != text:
                self.flag("text", f"{first}..{number} of {last.message_id} is not the text of its parts")

    def _skip(self, frame: dict[str, Any], follow: Follow) -> None:
        first, number = frame["f"], frame["n"]
        if not self._place(follow, frame, first, number):
            return
        if frame["k"] != number - first + 1:
            self.flag("skip", f"{first}..{number} says {frame['k']} were skipped")
        truth = self.truths.get((frame["s"], frame["e"]), {})
        for covered in range(first, number + 1):
            event = truth.get(covered)
            if event is None or event.priority < 3:
                what = "unknown" if event is None else f"{event.kind} of class {event.priority}"
                self.flag("lost", f"{covered}, {what}, was skipped")
        self.received[frame["s"]] = max(self.received[frame["s"]], number)
        known = self.positions.get(frame["s"], (frame["e"], 0))[1]
        if number > known and first <= known:
            follow.asks_again = True
        elif number > known and not follow.asks_again:
            if first > known + 1:
                self.flag("hole", f"skip {first}..{number} for a client at {known}")
            self.positions[frame["s"]] = (frame["e"], number)
            self.accounts[frame["s"], frame["e"]].skipped += number - known

    def _snap(self, frame: dict[str, Any], follow: Follow) -> None:
        place, number = (frame["s"], frame["e"]), frame["n"]
        follow.snapshot_due = False
        if follow.ended:
            self.flag("end", f"snap to {number} after the end")
        if number < follow.place:
            self.flag("order", f"a snapshot to {number} after {follow.place}")
        follow.place = number
        self.received[frame["s"]] = max(self.received[frame["s"]], number)
        epoch, known = self.positions.get(frame["s"], (frame["e"], 0))
        if epoch == frame["e"] and number <= known and follow.asked_back:
            # It asked for what it had: the client ignores what does not go beyond that.
            return
        if epoch == frame["e"] and number < known:
            self.flag("position", f"a snapshot moved the position back from {known} to {number}")
        self.positions[frame["s"]] = (frame["e"], number)
        self.accounts[place].snapshot += max(0, number - known)
        self.texts[place] = {}
        before = 0
        for event in frame["b"]:
            at = event["seq"]
            if not before < at <= number:
                self.flag("order", f"a snapshot to {number} has {at} after {before}")
            before = at
            self._same(place, at, event, folded=True)
            self._read(place, event)
        self._ended_spans(place, frame)

    def _ended_spans(self, place: Place, frame: dict[str, Any]) -> None:
        """A snapshot shows the beginning and the end of the spans that it covers."""
        shown = {event["seq"] for event in frame["b"]}
        for event in self.truths.get(place, {}).values():
            kept = event.kind in {"agent_started", "agent_completed", "agent_error"}
            if kept and event.number <= frame["n"] and event.number not in shown:
                self.flag("lost", f"{event.kind} {event.number} is not in the snapshot to {frame['n']}")

    def _same(self, place: Place, number: int, event: dict[str, Any], *, folded: bool = False) -> None:
        """The event is the one that was published under this number."""
        payload = event.get("payload") or {}
        uid = next((part["uid"] for part in _parts(payload) if "uid" in part), None)
        if not (folded and "delta" in payload):
            self.identities.setdefault((*place, number), f"{event['type']} {uid} {event.get('event_id')}")
        if event.get("seq") != number or event.get("run_id") != place[0]:
            self.flag("content", f"{place[0][-12:]} {number} carries {event.get('run_id')} {event.get('seq')}")
        self.spans[place][number] = (event["request_id"], event["type"])
        published = self.truths.get(place, {}).get(number)
        if published is None or (folded and published.message_id):
            return
        if (published.kind, published.uid) != (event["type"], uid):
            self.flag("content", f"{number} is {event['type']} {uid}, published was {published.kind} {published.uid}")

    def _read(self, place: Place, event: dict[str, Any]) -> None:
        payload = event.get("payload") or {}
        if payload.get("message_id") and "delta" in payload:
            texts = self.texts[place]
            texts[payload["message_id"]] = texts.get(payload["message_id"], "") + payload["delta"]

    def _end(self, frame: dict[str, Any], follow: Follow) -> None:
        place, said = (frame["s"], frame["e"]), (frame["n"], frame["outcome"])
        if follow.ended:
            self.flag("end", f"{frame['s'][-12:]} was ended twice on one subscription")
        if frame["n"] != follow.place:
            self.flag("end", f"{frame['s'][-12:]} ended at {frame['n']}, sent was {follow.place}")
        if self.ends.setdefault(place, said) != said:
            self.flag("end", f"{frame['s'][-12:]} ended as {said} and as {self.ends[place]}")
        follow.ended = True

    def _coverage(self) -> None:
        """Whoever was to see everything did."""
        for place, account in self.accounts.items():
            reached = account.delivered + account.merged + account.skipped + account.snapshot
            position = self.positions.get(place[0])
            if position is not None and position[0] == place[1] and reached != position[1]:
                self.flag("uncovered", f"{place[0][-12:]}: {reached} accounted for up to {position[1]}")
        for (run, epoch), stream in self.history.streams.items():
            if stream.user != self.log.user or not self.log.complete or stream.lost:
                continue
            reached = self.positions.get(run, (epoch, 0))[1] if self.positions.get(run, ("",))[0] == epoch else 0
            if reached < stream.head:
                self.accounts[run, epoch].unaccounted += stream.head - reached
                self.flag("uncovered", f"{run[-12:]}: {reached} of {stream.head}")
            if stream.outcome is not None:
                self._ending(stream, reached)

    def _ending(self, stream: Any, reached: int) -> None:
        place = (stream.run, stream.epoch)
        end = self.ends.get(place)
        if end is None:
            self.flag("end", f"{stream.run[-12:]} has ended and the client was not told")
        elif end != (stream.head, stream.outcome):
            self.flag("end", f"{stream.run[-12:]} ended as {end}, it was {(stream.head, stream.outcome)}")
        written: dict[str, str] = defaultdict(str)
        for event in sorted(stream.published, key=lambda each: each.number):
            if event.message_id:
                written[event.message_id] += event.delta or ""
        if reached >= stream.head and written != self.texts[place]:
            wrong = [name for name in written if written[name] != self.texts[place].get(name)]
            self.flag("text", f"{stream.run[-12:]}: the text of {wrong[:3]} is not what was published")


def _parts(payload: dict[str, Any]) -> list[dict[str, Any]]:
    """The payload and the objects in it."""
    return [payload, *(value for value in payload.values() if isinstance(value, dict))]
