"""As many users at the same time as are asked for: are all of them served?"""

from __future__ import annotations

from collections.abc import Sequence

from isolane.acceptance.executor import transcripts
from isolane.acceptance.records import Run
from isolane.acceptance.results import TestResult
from isolane.acceptance.trials import Bench


async def concurrent_user_support(bench: Bench, result: TestResult) -> None:
    """Run many users at once, and count who was served and what the server failed at."""
    async with bench.executor.users(bench.load.concurrent_users, "many") as users:
        runs = await bench.executor.together(users)
        received = transcripts(users)
        served = len({session.account.user for session in users if any(session.transcript.completed())})
        accounts = len({session.account.user for session in users})
    result.add_check("runs completed", sum(run.ok for run in runs))
    for run in runs:
        if not run.ok:
            result.add_failure(f"a run was not completed: {run.outcome} {run.detail or run.status or ''}".rstrip())
    if accounts < bench.metrics.thresholds.users.target:
        result.add_note(f"there are accounts of {accounts} users only, so no more can be seen to be served")
    bench.metrics.single("users", served, result, "the number of users served at the same time")
    overlapping = most_at_once(runs)
    result.add_check("runs that overlapped", overlapping if overlapping > 1 else 0)
    requests = sum(one.requests for one in received)
    failed = sum(one.server_errors for one in received)
    if requests:
        bench.metrics.single("errors", failed / requests, result, f"the share of {requests} requests that failed")
    bench.isolation.judge(received, result)
    result.set_success(f"{served} users were served at the same time, {overlapping} runs at once")


def most_at_once(runs: Sequence[Run]) -> int:
    """Return how many runs were under way at one moment."""
    moments = sorted([(run.began, 1) for run in runs] + [(run.began + run.seconds, -1) for run in runs])
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most
