"""The notes of the users, in SQLite."""

import asyncio
import os
import sqlite3
from functools import lru_cache

from .cache import cache


@lru_cache
def _database() -> sqlite3.Connection:
    database = sqlite3.connect(os.environ.get("HELPDESK_DATABASE", ":memory:"), check_same_thread=False)
    database.execute("CREATE TABLE IF NOT EXISTS notes (user_id TEXT NOT NULL, text TEXT NOT NULL)")
    return database


async def add_note(user_id: str, text: str) -> None:
    """Keep a note."""
    with _database() as database:
        database.execute("INSERT INTO notes VALUES (?, ?)", (user_id, text))
    cache.clear()


async def notes_of(user_id: str) -> list[str]:
    """Return the notes of a user."""
    await asyncio.sleep(0.01)  # as far away as a database on a network
    rows = _database().execute("SELECT text FROM notes WHERE user_id = ? ORDER BY rowid", (user_id,))
    return [text for (text,) in rows]
