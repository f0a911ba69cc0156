"""Who may look at the dashboard and who may act, asked of a real server."""

from __future__ import annotations

import httpx
import pytest
from fastapi import Depends, FastAPI
from isolane.fastapi import Principal
from isolane.migration.flags import MigrationFeatureFlags
from isolane.observability.dashboard import dashboard_router
from isolane.observability.dashboard.access import CsrfTokens, Viewer

from tests.support.dashboard_service import ANN, OPERATOR, READER, Records, bearer, make_app, may
from tests.support.reverse_proxy import proxied
from tests.support.server import serving

VIEWS = (
    *("/dashboard/", "/dashboard/static/main.js", "/dashboard/snapshot.json", "/dashboard/session.json"),
    *("/dashboard/stream", "/dashboard/users.json", "/dashboard/runs.json", "/dashboard/runs/run-1.json"),
    *("/dashboard/rollout.json", "/dashboard/isolation.json", "/dashboard/audit.json", "/dashboard/alerts.json"),
)
ACTIONS = {"rollback": {"flag": "dash_flag", "reason": "a test"}, "reveal": {"user": "0" * 12}, "verify": {}}


def flags() -> MigrationFeatureFlags:
    document = {"schema": 1, "revision": 1, "flags": {"dash_flag": {"state": "on", "rollout": 100_000}}}
    return MigrationFeatureFlags(document)


@pytest.fixture(scope="module")
def app():
    return make_app(rollout=flags())


@pytest.fixture(scope="module")
def client(app):
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield client


def token_of(client: httpx.Client, name: str = OPERATOR) -> str:
    return client.get("/dashboard/session.json", headers=bearer(name)).json()["permissions"]["csrf"] or ""


def act(client: httpx.Client, action: str, *, name: str = OPERATOR, token: str | bytes | None = None, **headers: str):
    token = token_of(client, name) if token is None else token
    headers = {
        **bearer(name),
        "X-Isolane-CSRF": token,
        **{key.replace("_", "-"): value for key, value in headers.items()},
    }
    return client.post(f"/dashboard/actions/{action}", json=ACTIONS[action], headers=headers)


# -- mounting ----------------------------------------------------------------------------------------------------------


def test_a_dashboard_without_a_sign_in_is_not_mounted() -> None:
    with pytest.raises(TypeError, match="auth="):
        dashboard_router()
    with pytest.raises(TypeError, match="not both"):
        dashboard_router(auth=Depends(lambda: "x"), allow_anonymous_loopback=True)
    with pytest.raises(TypeError, match="authorize_action"):
        dashboard_router(auth=Depends(lambda: "x"), actions=True)
    with pytest.raises(TypeError, match="authorize_action"):
        dashboard_router(auth=Depends(lambda: "x"), reveal=True)
    with pytest.raises(ValueError, match="slash"):
        dashboard_router(auth=Depends(lambda: "x"), prefix="dashboard")
    assert dashboard_router(auth=Depends(lambda: "x")).prefix == "/dashboard"


# -- looking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", VIEWS)
def test_nobody_looks_without_the_applications_word(client, path) -> None:
    assert client.get(path).status_code == 401
    assert client.get(path, headers=bearer(ANN)).status_code == 403


def test_no_route_of_the_router_is_without_a_sign_in(client) -> None:
    """Whatever it has; but the one that only adds a slash to its own address."""
    router = dashboard_router(auth=Depends(lambda: None), actions=True, reveal=True, authorize_action=may)
    asked = 0
    for route in router.routes:
        path = route.path.replace("{path:path}", "main.js").replace("{run_id:path}", "run-1")
        assert "{" not in path
        for method in route.methods:
            answer = client.request(method, path, headers={"Sec-Fetch-Site": "same-origin"}, follow_redirects=False)
            if path == "/dashboard":
                assert (answer.status_code, answer.headers["location"], answer.content) == (307, "dashboard/", b"")
            else:
                assert answer.status_code == 401, f"{method} {path}"
                asked += 1
    assert asked >= len(VIEWS) + len(ACTIONS)


@pytest.mark.parametrize("path", [path for path in VIEWS if not path.endswith(("stream", "run-1.json"))])
def test_a_reader_sees_every_view_and_no_browser_keeps_or_frames_it(client, path) -> None:
    answer = client.get(path, headers=bearer(READER))
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    if path.endswith(".json"):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/json"


def test_a_dependency_that_answers_nothing_lets_nobody_in() -> None:
    with serving(make_app(auth=Depends(lambda: None))) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/dashboard/snapshot.json").status_code == 401


