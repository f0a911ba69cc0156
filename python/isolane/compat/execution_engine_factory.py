"""The host's ``execution_engine_factory``: engines with slots and lifetimes, by the host's names."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from isolane._core import (
    ContextIsolationError,
    FairLimiter,
    InvalidContextError,
    UnifiedIDManager,
    UserExecutionContext,
    stream_has_ended,
)
from isolane.compat.agent_instance_factory import UserWebSocketEmitter, get_agent_instance_factory
from isolane.compat.user_execution_engine import UserExecutionEngine
from isolane.contexts.factory import validate_user_context
from isolane.engines import ExecutionEngineFactory as _Factory
from isolane.engines import ExecutionEngineFactoryError
from isolane.engines import UserExecutionEngine as _Engine
from isolane.engines.factory import ENDED, NO_PROCESS_LIMIT
from isolane.events.bridge import WebSocketBridgeFactory as _Bridge

__all__ = [
    "ExecutionEngineFactory",
    "ExecutionEngineFactoryError",
    "UserExecutionEngine",
    "UserExecutionEngineError",
    "UserIsolationError",
    "configure_execution_engine_factory",
    "get_execution_engine_factory",
    "user_execution_engine",
]

logger = logging.getLogger("isolane.compat")

_CompatEngine = UserExecutionEngine
"""The class itself, whatever the name above is replaced by."""

UserExecutionEngineError = ExecutionEngineFactoryError
"""The host's later name for the same class."""

UserIsolationError = ContextIsolationError
"""The host's later name for the same class."""


class _Guest:
    """An engine of another class, with what the factory asks of an engine."""

    def __init__(self, engine: Any, context: UserExecutionContext) -> None:
        self.engine = engine
        self.context = context
        self._tasks: set[asyncio.Task[Any]] = set()
        self._steps: set[UserExecutionContext] = set()
        self.end_reason: str | None = None

    def _held(self) -> int:
        return 0

    @property
    def active_runs(self) -> Mapping[str, Any]:
        return self.context.active_runs

    async def _close(self, grace: float, _reason: str) -> bool:
        result = self.engine.cleanup()
        if inspect.isawaitable(result):
            try:
                async with asyncio.timeout(grace):
                    await result
            except TimeoutError:
                return False
        return True


