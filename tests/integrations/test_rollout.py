"""Flags in a running service: real uvicorn, real sockets, real processes, a file that is changed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI
from fastapi.testclient import TestClient
from isolane import FileSource, FlagWriter, MigrationFeatureFlags, RolloutGuard, installed_flags
from isolane.fastapi import Flags, Principal, RunModes, setup

from tests.support.event_history import History
from tests.support.framed_client import FramedClient
from tests.support.rollout_service import make_app, who
from tests.support.server import serving

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (
    "import sys, uvicorn\n"
    "if __name__ == '__main__':\n"
    "    app = 'tests.support.rollout_service:make_app'\n"
    "    uvicorn.run(app, factory=True, fd=int(sys.argv[1]), workers=int(sys.argv[2]))"
)
MODERN = "modern_execution"
HYBRID = "hybrid_websocket_mode"


def auth(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


@pytest.fixture
def writer(tmp_path) -> FlagWriter:
    writer = FlagWriter(tmp_path / "flags.json")
    for flag in (MODERN, HYBRID):
        writer.set_rollout(flag, 0, actor="ann", create=True)
    return writer


def flags_of(writer: FlagWriter) -> MigrationFeatureFlags:
    """Looked at often: the test turns the flags more often than anybody would."""
    return MigrationFeatureFlags(FileSource(writer.path, poll_seconds=0.02))


# -- propagation -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def processes(path: Path, tmp_path: Path, workers: int) -> Iterator[str]:
    """A real server with so many workers, which knows of the flags by one variable of the environment."""
    program = tmp_path / "serve.py"
    program.write_text(PROGRAM)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, program, str(listener.fileno()), str(workers)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "ISOLANE_FLAGS_FILE": str(path)},
            pass_fds=[listener.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        port = listener.getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def ask(url: str) -> dict[str, Any]:
    """Over a connection of its own, which any of the workers takes."""
    answer: dict[str, Any] = (
        httpx.get(f"{url}/mode", headers=auth("of-a-rollout"), timeout=20).raise_for_status().json()
    )
    return answer


def seconds_until_all(url: str, workers: int, bridge: str) -> float:
    """How long it takes until every worker has answered so, and none answers otherwise any more."""
    began = last = time.monotonic()
    agreed: set[int] = set()
    limit = began + 60
    while len(agreed) < workers:
        assert time.monotonic() < limit, agreed
        answer = ask(url)
        if answer["bridge"] == bridge:
            agreed.add(answer["pid"])
        else:
            agreed.discard(answer["pid"])
            last = time.monotonic()
    return last - began


@pytest.mark.parametrize("workers", [1, 3])
def test_a_rollback_reaches_running_workers_within_two_seconds(workers, writer, tmp_path) -> None:
    writer.set_rollout(MODERN, 100, actor="ann")
    took = []
    with processes(writer.path, tmp_path, workers) as url:
        limit = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.TransportError):
                ask(url)
                break
            assert time.monotonic() < limit
            time.sleep(0.05)
        seconds_until_all(url, workers, "modern")
        # Three tries, of which one may count: this is not a test of how busy the machine is.
        for number in range(3):
            writer.roll_back(MODERN, {"metric": "run_error", "measured": 0.2, "threshold": 0.005}, actor="guard")
            took.append(seconds_until_all(url, workers, "legacy"))
            assert ask(url)["step"] == "rollback"
            if took[-1] <= 2:
                break
            writer.resume(MODERN, ack=f"INC-{number}", actor="ann")
            writer.set_rollout(MODERN, 100, actor="ann")
            seconds_until_all(url, workers, "modern")
        writer.resume(MODERN, ack="INC-9", actor="ann")
        writer.kill(actor="ann")
        seconds_until_all(url, workers, "legacy")
    assert min(took) <= 2, took


# -- runs --------------------------------------------------------------------------------------------------------------


class User:
    """One user of a service in migration: a socket of the new kind, which breaks now and then, and one of the old."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.tab = FramedClient(port, name, History(), name)
        self.old: list[dict[str, Any]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.done = False
        self.draw = random.Random(name)

    async def read_old(self, opened: asyncio.Event) -> None:
        async with websockets.connect(f"ws://127.0.0.1:{self.port}/old?user={self.name}") as connection:
            opened.set()
            while not self.done:
                with contextlib.suppress(TimeoutError):
                    self.old.append(json.loads(await asyncio.wait_for(connection.recv(), 0.1)))

    async def read_new(self) -> None:
        while not self.done:
            cut = time.monotonic() + self.draw.uniform(0.1, 0.5)
            await self.tab.follow(lambda _, cut=cut: self.done or time.monotonic() > cut, seconds=60)
            self.tab.drop()

    async def start(self, http: httpx.AsyncClient, **request: Any) -> str:
        nonce = f"{self.name}-{len(self.runs)}"
        answer = await http.post("/run", json={"nonce": nonce, **request}, headers=auth(self.name))
        assert answer.status_code == 200, answer.text
        self.runs[nonce] = {**answer.json(), "events": request["events"]}
        return str(answer.json()["run_id"])

    def notes(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """What arrived of each run, by the way that it came."""
        found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: {"new": [], "old": []})
        for messages in self.tab.messages.values():
            for message in messages:
                if message["type"] == "note":
                    found[message["payload"]["nonce"]]["new"].append(message["payload"])
        for message in self.old:
            found[message["nonce"]]["old"].append(message)
        return found

    def is_complete(self) -> bool:
        notes = self.notes()
        return all(sum(map(len, notes[nonce].values())) >= run["events"] for nonce, run in self.runs.items())

    def faults(self) -> list[str]:
        """What is missing, doubled, out of order, somebody else's, or in two modes."""
        found = []
        for nonce, ways in self.notes().items():
            run = self.runs.get(nonce)
            if run is None:
                found.append(f"{nonce} is no run of {self.name}")
                continue
            modern = run["bridge"] == "modern"
            mine, other = (ways["new"], ways["old"]) if modern else (ways["old"], ways["new"])
            if other:
                found.append(f"{nonce} is {run['bridge']}, and {len(other)} of its events went the other way")
            if [note["at"] for note in mine] != list(range(run["events"])):
                found.append(f"{nonce}: {[note['at'] for note in mine]} of {run['events']} arrived")
            if {note["bridge"] for note in mine} - {run["bridge"]} or len({note["revision"] for note in mine}) > 1:
                found.append(f"{nonce} began as {run['bridge']} and went on as {Counter(n['bridge'] for n in mine)}")
        return found

    def turned(self) -> int:
        """In how many runs the flags were turned while they went on."""
        notes = self.notes().values()
        return sum(any(note["now"] != note["bridge"] for note in ways["new"] + ways["old"]) for ways in notes)


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)


