"""The host's ``unified_tool_dispatcher``: its names over isolane's dispatcher, with its wall and its permissions.

Nothing may be called that no role allows: ``UnifiedToolDispatcherFactory.configure(permissions=...)`` says who may
what.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from isolane._core import ContextIsolationError, UserExecutionContext, UserWebSocketEmitter
from isolane.compat.tool_events import ManagerEvents
from isolane.migration.agents.attributes import read
from isolane.migration.deprecation import deprecated_call
from isolane.security.permissions.boundary import PermissionBoundarySystem
from isolane.security.permissions.engine import PermissionEngine
from isolane.tools import DispatchStrategy, Tool, ToolDispatchRequest, ToolDispatchResponse, ToolRegistry
from isolane.tools import UnifiedToolDispatcher as _Dispatcher
from isolane.tools import UnifiedToolDispatcherFactory as _Factory

__all__ = [
    "AuthenticationError",
    "DispatchStrategy",
    "SecurityViolationError",
    "ToolDispatchRequest",
    "ToolDispatchResponse",
    "ToolExecutionResult",
    "UnifiedToolDispatcher",
    "UnifiedToolDispatcherFactory",
    "create_request_scoped_dispatcher",
]

MAX_DISPATCHERS_PER_USER = 10
"""Dispatchers of one user that are open. One more ends the oldest."""

SecurityViolationError = ContextIsolationError
"""The host's name for isolane's class."""

_REFUSALS = frozenset({"permission_denied", "not_found", "unavailable", "too_many_resources"})


class AuthenticationError(Exception):
    """A dispatcher was asked for without a user."""


@dataclass
class ToolExecutionResult:
    """What a tool call came to.

    Attributes:
        success: whether the tool returned.
        result: what it returned.
        error: why not, for the user; ``error_message`` is the same.
        tool_name: which tool.
        user_id: whose call it was.
        status: ``success`` or ``error``.
        execution_time_ms: how long it took.
        permission_check: whether the user may call the tool; ``None`` when it was not asked: there is no such tool.
        created_at: aware UTC datetime.
    """

    success: bool
    result: Any = None
    error: str | None = None
    tool_name: str | None = None
    user_id: str | None = None
    status: str = "success"
    error_message: str | None = None
    execution_time_ms: float | None = None
    permission_check: bool | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class UnifiedToolDispatcher:
    """The tool calls of one request. Made by ``await UnifiedToolDispatcher.create_for_user(context)`` or a factory.

    Attributes:
        user_context: the context of the request.
        websocket_manager: the manager or bridge that was given, or ``None``: then events go into isolane's log.
        strategy: what kind of dispatcher it is.
        dispatcher_id: unique name.
        created_at: aware UTC datetime.
    """

    def __init__(
        self,
        *_: Any,
        _inner: _Dispatcher | None = None,
        _factory: UnifiedToolDispatcherFactory | None = None,
        _manager: Any = None,
        _events: ManagerEvents | None = None,
        **__: Any,
    ) -> None:
        if _inner is None or _factory is None:
            raise RuntimeError(
                "Direct instantiation of UnifiedToolDispatcher is forbidden: users would share it. Use await "
                "UnifiedToolDispatcher.create_for_user(user_context)"
            )
        self.user_context = _inner.user_context
        self.strategy = _inner.strategy
        self.dispatcher_id = _inner.dispatcher_id
        self.created_at = _inner.created_at
        self.websocket_manager = _manager
        self._dispatcher = _inner
        self._factory = _factory
        self._events = _events

    def __await__(self) -> Generator[Any, None, UnifiedToolDispatcher]:
        """It is there already: both ``create_for_user(...)`` and ``await create_for_user(...)`` are it."""
        yield from ()
        return self

    # -- making ----------------------------------------------------------------------------------------------------

    @classmethod
    def create_for_user(
        cls,
        user_context: UserExecutionContext,
        websocket_bridge: Any = None,
        tools: Iterable[Any] | None = None,
        enable_admin_tools: bool = False,
    ) -> UnifiedToolDispatcher:
        """Make the dispatcher of a request, by the factory that ``UnifiedToolDispatcherFactory.configure`` set.

        Args:
            user_context: the context of the request.
            websocket_bridge: a manager of the host's, with ``send_event(type, data)``, which gets the events; or a
                bridge factory or an emitter of isolane's. Default: isolane's log of the run.
            tools: tools of this dispatcher alone.
            enable_admin_tools: whether it may run tools of administration; its user must be an administrator.

        Raises ``AuthenticationError`` without a user, ``TypeError`` for what is no context,
        ``SecurityViolationError`` when something belongs to another user, ``PermissionDeniedError`` for an
        administrator who is none.
        """
        strategy = DispatchStrategy.ADMIN if enable_admin_tools else DispatchStrategy.DEFAULT
        return _configured().create_dispatcher(user_context, websocket_bridge, tools, strategy=strategy)

    @classmethod
    @contextlib.asynccontextmanager
    async def create_scoped(
        cls,
        user_context: UserExecutionContext,
        websocket_bridge: Any = None,
        tools: Iterable[Any] | None = None,
        enable_admin_tools: bool = False,
    ) -> AsyncIterator[UnifiedToolDispatcher]:
        """``async with UnifiedToolDispatcher.create_scoped(context) as dispatcher``: cleaned up at the end."""
        dispatcher = cls.create_for_user(user_context, websocket_bridge, tools, enable_admin_tools)
        try:
            yield dispatcher
        finally:
            await dispatcher.cleanup()

    # -- tools -----------------------------------------------------------------------------------------------------

    @property
    def registry(self) -> Mapping[str, Tool]:
        """The tools by name, as they are now."""
        held = self._dispatcher
        return MappingProxyType({**held._registry, **held._own})  # noqa: SLF001 - its other half

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The same."""
        return self.registry

    def has_tool(self, tool_name: str) -> bool:
        """Return whether there is a tool of this name, whoever may use it."""
        return self._dispatcher.has_tool(tool_name)

    def register_tool(self, tool: Any, **description: Any) -> Tool:
        """Add a tool to this dispatcher alone. That permits nobody to use it."""
        self._check_open()
        return self._dispatcher.register_tool(tool, **description)

    def get_available_tools(self) -> list[str]:
        """Return the names of the tools that this user may use."""
        self._check_open()
        return self._dispatcher.get_available_tools()

    # -- calling ---------------------------------------------------------------------------------------------------

    async def execute_tool(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        require_permission_check: bool = True,  # noqa: ARG002 - a caller cannot leave the check out
    ) -> ToolExecutionResult:
        """Call a tool. A call that fails, or is refused, is a result as well.

        ``require_permission_check`` is taken and changes nothing: every call is checked. Raises ``RuntimeError`` after
        the clean-up.
        """
        self._check_open()
        try:
            response = await self._dispatcher.dispatch_tool(tool_name, parameters)
        finally:
            if self._events is not None:
                await self._events.flush()
        code = response.metadata.get("code")
        return ToolExecutionResult(
            success=response.success,
            result=response.result,
            error=response.error,
            tool_name=tool_name,
            user_id=self.user_context.user_id,
            status="success" if response.success else "error",
            error_message=response.error,
            execution_time_ms=response.metadata.get("execution_time_ms"),
            permission_check=None if code in {"tool_not_found", "invalid_parameters"} else code not in _REFUSALS,
        )

    async def dispatch_tool(
        self,
        request: ToolDispatchRequest | str,
        parameters: Mapping[str, Any] | None = None,
        state: Any = None,
        run_id: str | None = None,
    ) -> ToolDispatchResponse:
        """Call a tool, by a request or by its name and parameters. What fails is a response as well.

        A ``state`` or ``run_id`` that is not of this request is answered as a tool that there is not.
        """
        self._check_open()
        name = request if isinstance(request, str) else request.tool_name
        if not self._is_of_this_run(state, run_id):
            return ToolDispatchResponse(
                success=False,
                error=f"Tool {name} not found in registry",
                metadata=MappingProxyType({"tool_name": name, "code": "tool_not_found", "execution_time_ms": 0.0}),
            )
        try:
            return await self._dispatcher.dispatch_tool(request, parameters)
        finally:
            if self._events is not None:
                await self._events.flush()

    async def dispatch(
        self, tool_name: str, parameters: Mapping[str, Any] | None = None, **more: Any
    ) -> ToolDispatchResponse:
        """Call a tool by its name; parameters as a mapping, or by keyword."""
        return await self.dispatch_tool(tool_name, {**(parameters or {}), **more})

    def _is_of_this_run(self, state: Any, run_id: str | None) -> bool:
        owner = read(state, "user_id")
        return (run_id is None or run_id == self.user_context.run_id) and (
            owner is None or owner == self.user_context.user_id
        )

    # -- state -----------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._dispatcher.is_closed:
            raise RuntimeError(
                "the dispatcher was cleaned up; make one for the next request with await create_for_user(user_context)"
            )

    def get_metrics(self) -> dict[str, Any]:
        """Return counts under the host's keys."""
        counts = self._dispatcher.get_metrics()
        keys = (
            *("tools_executed", "successful_executions", "failed_executions", "total_execution_time_ms"),
            *("websocket_events_sent", "permission_checks", "permission_denials", "security_violations"),
            *("last_execution_time", "created_at", "user_id", "dispatcher_id"),
        )
        metrics = {key: counts[key] for key in keys}
        if self._events is not None:
            metrics["websocket_events_sent"] = self._events.sent
        return metrics

    def _close(self) -> None:
        """Take no more calls. The context calls it when it is cleaned up."""
        self._dispatcher._close()  # noqa: SLF001 - its other half
        self._factory._forget(self)  # noqa: SLF001 - the same

    async def cleanup(self) -> None:
        """Take no more calls; cancel those that run. Calling it again does nothing."""
        self._factory._forget(self)  # noqa: SLF001 - its other half
        try:
            await self._dispatcher.cleanup()
        finally:
            if self._events is not None:
                await self._events.close()

    def __repr__(self) -> str:
        return f"<UnifiedToolDispatcher of the host's shape over {self._dispatcher!r}>"


