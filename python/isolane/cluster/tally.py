"""What each worker counts, put together: nothing that was counted is lost with a worker, and nothing counts twice.

Each worker keeps what it has counted on Redis, whole, under its name. What a dead worker has counted is added to what
is kept of all the dead; a worker that was only thought dead is told what was taken of it, and counts from there.
"""

from __future__ import annotations

import asyncio
import collections
import json
import logging
import os
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from isolane.cluster.errors import PlaneUnavailableError

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane

logger = logging.getLogger("isolane.cluster")

DEAD_SECONDS = 15.0
FOLDED_SECONDS = 24 * 60 * 60
"""For so long a worker that was thought dead may come back."""
CALL_SECONDS = 2.0
MAX_BYTES = 16 * 1024 * 1024
"""A tally that is longer is not read."""
MAX_NAMES = 1_000
"""Of the dead, by which one is known that was taken over already."""

EXCHANGE = """
-- KEYS: 1 tallies by worker  2 when each was heard of  3 what is kept of the dead  4 what was taken of whom  5 when
-- ARGV: 1 worker  2 its tally, or nothing when it is what it was  3 whether to read all  4 ms after which one is dead
--       5 the revision of what is kept that is known
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local taken = redis.call('HGET', KEYS[4], ARGV[1])
if taken then return {'taken', taken} end
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'unknown'} end
redis.call('ZADD', KEYS[2], now, ARGV[1])
local dead = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[4]), 'WITHSCORES')
local kept = redis.call('HMGET', KEYS[3], 'revision', 'tally')
local tallies = {}
if ARGV[3] == '1' then
  tallies = redis.call('HGETALL', KEYS[1])
else
  for at = 1, #dead, 2 do
    tallies[#tallies + 1] = dead[at]
    tallies[#tallies + 1] = redis.call('HGET', KEYS[1], dead[at]) or ''
  end
end
if kept[1] == ARGV[5] then kept[2] = '' end
return {'told', kept[1] or '0', kept[2] or '', dead, tallies}
"""

FOLD = """
-- KEYS: as of exchange
-- ARGV: 1 revision of what was kept  2 the new one  3 what is kept now  4 ms that is known of the folded
--       then for each dead worker its name, and when it was heard of, or nothing for whenever that was
if (redis.call('HGET', KEYS[3], 'revision') or '0') ~= ARGV[1] then return 0 end
for at = 5, #ARGV, 2 do
  if ARGV[at + 1] ~= '' and redis.call('ZSCORE', KEYS[2], ARGV[at]) ~= ARGV[at + 1] then return 0 end
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('HSET', KEYS[3], 'revision', ARGV[2], 'tally', ARGV[3])
for at = 5, #ARGV, 2 do
  local tally = redis.call('HGET', KEYS[1], ARGV[at])
  redis.call('HDEL', KEYS[1], ARGV[at])
  redis.call('ZREM', KEYS[2], ARGV[at])
  if tally then
    redis.call('HSET', KEYS[4], ARGV[at], tally)
    redis.call('ZADD', KEYS[5], now, ARGV[at])
  end
end
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now - tonumber(ARGV[4]))) do
  redis.call('HDEL', KEYS[4], old)
  redis.call('ZREM', KEYS[5], old)
end
return 1
"""


class Counting(Protocol):
    """What is counted, as text."""

    def own(self) -> str:
        """Return what this worker has counted since it began."""

    def added(self, texts: Sequence[str]) -> str | None:
        """Return several together; ``None`` of none. What cannot be read is left out."""

    def without(self, text: str, taken: str) -> str:
        """Return what is left of a text when another worker has what was taken of it."""

    def lasting(self, text: str) -> str:
        """Return what of a worker's text outlives it."""


class All(NamedTuple):
    """What all workers have counted, as of one moment."""

    kept: str | None
    """What outlived the dead."""
    dead: dict[str, str]
    """By name, of workers that were not heard of for a while, and are not part of that yet."""
    live: dict[str, str]
    own: str
    """The name of the worker that asked."""


class _Kept(NamedTuple):
    """What is kept of the dead, and whose it is: of a Redis that comes back older they must not count again."""

    revision: int
    text: str | None
    names: tuple[str, ...]

    @classmethod
    def read(cls, revision: int, blob: bytes) -> _Kept:
        held = _opened(blob)
        if held is None:
            return cls(revision, None, ())
        said = json.loads(held)
        return cls(revision, said["text"], tuple(said["names"]))

    def packed(self) -> bytes:
        return _packed(json.dumps({"text": self.text, "names": self.names}))


NOTHING = _Kept(0, None, ())


