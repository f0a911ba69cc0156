"""``FactoryAdapter``: which route takes the factories, and which the service's own engine."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum
from typing import Any

from isolane._core import ContextIsolationError, InvalidContextError, LimitRejected, UserExecutionContext
from isolane.contexts.factory import UserContextFactory
from isolane.engines.errors import ExecutionEngineFactoryError
from isolane.engines.factory import ExecutionEngineFactory
from isolane.events.bridge import WebSocketBridgeFactory
from isolane.limits import LimitTimeout
from isolane.migration.deprecation import deprecated_call
from isolane.migration.legacy.errors import CrossUserSendError
from isolane.migration.legacy.identity import Bound, bound_here
from isolane.migration.legacy.refusals import Refusals
from isolane.security.errors import ResponseWithheldError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity

logger = logging.getLogger("isolane.migration")

MODE = "FACTORY_MIGRATION_MODE"
FALLBACK = "FACTORY_LEGACY_FALLBACK"
MAX_ROUTES = 1000

NEVER_FALLS_BACK = (
    ContextIsolationError,
    InvalidContextError,
    ResponseWithheldError,
    LimitRejected,
    LimitTimeout,
    ExecutionEngineFactoryError,
)
"""Refusals: what is not to run does not run the older way either."""


class MigrationMode(Enum):
    """Who decides which way a request goes."""

    LEGACY_ONLY = "legacy_only"
    """All go the older way."""
    FACTORY_PREFERRED = "factory_preferred"
    """All take the factories, but for the routes that were taken out."""
    FACTORY_ONLY = "factory_only"
    """All take the factories, and nothing falls back."""
    GRADUAL = "gradual"
    """The routes that were put in, and the users whose flags say so, take the factories."""


class FactoryAdapter:
    """Gives a request an engine and an emitter, the modern way or the older one.

    An error never sends a request the older way by itself: only with ``legacy_fallback=True``, never in
    ``factory_only``, and never a refusal. Each time is counted, logged and recorded.

    Args:
        execution_engine_factory: makes the engines.
        websocket_bridge_factory: makes the emitters.
        mode: default: ``FACTORY_MIGRATION_MODE``, else ``factory_preferred``.
        flags: for ``gradual``: has ``modes(context)``, as ``MigrationFeatureFlags``.
        legacy_engine: the service's own engine, or a function that returns it.
        legacy_bridge: the service's own bridge, or a function that returns it.
        legacy_fallback: default: ``FACTORY_LEGACY_FALLBACK``, else ``False``.
        audit: records refusals and fallbacks.

    Raises:
        ValueError: a variable has a value that is not allowed.
    """

    def __init__(
        self,
        execution_engine_factory: ExecutionEngineFactory,
        websocket_bridge_factory: WebSocketBridgeFactory,
        mode: MigrationMode | str | None = None,
        *,
        flags: Any = None,
        legacy_engine: Any = None,
        legacy_bridge: Any = None,
        legacy_fallback: bool | None = None,
        audit: AuditSink | None = None,
    ) -> None:
        self.execution_engine_factory = execution_engine_factory
        self.websocket_bridge_factory = websocket_bridge_factory
        self.mode = _mode(mode)
        self.flags = flags
        self.legacy_fallback = _is_on(FALLBACK) if legacy_fallback is None else legacy_fallback
        self.audit = audit
        self._legacy = {"engine": legacy_engine, "bridge": legacy_bridge}
        self._refusals = Refusals(audit)
        self._lock = threading.Lock()
        self._routes: OrderedDict[str, bool] = OrderedDict()
        self._counts = {"factory": 0, "legacy": 0, "fallback": 0}

    # -- routes ----------------------------------------------------------------------------------------------------

    def enable_factory_for_route(self, route_path: str) -> None:
        """Let a route take the factories. Of more than 1000 the one that was named longest ago is forgotten."""
        self._set_route(route_path, enabled=True)

    def disable_factory_for_route(self, route_path: str) -> None:
        """Let a route go the older way, but for ``factory_only``."""
        self._set_route(route_path, enabled=False)

    def _set_route(self, route_path: str, *, enabled: bool) -> None:
        with self._lock:
            self._routes[route_path] = enabled
            self._routes.move_to_end(route_path)
            while len(self._routes) > MAX_ROUTES:
                self._routes.popitem(last=False)

    def takes_factory(self, context: UserExecutionContext, route_path: str | None = None) -> bool:
        """Return which way a run goes. Asked again about the same run, flags answer the same."""
        if self.mode in {MigrationMode.FACTORY_ONLY, MigrationMode.LEGACY_ONLY}:
            return self.mode is MigrationMode.FACTORY_ONLY
        named = self._routes.get(route_path) if route_path is not None else None
        if named is not None:
            return named
        if self.mode is MigrationMode.FACTORY_PREFERRED:
            return True
        return self.flags is not None and bool(self.flags.modes(context).is_modern)

    # -- what a request gets ---------------------------------------------------------------------------------------

    async def get_execution_engine(
        self,
        request_context: UserExecutionContext | Mapping[str, Any] | None = None,
        route_path: str | None = None,
        **_: Any,
    ) -> Any:
        """Return an engine for the run, or the service's own.

        Raises ``CrossUserSendError`` for a context of another user than the one for whom the code runs, what the
        factory raises, and ``RuntimeError`` where the older way is to be taken and there is none.
        """
        context = await self._context(request_context, "get_execution_engine")
        return await self._either(
            context, route_path, "engine", lambda: self.execution_engine_factory.create_for_user(context)
        )

    async def get_websocket_bridge(
        self,
        request_context: UserExecutionContext | Mapping[str, Any] | None = None,
        route_path: str | None = None,
        **_: Any,
    ) -> Any:
        """Return an emitter for the run, or the service's own bridge. Raises as ``get_execution_engine`` does."""
        context = await self._context(request_context, "get_websocket_bridge")
        return await self._either(
            context,
            route_path,
            "bridge",
            lambda: self.websocket_bridge_factory.create_user_emitter(context.user_id, context),
        )

    async def _either(self, context: UserExecutionContext, route_path: str | None, kind: str, make: Any) -> Any:
        if not self.takes_factory(context, route_path):
            return self._older(kind)
        try:
            made = await make()
        except NEVER_FALLS_BACK:
            raise
        except Exception as error:
            if not self.legacy_fallback or self.mode is MigrationMode.FACTORY_ONLY:
                raise
            self._note_fallback(context, kind, error)
            return self._older(kind)
        self._count("factory")
        return made

    def _older(self, kind: str) -> Any:
        held = self._legacy[kind]
        if held is None:
            raise RuntimeError(
                f"this request goes the older way, and the adapter has no legacy_{kind}: pass the service's own, or "
                "let the route take the factories"
            )
        deprecated_call("FactoryAdapter.legacy_route", "ISO-D010")
        self._count("legacy")
        return held() if callable(held) else held

    def _note_fallback(self, context: UserExecutionContext, kind: str, error: Exception) -> None:
        self._count("fallback")
        logger.error("a request fell back to the older %s: %s", kind, type(error).__name__)
        if self.audit is not None:
            self.audit.record(
                SecurityEvent(
                    name="legacy_fallback",
                    audit_class=AuditClass.ISOLATION,
                    user_id=context.user_id,
                    severity=Severity.HIGH,
                    data={"boundary": "legacy", "kind": kind, "error": type(error).__name__},
                )
            )

    def _count(self, which: str) -> None:
        with self._lock:
            self._counts[which] += 1

    async def _context(self, given: UserExecutionContext | Mapping[str, Any] | None, call: str) -> UserExecutionContext:
        bound = await bound_here()
        if given is None:
            if bound is None or bound.context is None:
                raise InvalidContextError(
                    f"{call} needs the context of the run; pass request_context", "request_context", "required"
                )
            return bound.context
        context = given if isinstance(given, UserExecutionContext) else _made_of(given)
        if bound is not None and bound.user_id != context.user_id:
            self._refuse(bound, call)
        return context

    def _refuse(self, bound: Bound, call: str) -> None:
        error = CrossUserSendError(
            f"{call} is given a context of another user than the one for whom this code runs", "bind", call=call
        )
        self._refusals.note(error, bound.user_id, call)
        raise error

    def get_migration_status(self) -> dict[str, Any]:
        """Return the mode, the routes, and how often each way was taken. Names nobody."""
        with self._lock:
            taken = self._counts["factory"] + self._counts["legacy"]
            return {
                "migration_mode": self.mode.value,
                "legacy_fallback": self.legacy_fallback,
                "routes_enabled": sorted(route for route, enabled in self._routes.items() if enabled),
                "routes_disabled": sorted(route for route, enabled in self._routes.items() if not enabled),
                "factory_requests": self._counts["factory"],
                "legacy_requests": self._counts["legacy"],
                "fallbacks": self._counts["fallback"],
                "factory_percent": 100.0 * self._counts["factory"] / taken if taken else 0.0,
                "refused": self._refusals.counts(),
            }

    def __repr__(self) -> str:
        return f"<FactoryAdapter {self.mode.value}>"


def _made_of(given: Mapping[str, Any]) -> UserExecutionContext:
    """Return a context of a request's ids. Raises ``InvalidContextError`` for ids that are missing or not allowed."""
    user_id = given.get("user_id")
    if not isinstance(user_id, str):
        raise InvalidContextError("Required field 'user_id' must be a non-empty string", "user_id", "required")
    return UserContextFactory.create_context(user_id, given.get("thread_id"), given.get("run_id"))


def _mode(mode: MigrationMode | str | None) -> MigrationMode:
    if isinstance(mode, MigrationMode):
        return mode
    text = mode if mode is not None else os.environ.get(MODE) or MigrationMode.FACTORY_PREFERRED.value
    try:
        return MigrationMode(text.strip().lower())
    except ValueError:
        known = ", ".join(one.value for one in MigrationMode)
        raise ValueError(f"{MODE} must be one of {known}; got {text!r:.80}") from None


def _is_on(variable: str) -> bool:
    text = os.environ.get(variable, "").strip().lower()
    if text in {"", "0", "false", "no", "off"}:
        return False
    if text in {"1", "true", "yes", "on"}:
        return True
    raise ValueError(f"{variable} must be true or false; got {text!r:.80}")
