"""Where things are when several workers serve: asked of any of them, and answered for all."""

import re
from typing import Any

from fastapi import APIRouter
from isolane.fastapi import Isolane, Principal
from pydantic import BaseModel
from starlette.requests import HTTPConnection, Request

from examples.optimizer.api.problems import not_found
from examples.optimizer.api.services import Services, ServicesDep, UserId
from examples.optimizer.storage import Run, keep_socket_place, run_place, socket_place

router = APIRouter()

_PAGE = re.compile(r"[\w-]{1,64}")


class Workers(BaseModel):
    """How many workers there are, and whether they can reach what they share. Empty where one is alone."""

    count: int
    state: str | None
    answering: str | None


class Place(BaseModel):
    """The worker that has something, as far as it is known."""

    worker: str | None


async def note_socket(services: Services, connection: HTTPConnection, principal: Principal | None) -> None:
    """Write down that this worker serves the socket of the page that says its name."""
    page = connection.query_params.get("page", "")
    if services.worker and principal and connection.scope["type"] == "websocket" and _PAGE.fullmatch(page):
        async with services.databases.session(principal.user_id) as session:
            await keep_socket_place(session, page, services.worker)


@router.get("/api/workers")
async def workers(request: Request, services: ServicesDep) -> Workers:
    """The workers that were heard of in the last seconds."""
    isolane: Isolane = request.app.state.isolane
    plane: Any = isolane.plane
    if plane is None:
        return Workers(count=1, state=None, answering=None)
    return Workers(count=len(plane.processes()), state=plane.state, answering=services.worker)


@router.get("/api/sockets/{page}/worker")
async def worker_of_socket(page: str, services: ServicesDep, user_id: UserId) -> Place:
    """The worker that serves the socket of one of the user's pages."""
    async with services.databases.session(user_id) as session:
        return Place(worker=await socket_place(session, page))


@router.get("/api/runs/{run_id}/worker")
async def worker_of_run(run_id: str, services: ServicesDep, user_id: UserId) -> Place:
    """The worker that runs one of the user's runs."""
    async with services.databases.session(user_id) as session:
        if await session.get(Run, run_id) is None:
            raise not_found("run")
        return Place(worker=await run_place(session, run_id))
