"""Users for whom no worker starts anything."""

from __future__ import annotations

import asyncio
import collections
import logging
import secrets
import threading
from typing import TYPE_CHECKING, Any

from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.seal import Seals

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane
    from isolane.security.quarantine import Quarantine

logger = logging.getLogger("isolane.cluster")

POLL_SECONDS = 1.0
CALL_SECONDS = 2.0
"""All users in quarantine are one answer."""
RELEASED_SECONDS = 24 * 60 * 60
"""For so long a worker that was away is told that somebody was released."""
MAX_USERS = 10_000
CHANNEL = "quarantine"

PUT = """
-- KEYS: 1 users  2 revision  ARGV: 1 user  2 name of the entry  3 sealed  4 most
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held then
  local kind, name = string.match(held, '^(%a) (%x+) ')
  if kind == 'Q' or name == ARGV[2] then return held end
elseif redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
  return 'full'
end
held = 'Q ' .. ARGV[2] .. ' ' .. ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], held)
redis.call('INCR', KEYS[2])
return held
"""

RELEASE = """
-- KEYS: 1 users  2 revision  ARGV: 1 user  2 name of the entry
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.match(held, '^%a (%x+) ') ~= ARGV[2] then return held end
held = 'R ' .. ARGV[2] .. ' ' .. redis.call('TIME')[1]
redis.call('HSET', KEYS[1], ARGV[1], held)
redis.call('INCR', KEYS[2])
return held
"""

READ = """
-- KEYS: 1 users  2 revision  ARGV: 1 the revision that is known  2 seconds that a release is kept
local revision = redis.call('GET', KEYS[2]) or ''
if revision == ARGV[1] then return {revision, {}} end
local before = redis.call('TIME')[1] - tonumber(ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local released = string.match(all[at + 1], '^R %x+ (%d+)')
  if released and tonumber(released) < before then redis.call('HDEL', KEYS[1], all[at]) end
end
return {revision, all}
"""


class SharedQuarantine:
    """Puts into quarantine on all workers who is put into it on one, and releases there who is released here.

    Only a release takes a user out: one whom Redis has lost is put there again by every worker that knows. A release
    is of the entry that it was meant for: who was put in again meanwhile stays.

    Args:
        plane: what the workers share.
        quarantine: that of this worker.
    """

    def __init__(self, plane: Plane, quarantine: Quarantine) -> None:
        self._plane = plane
        self._quarantine = quarantine
        self._names: dict[str, str] = {}
        """Of each user's entry."""
        self._untold: collections.OrderedDict[tuple[str, str], tuple[str, str]] = collections.OrderedDict()
        """User and entry of what Redis was not told yet: whether it is a release, and the reason."""
        self._revision = ""
        self._lock = threading.Lock()
        self._counts = collections.Counter[str]()
        plane.add_scripts({"quarantine.put": PUT, "quarantine.release": RELEASE, "quarantine.read": READ})
        self._ticker = plane.every(POLL_SECONDS, self._turn, "quarantine")
        plane.listen(CHANNEL, self._ticker.wake)
        plane.on_emptied(self._put_all)
        plane.on_state(lambda state: self._put_all() if state == "up" else None)
        quarantine.add_listener(self._changed)

    async def start(self, plane: Plane) -> None:
        """Begin: learn who is in it, before the first run, when Redis can be asked."""
        self._put_all()
        try:
            await self._turn()
        except PlaneUnavailableError:
            logger.warning("who is in quarantine on other workers of %s is not known yet", plane.prefix)

    async def stop(self) -> None:
        """End. Who is in it stays there."""

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        return {"users": len(self._quarantine.users()), "untold": len(self._untold), **self._counts}

    def _changed(self, kind: str, user_id: str, reason: str) -> None:
        """Hear of what was done on this worker, in whichever thread."""
        with self._lock:
            if kind == "quarantined":
                self._names[user_id] = secrets.token_hex(8)
                self._untold[user_id, self._names[user_id]] = ("put", reason)
            else:
                name = self._names.pop(user_id, "")
                if name:
                    # Also of what was not told yet: it may be there all the same, when an answer was lost.
                    self._untold[user_id, name] = ("release", reason)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            # From a thread: the ticker comes by.
            return
        self._ticker.wake()

    def _put_all(self) -> None:
        """Put there whom this worker knows: what is there already stays as it is."""
        with self._lock:
            for user_id, reason in self._quarantine.users().items():
                name = self._names.setdefault(user_id, secrets.token_hex(8))
                self._untold.setdefault((user_id, name), ("put", reason))
        self._revision = ""
        self._ticker.wake()

    def _keys(self) -> list[str]:
        return [self._plane.key("quarantine", "users"), self._plane.key("quarantine", "revision")]

    async def _turn(self) -> None:
        await self._tell()
        asked = self._revision
        arguments = [asked, RELEASED_SECONDS]
        revision, fields = await self._plane.script("quarantine.read", self._keys(), arguments, timeout=CALL_SECONDS)
        for user, held in zip(fields[::2], fields[1::2], strict=True):
            self._hear(user.decode(), held)
        if self._revision == asked:
            self._revision = revision.decode()

    async def _tell(self) -> None:
        plane = self._plane
        told = False
        while self._untold:
            (user_id, name), (what, reason) = next(iter(self._untold.items()))
            user = plane.user_key(user_id)
            if what == "put":
                sealed = Seals(plane.secret, values=True).wrap(f"quarantine {user}", [user_id, reason])
                arguments: list[Any] = [user, name, sealed, MAX_USERS]
                answer = await plane.script("quarantine.put", self._keys(), arguments)
            else:
                answer = await plane.script("quarantine.release", self._keys(), [user, name])
            told = True
            with self._lock:
                if self._untold.get((user_id, name), ("",))[0] == what:
                    del self._untold[user_id, name]
            if answer == b"full":
                self._counts["not_shared"] += 1
                logger.error("%d users are in quarantine: one more is so on this worker alone", MAX_USERS)
            else:
                self._hear(user, answer)
        if told:
            plane.hint(CHANNEL)

    def _hear(self, user: str, held: bytes) -> None:
        kind, name, text = held.decode().split(" ", 2)
        if kind == "R":
            self._released(name)
            return
        try:
            user_id, reason = Seals(self._plane.secret, values=True).unwrap(f"quarantine {user}", text)
        except ValueError as error:
            logger.error("an entry of the quarantine cannot be read: %s", error)  # noqa: TRY400 - it has no use
            return
        with self._lock:
            if (user_id, name) in self._untold:
                # Released here, which is not there yet.
                return
            self._names[user_id] = name
        if self._quarantine.follow(user_id, reason):
            self._counts["heard"] += 1

    def _released(self, name: str) -> None:
        with self._lock:
            found = [user_id for user_id, known in self._names.items() if known == name]
            for user_id in found:
                del self._names[user_id]
                self._untold.pop((user_id, name), None)
        for user_id in found:
            if self._quarantine.follow_release(user_id):
                self._counts["released"] += 1
