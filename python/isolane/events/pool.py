"""``ConnectionPool``: the sockets of one user, as a pool."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from isolane._core import EventCursor, close_connection, user_connections

NO_PONG = 4012
SLOW = 4008


@dataclass(frozen=True, slots=True)
class UserSocket:
    """One socket of a user, as it was when it was looked at.

    Attributes:
        connection_id: its name, as in the welcome.
        user_id: whose it is.
        framed: whether it speaks ``isolane.v1``; else it is sent bare messages or the records of an event stream.
        attached_seconds: for how long it is attached.
        read_seconds: how long ago something was last read for it.
        unread: events that wait to be read for it.
        asked_seconds: for how long it owes an answer to a ping; ``None`` when it owes none.
    """

    connection_id: str
    user_id: str
    framed: bool
    attached_seconds: float
    read_seconds: float
    unread: int
    asked_seconds: float | None

    def close(self, code: int = SLOW) -> bool:
        """Tell its writer to close it; the client comes back for a code below 4500. Returns whether it was there."""
        return close_connection(self.user_id, self.connection_id, code)


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """Counts of a user's sockets.

    Attributes:
        active: attached.
        available: of them, those that nobody has got from the pool.
        framed: of them, those that speak ``isolane.v1``.
        unanswered: of them, those that owe an answer to a ping.
        unread: events that wait, of the socket with the most.
        max_connections: most sockets of a user.
    """

    active: int
    available: int
    framed: int
    unanswered: int
    unread: int
    max_connections: int


class ConnectionPool:
    """The sockets of one user. Made by ``bridge.connection_pool(user_id)``.

    Every socket of a user is sent every event of the user, so nothing has to be taken from the pool to send: it is
    there to look at the sockets and to close them. A server cannot dial a browser: ``create_new_connection`` is for
    an application that has accepted a socket and writes to it itself.
    """

    def __init__(self, user_id: str, max_connections: int) -> None:
        self.user_id = user_id
        self.max_connections = max_connections
        self._lent: set[str] = set()

    def _look(self) -> list[UserSocket]:
        found = [UserSocket(user_id=self.user_id, **socket) for socket in user_connections(self.user_id)]
        self._lent &= {socket.connection_id for socket in found}
        return found

    @property
    def active_connections(self) -> list[UserSocket]:
        """The sockets that are attached and not about to be closed, the one attached first in front."""
        return self._look()

    @property
    def available_connections(self) -> list[UserSocket]:
        """Of these, those that ``get_connection`` has not handed out."""
        return [socket for socket in self._look() if socket.connection_id not in self._lent]

    @property
    def last_used(self) -> datetime | None:
        """When something was last read for any of the sockets, aware UTC; ``None`` without one."""
        ages = [socket.read_seconds for socket in self._look()]
        return datetime.now(UTC) - timedelta(seconds=min(ages)) if ages else None

    @property
    def stats(self) -> ConnectionStats:
        """Counts of the sockets."""
        sockets = self._look()
        return ConnectionStats(
            active=len(sockets),
            available=sum(socket.connection_id not in self._lent for socket in sockets),
            framed=sum(socket.framed for socket in sockets),
            unanswered=sum(socket.asked_seconds is not None for socket in sockets),
            unread=max((socket.unread for socket in sockets), default=0),
            max_connections=self.max_connections,
        )

    def get_connection(self) -> UserSocket:
        """Hand out the socket that was read last, and no other time until it is returned.

        Raises ``LookupError`` when the user has no socket, or all are handed out.
        """
        free = self.available_connections
        if not free:
            raise LookupError(
                "the user has no socket that is free: none is attached, or all were handed out; return them with "
                "return_connection, or publish and let the next socket read it"
            )
        socket = min(free, key=lambda socket: socket.read_seconds)
        self._lent.add(socket.connection_id)
        return socket

    def return_connection(self, connection: UserSocket) -> None:
        """Give a socket back. One that is gone meanwhile, or was not handed out, is nothing to return."""
        self._lent.discard(connection.connection_id)

    def create_new_connection(self, *, framed: bool = True) -> EventCursor:
        """Attach a socket that the application has accepted, and return the cursor to read for it.

        Beyond ``max_connections`` the one that was read longest ago is replaced. Raises ``InvalidContextError`` for a
        user id that is not allowed.
        """
        return EventCursor(self.user_id, framed=framed, max_connections=self.max_connections)

    def cleanup_idle_connections(self, idle_seconds: float = 60.0) -> int:
        """Close the sockets that are gone, and return how many these were. A socket with nothing to read is not idle.

        Those that have owed an answer to a ping for so long are closed with 4012, and those for which nothing was read
        for so long although events wait, with 4008. A client that is there after all comes back and resumes.
        """
        closed = 0
        for socket in self._look():
            if socket.asked_seconds is not None and socket.asked_seconds >= idle_seconds:
                closed += socket.close(NO_PONG)
            elif socket.unread and socket.read_seconds >= idle_seconds:
                closed += socket.close(SLOW)
        return closed

    def is_healthy(self, answer_seconds: float = 3.0) -> bool:
        """Return ``False`` when there are sockets and each of them has owed an answer to a ping for so long."""
        sockets = self._look()
        late = [one for one in sockets if one.asked_seconds is not None and one.asked_seconds >= answer_seconds]
        return not sockets or len(late) < len(sockets)

    def __repr__(self) -> str:
        return f"<ConnectionPool {self.stats}>"


def close_sockets(user_id: str, code: int = SLOW) -> int:
    """Have all sockets of a user closed; the clients come back for a code below 4500. Returns how many there were."""
    return sum(close_connection(user_id, socket["connection_id"], code) for socket in user_connections(user_id))
