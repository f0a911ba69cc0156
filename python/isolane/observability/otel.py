"""OpenTelemetry: spans of runs, executions, tools and waits, and the metrics of the core.

```python
from isolane.observability import otel

instrumentation = otel.instrument()
```

Nothing starts a thread here, and nothing is exported: that is what the providers do that the application makes. With
several workers it makes them in each, after the fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from isolane._core import Permit, UserExecutionContext, __version__, _set_trace_source
from isolane.observability import genai, seams
from isolane.observability.genai import Convention, Names
from isolane.security.pseudonyms import pseudonym, set_pseudonym_key
from isolane.tools.errors import ToolExecutionError

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context, attach, create_key, detach, get_current, get_value, set_value
    from opentelemetry.trace import (
        NonRecordingSpan,
        Span,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
        Tracer,
        TracerProvider,
        TraceState,
        get_current_span,
        set_span_in_context,
    )
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise ModuleNotFoundError(
        f"isolane.observability.otel needs {error.name}, which is not installed: pip install 'isolane[otel]'",
        name=error.name,
    ) from error

from isolane.observability.instruments import observe

__all__ = ["Convention", "Instrumentation", "instrument", "instrumentation", "service_instance_id"]

logger = logging.getLogger("isolane.observability")

T = TypeVar("T")
P = ParamSpec("P")

PermitsShown = Literal["span", "event", "off"]
"""How waits for permits are shown: as spans, as events of the span around them, or not at all."""

SCOPE = "isolane"
MAX_NAMES = 100
"""Names of agents, and of tools, that durations tell apart; further ones are ``_other``."""
MAX_FLAGS = 64
"""Flags that a run's span has events of."""
UNKNOWN_TOOL = "_unknown"

_INNERMOST: ContextVar[object] = ContextVar("isolane-innermost-span", default=None)
"""The mark of the innermost open span of this task."""
_OWNER = create_key("isolane-owner")
"""Whose a span is that is current: user and run."""


class Instrumentation:
    """What ``instrument`` has begun. ``uninstrument()`` ends it.

    Attributes:
        genai: which names are used.
    """

    def __init__(self, tracing: _OpenTelemetry, genai_names: Convention, arguments: tuple[object, ...]) -> None:
        self.genai = genai_names
        self._tracing = tracing
        self._arguments = arguments

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return _Process.current is self

    def uninstrument(self) -> None:
        """Make no more spans and report no more metrics. Spans that are open are ended. Calling it again does nothing.

        The instruments stay with their provider, which cannot forget any; they report nothing.
        """
        with _Process.lock:
            if _Process.current is not self:
                return
            _Process.current = None
            seams.tracing = None
            _set_trace_source(None)
            self._tracing.stop()

    def __repr__(self) -> str:
        return f"<Instrumentation {self.genai}, {'active' if self.active else 'ended'}>"


class _Process:
    """What there is one of in a process."""

    current: Instrumentation | None = None
    instance: tuple[int, str] | None = None
    lock = threading.Lock()


def instrument(
    tracer_provider: TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    *,
    hash_key: bytes | None = None,
    provider_name: str | None = None,
    genai: Convention | None = None,
    permits: PermitsShown = "span",
    record_exceptions: bool = False,
    continue_remote: bool = True,
    flags: bool = True,
) -> Instrumentation:
    """Make spans of runs, executions, tools and waits for permits, and report the core's metrics.

    Calling it again with the same arguments returns what there is.

    Args:
        tracer_provider: who makes the tracer. Default: the global one, also when that is set later.
        meter_provider: who makes the meter. Default: the global one, also when that is set later.
        hash_key: the key of the users' pseudonyms, as of ``set_pseudonym_key``: with the same key all workers and
            services call a user the same. Default: the process's own.
        provider_name: whose models the agents use, such as ``anthropic``. Default: not said.
        genai: which names of the GenAI conventions. Default: what ``ISOLANE_GENAI_SEMCONV`` says, else ``latest``.
        permits: how waits for permits are shown.
        record_exceptions: record exceptions with text and stack. They may have data of users.
        continue_remote: requests go on with the trace that their ``traceparent`` names, unless a span is current.
        flags: runs have an event for each flag of their rollout.

    Raises:
        RuntimeError: it was called with other arguments, and that has not ended.
        ValueError: there are no such names, or the key is too short or too long.
    """
    chosen = _convention(genai)
    if permits not in {"span", "event", "off"}:
        raise ValueError(f"permits is one of span, event, off, got {permits!r}")
    arguments = (
        *(tracer_provider, meter_provider, hash_key, provider_name, chosen),
        *(permits, record_exceptions, continue_remote, flags),
    )
    with _Process.lock:
        if _Process.current is not None:
            if _Process.current._arguments == arguments:  # noqa: SLF001 - its other half
                return _Process.current
            raise RuntimeError(
                "OpenTelemetry is instrumented already, in another way; call instrumentation().uninstrument() first"
            )
        if hash_key is not None:
            set_pseudonym_key(hash_key)
        meter = metrics.get_meter(SCOPE, __version__, meter_provider)
        tracing = _OpenTelemetry(
            trace.get_tracer(SCOPE, __version__, tracer_provider),
            meter,
            _names(chosen),
            provider_name,
            permits=permits,
            record_exceptions=record_exceptions,
            continue_remote=continue_remote,
            flags=flags,
        )
        tracing.stops = observe(meter, meter_provider)
        _set_trace_source(tracing.place)
        seams.tracing = tracing
        _Process.current = Instrumentation(tracing, chosen, arguments)
        return _Process.current


