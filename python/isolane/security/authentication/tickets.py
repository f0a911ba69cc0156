"""One-time tickets: what a browser shows instead of a token when it opens a socket."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from isolane import _core
from isolane.security.authentication.errors import InvalidTokenError, SignInLimitError
from isolane.security.authentication.principal import Principal
from isolane.security.authentication.records import note, note_refusal
from isolane.security.events import AuditSink, Severity

MAX_TICKET_SECONDS = 30.0
TICKET_BYTES = 32
PER_USER = 16
PER_PROCESS = 10_000
ROUNDING = 1e-6
"""Of a moment that was added to and taken from, in seconds."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket stands for.

    Attributes:
        principal: whose it is.
        origin: the page that asked for it; ``None`` for a client that is none.
        expires: until when it counts, by the clock of the store.
    """

    principal: Principal
    origin: str | None
    expires: float


class TicketStore(Protocol):
    """Keeps tickets until they are taken. It never sees a ticket itself: ``digest`` is its SHA-256."""

    async def put(self, digest: bytes, ticket: Ticket, seconds: float) -> None:
        """Keep a ticket for so long.

        Raises:
            SignInLimitError: there is no room.
        """

    async def take(self, digest: bytes) -> Ticket | None:
        """Return a ticket and forget it, in one step: of two who ask at the same moment one gets it."""

    async def was_taken(self, digest: bytes) -> bool:
        """Whether a ticket was taken a moment ago: somebody shows it again."""


class MemoryTicketStore:
    """Tickets of this process.

    Args:
        per_user: tickets of one user at once; one more takes the place of the oldest. Default: 16.
        per_process: tickets of all users at once. Default: 10 000.
    """

    def __init__(self, per_user: int = PER_USER, per_process: int = PER_PROCESS) -> None:
        if per_user < 1 or per_process < 1:
            raise ValueError("a store of tickets holds at least one")
        self._per_user = per_user
        self._per_process = per_process
        self._tickets: OrderedDict[bytes, Ticket] = OrderedDict()
        self._of_user: dict[str, deque[bytes]] = {}
        self._taken: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tickets)

    async def put(self, digest: bytes, ticket: Ticket, seconds: float) -> None:
        """Keep a ticket; ``seconds`` is what its ``expires`` says already. Raises ``SignInLimitError``."""
        del seconds
        with self._lock:
            self._drop_expired()
            own = self._of_user.setdefault(ticket.principal.user_id, deque())
            if len(own) >= self._per_user:
                self._forget(own[0])
                own = self._of_user.setdefault(ticket.principal.user_id, deque())
            if len(self._tickets) >= self._per_process:
                if not own:
                    del self._of_user[ticket.principal.user_id]
                raise SignInLimitError
            self._tickets[digest] = ticket
            own.append(digest)

    async def take(self, digest: bytes) -> Ticket | None:
        """Return a ticket that still counts, and forget it."""
        with self._lock:
            self._drop_expired()
            ticket = self._forget(digest)
            if ticket is not None and ticket.expires <= _core.monotonic():
                return None
            if ticket is not None:
                self._taken[digest] = ticket.expires
                while len(self._taken) > self._per_process:
                    self._taken.popitem(last=False)
            return ticket

    async def was_taken(self, digest: bytes) -> bool:
        """Whether it was taken, and would still count if it had not been."""
        with self._lock:
            return digest in self._taken

    def forget(self, digest: bytes) -> None:
        """Keep a ticket no longer: it was not taken, and somebody else has it now."""
        with self._lock:
            self._forget(digest)

    def _forget(self, digest: bytes) -> Ticket | None:
        ticket = self._tickets.pop(digest, None)
        if ticket is not None:
            own = self._of_user[ticket.principal.user_id]
            own.remove(digest)
            if not own:
                del self._of_user[ticket.principal.user_id]
        return ticket

    def _drop_expired(self) -> None:
        now = _core.monotonic()
        while self._tickets and next(iter(self._tickets.values())).expires <= now:
            self._forget(next(iter(self._tickets)))
        while self._taken and next(iter(self._taken.values())) <= now:
            self._taken.popitem(last=False)


class _SignedOut:
    """Who has signed out while tickets from before might still be shown."""

    def __init__(self) -> None:
        self._when: OrderedDict[tuple[str, str | None], float] = OrderedDict()
        self._all_before = float("-inf")
        """Of more sign-outs than are kept nobody's ticket from before counts."""

    def note(self, user_id: str, session_id: str | None) -> None:
        now = _core.monotonic()
        while self._when and next(iter(self._when.values())) < now - MAX_TICKET_SECONDS:
            self._when.popitem(last=False)
        self._when[user_id.strip(), session_id] = now
        self._when.move_to_end((user_id.strip(), session_id))
        if len(self._when) > PER_PROCESS:
            self._all_before = self._when.popitem(last=False)[1]

    def covers(self, principal: Principal, issued: float) -> bool:
        """Whether the user, or the session, has signed out since the ticket was issued."""
        user = principal.user_id.strip()
        keys = ((user, None), (user, principal.session_id))
        latest = max(self._all_before, *(self._when.get(key, float("-inf")) for key in keys))
        return issued <= latest + ROUNDING


