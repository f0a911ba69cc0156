"""The route of the metrics on a real server: its formats, who may read it, and that no user is in it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from isolane import AgentRegistry, BaseAgent
from isolane._core import metric, metrics_snapshot
from isolane.fastapi import Connection, Ctx, Emitter, Engine, IsolaneSettings, Principal, require_roles, setup
from isolane.fastapi.sockets import bearer_of
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus
from starlette.requests import HTTPConnection
from websockets.sync.client import connect

from tests.support.metric_names import reserve
from tests.support.server import serving

AGENT, LIKE_A_USER = reserve("route-agent", "eve-5c1d7b-of-the-route", label="agent")
USERS = ("ann-7f3a9c-of-the-route", "bob-2b8d4e-of-the-route")


class Agent(BaseAgent):
    """Says something, and fails when it is asked to."""

    name = AGENT

    async def execute_with_context(self, context, request, results) -> Any:
        await context.get_websocket_emitter().notify_agent_thinking(f"for {context.user_id}")
        if request == "fail":
            raise ValueError(context.user_id)
        return context.user_id


def who(conn: HTTPConnection) -> Principal | None:
    token = bearer_of(conn.headers)
    return Principal(token, roles=frozenset({"operator"} if token == "operator" else ())) if token else None


def make_app(settings: dict[str, Any] | None = None, agent: type[BaseAgent] = Agent, **options: Any) -> FastAPI:
    app = FastAPI()
    agents = AgentRegistry()
    agents.register(agent)
    setup(app, IsolaneSettings(drain_seconds=0.2, **(settings or {})), who, registry=agents, **options)

    @app.post("/run")
    async def run(engine: Engine, fail: bool = False) -> dict[str, Any]:
        result = await engine.execute_agent(AGENT, "fail" if fail else "go")
        return {"success": result.success, "result": result.result}

    @app.post("/emit")
    async def emit(emitter: Emitter) -> dict[str, int]:
        return {"n": await emitter.send_custom_event("note", {"text": "hello"})}

    @app.post("/start")
    async def start(connection: Connection) -> dict[str, str]:
        run = await connection.start_run()
        run.engine.start_agent_pipeline([AGENT], "go")
        return {"run": run.context.run_id}

    @app.get("/plain")
    async def plain() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/who")
    async def whoami(ctx: Ctx) -> dict[str, str]:
        return {"user": ctx.user_id}

    return app


def values(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse_prometheus(text)
        for sample in family.samples
    }


def overheads(at_least: float = 0) -> float:
    """Wait until so many requests are observed; return how many were. Answers come before requests are closed."""
    family = metric("isolane_overhead_seconds")
    limit = time.monotonic() + 10
    while (count := family.value) < at_least and time.monotonic() < limit:
        time.sleep(0.005)
    return count


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    app = make_app({"metrics_path": "/metrics"})
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


def as_user(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


def test_a_prometheus_gets_the_format_that_it_asks_for(client: httpx.Client) -> None:
    plain = client.get("/metrics")
    assert (plain.status_code, plain.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert (plain.headers["cache-control"], plain.headers["vary"]) == ("no-store", "Accept")
    assert list(parse_prometheus(plain.text))
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    opened = client.get("/metrics", headers={"Accept": accept})
    assert opened.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert opened.text.endswith("# EOF\n")
    assert {family.name for family in parse_openmetrics(opened.text)} >= {
        "isolane_isolation_violations",
        "isolane_runs",
    }


def test_head_has_the_headers_and_nothing_else(client: httpx.Client) -> None:
    head = client.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert client.post("/metrics").status_code == 405
    assert "/metrics" not in client.get("/openapi.json").json()["paths"]


def test_two_users_move_the_numbers_and_are_not_in_them(client: httpx.Client) -> None:
    before = values(client.get("/metrics").text)
    url = str(client.base_url).replace("http", "ws")
    # Without a bound of what waits: a client that reads no more would not see the end of the socket.
    with connect(f"{url}/ws", additional_headers=as_user(USERS[0]), max_queue=None) as socket:
        answers: list[Any] = []

        def runs(user: str) -> None:
            with httpx.Client(base_url=client.base_url, headers=as_user(user)) as own:
                answers.extend(own.post("/run").json()["result"] for _ in range(5))
                answers.append(own.post("/run", params={"fail": True}).json()["success"])

        threads = [threading.Thread(target=runs, args=(user,)) for user in USERS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        received = [socket.recv(timeout=5) for _ in range(10)]
        during = client.get("/metrics").text
    assert sorted(map(str, answers)) == sorted([*5 * USERS, "False", "False"])
    assert any(USERS[0] in message for message in received), "its own events have the user in them"
    overheads(before[("isolane_overhead_seconds_count",)] + 12)
    text = client.get("/metrics").text
    after = values(text)

    def change(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    assert change("isolane_runs_total", AGENT, "completed") == 10
    assert change("isolane_runs_total", AGENT, "failed") == 2
    assert change("isolane_ws_events_total", "published", "agent_thinking") == 12
    assert change("isolane_ws_events_total", "published", "agent_error") == 2
    assert change("isolane_ws_events_total", "sent", "agent_started") >= 1
    assert change("isolane_ws_event_latency_seconds_count", "agent_thinking") >= 1
    assert change("isolane_overhead_seconds_count") == 12
    assert values(during)[("isolane_ws_connections",)] >= 1
    opened = client.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text
    for told in (during, text, opened):
        assert not [user for user in USERS if user in told]
        # What stands in a label is seen.
        assert LIKE_A_USER in told


def test_our_own_cost_is_observed_where_isolane_was_used(client: httpx.Client) -> None:
    def spent() -> float:
        return values(client.get("/metrics").text)[("isolane_overhead_seconds_sum",)]

    count, before = overheads(), spent()
    for _ in range(3):
        assert client.get("/plain").status_code == 200
        assert client.get("/who", headers=as_user(USERS[1])).status_code == 200
    assert overheads(count + 3) == count + 3
    assert 0 < spent() - before < 1
    # What uses nothing of isolane would have been observed by now.
    time.sleep(0.05)
    assert overheads() == count + 3


def test_making_an_engine_is_our_own_cost_and_what_it_runs_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(BaseAgent):
        name = AGENT

        async def execute_with_context(self, context, request, results) -> None:
            await asyncio.sleep(0.4)

    app = make_app(agent=Slow)
    factory = app.state.isolane.factory
    make = factory.create_for_user

    async def made(context: Any) -> Any:
        await asyncio.sleep(0.1)
        return await make(context)

    monkeypatch.setattr(factory, "create_for_user", made)
    family = "isolane_overhead_seconds"
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=as_user(USERS[0])) as client:
        count, (before,) = overheads(), metrics_snapshot()[family]["series"]
        assert client.post("/run").json()["success"]
        assert overheads(count + 1) == count + 1
        (after,) = metrics_snapshot()[family]["series"]
    assert 0.1 <= after["sum"] - before["sum"] < 0.4


def test_a_request_whose_run_goes_on_without_it_has_a_cost_as_well(client: httpx.Client) -> None:
    count = overheads()
    assert client.post("/start", headers=as_user(USERS[1])).status_code == 200
    assert overheads(count + 1) == count + 1


def test_readiness_is_counted(client: httpx.Client) -> None:
    before = values(client.get("/metrics").text)
    assert client.get("/_isolane/ready").status_code == 200
    after = values(client.get("/metrics").text)
    key = ("isolane_health_checks_total", "ok")
    assert after[key] == before[key] + 1


def test_a_dependency_says_who_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(metrics=True, metrics_authorize=require_roles("operator"))
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        before = metric("isolane_permission_decisions_total").labels("deny", "insufficient_permissions").value
        assert client.get("/metrics").status_code == 401
        refused = client.get("/metrics", headers=as_user(USERS[0]))
        assert (refused.status_code, "isolane_" in refused.text) == (403, False)
        assert client.head("/metrics", headers=as_user(USERS[0])).status_code == 403
        allowed = client.get("/metrics", headers=as_user("operator"))
        assert allowed.status_code == 200
        assert ("isolane_permission_decisions_total", "deny", "insufficient_permissions") in values(allowed.text)
        after = metric("isolane_permission_decisions_total").labels("deny", "insufficient_permissions").value
        assert after == before + 2


def test_there_is_no_route_unless_somebody_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def status(app: FastAPI, path: str) -> int:
        with serving(app) as port:
            return httpx.get(f"http://127.0.0.1:{port}{path}").status_code

    assert status(make_app(), "/metrics") == 404
    assert status(make_app({"metrics_path": "/internal/figures"}), "/internal/figures") == 200
    assert status(make_app({"metrics_path": "/figures"}, metrics=False), "/figures") == 404
    monkeypatch.setenv("ISOLANE_METRICS_PATH", "/from-environment")
    assert status(make_app(), "/from-environment") == 200
