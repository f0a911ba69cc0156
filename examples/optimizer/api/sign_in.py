"""Sign-in, and the switch between the two paths."""

import re
from http import HTTPStatus

from fastapi import APIRouter, WebSocket
from isolane import InvalidContextError, UserContextFactory
from pydantic import BaseModel

from examples.optimizer.api.problems import ProblemError
from examples.optimizer.api.services import Mode, ServicesDep, UserId
from examples.optimizer.legacy import BRIDGE

router = APIRouter()

_ANY_THREAD = "thread_of_sign_in"
_ANY_RUN = "run_of_sign_in"
_NAME = re.compile(r"[\w.@ -]{1,40}")


class SignIn(BaseModel):
    """Who wants to sign in."""

    name: str


class SignedIn(BaseModel):
    """A token, whom it is for, and how large a log may be."""

    user_id: str
    token: str
    max_upload_bytes: int


class ModeSwitch(BaseModel):
    """The path that new runs take."""

    mode: Mode


@router.post("/api/sign-in")
async def sign_in(body: SignIn, services: ServicesDep) -> SignedIn:
    """Sign in under a name; the same name is the same user, whatever its case."""
    user_id = " ".join(body.name.split()).casefold()
    if not _NAME.fullmatch(user_id):
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "bad_name",
            "A name has 1 to 40 letters, digits, spaces, dots, hyphens, underscores or @.",
        )
    try:
        # Asked at the door, so that no later layer refuses a user who has come in already.
        UserContextFactory.create_context(user_id, _ANY_THREAD, _ANY_RUN)
    except InvalidContextError as error:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "placeholder_name",
            f'"{user_id}" is a placeholder, not the name of anybody. Choose another name.',
        ) from error
    await services.databases.prepare(user_id)
    return SignedIn(user_id=user_id, token=services.tokens.issue(user_id), max_upload_bytes=services.max_upload_bytes)


@router.get("/api/mode")
async def get_mode(services: ServicesDep) -> ModeSwitch:
    """Which path new runs take."""
    return ModeSwitch(mode=services.mode)


@router.post("/api/mode")
async def set_mode(body: ModeSwitch, services: ServicesDep, _user: UserId) -> ModeSwitch:
    """Send new runs of all users down the other path; running ones finish on theirs."""
    if services.worker and body.mode is Mode.LEGACY:
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "several_workers",
            "The legacy path is one engine in one process: start the example without WORKERS to see it leak.",
        )
    services.mode = body.mode
    return body


@router.websocket("/legacy/ws")
async def legacy_events(socket: WebSocket, services: ServicesDep) -> None:
    """The legacy bridge's events. It asks who is there, and then forgets it."""
    if services.tokens.user_of(socket) is None:
        await socket.close(4501)
        return
    await socket.accept(subprotocol=socket.scope["subprotocols"][0])
    await BRIDGE.serve(socket)
