"""The detector in an application on a real server: responses, the probe, quarantine, and what is left when it stops."""

from __future__ import annotations

import asyncio
import gzip
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import isolane
import pytest
from fastapi import FastAPI, Request
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, Response, StreamingResponse
from isolane import (
    AgentRegistry,
    BaseAgent,
    CanaryProbe,
    ContaminationDetector,
    ExecutionEngineFactory,
    FairLimiter,
    Quarantine,
    ResponseWithheldError,
)
from isolane._core import user_streams
from isolane.fastapi import ContaminationMiddleware, Ctx, Engine, IsolaneSettings, setup
from isolane.security.probe import ProbeAgent
from isolane.testing import manual_clock

from tests.faults.site import auth, who
from tests.support.server import serving


class Echo(BaseAgent):
    name = "echo"

    async def execute_with_context(self, context, request, results) -> Any:
        return request


def make_app(
    detector: ContaminationDetector,
    canaries: dict[str, str],
    *,
    by_hand: str = "",
    compresses: str = "",
    **options: Any,
) -> FastAPI:
    app = FastAPI()
    if by_hand == "inside":
        app.add_middleware(ContaminationMiddleware, detector=detector)
    if compresses == "inside":
        app.add_middleware(GZipMiddleware, minimum_size=1)
    agents = AgentRegistry()
    agents.register(Echo)
    setup(app, IsolaneSettings(drain_seconds=0.2), who, registry=agents, contamination=detector, **options)
    if by_hand == "outside":
        app.add_middleware(ContaminationMiddleware, detector=detector)
    if compresses == "outside":
        app.add_middleware(GZipMiddleware, minimum_size=1)

    @app.get("/of/{user}")
    async def of(user: str) -> dict[str, str]:
        return {"note": canaries[user]}

    @app.get("/header/{user}")
    async def header(user: str) -> Response:
        return Response("fine", headers={"X-Note": canaries[user]})

    @app.get("/stream/{user}")
    async def stream(user: str) -> StreamingResponse:
        async def body() -> Any:
            yield b"a" * 1_000
            await asyncio.sleep(0.02)
            yield canaries[user][:20].encode()
            yield canaries[user][20:].encode() + b"after"

        return StreamingResponse(body())

    @app.get("/coded/{user}/{how}")
    async def coded(user: str, how: str) -> Response:
        body = {"br": bytes, "broken": lambda body: gzip.compress(body)[5:]}.get(how, gzip.compress)(
            canaries[user].encode()
        )
        return Response(body, headers={"Content-Encoding": how.replace("broken", "gzip")})

    @app.get("/file/{user}")
    async def file(user: str, request: Request) -> FileResponse:
        assert "http.response.pathsend" not in request.scope["extensions"]
        path = folder / user
        path.write_text(canaries[user])
        return FileResponse(path)

    folder = Path(tempfile.mkdtemp())

    @app.get("/empty")
    async def empty() -> Response:
        return Response(status_code=204)

    @app.post("/run")
    async def run(ctx: Ctx, engine: Engine) -> bool:
        return (await engine.execute_agent("echo", 7)).success

    return app


@pytest.fixture
def users(request) -> tuple[str, str]:
    return f"ann-{request.node.name}", f"bob-{request.node.name}"


