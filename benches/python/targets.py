"""What the figures should be, and whether they are."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from benches.python.cases import (
    contamination,
    contexts,
    copies,
    dashboard,
    engines,
    events,
    flags,
    flat,
    memory,
    metrics,
    permits,
    sanitize,
    sockets,
    tools,
    tracing,
    trampoline,
)
from benches.python.measure import Figure, Measured

CACHES = (
    "For 10000 users the same instructions are done as for 10 (see the instructions below). The rest is waiting for "
    "memory: what belongs to so many users does not fit into the processor's caches. The peers, which take longer, "
    "grow less in proportion."
)
CREATION = (
    "It is a call of a type with keywords, an object that the collector tracks, three ids checked, a new id from "
    "random bits, both clocks, the look-up of the lane, four allocations and the end of all that; none of it "
    "stands out in a profile."
)
TREE = (
    "Two thirds of it are the deep copy of the tree, which is at its own floor: one dictionary or list is made for "
    "each of the original, and nothing else."
)
TOOL = (
    "It writes more than the plain call: the tool, a status, a line for people and the time that the call took, and it "
    "closes the call in the book of the span. The await itself is measured one row above."
)
ENGINE = (
    "Most of it is the interpreter's: coroutines, attributes and dictionaries of the factory and the engine in Python. "
    "The slot, the stream and the deadline, which are in Rust, are the smaller part."
)
PERMIT = (
    "Two thirds of it are the interpreter's: a slot and a permit are two objects, with two bound methods. "
    "The decision, the tags and the statistics are the smaller part."
)
QUEUE = (
    "A waiter's future and the task around it are the same on both sides. What is more is the record of each new user, "
    "and the order of users."
)
CANCELLED = (
    "Most of it is the task's own: asyncio wakes it with the cancellation and ends it, which takes as long for a bare "
    "future."
)
LIVE = (
    "For each turn a waiting task is woken: a future is made and completed, and the loop calls the task again, which "
    "the bare loop does not do. asyncio.Queue does the same, and is slower."
)


TOOL_CALL = (
    "Both events are written, numbered and kept, and the parameters are checked by pydantic: that is half of it. The "
    "rest is the interpreter's: three coroutines, and the attributes and dictionaries of the dispatcher."
)


SPANS = (
    "Most of it is the SDK's: a span with its ids, attributes, limits and lock, in Python; the table has one alone. "
    "The rest makes it current and puts the context back."
)


class Rule(enum.Enum):
    """How a figure is held against its limit."""

    SPEEDUP = "at least so many times as fast as the peer"
    SHARE = "at most so many times the peer's time"
    RATE = "at least so many times the peer's messages a second"
    TIME = "at most so many seconds"
    EXTRA = "at most so many seconds more than the peer"
    BYTES = "at most so many bytes"


@dataclass(frozen=True, slots=True)
class Target:
    """One limit on one side of one case.

    Attributes:
        what: what is measured, in the words of the report.
        group: the case's group.
        case: the case's name.
        side: the side that is judged.
        rule: how it is judged.
        limit: the limit, in the unit of the rule.
        peer: the side that it is compared with; none for a time and for bytes.
        floor: why less than the limit is to be had, printed when it is missed.
    """

    what: str
    group: str
    case: str
    side: str
    rule: Rule
    limit: float
    peer: str = ""
    floor: str = ""

    def measured(self, own: Figure, peer: Figure | None) -> float:
        """The figure, in the unit of the limit."""
        # Never nothing, nor less: what is too small to be seen is as good as a tenth of a nanosecond.
        if peer is None:
            return max(own.median, 1e-10)
        if self.rule is Rule.EXTRA:
            return max(own.more_than(peer), 1e-10)
        return own.times(peer) if self.rule is Rule.SHARE else peer.times(own)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured.

    Attributes:
        target: the target.
        measured: the figure that is judged, in the unit of the limit; none when there is none.
        why: why there is none.
        best: the best of the repeats of the judged side, in the unit of its case.
    """

    target: Target
    measured: float | None
    why: str = ""
    best: float = 0.0

    @property
    def score(self) -> float | None:
        """How many times better than the limit: 1 is met exactly, below 1 is missed."""
        if self.measured is None:
            return None
        if self.target.rule in {Rule.SPEEDUP, Rule.RATE}:
            return self.measured / self.target.limit
        return self.target.limit / self.measured

    @property
    def met(self) -> bool:
        return self.score is not None and self.score >= 1


def _speedups() -> list[Target]:
    rows = (
        ("context made, empty", contexts.CREATED, contexts.DATACLASS, 15, CREATION),
        ("context made, 60-node tree", contexts.CREATED_TREE, contexts.DATACLASS, 12, ""),
        ("context made and read, empty", contexts.READ, contexts.DATACLASS, 6, ""),
        ("context made and read, 60-node tree", contexts.READ_TREE, contexts.DATACLASS, 10, ""),
        ("child context, empty", contexts.CHILD, contexts.DATACLASS, 20, ""),
        ("child context, 60-node tree", contexts.CHILD_TREE, contexts.DATACLASS, 20, TREE),
        ("context made, empty", contexts.CREATED, contexts.PYDANTIC, 12, CREATION),
        ("context made, 60-node tree", contexts.CREATED_TREE, contexts.PYDANTIC, 12, ""),
    )
    return [
        Target(what, contexts.GROUP, case, contexts.OWN, Rule.SPEEDUP, limit, peer, floor)
        for what, case, peer, limit, floor in rows
    ]


