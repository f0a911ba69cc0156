"""The parts of security together, in one application on a real server."""

from __future__ import annotations

import base64
import itertools
import os
from pathlib import Path
from typing import Any

import httpx
import isolane
import pytest
from fastapi import FastAPI
from isolane import (
    AgentRegistry,
    AuditLogger,
    BaseAgent,
    ContaminationDetector,
    EncryptedAuditStorage,
    EnvKey,
    ForeignQueryError,
    IsolationEnforcer,
    PermissionBoundarySystem,
    PermissionDeniedError,
    PermissionEngine,
    Quarantine,
    SecurityBoundaryManager,
    SecurityMonitor,
    UnifiedToolDispatcherFactory,
)
from isolane.fastapi import Ctx, Engine, IsolaneSettings, Principal, bearer_of, setup

from tests.faults.site import auth
from tests.support.server import serving

_numbers = itertools.count(1)


async def search(query: str) -> str:
    """Find it."""
    return f"found {query}"


async def fail() -> None:
    """Fails."""
    raise OSError("hush")


async def drop_all() -> None:
    """Needs an administrator."""


class Worker(BaseAgent):
    name = "worker"

    async def execute_with_context(self, context: Any, request: Any, results: Any) -> Any:
        tools = context.get_tool_dispatcher()
        if request["tool"] == "say":
            await context.get_websocket_emitter().notify_agent_thinking(request["text"])
            return "said"
        answer = await tools.dispatch_tool(request["tool"], request.get("params", {}))
        return {"success": answer.success, "result": answer.result, "code": answer.metadata["code"]}


class Service:
    """An application with all of it."""

    def __init__(self, folder: Path) -> None:
        self.storage = EncryptedAuditStorage(str(folder / "audit"), EnvKey())
        self.audit = AuditLogger(self.storage)
        self.monitor = SecurityMonitor()
        self.audit.add_observer(self.monitor.observe)
        self.quarantine = Quarantine(audit=self.audit, drain_seconds=0)
        self.detector = ContaminationDetector("enforce", audit=self.audit, quarantine=self.quarantine)
        permissions = PermissionEngine.for_tools({"everyone": ["search", "fail"], "admin": ["*"]})
        self.borders = SecurityBoundaryManager(
            enforcer=IsolationEnforcer(detector=self.detector, audit=self.audit),
            audit=self.audit,
            detector=self.detector,
            quarantine=self.quarantine,
        )
        self.system = PermissionBoundarySystem(permissions, audit=self.audit)
        agents = AgentRegistry()
        agents.register(Worker)
        self.app = FastAPI()
        setup(
            self.app,
            IsolaneSettings(drain_seconds=0.2),
            lambda conn: Principal(token) if (token := bearer_of(conn.headers)) else None,
            registry=agents,
            audit=self.audit,
            contamination=self.detector,
            tools=UnifiedToolDispatcherFactory([search, fail, drop_all], permissions=permissions, audit=self.audit),
        )
        self.app.post("/run")(self.run)
        self.app.get("/read/{resource:path}")(self.read)
        self.app.post("/tools/{name}")(self.call)
        self.app.get("/query/{user}")(self.query)

    async def run(self, request: dict[str, Any], ctx: Ctx, engine: Engine) -> Any:
        result = await engine.execute_agent("worker", request)
        return {"success": result.success, "result": result.result, "error": type(result.error).__name__}

    async def read(self, resource: str, ctx: Ctx) -> str:
        result = await self.system.validate_execution_permissions(ctx, "document.read", [resource])
        if not result.permitted:
            raise PermissionDeniedError(result.code, result)
        return "text"

    async def call(self, name: str, params: dict[str, Any], ctx: Ctx) -> Any:
        return await ctx.get_tool_dispatcher().execute_tool(name, params)

    async def query(self, user: str, ctx: Ctx) -> Any:
        return self.borders.enforcer.enforce_data_access_boundaries({"user_id": user}, ctx.user_id)


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLANE_AUDIT_KEY", base64.b64encode(os.urandom(32)).decode())
    service = Service(tmp_path)
    yield service
    service.audit.close()


@pytest.fixture
def users() -> tuple[str, str]:
    number = next(_numbers)
    return f"ann-{number}-of-service", f"bob-{number}-of-service"


async def post(port: int, user: str, body: dict[str, Any]) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        return await client.post("/run", json=body, headers=auth(user))


