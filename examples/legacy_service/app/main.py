"""The routes."""

import uuid
from dataclasses import dataclass

from fastapi import FastAPI, HTTPException, Response, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field

from .current_user import CurrentUserMiddleware, signed_in_user, token_of
from .engine import get_execution_engine
from .notes import add_note
from .rollout import gets_long_answers
from .sessions import sign_in, user_of_token
from .websocket.manager import get_websocket_manager

app = FastAPI(title="Help desk")
app.add_middleware(CurrentUserMiddleware)


@dataclass
class Answer:
    """What a run came to."""

    run_id: str
    user_id: str
    text: str


answers: dict[str, Answer] = {}


class Login(BaseModel):
    """Who signs in."""

    user_id: str = Field(min_length=1, max_length=64)


class Note(BaseModel):
    """Something to remember."""

    text: str = Field(min_length=1, max_length=2000)


class Question(BaseModel):
    """Something to be answered."""

    question: str = Field(min_length=1, max_length=2000)
    thread_id: str = "main"


@app.post("/login")
async def login(body: Login, response: Response) -> dict[str, str]:
    token = sign_in(body.user_id)
    response.set_cookie("session", token, httponly=True, samesite="lax")
    return {"token": token}


@app.post("/notes", status_code=201)
async def note(body: Note) -> dict[str, str]:
    await add_note(signed_in_user(), body.text)
    return {"status": "kept"}


@app.post("/runs")
async def run(body: Question) -> dict[str, str]:
    user_id = signed_in_user()
    run_id = f"run_{uuid.uuid4().hex}"
    text = await get_execution_engine().run(user_id, body.thread_id, run_id, body.question)
    if not gets_long_answers(user_id):
        text = text[:4000]
    while len(answers) >= 1000:
        del answers[next(iter(answers))]
    answers[run_id] = Answer(run_id, user_id, text)
    return {"run_id": run_id, "answer": text}


@app.get("/runs/{run_id}")
async def answer(run_id: str) -> dict[str, str]:
    signed_in_user()
    if run_id not in answers:
        raise HTTPException(404, "There is no such run")
    return {"run_id": run_id, "answer": answers[run_id].text}


@app.websocket("/ws")
async def events(websocket: WebSocket) -> None:
    user_id = user_of_token(token_of(websocket))
    if user_id is None:
        await websocket.close(4401)
        return
    await websocket.accept()
    manager = get_websocket_manager()
    manager.add_connection(user_id, websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        manager.remove_connection(user_id, websocket)
