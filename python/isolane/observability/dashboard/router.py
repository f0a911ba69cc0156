"""``dashboard_router``: the routes of the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException
from fastapi.params import Depends as DependsMarker
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from isolane.fastapi.application import Isolane
from isolane.fastapi.scope import STATE_KEY, request_scope
from isolane.observability.dashboard import assets
from isolane.observability.dashboard.access import (
    CSRF_HEADER,
    AuthorizeAction,
    CsrfTokens,
    Permission,
    Viewer,
    check_origin,
    loopback_only,
    number_of,
    viewer_of,
)
from isolane.observability.dashboard.actions import MAX_REASON, Actions, Command
from isolane.observability.dashboard.parts import to_json
from isolane.observability.dashboard.stream import Board

logger = logging.getLogger("isolane.dashboard")

MAX_USERS = 1_000
MAX_RUNS = 10_000
MAX_TEXT = 200
MAX_BODY = 16 * 1024
STREAM, SESSION = "stream", "session.json"


Do = Callable[[Actions, Command], Awaitable[dict[str, Any]]]


def dashboard_router(
    isolane: Isolane | None = None,
    *,
    auth: Any = None,
    actions: bool = False,
    authorize_action: AuthorizeAction | None = None,
    reveal: bool = False,
    allow_anonymous_loopback: bool = False,
    prefix: str = "/dashboard",
) -> APIRouter:
    """Make the dashboard of an application: ``app.include_router(dashboard_router(auth=Depends(operator)))``.

    Args:
        isolane: what ``setup`` returned. Default: that of the application which the router is included in.
        auth: the dependency that says who looks, as ``Depends(...)``. Whatever it answers but ``None`` may look at
            all of it; it raises, or answers ``None``, for everybody else.
        actions: whether flags can be rolled back and the audit log verified. Default: nothing can be done.
        authorize_action: asked with who looks, ``rollback``, ``verify`` or ``reveal``, and what it is done to, before
            anything is done; and with ``None`` for that, whether it is offered. Anything but ``True`` is a no.
        reveal: whether the ids of users can be asked for, one by one. Default: users are hashes.
        allow_anonymous_loopback: in place of ``auth``: let in who is on this machine and comes through no proxy.
        prefix: where it is. Default: ``/dashboard``.

    Each action is recorded in the audit log of the application before it is done, and not done when it cannot be.

    Raises:
        TypeError: there is no ``auth``, both it and ``allow_anonymous_loopback``, or something can be done and
            ``authorize_action`` is missing.
        ValueError: the prefix is none.
    """
    _refuse_misuse(auth, allow_anonymous_loopback=allow_anonymous_loopback, prefix=prefix)
    if (actions or reveal) and not callable(authorize_action):
        raise TypeError(
            "actions=True and reveal=True need authorize_action=: a function of who looks, the action and its target, "
            "which answers True for those who may; without it everybody who may look could roll back"
        )
    if allow_anonymous_loopback:
        auth = Depends(loopback_only)
    elif not isinstance(auth, DependsMarker):
        auth = Depends(auth)
    mount = _Mount(isolane, Permission(authorize_action), actions=actions, reveal=reveal)
    router = APIRouter(prefix=prefix.rstrip("/"), lifespan=mount.lifespan, include_in_schema=False)

    def viewer(principal: Any = auth) -> Viewer:
        return viewer_of(principal)

    who = Depends(viewer)
    _add_page(router, mount, who)
    _add_overview(router, mount, who)
    _add_lists(router, mount, who)
    if actions:
        _add_action(router, mount, who, "rollback", "flag", Actions.rollback)
        _add_action(router, mount, who, "verify", None, Actions.verify)
    if reveal:
        _add_action(router, mount, who, "reveal", "user", Actions.reveal)
    return router


def _refuse_misuse(auth: Any, *, allow_anonymous_loopback: bool, prefix: str) -> None:
    if auth is None and not allow_anonymous_loopback:
        raise TypeError(
            "dashboard_router needs auth=: a dependency that says who looks, such as auth=Depends(operator); on your "
            "own machine allow_anonymous_loopback=True lets you in without"
        )
    if auth is not None and allow_anonymous_loopback:
        raise TypeError("pass auth= or allow_anonymous_loopback=True, not both: it would not be clear who is asked")
    if auth is not None and not (isinstance(auth, DependsMarker) or callable(auth)):
        raise TypeError(f"auth= takes Depends(...) or a dependency, got {type(auth).__name__}")
    if not prefix.startswith("/"):
        raise ValueError(f"prefix must begin with a slash, as in /dashboard; got {prefix!r}")


class _Mount:
    """One dashboard in one application."""

    def __init__(self, isolane: Isolane | None, permission: Permission, *, actions: bool, reveal: bool) -> None:
        self.permission = permission
        self.csrf = CsrfTokens()
        self._isolane = isolane
        self._offers = {"actions": ("rollback", actions), "verify": ("verify", actions), "reveal": ("reveal", reveal)}
        # One for each application that the router is included in, which is one as a rule.
        self._boards: list[tuple[Board, Actions]] = []

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Sample from the start of the application to its end, so that the first page has a history."""
        isolane = self._isolane or getattr(getattr(app, "state", None), "isolane", None)
        if isinstance(isolane, Isolane):
            self._of(isolane)[0].start()
        try:
            yield
        finally:
            for held in self._boards:
                if held[0].isolane is isolane:
                    held[0].stop()
            self._boards = [held for held in self._boards if held[0].isolane is not isolane]

    def board(self, request: Request) -> Board:
        """Return what is shown. In an application that is mounted in another the first request starts it."""
        board, _ = self._asked(request)
        board.start()
        return board

    def actions(self, request: Request) -> Actions:
        """Return what can be done."""
        self.board(request)
        return self._asked(request)[1]

    def _asked(self, request: Request) -> tuple[Board, Actions]:
        return self._of(self._isolane or request_scope(request).isolane)

    def _of(self, isolane: Isolane) -> tuple[Board, Actions]:
        for held in self._boards:
            if held[0].isolane is isolane:
                return held
        board = Board(isolane)
        self._boards.append((board, Actions(isolane, board.views)))
        return self._boards[-1]

    async def permissions(self, viewer: Viewer) -> dict[str, Any]:
        """Return what somebody may do, with the token to do it."""
        held: dict[str, Any] = {
            name: is_offered and await self.permission.allows(viewer, action, None)
            for name, (action, is_offered) in self._offers.items()
        }
        return {**held, "csrf": self.csrf.token(viewer) if any(held.values()) else None}

    def names_for(self, request: Request, viewer: Viewer) -> dict[str, str]:
        """Return the users that were revealed to somebody."""
        return self.actions(request).names_for(viewer)


