"""``AcceptanceTestExecutor``: many users of a target at the same time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from isolane.acceptance.isolation import IsolationTester
from isolane.acceptance.records import Run, Transcript
from isolane.acceptance.results import TestResult
from isolane.acceptance.target import RunKind, Target, UserSession


class AcceptanceTestExecutor:
    """Signs users in, and has them do things at the same time.

    Args:
        target: the service.
        isolation: makes the canaries.
        seed: makes the order in which users start.
    """

    def __init__(self, target: Target, isolation: IsolationTester, *, seed: int = 0) -> None:
        self.target = target
        self.isolation = isolation
        self._random = random.Random(seed)  # noqa: S311 - the same order for the same seed, nothing to guard

    @asynccontextmanager
    async def users(self, count: int, part: str, *, connected: bool = True) -> AsyncIterator[list[UserSession]]:
        """Have so many users signed in, with their sockets open, for the length of a block."""
        sessions: list[UserSession] = []
        try:
            for account in self.target.accounts(count, part):
                session = await self.target.sign_in(account)
                sessions.append(session)
            if connected and not self.target.capabilities.sockets:
                await asyncio.gather(*(session.connect() for session in sessions))
            yield sessions
        finally:
            await asyncio.gather(*(session.aclose() for session in sessions), return_exceptions=True)

    async def together(self, sessions: Sequence[UserSession], kind: RunKind = "normal") -> list[Run]:
        """Have each user run once, all of them started in one turn of the loop, in an order that the seed says."""
        order = list(sessions)
        self._random.shuffle(order)
        runs = await asyncio.gather(*(session.run(kind) for session in order))
        await asyncio.gather(*(session.settle() for session in order))
        return list(runs)

    @staticmethod
    def note_runs(runs: Sequence[Run], users: Sequence[UserSession], result: TestResult) -> None:
        """Note runs that did not end well."""
        names = {id(run): session.account.user for session in users for run in session.transcript.runs}
        result.add_check("runs completed", sum(run.ok for run in runs))
        for run in runs:
            if not run.ok:
                who = names.get(id(run), "a user")
                result.add_failure(f"a run of {who} was not completed: {run.outcome}{_because(run)}")


def _because(run: Run) -> str:
    status = f", HTTP {run.status}" if run.status else ""
    return f"{status}{': ' if run.detail else ''}{run.detail}"


def transcripts(sessions: Sequence[UserSession]) -> list[Transcript]:
    """Return what these users were sent."""
    return [session.transcript for session in sessions]
