"""The same for the detector of contamination: looking, passing on, and the synthetic users."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from isolane import ContaminationDetector
from isolane.fastapi import ContaminationMiddleware
from isolane.security.probe import CanaryProbe

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks


async def pieces(text: str) -> AsyncIterator[str]:
    for at in range(0, len(text), 10):
        await ticks(1)
        yield text[at : at + 10]


@uses("ContaminationDetector.detect_data_contamination", "ContaminationDetector.passing")
async def a_stream_is_looked_at(world: World) -> None:
    detector = ContaminationDetector()
    ctx = world.context()
    text = f"before {detector.mint(ctx)} after"
    report = await detector.detect_data_contamination(ctx, pieces(text), boundary="llm_out")
    assert report.verdict == "clean"
    passed = [piece async for piece in detector.passing(ctx, pieces(text), boundary="llm_out")]
    assert "".join(passed) == text
    report = await detector.detect_data_contamination("somebody-else", pieces(text))
    assert report.verdict == "contaminated"


@uses("ContaminationMiddleware.__call__")
async def a_response_is_looked_at(world: World) -> None:
    detector = ContaminationDetector("enforce")
    body = detector.mint("somebody-else").encode()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await ticks(1)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    sent = []

    async def send(message: dict[str, Any]) -> None:
        await ticks(1)
        sent.append(message)

    async def receive() -> dict[str, Any]:
        await ticks(1)
        return {"type": "http.disconnect"}

    middleware = ContaminationMiddleware(application, detector, lambda _: world.user)
    await middleware({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    assert sent[0]["status"] == 500
    assert body not in sent[1]["body"]


@uses("CanaryProbe.run_once", "CanaryProbe.stop")
async def synthetic_users_run(world: World) -> None:
    detector = ContaminationDetector()
    probe = CanaryProbe(world.isolane.factory, detector)
    try:
        result = await probe.run_once()
        assert result.verdict == "clean", result
        probe.start()
        await ticks(3)
    finally:
        await probe.stop()
    assert not any(detector.holds(user) for user in probe.user_ids)
