"""The protocol without a socket: frames in, effects out. It alone knows the positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from isolane.client.records import Ended, Event, Position, Replaced, Skipped

Frame = dict[str, Any]

ACK_EVENTS = 32
ENDED_KEPT = 1000
"""Ended runs whose positions are remembered."""
FRUITLESS = 3
"""Subscriptions from one position without an event, after which the connection is given up."""
CRITICAL = 1


@dataclass(frozen=True, slots=True)
class Send:
    """The frame is to be sent."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The connection serves.

    Attributes:
        attempts: Attempts to reconnect in a row, 0 for ever.
        ping_seconds: How long an idle server waits before it pings.
    """

    attempts: int
    ping_seconds: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The answer to a cancel."""

    run_id: str
    cid: str | None
    state: str


@dataclass(frozen=True, slots=True)
class Bye:
    """The server is about to close the connection."""

    retry_seconds: float | None


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection leads nowhere and is to be given up."""

    reason: str


@dataclass(frozen=True, slots=True)
class Expiring:
    """The sign-in of the connection ends soon, unless it is renewed."""

    seconds: float


Effect = Send | Welcomed | Cancelled | Expiring | Bye | Broken | Event | Skipped | Replaced | Ended


class _Stream:
    """Where one run stands."""

    __slots__ = ("asked", "ended", "epoch", "fruitless", "number", "shown", "stalled")

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.number = 0
        self.ended = False
        self.shown = False
        self.asked = False
        self.fruitless = 0
        self.stalled: int | None = None

    def advance(self, number: int) -> None:
        self.number = number
        self.shown = True
        self.fruitless = 0
        self.stalled = None


class StreamReader:
    """Reads the frames of the server.

    `receive` is a generator: the position has moved when an effect is yielded. After each frame, `take_ack` is to be
    sent if `ack_due`.
    """

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._ended: dict[str, None] = {}
        self._unacked: dict[str, None] = {}
        self._count = 0
        self._ack_events = ACK_EVENTS
        self._ack_now = False

    def connected(self) -> None:
        """Begin on a new connection: what was asked for on the former one is not answered any more."""
        for stream in self._streams.values():
            stream.asked = False
            stream.fruitless = 0
            stream.stalled = None
        self._unacked.clear()
        self._count = 0
        self._ack_now = False

    def subscribe(self, run_id: str) -> Frame | None:
        """Return the frame that asks for a run from where it stands, or ``None`` when it was asked for already."""
        stream = self._stream(run_id)
        if stream.asked:
            return None
        stream.asked = True
        if stream.epoch is None:
            return {"t": "sub", "s": run_id, "n": 0}
        return {"t": "sub", "s": run_id, "e": stream.epoch, "n": stream.number}

    def follow(self, run_id: str) -> None:
        """Have the run asked for with the next welcome."""
        self._stream(run_id)

    def position(self, run_id: str) -> Position | None:
        """Return where a run stands, or ``None`` when nothing is known of it."""
        stream = self._streams.get(run_id)
        if stream is None or stream.epoch is None:
            return None
        return Position(stream.epoch, stream.number, stream.ended)

    def restore(self, run_id: str, position: Position) -> None:
        """Begin from a position that was kept elsewhere."""
        stream = self._stream(run_id)
        stream.epoch, stream.number, stream.shown = position.epoch, position.number, True
        if position.ended:
            self._end(run_id)

    @property
    def ack_due(self) -> bool:
        """Whether the server is to be told what was received."""
        return bool(self._unacked) and (self._ack_now or self._count >= self._ack_events)

    def take_ack(self) -> Frame:
        """Return the ack of everything that was received."""
        numbers = {run: self._streams[run].number if run in self._streams else 0 for run in self._unacked}
        self._unacked.clear()
        self._count = 0
        self._ack_now = False
        return {"t": "ack", "s": numbers}

    def receive(self, frame: Frame) -> Iterator[Effect]:
        """Yield what follows from a frame. Frames of later versions have no effect."""
        read = {
            "welcome": self._welcome,
            "sub": self._subscribed,
            "ev": self._events,
            "skip": self._skip,
            "snap": self._snapshot,
            "end": self._closed,
            "ping": self._ping,
        }.get(frame.get("t", ""))
        if read is not None:
            yield from read(frame)
        elif frame.get("t") == "cancel":
            yield Cancelled(frame["s"], frame.get("cid"), frame["state"])
        elif frame.get("t") == "auth_expiring":
            yield Expiring(frame["expires_in_ms"] / 1000)
        elif frame.get("t") == "bye":
            retry = frame.get("retry_ms")
            yield Bye(retry / 1000 if retry else None)

    def _stream(self, run_id: str) -> _Stream:
        return self._streams.setdefault(run_id, _Stream())

    def _welcome(self, frame: Frame) -> Iterator[Effect]:
        self._ack_events = frame.get("ack", {}).get("events", ACK_EVENTS)
        yield Welcomed(frame.get("reconnect", {}).get("attempts", 0), frame["ping_ms"] / 1000)
        asked: dict[str, None] = {}
        for named in frame["streams"]:
            known = self._streams.get(named["s"])
            if known is None or not (known.ended and known.epoch == named["e"]):
                asked[named["s"]] = None
        # A run that the server does not name any more is asked for as well: the answer says what became of it.
        asked.update(dict.fromkeys(run for run, stream in self._streams.items() if not stream.ended))
        for run in asked:
            yield from self._ask(run)

    def _ask(self, run_id: str) -> Iterator[Effect]:
        frame = self.subscribe(run_id)
        if frame is not None:
            yield Send(frame)

    def _again(self, run_id: str, stream: _Stream) -> Iterator[Effect]:
        """Ask for a run from its position: there is a hole before what came."""
        if stream.asked:
            return
        stream.fruitless += 1
        if stream.fruitless > FRUITLESS:
            yield Broken(f"the server does not continue {run_id}")
        else:
            yield from self._ask(run_id)

    def _subscribed(self, frame: Frame) -> Iterator[Effect]:
        run_id = frame["s"]
        known = self._streams.get(run_id)
        if frame["mode"] == "gone":
            if known is None:
                return
            known.asked = False
            if not known.ended:
                known.epoch = None
                self._end(run_id)
                yield Ended(run_id, "lost")
            return
        stream = self._stream(run_id)
        stream.asked = False
        if stream.epoch != frame["e"] or frame["mode"] == "reset":
            yield from self._begin(run_id, stream, frame["e"])

    def _begin(self, run_id: str, stream: _Stream, epoch: str) -> Iterator[Effect]:
        """Begin at the first event. What was shown of an earlier incarnation of the log does not count."""
        shown = stream.shown
        stream.epoch, stream.number, stream.ended = epoch, 0, False
        stream.shown, stream.stalled = False, None
        self._ended.pop(run_id, None)
        if shown:
            yield Replaced(run_id, [], 0, epoch)

    def _events(self, frame: Frame) -> Iterator[Effect]:
        run_id = frame["s"]
        stream = self._streams.get(run_id)
        if stream is None or stream.epoch != frame["e"]:
            return
        self._unacked[run_id] = None
        self._count += len(frame["b"])
        self._ack_now = self._ack_now or any(entry.get("p") == CRITICAL for entry in frame["b"])
        for entry in frame["b"]:
            number = entry["n"]
            first = entry.get("f", number)
            if number <= stream.number:
                continue
            if first != stream.number + 1:
                yield from self._again(run_id, stream)
                return
            stream.advance(number)
            yield Event(run_id, number, entry["ev"], entry.get("k", 0), first, entry.get("p", 2), frame["e"])

    def _skip(self, frame: Frame) -> Iterator[Effect]:
        run_id = frame["s"]
        stream = self._streams.get(run_id)
        if stream is None or stream.epoch != frame["e"]:
            return
        self._unacked[run_id] = None
        self._count += 1
        if frame["n"] <= stream.number:
            return
        if frame["f"] != stream.number + 1:
            yield from self._again(run_id, stream)
            return
        stream.advance(frame["n"])
        yield Skipped(run_id, frame["n"], frame["k"])

    def _snapshot(self, frame: Frame) -> Iterator[Effect]:
        run_id, epoch = frame["s"], frame["e"]
        stream = self._stream(run_id)
        self._unacked[run_id] = None
        self._ack_now = True
        if stream.epoch == epoch and frame["n"] <= stream.number:
            return
        if stream.epoch != epoch:
            self._ended.pop(run_id, None)
            stream.ended = False
        stream.epoch = epoch
        stream.advance(frame["n"])
        yield Replaced(run_id, frame["b"], frame["n"], epoch)

    def _closed(self, frame: Frame) -> Iterator[Effect]:
        run_id = frame["s"]
        stream = self._streams.get(run_id)
        if stream is None or stream.epoch != frame["e"] or stream.ended:
            return
        if frame["n"] > stream.number:
            yield from self._again(run_id, stream)
            return
        self._ack_now = self._ack_now or run_id in self._unacked
        self._end(run_id)
        yield Ended(run_id, frame["outcome"])

    def _end(self, run_id: str) -> None:
        self._stream(run_id).ended = True
        self._ended.pop(run_id, None)
        self._ended[run_id] = None
        if len(self._ended) > ENDED_KEPT:
            oldest = next(iter(self._ended))
            for remembered in (self._ended, self._streams, self._unacked):
                remembered.pop(oldest, None)

    def _ping(self, frame: Frame) -> Iterator[Effect]:
        yield Send({"t": "pong"})
        self._ack_now = self._ack_now or bool(self._unacked)
        head = frame.get("head", {})
        for run_id, stream in list(self._streams.items()):
            if stream.epoch is None or stream.ended or head.get(run_id, 0) <= stream.number:
                continue
            # Nothing came between two pings though there is more: something was lost on the way.
            stalled = stream.stalled == stream.number
            stream.stalled = stream.number
            if stalled:
                stream.asked = False
                yield from self._ask(run_id)
