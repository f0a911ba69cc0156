"""The history of a run of many clients, and what it shows after the fact: what events.md promises.

Publishers, clients and acks are recorded while they go on; ``History.violations`` looks at the records when all is
over. Nothing is believed: the checker replays each client from the raw frames (``event_replay``), and compares what the
client was given with what was published.

Each user has a nonce, which its publishers put into every payload: the nonce of one user in a frame of another is a
leak, whatever the frame says of itself.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

TERMINALS = frozenset({"agent_completed", "agent_error"})
NONCE = re.compile(r"nonce-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that the contract does not allow.

    ``kind`` is one of: ``foreign``, ``uncovered``, ``hole``, ``order``, ``content``, ``lost``, ``skip``, ``text``,
    ``number``, ``span``, ``end``, ``position``, ``epoch``, ``sub``, ``ack``.
    """

    kind: str
    who: str
    text: str


@dataclass(frozen=True, slots=True)
class Published:
    """One event that a publisher was given a number for."""

    number: int
    kind: str
    span: str
    priority: int
    uid: str
    began: float
    returned: float
    key: str | None = None
    message_id: str | None = None
    delta: str | None = None


@dataclass(slots=True)
class Stream:
    """What was published into one incarnation of a run's log."""

    user: str
    run: str
    epoch: str
    published: list[Published] = field(default_factory=list)
    outcome: str | None = None
    """Set when the stream was ended."""
    head: int = 0
    """The last number, events of the library itself included."""
    lost: bool = False
    """Its server died: nobody needs to have seen it to its end."""

    def by_number(self) -> dict[int, Published]:
        return {event.number: event for event in self.published}


@dataclass(slots=True)
class ClientLog:
    """What one client was sent and said, over all of its connections, in order.

    ``steps`` are ``("opened",)``, ``("got", text, positions)``, ``("sent", frame)`` and ``("forgot",)``; ``positions``
    is what the client itself says after the frame: stream → (epoch, number).
    """

    name: str
    user: str
    steps: list[tuple[Any, ...]] = field(default_factory=list)
    complete: bool = True
    """Whether the client shall have seen everything of its user's streams."""

    def opened(self) -> None:
        self.steps.append(("opened",))

    def got(self, text: str, positions: dict[str, tuple[str, int]]) -> None:
        self.steps.append(("got", text, dict(positions)))

    def sent(self, frame: dict[str, Any]) -> None:
        self.steps.append(("sent", frame))

    def forgot(self) -> None:
        self.steps.append(("forgot",))


@dataclass(slots=True)
class Account:
    """Of how each number of a stream reached one client. The first four add up to the client's position."""

    delivered: int = 0
    merged: int = 0
    skipped: int = 0
    snapshot: int = 0
    doubled: int = 0
    unaccounted: int = 0


