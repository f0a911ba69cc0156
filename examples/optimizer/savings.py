"""What the log's own numbers say could cost less, each finding with the arithmetic behind it."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from examples.optimizer.pricing import Rate
from examples.optimizer.spending import PriceBook
from examples.optimizer.storage import CallTotals, RepeatTotals, call_totals, repeat_totals
from examples.optimizer.storage.records import Call

SHORT_PROMPT_TOKENS = 1000
SHORT_ANSWER_TOKENS = 300
# Providers cache prompts from 1024 tokens on and keep them for five minutes after the last use.
CACHEABLE_TOKENS = 1024
CACHE_SECONDS = 300
NIGHT_HOURS = (22, 23, 0, 1, 2, 3, 4, 5)

_CENT = Decimal("0.01")
_MOST_FINDINGS = 20

Totals = TypeVar("Totals", CallTotals, RepeatTotals)


class SavingKind(StrEnum):
    """What to change."""

    SMALLER_MODEL = "Smaller model for short calls"
    BATCH_API = "Batch API at night"
    PROMPT_CACHING = "Prompt caching"


# What the numbers of a log cannot tell, and so the user has to.
CAVEATS = {
    SavingKind.SMALLER_MODEL: "Whether the smaller model's answers are good enough, the log cannot tell:"
    " try it on a sample first.",
    SavingKind.BATCH_API: "Batch answers may take up to a day: only calls that nobody waits for qualify.",
    SavingKind.PROMPT_CACHING: "This is the most that caching can save on these calls, the dearer first write already"
    " taken off: the log shows sizes, not texts, and the calls may have been cached already.",
}


@dataclass(frozen=True, slots=True)
class Saving:
    """One finding: what it would have saved on which model's calls, and how that was computed."""

    kind: SavingKind
    model: str
    amount: Decimal
    how: str


async def find_savings(session: AsyncSession, run_id: str, book: PriceBook) -> list[Saving]:
    """The largest findings of a cent or more, the largest first. They overlap, so their sum means nothing."""
    single = Call.requests == 1
    short = await call_totals(
        session,
        run_id,
        book.thresholds,
        single,
        Call.input_tokens <= SHORT_PROMPT_TOKENS,
        Call.output_tokens <= SHORT_ANSWER_TOKENS,
    )
    night = await call_totals(session, run_id, book.thresholds, single, Call.hour.in_(NIGHT_HOURS))
    repeats = await repeat_totals(
        session, run_id, book.thresholds, at_least=CACHEABLE_TOKENS, within_seconds=CACHE_SECONDS
    )

    def find() -> list[Saving]:
        found = [*_smaller_model(short, book), *_batch_api(night, book), *_prompt_caching(repeats, book)]
        worthwhile = [saving for saving in found if saving.amount >= _CENT]
        return sorted(worthwhile, key=lambda saving: -saving.amount)[:_MOST_FINDINGS]

    return await asyncio.to_thread(find)


def _smaller_model(short: Sequence[CallTotals], book: PriceBook) -> Iterable[Saving]:
    for model, totals in _by_model(short).items():
        now = then = Decimal(0)
        requests = 0
        sibling_id = ""
        for total in totals:
            card = book.card(model, total.day)
            sibling = book.sibling(model, total.day)
            if card and sibling:
                requests += total.requests
                sibling_id = sibling.model_id
                prompt = book.prompt_in(total.band)
                now += card.rate(prompt).cost(total.input_tokens, total.output_tokens)
                then += sibling.rate(prompt).cost(total.input_tokens, total.output_tokens)
        if requests:
            yield Saving(
                SavingKind.SMALLER_MODEL,
                model,
                now - then,
                f"{requests:,} calls with at most {SHORT_PROMPT_TOKENS:,} input and {SHORT_ANSWER_TOKENS} output tokens"
                f" cost {usd(now)}; the same tokens at the prices of {sibling_id} cost {usd(then)}.",
            )


def _batch_api(night: Sequence[CallTotals], book: PriceBook) -> Iterable[Saving]:
    for model, totals in _by_model(night).items():
        now = then = Decimal(0)
        requests = 0
        for total in totals:
            card = book.card(model, total.day)
            prompt = book.prompt_in(total.band)
            batch = card.batch_rate(prompt) if card else None
            if card and batch:
                requests += total.requests
                now += card.rate(prompt).cost(total.input_tokens, total.output_tokens)
                then += batch.cost(total.input_tokens, total.output_tokens)
        if requests:
            yield Saving(
                SavingKind.BATCH_API,
                model,
                now - then,
                f"{requests:,} calls between {NIGHT_HOURS[0]}:00 and {NIGHT_HOURS[-1] + 1:02}:00 UTC cost {usd(now)};"
                f" at the provider's batch prices the same tokens cost {usd(then)}.",
            )


def _prompt_caching(repeats: Sequence[RepeatTotals], book: PriceBook) -> Iterable[Saving]:
    for model, totals in _by_model(repeats).items():
        saved = Decimal(0)
        count = 0
        for total in totals:
            rate = book.rate(model, total.day, total.band)
            if rate and rate.cache_read is not None:
                count += total.repeats
                saved += (rate.input - rate.cache_read) * total.repeated_tokens - _write_premium(
                    rate, total.first_tokens
                )
        if count:
            yield Saving(
                SavingKind.PROMPT_CACHING,
                model,
                saved,
                f"{count:,} calls sent exactly as many input tokens ({CACHEABLE_TOKENS:,} or more) as another call at"
                f" most {CACHE_SECONDS // 60} minutes before. If the prompts are the same, reading them from the cache"
                f" saves {usd(saved)}.",
            )


def _write_premium(rate: Rate, tokens: int) -> Decimal:
    return (rate.cache_write - rate.input) * tokens if rate.cache_write is not None else Decimal(0)


def _by_model(totals: Iterable[Totals]) -> dict[str, list[Totals]]:
    groups: dict[str, list[Totals]] = defaultdict(list)
    for total in totals:
        groups[total.model].append(total)
    return groups


def usd(amount: Decimal) -> str:
    """Dollars with cents, and more digits for what is less than a cent."""
    return f"${amount:,.2f}" if amount >= _CENT or amount == 0 else f"${amount:.4f}"