class ExecutionEngineFactory(_Factory):
    """Makes one engine per request within the user's limit: isolane's factory with the host's arguments and keys.

    What it needs besides, it looks up in this module when it is called: ``validate_user_context``,
    ``get_agent_instance_factory``, ``UserWebSocketEmitter`` and ``UserExecutionEngine``.

    Args:
        websocket_bridge: what the emitters publish to: the host's bridge, or isolane's ``WebSocketBridgeFactory``.
        database_session_manager: handed to each engine as an attribute. Default: none.
        redis_manager: the same.

    Raises ``ExecutionEngineFactoryError`` without a bridge.
    """

    def __init__(
        self, websocket_bridge: Any = None, database_session_manager: Any = None, redis_manager: Any = None
    ) -> None:
        if not websocket_bridge:
            raise ExecutionEngineFactoryError(
                "ExecutionEngineFactory requires websocket_bridge: without it nobody would get the WebSocket events "
                "that enable chat business value. Pass the service's bridge, or isolane.WebSocketBridgeFactory()"
            )
        super().__init__()
        self._websocket_bridge = websocket_bridge
        self._database_session_manager = database_session_manager
        self._redis_manager = redis_manager
        self._active_engines: dict[str, Any] = {}
        self._keys: dict[_Engine, str] = {}
        self._guests: dict[int, list[_Guest]] = {}
        # For callers of the host: nothing here waits for it.
        self._engine_lock = asyncio.Lock()
        self._shutdown_event = asyncio.Event()
        self._cleanup_task: asyncio.Task[None] | None = None
        self._factory_metrics = {
            "total_engines_created": 0,
            "total_engines_cleaned": 0,
            "active_engines_count": 0,
            "creation_errors": 0,
            "cleanup_errors": 0,
            "timeout_cleanups": 0,
            "user_limit_rejections": 0,
        }

    @property
    def _max_engines_per_user(self) -> int:
        return self.max_engines_per_user

    @_max_engines_per_user.setter
    def _max_engines_per_user(self, limit: int) -> None:
        if self._engines:
            raise RuntimeError("_max_engines_per_user cannot change while there are engines; set it before the first")
        self._slots = FairLimiter(NO_PROCESS_LIMIT, limit)._unmetered()  # noqa: SLF001 - its own
        self.max_engines_per_user = limit

    @property
    def _engine_timeout_seconds(self) -> float:
        return self.engine_timeout_seconds

    @_engine_timeout_seconds.setter
    def _engine_timeout_seconds(self, seconds: float) -> None:
        self.engine_timeout_seconds = seconds

    @property
    def _cleanup_interval(self) -> float:
        return self.cleanup_interval

    @_cleanup_interval.setter
    def _cleanup_interval(self, seconds: float) -> None:
        self.cleanup_interval = seconds

    @property
    def _tool_dispatcher_factory(self) -> Any:
        return self.tool_dispatcher_factory

    @_tool_dispatcher_factory.setter
    def _tool_dispatcher_factory(self, tool_dispatcher_factory: Any) -> None:
        self.tool_dispatcher_factory = tool_dispatcher_factory

    def set_tool_dispatcher_factory(self, tool_dispatcher_factory: Any) -> None:
        """Keep what makes the dispatchers of tools. Nothing in this version uses it."""
        self.tool_dispatcher_factory = tool_dispatcher_factory

    # -- making ----------------------------------------------------------------------------------------------------

    async def create_for_user(self, context: UserExecutionContext) -> UserExecutionEngine:
        """Make an engine for the context. A child context shares the engine of the context above it.

        Raises ``ExecutionEngineFactoryError``: ``Invalid user context`` for what no engine may serve,
        ``EngineLimitError`` (of the same class) when the user has all engines that are allowed, and
        ``Engine creation failed`` for the rest. Nothing stays registered.
        """
        try:
            return await self._create(context)
        except ExecutionEngineFactoryError:
            self._factory_metrics["creation_errors"] += 1
            raise
        except Exception as error:
            self._factory_metrics["creation_errors"] += 1
            raise ExecutionEngineFactoryError(f"Engine creation failed: {error}") from error

    async def create_execution_engine(self, context: UserExecutionContext) -> UserExecutionEngine:
        """Another name for ``create_for_user``."""
        return await self.create_for_user(context)

    async def _create(self, context: UserExecutionContext) -> UserExecutionEngine:
        self._check_open()
        try:
            context = validate_user_context(context)
        except (TypeError, InvalidContextError) as error:
            raise ExecutionEngineFactoryError(f"Invalid user context: {error}") from error
        shared = self._engine_above(context)
        if shared is not None:
            return cast("UserExecutionEngine", shared.engine if isinstance(shared, _Guest) else shared)
        _check_run(context)
        await self._retire_inactive(context.user_id)
        slot = await self._reserve(context)
        try:
            engine = await self._build(context)
            # Meanwhile a shutdown may have begun, and another engine of the run may have ended it.
            self._check_open()
            _check_run(context)
        except BaseException:
            # The slot is reserved before anything is built and given back whatever fails.
            slot.release()
            self._book.failed()
            raise
        made: object = engine
        entry: Any = made
        if not isinstance(made, _Engine):
            # By id(): a guest keeps its engine, and the host's need not be hashable. A list, because the host's may be
            # given out more than once.
            entry = _Guest(engine, context)
            self._guests.setdefault(id(engine), []).append(entry)
        if isinstance(made, _CompatEngine):
            made._adopted(self, self.engine_timeout_seconds)  # noqa: SLF001 - the engine's other half
        self._register(entry, slot)
        self._keys[entry] = key = f"{context.user_id}_{context.run_id}_{UnifiedIDManager.generate_request_id()[4:]}"
        self._active_engines[key] = engine
        self._factory_metrics["total_engines_created"] += 1
        self._factory_metrics["active_engines_count"] = len(self._active_engines)
        self._start_cleanup_task()
        return engine

    async def _build(self, context: UserExecutionContext) -> UserExecutionEngine:
        # Looked up in the module at each call, so that replacing a name there takes effect.
        agent_factory = get_agent_instance_factory()
        if inspect.isawaitable(agent_factory):
            agent_factory = await agent_factory
        emitter = UserWebSocketEmitter(
            user_id=context.user_id,
            thread_id=context.thread_id,
            run_id=context.run_id,
            websocket_bridge=self._websocket_bridge,
        )
        engine = UserExecutionEngine(context=context, agent_factory=agent_factory, websocket_emitter=emitter)
        engine.database_session_manager = self._database_session_manager
        engine.redis_manager = self._redis_manager
        # isolane's factory with the host's pool: the run's events go to the socket that its request came from.
        follow = getattr(self._websocket_bridge, "follow", None)
        if follow is not None and isinstance(self._websocket_bridge, _Bridge):
            await follow(context)
        return engine

    async def _reserve(self, context: UserExecutionContext) -> Any:
        try:
            return await super()._reserve(context)
        finally:
            self._factory_metrics["user_limit_rejections"] = self._rejections

    # -- ending ----------------------------------------------------------------------------------------------------

    def _entry(self, engine: Any) -> _Engine | None:
        if isinstance(engine, _Engine):
            return engine if engine in self._numbers else None
        guests = self._guests.get(id(engine))
        return cast("_Engine", guests[0]) if guests else None

    async def cleanup_engine(self, engine: Any) -> None:
        """End an engine, or nothing for ``None``. Never raises: what goes wrong is logged and counted."""
        entry = self._entry(engine) if engine is not None else None
        if entry is not None:
            await self._end(entry, "closed", "the run ended")
        elif len(self._active_engines) != len(self._keys):
            # Somebody has put engines into the dictionary.
            for key in [key for key, other in self._active_engines.items() if other is engine]:
                await self._end_unknown(key)

    async def _end(self, engine: _Engine, how: str, reason: str) -> None:
        key = self._keys.pop(engine, None)
        if key is None:
            return
        self._active_engines.pop(key, None)
        if isinstance(engine, _Guest):
            guests = self._guests[id(engine.engine)]
            guests.remove(engine)
            if not guests:
                del self._guests[id(engine.engine)]
        metrics = self._factory_metrics
        metrics["total_engines_cleaned"] += 1
        metrics["timeout_cleanups"] += how == "expired"
        metrics["active_engines_count"] = len(self._active_engines)
        failed = self._cleanup_errors
        try:
            await super()._end(engine, how, reason)
        finally:
            metrics["cleanup_errors"] += self._cleanup_errors - failed

    def _fail_context(self, engine: _Engine) -> None:
        """Leave the context as it is: the host ends its own."""

    async def _end_context(self, engine: _Engine, *, expired: bool) -> None:  # noqa: ARG002 - the same
        await super()._end_context(engine, expired=False)

    async def _end_unknown(self, key: str) -> None:
        """End an engine that somebody put into the dictionary: it has no slot here."""
        engine = self._active_engines.pop(key)
        metrics = self._factory_metrics
        metrics["total_engines_cleaned"] += 1
        metrics["active_engines_count"] = len(self._active_engines)
        try:
            result = engine.cleanup()
            if inspect.isawaitable(result):
                async with asyncio.timeout(self.grace):
                    await result
        except Exception:
            metrics["cleanup_errors"] += 1
            logger.exception("the clean-up of an engine failed")

    def _over(self, engine: Any) -> str | None:
        """Return why an engine is to be ended: ``inactive``, ``timeout`` or ``error``; ``None`` when it is not."""
        try:
            if not engine.is_active():
                return "inactive"
            created = engine.created_at
            if isinstance(created, datetime):
                created = created if created.tzinfo is not None else created.replace(tzinfo=UTC)
                if (datetime.now(UTC) - created).total_seconds() > self.engine_timeout_seconds:
                    return "timeout"
        except Exception:
            logger.exception("an engine does not say whether it is active; it is ended")
            return "error"
        return None

    async def _retire(self, key: str, reason: str) -> None:
        entry = self._entry(self._active_engines.get(key))
        logger.info("an engine is ended: %s", reason)
        if entry is not None:
            await self._end(entry, "expired" if reason == "timeout" else "closed", f"the engine was ended: {reason}")
        elif key in self._active_engines:
            self._factory_metrics["timeout_cleanups"] += reason == "timeout"
            await self._end_unknown(key)

    async def _cleanup_inactive_engines(self) -> None:
        """End the engines that are inactive, too old, or in error."""
        over = [(key, self._over(engine)) for key, engine in self._active_engines.items()]
        # Under no lock, and at once: an engine may come back here while it ends, and one that hangs delays no other.
        await asyncio.gather(*(self._retire(key, reason) for key, reason in over if reason is not None))

    async def _retire_inactive(self, user_id: str) -> None:
        """An engine that says that it is inactive does not count against the limit of its user."""
        for guest in [guest for guests in self._guests.values() for guest in guests]:
            if guest.context.user_id == user_id and self._over(guest.engine) is not None:
                await self._end(cast("_Engine", guest), "closed", "the engine was ended: inactive")

    def _start_cleanup_task(self) -> None:
        task = self._cleanup_task
        if task is not None and task.get_loop() is not asyncio.get_running_loop():
            # A factory may outlive an event loop, but what waits in one does not work in the next.
            task = None
            self._shutdown_event = asyncio.Event()
        if task is None or task.done():
            self._cleanup_task = asyncio.create_task(_sweep(weakref.ref(self), self._shutdown_event))

    async def cleanup_user_context(self, user_id: str) -> bool:
        """End all engines of a user. Returns whether there were any."""
        found = await super().cleanup_user_context(user_id)
        for key, engine in list(self._active_engines.items()):
            if getattr(getattr(engine, "context", None), "user_id", None) == user_id:
                await self._end_unknown(key)
                found = True
        return found

    async def shutdown(self, drain: float = 25.0) -> None:
        """Make no more engines, wait up to ``drain`` seconds for those that run, then end them.

        ``reopen()`` lets it make engines again.
        """
        self._shutdown_event.set()
        await super().shutdown(drain)
        for key in list(self._active_engines):
            await self._end_unknown(key)
        task, self._cleanup_task = self._cleanup_task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([task])

    async def cleanup_all_contexts(self) -> None:
        """Another name for ``shutdown``."""
        await self.shutdown()

    def reopen(self) -> None:
        """Make engines again after a shutdown."""
        self._shutdown_event.clear()
        super().reopen()

    # -- figures ---------------------------------------------------------------------------------------------------

    def get_factory_metrics(self) -> dict[str, Any]:
        """Return the counts by the host's names, with the settings and the keys of the living engines."""
        self._factory_metrics["active_engines_count"] = len(self._active_engines)
        return {
            **self._factory_metrics,
            "max_engines_per_user": self.max_engines_per_user,
            "engine_timeout_seconds": self.engine_timeout_seconds,
            "cleanup_interval": self.cleanup_interval,
            "active_engine_keys": list(self._active_engines),
            "cleanup_task_running": self._cleanup_task is not None and not self._cleanup_task.done(),
            "timestamp": datetime.now(UTC).isoformat(),
        }

    def get_active_contexts(self) -> dict[str, int]:
        """Return how many engines each user has."""
        counts: dict[str, int] = {}
        for entry in self._keys:
            counts[entry.context.user_id] = counts.get(entry.context.user_id, 0) + 1
        return counts


