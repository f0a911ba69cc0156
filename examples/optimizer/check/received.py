"""What a user's socket received, frame by frame."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Frame(NamedTuple):
    """One frame as it came, and when."""

    raw: str
    body: dict[str, Any]
    seconds: float


class Entry(NamedTuple):
    """One event with the numbers it covers in its stream."""

    stream: str
    first: int
    last: int
    message: dict[str, Any]
    seconds: float


@dataclass(slots=True)
class Inbox:
    """All frames of one user, in the order in which they came."""

    began: float = field(default_factory=time.monotonic)
    frames: list[Frame] = field(default_factory=list)

    def add(self, raw: str) -> dict[str, Any]:
        """Keep a frame and give its body."""
        body: dict[str, Any] = json.loads(raw)
        self.frames.append(Frame(raw, body, time.monotonic() - self.began))
        return body

    def entries(self) -> Iterator[Entry]:
        """The events of all frames. The legacy bridge sends bare messages: each counts as a frame of one."""
        for _, body, seconds in self.frames:
            if body.get("t") == "ev":
                for entry in body["b"]:
                    yield Entry(body["s"], entry["f"], entry["n"], entry["ev"], seconds)
            elif "type" in body:
                yield Entry(body["run_id"], body["seq"], body["seq"], body, seconds)

    def ends(self) -> list[dict[str, Any]]:
        """The frames that closed a stream."""
        return [frame.body for frame in self.frames if frame.body.get("t") == "end"]
