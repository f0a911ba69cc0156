"""The application: isolane set up over FastAPI, the routes, and the page."""

import asyncio
import gc
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI
from isolane import UserExecutionContext
from isolane.fastapi import IsolaneSettings, Principal, setup
from isolane.observability.dashboard import dashboard_router
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from examples.optimizer.agents import build_registry
from examples.optimizer.api import operators, runs, samples, sign_in, uploads, workers
from examples.optimizer.api.operators import DASHBOARD, get_operator, operators_may
from examples.optimizer.api.problems import install_problem_handlers
from examples.optimizer.api.services import Mode, Services
from examples.optimizer.api.workers import note_socket
from examples.optimizer.auth import Tokens
from examples.optimizer.legacy import LegacyEngine
from examples.optimizer.operations import PROBE_SECONDS, open_operations
from examples.optimizer.page_headers import PageHeaders
from examples.optimizer.pricing import load_price_table
from examples.optimizer.storage import UserDatabases

_PACKAGE = Path(__file__).parent
_CLIENT = _PACKAGE.parents[1] / "clients" / "js" / "isolane-client.js"
_MAX_UPLOAD_BYTES = 64 * 1024 * 1024


def create_app(
    *,
    data_dir: Path | None = None,
    legacy: bool = False,
    max_upload_bytes: int = _MAX_UPLOAD_BYTES,
    shared: bool = False,
) -> FastAPI:
    """The example as an ASGI application. Without `data_dir` everything lies in a temporary one and goes with it.

    `shared` is for one worker of several that have a `data_dir` together, and a Redis: `ISOLANE_REDIS_URL`.
    """
    cleanup = ExitStack()
    root = data_dir or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="isolane-optimizer-")))
    databases = UserDatabases(root)
    operations = open_operations(root / "operations", cleanup, keeps=data_dir is not None, shared=shared)
    tokens = Tokens(root / "operations" / "tokens.key" if shared else None)
    services = Services(
        databases=databases,
        tokens=tokens,
        legacy_engine=LegacyEngine(databases),
        operations=operations,
        max_upload_bytes=max_upload_bytes,
        mode=Mode.LEGACY if legacy else Mode.ISOLATED,
        worker=str(os.getpid()) if shared else None,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with cleanup:
            await services.legacy_engine.prepare()
            await asyncio.to_thread(load_price_table)
            # The table stays as long as the process: a full collection that walks it holds the loop for some 80 ms.
            gc.collect()
            gc.freeze()
            try:
                yield
            finally:
                await services.close()

    # FastAPI's documentation pages load from a CDN; this application serves nothing that does.
    app = FastAPI(title="isolane optimizer", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.optimizer = services

    def make_session(context: UserExecutionContext) -> AsyncSession:
        return databases.session(context.user_id)

    async def authenticate(connection: HTTPConnection) -> Principal | None:
        principal = await tokens.authenticate(connection)
        await note_socket(services, connection, principal)
        return principal

    isolane = setup(
        app,
        # A page that is left open finds its way back whenever the server does.
        # The page signs out when a socket is refused: for that it has to see the close code.
        settings=IsolaneSettings(websocket_max_reconnect_attempts=0, websocket_accept_then_close=True),
        authenticate=authenticate,
        registry=build_registry(),
        session_factory=make_session,
        audit=operations.audit,
        contamination=operations.detector,
        probe_seconds=PROBE_SECONDS,
        rollout=operations.flags,
        guard=operations.guard,
        alerts=operations.alerts,
        metrics=True,
        metrics_authorize=get_operator,
    )
    dashboard = dashboard_router(
        isolane,
        auth=Depends(get_operator),
        actions=True,
        reveal=True,
        authorize_action=operators_may,
        prefix=DASHBOARD,
    )
    app.include_router(dashboard)
    install_problem_handlers(app)
    for routes in (sign_in, uploads, runs, samples, operators, workers):
        app.include_router(routes.router)

    @app.get("/isolane-client.js", include_in_schema=False)
    async def client_module() -> FileResponse:
        return FileResponse(_CLIENT, media_type="text/javascript")

    app.mount("/sample", StaticFiles(directory=_PACKAGE / "sample"))
    app.mount("/", StaticFiles(directory=_PACKAGE / "static", html=True))

    app.add_middleware(PageHeaders)
    return app
