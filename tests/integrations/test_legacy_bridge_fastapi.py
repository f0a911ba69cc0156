"""A service of singletons on a real uvicorn with real sockets: its own routes, isolane's manager under the old name."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from isolane import BaseAgent, ContextIsolationError
from isolane._core import install_flags
from isolane.fastapi import Ctx, Engine, IsolaneSettings, Principal, setup
from isolane.fastapi.sockets import bearer_of
from isolane.migration import legacy
from isolane.migration.flags import MigrationFeatureFlags
from isolane.migration.legacy import BridgeSelector, ModernWebSocketBridge, get_websocket_manager
from starlette.requests import HTTPConnection

from tests.compat.pool import until
from tests.support.frontend import broken_rules
from tests.support.history import faults
from tests.support.server import serving

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")


class Sink:
    """Takes the events of security."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def record(self, event: Any) -> None:
        self.events.append(event)

    @property
    def legacy(self) -> list[tuple[str, str | None, str]]:
        return [
            (event.name, event.user_id, event.data["call"])
            for event in self.events
            if event.data.get("boundary") == "legacy"
        ]


class Singleton:
    """What the service has one of: it keeps the manager, and the user of the latest request."""

    def __init__(self) -> None:
        self.manager: Any = None
        self.user_id: str | None = None


class LegacyAgent(BaseAgent):
    """Tells its user what it does by the manager, as the service's agents do."""

    name = "legacy"

    async def execute_with_context(self, context: Any, request: Any) -> Any:
        manager = get_websocket_manager()
        run = {"run_id": context.run_id, "agent_name": "legacy"}
        await manager.send_to_user(
            request["to"], {"type": "agent_thinking", "data": {"content": request["text"]}, **run}
        )
        await manager.broadcast_message({"type": "note", "payload": {"text": request["text"]}})
        return request["text"]


def service(sink: Sink, *, with_isolane: bool = True) -> FastAPI:  # noqa: PLR0915 - one service
    app = FastAPI()
    held = Singleton()

    async def who(conn: HTTPConnection) -> Principal | None:
        await asyncio.sleep(0)
        token = bearer_of(conn.headers)
        return Principal(token) if token else None

    if with_isolane:
        isolane = setup(app, IsolaneSettings(drain_seconds=0.2), who, audit=sink)
        isolane.registry.register(LegacyAgent)

    @app.websocket("/legacy-ws")
    async def socket(websocket: WebSocket, user: str) -> None:
        await websocket.accept()
        manager = await get_websocket_manager()
        try:
            if websocket.query_params.get("sync"):
                manager.add_connection(user, websocket)
            else:
                await manager.connect_user(user, websocket)
        except ContextIsolationError:
            await websocket.close(4503)
            return
        await websocket.send_json({"type": "connected"})
        with contextlib.suppress(WebSocketDisconnect):
            async for text in websocket.iter_text():
                # What a page sends may name anybody.
                with contextlib.suppress(ContextIsolationError):
                    await manager.send_to_user(json.loads(text)["to"], {"type": "note", "payload": json.loads(text)})
        manager.remove_connection(user, websocket)

    @app.post("/send")
    async def send(request: Request) -> dict[str, Any]:
        """Nothing of isolane in the route."""
        body = await request.json()
        if held.manager is None or body.get("fresh"):
            held.manager = get_websocket_manager()
        try:
            outcome = await held.manager.send_to_user(body["to"], {"type": "note", "payload": {"text": body["text"]}})
        except ContextIsolationError as error:
            raise HTTPException(403, error.code) from None
        return {"outcome": outcome.value}

    @app.post("/broadcast")
    async def broadcast(request: Request) -> dict[str, Any]:
        body = await request.json()
        try:
            return {"told": await get_websocket_manager().broadcast_message(body)}
        except ContextIsolationError as error:
            raise HTTPException(403, error.code) from None

    @app.post("/run")
    async def run(request: Request, ctx: Ctx, engine: Engine) -> dict[str, Any]:
        result = await engine.execute_agent("legacy", await request.json())
        return {"run": ctx.run_id, "success": result.success, "error": type(result.error).__name__}

    @app.post("/later")
    async def later(request: Request, ctx: Ctx) -> dict[str, Any]:
        """A task of the request sends when the response is long gone."""
        body = await request.json()
        answers: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            await asyncio.sleep(body["pause"])
            try:
                outcome = await get_websocket_manager().send_to_user(body["to"], {"type": "note", "payload": body})
                answers.set_result(outcome.value)
            except ContextIsolationError as error:
                answers.set_result(error.code)

        app.state.later = (asyncio.create_task(work()), answers)
        return {"user": ctx.user_id}

    @app.get("/later")
    async def wait() -> dict[str, str]:
        return {"answer": await app.state.later[1]}

    return app


