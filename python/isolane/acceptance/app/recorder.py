"""Records everything that one user is sent, and tells who waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from isolane.acceptance.records import Channel, Receipt, Transcript


class Recorder:
    """Keeps what comes in a transcript, and wakes who waits."""

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript
        self.ended: dict[str, str] = {}
        """Runs whose streams have ended, and how."""
        self._changed = asyncio.Event()

    def add(
        self, channel: Channel, place: str, data: str | bytes, connection: int = 0, *, cut: bool = False
    ) -> Receipt:
        """Keep what came."""
        receipt = Receipt(channel, place, data, time.time(), connection, cut)
        self.transcript.receipts.append(receipt)
        self.wake()
        return receipt

    def wake(self) -> None:
        """Have those who wait look again."""
        self._changed.set()

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds. Returns whether it came to hold in time."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return holds()
        return True
