"""Servers that are killed, and servers that are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import websockets

from tests.faults.site import auth, ended, settled
from tests.support.event_history import History
from tests.support.fault_proxy import FaultProxy
from tests.support.framed_client import FramedClient

ROOT = Path(__file__).resolve().parents[2]
SEED = 6
CONNECTIONS = 200


@contextlib.contextmanager
def program() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The site in a process of its own; yields the process and its port."""
    command = [sys.executable, "-m", "tests.faults.program", str(SEED)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


async def start(port: int, user: str, **request: Any) -> str:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
        answer = await http.post("/start/worker", json=request, headers=auth(user))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["run_id"])


async def test_a_killed_server_is_not_mistaken_for_the_one_that_comes_after_it() -> None:
    """Its logs are lost with it. Clients are told that these are gone, and read the runs of the next server."""
    history = History(SEED)
    users = [f"survivor-{number}" for number in range(5)]
    with program() as (first, port):
        async with FaultProxy(port, seed=6) as proxy:
            clients = [FramedClient(proxy.port, user, history, user) for user in users]
            lost = [await start(port, user) for user in users]
            for client, run in zip(clients, lost, strict=True):
                await client.follow(lambda tab, run=run: len(tab.messages[run]) > 10)
            following = [
                asyncio.create_task(client.follow(lambda tab, run=run: run in tab.gone))
                for client, run in zip(clients, lost, strict=True)
            ]
            first.kill()
            first.wait(10)
            with program() as (_, next_port):
                proxy.upstream_port = next_port
                await asyncio.gather(*following)
                runs = [await start(next_port, user, events=20) for user in users]
                await asyncio.gather(*(client.follow(ended(run)) for client, run in zip(clients, runs, strict=True)))
                for client in clients:
                    await client.close()
    for client, run in zip(clients, runs, strict=True):
        assert client.ended[run] == "completed"
        assert [event["seq"] for event in client.messages[run]] == list(range(1, 25))
    history.check()


async def test_a_server_that_is_told_to_stop_sends_two_hundred_clients_away_and_stops() -> None:
    history = History(SEED)
    clients = []
    with program() as (process, port):
        for number in range(CONNECTIONS):
            client = FramedClient(port, f"guest-{number // 2}", history, f"guest-{number}", complete=False)
            await client.connect()
            clients.append(client)
        for number in range(0, CONNECTIONS // 2, 10):
            await start(port, f"guest-{number}")
        leaving = [asyncio.create_task(until_closed(client)) for client in clients]
        await settled(lambda: sum(bool(client.messages) for client in clients) >= 20)
        process.terminate()
        began = time.monotonic()
        codes = Counter(await asyncio.gather(*leaving))
        await asyncio.to_thread(process.wait, 20)
        assert time.monotonic() - began < 20
    for client in clients:
        client.drop()
    # 1012 is uvicorn's own, for sockets that it closes before isolane can.
    assert set(codes) <= {4001, 1012}, codes
    byes = [bye for client in clients for bye in client.byes]
    assert all(bye["code"] == 4001 and bye["retry_ms"] >= 500 for bye in byes)
    if len(byes) > 20:
        # They are not to come back all at once.
        assert len({bye["retry_ms"] for bye in byes}) > len(byes) // 2
    history.check()


async def until_closed(client: FramedClient) -> int | None:
    """Read until the server closes. Returns the code it gave."""
    try:
        while True:
            await client.receive(30)
    except websockets.ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd is not None else None
