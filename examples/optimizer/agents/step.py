"""What one step of the pipeline works with, whoever runs it."""

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from isolane import UserExecutionContext
from sqlalchemy.ext.asyncio import AsyncSession

from examples.optimizer.parsing import Role


@dataclass(frozen=True, slots=True)
class AnalysisRequest:
    """Which log to analyse, and what the user answered about it."""

    path: Path
    file_name: str
    roles: Mapping[Role, str]
    model: str | None = None


class StepEvents(Protocol):
    """The events that a step itself sends; the engine sends its start and its end."""

    def notify_agent_thinking(
        self, content: str, /, metadata: Mapping[str, Any] | None = None
    ) -> Awaitable[object]: ...

    def notify_tool_executing(self, *, tool_name: str, params: Mapping[str, Any]) -> Awaitable[object]: ...

    def notify_tool_completed(self, *, tool_name: str, result: Any) -> Awaitable[object]: ...

    def send_custom_event(self, event_type: str, payload: dict[str, Any], /) -> Awaitable[object]: ...


@dataclass(slots=True)
class ToolCall:
    """A tool that is running; `result` is what its end will tell."""

    result: object = None


@asynccontextmanager
async def tool_call(events: StepEvents, tool_name: str, params: Mapping[str, Any]) -> AsyncIterator[ToolCall]:
    """Tell that a tool runs and, however it goes, that it has ended: a start without an end would stay open for ever.

    A cancelled run's open tools are closed by whoever cancels it.
    """
    await events.notify_tool_executing(tool_name=tool_name, params=params)
    call = ToolCall()
    try:
        yield call
    except Exception as error:
        call.result = {"error": str(error)}
        await events.notify_tool_completed(tool_name=tool_name, result=call.result)
        raise
    await events.notify_tool_completed(tool_name=tool_name, result=call.result)


class Step(Protocol):
    """Whose run it is, where its data lies and where its events go.

    The work of the agents is written against this, so that the isolated path and the legacy one do the same work and
    differ in one thing only: what stands behind these four names.
    """

    @property
    def user_id(self) -> str: ...

    @property
    def run_id(self) -> str: ...

    @property
    def session(self) -> AsyncSession: ...

    @property
    def events(self) -> StepEvents: ...


@dataclass(frozen=True, slots=True)
class IsolatedStep:
    """A step of a run that has a context of its own: nothing here is shared with another run."""

    user_id: str
    run_id: str
    session: AsyncSession
    events: StepEvents

    @classmethod
    def of(cls, context: UserExecutionContext) -> "IsolatedStep":
        """The step that a context stands for."""
        return cls(context.user_id, context.run_id, context.get_database_session(), context.get_websocket_emitter())
