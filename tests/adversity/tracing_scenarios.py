"""A scenario of runs that are traced: whatever is cancelled, each span that was begun ends, once."""

from __future__ import annotations

from typing import Any

from isolane.observability import otel
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from tests.adversity.scenarios import uses
from tests.adversity.world import World


class Balance(SpanProcessor):
    """Counts the spans that are open."""

    def __init__(self) -> None:
        self.open: list[str] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.open.append(span.name)

    def on_end(self, span: ReadableSpan) -> None:
        self.open.remove(span.name)


@uses("Tracing.waited")
async def a_traced_pipeline_waits_for_its_permit(world: World) -> None:
    balance, before = Balance(), get_current()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(balance)
    running = otel.instrument(provider)
    held = world.limiter.slot_nowait("another-user-of-adversity")
    world.after(3, held.release)
    try:
        async with world.factory.user_execution_scope(world.context()) as engine:
            result = await engine.execute_agent_pipeline(["worker", "nesting"], world)
            assert result.success, result.error
    finally:
        running.uninstrument()
        provider.shutdown()
        if balance.open or get_current() is not before:
            raise AssertionError(f"left open: {balance.open}")
