"""Rolling a flag back on the dashboard: at once, for new contexts, and where it survives a restart."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from isolane import UserExecutionContext
from isolane.migration.flags import MigrationFeatureFlags
from isolane.migration.flags.sources import EnvironmentSource
from isolane.migration.flags.sources.writer import FlagWriter
from isolane.migration.guard import RolloutGuard

from tests.support.dashboard_service import ANN, OPERATOR, READER, bearer, make_app
from tests.support.server import serving

FLAG = "dash_flag"


def document(**flag) -> dict:
    return {"schema": 1, "revision": 3, "flags": {FLAG: {"state": "on", "rollout": 100_000, **flag}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps(document(allow=[ANN])))
    return path


@contextlib.contextmanager
def service(rollout: MigrationFeatureFlags, **more):
    app = make_app(rollout=rollout, **more)
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield app, client


def roll_back(client: httpx.Client, name: str = OPERATOR, flag: str = FLAG) -> httpx.Response:
    token = client.get("/dashboard/session.json", headers=bearer(OPERATOR)).json()["permissions"]["csrf"]
    headers = bearer(name) | {"X-Isolane-CSRF": token}
    return client.post("/dashboard/actions/rollback", json={"flag": flag, "reason": "INC-12"}, headers=headers)


def is_on(client: httpx.Client, name: str = "some-user-0001") -> bool:
    return client.get("/flag", headers=bearer(name)).json()["on"]


def shown(client: httpx.Client) -> dict:
    rollout = client.get("/dashboard/rollout.json", headers=bearer(READER)).json()
    return next(flag for flag in rollout["flags"] if flag["flag"] == FLAG)


def test_a_rollback_holds_for_new_contexts_and_stands_in_the_file(path) -> None:
    with service(MigrationFeatureFlags(path)) as (_, client):
        earlier = UserExecutionContext("some-user-0002", "thread", "run")
        assert earlier.flags is not None
        assert earlier.flags.is_on(FLAG)
        assert is_on(client)
        assert roll_back(client, READER).status_code == 403
        assert is_on(client)
        answer = roll_back(client)
        assert answer.json() == {
            "flag": FLAG,
            "rolled_back": True,
            "already": False,
            "persisted": True,
            "problem": None,
        }
        assert not is_on(client)
        assert not is_on(client, ANN)
        # A run that is under way keeps what it began with.
        assert earlier.flags.is_on(FLAG)
        flag = shown(client)
        assert (flag["rolled_back"], flag["on"], flag["variants"]) == (True, False, {"on": 0.0, "off": 100.0})
        assert flag["rollback"]["actor"] == OPERATOR
        assert flag["rollback"]["reason"] == "INC-12"
        change = client.get("/dashboard/rollout.json", headers=bearer(READER)).json()["changes"][0]
        assert (change["action"], change["actor"], change["reason"]) == ("rollback", OPERATOR, "INC-12")
        again = roll_back(client).json()
        assert again["already"] is True
    # Another process, or this one after a restart.
    assert not MigrationFeatureFlags(path).is_on(FLAG, ANN)
    FlagWriter(path).resume(FLAG, ack="INC-12 is closed", actor="a test")
    FlagWriter(path).set_rollout(FLAG, 100, actor="a test")
    assert MigrationFeatureFlags(path).is_on(FLAG, "some-user-0001")


def test_two_who_roll_back_at_once_write_it_once(path, monkeypatch) -> None:
    read = FlagWriter.read

    def slow(self):
        held = read(self)
        time.sleep(0.3)
        return held

    with service(MigrationFeatureFlags(path)) as (_, client), ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr(FlagWriter, "read", slow)
        answers = [pool.submit(roll_back, client) for _ in range(4)]
        assert all(answer.result().json()["persisted"] for answer in answers)
        monkeypatch.undo()
    assert [change.action for change in FlagWriter(path).history()] == ["rollback"]


def test_a_rollback_of_a_flag_of_the_environment_goes_into_its_file(path) -> None:
    path.write_text(json.dumps({"schema": 1, "revision": 1, "flags": {}}))
    source = EnvironmentSource({"ISOLANE_FLAG_DASH_FLAG": "true"}, flags_file=path)
    with service(MigrationFeatureFlags(source)) as (_, client):
        assert is_on(client)
        assert roll_back(client).json()["persisted"] is True
        assert not is_on(client)
    again = MigrationFeatureFlags(EnvironmentSource({"ISOLANE_FLAG_DASH_FLAG": "true"}, flags_file=path))
    assert not again.is_on(FLAG, ANN)


@pytest.mark.parametrize("kind", ["mapping", "toml"])
def test_where_nothing_can_be_written_it_holds_in_this_process_and_says_so(tmp_path, kind) -> None:
    toml = tmp_path / "flags.toml"
    toml.write_text(f'schema = 1\nrevision = 1\n[flags.{FLAG}]\nstate = "on"\nrollout = 100000\n')
    with service(MigrationFeatureFlags(document() if kind == "mapping" else toml)) as (_, client):
        assert is_on(client)
        answer = roll_back(client).json()
        assert answer["persisted"] is False
        assert "this process" in answer["problem"]
        assert not is_on(client)
        assert client.get("/dashboard/rollout.json", headers=bearer(READER)).json()["persisted"] is False
        again = roll_back(client).json()
        assert (again["already"], again["persisted"], again["problem"]) == (True, False, answer["problem"])
        assert shown(client)["is_written"] is False


def test_a_file_that_cannot_be_written_keeps_no_flag_on(path) -> None:
    with service(MigrationFeatureFlags(path)) as (_, client):
        path.write_text("{ somebody edits this")
        answer = roll_back(client).json()
        assert (answer["rolled_back"], answer["persisted"]) == (True, False)
        assert str(path) not in answer["problem"]
        assert not is_on(client)


def test_a_rollback_that_could_not_be_written_is_written_when_it_is_asked_for_again(path) -> None:
    with service(MigrationFeatureFlags(path)) as (app, client):
        sound = path.read_text()
        path.write_text("{ somebody edits this")
        assert roll_back(client).json()["persisted"] is False
        assert (shown(client)["rolled_back"], shown(client)["is_written"]) == (True, False)
        again = roll_back(client).json()
        assert (again["already"], again["persisted"]) == (True, False)
        path.write_text(sound)
        assert roll_back(client).json() == {
            "flag": FLAG,
            "rolled_back": True,
            "already": True,
            "persisted": True,
            "problem": None,
        }
        assert shown(client)["is_written"] is True
        # Each time that something was done, and not when there was nothing left to do.
        assert len(app.state.records.named("dashboard_rollback")) == 3
        assert roll_back(client).json()["persisted"] is True
        assert len(app.state.records.named("dashboard_rollback")) == 3
    assert not MigrationFeatureFlags(path).is_on(FLAG, ANN)


@pytest.mark.parametrize("with_writer", [True, False])
def test_the_guard_of_the_flag_knows_of_it_and_does_not_go_on(path, with_writer) -> None:
    flags = MigrationFeatureFlags(path)
    guard = RolloutGuard(flags, FLAG, writer=FlagWriter(path) if with_writer else None)
    with service(flags, guard=guard) as (_, client):
        before = shown(client)["guard"]
        assert before["stage"] != "rolled_back"
        assert {metric["name"] for metric in before["metrics"]} >= {"isolation_violation", "run_error", "slow_run"}
        errors = next(metric for metric in before["metrics"] if metric["name"] == "run_error")
        assert (errors["alpha"], errors["threshold"], errors["n"]) == (0.001, 1000.0, 0)
        for _ in range(3):
            guard.observe("run_error", bad=False)
        errors = next(metric for metric in shown(client)["guard"]["metrics"] if metric["name"] == "run_error")
        assert errors["n"] == 3
        assert roll_back(client).json()["persisted"] is True
        assert shown(client)["guard"]["stage"] == "rolled_back"
        record = guard.status().record
        assert record is not None
        assert (record.actor, record.reason, record.metric) == (OPERATOR, "INC-12", "manual")
    assert not MigrationFeatureFlags(path).is_on(FLAG, ANN)
    # Once, whoever wrote it.
    assert [change.action for change in FlagWriter(path).history()].count("rollback") == 1


def test_the_rollout_names_no_users_and_says_how_many_it_has_by_name(path) -> None:
    path.write_text(
        json.dumps(
            document(
                allow=[ANN, "bob"],
                deny=["carl"],
                rules=[
                    {"if": {"tier": "enterprise"}, "rollout": 50_000},
                    {"if": {"user_id": [ANN, "dora"], "team": [f"team-{n}" for n in range(40)]}, "rollout": 100_000},
                ],
            )
        )
    )
    with service(MigrationFeatureFlags(path)) as (_, client):
        answer = client.get("/dashboard/rollout.json", headers=bearer(READER))
        assert ANN not in answer.text
        assert "carl" not in answer.text
        assert "dora" not in answer.text
        flag = shown(client)
        assert (flag["percent"], flag["allowed_users"], flag["denied_users"]) == (100.0, 2, 1)
        assert flag["rules"] == [
            {"if": {"tier": "enterprise"}, "percent": 50.0},
            {"if": {"team": "one of 40", "user_id": "one of 2"}, "percent": 100.0},
        ]


def test_without_flags_there_is_nothing_to_show_and_nothing_to_roll_back() -> None:
    app = make_app()
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/dashboard/rollout.json", headers=bearer(READER)).json()["configured"] is False
        assert roll_back(client).status_code == 409
