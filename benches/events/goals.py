"""What the figures should be. Ratios are of one run; a missed goal is printed and fails nothing."""

from collections.abc import Sequence

from benches.events import scenarios
from benches.events.scenarios import PERCENTILES
from benches.events.shape import LABELS, Load, Sizes, Way
from benches.python import targets
from benches.python.cases import events, sockets
from benches.python.measure import Measured
from benches.python.targets import Rule, Target, Verdict

OWN = LABELS[Way.ISOLANE]
BARE = LABELS[Way.BARE]
FRAMES = (
    "uvicorn takes about 1.6 times as long for a constant text of a frame's 10 KiB as for one of a single message, so "
    "that no writer reaches more than 10x. The rest is reading the log, composing the frame and the client's acks."
)
WAKING = (
    "The bare loop's producer writes to its socket itself. Here it wakes the socket's task, which a turn of the loop "
    "later reads the log and composes a frame, and each 32 events an ack is read. All three are far below the 50 ms."
)
TASKS = (
    "Beyond an idle route a socket has two tasks, for reading and writing, their coroutines and contexts, a timer and "
    "a cursor. The bare loop has nearly as much: see the row below."
)
P99 = dict(PERCENTILES)["p99"]
MOST = dict(PERCENTILES)["max"]


def shared() -> list[Target]:
    """Those that `make bench` judges as well: publishing, and one message an event through uvicorn."""
    return [
        target
        for target in targets.all_targets()
        if target.group == sockets.GROUP or (target.group, target.case) == (events.GROUP, events.PUBLISH)
    ]


def _live(load: Load) -> list[Target]:
    what, case = f"{load.name}, p99", f"{load.name}; {P99}"
    return [
        Target(what, scenarios.LIVE, case, OWN, Rule.SHARE, 1.3, BARE, WAKING),
        Target(what, scenarios.LIVE, case, OWN, Rule.TIME, 0.05),
    ]


def all_goals(sizes: Sizes) -> list[Target]:
    """Every goal, in the order of the measurements."""
    resume, reconnect = f"{sizes.resume}; {P99}", f"{sizes.reconnect}; {MOST}"
    return [
        *shared(),
        Target(
            *("writer drains full logs, frames of 16", sockets.GROUP, sockets.DRAIN, sockets.FRAMES, Rule.RATE, 8),
            *(sockets.BARE, FRAMES),
        ),
        *(goal for load in sizes.loads for goal in _live(load)),
        *(
            Target(f"memory of a connection, {name}", scenarios.MEMORY, name, OWN, Rule.BYTES, 4096, floor=TASKS)
            for name in scenarios.BEYOND.values()
        ),
        Target(f"resume of {sizes.missed} events, p99", scenarios.RETURN, resume, OWN, Rule.TIME, 0.02),
        Target(f"{sizes.clients} clients at once, all recovered", scenarios.RETURN, reconnect, OWN, Rule.TIME, 2.0),
    ]


def verdicts(results: Sequence[Measured], sizes: Sizes) -> list[Verdict]:
    """All goals."""
    return [targets.judge(goal, results) for goal in all_goals(sizes)]