async def test_under_load_no_run_mixes_modes_and_no_event_is_lost_while_flags_are_turned(writer) -> None:
    flags = flags_of(writer)
    with serving(make_app(flags, max_connections_per_user=5)) as port:
        users = [User(f"load-{number}", port) for number in range(6)]
        opened = [asyncio.Event() for _ in users]
        reading = [asyncio.create_task(user.read_old(event)) for user, event in zip(users, opened, strict=True)]
        reading += [asyncio.create_task(user.read_new()) for user in users]
        await asyncio.gather(*(event.wait() for event in opened))
        turning = True

        async def turn() -> None:
            draw = random.Random(1)
            while turning:
                flag, percent = draw.choice([(MODERN, 100), (MODERN, 0), (MODERN, 50), (HYBRID, 100), (HYBRID, 0)])
                await asyncio.to_thread(writer.set_rollout, flag, percent, actor="ann")
                await asyncio.sleep(0.03)
            await asyncio.to_thread(writer.set_rollout, MODERN, 0, actor="ann")

        def bridges() -> Counter[str]:
            return Counter(run["bridge"] for user in users for run in user.runs.values())

        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            turner = asyncio.create_task(turn())

            async def work(user: User) -> None:
                # Until enough has happened, however fast the machine is.
                limit = time.monotonic() + 40
                while min(bridges()[each] for each in ("legacy", "hybrid", "modern")) < 8 or len(user.runs) < 8:
                    assert time.monotonic() < limit, bridges()
                    await user.start(http, events=20, pause=0.02, children=True)
                    await asyncio.sleep(user.draw.uniform(0, 0.1))

            await asyncio.gather(*(work(user) for user in users))
            # Back to the old way, with runs of the new one under way.
            for user in users:
                await user.start(http, events=20, pause=0.02)
            turning = False
            await turner
            await until(lambda: flags.engine.revision == writer.read().revision)
            for user in users:
                await user.start(http, events=20, pause=0.02)
                assert list(user.runs.values())[-1]["bridge"] != "modern"
            await until(lambda: all(user.is_complete() for user in users))
        for user in users:
            user.done = True
        await asyncio.gather(*reading)
        for user in users:
            await user.tab.close()
    assert [fault for user in users for fault in user.faults()] == []
    # What is asked for has happened: flags were turned within runs, and sockets broke.
    assert sum(user.turned() for user in users) >= 10
    assert sum(user.tab.connections for user in users) > len(users)


