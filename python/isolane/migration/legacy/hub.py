"""What the legacy names do: one place in which each call is checked, and becomes an event in its user's lane."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from isolane._core import ContextIsolationError, RunClosed, UserExecutionContext, lane_usage, user_streams
from isolane.compat.protocols import PooledSocket
from isolane.events.bridge import WebSocketBridgeFactory
from isolane.migration.legacy import lifecycle
from isolane.migration.legacy.connections import LegacyConnection, LegacyConnections, check_metadata
from isolane.migration.legacy.errors import BroadcastDeniedError, CrossUserSendError
from isolane.migration.legacy.identity import Bound, bound_here, bound_now
from isolane.migration.legacy.mappings import UserMappings, clean
from isolane.migration.legacy.messages import LegacyMessage
from isolane.migration.legacy.outcome import SendOutcome
from isolane.migration.legacy.policy import AGENT_EVENTS, BroadcastPolicy
from isolane.migration.legacy.refusals import Refusals
from isolane.migration.legacy.runs import LegacyRuns
from isolane.security.authentication.errors import AccessRefusedError
from isolane.security.events import AuditSink

if TYPE_CHECKING:
    from isolane.fastapi.settings import IsolaneSettings

TURN = 100
"""Users of a broadcast that are told before other tasks get a turn."""

SOCKET_SCOPE = "isolane"


class LegacyHub:
    """Checks whom a legacy call is for, and publishes what it says.

    Args:
        factory: makes the emitters, and has the bounds of the logs. Default: one of its own.
        audit: records each refusal. Default: nobody.
        broadcast: what broadcasts do. Default: ``ISOLANE_LEGACY_BROADCAST``.
        settings: of the deliveries to sockets. Default: from the environment.
    """

    def __init__(
        self,
        factory: WebSocketBridgeFactory | None = None,
        *,
        audit: AuditSink | None = None,
        broadcast: BroadcastPolicy | str | None = None,
        settings: IsolaneSettings | None = None,
    ) -> None:
        self.factory = factory if factory is not None else WebSocketBridgeFactory()
        self.refusals = Refusals(audit)
        self.broadcast = (
            BroadcastPolicy.from_env()
            if broadcast is None
            else BroadcastPolicy.parse(broadcast)
            if isinstance(broadcast, str)
            else broadcast
        )
        self.mappings = UserMappings()
        self.connections = LegacyConnections(settings)
        self.runs = LegacyRuns()
        self._outcomes = dict.fromkeys(SendOutcome, 0)
        # Short, and held over one message: what is published in one turn no other thread gets between.
        self._lock = threading.RLock()
        self.factory.look_after(self)

    # -- who -------------------------------------------------------------------------------------------------------

    async def who(self, captured: str | None) -> Bound | None:
        """Return for whom a call is made: where it is made, else where its manager was got."""
        bound = await bound_here()
        return bound if bound is not None or captured is None else Bound(captured)

    def check(self, user_id: object, bound: Bound | None, call: str) -> str:
        """Return the user that a call is for, if it may be.

        Raises ``CrossUserSendError``, which is recorded, and ``InvalidContextError`` for what is no id.
        """
        target = self.mappings.resolve(user_id)
        if bound is not None:
            if bound.user_id != target:
                self.refuse(
                    CrossUserSendError(
                        f"{call} names another user than the one for whom this code runs; a manager that was kept from "
                        "an earlier request, or a user id that was, is the usual cause. To tell another user "
                        "something on purpose, use bridge.broadcast_to_user(user_id, event)",
                        call=call,
                    ),
                    bound,
                    call,
                )
        elif not self.is_connected(target):
            self.refuse(
                CrossUserSendError(
                    f"{call} is called where no run context is bound, for a user who has no socket here; call it in an "
                    "agent or request of the user, or in `with bind_context(context)`",
                    call=call,
                    reason="not_connected",
                ),
                None,
                call,
            )
        return target

    def refuse(self, error: ContextIsolationError, bound: Bound | None, call: str) -> NoReturn:
        """Record a refusal and raise it."""
        self.refusals.note(error, None if bound is None else bound.user_id, call)
        raise error

    def is_connected(self, user_id: str) -> bool:
        """Return whether a user has a socket: one of isolane's, or one that was added."""
        return bool(self.connections.of_user(user_id)) or has_socket(user_id)

    # -- sending ---------------------------------------------------------------------------------------------------

    async def send(self, user_id: object, message: object, captured: str | None, call: str) -> SendOutcome:
        """Send a message to a user."""
        bound = await self.who(captured)
        target = self.check(user_id, bound, call)
        return self.deliver(target, self.read(message, target, bound, call), bound, call)

    def read(self, message: object, target: str, bound: Bound | None, call: str) -> LegacyMessage:
        """Read a message for a user. Raises ``InvalidEvent``, and ``CrossUserSendError``, which is recorded."""
        try:
            return LegacyMessage.read(message, target, call=call)
        except CrossUserSendError as error:
            self.refuse(error, bound, call)

    def deliver(self, target: str, message: LegacyMessage, bound: Bound | None, call: str) -> SendOutcome:
        """Publish a message into the lane of a user that was checked. It waits for nothing."""
        return self.place(target, message, bound, call)[0]

    def place(
        self, target: str, message: LegacyMessage, bound: Bound | None, call: str
    ) -> tuple[SendOutcome, str | None]:
        """Do what ``deliver`` does. Returns also the run in whose log the message is, if it is in one."""
        context = None if bound is None else bound.context
        try:
            with self._lock:
                self.runs.end_idle(target)
                outcome, run_id = self._publish(target, message, context)
                self._outcomes[outcome] += 1
        except ContextIsolationError as error:
            # The core has stopped it, as for a run of another user.
            self.refusals.note(error, target if bound is None else bound.user_id, call)
            raise
        return outcome, run_id

    def _publish(
        self, target: str, message: LegacyMessage, context: UserExecutionContext | None
    ) -> tuple[SendOutcome, str | None]:
        run_id = message.run_id
        # A context that was changed meanwhile is not one that was checked.
        own = context if context is not None and context.user_id == target else None
        if own is not None and run_id in {None, own.run_id, own.request_id}:
            told = self._publish_in(own, message)
            if told is not None:
                return told, own.run_id
            run_id = own.run_id if message.kind in AGENT_EVENTS else None
        if run_id is None and message.kind not in AGENT_EVENTS and not self._has_reader(target):
            return SendOutcome.DROPPED, None
        if run_id is not None and not self.runs.has(target, run_id) and has_ended(target, run_id):
            # Begun anew, the run would take the place of its own log, which somebody may be yet to read.
            run_id = None
        # What names no run goes into one log of the user, the six as well: there it stays in order.
        thread = message.thread_id or (own.thread_id if own is not None else None)
        try:
            is_new = self.runs.publish(target, message, run_id, thread)
        except RunClosed:
            if run_id is None:
                raise
            run_id = None
            is_new = self.runs.publish(target, message, run_id, thread)
        return reached(target) if is_new else SendOutcome.MERGED, self.runs.run_id_of(target, run_id)

    def _has_reader(self, user_id: str) -> bool:
        """Return whether somebody may come to read a notice: a socket is there, or a run goes on."""
        return self.is_connected(user_id) or any(stream["outcome"] is None for stream in user_streams(user_id))

    def _publish_in(self, context: UserExecutionContext, message: LegacyMessage) -> SendOutcome | None:
        """Publish into the run of a context. Returns ``None`` where it has no place there."""
        try:
            emitter = context.get_websocket_emitter()
            if message.kind not in AGENT_EVENTS:
                emitter.publish(
                    message.kind,
                    message.payload,
                    agent_name=message.agent_name,
                    message=message.message,
                    event_id=message.event_id,
                )
            elif not emitter._has_execution():  # noqa: SLF001 - as the dispatcher asks
                return None
            elif message.kind in lifecycle.BOUNDS:
                # An engine runs the agent, and tells its beginning and its one end.
                return SendOutcome.MERGED
            else:
                lifecycle.check_payload(message.payload)
                lifecycle.tell(emitter, message, None, None)
        except RunClosed:
            # The run is over: what is told after it is a notice, as it was with the older manager.
            return None
        return reached(context.user_id)

    async def send_to_all(self, message: object, call: str, exclude: Iterable[object] = ()) -> int:
        """Send a broadcast, as the policy says. Returns how many users have it in their logs."""
        # Not whose manager it is: a message that names nobody may be about anybody, and goes to whom the code runs for.
        bound = await bound_here()
        kind = LegacyMessage.read(message, _named_user(message), call=call).kind
        policy = self.broadcast
        excluded = {self.mappings.resolve(user_id) for user_id in exclude}
        if policy.is_for_all(kind):
            return await self._send_to_everybody(self._for_all(message, bound, call), excluded, call)
        if policy.mode == "deny":
            self.refuse(
                BroadcastDeniedError(
                    f"{call} is refused: ISOLANE_LEGACY_BROADCAST=deny. Send to the user whose run it is", "publish"
                ),
                bound,
                call,
            )
        if bound is None:
            self.refuse(
                BroadcastDeniedError(
                    f"{call} is called where no run context is bound, so there is no user to whom it could go; call "
                    "send_to_user, or call it in `with bind_context(context)`. A notice that is for everybody is "
                    "listed in ISOLANE_LEGACY_BROADCAST=allow:<type>",
                    "publish",
                ),
                None,
                call,
            )
        if bound.user_id in excluded:
            return 0
        read = self.read(message, bound.user_id, bound, call)
        return int(bool(self.deliver(bound.user_id, read, bound, call)))

    def _for_all(self, message: object, bound: Bound | None, call: str) -> LegacyMessage:
        """Return what everybody may see of a notice: nothing of a run, and nothing that names a user."""
        read = LegacyMessage.read(message, _named_user(message), call=call)
        if _named_user(message) or "user_id" in read.payload:
            self.refuse(
                CrossUserSendError(
                    f"{call} is to send a message that names a user to everybody; leave user_id out of notices",
                    call=call,
                    reason="message",
                ),
                bound,
                call,
            )
        return LegacyMessage(read.kind, read.payload, message=read.message, event_id=read.event_id)

    async def _send_to_everybody(self, message: LegacyMessage, excluded: set[str], call: str) -> int:
        told = 0
        for at, user_id in enumerate(sorted(self.connected_users() - excluded), 1):
            told += bool(self.deliver(user_id, message, None, call))
            if at % TURN == 0:
                await asyncio.sleep(0)
        return told

    def connected_users(self) -> set[str]:
        """Return who has a socket, of those that were added and of the applications that run in this process."""
        from isolane.migration.legacy.process import running_applications  # noqa: PLC0415 - it makes hubs

        users = set(self.connections.users())
        for application in running_applications():
            users |= {delivery.principal.user_id.strip() for delivery in list(application.deliveries)}
        return users

    # -- sockets ---------------------------------------------------------------------------------------------------

    def register(
        self,
        user_id: object,
        websocket: PooledSocket,
        bound: Bound | None,
        *,
        metadata: Mapping[str, Any] | None = None,
        thread_id: str | None = None,
        connection_id: str | None = None,
        call: str = "add_connection",
    ) -> LegacyConnection:
        """Note a socket for a user. Delivery is begun by ``begin``.

        Raises what ``LegacyConnections.add`` raises, and ``CrossUserSendError``, which is recorded.
        """
        target = self.mappings.resolve(user_id)
        if bound is not None and bound.user_id != target:
            self.refuse(self._foreign_socket(call), bound, call)
        try:
            check_metadata(metadata)
        except ValueError:
            # Whoever sets an identity by metadata is told so, and it is on record.
            self.refusals.note(_metadata_refusal(call), target, call)
            raise
        return self.connections.add(target, websocket, metadata, thread_id, connection_id)

    async def begin(self, connection: LegacyConnection, *, call: str = "add_connection") -> LegacyConnection:
        """Compare a socket with who signed in on it, and begin to deliver.

        Raises ``CrossUserSendError``, and ``ContextIsolationError`` for a socket that carries another user's events;
        both are recorded, and the socket is not kept.
        """
        try:
            signed_in = await user_of_socket(connection.websocket)
        except BaseException:
            self.connections.remove(connection)
            raise
        self.begin_for(connection, signed_in, call)
        return connection

    def begin_for(self, connection: LegacyConnection, signed_in: str | None, call: str) -> None:
        """Begin to deliver to a socket on which ``signed_in`` has signed in. Raises as ``begin`` does."""
        try:
            if signed_in is not None and signed_in.strip() != connection.user_id:
                self.refuse(self._foreign_socket(call), Bound(signed_in), call)
            self.connections.begin(connection)
        except CrossUserSendError:
            self.connections.remove(connection)
            raise
        except ContextIsolationError as error:
            self.connections.remove(connection)
            self.refusals.note(error, connection.user_id, call)
            raise

    @staticmethod
    def _foreign_socket(call: str) -> CrossUserSendError:
        return CrossUserSendError(
            f"{call} gives a socket to another user than the one who signed in; pass the signed-in user's id",
            "bind",
            call=call,
            reason="socket",
        )

    def find_connection(self, connection_id: object, bound: Bound | None, call: str) -> LegacyConnection | None:
        """Return a connection, if the caller may use it. Raises ``CrossUserSendError``, which is recorded."""
        connection = self.connections.get(connection_id)
        if connection is not None and bound is not None and connection.user_id != bound.user_id:
            self.refuse(
                CrossUserSendError(
                    f"{call} names a connection of another user than the one for whom this code runs",
                    call=call,
                    reason="connection",
                ),
                bound,
                call,
            )
        return connection

    def user_of_thread(self, thread_id: str, bound: Bound | None, captured: str | None, call: str) -> str | None:
        """Return to whom a message for a conversation goes; ``None`` for nobody.

        Users may call theirs alike. Raises ``CrossUserSendError``, which is recorded: for a conversation of others, and
        for one of several where nobody is bound.
        """
        users = self.connections.of_thread(thread_id)
        own = bound.user_id if bound is not None else captured
        if own is None and len(users) <= 1:
            return next(iter(users), None)
        is_own = own is not None and (own in users or _has_thread(own, bound, thread_id))
        if users and not is_own:
            self.refuse(
                CrossUserSendError(
                    f"{call} names a conversation of another user than the one for whom this code runs, or of several "
                    "where it runs for nobody; call it in an agent or request of the user, or in `with "
                    "bind_context(context)`",
                    call=call,
                    reason="thread",
                ),
                bound if bound is not None or own is None else Bound(own),
                call,
            )
        # A bound user's conversation may be named anew; for whom a kept manager was got, says nothing of it.
        return own if is_own or bound is not None else None

    # -- ending ----------------------------------------------------------------------------------------------------

    def end_idle(self) -> None:
        """End the runs that were told nothing for a while."""
        with self._lock:
            self.runs.end_idle()

    def close(self) -> None:
        """Let go of all sockets and end all runs. The sockets stay open, the logs readable."""
        self.connections.remove_all()
        with self._lock:
            self.runs.end()

    def stats(self) -> dict[str, Any]:
        """Return counts, and nobody's id."""
        connections = len(self.connections)
        return {
            "active_connections": connections,
            "total_connections": connections,
            "unique_users": len(self.connections.users()),
            "legacy_runs": len(self.runs),
            "mapped_ids": len(self.mappings),
            "messages": {outcome.value: count for outcome, count in self._outcomes.items()},
            "refused": self.refusals.counts(),
            "broadcast": self.broadcast.mode,
        }


