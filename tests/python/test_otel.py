"""Traces: one tree for each run, in which nothing is another user's, and nothing at all when nobody traces."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import isolane
import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ExecutionEngineFactory,
    FairLimiter,
    LimitTimeout,
    PermissionEngine,
    ToolExecutionError,
    ToolNotFoundError,
    UnifiedToolDispatcherFactory,
    UserExecutionContext,
    _core,
)
from isolane.agents.execution import run_in_span
from isolane.observability import genai, otel, propagation, seams
from isolane.security.pseudonyms import pseudonym, set_pseudonym_key
from opentelemetry import baggage
from opentelemetry.context import attach, detach, get_current
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags, get_current_span, set_span_in_context

from tests.support import metric_names

metric_names.reserve("reader", "writer", "lookup")

SECRET = "ann@example.org wants the truth"


class Traces:
    """What was traced in a test."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("the host")

    @property
    def spans(self) -> list[ReadableSpan]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def trees(self, trace_id: int | None = None) -> list[Any]:
        """The spans as names: one with others below it is a tuple of its name and their list."""
        spans = [span for span in self.spans if trace_id in {None, span.context.trace_id}]
        known = {span.context.span_id for span in spans}

        def tree(span: ReadableSpan) -> Any:
            below = [tree(each) for each in spans if each.parent and each.parent.span_id == span.context.span_id]
            return (span.name, below) if below else span.name

        return [tree(span) for span in spans if span.parent is None or span.parent.span_id not in known]


@pytest.fixture
def traces() -> Iterator[Traces]:
    traced = Traces()
    yield traced
    running = otel.instrumentation()
    if running is not None:
        running.uninstrument()
    assert seams.tracing is None
    traced.provider.shutdown()


@pytest.fixture(autouse=True)
def nothing_of_a_test_is_current_after_it() -> Iterator[None]:
    before = get_current()
    yield
    assert get_current() is before


def lookup(key: str) -> str:
    if key == SECRET:
        raise ValueError(SECRET)
    return key.upper()


class Reader(BaseAgent):
    name = "reader"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        tools = context.get_tool_dispatcher()
        return await tools.execute_tool("lookup", {"key": str(request)})


class Writer(BaseAgent):
    name = "writer"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        await asyncio.sleep(0)
        return f"for {context.user_id}"


class Failing(BaseAgent):
    name = "failing"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        raise LookupError(SECRET)


class Waiting(BaseAgent):
    name = "waiting"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        await request


@pytest.fixture
def limiter() -> FairLimiter:
    return FairLimiter(4, 4)


@pytest.fixture
def tools() -> UnifiedToolDispatcherFactory:
    return UnifiedToolDispatcherFactory([lookup], permissions=PermissionEngine.for_tools({"everyone": ["*"]}))


@pytest.fixture
def factory(limiter, tools) -> ExecutionEngineFactory:
    registry = AgentRegistry()
    for agent in (Reader, Writer, Failing, Waiting):
        registry.register(agent)
    return ExecutionEngineFactory(
        agent_factory=AgentInstanceFactory(registry),
        limiter=limiter,
        tool_dispatcher_factory=tools,
        max_engines_per_user=10,
    )


@pytest.fixture
def new_run(tools, new_context):
    def make(user: str | None = None) -> UserExecutionContext:
        context = new_context(user)
        context.bind_tool_dispatcher_factory(tools)
        return context

    return make


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


def written(span: SpanContext) -> str:
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


async def run(factory: ExecutionEngineFactory, context: UserExecutionContext, agents: Any, request: Any = "x") -> Any:
    async with factory.user_execution_scope(context) as engine:
        return await engine.execute_agent_pipeline(agents, request)


# -- the tree ----------------------------------------------------------------------------------------------------------


