"""The executions of one emitter in one run: a span for each agent, none of them another emitter's."""

from __future__ import annotations

import threading
import weakref

from isolane._core import (
    InvalidContextError,
    InvalidEvent,
    RunClosed,
    UserExecutionContext,
    UserWebSocketEmitter,
    _refusal,
    end_stream,
    user_streams,
)

_runs: weakref.WeakValueDictionary[tuple[str, str], _SharedRun] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class _SharedRun:
    """A run that one or more emitters publish into."""

    def __init__(self, user_id: str, thread_id: str, run_id: str) -> None:
        live = any(stream["run_id"] == run_id and stream["outcome"] is None for stream in user_streams(user_id))
        self.context = UserExecutionContext(user_id, thread_id, run_id)
        # A stream that an engine has opened ends with its engine.
        self.ends_stream = not live
        self.users: weakref.WeakSet[RunSpans] = weakref.WeakSet()


class RunSpans:
    """Publishes the agent executions of one emitter into the stream of a run.

    The run's stream is opened by the first event, shared by all emitters of the run, and ended by the last of them,
    unless something else had opened it. Raises ``InvalidContextError`` for bad ids and, with the first event,
    ``ContextIsolationError`` for a run of another user.

    Attributes:
        run_id: the run.
        executions: what publishes the executions that are open, by the agent's name.
    """

    def __init__(self, user_id: str, thread_id: str, run_id: str) -> None:
        self.run_id = run_id
        self._user_id = user_id
        with _lock:
            shared = _runs.get((user_id, run_id))
            if shared is None:
                shared = _runs[user_id, run_id] = _SharedRun(user_id, thread_id, run_id)
        self._shared = shared
        self.executions: dict[str, UserWebSocketEmitter] = {}
        self._adopted: dict[str, UserWebSocketEmitter] = {}
        self._closed = False
        with _lock:
            shared.users.add(self)

    @property
    def is_idle(self) -> bool:
        """Whether no execution is open."""
        return not self.executions

    @property
    def emitter(self) -> UserWebSocketEmitter:
        """What publishes events of the run that belong to no execution."""
        self._check_open()
        return self._shared.context.get_websocket_emitter()

    def has(self, agent_name: str) -> bool:
        """Whether an execution of the agent is open, begun here or by another emitter of the run."""
        return self._holder(agent_name) is not None

    def adopt(self, agent_name: str, context: UserExecutionContext) -> bool:
        """Let the next execution of an agent be the span of ``context``, which an engine has made for it.

        Returns ``False`` when an execution of that agent is open: then the two cannot be told apart by name. Raises
        ``ContextIsolationError`` for a context of another user or run.
        """
        self._check_open()
        if (context.user_id, context.run_id) != (self._user_id, self.run_id):
            raise _refusal("the context belongs to another user or run than the emitter", "bind")
        if agent_name in self.executions or agent_name in self._adopted:
            return False
        self._adopted[agent_name] = context.get_websocket_emitter()
        return True

    async def started(self, agent_name: str, /, **payload: object) -> int:
        """Begin the execution of an agent. Returns the event's number."""
        self._check_open()
        emitter = self.executions.get(agent_name) or self._adopted.pop(agent_name, None)
        if emitter is None:
            try:
                emitter = self._shared.context.create_child_context(agent_name).get_websocket_emitter()
            except InvalidContextError as error:
                raise InvalidEvent(f"agent_name {agent_name!r:.60} cannot name an execution: {error}") from error
        number = await emitter.notify_agent_started(agent_name=agent_name, metadata=payload)
        self.executions[agent_name] = emitter
        return number

    def of(self, agent_name: str) -> UserWebSocketEmitter:
        """Return what publishes the events of an agent: its execution here, or else one that another emitter began.

        For an agent that has not started, what the log refuses by itself.
        """
        self._check_open()
        holder = self._holder(agent_name)
        return holder.executions[agent_name] if holder is not None else self._shared.context.get_websocket_emitter()

    def ended(self, agent_name: str) -> None:
        """Forget an execution whose last event was published."""
        holder = self._holder(agent_name)
        if holder is not None:
            del holder.executions[agent_name]

    def _holder(self, agent_name: str) -> RunSpans | None:
        """Return who began an execution of the agent that is open: itself, or another emitter of the run."""
        if agent_name in self.executions:
            return self
        with _lock:
            others = list(self._shared.users)
        return next((other for other in others if agent_name in other.executions), None)

    async def close(self) -> None:
        """Give what is open its last events, and end the stream if nobody else uses it."""
        if self._closed:
            return
        self._closed = True
        for emitter in self.executions.values():
            await emitter.cleanup()
        self.executions.clear()
        self._adopted.clear()
        with _lock:
            self._shared.users.discard(self)
            is_last = not self._shared.users
            if is_last:
                _runs.pop((self._user_id, self.run_id), None)
        if is_last and self._shared.ends_stream:
            end_stream(self._shared.context)

    def head(self) -> tuple[str, int]:
        """Return the epoch and the latest number of the run's stream."""
        return stream_head(self._user_id, self.run_id)

    def _check_open(self) -> None:
        if self._closed:
            raise RunClosed("the emitter was cleaned up; make a new one, or publish before cleanup()")


def stream_head(user_id: str, run_id: str) -> tuple[str, int]:
    """Return the epoch and the latest number of a run's stream; ``("", 0)`` when there is none."""
    for stream in user_streams(user_id):
        if stream["run_id"] == run_id:
            return stream["epoch"], stream["head"]
    return "", 0
