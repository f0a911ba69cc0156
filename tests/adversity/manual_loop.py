"""An event loop whose time stands still, together with the core's: timeouts are reached by moving the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from isolane import _core


class ManualLoop(asyncio.SelectorEventLoop):
    """Timers are due when ``advance`` has passed them. The core's clock is stopped until the loop is closed.

    One at a time: the core has one clock.
    """

    def __init__(self) -> None:
        self._stands_at = 1_000.0
        super().__init__()
        _core._manual_clock(True)

    def time(self) -> float:
        return self._stands_at

    def advance(self, seconds: float) -> None:
        self._stands_at += seconds
        _core._advance_clock(seconds)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.run_until_complete(coroutine)

    def turns(self, count: int = 4) -> None:
        """Let everything run that can: a timer of the loop is never slept for."""

        async def turn() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.run_until_complete(turn())

    def close(self) -> None:
        if not self.is_closed():
            _core._manual_clock(False)
        super().close()
