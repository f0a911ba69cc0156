"""How sockets and event streams sign in, stay signed in, and are refused, on a real uvicorn over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import websockets
from isolane import UserContextFactory
from isolane.fastapi import (
    IsolaneSettings,
    Principal,
    SessionAuthenticator,
    require_permissions,
    require_roles,
)
from isolane.security.authentication import SessionRegistry

from tests.support.token_service import Service, b64, served, token

WAIT = 10.0


@pytest.fixture
def service() -> Iterator[Service]:
    with served() as running:
        yield running


async def frame(socket: Any) -> dict[str, Any]:
    return json.loads(await asyncio.wait_for(socket.recv(), WAIT))


async def until(socket: Any, kind: str) -> dict[str, Any]:
    while (got := await frame(socket))["t"] != kind:
        pass
    return got


async def close_code(socket: Any) -> int:
    with pytest.raises(websockets.ConnectionClosed) as closed:
        while True:
            await asyncio.wait_for(socket.recv(), WAIT)
    return closed.value.rcvd.code


# -- ways in -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["jwt.", "jwt-auth.", "bearer."])
@pytest.mark.parametrize("encode", [str, b64], ids=["raw", "base64url"])
async def test_a_token_is_offered_beside_the_protocol(service, prefix, encode) -> None:
    credential = prefix + encode(token("ann-01"))
    for offer in (("isolane.v1", credential), (credential, "isolane.v1")):
        async with service.connect(*offer) as socket:
            assert socket.subprotocol == "isolane.v1"
            assert (await frame(socket))["t"] == "welcome"
            assert credential not in str(socket.response.headers)
    assert ("authn_login_success", None) in service.names()


async def test_the_existing_front_end_offers_a_name_of_its_own(service) -> None:
    """``jwt-auth`` and ``jwt.<token>``: the answer is what was offered, and never the token."""
    for marker in ("jwt-auth", "bearer", "events"):
        async with service.connect(f"jwt.{token('ann-02')}", marker) as socket:
            assert socket.subprotocol == marker
    async with service.connect("isolane.v1", f"jwt.{token('ann-02')}", query="?protocol=events") as socket:
        assert socket.subprotocol == "isolane.v1"


async def test_a_header_needs_no_subprotocol(service) -> None:
    headers = {"Authorization": f"Bearer {token('ann-03')}"}
    async with service.connect(additional_headers=headers) as socket:
        assert socket.subprotocol is None
    async with service.connect("isolane.v1", additional_headers=headers) as socket:
        assert (await frame(socket))["t"] == "welcome"


async def test_a_ticket_opens_one_socket(service) -> None:
    answer = await service.ticket("ann-04", service.origin)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    body = answer.json()
    assert body["expires_in"] == 30
    query = f"?ticket={body['ticket']}"
    async with service.connect("isolane.v1", query=query, origin=service.origin) as socket:
        assert (await frame(socket))["t"] == "welcome"
    assert (await service.refused("isolane.v1", query=query, origin=service.origin))[:2] == (401, "invalid_token")
    assert ("authn_token_reuse", None) in service.names()


async def test_two_who_show_a_ticket_at_the_same_moment(service) -> None:
    ticket = (await service.ticket("ann-05")).json()["ticket"]
    tries = [service.connect("isolane.v1", query=f"?ticket={ticket}") for _ in range(2)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["ClientConnection", "InvalidStatus"]
    for answer in answers:
        if isinstance(answer, websockets.ClientConnection):
            assert (await frame(answer))["t"] == "welcome"
            await answer.close()


async def test_a_ticket_of_another_page_opens_nothing() -> None:
    page, other = "https://app.example", "https://admin.example"
    with served(allowed_origins=f"{page}, {other}") as service:
        for taken_at, shown_at in ((page, other), (page, None), (None, page)):
            ticket = (await service.ticket("ann-06", taken_at)).json()["ticket"]
            options = {"query": f"?ticket={ticket}", "origin": shown_at}
            assert (await service.refused("isolane.v1", **options))[1] == "invalid_token"
        assert ("authn_login_fail", "ticket_of_another_origin") in service.names()
        answer = await service.ticket("ann-06", "https://evil.example")
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")


async def test_nobody_gets_no_ticket(service) -> None:
    async with httpx.AsyncClient(base_url=service.origin) as client:
        answer = await client.post("/_isolane/ws-ticket")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        answer = await client.post("/_isolane/ws-ticket", headers={"Authorization": "Bearer x.y.z"})
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
        assert (await client.get("/_isolane/ws-ticket")).status_code == 405


@pytest.mark.parametrize("field", ["token", "ticket"])
async def test_a_first_message_signs_in_where_that_is_allowed(field) -> None:
    with served(websocket_auth_methods="message,ticket") as service:
        value = token("ann-07") if field == "token" else (await service.ticket("ann-07")).json()["ticket"]
        async with service.connect("isolane.v1") as socket:
            await socket.send(json.dumps({"t": "auth", field: value}))
            assert (await frame(socket))["t"] == "welcome"
        for wrong in (
            {"t": "sub", "s": "run"},
            {"t": "auth"},
            {"t": "auth", "token": "x.y.z"},
            {"t": "auth", "token": "new\nline"},
            {"t": "auth", "token": 7},
            {"t": "auth", "token": value, "ticket": value},
            [],
        ):
            async with service.connect("isolane.v1") as socket:
                await socket.send(json.dumps(wrong))
                assert await close_code(socket) == 4501
        # What is not listed is not taken.
        assert (await service.refused("isolane.v1", f"bearer.{token('ann-07')}"))[1] == "credential_refused"


async def test_who_says_nothing_is_closed(monkeypatch) -> None:
    monkeypatch.setattr("isolane.fastapi.event_socket.FIRST_MESSAGE_SECONDS", 0.1)
    with served(websocket_auth_methods="message") as service:
        async with service.connect("isolane.v1") as socket:
            assert await close_code(socket) == 4501


async def test_sockets_of_nobody_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr("isolane.fastapi.event_socket.MAX_SILENT", 1)
    with served(websocket_auth_methods="message") as service:
        async with service.connect("isolane.v1") as silent, service.connect("isolane.v1") as second:
            assert await close_code(second) == 4029
            await silent.send(json.dumps({"t": "auth", "token": token("ann-24")}))
            assert (await frame(silent))["t"] == "welcome"
        async with service.connect("isolane.v1") as after:
            await after.send(json.dumps({"t": "auth", "token": token("ann-24")}))
            assert (await frame(after))["t"] == "welcome"


async def test_without_the_setting_nothing_is_accepted_before_it_is_known_who_it_is(service) -> None:
    assert (await service.refused("isolane.v1"))[:2] == (401, "unauthenticated")


# -- ways that are closed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["token", "access_token", "jwt", "anything"])
async def test_a_token_in_the_address_is_refused(service, name) -> None:
    query = f"?{name}={token('ann-08')}"
    status, code, detail = await service.refused("isolane.v1", query=query)
    assert (status, code) == (400, "auth_in_query_forbidden")
    assert "ticket" in detail
    # Also beside a credential that would do.
    answer = await service.refused("isolane.v1", f"bearer.{token('ann-08')}", query=query)
    assert answer[1] == "auth_in_query_forbidden"
    async with httpx.AsyncClient(base_url=service.origin) as client:
        stream = await client.get(f"/events/run{query}")
        assert stream.status_code == 400
    assert ("authn_login_fail", "auth_in_query_forbidden") in service.names()


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1.evil.example"]
)
async def test_a_page_of_another_origin_is_refused_whatever_it_shows(service, origin) -> None:
    offer = ("isolane.v1", f"bearer.{token('ann-09')}")
    assert (await service.refused(*offer, origin=origin))[:2] == (403, "origin_not_allowed")
    async with service.connect(*offer, origin=service.origin) as socket:
        assert (await frame(socket))["t"] == "welcome"
    # The application's own sockets as well.
    headers = {"Authorization": f"Bearer {token('ann-09')}"}
    with pytest.raises(websockets.InvalidStatus):
        await service.connect(path="/chat", origin=origin, additional_headers=headers)
    async with service.connect(path="/chat", origin=service.origin, additional_headers=headers) as socket:
        assert await socket.recv() == "ann-09"


async def test_only_a_credential_or_another_version_is_refused_with_the_reason(service) -> None:
    status, code, detail = await service.refused(f"bearer.{token('ann-10')}")
    assert (status, code) == (400, "subprotocol_refused")
    assert "offer isolane.v1 beside it" in detail
    for query in ("", "?protocol=events"):
        status, code, detail = await service.refused("isolane.v2", f"bearer.{token('ann-10')}", query=query)
        assert (status, code) == (400, "subprotocol_refused")
        assert "isolane.v1" in detail
    async with service.connect("isolane.v2", "isolane.v1", f"bearer.{token('ann-10')}") as socket:
        assert socket.subprotocol == "isolane.v1"


async def test_several_credentials_are_refused(service) -> None:
    first, second = token("ann-11"), token("bob-11")
    assert (await service.refused("isolane.v1", f"bearer.{first}", f"jwt.{second}"))[1] == "credential_refused"
    headers = {"Authorization": f"Bearer {first}"}
    answer = await service.refused("isolane.v1", f"bearer.{second}", additional_headers=headers)
    assert answer[1] == "credential_refused"
    async with service.connect("isolane.v1", f"bearer.{first}", additional_headers=headers) as socket:
        assert (await frame(socket))["t"] == "welcome"


@pytest.mark.parametrize(
    ("seconds", "more", "code"),
    [(-1, {}, "expired"), (300, {"aud": "others"}, "invalid_token"), (300, {"sub": "default"}, "invalid_token")],
)
async def test_a_token_that_does_not_count_opens_nothing(service, seconds, more, code) -> None:
    wrong = token("ann-12", seconds, **more)
    assert (await service.refused("isolane.v1", f"bearer.{wrong}"))[:2] == (401, code)
    async with httpx.AsyncClient(base_url=service.origin, headers={"Authorization": f"Bearer {wrong}"}) as client:
        for path in ("/me", "/events/run"):
            assert (await client.get(path)).status_code == 401
        assert (await client.get("/me")).json()["code"] == code


async def test_pages_see_the_code_where_that_is_set() -> None:
    with served(websocket_accept_then_close=True) as service:
        for offer, options, code, reason in (
            (("isolane.v1",), {}, 4501, "unauthenticated"),
            (("isolane.v1", f"bearer.{token('ann', -1)}"), {}, 4501, "expired"),
            (("isolane.v1",), {"origin": "https://evil.example"}, 4503, "origin_not_allowed"),
            (("isolane.v2",), {}, 4500, "subprotocol_refused"),
            (("isolane.v1",), {"query": "?token=x"}, 4501, "auth_in_query_forbidden"),
        ):
            async with service.connect(*offer, **options) as socket:
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await asyncio.wait_for(socket.recv(), WAIT)
                assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)


def session_of(sessions: SessionRegistry, user: str) -> dict[str, str]:
    return {"Cookie": f"session={sessions.create(Principal(user))[0]}"}


async def test_a_cookie_counts_from_a_listed_page_alone() -> None:
    page = "https://app.example"
    sessions = SessionRegistry()
    signs_in = SessionAuthenticator(sessions, cookie="session")
    methods = {"allowed_origins": page, "websocket_auth_methods": "cookie,subprotocol"}
    cookie = session_of(sessions, "ann-13")
    with served(authenticate=signs_in, sessions=sessions, **methods) as service:
        async with service.connect("isolane.v1", origin=page, additional_headers=cookie) as socket:
            assert (await frame(socket))["t"] == "welcome"
        for origin in ("https://evil.example", "https://app.example.evil", "null", service.origin, None):
            answer = await service.refused("isolane.v1", origin=origin, additional_headers=cookie)
            assert answer[:2] == (403, "origin_not_allowed")
        # Who shows a token is who the token says, and not the cookie.
        other, _ = sessions.create(Principal("bob-13"))
        async with service.connect("isolane.v1", f"bearer.{other}", origin=page, additional_headers=cookie) as socket:
            await frame(socket)
            assert [delivery.principal.user_id for delivery in service.isolane.deliveries] == ["bob-13"]
    with served(authenticate=signs_in, allowed_origins=page) as service:
        answer = await service.refused("isolane.v1", origin=page, additional_headers=cookie)
        assert answer[:2] == (401, "unauthenticated")


def test_cookies_need_a_list_of_pages() -> None:
    with pytest.raises(ValueError, match="ISOLANE_ALLOWED_ORIGINS"):
        IsolaneSettings(websocket_auth_methods="cookie")
    IsolaneSettings(websocket_auth_methods="cookie", allowed_origins="https://app.example")


# -- staying signed in -------------------------------------------------------------------------------------------------


async def test_a_socket_ends_with_its_token_unless_it_is_renewed(service) -> None:
    async with (
        service.connect("isolane.v1", f"bearer.{token('ann-14', 1.5)}") as renewed,
        service.connect("isolane.v1", f"bearer.{token('ann-14', 1.5)}") as left,
        service.connect("events", f"bearer.{token('ann-14', 1.5)}") as plain,
    ):
        expiring = await until(renewed, "auth_expiring")
        assert 0 < expiring["expires_in_ms"] <= 1500
        await renewed.send(json.dumps({"t": "auth_refresh", "token": token("ann-14", 300)}))
        answer = await until(renewed, "auth_refreshed")
        assert 290_000 < answer["expires_in_ms"] <= 300_000
        assert await close_code(left) == 4501
        assert await close_code(plain) == 4501
        await renewed.send('{"t":"sub","s":"run-of-nobody"}')
        assert (await until(renewed, "sub"))["mode"] == "gone"
    assert service.names().count(("session_expired", "expired_on_socket")) == 2


async def test_a_ticket_renews_as_well(service) -> None:
    async with service.connect("isolane.v1", f"bearer.{token('ann-15', 5)}") as socket:
        await until(socket, "auth_expiring")
        ticket = (await service.ticket("ann-15")).json()["ticket"]
        await socket.send(json.dumps({"t": "auth_refresh", "ticket": ticket}))
        await until(socket, "auth_refreshed")


@pytest.mark.parametrize(
    ("refresh", "reason"),
    [
        (lambda: {"token": token("bob-16")}, "another_user"),
        (lambda: {"token": token("ann-16x")}, "another_user"),
        (lambda: {"token": token("ann-16", -1)}, "expired"),
        (lambda: {"token": "x.y.z"}, "malformed"),
        (lambda: {"token": None}, None),
        (dict, None),
    ],
)
async def test_a_refresh_that_is_not_the_same_users_ends_the_socket(service, refresh, reason) -> None:
    async with service.connect("isolane.v1", f"bearer.{token('ann-16')}") as socket:
        await frame(socket)
        await socket.send(json.dumps({"t": "auth_refresh", **refresh()}))
        assert await close_code(socket) == 4501
    assert reason is None or ("authn_login_fail", reason) in service.names()


async def test_a_service_that_cannot_tell_has_the_client_come_back() -> None:
    asked = []

    def once(conn: Any) -> Principal:
        asked.append(conn)
        if len(asked) > 1:
            raise ConnectionError("the database is away")
        return Principal("ann-25")

    with served(authenticate=once) as service:
        async with service.connect("isolane.v1") as socket:
            await frame(socket)
            await socket.send(json.dumps({"t": "auth_refresh", "token": "any"}))
            assert await close_code(socket) == 4010
    # What is asked the second time carries the token, and nothing else to sign in with.
    assert asked[1].headers["authorization"] == "Bearer any"
    assert "sec-websocket-protocol" not in asked[1].headers


async def test_refreshes_are_commands_which_are_bounded(service) -> None:
    async with service.connect("isolane.v1", f"bearer.{token('ann-17')}") as socket:
        await frame(socket)
        again = json.dumps({"t": "auth_refresh", "token": token("ann-17")})
        for _ in range(120):
            await socket.send(again)
        assert await close_code(socket) == 4029


async def test_logout_closes_the_sockets_and_streams_of_the_user_and_nobody_elses() -> None:
    sessions = SessionRegistry()
    with served(authenticate=SessionAuthenticator(sessions), sessions=sessions, max_connections_per_user=4) as service:
        run = UserContextFactory.create_context("ann-18")
        emitter = run.get_websocket_emitter()
        await emitter.send_custom_event("note", {"text": "begin"})
        first, session = sessions.create(Principal("ann-18"))
        second, _ = sessions.create(Principal("ann-18"))
        bobs, _ = sessions.create(Principal("bob-18"))
        async with (
            service.connect("isolane.v1", f"bearer.{first}") as one,
            service.connect("events", f"bearer.{first}") as plain,
            service.connect("isolane.v1", f"bearer.{second}") as other,
            service.connect("isolane.v1", f"bearer.{bobs}") as foreign,
            httpx.AsyncClient(base_url=service.origin, timeout=WAIT) as client,
        ):
            for socket in (one, other, foreign):
                await frame(socket)
            async with client.stream(
                "GET", f"/events/{run.run_id}", headers={"Authorization": f"Bearer {second}"}
            ) as stream:
                lines = stream.aiter_lines()
                await until_line(lines, "event: note")
                assert sessions.logout(first)
                assert await close_code(one) == 4501
                assert await close_code(plain) == 4501
                await other.send('{"t":"sub","s":"x"}')
                await until(other, "sub")
                assert sessions.logout_user("ann-18") == 1
                assert await close_code(other) == 4501
                await until_line(lines, "event: isolane.bye")
                assert '"code": 4501' in await until_line(lines, "data:")
            assert (await service.refused("isolane.v1", f"bearer.{first}"))[1] == "invalid_token"
            await foreign.send('{"t":"sub","s":"x"}')
            await until(foreign, "sub")
            assert service.isolane.logout("bob-18", "another session") == 0
            assert service.isolane.logout("cyd-18") == 0
            assert service.isolane.logout("bob-18") == 1
            assert await close_code(foreign) == 4501
        assert not sessions.is_live(session.id)
        await run.cleanup()


async def test_a_ticket_from_before_the_sign_out_opens_nothing() -> None:
    sessions = SessionRegistry()
    with served(authenticate=SessionAuthenticator(sessions), sessions=sessions) as service:
        session, _ = sessions.create(Principal("ann-24"))
        async with httpx.AsyncClient(base_url=service.origin, timeout=WAIT) as client:
            headers = {"Authorization": f"Bearer {session}"}
            ticket, other = [
                (await client.post("/_isolane/ws-ticket", headers=headers)).json()["ticket"] for _ in range(2)
            ]
            assert sessions.logout(session)
            assert (await service.refused("isolane.v1", path=f"/ws?ticket={ticket}"))[1] == "invalid_token"
            assert (await client.get(f"/events/x?ticket={other}")).status_code == 401


async def test_the_applications_own_socket_is_renewed_and_closed_as_well(service) -> None:
    headers = {"Authorization": f"Bearer {token('ann-23', 1.5)}"}
    async with (
        service.connect(path="/own", additional_headers=headers) as renewed,
        service.connect(path="/own", additional_headers=headers) as left,
    ):
        await until(renewed, "auth_expiring")
        await renewed.send(json.dumps({"t": "auth_refresh", "token": token("ann-23")}))
        await until(renewed, "auth_refreshed")
        assert await close_code(left) == 4501
        assert service.isolane.logout("ann-23") == 1
        assert await close_code(renewed) == 4501


async def until_line(lines: AsyncIterator[str], begins: str) -> str:
    async with asyncio.timeout(WAIT):
        async for line in lines:
            if line.startswith(begins):
                return line
    raise AssertionError(f"no line {begins!r}")


async def test_an_event_stream_takes_the_same_credentials_and_ends_with_them(service) -> None:
    run = UserContextFactory.create_context("ann-19")
    await run.get_websocket_emitter().send_custom_event("note", {"text": "begin"})
    async with httpx.AsyncClient(base_url=service.origin, timeout=WAIT) as client:
        headers = {"Authorization": f"Bearer {token('ann-19', 1.2)}"}
        async with client.stream("GET", f"/events/{run.run_id}", headers=headers) as stream:
            lines = stream.aiter_lines()
            await until_line(lines, "event: note")
            await until_line(lines, "event: isolane.bye")
            assert '"code": 4501' in await until_line(lines, "data:")
        ticket = (await service.ticket("ann-19")).json()["ticket"]
        async with client.stream("GET", f"/events/{run.run_id}?ticket={ticket}") as stream:
            await until_line(stream.aiter_lines(), "event: note")
        assert (await client.get(f"/events/{run.run_id}?ticket={ticket}")).status_code == 401
    await run.cleanup()


# -- what a user may do ------------------------------------------------------------------------------------------------


async def test_roles_permissions_and_second_factors_open_paths(service) -> None:
    async def answers(**claims: Any) -> dict[str, int]:
        headers = {"Authorization": f"Bearer {token('ann-20', **claims)}"}
        async with httpx.AsyncClient(base_url=service.origin, headers=headers) as client:
            paths = ("me", "admin", "cancel", "vault", "delete", "read")
            return {path: (await client.get(f"/{path}")).status_code for path in paths}

    ok = dict.fromkeys(("me", "admin", "cancel", "vault", "delete", "read"), 200)
    no = 403
    assert await answers() == {**ok, "admin": no, "cancel": no, "vault": no, "delete": no}
    assert await answers(amr=["pwd", "otp"]) == {**ok, "admin": no, "cancel": no}
    assert await answers(roles=["admin"]) == {**ok, "vault": no, "delete": no, "read": no}
    assert await answers(roles=["admin"], amr=["mfa"]) == ok
    assert await answers(roles="administrator") == {**ok, "admin": no, "cancel": no, "vault": no, "delete": no}
    async with httpx.AsyncClient(base_url=service.origin) as client:
        assert (await client.get("/admin")).status_code == 401
        headers = {"Authorization": f"Bearer {token('ann-20')}"}
        assert (await client.get("/vault", headers=headers)).json()["code"] == "mfa_required"
        assert (await client.get("/admin", headers=headers)).json()["code"] == "forbidden"
    assert "authz_fail" in {event.name for event in service.events}


def test_a_dependency_that_asks_for_nothing_cannot_be_made() -> None:
    for make in (require_roles, require_permissions):
        with pytest.raises(ValueError, match="name the"):
            make()


@pytest.mark.parametrize(
    ("answer", "state"),
    [(True, "accepted"), (False, "gone"), (None, "gone"), ("yes", "gone"), (ZeroDivisionError, "gone")],
)
async def test_a_command_is_done_for_who_may_give_it(answer, state) -> None:
    asked = []

    def may(principal: Principal, command: str, run_id: str) -> Any:
        asked.append((principal.user_id, command, run_id))
        if isinstance(answer, type):
            raise answer
        return answer

    with served(authorize_command=may) as service:
        run = UserContextFactory.create_context("ann-21")
        run.get_websocket_emitter()
        async with service.connect("isolane.v1", f"bearer.{token('ann-21')}") as socket:
            await frame(socket)
            await socket.send(json.dumps({"t": "cancel", "s": run.run_id, "cid": "1"}))
            assert (await until(socket, "cancel"))["state"] == state
        assert asked == [("ann-21", "cancel", run.run_id)]
        assert ("authz_fail" in {event.name for event in service.events}) is (state == "gone")
        await run.cleanup()


# -- what is written down ----------------------------------------------------------------------------------------------


async def test_no_token_is_in_any_log(caplog, capfd) -> None:
    """In none of isolane's, uvicorn's or the audit log's lines, whatever becomes of the token."""
    caplog.set_level(logging.DEBUG)
    tokens = [token(f"ann-22-{number}", seconds) for number, seconds in enumerate((300, 300, 300, -1, 300, 300))]
    with served(log=True, websocket_auth_methods="message,subprotocol,header,ticket") as service:
        for name in ("uvicorn.error", "uvicorn.access"):
            caplog.set_level(logging.INFO, logger=name)
        headers = {"Authorization": f"Bearer {tokens[0]}"}
        async with service.connect("isolane.v1", additional_headers=headers) as socket:
            await socket.send(json.dumps({"t": "auth_refresh", "token": tokens[5]}))
            assert await close_code(socket) == 4501
        async with service.connect("isolane.v1", f"jwt.{b64(tokens[1])}") as socket:
            await frame(socket)
        async with service.connect("isolane.v1") as socket:
            await socket.send(json.dumps({"t": "auth", "token": tokens[2]}))
            await frame(socket)
        await service.refused("isolane.v1", f"bearer.{tokens[3]}")
        await service.refused(f"jwt-auth.{tokens[4]}")
        await service.refused("isolane.v1", f"bearer.{tokens[4][:-4]}aaaa")
        async with httpx.AsyncClient(base_url=service.origin) as client:
            await client.get("/me", headers={"Authorization": f"Bearer {tokens[3]}"})
    printed = capfd.readouterr()
    written = f"{printed.out}{printed.err}{service.events!r}"
    # The clients' own debug lines are in caplog as well: they have what they sent.
    written += "".join(
        record.getMessage()
        for record in caplog.records
        if not record.name.startswith(("websockets.client", "httpcore"))
    )
    assert "WebSocket /ws" in written
    for secret in tokens:
        for part in (secret, b64(secret), secret.split(".")[2]):
            assert part not in written