async def test_a_run_is_one_tree_with_its_executions_and_their_tools(traces, factory, new_run):
    otel.instrument(traces.provider, provider_name="anthropic")
    context = new_run()
    assert (await run(factory, context, ["reader", "writer"])).success
    assert traces.trees() == [
        ("isolane.run", [("invoke_agent reader", ["execute_tool lookup"]), "invoke_agent writer"])
    ]
    reader, tool = traces.named("invoke_agent reader"), traces.named("execute_tool lookup")
    assert dict(reader.attributes or {}) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "reader",
        "gen_ai.conversation.id": context.thread_id,
        "gen_ai.provider.name": "anthropic",
        "isolane.run.id": context.run_id,
        "isolane.request.id": f"{context.request_id}_reader",
        "isolane.user.hash": pseudonym(context.user_id),
        "isolane.outcome": "ok",
    }
    assert dict(tool.attributes or {}) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "lookup",
        "gen_ai.tool.type": "function",
        "isolane.run.id": context.run_id,
        "isolane.request.id": f"{context.request_id}_reader",
        "isolane.user.hash": pseudonym(context.user_id),
        "isolane.outcome": "ok",
    }
    assert {span.kind.name for span in traces.spans} == {"INTERNAL"}
    assert {span.status.status_code for span in traces.spans} == {StatusCode.UNSET}
    assert context.user_id not in "".join(span.to_json() for span in traces.spans)


async def test_a_run_belongs_to_the_span_of_its_request(traces, factory, new_run):
    otel.instrument(traces.provider)
    with traces.tracer.start_as_current_span("POST /chat"):
        context = new_run()
        await run(factory, context, "writer")
    assert traces.trees() == [("POST /chat", [("isolane.run", ["invoke_agent writer"])])]


async def test_spans_of_an_agent_s_own_are_below_it(traces, factory, new_run):
    otel.instrument(traces.provider)

    class Own(BaseAgent):
        name = "own"

        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            with traces.tracer.start_as_current_span("chat model"):
                async with factory.user_execution_scope(context) as engine:
                    inner = [engine.execute_agent("writer") for _ in range(2)]
                    return [each.success for each in await asyncio.gather(*inner)]

    assert (await run(factory, new_run(), Own)).result == [True, True]
    assert traces.trees() == [
        ("isolane.run", [("invoke_agent own", [("chat model", ["invoke_agent writer", "invoke_agent writer"])])])
    ]


async def test_an_error_is_its_class_and_never_its_text(traces, factory, new_run):
    otel.instrument(traces.provider)
    result = await run(factory, new_run(), ["reader"], SECRET)
    assert isinstance(result.error, ToolExecutionError)
    result = await run(factory, new_run(), "failing")
    assert isinstance(result.error, LookupError)
    kinds = {span.name: (span.attributes or {})["error.type"] for span in traces.spans}
    assert kinds == {
        "isolane.run": "LookupError",
        "invoke_agent reader": "ValueError",
        "execute_tool lookup": "ValueError",
        "invoke_agent failing": "LookupError",
    }
    assert {span.status.status_code for span in traces.spans} == {StatusCode.ERROR}
    assert {(span.attributes or {})["isolane.outcome"] for span in traces.spans} == {"error"}
    written = "".join(span.to_json() for span in traces.spans)
    assert "ann@example.org" not in written


async def test_exceptions_are_recorded_when_that_is_asked_for(traces, factory, new_run):
    otel.instrument(traces.provider, record_exceptions=True)
    await run(factory, new_run(), "failing")
    (event,) = traces.named("invoke_agent failing").events
    assert (event.attributes or {})["exception.message"] == SECRET


async def test_what_an_exception_says_of_its_own_type_is_not_believed(traces, context):
    otel.instrument(traces.provider)

    class OddError(Exception):
        error_type = SECRET

    async def work(_inner: UserExecutionContext) -> None:
        raise OddError

    await run_in_span(context, "writer", work, timeout_seconds=5)
    kind = (traces.named("invoke_agent writer").attributes or {})["error.type"]
    assert kind == f"{__name__}.{OddError.__qualname__}"


