"""A user who is signed out is so on all workers."""

from __future__ import annotations

import asyncio
import collections
import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isolane._core import monotonic
from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.seal import Seals

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane

logger = logging.getLogger("isolane.cluster")

POLL_SECONDS = 1.0
AT_ONCE = 256
KEPT = 10_000
"""Sign-outs that Redis keeps for workers that come back, and that a worker keeps for it."""
KEPT_MS = 24 * 60 * 60 * 1000
KNOWN = 4096
CHANNEL = "logouts"

CloseSockets = Callable[[str, "str | None"], int]


class Logouts:
    """Tells all workers who was signed out, and hears of it.

    Sign-outs lie in a stream that each worker reads from where it was, so that one which Redis was away from hears of
    all of them when it is back.

    Args:
        plane: what the workers share.
        close: closes what the user has on this worker.
    """

    def __init__(self, plane: Plane, close: CloseSockets) -> None:
        self._plane = plane
        self._close = close
        self._position: str | None = None
        self._began = monotonic()
        self._known: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._untold: collections.deque[tuple[str, str, str | None]] = collections.deque(maxlen=KEPT)
        self._counts = collections.Counter[str]()
        self._ticker = plane.every(POLL_SECONDS, self._turn, "logouts")
        plane.listen(CHANNEL, self._ticker.wake)
        plane.on_emptied(self._emptied)
        plane.on_state(lambda state: self._ticker.wake() if state == "up" else None)

    async def start(self, plane: Plane) -> None:
        """Begin: whoever was signed out before has no socket here."""
        del plane
        self._began = monotonic()
        self._position = None

    async def stop(self) -> None:
        """End; the plane's tickers end with it."""

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        return {"untold": len(self._untold), **self._counts}

    def tell(self, user_id: str, session_id: str | None = None) -> None:
        """Tell the others; later, while Redis is away. May be called from any thread."""
        if len(self._untold) == KEPT:
            self._counts["forgotten"] += 1
        self._untold.append((secrets.token_hex(8), user_id, session_id))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            # From a thread: the ticker comes by.
            return
        self._ticker.wake()

    def _emptied(self) -> None:
        # Numbers of streams may begin anew; what was heard is known by its name.
        self._position = "0-0"
        self._ticker.wake()

    async def _turn(self) -> None:
        await self._tell()
        await self._hear()

    async def _tell(self) -> None:
        plane, key = self._plane, self._plane.key("logouts", "stream")
        while self._untold:
            some = list(self._untold)[:AT_ONCE]
            seals = Seals(plane.secret, values=True)
            commands = [
                ("XADD", key, "MAXLEN", "~", KEPT, "*", "i", name, "f", plane.worker, "p", seals.wrap("logout", who))
                for name, *who in some
            ]
            answers = await plane.call(*commands, ("PEXPIRE", key, KEPT_MS), plane.hint_command(CHANNEL))
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            for each in some:
                # Others may have been added meanwhile, and the oldest be gone.
                if self._untold and self._untold[0] == each:
                    self._untold.popleft()
            self._counts["told"] += len(some)

    async def _hear(self) -> None:
        plane, key = self._plane, self._plane.key("logouts", "stream")
        if self._position is None:
            (time,) = await plane.call(("TIME",))
            if isinstance(time, Exception):
                raise time
            now = int(time[0]) * 1000 + int(time[1]) // 1000
            self._position = f"{max(0, now - int((monotonic() - self._began) * 1000) - 1)}-0"
        while True:
            after = self._position
            (entries,) = await plane.call(("XRANGE", key, _next(after), "+", "COUNT", AT_ONCE))
            if isinstance(entries, Exception):
                raise entries
            for number, fields in entries:
                self._obey(dict(zip(fields[::2], fields[1::2], strict=True)))
                if self._position == after:
                    after = self._position = number.decode()
            if len(entries) < AT_ONCE:
                return

    def _obey(self, said: dict[bytes, bytes]) -> None:
        name = said.get(b"i", b"").decode()
        if name in self._known or said.get(b"f", b"").decode() == self._plane.worker:
            return
        self._known[name] = None
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        try:
            user_id, session_id = Seals(self._plane.secret, values=True).unwrap("logout", said.get(b"p", b""))
        except (PlaneUnavailableError, ValueError) as error:
            logger.error("a sign-out of another worker is not heard: %s", error)  # noqa: TRY400 - it has no use
            return
        self._counts["heard"] += 1
        self._close(user_id, session_id)


def _next(number: str) -> str:
    """The number behind one: servers before 6.2 know no range without its first."""
    milliseconds, _, count = number.partition("-")
    return f"{milliseconds}-{int(count) + 1}"