class Page:
    """One socket of a page."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for text in self.socket:
                message = json.loads(text)
                if message["type"] != "connected":
                    self.messages.append(message)

    def texts(self) -> list[str]:
        return [message["payload"].get("text") for message in self.messages if message["type"] == "note"]


class Service:
    def __init__(self, port: int, sink: Sink) -> None:
        self.port = port
        self.sink = sink
        # A new socket is sent what its user's runs of the last minute were told: each test has users of its own.
        self._tag = uuid.uuid4().hex[:8]

    def of(self, user: str) -> str:
        return f"{user}-of-{self._tag}"

    @property
    def refused(self) -> list[tuple[str, str | None, str]]:
        return [
            (name, user.removesuffix(f"-of-{self._tag}") if user else None, call)
            for name, user, call in self.sink.legacy
        ]

    async def post(self, path: str, user: str | None, body: dict[str, Any]) -> httpx.Response:
        headers = {} if user is None else {"Authorization": f"Bearer {self.of(user)}"}
        if "to" in body:
            body = {**body, "to": self.of(body["to"])}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=20, verify=False) as client:
            return await client.post(path, headers=headers, json=body)

    async def get(self, path: str) -> Any:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=20, verify=False) as client:
            return (await client.get(path)).json()

    @contextlib.asynccontextmanager
    async def page(
        self, user: str, *, says: str | None = None, path: str = "/legacy-ws", query: str = ""
    ) -> AsyncIterator[Page]:
        """A socket of somebody who signed in as ``user``, for which the service is told ``says``."""
        headers = {"Authorization": f"Bearer {self.of(user)}"}
        url = f"ws://127.0.0.1:{self.port}{path}?user={self.of(says or user)}{query}"
        async with websockets.connect(url, additional_headers=headers) as socket:
            if path in {"/legacy-ws", "/old-ws"}:
                with contextlib.suppress(websockets.ConnectionClosed):
                    assert json.loads(await socket.recv())["type"] == "connected"
            page = Page(socket)
            yield page
            page._reader.cancel()


@pytest.fixture
def running() -> Iterator[Service]:
    sink = Sink()
    with serving(service(sink)) as port:
        yield Service(port, sink)
    legacy.reset_legacy()


async def test_two_users_and_what_each_may_send(running: Service):
    async with running.page("ann") as ann, running.page("bob") as bob:
        assert (await running.post("/send", "ann", {"to": "ann", "text": "one"})).json() == {"outcome": "queued"}
        # The manager that the service has kept from ann's request, in bob's.
        assert (await running.post("/send", "bob", {"to": "bob", "text": "two"})).json() == {"outcome": "queued"}
        refused = await running.post("/send", "bob", {"to": "ann", "text": "foreign"})
        assert (refused.status_code, refused.json()["detail"]) == (403, "ISO-E-CROSSUSER")
        await until(lambda: ann.messages and bob.messages)
        assert (ann.texts(), bob.texts()) == (["one"], ["two"])
        assert [broken_rules(message) for message in ann.messages] == [[]]
        assert running.refused == [("isolation_violation", "bob", "send_to_user")]
        # On a socket the page may write what it likes.
        await ann.socket.send(json.dumps({"to": running.of("bob"), "text": "by hand"}))
        await ann.socket.send(json.dumps({"to": running.of("ann"), "text": "mine"}))
        await until(lambda: len(ann.messages) == 2)
        assert (ann.texts(), bob.texts()) == (["one", "mine"], ["two"])
        assert running.refused[1:] == [("isolation_violation", "ann", "send_to_user")]


async def test_a_broadcast_goes_to_who_asked(running: Service):
    async with running.page("ann") as ann, running.page("bob") as bob:
        assert (await running.post("/broadcast", "ann", {"type": "note", "text": "hi"})).json() == {"told": 1}
        nobody = await running.post("/broadcast", None, {"type": "note", "text": "hi"})
        assert (nobody.status_code, nobody.json()["detail"]) == (403, "ISO-E-BROADCAST")
        await until(lambda: ann.messages)
        assert (ann.texts(), bob.texts()) == (["hi"], [])
        assert running.refused == [("authz_fail", None, "broadcast_message")]


async def test_a_listed_notice_reaches_sockets_of_both_kinds(monkeypatch):
    monkeypatch.setenv("ISOLANE_LEGACY_BROADCAST", "allow:system_notice")
    sink = Sink()
    with serving(service(sink)) as port:
        served = Service(port, sink)
        async with served.page("ann") as ann, served.page("bob", path="/ws") as bob:
            await until(lambda: ann and bob)
            told = await served.post("/broadcast", "ann", {"type": "system_notice", "payload": {"text": "soon"}})
            assert told.json() == {"told": 2}
            await until(lambda: ann.messages and bob.messages)
            assert [page.messages[0]["payload"] for page in (ann, bob)] == [{"text": "soon"}] * 2
    legacy.reset_legacy()


@pytest.mark.parametrize("query", ["", "&sync=1"])
async def test_a_socket_is_whose_who_signed_in_on_it(running: Service, query: str):
    async with running.page("ann", says="bob", query=query) as stolen, running.page("bob") as bob:
        assert (await running.post("/send", "bob", {"to": "bob", "text": "private"})).json() == {"outcome": "queued"}
        await until(lambda: bob.messages)
        assert bob.texts() == ["private"]
        assert stolen.messages == []
    assert {event[:2] for event in running.refused} == {("isolation_violation", "ann")}
    assert running.refused[0][2] in {"add_connection", "connect_user"}


async def test_an_agent_speaks_for_its_user(running: Service):
    async with running.page("ann") as ann, running.page("bob") as bob, running.page("ann", path="/ws") as ours:
        good = (await running.post("/run", "ann", {"to": "ann", "text": "hello"})).json()
        assert good["success"], good
        bad = (await running.post("/run", "bob", {"to": "ann", "text": "foreign"})).json()
        assert (bad["success"], bad["error"]) == (False, "CrossUserSendError")
        for page in (ann, ours):
            await until(lambda page=page: len(page.messages) == 4)
            assert [message["type"] for message in page.messages] == [
                "agent_started",
                "agent_thinking",
                "note",
                "agent_completed",
            ]
            assert faults(page.messages) == []
            assert {message["run_id"] for message in page.messages} == {good["run"]}
        await until(lambda: len(bob.messages) == 2)
        assert [message["type"] for message in bob.messages] == ["agent_started", "agent_error"]
        assert "foreign" not in json.dumps(ann.messages)


async def test_a_task_of_a_request_speaks_for_its_user_when_that_is_over(running: Service):
    async with running.page("ann") as ann, running.page("bob") as bob:
        for to, expected in (("ann", "queued"), ("bob", "ISO-E-CROSSUSER")):
            assert (await running.post("/later", "ann", {"to": to, "pause": 0.05, "text": to})).json()[
                "user"
            ] == running.of("ann")
            assert await running.get("/later") == {"answer": expected}
        await until(lambda: ann.messages)
        assert (ann.texts(), bob.messages) == (["ann"], [])


async def test_without_isolane_in_the_application(monkeypatch):
    """The names work by themselves: whose a socket is, is what the service says."""
    sink = Sink()
    legacy.configure_legacy(audit=sink)
    with serving(service(sink, with_isolane=False)) as port:
        served = Service(port, sink)
        async with served.page("ann") as ann:
            assert (await served.post("/send", None, {"to": "ann", "text": "one"})).json() == {"outcome": "queued"}
            assert (await served.post("/send", None, {"to": "bob", "text": "two"})).status_code == 403
            await until(lambda: ann.messages)
            assert ann.texts() == ["one"]
        assert served.refused == [("authz_fail", None, "send_to_user")]
    legacy.reset_legacy()


async def test_a_hundred_messages_to_each_of_many_pages(running: Service):
    users = [f"user-{number}-of-pages" for number in range(6)]
    async with contextlib.AsyncExitStack() as stack:
        pages = {user: await stack.enter_async_context(running.page(user)) for user in users}

        async def post(user: str) -> None:
            for number in range(15):
                answer = await running.post("/send", user, {"to": user, "text": f"{number} of {user}"})
                assert answer.json() == {"outcome": "queued"}

        await asyncio.gather(*map(post, users))
        await until(lambda: all(len(page.messages) == 15 for page in pages.values()))
        for user, page in pages.items():
            assert page.texts() == [f"{number} of {user}" for number in range(15)]


async def test_an_application_does_not_start_with_a_policy_that_is_none(monkeypatch):
    monkeypatch.setenv("ISOLANE_LEGACY_BROADCAST", "everybody")
    app = service(Sink())
    with pytest.raises(ValueError, match="ISOLANE_LEGACY_BROADCAST"):
        async with app.router.lifespan_context(app):
            pass


class OlderManager:
    """The service's own manager: it writes to the sockets that it accepted, and knows nothing of isolane."""

    def __init__(self) -> None:
        self.sockets: dict[str, list[WebSocket]] = {}

    async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        for websocket in list(self.sockets.get(user_id, [])):
            await websocket.send_json(message)