class Broken(SpanProcessor):
    """An exporter that somebody wrote."""

    def __init__(self, where: str) -> None:
        self.where = where

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.where == "start":
            raise OSError("full")

    def on_end(self, span: ReadableSpan) -> None:
        if self.where == "end":
            raise OSError("full")


@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_processor_that_raises_is_logged_once_and_costs_no_run(factory, new_run, caplog, where):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken(where))
    running = otel.instrument(provider)
    narrow = factory.limiter = FairLimiter(1, 1)
    try:
        assert (await run(factory, new_run(), ["reader", "writer"])).success
        await waiting_run(factory, narrow, new_run())
        with pytest.raises(ToolNotFoundError):
            await new_run().get_tool_dispatcher().execute_tool("nothing")
    finally:
        running.uninstrument()
        provider.shutdown()
    assert [(record.name, record.levelname) for record in caplog.records] == [("isolane.observability", "ERROR")]


async def test_a_tool_that_there_is_not_is_named_by_nobody(traces, tools, new_run):
    otel.instrument(traces.provider)
    with pytest.raises(ToolNotFoundError):
        await tools.create_dispatcher(new_run()).execute_tool(SECRET)
    span = traces.named("execute_tool _unknown")
    assert (span.attributes or {})["error.type"] == "ToolNotFoundError"
    assert SECRET not in span.to_json()


async def test_a_cancellation_is_no_error(traces, factory, new_run):
    otel.instrument(traces.provider)
    context = new_run()
    gate = asyncio.get_running_loop().create_future()
    async with factory.user_execution_scope(context) as engine:
        task = asyncio.create_task(engine.execute_agent("waiting", gate))
        await until(lambda: context.active_runs)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert traces.trees() == [("isolane.run", ["invoke_agent waiting"])]
    for span in traces.spans:
        assert span.status.status_code is StatusCode.UNSET
        assert (span.attributes or {})["isolane.outcome"] == "cancelled"
        assert "error.type" not in (span.attributes or {})


async def test_a_run_whose_lifetime_is_over_is_an_error(traces, limiter, new_run):
    otel.instrument(traces.provider)
    registry = AgentRegistry()
    registry.register(Waiting)
    factory = ExecutionEngineFactory(
        agent_factory=AgentInstanceFactory(registry), limiter=limiter, engine_timeout_seconds=0.02
    )
    with pytest.raises(isolane.RunExpiredError):
        await run(factory, new_run(), "waiting", asyncio.get_running_loop().create_future())
    assert (traces.named("isolane.run").attributes or {})["error.type"] == "RunExpiredError"
    assert (traces.named("invoke_agent waiting").attributes or {})["isolane.outcome"] == "cancelled"


async def test_an_agent_without_an_engine_has_its_span_too(traces, context):
    otel.instrument(traces.provider)

    async def work(inner: UserExecutionContext) -> str | None:
        assert inner is context
        return inner.traceparent

    with traces.tracer.start_as_current_span("job"):
        execution = await run_in_span(context, "writer", work, timeout_seconds=5)
    span = traces.named("invoke_agent writer").context
    assert execution.result == written(span)
    # The context is no longer at the span that is over.
    assert context.traceparent is None
    assert traces.trees() == [("job", ["invoke_agent writer"])]


async def test_what_an_agent_leaves_current_is_not_around_what_comes_next(traces, new_run, alice, bob):
    """As a worker does that takes one job after the other: all of them run in its task."""
    otel.instrument(traces.provider)

    async def leave(_inner: UserExecutionContext) -> None:
        attach(baggage.set_baggage("who", alice))
        attach(set_span_in_context(traces.tracer.start_span("left open")))

    await run_in_span(new_run(alice), "leaver", leave, timeout_seconds=5)
    assert baggage.get_all() == {}
    with traces.tracer.start_as_current_span("next job"):
        await run_in_span(new_run(bob), "writer", _nothing, timeout_seconds=5)
    assert traces.trees() == ["invoke_agent leaver", ("next job", ["invoke_agent writer"])]


