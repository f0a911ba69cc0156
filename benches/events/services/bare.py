"""A FastAPI route that sends text: the least that a service can do."""

import json
from collections import defaultdict
from collections.abc import Sequence

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from benches.events.services import Emit, payload
from benches.events.services.envelope import message

MARKS = (-9_000_001, -9_000_002, -9_000_003)
"""Stand where the number and the clocks are to be, and nowhere else in the text."""


def template() -> list[str]:
    """The constant text around the number, the two clocks and the number again."""
    text = json.dumps(message(payload(*MARKS)), separators=(",", ":"))
    parts = []
    for mark in (*MARKS, MARKS[0]):
        part, _, text = text.partition(str(mark))
        parts.append(part)
    return [*parts, text]


class BareService:
    """Sends a constant text with the number and the clocks in it. Nothing is serialised."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.websocket("/ws")(self.serve)
        self.sockets: dict[str, WebSocket] = {}
        self.sent: defaultdict[str, list[str]] = defaultdict(list)
        self.parts = template()

    async def open(self, users: Sequence[str]) -> None:
        """Nothing is to be made."""

    def emit(self, user: str) -> Emit:
        before, at_key, due_key, number_key, after = self.parts
        sent = self.sent[user]

        async def emit(number: int, at: int, due: int) -> None:
            text = f"{before}{number}{at_key}{at}{due_key}{due}{number_key}{number}{after}"
            sent.append(text)
            websocket = self.sockets.get(user)
            if websocket is not None:
                await websocket.send_text(text)

        return emit

    async def serve(self, websocket: WebSocket) -> None:
        user = websocket.query_params["user"]
        await websocket.accept()
        if "after" in websocket.query_params:
            for text in self.sent[user][int(websocket.query_params["after"]) :]:
                await websocket.send_text(text)
        self.sockets[user] = websocket
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            if self.sockets.get(user) is websocket:
                del self.sockets[user]
