"""A service as a team would write it on isolane, with all that leaks are made of: pools, caches, buffers, threads.

Each part does it right. ``faults.py`` has for each part the mistake that others have made.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

from fastapi import FastAPI, Request
from isolane import (
    AgentRegistry,
    BaseAgent,
    ContaminationDetector,
    ContaminationLogFilter,
    UserExecutionContext,
    UserWebSocketEmitter,
)
from isolane._core import emitter_for_user
from isolane.fastapi import ContaminationMiddleware, Ctx, IsolaneSettings, setup

from tests.faults.site import who

ANSWER_SECONDS = 0.01

logger = logging.getLogger("tests.leaks")


class Lines:
    """Connections to a server that answers each line with one of its own, in order."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, user: str) -> str:
        """Ask for a user's note."""
        connection = self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = connection
        try:
            writer.write(f"{user}\n".encode())
            answer = (await reader.readline()).decode().strip()
        except BaseException:
            # The answer is still under way: whoever had the connection next would read it.
            writer.close()
            raise
        self.free.append(connection)
        return answer

    def close(self) -> None:
        for _, writer in self.free:
            writer.close()
        self.free.clear()


Pause = Callable[[str], Awaitable[None]]
"""Waits for an answer from elsewhere."""


class Company:
    """Two requests that wait for each other at each place where they wait at all, until one of them ends."""

    def __init__(self) -> None:
        self.there: dict[str, asyncio.Event] = {}
        self.waiting: set[str] = set()
        self.alone = False

    async def pause(self, where: str) -> None:
        other = self.there.setdefault(where, asyncio.Event())
        if self.alone or other.is_set():
            return
        if where in self.waiting:
            other.set()
            return
        self.waiting.add(where)
        await other.wait()

    def leave(self) -> None:
        self.alone = True
        for other in self.there.values():
            other.set()


class Api:
    """A client of a service that knows its caller by a token."""

    def __init__(self, data: dict[str, dict[str, str]], token: str = "") -> None:
        self.data = data
        self.token = token

    async def get(self, field: str, pause: Pause) -> str:
        await pause("api")
        return self.data[self.token][field]


async def rest(_: str) -> None:
    await asyncio.sleep(ANSWER_SECONDS)


class Assistant(BaseAgent):
    """Does what agents do: asks, remembers, computes, and tells about each step."""

    name = "assistant"
    service: Service

    async def execute_with_context(self, context, request, results) -> Any:
        if not request.get("together"):
            return await self.work(context, request, rest)
        try:
            return await self.work(context, request, self.service.company.pause)
        finally:
            self.service.company.leave()

    async def work(self, context: UserExecutionContext, request: dict[str, Any], pause: Pause) -> Any:
        service, user = self.service, context.user_id
        emitter = context.get_websocket_emitter()

        async def tell(tool: str, result: Any) -> Any:
            await emitter.notify_tool_executing(tool_name=tool, params={"query": request["query"]})
            await emitter.notify_tool_completed(tool_name=tool, result=result)
            return result

        # Whoever is in a hurry gives up after a moment, and asks again.
        hurried = asyncio.ensure_future(service.lines.ask(user))
        await asyncio.sleep(0)
        hurried.cancel()
        try:
            note = await hurried
        except asyncio.CancelledError:
            note = await service.lines.ask(user)
        await tell("lines", note)
        await tell("api", await service.api(user).get("title", pause))
        await tell("summary", await service.summary(context, request["query"]))
        await tell("memory", service.remember(context, note))
        await tell("whose", service.data[service.current.get()]["note"])
        await tell("preferences", service.preferences(user))
        await tell("tenant", await service.tenant(user, pause))
        await tell("page", service.page(user))
        loop = asyncio.get_running_loop()
        await tell("report", await loop.run_in_executor(service.threads, service.report, user))
        service.on_tab(context).publish("tab", {"note": note}, **service.run_of_tab(context))
        if request.get("fail"):
            raise service.failure(user)
        return {"note": note}


