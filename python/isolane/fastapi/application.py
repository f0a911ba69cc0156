"""``setup``: isolane in an application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse

from isolane._core import (
    FairLimiter,
    UserExecutionContext,
    cancel_stream,
    default_limiter,
    event_figures,
    isolation_violations,
    lane_stats,
    loop_account,
    metric,
    set_default_limiter,
    stream_state,
    sweep_lanes,
)
from isolane.agents.instances import AgentInstanceFactory
from isolane.agents.registry import AgentRegistry
from isolane.engines.factory import ExecutionEngineFactory
from isolane.events.bridge import WebSocketBridgeFactory, WebSocketConfig
from isolane.events.lag import LoopLagMonitor
from isolane.fastapi import problems
from isolane.fastapi.contamination import ContaminationMiddleware
from isolane.fastapi.draining import SignalDrain
from isolane.fastapi.event_socket import EventSocket
from isolane.fastapi.gate import Gate
from isolane.fastapi.metrics import DEFAULT_PATH, add_metrics_route
from isolane.fastapi.middleware import IsolaneMiddleware
from isolane.fastapi.principal import NotAuthenticatedError, Principal
from isolane.fastapi.rollout import Rollout, rollout_of
from isolane.fastapi.scope import request_scope
from isolane.fastapi.settings import IsolaneSettings
from isolane.fastapi.sockets import DRAINING, NOT_AUTHENTICATED
from isolane.fastapi.sse import add_event_streams
from isolane.fastapi.workers import MANY_WORKERS, worker_count
from isolane.memory.limits import MemoryGate
from isolane.security.authentication.errors import AccessRefusedError
from isolane.security.authentication.sessions import Session, SessionRegistry
from isolane.security.authentication.tickets import Tickets, TicketStore
from isolane.security.contamination import ContaminationDetector
from isolane.security.events import AuditSink
from isolane.security.probe import CanaryProbe

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.cluster import RedisCluster

    from isolane.cluster import Plane
    from isolane.cluster.limits import ClusterLimits
    from isolane.cluster.logs import ClusterLogs
    from isolane.cluster.shared import Shared
    from isolane.fastapi.sockets import Delivery
    from isolane.fastapi.sse import EventStream
    from isolane.migration.flags import MigrationFeatureFlags
    from isolane.migration.guard import RolloutGuard
    from isolane.observability.alerts import AlertManager
    from isolane.tools import UnifiedToolDispatcherFactory

logger = logging.getLogger("isolane.fastapi")

SWEEP_SECONDS = 15.0
BAD_REQUEST = 400

HEALTH_CHECKS = {
    True: metric("isolane_health_checks_total").labels("ok"),
    False: metric("isolane_health_checks_total").labels("failed"),
}

Authenticate = Callable[[HTTPConnection], Principal | Awaitable[Principal | None] | None]
ResolveIds = Callable[[HTTPConnection], Any]
SessionFactory = Callable[[UserExecutionContext], Any]
AuthorizeCommand = Callable[[Principal, str, str], bool]


_running: list[Isolane] = []


def _check_variables() -> None:
    """Refuse to start with a setting of the older names that is none: else the first request would find out."""
    if os.environ.get("ISOLANE_LEGACY_BROADCAST"):
        from isolane.migration.legacy.policy import BroadcastPolicy  # noqa: PLC0415 - only where it is set

        BroadcastPolicy.from_env()


def running_applications() -> tuple[Isolane, ...]:
    """Return what runs in this process, the latest last."""
    return tuple(_running)


class _Arrival:
    """A user who is about to connect, and may be signed out before."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.is_over = False

    def is_of(self, user_id: str, session_id: str | None) -> bool:
        """Whether it is one of the session, or of the user."""
        if self.principal.user_id.strip() != user_id.strip():
            return False
        return session_id is None or self.principal.session_id == session_id