def test_a_file_is_sent_once_and_confirmed_from_then_on(client) -> None:
    first = client.get("/dashboard/static/main.js", headers=bearer(READER))
    assert first.headers["content-type"].startswith("text/javascript")
    again = client.get("/dashboard/static/main.js", headers={**bearer(READER), "If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/dashboard/static/main.js", headers={**bearer(READER), "If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize("path", ["../router.py", "..%2frouter.py", "%2e%2e/router.py", "main.js/", "", "vendor"])
def test_no_file_but_those_of_the_page_is_served(client, path) -> None:
    answer = client.get(f"/dashboard/static/{path}", headers=bearer(READER))
    assert answer.status_code == 404
    assert b"dashboard_router" not in answer.content


# -- this machine alone ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local():
    app = FastAPI()
    held = make_app()
    app.include_router(dashboard_router(held.state.isolane, allow_anonymous_loopback=True))
    with serving(app) as port:
        yield port


def test_who_is_on_this_machine_needs_no_sign_in_where_that_was_said(local) -> None:
    assert httpx.get(f"http://127.0.0.1:{local}/dashboard/snapshot.json").status_code == 200
    assert httpx.get(f"http://localhost:{local}/dashboard/snapshot.json").status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Proto": "https"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Host": "dashboard.attacker.example"},
        {"Host": "dashboard.attacker.example:80"},
        {"Host": "127.0.0.1.attacker.example"},
    ],
)
def test_what_came_through_a_proxy_or_by_another_name_is_not_from_this_machine(local, header) -> None:
    assert httpx.get(f"http://127.0.0.1:{local}/dashboard/snapshot.json", headers=header).status_code == 403


def test_a_real_proxy_on_this_machine_does_not_open_the_dashboard_to_the_world(local) -> None:
    with proxied(local, "/ops") as proxy:
        assert httpx.get(f"http://127.0.0.1:{proxy.port}/ops/dashboard/snapshot.json").status_code == 403
    with proxied(local, "/ops", forwarded=False) as proxy:
        # One that says nothing of itself cannot be told from a browser: the page says not to do that.
        assert httpx.get(f"http://127.0.0.1:{proxy.port}/ops/dashboard/snapshot.json").status_code == 200


# -- acting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_can_be_done_where_actions_are_off(action) -> None:
    app = make_app(actions=False, reveal=False, rollout=flags())
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        permissions = client.get("/dashboard/session.json", headers=bearer(OPERATOR)).json()["permissions"]
        assert permissions == {"actions": False, "verify": False, "reveal": False, "csrf": None}
        assert act(client, action, token="x").status_code in {404, 405}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_get_does_nothing(client, action) -> None:
    assert client.get(f"/dashboard/actions/{action}", headers=bearer(OPERATOR)).status_code in {404, 405}


def test_who_may_act_is_offered_it_and_who_may_not_is_not(client) -> None:
    offered = client.get("/dashboard/snapshot.json", headers=bearer(OPERATOR)).json()["permissions"]
    assert {name for name, value in offered.items() if value is True} == {"actions", "verify", "reveal"}
    assert offered["csrf"]
    reader = client.get("/dashboard/snapshot.json", headers=bearer(READER)).json()["permissions"]
    assert reader == {"actions": False, "verify": False, "reveal": False, "csrf": None}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_reader_is_refused_with_any_token_and_it_is_recorded(app, client, action) -> None:
    tokens = CsrfTokens()
    for token in ("", token_of(client), tokens.token(Viewer(None, READER))):
        before = len(app.state.records.named("authz_fail"))
        assert act(client, action, name=READER, token=token).status_code == 403
        refused = app.state.records.named("authz_fail")[before:]
        assert [(event.user_id, event.data["command"]) for event in refused] == [(READER, f"dashboard_{action}")]
    assert not app.state.isolane.rollout.flags.engine.latched()


@pytest.mark.parametrize("action", ACTIONS)
def test_nobody_without_a_sign_in_acts(client, action) -> None:
    token = token_of(client)
    answer = client.post(f"/dashboard/actions/{action}", json=ACTIONS[action], headers={"X-Isolane-CSRF": token})
    assert answer.status_code == 401


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Origin": "https://attacker.example", "Sec_Fetch_Site": "cross-site"},
        {"Cookie": "session=1"},
    ],
)
def test_a_page_of_another_origin_acts_for_nobody(app, client, action, headers) -> None:
    assert act(client, action, **headers).status_code == 403
    assert not app.state.isolane.rollout.flags.engine.latched()


@pytest.mark.parametrize("action", ACTIONS)
def test_a_token_that_is_missing_wrong_or_somebody_elses_does_not_count(app, client, action) -> None:
    other = CsrfTokens().token(Viewer(None, OPERATOR))
    token = token_of(client)
    at, _, mac = token.partition(".")
    later = f"{int(at) + 1}.{mac}"
    for wrong in ("", "x", "1.\u00e9".encode(), token[:-1], token + "x", later, other):
        assert act(client, action, token=wrong).status_code == 403
    assert not app.state.isolane.rollout.flags.engine.latched()


