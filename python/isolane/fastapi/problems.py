"""Errors as RFC 9457 problem documents. Only isolane's own exceptions are mapped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from isolane._core import (
    BudgetExceeded,
    ContextIsolationError,
    InvalidContextError,
    LimitRejected,
    MemoryLimitExceededError,
    UnifiedIDManager,
)
from isolane.agents.pipeline import PipelineOrderError
from isolane.agents.registry import UnknownAgentError
from isolane.engines.errors import (
    EngineDrainingError,
    EngineLimitError,
    LeaseLost,
    RunCancelledError,
    RunExpiredError,
    RunRolledBackError,
)
from isolane.fastapi.principal import NotAuthenticatedError
from isolane.limits import LimitTimeout
from isolane.security.authentication.errors import (
    AccessRefusedError,
    AuthInQueryForbiddenError,
    CredentialRefusedError,
    InvalidTokenError,
    MfaRequiredError,
    OriginNotAllowedError,
    RoleRequiredError,
    SignInLimitError,
    SubprotocolRefusedError,
    TokenExpiredError,
)
from isolane.security.errors import AuditUnavailableError, ResponseWithheldError, UserQuarantinedError
from isolane.security.permissions.errors import TEXTS, PermissionDeniedError
from isolane.security.queries import ForeignQueryError
from isolane.tools.errors import (
    ToolDispatcherClosedError,
    ToolDispatchError,
    ToolExecutionError,
    ToolLimitError,
    ToolNotFoundError,
    ToolParameterError,
    ToolSanitizeError,
    ToolTimeoutError,
)

logger = logging.getLogger("isolane.fastapi")

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is told to the client. ``detail`` is safe to show."""

    status: int
    code: str
    detail: str
    retry_after: int | None = None
    close_code: int = 4500

    def response(self, correlation_id: str) -> JSONResponse:
        """Make the response."""
        body: dict[str, Any] = {
            "type": f"about:blank#{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": f"urn:isolane:req:{correlation_id}",
            "code": self.code,
            "correlation_id": correlation_id,
            "retriable": self.retry_after is not None,
        }
        headers = {}
        if self.retry_after is not None:
            body["retry_after_ms"] = self.retry_after * 1000
            headers["Retry-After"] = str(self.retry_after)
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(body, self.status, headers, media_type=MEDIA_TYPE)


def _limit(error: Any, code: str) -> Problem:
    if error.limit == "global":
        return Problem(503, "overloaded", "The service is at its limit; try again later", error.retry_after, 4029)
    detail = f"Too many runs at once; try again in {error.retry_after} s"
    return Problem(429, code, detail, error.retry_after, 4029)


def _budget(error: BudgetExceeded) -> Problem:
    if error.scope == "process":
        return Problem(503, "overloaded", "The service is at its limit; try again later", 5, 4029)
    return Problem(429, "event_budget", "Too many events; end a run and try again", 5, 4029)


def _memory(error: MemoryLimitExceededError) -> Problem:
    if error.limit == "global":
        return Problem(503, "overloaded", "The service is at its limit; try again later", error.retry_after, 4029)
    detail = f"Too much data is held for your runs; end one and try again in {error.retry_after} s"
    return Problem(429, "memory_limit", detail, error.retry_after, 4029)


def _expired(error: RunExpiredError) -> Problem:
    # No limit refused it: the work was begun, and its time ran out. Other 503s say that nothing was done.
    detail = f"The run took too long and was ended; ask for less, or try again in {error.retry_after} s"
    return Problem(504, "run_expired", detail, error.retry_after, 4029)


def _invalid(error: InvalidContextError) -> Problem:
    # Without the advice, which is for whoever runs the service.
    return Problem(400, "invalid_context", str(error).removesuffix(f". {error.fix}"))


def _not_found(error: Any) -> Problem:
    # Outward there is nothing to see; the operator's log and counters have it.
    logger.error("isolation violation at the %s boundary", error.boundary)
    return Problem(404, "not_found", "Not found", close_code=4503)


def _denied(error: PermissionDeniedError) -> Problem:
    code = error.code if error.code in TEXTS else "permission_denied"
    retry_after = 5 if error.status_code == HTTPStatus.SERVICE_UNAVAILABLE else None
    return Problem(error.status_code, code, str(error).capitalize(), retry_after, 4029 if retry_after else 4503)


def _access(error: AccessRefusedError) -> Problem:
    return Problem(error.status_code, error.code, str(error), getattr(error, "retry_after", None), error.close_code)


def _tool(detail: str) -> Callable[[ToolDispatchError], Problem]:
    # The texts of the exceptions advise whoever wrote the service.
    return lambda error: Problem(error.status_code, error.code, detail)