def _convention(asked: str | None) -> Convention:
    return genai.convention(asked)


def _names(chosen: Convention) -> Names:
    return genai.NAMES[chosen]


def instrumentation() -> Instrumentation | None:
    """Return what ``instrument`` has begun and nobody has ended, or ``None``."""
    return _Process.current


def service_instance_id() -> str:
    """Return an id of this process for the resource's ``service.instance.id``; a child of a fork has another.

    Metrics of two workers under one id overwrite each other at the collector.
    """
    if _Process.instance is None or _Process.instance[0] != os.getpid():
        _Process.instance = (os.getpid(), str(uuid.uuid4()))
    return _Process.instance[1]


class _Capped:
    """Names as values of an attribute: the first hundred, and one for the rest."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def of(self, name: str) -> str:
        if name in self._names:
            return name
        if len(self._names) >= MAX_NAMES:
            return "_other"
        self._names.add(name)
        return name


class _OpenSpan:
    """A span that is current until it ends."""

    __slots__ = (
        *("_around", "_before", "_context", "_counted", "_current", "_mark"),
        *("_place", "_since", "_span", "_token", "_tracing"),
    )

    def __init__(
        self,
        tracing: _OpenTelemetry,
        span: Span,
        current: Context,
        counted: tuple[metrics.Histogram, dict[str, str]] | None,
        context: UserExecutionContext | None,
    ) -> None:
        self._tracing = tracing
        self._span = span
        self._counted = counted
        # Of an execution: where its context stood before, if it is not its own.
        self._context = context
        self._place = None if context is None else context._trace()  # noqa: SLF001 - its other half
        if context is not None:
            _stand(context, span.get_span_context())
        # A mark and not the span: a task that is left behind keeps nothing of the run by it.
        self._mark, self._around = object(), _INNERMOST.get()
        _INNERMOST.set(self._mark)
        self._before, self._current = get_current(), current
        self._token = attach(current)
        self._since = time.perf_counter()

    def end(self, error: BaseException | None = None) -> None:
        """End it, with what the work came to."""
        took = time.perf_counter() - self._since
        # A coroutine that nobody finishes is closed by the interpreter, outside of its context: nothing to put back.
        if _INNERMOST.get() is self._mark:
            _INNERMOST.set(self._around)
            if get_current() is self._current:
                detach(self._token)
            else:
                # The work has left a span of its own current. What comes next in this task is not its.
                attach(self._before)
        if self._context is not None:
            self._context._set_trace(*(self._place or (None,)))  # noqa: SLF001 - its other half
        try:
            kind = self._tracing.note_end(self._span, error)
            if self._counted is not None:
                histogram, attributes = self._counted
                histogram.record(took, attributes if kind is None else {**attributes, genai.ERROR_TYPE: kind})
        except Exception as failed:  # noqa: BLE001 - of a processor or exporter, which a run does not depend on
            self._tracing.complain(failed)


class _NoSpan:
    """Stands for a span that could not be begun."""

    __slots__ = ()

    def end(self, error: BaseException | None = None) -> None:
        """Do nothing."""


_NO_SPAN = _NoSpan()


def _never_raises(
    begin: Callable[Concatenate[_OpenTelemetry, P], seams.Open],
) -> Callable[Concatenate[_OpenTelemetry, P], seams.Open]:
    """A sampler or processor of the application's that raises does not keep a run from beginning."""

    @functools.wraps(begin)
    def begun(self: _OpenTelemetry, /, *args: P.args, **kwargs: P.kwargs) -> seams.Open:
        try:
            return begin(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it raises
            self.complain(error)
            return _NO_SPAN

    return begun


def _stand(context: UserExecutionContext, span: SpanContext) -> None:
    """A context stands at a span from now on, and says so in its events."""
    place = _written(span)
    if place is not None:
        context._set_trace(*place)  # noqa: SLF001 - its other half


def _written(span: SpanContext) -> tuple[str, str | None, bool] | None:
    if not span.is_valid:
        return None
    parent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"
    return parent, span.trace_state.to_header() or None, span.is_remote


def _read(place: tuple[str, str | None, bool]) -> SpanContext:
    parent, state, is_remote = place
    return SpanContext(
        trace_id=int(parent[3:35], 16),
        span_id=int(parent[36:52], 16),
        is_remote=is_remote,
        trace_flags=TraceFlags(int(parent[53:], 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )


def _error_type(error: BaseException) -> str:
    """Return the class of an error; of a tool that raised, what the tool raised. Never its text."""
    if isinstance(error, ToolExecutionError):
        return error.error_type
    kind = type(error)
    module = kind.__module__.partition(".")[0]
    return kind.__qualname__ if module in {"builtins", "isolane"} else f"{kind.__module__}.{kind.__qualname__}"


class _OpenTelemetry:
    """Makes the spans."""

    def __init__(
        self,
        tracer: Tracer,
        meter: metrics.Meter,
        names: Names,
        provider_name: str | None,
        *,
        permits: PermitsShown,
        record_exceptions: bool,
        continue_remote: bool,
        flags: bool,
    ) -> None:
        self._tracer = tracer
        self._names = names
        self._provider = {} if provider_name is None else {names.provider: provider_name}
        self._permits = permits
        self._records = record_exceptions
        self._continues = continue_remote
        self._flags = flags
        self._agents, self._tools = _Capped(), _Capped()
        self._agent_seconds = _durations(meter, names.agent_duration, "Duration of an execution of an agent.")
        self._tool_seconds = _durations(meter, names.tool_duration, "Duration of a call of a tool.")
        self.stops: Any = None
        self._complained = False

    def complain(self, error: Exception) -> None:
        """Log that a span could not be made, with a traceback, the first time."""
        if not self._complained:
            self._complained = True
            logger.error("OpenTelemetry failed to make a span. Runs go on; this is told once", exc_info=error)

    def stop(self) -> None:
        """Report no more metrics."""
        if self.stops is not None:
            self.stops()

    # -- where a span belongs --------------------------------------------------------------------------------------

    def place(self, user_id: str) -> tuple[str, str | None, bool] | None:
        """Return where a new context of a user stands: at the span that is current, unless that is another user's."""
        current = get_current()
        owner = get_value(_OWNER, current)
        if isinstance(owner, tuple) and owner[0] != user_id:
            return None
        return _written(get_current_span(current).get_span_context())

    def _around(self, context: UserExecutionContext) -> Context:
        """Return the OpenTelemetry context that a span of a context begins in.

        That is the current one where it is of the same run, or of the application and in the same trace. Else the code
        runs where somebody else's does, as in a worker that was started by another request: then it is the place where
        the context was made, and nothing else of the current one, baggage neither.
        """
        current = get_current()
        owner = get_value(_OWNER, current)
        span = get_current_span(current).get_span_context()
        place = context._trace()  # noqa: SLF001 - its other half
        if isinstance(owner, tuple):
            if owner == (context.user_id, context.run_id):
                return current
        elif place is None or (span.is_valid and f"{span.trace_id:032x}" == place[0][3:35]):
            return current
        return Context() if place is None else set_span_in_context(NonRecordingSpan(_read(place)), Context())

    def _begin(
        self, context: UserExecutionContext, name: str, more: Mapping[str, str], start: int | None = None
    ) -> tuple[Span, Context]:
        around = self._around(context)
        attributes = {
            genai.RUN_ID: context.run_id,
            genai.REQUEST_ID: context.request_id,
            genai.USER_HASH: pseudonym(context.user_id),
            **more,
        }
        span = self._tracer.start_span(
            name,
            around,
            SpanKind.INTERNAL,
            attributes,
            start_time=start,
            record_exception=False,
            set_status_on_exception=False,
        )
        inside = set_value(_OWNER, (context.user_id, context.run_id), set_span_in_context(span, around))
        return span, inside

    # -- what the seams call ---------------------------------------------------------------------------------------

    @_never_raises
    def run(self, context: UserExecutionContext) -> seams.Open:
        """Begin the span of a run."""
        span, inside = self._begin(context, genai.RUN_SPAN, {self._names.conversation: context.thread_id})
        if self._flags and span.is_recording():
            _note_flags(span, context)
        return _OpenSpan(self, span, inside, None, None)

    @_never_raises
    def agent(self, context: UserExecutionContext, name: str) -> seams.Open:
        """Begin the span of an execution."""
        names = self._names
        fixed = {**names.agent, **self._provider}
        span, inside = self._begin(
            context,
            f"{names.agent_span} {name}",
            {**fixed, names.agent_name: name, names.conversation: context.thread_id},
        )
        counted = {**fixed, names.agent_name: self._agents.of(name)}
        return _OpenSpan(self, span, inside, (self._agent_seconds, counted), context)

    @_never_raises
    def tool(self, context: UserExecutionContext, name: str) -> seams.Open:
        """Begin the span of a call of a tool."""
        names = self._names
        span, inside = self._begin(context, f"{names.tool_span} {name}", {**names.tool, names.tool_name: name})
        counted = {**names.tool, names.tool_name: self._tools.of(name)}
        return _OpenSpan(self, span, inside, (self._tool_seconds, counted), None)

    async def waited(self, permit: Awaitable[T], context: UserExecutionContext, purpose: str) -> T:
        """Wait for a permit, and show the wait if there is one."""
        asked: object = permit
        # A permit that was free is its own awaitable.
        if self._permits == "off" or isinstance(asked, Permit):
            return await permit
        start, since = time.time_ns(), time.perf_counter()
        failed: BaseException | None = None
        try:
            return await permit
        except BaseException as error:
            failed = error
            raise
        finally:
            try:
                self._note_wait(context, purpose, start, time.perf_counter() - since, failed)
            except Exception as error:  # noqa: BLE001 - as above
                self.complain(error)
            failed = None

    def _note_wait(
        self,
        context: UserExecutionContext,
        purpose: str,
        start: int,
        seconds: float,
        error: BaseException | None,
    ) -> None:
        attributes: dict[str, Any] = {genai.PERMIT_FOR: purpose, genai.PERMIT_SECONDS: seconds}
        if self._permits == "span":
            span, _ = self._begin(context, genai.PERMIT_SPAN, attributes, start)
            self.note_end(span, error, start + int(seconds * 1e9))
            return
        around = get_current_span(self._around(context))
        outcome = "ok" if error is None else "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
        attributes[genai.OUTCOME] = outcome
        if outcome == "error" and error is not None:
            attributes[genai.ERROR_TYPE] = _error_type(error)
        around.add_event(genai.PERMIT_SPAN, attributes)

    def continued(self, context: UserExecutionContext, headers: Mapping[str, str]) -> None:
        """Put the context of a request into its caller's trace, unless it is in one."""
        parent = headers.get("traceparent") if self._continues else None
        if parent and context.traceparent is None:
            context._set_trace(parent.strip(), headers.get("tracestate"), is_remote=True)  # noqa: SLF001 - its half

    @contextlib.contextmanager
    def within(self, context: UserExecutionContext) -> Iterator[None]:
        """Make the place of a context current for a block."""
        inside = set_value(_OWNER, (context.user_id, context.run_id), self._around(context))
        token = attach(inside)
        try:
            yield
        finally:
            if get_current() is inside:
                detach(token)

    def note_end(self, span: Span, error: BaseException | None, end: int | None = None) -> str | None:
        """End a span. Returns the class of the error, if it was one: to be cancelled is none."""
        kind = None
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            span.set_attribute(genai.OUTCOME, "cancelled")
        elif error is not None:
            kind = _error_type(error)
            span.set_attributes({genai.OUTCOME: "error", genai.ERROR_TYPE: kind})
            span.set_status(Status(StatusCode.ERROR))
            if self._records:
                span.record_exception(error)
        else:
            span.set_attribute(genai.OUTCOME, "ok")
        span.end(end)
        return kind


def _durations(meter: metrics.Meter, name: str, description: str) -> metrics.Histogram:
    return meter.create_histogram(
        name, unit="s", description=description, explicit_bucket_boundaries_advisory=list(genai.DURATION_BUCKETS)
    )


def _note_flags(span: Span, context: UserExecutionContext) -> None:
    """Say which flags the run has, as it has them to its end."""
    flags = context.flags
    if flags is None:
        return
    # Not asked one by one, which counts as asking.
    decisions: dict[str, dict[str, Any]] = flags.to_dict()["decisions"]
    for flag, decision in itertools.islice(decisions.items(), MAX_FLAGS):
        attributes = {
            genai.FLAG_KEY: flag,
            genai.FLAG_VARIANT: decision["variant"],
            genai.FLAG_REASON: decision["reason"].lower(),
            genai.FLAG_PROVIDER: "isolane",
            genai.FLAG_CONTEXT: pseudonym(context.user_id),
            genai.FLAG_VERSION: str(flags.revision),
        }
        if decision["error_code"] is not None:
            attributes[genai.ERROR_TYPE] = decision["error_code"].lower()
        span.add_event(genai.FLAG_EVENT, attributes)
