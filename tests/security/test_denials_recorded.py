"""Whoever is refused something is in the audit log, once, whichever part refuses and whichever has the log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from isolane import (
    AuditClass,
    ContextIsolationError,
    PermissionEngine,
    SecurityEvent,
    UnifiedToolDispatcherFactory,
    UserContextFactory,
)
from isolane.fastapi import (
    Authenticated,
    IsolaneSettings,
    Principal,
    SessionAuthenticator,
    require_mfa,
    require_roles,
    setup,
)
from isolane.security.authentication import InvalidTokenError, SessionRegistry

EMPTY: dict[str, Any] = {}


class Sink:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[SecurityEvent] = []
        self.status = "ok"

    def record(self, event: SecurityEvent) -> None:
        self.events.append(event)

    def health(self) -> Any:
        return SimpleNamespace(status=self.status)

    def take(self) -> list[tuple[str, str | None, Any]]:
        """Name, user and reason of what came since this was asked last."""
        taken, self.events = self.events, []
        told = [each.data for each in taken]
        return [
            (each.name, each.user_id, data.get("reason", data.get("command")))
            for each, data in zip(taken, told, strict=True)
        ]


@pytest.fixture
def sink() -> Sink:
    return Sink()


def application(authenticate: Any, sink: Sink, **more: Any) -> FastAPI:
    app = FastAPI()
    setup(app, IsolaneSettings(allowed_origins="https://own.example"), authenticate, audit=sink, **more)

    @app.get("/me")
    async def me(who: Authenticated) -> str:
        return who.user_id

    @app.get("/admin")
    async def admin(who: Annotated[Principal, Depends(require_roles("admin"))]) -> str:
        return who.user_id

    @app.get("/vault", dependencies=[Depends(require_mfa)])
    async def vault() -> str:
        return "open"

    return app


async def get(app: FastAPI, path: str, method: str = "GET", **headers: str) -> int:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service.example") as client:
        return (await client.request(method, path, headers=headers)).status_code


async def test_whoever_an_application_refuses_by_itself_is_recorded(sink) -> None:
    def authenticate(conn: Any) -> Principal:
        if conn.headers["authorization"] == "over":
            return Principal("ann-01", EMPTY, expires_at=1.0)
        raise InvalidTokenError

    app = application(authenticate, sink)
    assert await get(app, "/me", authorization="wrong") == 401
    assert sink.take() == [("authn_login_fail", None, "invalid_token")]
    assert await get(app, "/me", authorization="over") == 401
    assert sink.take() == [("session_expired", "ann-01", "sign_in_over")]


@pytest.mark.parametrize("has_log", [True, False])
async def test_a_token_of_no_session_is_recorded_once(sink, has_log) -> None:
    sessions = SessionRegistry(audit=sink if has_log else None)
    app = application(SessionAuthenticator(sessions), sink, sessions=sessions)
    assert await get(app, "/me", authorization="Bearer guessed") == 401
    assert sink.take() == [("authn_login_fail", None, "unknown_or_over" if has_log else "invalid_token")]


async def test_roles_and_second_factors_that_are_missing_are_recorded(sink) -> None:
    app = application(lambda _conn: Principal("ann-01", EMPTY), sink)
    for path, command in (("/admin", "roles"), ("/vault", "mfa")):
        assert await get(app, path) == 403
        assert [each.audit_class for each in sink.events] == [AuditClass.PERMISSION]
        assert sink.take() == [("authz_fail", "ann-01", command)]


async def test_a_page_that_may_have_no_ticket_is_recorded(sink) -> None:
    app = application(lambda _conn: Principal("ann-01", EMPTY), sink)
    assert await get(app, "/_isolane/ws-ticket", "POST", origin="https://evil.example") == 403
    assert sink.take() == [("authn_login_fail", None, "origin_not_allowed")]


async def test_readiness_tells_of_a_sick_log_and_takes_nobody_away(sink) -> None:
    app = application(lambda _conn: Principal("ann-01", EMPTY), sink)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service.example") as client:
        assert (await client.get("/_isolane/ready")).json() == {"status": "ready"}
        sink.status = "sick"
        answer = await client.get("/_isolane/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "degraded", "audit": "sick"})
    assert app.state.isolane.introspect()["audit"] == "sick"


def test_contexts_and_emitters_that_are_not_the_users_are_recorded_where_tools_are_made(sink) -> None:
    factory = UnifiedToolDispatcherFactory(permissions=PermissionEngine.for_tools({"everyone": ["*"]}), audit=sink)
    ann, bob = UserContextFactory.create_context("ann-01"), UserContextFactory.create_context("bob-01")
    emitter = bob.get_websocket_emitter()
    with pytest.raises(ContextIsolationError):
        factory.create_dispatcher(ann, websocket_emitter=emitter)
    (event,) = sink.events
    assert (event.name, event.user_id, event.audit_class) == (
        "malicious_direct_reference",
        "ann-01",
        AuditClass.ISOLATION,
    )
    assert event.data["violations"][0][1] == "foreign_emitter"