async def test_a_client_that_comes_back_finds_its_live_run_in_the_mode_in_which_it_began(writer) -> None:
    writer.set_rollout(MODERN, 100, actor="ann")
    flags = flags_of(writer)
    with serving(make_app(flags)) as port:
        user = User("comes-back", port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            run = await user.start(http, events=10, gate=3)
            await user.tab.follow(lambda tab: len(tab.messages[run]) >= 4)
            user.tab.drop()
            await asyncio.to_thread(writer.roll_back, MODERN, {"metric": "run_error"}, actor="guard")
            await until(lambda: flags.bridge_mode(user.name) == "legacy")
            # The connection is new, and what is begun now goes the old way; the run goes on as it was.
            following = asyncio.create_task(user.tab.follow(lambda tab: run in tab.ended))
            await user.start(http, events=3)
            await http.post("/go")
            await following
        await user.tab.close()
    assert user.tab.connections == 2
    assert [run["bridge"] for run in user.runs.values()] == ["modern", "legacy"]
    notes = user.notes()["comes-back-0"]["new"]
    assert [note["at"] for note in notes] == list(range(10))
    assert {note["bridge"] for note in notes} == {"modern"}
    assert notes[-1]["now"] == "legacy"
    assert user.tab.ended[run] == "completed"


# -- setup -------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_stays_installed() -> Iterator[None]:
    assert installed_flags() is None
    yield
    assert installed_flags() is None


def test_a_broken_file_does_not_keep_a_service_from_starting(writer, monkeypatch, caplog) -> None:
    writer.set_rollout(MODERN, 100, actor="ann")
    good = writer.path.read_text()
    writer.path.write_text(good[:40])
    monkeypatch.setenv("ISOLANE_FLAGS_FILE", str(writer.path))
    app = make_app()
    with TestClient(app) as client:
        assert client.get("/_isolane/ready").json() == {"status": "degraded", "flags": "stale"}
        assert client.get("/mode", headers=auth("of-a-rollout")).json()["bridge"] == "legacy"
        assert app.state.isolane.introspect()["rollout"]["stale"] is True
        assert "it is no JSON" in caplog.text
        writer.path.write_text(good)
        limit = time.monotonic() + 20
        while client.get("/mode", headers=auth("of-a-rollout")).json()["bridge"] == "legacy":
            assert time.monotonic() < limit
            time.sleep(0.05)
        assert client.get("/_isolane/ready").json() == {"status": "ready"}
        figures = app.state.isolane.introspect()["rollout"]
        assert (figures["stale"], figures["problem"], figures["flags"]) == (False, "", [HYBRID, MODERN])


def test_flags_of_the_environment_alone_are_enough(monkeypatch) -> None:
    monkeypatch.setenv("ISOLANE_FLAG_MODERN_EXECUTION", "true")
    with TestClient(make_app()) as client:
        assert client.get("/mode", headers=auth("of-a-rollout")).json()["bridge"] == "modern"


def test_an_application_can_be_started_again_and_gives_back_what_was_installed(writer) -> None:
    outer = MigrationFeatureFlags({"schema": 1, "revision": 1, "flags": {}}).install()
    try:
        flags = flags_of(writer)
        app = make_app(flags)
        for _ in range(2):
            with TestClient(app):
                assert installed_flags() is flags.engine
            assert installed_flags() is outer.engine
        with TestClient(app):
            other = MigrationFeatureFlags({"schema": 1, "revision": 1, "flags": {}}).install()
        assert installed_flags() is other.engine
    finally:
        from isolane import install_flags  # noqa: PLC0415

        install_flags(None)


def test_without_flags_their_dependencies_say_how_to_have_them() -> None:
    app = FastAPI()
    setup(app, authenticate=who)

    @app.get("/flags")
    async def get_flags(flags: Flags) -> None: ...

    @app.get("/modes")
    async def get_modes(modes: RunModes) -> None: ...

    with TestClient(app) as client:
        for path in ("/flags", "/modes"):
            with pytest.raises(RuntimeError, match="ISOLANE_FLAGS_FILE"):
                client.get(path, headers=auth("of-a-rollout"))
        assert client.get("/_isolane/ready").json() == {"status": "ready"}


def test_on_a_socket_the_run_has_the_flags(writer) -> None:
    app = make_app(flags_of(writer))

    @app.websocket("/wrong")
    async def wrong(websocket: Any, flags: Flags) -> None: ...

    wrong_use = pytest.raises(RuntimeError, match="start_run")
    with TestClient(app) as client, wrong_use, client.websocket_connect("/wrong", headers=auth("of-a-rollout")):
        pass


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"rollout": "flags.json"}, "MigrationFeatureFlags"),
        ({"guard": object()}, "RolloutGuard"),
    ],
)
def test_misfits_are_refused_before_the_start(given, text) -> None:
    with pytest.raises(TypeError, match=text):
        setup(FastAPI(), authenticate=lambda _: Principal("of-a-rollout"), **given)


