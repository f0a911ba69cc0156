"""``GET /migration`` on a real server: for those who may see it, and what every worker counted."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from isolane.fastapi import IsolaneSettings, Principal, migration_router, require_roles, setup
from isolane.migration.deprecation import LedgerFolder, deprecated, keep_ledger
from isolane.migration.deprecation.keeping import KEEPER
from isolane.migration.deprecation.ledger import LEDGER
from starlette.requests import HTTPConnection

from tests.support.server import serving


async def who(conn: HTTPConnection) -> Principal | None:
    user = conn.headers.get("x-user")
    roles = frozenset({"operator"}) if user == "olga" else frozenset()
    return Principal(user_id=user, roles=roles) if user else None


@deprecated("ISO-D003")
def get_websocket_manager() -> str:
    return "manager"


@contextmanager
def application(**options):
    app = FastAPI()
    setup(app, IsolaneSettings(), who)
    app.include_router(migration_router(**{"authorize": require_roles("operator"), **options}))

    @app.get("/legacy")
    async def legacy():
        return get_websocket_manager()  # what the ledger names

    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.delenv("ISOLANE_LEDGER_DIR", raising=False)
    LEDGER.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    KEEPER.end()


def test_only_those_who_may_see_it():
    with application() as client:
        assert client.get("/migration").status_code == 401
        assert client.get("/migration", headers={"x-user": "ann-123"}).status_code == 403
        answer = client.get("/migration", headers={"x-user": "olga"})
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")


def test_somebody_must_be_signed_in_whatever_the_application_allows():
    asked = []

    async def anybody() -> None:
        asked.append(1)

    with application(authorize=anybody, path="/internal/legacy") as client:
        assert client.get("/internal/legacy").status_code == 401
        assert not asked
        assert client.get("/internal/legacy", headers={"x-user": "ann-123"}).status_code == 200

    async def nobody() -> None:
        raise HTTPException(403)

    with application(authorize=nobody) as client:
        assert client.get("/migration", headers={"x-user": "olga"}).status_code == 403
    with pytest.raises(TypeError, match="require_roles"):
        migration_router(authorize=None)
    with pytest.raises(TypeError):
        migration_router()


def test_it_names_the_line_and_nobody():
    with application() as client:
        for _ in range(5):
            client.get("/legacy", headers={"x-user": "ann-123"})
        document = client.get("/migration", headers={"x-user": "olga"}).json()
    (site,) = document["sites"]
    source = __import__("pathlib").Path(__file__).read_text(encoding="utf-8").splitlines()
    assert source[site["line"] - 1].endswith("# what the ledger names")
    assert (site["file"], site["symbol"], site["count"]) == (__file__, "get_websocket_manager", 5)
    assert (document["calls"], document["workers"], document["unread"]) == (5, "this one", {})
    assert "ann-123" not in json.dumps(document)


def test_every_worker_counts_and_the_service_says_that_it_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLANE_LEDGER_DIR", str(tmp_path))
    other = LedgerFolder(tmp_path)
    other.write(
        "worker-elsewhere-7-0000000a.json",
        json.dumps(
            {
                "schema": 1,
                "since": 1,
                "until": 2,
                "evicted": 0,
                "symbols": {"get_websocket_manager": 3},
                "sites": [],
            }
        ),
    )
    with application() as client:
        # The start of the application keeps the ledger: no legacy call was made yet.
        assert KEEPER.current() is not None
        client.get("/legacy", headers={"x-user": "ann-123"})
        document = client.get("/migration", headers={"x-user": "olga"}).json()
    assert (document["calls"], document["workers"], document["files"]) == (4, "all", 2)
    KEEPER.end()
    assert LedgerFolder(tmp_path).read().calls == 4
    assert keep_ledger()
