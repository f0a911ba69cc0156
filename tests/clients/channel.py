"""A model of a server's log and of a channel that duplicates, reorders and drops, for both readers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Frame = dict[str, Any]


@dataclass
class ModelLog:
    """The log of one run as a server has it: events 1 to head, a fold, an end."""

    run: str = "r"
    epoch: str = "A"
    head: int = 0
    folded: int = 0
    ended: bool = False

    def message(self, number: int) -> Frame:
        return {"seq": number, "of": self.epoch}

    def events(self, first: int, last: int) -> Frame:
        entries = [
            {"n": n, "f": n, "p": 1 if n % 7 == 0 else 2, "ts": n, "id": f"{n}", "ev": self.message(n)}
            for n in range(first, last + 1)
        ]
        return {"v": 1, "t": "ev", "s": self.run, "e": self.epoch, "b": entries}

    def merged(self, first: int, last: int) -> Frame:
        entry = {"n": last, "f": first, "k": 1, "p": 2, "ts": 1, "id": f"{last}", "ev": self.message(last)}
        return {"v": 1, "t": "ev", "s": self.run, "e": self.epoch, "b": [entry]}

    def skip(self, first: int, last: int) -> Frame:
        return {"v": 1, "t": "skip", "s": self.run, "e": self.epoch, "f": first, "n": last, "k": last - first + 1}

    def snapshot(self, number: int) -> Frame:
        return {"v": 1, "t": "snap", "s": self.run, "e": self.epoch, "n": number, "b": [{"up_to": number}]}

    def end(self) -> Frame:
        return {"v": 1, "t": "end", "s": self.run, "e": self.epoch, "n": self.head, "outcome": "completed"}

    def welcome(self) -> Frame:
        named = {"s": self.run, "e": self.epoch, "n": self.head, "state": "running", "thread_id": "t"}
        return {"v": 1, "t": "welcome", "conn": "c", "streams": [named], "ping_ms": 15000}

    def answer(self, asked: Frame) -> list[Frame]:
        """What a subscription is answered with, up to the head and the end."""
        number = asked["n"] if asked.get("e") in {None, self.epoch} else 0
        mode = "exact" if asked.get("e") in {None, self.epoch} and number <= self.head else "reset"
        number = number if mode == "exact" else 0
        frames: list[Frame] = []
        if number < self.folded:
            mode = mode if mode == "reset" else "snapshot"
            frames.append(self.snapshot(self.folded))
            number = self.folded
        answer = {"v": 1, "t": "sub", "s": self.run, "e": self.epoch, "mode": mode, "n": number, "head": self.head}
        if number < self.head:
            frames.append(self.events(number + 1, self.head))
        if self.ended:
            frames.append(self.end())
        return [answer, *frames]


@dataclass
class View:
    """What a page shows, by the effects: it notices a hole, a double, and a second end."""

    epoch: str | None = None
    covered: int = 0
    ends: list[str] = field(default_factory=list)

    def apply(self, frame: Frame | None, effects: list[list[Any]]) -> None:
        for effect in effects:
            match effect:
                case ["event", _, number, message, _]:
                    assert frame is not None
                    (entry,) = [one for one in frame["b"] if one["n"] == number]
                    if self.epoch is None or self.covered == 0:
                        self.epoch = message["of"]
                    assert message["of"] == self.epoch, "an event of another incarnation"
                    assert entry["f"] == self.covered + 1, f"{entry['f']}..{number} after {self.covered}"
                    self.covered = number
                case ["skip", _, number, count]:
                    assert number - count == self.covered
                    self.covered = number
                case ["replace", _, messages, number]:
                    assert (number == 0) == (messages == [])
                    assert frame is not None
                    self.covered, self.epoch = number, frame["e"]
                    self.ends = [end for end in self.ends if end != frame["e"]]
                case ["end", _, outcome]:
                    assert frame is not None
                    assert outcome == "completed"
                    assert frame["n"] == self.covered, "an end before its events"
                    assert frame["e"] not in self.ends, "a second end"
                    self.ends.append(frame["e"])
