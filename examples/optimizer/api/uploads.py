"""Uploads: streamed to the user's folder, bounded, and looked at before anything runs."""

import asyncio
import secrets
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from sqlalchemy import select
from starlette.requests import ClientDisconnect

from examples.optimizer.api.problems import ProblemError
from examples.optimizer.api.services import Services, ServicesDep, UserId
from examples.optimizer.parsing import LogError, LogLayout, Role, inspect_log
from examples.optimizer.storage import Upload, whole

router = APIRouter()

_KEPT_UPLOADS = 5
_MEBIBYTE = 1024 * 1024


class UploadAnswer(BaseModel):
    """What was recognised in a log, and what is left to ask."""

    upload_id: str
    file_name: str
    size: int
    format: str
    columns: list[str]
    samples: dict[str, list[str]]
    roles: dict[Role, str]
    missing: list[Role]


@router.post("/api/uploads", status_code=HTTPStatus.CREATED)
async def upload_log(
    request: Request,
    services: ServicesDep,
    user_id: UserId,
    name: Annotated[str, Query(min_length=1, max_length=200)],
) -> UploadAnswer:
    """Take the request's body as a log called `name`."""
    upload_id = secrets.token_hex(8)
    path = services.databases.folder(user_id) / f"{upload_id}.log"
    try:
        size = await _receive(request, path, services.max_upload_bytes)
        layout = await asyncio.to_thread(inspect_log, path)
    except (ProblemError, LogError, ClientDisconnect):
        path.unlink(missing_ok=True)
        raise
    upload = Upload(upload_id=upload_id, file_name=Path(name).name, size=size, path=str(path))
    await _remember(services, user_id, upload)
    return _answer(upload, layout)


async def _receive(request: Request, path: Path, limit: int) -> int:
    # A declared length is refused before the first byte; the count still decides, since the header may be missing.
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    size = 0
    async with await anyio.open_file(path, "wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            await file.write(chunk)
    return size


def _too_large(limit: int) -> ProblemError:
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "log_too_large",
        f"The log is larger than {limit / _MEBIBYTE:.3g} MiB. Split it by time and upload the parts one by one.",
    )


@whole
async def _remember(services: Services, user_id: str, upload: Upload) -> None:
    """Keep the newest uploads of a user and drop the older ones with their files."""
    async with services.databases.session(user_id) as session:
        session.add(upload)
        await session.flush()
        newest_first = select(Upload).order_by(Upload.created_at.desc(), Upload.upload_id)
        for old in await session.scalars(newest_first.offset(_KEPT_UPLOADS)):
            await session.delete(old)
            await anyio.Path(old.path).unlink(missing_ok=True)
        await session.commit()


def _answer(upload: Upload, layout: LogLayout) -> UploadAnswer:
    return UploadAnswer(
        upload_id=upload.upload_id,
        file_name=upload.file_name,
        size=upload.size,
        format=layout.format,
        columns=list(layout.columns),
        samples={column: list(values) for column, values in layout.samples.items()},
        roles=dict(layout.roles),
        missing=list(layout.missing),
    )
