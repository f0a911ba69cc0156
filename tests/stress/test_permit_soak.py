"""A million random operations on permits, after which none may be missing."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import pytest
from isolane import FairLimiter, LimitRejected, LimitTimeout, Permit, UserContextFactory

from tests.adversity.manual_loop import ManualLoop

USERS = [f"user-{at}-of-the-soak" for at in range(40)]
NEEDS: list[tuple[str, ...]] = [(), (), (), ("llm",), ("database",), ("llm", "database")]


class Soak:
    """What is held and who waits, beside the limiter's own counts."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.loop = ManualLoop()
        self.limiter = FairLimiter(
            20, 4, queue=200, per_user_queue=20, resources={"llm": 6, "database": 9}, max_users=30, idle=5
        )
        self.roots = [UserContextFactory.create_context(user) for user in USERS]
        self.held: list[Permit] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.dropped = self.operations = self.granted = 0

    def place(self) -> tuple[str, dict[str, Any]]:
        at = self.draw.randrange(len(USERS))
        if self.draw.random() < 0.3:
            root = self.roots[at]
            return USERS[at], {"ctx": root if self.draw.random() < 0.3 else root.create_child_context("step")}
        return USERS[at], {"resources": self.draw.choice(NEEDS)}

    def at_once(self) -> None:
        user, options = self.place()
        permit = self.limiter.try_slot(user, **options)
        if permit is not None:
            self.held.append(permit)

    def ask(self) -> None:
        user, options = self.place()
        options |= {"priority": self.draw.randint(1, 4), "timeout": self.draw.choice([0.0, 0.5, 3.0, 30.0])}
        how = self.draw.random()

        async def asking() -> None:
            try:
                permit = await self.limiter.acquire(user, **options)
            except (LimitTimeout, LimitRejected):
                return
            if how < 0.3:
                # A block, with a wait and a turn in it, which may be cancelled there.
                async with permit, permit.suspend(timeout=2):
                    await asyncio.sleep(0)
            else:
                self.held.append(permit)

        task = self.loop.create_task(asking())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def pick(self) -> Permit | None:
        if not self.held:
            return None
        at = self.draw.randrange(len(self.held))
        self.held[at], self.held[-1] = self.held[-1], self.held[at]
        return self.held.pop()

    def release(self) -> None:
        permit = self.pick()
        if permit is not None:
            permit.release()
            if self.draw.random() < 0.05:
                permit.release()

    def drop(self) -> None:
        permit = self.pick()
        self.dropped += permit is not None
        if permit is not None and self.draw.random() < 0.02:
            cycle: list[Any] = [permit]
            cycle.append(cycle)

    def bind(self) -> None:
        permit = self.pick()
        if permit is not None:
            # A response that is never sent.
            permit.bind(_Response())

    def cancel(self) -> None:
        if self.tasks:
            next(iter(self.tasks)).cancel()

    def change(self) -> None:
        draw = self.draw
        draw.choice(
            [
                lambda: self.limiter.set_limit(total=draw.choice([20, 20, 12, 3, 0])),
                lambda: self.limiter.set_limit(per_user=draw.choice([4, 4, 1, 6])),
                lambda: self.limiter.set_limit(resource="llm", limit=draw.choice([6, 6, 2, 0])),
                # Settings are kept for as many users as are remembered.
                lambda: self.limiter.set_limit(user=draw.choice(USERS[:30]), per_user=draw.randint(0, 8), weight=2),
                lambda: self.limiter.reset_user(draw.choice(USERS)),
                lambda: self.limiter.evict(0),
            ]
        )()

    def turn(self) -> None:
        self.loop.turns(2)
        self.loop.advance(self.draw.choice([0.0, 0.01, 0.3]))

    def run(self, operations: int) -> None:
        kinds = [self.at_once, self.ask, self.release, self.drop, self.bind, self.cancel, self.change, self.turn]
        for number, kind in enumerate(self.draw.choices(kinds, [25, 20, 40, 3, 3, 5, 1, 3], k=operations)):
            kind()
            if number % 5_000 == 0:
                self.check()

    def check(self) -> None:
        stats = self.limiter.stats()
        assert stats["queued"] <= 200 + 200
        assert stats["running"] <= stats["granted"] - stats["released"]
        assert stats["users"] <= 30 + len(USERS)

    def end(self) -> None:
        """Give everything back, and look for what is missing."""
        try:
            self.limiter.set_limit(total=1_000, per_user=1_000)
            for user in USERS:
                self.limiter.reset_user(user)
            for name in ("llm", "database"):
                self.limiter.set_limit(resource=name, limit=1_000)
            while self.tasks or self.held:
                while self.held:
                    self.held.pop().release()
                self.loop.turns(4)
                self.loop.advance(5)
            gc.collect()
            self.limiter.evict(0)
            stats = self.limiter.stats()
            assert (stats["running"], stats["queued"], stats["users"]) == (0, 0, 0)
            assert stats["granted"] == stats["released"]
            assert [resource["running"] for resource in stats["resources"].values()] == [0, 0]
            assert stats["leaked"] == self.dropped, "leaked is what was dropped, and nothing else"
            self.granted = stats["granted"]
        finally:
            self.loop.close()


class _Response:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Is never called."""


@pytest.mark.timeout(1_800)
def test_a_million_random_operations_lose_no_permit(rounds, found) -> None:
    operations = rounds(1_000_000)
    soak = Soak(11)
    try:
        soak.run(operations)
    finally:
        soak.end()
    found(f"{operations} operations, {soak.granted} permits, {soak.dropped} dropped on purpose, none missing")


def test_the_soak_finds_a_permit_that_is_kept() -> None:
    """The positive control."""
    soak = Soak(12)
    soak.run(500)
    # The soak may have left a limit of 0 behind.
    soak.limiter.set_limit(total=1_000, per_user=1_000)
    kept = soak.limiter.slot_nowait("somebody-else")
    with pytest.raises(AssertionError):
        soak.end()
    kept.release()
