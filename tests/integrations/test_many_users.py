"""Many users at once through one server: every event in order, nothing of one user with another."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets

import httpx
import websockets

from tests.integrations.conftest import make_app
from tests.support.history import faults
from tests.support.server import serving

USERS = 100
PIPELINES = 2
EVENTS = 20


async def follow(port: int, user: str, ended: int) -> tuple[str, list[dict]]:
    """Read everything of a user until so many streams have ended. Returns the raw text as well."""
    raw, events = [], []
    async with websockets.connect(
        f"ws://127.0.0.1:{port}/ws", subprotocols=["isolane.v1", f"bearer.{user}"], open_timeout=60
    ) as socket:
        while ended:
            text = await asyncio.wait_for(socket.recv(), 60)
            raw.append(text)
            frame = json.loads(text)
            if frame["t"] == "ping":
                await socket.send('{"t":"pong"}')
            elif frame["t"] == "ev":
                events += [entry["ev"] for entry in frame["b"]]
            elif frame["t"] == "end":
                ended -= 1
    return "".join(raw), events


async def user_story(port: int, client: httpx.AsyncClient, user: str, nonce: str) -> tuple[str, list[dict]]:
    reader = asyncio.create_task(follow(port, user, PIPELINES))
    await asyncio.sleep(0)
    request = {"nonce": nonce, "events": EVENTS - 2, "pause": 0.001}
    headers = {"Authorization": f"Bearer {user}"}
    answers = await asyncio.gather(
        *(client.post("/start/echo", json=request, headers=headers) for _ in range(PIPELINES))
    )
    assert [answer.status_code for answer in answers] == [200] * PIPELINES, answers[0].text
    return await reader


async def test_a_hundred_users_with_two_pipelines_each(caplog) -> None:
    caplog.set_level(logging.DEBUG)
    app = make_app(permits_total=200)
    nonces = {f"user-{number:03}": secrets.token_hex(16) for number in range(USERS)}
    with serving(app, log_config=None) as port:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=60) as client:
            stories = await asyncio.gather(*(user_story(port, client, user, nonce) for user, nonce in nonces.items()))
    foreign = 0
    for (user, nonce), (raw, events) in zip(nonces.items(), stories, strict=True):
        assert len(events) == PIPELINES * EVENTS, user
        assert faults(events) == [], user
        assert raw.count(nonce) == PIPELINES * (EVENTS - 2 + 1), user
        foreign += sum(other in raw for other in nonces.values() if other != nonce)
    assert foreign == 0
    logs = caplog.text
    assert sum(nonce in logs for nonce in nonces.values()) == 0


def test_the_count_of_foreign_bytes_finds_a_leak() -> None:
    """The positive control: the same counting over transcripts of which one holds another user's nonce."""
    nonces = {"ann": "a" * 32, "bob": "b" * 32}
    transcripts = {"ann": f"... {nonces['ann']} ... {nonces['bob']}", "bob": nonces["bob"]}
    foreign = sum(
        other in transcripts[user] for user, nonce in nonces.items() for other in nonces.values() if other != nonce
    )
    assert foreign == 1
