"""Tickets for sockets that any worker redeems, and all of them together once."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any

from isolane import _core
from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.seal import Seals
from isolane.security.authentication.errors import SignInLimitError
from isolane.security.authentication.principal import Principal
from isolane.security.authentication.tickets import (
    MAX_TICKET_SECONDS,
    PER_PROCESS,
    PER_USER,
    MemoryTicketStore,
    Ticket,
)

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane

logger = logging.getLogger("isolane.cluster")

PER_CLUSTER = 10 * PER_PROCESS
RETRY_SECONDS = 1.0
OVER = float("-inf")
"""Of a ticket whose user has signed out since."""

PUT = """
-- KEYS: 1 the ticket  2 mark that it was taken  3 all, by when they are over  4 the user's, by when they came
-- ARGV: 1 digest  2 sealed  3 user  4 session  5 ms left  6 ms since it was issued  7 most of a user  8 most of all
--       9 what names of tickets begin with
if redis.call('EXISTS', KEYS[2]) == 1 then return 'taken' end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local left = tonumber(ARGV[5])
local came = t[1] * 1000000 + t[2]
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', came - 60000000)
if not redis.call('ZSCORE', KEYS[4], ARGV[1]) then
  local over = redis.call('ZCARD', KEYS[4]) + 1 - tonumber(ARGV[7])
  if over > 0 then
    for _, oldest in ipairs(redis.call('ZRANGE', KEYS[4], 0, over - 1)) do
      redis.call('DEL', ARGV[9] .. oldest)
      redis.call('ZREM', KEYS[3], oldest)
      redis.call('ZREM', KEYS[4], oldest)
    end
  end
  if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[8]) then return 'full' end
end
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'u', ARGV[3], 's', ARGV[4], 'at', now - tonumber(ARGV[6]))
redis.call('PEXPIRE', KEYS[1], left)
redis.call('ZADD', KEYS[3], now + left, ARGV[1])
redis.call('ZADD', KEYS[4], came, ARGV[1])
redis.call('PEXPIRE', KEYS[3], 60000)
redis.call('PEXPIRE', KEYS[4], 60000)
return 'put'
"""

TAKE = """
-- KEYS: 1 the ticket  2 mark that it was taken  3 all, by when they are over  4 who has signed out, and when
-- ARGV: 1 digest  2 whether whoever asks holds it itself  3 ms that the mark stays  4 what names of users begin with
local held = redis.call('HMGET', KEYS[1], 'v', 'u', 's', 'at')
if not held[1] then
  if redis.call('EXISTS', KEYS[2]) == 1 then return {'taken'} end
  if ARGV[2] == '1' then redis.call('SET', KEYS[2], '1', 'PX', ARGV[3]) end
  return {'none'}
end
local left = redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', ARGV[4] .. held[2], ARGV[1])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[3])
for _, who in ipairs({held[2], held[2] .. '|' .. held[3]}) do
  local out = redis.call('ZSCORE', KEYS[4], who)
  if out and tonumber(held[4]) <= tonumber(out) then return {'out', held[1], left} end
