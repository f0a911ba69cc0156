"""Many users through one piece of code: whether anything of one reaches another, and whether it would be seen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from isolane._core import audit_isolation
from isolane.testing.canaries import CanaryKit
from isolane.testing.recording import EventRecorder
from isolane.testing.users import LabUser, UserFactory

ROUNDS = 4
"""Rounds of one run: all users beside each other, and one after the other, by turns."""


class IsolationLeakError(AssertionError):
    """Something of one user reached another."""


class InconclusiveError(AssertionError):
    """Nothing was seen, and it is not sure that a leak would have been."""


@dataclass(frozen=True, slots=True)
class LabReport:
    """What a run in the lab came to.

    Attributes:
        verdict: ``clean``, ``leaking``, or ``inconclusive`` when a leak might not have been seen.
        users: How many took part.
        rounds: How often each ran.
        own_seen: How many users were seen to get their own canary back.
        crossings: What reached whom, in words.
        shared: Containers and sessions that contexts of two users share.
        errors: Exceptions of the work, by user.
        control: Whether the leak that the lab plants itself, and shows to nobody, was seen.
    """

    verdict: Literal["clean", "leaking", "inconclusive"]
    users: int
    rounds: int
    own_seen: int
    crossings: tuple[str, ...]
    shared: tuple[str, ...]
    errors: tuple[str, ...]
    control: bool

    def assert_clean(self) -> None:
        """Raise unless the verdict is clean.

        Raises:
            IsolationLeakError: Something leaked.
            InconclusiveError: It is not sure that a leak would have been seen.
        """
        if self.verdict == "leaking":
            raise IsolationLeakError("\n  ".join(["one user's data reached another:", *self.crossings, *self.shared]))
        if self.verdict == "inconclusive":
            raise InconclusiveError(self._why())

    def _why(self) -> str:
        if not self.control:
            return "the leak that the lab planted itself was not seen: the detector does not work here"
        if self.errors:
            return "\n  ".join(["the work failed, so it did not show what it does:", *self.errors[:5]])
        return (
            f"only {self.own_seen} of {self.users} users got their own canary back: put isolation_lab.canary(user) into"
            " the data of the user, and return what the user is given"
        )


Work = Callable[[LabUser], Awaitable[Any]]
"""What is done for one user. It returns what the user is given."""


class IsolationLab:
    """Runs a piece of code for several users and looks for the data of one at another.

    What is looked at: what the work returns or raises for each user, the events of the user's runs, what isolane's own
    boundaries see, and what contexts share.

    Args:
        users: Makes the users.
        canaries: Whose canaries they have.
        events: Reads their events.
        count: How many users take part.
        seed: Makes the same order again.
    """

    def __init__(
        self, users: UserFactory, canaries: CanaryKit, events: EventRecorder, *, count: int = 8, seed: int = 0
    ) -> None:
        if count < 2:  # noqa: PLR2004 - one user has nobody to leak to
            raise ValueError(f"a lab needs at least 2 users, not {count}")
        self._kit = canaries
        self._events = events
        self._random = random.Random(seed)  # noqa: S311 - an order, not a secret
        self.users: tuple[LabUser, ...] = users.many(count)

    def canary(self, user: LabUser) -> str:
        """The canary of a user: put it into what the user asks, stores and is answered."""
        return self._kit.of(user)

    async def run(self, work: Work, *, rounds: int = ROUNDS) -> LabReport:
        """Do the work for each user, several times. Never raises for what it finds, or for what the work raises.

        Args:
            work: What is done for one user; it returns what the user is given.
            rounds: How often.
        """
        for user in self.users:
            self._kit.of(user)
            self._events.follow(user)
        before = len(self._kit.crossings)
        own: set[str] = set()
        crossings: list[str] = []
        errors: list[str] = []
        self._kit.install()
        try:
            for number in range(rounds):
                for user, outcome in await self._round(work, together=number % 2 == 0):
                    if isinstance(outcome, BaseException):
                        errors.append(f"{user.user_id}: {type(outcome).__name__}: {outcome}")
                    seen_own, foreign = self._look(user, [outcome, self._events.of(user)])
                    if seen_own:
                        own.add(user.user_id)
                    crossings += foreign
        finally:
            self._kit.uninstall()
        at_boundaries = self._kit.crossings[before:]
        del self._kit.crossings[before:]
        crossings += self._kit.told(at_boundaries)
        mine = {user.user_id for user in self.users}
        shared = tuple(str(finding) for finding in audit_isolation() if any(user in str(finding) for user in mine))
        with self._kit.planting():
            control = self._control()
        verdict: Literal["clean", "leaking", "inconclusive"] = "clean"
        if crossings or shared:
            verdict = "leaking"
        elif not control or errors or len(own) < len(self.users):
            verdict = "inconclusive"
        return LabReport(
            verdict,
            len(self.users),
            rounds,
            len(own),
            tuple(dict.fromkeys(crossings)),
            shared,
            tuple(errors),
            control,
        )

    async def check(self, work: Work, *, rounds: int = ROUNDS) -> LabReport:
        """Do the work for each user, several times.

        Args:
            work: What is done for one user; it returns what the user is given.
            rounds: How often.

        Raises:
            IsolationLeakError: Something of one user reached another.
            InconclusiveError: It is not sure that a leak would have been seen.
        """
        report = await self.run(work, rounds=rounds)
        report.assert_clean()
        return report

    async def _round(self, work: Work, *, together: bool) -> Sequence[tuple[LabUser, Any]]:
        order = self._random.sample(self.users, len(self.users))
        if not together:
            # What stays behind of one user is found by the next.
            return [(user, await self._one(work, user, 0)) for user in order]
        turns = [self._random.randrange(4) for _ in order]
        outcomes = await asyncio.gather(*(self._one(work, user, late) for user, late in zip(order, turns, strict=True)))
        return list(zip(order, outcomes, strict=True))

    @staticmethod
    async def _one(work: Work, user: LabUser, late: int) -> Any:
        for _ in range(late):
            await asyncio.sleep(0)
        try:
            return await work(user)
        except Exception as error:  # noqa: BLE001 - it is looked into, and told
            return error

    def _look(self, user: LabUser, value: Any) -> tuple[bool, list[str]]:
        """Whether a value has the user's own canary, and what of others it has."""
        before = len(self._kit.crossings)
        report = self._kit.scan(user, value)
        del self._kit.crossings[before:]
        return report.coverage.observed_own > 0, self._kit.told([report] if report.violations else [])

    def _control(self) -> bool:
        """Show each user the canary of the next, where nobody gets it: the same look must see every one."""
        others = [*self.users[1:], self.users[0]]
        for user, other in zip(self.users, others, strict=True):
            seen_own, foreign = self._look(user, {"given": [self._kit.of(user), f"and {self._kit.of(other)}"]})
            if not seen_own or not foreign or self._look(user, [self._kit.of(user)]) != (True, []):
                return False
        return True