class History:
    """Records of publishers and clients. Recording may be done from any thread."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.several_workers = False
        """Whether clients go from one worker to another, which may learn of a run while they ask for it."""
        self._lock = threading.Lock()
        self._uids = 0
        self.nonces: dict[str, str] = {}
        self.streams: dict[tuple[str, str], Stream] = {}
        self.clients: dict[str, ClientLog] = {}
        self.accounts: dict[tuple[str, str, str], Account] = {}

    def nonce(self, user: str) -> str:
        """Return what marks everything of the user: the same in another process with the same seed."""
        drawn = random.Random(f"{self.seed}:{user}").getrandbits(64)
        return self.nonces.setdefault(user, f"nonce-{drawn:016x}")

    def uid(self) -> str:
        """Return a new name for an event."""
        with self._lock:
            self._uids += 1
            return f"u{self._uids}"

    def opened(self, user: str, run: str, epoch: str) -> Stream:
        """Note a stream."""
        with self._lock:
            return self.streams.setdefault((run, epoch), Stream(user, run, epoch))

    def reached(self, stream: Stream, number: int) -> None:
        """Note that a stream has come to a number. A publisher may be late to say so, even after its end was noted."""
        with self._lock:
            stream.head = max(stream.head, number)

    def client(self, name: str, user: str, *, complete: bool = True) -> ClientLog:
        """Return the log of a client; the same one for the same name."""
        with self._lock:
            return self.clients.setdefault(name, ClientLog(name, user, complete=complete))

    def violations(self) -> list[Violation]:
        """Look at everything that was recorded. Fills ``accounts`` as well."""
        from tests.support.event_replay import Replay  # noqa: PLC0415 - it replays what is recorded here

        found = [each for stream in self.streams.values() for each in _of_publishers(stream)]
        truths = {place: stream.by_number() for place, stream in self.streams.items()}
        replays = [Replay(self, log, truths) for log in self.clients.values()]
        for replay in replays:
            found += replay.run()
            self.accounts.update({(replay.log.name, *place): account for place, account in replay.accounts.items()})
        found += _one_order(replays)
        for stream in self.streams.values():
            found += _of_spans(stream, replays)
        return found

    def totals(self) -> Counter[str]:
        """Add up the accounts of all clients."""
        totals: Counter[str] = Counter()
        for account in self.accounts.values():
            for name in Account.__slots__:
                totals[name] += getattr(account, name)
        return totals

    def check(self) -> Counter[str]:
        """Raise ``AssertionError`` for what is found, else return the totals."""
        found = self.violations()
        counts = Counter(violation.kind for violation in found)
        shown = "\n".join(f"  {each.kind}: {each.who}: {each.text}" for each in found[:20])
        assert not found, f"{dict(counts)}\n{shown}"
        return self.totals()


def _of_publishers(stream: Stream) -> Iterable[Violation]:
    """Numbers are given once, densely, and in the order in which publishing happened."""
    who = stream.run[-12:]
    counts = Counter(event.number for event in stream.published)
    for number, count in counts.items():
        if count > 1:
            yield Violation("number", who, f"number {number} was given {count} times")
        if number < 1 or (stream.head and number > stream.head):
            yield Violation("number", who, f"number {number} of a log of {stream.head}")
    # Whoever had returned before another began must have the smaller number.
    earliest, at = float("inf"), 0
    for event in sorted(stream.published, key=lambda each: -each.number):
        if earliest < event.began:
            yield Violation("order", who, f"{event.number} began after {at} had returned")
        if event.returned < earliest:
            earliest, at = event.returned, event.number


def _one_order(replays: Iterable[Any]) -> Iterable[Violation]:
    """All clients have the same event under the same number."""
    first: dict[tuple[str, str, int], tuple[str, str]] = {}
    for replay in replays:
        for place, identity in replay.identities.items():
            who, known = first.setdefault(place, (replay.log.name, identity))
            if known != identity:
                text = f"{place[0][-12:]} {place[2]} is {identity}, for {who} it is {known}"
                yield Violation("order", replay.log.name, text)


def _of_spans(stream: Stream, replays: Iterable[Any]) -> Iterable[Violation]:
    """Each span begins, ends once, and has nothing after its end."""
    events: dict[int, tuple[str, str]] = {event.number: (event.span, event.kind) for event in stream.published}
    for replay in replays:
        events.update(replay.spans.get((stream.run, stream.epoch), {}))
    spans: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number in sorted(events):
        span, kind = events[number]
        spans[span].append((number, kind))
    for span, steps in spans.items():
        kinds = [kind for _, kind in steps]
        ends = [at for at, kind in enumerate(kinds) if kind in TERMINALS]
        who = span[-20:]
        if "agent_started" in kinds[1:]:
            yield Violation("span", who, "agent_started is not its first event")
        if len(ends) > 1:
            yield Violation("span", who, f"{len(ends)} last events, at {[steps[at][0] for at in ends]}")
        if ends and ends[0] != len(kinds) - 1:
            yield Violation("span", who, f"{kinds[ends[0] + 1]} at {steps[ends[0] + 1][0]} after its end")
        if not ends and kinds[0] == "agent_started" and stream.outcome is not None and not stream.lost:
            yield Violation("span", who, "its stream has ended and it has not")


class Recorder:
    """Publishes for one run and records each event, with the owner's nonce and a name of its own in the payload."""

    def __init__(self, history: History, emitter: Any, run: str, epoch: str, span: str) -> None:
        self.history = history
        self.emitter = emitter
        self.user: str = emitter.user_id
        self.span = span
        self.stream = history.opened(self.user, run, epoch)
        self.nonce = history.nonce(self.user)

    def _note(self, kind: str, priority: int, uid: str, began: float, number: int, **more: Any) -> int:
        event = Published(number, kind, self.span, priority, uid, began, time.monotonic(), **more)
        self.stream.published.append(event)
        self.history.reached(self.stream, number)
        return number

    def publish(self, kind: str, payload: dict[str, Any] | None = None, **options: Any) -> int:
        """Publish an application's own event."""
        uid, began = self.history.uid(), time.monotonic()
        more = {"key": options.get("key"), "message_id": options.get("message_id")}
        marked = {**(payload or {}), "owner": self.nonce, "uid": uid}
        number = self.emitter.publish(kind, marked, **options)
        delta = marked.get("delta") if options.get("message_id") else None
        return self._note(kind, options.get("priority", 2), uid, began, number, delta=delta, **more)

    def started(self, agent: str = "scripted") -> int:
        return self._notify("agent_started", 1, lambda mark: self.emitter.notify_agent_started(agent, mark))

    def thinking(self, text: str) -> int:
        return self._notify("agent_thinking", 2, lambda mark: self.emitter.notify_agent_thinking(text, mark))

    def executing(self, tool: str = "search") -> int:
        notify = self.emitter.notify_tool_executing
        return self._notify("tool_executing", 2, lambda mark: notify(tool_name=tool, params=mark))

    def executed(self, tool: str = "search") -> int:
        notify = self.emitter.notify_tool_completed
        return self._notify("tool_completed", 1, lambda mark: notify(tool_name=tool, result=mark))

    def completed(self) -> int:
        return self._notify("agent_completed", 1, lambda mark: self.emitter.notify_agent_completed(result=mark))

    def _notify(self, kind: str, priority: int, call: Any) -> int:
        uid, began = self.history.uid(), time.monotonic()
        done = call({"owner": self.nonce, "uid": uid})
        # It is complete already: awaiting it would only hand out the number.
        try:
            done.send(None)
        except StopIteration as stop:
            return self._note(kind, priority, uid, began, stop.value)
        raise AssertionError("publishing had to wait")