class Service:
    """The parts, and the application that is made of them."""

    def __init__(self, users: tuple[str, ...], detector: ContaminationDetector, port: int) -> None:
        self.detector = detector
        self.data = {user: {field: detector.mint(user) for field in ("note", "title", "tail")} for user in users}
        self.pages = {user: max(1, 8 // (at + 1)) for at, user in enumerate(users)}
        self.lines = Lines(port)
        self.company = Company()
        self.shared_api = Api(self.data)
        self.shared_cache: dict[str, Any] = {}
        self.memories: dict[Any, list[str]] = {}
        self.current: ContextVar[str] = ContextVar("current")
        self.defaults: dict[str, Any] = {"language": "en", "seen": []}
        self.tenant_now = ""
        self.buffer = bytearray()
        self.local = threading.local()
        self.threads = ThreadPoolExecutor(1)
        self.tabs: dict[str, UserWebSocketEmitter] = {}
        self.last = ""
        self.lines_logged: list[str] = []
        self.app = self._app()

    # -- the parts -------------------------------------------------------------------------------------------------

    def api(self, user: str) -> Api:
        return Api(self.data, user)

    async def summary(self, context: UserExecutionContext, query: str) -> str:
        cache = context.context_cache
        if query not in cache:
            cache[query] = f"a summary of {self.data[context.user_id]['title']}"
        return cache[query]

    def remember(self, context: UserExecutionContext, note: str) -> list[str]:
        memory = self.memories.setdefault((context.user_id, context.thread_id), [])
        memory.append(note)
        return memory[-3:]

    def start(self, user: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        """Start the work of a request in a context of its own."""
        self.current.set(user)
        return asyncio.create_task(work())

    def preferences(self, user: str) -> dict[str, Any]:
        own = copy.deepcopy(self.defaults)
        own["seen"].append(self.data[user]["note"])
        return own

    async def tenant(self, user: str, pause: Pause) -> str:
        await pause("tenant")
        return self.data[user]["title"]

    def page(self, user: str) -> str:
        self.buffer.clear()
        self.buffer += " ".join([self.data[user]["tail"]] * self.pages[user]).encode()
        return self.buffer.decode()

    def report(self, user: str) -> str:
        self.local.user = user
        return f"for {self.data[self.local.user]['title']}"

    def on_tab(self, context: UserExecutionContext) -> UserWebSocketEmitter:
        """The emitter of the browser's tab that asked."""
        return context.get_websocket_emitter()

    def run_of_tab(self, context: UserExecutionContext) -> dict[str, str]:
        return {}

    def failure(self, user: str) -> Exception:
        self.last = user
        logger.info("a request failed, code %d", 7)
        return LookupError(f"nothing is known of {self.data[user]['title']}")

    def identify(self, context: UserExecutionContext, body: dict[str, Any]) -> UserExecutionContext:
        """Whose request it is: the caller's, whatever the body says."""
        return context

    # -- the application -------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        yield
        self.lines.close()

    def _app(self) -> FastAPI:
        app = FastAPI(lifespan=self._lifespan)
        app.add_middleware(ContaminationMiddleware, detector=self.detector)
        agents = AgentRegistry()
        agents.register(type("Assistant", (Assistant,), {"name": "assistant", "service": self}))
        settings = IsolaneSettings(drain_seconds=0.2)
        self.isolane = setup(app, settings, who, registry=agents, contamination=self.detector)

        @app.post("/ask")
        async def ask(request: Request, ctx: Ctx) -> dict[str, Any]:
            body = await request.json()
            context = self.identify(ctx, body)

            async def work() -> Any:
                async with self.isolane.factory.user_execution_scope(context) as engine:
                    return await engine.execute_agent("assistant", body)

            result = await self.start(context.user_id, work)
            return {"success": result.success, "result": result.result, "error": str(result.error or "")}

        @app.post("/notice")
        async def notice(ctx: Ctx) -> bool:
            text = {"type": "notice", "payload": {"note": self.data[ctx.user_id]["note"]}}
            return await self.isolane.bridge.broadcast_to_user(ctx.user_id, text)

        return app

    @contextlib.contextmanager
    def logging(self) -> Any:
        handler = logging.Handler()
        handler.emit = lambda record: self.lines_logged.append(record.getMessage())  # type: ignore[method-assign]
        handler.addFilter(ContaminationLogFilter(self.detector))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def tab_emitter(self, user: str) -> UserWebSocketEmitter:
        return emitter_for_user(user, "thread-of-tabs", "tab-1")


@contextlib.asynccontextmanager
async def line_server(answers: Callable[[str], str]) -> AsyncIterator[int]:
    """Answer lines, slowly, for the length of a block; yields the port."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    await asyncio.sleep(ANSWER_SECONDS)
                    writer.write(f"{answers(line.decode().strip())}\n".encode())
        except asyncio.CancelledError:
            return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
