"""Event streams (server-sent events), by FastAPI's own support and without it, on a real uvicorn."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Self

import httpx
import pytest
from fastapi import FastAPI
from isolane import UserContextFactory, lane_usage
from isolane._core import EventCursor, end_stream, user_streams
from isolane.fastapi import IsolaneSettings, Principal, sse

from tests.integrations.conftest import make_app
from tests.support.history import faults
from tests.support.server import serving


@pytest.fixture(params=["fastapi", "bytes"])
def app(request, monkeypatch) -> FastAPI:
    if request.param == "bytes":
        monkeypatch.setattr(sse, "EventSourceResponse", None)
    elif sse.EventSourceResponse is None:
        pytest.skip("the installed FastAPI has no support of event streams")
    return make_app()


def auth(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


async def records(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """What a browser makes of the stream, comments included."""
    record: dict[str, Any] = {}
    async for line in response.aiter_lines():
        if not line:
            yield record
            record = {}
        elif line.startswith(":"):
            record["comment"] = line[1:].strip()
        else:
            name, _, value = line.partition(": ")
            record[name] = value


class Reader:
    def __init__(self, port: int, user: str) -> None:
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=auth(user), timeout=10)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def start(self, agent: str = "echo", **request: Any) -> str:
        return (await self.http.post(f"/start/{agent}", json={"nonce": "n", **request})).json()["run_id"]

    async def read(self, run: str, after: str = "", count: int = 10**6, *, query: bool = False) -> list[dict[str, Any]]:
        headers = {"Last-Event-ID": after} if after and not query else {}
        params = {"last_event_id": after} if after and query else {}
        async with self.http.stream("GET", f"/events/{run}", headers=headers, params=params) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-cache"
            got = []
            async for record in records(response):
                got.append(record)
                if len(got) == count:
                    break
            return got


async def test_a_run_is_read_from_its_beginning_to_its_end(app) -> None:
    with serving(app) as port:
        async with Reader(port, "ann-reads") as ann:
            run = await ann.start(events=3)
            got = await ann.read(run)
            *events, end = got
            messages = [json.loads(record["data"]) for record in events]
            assert faults(messages) == []
            assert [record["event"] for record in events] == [message["type"] for message in messages]
            epoch = messages[0]["event_id"].split("_")[1]
            assert [record["id"] for record in events] == [f"{run}:{epoch}:{n}" for n in range(1, 6)]
            assert (end["event"], json.loads(end["data"])) == ("isolane.end", {"outcome": "completed"})
            assert end["id"] == f"{run}:{epoch}:end"


@pytest.mark.parametrize("query", [True, False])
async def test_a_client_resumes_after_its_last_record(app, query) -> None:
    with serving(app) as port:
        async with Reader(port, "ann-comes-back") as ann:
            run = await ann.start(events=5)
            whole = await ann.read(run)
            for at, record in enumerate(whole[:-1]):
                assert await ann.read(run, record["id"], query=query) == whole[at + 1 :]
            reset = {"event": "isolane.reset", "data": "{}"}
            for odd in (f"{run}:another:3", "nonsense"):
                assert await ann.read(run, odd, query=query) == [reset, *whole]


async def test_after_the_end_there_is_no_content(app) -> None:
    with serving(app) as port:
        async with Reader(port, "ann-has-all") as ann:
            run = await ann.start()
            last = (await ann.read(run))[-1]["id"]
            answer = await ann.http.get(f"/events/{run}", headers={"Last-Event-ID": last})
            assert (answer.status_code, answer.content) == (204, b"")
            assert lane_usage("ann-has-all")["connections"] == 0


async def test_foreign_and_unknown_runs_get_the_same_answer(app) -> None:
    with serving(app) as port:
        async with Reader(port, "ann-is-private") as ann, Reader(port, "bob-reads") as bob:
            run = await ann.start()
            await ann.read(run)
            answers = [await bob.http.get(f"/events/{name}") for name in (run, "run-that-never-was")]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].content == answers[1].content
            nobody = await bob.http.get(f"/events/{run}", headers={"Authorization": ""})
            assert nobody.status_code == 401
            placeholder = await bob.http.get(f"/events/{run}", headers=auth("default"))
            assert placeholder.status_code == 401
            assert lane_usage("bob-reads")["connections"] == 0


async def test_a_client_that_goes_away_frees_its_place_and_the_run_goes_on(app) -> None:
    with serving(app) as port:
        async with Reader(port, "ann-goes") as ann:
            run = await ann.start(events=30, pause=0.02)
            first = await ann.read(run, count=2)
            limit = time.monotonic() + 5
            while lane_usage("ann-goes")["connections"]:
                assert time.monotonic() < limit
                await asyncio.sleep(0.01)
            rest = await ann.read(run, first[-1]["id"])
            numbers = [int(record["id"].rpartition(":")[2]) for record in [*first, *rest[:-1]]]
            assert numbers == list(range(1, 33))
            assert rest[-1]["event"] == "isolane.end"


async def test_an_idle_stream_gives_a_sign(app, monkeypatch) -> None:
    monkeypatch.setattr(sse, "PING_SECONDS", 0.1)
    with serving(app) as port:
        async with Reader(port, "ann-is-idle") as ann:
            run = await ann.start("slow")
            got = await ann.read(run, count=6)
            assert {"comment": "ping"} in got


async def test_streams_and_sockets_of_a_user_count_together(app) -> None:
    with serving(app) as port:
        async with Reader(port, "ann-has-four") as ann:
            run = await ann.start("slow")
            readings = []
            for number in range(1, 4):
                readings.append(asyncio.create_task(ann.read(run)))
                limit = time.monotonic() + 5
                while lane_usage("ann-has-four")["connections"] < number:
                    assert time.monotonic() < limit
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.02)
            await ann.read(run, count=1)
            bye = (await readings[0])[-1]
            assert bye["event"] == "isolane.bye"
            assert json.loads(bye["data"])["code"] == 4504
            assert int(bye["retry"]) == json.loads(bye["data"])["retry_ms"] >= 500
            app.state.isolane.start_draining()
            for reading in readings[1:]:
                assert json.loads((await reading)[-1]["data"])["code"] == 4001
            # An `EventSource` would never come back after a 503.
            answer = await ann.http.get(f"/events/{run}")
            assert answer.status_code == 200
            assert answer.text.startswith("event: isolane.bye\n")
            assert "\nretry: " in answer.text


async def test_both_ways_send_the_same_bytes(monkeypatch) -> None:
    if sse.EventSourceResponse is None:
        pytest.skip("the installed FastAPI has no support of event streams")
    texts = []
    run = ""
    for own in (True, False):
        if not own:
            monkeypatch.setattr(sse, "EventSourceResponse", None)
        with serving(make_app()) as port:
            async with Reader(port, "ann-compares") as ann:
                run = run or await ann.start(events=20)
                texts.append((await ann.http.get(f"/events/{run}")).content)
    assert texts[0] == texts[1]
    assert texts[0].count(b"\n\n") == 23


async def test_a_stream_that_is_not_there_takes_nobodys_place() -> None:
    """Else an `EventSource` that comes back after the end would close a socket for good."""
    context = UserContextFactory.create_context("ann-has-sockets")
    emitter = context.get_websocket_emitter()
    emitter.publish("mine")
    sockets = [EventCursor(context.user_id) for _ in range(3)]
    principal, settings = Principal(context.user_id), IsolaneSettings()
    assert sse.EventStream(settings, principal, "run-that-never-was").mode == "gone"
    (epoch,) = [stream["epoch"] for stream in user_streams(context.user_id)]
    end_stream(context, "completed", "")
    assert sse.EventStream(settings, principal, context.run_id, f"{context.run_id}:{epoch}:end").mode is None
    assert [socket.close_code for socket in sockets] == [None, None, None]


async def test_what_came_with_the_end_counts_as_sent() -> None:
    context = UserContextFactory.create_context("ann-waits-for-it")
    emitter = context.get_websocket_emitter()
    waiting = emitter.wait(emitter.publish("mine"), "sent", timeout=2)
    end_stream(context, "completed", "")
    stream = sse.EventStream(IsolaneSettings(), Principal(context.user_id), context.run_id)
    while await stream.records():
        pass
    await waiting
    stream.close()
