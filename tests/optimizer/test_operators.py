"""Operators: the printed link lets in, nothing else does, and users have no way there."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from examples.optimizer.app import create_app
from examples.optimizer.operators import COOKIE, Operators


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(data_dir=tmp_path), follow_redirects=False) as client:
        yield client


def link_of(client: TestClient) -> str:
    link: str = client.app.state.optimizer.operations.operators.link
    return link


def test_the_printed_link_lets_in(client: TestClient) -> None:
    """It leaves a cookie that no script reads, and leads to the dashboard."""
    answer = client.get(link_of(client))
    assert (answer.status_code, answer.headers["location"]) == (303, "../dashboard/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/dashboard").json() == {"url": "./dashboard/"}


@pytest.mark.parametrize("key", ["", "wrong", "é", "\0"])
def test_another_key_does_not(client: TestClient, key: str) -> None:
    """Nothing is left, whatever is tried."""
    answer = client.get("/operators/enter", params={"key": key})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert client.get("/api/dashboard").json() == {"url": None}


def test_a_user_is_no_operator(client: TestClient) -> None:
    """Not by a token, not by the name, not by a cookie that is made up."""
    token = client.post("/api/sign-in", json={"name": "operator"}).json()["token"]
    for headers in (
        {"Authorization": f"Bearer {token}"},
        {"Cookie": f"{COOKIE}={token}"},
        {"Cookie": f"{COOKIE}=operator"},
        {},
    ):
        assert client.get("/api/dashboard", headers=headers).json() == {"url": None}
    # And an operator is no user.
    client.get(link_of(client))
    assert client.get("/api/runs").status_code == 401


def test_the_key_is_kept_with_the_data_and_for_its_owner_alone(tmp_path: Path) -> None:
    """A cookie outlives a restart with the same data, and no other one."""
    file = tmp_path / "operators.key"
    first = Operators(file)
    key = first.link.partition("=")[2]
    cookie = first.admit(key)
    assert cookie is not None
    assert file.stat().st_mode & 0o077 == 0

    connection = type("Connection", (), {"cookies": {COOKIE: cookie}})()
    again = Operators(file).principal_of(connection)
    assert again is not None
    assert again.roles == frozenset({"operator"})
    assert Operators().principal_of(connection) is None


@pytest.mark.parametrize("held", ["", "\n", "short"])
def test_a_file_without_a_key_makes_nobody_an_operator(tmp_path: Path, held: str) -> None:
    """Such as after a crash or a full disk: the start says so, instead of taking the empty key."""
    file = tmp_path / "operators.key"
    file.write_text(held)
    with pytest.raises(ValueError, match="delete it"):
        Operators(file)


def test_a_start_that_was_cut_short_leaves_no_half_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one makes a whole one."""
    file = tmp_path / "operators.key"

    def full(*_: object, **__: object) -> int:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="full"):
            Operators(file)
    assert len(Operators(file).link.partition("=")[2]) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["operators.key"]


def test_the_cookie_of_an_encrypted_connection_goes_over_no_other(client: TestClient) -> None:
    """And over plain HTTP, as on one's own machine, it still comes."""
    assert "secure" not in client.get(link_of(client)).headers["set-cookie"].lower()
    encrypted = client.get(f"https://testserver{link_of(client)}")
    assert "secure" in encrypted.headers["set-cookie"].lower()


def test_the_rollout_decides_who_gets_the_table_of_days(tmp_path: Path) -> None:
    """A flag of the demo that does something: off for everybody after a rollback."""
    log = b"timestamp,model,prompt_tokens,completion_tokens\n2026-11-02T08:00:00Z,gpt-4o,120000,30000\n"

    def report_of(client: TestClient, name: str) -> str:
        token = client.post("/api/sign-in", json={"name": name}).json()["token"]
        headers = {"Authorization": f"Bearer {token}"}
        upload = client.post("/api/uploads", params={"name": "log.csv"}, content=log, headers=headers).json()
        run = client.post("/api/runs", json={"upload_id": upload["upload_id"]}, headers=headers).json()["run_id"]
        for _ in range(500):
            answer: httpx.Response = client.get(f"/api/runs/{run}/report", headers=headers)
            if answer.status_code == 200:
                return str(answer.json()["markdown"])
        raise AssertionError("there is no report")

    with TestClient(create_app(data_dir=tmp_path)) as client:
        operations = client.app.state.optimizer.operations
        names = [f"ada-{number}" for number in range(40)]
        on = {name: operations.flags.is_on("daily_table", name) for name in names}
        assert 2 < sum(on.values()) < 25
        first = {state: next(name for name in names if on[name] is state) for state in (True, False)}
        assert "Spend by day" in report_of(client, first[True])
        assert "Spend by day" not in report_of(client, first[False])
        operations.flags.engine.latch("daily_table", "{}")
        assert "Spend by day" not in report_of(client, first[True])
