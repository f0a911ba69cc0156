"""One execution as the user's stream shows it, for engines and for agents that run without one."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import weakref
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

from isolane._core import (
    BudgetExceeded,
    EventTooLarge,
    InvalidEvent,
    RunClosed,
    RunFenced,
    UserExecutionContext,
    UserWebSocketEmitter,
)
from isolane.observability import seams
from isolane.security.errors import ResponseWithheldError


class StepReference(weakref.ref[UserExecutionContext]):
    """A context, weakly, and whose it is: code that outlives the context goes on to be its user's.

    Attributes:
        user_id: the user of the context.
        agent: the name of the agent that runs in it, if it has one.
    """

    __slots__ = ("agent", "user_id")
    user_id: str
    agent: str | None

    def __new__(cls, context: UserExecutionContext, agent: str | None = None) -> Self:
        """Refer to a context."""
        made = super().__new__(cls, context)
        made.user_id = context.user_id
        made.agent = agent
        return made


step_context: ContextVar[StepReference | None] = ContextVar("isolane_step", default=None)
"""The context of the step that runs here: what an agent runs through its engine borrows that step's permit.

Weakly: every timer and task that an agent starts copies the variable, and would keep the user's data until it is due.
"""


def current_step() -> UserExecutionContext | None:
    """Return the context of the agent execution that this code is a part of, or ``None`` outside of one."""
    reference = step_context.get()
    return reference() if reference is not None else None


def current_step_user() -> str | None:
    """Return the user of the agent execution that this code is a part of, or was started by; ``None`` outside of one.

    What an execution left behind, such as a task, is its user's also when the context is gone.
    """
    reference = step_context.get()
    return reference.user_id if reference is not None else None


def takes_results(execute_with_context: Callable[..., Any]) -> bool:
    """Return whether an agent takes the results of others beside context and request."""
    parameters = inspect.signature(execute_with_context).parameters
    return len(parameters) > 2 or any(  # noqa: PLR2004 - context and request
        parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters.values()
    )


@dataclass(slots=True)
class Execution:
    """What an execution came to.

    Attributes:
        record: the id of its run record.
        result: what it returned.
        error: what it raised.
    """

    record: str
    result: Any = None
    error: Exception | None = None


async def run_in_span(
    context: UserExecutionContext,
    name: str,
    work: Callable[[UserExecutionContext], Awaitable[Any]],
    *,
    timeout_seconds: float,
    metadata: Mapping[str, Any] | None = None,
) -> Execution:
    """Run something as one execution of an agent: a run record and a span, each with exactly one end on every way out.

    What ``work`` raises is the outcome's ``error``; a cancellation ends record and span and is raised. When another
    execution of the context is open, it runs in a child context, which is what ``work`` is called with.

    Raises what publishing raises when the execution cannot begin: ``RunClosed``, ``BudgetExceeded``.
    """
    inner = context
    if context.get_websocket_emitter()._has_execution():  # noqa: SLF001 - its other half
        inner = context.create_child_context(name)
    try:
        run = _run if seams.tracing is None else _traced_run
        return await run(context, inner, name, work, timeout_seconds, metadata)
    finally:
        if inner is not context:
            await inner.cleanup()


async def _traced_run(
    context: UserExecutionContext,
    inner: UserExecutionContext,
    name: str,
    work: Callable[[UserExecutionContext], Awaitable[Any]],
    timeout_seconds: float,
    metadata: Mapping[str, Any] | None,
) -> Execution:
    tracing = seams.tracing
    if tracing is None:
        return await _run(context, inner, name, work, timeout_seconds, metadata)
    span = tracing.agent(inner, name)
    try:
        execution = await _run(context, inner, name, work, timeout_seconds, metadata)
    except BaseException as left:
        span.end(left)
        raise
    span.end(execution.error)
    return execution


async def _run(
    context: UserExecutionContext,
    inner: UserExecutionContext,
    name: str,
    work: Callable[[UserExecutionContext], Awaitable[Any]],
    timeout_seconds: float,
    metadata: Mapping[str, Any] | None,
) -> Execution:
    emitter = inner.get_websocket_emitter()
    execution = Execution(context.record_run_start(agent_type=name, metadata=dict(metadata) if metadata else None))
    # Set where the execution has ended in a way that was recorded; the rest is what nobody catches.
    left: BaseException | None = None
    token = step_context.set(StepReference(inner, name))
    try:
        await emitter.notify_agent_started(agent_name=name)
        limit = asyncio.timeout(timeout_seconds)
        try:
            try:
                async with limit:
                    execution.result = await work(inner)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise TimeoutError(
                    f"agent {name!r} took longer than its {timeout_seconds:g} s; raise its timeout_seconds"
                ) from None
        except Exception as error:  # noqa: BLE001 - whatever an agent raises is its result
            execution.error = error
    except BaseException as error:
        left = error
        raise
    finally:
        # A coroutine that is closed by the collector is closed in another context.
        with contextlib.suppress(ValueError):
            step_context.reset(token)
        failure = left if left is not None else execution.error
        # The context may have been closed meanwhile, which has ended the record, or fenced off.
        with contextlib.suppress(RuntimeError, ValueError, RunFenced):
            if failure is not None:
                context.record_run_failure(execution.record, failure)
            else:
                context.record_run_success(execution.record, execution.result)
        if left is not None:
            with contextlib.suppress(RunClosed, InvalidEvent, BudgetExceeded):
                emitter.close_open(_reason(left))
    await publish_end(emitter, name, result=execution.result, error=execution.error)
    return execution


def _reason(error: BaseException) -> str:
    return "the run was cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__


async def publish_end(
    emitter: UserWebSocketEmitter, name: str, *, result: Any = None, error: BaseException | None = None
) -> None:
    """Publish the last event of a span, which must arrive whatever the agent returned, and once.

    Tools that were left open are closed first, and a result that cannot be sent is left out. An agent that has
    published the end of its span itself has told it.
    """
    try:
        emitter.close_open("the agent ended without completing the tool", spans=False)
        if not emitter._has_execution():  # noqa: SLF001 - its other half
            return
        try:
            if isinstance(error, ResponseWithheldError):
                await _publish_withheld(emitter, name)
            elif error is not None:
                await emitter.notify_agent_error(agent_name=name, error=error)
            else:
                await emitter.notify_agent_completed(agent_name=name, result=result)
        except ResponseWithheldError:
            await _publish_withheld(emitter, name)
        except (InvalidEvent, EventTooLarge, BudgetExceeded) as refused:
            # With as little as possible; when even that has no room, the end of the stream closes the execution. Out of
            # order it is only when the agent has ended this span and left one of its own open.
            with contextlib.suppress(BudgetExceeded, InvalidEvent):
                if error is not None:
                    await emitter.notify_agent_error(agent_name=name, error=type(error).__name__)
                else:
                    await emitter.notify_agent_completed(
                        agent_name=name, result=None, metadata={"result_omitted": str(refused)}
                    )
    except RunClosed:
        # The engine was closed by force; the stream has its last events.
        return


async def _publish_withheld(emitter: UserWebSocketEmitter, name: str) -> None:
    """Tell the user that something was withheld, and nothing of what it was."""
    await emitter.notify_agent_error(
        agent_name=name, error="the response was withheld", metadata={"code": ResponseWithheldError.code}
    )
