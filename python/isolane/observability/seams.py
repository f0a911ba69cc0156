"""What engines, dispatchers and limiters call while somebody traces.

Nobody does by default: then each of these places costs the look at one variable of this module.
``isolane.observability.otel`` sets it. Nothing here needs OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from isolane._core import UserExecutionContext

T = TypeVar("T")


class Open(Protocol):
    """A span that has begun, and is current in the code that began it until it ends."""

    def end(self, error: BaseException | None = None) -> None:
        """End it, with what the work came to. A cancellation is no error. Call it where it was begun, and once."""


class Tracing(Protocol):
    """Makes the spans. None of it raises, or waits for anything but what it is handed."""

    def run(self, context: UserExecutionContext) -> Open:
        """Begin the span of a run: one call of its engine, from the outside."""

    def agent(self, context: UserExecutionContext, name: str) -> Open:
        """Begin the span of an execution, which the events of its context name from then on."""

    def tool(self, context: UserExecutionContext, name: str) -> Open:
        """Begin the span of a call of a tool."""

    async def waited(self, permit: Awaitable[T], context: UserExecutionContext, purpose: str) -> T:
        """Wait for a permit, and show the wait if there is one."""

    def continued(self, context: UserExecutionContext, headers: Mapping[str, str]) -> None:
        """Put the context of a request into its caller's trace, unless it is in one."""

    def within(self, context: UserExecutionContext) -> AbstractContextManager[None]:
        """Make the place of a context current for a block."""


tracing: Tracing | None = None
"""Who traces. Looked at anew each time."""
