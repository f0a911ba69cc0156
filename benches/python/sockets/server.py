"""`python -m benches.python.sockets.server`: prints its port, then what each measurement took, one a line.

A measurement begins when its socket has been handed to the application, or with the client's "go" where events are
published while they are read. It ends with the client's "done", which says that all of them were read. The clocks are
read there and nowhere else: no side has anything of the measurement between its messages.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI, WebSocket
from isolane import UserContextFactory, UserExecutionContext
from isolane._core import EventCursor
from isolane.fastapi import IsolaneSettings, Principal, setup
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benches.python.cases.data import PAYLOAD
from benches.python.peers.queue_emitter import counted_ids
from benches.python.peers.sockets import LiveQueueEmitter, send_constant
from benches.python.processes import stay_on
from benches.python.sockets.shape import BURST, DONE, EVENTS, GO, MESSAGES, RUNS, Shape, Way

PUBLISHED_BEFORE = 1
"""The first event of each run: its log exists, and the client waits for it before it says "go"."""


@dataclass(eq=False)
class Measurement:
    """One socket's: what is published on it, and since when it is measured."""

    shape: Shape
    emitters: list[Any] = field(default_factory=list)
    contexts: list[UserExecutionContext] = field(default_factory=list)
    producer: asyncio.Task[None] | None = None
    since: float = 0.0
    spent: float = 0.0

    def go(self) -> None:
        self.since, self.spent = time.perf_counter(), time.thread_time()
        if self.emitters and self.shape is not Shape.DRAIN:
            events = MESSAGES // len(self.emitters)
            self.producer = asyncio.create_task(produce(self.emitters, events, self.shape))

    def done(self) -> None:
        spent = {"wall": time.perf_counter() - self.since, "processor": time.thread_time() - self.spent}
        print(json.dumps(spent), flush=True)

    async def publish_first(self, bridge: Any, user: str) -> None:
        """The user's runs: with all their events when they are to be drained, else with the first one each."""
        events = EVENTS if self.shape is Shape.DRAIN else PUBLISHED_BEFORE
        for _ in range(RUNS):
            context = UserContextFactory.create_context(user)
            emitter = await bridge.create_user_emitter(user, context)
            for _ in range(events):
                emitter.publish("agent_progress", PAYLOAD)
            self.contexts.append(context)
            self.emitters.append(emitter)

    async def end(self) -> None:
        if self.producer is not None:
            await self.producer
        for emitter, context in zip(self.emitters, self.contexts, strict=False):
            await emitter.cleanup()
            await context.cleanup()


async def produce(emitters: list[Any], events: int, shape: Shape) -> None:
    """Publish in the loop that also writes: what an agent does."""
    burst = BURST if shape is Shape.BURSTS else 1
    for emitter in emitters:
        for first in range(0, events, burst):
            for _ in range(min(burst, events - first)):
                emitter.publish("agent_progress", PAYLOAD)
            await asyncio.sleep(0)


class Measuring:
    """Around the application: reads what the client says, and never what is sent."""

    def __init__(self, app: ASGIApp, bridge: Callable[[], Any]) -> None:
        self.app = app
        self.bridge = bridge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        query = parse_qs(scope["query_string"].decode())
        measurement = Measurement(Shape(query["shape"][0]))
        match query["way"][0]:
            case Way.ISOLANE | Way.FRAMES:
                await measurement.publish_first(self.bridge(), query["user"][0])
            case Way.QUEUE:
                measurement.emitters.append(LiveQueueEmitter(counted_ids()))
        scope["state"]["measurement"] = measurement

        async def listening() -> Message:
            message = await receive()
            text = message.get("text")
            if text == GO:
                measurement.go()
            elif text == DONE:
                measurement.done()
            return message

        if measurement.shape is Shape.DRAIN:
            measurement.go()
        try:
            await self.app(scope, listening, send)
        finally:
            await measurement.end()


def authenticate(conn: HTTPConnection) -> Principal:
    return Principal(user_id=conn.query_params["user"])


async def message_text(bridge: Any) -> str:
    """One of isolane's messages: what the bare loop sends."""
    context = UserContextFactory.create_context("user-text")
    emitter = await bridge.create_user_emitter("user-text", context)
    cursor = EventCursor("user-text", framed=False)
    emitter.publish("agent_progress", PAYLOAD)
    cursor.subscribe(context.run_id)
    [text] = cursor.read()
    cursor.detach()
    await emitter.cleanup()
    await context.cleanup()
    return text


def build() -> ASGIApp:
    """The application: isolane's route as every service has it, and the peers' routes beside it."""
    app = FastAPI()
    # Logs of a measurement that is over make room for the next one.
    isolane = setup(app, IsolaneSettings(retention_seconds=0), authenticate)
    texts: list[str] = []

    async def text() -> str:
        if not texts:
            texts.append(await message_text(isolane.bridge))
        return texts[0]

    def route(path: Way, send: Callable[[WebSocket, Measurement], Awaitable[None]]) -> None:
        @app.websocket(f"/{path}")
        async def serve(websocket: WebSocket) -> None:
            measurement: Measurement = websocket.scope["state"]["measurement"]
            await websocket.accept()
            if measurement.shape is not Shape.DRAIN:
                await websocket.receive_text()
            await send(websocket, measurement)
            await websocket.receive_text()
            await websocket.close()

    async def bare(websocket: WebSocket, measurement: Measurement) -> None:
        await send_constant(websocket, await text(), MESSAGES, turns=measurement.shape is Shape.SINGLE)

    async def queue(websocket: WebSocket, measurement: Measurement) -> None:
        await measurement.emitters[0].write(websocket, MESSAGES)

    route(Way.BARE, bare)
    route(Way.QUEUE, queue)
    return Measuring(app, lambda: isolane.bridge)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.python.sockets.server", description=__doc__)
    parser.add_argument("--core", type=int, help="run on this core only")
    options = parser.parse_args()
    stay_on(options.core)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(build(), log_level="error", lifespan="on")
    print(listener.getsockname()[1], flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run([listener])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
