"""What the process uses, and whether it is given back."""

from __future__ import annotations

import asyncio
import time

from isolane.acceptance.results import TestResult
from isolane.acceptance.target import Usage
from isolane.acceptance.trials import Bench

BACK_SECONDS = 5.0
"""So long the service may take to let go of what users used."""
_POLL_SECONDS = 0.05
DESCRIPTORS = 8
"""So many more files and sockets than before are no leak: a server opens some when it is first used."""


async def resource_management(bench: Bench, result: TestResult) -> None:
    """Look at the process before users run, and after they have gone."""
    # What a service makes once, at its first use, is not what users cost.
    await _work(bench, "warm", 1, result)
    before = await bench.target.usage()
    users = await _work(bench, "load", bench.load.resource_rounds, result)
    after = await _given_back(bench, before)
    if before.memory is None or after.memory is None:
        result.add_note("memory is not measured: the service is not a process of this machine that can be looked at")
    else:
        grown = max(0, after.memory - before.memory) / max(1, users)
        bench.metrics.single("memory", grown, result, f"what the process grew by, for each of {users} users")
    leaks = left(before, after)
    result.add_check("counts of what is held", len(after.counts) + (after.descriptors is not None))
    for leak in leaks:
        result.add_failure(leak)
    if after.descriptors is None and not after.counts:
        result.add_note(
            "open sockets and engines are not counted: the service does not say, and is no process of this machine"
        )
    counts = {name: value + 1 for name, value in (after.counts or {"connections": 0}).items()}
    held = None if after.descriptors is None else after.descriptors + DESCRIPTORS + users
    planted = Usage(after.memory, held, counts)
    result.add_control("a connection that is kept by each user", seen=len(left(before, planted)) > len(leaks))
    result.set_success(f"what {users} users used was given back")


async def _work(bench: Bench, part: str, rounds: int, result: TestResult) -> int:
    async with bench.executor.users(bench.load.users, part) as users:
        for _ in range(rounds):
            bench.executor.note_runs(await bench.executor.together(users), users, result)
        return len(users)


async def _given_back(bench: Bench, before: Usage) -> Usage:
    limit = time.monotonic() + BACK_SECONDS
    while True:
        now = await bench.target.usage()
        if not left(before, now) or time.monotonic() > limit:
            return now
        await asyncio.sleep(_POLL_SECONDS)


def left(before: Usage, after: Usage) -> list[str]:
    """Return what is held now and was not before."""
    found = [
        f"{value} {name} are held {BACK_SECONDS:.0f} s after the last user has gone"
        for name, value in sorted(after.counts.items())
        if value > before.counts.get(name, 0)
    ]
    if before.descriptors is not None and after.descriptors is not None:
        more = after.descriptors - before.descriptors
        if more > DESCRIPTORS:
            found.append(f"{more} more files and sockets are open than before the users came")
    return found
