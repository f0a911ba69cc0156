"""Whose code runs here: what a legacy call, which is told a user id, is checked against."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from isolane._core import UserExecutionContext, _refusal
from isolane.agents.execution import current_step, current_step_user
from isolane.contexts.caller import current_caller
from isolane.contexts.factory import validate_user_context


@dataclass(frozen=True, slots=True)
class Bound:
    """The user for whom code runs.

    Attributes:
        user_id: the user.
        context: the run context, where there is one.
    """

    user_id: str
    context: UserExecutionContext | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """Weakly: tasks and timers copy the variable, and must not keep the user's data."""

    user_id: str
    context: weakref.ref[UserExecutionContext]


_explicit: ContextVar[_Held | None] = ContextVar("isolane_legacy_bound", default=None)


@contextlib.contextmanager
def bind_context(context: UserExecutionContext) -> Iterator[None]:
    """Let the legacy names speak for a context's user within a block, and in the tasks that are started there.

    An engine does it for the agents that it runs, and the middleware for the requests of signed-in users. This is for
    code outside of both, such as a consumer of a queue.

    Raises:
        TypeError: it is no context.
        ContextIsolationError: the code runs for another user already. Recorded.
    """
    validate_user_context(context)
    bound = bound_now()
    if bound is not None and bound.user_id != context.user_id:
        from isolane.migration.legacy.process import process_hub  # noqa: PLC0415 - it makes hubs, which import this

        error = _refusal("this code runs for another user than the context's", "bind")
        process_hub().refuse(error, bound, "bind_context")
    token = _explicit.set(_Held(context.user_id, weakref.ref(context)))
    try:
        yield
    finally:
        # A generator that ends in another context than it began in has nothing to put back there.
        with contextlib.suppress(ValueError):
            _explicit.reset(token)


def bound_now() -> Bound | None:
    """Return for whom this code runs, as far as that is known without waiting.

    The agent execution that an engine runs, else the block of ``bind_context``, else the connection that is served.
    What an execution has left behind is its user's, whatever has become of its context.
    """
    step = current_step()
    if step is not None:
        return Bound(step.user_id, step)
    outside = _bound_outside_of_steps()
    started_by = current_step_user()
    if started_by is None or (outside is not None and outside.user_id == started_by):
        return outside
    return Bound(started_by)


def _bound_outside_of_steps() -> Bound | None:
    held = _explicit.get()
    if held is not None:
        return Bound(held.user_id, held.context())
    caller = current_caller.get()
    if caller is None or caller.user_id is None:
        return None
    return _served(caller.user_id, caller.run_context)


async def bound_here() -> Bound | None:
    """Return for whom this code runs. On a connection that nobody asked about yet, ask who is signed in.

    Raises what the application's sign-in raises.
    """
    bound = bound_now()
    if bound is not None:
        return bound
    caller = current_caller.get()
    user_id = await caller.resolve() if caller is not None else None
    return None if caller is None or user_id is None else _served(user_id, caller.run_context)


def _served(user_id: str, context: UserExecutionContext | None) -> Bound:
    user_id = user_id.strip()
    return Bound(user_id, context if context is not None and context.user_id == user_id else None)