def _events() -> list[Target]:
    publish = "publish of a 265-byte dict"
    return [
        Target(publish, events.GROUP, events.PUBLISH, events.OWN, Rule.TIME, 1e-6),
        Target(publish, events.GROUP, events.PUBLISH, events.OWN, Rule.SHARE, 0.1, events.QUEUE),
        Target("await of the same event", events.GROUP, events.AWAIT, events.AWAITED, Rule.SHARE, 1.2, events.SYNC),
        Target(
            *("await notify_tool_completed", events.GROUP, events.AWAIT, events.AWAITED_TOOL, Rule.SHARE, 1.2),
            *(events.SYNC, TOOL),
        ),
    ]


def _permits() -> list[Target]:
    group, own = permits.GROUP, permits.OWN
    asked = "free permit, with priority, deadline and statistics"
    by_order = [permits.cancelling(order) for order in (permits.FIRST_FIRST, permits.LAST_FIRST, permits.SHUFFLED)]
    return [
        Target("free permit", group, permits.FREE, own, Rule.SHARE, 0.4, permits.NESTED, PERMIT),
        Target(asked, group, permits.ASKED, own, Rule.SHARE, 0.4, permits.NESTED, PERMIT),
        Target(asked, group, permits.ASKED, own, Rule.SPEEDUP, 20, permits.MANAGED),
        Target(
            "1000 tasks, limit 5, one user", group, permits.ONE_USER, own, Rule.SHARE, 1.1, permits.SEMAPHORE, QUEUE
        ),
        Target(
            *("1000 tasks, limit 5, 1000 users", group, permits.MANY_USERS, own, Rule.SHARE, 1.1),
            *(permits.SEMAPHORE, QUEUE),
        ),
        *(
            Target(f"waiter cancelled, {side}", group, permits.CANCELLED, side, Rule.TIME, 7e-6, floor=CANCELLED)
            for side in by_order
        ),
        *(
            Target(f"waiter cancelled, {side}", group, permits.CANCELLED, side, Rule.SHARE, 2, by_order[0], CANCELLED)
            for side in by_order[1:]
        ),
        Target(
            *(f"waiter cancelled, {by_order[0]}", group, permits.CANCELLED, by_order[0], Rule.SHARE, 2),
            *(by_order[1], CANCELLED),
        ),
    ]


def _loop_account() -> list[Target]:
    rows = (
        ("step accounted for", trampoline.STEP, 80e-9),
        ("step accounted for, sent by hand", trampoline.SENT, 80e-9),
        ("longer step accounted for", trampoline.LONG, 100e-9),
    )
    return [
        Target(what, trampoline.GROUP, case, trampoline.OWN, Rule.EXTRA, limit, trampoline.PEER)
        for what, case, limit in rows
    ]


def _sockets() -> list[Target]:
    rows = (
        ("writer drains full logs", sockets.DRAIN, sockets.BARE, 0.95),
        ("16 published in a turn", sockets.BURSTS, sockets.BARE, 0.75),
        ("one published in a turn", sockets.SINGLE, sockets.BARE_TURNS, 0.65),
        ("one published in a turn", sockets.SINGLE, sockets.QUEUE, 1.2),
    )
    return [
        Target(what, sockets.GROUP, case, sockets.OWN, Rule.RATE, limit, peer, LIVE) for what, case, peer, limit in rows
    ]


def _sanitizer() -> list[Target]:
    group, own, what = sanitize.GROUP, sanitize.OWN, "look through a 640-byte event"
    return [
        # 250 MB/s.
        Target(what, group, sanitize.CLEAN, own, Rule.TIME, sanitize.EVENT_BYTES / 250e6),
        Target(what, group, sanitize.CLEAN, own, Rule.SPEEDUP, 20, sanitize.PRESIDIO),
    ]


def _metrics() -> list[Target]:
    extra = (
        (metrics.VALIDATED, 20e-9),
        (metrics.CLEANED, 60e-9),
        (metrics.CHILD, 20e-9),
        (metrics.PERMIT, 40e-9),
        (metrics.EVENT, 20e-9),
        (metrics.ENGINE, 100e-9),
        (metrics.TOOL, 100e-9),
        (metrics.FLAG, 30e-9),
    )
    held = (metrics.COUNT, metrics.COUNT_BY_LABELS, metrics.OBSERVE)
    scrapes = [metrics.RENDER.format(series=metrics.SERIES, text_format=each) for each in metrics.FORMATS]
    return [
        *(
            Target(f"{case}, metrics on", metrics.GROUP, case, metrics.ON, Rule.EXTRA, limit, metrics.OFF)
            for case, limit in extra
        ),
        *(Target(case, metrics.GROUP, case, metrics.HELD, Rule.SPEEDUP, 3, metrics.PEER) for case in held),
        *(Target(case, metrics.GROUP, case, metrics.OWN_TEXT, Rule.TIME, 10e-3) for case in scrapes),
        *(Target(case, metrics.GROUP, case, metrics.OWN_TEXT, Rule.SPEEDUP, 10, metrics.PEER_TEXT) for case in scrapes),
    ]


