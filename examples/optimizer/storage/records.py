"""What is kept for a user, as tables."""

from datetime import UTC, datetime

from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from examples.optimizer.storage.whole import whole


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Record(DeclarativeBase):
    """Base of the tables of one user's database."""


class Upload(Record):
    """A log that the user sent; the file lies beside the database."""

    __tablename__ = "uploads"

    upload_id: Mapped[str] = mapped_column(primary_key=True)
    file_name: Mapped[str]
    size: Mapped[int]
    path: Mapped[str]
    created_at: Mapped[str] = mapped_column(default=_now)


class Run(Record):
    """One run of the pipeline over an upload."""

    __tablename__ = "runs"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    file_name: Mapped[str]
    mode: Mapped[str]
    state: Mapped[str] = mapped_column(default="running")
    error: Mapped[str | None] = mapped_column(default=None)
    created_at: Mapped[str] = mapped_column(default=_now)


class Report(Record):
    """What a run found."""

    __tablename__ = "reports"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    markdown: Mapped[str]
    chart: Mapped[str]


class RunPlace(Record):
    """Which worker runs a run, where there are several."""

    __tablename__ = "run_places"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    worker: Mapped[str]


class SocketPlace(Record):
    """Which worker serves the socket of a page, where there are several. The page has made up the name."""

    __tablename__ = "socket_places"

    page: Mapped[str] = mapped_column(primary_key=True)
    worker: Mapped[str]
    opened_at: Mapped[str] = mapped_column(default=_now)


class Call(Record):
    """One row of a log while its run needs it. `hour` is empty where the log tells only the date."""

    __tablename__ = "calls"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(index=True)
    at: Mapped[float]
    day: Mapped[str]
    hour: Mapped[int | None]
    model: Mapped[str]
    input_tokens: Mapped[int]
    output_tokens: Mapped[int]
    requests: Mapped[int]


@whole
async def save_report(session: AsyncSession, run_id: str, markdown: str, chart: str) -> None:
    """Keep the report of a run; a step that is tried again replaces what it wrote before."""
    values = {"markdown": markdown, "chart": chart}
    query = insert(Report).values(run_id=run_id, **values)
    await session.execute(query.on_conflict_do_update(index_elements=[Report.run_id], set_=values))
    await session.commit()