def _check_run(context: UserExecutionContext) -> None:
    if context.status in ENDED or stream_has_ended(context):
        raise ExecutionEngineFactoryError(
            "Invalid user context: its run has ended. Make a context with a new run id for the next engine"
        )


async def _sweep(reference: weakref.ref[ExecutionEngineFactory], shutdown: asyncio.Event) -> None:
    """Look for engines to end, every ``_cleanup_interval`` seconds. Ends with the last engine."""
    while True:
        # Held only while it sweeps: the task must not keep a factory alive that nobody else holds.
        factory = reference()
        if factory is None or not factory._active_engines:  # noqa: SLF001 - the factory's own task
            return
        interval = factory.cleanup_interval
        del factory
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(interval):
                await shutdown.wait()
            return
        factory = reference()
        if factory is not None:
            await factory._cleanup_inactive_engines()  # noqa: SLF001 - the factory's own task
        del factory


_factory_instance: ExecutionEngineFactory | None = None
_factory_lock = threading.Lock()


async def configure_execution_engine_factory(
    websocket_bridge: Any, database_session_manager: Any = None, redis_manager: Any = None
) -> ExecutionEngineFactory:
    """Make the factory of the process, at start-up. One that was configured before makes no more engines.

    Raises ``ExecutionEngineFactoryError`` without a bridge.
    """
    global _factory_instance
    factory = ExecutionEngineFactory(websocket_bridge, database_session_manager, redis_manager)
    with _factory_lock:
        before, _factory_instance = _factory_instance, factory
    if before is not None:
        before.refuse()
    return factory


async def get_execution_engine_factory(app: Any = None) -> ExecutionEngineFactory:
    """Return the factory of an application, or else that of the process.

    Args:
        app: looked at for ``app.state.execution_engine_factory``. Default: no application is looked at.

    Raises ``ExecutionEngineFactoryError`` when there is neither.
    """
    held = getattr(getattr(app, "state", None), "execution_engine_factory", None)
    factory = held if held is not None else _factory_instance
    if factory is None:
        raise ExecutionEngineFactoryError(
            "ExecutionEngineFactory is not configured. Call configure_execution_engine_factory(bridge) at start-up"
        )
    return cast("ExecutionEngineFactory", factory)


@contextlib.asynccontextmanager
async def user_execution_engine(context: UserExecutionContext) -> AsyncIterator[UserExecutionEngine]:
    """Yield an engine for the context, from the factory of the process; it is ended with the block."""
    factory = await get_execution_engine_factory()
    async with factory.user_execution_scope(context) as engine:
        yield cast("UserExecutionEngine", engine)