async def test_an_execution_that_is_closed_elsewhere_than_it_began_says_nothing_in_the_log(traces, context, caplog):
    otel.instrument(traces.provider)

    async def work(_inner: UserExecutionContext) -> None:
        await asyncio.get_running_loop().create_future()

    left = run_in_span(context, "writer", work, timeout_seconds=5)
    with caplog.at_level(logging.WARNING):
        # As the collector does: not in the context in which it ran.
        contextvars.copy_context().run(left.send, None)
        left.close()
    assert not caplog.records
    assert (traces.named("invoke_agent writer").attributes or {})["isolane.outcome"] == "cancelled"


# -- permits -----------------------------------------------------------------------------------------------------------


async def waiting_run(factory, limiter, context, agent="writer") -> None:
    """Run an agent that has to wait for its permit."""
    held = await limiter.acquire(context.user_id)
    async with factory.user_execution_scope(context) as engine:
        task = asyncio.create_task(engine.execute_agent(agent))
        await until(lambda: limiter.stats()["queued"])
        await asyncio.sleep(0.01)
        held.release()
        await task


async def test_only_a_wait_for_a_permit_is_a_span(traces, factory, limiter, new_run):
    otel.instrument(traces.provider)
    narrow = FairLimiter(1, 1)
    factory.limiter = narrow
    await waiting_run(factory, narrow, new_run())
    assert traces.trees() == [("isolane.run", ["isolane.permit", "invoke_agent writer"])]
    span = traces.named("isolane.permit")
    attributes = span.attributes or {}
    assert attributes["isolane.permit.for"] == "writer"
    assert attributes["isolane.permit.wait_seconds"] >= 0.01
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(attributes["isolane.permit.wait_seconds"], abs=1e-6)
    assert span.end_time <= traces.named("invoke_agent writer").start_time + 1_000_000


async def test_a_wait_may_be_an_event_or_nothing(traces, factory, new_run):
    narrow = factory.limiter = FairLimiter(1, 1)
    for shown, events in (("event", ["isolane.permit"]), ("off", [])):
        traces.exporter.clear()
        running = otel.instrument(traces.provider, permits=shown)
        await waiting_run(factory, narrow, new_run())
        running.uninstrument()
        assert traces.trees() == [("isolane.run", ["invoke_agent writer"])]
        assert [event.name for event in traces.named("isolane.run").events] == events
    with pytest.raises(ValueError, match="span, event, off"):
        otel.instrument(traces.provider, permits="loud")  # type: ignore[arg-type]


async def test_a_permit_that_is_not_to_be_had_is_an_error_of_the_wait(traces, factory, new_run):
    otel.instrument(traces.provider)
    narrow = factory.limiter = FairLimiter(1, 1)
    factory.admission_timeout = 0.02
    context = new_run()
    held = await narrow.acquire(context.user_id)
    with pytest.raises(LimitTimeout):
        await run(factory, context, "writer")
    held.release()
    assert traces.trees() == [("isolane.run", ["isolane.permit"])]
    for span in traces.spans:
        assert (span.attributes or {})["error.type"] == "LimitTimeout"


async def test_a_slot_that_waits_is_shown_where_it_is_asked_for(traces, new_user):
    otel.instrument(traces.provider)
    manager = isolane.OptimizedSemaphoreManager(total=1, per_user=1)
    user = new_user()
    with traces.tracer.start_as_current_span("job"):
        async with manager.acquire_execution_slot(user):
            assert traces.trees() == []

    async def hold(started: asyncio.Event) -> None:
        async with manager.acquire_execution_slot(user):
            started.set()
            await asyncio.sleep(0.02)

    started = asyncio.Event()
    held = asyncio.create_task(hold(started))
    await started.wait()
    with traces.tracer.start_as_current_span("second"):
        async with manager.acquire_execution_slot(user):
            pass
    await held
    assert traces.trees() == ["job", ("second", ["isolane.permit"])]


# -- users -------------------------------------------------------------------------------------------------------------


