"""Cut sockets, requests that are given up, runs that fail: nobody else notices, and the service goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from isolane.acceptance.executor import transcripts
from isolane.acceptance.records import Run
from isolane.acceptance.results import TestResult
from isolane.acceptance.target import UserSession
from isolane.acceptance.trials import Bench
from isolane.acceptance.trials.websocket import judge_events

FEWEST = 4


async def error_handling_recovery(bench: Bench, result: TestResult) -> None:
    """Do three users harm in the middle of their runs, and see that the others are not touched."""
    capabilities = bench.target.capabilities
    async with bench.executor.users(max(FEWEST, bench.load.users), "errors") as users:
        if len(users) < 2:  # noqa: PLR2004 - one to be harmed and one to be spared
            result.add_check("users beside a user whose run fails", 0)
            return
        harmed, spared = _parts(users)
        work = [asyncio.create_task(_harm(session, number, bench, result)) for number, session in enumerate(harmed)]
        try:
            runs = await bench.executor.together(spared)
            await asyncio.gather(*work)
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)
        result.add_check("runs of others while some failed", len(runs))
        for problem in spoilt(runs):
            result.add_failure(problem)
        again = [await session.run() for session in harmed]
        result.add_check("runs of the same users afterwards", len(again))
        for session, run in zip(harmed, again, strict=True):
            if not run.ok:
                result.add_failure(
                    f"{session.account.user} could not run again afterwards: {run.outcome} {run.detail}".rstrip()
                )
        received = transcripts(users)
        unharmed = transcripts(spared)
    if capabilities.failing_runs:
        result.add_note(f"no run was made to fail: {capabilities.failing_runs}")
    requests = sum(one.requests for one in unharmed)
    if requests:
        answered = 1 - sum(one.server_errors for one in unharmed) / requests
        bench.metrics.single(
            "available", answered, result, f"the share of {requests} requests of others that were answered"
        )
    if not capabilities.sockets:
        judge_events(unharmed, bench.target.shape, result)
    bench.isolation.judge(received, result)
    planted = [*runs, Run(run_id="planted", outcome="failed")]
    result.add_control("a failed run of a user who was not harmed", seen=len(spoilt(planted)) > len(spoilt(runs)))
    result.set_success("cut sockets, abandoned requests and failing runs touched nobody else")


def _parts(users: Sequence[UserSession]) -> tuple[list[UserSession], list[UserSession]]:
    middle = min(3, len(users) - 1)
    return list(users[:middle]), list(users[middle:])


async def _harm(session: UserSession, number: int, bench: Bench, result: TestResult) -> None:
    capabilities = bench.target.capabilities
    if number == 1:
        await session.abandon()
        result.add_check("requests given up")
    elif number == 2 and not capabilities.failing_runs:  # noqa: PLR2004 - the third
        await _fail(session, result)
    elif not capabilities.sockets:
        run = await session.begin()
        await session.cut()
        result.add_check("sockets cut in the middle of a run")
        await session.connect()
        await session.finish(run)


async def _fail(session: UserSession, result: TestResult) -> None:
    """Have runs fail: the first before others have done much, the second in their midst."""
    for _ in range(2):
        run = await session.run("failing")
        result.add_check("runs made to fail")
        if run.ok:
            result.add_failure(
                "the run that was to fail was completed: what the configuration puts into it does not fail"
            )
        if run.outcome == "unanswered":
            result.add_failure("a failing run never ended")


def spoilt(runs: Sequence[Run]) -> list[str]:
    """Return the runs of others that did not end well."""
    return [
        f"a run of a user who was not harmed was not completed: {run.outcome} {run.detail}".rstrip()
        for run in runs
        if not run.ok
    ]
