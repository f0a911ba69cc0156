"""The emitter of the host's WebSocket factory: one user's agent events, followed to one socket."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from isolane._core import InvalidEvent, RunClosed
from isolane.compat.pool_delivery import SocketLink
from isolane.compat.redaction import safe_error, safe_input, safe_output
from isolane.compat.run_spans import RunSpans
from isolane.compat.websocket_records import (
    ConnectionStatus,
    PendingEvents,
    UserWebSocketContext,
    WebSocketEvent,
    WebSocketFactoryConfig,
)

logger = logging.getLogger("isolane.compat")

MAX_OPEN_RUNS = 64
"""Runs of an emitter before those that are over and delivered are ended."""


class UserWebSocketEmitter:
    """Publishes a user's agent events into the logs of their runs, and knows what reached the socket.

    The events go to every socket of the user; this emitter follows one of them. The notifying methods return when the
    log has the event, and never wait for the socket. Raises ``InvalidEvent`` for events out of order or payloads that
    are not JSON-able, ``EventTooLarge``, ``BudgetExceeded``, ``RunClosed`` after ``cleanup``, and
    ``ContextIsolationError`` for a run of another user.

    Attributes:
        user_context: the state: what was sent, what failed, how the connection is.
        link: the delivery to the socket, which the user's emitters on that connection have in common.
    """

    def __init__(
        self,
        user_context: UserWebSocketContext,
        link: SocketLink,
        config: WebSocketFactoryConfig | None = None,
        *,
        on_release: Callable[[UserWebSocketEmitter], Awaitable[None]] | None = None,
    ) -> None:
        self.user_context = user_context
        self.config = config if config is not None else WebSocketFactoryConfig()
        self.events_published = 0
        self.events_refused = 0
        self.events_sent = 0
        self.events_undelivered = 0
        self.link = link
        self._on_release = on_release
        self._runs: dict[str, RunSpans] = {}
        self._closed = False
        self._released = False
        self._pending = user_context.event_queue = PendingEvents(self.config.max_events_per_user)

    @property
    def user_id(self) -> str:
        """Whose events it publishes."""
        return self.user_context.user_id

    @property
    def thread_id(self) -> str:
        """The conversation."""
        return self.user_context.thread_id

    @property
    def connection_id(self) -> str:
        """The host's name of the socket that it follows."""
        return self.user_context.connection_id

    @property
    def is_closed(self) -> bool:
        """Whether it was cleaned up."""
        return self._closed

    # -- the six ---------------------------------------------------------------------------------------------------

    async def notify_agent_started(self, agent_name: str, run_id: str) -> None:
        """An agent execution begins."""
        await self._publish("agent_started", run_id, dict, lambda run, _: run.started(agent_name))

    async def notify_agent_thinking(self, agent_name: str, run_id: str, thinking: str) -> None:
        """What the agent is thinking."""
        await self._publish(
            "agent_thinking",
            run_id,
            lambda: {"reasoning": thinking},
            lambda run, data: run.of(agent_name).notify_agent_thinking(
                agent_name=agent_name, run_id=run_id, thinking=data["reasoning"]
            ),
        )

    async def notify_tool_executing(self, agent_name: str, run_id: str, tool_name: str, tool_input: Any) -> None:
        """A tool call begins. Secrets in the input are redacted."""
        await self._publish(
            "tool_executing",
            run_id,
            lambda: {"tool_name": tool_name, "parameters": _plain(safe_input, tool_input)},
            lambda run, data: run.of(agent_name).notify_tool_executing(
                agent_name=agent_name, run_id=run_id, tool_name=tool_name, tool_input=data["parameters"]
            ),
        )

    async def notify_tool_completed(self, agent_name: str, run_id: str, tool_name: str, tool_output: Any) -> None:
        """A tool call ended. Internals in the output are left out."""
        await self._publish(
            "tool_completed",
            run_id,
            lambda: {"tool_name": tool_name, "result": _plain(safe_output, tool_output)},
            lambda run, data: run.of(agent_name).notify_tool_completed(
                agent_name=agent_name, run_id=run_id, tool_name=tool_name, tool_output=data["result"]
            ),
        )

    async def notify_agent_completed(self, agent_name: str, run_id: str, result: Any) -> None:
        """The agent execution ended well."""
        await self._publish(
            "agent_completed",
            run_id,
            lambda: {"result": _plain(safe_output, result)},
            lambda run, data: run.of(agent_name).notify_agent_completed(
                agent_name=agent_name, run_id=run_id, result=data["result"]
            ),
        )
        self._runs[run_id].ended(agent_name)

    async def notify_agent_error(self, agent_name: str, run_id: str, error: str) -> None:
        """The agent execution failed. Home directories in the text are shortened."""
        await self._publish(
            "agent_error",
            run_id,
            lambda: {"error_message": safe_error(error)},
            lambda run, data: run.of(agent_name).notify_agent_error(
                agent_name=agent_name, run_id=run_id, error=data["error_message"]
            ),
        )
        self._runs[run_id].ended(agent_name)

    async def _publish(
        self,
        event_type: str,
        run_id: str,
        payload: Callable[[], dict[str, Any]],
        publish: Callable[[RunSpans, dict[str, Any]], Awaitable[int]],
    ) -> None:
        try:
            data = payload()
            run = await self._run(run_id)
            number = await publish(run, data)
        except Exception:
            # Counted, whatever it was, and the caller's to handle.
            self.events_refused += 1
            raise
        self.events_published += 1
        if self._released:
            return
        event = WebSocketEvent(event_type, self.user_id, self.thread_id, data, max_retries=self.config.delivery_retries)
        self._pending.add(run_id, number, event)

    async def _run(self, run_id: str) -> RunSpans:
        if self._closed:
            raise RunClosed("the emitter was cleaned up; make a new one with create_user_emitter, or publish before")
        run = self._runs.get(run_id)
        if run is None:
            if len(self._runs) >= MAX_OPEN_RUNS:
                await self._end_idle_runs()
            run = self._runs[run_id] = RunSpans(self.user_id, self.thread_id, run_id)
        return run

    async def _end_idle_runs(self) -> None:
        """End the runs that nobody will miss: nothing open, and nothing to come."""
        pending = self._pending.runs()
        for run_id in [run_id for run_id, run in self._runs.items() if run.is_idle and run_id not in pending]:
            await self._runs.pop(run_id).close()

    # -- what the socket was sent ----------------------------------------------------------------------------------

    def delivered(self, run_id: str, number: int, event_id: str, retries: int) -> None:
        """Called by the link: a message was written to the socket."""
        event = self._pending.delivered(run_id, number)
        self.user_context.last_heartbeat = self.link.last_write
        if event is not None:
            event.event_id, event.retry_count = event_id, retries
            self.events_sent += 1
            self.user_context.note_sent(event)

    def status_changed(self, link: SocketLink) -> None:
        """Called by the link: the delivery does better or worse."""
        if not self._released:
            self.user_context.connection_status = link.status
        self.user_context.reconnect_attempts = link.reconnect_attempts

    def get_event_stats(self) -> dict[str, int]:
        """Return counts: published, refused, written to the socket, covered by a snapshot, pending, given up."""
        return {
            "events_published": self.events_published,
            "events_refused": self.events_refused,
            "events_sent": self.events_sent,
            "events_folded": self._pending.folded,
            "events_pending": self._pending.qsize(),
            "events_undelivered": self.events_undelivered,
        }

    # -- the end ---------------------------------------------------------------------------------------------------

    async def cleanup(self) -> int:
        """Close what is open, give the socket its time, and let go of it. Calling it again does nothing.

        Waits ``delivery_timeout_seconds`` at most for the socket to take what is left. What it did not take is in
        ``user_context.failed_events`` and is the number returned; it stays in the logs for whoever connects.
        """
        if not self._closed:
            self._closed = True
            try:
                for run in self._runs.values():
                    await run.close()
            finally:
                await self.release()
        return self.events_undelivered

    async def release(self) -> int:
        """Let go of the socket, as when it is gone: what the emitter publishes from now on is only logged.

        Waits for the socket and returns as ``cleanup`` does. Agents that still run are not disturbed.
        """
        if self._released:
            return self.events_undelivered
        self._released = True
        try:
            heads = {run_id: run.head() for run_id, run in self._runs.items()}
            await self.link.drain(heads, self.config.delivery_timeout_seconds)
        finally:
            left = self._pending.take()
            self.events_undelivered = len(left)
            self.user_context.note_failed(left)
            self.user_context.connection_status = ConnectionStatus.CLOSED
            if left:
                logger.warning("an emitter let go of its socket before that took %d events; they are logged", len(left))
            if self._on_release is not None:
                await self._on_release(self)
        await self._call_back()
        return self.events_undelivered

    async def _call_back(self) -> None:
        callbacks = self.user_context.cleanup_callbacks
        while callbacks:
            try:
                result = callbacks.pop()()
                if inspect.isawaitable(result):
                    await asyncio.wait_for(result, self.config.delivery_timeout_seconds)
            except Exception:
                logger.exception("a clean-up callback of an emitter failed")

    def __repr__(self) -> str:
        return f"<UserWebSocketEmitter {self.user_context.connection_status.value}, {self._pending.qsize()} pending>"


def _plain(convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return convert(value)
    except ValueError as error:
        raise InvalidEvent(str(error)) from error