async def test_runs_of_two_users_at_once_have_nothing_of_each_other(traces, factory, new_run, alice, bob):
    otel.instrument(traces.provider)

    async def request(user: str) -> UserExecutionContext:
        with traces.tracer.start_as_current_span("POST /chat", attributes={"who": user}):
            context = new_run(user)
            await run(factory, context, ["reader", "writer"], user)
            return context

    contexts = await asyncio.gather(*(request(user) for user in [alice, bob] * 5))
    by_run = {context.run_id: context for context in contexts}
    for context in contexts:
        own = [span for span in traces.spans if (span.attributes or {}).get("isolane.run.id") == context.run_id]
        assert {span.name for span in own} >= {"isolane.run", "invoke_agent reader", "invoke_agent writer"}
        (trace_id,) = {span.context.trace_id for span in own}
        for span in traces.spans:
            if span.context.trace_id == trace_id and span.name != "POST /chat":
                assert by_run[(span.attributes or {})["isolane.run.id"]] is context
                assert (span.attributes or {})["isolane.user.hash"] == pseudonym(context.user_id)
    assert len({span.context.trace_id for span in traces.spans}) == 10


async def test_work_for_one_user_in_the_task_of_another_is_not_in_the_others_trace(
    traces, factory, new_run, alice, bob
):
    """A worker that one request started goes on with others' runs: its context variables are the first one's."""
    otel.instrument(traces.provider)
    with traces.tracer.start_as_current_span("request of bob"):
        of_bob = new_run(bob)
    inside = []

    class Worker(BaseAgent):
        name = "worker"

        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            token = attach(baggage.set_baggage("secret", "of alice"))
            try:
                late = new_run(bob)
                inside.append(late.traceparent)
                await run(factory, of_bob, "writer")
                await run(factory, late, Looking)
            finally:
                detach(token)

    class Looking(BaseAgent):
        name = "looking"

        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            inside.append(baggage.get_all())

    with traces.tracer.start_as_current_span("request of alice"):
        await run(factory, new_run(alice), Worker)
    assert inside == [None, {}]
    trees = traces.trees()
    assert ("request of bob", [("isolane.run", ["invoke_agent writer"])]) in trees
    assert ("request of alice", [("isolane.run", ["invoke_agent worker"])]) in trees
    assert ("isolane.run", ["invoke_agent looking"]) in trees
    assert len(trees) == 3


async def test_a_child_in_another_thread_stands_where_its_parent_does(traces, factory, new_run):
    otel.instrument(traces.provider)

    class Threaded(BaseAgent):
        name = "threaded"

        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            child = context.create_child_context("part")
            found: list[Any] = []

            def work() -> None:
                # A bare thread has none of the context variables.
                assert not get_current_span().get_span_context().is_valid
                found.append(propagation.trace_headers(child))
                with propagation.trace_of(child), traces.tracer.start_as_current_span("in a thread"):
                    found.append(child.traceparent)

            thread = threading.Thread(target=work)
            thread.start()
            await asyncio.to_thread(thread.join)
            return found

    result = await run(factory, new_run(), Threaded)
    span = traces.named("invoke_agent threaded").context
    parent = written(span)
    assert result.result == [{"traceparent": parent}, parent]
    assert traces.trees() == [("isolane.run", [("invoke_agent threaded", ["in a thread"])])]


# -- events ------------------------------------------------------------------------------------------------------------


async def test_events_name_the_execution_they_are_of(traces, factory, new_run, read_plain):
    otel.instrument(traces.provider)
    context = new_run()
    with traces.tracer.start_as_current_span("POST /chat"):
        await run(factory, context, ["reader", "writer"])
    by_agent: dict[str, set[str]] = {}
    for event in read_plain(context.user_id, context.run_id):
        by_agent.setdefault(event["agent_name"], set()).add(event["traceparent"])
    assert {
        agent: {(int(each[3:35], 16), int(each[36:52], 16)) for each in parents} for agent, parents in by_agent.items()
    } == {
        agent: {(span.trace_id, span.span_id)}
        for agent in ("reader", "writer")
        for span in [traces.named(f"invoke_agent {agent}").context]
    }