class Tickets:
    """Gives out tickets and redeems them, each once.

    Args:
        seconds: how long a ticket counts, at most 30.
        store: keeps them. Default: this process.
        audit: is told who shows a ticket that does not count.

    Raises:
        ValueError: ``seconds`` is out of bounds.
    """

    def __init__(
        self, seconds: float = MAX_TICKET_SECONDS, *, store: TicketStore | None = None, audit: AuditSink | None = None
    ) -> None:
        if not 0 < seconds <= MAX_TICKET_SECONDS:
            raise ValueError(f"a ticket counts for 0 to {MAX_TICKET_SECONDS:.0f} seconds, not for {seconds}")
        self.seconds = seconds
        self._store: TicketStore = store if store is not None else MemoryTicketStore()
        self._audit = audit
        self._signed_out = _SignedOut()

    def end(self, user_id: str, session_id: str | None = None) -> None:
        """Let no ticket count that the user has been given so far, or of one session: the user signs out."""
        self._signed_out.note(user_id, session_id)
        # A store of several processes tells the others.
        end = getattr(self._store, "end", None)
        if callable(end):
            end(user_id, session_id)

    async def issue(self, principal: Principal, origin: str | None) -> str:
        """Return a new ticket of the user for a page of this origin: 256 random bits, in base64url.

        Raises:
            SignInLimitError: too many are given out.
        """
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        held = Ticket(principal, origin, _core.monotonic() + self.seconds)
        await self._store.put(_digest(ticket), held, self.seconds)
        note(self._audit, "authn_token_created", principal.user_id, method="ticket")
        return ticket

    async def redeem(
        self, ticket: str, origin: str | None, *, is_own: Callable[[str], bool] | None = None
    ) -> Principal:
        """Return whose ticket it is. It is used up by that, also when it does not count here.

        Args:
            ticket: the ticket.
            origin: of the page that shows it; ``None`` when the request names none.
            is_own: whether an origin is the service's own, for requests in which browsers leave that out. Default:
                a request without an origin is of no page.

        Raises:
            InvalidTokenError: it is unknown, used, over, or of another page, or its user has signed out since.
        """
        digest = _digest(ticket)
        held = await self._store.take(digest)
        refused = InvalidTokenError()
        if held is None:
            if await self._store.was_taken(digest):
                note_refusal(self._audit, "authn_token_reuse", severity=Severity.HIGH, error=refused, method="ticket")
            else:
                note_refusal(self._audit, "authn_login_fail", error=refused, method="ticket", reason="unknown_or_over")
            raise refused
        shown = origin
        if origin is None and held.origin is not None and is_own is not None and is_own(held.origin):
            shown = held.origin
        if held.origin != shown:
            note_refusal(
                self._audit,
                "authn_login_fail",
                held.principal.user_id,
                error=refused,
                method="ticket",
                reason="ticket_of_another_origin",
            )
            raise refused
        if self._signed_out.covers(held.principal, held.expires - self.seconds):
            note_refusal(
                self._audit,
                "authn_login_fail",
                held.principal.user_id,
                error=refused,
                method="ticket",
                reason="signed_out",
            )
            raise refused
        return held.principal


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
