"""isolane in a FastAPI application on a real uvicorn, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from urllib.parse import urlencode

import httpx
import pytest
import websockets
from fastapi import FastAPI
from isolane import UserExecutionContext, lane_usage, sweep_lanes
from isolane.fastapi import Ctx, IsolaneSettings, setup
from isolane.testing import manual_clock
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request

from tests.integrations.conftest import Session, make_app, who
from tests.support.frontend import broken_rules
from tests.support.history import faults
from tests.support.server import serving


def auth(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


def connect(port: int, user: str, *, framed: bool = True, path: str = "/ws", query: str = ""):
    protocols = ["isolane.v1" if framed else "events", f"bearer.{user}"]
    return websockets.connect(f"ws://127.0.0.1:{port}{path}{query}", subprotocols=protocols)


async def frame(socket) -> dict:
    return json.loads(await asyncio.wait_for(socket.recv(), 5))


async def plain_messages(socket, count: int) -> list[dict]:
    return [await frame(socket) for _ in range(count)]


async def settled(check, seconds: float = 5.0) -> None:
    """Wait until something that follows from what was done has happened."""
    limit = time.monotonic() + seconds
    while not check():
        if time.monotonic() > limit:
            raise AssertionError(f"it did not happen within {seconds} s: {check}")
        await asyncio.sleep(0.01)


async def test_a_request_runs_and_its_events_wait_in_the_log_for_whoever_connects(app) -> None:
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.post("/execute/echo", json={"nonce": "n1", "events": 2}, headers=auth("ann-01"))
            assert answer.json()["success"], answer.text
        async with connect(port, "ann-01") as socket:
            welcome = await frame(socket)
            assert welcome["t"] == "welcome"
            (stream,) = welcome["streams"]
            assert stream["state"] == "ended"
            assert stream["n"] == 8
            await socket.send(json.dumps({"t": "sub", "s": stream["s"]}))
            sub = await frame(socket)
            assert (sub["t"], sub["mode"], sub["n"], sub["head"]) == ("sub", "exact", 0, 8)
            events = []
            while (got := await frame(socket))["t"] == "ev":
                events += [entry["ev"] for entry in got["b"]]
            assert (got["t"], got["n"], got["outcome"]) == ("end", 8, "completed")
            assert faults(events) == []
            assert [event["seq"] for event in events] == list(range(1, 9))


async def test_a_plain_client_is_sent_live_and_recent_runs_in_the_shape_it_reads(app) -> None:
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for agent in ("echo", "failing"):
                await client.post(f"/execute/{agent}", json={"nonce": "n"}, headers=auth("ann-02"))
            async with connect(port, "ann-02", framed=False) as socket:
                messages = await plain_messages(socket, 6 + 2)
                await client.post("/emit", headers=auth("ann-02"))
                messages += await plain_messages(socket, 1)
    assert [rule for message in messages for rule in broken_rules(message)] == []
    assert {message["type"] for message in messages} == {
        "agent_started",
        "agent_thinking",
        "agent_completed",
        "agent_error",
        "note",
    }


def test_the_front_ends_rules_find_a_message_that_breaks_them() -> None:
    """The positive control of the fixture."""
    good = {
        "type": "tool_completed",
        "agent_name": "a",
        "run_id": "r",
        "timestamp": "2026-01-01T00:00:00Z",
        "payload": {"tool_name": "t", "result": 1, "execution_time_ms": 2},
    }
    assert broken_rules(good) == []
    assert broken_rules({**good, "type": None})
    assert broken_rules({**good, "payload": None})
    assert broken_rules({**good, "reasoning": "leaked into the envelope"})
    assert broken_rules({key: value for key, value in good.items() if key != "run_id"})
    assert broken_rules({"event_type": "agent_started", "data": {}, "timestamp": 1})


async def test_nobody_signed_in_is_401() -> None:
    with serving(make_app()) as port, pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"ws://127.0.0.1:{port}/ws", subprotocols=["isolane.v1"])
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["code"] == "unauthenticated"


async def test_nobody_signed_in_is_4501_where_pages_are_to_see_it() -> None:
    app = make_app(websocket_accept_then_close=True)
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.post("/execute/echo", json={})
            assert answer.status_code == 401
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"]
            body = answer.json()
            assert (body["code"], body["retriable"], body["status"]) == ("unauthenticated", False, 401)
            assert (await client.get("/who")).json()["user"] is None
        async with websockets.connect(f"ws://127.0.0.1:{port}/ws", subprotocols=["isolane.v1"]) as socket:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd.code == 4501


async def test_a_placeholder_user_is_400_and_says_why(app) -> None:
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        answer = client.post("/execute/echo", json={}, headers=auth("default"))
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_context")
        assert "placeholder" in answer.json()["detail"]


async def test_the_third_engine_of_a_user_is_429_and_of_another_is_not(app) -> None:
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for _ in range(2):
                assert (await client.post("/start/slow", json={}, headers=auth("ann-06"))).status_code == 200
            refused = await client.post("/start/slow", json={}, headers=auth("ann-06"))
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert (refused.json()["code"], refused.json()["retriable"]) == ("engine_limit", True)
            assert (await client.post("/execute/echo", json={"nonce": "b"}, headers=auth("bob"))).json()["success"]
            await app.state.isolane.factory.cleanup_user_context("nobody")


async def test_a_static_request_makes_no_lane(app) -> None:
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        client.get("/static", headers=auth("somebody-who-only-looks"))
    assert lane_usage("somebody-who-only-looks") is None


async def test_the_thread_comes_from_path_query_header_or_is_new(app) -> None:
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/who?thread_id=from-query", headers=auth("ann-08")).json()["thread"] == "from-query"
        headers = {**auth("ann-08"), "X-Thread-ID": "from-header"}
        assert client.get("/who", headers=headers).json()["thread"] == "from-header"
        new = {client.get("/who", headers=auth("ann-08")).json()["thread"] for _ in range(2)}
        assert len(new) == 2


async def test_resolve_ids_decides_on_the_thread() -> None:
    app = FastAPI()
    setup(app, IsolaneSettings(), who, resolve_ids=lambda conn: f"hook-{conn.url.path[1:]}")

    @app.get("/x")
    async def x(ctx: Ctx) -> str:
        return ctx.thread_id

    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/x", headers=auth("ann-09")).json() == "hook-x"


async def test_the_session_is_one_per_run_and_closed_with_it(app) -> None:
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(3):
            assert client.get("/session", headers=auth("ann-10")).json() == {"same": True, "open": True}
        await settled(lambda: Session.closed == 3)
        assert Session.opened == 3


async def test_the_context_lives_until_a_streaming_response_is_finished(app) -> None:
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        lines = client.get("/stream", headers=auth("ann-streams")).text.split()
        assert lines == ["ann-streams:active"] * 3
        await settled(lambda: (lane_usage("ann-streams") or {"handles": 0})["handles"] == 0)


async def test_a_closed_socket_frees_its_cursor_and_the_run_goes_on(app) -> None:
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            socket = await connect(port, "ann-closes")
            await frame(socket)
            request = {"nonce": "n", "events": 20, "pause": 0.01}
            started = (await client.post("/start/echo", json=request, headers=auth("ann-closes"))).json()
            await frame(socket)
            await socket.close()
            await settled(lambda: lane_usage("ann-closes")["connections"] == 0)
            async with connect(port, "ann-closes") as again:
                welcome = await frame(again)
                assert [stream["s"] for stream in welcome["streams"]] == [started["run_id"]]
                await again.send(json.dumps({"t": "sub", "s": started["run_id"]}))
                await frame(again)
                events = []
                while (got := await frame(again))["t"] == "ev":
                    events += [entry["ev"] for entry in got["b"]]
                assert got["t"] == "end"
                assert len(events) == 22
                assert faults(events) == []


async def test_a_client_resumes_exactly_where_it_was(app) -> None:
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await client.post("/execute/echo", json={"nonce": "n", "events": 5}, headers=auth("ann-resumes"))
        async with connect(port, "ann-resumes") as socket:
            (stream,) = (await frame(socket))["streams"]
            for position, epoch, mode, first in (
                (7, stream["e"], "exact", 8),
                (0, stream["e"], "exact", 1),
                (7, "another-epoch", "reset", 1),
                (999, stream["e"], "reset", 1),
                (-4, stream["e"], "reset", 1),
                ("seven", stream["e"], "reset", 1),
            ):
                request = {"t": "sub", "s": stream["s"], "e": epoch, "n": position}
                await socket.send(json.dumps(request))
                assert (await frame(socket))["mode"] == mode
                got = await frame(socket)
                assert got["b"][0]["n"] == first
                while (await frame(socket))["t"] != "end":
                    pass


async def test_foreign_and_unknown_streams_get_the_same_answer(app) -> None:
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            secret = (await client.post("/execute/echo", json={"nonce": "n"}, headers=auth("ann-14"))).json()["run_id"]
        async with connect(port, "bob-is-curious") as socket:
            assert (await frame(socket))["streams"] == []
            answers = []
            for run in (secret, "run_that_never_was"):
                await socket.send(json.dumps({"t": "sub", "s": run, "e": "x", "n": 3}))
                answers.append(await frame(socket))
            assert [{**answer, "s": ""} for answer in answers] == [{"v": 1, "t": "sub", "s": "", "mode": "gone"}] * 2


async def test_broken_frames_close_the_socket_and_unknown_ones_are_ignored(app) -> None:
    with serving(app) as port:
        async with connect(port, "ann-15") as socket:
            await frame(socket)
            await socket.send(json.dumps({"t": "from-the-future", "x": 1}))
            await socket.send(json.dumps({"t": "pong"}))
            await socket.send("no json")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                while True:
                    await frame(socket)
            assert closed.value.rcvd.code == 4500


async def test_the_fourth_socket_replaces_the_one_that_read_longest_ago(app) -> None:
    with serving(app) as port:
        sockets = []
        for _ in range(4):
            sockets.append(await connect(port, "ann-tabs"))
            await frame(sockets[-1])
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await frame(sockets[0])
        assert closed.value.rcvd.code == 4504
        assert lane_usage("ann-tabs")["connections"] == 3
        for socket in sockets:
            await socket.close()


async def test_a_client_that_does_not_pong_is_closed(monkeypatch) -> None:
    monkeypatch.setattr("isolane.fastapi.sockets.PONG_SECONDS", 0.2)
    app = make_app(websocket_heartbeat_interval=0.4)
    with serving(app) as port:
        async with connect(port, "ann-17") as socket:
            assert (await frame(socket))["ping_ms"] == 200
            assert (await frame(socket))["t"] == "ping"
            await socket.send(json.dumps({"t": "pong"}))
            assert (await frame(socket))["t"] == "ping"
            assert (await frame(socket))["code"] == 4012


async def test_a_chat_socket_starts_a_run_for_each_message(app) -> None:
    with serving(app) as port:
        async with connect(port, "ann-chats", framed=False, path="/chat") as socket:
            for thread in ("thread-1", "thread-2"):
                await socket.send(json.dumps({"thread_id": thread, "nonce": thread}))
                events = await plain_messages(socket, 3)
                assert {event["thread_id"] for event in events} == {thread}
                assert faults(events) == []


async def test_ctx_on_a_socket_names_what_to_use_instead(app, capfd) -> None:
    with serving(app) as port, pytest.raises(websockets.WebSocketException):
        async with connect(port, "ann-19", framed=False, path="/wrong") as socket:
            await socket.recv()
    assert "connection.start_run" in capfd.readouterr().err


async def test_slots_and_permits_return_when_the_runs_end_and_bytes_after_the_retention(app) -> None:
    """The positive control stands in the middle: while the log is retained, the bytes are there."""
    user = "ann-returns"
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/execute/slow", json={}, headers=auth(user), timeout=0.2)
            await client.post("/execute/echo", json={"nonce": "n"}, headers=auth(user))
            isolane = app.state.isolane
            assert isolane.limiter.stats(user)["running"] == 1, "the abandoned request still runs"
            await client.post("/start/echo", json={"nonce": "n"}, headers=auth(user))
    # The server has drained: what was abandoned was cancelled and ended.
    assert isolane.limiter.stats()["running"] == isolane.limiter.stats()["queued"] == 0
    assert isolane.factory.get_factory_metrics()["engines_active"] == 0
    # Contexts of failed requests hang in the tracebacks of their exceptions until the collector comes by.
    gc.collect()
    usage = lane_usage(user)
    assert usage["event_bytes"] > 0
    assert usage["streams"] == usage["handles"] == 3
    with manual_clock() as clock:
        # The server took its time to stop, which counts.
        clock.advance(270)
        sweep_lanes()
        assert lane_usage(user)["event_bytes"] > 0
        clock.advance(31)
        sweep_lanes()
        usage = lane_usage(user)
        assert (usage["event_bytes"], usage["streams"], usage["handles"]) == (0, 0, 0)


async def test_setup_is_idempotent_and_composes_with_the_applications_lifespan() -> None:
    steps = []

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        steps.append("start")
        yield {"pool": "the pool"}
        steps.append("stop")

    app = FastAPI(lifespan=lifespan)
    first = setup(app, IsolaneSettings(), who)
    assert setup(app, IsolaneSettings(), who) is first

    @app.get("/pool")
    async def pool(request: Request) -> str:
        return request.state.pool

    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/pool").json() == "the pool"
        assert client.get("/_isolane/health").json() == {"status": "ok"}
        assert client.get("/_isolane/ready").json() == {"status": "ready"}
    assert steps == ["start", "stop"]


def test_setup_without_authenticate_says_what_is_missing() -> None:
    with pytest.raises(TypeError, match="authenticate"):
        setup(FastAPI())


async def test_an_application_can_be_started_again(app) -> None:
    for _ in range(2):
        with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.post("/execute/echo", json={"nonce": "n"}, headers=auth("ann-again")).json()["success"]
            assert client.get("/_isolane/ready").status_code == 200


async def test_draining_refuses_runs_and_sends_sockets_away(app) -> None:
    with serving(app) as port:
        async with (
            connect(port, "ann-drains") as socket,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            await frame(socket)
            # On the server's own loop, as a hook of the application would do it.
            app.state.isolane.start_draining()
            assert (await client.get("/_isolane/ready")).status_code == 503
            refused = await client.post("/execute/echo", json={}, headers=auth("ann-drains"))
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")
            assert refused.headers["retry-after"]
            bye = await frame(socket)
            assert (bye["t"], bye["code"]) == ("bye", 4001)


async def test_a_socket_does_not_hold_the_runs_it_started(app) -> None:
    with serving(app) as port:
        async with connect(port, "ann-talks", framed=False, path="/chat") as socket:
            for number in range(30):
                await socket.send(json.dumps({"thread_id": "thread-1", "nonce": str(number)}))
                await plain_messages(socket, 3)
            await asyncio.sleep(0.2)
            gc.collect()
            alive = [
                held
                for held in gc.get_objects()
                if isinstance(held, UserExecutionContext) and held.user_id == "ann-talks"
            ]
            assert len(alive) <= 2


async def test_a_state_dictionary_that_a_server_shares_between_requests_mixes_nobody(app) -> None:
    shared: dict = {}
    answers = {}

    async def ask(user: str) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/who",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {user}".encode())],
            "state": shared,
        }
        body = b""

        async def receive() -> dict:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict) -> None:
            nonlocal body
            await asyncio.sleep(0.01)
            body += message.get("body", b"")

        await app(scope, receive, send)
        answers[user] = json.loads(body)["user"]

    await asyncio.gather(ask("ann-shares"), ask("bob-shares"))
    assert answers == {"ann-shares": "ann-shares", "bob-shares": "bob-shares"}
    assert shared == {}


@pytest.mark.parametrize("after", ["run", "run:e:7", "a:run:e:7", "run::7"])
async def test_a_position_in_a_run_that_is_not_known_is_survived(app, after) -> None:
    with serving(app) as port:
        async with connect(port, "ann-odd", framed=False, query=f"?{urlencode({'after': after})}") as socket:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                await client.post("/emit", headers=auth("ann-odd"))
            assert (await frame(socket))["type"] == "note"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("after", "run:e:\u00b2"),
        ("after", "run:e:99999999999999999999"),
        ("after", ":::"),
        ("after", "run:e:-1"),
        ("after", ""),
        ("since", "long ago"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused_with_what_is_allowed(app, name, value) -> None:
    with serving(app) as port:
        async with connect(port, "ann-odd", framed=False, query=f"?{urlencode({name: value})}") as socket:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4500
    assert closed.value.rcvd.reason.startswith(f"{name}: ")