async def test_what_the_log_writes_for_an_agent_that_left_names_its_execution(traces, context, read_plain):
    otel.instrument(traces.provider)
    with traces.tracer.start_as_current_span("job") as job:
        await run_in_span(context.create_child_context("warm"), "warm", _nothing, timeout_seconds=5)
        emitter = context.get_websocket_emitter()
        assert context._set_trace(f"00-{job.get_span_context().trace_id:032x}-{'1' * 16}-01")
        emitter.notify_agent_started(agent_name="lost")
        emitter.notify_tool_executing(tool_name="half", params={})
    context._set_trace(None)
    _core.end_stream(context)
    lost = [event for event in read_plain(context.user_id, context.run_id) if event["agent_name"] == "lost"]
    assert [event["type"] for event in lost] == ["agent_started", "tool_executing", "tool_completed", "agent_error"]
    assert {event["traceparent"][36:52] for event in lost} == {"1" * 16}


async def _nothing(_context: UserExecutionContext) -> None:
    return None


async def test_without_a_tracer_events_and_contexts_are_as_ever(traces, factory, new_run, read_plain):
    running = otel.instrument(traces.provider)
    running.uninstrument()
    running.uninstrument()
    assert not running.active
    context = new_run()
    with traces.tracer.start_as_current_span("POST /chat"):
        assert new_run().traceparent is None
        assert (await run(factory, context, ["reader", "writer"])).success
    assert traces.trees() == ["POST /chat"]
    assert propagation.trace_headers(context) == {}
    with propagation.trace_of(context):
        assert not get_current_span().get_span_context().is_valid
    assert not any("traceparent" in event for event in read_plain(context.user_id, context.run_id))


async def test_a_trace_that_is_not_sampled_goes_on_and_is_recorded_nowhere(factory, new_run, read_plain):
    traced = Traces(sampler=ParentBased(ALWAYS_OFF))
    running = otel.instrument(traced.provider)
    context = new_run()
    try:
        assert (await run(factory, context, ["reader", "writer"])).success
    finally:
        running.uninstrument()
        traced.provider.shutdown()
    assert traced.spans == []
    parents = {event["traceparent"] for event in read_plain(context.user_id, context.run_id)}
    assert not any(int(parent[-2:], 16) & TraceFlags.SAMPLED for parent in parents)
    assert len({parent[3:35] for parent in parents}) == 1


# -- the context -------------------------------------------------------------------------------------------------------


def test_children_stand_where_their_parent_does_until_they_have_a_place(traces, context):
    otel.instrument(traces.provider)
    first, second = f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'c' * 16}-00"
    child = context.create_child_context("part")
    below = child.create_child_context("piece")
    assert propagation.continue_trace(context, {"traceparent": first, "tracestate": "v=1"})
    assert (child.traceparent, below._trace()) == (first, (first, "v=1", True))
    assert child._set_trace(second)
    assert (context.traceparent, below.traceparent) == (first, second)
    assert propagation.trace_headers(context) == {"traceparent": first, "tracestate": "v=1"}
    for wrong in ("", "nonsense", first.upper(), f"00-{'0' * 32}-{'b' * 16}-01"):
        assert not propagation.continue_trace(context, {"traceparent": wrong})
    assert not propagation.continue_trace(context, {})
    assert context.traceparent == first


def test_a_source_that_fails_keeps_nobody_from_beginning(monkeypatch, new_context):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    for answer in (lambda _user: 1 / 0, lambda _user: "nonsense", lambda _user: ("nonsense", None, False)):
        _core._set_trace_source(answer)
        try:
            assert new_context().traceparent is None
        finally:
            assert _core._set_trace_source(None) is answer
    assert [type(each.exc_value).__name__ for each in told] == ["ZeroDivisionError", "TypeError"]


# -- instrumenting -----------------------------------------------------------------------------------------------------


