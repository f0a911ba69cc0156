"""Writes the report and draws its chart."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar

from isolane import BaseAgent, UserExecutionContext
from typing_extensions import override

from examples.optimizer.agents.data import DataAgent, LoadedLog
from examples.optimizer.agents.optimization import Optimization, OptimizationAgent
from examples.optimizer.agents.step import IsolatedStep, Step, tool_call
from examples.optimizer.operations import DAILY_TABLE
from examples.optimizer.report import Findings, draw_spend, write_report
from examples.optimizer.spending import open_price_book, spend_by_day
from examples.optimizer.storage import call_totals, save_report


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """That a report is there, and how large."""

    characters: int
    savings: int


class ReportAgent(BaseAgent):
    """Last step: Markdown and a chart, kept in the user's database."""

    name: ClassVar[str] = "report"
    requires: ClassVar[tuple[str, ...]] = (DataAgent.name, OptimizationAgent.name)
    timeout_seconds: ClassVar[float] = 60.0

    @override
    async def execute_with_context(
        self, context: UserExecutionContext, request: object, results: Mapping[str, Any]
    ) -> WrittenReport:
        # As it was when the run began, however the rollout changes meanwhile.
        with_days = context.flags is not None and context.flags.is_on(DAILY_TABLE)
        log, optimization = results[DataAgent.name], results[OptimizationAgent.name]
        return await report(IsolatedStep.of(context), log, optimization, with_days=with_days)


async def report(step: Step, log: LoadedLog, optimization: Optimization, *, with_days: bool = False) -> WrittenReport:
    """Write the report of a run and keep it."""
    await step.events.notify_agent_thinking("Writing the report")
    findings = Findings(
        user_id=step.user_id,
        file_name=log.file_name,
        rows=log.rows,
        first_day=log.first_day,
        last_day=log.last_day,
        columns=log.columns,
        ignored_columns=log.ignored_columns,
        spends=optimization.spends,
        savings=optimization.savings,
    )
    async with tool_call(step.events, "report_writer", {"rows": log.rows}) as call:
        book = await open_price_book(step.session, step.run_id)
        days = await spend_by_day(await call_totals(step.session, step.run_id, book.thresholds), book)
        if with_days:
            findings = replace(
                findings, days={day: sum(spend.values(), start=Decimal(0)) for day, spend in days.items()}
            )
        markdown = write_report(findings)
        await save_report(step.session, step.run_id, markdown, await asyncio.to_thread(draw_spend, days))
        call.result = {"characters": len(markdown)}
    return WrittenReport(len(markdown), len(optimization.savings))
