"""Many users at once through one server: every event in order, nothing of one user with another.

In the middle, every fifth user's socket is closed and comes back, and every tenth user's request is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import secrets

import httpx
import websockets
from isolane import lane_usage, sweep_lanes
from isolane.testing import manual_clock

from tests.integrations.conftest import make_app
from tests.support.history import faults
from tests.support.server import serving

USERS = 100
PIPELINES = 2
EVENTS = 20


class Reader:
    """One user's browser: follows all runs until so many have ended, and keeps its positions over connections."""

    def __init__(self, port: int, user: str) -> None:
        self.url = f"ws://127.0.0.1:{port}/ws"
        self.user = user
        self.raw: list[str] = []
        self.events: list[dict] = []
        self.positions: dict[str, tuple[str, int]] = {}
        self.ended: set[str] = set()

    async def follow(self, *, leave_after: int | None = None) -> None:
        protocols = ["isolane.v1", f"bearer.{self.user}"]
        async with websockets.connect(self.url, subprotocols=protocols, open_timeout=60) as socket:
            while len(self.ended) < PIPELINES:
                text = await asyncio.wait_for(socket.recv(), 60)
                self.raw.append(text)
                await self.apply(socket, json.loads(text))
                if leave_after is not None and len(self.events) >= leave_after:
                    return

    async def apply(self, socket, frame: dict) -> None:
        match frame["t"]:
            case "welcome":
                for stream in frame["streams"]:
                    epoch, number = self.positions.get(stream["s"], (stream["e"], 0))
                    await socket.send(json.dumps({"t": "sub", "s": stream["s"], "e": epoch, "n": number}))
            case "ping":
                await socket.send('{"t":"pong"}')
            case "ev":
                for entry in frame["b"]:
                    known = self.positions.get(frame["s"], ("", 0))[1]
                    if entry["n"] <= known:
                        continue
                    assert entry["f"] == known + 1, "a hole"
                    self.positions[frame["s"]] = (frame["e"], entry["n"])
                    self.events.append(entry["ev"])
            case "end":
                self.ended.add(frame["s"])


async def cancelled_request(app, user: str) -> None:
    """A request that the server cancels while its agent runs: what a time-out of a gateway or a middleware does."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/execute/slow",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {user}".encode()), (b"content-type", b"application/json")],
    }

    async def receive() -> dict:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict) -> None:
        raise AssertionError(f"an answer to a cancelled request: {message}")

    task = asyncio.create_task(app(scope, receive, send))
    while app.state.isolane.limiter.stats(user)["running"] == 0:
        await asyncio.sleep(0.005)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def user_story(app, port: int, client: httpx.AsyncClient, number: int, user: str, nonce: str) -> Reader:
    reader = Reader(port, user)
    leaves = number % 5 == 0
    following = asyncio.create_task(reader.follow(leave_after=7 if leaves else None))
    request = {"nonce": nonce, "events": EVENTS - 2, "pause": 0.001}
    headers = {"Authorization": f"Bearer {user}"}
    answers = await asyncio.gather(
        *(client.post("/start/echo", json=request, headers=headers) for _ in range(PIPELINES))
    )
    assert [answer.status_code for answer in answers] == [200] * PIPELINES, answers[0].text
    await following
    if leaves:
        await reader.follow()
    return reader


async def test_a_hundred_users_with_two_pipelines_each(caplog) -> None:
    caplog.set_level(logging.DEBUG)
    app = make_app(permits_total=200)
    isolane = app.state.isolane
    nonces = {f"user-{number:03}": secrets.token_hex(16) for number in range(USERS)}
    with serving(app, log_config=None) as port:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=60) as client:
            stories = (
                user_story(app, port, client, number, user, nonce)
                for number, (user, nonce) in enumerate(nonces.items())
            )
            # Users of their own, beside the others on the same limiter and in the same process.
            cancelled = (cancelled_request(app, f"cancelled-{number}") for number in range(USERS // 10))
            readers, _ = await asyncio.gather(asyncio.gather(*stories), asyncio.gather(*cancelled))
    foreign = 0
    for (user, nonce), reader in zip(nonces.items(), readers, strict=True):
        assert len(reader.events) == PIPELINES * EVENTS, user
        assert faults(reader.events) == [], user
        raw = "".join(reader.raw)
        assert json.dumps(reader.events).count(nonce) == PIPELINES * (EVENTS - 2 + 1), user
        foreign += sum(other in raw for other in nonces.values() if other != nonce)
    assert foreign == 0
    assert sum(nonce in caplog.text for nonce in nonces.values()) == 0

    # Slots and permits are back because the runs have ended, and the bytes after the retention.
    assert isolane.limiter.stats()["running"] == isolane.limiter.stats()["queued"] == 0
    assert isolane.factory.get_factory_metrics()["engines_active"] == 0
    users = [*nonces, *(f"cancelled-{number}" for number in range(USERS // 10))]
    assert all(lane_usage(user)["event_bytes"] > 0 for user in users)
    with manual_clock() as clock:
        clock.advance(301)
        sweep_lanes()
        gc.collect()
        left = {
            user: usage for user in users if (usage := lane_usage(user)) and (usage["event_bytes"] or usage["handles"])
        }
    assert left == {}


def test_the_count_of_foreign_bytes_finds_a_leak() -> None:
    """The positive control: the same counting over transcripts of which one holds another user's nonce."""
    nonces = {"ann": "a" * 32, "bob": "b" * 32}
    transcripts = {"ann": f"... {nonces['ann']} ... {nonces['bob']}", "bob": nonces["bob"]}
    foreign = sum(
        other in transcripts[user] for user, nonce in nonces.items() for other in nonces.values() if other != nonce
    )
    assert foreign == 1
