"""Orders in which others hand out permits, and the limiter of the package: `async with order.slot(user)`."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from isolane import FairLimiter

TOTAL, PER_USER, PATIENCE = 10, 5, 2.0


class Order(Protocol):
    """Hands out permits."""

    def slot(self, user: str) -> AbstractAsyncContextManager[Any]:
        """A permit for the length of a block. Raises `TimeoutError` after the patience."""


class GlobalThenUser:
    """Two semaphores, first the process's and then, while holding it, the user's."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.total = asyncio.Semaphore(TOTAL)
        self.users: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(PER_USER))
        self.patience = patience

    @asynccontextmanager
    async def slot(self, user: str) -> AsyncIterator[None]:
        async with asyncio.timeout(self.patience) as deadline, self.total, self.users[user]:
            deadline.reschedule(None)
            yield


class Queue:
    """One queue for all, in order of arrival: at its user's limit the head blocks the others or is passed over."""

    def __init__(self, *, pass_over: bool, patience: float = PATIENCE) -> None:
        self.pass_over = pass_over
        self.patience = patience
        self.waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self.running: dict[str, int] = defaultdict(int)
        self.free = TOTAL

    def _hand_out(self) -> None:
        passed: list[tuple[str, asyncio.Future[None]]] = []
        while self.waiting and self.free:
            user, turn = self.waiting.popleft()
            if turn.done():
                continue
            if self.running[user] >= PER_USER:
                passed.append((user, turn))
                if self.pass_over:
                    continue
                break
            self._take(user)
            turn.set_result(None)
        self.waiting.extendleft(reversed(passed))

    def _take(self, user: str) -> None:
        self.free -= 1
        self.running[user] += 1

    @asynccontextmanager
    async def slot(self, user: str) -> AsyncIterator[None]:
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append((user, turn))
        self._hand_out()
        try:
            async with asyncio.timeout(self.patience):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.free += 1
                self.running[user] -= 1
            # Whom it stood in front of may be next.
            self._hand_out()
            raise
        try:
            yield
        finally:
            self.free += 1
            self.running[user] -= 1
            self._hand_out()


class RoundRobin(Queue):
    """A queue for each user, in order of arrival, and the users in turn."""

    def __init__(self, patience: float = PATIENCE) -> None:
        super().__init__(pass_over=True, patience=patience)

    def _hand_out(self) -> None:
        # The one queue is sorted into turns: the k-th waiter of each user before the (k+1)-th of any.
        queues: dict[str, deque[asyncio.Future[None]]] = {}
        for user, turn in self.waiting:
            if not turn.done():
                queues.setdefault(user, deque()).append(turn)
        granted = True
        while self.free and granted:
            granted = False
            for user in list(queues):
                if self.free and queues[user] and self.running[user] < PER_USER:
                    self._take(user)
                    queues[user].popleft().set_result(None)
                    granted = True
                    queues[user] = queues.pop(user)
        self.waiting = deque((user, turn) for user, turns in queues.items() for turn in turns)


def ours(patience: float = PATIENCE, **options: Any) -> FairLimiter:
    """The limiter of the package. Its queues are as long as the others': what is compared is the order."""
    return FairLimiter(TOTAL, PER_USER, queue=100_000, per_user_queue=100_000, timeout=patience, **options)
