"""Sessions: who signed in, for how long, and with what."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from isolane import _core
from isolane.security.authentication.errors import InvalidTokenError, SignInLimitError, TokenExpiredError
from isolane.security.authentication.principal import Principal
from isolane.security.authentication.records import note, note_refusal
from isolane.security.events import AuditSink, Severity

logger = logging.getLogger("isolane.security")

TOKEN_BYTES = 32
ID_BYTES = 16
ABSOLUTE_SECONDS = 12 * 60 * 60.0
IDLE_SECONDS = 30 * 60.0
PER_USER = 5
PER_PROCESS = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """A session that counts.

    Attributes:
        id: its name, for lists and ``logout``; it lets nobody in.
        principal: the user, with ``session_id`` and ``expires_at`` of the session.
        created_at: when the user signed in, in seconds since 1970.
        expires_at: when it is over whatever the user does, in seconds since 1970.
    """

    id: str
    principal: Principal
    created_at: float
    expires_at: float


@dataclass(slots=True)
class _Held:
    session: Session
    digest: bytes
    last_seen: float
    ends: float
    former: bytes | None = field(default=None)


class SessionRegistry:
    """The sessions of this process. Tokens are 256 random bits; only their SHA-256 is kept.

    Args:
        absolute_seconds: how long a session lasts at most. Default: 12 hours.
        idle_seconds: how long it lasts without being used. Default: 30 minutes.
        max_per_user: sessions of one user; one more ends the one that was used longest ago. Default: 5.
        max_sessions: sessions of all users. Default: 10 000.
        audit: is told of sessions that begin and end, and of tokens that are of none.

    Raises:
        ValueError: an argument is not above 0.
    """

    def __init__(
        self,
        *,
        absolute_seconds: float = ABSOLUTE_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        max_per_user: int = PER_USER,
        max_sessions: int = PER_PROCESS,
        audit: AuditSink | None = None,
    ) -> None:
        if min(absolute_seconds, idle_seconds, max_per_user, max_sessions) <= 0:
            raise ValueError("lifetimes and bounds of sessions are above 0")
        self._absolute = absolute_seconds
        self._idle = idle_seconds
        self._max_per_user = max_per_user
        self._max = max_sessions
        self._audit = audit
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._ids: dict[bytes, str] = {}
        self._of_user: dict[str, list[str]] = {}
        self._former: dict[bytes, str] = {}
        self._listeners: list[Callable[[Session], None]] = []
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._held)

    def add_listener(self, listener: Callable[[Session], None]) -> None:
        """Have ``listener`` called with each session that ends, whatever ends it, on the thread that ends it."""
        self._listeners.append(listener)

    def create(self, principal: Principal) -> tuple[str, Session]:
        """Begin a session of the user. Returns its token, which is shown here alone, and the session.

        Raises:
            SignInLimitError: the process has as many as it may.
            AuditUnavailableError: it cannot be recorded, and must be.
        """
        token = secrets.token_urlsafe(TOKEN_BYTES)
        now, unix = _core.monotonic(), _core.unix_time()
        limit = unix + self._absolute
        expires = limit if principal.expires_at is None else min(limit, principal.expires_at)
        name = secrets.token_urlsafe(ID_BYTES)
        owner = replace(principal, session_id=name, expires_at=expires)
        session = Session(name, owner, unix, expires)
        ended = []
        with self._lock:
            own = self._of_user.get(principal.user_id, [])
            if len(own) >= self._max_per_user or len(self._held) >= self._max:
                ended = self._expire(now)
                own = self._of_user.get(principal.user_id, [])
            has_room = len(self._held) < self._max or len(own) >= self._max_per_user
            if has_room:
                note(self._audit, "session_created", principal.user_id)
                if len(own) >= self._max_per_user:
                    oldest = min(own, key=lambda held: self._held[held].last_seen)
                    ended.append((self._remove(oldest), "replaced"))
                self._held[name] = _Held(session, _digest(token), now, now + max(0.0, expires - unix))
                self._ids[_digest(token)] = name
                self._of_user.setdefault(principal.user_id, []).append(name)
        self._tell(ended)
        if not has_room:
            raise SignInLimitError
        return token, session

    def touch(self, token: str) -> Session:
        """Return the session of a token. Using it keeps it from becoming idle.

        Raises:
            TokenExpiredError: it is over, or was not used for too long.
            InvalidTokenError: there is none.
        """
        now = _core.monotonic()
        with self._lock:
            name = self._ids.get(_digest(token))
            held = self._held.get(name) if name is not None else None
            live = held is not None and self._is_live(held, now)
            if held is not None and live:
                held.last_seen = now
                return held.session
            # Not all that are over: whoever sends nonsense must not have every session looked at.
            ended = [(self._remove(held.session.id), "expired")] if held is not None else []
            reused = self._former.get(_digest(token))
        self._tell(ended)
        if held is not None:
            over = TokenExpiredError()
            # The end of the session is in the log.
            over.is_recorded = self._audit is not None
            raise over
        refused = InvalidTokenError()
        if reused is not None:
            # Somebody kept a token from before a rotation.
            note_refusal(self._audit, "authn_token_reuse", severity=Severity.HIGH, error=refused, method="session")
        else:
            note_refusal(self._audit, "authn_login_fail", error=refused, method="session", reason="unknown_or_over")
        raise refused

    def rotate(self, token: str) -> str:
        """Return a new token of the session, such as after the user has gained rights; the former one ends.

        Raises:
            TokenExpiredError: the session is over.
            InvalidTokenError: there is none.
        """
        fresh = secrets.token_urlsafe(TOKEN_BYTES)
        session = self.touch(token)
        with self._lock:
            held = self._held.get(session.id)
            if held is None or held.digest != _digest(token):
                # Somebody ended or rotated it meanwhile.
                raise InvalidTokenError
            if held.former is not None:
                del self._former[held.former]
            held.former = held.digest
            self._former[held.digest] = session.id
            del self._ids[held.digest]
            held.digest = _digest(fresh)
            self._ids[held.digest] = session.id
        return fresh

    def logout(self, token: str) -> bool:
        """End the session of a token. Returns whether there was one."""
        with self._lock:
            name = self._ids.get(_digest(token))
        return name is not None and self.end(name)

    def end(self, session_id: str) -> bool:
        """End a session by its name. Returns whether there was one."""
        with self._lock:
            ended = [(self._remove(session_id), "logout")] if session_id in self._held else []
        self._tell(ended)
        return bool(ended)

    def logout_user(self, user_id: str) -> int:
        """End all sessions of a user. Returns how many there were."""
        with self._lock:
            ended = [(self._remove(name), "logout") for name in list(self._of_user.get(user_id, ()))]
        self._tell(ended)
        return len(ended)

    def sweep(self) -> int:
        """End the sessions that are over. Returns how many. An application with isolane does it every 15 s."""
        with self._lock:
            ended = self._expire(_core.monotonic())
        self._tell(ended)
        return len(ended)

    def is_live(self, session_id: str) -> bool:
        """Whether a session counts now."""
        with self._lock:
            held = self._held.get(session_id)
            return held is not None and self._is_live(held, _core.monotonic())

    def of_user(self, user_id: str) -> list[Session]:
        """Return the sessions of a user, the oldest first."""
        with self._lock:
            return [self._held[name].session for name in self._of_user.get(user_id, ())]

    def _is_live(self, held: _Held, now: float) -> bool:
        return now < held.ends and now < held.last_seen + self._idle

    def _expire(self, now: float) -> list[tuple[Session, str]]:
        over = [name for name, held in self._held.items() if not self._is_live(held, now)]
        return [(self._remove(name), "expired") for name in over]

    def _remove(self, name: str) -> Session:
        held = self._held.pop(name)
        self._ids.pop(held.digest, None)
        if held.former is not None:
            self._former.pop(held.former, None)
        own = self._of_user[held.session.principal.user_id]
        own.remove(name)
        if not own:
            del self._of_user[held.session.principal.user_id]
        return held.session

    def _tell(self, ended: list[tuple[Session, str]]) -> None:
        """Outside of the lock: listeners close sockets."""
        for session, why in ended:
            note_refusal(self._audit, "session_expired", session.principal.user_id, severity=Severity.INFO, reason=why)
            for listener in self._listeners:
                try:
                    listener(session)
                except Exception:
                    logger.exception("a listener of ended sessions failed")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
