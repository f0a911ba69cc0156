"""SIGTERM on a real uvicorn process: clients are told to come back before their sockets close."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import sys, uvicorn; uvicorn.run('tests.integrations.conftest:make_app', factory=True, fd=int(sys.argv[1]))"


@contextlib.contextmanager
def server(**settings: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(listener.fileno())],
            cwd=ROOT,
            env={**os.environ, **settings},
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
        port = listener.getsockname()[1]
    try:
        limit = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/_isolane/ready").raise_for_status()
                break
            assert time.monotonic() < limit
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.wait()


async def codes(port: int, users: int, process: subprocess.Popen[bytes], number: int) -> list[tuple[int | None, int]]:
    """Connect, send the signal, and return the code of each bye and of each close."""

    async def watch(connection: websockets.ClientConnection) -> tuple[int | None, int]:
        bye = None
        try:
            async for text in connection:
                frame = json.loads(text)
                if frame["t"] == "bye":
                    bye = frame["code"]
        except websockets.ConnectionClosed:
            pass
        return bye, connection.close_code or 0

    async with contextlib.AsyncExitStack() as stack:
        watching = []
        for user in range(users):
            connection = await stack.enter_async_context(
                websockets.connect(
                    f"ws://127.0.0.1:{port}/ws", subprotocols=["isolane.v1", f"bearer.ann-{user}-leaves"]
                )
            )
            await connection.recv()
            watching.append(asyncio.create_task(watch(connection)))
        process.send_signal(number)
        return await asyncio.wait_for(asyncio.gather(*watching), 20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_clients_are_told_to_come_back_before_uvicorn_closes_their_sockets(number) -> None:
    with server() as (process, port):
        assert await codes(port, 20, process, number) == [(4001, 4001)] * 20
        process.wait(20)


async def test_the_setting_leaves_it_to_uvicorn() -> None:
    with server(ISOLANE_SIGNAL_DRAIN="0") as (process, port):
        assert await codes(port, 3, process, signal.SIGTERM) == [(None, 1012)] * 3
        process.wait(20)


async def test_an_open_event_stream_does_not_keep_the_server_from_stopping() -> None:
    with server() as (process, port):
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer ann-streams"}, timeout=20
        ) as http:
            run = (await http.post("/start/slow", json={})).json()["run_id"]
            async with http.stream("GET", f"/events/{run}") as response:
                lines = response.aiter_lines()
                assert await anext(lines) == "event: agent_started"
                process.send_signal(signal.SIGTERM)
                rest = [line async for line in lines]
        assert "event: isolane.bye" in rest
        process.wait(20)
