"""Refusals as `application/problem+json`, in the shape that isolane answers with."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse, Response

from examples.optimizer.parsing import LogError

_PROBLEM_JSON = "application/problem+json"


class ProblemError(Exception):
    """A refusal with a message for the user."""

    def __init__(self, status: HTTPStatus, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


def not_found(what: str) -> ProblemError:
    """The same answer for what does not exist and for what belongs to somebody else."""
    return ProblemError(HTTPStatus.NOT_FOUND, "not_found", f"You have no such {what}.")


def install_problem_handlers(app: FastAPI) -> None:
    """Answer the example's errors as problem documents."""

    @app.exception_handler(ProblemError)
    async def refused(_request: Request, problem: ProblemError) -> Response:
        return _answer(problem.status, problem.code, problem.detail)

    @app.exception_handler(LogError)
    async def unreadable(_request: Request, error: LogError) -> Response:
        return _answer(HTTPStatus.UNPROCESSABLE_ENTITY, "unreadable_log", str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return _answer(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", f"{place}: {first['msg']}.")


def _answer(status: HTTPStatus, code: str, detail: str) -> Response:
    document = {"title": status.phrase, "status": status.value, "detail": detail, "code": code, "retriable": False}
    headers = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(document, status.value, headers, _PROBLEM_JSON)
