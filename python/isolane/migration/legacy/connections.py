"""The sockets that older code adds by itself: each is sent its user's events, from the logs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from isolane._core import BudgetExceeded, UnifiedIDManager
from isolane.compat.protocols import PooledSocket
from isolane.compat.websocket_records import ConnectionStatus, WebSocketFactoryConfig

if TYPE_CHECKING:
    from isolane.compat.pool_delivery import SocketLink
    from isolane.fastapi.settings import IsolaneSettings

MAX_CONNECTIONS = 10_000
"""Sockets of all users; further ones are refused."""

IDENTITY_KEYS = frozenset({"user_id", "connection_id", "run_id", "request_id", "websocket", "principal"})
"""What metadata cannot say."""


@dataclass(eq=False)
class LegacyConnection:
    """One socket, and whose it is. Neither can be changed.

    Attributes:
        connection_id: its name.
        user_id: whose events it is sent.
        websocket: the application's own, accepted.
        metadata: what the application notes of it; a copy.
        connected_at: when it was added, aware UTC.
        events_sent: how many messages it was sent.
    """

    connection_id: str
    user_id: str
    websocket: PooledSocket
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    connected_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    events_sent: int = 0
    thread_id: str | None = None
    link: SocketLink | None = field(default=None, repr=False)
    loop: asyncio.AbstractEventLoop | None = field(default=None, repr=False)
    _owner: LegacyConnections | None = field(default=None, repr=False)

    _FIXED = frozenset({"connection_id", "user_id", "websocket"})

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse another identity."""
        if name in self._FIXED and name in self.__dict__:
            raise AttributeError(f"the {name} of a connection is what it was added with; add another connection")
        super().__setattr__(name, value)

    def delivered(self, run_id: str, number: int, event_id: str, retries: int) -> None:
        """A message was written to the socket."""
        del run_id, number, event_id, retries
        self.events_sent += 1

    def status_changed(self, link: SocketLink) -> None:
        """The socket takes no more: it is forgotten, and the log keeps what it was not sent."""
        if link.status is ConnectionStatus.FAILED and self._owner is not None:
            self._owner.forget(self)

    @property
    def is_active(self) -> bool:
        """Whether it is being sent events."""
        return self.link is not None and self.link.is_running


class _NoPool:
    """A socket that is lost is not found again: its client comes back with a new one."""

    async def get_connection(self, connection_id: str, user_id: str) -> None:
        del connection_id, user_id


class LegacyConnections:
    """The sockets, by name, user and conversation. Its lock is short, and never held while something is awaited."""

    def __init__(self, settings: IsolaneSettings | None = None, limit: int = MAX_CONNECTIONS) -> None:
        self.limit = limit
        self._settings = settings
        self._config = WebSocketFactoryConfig(max_reconnect_attempts=0)
        self._lock = threading.Lock()
        self._by_id: dict[str, LegacyConnection] = {}
        self._of_user: dict[str, dict[str, LegacyConnection]] = {}

    # -- looking ---------------------------------------------------------------------------------------------------

    def get(self, connection_id: object) -> LegacyConnection | None:
        """Return a connection by its name."""
        return self._by_id.get(connection_id) if isinstance(connection_id, str) else None

    def of_user(self, user_id: str) -> list[LegacyConnection]:
        """Return the connections of a user, the one added first in front."""
        with self._lock:
            return list(self._of_user.get(user_id, {}).values())

    def users(self) -> list[str]:
        """Return who has a connection."""
        with self._lock:
            return list(self._of_user)

    def of_thread(self, thread_id: str) -> set[str]:
        """Return whose connections belong to a conversation. Two users may call theirs alike."""
        with self._lock:
            return {one.user_id for one in self._by_id.values() if one.thread_id == thread_id}

    def __len__(self) -> int:
        return len(self._by_id)

    # -- adding and removing ---------------------------------------------------------------------------------------

    def add(
        self,
        user_id: str,
        websocket: PooledSocket,
        metadata: Mapping[str, Any] | None = None,
        thread_id: str | None = None,
        connection_id: str | None = None,
    ) -> LegacyConnection:
        """Note a socket. Adding it again gives what there is.

        Raises:
            ValueError: the metadata has keys of the identity, or the name is taken.
            BudgetExceeded: there are too many.
        """
        check_metadata(metadata)
        with self._lock:
            for held in self._of_user.get(user_id, {}).values():
                if held.websocket is websocket:
                    return held
            if len(self._by_id) >= self.limit:
                raise BudgetExceeded(
                    f"there are {self.limit} sockets; remove those that are closed", self.limit, "process"
                )
            name = connection_id if connection_id is not None else f"conn_{UnifiedIDManager.generate_request_id()[4:]}"
            if name in self._by_id:
                raise ValueError("a connection of this name is there already; leave connection_id out for a fresh one")
            made = LegacyConnection(
                name, user_id, websocket, MappingProxyType(dict(metadata or {})), thread_id=thread_id, _owner=self
            )
            self._by_id[name] = made
            self._of_user.setdefault(user_id, {})[name] = made
        return made

    def begin(self, connection: LegacyConnection) -> None:
        """Begin to deliver. The socket is sent the user's live runs and those of the last minute.

        Raises ``ContextIsolationError`` for a socket that carries another user's events; then it is not kept.
        """
        from isolane.compat.pool_delivery import SocketLink  # noqa: PLC0415 - needs the extra `fastapi`
        from isolane.fastapi.settings import IsolaneSettings  # noqa: PLC0415

        if connection.link is not None or self.get(connection.connection_id) is not connection:
            # It was begun, or removed while somebody was asked whose it is.
            return
        settings = self._settings if self._settings is not None else IsolaneSettings()
        link = SocketLink(connection.user_id, connection.connection_id, _NoPool(), self._config, settings)
        link.listen(connection, lambda: _stop(link))
        connection.link, connection.loop = link, asyncio.get_running_loop()
        try:
            link.begin(connection.websocket)
        except BaseException:
            self.remove(connection)
            raise

    def forget(self, connection: LegacyConnection) -> bool:
        """Have it no more. Returns whether it was there."""
        with self._lock:
            if self._by_id.get(connection.connection_id) is not connection:
                return False
            del self._by_id[connection.connection_id]
            own = self._of_user[connection.user_id]
            del own[connection.connection_id]
            if not own:
                del self._of_user[connection.user_id]
        return True

    def remove(self, connection: LegacyConnection) -> bool:
        """Stop delivering at once, and have it no more. The socket stays open. Returns whether it was there."""
        was_there = self.forget(connection)
        link, loop = connection.link, connection.loop
        if link is None or loop is None:
            return was_there
        if _running() is loop:
            link.stop()
        else:
            # A loop that has ended has nothing left to stop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(link.stop)
        return was_there

    def remove_all(self) -> int:
        """Remove all. Returns how many there were."""
        return sum(self.remove(connection) for connection in list(self._by_id.values()))


def check_metadata(metadata: Mapping[str, Any] | None) -> None:
    """Raise ``ValueError`` for metadata that sets an identity."""
    wrong = sorted(IDENTITY_KEYS & {str(key).strip().lower() for key in metadata or ()})
    if wrong:
        raise ValueError(
            f"metadata of a connection cannot say {', '.join(wrong)}: whose a connection is, is the argument "
            "user_id, which is compared with who signed in; leave these keys out"
        )


def _stop(link: SocketLink) -> None:
    link.stop()


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