class Guard:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def attach(self, isolane: Any) -> None:
        self.told.append(isolane)

    def tick(self) -> None:
        self.told.append("tick")

    def detach(self) -> None:
        self.told.append("detached")


def test_a_guard_without_flags_is_refused() -> None:
    with pytest.raises(TypeError, match="rollout=MigrationFeatureFlags"):
        setup(FastAPI(), authenticate=who, guard=Guard())


@pytest.mark.parametrize("given", [True, False])
def test_a_guard_of_other_flags_is_refused(writer, monkeypatch, given) -> None:
    # Its roll-backs would be in force in an engine that nobody asks.
    guard = RolloutGuard(flags_of(writer))
    monkeypatch.setenv("ISOLANE_FLAGS_FILE", str(writer.path))
    with pytest.raises(ValueError, match="other flags"):
        setup(FastAPI(), authenticate=who, rollout=flags_of(writer) if given else None, guard=guard)


class Sink:
    """Keeps what is recorded, or refuses it."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def record(self, event: Any) -> None:
        self.events.append(event)


def test_changes_are_recorded_and_the_guard_is_asked(writer, monkeypatch) -> None:
    monkeypatch.setattr("isolane.fastapi.rollout.GUARD_SECONDS", 0.02)
    app, sink, guard = FastAPI(), Sink(), Guard()
    isolane = setup(app, authenticate=who, rollout=flags_of(writer), guard=guard, audit=sink)

    def wait_for(count: int) -> None:
        limit = time.monotonic() + 20
        while len(sink.events) < count or guard.told.count("tick") < 3:
            assert time.monotonic() < limit
            time.sleep(0.01)

    with TestClient(app):
        writer.kill(actor="ann")
        wait_for(1)
        writer.path.unlink()
        wait_for(2)
    assert [event.name for event in sink.events] == ["rollout_changed", "rollout_stale"]
    assert sink.events[0].data["flags"] == [HYBRID, MODERN]
    assert sink.events[0].audit_class == "admin"
    assert guard.told[0] is isolane
    told = len(guard.told)
    time.sleep(0.1)
    assert (len(guard.told), guard.told[-1]) == (told, "detached")
