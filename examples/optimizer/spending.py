"""What the calls of a log cost: token totals times prices, exact to the last decimal."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncSession

from examples.optimizer.pricing import ModelMonth, PriceCard, Rate, price_cards
from examples.optimizer.storage import CallTotals, call_totals


@dataclass(frozen=True, slots=True)
class ModelSpend:
    """One model's share; `cost` is None where the price table does not know the model."""

    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The price cards of a run's models and of their smaller siblings, and the prompt sizes at which prices change."""

    cards: Mapping[ModelMonth, PriceCard]
    siblings: Mapping[ModelMonth, PriceCard]
    thresholds: tuple[int, ...]

    def card(self, model: str, day: str) -> PriceCard | None:
        """The prices of a model in the month of a day."""
        return self.cards.get(ModelMonth(model, _month(day)))

    def sibling(self, model: str, day: str) -> PriceCard | None:
        """The prices of the next smaller model of the family in the month of a day."""
        return self.siblings.get(ModelMonth(model, _month(day)))

    def rate(self, model: str, day: str, band: int) -> Rate | None:
        """The price of a token for prompts of a size band."""
        card = self.card(model, day)
        return card.rate(self.prompt_in(band)) if card else None

    def prompt_in(self, band: int) -> int:
        """A prompt size that lies in the band; every size in it costs the same."""
        return self.thresholds[band - 1] + 1 if band else 0


def _month(day: str) -> str:
    return day[: len("2026-03")]


async def open_price_book(session: AsyncSession, run_id: str) -> PriceBook:
    """Look up the prices of every model and month that the run's log names."""
    totals = await call_totals(session, run_id, ())
    cards, siblings = await price_cards({ModelMonth(total.model, _month(total.day)) for total in totals})
    thresholds = {threshold for card in (*cards.values(), *siblings.values()) for threshold in card.thresholds}
    return PriceBook(cards, siblings, tuple(sorted(thresholds)))


def cost_of(totals: Iterable[CallTotals], book: PriceBook) -> Decimal:
    """What priced calls cost together."""
    return sum((cost for total in totals if (cost := _cost(total, book)) is not None), start=Decimal(0))


def _cost(total: CallTotals, book: PriceBook) -> Decimal | None:
    rate = book.rate(total.model, total.day, total.band)
    return rate.cost(total.input_tokens, total.output_tokens) if rate else None


async def spend_by_model(totals: Sequence[CallTotals], book: PriceBook) -> list[ModelSpend]:
    """Each model's spend, the dearest first and the unpriced last."""
    return await asyncio.to_thread(_spend_by_model, totals, book)


def _spend_by_model(totals: Sequence[CallTotals], book: PriceBook) -> list[ModelSpend]:
    groups: dict[tuple[str, bool], list[CallTotals]] = defaultdict(list)
    for total in totals:
        groups[total.model, book.card(total.model, total.day) is not None].append(total)
    spends = [
        ModelSpend(
            model,
            sum(total.requests for total in group),
            sum(total.input_tokens for total in group),
            sum(total.output_tokens for total in group),
            cost_of(group, book) if priced else None,
        )
        for (model, priced), group in groups.items()
    ]
    return sorted(spends, key=lambda spend: (spend.cost is None, -(spend.cost or 0), spend.model))


async def spend_by_day(totals: Sequence[CallTotals], book: PriceBook) -> dict[str, dict[str, Decimal]]:
    """Spend per day and model, for the chart."""
    return await asyncio.to_thread(_spend_by_day, totals, book)


def _spend_by_day(totals: Sequence[CallTotals], book: PriceBook) -> dict[str, dict[str, Decimal]]:
    days: dict[str, dict[str, Decimal]] = defaultdict(dict)
    for total in totals:
        if (cost := _cost(total, book)) is not None:
            day = days[total.day]
            day[total.model] = day.get(total.model, Decimal(0)) + cost
    return days
