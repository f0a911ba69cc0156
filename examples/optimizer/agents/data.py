"""Loads the user's log into the user's own database."""

import asyncio
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, ClassVar

from isolane import BaseAgent, UserExecutionContext
from typing_extensions import override

from examples.optimizer.agents.step import AnalysisRequest, IsolatedStep, Step, tool_call
from examples.optimizer.parsing import LogRows, UsageRow, inspect_log
from examples.optimizer.storage import add_calls, done_whole

# Building and binding one batch is what the loop does at a stretch: some milliseconds.
_BATCH_ROWS = 500
_PROGRESS_PERCENT = 2


@dataclass(frozen=True, slots=True)
class LoadedLog:
    """What was loaded."""

    file_name: str
    rows: int
    first_day: str
    last_day: str
    columns: dict[str, str]
    ignored_columns: tuple[str, ...]


class DataAgent(BaseAgent):
    """First step: the log becomes rows of the user's SQLite session."""

    name: ClassVar[str] = "data"
    timeout_seconds: ClassVar[float] = 240.0

    @override
    async def execute_with_context(
        self, context: UserExecutionContext, request: AnalysisRequest, results: Mapping[str, Any]
    ) -> LoadedLog:
        return await load_log(IsolatedStep.of(context), request)


async def load_log(step: Step, request: AnalysisRequest) -> LoadedLog:
    """Read the log into the step's session."""
    await step.events.notify_agent_thinking(f"Reading {request.file_name} for {step.user_id}")
    columns = {role.value: name for role, name in request.roles.items()}
    async with tool_call(step.events, "log_loader", {"file": request.file_name, "columns": columns}) as call:
        layout = await asyncio.to_thread(inspect_log, request.path)
        log = LogRows(request.path, layout, request.roles, request.model)
        content = await _insert(step, log)
        call.result = {"rows": content.rows, "models": sorted(content.models), "days": len(content.days)}
    return LoadedLog(
        file_name=request.file_name,
        rows=content.rows,
        first_day=min(content.days),
        last_day=max(content.days),
        columns=columns,
        ignored_columns=tuple(name for name in layout.ignored if name not in columns.values()),
    )


@dataclass(slots=True)
class _Content:
    """What has been seen of a log so far."""

    rows: int = 0
    models: set[str] = field(default_factory=set)
    days: set[str] = field(default_factory=set)

    def add(self, rows: list[UsageRow]) -> None:
        self.rows += len(rows)
        self.models.update(row.model for row in rows)
        self.days.update(row.at.date().isoformat() for row in rows)


async def _insert(step: Step, log: LogRows) -> _Content:
    """Parse in a worker thread, batch by batch, and insert each batch, telling how far it is."""
    content = _Content()
    size = log.path.stat().st_size
    told_percent = 0
    # The file is closed by whoever has it open: not while a thread still reads from it.
    with closing(log.batches(_BATCH_ROWS)) as batches:
        while (batch := await done_whole(asyncio.to_thread(next, batches, None))) is not None:
            await add_calls(step.session, step.run_id, batch.rows)
            content.add(batch.rows)
            percent = 100 * batch.bytes_read // size
            if percent >= told_percent + _PROGRESS_PERCENT:
                told_percent = percent
                await step.events.send_custom_event("agent_progress", {"rows": content.rows, "percent": percent})
    return content
