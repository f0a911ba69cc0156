"""The route that a Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from isolane.observability.metrics import CONTENT_TYPES, content_type, render

DEFAULT_PATH = "/metrics"


async def _scrape(request: Request) -> Response:
    """Answer with all that this process, or with a plane all workers, have measured, as ``Accept`` asks for."""
    form = content_type(request.headers.get("accept"))
    headers = {"Cache-Control": "no-store", "Vary": "Accept", "Content-Type": CONTENT_TYPES[form]}
    application = request.scope.get("app")
    isolane = getattr(application.state, "isolane", None) if application is not None else None
    shared = getattr(isolane, "shared", None)
    text = render(form) if shared is None or shared.metrics is None else await shared.metrics.render(form)
    return Response(text, headers=headers)


def add_metrics_route(app: FastAPI, path: str, authorize: Callable[..., Any] | None) -> None:
    """Add the route.

    Args:
        app: the application.
        path: where.
        authorize: a dependency that raises for who may not read it, such as ``require_roles("operator")``. Without one
            everybody may who reaches the route: it says nothing of users, but much of the service.
    """
    app.add_api_route(
        path,
        _scrape,
        methods=["GET", "HEAD"],
        include_in_schema=False,
        response_class=Response,
        dependencies=[] if authorize is None else [Depends(authorize)],
        name="isolane_metrics",
    )
