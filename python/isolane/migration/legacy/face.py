"""``LegacyManagers``: the methods of the older WebSocket managers, in all their spellings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

from isolane.compat.protocols import PooledSocket
from isolane.migration.deprecation import deprecated
from isolane.migration.legacy.connections import LegacyConnection
from isolane.migration.legacy.hub import LegacyHub, known_user_of_socket
from isolane.migration.legacy.identity import Bound, bound_here, bound_now
from isolane.migration.legacy.outcome import SendOutcome


class ConnectionId(str):
    """The name of a connection. Awaiting it waits until the socket is being delivered to, and gives the name.

    Raises, when it is awaited, what refused the socket; then it is not kept.
    """

    __slots__ = ("begun",)
    begun: asyncio.Task[LegacyConnection] | None

    def __await__(self) -> Generator[Any, None, str]:
        if self.begun is not None:
            # Whoever waits may be cancelled; the socket is there all the same.
            yield from asyncio.shield(self.begun).__await__()
        return str(self)


class Answer:
    """A yes or no: at once, and when it is awaited."""

    __slots__ = ("_yes",)

    def __init__(self, yes: bool) -> None:
        self._yes = yes

    def __bool__(self) -> bool:
        return self._yes

    def __await__(self) -> Generator[Any, None, bool]:
        yield from ()
        return self._yes

    def __repr__(self) -> str:
        return f"Answer({self._yes})"


class LegacyManagers:
    """What the WebSocket managers of older services can do, each call checked and delivered by a hub.

    Who calls is known from the agent that runs, from ``bind_context``, or from who signed in on the connection. A call
    for another user raises ``CrossUserSendError`` and is recorded. A message is in its user's log when the call
    returns; every socket of the user is sent it, in order.
    """

    def __init__(self, hub: Callable[[], LegacyHub], captured: str | None = None) -> None:
        self._find_hub = hub
        self._captured = captured

    @property
    def hub(self) -> LegacyHub:
        """What checks and delivers."""
        return self._find_hub()

    # -- sending ---------------------------------------------------------------------------------------------------

    @deprecated("ISO-D005", symbol="send_to_user")
    async def send_to_user(self, user_id: str, message: Any) -> SendOutcome:
        """Send a message to a user: for whom the code runs, or who has a socket here where it runs for nobody.

        Raises ``CrossUserSendError`` for others, and ``InvalidEvent`` for a message without a type or with a payload
        that is not JSON-able.
        """
        return await self.hub.send(user_id, message, self._captured, "send_to_user")

    @deprecated("ISO-D005", symbol="send_to_connection")
    async def send_to_connection(self, connection_id: str, message: Any) -> SendOutcome:
        """Send a message to the user of a connection: all sockets of the user are sent it.

        Returns ``DROPPED`` for a connection that is not there. Raises as ``send_to_user`` does.
        """
        hub = self.hub
        bound = await hub.who(self._captured)
        connection = hub.find_connection(connection_id, bound, "send_to_connection")
        if connection is None:
            return SendOutcome.DROPPED
        read = hub.read(message, connection.user_id, bound, "send_to_connection")
        return hub.deliver(connection.user_id, read, bound, "send_to_connection")

    @deprecated("ISO-D005", symbol="send_to_thread")
    async def send_to_thread(self, thread_id: str, message: Any) -> SendOutcome:
        """Send a message to the user of a conversation: the bound one, or the one whose sockets name it.

        Returns ``DROPPED`` where nobody's do. Raises as ``send_to_user`` does: for a conversation that other users have
        and the bound one has not, and, where nobody is bound, for one that several have.
        """
        hub = self.hub
        bound = await bound_here()
        target = hub.user_of_thread(thread_id, bound, self._captured, "send_to_thread")
        if target is None:
            return SendOutcome.DROPPED
        read = hub.read(message, target, bound, "send_to_thread")
        return hub.deliver(target, read, bound, "send_to_thread")

    @deprecated("ISO-D005", symbol="emit_critical_event")
    async def emit_critical_event(self, user_id: str, event_type: str, data: Any) -> SendOutcome:
        """Send an event of a type with its data. As ``send_to_user``."""
        message = {"type": event_type, "payload": data if data is not None else {}}
        if isinstance(data, Mapping):
            message.update({key: data[key] for key in ("run_id", "thread_id", "agent_name", "user_id") if key in data})
        return await self.hub.send(user_id, message, self._captured, "emit_critical_event")

    # -- broadcasts ------------------------------------------------------------------------------------------------

    @deprecated("ISO-D006", symbol="broadcast_message")
    async def broadcast_message(
        self, message: Any, user_id: str | None = None, room_id: str | None = None
    ) -> SendOutcome | int:
        """Do what ``ISOLANE_LEGACY_BROADCAST`` says; with ``user_id`` as ``send_to_user``.

        Returns how many users have it in their logs. Raises ``BroadcastDeniedError`` where the policy denies it or
        nobody is bound. A ``room_id`` is no way to reach others: who is in a room is the application's to say, user by
        user.
        """
        if user_id is not None:
            return await self.hub.send(user_id, message, self._captured, "broadcast_message")
        del room_id
        return await self.hub.send_to_all(message, "broadcast_message")

    @deprecated("ISO-D006", symbol="broadcast_to_all")
    async def broadcast_to_all(self, message: Any, exclude_users: Iterable[str] | None = None) -> int:
        """As ``broadcast_message``, but for some users."""
        return await self.hub.send_to_all(message, "broadcast_to_all", exclude_users or ())

    @deprecated("ISO-D006", symbol="broadcast")
    async def broadcast(self, message: Any) -> int:
        """As ``broadcast_message``."""
        return await self.hub.send_to_all(message, "broadcast")

    # -- sockets ---------------------------------------------------------------------------------------------------

    @deprecated("ISO-D007", symbol="add_connection")
    def add_connection(
        self, user_id: Any, websocket: PooledSocket | None = None, metadata: Mapping[str, Any] | None = None
    ) -> ConnectionId:
        """Send a user's events to an accepted socket as well. Also ``add_connection(record)``, a record of the host's.

        The name comes back at once. Await it to wait until delivery has begun, or to be told that it was refused: when
        somebody else signed in on the socket, it is not kept, and a refusal that nobody awaits is logged.

        Raises ``CrossUserSendError``, ``ValueError`` for metadata that sets an identity, ``RuntimeError`` without a
        running event loop.
        """
        named: str | None = None
        if websocket is None:
            record, user_id = user_id, getattr(user_id, "user_id", user_id)
            websocket, named = getattr(record, "websocket", None), getattr(record, "connection_id", None)
            metadata = metadata if metadata is not None else getattr(record, "metadata", None)
        if websocket is None:
            raise TypeError("add_connection takes (user_id, websocket), or one record with both")
        hub = self.hub
        connection = hub.register(
            user_id, websocket, self._bound(), metadata=metadata, connection_id=named, call="add_connection"
        )
        made = ConnectionId(connection.connection_id)
        is_known, signed_in = known_user_of_socket(websocket)
        try:
            loop = asyncio.get_running_loop()
            if is_known:
                hub.begin_for(connection, signed_in, "add_connection")
                made.begun = None
            else:
                made.begun = loop.create_task(
                    hub.begin(connection, call="add_connection"), name="isolane legacy socket"
                )
                made.begun.add_done_callback(_note_refusal)
        except BaseException:
            # One that was begun earlier goes on: it is the second call that failed.
            if connection.link is None:
                hub.connections.remove(connection)
            raise
        return made

    @deprecated("ISO-D007", symbol="connect_user")
    async def connect_user(
        self,
        user_id: str,
        websocket: PooledSocket,
        thread_id: str | None = None,
        client_ip: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        connection_id: str | None = None,
    ) -> str:
        """Send a user's events to an accepted socket as well. Returns the connection's name.

        Raises as ``add_connection`` does.
        """
        hub = self.hub
        noted = dict(metadata or {})
        if client_ip is not None:
            noted["client_ip"] = client_ip
        bound = await hub.who(self._captured)
        connection = hub.register(
            user_id,
            websocket,
            bound,
            metadata=noted,
            thread_id=thread_id,
            connection_id=connection_id,
            call="connect_user",
        )
        await hub.begin(connection, call="connect_user")
        return connection.connection_id

    def remove_connection(self, connection: Any, websocket: PooledSocket | None = None) -> Answer:
        """Stop sending to a socket: ``remove_connection(connection_id)`` or ``remove_connection(user_id, websocket)``.

        The socket stays open. The answer is there at once, and may be awaited. Raises ``CrossUserSendError`` for a
        connection of another user.
        """
        return Answer(self._remove(connection, websocket, "remove_connection"))

    async def disconnect_user(
        self, user_id: str, websocket: PooledSocket | None = None, code: int = 1000, reason: str = ""
    ) -> int:
        """Stop sending to a user's socket, or to all that were added. Returns how many there were.

        The sockets stay open, and runs go on: a connection is no run. Raises ``CrossUserSendError`` for another user.
        """
        del code, reason
        hub = self.hub
        bound = await hub.who(self._captured)
        target = self._own(hub, user_id, bound, "disconnect_user")
        found = [one for one in hub.connections.of_user(target) if websocket is None or one.websocket is websocket]
        return sum(hub.connections.remove(connection) for connection in found)

    def update_connection_thread(self, connection_id: str, thread_id: str) -> bool:
        """Say to which conversation a connection belongs. Returns whether it is there."""
        connection = self.hub.find_connection(connection_id, self._bound(), "update_connection_thread")
        if connection is not None:
            connection.thread_id = thread_id
        return connection is not None

    # -- looking ---------------------------------------------------------------------------------------------------

    def get_user_connections(self, user_id: str) -> list[str]:
        """Return the names of a user's sockets that were added. Raises ``CrossUserSendError`` for another user."""
        hub = self.hub
        target = self._own(hub, user_id, self._bound(), "get_user_connections")
        return [connection.connection_id for connection in hub.connections.of_user(target)]

    def is_connection_active(self, user_id: str) -> bool:
        """Return whether a user has a socket in this process. Raises ``CrossUserSendError`` for another user."""
        hub = self.hub
        return hub.is_connected(self._own(hub, user_id, self._bound(), "is_connection_active"))

    def get_connection_health(self, user_id: str) -> dict[str, Any]:
        """Return how many sockets a user has, and how many of them are sent events."""
        hub = self.hub
        target = self._own(hub, user_id, self._bound(), "get_connection_health")
        own = hub.connections.of_user(target)
        active = sum(connection.is_active for connection in own)
        return {
            "user_id": target,
            "total_connections": len(own),
            "active_connections": active,
            "has_active_connections": hub.is_connected(target),
            "events_sent": sum(connection.events_sent for connection in own),
        }

    def get_stats(self) -> dict[str, Any]:
        """Return counts of connections, messages and refusals, and nobody's id."""
        return self.hub.stats()

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _bound(self) -> Bound | None:
        bound = bound_now()
        return bound if bound is not None or self._captured is None else Bound(self._captured)

    @staticmethod
    def _own(hub: LegacyHub, user_id: object, bound: Bound | None, call: str) -> str:
        """Return the user, if it is the bound one or none is."""
        return hub.mappings.resolve(user_id) if bound is None else hub.check(user_id, bound, call)

    def _remove(self, connection: Any, websocket: PooledSocket | None, call: str) -> bool:
        hub, bound = self.hub, self._bound()
        if websocket is not None:
            target = self._own(hub, connection, bound, call)
            found = [one for one in hub.connections.of_user(target) if one.websocket is websocket]
        else:
            name = getattr(connection, "connection_id", connection)
            one = hub.find_connection(name, bound, call)
            found = [] if one is None else [one]
        return sum(hub.connections.remove(one) for one in found) > 0


def _note_refusal(task: asyncio.Task[LegacyConnection]) -> None:
    """Take a refusal that nobody awaits: it was counted and recorded where it was made."""
    if not task.cancelled():
        task.exception()


def returns_itself(value: Any) -> Generator[Any, None, Any]:
    """What ``__await__`` of something returns that is there already."""
    yield from ()
    return value


__all__ = ["Answer", "ConnectionId", "LegacyManagers", "returns_itself"]