# -- looking -----------------------------------------------------------------------------------------------------------


def _add_page(router: APIRouter, mount: _Mount, who: Any) -> None:
    if router.prefix:

        async def without_slash(request: Request) -> Response:
            # Relative, so that it is right under any prefix that a proxy has taken off.
            name = request.url.path.rstrip("/").rpartition("/")[2]
            headers = {**assets.NOT_STORED, "Location": f"{quote(name)}/"}
            return Response(status_code=307, headers=headers)

        router.add_api_route("", without_slash, methods=["GET"])

    async def page(request: Request, viewer: Viewer = who) -> Response:
        del viewer
        mount.board(request)
        return assets.serve(request, assets.PAGE) or _missing("The page")

    async def static(request: Request, path: str, viewer: Viewer = who) -> Response:
        del viewer
        return assets.serve(request, path) or _missing("This file")

    router.add_api_route("/", page, methods=["GET"])
    router.add_api_route("/static/{path:path}", static, methods=["GET"])


def _add_overview(router: APIRouter, mount: _Mount, who: Any) -> None:
    async def session(viewer: Viewer = who) -> Response:
        return _json(to_json({"permissions": await mount.permissions(viewer)}))

    async def snapshot(request: Request, viewer: Viewer = who) -> Response:
        return _json(mount.board(request).overview(await mount.permissions(viewer)))

    async def stream(request: Request, viewer: Viewer = who) -> Response:
        board = mount.board(request)
        if board.is_full:
            raise HTTPException(503, "Too many dashboards are open", {**assets.NOT_STORED, "Retry-After": "5"})
        body = board.stream(await mount.permissions(viewer), lambda: _permissions_now(request))
        headers = {**assets.NOT_STORED, "X-Accel-Buffering": "no"}
        return StreamingResponse(body, media_type="text/event-stream", headers=headers)

    router.add_api_route(f"/{SESSION}", session, methods=["GET"])
    router.add_api_route("/snapshot.json", snapshot, methods=["GET"])
    router.add_api_route(f"/{STREAM}", stream, methods=["GET"])