class UnifiedToolDispatcherFactory:
    """Makes one dispatcher for each request, and holds no data of any user.

    Args:
        permissions: who may use which tool. Default: nobody may use any.
        options: those of ``isolane.UnifiedToolDispatcherFactory``, such as ``sanitizer``.
    """

    def __init__(self, permissions: PermissionEngine | PermissionBoundarySystem | None = None, **options: Any) -> None:
        self._factory = _Factory(permissions=permissions, **options)
        self._open: dict[str, list[weakref.ref[UnifiedToolDispatcher]]] = {}
        self._lock = threading.RLock()
        self._ending: set[asyncio.Task[None]] = set()

    @staticmethod
    def configure(
        permissions: PermissionEngine | PermissionBoundarySystem | None = None, **options: Any
    ) -> UnifiedToolDispatcherFactory:
        """Set the factory of the process, which the static methods and ``create_for_user`` use. Returns it."""
        global _process  # noqa: PLW0603 - the host's own way
        with _process_lock:
            _process = UnifiedToolDispatcherFactory(permissions, **options)
            return _process

    def set_tool_registry(self, registry: ToolRegistry | Iterable[Any] | Mapping[str, Any]) -> None:
        """Set the tools of dispatchers that are made from now on."""
        self._factory.set_tool_registry(registry.values() if isinstance(registry, Mapping) else registry)

    def create_dispatcher(
        self,
        user_context: UserExecutionContext,
        websocket_manager: Any = None,
        tools: Iterable[Any] | None = None,
        *,
        strategy: DispatchStrategy = DispatchStrategy.DEFAULT,
    ) -> UnifiedToolDispatcher:
        """Make the dispatcher of a request; see ``UnifiedToolDispatcher.create_for_user``. ``await`` works as well."""
        _check_user(user_context)
        events, emitter = _events_of(websocket_manager, user_context)
        inner = self._factory.create_dispatcher(
            user_context, tools=tuple(tools or ()), strategy=strategy, websocket_emitter=emitter
        )
        made = UnifiedToolDispatcher(_inner=inner, _factory=self, _manager=websocket_manager, _events=events)
        self._note(made)
        return made

    def _note(self, dispatcher: UnifiedToolDispatcher) -> None:
        """Remember an open dispatcher, and end the user's oldest when there are too many."""
        user = dispatcher.user_context.user_id
        reference = weakref.ref(dispatcher, lambda gone: self._drop(user, gone))
        with self._lock:
            held = self._open.setdefault(user, [])
            held.append(reference)
            oldest = held.pop(0)() if len(held) > MAX_DISPATCHERS_PER_USER else None
        if oldest is None:
            return
        try:
            task = asyncio.get_running_loop().create_task(oldest.cleanup())
        except RuntimeError:
            # Outside of a loop nothing of it runs, so there is nothing to wait for.
            oldest._close()  # noqa: SLF001 - its other half
            return
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _drop(self, user: str, reference: weakref.ref[UnifiedToolDispatcher]) -> None:
        with self._lock:
            held = self._open.get(user)
            if held is None:
                return
            # By identity: references to dead objects are equal to nothing else.
            held[:] = [each for each in held if each is not reference]
            if not held:
                del self._open[user]

    def _forget(self, dispatcher: UnifiedToolDispatcher) -> None:
        user = dispatcher.user_context.user_id
        with self._lock:
            found = next((each for each in self._open.get(user, ()) if each() is dispatcher), None)
        if found is not None:
            self._drop(user, found)

    async def cleanup_all_dispatchers(self) -> int:
        """Clean all dispatchers up. Returns how many were open."""
        with self._lock:
            living = [made for held in self._open.values() for each in held if (made := each()) is not None]
        await asyncio.gather(*(dispatcher.cleanup() for dispatcher in living), *self._ending)
        return len(living)

    @staticmethod
    def create_for_request(
        user_context: UserExecutionContext, websocket_manager: Any = None, tools: Iterable[Any] | None = None
    ) -> UnifiedToolDispatcher:
        """Make the dispatcher of a request by the factory of the process."""
        return _configured().create_dispatcher(user_context, websocket_manager, tools)

    @staticmethod
    def create_for_admin(
        user_context: UserExecutionContext,
        db: Any = None,
        user: Any = None,
        websocket_manager: Any = None,
        tools: Iterable[Any] | None = None,
    ) -> UnifiedToolDispatcher:
        """Make a dispatcher that may run tools of administration.

        Being an administrator comes from ``user_context.permissions`` alone; a ``user`` who is somebody else is
        refused. Raises ``PermissionDeniedError``.
        """
        factory = _configured()
        _check_user(user_context)
        # Compared, and refused and recorded, by isolane's own.
        factory._factory.create_for_admin(user_context, db, user)._close()  # noqa: SLF001 - its other half
        return factory.create_dispatcher(user_context, websocket_manager, tools, strategy=DispatchStrategy.ADMIN)

    @staticmethod
    def create_legacy_global(tools: Iterable[Any] | None = None) -> Any:
        """Return what looks like a dispatcher of all users, and is that of the run for which its user's code runs.

        That is an agent execution, a block of ``bind_context``, or a request that has its context; elsewhere its use
        raises ``AuthenticationError``. Deprecated: ``ISO-D009``.
        """
        deprecated_call("UnifiedToolDispatcherFactory.create_legacy_global", "ISO-D009")
        return _OfWhomItRunsFor(tuple(tools or ()))