def test_a_response_is_its_users_or_is_withheld(users) -> None:
    ann, bob = users
    detector = ContaminationDetector("enforce")
    canaries = {user: detector.mint(user) for user in users}
    with serving(make_app(detector, canaries)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        own = client.get(f"/of/{ann}", headers=auth(ann))
        assert (own.status_code, own.json()) == (200, {"note": canaries[ann]})
        for path in ("of", "header"):
            refused = client.get(f"/{path}/{ann}", headers=auth(bob))
            assert (refused.status_code, refused.json()["code"]) == (500, "response_withheld")
            assert canaries[ann] not in refused.text + str(refused.headers)
        assert client.get(f"/of/{ann}").status_code == 500, "nobody may have it either"
        assert client.get("/empty").status_code == 204
        assert client.get(f"/stream/{ann}", headers=auth(ann)).text == "a" * 1_000 + canaries[ann] + "after"
        got = b""
        with (
            pytest.raises(httpx.RemoteProtocolError),
            client.stream("GET", f"/stream/{ann}", headers=auth(bob)) as response,
        ):
            for piece in response.iter_raw():
                got += piece
        assert got.startswith(b"a" * 1_000)
        assert canaries[ann].encode() not in got
        detector.set_mode("http_out", "observe")
        assert client.get(f"/of/{ann}", headers=auth(bob)).json() == {"note": canaries[ann]}
    assert detector.figures()["boundaries"]["http_out"]["foreign"] == 5


@pytest.mark.parametrize("by_hand", ["", "inside", "outside"])
@pytest.mark.parametrize("compresses", ["inside", "outside"])
def test_what_is_compressed_is_read_and_looked_at_once(users, compresses, by_hand) -> None:
    ann, bob = users
    detector = ContaminationDetector("enforce")
    canaries = {user: detector.mint(user) for user in users}
    app = make_app(detector, canaries, compresses=compresses, by_hand=by_hand)
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        own = client.get(f"/of/{ann}", headers=auth(ann))
        assert (own.headers["content-encoding"], own.json()) == ("gzip", {"note": canaries[ann]})
        assert client.get(f"/stream/{ann}", headers=auth(ann)).text == "a" * 1_000 + canaries[ann] + "after"
        assert client.get(f"/of/{ann}", headers=auth(bob)).json()["code"] == "response_withheld"
        assert client.get(f"/file/{ann}", headers=auth(ann)).text == canaries[ann]
        assert client.get(f"/file/{ann}", headers=auth(bob)).status_code == 500
    figures = detector.figures()
    seen = figures["boundaries"]["http_out"]
    assert (seen["own"], seen["foreign"], seen["deliveries"], figures["errors"]) == (3, 2, 5, 0)


def test_what_cannot_be_read_is_withheld_where_it_is_enforced(users) -> None:
    ann, bob = users
    detector = ContaminationDetector("enforce")
    canaries = {user: detector.mint(user) for user in users}
    app = make_app(detector, canaries)
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get(f"/coded/{ann}/gzip", headers=auth(ann)).text == canaries[ann]
        assert client.get(f"/coded/{ann}/gzip", headers=auth(bob)).status_code == 500
        assert detector.figures()["errors"] == 0
        for how in ("br", "broken"):
            refused = client.get(f"/coded/{ann}/{how}", headers=auth(ann))
            assert (refused.status_code, refused.json()["code"]) == (500, "response_withheld")
        assert detector.figures()["errors"] == 2
        detector.set_mode("http_out", "observe")
        with client.stream("GET", f"/coded/{ann}/br", headers=auth(ann)) as response:
            assert b"".join(response.iter_raw()) == canaries[ann].encode()
    assert detector.figures()["errors"] == 3


async def test_what_no_response_of_starlettes_does_is_looked_at_as_well() -> None:
    """Trailers, a body that grows without end, and a look that an inner one takes over."""
    detector = ContaminationDetector("enforce")
    canary = detector.mint("ann")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert list(scope["extensions"]) == ["http.response.trailers"]
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"fine"})
        await send({"type": "http.response.trailers", "headers": [(b"x-note", canary.encode())]})

    async def bomb(scope: Any, receive: Any, send: Any) -> None:
        body = gzip.compress(bytes(256 << 20))
        headers = [(b"content-encoding", b"gzip")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    offered = {"http.response.trailers": {}, "http.response.pathsend": {}, "http.response.zerocopysend": {}}
    scope = {"type": "http", "headers": [], "extensions": offered}
    middleware = ContaminationMiddleware(application, detector, lambda _: "bob")
    with pytest.raises(ResponseWithheldError):
        await middleware({**scope}, None, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    sent.clear()
    await ContaminationMiddleware(application, detector, lambda _: "ann")({**scope}, None, send)
    assert len(sent) == 3
    sent.clear()
    await ContaminationMiddleware(bomb, detector, lambda _: "bob")({**scope}, None, send)
    assert sent[0]["status"] == 500


async def test_a_stream_that_goes_on_keeps_nothing_of_what_was_reported() -> None:
    detector = ContaminationDetector("observe")
    guard = detector.stream("bob", "llm_out")
    for _ in range(300):
        guard.feed(detector.mint("ann"))
    assert guard.collected.sightings == []
    assert detector.figures()["violations"] == 300
    assert guard.close().violations == ()


def test_nobody_starts_anything_for_a_user_in_quarantine(users) -> None:
    ann, bob = users
    quarantine = Quarantine(drain_seconds=0)
    detector = ContaminationDetector("enforce", quarantine=quarantine)
    canaries = {user: detector.mint(user) for user in users}
    with serving(make_app(detector, canaries)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.post("/run", headers=auth(ann)).json() is True
        client.get(f"/of/{ann}", headers=auth(bob))
        for user in users:
            refused = client.post("/run", headers=auth(user))
            assert (refused.status_code, refused.json()["code"]) == (403, "quarantined")
        assert client.post("/run", headers=auth(f"eve-{ann}")).json() is True
        quarantine.release(ann, by="an operator", reason="a test")
        assert client.post("/run", headers=auth(ann)).json() is True


def test_the_probe_runs_while_the_application_does(users) -> None:
    detector = ContaminationDetector("enforce")
    app = make_app(detector, {}, probe_seconds=0.05)
    probe = app.state.isolane.probe
    with serving(app):
        until = time.monotonic() + 20
        while probe.rounds < 3 and time.monotonic() < until:
            time.sleep(0.01)
        shown = app.state.isolane.introspect()
    assert probe.rounds >= 3
    assert (probe.last.verdict, probe.last.users, probe.last.foreign, probe.inconclusive) == ("clean", 2, 0, 0)
    assert shown["contamination"]["boundaries"]["cache_get"]["own"] > 0, "the scan points saw its canaries"
    assert shown["probe"].verdict == "clean"
    assert not any(detector.holds(user) for user in probe.user_ids)
    assert probe._task is None
    cache = isolane.TTLCache(users[0])
    cache["a"] = detector.mint(users[1])
    assert cache["a"], "what was installed is no longer"


async def test_what_reaches_a_probe_from_another_user_is_seen(monkeypatch) -> None:
    detector = ContaminationDetector()
    probe = CanaryProbe(ExecutionEngineFactory(), detector)
    canaries: list[str] = []
    execute = ProbeAgent.execute_with_context

    async def mixed(self: Any, context: Any, request: Any, results: Any) -> Any:
        canaries.append(request)
        return await execute(self, context, canaries[0], results)

    monkeypatch.setattr(ProbeAgent, "execute_with_context", mixed)
    result = await probe.run_once()
    assert (result.verdict, probe.violations) == ("contaminated", result.foreign)
    assert detector.figures()["violations"] > 0
    monkeypatch.undo()
    assert (await probe.run_once()).verdict == "clean"


async def test_a_probe_that_saw_too_little_says_so(monkeypatch) -> None:
    detector = ContaminationDetector()
    full = FairLimiter(1, 1)
    held = full.slot_nowait("somebody")
    probe = CanaryProbe(ExecutionEngineFactory(limiter=full, admission_timeout=0.01), detector)
    result = await probe.run_once()
    assert result.verdict == "inconclusive"
    assert result.error is not None
    held.release()
    detector.set_mode("ws_out", "off")
    assert (await probe.run_once()).verdict == "inconclusive"
    detector.set_mode("ws_out", "observe")

    class Blind:
        def __getattr__(self, name: str) -> Any:
            return getattr(scanner, name)

        def scan(self, *arguments: Any, **options: Any) -> Any:
            return (0, 0, True, [])

    scanner = detector.scanner
    assert (await probe.run_once()).verdict == "clean"
    monkeypatch.setattr(detector, "scanner", Blind())
    assert not probe._controls(dict.fromkeys(probe.user_ids, "iso1_"))


async def test_a_probe_leaves_nothing_behind() -> None:
    with manual_clock() as clock:
        detector = ContaminationDetector()
        factory = ExecutionEngineFactory()
        probe = CanaryProbe(factory, detector, users=3, interval=0.001)
        before = asyncio.all_tasks()
        probe.start()
        probe.start()
        while probe.rounds < 5:
            await asyncio.sleep(0.001)
        await probe.stop()
        await probe.stop()
        assert asyncio.all_tasks() == before
        assert factory.get_factory_metrics()["engines_active"] == 0
        assert len({stream["run_id"] for stream in user_streams(probe.user_ids[0])}) >= 5
        clock.advance(1_000)
        isolane.sweep_lanes()
        for user in probe.user_ids:
            usage: dict[str, int] = isolane.lane_usage(user) or {}
            assert not any(usage.get(key) for key in ("handles", "event_bytes", "streams", "connections")), usage
            assert not detector.holds(user)


def test_what_a_probe_needs() -> None:
    factory, detector = ExecutionEngineFactory(), ContaminationDetector()
    with pytest.raises(ValueError, match="at least 2"):
        CanaryProbe(factory, detector, users=1)
    with pytest.raises(ValueError, match="more than 0"):
        CanaryProbe(factory, detector, interval=0)
    with pytest.raises(TypeError, match="needs a detector"):
        setup(FastAPI(), IsolaneSettings(), who, probe_seconds=60)


def test_a_look_that_is_added_by_hand_knows_who_signed_in(users) -> None:
    ann, bob = users
    detector = ContaminationDetector("enforce")
    app = FastAPI()
    setup(app, IsolaneSettings(drain_seconds=0.2), who)
    app.add_middleware(ContaminationMiddleware, detector=detector)
    canary = detector.mint(ann)

    @app.get("/note")
    async def note(ctx: Ctx) -> str:
        return canary

    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/note", headers=auth(ann)).json() == canary
        assert client.get("/note", headers=auth(bob)).status_code == 500
