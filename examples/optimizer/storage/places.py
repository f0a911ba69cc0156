"""Where a user's sockets and runs are among several workers: each writes down its own, and any of them reads."""

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncSession

from examples.optimizer.storage.records import RunPlace, SocketPlace
from examples.optimizer.storage.whole import whole

_KEPT_PAGES = 20


@whole
async def keep_socket_place(session: AsyncSession, page: str, worker: str) -> None:
    """Note which worker serves a page's socket, and forget pages that came long ago."""
    await session.execute(delete(SocketPlace).where(SocketPlace.page == page))
    session.add(SocketPlace(page=page, worker=worker))
    await session.flush()
    newest = select(SocketPlace.page).order_by(SocketPlace.opened_at.desc()).limit(_KEPT_PAGES)
    await session.execute(delete(SocketPlace).where(SocketPlace.page.not_in(newest)))
    await session.commit()


async def socket_place(session: AsyncSession, page: str) -> str | None:
    """The worker that serves a page's socket, as far as it is known."""
    place = await session.get(SocketPlace, page)
    return place.worker if place else None


@whole
async def keep_run_place(session: AsyncSession, run_id: str, worker: str) -> None:
    """Note which worker runs a run."""
    await session.execute(insert(RunPlace).values(run_id=run_id, worker=worker).on_conflict_do_nothing())
    await session.commit()


async def run_place(session: AsyncSession, run_id: str) -> str | None:
    """The worker that runs a run, or ran it."""
    place = await session.get(RunPlace, run_id)
    return place.worker if place else None