class Tally:
    """The tallies of all workers of one kind.

    Args:
        plane: what the workers share.
        name: of the kind, in names of keys.
        counting: what is counted.
        seconds: how often this worker says what it has counted.
    """

    def __init__(self, plane: Plane, name: str, counting: Counting, seconds: float) -> None:
        self._plane = plane
        self._counting = counting
        self._keys = [plane.key(f"tally:{name}", key) for key in ("live", "seen", "kept", "taken", "taken-at")]
        self._name = ""
        self._part = 0
        self._pid = 0
        self._taken: str | None = None
        """What others have of this worker's text."""
        self._told: tuple[str, bytes] | None = None
        self._kept = NOTHING
        self._whole: All | None = None
        self._is_over = True
        """Whether this worker says nothing now: before its part is started, and after it was stopped."""
        self._turn = asyncio.Lock()
        self._counts = collections.Counter[str]()
        plane.add_scripts({"tally.exchange": EXCHANGE, "tally.fold": FOLD})
        self._ticker = plane.every(seconds, self.tell, name)
        plane.on_emptied(self._ticker.wake)
        plane.on_state(lambda state: self._ticker.wake() if state == "up" else None)

    @property
    def whole(self) -> All | None:
        """What all had counted when this worker asked last."""
        return self._whole

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        return dict(self._counts)

    def begin(self) -> None:
        """Count from here on, as the worker that the plane now is."""
        self._turn = asyncio.Lock()
        self._is_over = False
        name = f"{self._plane.worker}.{self._part}"
        if self._pid != os.getpid():
            # What the parent of a fork has told is the parent's; the child counts anew.
            self._pid = os.getpid()
            self._taken = None
        elif name != self._name and self._told is not None:
            # The same process as before, as another worker: what it told before is of one that is gone.
            self._note_taken(self._told[0])
        self._name, self._told = name, None
        self._ticker.wake()

    def _note_taken(self, text: str) -> None:
        held = text if self._taken is None else self._counting.added([self._taken, text])
        self._taken = self._counting.lasting(held or text)

    def current(self) -> str:
        """Return what this worker has counted and nobody has taken."""
        text = self._counting.own()
        return text if self._taken is None else self._counting.without(text, self._taken)

    async def tell(self) -> None:
        """Tell what this worker has counted, and take over what dead ones have."""
        async with self._turn:
            if not self._is_over:
                await self._exchange(read=False)

    async def read(self) -> All:
        """Tell, and return what all have counted as of that moment. Of two readings the later one has no less."""
        async with self._turn:
            if self._is_over:
                raise PlaneUnavailableError("this worker does not count with the others now", "stopped")
            kept, gone, tallies = await self._exchange(read=True)
        texts = {name: text for name, blob in tallies.items() if (text := _opened(blob)) is not None}
        dead = {name: text for name, text in texts.items() if name in gone}
        live = {name: text for name, text in texts.items() if name not in gone}
        self._whole = All(kept.text, dead, live, self._name)
        return self._whole

    async def leave(self) -> None:
        """Tell a last time, and that this was the last."""
        try:
            await self.tell()
            self._is_over = True
            await self._plane.call(("ZADD", self._keys[1], 0, self._name))
        except PlaneUnavailableError:
            logger.warning("what this worker counted last is not told to the others: Redis is away")
        finally:
            self._is_over = True

    async def _exchange(self, *, read: bool) -> tuple[_Kept, dict[str, bytes], dict[str, bytes]]:
        """Tell, and return what is kept, who is dead and when they were heard of, and their tallies or all."""
        while True:
            text = self.current()
            blob = _packed(text)
            same = self._told is not None and self._told[1] == blob
            arguments = [self._name, b"" if same else blob, "1" if read else "0", int(DEAD_SECONDS * 1000)]
            arguments.append(str(self._kept.revision))
            answer = await self._plane.script("tally.exchange", self._keys, arguments, timeout=CALL_SECONDS)
            if answer[0] == b"told":
                break
            self._told = None
            if answer[0] == b"taken":
                # This worker was thought dead: what others have of it is theirs.
                self._counts["thought_dead"] += 1
                taken = _opened(answer[1])
                if taken is not None:
                    self._note_taken(taken)
                self._part += 1
                self._name = f"{self._plane.worker}.{self._part}"
        self._told = (text, blob)
        revision, kept = int(answer[1]), answer[2]
        dead = {name.decode(): score for name, score in _pairs(answer[3])}
        tallies = {name.decode(): tally for name, tally in _pairs(answer[4])}
        if revision < self._kept.revision:
            # Redis has lost something: what is known here is put there, and whose it is counts no more by itself.
            await self._put(revision, self._kept, dict.fromkeys(self._kept.names, b""))
            tallies = {name: blob for name, blob in tallies.items() if name not in self._kept.names}
            self._counts["restored"] += 1
            return self._kept, {}, tallies
        if revision > self._kept.revision:
            self._kept = _Kept.read(revision, kept)
        found = self._kept
        if dead:
            await self._fold(dead, tallies)
        return found, dead, tallies

    async def _fold(self, dead: dict[str, bytes], tallies: dict[str, bytes]) -> None:
        texts = [text for name in dead if (text := _opened(tallies.get(name, b""))) is not None]
        former = [self._kept.text] if self._kept.text is not None else []
        whole = self._counting.added([*former, *map(self._counting.lasting, texts)])
        names = (*self._kept.names, *dead)[-MAX_NAMES:]
        new = _Kept(self._kept.revision + 1, whole, names)
        if await self._put(self._kept.revision, new, dead):
            self._kept = new
            self._counts["folded"] += len(dead)

    async def _put(self, revision: int, new: _Kept, folded: dict[str, bytes]) -> bool:
        heard = [each for pair in folded.items() for each in pair]
        arguments = [revision, new.revision, new.packed(), int(FOLDED_SECONDS * 1000), *heard]
        return bool(await self._plane.script("tally.fold", self._keys, arguments, timeout=CALL_SECONDS))


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _packed(text: str) -> bytes:
    return zlib.compress(text.encode(), 1)


def _opened(blob: bytes) -> str | None:
    if not blob:
        return None
    try:
        unpack = zlib.decompressobj()
        text = unpack.decompress(blob, MAX_BYTES)
        return text.decode() if unpack.eof else None
    except (zlib.error, UnicodeDecodeError):
        return None