class Isolane:
    """isolane in one application; ``app.state.isolane``.

    Attributes:
        settings: the settings in force.
        factory: makes the engines.
        bridge: makes the emitters.
        lag: measures how late the application's loop runs.
        limiter: hands out the permits.
        registry: the classes of agents.
        memory: asked before each run, or ``None``.
        gate: says who a connection is of, and which sockets may be opened.
        contamination: looks for data of one user on its way to another, or ``None``.
        probe: runs synthetic users through the application, or ``None``.
        rollout: the flags of a migration, or ``None``.
        alerts: says when the service is not as it should be, or ``None``.
        plane: what workers share on a Redis, or ``None``.
        logs: the events of users' runs on other workers, or ``None``.
        cluster_limits: shares limits with the other workers, or ``None`` without Redis.
        shared: what this application has on it beside limits and runs, or ``None``.
    """

    def __init__(
        self,
        settings: IsolaneSettings,
        authenticate: Authenticate,
        session_factory: SessionFactory | None,
        resolve_ids: ResolveIds | None,
        registry: AgentRegistry,
        memory: MemoryGate | None = None,
        limiter: FairLimiter | None = None,
        *,
        sessions: SessionRegistry | None = None,
        ticket_store: TicketStore | None = None,
        authorize_command: AuthorizeCommand | None = None,
        audit: AuditSink | None = None,
        contamination: ContaminationDetector | None = None,
        probe_seconds: float | None = None,
        tools: UnifiedToolDispatcherFactory | None = None,
        rollout: Rollout | None = None,
        alerts: AlertManager | None = None,
        plane: Plane | None = None,
    ) -> None:
        self.plane = plane
        self.logs: ClusterLogs | None = None
        self._arriving: set[_Arrival] = set()
        if plane is not None:
            self.logs = _logs_of(self, plane, settings)
        self.shared = _shared_of(plane, settings, own_tickets=ticket_store is not None)
        if self.shared is not None and self.shared.tickets is not None:
            ticket_store = self.shared.tickets
        self.settings = settings
        self.authenticate = authenticate
        self.authorize_command = authorize_command
        self.audit = audit
        tickets = Tickets(settings.websocket_ticket_seconds, store=ticket_store, audit=audit)
        self.gate = Gate(settings, authenticate, tickets, audit)
        self._sessions = sessions
        if sessions is not None:
            sessions.add_listener(self._session_ended)
        self.session_factory = session_factory
        self.resolve_ids = resolve_ids
        self.registry = registry
        self.memory = memory
        self.limiter = limiter or FairLimiter(settings.permits_total, settings.permits_per_user)
        self.bridge = WebSocketBridgeFactory(
            WebSocketConfig(
                max_events_per_user=settings.websocket_max_events_per_user,
                max_event_bytes=settings.max_event_bytes,
                retention_seconds=settings.retention_seconds,
                progress_ttl_seconds=settings.websocket_event_timeout,
                max_connections=settings.max_connections_per_user,
                sanitize=settings.sanitize_events,
            )
        )
        self.lag = LoopLagMonitor()
        self.bridge.health.lag = self.lag
        self.factory = ExecutionEngineFactory(
            self.bridge,
            max_engines_per_user=settings.max_engines_per_user,
            engine_timeout_seconds=settings.engine_timeout_seconds,
            cleanup_interval=settings.cleanup_interval,
            agent_factory=AgentInstanceFactory(registry),
            limiter=self.limiter,
            memory=memory,
            tool_dispatcher_factory=tools,
        )
        self.cluster_limits = self._share_limits(plane) if plane is not None else None
        self.contamination = contamination
        if contamination is not None and contamination.quarantine is not None:
            contamination.quarantine.attach(self.factory)
        self.probe: CanaryProbe | None = None
        if probe_seconds is not None:
            if contamination is None:
                raise TypeError("probe_seconds needs a detector, which makes the canaries: pass contamination= as well")
            self.probe = CanaryProbe(self.factory, contamination, interval=probe_seconds)
        self.rollout = rollout
        self.alerts = alerts
        self.deliveries: set[Delivery | EventStream] = set()
        self.draining = False
        self.forced_closes = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        if self.shared is not None:
            self.shared.attach(self)
        elif rollout is not None:
            rollout.refuse_without_plane()

    def _share_limits(self, plane: Plane) -> ClusterLimits:
        from isolane.cluster.engines import share_engines  # noqa: PLC0415 - nobody else pays for it
        from isolane.cluster.limits import ClusterLimits  # noqa: PLC0415

        limits, settings = ClusterLimits(), self.settings
        share_engines(
            limits,
            self.factory,
            engines=settings.engines_scope == "cluster",
            permits=settings.permits_scope == "cluster",
            total=settings.total_scope == "cluster",
            fail=settings.lease_fail,
            on_lost=settings.lease_lost,
        )
        plane.add(limits)
        return limits

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a task until it is done, and log what it raises."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s failed", task.get_name(), exc_info=task.exception())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From the start of the application to its end."""
        # An application may be started again, as test suites do.
        self.draining = False
        _check_variables()
        self.factory.reopen()
        self.bridge.reopen()
        before = set_default_limiter(self.limiter)
        if "ISOLANE_LEDGER_DIR" in os.environ:
            # An empty ledger too is written: it says that this worker counted and there was nothing.
            from isolane.migration.deprecation import keep_ledger  # noqa: PLC0415

            keep_ledger()
        self._warn()
        if self.plane is not None:
            # A Redis that is not there is waited for beside the application.
            await self.plane.start()
        sweeper = asyncio.create_task(self._sweep(), name="isolane sweep")
        signals = self.install_signal_drain() if self.settings.signal_drain else None
        self.lag.start()
        self.bridge.health.start()
        self._start_looking()
        _running.append(self)
        try:
            yield
        finally:
            if self.probe is not None:
                await self.probe.stop()
            if signals is not None:
                signals.remove()
            sweeper.cancel()
            self.bridge.health.stop()
            self.lag.stop()
            self.start_draining()
            await self.factory.shutdown(self.settings.drain_seconds)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self.settings.drain_seconds)
            await self.bridge.shutdown()
            _running.remove(self)
            if default_limiter() is self.limiter:
                # What runs in the process afterwards is not held to the limits of an application that is over.
                set_default_limiter(before)
            if self.rollout is not None:
                await self.rollout.stop()
            # Last: what still runs while the service drains is looked at as well.
            await self._stop_looking()
            if self.plane is not None:
                await self.plane.stop()

    def _start_looking(self) -> None:
        if self.contamination is not None:
            self.contamination.install()
        if self.rollout is not None:
            self.rollout.start(self)
        if self.probe is not None:
            self.probe.start()
        if self.alerts is not None:
            self.alerts.start()

    async def _stop_looking(self) -> None:
        if self.contamination is not None:
            if self.contamination.quarantine is not None:
                self.contamination.quarantine.close()
            self.contamination.uninstall()
        if self.alerts is not None:
            self.alerts.stop()
            # A webhook posts what waits for it, which may take seconds.
            await asyncio.to_thread(self.alerts.close)

    def start_draining(self) -> None:
        """Take no more runs, answer not ready, and send the sockets away with 4001.

        The end of the application does this by itself, but a server may have closed the sockets by then (uvicorn closes
        them with 1012 first). ``install_signal_drain`` calls it before that. Call it yourself from a hook that runs
        before another server stops, to let clients leave in order.
        """
        self.draining = True
        self.factory.refuse()
        for delivery in list(self.deliveries):
            if delivery.cursor is not None:
                delivery.cursor.close(DRAINING)

    def install_signal_drain(self) -> SignalDrain | None:
        """Let clients leave before uvicorn stops: on SIGTERM and SIGINT drain first, then do what uvicorn does.

        Done at the start of the application unless the setting ``signal_drain`` is off. Returns what takes it back, or
        ``None`` where there is nothing to do: with another server, or outside the main thread.
        """
        signals = SignalDrain(self)
        return signals if signals.install() else None

    def cancel_run(self, user_id: str, run_id: str, reason: str = "the user cancelled the run") -> str:
        """Begin to cancel a run of the user: its agents are cancelled, and its stream ends as ``cancelled``.

        Agents that go on all the same are left behind by force, as at the end of an engine's lifetime. Returns
        ``accepted``, ``ended`` for a run that has ended already, or ``gone`` for one that is unknown or another
        user's. Calling it again does nothing more.

        A run of another worker that is followed here, since the user is connected, is cancelled there. For any run of
        the user there is ``cancel_run_anywhere``.
        """
        if self.logs is not None and (told := self.logs.cancel(user_id, run_id, reason)) is not None:
            return told
        return self.cancel_run_here(user_id, run_id, reason)

    async def cancel_run_anywhere(self, user_id: str, run_id: str, reason: str = "the user cancelled the run") -> str:
        """Begin to cancel a run of the user on whichever worker runs it. Returns what ``cancel_run`` does.

        Raises:
            PlaneUnavailableError: this worker does not know the run, and cannot ask where it is.
        """
        state = self.cancel_run(user_id, run_id, reason)
        if state != "gone" or self.logs is None:
            return state
        return await self.logs.find_and_cancel(user_id, run_id, reason)

    def cancel_run_here(self, user_id: str, run_id: str, reason: str = "the user cancelled the run") -> str:
        """Begin to cancel a run that this worker runs. Returns what ``cancel_run`` does."""
        state = stream_state(user_id, run_id)
        if state != "running":
            return state
        self.keep(asyncio.create_task(self._cancel(user_id, run_id, reason), name="isolane cancel"))
        return "accepted"

    def may_command(self, principal: Principal, command: str, run_id: str) -> bool:
        """Whether the user may give a command on a socket, as the application's ``authorize_command`` says.

        Whatever it answers but ``True``, and whatever it raises, is a no.
        """
        if self.authorize_command is None:
            return True
        try:
            allowed = self.authorize_command(principal, command, run_id)
        except Exception:
            logger.exception("authorize_command failed; the command was refused")
            allowed = False
        if allowed is not True:
            self.gate.note_denied(principal, command)
        return allowed is True

    def logout(self, user_id: str, session_id: str | None = None) -> int:
        """Close the user's sockets and event streams with 4501, of all sessions or of one. Runs go on.

        Tickets that were given out before do not count any more. Sessions of ``setup(sessions=...)`` do this by
        themselves when they end. A token that the client still has opens a new socket: ``authenticate`` is to refuse
        it. Returns how many were closed here; those on other workers are closed a moment later.
        """
        if self.shared is not None:
            self.shared.logouts.tell(user_id, session_id)
        return self.logout_here(user_id, session_id)

    def logout_here(self, user_id: str, session_id: str | None = None) -> int:
        """Do what ``logout`` does, and tell no other worker."""
        self.gate.end_tickets(user_id, session_id)
        return self.close_sockets(user_id, session_id)

    def close_sockets(self, user_id: str, session_id: str | None = None) -> int:
        """Close the sockets and event streams that the user has on this worker. Returns how many there were."""
        closed = 0
        for arrival in self._arriving:
            arrival.is_over |= arrival.is_of(user_id, session_id)
        for delivery in list(self.deliveries):
            cursor, principal = delivery.cursor, delivery.principal
            if cursor is None or principal.user_id.strip() != user_id.strip():
                continue
            if session_id is None or principal.session_id == session_id:
                cursor.close(NOT_AUTHENTICATED)
                closed += 1
        return closed

    async def arrive(self, principal: Principal) -> None:
        """A user is about to connect: have their runs on other workers ready here. ``depart`` is owed for it.

        Raises:
            NotAuthenticatedError: the user was signed out meanwhile. Nothing is owed then.
        """
        if self.logs is None:
            return
        arrival = _Arrival(principal)
        self._arriving.add(arrival)
        try:
            await self.logs.arrive(principal.user_id)
        finally:
            self._arriving.discard(arrival)
        if arrival.is_over:
            self.logs.leave(principal.user_id)
            raise NotAuthenticatedError("sign in first")

    def depart(self, principal: Principal) -> None:
        """A connection for which ``arrive`` was called is over."""
        if self.logs is not None:
            self.logs.leave(principal.user_id)

    def _session_ended(self, session: Session) -> None:
        self.logout(session.principal.user_id, session.id)

    async def _cancel(self, user_id: str, run_id: str, reason: str) -> None:
        if not await self.factory.cancel_run(user_id, run_id, reason):
            # No engine runs it: whoever publishes into it is told that it has ended.
            cancel_stream(user_id, run_id, reason)

    async def _sweep(self) -> None:
        """Drop the logs whose retention is over, also when nothing else happens."""
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self.settings.cleanup_interval))
            sweep_lanes()
            if self._sessions is not None:
                self._sessions.sweep()
            self.bridge.end_idle_notices()

    def _warn(self) -> None:
        workers = worker_count()
        if workers > 1 and self.plane is None:
            logger.warning(MANY_WORKERS.format(count=workers))
            warnings.warn(MANY_WORKERS.format(count=workers), RuntimeWarning, stacklevel=2)

    def introspect(self) -> dict[str, Any]:
        """Return counts for operators. ``memory`` is there when ``setup`` got a manager that counts."""
        memory_metrics = getattr(self.memory, "get_memory_metrics", None)
        return {
            "engines": self.factory.get_factory_metrics(),
            "emitters": self.bridge.get_factory_metrics(),
            "limiter": self.limiter.stats(),
            "events": event_figures(),
            "health": self.bridge.health.status,
            "loop": {**loop_account(), "lag": self.lag.figures()},
            "lanes": lane_stats(),
            "isolation_violations": isolation_violations(),
            **({"contamination": self.contamination.figures()} if self.contamination is not None else {}),
            **({"probe": self.probe.last} if self.probe is not None else {}),
            **({"rollout": self.rollout.figures()} if self.rollout is not None else {}),
            **({"alerts": self.alerts.get_statistics()} if self.alerts is not None else {}),
            **({"cluster": self.plane.figures()} if self.plane is not None else {}),
            "sockets": len(self.deliveries),
            "forced_closes": self.forced_closes,
            **({"audit": status} if (status := self._audit_status()) is not None else {}),
            **({"memory": memory_metrics()} if memory_metrics is not None else {}),
        }

    async def health(self, _: Request) -> JSONResponse:
        """Answer that the process lives."""
        return JSONResponse({"status": "ok", **({"cluster": self.plane.state} if self.plane is not None else {})})

    async def ready(self, _: Request) -> JSONResponse:
        """Answer whether new runs are taken."""
        answer = self._readiness()
        HEALTH_CHECKS[answer.status_code < BAD_REQUEST].inc()
        return answer

    def _readiness(self) -> JSONResponse:
        if self.draining:
            return JSONResponse({"status": "draining"}, 503, {"Retry-After": "5"})
        audit = self._audit_status()
        if audit not in {None, "ok"}:
            # What must be recorded is refused by itself; taking all processes away for a slow disk would be worse.
            return JSONResponse({"status": "degraded", "audit": audit})
        if self.rollout is not None and self.rollout.flags.watcher.is_stale:
            return JSONResponse({"status": "degraded", "flags": "stale"})
        if self.plane is not None and self.plane.state != "up":
            # This worker goes on by itself; and one Redis is missing to all.
            return JSONResponse({"status": "degraded", "cluster": self.plane.state})
        if self.cluster_limits is not None and self.cluster_limits.mode != "whole":
            return JSONResponse({"status": "degraded", "limits": self.cluster_limits.mode})
        return JSONResponse({"status": "ready"})

    def _audit_status(self) -> str | None:
        health = getattr(self.audit, "health", None)
        return None if health is None else str(getattr(health(), "status", "ok"))

    async def ws_ticket(self, request: Request) -> JSONResponse:
        """Give the signed-in user a ticket that opens one socket, or one event stream, from the page that asks."""
        try:
            principal = await request_scope(request).require_principal(request)
            ticket = await self.gate.issue_ticket(request, principal)
        except (AccessRefusedError, NotAuthenticatedError) as error:
            return problems.problem_of(error).response(problems.correlation_of(request))
        answer = {"ticket": ticket, "expires_in": self.gate.ticket_seconds}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def setup(
    app: FastAPI,
    settings: IsolaneSettings | None = None,
    authenticate: Authenticate | None = None,
    session_factory: SessionFactory | None = None,
    resolve_ids: ResolveIds | None = None,
    *,
    registry: AgentRegistry | None = None,
    memory: MemoryGate | None = None,
    limiter: FairLimiter | None = None,
    sessions: SessionRegistry | None = None,
    ticket_store: TicketStore | None = None,
    authorize_command: AuthorizeCommand | None = None,
    audit: AuditSink | None = None,
    contamination: ContaminationDetector | None = None,
    probe_seconds: float | None = None,
    tools: UnifiedToolDispatcherFactory | None = None,
    rollout: MigrationFeatureFlags | None = None,
    guard: RolloutGuard | None = None,
    alerts: AlertManager | None = None,
    redis: str | Redis | RedisCluster | ConnectionPool | None = None,
    problem_details: bool = True,
    metrics: bool | None = None,
    metrics_authorize: Callable[..., Any] | None = None,
) -> Isolane:
    """Add isolane to an application, before it starts.

    Args:
        app: the application.
        settings: default: from the environment.
        authenticate: says who a connection is: a ``Principal``, or ``None`` for nobody. Sync or async. Required.
        session_factory: makes the database session of a run from its context, on first use; closed with the run.
        resolve_ids: returns the thread id of a request (or a mapping with ``thread_id`` and ``run_id``). Default: the
            path or query parameter ``thread_id``, the header ``X-Thread-ID``, else a new thread.
        registry: the classes of agents.
        memory: asked before each run, such as a ``MemoryOptimizationManager``. Default: memory limits nobody.
        limiter: hands out the permits, such as one with named resources or an adaptive limit. Default: one with the
            numbers of the settings.
        sessions: the sessions that ``authenticate`` knows: when one ends, its sockets and event streams are closed.
        ticket_store: keeps tickets for sockets. Default: the plane, or without one this process.
        authorize_command: asked with the principal, ``cancel`` and the run before a socket's command is done; a plain
            function. Anything but ``True`` is answered as if the run were not there. Default: all are done.
        audit: is told who signs in to sockets, and who is refused. One with a ``health()``, such as an
            ``AuditLogger``, is part of the readiness and of ``introspect()``. Default: nobody is.
        contamination: looks at events, caches, errors, calls of tools and the bodies of responses while the
            application runs. Default: nobody does.
        probe_seconds: how often its ``CanaryProbe`` runs, such as 60. Default: never.
        tools: makes the dispatchers that agents get by ``context.get_tool_dispatcher()``. Default: there are none.
        rollout: the flags of a migration: kept up to date while the application runs, and pinned in each context.
            Default: those of ``ISOLANE_FLAGS_FILE`` and ``ISOLANE_FLAG_*``, if there are any; with
            ``ISOLANE_FLAGS_SHARED`` those that all workers share on Redis.
        guard: rolls a flag back when what it is told of runs says so. Default: nobody does.
        alerts: looks at the metrics every 5 s while the application runs, and says when something is not as it should
            be. Its sinks are closed at the end. Default: nobody does.
        redis: what workers share limits, events and more on: a client of ``redis.asyncio``, of which only is taken how
            it connects, or a URL. Default: that of ``ISOLANE_REDIS_URL``; without one a worker is alone.
        problem_details: answer isolane's exceptions with problem documents.
        metrics: serve what was measured to a Prometheus, at the setting ``metrics_path`` or else ``/metrics``. Default:
            where that setting is not empty.
        metrics_authorize: a dependency that raises for who may not read that, such as
            ``require_roles("operator")``. Default: everybody may who reaches the route.

    Adds its middleware, the WebSocket route, the event streams, the health and readiness routes, and the start and end
    of isolane around the application's own lifespan. Calling it again returns what the first call made.

    Raises:
        TypeError: ``authenticate`` is missing, ``probe_seconds`` is given without ``contamination``, ``guard`` without
            flags, or an argument is of the wrong kind.
        ValueError: ``guard`` was made with other flags than ``rollout``.
    """
    held = getattr(app.state, "isolane", None)
    if isinstance(held, Isolane):
        return held
    if authenticate is None:
        raise TypeError(
            "setup needs authenticate: a function from the connection to Principal(user_id=...), or None for nobody; "
            "without it isolane could not tell whose data is whose"
        )
    _refuse_misfits(
        registry=registry,
        tools=tools,
        contamination=contamination,
        audit=audit,
        rollout=rollout,
        guard=guard,
        alerts=alerts,
    )
    settings = settings if settings is not None else IsolaneSettings()
    isolane = Isolane(
        settings,
        authenticate,
        session_factory,
        resolve_ids,
        registry if registry is not None else AgentRegistry(),
        memory,
        limiter,
        sessions=sessions,
        ticket_store=ticket_store,
        authorize_command=authorize_command,
        audit=audit,
        contamination=contamination,
        probe_seconds=probe_seconds,
        tools=tools,
        rollout=rollout_of(settings, rollout, guard, audit),
        alerts=alerts,
        plane=_plane_of(settings, redis),
    )
    app.state.isolane = isolane
    if contamination is not None:
        app.add_middleware(ContaminationMiddleware, detector=contamination)
    app.add_middleware(IsolaneMiddleware, isolane=isolane)
    if problem_details:
        problems.register(app)
    prefix = isolane.settings.probe_prefix.rstrip("/")
    app.add_route(f"{prefix}/health", isolane.health, methods=["GET"], include_in_schema=False)
    app.add_route(f"{prefix}/ready", isolane.ready, methods=["GET"], include_in_schema=False)
    app.add_route(f"{prefix}/ws-ticket", isolane.ws_ticket, methods=["POST"], include_in_schema=False)
    app.router.add_websocket_route(isolane.settings.websocket_path, EventSocket(isolane), name="isolane_events")  # type: ignore[arg-type]
    add_event_streams(app, isolane.settings.sse_path)
    if metrics if metrics is not None else bool(settings.metrics_path):
        add_metrics_route(app, settings.metrics_path or DEFAULT_PATH, metrics_authorize)
    original = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(application: Any) -> AsyncIterator[Any]:
        # The application's own resources outlive the drain: runs that are still going need them.
        async with original(application) as state, isolane.running():
            yield state

    app.router.lifespan_context = lifespan
    return isolane


def _plane_of(settings: IsolaneSettings, redis: str | Redis | RedisCluster | ConnectionPool | None) -> Plane | None:
    source = settings.redis_url.get_secret_value() if redis is None and settings.redis_url is not None else redis
    if source is None:
        return None
    from isolane.cluster import Plane  # noqa: PLC0415 - nobody else pays for it

    key = None if settings.cluster_key is None else settings.cluster_key.get_secret_value()
    return Plane(source, prefix=settings.redis_prefix, key=key)


def _logs_of(isolane: Isolane, plane: Plane, settings: IsolaneSettings) -> ClusterLogs:
    from isolane.cluster.logs import ClusterLogs  # noqa: PLC0415 - nobody else pays for it

    logs = ClusterLogs(retention=settings.retention_seconds, seal=settings.redis_seal)
    plane.add(logs)
    logs.attach(isolane, settings)
    return logs


def _shared_of(plane: Plane | None, settings: IsolaneSettings, *, own_tickets: bool) -> Shared | None:
    if plane is None:
        return None
    from isolane.cluster.shared import Shared  # noqa: PLC0415 - nobody else pays for it

    return Shared(plane, own_tickets=own_tickets, merged_metrics=settings.metrics_merged)


MISFITS = {
    "registry": ("names", "an AgentRegistry, on which agents are registered"),
    "tools": ("create_dispatcher", "a UnifiedToolDispatcherFactory, which is made with tools and permissions="),
    "contamination": ("install", 'a ContaminationDetector, such as ContaminationDetector("enforce")'),
    "audit": ("record", "an AuditLogger, or another object with record(event)"),
    "rollout": ("decide", 'a MigrationFeatureFlags, such as MigrationFeatureFlags("flags.json")'),
    "guard": ("attach", "a RolloutGuard, which is made with the flags that it rolls back"),
    "alerts": ("tick", "an AlertManager, such as AlertManager()"),
}
"""Of arguments of ``setup``: a method that is used later, when a request is there, and what to pass."""


def _refuse_misfits(**given: object) -> None:
    for name, value in given.items():
        method, fit = MISFITS[name]
        if value is not None and not callable(getattr(value, method, None)):
            raise TypeError(f"setup takes as {name}= {fit}; got {type(value).__name__}")
