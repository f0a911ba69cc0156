"""Clients leave before the server stops."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolane.fastapi.application import Isolane

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LINGER_SECONDS = 2.0
"""How long the server is kept from stopping while sockets are still open."""
LOOK_SECONDS = 0.05

Handler = Callable[[int, FrameType | None], Any]


def _is_of_uvicorn(handler: Any) -> bool:
    owner = getattr(handler, "__self__", None)
    return any(kind.__module__.partition(".")[0] == "uvicorn" for kind in type(owner).__mro__)


class SignalDrain:
    """Stands in front of uvicorn's handlers of SIGTERM and SIGINT.

    uvicorn closes each WebSocket with 1012 as soon as it begins to stop, and waits for open event streams before the
    application hears of it. So the first signal drains: sockets get their ``bye``, streams end. When all are gone, or
    after 2 s, uvicorn's handler is called. A second signal reaches it at once.
    """

    def __init__(self, isolane: Isolane) -> None:
        self._isolane = isolane
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[int, Handler] = {}
        self._began_at: float | None = None

    def install(self) -> bool:
        """Take the place of uvicorn's handlers. Returns whether there were any."""
        if threading.current_thread() is not threading.main_thread():
            return False
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if _is_of_uvicorn(handler) and callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._on_signal)
        return bool(self._handlers)

    def remove(self) -> None:
        """Give uvicorn its handlers back."""
        for number, handler in self._handlers.items():
            # Somebody else may have taken the place since.
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._began_at is not None:
            self._handlers[number](number, frame)
            return
        self._began_at = self._loop.time()
        # A signal arrives between any two instructions.
        self._loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        self._isolane.start_draining()
        self._look(number)

    def _look(self, number: int) -> None:
        began = self._began_at or 0.0
        if self._isolane.deliveries and self._loop.time() - began < LINGER_SECONDS:
            self._loop.call_later(LOOK_SECONDS, self._look, number)
        else:
            self._handlers[number](number, None)
