"""Acks, pauses, cancelling, compression and every setting of delivery, on a real uvicorn over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI, WebSocket
from isolane import AgentRegistry, BaseAgent, RunCancelledError, lane_usage
from isolane.fastapi import Connection, Ctx, Engine, IsolaneSettings, Principal, setup
from isolane.fastapi.sockets import Delivery, retry_ms

from tests.integrations.conftest import who
from tests.support.history import faults
from tests.support.server import serving

WAIT = 10.0


class Stubborn(BaseAgent):
    """Goes on when it is cancelled."""

    name = "stubborn"

    async def execute_with_context(self, context, request, results) -> Any:
        emitter = context.get_websocket_emitter()
        await emitter.notify_tool_executing("wait", {})
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)


class Patient(BaseAgent):
    """Waits until it is cancelled."""

    name = "patient"

    async def execute_with_context(self, context, request, results) -> Any:
        await context.get_websocket_emitter().notify_tool_executing("wait", {})
        await asyncio.sleep(60)


class Talking(BaseAgent):
    """Publishes what it is asked for."""

    name = "talking"

    async def execute_with_context(self, context, request, results) -> Any:
        emitter = context.get_websocket_emitter()
        for at in range(request["events"]):
            emitter.publish("note", {"at": at, "text": "words " * request.get("words", 1)})


def make(**settings: Any) -> FastAPI:
    app = FastAPI()
    agents = AgentRegistry()
    for agent in (Stubborn, Patient, Talking):
        agents.register(agent)
    isolane = setup(app, IsolaneSettings(**{"drain_seconds": 0.2, **settings}), who, registry=agents)
    isolane.factory.grace = 0.3
    app.state.told = []

    @app.post("/start/{agent}")
    async def start(agent: str, request: dict[str, Any], ctx: Ctx, engine: Engine) -> str:
        ctx.detach()
        engine.start_agent_pipeline([agent], request)
        return ctx.run_id

    @app.post("/execute/{agent}")
    async def execute(agent: str, request: dict[str, Any], engine: Engine) -> str:
        try:
            await engine.execute_agent_pipeline([agent], request)
        except RunCancelledError as error:
            app.state.told.append(str(error))
            raise
        return "done"

    @app.websocket("/own")
    async def own(websocket: WebSocket, connection: Connection) -> None:
        await websocket.accept(subprotocol="isolane.v1")
        async with connection.delivering(websocket, framed=True) as delivery:
            async for text in websocket.iter_text():
                if not delivery.take(text):
                    run = await connection.start_run("thread-1")
                    run.engine.start_agent_pipeline(["talking"], json.loads(text))

    return app


def auth(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


class Tab:
    """A client of ``isolane.v1``, which acknowledges only when it is told to."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []
        self.kinds: list[type] = []

    async def frame(self, seconds: float = WAIT) -> dict[str, Any]:
        message = await asyncio.wait_for(self.socket.recv(), seconds)
        self.kinds.append(type(message))
        if isinstance(message, bytes):
            message = zlib.decompress(message, wbits=-15).decode()
        frame: dict[str, Any] = json.loads(message)
        self.seen.append(frame)
        return frame

    async def until(self, kind: str, **values: Any) -> dict[str, Any]:
        while True:
            frame = await self.frame()
            if frame["t"] == kind and all(frame.get(key) == value for key, value in values.items()):
                return frame

    async def end(self) -> dict[str, Any]:
        """Return the first end of a stream, which may have been seen already."""
        seen = [frame for frame in self.seen if frame["t"] == "end"]
        return seen[0] if seen else await self.until("end")

    async def say(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def closed(self) -> int:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                await self.frame()
        code: int = closed.value.rcvd.code
        return code

    @property
    def events(self) -> list[dict[str, Any]]:
        return [entry for frame in self.seen if frame["t"] == "ev" for entry in frame["b"]]


@contextlib.asynccontextmanager
async def tab(port: int, user: str, query: str = "", path: str = "/ws") -> AsyncIterator[Tab]:
    url = f"ws://127.0.0.1:{port}{path}{query}"
    async with websockets.connect(url, subprotocols=["isolane.v1", f"bearer.{user}"], max_size=None) as socket:
        one = Tab(socket)
        assert (await one.frame())["t"] == "welcome"
        yield one


@contextlib.asynccontextmanager
async def client(port: int, user: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=auth(user), timeout=WAIT) as one:
        yield one


async def settled(check: Any, seconds: float = 5.0) -> None:
    limit = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < limit, "it did not happen"
        await asyncio.sleep(0.01)


# -- acks --------------------------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_acknowledge_is_asked_to_come_back(monkeypatch) -> None:
    monkeypatch.setattr("isolane.fastapi.sockets.ACK_SECONDS", 0.3)
    with serving(make(websocket_delivery_timeout=0.2)) as port:
        async with tab(port, "ann-acks-not") as one, client(port, "ann-acks-not") as http:
            await http.post("/start/talking", json={"events": 1})
            await one.until("end")
            bye = await one.until("bye")
            assert bye["code"] == 4008
            assert 500 <= bye["retry_ms"] <= 10_000
            assert await one.closed() == 4008


async def test_a_client_that_acknowledges_stays(monkeypatch) -> None:
    monkeypatch.setattr("isolane.fastapi.sockets.ACK_SECONDS", 0.2)
    with serving(make(websocket_delivery_timeout=0.1)) as port:
        async with tab(port, "ann-acks") as one, client(port, "ann-acks") as http:
            run = (await http.post("/start/talking", json={"events": 3})).json()
            end = await one.until("end")
            await one.say(t="ack", s={run: end["n"]})
            with pytest.raises(TimeoutError):
                await one.frame(0.8)


async def test_a_socket_pauses_and_another_tab_does_not() -> None:
    with serving(make()) as port:
        async with tab(port, "ann-pauses") as slow, tab(port, "ann-pauses") as fast, client(port, "ann-pauses") as http:
            run = (await http.post("/start/talking", json={"events": 900})).json()
            while (frame := await fast.frame())["t"] != "end":
                if frame["t"] == "ev":
                    await fast.say(t="ack", s={run: frame["b"][-1]["n"]})
            assert [entry["n"] for entry in fast.events] == list(range(1, 903))
            with contextlib.suppress(TimeoutError):
                while True:
                    await slow.frame(0.4)
            # By then it has 512 events or 256 KiB, and the read that went over it.
            assert 300 < len(slow.events) <= 576
            while (frame := slow.seen[-1])["t"] != "end":
                await slow.say(t="ack", s={run: slow.events[-1]["n"]})
                await slow.frame()
            assert [entry["n"] for entry in slow.events] == list(range(1, 903))


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_a_run_is_cancelled_from_another_tab_and_only_by_its_user() -> None:
    with serving(make()) as port:
        async with (
            tab(port, "ann-cancels") as one,
            tab(port, "ann-cancels") as other,
            tab(port, "bob-cancels") as foreign,
            client(port, "ann-cancels") as http,
        ):
            run = (await http.post("/start/patient", json={})).json()
            await one.until("ev")
            for asked in (run, "run-that-never-was"):
                await foreign.say(t="cancel", s=asked, cid="c")
                assert await foreign.until("cancel") == {"v": 1, "t": "cancel", "s": asked, "cid": "c", "state": "gone"}
            await other.say(t="cancel", s=run, cid="c-1")
            await other.say(t="cancel", s=run)
            assert await other.until("cancel") == {"v": 1, "t": "cancel", "s": run, "cid": "c-1", "state": "accepted"}
            assert (await other.until("cancel"))["state"] in {"accepted", "ended"}
            for client_of_ann in (one, other):
                assert (await client_of_ann.end())["outcome"] == "cancelled"
            events = [entry["ev"] for entry in one.events]
            assert faults(events) == []
            assert [event["type"] for event in events] == [
                "agent_started",
                "tool_executing",
                "tool_completed",
                "agent_error",
            ]
            await other.say(t="cancel", s=run)
            assert (await other.until("cancel"))["state"] == "ended"


async def test_an_agent_that_ignores_the_cancellation_is_left_behind(caplog) -> None:
    app = make()
    with serving(app) as port:
        async with tab(port, "ann-stubborn") as one, client(port, "ann-stubborn") as http:
            run = (await http.post("/start/stubborn", json={})).json()
            await one.until("ev")
            began = time.monotonic()
            await one.say(t="cancel", s=run)
            end = await one.until("end")
            assert time.monotonic() - began < 1.4, "it does not wait for the agent"
            assert end["outcome"] == "cancelled"
            assert faults([entry["ev"] for entry in one.events]) == []
            await settled(lambda: "closed by force" in caplog.text)
            assert app.state.isolane.factory.get_factory_metrics()["engines_active"] == 0
            await asyncio.sleep(1.5)


async def test_who_waits_for_a_cancelled_run_is_told_so() -> None:
    app = make()
    with serving(app) as port:
        async with tab(port, "ann-waits") as one, client(port, "ann-waits") as http:
            waiting = asyncio.create_task(http.post("/execute/patient", json={}))
            await one.until("ev")
            await one.say(t="cancel", s=one.seen[-1]["s"])
            answer = await waiting
            assert (answer.status_code, answer.json()["code"]) == (409, "run_cancelled")
            assert "cancelled" in app.state.told[0]
            # Also where the end of the request cleans up at the same time.
            assert (await one.until("end"))["outcome"] == "cancelled"
            # The slot is free.
            assert (await http.post("/execute/talking", json={"events": 1})).json() == "done"


async def test_commands_are_bounded() -> None:
    with serving(make()) as port:
        async with tab(port, "ann-commands") as one:
            for _ in range(80):
                await one.say(t="sub", s="unknown-run")
            bye = await one.until("bye")
            assert bye["code"] == 4029
            assert bye["retry_ms"] >= 2000
            assert await one.closed() == 4029


@pytest.mark.parametrize("message", ["x" * 70_000, b"\x00", '{"t":1}', "[]"])
async def test_what_breaks_the_protocol_is_final(message) -> None:
    with serving(make()) as port:
        async with tab(port, "ann-breaks") as one:
            await one.socket.send(message)
            assert await one.closed() == 4500
            assert not [frame for frame in one.seen if frame["t"] == "bye"]


async def test_an_application_hands_on_what_its_client_says() -> None:
    with serving(make()) as port:
        async with tab(port, "ann-owns", path="/own") as one:
            await one.say(events=900)
            while (frame := await one.frame())["t"] != "end":
                if frame["t"] == "ev":
                    await one.say(t="ack", s={frame["s"]: frame["b"][-1]["n"]})
            assert len(one.events) == 902


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize("asked", [True, False])
async def test_large_frames_are_compressed_when_both_want_it(offered, asked) -> None:
    with serving(make(websocket_enable_compression=offered)) as port:
        query = "?compress=deflate-raw" if asked else ""
        async with tab(port, "ann-packs", query) as one, client(port, "ann-packs") as http:
            assert ("z" in one.seen[0]) == (offered and asked)
            await http.post("/start/talking", json={"events": 40, "words": 40})
            await one.until("end")
            assert (bytes in one.kinds) == (offered and asked)
            assert [entry["n"] for entry in one.events] == list(range(1, 43))
            if offered and asked:
                large = [kind for kind, frame in zip(one.kinds, one.seen, strict=True) if len(frame.get("b", ())) > 1]
                assert set(large) == {bytes}
                small = [kind for kind, frame in zip(one.kinds, one.seen, strict=True) if frame["t"] in {"sub", "end"}]
                assert set(small) == {str}


async def test_a_plain_client_gets_text_whatever_it_asks_for() -> None:
    with serving(make()) as port:
        url = f"ws://127.0.0.1:{port}/ws?protocol=events&compress=deflate-raw"
        async with (
            websockets.connect(url, subprotocols=["events", "bearer.ann-plain"]) as socket,
            client(port, "ann-plain") as http,
        ):
            await http.post("/start/talking", json={"events": 1, "words": 500})
            for _ in range(3):
                assert isinstance(await asyncio.wait_for(socket.recv(), WAIT), str)


@pytest.mark.parametrize("batching", [True, False])
async def test_frames_hold_several_events_unless_batching_is_off(batching) -> None:
    with serving(make(websocket_enable_batching=batching)) as port:
        async with client(port, "ann-batches") as http:
            await http.post("/execute/talking", json={"events": 30})
            async with tab(port, "ann-batches") as one:
                await one.say(t="sub", s=one.seen[0]["streams"][0]["s"])
                await one.until("end")
                sizes = [len(frame["b"]) for frame in one.seen if frame["t"] == "ev"]
                assert sizes == ([16, 16] if batching else [1] * 32)


async def seconds_of_progress(user: str, **settings: Any) -> float:
    """How long an event of class 3 is on its way."""
    app = make(**settings)

    @app.post("/note")
    async def note(connection: Connection) -> None:
        bridge = app.state.isolane.bridge
        app.state.emitter = await bridge.create_user_emitter(connection.principal.user_id, "thread-1", "c-1")
        app.state.emitter.publish("note", priority=3, run_id=f"run-of-{connection.principal.user_id}")

    with serving(app) as port:
        async with tab(port, user) as one, client(port, user) as http:
            began = time.monotonic()
            await http.post("/note")
            await one.until("ev")
            return time.monotonic() - began


async def test_progress_waits_unless_batching_is_off() -> None:
    deferred = await seconds_of_progress("ann-defers")
    at_once = await seconds_of_progress("ann-defers-not", websocket_enable_batching=False)
    assert deferred >= 0.2
    assert at_once < deferred


@pytest.mark.parametrize("attempts", [0, 3, 8])
async def test_the_client_is_told_how_often_to_try_again(attempts) -> None:
    with serving(make(websocket_max_reconnect_attempts=attempts)) as port:
        async with tab(port, "ann-tries") as one:
            assert one.seen[0]["reconnect"] == {"attempts": attempts}
            assert one.seen[0]["ack"] == {"events": 32}


async def test_progress_is_worth_sending_for_the_event_timeout() -> None:
    app = make(websocket_event_timeout=0.05)

    @app.post("/note")
    async def note(ctx: Ctx) -> str:
        ctx.detach()
        emitter = app.state.emitter = ctx.get_websocket_emitter()
        emitter.publish("note", priority=3)
        await asyncio.sleep(0.1)
        emitter.publish("after")
        return ctx.run_id

    with serving(app) as port:
        async with client(port, "ann-late") as http, tab(port, "ann-late") as one:
            run = (await http.post("/note")).json()
            one.seen.clear()
            await one.say(t="sub", s=run)
            await one.until("sub")
            ev = await one.until("ev")
            assert [(entry["f"], entry["n"], entry["k"], entry["ev"]["type"]) for entry in ev["b"]] == [
                (1, 2, 1, "after")
            ]


class Failing:
    """What an ASGI server is to a delivery: fails so many times, and in between takes what it is given."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.taken: list[dict[str, Any]] = []

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.send" and self.failures > 0:
            self.failures -= 1
            raise RuntimeError("not now")
        self.taken.append(message)


@pytest.mark.parametrize(("retries", "failures", "code"), [(3, 3, None), (3, 4, 4008), (0, 1, 4008), (1, 1, None)])
async def test_a_write_that_fails_is_tried_again(retries, failures, code) -> None:
    settings = IsolaneSettings(websocket_delivery_retries=retries)
    delivery = Delivery(settings, Principal(f"ann-fails-{retries}-{failures}"), framed=True)
    server = Failing(failures)
    task = asyncio.create_task(delivery.write(server.send))
    await settled(lambda: server.taken or task.done())
    assert delivery.cursor.close_code == code
    if code is None:
        assert json.loads(server.taken[0]["text"])["t"] == "welcome"
        task.cancel()
    else:
        await settled(task.done)
        assert server.taken[-1] == {"type": "websocket.close", "code": 4008, "reason": "too slow"}
    await asyncio.wait({task})
    delivery.close()


async def test_a_write_to_a_client_that_is_gone_is_not_tried_again() -> None:
    delivery = Delivery(IsolaneSettings(), Principal("ann-is-gone"), framed=True)
    tries = 0

    async def send(_: Any) -> None:
        nonlocal tries
        tries += 1
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await delivery.write(send)
    assert tries == 1
    delivery.close()


async def test_a_large_message_gets_the_write_deadline_for_each_64_kib(monkeypatch) -> None:
    delivery = Delivery(IsolaneSettings(websocket_delivery_timeout=0.2), Principal("ann-takes-long"), framed=True)
    handed = iter([[{"type": "websocket.send", "text": "x" * 5 * 65536}], [{"type": "websocket.send", "text": "x"}]])
    monkeypatch.setattr(delivery, "cursor", Handing(delivery.cursor, handed))
    taken = []

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send" and '"bye"' not in message["text"]:
            # Longer than the deadline, and shorter than six of them.
            await asyncio.sleep(0.4)
            taken.append(len(message["text"]))

    await asyncio.wait_for(delivery.write(send), 5)
    assert taken == [5 * 65536]
    assert delivery.cursor.close_code == 4008
    delivery.close()


class Handing:
    """A cursor that hands out other messages than those of a log."""

    def __init__(self, cursor: Any, handed: Any) -> None:
        self._cursor = cursor
        self._handed = handed

    def read_asgi(self, _: int) -> list[dict[str, Any]]:
        return next(self._handed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


async def test_a_client_that_takes_nothing_is_closed_after_the_delivery_timeout() -> None:
    delivery = Delivery(IsolaneSettings(websocket_delivery_timeout=0.2), Principal("ann-takes-nothing"), framed=True)
    closed = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "websocket.close":
            assert message["code"] == 4008
            closed.set()
        elif '"bye"' not in message["text"]:
            await asyncio.sleep(60)

    await asyncio.wait_for(delivery.write(send), 5)
    assert closed.is_set()
    delivery.close()


async def test_a_slow_client_that_makes_progress_is_not_closed() -> None:
    delivery = Delivery(
        IsolaneSettings(websocket_delivery_timeout=0.3, websocket_enable_batching=False),
        Principal("ann-is-slow"),
        framed=True,
    )
    taken = 0

    async def send(_: Any) -> None:
        nonlocal taken
        await asyncio.sleep(0.05)
        taken += 1

    for _ in range(12):
        delivery.cursor.ping()
    task = asyncio.create_task(delivery.write(send))
    await settled(lambda: taken == 13)
    assert delivery.cursor.close_code is None
    task.cancel()
    await asyncio.wait({task})
    delivery.close()


def test_clients_come_back_spread_out() -> None:
    few = [retry_ms(4001, 1) for _ in range(300)]
    many = [retry_ms(4001, 1_000) for _ in range(300)]
    assert all(500 <= retry <= 1_500 for retry in few)
    assert all(500 <= retry <= 5_500 for retry in many)
    assert max(many) > 4_000
    assert len(set(many)) > 200
    assert max(retry_ms(4001, 10**6) for _ in range(300)) == 10_000
    assert min(retry_ms(4029, 1) for _ in range(300)) >= 2_000


async def test_a_closed_socket_leaves_nothing() -> None:
    with serving(make()) as port:
        async with tab(port, "ann-leaves"):
            assert lane_usage("ann-leaves")["connections"] == 1
        await settled(lambda: lane_usage("ann-leaves")["connections"] == 0)


async def test_a_socket_that_comes_while_the_service_stops_is_told_when_to_come_back() -> None:
    app = make()
    with serving(app) as port:
        app.state.isolane.start_draining()
        url = f"ws://127.0.0.1:{port}/ws"
        async with websockets.connect(url, subprotocols=["isolane.v1", "bearer.ann-is-late"]) as socket:
            one = Tab(socket)
            assert (await one.frame())["t"] == "bye"
            assert await one.closed() == 4001
