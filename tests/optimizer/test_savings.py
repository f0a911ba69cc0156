"""Spend and savings from known calls, checked by hand."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncSession

from examples.optimizer.parsing import UsageRow
from examples.optimizer.savings import Saving, SavingKind, find_savings
from examples.optimizer.spending import open_price_book, spend_by_day, spend_by_model
from examples.optimizer.storage import UserDatabases, add_calls, call_totals, forget_calls

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 2, 0, tzinfo=UTC)
RUN = "run"


@pytest_asyncio.fixture
async def session(tmp_path: Path) -> AsyncIterator[AsyncSession]:
    databases = UserDatabases(tmp_path)
    await databases.prepare("alice")
    async with databases.session("alice") as session:
        yield session
    await databases.close()


def calls(
    count: int,
    *,
    at: datetime = NOON,
    every: timedelta = timedelta(hours=24),
    model: str = "gpt-4o",
    tokens: tuple[int, int] = (5000, 1000),
    has_clock: bool = True,
    requests: int = 1,
) -> list[UsageRow]:
    return [UsageRow(at + every * number, has_clock, model, *tokens, requests) for number in range(count)]


async def findings(session: AsyncSession, *rows: UsageRow) -> list[Saving]:
    await add_calls(session, RUN, rows)
    return await find_savings(session, RUN, await open_price_book(session, RUN))


async def test_spend_is_exact(session: AsyncSession) -> None:
    """Tokens times price, to the last decimal; what has no price is kept apart."""
    await add_calls(session, RUN, [*calls(3, tokens=(1_000_001, 7)), *calls(2, model="house-model")])
    book = await open_price_book(session, RUN)
    totals = await call_totals(session, RUN, book.thresholds)
    priced, unpriced = await spend_by_model(totals, book)
    assert 3 * (1_000_001 * Decimal("0.0000025") + 7 * Decimal("0.00001")) == priced.cost
    assert (unpriced.model, unpriced.requests, unpriced.cost) == ("house-model", 2, None)
    assert priced.cost == sum(sum(day.values()) for day in (await spend_by_day(totals, book)).values())


async def test_long_prompts_cost_the_price_of_their_size(session: AsyncSession) -> None:
    """A prompt above the model's threshold costs the higher price in full; an aggregate goes by its average."""
    rows = [
        *calls(1, model="claude-sonnet-4-5", tokens=(200_000, 0)),
        *calls(1, model="claude-sonnet-4-5", tokens=(200_001, 0)),
        *calls(1, model="claude-sonnet-4-5", tokens=(400_000, 0), requests=2),
    ]
    await add_calls(session, RUN, rows)
    book = await open_price_book(session, RUN)
    (spend,) = await spend_by_model(await call_totals(session, RUN, book.thresholds), book)
    assert 600_000 * Decimal("0.000003") + 200_001 * Decimal("0.000006") == spend.cost
    assert spend.requests == 4


async def test_short_calls_suggest_the_smaller_model(session: AsyncSession) -> None:
    """The saving is the difference of the two prices for the same tokens."""
    (saving,) = await findings(session, *calls(100, tokens=(1000, 300)), *calls(50, tokens=(1001, 300)))
    assert SavingKind.SMALLER_MODEL is saving.kind
    large = 100 * (1000 * Decimal("0.0000025") + 300 * Decimal("0.00001"))
    small = 100 * (1000 * Decimal("0.00000015") + 300 * Decimal("0.0000006"))
    assert large - small == saving.amount
    assert "100 calls" in saving.how
    assert "gpt-4o-mini" in saving.how


async def test_night_calls_suggest_the_batch_api(session: AsyncSession) -> None:
    """Half the price for calls in the night, as the table's batch prices say."""
    (saving,) = await findings(session, *calls(10, at=MIDNIGHT), *calls(10, at=NOON))
    assert SavingKind.BATCH_API is saving.kind
    assert 10 * (5000 * Decimal("0.0000025") + 1000 * Decimal("0.00001")) / 2 == saving.amount


async def test_repeated_prompt_sizes_suggest_caching(session: AsyncSession) -> None:
    """All but the first call of a chain of equal sizes within five minutes would read from the cache."""
    chain = calls(5, every=timedelta(minutes=5))
    apart = calls(3, at=NOON + timedelta(days=1), every=timedelta(minutes=6), tokens=(5001, 1000))
    small = calls(9, every=timedelta(minutes=1), tokens=(1023, 1000))
    (saving,) = await findings(session, *chain, *apart, *small)
    assert SavingKind.PROMPT_CACHING is saving.kind
    assert 4 * 5000 * (Decimal("0.0000025") - Decimal("0.00000125")) == saving.amount
    assert "4 calls" in saving.how


async def test_the_first_cache_write_is_paid_for(session: AsyncSession) -> None:
    """Where writing the cache costs more than reading the prompt, the saving is less by that."""
    rows = calls(3, every=timedelta(minutes=1), model="claude-haiku-4-5", tokens=(50_000, 1000))
    (saving,) = await findings(session, *rows)
    reads = 2 * 50_000 * (Decimal("0.000001") - Decimal("0.0000001"))
    premium = 50_000 * (Decimal("0.00000125") - Decimal("0.000001"))
    assert reads - premium == saving.amount


async def test_no_clock_and_no_single_calls_mean_no_claims(session: AsyncSession) -> None:
    """Dates without a time and aggregates support no finding about hours, repeats or single calls."""
    dates = calls(50, at=MIDNIGHT, every=timedelta(0), has_clock=False)
    aggregates = calls(50, at=MIDNIGHT, every=timedelta(0), tokens=(900, 200), requests=2)
    assert await findings(session, *dates, *aggregates) == []


async def test_unknown_models_give_no_finding(session: AsyncSession) -> None:
    """Without a price there is nothing to compare."""
    assert await findings(session, *calls(99, at=MIDNIGHT, every=timedelta(0), model="house", tokens=(1030, 9))) == []


async def test_forgotten_calls_are_gone(session: AsyncSession) -> None:
    """A run's rows go when it ends; those of another run stay."""
    await add_calls(session, RUN, calls(3))
    await add_calls(session, "other", calls(2))
    await forget_calls(session, RUN)
    assert await call_totals(session, RUN, ()) == []
    assert sum(total.requests for total in await call_totals(session, "other", ())) == 2


async def test_each_user_has_a_database_of_their_own(tmp_path: Path) -> None:
    """The file's name does not hold the user's, and one user's rows are not in the other's file."""
    databases = UserDatabases(tmp_path)
    for user in ("../alice", "bob"):
        await databases.prepare(user)
    async with databases.session("../alice") as session:
        await add_calls(session, RUN, calls(1))
    async with databases.session("bob") as session:
        assert await call_totals(session, RUN, ()) == []
    await databases.close()
    files = await asyncio.to_thread(lambda: list(tmp_path.glob("*/optimizer.sqlite3")))
    assert len(files) == 2
