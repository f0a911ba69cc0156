"""The same for signing in: the gate, tickets, dependencies, and a socket that signs in by its first message."""

from __future__ import annotations

import json
from typing import Any

from isolane import InvalidTokenError, MemoryTicketStore, MfaPolicy, Tickets
from isolane.client.client import renewal_of, value_of
from isolane.fastapi import (
    IsolaneSettings,
    Principal,
    require_mfa,
    require_mfa_by,
    require_permissions,
    require_roles,
)
from isolane.fastapi.dependencies import get_principal
from isolane.fastapi.event_socket import EventSocket
from isolane.fastapi.gate import Gate
from isolane.fastapi.scope import STATE_KEY, RequestScope
from starlette.requests import HTTPConnection

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks


def connection(world: World, kind: str = "http", query: str = "", **state: Any) -> HTTPConnection:
    return HTTPConnection(
        {
            "type": kind,
            "scheme": kind,
            "path": "/",
            "query_string": query.encode(),
            "headers": [(b"x-user", world.user.encode()), (b"host", b"here")],
            "server": ("127.0.0.1", 1),
            "subprotocols": [],
            "state": state,
        }
    )


async def who(conn: HTTPConnection) -> Principal | None:
    await ticks(1)
    name = conn.headers.get("x-user")
    has = {"amr": frozenset({"mfa"}), "roles": frozenset({"editor"}), "permissions": frozenset({"edit"})}
    return Principal(name, **has) if name else None


class SlowStore(MemoryTicketStore):
    """Tickets in a store that takes its time, as one of several processes would."""

    async def put(self, digest: bytes, ticket: Any, seconds: float) -> None:
        await ticks(1)
        await super().put(digest, ticket, seconds)

    async def take(self, digest: bytes) -> Any:
        await ticks(1)
        return await super().take(digest)


@uses(
    "Tickets.issue", "Tickets.redeem", "MemoryTicketStore.put", "MemoryTicketStore.take", "MemoryTicketStore.was_taken"
)
async def a_ticket_is_given_and_taken(world: World) -> None:
    store = SlowStore()
    tickets = Tickets(store=store)
    ticket = await tickets.issue(Principal(world.user), None)
    assert (await tickets.redeem(ticket, None)).user_id == world.user
    try:
        await tickets.redeem(ticket, None)
    except InvalidTokenError:
        assert len(store) == 0
    else:
        raise AssertionError


@uses("Gate.of_request", "Gate.of_stream", "Gate.of_socket", "Gate.of_message", "Gate.issue_ticket")
async def the_gate_is_asked(world: World) -> None:
    gate = Gate(IsolaneSettings(), who, Tickets(store=SlowStore()))
    for ask in (gate.of_request, gate.of_stream, gate.of_socket):
        principal = await ask(connection(world))
        assert principal is not None
        assert principal.user_id == world.user
    ticket = await gate.issue_ticket(connection(world), principal)
    assert await gate.of_socket(connection(world, "websocket", f"ticket={ticket}")) == principal
    assert await gate.of_message(connection(world, "websocket"), {"token": "any"}) == principal


@uses("get_principal", "require_mfa", "require_mfa_by", "require_roles", "require_permissions")
async def dependencies_ask_who_it_is(world: World) -> None:
    world.isolane.gate = Gate(IsolaneSettings(), who, Tickets())
    conn = connection(world)
    conn.scope["state"][STATE_KEY] = RequestScope(world.isolane)
    assert (await get_principal(conn)).user_id == world.user
    assert (await require_mfa(conn)).amr == {"mfa"}
    assert (await require_mfa_by(MfaPolicy(actions=["delete"]), "delete")(conn)).user_id == world.user
    for requirement in (require_roles("editor"), require_permissions("edit")):
        assert (await requirement(conn)).user_id == world.user


@uses("Isolane.ws_ticket")
async def a_page_asks_for_a_ticket(world: World) -> None:
    sent = await world.call("http", "/_isolane/ws-ticket", [])
    assert sent[0]["status"] == 200
    ticket = json.loads(sent[1]["body"])["ticket"]
    assert len(ticket) == 43


@uses("EventSocket.__call__", "Gate.of_message")
async def a_socket_signs_in_by_its_first_message_and_again(world: World) -> None:
    async def by_token(conn: HTTPConnection) -> Principal | None:
        await ticks(1)
        return Principal(world.user) if conn.headers.get("authorization") else None

    isolane = world.isolane
    before = isolane.gate
    isolane.gate = Gate(IsolaneSettings(websocket_auth_methods="message"), by_token, Tickets())
    inbox = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": '{"t":"auth","token":"mine"}'},
        {"type": "websocket.receive", "text": '{"t":"auth_refresh","token":"mine"}'},
        {"type": "websocket.receive", "text": '{"t":"pong"}'},
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await ticks(4)
        return inbox.pop(0) if inbox else {"type": "websocket.disconnect", "code": 1000}

    async def send(message: dict[str, Any]) -> None:
        await ticks(1)
        sent.append(message)

    conn = connection(world, "websocket")
    conn.scope["subprotocols"] = ["isolane.v1"]
    conn.scope["headers"] = [(b"host", b"here")]
    conn.scope["state"][STATE_KEY] = RequestScope(isolane)
    try:
        await EventSocket(isolane)(conn.scope, receive, send)
    finally:
        isolane.gate = before
    assert any('"t":"auth_refreshed"' in message.get("text", "") for message in sent)


@uses("value_of", "renewal_of")
async def a_client_asks_for_what_it_shows(world: World) -> None:
    async def give() -> str:
        await ticks(1)
        return "value"

    assert await value_of(give) == "value"
    assert await renewal_of(None, give) == {"t": "auth_refresh", "ticket": "value"}
    assert await renewal_of(give, None) == {"t": "auth_refresh", "token": "value"}
    assert await renewal_of("fixed", None) is None
