"""An application that signs in by tokens, on a real uvicorn, and what its audit log was told."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import jwt
import pytest
import websockets
from fastapi import Depends, FastAPI, WebSocket
from isolane.fastapi import (
    Authenticated,
    Connection,
    IsolaneSettings,
    JwtAuthenticator,
    Principal,
    require_mfa,
    require_mfa_by,
    require_permissions,
    require_roles,
    setup,
)
from isolane.security import SecurityEvent
from isolane.security.authentication import JwtVerifier, MfaPolicy, RolePermissions, SessionRegistry

from tests.support.server import serving

SECRET = b"0123456789abcdef0123456789abcdef"
JWKS = {"keys": [{"kty": "oct", "alg": "HS256", "k": base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode()}]}


def token(user: str, seconds: float = 300, **more: Any) -> str:
    claims = {"iss": "id", "aud": "agents", "sub": user, "exp": time.time() + seconds, **more}
    return jwt.encode(claims, SECRET, "HS256")


def b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@dataclass
class Service:
    """An application that signs in by tokens, and what its audit log was told."""

    app: FastAPI
    events: list[SecurityEvent] = field(default_factory=list)
    port: int = 0

    def record(self, event: SecurityEvent) -> None:
        self.events.append(event)

    @property
    def isolane(self) -> Any:
        return self.app.state.isolane

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def names(self) -> list[tuple[str, Any]]:
        return [(event.name, event.data.get("reason")) for event in self.events]

    def connect(self, *subprotocols: str, query: str = "", path: str = "/ws", **options: Any):
        url = f"ws://127.0.0.1:{self.port}{path}{query}"
        return websockets.connect(url, subprotocols=list(subprotocols) or None, **options)

    async def refused(self, *subprotocols: str, **options: Any) -> tuple[int, str, str]:
        """Status, code and detail of the answer to a handshake."""
        with pytest.raises(websockets.InvalidStatus) as caught:
            await self.connect(*subprotocols, **options)
        response = caught.value.response
        body = json.loads(response.body)
        assert response.headers["content-type"] == "application/problem+json"
        return response.status_code, body["code"], body["detail"]

    async def ticket(self, user: str, origin: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token(user)}", **({"Origin": origin} if origin else {})}
        async with httpx.AsyncClient(base_url=self.origin) as client:
            return await client.post("/_isolane/ws-ticket", headers=headers)


@contextlib.contextmanager
def served(*, authenticate: Any = None, sessions: SessionRegistry | None = None, log: bool = False, **more: Any):
    service = Service(FastAPI())
    hooks = {name: more.pop(name) for name in ("authorize_command",) if name in more}
    verifier = JwtVerifier(JWKS, algorithms=["HS256"], issuer="id", audience="agents", audit=service, leeway=0)
    permissions = RolePermissions({"admin": ["runs:cancel"]})
    setup(
        service.app,
        IsolaneSettings(drain_seconds=0.1, **more),
        authenticate or JwtAuthenticator(verifier, permissions=permissions),
        sessions=sessions,
        audit=service,
        **hooks,
    )

    @service.app.get("/me")
    async def me(who: Authenticated) -> dict[str, Any]:
        return {"user": who.user_id, "roles": sorted(who.roles)}

    @service.app.get("/admin")
    async def admin(who: Annotated[Principal, Depends(require_roles("admin"))]) -> str:
        return who.user_id

    @service.app.get("/cancel", dependencies=[Depends(require_permissions("runs:cancel"))])
    async def cancel() -> str:
        return "cancelled"

    @service.app.get("/vault", dependencies=[Depends(require_mfa)])
    async def vault() -> str:
        return "open"

    policy = MfaPolicy(roles=["admin"], actions=["delete"])

    @service.app.get("/delete", dependencies=[Depends(require_mfa_by(policy, "delete"))])
    async def delete() -> str:
        return "deleted"

    @service.app.get("/read", dependencies=[Depends(require_mfa_by(policy, "read"))])
    async def read() -> str:
        return "read"

    @service.app.websocket("/chat")
    async def chat(websocket: WebSocket, connection: Connection) -> None:
        await websocket.accept()
        await websocket.send_text(connection.principal.user_id)
        await websocket.close()

    @service.app.websocket("/own")
    async def own(websocket: WebSocket, connection: Connection) -> None:
        await websocket.accept()
        async with connection.delivering(websocket, framed=True) as delivery:
            async for text in websocket.iter_text():
                assert delivery.take(text), "a frame of the protocol"

    with serving(service.app, **({"log_config": None} if log else {})) as port:
        service.port = port
        yield service
