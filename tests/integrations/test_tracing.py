"""A trace through a real server: from the caller's header over spans to the events on the user's socket."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets
from isolane.observability import otel
from isolane.security.pseudonyms import pseudonym
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.integrations.conftest import make_app
from tests.support.server import serving


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    running = otel.instrument(provider)
    yield exporter
    running.uninstrument()
    provider.shutdown()


def auth(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


def new_parent() -> tuple[str, str]:
    """A trace as a caller has it: its id, and the header."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"


async def events_of(port: int, user: str, count: int) -> list[dict[str, Any]]:
    """The latest events of a user, as a socket of theirs gets them."""
    url = f"ws://127.0.0.1:{port}/ws"
    async with websockets.connect(url, subprotocols=["isolane.v1", f"bearer.{user}"]) as socket:
        welcome = json.loads(await asyncio.wait_for(socket.recv(), 5))
        events: list[dict[str, Any]] = []
        for stream in welcome["streams"]:
            await socket.send(json.dumps({"t": "sub", "s": stream["s"]}))
        while len(events) < count:
            frame = json.loads(await asyncio.wait_for(socket.recv(), 5))
            if frame["t"] == "ev":
                events += [entry["ev"] for entry in frame["b"]]
        return events


async def execute(client: httpx.AsyncClient, user: str, parent: str | None = None) -> dict[str, Any]:
    headers = auth(user) | ({"traceparent": parent, "tracestate": "vendor=1"} if parent else {})
    answer = await client.post("/execute/echo", json={"nonce": user, "pause": 0.01}, headers=headers)
    body: dict[str, Any] = answer.json()
    assert body["success"], body
    return body


async def test_events_on_the_socket_have_the_trace_of_the_request_that_began_the_run(spans) -> None:
    users = [f"ann-{number}-traced" for number in range(4)]
    with serving(make_app()) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            parents = {user: new_parent() for user in users}
            runs = await asyncio.gather(*(execute(client, user, parents[user][1]) for user in users))
        events = {user: await events_of(port, user, 6) for user in users}
    for user, body in zip(users, runs, strict=True):
        trace_id, parent = parents[user]
        own = [span for span in spans.get_finished_spans() if f"{span.context.trace_id:032x}" == trace_id]
        assert {(span.attributes or {})["isolane.run.id"] for span in own} == {body["run_id"]}
        assert {(span.attributes or {})["isolane.user.hash"] for span in own} == {pseudonym(user)}
        (run,) = [span for span in own if span.name == "isolane.run"]
        assert run.parent is not None
        assert (f"{run.parent.span_id:016x}", run.parent.is_remote) == (parent[36:52], True)
        assert run.context.trace_state.to_header() == "vendor=1"
        agents = [span for span in own if span.name == "invoke_agent echo"]
        stands = {event["traceparent"] for event in events[user]}
        assert len(stands) == len(agents) == 2
        assert {(each[3:35], each[36:52]) for each in stands} == {
            (trace_id, f"{agent.context.span_id:016x}") for agent in agents
        }
        assert user not in "".join(span.to_json() for span in own)


async def test_a_request_without_a_trace_begins_one_and_nonsense_counts_as_none(spans) -> None:
    with serving(make_app()) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for header in (None, "nonsense", f"00-{'0' * 32}-{'1' * 16}-01"):
                spans.clear()
                await execute(client, "ann-begins-a-trace", header)
                (run,) = [span for span in spans.get_finished_spans() if span.name == "isolane.run"]
                assert run.parent is None


async def test_a_span_of_the_applications_own_is_the_parent_before_the_header(spans) -> None:
    app = make_app()
    propagator = TraceContextTextMapPropagator()

    class ServerSpans:
        """As an instrumentation of ASGI does."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await self.inner(scope, receive, send)
                return
            headers = {key.decode(): value.decode() for key, value in scope["headers"]}
            tracer = trace.get_tracer("server", tracer_provider=provider)
            with tracer.start_as_current_span("POST", propagator.extract(headers)):
                await self.inner(scope, receive, send)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace_id, parent = new_parent()
    with serving(ServerSpans(app)) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await execute(client, "ann-has-a-server-span", parent)
    provider.shutdown()
    by_name = {span.name.partition(" ")[0]: span for span in spans.get_finished_spans()}
    assert {f"{span.context.trace_id:032x}" for span in by_name.values()} == {trace_id}
    run, server = by_name["isolane.run"], by_name["POST"]
    assert run.parent is not None
    assert run.parent.span_id == server.context.span_id
    assert server.parent is not None


async def test_callers_need_not_be_believed() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    running = otel.instrument(provider, continue_remote=False)
    try:
        with serving(make_app()) as port:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                await execute(client, "ann-is-not-believed", new_parent()[1])
    finally:
        running.uninstrument()
        provider.shutdown()
    (run,) = [span for span in exporter.get_finished_spans() if span.name == "isolane.run"]
    assert run.parent is None
