"""A run's trace beyond the process and its tasks: in headers, queues and threads."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from isolane._core import UserExecutionContext
from isolane.observability import seams


def trace_headers(context: UserExecutionContext) -> dict[str, str]:
    """Return ``traceparent`` and ``tracestate`` of a context, for a call to a service that goes on with its trace.

    They name the execution that the context belongs to. Empty when nobody traces, or the run is in no trace. Baggage is
    not among them: it may have data of a user.
    """
    place = context._trace()  # noqa: SLF001 - its other half
    if place is None:
        return {}
    headers = {"traceparent": place[0]}
    if place[1]:
        headers["tracestate"] = place[1]
    return headers


def continue_trace(context: UserExecutionContext, headers: Mapping[str, str]) -> bool:
    """Put a context into the trace that headers name, as those of a message of a queue.

    Call it before the run begins. Names of headers are in lower case. Returns whether they name a trace.
    """
    parent = headers.get("traceparent")
    if not parent:
        return False
    return context._set_trace(parent.strip(), headers.get("tracestate"), is_remote=True)  # noqa: SLF001 - its other half


def trace_of(context: UserExecutionContext) -> AbstractContextManager[None]:
    """Make the place of a context current for the length of a block.

    For a thread or task that was not started by the run, so that spans of libraries, and what they send, belong to the
    run's trace and nothing else's. Without tracing it does nothing.
    """
    tracing = seams.tracing
    return nullcontext() if tracing is None else tracing.within(context)
