"""Prices the loaded calls and looks for savings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from isolane import BaseAgent, UserExecutionContext
from typing_extensions import override

from examples.optimizer.agents.data import DataAgent
from examples.optimizer.agents.step import IsolatedStep, Step, tool_call
from examples.optimizer.pricing import PRICE_TABLE
from examples.optimizer.savings import Saving, find_savings
from examples.optimizer.spending import ModelSpend, open_price_book, spend_by_model
from examples.optimizer.storage import call_totals


@dataclass(frozen=True, slots=True)
class Optimization:
    """What the calls cost and what could be saved."""

    spends: tuple[ModelSpend, ...]
    savings: tuple[Saving, ...]


class OptimizationAgent(BaseAgent):
    """Second step: prices and savings."""

    name: ClassVar[str] = "optimization"
    requires: ClassVar[tuple[str, ...]] = (DataAgent.name,)
    timeout_seconds: ClassVar[float] = 60.0

    @override
    async def execute_with_context(
        self, context: UserExecutionContext, request: object, results: Mapping[str, Any]
    ) -> Optimization:
        return await optimise(IsolatedStep.of(context))


async def optimise(step: Step) -> Optimization:
    """Price the run's calls and find savings in them."""
    events = step.events
    await events.notify_agent_thinking("Pricing the calls by model and month")
    async with tool_call(events, "price_table", {"table": PRICE_TABLE}) as call:
        book = await open_price_book(step.session, step.run_id)
        spends = await spend_by_model(await call_totals(step.session, step.run_id, book.thresholds), book)
        call.result = {
            "priced": sorted({spend.model for spend in spends if spend.cost is not None}),
            "unknown": sorted({spend.model for spend in spends if spend.cost is None}),
        }
    await events.notify_agent_thinking("Looking for calls that could cost less")
    async with tool_call(events, "savings_finder", {"models": len(spends)}) as call:
        savings = await find_savings(step.session, step.run_id, book)
        call.result = [{"what": saving.kind, "model": saving.model, "amount": saving.amount} for saving in savings]
    return Optimization(tuple(spends), tuple(savings))
