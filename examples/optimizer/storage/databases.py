"""Opens a user's own database."""

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from examples.optimizer.storage.records import Record

_TRIES = 5


class UserDatabases:
    """The SQLite files of all users, each reachable by its owner's id only."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._engines: dict[str, AsyncEngine] = {}
        # Looking for a table and creating it are two steps: two sign-ins at once must not both find none.
        self._preparing = asyncio.Lock()

    def folder(self, user_id: str) -> Path:
        """The user's folder. Its name is a hash, so that no id can name a path of its choosing."""
        folder = self._data_dir / sha256(user_id.encode()).hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    async def prepare(self, user_id: str) -> None:
        """Create the user's tables where they are missing."""
        async with self._preparing:
            for left in reversed(range(_TRIES)):
                try:
                    async with self._engine(user_id).begin() as connection:
                        await connection.run_sync(Record.metadata.create_all)
                except OperationalError:
                    # Another process creates them at this moment: the next try finds them.
                    if left == 0:
                        raise
                else:
                    return

    def session(self, user_id: str) -> AsyncSession:
        """A new session on the user's database; the caller closes it."""
        return AsyncSession(self._engine(user_id), expire_on_commit=False)

    async def close(self) -> None:
        """Close every database."""
        for engine in self._engines.values():
            await engine.dispose()
        self._engines.clear()

    def _engine(self, user_id: str) -> AsyncEngine:
        if (engine := self._engines.get(user_id)) is None:
            # No pool: a session is a run's, and its connection and thread end with it.
            url = f"sqlite+aiosqlite:///{self.folder(user_id) / 'optimizer.sqlite3'}"
            engine = self._engines[user_id] = create_async_engine(url, poolclass=NullPool)
            event.listen(engine.sync_engine, "connect", _configure)
        return engine


def _configure(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # A user's two runs write side by side: readers do not block, and a writer waits for the other.
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