class BusyAgent(BaseAgent):
    """Thinks, calls a tool, and ends."""

    name = "busy"

    async def execute_with_context(self, context: Any, request: Any) -> Any:
        emitter = context.get_websocket_emitter()
        for step in range(request["steps"]):
            await emitter.notify_agent_thinking(f"step {step} for {context.user_id}")
            await asyncio.sleep(0)
        await emitter.notify_tool_executing("load", {"q": 1})
        await emitter.notify_tool_completed("load", {"rows": 1})
        return context.user_id


def hybrid_service(flags: MigrationFeatureFlags) -> FastAPI:
    """Sockets of the service's own manager on one path, isolane's on another; engines for all runs."""
    app, older = FastAPI(), OlderManager()

    def who(conn: HTTPConnection) -> Principal | None:
        token = bearer_of(conn.headers)
        return Principal(token) if token else None

    isolane = setup(app, IsolaneSettings(drain_seconds=0.2), who)
    isolane.registry.register(BusyAgent)
    bridges = BridgeSelector(flags, older, ModernWebSocketBridge(isolane.bridge))

    @app.websocket("/old-ws")
    async def old(websocket: WebSocket, user: str) -> None:
        await websocket.accept()
        older.sockets.setdefault(user, []).append(websocket)
        await websocket.send_json({"type": "connected"})
        with contextlib.suppress(WebSocketDisconnect):
            async for _ in websocket.iter_text():
                pass
        older.sockets[user].remove(websocket)

    @app.post("/run")
    async def run(request: Request, ctx: Ctx, engine: Engine) -> dict[str, Any]:
        await bridges.create_user_emitter(ctx.user_id, ctx)
        result = await engine.execute_agent("busy", await request.json())
        return {"run": ctx.run_id, "success": result.success, "mode": flags.bridge_mode(ctx)}

    return app


