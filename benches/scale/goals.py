"""What the figures should be. Ratios are of one run; a missed goal is printed and fails nothing."""

from collections.abc import Sequence

from benches.events.shape import Way
from benches.python import targets
from benches.python.measure import Measured
from benches.python.targets import Rule, Target, Verdict
from benches.scale import scenarios
from benches.scale.scenarios import ADDED, P50, P99, RATE, REDIS, WAYS, case_name
from benches.scale.shape import ANOTHER, HOLDERS, MANY, SAME, Holder, Sizes

LEASES, LOCK, COUNTER = (HOLDERS[each] for each in Holder)
OWN, PEER = WAYS[Way.ISOLANE], WAYS[Way.SOCKETIO]
ROUND_TRIP = (
    "Both wait for one answer of Redis. Here a task of the process asks for all, so that nobody's cancellation cuts a "
    "call in two: question and answer pass it and the task of the connection, each a turn of the loop, and Redis runs "
    "a script instead of one command."
)
BATCH = (
    "Events that are not urgent wait up to 5 ms for others, go to a log, and are read from there after a hint: three "
    "trips to Redis, where python-socketio publishes once and keeps nothing."
)


def all_goals(sizes: Sizes) -> list[Target]:
    """Every goal, in the order of the measurements."""
    places, live, burst = scenarios.PLACES, scenarios.LIVE, scenarios.BURST
    another, many = case_name(ANOTHER, P50[1]), case_name(MANY, RATE[1])
    return [
        Target(f"{ANOTHER}, p50", places, another, LEASES, Rule.SHARE, 2, LOCK, ROUND_TRIP),
        Target(f"{SAME}, p50", places, case_name(SAME, P50[1]), LEASES, Rule.SPEEDUP, 10, COUNTER),
        Target("32 tasks at once", places, many, LEASES, Rule.RATE, 2, LOCK),
        Target("32 tasks at once", places, many, LEASES, Rule.RATE, 1, COUNTER),
        Target("32 tasks at once, Redis", places, case_name(MANY, REDIS[1]), LEASES, Rule.SHARE, 1, LOCK),
        *(
            Target(f"places, {name}", scenarios.SHARED, case_name(name, RATE[1]), LEASES, Rule.RATE, 2, LOCK)
            for name in map(scenarios.number_of, sizes.workers)
        ),
        Target("added by the way, p50", live, case_name(ADDED, P50[1]), OWN, Rule.TIME, 0.01, floor=BATCH),
        Target("added by the way, p99", live, case_name(ADDED, P99[1]), OWN, Rule.TIME, 0.025, floor=BATCH),
        Target("to another worker, p99", live, case_name(scenarios.THERE, P99[1]), OWN, Rule.TIME, 0.05, floor=BATCH),
        Target(
            "to another worker, p99", live, case_name(scenarios.THERE, P99[1]), OWN, Rule.SHARE, 2, PEER, floor=BATCH
        ),
        *(
            Target(f"events, {name}", burst, case_name(name, RATE[1]), OWN, Rule.RATE, 2, PEER)
            for name in map(scenarios.number_of, sizes.workers)
        ),
    ]


def verdicts(results: Sequence[Measured], sizes: Sizes) -> list[Verdict]:
    """All goals."""
    return [targets.judge(goal, results) for goal in all_goals(sizes)]
