"""An execution slot of a semaphore manager: a block that runs under a permit."""

from __future__ import annotations

from contextvars import Token
from types import TracebackType
from typing import Any

from isolane._core import FairLimiter, LimitRejected, Permit
from isolane.limits import nesting
from isolane.limits.adaptive import AdaptiveSemaphore
from isolane.limits.errors import LimitTimeout, ResourceTimeoutError
from isolane.observability import seams


def _timeout_of(error: LimitTimeout | LimitRejected, seconds: float) -> ResourceTimeoutError:
    return ResourceTimeoutError(
        f"Could not acquire an execution slot within {seconds:g} s: {error}",
        error.limit,
        error.retry_after,
        error.running,
        error.queued,
        error.resource,
        error.reason,
    )


class ExecutionSlot:
    """``async with manager.acquire_execution_slot(user_id) as permit: …``. For one block at a time.

    A slot inside a slot of the same user, in the same task or in one that was started there, borrows the outer one's
    permit: nesting does not wait for itself. That ends with the outer one's permit, also for tasks that live on.
    """

    __slots__ = ("_fence", "_limiter", "_priority", "_semaphore", "_slot", "_timeout", "_token", "_user_id")

    def __init__(
        self, limiter: FairLimiter, semaphore: AdaptiveSemaphore, user_id: str, priority: int, seconds: float
    ) -> None:
        self._limiter = limiter
        self._semaphore = semaphore
        self._user_id = user_id
        self._priority = priority
        self._timeout = seconds
        self._slot: Any = None
        self._fence = 0
        self._token: Token[nesting.Around | None] | None = None

    async def __aenter__(self) -> Permit:
        if self._slot is not None:
            raise RuntimeError("this slot is in use; ask the manager for one for each block")
        context, is_nested = nesting.context_for(self._limiter, self._user_id)
        slot = self._limiter.slot(
            self._user_id, priority=self._priority, timeout=self._timeout, ctx=context, admitted=is_nested
        )
        self._slot = slot
        self._semaphore._asking += 1  # noqa: SLF001 - counts with the semaphore's own
        try:
            entering, tracing = slot.__aenter__(), seams.tracing
            permit = await (entering if tracing is None else tracing.waited(entering, context, "slot"))
        except BaseException as error:
            self._slot = None
            if isinstance(error, (LimitTimeout, LimitRejected)):
                raise _timeout_of(error, self._timeout) from error
            raise
        finally:
            self._semaphore._asking -= 1  # noqa: SLF001
        self._fence = self._semaphore.began(permit)
        self._token = nesting.enter(self._limiter, context, permit)
        return permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        slot, self._slot = self._slot, None
        if self._token is not None:
            nesting.leave(self._token)
            self._token = None
        try:
            self._semaphore.ended(self._fence, "ok" if kind is None else "ignored")
        finally:
            await slot.__aexit__(kind, error, traceback)