def test_instrumenting_twice_is_once_and_differently_is_refused(traces):
    first = otel.instrument(traces.provider)
    assert otel.instrument(traces.provider) is first is otel.instrumentation()
    with pytest.raises(RuntimeError, match="uninstrument"):
        otel.instrument(traces.provider, provider_name="other")
    first.uninstrument()
    assert otel.instrumentation() is None
    second = otel.instrument(traces.provider, provider_name="other")
    assert second is not first
    first.uninstrument()
    assert second.active


async def test_the_names_are_those_that_are_chosen(traces, factory, new_run, monkeypatch):
    monkeypatch.setenv(genai.VARIABLE, "off")
    running = otel.instrument(traces.provider)
    await run(factory, new_run(), "reader")
    assert traces.trees() == [("isolane.run", [("isolane.agent reader", ["isolane.tool lookup"])])]
    assert not any("gen_ai" in span.to_json() for span in traces.spans)
    running.uninstrument()
    assert otel.instrument(traces.provider, genai="1.41").genai == "1.41"
    monkeypatch.setenv(genai.VARIABLE, "2")
    with pytest.raises(ValueError, match=r"ISOLANE_GENAI_SEMCONV is one of latest, 1\.41, off"):
        genai.convention()
    monkeypatch.delenv(genai.VARIABLE)
    assert genai.convention() == "latest"


def test_users_have_the_same_hash_wherever_the_key_is_the_same(traces):
    key = b"k" * 16
    otel.instrument(traces.provider, hash_key=key)
    try:
        assert pseudonym("ann") == "90f182cdf22c", "it stays so from version to version"
        first = pseudonym("ann")
        set_pseudonym_key(None)
        assert pseudonym("ann") != first
        set_pseudonym_key(key)
        assert pseudonym("ann") == first
    finally:
        set_pseudonym_key(None)


def evaluated() -> float:
    """How often somebody has gone by a flag."""
    family = _core.metrics_snapshot().get("isolane_flag_evaluations_total", {"series": []})
    return sum(series["value"] for series in family["series"])


async def test_a_runs_flags_are_events_of_its_span(traces, factory, new_run):
    flags = isolane.FlagEngine()
    flags.load(
        '{"schema": 1, "revision": 7, "flags": {"modern": {"rollout": 100000}, "slow": {"rollout": 0}}}', origin="test"
    )
    before = _core.install_flags(flags)
    try:
        otel.instrument(traces.provider)
        context, evaluations = new_run(), evaluated()
        await run(factory, context, "writer")
        assert evaluated() == evaluations
    finally:
        _core.install_flags(before)
    events = traces.named("isolane.run").events
    assert {event.name for event in events} == {"feature_flag.evaluation"}
    told = {(event.attributes or {})["feature_flag.key"]: dict(event.attributes or {}) for event in events}
    assert told["modern"] == {
        "feature_flag.key": "modern",
        "feature_flag.result.variant": "on",
        "feature_flag.result.reason": context.flags.decide("modern").reason.lower(),
        "feature_flag.provider.name": "isolane",
        "feature_flag.context.id": pseudonym(context.user_id),
        "feature_flag.version": "7",
    }
    assert told["slow"]["feature_flag.result.variant"] == "off"


