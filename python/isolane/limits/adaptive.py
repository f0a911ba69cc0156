"""A semaphore whose capacity follows how long its holders take."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Self

from isolane._core import AdaptiveController, FairLimiter, LimitRejected, Permit
from isolane.limits.errors import LimitTimeout

MOST = 64
"""The largest capacity that is adapted to."""

_NOBODY = "semaphore-of-isolane"
"""In whose name a semaphore without users asks its limiter."""


@dataclass(slots=True)
class _Holding:
    permit: Permit
    since: float
    inflight: int
    task: int


def _task() -> int:
    """Return a number that the running task has while it lives; 0 outside of tasks."""
    try:
        return id(asyncio.current_task())
    except RuntimeError:
        return 0


class WaitQueueView:
    """How many wait for a semaphore. Who waits is the limiter's own."""

    __slots__ = ("_semaphore",)

    def __init__(self, semaphore: AdaptiveSemaphore) -> None:
        self._semaphore = semaphore

    def __len__(self) -> int:
        return self._semaphore.waiting

    def qsize(self) -> int:
        """Return how many wait."""
        return len(self)

    def empty(self) -> bool:
        """Return whether nobody waits."""
        return len(self) == 0


class AdaptiveSemaphore:
    """A semaphore over a ``FairLimiter``, with a capacity that an ``AdaptiveController`` may set.

    Made for something that all users share. It orders its waiters first in, first out. As with ``asyncio.Semaphore``,
    whoever holds one and asks for another waits for a second one: nesting is the limiter's, with ``ctx``.

    Args:
        base_capacity: how many may hold it to begin with, at least 1.
        adaptation_enabled: whether the capacity follows the time that holders take, between 1 and 64 or, where that is
            more, ``base_capacity``. ``False`` leaves it at ``base_capacity``.

    Attributes:
        base_capacity: as given.
        capacity_adjustment_factor: by how much the capacity is cut at once when calls fail: 0.5.

    Raises:
        ValueError: ``base_capacity`` is less than 1.
    """

    capacity_adjustment_factor = 0.5

    def __init__(self, base_capacity: int = 5, adaptation_enabled: bool = True) -> None:
        if base_capacity < 1:
            raise ValueError(f"base_capacity must be at least 1, got {base_capacity}")
        most, controller = base_capacity, None
        if adaptation_enabled:
            most = max(MOST, base_capacity)
            controller = AdaptiveController(initial=base_capacity, max=most)
        limiter = FairLimiter(most, most, per_user_queue=1000, adaptive=controller)
        self._begin(limiter, None, base_capacity, controller)

    @classmethod
    def of_user(cls, limiter: FairLimiter, user_id: str, *, adaptation_enabled: bool = False) -> Self:
        """Return a semaphore that is one user's share of a limiter. Its capacity is the user's limit.

        A user's limit is an entitlement. Only with ``adaptation_enabled`` does it follow the time that the user's own
        holders take: a slow call of a user then lowers the user's limit.

        Raises:
            InvalidContextError: ``user_id`` is no id of a user.
        """
        limiter.slot(user_id)  # refuses an id that is none
        semaphore = cls.__new__(cls)
        base = limiter.stats(user_id)["limit"]
        controller = AdaptiveController(initial=base, max=max(MOST, base)) if adaptation_enabled else None
        semaphore._begin(limiter, user_id, base, controller)  # noqa: SLF001 - its own class
        return semaphore

    def _begin(
        self, limiter: FairLimiter, user_id: str | None, base: int, controller: AdaptiveController | None
    ) -> None:
        self.base_capacity = base
        self._limiter = limiter
        self._user_id = user_id
        self._controller = controller
        self._held: dict[int, _Holding] = {}
        self._asking = 0

    # -- acquire and release -------------------------------------------------------------------------------------------

    async def acquire_adaptive(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - the limiter's own deadline
        """Wait for a permit, at most ``timeout`` seconds; without it as long as it takes.

        Use ``timeout`` and not ``asyncio.wait_for`` around this call: before Python 3.12 that may lose what it was
        given when it is cancelled.

        Returns:
            Whether it was had. If not, nothing is held and nothing is to be released.
        """
        seconds = float("inf") if timeout is None else timeout
        self._asking += 1
        try:
            permit = await self._limiter.acquire(self._user_id or _NOBODY, timeout=seconds)
        except (LimitTimeout, LimitRejected):
            return False
        finally:
            self._asking -= 1
        self.began(permit)
        return True

    def release_adaptive(self, outcome: str = "ok") -> bool:
        """Return the permit that the running task took last; from another task or thread the oldest.

        Args:
            outcome: ``ok``; ``dropped`` when what was called failed as an overloaded service does (time-out, 429, 5xx);
                ``ignored`` when its time says nothing.

        Returns:
            Whether there was one. Without one the capacity stays as it is: it cannot grow by releasing too often.
        """
        self._forget_returned()
        task = _task()
        own = [fence for fence, holding in self._held.items() if task and holding.task == task]
        permit = self.ended(own[-1] if own else next(iter(self._held), 0), outcome)
        if permit is None:
            return False
        permit.record(outcome)
        permit.__exit__(None, None, None)
        return True

    def began(self, permit: Permit) -> int:
        """Take note of a permit. Returns the number to end it by."""
        fence = permit.fence
        inflight = 0 if self._own_controller is None else int(self._limiter.stats(self._user_id)["running"])
        self._held[fence] = _Holding(permit, time.monotonic(), inflight, _task())
        return fence

    def ended(self, fence: int, outcome: str = "ok") -> Permit | None:
        """Take note of the end of a permit. Returns it for the caller to return; ``None`` when it was returned."""
        holding = self._held.pop(fence, None)
        if holding is None or not holding.permit.held:
            return None
        if self._own_controller is not None:
            held_for = time.monotonic() - holding.since
            if self._own_controller.sample(held_for, holding.inflight, outcome):
                self.adjust_capacity_based_on_load()
        return holding.permit

    def _forget_returned(self) -> None:
        for fence in [fence for fence, holding in self._held.items() if not holding.permit.held]:
            self._held.pop(fence, None)

    async def __aenter__(self) -> Self:
        await self.acquire_adaptive()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        self.release_adaptive("ok" if kind is None else "ignored")

    # -- capacity ------------------------------------------------------------------------------------------------------

    @property
    def current_capacity(self) -> int:
        """How many may hold it now."""
        if self._user_id is None:
            return int(self._limiter.stats()["total"])
        return int(self._limiter.stats(self._user_id)["limit"])

    @property
    def _own_controller(self) -> AdaptiveController | None:
        """The controller of a user's limit; that of a whole limiter is the limiter's to ask."""
        return None if self._user_id is None else self._controller

    def adjust_capacity_based_on_load(self) -> None:
        """Set the capacity to what the controller says, as releases do. Nobody who holds it is stopped."""
        if self._own_controller is not None:
            self._limiter.set_limit(user=self._user_id, per_user=self._own_controller.limit)

    def predict_optimal_capacity(self) -> int:
        """Return how many holders at once are best, as far as the controller knows; without adaptation the capacity."""
        return self.current_capacity if self._controller is None else self._controller.predict_optimal_capacity()

    def forget_adaptation(self) -> None:
        """Take back a limit that adapting gave the user."""
        if self._own_controller is not None and self._user_id is not None:
            self._limiter.reset_user(self._user_id)

    # -- views ---------------------------------------------------------------------------------------------------------

    @property
    def holder_start_times(self) -> dict[str, float]:
        """Since when each holder has it, by ``time.monotonic()``. A copy; the names are the permits' numbers."""
        return {str(fence): holding.since for fence, holding in list(self._held.items()) if holding.permit.held}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return int(self._limiter.stats(self._user_id)["queued"])

    @property
    def wait_queue(self) -> WaitQueueView:
        """How many wait, as a queue's length."""
        return WaitQueueView(self)

    @property
    def in_use(self) -> bool:
        """Whether somebody holds it or waits for it through this object."""
        self._forget_returned()
        return bool(self._held) or self._asking > 0

    def locked(self) -> bool:
        """Return whether the next one would have to wait."""
        stats = self._limiter.stats()
        if stats["running"] >= stats["total"] or self._user_id is None:
            return bool(stats["running"] >= stats["total"])
        own = self._limiter.stats(self._user_id)
        return bool(own["running"] >= own["limit"])

    def __repr__(self) -> str:
        return f"<AdaptiveSemaphore {len(self._held)} held, {self.waiting} waiting, capacity {self.current_capacity}>"