async def test_a_page_with_both_sockets_shows_each_event_once_and_an_older_one_gets_each_once():
    flags = MigrationFeatureFlags.from_percentages(
        {"modern_execution_rollout_percentage": 0, "hybrid_websocket_mode_enabled": True}
    ).install()
    try:
        with serving(hybrid_service(flags)) as port:
            served = Service(port, Sink())
            async with (
                served.page("ann", path="/old-ws") as only_older,
                served.page("ann", path="/old-ws") as old_half,
                served.page("ann", path="/ws") as new_half,
                served.page("bob", path="/old-ws") as bob,
            ):
                runs = await asyncio.gather(
                    *(served.post("/run", user, {"steps": 40}) for user in ("ann", "bob", "ann"))
                )
                assert [run.json()["mode"] for run in runs] == ["hybrid"] * 3
                of_ann = {runs[0].json()["run"], runs[2].json()["run"]}
                await until(lambda: len(only_older.messages) == len(old_half.messages) == len(new_half.messages) == 88)
                await until(lambda: len(bob.messages) == 44)
                # The page has both, and drops what it knows.
                shown: dict[str, dict[str, Any]] = {}
                for message in [*old_half.messages, *new_half.messages]:
                    assert broken_rules(message) == []
                    shown.setdefault(message["event_id"], message)
                assert len(shown) == 88
                assert len({message["event_id"] for message in only_older.messages}) == 88
                for page in (only_older, old_half, new_half):
                    assert {message["run_id"] for message in page.messages} == of_ann
                    for run in of_ann:
                        own = [message for message in page.messages if message["run_id"] == run]
                        assert faults(own) == []
                        assert [message["seq"] for message in own] == list(range(1, 45))
                assert {message["run_id"] for message in bob.messages} == {runs[1].json()["run"]}
                # From the next run on: the older sockets are told nothing more.
                flags.load(
                    json.dumps({"schema": 1, "revision": 9, "flags": {"modern_execution": {"rollout": 100_000}}})
                )
                modern = (await served.post("/run", "ann", {"steps": 1})).json()
                assert (modern["mode"], modern["success"]) == ("modern", True)
                await until(lambda: len(new_half.messages) == 93)
                assert len(only_older.messages) == 88
    finally:
        install_flags(None)