def _tool_broken(detail: str) -> Callable[[ToolDispatchError], Problem]:
    def told(error: ToolDispatchError) -> Problem:
        # Unhandled it would have been in the operator's log as well, with what the tool raised.
        logger.error("a call of tool %s failed", error.tool_name, exc_info=error)
        return Problem(error.status_code, error.code, detail)

    return told


def _tool_parameters(error: ToolParameterError) -> Problem:
    # Where, and not what a tool's own checks say of it: their texts may have the value.
    where = ", ".join(sorted({problem.path[:64] or "all of them" for problem in error.problems})[:8])
    return Problem(error.status_code, error.code, f"The tool does not take these parameters: {where}")


def _tool_limit(error: ToolLimitError) -> Problem:
    retry_after = max(1, error.retry_after)
    detail = f"Too many tool calls at once; try again in {retry_after} s"
    return Problem(error.status_code, error.code, detail, retry_after, 4029)


PROBLEMS: dict[type[Exception], Callable[[Any], Problem]] = {
    InvalidContextError: _invalid,
    NotAuthenticatedError: lambda _: Problem(401, "unauthenticated", "Sign in first", close_code=4501),
    **dict.fromkeys(
        (
            AccessRefusedError,
            InvalidTokenError,
            TokenExpiredError,
            AuthInQueryForbiddenError,
            CredentialRefusedError,
            OriginNotAllowedError,
            SubprotocolRefusedError,
            RoleRequiredError,
            MfaRequiredError,
            SignInLimitError,
        ),
        _access,
    ),
    ContextIsolationError: _not_found,
    ResponseWithheldError: lambda error: Problem(500, error.code, "The response was withheld", close_code=4503),
    PermissionDeniedError: _denied,
    # Which table was asked for without a condition is for whoever runs the service.
    ForeignQueryError: lambda _: Problem(403, "forbidden", "Not allowed", close_code=4503),
    AuditUnavailableError: lambda _: Problem(503, "unavailable", "The service cannot do this now", 5, 4029),
    UserQuarantinedError: lambda error: Problem(403, error.code, "No run can be started", close_code=4503),
    EngineDrainingError: lambda error: Problem(503, "draining", str(error), error.retry_after, 4001),
    EngineLimitError: lambda error: _limit(error, "engine_limit"),
    RunCancelledError: lambda _: Problem(409, "run_cancelled", "The run was cancelled"),
    RunExpiredError: _expired,
    RunRolledBackError: lambda error: Problem(
        503,
        "rolled_back",
        "The run was ended because the service went back a version; try again",
        error.retry_after,
        4029,
    ),
    LeaseLost: lambda error: Problem(
        503, "lease_lost", "The run was ended because its worker lost its place; try again", error.retry_after, 4029
    ),
    LimitRejected: lambda error: _limit(error, "queue_full"),
    LimitTimeout: lambda error: _limit(error, "rate_limit"),
    BudgetExceeded: _budget,
    MemoryLimitExceededError: _memory,
    UnknownAgentError: lambda _: Problem(400, "unknown_agent", "There is no such agent"),
    PipelineOrderError: lambda error: Problem(400, "invalid_pipeline", str(error)),
    ToolDispatchError: _tool_broken("The tool could not be called"),
    ToolNotFoundError: _tool("There is no such tool"),
    ToolParameterError: _tool_parameters,
    ToolLimitError: _tool_limit,
    ToolTimeoutError: _tool("The tool took too long"),
    ToolExecutionError: _tool_broken("The tool failed"),
    ToolSanitizeError: _tool_broken("What the tool was given or returned may not pass"),
    ToolDispatcherClosedError: _tool("The request of this tool call is over"),
}
"""What a client is told of each of isolane's exceptions."""


def problem_of(error: Exception) -> Problem:
    """Return what a client is told of one of isolane's exceptions."""
    return PROBLEMS[next(kind for kind in type(error).__mro__ if kind in PROBLEMS)](error)


def correlation_of(conn: HTTPConnection) -> str:
    """Return the id under which an answer is found in logs: the caller's, or a new one."""
    return (conn.headers.get("x-request-id") or UnifiedIDManager.generate_request_id())[:128]


async def handle(conn: HTTPConnection, error: Exception) -> Response | None:
    """Answer an exception of isolane: a problem document, or a close code on a socket."""
    problem = problem_of(error)
    if isinstance(conn, WebSocket):
        await conn.close(problem.close_code, problem.code)
        return None
    return problem.response(correlation_of(conn))


def register(app: Starlette) -> None:
    """Register the handlers. The application's own stay as they are."""
    handler: Callable[..., Any] = handle
    for error in PROBLEMS:
        if error not in app.exception_handlers:
            app.add_exception_handler(error, handler)
