"""Calls in bulk: written in chunks, read as totals; single rows never come back to Python."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, delete, func, insert, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from examples.optimizer.parsing import UsageRow
from examples.optimizer.storage.records import Call, Record
from examples.optimizer.storage.whole import whole

# The table, not the class: a bulk insert needs none of the unit of work.
_CALLS = Record.metadata.tables[Call.__tablename__]


class CallTotals(NamedTuple):
    """Calls of one model on one day whose prompts lie in the same size band."""

    model: str
    day: str
    band: int
    requests: int
    input_tokens: int
    output_tokens: int


class RepeatTotals(NamedTuple):
    """Calls of one model that sent a prompt size again soon after, and those that began such a chain."""

    model: str
    day: str
    band: int
    repeats: int
    repeated_tokens: int
    first_tokens: int


@whole
async def add_calls(session: AsyncSession, run_id: str, rows: Iterable[UsageRow]) -> None:
    """Insert one batch of rows."""
    await session.execute(
        insert(_CALLS),
        [
            {
                "run_id": run_id,
                "at": row.at.timestamp(),
                "day": row.at.date().isoformat(),
                "hour": row.at.hour if row.has_clock else None,
                "model": row.model,
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
                "requests": row.requests,
            }
            for row in rows
        ],
    )
    await session.commit()


@whole
async def forget_calls(session: AsyncSession, run_id: str) -> None:
    """Drop a run's rows; its report stays."""
    await session.execute(delete(Call).where(Call.run_id == run_id))
    await session.commit()


@whole
async def call_totals(
    session: AsyncSession, run_id: str, thresholds: Sequence[int], *only: ColumnElement[bool]
) -> list[CallTotals]:
    """Totals per model, day and size band. Band n holds prompts above n of the `thresholds`."""
    band = _band(thresholds)
    query = (
        select(
            Call.model,
            Call.day,
            band,
            func.sum(Call.requests),
            func.sum(Call.input_tokens),
            func.sum(Call.output_tokens),
        )
        .where(Call.run_id == run_id, *only)
        .group_by(Call.model, Call.day, band)
        .order_by(Call.day, Call.model, band)
    )
    return [CallTotals(*row) for row in await session.execute(query)]


@whole
async def repeat_totals(
    session: AsyncSession, run_id: str, thresholds: Sequence[int], *, at_least: int, within_seconds: int
) -> list[RepeatTotals]:
    """Single calls whose model and prompt size of `at_least` tokens occurred shortly before."""
    neighbours: dict[str, Any] = {"partition_by": (Call.model, Call.input_tokens), "order_by": Call.at}
    sized = (
        select(
            Call.model,
            Call.day,
            Call.input_tokens,
            _band(thresholds).label("band"),
            (Call.at - func.lag(Call.at).over(**neighbours)).label("since_last"),
            (func.lead(Call.at).over(**neighbours) - Call.at).label("until_next"),
        )
        .where(Call.run_id == run_id, Call.requests == 1, Call.hour.is_not(None), Call.input_tokens >= at_least)
        .subquery()
    )
    repeats = sized.c.since_last <= within_seconds
    begins = and_(
        or_(sized.c.since_last.is_(None), sized.c.since_last > within_seconds), sized.c.until_next <= within_seconds
    )
    query = (
        select(
            sized.c.model,
            sized.c.day,
            sized.c.band,
            func.sum(case((repeats, 1), else_=0)),
            func.sum(case((repeats, sized.c.input_tokens), else_=0)),
            func.sum(case((begins, sized.c.input_tokens), else_=0)),
        )
        .where(or_(repeats, begins))
        .group_by(sized.c.model, sized.c.day, sized.c.band)
    )
    return [RepeatTotals(*row) for row in await session.execute(query)]


def _band(thresholds: Sequence[int]) -> ColumnElement[int]:
    """How many thresholds a call's prompt exceeds; an aggregated row counts with its average prompt."""
    prompt = Call.input_tokens / func.max(Call.requests, 1)
    return sum((case((prompt > threshold, 1), else_=0) for threshold in thresholds), start=literal(0))
