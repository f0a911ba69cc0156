"""The help desk of the guide in its second week: the flag goes back and forth while users work, no event is lost."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import websockets

ROOT = Path(__file__).parents[2]
USERS = ("ann", "bob", "cleo", "dan")
AGENTS = ("research", "draft", "review")
RUNS = 8


@pytest.fixture
def second_week(tmp_path) -> Path:
    """The service with the diffs of two weeks, in a folder of its own."""
    if shutil.which("git") is None:
        assert not os.environ.get("ISOLANE_REQUIRE_ALL"), "git is not installed"
        pytest.skip("left out: git applies the guide's diffs, and is not installed")
    service = tmp_path / "helpdesk"
    shutil.copytree(ROOT / "examples" / "legacy_service", service)
    fix = [sys.executable, "-m", "isolane.cli", "migrate", "fix", "--write", "app"]
    subprocess.run(fix, cwd=service, check=False, capture_output=True)
    subprocess.run(["git", "apply", "weeks/1.diff", "weeks/2.diff"], cwd=service, check=True)
    return service


@asynccontextmanager
async def serving(service: Path):
    """Run the service under uvicorn, and return its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (service / "server.log").open("wb") as log:
        server = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port), "--log-level", "warning"],
            cwd=service,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 0.1).close()
                break
            except OSError:
                assert server.poll() is None, (service / "server.log").read_text()
                await asyncio.sleep(0.05)
        yield port
    finally:
        server.terminate()
        await asyncio.to_thread(server.wait, 30)


async def flip(service: Path, percent: int) -> None:
    """Change the flag as an operator does."""
    command = ["isolane.cli", "rollout", "set", "modern_execution", str(percent), "--file", "flags.json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, cwd=service, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


class Desk:
    """One user at work: a socket that keeps what it is sent, and questions."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.messages: list[dict] = []
        self.runs: dict[str, str] = {}

    async def work(self, ready: asyncio.Barrier, done: asyncio.Barrier, turn: asyncio.Lock) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=30) as client:
            token = (await client.post("/login", json={"user_id": self.name})).json()["token"]
            signed_in = {"Authorization": f"Bearer {token}"}
            client.headers.update(signed_in)
            await client.post("/notes", json={"text": f"the secret of {self.name}"})
            address = f"ws://127.0.0.1:{self.port}/ws"
            async with websockets.connect(address, additional_headers=signed_in) as events:
                listening = asyncio.create_task(self._listen(events))
                await ready.wait()
                for number in range(RUNS):
                    # The old way knows one run at a time; beside each other its runs take each other's names.
                    async with turn:
                        answer = (await client.post("/runs", json={"question": f"the secret, {number}"})).json()
                    self.runs[answer["run_id"]] = answer["answer"]
                    await asyncio.sleep(0.02)
                await done.wait()
                await asyncio.sleep(0.5)
                listening.cancel()

    async def _listen(self, events) -> None:
        async for text in events:
            self.messages.append(json.loads(text))

    def ended(self) -> Counter:
        """How often each agent of each run was seen to end."""
        seen = (one for one in self.messages if one["type"] == "agent_completed")
        return Counter((one["run_id"], one["agent_name"]) for one in seen)


async def test_flipping_the_flag_under_load_loses_no_event(second_week):
    async with serving(second_week) as port:
        desks = [Desk(name, port) for name in USERS]
        ready, done, turn = asyncio.Barrier(len(desks) + 1), asyncio.Barrier(len(desks)), asyncio.Lock()
        async with asyncio.timeout(90), asyncio.TaskGroup() as at_work:
            for desk in desks:
                at_work.create_task(desk.work(ready, done, turn))
            await ready.wait()
            for percent in (100, 0, 50, 0):
                await flip(second_week, percent)
                await asyncio.sleep(1.0)

    owner = {run_id: desk.name for desk in desks for run_id in desk.runs}
    assert len(owner) == len(USERS) * RUNS
    ways: Counter = Counter()
    for desk in desks:
        ended = desk.ended()
        for run_id in desk.runs:
            # Each agent of each run ended once, whichever way the run went.
            assert {agent: ended[run_id, agent] for agent in AGENTS} == dict.fromkeys(AGENTS, 1), run_id
            numbers = [one["seq"] for one in desk.messages if one["run_id"] == run_id and "seq" in one]
            assert numbers == sorted(set(numbers))
            # Modern events are numbered and old ones are not: a run has the one or the other.
            own = [one for one in desk.messages if one["run_id"] == run_id]
            assert len(numbers) in {0, len(own)}, "a run of both ways"
            ways["modern" if numbers else "legacy"] += 1
    assert ways["modern"] >= 3, ways
    assert ways["legacy"] >= 3, ways
    for desk in desks:
        for one in desk.messages:
            if "seq" in one:
                assert owner[one["run_id"]] == desk.name, "a modern event for somebody else"


NO_ROOM = """
from app import main
from fastapi.testclient import TestClient
from isolane.migration import legacy

async def no_room(self, *arguments):
    raise RuntimeError("there is no room")

type(legacy.get_websocket_manager()).add_connection = no_room
with TestClient(main.app, raise_server_exceptions=False) as client:
    token = client.post("/login", json={"user_id": "ann"}).json()["token"]
    try:
        with client.websocket_connect("/ws", headers={"Authorization": f"Bearer {token}"}) as socket:
            socket.receive_text()
    except Exception:
        pass
    print("left:", any(main.get_websocket_manager().connections.values()))
"""


def test_a_socket_that_finds_no_room_stays_in_no_manager(second_week):
    environment = {**os.environ, "PYTHONPATH": str(second_week)}
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM], cwd=second_week, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "left: False\n", done.stdout + done.stderr