async def get(port: int, user: str, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        return await client.get(path, headers=auth(user))


@pytest.mark.parametrize(
    ("tool", "params", "status", "code", "detail"),
    [
        ("search", {"query": 7}, 422, "invalid_parameters", "Tool search does not take these parameters: query: "),
        ("nothing", {}, 404, "tool_not_found", "There is no such tool"),
        ("fail", {}, 502, "tool_failed", "The tool failed"),
        ("drop_all", {}, 403, "permission_denied", "This user may not do this"),
    ],
)
async def test_a_tool_call_that_comes_to_nothing_is_a_problem_document(
    service, users, tool, params, status, code, detail
) -> None:
    with serving(service.app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=auth(users[0])) as client:
            answer = await client.post(f"/tools/{tool}", json=params)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["detail"].startswith(detail)
    assert "hush" not in answer.text


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tools": [search]}, "UnifiedToolDispatcherFactory"),
        ({"contamination": "enforce"}, "ContaminationDetector"),
        ({"audit": "audit.log"}, "AuditLogger"),
        ({"registry": {"worker": Worker}}, "AgentRegistry"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_request(given, named) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(given))}=.*{named}"):
        setup(FastAPI(), authenticate=lambda _: None, **given)


async def test_tools_of_a_run_are_checked_shown_and_recorded(service, users) -> None:
    with serving(service.app) as port:
        done = (await post(port, users[0], {"tool": "search", "params": {"query": "rivers"}})).json()
        assert (done["result"]["success"], done["result"]["result"]) == (True, "found rivers")
        refused = (await post(port, users[0], {"tool": "drop_all"})).json()
        assert refused["result"]["success"] is False
        assert refused["result"]["code"] == "permission_denied"
    service.audit.close()
    assert service.storage.verify().ok
    names = [record.name for record in service.storage.records() if record.user_id == users[0]]
    assert "authz_fail" in names


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/read/document:{bob}/7", 404, "not_found"),
        ("/read/document:nobody-knows", 404, "not_found"),
        ("/read/document:{ann}/7", 403, "permission_denied"),
        ("/query/{bob}", 403, "forbidden"),
    ],
)
async def test_what_is_refused_is_a_problem_document_without_anybodys_data(service, users, path, status, code) -> None:
    ann, bob = users
    with serving(service.app) as port:
        answer = await get(port, ann, path.format(ann=ann, bob=bob))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert bob not in answer.text
    service.audit.close()
    refusals = {"authz_fail", "malicious_direct_reference"}
    assert [record.user_id for record in service.storage.records() if record.name in refusals] == [ann]


async def test_an_own_query_comes_back(service, users) -> None:
    with serving(service.app) as port:
        assert (await get(port, users[0], f"/query/{users[0]}")).json() == {"user_id": users[0]}
    with pytest.raises(ForeignQueryError):
        service.borders.enforcer.enforce_data_access_boundaries("SELECT 1", users[0])


async def test_a_leak_is_withheld_recorded_alerted_and_stops_those_concerned_alone(service, users) -> None:
    ann, bob = users
    bystander = f"cid-{ann}"
    canary = service.detector.mint(bob)
    with serving(service.app) as port:
        for user in (ann, bob, bystander):
            assert (await post(port, user, {"tool": "search", "params": {"query": "x"}})).json()["success"]
        leaked = await post(port, ann, {"tool": "say", "text": f"as told: {canary}"})
        assert canary not in leaked.text
        assert leaked.status_code == 500 or leaked.json()["success"] is False
        for user, expected in ((ann, 403), (bob, 403), (bystander, 200)):
            again = await post(port, user, {"tool": "search", "params": {"query": "x"}})
            assert again.status_code == expected, (user, again.text)
        assert service.quarantine.release(ann, by="operator", reason="looked into")
        assert (await post(port, ann, {"tool": "search", "params": {"query": "x"}})).status_code == 200
    assert "isolation_violation" in [alert.rule for alert in service.monitor.recent_alerts]
    found = service.borders.detect_isolation_violations()
    assert "contaminated" in [one.code for one in found]
    service.audit.close()
    assert service.storage.verify().ok
    names = {record.name for record in service.storage.records()}
    assert {"isolation_violation", "user_quarantined", "user_released"} <= names


async def test_a_sick_log_refuses_what_must_be_recorded_and_nothing_else(service, users, monkeypatch) -> None:
    def sick(event: isolane.SecurityEvent) -> None:
        if event.audit_class in {"permission", "isolation", "admin"}:
            raise isolane.AuditUnavailableError(event.audit_class, "the disk is full")

    monkeypatch.setattr(service.audit, "record", sick)
    with serving(service.app) as port:
        refused = await get(port, users[0], f"/query/{users[1]}")
        assert (refused.status_code, refused.json()["retriable"]) == (503, True)
        assert (await get(port, users[0], f"/read/document:{users[1]}/7")).status_code in {404, 503}
        assert (await get(port, users[0], "/_isolane/health")).status_code == 200