def _dashboard() -> list[Target]:
    limits = {
        dashboard.OVERVIEW: 1e-3,
        dashboard.TOP_USERS: 10e-3,
        dashboard.FOUND_USERS: 10e-3,
        dashboard.LATEST_RUNS: 20e-3,
        dashboard.FOUND_RUNS: 50e-3,
        dashboard.TREE: 20e-3,
    }
    return [
        Target(f"dashboard: {case}", dashboard.GROUP, case, dashboard.OWN, Rule.TIME, limit)
        for case, limit in limits.items()
    ]


def _tracing() -> list[Target]:
    rows = ((tracing.EVENT, 150e-9), (tracing.TOOL, 30e-6), (tracing.AGENT, 90e-6))
    return [
        Target(f"{case}, traced", tracing.GROUP, case, tracing.SAMPLED, Rule.EXTRA, limit, tracing.OFF, SPANS)
        for case, limit in rows
    ]


def _many_users() -> list[Target]:
    return [
        Target(
            *(f"{case}, {order}, {flat.MOST}", flat.GROUP, f"{case}, {order}", flat.MOST, Rule.SHARE, 1.25),
            flat.FEWEST,
            CACHES,
        )
        for case in (flat.CONTEXT, flat.PERMIT, flat.PUBLISH)
        for order in (flat.IN_TURN, flat.SCATTERED)
    ]


def all_targets() -> list[Target]:
    """Every target, in the order of the cases."""
    return [
        *_speedups(),
        Target("deep copy, 60-node tree", copies.GROUP, copies.NAME, copies.OWN, Rule.SPEEDUP, 15, copies.PEER),
        *_permits(),
        *_events(),
        Target("engine made and ended", engines.GROUP, engines.CREATE, engines.OWN, Rule.TIME, 10e-6, floor=ENGINE),
        Target(
            *("scan of 16 KiB, canaries", contamination.GROUP, contamination.CANARIES, contamination.OWN),
            *(Rule.TIME, 1e-6),
        ),
        Target(
            *("scan of 16 KiB, everything", contamination.GROUP, contamination.EVERYTHING, contamination.OWN),
            *(Rule.TIME, 20e-6),
        ),
        *_loop_account(),
        *_sanitizer(),
        *_sockets(),
        Target("tool call without the tool", tools.GROUP, tools.CALL, tools.OWN, Rule.TIME, 5e-6, floor=TOOL_CALL),
        Target("decision and book of a tool call", tools.GROUP, tools.DECIDED, tools.OWN, Rule.TIME, 5e-6),
        Target("decision of the wall", tools.GROUP, tools.WALL, tools.WALL_SIDE, Rule.TIME, 400e-9),
        Target("decision of a flag", flags.GROUP, flags.DECIDE, flags.OWN, Rule.TIME, 300e-9),
        Target("decision of a flag", flags.GROUP, flags.DECIDE, flags.OWN, Rule.SHARE, 0.2, flags.OPENFEATURE),
        Target("decision of a flag by a rule", flags.GROUP, flags.RULED, flags.OWN, Rule.TIME, 500e-9),
        *_many_users(),
        *_tracing(),
        *_dashboard(),
        *_metrics(),
        Target("untouched context", memory.GROUP, memory.CONTEXTS, memory.UNTOUCHED, Rule.BYTES, 768),
        Target("idle lane, never used", memory.GROUP, memory.LANES, memory.LANE, Rule.BYTES, 512),
        Target("user in a limiter, came once", memory.GROUP, memory.LIMITED, memory.IDLE_USER, Rule.BYTES, 300),
        Target(
            "user in a limiter, with percentiles", memory.GROUP, memory.LIMITED, memory.ACTIVE_USER, Rule.BYTES, 1229
        ),
        Target("idle lane, after a run", memory.GROUP, memory.LANES, memory.USED_LANE, Rule.BYTES, 512),
    ]


def judge(target: Target, results: Sequence[Measured]) -> Verdict:
    """Hold one target against what was measured."""
    found = next((each for each in results if (each.case.group, each.case.name) == (target.group, target.case)), None)
    if found is None:
        return Verdict(target, None, "not part of this run")
    if found.case.skipped:
        return Verdict(target, None, found.case.skipped)
    own = found.figure(target.side)
    peer = found.figure(target.peer) if target.peer else None
    if own is None or (target.peer and peer is None):
        return Verdict(target, None, f"the case has no side {target.side if own is None else target.peer!r}")
    return Verdict(target, target.measured(own, peer), best=own.minimum)


def verdicts(results: Sequence[Measured]) -> list[Verdict]:
    """All targets."""
    return [judge(target, results) for target in all_targets()]