class _OfWhomItRunsFor:
    """Every use goes to a dispatcher of the execution in which it is made."""

    def __init__(self, tools: tuple[Any, ...]) -> None:
        self._tools = tools
        self._made: dict[int, UnifiedToolDispatcher] = {}
        """Those of executions that go on, by the number of their contexts."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        from isolane.migration.legacy.identity import bound_now  # noqa: PLC0415 - the other legacy names, on first use

        bound = bound_now()
        context = bound.context if bound is not None else None
        if context is None:
            raise AuthenticationError(
                "a dispatcher of all users is that of the run for which the code runs, and there is none here. Make "
                "one for the request: await UnifiedToolDispatcher.create_for_user(user_context)"
            )
        return getattr(self._of(context), name)

    def _of(self, context: UserExecutionContext) -> UnifiedToolDispatcher:
        number = context._lineage[-1]  # noqa: SLF001 - a number without meaning for anybody else
        dispatcher = self._made.get(number)
        if dispatcher is None:
            dispatcher = _configured().create_dispatcher(context, None, self._tools)

            async def end() -> None:
                self._made.pop(number, None)
                await dispatcher.cleanup()

            context.register_cleanup_callback(end)
            self._made[number] = dispatcher
        return dispatcher


@contextlib.asynccontextmanager
async def create_request_scoped_dispatcher(
    user_context: UserExecutionContext, websocket_manager: Any = None, tools: Iterable[Any] | None = None
) -> AsyncIterator[UnifiedToolDispatcher]:
    """Make a dispatcher for the length of an ``async with`` block."""
    dispatcher = UnifiedToolDispatcherFactory.create_for_request(user_context, websocket_manager, tools)
    try:
        yield dispatcher
    finally:
        await dispatcher.cleanup()


_process: UnifiedToolDispatcherFactory | None = None
_process_lock = threading.Lock()


def _configured() -> UnifiedToolDispatcherFactory:
    """Return the factory of the process, made on first use: then it lets nobody call anything."""
    global _process  # noqa: PLW0603 - the host's own way
    with _process_lock:
        if _process is None:
            _process = UnifiedToolDispatcherFactory()
        return _process


def _check_user(context: Any) -> None:
    if context is None or not getattr(context, "user_id", None):
        raise AuthenticationError(
            "a dispatcher needs a user: pass the UserExecutionContext of the request, made where it is authenticated"
        )


def _events_of(manager: Any, context: UserExecutionContext) -> tuple[ManagerEvents | None, Any]:
    """Return who sends to a manager of the host's, if it is one, and the emitter of the dispatcher."""
    if isinstance(manager, UserWebSocketEmitter):
        return None, manager
    if manager is None or not callable(getattr(manager, "send_event", None)):
        # isolane's own bridges publish into the log, which the context's emitter does.
        return None, None
    events = ManagerEvents(manager, context)
    owner = getattr(manager, "user_id", None)
    if isinstance(owner, str) and owner != context.user_id:
        raise SecurityViolationError("the WebSocket manager belongs to another user than the context", "bind")
    return events, events
