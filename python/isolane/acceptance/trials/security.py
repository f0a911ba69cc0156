"""What must not work: no credential, a wrong one, the runs and sockets of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isolane.acceptance.executor import transcripts
from isolane.acceptance.results import TestResult
from isolane.acceptance.target import Attempt
from isolane.acceptance.trials import Bench


async def security_boundaries(bench: Bench, result: TestResult) -> None:
    """Try what must not work, each beside the nearest thing that must."""
    async with bench.executor.users(2, "security") as users:
        if len(users) < 2:  # noqa: PLR2004 - one tries to be the other
            result.add_check("attempts at what is another user's", 0)
            return
        bench.executor.note_runs(await bench.executor.together(users), users, result)
        thief, victim = users
        attempts = [attempt async for attempt in bench.target.intrusions(thief, victim)]
        await thief.settle()
        received = transcripts(users)
    forbidden = [one for one in attempts if not one.control]
    result.add_check("attempts at what is forbidden", len(forbidden))
    for problem in allowed(forbidden):
        result.add_failure(problem)
    for control in (one for one in attempts if one.control):
        # A door that is shut for everybody shows nothing.
        result.add_control(f"{control.what}, which is allowed", seen=not control.refused)
    if forbidden:
        planted = [*forbidden[:-1], replace(forbidden[-1], refused=False, outcome="HTTP 200")]
        result.add_control("an attempt that succeeds", seen=bool(allowed(planted)))
    bench.isolation.judge(received, result)
    result.set_success(f"{len(forbidden)} attempts were refused")


def allowed(attempts: Sequence[Attempt]) -> list[str]:
    """Return the attempts that were not refused."""
    return [f"not refused: {one.what} ({one.outcome})" for one in attempts if not one.refused]
