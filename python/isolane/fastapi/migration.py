"""``GET /migration``: what still makes legacy calls, for those who may see where."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse

from isolane.fastapi.dependencies import get_principal


def migration_router(*, authorize: Callable[..., Any], path: str = "/migration") -> APIRouter:
    """Makes a router with one route, which shows the legacy calls of all workers, or of this one if none are kept.

    The answer names files and lines of the application and nobody's data. It is for whoever runs the service: somebody
    must be signed in, and `authorize` must let them pass.

    Args:
        authorize: A dependency that raises for those who may not see it, such as ``require_roles("operator")``.
        path: Where it is.

    Raises:
        TypeError: `authorize` is no function.
    """
    if not callable(authorize):
        raise TypeError('authorize is a dependency that raises for strangers, such as require_roles("operator")')
    # An application without legacy ways does not load what counts them.
    from isolane.migration.deprecation.folder import LedgerReading  # noqa: PLC0415
    from isolane.migration.deprecation.keeping import KEEPER  # noqa: PLC0415
    from isolane.migration.deprecation.ledger import LEDGER  # noqa: PLC0415
    from isolane.migration.deprecation.status import reading_dict  # noqa: PLC0415

    # Who is signed in is asked first, whatever `authorize` asks for.
    router = APIRouter(dependencies=[Depends(get_principal), Depends(authorize)], tags=["isolane"])

    @router.get(path, response_class=JSONResponse, summary="Legacy calls", include_in_schema=False)
    async def migration(request: Request) -> JSONResponse:
        kept = KEEPER.current()
        shared = getattr(getattr(request.app.state, "isolane", None), "shared", None)
        if shared is not None:
            reading = await shared.ledger.reading()
        elif kept is None:
            reading = LedgerReading.of(LEDGER.book(), files=0)
        else:
            folder, name = kept
            reading = await asyncio.to_thread(folder.read, (name, LEDGER.book()))
        document = {
            "schema": 1,
            "workers": "this one" if kept is None and shared is None else "all",
            **reading_dict(reading),
        }
        return JSONResponse(document, headers={"Cache-Control": "no-store"})

    return router