def test_an_instance_has_an_id_and_a_forked_child_another():
    mine = otel.service_instance_id()
    assert mine == otel.service_instance_id()
    program = (
        "import os\n"
        "from isolane.observability import otel\n"
        "mine = otel.service_instance_id()\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(write, otel.service_instance_id().encode())\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(mine != os.read(read, 100).decode())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_providers_may_be_set_after_instrumenting():
    program = """
import asyncio
from isolane import UserContextFactory
from isolane.agents.execution import run_in_span
from isolane.observability import otel
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

otel.instrument()
spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))

async def work(context):
    return 1

asyncio.run(run_in_span(UserContextFactory.create_context("ann"), "late", work, timeout_seconds=5))
print([span.name for span in spans.get_finished_spans()])
(resource,) = reader.get_metrics_data().resource_metrics
names = {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
print({"gen_ai.invoke_agent.duration", "isolane_permit_wait_seconds_count"} <= names)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("['invoke_agent late']\nTrue\n", "")


def test_instrumenting_starts_no_thread_and_the_package_does_not_need_opentelemetry():
    program = (
        "import sys, threading\n"
        "import isolane, isolane.observability.seams, isolane.observability.propagation\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
        "from isolane.observability import otel\n"
        "otel.instrument()\n"
        "print(threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


# -- metrics -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    yield reader
    with contextlib.suppress(Exception):
        reader.shutdown()


def collected(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_the_core_s_figures_are_the_instruments_figures(traces, reader, factory, new_run, caplog):
    meters = MeterProvider([reader], shutdown_on_exit=False)
    running = otel.instrument(traces.provider, meters)

    def checks() -> float:
        points = collected(reader)["isolane_health_checks"].data.data_points
        return sum(point.value for point in points if point.attributes == {"result": "ok"})

    before = checks()
    _core.metric("isolane_health_checks_total").labels("ok").inc(3)
    assert checks() == before + 3
    await run(factory, new_run(), ["reader"])
    known = collected(reader)
    snapshot = _core.metrics_snapshot()
    for family in _core.metric_families():
        if not snapshot.get(family["sample"], {"series": []})["series"]:
            continue
        name = family["name"]
        names = [f"{name}_count", f"{name}_sum"] if family["kind"] == "histogram" else [name]
        assert set(names) <= set(known), family
    duration = known["gen_ai.invoke_agent.duration"]
    assert duration.unit == "s"
    (point,) = duration.data.data_points
    assert dict(point.attributes) == {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "reader"}
    assert point.count == 1
    assert point.explicit_bounds == genai.DURATION_BUCKETS
    (point,) = known["gen_ai.execute_tool.duration"].data.data_points
    assert (point.count, dict(point.attributes)["gen_ai.tool.name"]) == (1, "lookup")
    running.uninstrument()
    assert "isolane_health_checks" not in collected(reader)
    # Once more with the same provider: the instruments speak again, and nobody warns of two of a name.
    with caplog.at_level(logging.WARNING):
        otel.instrument(traces.provider, meters)
    assert not caplog.records
    assert checks() == before + 3
    meters.shutdown()


async def test_a_failed_execution_is_counted_by_its_class(traces, reader, factory, new_run):
    meters = MeterProvider([reader], shutdown_on_exit=False)
    otel.instrument(traces.provider, meters)
    await run(factory, new_run(), "failing")
    (point,) = collected(reader)["gen_ai.invoke_agent.duration"].data.data_points
    assert point.attributes["error.type"] == "LookupError"
    meters.shutdown()


def test_one_collection_takes_one_snapshot(traces, reader, monkeypatch):
    meters = MeterProvider([reader], shutdown_on_exit=False)
    taken = []
    real = _core.metrics_snapshot
    monkeypatch.setattr(_core, "metrics_snapshot", lambda: taken.append(1) or real())
    otel.instrument(traces.provider, meters)
    collected(reader)
    assert len(taken) == 1
    collected(reader)
    assert len(taken) == 2
    meters.shutdown()


async def test_durations_tell_a_bounded_number_of_names_apart(traces, reader, context):
    meters = MeterProvider([reader], shutdown_on_exit=False)
    otel.instrument(traces.provider, meters)
    for number in range(otel.MAX_NAMES + 3):
        await run_in_span(context, f"agent-{number}", _nothing, timeout_seconds=5)
    points = collected(reader)["gen_ai.invoke_agent.duration"].data.data_points
    counts = {point.attributes["gen_ai.agent.name"]: point.count for point in points}
    assert len(counts) == otel.MAX_NAMES + 1
    assert counts["_other"] == 3
    meters.shutdown()


def test_without_the_extra_the_module_names_it():
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "try:\n  import isolane.observability.otel\nexcept ModuleNotFoundError as error:\n  print(error)\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert "pip install 'isolane[otel]'" in done.stdout
