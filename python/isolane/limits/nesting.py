"""Which slots the running code is inside of, so that a slot within a slot lends and does not wait for itself."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar, Token
from typing import NamedTuple

from isolane._core import FairLimiter, Permit, UserExecutionContext
from isolane.contexts.factory import UserContextFactory


class Around(NamedTuple):
    """A slot that the running code is inside of, and the one around that."""

    limiter: FairLimiter
    context: UserExecutionContext
    permit: Permit
    outer: Around | None


_around: ContextVar[Around | None] = ContextVar("isolane_slots_around", default=None)

MAX_DEPTH = 10
"""Levels of contexts below a root; one more is the limiter's to refuse."""


def context_for(limiter: FairLimiter, user_id: str) -> tuple[UserExecutionContext, bool]:
    """Return the context to ask with, and whether it is below a slot of the same user.

    Tasks started inside a slot are inside of it as well, as they inherit its context variables: for as long as the slot
    has its permit. A task that lives on is inside of what is around that slot, or of nothing.
    """
    around = _around.get()
    while around is not None:
        if around.limiter is limiter and around.permit.held and around.context.user_id == user_id:
            above = around.context
            below = above if above.operation_depth >= MAX_DEPTH else above.create_child_context("slot")
            return below, True
        around = around.outer
    return UserContextFactory.create_context(user_id), False


def enter(limiter: FairLimiter, context: UserExecutionContext, permit: Permit) -> Token[Around | None]:
    """Note that the running code is inside of a slot, which has this permit."""
    return _around.set(Around(limiter, context, permit, _around.get()))


def leave(token: Token[Around | None]) -> None:
    """Note that it no longer is."""
    # A block that ends in another task or context than it began in has nothing to put back there.
    with contextlib.suppress(ValueError):
        _around.reset(token)
