"""The stream of the dashboard: one maker for many readers, its ends, a restart, and a prefix behind a proxy."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from datetime import datetime
from itertools import islice
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import Depends, FastAPI
from isolane.fastapi import setup
from isolane.observability.dashboard import dashboard_router
from isolane.observability.dashboard import stream as module
from isolane.observability.dashboard.history import History

from tests.support.dashboard_service import OPERATOR, READER, bearer, make_app, who
from tests.support.reverse_proxy import proxied
from tests.support.server import serving


def events(answer: httpx.Response):
    """The events of a stream as they come."""
    kind = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


@contextlib.contextmanager
def watching(address: str, name: str = READER):
    with httpx.Client(timeout=10) as client, client.stream("GET", address, headers=bearer(name)) as answer:
        yield answer


def test_the_overview_comes_once_a_second_with_the_same_body_as_the_snapshot() -> None:
    with serving(make_app()) as port:
        address = f"http://127.0.0.1:{port}/dashboard/stream"
        with watching(address, OPERATOR) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            lines = answer.iter_lines()
            assert next(lines) == "retry: 2000"
        with watching(address, OPERATOR) as answer:
            got, times = [], []
            for kind, data in events(answer):
                got.append((kind, data))
                times.append(time.monotonic())
                if len(got) == 4:
                    break
        assert {kind for kind, _ in got} == {"overview"}
        snapshot = httpx.get(f"http://127.0.0.1:{port}/dashboard/snapshot.json", headers=bearer(OPERATOR)).json()
        assert set(got[0][1]) == set(snapshot)
        assert got[0][1]["permissions"]["actions"] is True
        assert times[-1] - times[1] < 10
        made = [datetime.fromisoformat(data["at"]) for _, data in got]
        assert (made[-1] - made[1]).total_seconds() > 1.9


def test_many_readers_are_served_by_one_maker_and_each_is_told_its_own_permissions(monkeypatch) -> None:
    made = []
    original = module.Board._make
    monkeypatch.setattr(module.Board, "_make", lambda self, now: (made.append(now), original(self, now)))
    with serving(make_app()) as port, contextlib.ExitStack() as stack:
        began = time.monotonic()
        address = f"http://127.0.0.1:{port}/dashboard/stream"
        names = [READER, OPERATOR] * 5
        answers = [stack.enter_context(watching(address, name)) for name in names]
        streams = [events(answer) for answer in answers]
        for _ in range(3):
            for name, stream in zip(names, streams, strict=True):
                _, data = next(stream)
                assert data["permissions"]["actions"] is (name == OPERATOR)
        # Three rounds for ten readers, however long they took.
        assert len(made) <= time.monotonic() - began + 3


def test_nothing_is_made_when_nobody_watches(monkeypatch) -> None:
    made = []
    original = module.Board._make
    monkeypatch.setattr(module.Board, "_make", lambda self, now: (made.append(now), original(self, now)))
    with serving(make_app()) as port:
        with watching(f"http://127.0.0.1:{port}/dashboard/stream") as answer:
            stream = events(answer)
            next(stream), next(stream)
        time.sleep(1.5)
        before = len(made)
        time.sleep(1.5)
        assert len(made) == before > 0


def test_streams_are_bounded_and_a_place_is_free_again(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 3)
    with serving(make_app()) as port:
        address = f"http://127.0.0.1:{port}/dashboard/stream"
        with contextlib.ExitStack() as stack:
            # Kept: one that is let go of is closed.
            streams = [events(stack.enter_context(watching(address))) for _ in range(3)]
            assert [next(stream)[0] for stream in streams] == ["overview"] * 3
            with watching(address) as refused:
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        limit = time.monotonic() + 15
        while True:
            with watching(address) as answer:
                if answer.status_code == 200:
                    next(events(answer))
                    break
            assert time.monotonic() < limit
            time.sleep(0.05)


def test_who_may_no_longer_look_is_not_shown_more(monkeypatch) -> None:
    monkeypatch.setattr(module, "RECHECK_SECONDS", 0.5)
    app = make_app()
    with serving(app) as port, watching(f"http://127.0.0.1:{port}/dashboard/stream") as answer:
        stream = events(answer)
        kinds = [next(stream)[0] for _ in range(3)]
        assert kinds == ["overview"] * 3
        assert app.state.revocable.asked > 1
        app.state.revocable.may_look.discard(READER)
        rest = list(islice(stream, 6))
        assert rest[-1] == ("bye", {"reason": "not_allowed"})
        assert len(rest) <= 3


def test_who_may_no_longer_act_is_told_so(monkeypatch) -> None:
    monkeypatch.setattr(module, "RECHECK_SECONDS", 0.5)
    allowed = {OPERATOR}
    app = make_app(authorize=lambda principal, action, target: principal.user_id in allowed)
    with serving(app) as port, watching(f"http://127.0.0.1:{port}/dashboard/stream", OPERATOR) as answer:
        stream = events(answer)
        assert next(stream)[1]["permissions"]["actions"] is True
        allowed.clear()
        last = [next(stream)[1]["permissions"] for _ in range(4)][-1]
        assert last == {"actions": False, "verify": False, "reveal": False, "csrf": None}


def test_streams_end_when_the_service_drains() -> None:
    app = make_app()
    with serving(app) as port, watching(f"http://127.0.0.1:{port}/dashboard/stream") as answer:
        stream = events(answer)
        next(stream)
        threading.Timer(0.2, lambda: setattr(app.state.isolane, "draining", True)).start()
        began = time.monotonic()
        rest = list(islice(stream, 6))
        assert rest[-1] == ("bye", {"reason": "draining"})
        assert time.monotonic() - began < 8


def test_a_server_stops_in_time_though_a_dashboard_is_open() -> None:
    app = make_app()
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(app))
        with watching(f"http://127.0.0.1:{port}/dashboard/stream") as answer:
            next(events(answer))
            app.state.isolane.start_draining()
            began = time.monotonic()
            stack.close()
            assert time.monotonic() - began < 8


def test_a_dashboard_goes_on_after_the_server_was_started_again() -> None:
    def rolled_back(base: str, token: str) -> int:
        headers = bearer(OPERATOR) | {"X-Isolane-CSRF": token}
        return httpx.post(f"{base}/actions/verify", json={}, headers=headers).status_code

    with contextlib.ExitStack() as stack:
        first = contextlib.ExitStack()
        app = make_app()
        proxy = stack.enter_context(proxied(first.enter_context(serving(app)), "/ops"))
        base = f"http://127.0.0.1:{proxy.port}/ops/dashboard"
        with watching(f"{base}/stream", OPERATOR) as answer:
            _, data = next(events(answer))
            old = data["permissions"]["csrf"]
            # 409: it counts, and there is nothing to verify.
            assert rolled_back(base, old) == 409
            app.state.isolane.start_draining()
            first.close()
            # Nobody is there for a while.
            assert httpx.get(f"{base}/snapshot.json", headers=bearer(OPERATOR)).status_code == 502
        proxy.upstream = stack.enter_context(serving(make_app()))
        with watching(f"{base}/stream", OPERATOR) as answer:
            _, data = next(events(answer))
        assert rolled_back(base, old) == 403
        assert rolled_back(base, data["permissions"]["csrf"]) == 409


def test_an_application_that_is_started_again_in_the_same_process_is_watched_again() -> None:
    """On another loop, as a test or a supervisor in the process does it; mounted, so that nothing tells of its end."""
    held = make_app()
    outer = FastAPI()
    outer.mount("/inner", held)
    for _ in range(2):
        with serving(outer) as port, watching(f"http://127.0.0.1:{port}/inner/dashboard/stream") as answer:
            assert [kind for kind, _ in islice(events(answer), 3)] == ["overview"] * 3


def test_a_router_that_is_in_two_applications_shows_each_of_them_and_samples_each_once(monkeypatch) -> None:
    began: list[History] = []
    start = History.start
    monkeypatch.setattr(History, "start", lambda self: (began.append(self), start(self))[1])
    router = dashboard_router(auth=Depends(who))
    apps = [FastAPI(), FastAPI()]
    for app in apps:
        setup(app, authenticate=who)
        app.include_router(router)
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(serving(app)) for app in apps]
        for _ in range(4):
            for port in ports:
                httpx.get(f"http://127.0.0.1:{port}/dashboard/snapshot.json", headers=bearer(READER)).raise_for_status()
        assert len(set(map(id, began))) == 2
        assert {id(history._isolane) for history in began} == {id(app.state.isolane) for app in apps}


# -- prefixes ----------------------------------------------------------------------------------------------------------


def linked(page: str) -> list[str]:
    """What a page loads, as it stands there."""
    return re.findall(r'(?:src|href)="([^"#][^"]*)"', page)


@pytest.mark.parametrize("options", [{}, {"keep_host": False}, {"forwarded": False}])
@pytest.mark.parametrize("root_path", ["", "/tools/agents"])
def test_all_of_the_page_is_found_under_a_prefix_that_a_proxy_takes_off(options, root_path) -> None:
    with (
        serving(make_app(), root_path=root_path) as port,
        proxied(port, "/tools/agents", **options) as proxy,
        httpx.Client(headers=bearer(OPERATOR), follow_redirects=False) as client,
    ):
        bare = f"http://127.0.0.1:{proxy.port}/tools/agents/dashboard"
        answer = client.get(bare)
        assert answer.status_code == 307
        address = urljoin(bare, answer.headers["location"])
        assert address == bare + "/"
        page = client.get(address)
        assert page.status_code == 200
        links = linked(page.text)
        assert any(link.endswith(".js") for link in links)
        for link in links:
            assert not link.startswith(("/", "http"))
            assert client.get(urljoin(address, link)).status_code == 200, link
        permissions = client.get(urljoin(address, "snapshot.json")).json()["permissions"]
        with watching(urljoin(address, "stream"), OPERATOR) as answer:
            assert next(events(answer))[0] == "overview"
        # A browser says that the page is of the same origin, whatever name the server is asked by.
        headers = {
            "X-Isolane-CSRF": permissions["csrf"],
            "Sec-Fetch-Site": "same-origin",
            "Origin": "http://x.example",
        }
        assert client.post(urljoin(address, "actions/verify"), json={}, headers=headers).status_code == 409


def test_the_dashboard_is_found_by_its_own_prefix_and_in_an_application_that_is_mounted() -> None:
    inner = make_app()
    inner.include_router(dashboard_router(auth=Depends(inner.state.revocable), prefix="/deep/er/board"))
    outer = FastAPI(lifespan=inner.router.lifespan_context)
    outer.mount("/inner", inner)
    with serving(outer) as port:
        for path in ("/inner/dashboard/", "/inner/deep/er/board/"):
            base = f"http://127.0.0.1:{port}{path}"
            redirect = httpx.get(base.rstrip("/"), headers=bearer(READER))
            assert urljoin(base.rstrip("/"), redirect.headers["location"]) == base
            assert httpx.get(base, headers=bearer(READER)).status_code == 200
            assert httpx.get(f"{base}snapshot.json", headers=bearer(READER)).status_code == 200


def test_an_open_stream_of_a_mounted_application_is_asked_again_as_well(monkeypatch) -> None:
    monkeypatch.setattr(module, "RECHECK_SECONDS", 0.5)
    inner = make_app()
    outer = FastAPI(lifespan=inner.router.lifespan_context)
    outer.mount("/inner", inner)
    with serving(outer) as port, watching(f"http://127.0.0.1:{port}/inner/dashboard/stream") as answer:
        stream = events(answer)
        assert [next(stream)[0] for _ in range(4)] == ["overview"] * 4
        inner.state.revocable.may_look.discard(READER)
        assert list(islice(stream, 6))[-1] == ("bye", {"reason": "not_allowed"})