def _add_lists(router: APIRouter, mount: _Mount, who: Any) -> None:
    async def users(request: Request, viewer: Viewer = who) -> Response:
        query = request.query_params
        limit = number_of(request, "limit", 100, MAX_USERS)
        names = mount.names_for(request, viewer)
        with _refusing():
            text = mount.board(request).views.users(query.get("sort", "bytes"), limit, _text(query.get("q")), names)
        return _json(text)

    async def runs(request: Request, viewer: Viewer = who) -> Response:
        del viewer
        query = request.query_params
        limit = number_of(request, "limit", 200, MAX_RUNS)
        with _refusing():
            text = mount.board(request).views.runs(
                query.get("state", "all"), _text(query.get("user")), limit, _text(query.get("q"))
            )
        return _json(text)

    async def run(request: Request, run_id: str, viewer: Viewer = who) -> Response:
        del viewer
        text = mount.board(request).views.run(run_id)
        return _missing("This run") if text is None else _json(text)

    def of(view: Callable[[Board], Mapping[str, Any]]) -> Any:
        async def answer(request: Request, viewer: Viewer = who) -> Response:
            del viewer
            return _json(to_json(view(mount.board(request))))

        return answer

    routes: dict[str, Any] = {
        "users.json": users,
        "runs.json": runs,
        "runs/{run_id:path}.json": run,
        "rollout.json": of(lambda board: board.views.rollout()),
        "isolation.json": of(lambda board: board.views.isolation()),
        "audit.json": of(lambda board: board.views.audit()),
        "alerts.json": of(lambda board: board.views.alerts()),
    }
    for path, route in routes.items():
        router.add_api_route(f"/{path}", route, methods=["GET"])


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise HTTPException(422, str(error), assets.NOT_STORED) from None


def _text(value: str | None) -> str:
    return (value or "").strip()[:MAX_TEXT]


def _json(text: str) -> Response:
    return Response(text, headers=assets.NOT_STORED, media_type="application/json")


def _missing(what: str) -> Response:
    return Response(
        json.dumps({"detail": f"{what} is not here"}), 404, headers=assets.NOT_STORED, media_type="application/json"
    )


async def _permissions_now(request: Request) -> dict[str, Any] | None:
    """Ask the application again who an open stream is of, by a request of its own within the process.

    So everything is asked that a new request would meet: the dependency with all that it depends on, and middleware.
    Whatever is not a plain yes is a no.
    """
    scope = request.scope
    kept = ("type", "asgi", "http_version", "scheme", "root_path", "headers", "client", "server")
    path = scope["path"].removesuffix(STREAM) + SESSION
    again = {name: scope[name] for name in kept if name in scope} | {
        "method": "GET",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": scope.get("query_string", b""),
        "state": {name: value for name, value in scope.get("state", {}).items() if name != STATE_KEY},
        "extensions": {},
    }
    status, body, asked = 0, b"", False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status, body
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")

    try:
        await scope["app"](again, receive, send)
        permissions = json.loads(body)["permissions"] if status == 200 else None  # noqa: PLR2004 - a plain yes
    except Exception:
        logger.exception("it could not be asked again who watches the dashboard; the stream ends")
        return None
    return permissions if isinstance(permissions, dict) else None


# -- doing -------------------------------------------------------------------------------------------------------------


def _add_action(router: APIRouter, mount: _Mount, who: Any, action: str, target_name: str | None, do: Do) -> None:
    async def act(request: Request, viewer: Viewer = who) -> Response:
        actions = mount.actions(request)

        def refuse(status: int, why: str) -> HTTPException:
            actions.refuse(Command(viewer, action, None), why)
            return HTTPException(status, why, assets.NOT_STORED)

        try:
            check_origin(request)
        except HTTPException as error:
            raise refuse(403, str(error.detail)) from None
        if not mount.csrf.is_valid(viewer, request.headers.get(CSRF_HEADER, "")):
            raise refuse(403, f"{CSRF_HEADER} is missing or no longer counts: load the page again")
        body = await _body(request)
        target = None if target_name is None else body.get(target_name)
        if target_name is not None and not _is_name(target):
            raise HTTPException(422, f"{target_name} must be a text", assets.NOT_STORED)
        reason = body.get("reason", "")
        if not _is_text(reason):
            raise HTTPException(422, "reason must be a text", assets.NOT_STORED)
        command = Command(viewer, action, target, reason.strip()[:MAX_REASON])
        if not await mount.permission.allows(viewer, action, target):
            why = "You may not do this here"
            actions.refuse(command, why)
            raise HTTPException(403, why, assets.NOT_STORED)
        return _json(to_json(await do(actions, command)))

    router.add_api_route(f"/actions/{action}", act, methods=["POST"])


def _is_text(value: Any) -> bool:
    # JSON may hold halves of characters, which no log takes.
    return isinstance(value, str) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


async def _body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send JSON", assets.NOT_STORED)
    text = b""
    async for part in request.stream():
        text += part
        if len(text) > MAX_BODY:
            raise HTTPException(413, f"At most {MAX_BODY} bytes are read", assets.NOT_STORED)
    try:
        body = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise HTTPException(422, "Send a JSON object", assets.NOT_STORED)
    return body
