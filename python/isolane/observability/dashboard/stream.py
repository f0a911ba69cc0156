"""The overview once a second, to everybody who watches: made once, whoever many they are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from isolane.fastapi.application import Isolane
from isolane.observability.dashboard.history import History
from isolane.observability.dashboard.parts import to_json
from isolane.observability.dashboard.views import Views

logger = logging.getLogger("isolane.dashboard")

MAX_STREAMS = 32
"""More are refused with 503: a page polls then."""
EVERY_SECONDS = 1.0
RECHECK_SECONDS = 30.0
"""How often it is asked again whether who watches still may."""
HEARTBEAT_SECONDS = 10.0
RETRY_MS = 2000


class Board:
    """What is shown of one application, and who watches.

    Attributes:
        history: the last minutes.
        views: all that is shown.
    """

    def __init__(self, isolane: Isolane) -> None:
        self.isolane = isolane
        self.history = History(isolane)
        self.views = Views(isolane, self.history)
        self._made_at = 0.0
        self._text = ""
        self._number = 0
        self._news = asyncio.Event()
        self._streams = 0
        self._producer: asyncio.Task[None] | None = None

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._streams

    def start(self) -> None:
        """Sample the application from now on, on the running loop."""
        self.history.start()

    def stop(self) -> None:
        """Sample no more, and end all streams."""
        self.history.stop()
        self._end()

    def overview(self, permissions: Mapping[str, Any]) -> str:
        """Return the overview as JSON, for somebody with these permissions. It is made at most once a second."""
        now = time.monotonic()
        if not self._text or now - self._made_at >= EVERY_SECONDS:
            self._make(now)
        return self._joined(permissions)

    def _make(self, now: float) -> None:
        self._made_at = now
        self._text = to_json(self.views.overview())

    def _joined(self, permissions: Mapping[str, Any]) -> str:
        # What everybody sees is written once; who may do what is another thing for each.
        own = to_json({"permissions": dict(permissions)})
        return f"{own[:-1]},{self._text[1:]}"

    @property
    def is_full(self) -> bool:
        """Whether no more streams are opened."""
        return self._streams >= MAX_STREAMS

    async def stream(
        self, permissions: Mapping[str, Any], renewed: Callable[[], Awaitable[Mapping[str, Any] | None]]
    ) -> AsyncIterator[bytes]:
        """The overview once a second as server-sent events, until the service drains or it is no longer allowed.

        ``renewed`` is asked every 30 s what the reader may do now; ``None`` is: not even look. A reader that is slow
        gets the latest one when it comes back: nothing is queued for it.
        """
        self._streams += 1
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            if self._streams > MAX_STREAMS:
                # Several came at once.
                yield _bye("full")
                return
            if self.is_over():
                yield _bye("draining")
                return
            self._produce()
            yield _event(self.overview(permissions))
            seen, told_at, checked_at = self._number, time.monotonic(), time.monotonic()
            while not self.is_over():
                now = time.monotonic()
                if now - checked_at >= RECHECK_SECONDS:
                    checked_at = now
                    now_allowed = await renewed()
                    if now_allowed is None:
                        yield _bye("not_allowed")
                        return
                    permissions = now_allowed
                if self._number != seen:
                    seen, told_at = self._number, now
                    yield _event(self._joined(permissions))
                    continue
                if now - told_at >= HEARTBEAT_SECONDS:
                    told_at = now
                    yield b": ping\n\n"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2 * EVERY_SECONDS):
                        await self._news.wait()
            yield _bye("draining")
        finally:
            self._streams -= 1
            if self._streams == 0:
                self._end()

    def is_over(self) -> bool:
        """Whether the service is shutting down."""
        return self.isolane.draining

    def _produce(self) -> None:
        if self._producer is None or self._producer.done():
            # Of this loop: a service that is started again in the same process has another.
            self._news = asyncio.Event()
            self._producer = asyncio.get_running_loop().create_task(self._run(), name="isolane dashboard")

    async def _run(self) -> None:
        while not self.is_over():
            try:
                self._make(time.monotonic())
            except Exception:
                logger.exception("the overview of the dashboard could not be made")
            else:
                self._number += 1
            self._wake()
            await asyncio.sleep(EVERY_SECONDS)
        self._wake()

    def _wake(self) -> None:
        # Those who wait have the former event; who comes from now on waits for the next one.
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _end(self) -> None:
        task, self._producer = self._producer, None
        if task is not None:
            task.cancel()


def _event(text: str) -> bytes:
    return f"event: overview\ndata: {text}\n\n".encode()


def _bye(reason: str) -> bytes:
    return f'event: bye\ndata: {{"reason":"{reason}"}}\n\n'.encode()
