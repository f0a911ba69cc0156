"""Each alert, provoked in a real server in a process of its own, by what it is about.

``PROVOKED`` says how each default rule is provoked; what cannot be provoked within a process is provoked elsewhere, and
the table says where.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI
from fastapi.testclient import TestClient
from isolane.fastapi import IsolaneSettings, setup
from isolane.observability import Alert, AlertManager, AlertRule, default_rules, prometheus_rules

from tests.integrations.conftest import who
from tests.support.fault_proxy import FaultProxy
from tests.support.metric_names import reserve

reserve("always", label="rule")

ROOT = Path(__file__).parents[2]


class Service:
    """The server, and somebody who asks it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=30, limits=httpx.Limits(max_connections=200)
        )

    async def post(self, path: str, user: str = "ann", body: Any = None) -> Any:
        answer = await self.client.post(path, headers={"Authorization": f"Bearer {user}"}, json=body or {})
        answer.raise_for_status()
        return answer.json()

    async def alerts(self) -> dict[str, Any]:
        return dict((await self.client.get("/alerts")).json())

    async def until(self, rule: str, state: str, seconds: float = 15) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while True:
            found = [each for each in (await self.alerts())["history"] if each["rule"] == rule]
            if found and found[-1]["state"] == state:
                return dict(found[-1])
            assert time.monotonic() < end, f"{rule} is not {state}: {await self.alerts()}"
            await asyncio.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.support.alerting_service:make_app", "--factory"]
    process = subprocess.Popen(  # noqa: ASYNC220 - before the test begins
        [*command, "--port", str(port), "--log-level", "warning"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    service = Service(process, port)
    try:
        for _ in range(400):
            try:
                if (await service.client.get("/alerts")).status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, "the server ended"
                await asyncio.sleep(0.05)
        # The first sample of each figure is what it was at the start.
        await asyncio.sleep(0.3)
        yield service
    finally:
        await service.client.aclose()
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(20) in {0, -signal.SIGTERM}
        finally:
            process.kill()


async def slow_runs(service: Service) -> dict[str, Any]:
    await service.post("/run/sleeper", body={"seconds": 1.0})
    await asyncio.sleep(0.3)
    assert (await service.alerts())["active"] == []
    async with asyncio.TaskGroup() as group:
        for user in ("bob", "cid", "dan"):
            group.create_task(service.post("/run/sleeper", user, {"seconds": 3.2}))
    fired = await service.until("slow_runs", "firing")
    assert 2.5 < fired["value"] < 3.5
    # The mean falls below the target, and not only below the limit.
    for _ in range(6):
        await service.post("/run/sleeper", body={"seconds": 0})
    await service.until("slow_runs", "resolved")
    return fired


async def error_rate(service: Service) -> dict[str, Any]:
    for _ in range(5):
        assert (await service.post("/run/sleeper", body={"seconds": 0}))["success"]
    await asyncio.sleep(0.3)
    assert (await service.alerts())["active"] == []
    assert not (await service.post("/run/failing"))["success"]
    fired = await service.until("error_rate", "firing")
    assert fired["value"] == pytest.approx(100 / 6)
    return fired


async def user_memory(service: Service) -> dict[str, Any]:
    under = asyncio.create_task(service.post("/hold/1.1", "bob"))
    await asyncio.sleep(0.5)
    assert (await service.alerts())["active"] == []
    over = asyncio.create_task(service.post("/hold/1.3", "ann"))
    fired = await service.until("user_memory", "firing")
    assert fired["value"] == pytest.approx(1.3 * 1024**3, rel=0.01)
    await service.post("/release")
    await asyncio.gather(under, over)
    await service.until("user_memory", "resolved")
    return fired


async def few_users(service: Service) -> dict[str, Any]:
    # One user who waits for permits of their own: nobody is kept out.
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(service.post("/run/sleeper", "ann", {"seconds": 1.0}))
    assert [each for each in (await service.alerts())["history"] if each["rule"] == "few_users"] == []
    async with asyncio.TaskGroup() as group:
        for number in range(9):
            # Who waits for two seconds may be sent away.
            group.create_task(
                service.client.post(
                    "/run/sleeper", headers={"Authorization": f"Bearer user{number}"}, json={"seconds": 1.2}
                )
            )
        fired = await service.until("few_users", "firing")
    assert 0 < fired["value"] <= 3, "nine are there, and three are served"
    await service.until("few_users", "resolved")
    return fired


async def event_latency(service: Service) -> dict[str, Any]:
    async with FaultProxy(service.port, seed=1) as proxy:
        address = f"ws://127.0.0.1:{proxy.port}/ws"
        async with websockets.connect(
            address, subprotocols=["events", "bearer.ann"], max_size=None, compression=None
        ) as client:
            await service.post("/run/talker", body={"events": 20, "size": 10})
            for _ in range(10):
                await asyncio.wait_for(client.recv(), 10)
            assert (await service.alerts())["active"] == []
            # The client's machine takes nothing: what does not fit on the way waits.
            proxy.pause()
            # All of them are published meanwhile, however busy the machine is.
            await service.post("/run/talker", body={"events": 800, "size": 60_000})
            await asyncio.sleep(0.3)
            proxy.resume()
            reading = asyncio.create_task(_read(client))
            try:
                fired = await service.until("event_latency", "firing")
            finally:
                reading.cancel()
    assert fired["value"] > 0.1
    return fired


async def _read(client: Any) -> None:
    async for message in client:
        json.loads(message)


async def isolation_violation(service: Service) -> dict[str, Any]:
    async def ask(of: str) -> int:
        answer = await service.client.get(f"/secret-of/{of}", headers={"Authorization": "Bearer ann-of-leaks"})
        return answer.status_code

    assert await ask("ann-of-leaks") == 200
    await asyncio.sleep(0.3)
    assert (await service.alerts())["active"] == []
    assert await ask("bob-of-leaks") == 200
    fired = await service.until("isolation_violation", "firing")
    assert (fired["value"], fired["severity"]) == (1, "critical")
    return fired


async def availability(service: Service) -> dict[str, Any]:
    for _ in range(10):
        assert (await service.client.get("/_isolane/ready")).status_code == 200
    await asyncio.sleep(0.3)
    assert (await service.alerts())["active"] == []
    await service.post("/drain")
    assert (await service.client.get("/_isolane/ready")).status_code == 503
    fired = await service.until("availability", "firing")
    assert fired["value"] == pytest.approx(1000 / 11)
    return fired


PROVOKED: dict[str, tuple[Callable[[Service], Awaitable[dict[str, Any]]], str]] = {
    "isolation_violation": (isolation_violation, "a route answers one user with a canary of another"),
    "slow_runs": (slow_runs, "agents that take 3.2 s"),
    "few_users": (few_users, "nine users on three permits; for a second instead of a minute"),
    "user_memory": (user_memory, "a user who is charged 1.3 GB"),
    "event_latency": (event_latency, "a socket that stalls for a second behind a proxy"),
    "error_rate": (error_rate, "an agent that fails"),
    "availability": (availability, "a readiness route that says no while the service drains"),
}
"""How each rule is provoked on a real server. That each ends after its window, and the whole minute of ``few_users``,
is shown by the manual clock in tests/python/test_alerts.py. ``IsolaneGone`` is a rule of Prometheus alone: a process
that is gone raises no alert; promtool shows it in tests/python/test_prometheus_rules.py."""


def test_setup_takes_alerts_and_nothing_else_as_alerts():
    with pytest.raises(TypeError, match="AlertManager"):
        setup(FastAPI(), IsolaneSettings(), who, alerts=object())


def test_alerts_are_looked_at_while_the_application_runs_and_again_when_it_is_started_again():
    told: list[str] = []

    class Sink:
        state = "new"

        def send(self, alert: Alert) -> None:
            told.append(f"{alert.rule} {self.state}")

        def reopen(self) -> None:
            self.state = "open"

        def close(self) -> None:
            self.state = "closed"

    sink = Sink()
    rule = AlertRule(name="always", value=lambda _window: 2.0, threshold=1, summary="it is always so", cooldown=0)
    app = FastAPI()
    isolane = setup(app, IsolaneSettings(), who, alerts=AlertManager([rule], [sink], every=0.01))
    assert isolane.introspect()["alerts"]["is_running"] is False
    for _ in range(2):
        with TestClient(app):
            end = time.monotonic() + 10
            looks = isolane.introspect()["alerts"]["looks"]
            while isolane.introspect()["alerts"]["looks"] < looks + 2 and time.monotonic() < end:
                time.sleep(0.01)
            assert isolane.introspect()["alerts"]["is_running"] is True
        assert sink.state == "closed"
        assert isolane.introspect()["alerts"]["is_running"] is False
    assert told == ["always open"], "it goes on: it began once"


def test_each_rule_is_in_the_table():
    assert set(PROVOKED) == {rule.name for rule in default_rules()}
    others = {rule["labels"]["rule"] for rule in prometheus_rules()["groups"][0]["rules"]} - set(PROVOKED)
    assert others == {"gone"}


@pytest.mark.parametrize("rule", PROVOKED)
async def test_an_alert_is_provoked_on_a_real_server(rule, service):
    provoke, _ = PROVOKED[rule]
    fired = await provoke(service)
    threshold = next(each.threshold for each in default_rules() if each.name == rule)
    assert (fired["rule"], fired["threshold"], fired["state"]) == (rule, threshold, "firing")
    told = await service.alerts()
    assert told["statistics"]["is_running"]
    assert told["statistics"]["failed"] == 0
    assert {each["rule"] for each in told["history"]} == {rule}, "and no other"
