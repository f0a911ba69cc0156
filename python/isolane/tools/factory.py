"""``UnifiedToolDispatcherFactory``: makes the tool dispatchers of requests."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from isolane._core import ContextIsolationError, UserExecutionContext, UserWebSocketEmitter, _refusal
from isolane.security.events import AuditSink
from isolane.security.permissions.boundary import PermissionBoundarySystem
from isolane.security.permissions.engine import PermissionEngine
from isolane.security.permissions.errors import PermissionDeniedError
from isolane.security.permissions.result import ViolationType
from isolane.tools.calls import Calls
from isolane.tools.dispatcher import ADMINISTER, EXECUTE, UnifiedToolDispatcher
from isolane.tools.registry import ToolRegistry
from isolane.tools.request import DispatchStrategy
from isolane.tools.threads import ToolThreads, threads_of_process

ADMIN_TOOLS = frozenset(
    {
        "corpus_create",
        "corpus_delete",
        "corpus_update",
        "log_analyzer",
        "synthetic_generator",
        "system_config",
        "user_admin",
    }
)
"""Tools of administration by their names, however they were registered."""


class Sanitizer(Protocol):
    """What looks through parameters and results, as ``DataSanitizer`` does."""

    def sanitize(self, value: Any, *, boundary: str, context: Any) -> Any:
        """Return an object whose ``value`` is what may pass."""


class UnifiedToolDispatcherFactory:
    """Makes one dispatcher for each request, and holds nothing of any user.

    What nothing permits is refused: without ``permissions`` no tool can be called.

    Args:
        registry: the tools of the application. Default: none; a dispatcher can have tools of its own.
        permissions: who may use which tool: roles, or a boundary system with services. Default: nobody may use any.
        sanitizer: looks through parameters (``tool_params``) and results (``llm``). Default: none.
        audit: records checks, unless ``permissions`` is a boundary system, which has its own.
        timeout: seconds of a call, unless its tool says otherwise.
        calls_per_user: calls of one user under way at a time.
        threads: for synchronous tools. Default: those of the process.
        admin_roles: names in ``context.permissions`` of which administrators have one.
        admin_tools: names of tools of administration, beside those that are registered as such.
    """

    def __init__(
        self,
        registry: ToolRegistry | Iterable[Any] | None = None,
        *,
        permissions: PermissionEngine | PermissionBoundarySystem | None = None,
        sanitizer: Sanitizer | None = None,
        audit: AuditSink | None = None,
        timeout: float = 30.0,
        calls_per_user: int = 64,
        threads: ToolThreads | None = None,
        admin_roles: Iterable[str] = ("admin",),
        admin_tools: Iterable[str] = ADMIN_TOOLS,
    ) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, got {timeout!r}")
        if isinstance(permissions, PermissionBoundarySystem):
            if audit is not None:
                raise ValueError("give audit= to the PermissionBoundarySystem; it records the checks")
            self.permissions = permissions
        else:
            # The context is verified once, when the dispatcher is made.
            self.permissions = PermissionBoundarySystem(permissions, audit=audit, verify_context=False)
        self.sanitizer = sanitizer
        self.timeout = timeout
        self.admin_roles = frozenset(admin_roles)
        self.admin_tools = frozenset(admin_tools)
        self.calls = Calls(calls_per_user)
        self._threads = threads
        self._tools: Mapping[str, Any] = MappingProxyType({})
        self._dispatchers: weakref.WeakSet[UnifiedToolDispatcher] = weakref.WeakSet()
        self._made = 0
        if registry is not None:
            self.set_tool_registry(registry)

    @property
    def threads(self) -> ToolThreads:
        """The threads of synchronous tools."""
        return self._threads if self._threads is not None else threads_of_process()

    def set_tool_registry(self, registry: ToolRegistry | Iterable[Any]) -> None:
        """Set the tools of dispatchers that are made from now on. Those that there are keep theirs."""
        held = registry if isinstance(registry, ToolRegistry) else ToolRegistry(registry)
        self._tools = MappingProxyType(held.tools())

    def has_admin_role(self, context: UserExecutionContext) -> bool:
        """Return whether authentication gave the user a role of administration."""
        return not self.admin_roles.isdisjoint(context.permissions)

    # -- making ----------------------------------------------------------------------------------------------------

    def create_dispatcher(
        self,
        context: UserExecutionContext,
        *,
        tools: Iterable[Any] = (),
        strategy: DispatchStrategy | str = DispatchStrategy.DEFAULT,
        websocket_emitter: UserWebSocketEmitter | None = None,
    ) -> UnifiedToolDispatcher:
        """Make the dispatcher of a request. It is there at once; ``await`` of it works as well.

        Args:
            context: the context of the request.
            tools: further tools, for this dispatcher alone.
            strategy: what kind of dispatcher; ``ADMIN`` as ``create_for_admin``.
            websocket_emitter: publishes its events. Default: that of the context.

        Raises ``TypeError`` for what is no context, ``ContextIsolationError`` for a planted violation or another user's
        emitter, and ``PermissionDeniedError`` for ``ADMIN`` without a role of administration.
        """
        strategy = DispatchStrategy(strategy)
        if not isinstance(context, UserExecutionContext):
            raise TypeError(
                f"Expected UserExecutionContext, got: {type(context).__name__}. Make one with from_request(...)"
            )
        self._verify(context, websocket_emitter)
        if strategy is DispatchStrategy.ADMIN and not self.has_admin_role(context):
            result = self.permissions.refuse(
                *(context, ADMINISTER, ()), *(ViolationType.INSUFFICIENT_PERMISSIONS, "admin_role_required")
            )
            raise PermissionDeniedError(result.code, result)
        dispatcher = UnifiedToolDispatcher(
            context, _factory=self, _tools=self._tools, _strategy=strategy, _emitter=websocket_emitter
        )
        for tool in tools:
            dispatcher.register_tool(tool)
        self._dispatchers.add(dispatcher)
        self._made += 1
        return dispatcher

    def _verify(self, context: UserExecutionContext, emitter: UserWebSocketEmitter | None) -> None:
        """Refuse, and record, what holds another user's things."""
        try:
            context.verify_isolation()
        except ContextIsolationError:
            self.permissions.refuse(
                *(context, EXECUTE, ()), *(ViolationType.CONTEXT_INTEGRITY_FAILURE, "context_not_isolated")
            )
            raise
        if emitter is not None and emitter.user_id != context.user_id:
            self.permissions.refuse(context, EXECUTE, (), ViolationType.CROSS_USER_ACCESS_RISK, "foreign_emitter")
            raise _refusal("the emitter belongs to another user than the context", "bind")

    def create_for_request(
        self,
        user_context: UserExecutionContext,
        tools: Iterable[Any] = (),
        websocket_emitter: UserWebSocketEmitter | None = None,
    ) -> UnifiedToolDispatcher:
        """Make the dispatcher of a request, as ``create_dispatcher``."""
        return self.create_dispatcher(user_context, tools=tools, websocket_emitter=websocket_emitter)

    def create_for_admin(
        self,
        user_context: UserExecutionContext,
        db: Any = None,  # noqa: ARG002 - the seeds'
        user: Any = None,
        tools: Iterable[Any] = (),
        websocket_emitter: UserWebSocketEmitter | None = None,
    ) -> UnifiedToolDispatcher:
        """Make a dispatcher that may run tools of administration. The roles must allow ``tool.admin`` as well.

        ``user`` may be the application's record of the same user; one that belongs to somebody else is refused. Being
        an administrator comes from ``context.permissions`` alone. Raises ``PermissionDeniedError``.
        """
        named = getattr(user, "user_id", getattr(user, "id", None)) if user is not None else None
        if named is not None and str(named) != user_context.user_id:
            result = self.permissions.refuse(
                *(user_context, ADMINISTER, ()), *(ViolationType.CROSS_USER_ACCESS_RISK, "foreign_user")
            )
            raise PermissionDeniedError(result.code, result)
        return self.create_dispatcher(
            user_context, tools=tools, strategy=DispatchStrategy.ADMIN, websocket_emitter=websocket_emitter
        )

    @contextlib.asynccontextmanager
    async def create_scoped(
        self, context: UserExecutionContext, **options: Any
    ) -> AsyncIterator[UnifiedToolDispatcher]:
        """``async with factory.create_scoped(context) as tools``: made on entry, cleaned up on exit."""
        dispatcher = self.create_dispatcher(context, **options)
        try:
            yield dispatcher
        finally:
            await dispatcher.cleanup()

    # -- ending ----------------------------------------------------------------------------------------------------

    async def cleanup_all_dispatchers(self) -> int:
        """Clean all dispatchers up. Returns how many were open."""
        living = [dispatcher for dispatcher in self._dispatchers if not dispatcher.is_closed]
        await asyncio.gather(*(dispatcher.cleanup() for dispatcher in living))
        return len(living)

    def get_metrics(self) -> dict[str, Any]:
        """Return counts: dispatchers, calls under way, and of each tool (up to 256) its calls and their times."""
        return {
            "dispatchers_created": self._made,
            "dispatchers_active": sum(not dispatcher.is_closed for dispatcher in self._dispatchers),
            "tools_registered": len(self._tools),
            **self.calls.book.figures(),
            "threads": self.threads.stats(),
        }

    def __repr__(self) -> str:
        return f"<UnifiedToolDispatcherFactory {len(self._tools)} tools, {len(self._dispatchers)} dispatchers>"
