"""What a trace costs: an event that names its place, an execution and a call of a tool with their spans."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from isolane import BaseAgent, FairLimiter, UserContextFactory, WebSocketBridgeFactory, WebSocketConfig, sweep_lanes
from isolane import ExecutionEngineFactory as Factory

from benches.python.cases import events, tools
from benches.python.measure import Case, Run, Side, awaits, calls, now

GROUP = "Tracing"
USER = "user-7c21"
BATCH = 50

OFF = "nobody traces"
UNSAMPLED = "traced, nothing sampled"
SAMPLED = "traced, every span recorded"
ALONE = "OpenTelemetry's SDK, one span by itself"

EVENT = "an event published"
AGENT = "an agent that does nothing, run by an engine"
TOOL = "a tool call"
SPAN = "a span"

MISSING = "opentelemetry-sdk is not installed"
NOTE = (
    "Spans are made by OpenTelemetry's SDK and handed to a processor that keeps nothing. An execution has two, its "
    "run's and its own; a tool call has one. Without a tracer each place looks at one variable."
)


class Nothing(BaseAgent):
    """Does nothing."""

    name = "nothing"

    async def execute_with_context(self, context: Any, request: Any) -> Any:
        """Return what it was asked."""
        del context
        return request


async def _agents(loops: int) -> float:
    bridge = WebSocketBridgeFactory(WebSocketConfig(retention_seconds=0))
    factory = Factory(bridge, limiter=FairLimiter())
    taken = 0.0
    for first in range(0, loops, BATCH):
        context = UserContextFactory.create_context(USER)
        engine = await factory.create_for_user(context)
        turns = range(min(BATCH, loops - first))
        start = now()
        for _ in turns:
            await engine.execute_agent(Nothing)
        taken += now() - start
        await factory.cleanup_engine(engine)
        await context.cleanup()
        sweep_lanes()
    await factory.shutdown(0)
    return taken


def _providers() -> dict[str, Callable[[], Any]]:
    """What makes the tracers, by side; nothing without the SDK."""
    try:
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON  # noqa: PLC0415 - optional
    except ImportError:
        return {}

    def provider(sampler: Any) -> Callable[[], Any]:
        def make() -> Any:
            made = TracerProvider(sampler=sampler, shutdown_on_exit=False)
            made.add_span_processor(SpanProcessor())
            return made

        return make

    return {UNSAMPLED: provider(ALWAYS_OFF), SAMPLED: provider(ALWAYS_ON)}


@contextlib.contextmanager
def _traced(make: Callable[[], Any]) -> Iterator[None]:
    from isolane.observability import otel  # noqa: PLC0415 - optional
    from opentelemetry.metrics import NoOpMeterProvider  # noqa: PLC0415 - optional

    instrumentation = otel.instrument(make(), NoOpMeterProvider())
    try:
        yield
    finally:
        instrumentation.uninstrument()


def _with(run: Run, make: Callable[[], Any]) -> Run:
    def traced(loops: int) -> float:
        with _traced(make):
            return run(loops)

    return traced


def _in_a_span(run: Run, make: Callable[[], Any]) -> Run:
    """In a span of the host's, so that a context takes its place."""

    def within(loops: int) -> float:
        with _traced(make), make().get_tracer("bench").start_as_current_span("host"):
            return run(loops)

    return within


def _alone(make: Callable[[], Any]) -> Run:
    def run(loops: int) -> float:
        tracer = make().get_tracer("bench")

        def span() -> None:
            with tracer.start_as_current_span("bench", attributes={"a": "1", "b": "2", "c": "3"}):
                pass

        return calls(span)(loops)

    return run


def cases() -> list[Case]:
    """Events, executions, tools; a span by itself to compare with."""
    providers = _providers()
    runs: dict[str, tuple[Run, Callable[[Run, Callable[[], Any]], Run]]] = {
        EVENT: (events.with_room(events.isolane_emitter, events.publish_dicts), _in_a_span),
        AGENT: (awaits(_agents), _with),
        TOOL: (tools.own_calls(), _with),
    }
    missing = "" if providers else MISSING
    made = [
        Case(
            GROUP,
            name,
            () if missing else (Side(OFF, run), *(Side(side, on(run, make)) for side, make in providers.items())),
            own=True,
            skipped=missing,
            note=NOTE if name == EVENT else "",
        )
        for name, (run, on) in runs.items()
    ]
    alone = () if missing else (Side(ALONE, _alone(providers[SAMPLED])),)
    return [*made, Case(GROUP, SPAN, alone, own=True, skipped=missing, note="With three attributes.")]