end
return {'held', held[1], left}
"""

END = """
-- KEYS: 1 who has signed out, and when
-- ARGV: 1 who  2 ms ago  3 ms that it matters
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[3]))
local at = math.max(now - tonumber(ARGV[2]), tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0))
redis.call('ZADD', KEYS[1], at, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""


class PlaneTicketStore:
    """Tickets on the plane: whoever redeems one first, on whichever worker, has used it up.

    While Redis is away a worker keeps its tickets itself, and only it redeems them; they are put there when Redis is
    back. A ticket of which is not known whether it got there counts once Redis can be asked. A ticket that lies there
    counts nowhere meanwhile: no worker could know that no other one has redeemed it.

    What lies there is sealed with the key of the workers, for this ticket alone. A principal whose claims JSON cannot
    tell stays with its worker.

    Args:
        plane: what the workers share.
        per_user: tickets of one user at once; one more takes the place of the oldest. Default: 16.
        total: tickets of all users at once. Default: 100 000.
    """

    def __init__(self, plane: Plane, per_user: int = PER_USER, total: int = PER_CLUSTER) -> None:
        if per_user < 1 or total < 1:
            raise ValueError("a store of tickets holds at least one")
        self._plane = plane
        self._per_user = per_user
        self._total = total
        self._own = MemoryTicketStore(per_user, PER_PROCESS)
        self._kept: collections.OrderedDict[bytes, tuple[Ticket, float, bool]] = collections.OrderedDict()
        """What lies here, for how long it was issued, and whether it may lie there as well."""
        self._reused: collections.OrderedDict[bytes, None] = collections.OrderedDict()
        self._ends: collections.deque[tuple[str, str | None, float]] = collections.deque(maxlen=PER_PROCESS)
        """Who has signed out, and Redis was not told yet."""
        self._counts = collections.Counter[str]()
        plane.add_scripts({"tickets.put": PUT, "tickets.take": TAKE, "tickets.end": END})
        self._ticker = plane.every(RETRY_SECONDS, self._catch_up, "tickets")
        plane.on_state(lambda state: self._ticker.wake() if state == "up" else None)

    # As a part of the plane.

    async def start(self, plane: Plane) -> None:
        """Begin: there is nothing to do before somebody asks."""

    async def stop(self) -> None:
        """End: what lies here is of no use to others."""

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        return {"kept_here": len(self._kept), "signed_out_untold": len(self._ends), **self._counts}

    # As a store of tickets.

    async def put(self, digest: bytes, ticket: Ticket, seconds: float) -> None:
        """Keep a ticket for so long. Raises ``SignInLimitError``."""
        left = min(seconds, ticket.expires - _core.monotonic())
        shared = False
        if self._plane.state == "up":
            try:
                await self._share(digest, ticket, seconds)
            except PlaneUnavailableError as error:
                shared = error.sent
            except (TypeError, ValueError):
                # Claims that JSON does not have.
                self._counts["not_shared"] += 1
            else:
                return
        await self._own.put(digest, ticket, left)
        self._kept[digest] = (ticket, seconds, shared)
        self._counts["put_here"] += 1
        while len(self._kept) > PER_PROCESS:
            self._kept.popitem(last=False)

    async def _share(self, digest: bytes, ticket: Ticket, seconds: float) -> None:
        plane, name = self._plane, digest.hex()
        left = ticket.expires - _core.monotonic()
        if left <= 0:
            return
        user = plane.user_key(ticket.principal.user_id)
        value = Seals(plane.secret, values=True).wrap(f"ticket {name}", _plain(ticket))
        answer = await plane.script(
            "tickets.put",
            [self._ticket(name), self._mark(name), self._key("all"), self._of(user)],
            [
                name,
                value,
                user,
                _session(ticket.principal.session_id),
                max(1, int(left * 1000)),
                max(0, int((seconds - left) * 1000)),
                self._per_user,
                self._total,
                self._ticket(""),
            ],
        )
        if answer == b"full":
            raise SignInLimitError

    async def take(self, digest: bytes) -> Ticket | None:
        """Return a ticket that still counts, and forget it everywhere."""
        name = digest.hex()
        held, _, shared = self._kept.get(digest, (None, 0.0, False))
        keys = [self._ticket(name), self._mark(name), self._key("all"), self._key("out")]
        arguments = [name, "1" if held is not None else "0", int(MAX_TICKET_SECONDS * 1000), self._of("")]
        try:
            answer = await self._plane.script("tickets.take", keys, arguments)
        except PlaneUnavailableError:
            self._counts["asked_in_vain"] += 1
            if held is None or shared:
                # Nobody knows whether another worker has redeemed it.
                return None
            return await self._take_here(digest)
        kind = answer[0]
        if kind == b"none":
            return None if held is None else await self._take_here(digest)
        self._kept.pop(digest, None)
        self._own.forget(digest)
        if kind == b"taken":
            self._reused[digest] = None
            while len(self._reused) > PER_PROCESS:
                self._reused.popitem(last=False)
            return None
        _, sealed, left = answer
        try:
            value = Seals(self._plane.secret, values=True).unwrap(f"ticket {name}", sealed)
        except (PlaneUnavailableError, ValueError) as error:
            logger.error("a ticket of another worker does not count: %s", error)  # noqa: TRY400 - it has no use
            return None
        expires = OVER if kind == b"out" else _core.monotonic() + max(0, left) / 1000
        return Ticket(Principal(**value["principal"]), value["origin"], expires)

    async def _take_here(self, digest: bytes) -> Ticket | None:
        self._kept.pop(digest, None)
        return await self._own.take(digest)

    async def was_taken(self, digest: bytes) -> bool:
        """Whether a ticket was taken a moment ago, here or elsewhere."""
        return digest in self._reused or await self._own.was_taken(digest)

    def end(self, user_id: str, session_id: str | None = None) -> None:
        """Let no worker take a ticket that the user has been given so far, or of one session."""
        self._ends.append((user_id, session_id, _core.monotonic()))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            # From a thread: the ticker comes by.
            return
        self._ticker.wake()

    def end_here(self, user_id: str, session_id: str | None = None) -> None:
        """Forget what lies here: another worker says that the user has signed out."""
        for digest, (ticket, *_) in list(self._kept.items()):
            who = ticket.principal
            if who.user_id.strip() == user_id.strip() and session_id in {None, who.session_id}:
                self._own.forget(digest)
                del self._kept[digest]

    async def _catch_up(self) -> None:
        """Tell Redis what it was not told while it was away."""
        plane = self._plane
        while self._ends:
            user_id, session_id, at = self._ends[0]
            ago = _core.monotonic() - at
            if ago < MAX_TICKET_SECONDS:
                who = plane.user_key(user_id) + ("" if session_id is None else f"|{_session(session_id)}")
                keep = int(MAX_TICKET_SECONDS * 1000) + 1000
                await plane.script("tickets.end", [self._key("out")], [who, int(ago * 1000), keep])
            self._ends.popleft()
        if plane.state != "up":
            return
        for digest, (ticket, seconds, _) in list(self._kept.items()):
            if ticket.expires <= _core.monotonic():
                self._kept.pop(digest, None)
                continue
            # From here on it may lie there.
            self._kept[digest] = (ticket, seconds, True)
            try:
                await self._share(digest, ticket, seconds)
            except (SignInLimitError, TypeError, ValueError):
                self._kept[digest] = (ticket, seconds, False)
                continue
            # What is asked for while it was on its way was taken, and marked.
            self._kept.pop(digest, None)
            self._counts["shared_later"] += 1
            self._own.forget(digest)

    # Names.

    def _key(self, *names: str) -> str:
        return self._plane.key("tickets", *names)

    def _ticket(self, name: str) -> str:
        return self._key("t", name)

    def _mark(self, name: str) -> str:
        return self._key("taken", name)

    def _of(self, user: str) -> str:
        return self._key("u", user)


def _session(session_id: str | None) -> str:
    """What a session is called there: whoever has its id may have the session."""
    return "" if session_id is None else hashlib.sha256(session_id.encode()).hexdigest()[:32]


def _plain(ticket: Ticket) -> dict[str, Any]:
    """A ticket as JSON has it. Raises ``TypeError`` or ``ValueError`` for what would not be the same afterwards."""
    who = ticket.principal
    if type(who) is not Principal:
        raise TypeError("a principal of another class would be another one on the way")
    claims = dict(who.claims)
    if json.loads(json.dumps(claims, allow_nan=False)) != claims:
        raise ValueError("the claims are others in JSON")
    principal = {
        "user_id": who.user_id,
        "claims": claims,
        "roles": sorted(who.roles),
        "permissions": sorted(who.permissions),
        "amr": sorted(who.amr),
        "expires_at": who.expires_at,
        "session_id": who.session_id,
    }
    return {"principal": principal, "origin": ticket.origin}
