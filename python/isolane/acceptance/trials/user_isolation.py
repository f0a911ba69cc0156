"""Users who run at the same time: does anybody receive anything of another's?"""

from __future__ import annotations

from isolane.acceptance.executor import transcripts
from isolane.acceptance.results import TestResult
from isolane.acceptance.trials import Bench


async def user_isolation_boundaries(bench: Bench, result: TestResult) -> None:
    """Run all users at the same time, several times, and scan every byte that each of them received."""
    async with bench.executor.users(bench.load.users, "isolation") as users:
        for _ in range(bench.load.rounds):
            bench.executor.note_runs(await bench.executor.together(users), users, result)
        received = transcripts(users)
    examined = bench.isolation.judge(received, result)
    result.set_success(
        f"{len(received)} users at the same time: {examined.scanned_bytes} bytes in {examined.receipts} bodies, headers"
        " and frames, nothing of another user's"
    )
