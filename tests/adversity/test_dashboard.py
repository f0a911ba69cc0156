"""A verification of the audit log that is waited for, given up, and asked for again while it goes on."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from isolane.observability.dashboard.access import Viewer
from isolane.observability.dashboard.actions import Actions, Command

COMMAND = Command(Viewer("operator", "operator"), "verify", None)
FOUND = SimpleNamespace(
    ok=True, problem=None, records=7, checkpoints=1, signed=7, erased=0, chains=1, bad_chain=None, bad_seq=None
)


class Slow:
    """A log whose verification takes until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        self.times = 0

    def verify(self) -> Any:
        self.times += 1
        self.begun.release()
        assert self.go_on.wait(30)
        return FOUND


async def test_who_gives_up_waiting_ends_no_verification_and_the_next_gets_the_same() -> None:
    storage, noted = Slow(), []
    isolane: Any = SimpleNamespace(audit=SimpleNamespace(storage=storage, record=lambda _: None))
    views: Any = SimpleNamespace(note_verified=noted.append)
    actions = Actions(isolane, views)
    try:
        first = asyncio.create_task(actions.verify(COMMAND))
        assert await asyncio.to_thread(storage.begun.acquire, timeout=30)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(first, 10)
        assert noted == []
        second = asyncio.create_task(actions.verify(COMMAND))
        await asyncio.sleep(0)
    finally:
        storage.go_on.set()
    result = await asyncio.wait_for(second, 30)
    assert (result["ok"], result["records"], result["state"]) == (True, 7, "done")
    assert noted == [result]
    assert storage.times == 1
    # When it is over the next one looks again.
    await asyncio.wait_for(actions.verify(COMMAND), 30)
    assert storage.times == 2
