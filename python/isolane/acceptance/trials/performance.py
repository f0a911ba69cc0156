"""How long runs take, and events until they are received."""

from __future__ import annotations

import time

from isolane.acceptance.executor import transcripts
from isolane.acceptance.records import Transcript
from isolane.acceptance.results import TestResult
from isolane.acceptance.trials import Bench


async def performance_requirements(bench: Bench, result: TestResult) -> None:
    """Time the runs of one user, one after the other, and then runs of many users at once."""
    async with bench.executor.users(1, "single") as users:
        runs = [await users[0].run() for _ in range(bench.load.single_runs)]
        bench.executor.note_runs(runs, users, result)
        bench.metrics.average(
            "response", [run.seconds for run in runs if run.ok], result, "the mean time of a run of one user"
        )
        delays = _delays(bench, users[0].transcript)
    async with bench.executor.users(bench.load.concurrent_users, "together") as users:
        began = time.perf_counter()
        runs = await bench.executor.together(users)
        whole = time.perf_counter() - began
        bench.executor.note_runs(runs, users, result)
        # What waits for stragglers after the runs is not part of them.
        whole = min(whole, max((run.began + run.seconds for run in runs), default=began) - began)
        bench.metrics.single("concurrent", whole, result, f"the time until {len(runs)} runs at once were all done")
        for transcript in transcripts(users):
            delays += _delays(bench, transcript)
    if delays:
        bench.metrics.percentile("event", delays, result, "the 95th percentile of the way of an event")
    else:
        result.add_note(
            "the way of events is not measured: they have no timestamps with a time zone, or the service's clock is not"
            " this machine's"
        )
    result.set_success("runs and events are as fast as asked for")


def _delays(bench: Bench, transcript: Transcript) -> list[float]:
    delays = []
    for event in bench.target.shape.events(transcript):
        if event.sent is not None:
            delay = event.at - event.sent
            if delay < -1:
                # Another machine's clock: nothing can be said.
                return []
            delays.append(max(0.0, delay))
    return delays
