"""What the scenarios of cancellation use, and the look at what is left of it."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import isolane
from fastapi import FastAPI, WebSocket
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ExecutionEngineFactory,
    FairLimiter,
    ResourcePoolManager,
    UserContextFactory,
    UserExecutionContext,
    WebSocketBridgeFactory,
    _core,
)
from isolane.fastapi import Connection, Ctx, Emitter, Engine, IsolaneSettings, OptionalCtx, Principal, setup


async def ticks(count: int) -> None:
    """Let the loop go round as often."""
    for _ in range(count):
        await asyncio.sleep(0)


class Worker(BaseAgent):
    """Publishes, and gives other tasks a turn between."""

    name = "worker"

    async def execute_with_context(self, context: UserExecutionContext, request: Any, results: Any) -> Any:
        emitter = context.get_websocket_emitter()
        await ticks(1)
        await emitter.notify_tool_executing(tool_name="tool", params={})
        await ticks(1)
        await emitter.notify_tool_completed(tool_name="tool", result=1)
        return request


class Nesting(BaseAgent):
    """Runs another agent below itself, which borrows its permit."""

    name = "nesting"
    requires = ("worker",)

    async def execute_with_context(self, context: UserExecutionContext, request: Any, results: Any) -> Any:
        async with request.limiter.slot(context.user_id, ctx=context.create_child_context("inner"), timeout=30):
            await ticks(1)
        return results["worker"] is not None


class Session:
    """A database session that has to be closed, which takes its time."""

    opened = 0
    closed = 0

    def __init__(self) -> None:
        type(self).opened += 1

    async def aclose(self) -> None:
        try:
            await ticks(2)
        finally:
            type(self).closed += 1


async def who(connection: Any) -> Principal | None:
    await ticks(1)
    name = connection.headers.get("x-user")
    return Principal(name) if name else None


GAUGES = ("contexts_active", "engines_active", "permits_active", "permits_waiting", "ws_connections")


def gauges() -> dict[str, float]:
    """What a scrape says is there now, in the whole process."""
    found = _core.metrics_snapshot()
    return {name: sum(one["value"] for one in found[f"isolane_{name}"]["series"]) for name in GAUGES}


class World:
    """A user with a limiter, engines, emitters and an application, on the running loop."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.registry = AgentRegistry()
        self.registry.register(Worker)
        self.registry.register(Nesting)
        self.limiter = FairLimiter(1, 1)
        self.all_pools: list[ResourcePoolManager] = []
        self.pools = self.new_pools()
        self.bridge = WebSocketBridgeFactory()
        self.factory = self.new_factory("reject")
        self.waiting_factory = self.new_factory("wait")
        self.app = self.new_app()
        self.isolane = self.app.state.isolane
        self.contexts: list[UserExecutionContext] = []
        self.helpers: list[asyncio.Task[Any]] = []
        self.owed: list[Callable[[], Awaitable[Any]]] = []
        self.sent: list[dict[str, Any]] = []
        gc.collect()
        self.before = gauges()

    def new_pools(self) -> ResourcePoolManager:
        pools = ResourcePoolManager({"database": 1, "llm": 1}, per_user=2, connection_timeout=30, close_timeout=5)
        self.all_pools.append(pools)
        return pools

    def new_factory(self, at_limit: Any) -> ExecutionEngineFactory:
        return ExecutionEngineFactory(
            self.bridge,
            max_engines_per_user=1,
            at_limit=at_limit,
            wait_timeout=30,
            agent_factory=AgentInstanceFactory(self.registry),
            limiter=self.limiter,
        )

    def new_app(self) -> FastAPI:
        app = FastAPI()
        setup(app, IsolaneSettings(), who, lambda _: Session(), registry=self.registry)

        @app.post("/run")
        async def run(ctx: Ctx, optional: OptionalCtx, engine: Engine, emitter: Emitter) -> bool:
            assert optional is ctx
            ctx.get_database_session()
            ctx.register_cleanup_callback(lambda: ticks(1))
            emitter.publish("mine")
            return (await engine.execute_agent("worker", 7)).success

        @app.websocket("/own")
        async def own(websocket: WebSocket, connection: Connection) -> None:
            await websocket.accept()
            async with connection.delivering(websocket):
                run = await connection.start_run(detached=False)
                await run.engine.execute_agent("worker", 7)
            started = await connection.start_run()
            await started.engine.start_agent_pipeline(["worker"], 7)

        return app

    # -- used by scenarios ---------------------------------------------------------------------------------------------

    def context(self, **fields: Any) -> UserExecutionContext:
        ctx = UserContextFactory.create_context(self.user, **fields)
        self.contexts.append(ctx)
        return ctx

    def after(self, count: int, call: Callable[[], Any]) -> None:
        """Call something, or await what it returns, some ticks from now, whatever happens to the scenario."""

        async def help_out() -> None:
            await ticks(count)
            result = call()
            if asyncio.iscoroutine(result):
                await result

        self.helpers.append(asyncio.get_running_loop().create_task(help_out()))

    async def call(
        self, kind: str, path: str, messages: list[dict[str, Any]], count: int = 1, method: str = "POST"
    ) -> list[dict[str, Any]]:
        """Speak ASGI with the application: the messages are received in order, and then nothing more comes."""
        sent: list[dict[str, Any]] = []
        inbox = list(messages)

        async def receive() -> dict[str, Any]:
            await ticks(count)
            if inbox:
                return inbox.pop(0)
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            await ticks(1)
            sent.append(message)

        scope = {
            "type": kind,
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http" if kind == "http" else "ws",
            "query_string": b"",
            "headers": [(b"x-user", self.user.encode())],
            "subprotocols": [_core.SUBPROTOCOL],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 1),
            "state": {},
        }
        await self.app(scope, receive, send)
        return sent

    async def request(self, path: str = "/run") -> None:
        sent = await self.call("http", path, [{"type": "http.request", "body": b"", "more_body": False}])
        assert sent[0]["status"] == 200
        assert json.loads(sent[1]["body"]) is True

    # -- the end -------------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Do what a caller owes after a cancelled call: end what it had made itself."""
        for helper in self.helpers:
            await helper
        self.helpers.clear()
        while self.owed:
            await self.owed.pop()()
        for factory in (self.factory, self.waiting_factory, self.isolane.factory):
            await factory.shutdown(drain=0)
            factory.reopen()
        await self.bridge.shutdown()
        self.bridge.reopen()
        self.isolane.bridge.reopen()
        self.isolane.draining = False
        for ctx in self.contexts:
            await ctx.cleanup()
        self.contexts.clear()
        # What goes on in the background, as the end of a cancelled request does, is done in a moment.
        for _ in range(2_000):
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if not any(not task.done() for task in others):
                break
            await asyncio.sleep(0)

    def faults(self) -> list[str]:
        """Return what is left, in words; nothing when all is as it was."""
        found = []
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
        if left:
            found.append(f"tasks that go on: {left}")
        gc.collect()
        for name, limiter in {
            "limiter": self.limiter,
            "limiter of the application": self.isolane.limiter,
            "limiter of the process": isolane.default_limiter(),
            "slots": self.factory._slots,
            "slots of the waiting factory": self.waiting_factory._slots,
            "slots of the application": self.isolane.factory._slots,
        }.items():
            limiter.evict(0)
            stats = limiter.stats()
            counts = (stats["running"], stats["queued"], stats["users"], stats["granted"] - stats["released"])
            if any(counts):
                found.append(f"{name}: running, queued, users, granted - released are {counts}")
        for pools in self.all_pools:
            records = (*pools.statistics().values(), pools.user_statistics(self.user))
            found.extend(f"pools: {record}" for record in records if record.in_use or record.waiting)
        del self.all_pools[1:]
        for factory in (self.factory, self.waiting_factory, self.isolane.factory):
            engines = [factory._engines, factory._numbers, factory._closing]
            if any(engines) or factory.get_factory_metrics()["engines_active"]:
                found.append(f"engines: {engines}")
            if factory.get_factory_metrics()["cleanup_errors"]:
                found.append("errors in the clean-up of engines")
        if self.isolane.deliveries or self.isolane._tasks:
            found.append(f"sockets or tasks of the application: {self.isolane.deliveries} {self.isolane._tasks}")
        if Session.opened != Session.closed:
            found.append(f"{Session.opened} sessions opened, {Session.closed} closed")
        Session.opened = Session.closed = 0
        open_streams = [stream["run_id"] for stream in _core.user_streams(self.user) if stream["outcome"] is None]
        if open_streams:
            found.append(f"streams that have not ended: {open_streams}")
        _core._advance_clock(1_000)
        isolane.sweep_lanes()
        usage = isolane.lane_usage(self.user) or {}
        keys = ("handles", "event_bytes", "streams", "connections")
        if any(usage.get(key) for key in keys):
            found.append(f"in the lane: {usage}")
        # Others may go meanwhile, such as what the collector finds of former tests.
        more = {name: now for name, now in gauges().items() if now > self.before[name]}
        if more:
            found.append(f"a scrape says {more}, and said {self.before}")
        return found
