"""A small service that keeps its users apart, and can be told to have one fault: by CONTROL_FAULT, or while it runs.

The tests show that the suite reports each fault, and has nothing to say without one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket as sockets
import uuid
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

FAULT = os.environ.get("CONTROL_FAULT", "")
SLOW_SECONDS = 0.9

app = FastAPI()
tokens: dict[str, str] = {}
answers: dict[str, tuple[str, str]] = {}
connections: dict[str, list[WebSocket]] = {}
latest: dict[str, str] = {"note": "", "run": "", "user": ""}
kept: list[Any] = []
running = 0
lame = ""


@app.post("/fault/{name}")
async def have(name: str) -> None:
    """Have a fault from now on, or `none`, and forget all that was."""
    global FAULT, running, lame
    FAULT, running, lame = name, 0, ""
    for table in (tokens, answers, kept):
        table.clear()
    latest.update(note="", run="", user="")


def user_of(connection: Request | WebSocket) -> str | None:
    token = connection.headers.get("authorization", "").removeprefix("Bearer ")
    if FAULT == "query_token":
        token = token or connection.query_params.get("token", "")
    if FAULT == "any_token" and token:
        return tokens.get(token, "somebody")
    return tokens.get(token)


def signed_in(request: Request) -> str:
    user = user_of(request)
    if user is None:
        raise HTTPException(401)
    return user


@app.post("/login")
async def login(body: dict[str, str], response: Response) -> dict[str, str]:
    token = uuid.uuid4().hex
    tokens[token] = body["user"]
    response.set_cookie("session", token, secure=True, httponly=True)
    return {"token": token}


@app.post("/runs")
async def run(body: dict[str, str], request: Request, response: Response) -> Any:
    global running, lame  # noqa: PLW0603
    user = "nobody" if FAULT == "no_sign_in" else signed_in(request)
    if FAULT == "refuses_many" and running >= 3:
        raise HTTPException(503)
    if FAULT == "fails_for_others" and lame not in {"", user}:
        lame = ""
        raise HTTPException(500)
    if FAULT == "dies":
        os._exit(3)
    running += 1
    try:
        return await work(user, body["text"], response)
    finally:
        running -= 1


async def broken_off(text: str):
    yield text.encode()
    await asyncio.sleep(0.01)
    raise OSError


async def work(user: str, text: str, response: Response) -> Any:  # noqa: PLR0915 - a line for each fault
    run_id, span, sent = f"run-{uuid.uuid4().hex}", uuid.uuid4().hex, 0
    before, latest["note"] = latest["note"], text
    text = "done" if FAULT == "forgets" and text.strip() else text
    foreign_run, foreign_user = latest["run"], latest["user"]
    latest["run"], latest["user"] = run_id, user

    async def tell(kind: str, seq: int | None = None, **payload: Any) -> None:
        nonlocal sent
        sent += 1
        at = datetime.now(UTC).isoformat()
        message = {"type": kind, "agent_name": "echo", "run_id": run_id, "request_id": span, "seq": seq or sent}
        message |= {"timestamp": at, "payload": payload}
        if FAULT == "no_payload":
            del message["payload"]
        if FAULT == "late":
            await asyncio.sleep(0.15)
        everybody = FAULT == "broadcast" or (FAULT == "broadcast_end" and kind == "agent_completed")
        for owner, there in list(connections.items()):
            if owner == user or everybody:
                for one in there:
                    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                        await one.send_json(message)

    await tell("agent_started")
    await asyncio.sleep(SLOW_SECONDS if FAULT == "slow" else 0.02)
    if not text.strip():
        global lame  # noqa: PLW0603
        lame = user
        await tell("agent_error", error=before if FAULT == "error_text" else "there is no text")
        raise HTTPException(422)
    if FAULT == "pieces" and foreign_user not in {"", user}:
        for start in range(0, len(before), 9):
            await tell("text_delta", delta=before[start : start + 9])
    if FAULT == "tokens" and foreign_user not in {"", user}:
        # As models stream their answers: neither a type nor a run.
        for start in range(0, len(before), 5):
            for one in connections.get(user, ()):
                await one.send_json({"choices": [{"delta": {"content": before[start : start + 5]}}]})
    if FAULT == "swapped":
        await tell("agent_completed", seq=3, result=text)
        await tell("agent_thinking", seq=2, thought=text)
        sent = 3
    if FAULT == "lost_number":
        sent += 1
    await tell("agent_thinking", thought=text)
    if FAULT != "no_end":
        await tell("agent_completed", result=text)
    if FAULT == "two_ends":
        await tell("agent_completed", result=text)
    if FAULT == "after_end":
        await tell("agent_thinking", thought="one more")
    if FAULT == "keeps_sockets":
        kept.extend(sockets.socketpair() for _ in range(3))
    if FAULT == "grows":
        kept.append(bytearray(os.urandom(1024) * 20 * 1024))
    answers[run_id] = (user, text)
    if FAULT == "header":
        response.headers["X-Latest"] = base64.b64encode(before.encode()).decode()
    answer: dict[str, Any] = {"run_id": run_id, "result": text}
    if FAULT == "body" and foreign_user not in {"", user}:
        answer["related"] = [{"note": before}]
    if FAULT == "chunks" and foreign_user not in {"", user}:
        answer["chunks"] = [before[start : start + 7] for start in range(0, len(before), 7)]
    if FAULT == "breaks_off" and foreign_user not in {"", user}:
        return StreamingResponse(broken_off(before), headers={"Content-Length": "9999"})
    if FAULT == "run_id":
        answer["previous"] = foreign_run
    return answer


@app.post("/streamed-runs")
async def streamed_run(body: dict[str, str], request: Request) -> StreamingResponse:
    """A run whose answer is an event stream, by a cookie that is for https alone."""
    user = tokens.get(request.cookies.get("session", ""))
    if user is None:
        raise HTTPException(401)
    run_id = f"run-{uuid.uuid4().hex}"
    before, latest["note"] = latest["note"], body["text"]
    answers[run_id] = (user, body["text"])

    async def events():
        yield f'event: begin\ndata: {{"run_id": "{run_id}"}}\n\n'
        text = before if FAULT == "stream_of_tokens" and before else body["text"]
        for start in range(0, len(text), 5):
            yield f"data: {text[start : start + 5]}\r\r"
        yield f"data: the note was {body['text']}"
        while FAULT == "never_ends":
            yield ": still here\n\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/runs/{run_id}")
async def result(run_id: str, request: Request) -> dict[str, str]:
    user = signed_in(request)
    owner, text = answers.get(run_id, ("", ""))
    if owner != user and FAULT != "reads_of_others":
        raise HTTPException(404)
    return {"result": text}


@app.get("/held")
async def held() -> dict[str, int]:
    extra = len(answers) if FAULT == "keeps_engines" else 0
    return {"connections": sum(map(len, connections.values())), "runs": running + extra}


@app.websocket("/ws")
async def events(websocket: WebSocket) -> None:
    user = user_of(websocket)
    if user is None and FAULT != "open_socket":
        await websocket.close(4401)
        return
    await websocket.accept()
    there = connections.setdefault(user or "", [])
    there.append(websocket)
    try:
        others = [text for owner, text in answers.values() if owner != user]
        if FAULT == "close_reason" and others:
            # A reason has 123 bytes at most: a canary fits.
            await websocket.close(4000, others[-1].split()[-1])
            return
        async for _ in websocket.iter_text():
            pass
    except WebSocketDisconnect:
        pass
    finally:
        there.remove(websocket)


@app.get("/events")
async def stream(request: Request) -> StreamingResponse:
    """An event stream that shows what the user noted latest."""
    user = signed_in(request)

    async def body():
        shown = ""
        while True:
            own = next((text for owner, text in reversed(answers.values()) if owner == user), "")
            note = latest["note"] if FAULT == "stream" else own
            if note != shown:
                shown = note
                yield f'event: note\ndata: {{"type": "note",\ndata: "note": "{note}"}}\n\n'
            await asyncio.sleep(0.005)

    return StreamingResponse(body(), media_type="text/event-stream")