def _has_thread(user_id: str, bound: Bound | None, thread_id: str) -> bool:
    """Return whether a conversation is that of the bound run, or of a run of the user."""
    if bound is not None and bound.context is not None and bound.context.thread_id == thread_id:
        return True
    return any(stream["thread_id"] == thread_id for stream in user_streams(user_id))


def has_ended(user_id: str, run_id: str) -> bool:
    """Return whether a run of the user has ended, and its log is still there to be read."""
    return any(stream["run_id"] == run_id and stream["outcome"] is not None for stream in user_streams(user_id))


def has_socket(user_id: str) -> bool:
    """Return whether a socket of the user is attached in this process."""
    usage = lane_usage(user_id)
    return usage is not None and usage["connections"] > 0


def reached(user_id: str) -> SendOutcome:
    """Return what became of a message that is in a log."""
    return SendOutcome.QUEUED if has_socket(user_id) else SendOutcome.STORED


def known_user_of_socket(websocket: object) -> tuple[bool, str | None]:
    """Return whether it is known who signed in on a WebSocket, or that nobody can say; and who."""
    scope = getattr(websocket, "scope", None)
    held = scope.get("state", {}).get(SOCKET_SCOPE) if isinstance(scope, dict) else None
    if held is None:
        return True, None
    known = getattr(held, "known_user", None)
    return known is not None, known


async def user_of_socket(websocket: object) -> str | None:
    """Return who signed in on a Starlette WebSocket of an application with isolane; ``None`` where that is not known.

    Raises what the application's sign-in raises.
    """
    scope = getattr(websocket, "scope", None)
    held = scope.get("state", {}).get(SOCKET_SCOPE) if isinstance(scope, dict) else None
    user_of = getattr(held, "user_of", None)
    if user_of is None or not isinstance(scope, dict):
        return None
    try:
        user_id = await user_of(scope)
    except AccessRefusedError:
        # The application has let it in by a way of its own; the gate has recorded that it would not have.
        return None
    return user_id.strip() if isinstance(user_id, str) else None


def _named_user(message: object) -> str:
    """Return the user that a message names, or an empty text."""
    named = message.get("user_id") if isinstance(message, Mapping) else getattr(message, "user_id", None)
    return clean(named) if isinstance(named, str) and named.strip() else ""


def _metadata_refusal(call: str) -> CrossUserSendError:
    return CrossUserSendError("metadata cannot say whose a connection is", "bind", call=call, reason="metadata")


__all__ = ["LegacyHub", "bound_now", "has_socket", "reached", "user_of_socket"]