def test_a_token_counts_for_its_principal_and_for_half_a_day(monkeypatch) -> None:
    tokens = CsrfTokens()
    ann, bob = Viewer(None, "ann"), Viewer(None, "bob")
    token = tokens.token(ann)
    assert tokens.is_valid(ann, token)
    assert not tokens.is_valid(bob, token)
    now = float(token.partition(".")[0])
    monkeypatch.setattr("isolane.observability.dashboard.access.time.time", lambda: now + 12 * 3600 - 2)
    assert tokens.is_valid(ann, token)
    monkeypatch.setattr("isolane.observability.dashboard.access.time.time", lambda: now + 12 * 3600 + 1)
    assert not tokens.is_valid(ann, token)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"flag": "dash_flag"}', "text/plain", 415),
        (b"flag=dash_flag", "application/x-www-form-urlencoded", 415),
        (b"[]", "application/json", 422),
        (b"{", "application/json", 422),
        (b'{"flag": 5}', "application/json", 422),
        (b'{"flag": ""}', "application/json", 422),
        (b'{"flag": "dash_flag", "reason": {}}', "application/json", 422),
        (b'{"flag": "' + b"x" * 20_000 + b'"}', "application/json", 413),
        (b'{"flag": "no_such_flag"}', "application/json", 404),
        (b'{"flag": "dash_flag\\ud800"}', "application/json", 422),
        (b'{"flag": "dash_flag\\nrollback of another"}', "application/json", 422),
        (b'{"flag": "dash_flag", "reason": "\\udfff"}', "application/json", 422),
        (b"[" * 16_000, "application/json", 422),
    ],
)
def test_what_is_no_command_is_refused(app, client, content, kind, status) -> None:
    headers = {**bearer(OPERATOR), "X-Isolane-CSRF": token_of(client), "Content-Type": kind}
    assert client.post("/dashboard/actions/rollback", content=content, headers=headers).status_code == status
    assert not app.state.isolane.rollout.flags.engine.latched()


@pytest.mark.parametrize("answer", [False, None, 1, "yes", RuntimeError("broken")])
def test_whatever_is_no_plain_yes_is_a_no(answer) -> None:
    def authorize(principal: Principal, action: str, target: str | None):
        if target is None:
            return True
        if isinstance(answer, Exception):
            raise answer
        return answer

    app = make_app(rollout=flags(), authorize=authorize)
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert act(client, "rollback").status_code == 403
        assert not app.state.isolane.rollout.flags.engine.latched()


def test_somebody_without_a_name_may_look_and_do_nothing() -> None:
    app = make_app(rollout=flags(), auth=Depends(object), authorize=lambda *_: True)
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        permissions = client.get("/dashboard/session.json").json()["permissions"]
        assert permissions["actions"] is False
        assert act(client, "rollback").status_code == 403


def test_what_is_asked_is_who_what_and_to_what() -> None:
    asked = []

    async def authorize(principal: Principal, action: str, target: str | None) -> bool:
        asked.append((principal.user_id, action, target))
        return True

    app = make_app(rollout=flags(), authorize=authorize)
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        token = token_of(client)
        asked.clear()
        assert act(client, "rollback", token=token, Sec_Fetch_Site="same-origin").status_code == 200
        assert asked == [(OPERATOR, "rollback", "dash_flag")]


@pytest.mark.parametrize("action", ACTIONS)
def test_what_cannot_be_recorded_is_not_done(action) -> None:
    records = Records()
    app = make_app(rollout=flags(), audit=records)
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        client.post("/run/dash_look", json={}, headers=bearer(ANN))
        user = client.get("/dashboard/users.json", headers=bearer(OPERATOR)).json()["users"][0]["user"]
        records.storage = type("Storage", (), {"verify": lambda self: pytest.fail("it was not recorded")})()
        token = token_of(client)
        records.sick = True
        body = {"user": user} if action == "reveal" else ACTIONS[action]
        answer = client.post(
            f"/dashboard/actions/{action}", json=body, headers={**bearer(OPERATOR), "X-Isolane-CSRF": token}
        )
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert ANN not in answer.text
        assert not app.state.isolane.rollout.flags.engine.latched()
        records.sick = False
        assert act(client, "rollback").status_code == 200


def test_a_rollback_is_recorded_before_it_is_in_force() -> None:
    app = make_app(rollout=flags())
    records, engine = app.state.records, app.state.isolane.rollout.flags.engine
    records.watch = lambda: dict(engine.latched())
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert act(client, "rollback").status_code == 200
    (event,) = records.named("dashboard_rollback")
    assert event.data == {"by": OPERATOR, "target": "dash_flag", "why": "a test", "revision": 1}
    assert records.seen[records.events.index(event)] == {}
    assert may(Principal(OPERATOR), "rollback", None)
