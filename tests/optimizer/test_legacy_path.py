"""The legacy path leaks, as it has to for the demonstration."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from examples.optimizer import legacy
from examples.optimizer.agents.step import AnalysisRequest
from examples.optimizer.check.logs import make_log, nonce_model
from examples.optimizer.parsing import inspect_log
from examples.optimizer.storage import UserDatabases


class Socket:
    """Stands for a user's WebSocket."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def send_json(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        await asyncio.sleep(0)


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> tuple[Socket, Socket]:
    pair = (Socket(), Socket())
    monkeypatch.setattr(legacy.BRIDGE, "_sockets", set(pair))
    return pair


async def test_two_users_at_once_mix(tmp_path: Path, sockets: tuple[Socket, Socket]) -> None:
    """Both sockets get everything, and the report of one holds the data of both."""
    databases = UserDatabases(tmp_path / "data")
    engine = legacy.LegacyEngine(databases)
    await engine.prepare()

    def request(user: str) -> AnalysisRequest:
        path = tmp_path / user
        path.write_bytes(make_log(user, 2000))
        return AnalysisRequest(path, f"{user}.csv", inspect_log(path).roles)

    await asyncio.gather(*(engine.run(user, f"run-{user}", request(user)) for user in ("alice", "bob")))
    first, second = (socket.events for socket in sockets)
    assert first == second
    assert {"run-bob"} <= {event["run_id"] for event in first}
    report = await engine.latest_report()
    await databases.close()
    assert report is not None
    for user in ("alice", "bob"):
        assert nonce_model(user) in report.markdown.replace("\\", "")
