"""How an operator enters and leaves, and what the page asks to show its link."""

from http import HTTPStatus

from fastapi import APIRouter
from isolane.fastapi import Principal
from pydantic import BaseModel
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse

from examples.optimizer.api.problems import ProblemError
from examples.optimizer.api.services import ServicesDep, get_services
from examples.optimizer.operators import COOKIE, COOKIE_SECONDS, OPERATOR_ROLE

router = APIRouter()

DASHBOARD = "/dashboard"


class Dashboard(BaseModel):
    """Where the dashboard is, for those who may see it."""

    url: str | None


def get_operator(connection: HTTPConnection) -> Principal:
    """The operator; raises 401 for everybody else."""
    principal = get_services(connection).operations.operators.principal_of(connection)
    if principal is None:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED, "not_an_operator", "This is for operators: open the link that the server printed."
        )
    return principal


def operators_may(principal: Principal, _action: str, _target: str | None) -> bool:
    """Operators may do all that the dashboard offers."""
    return OPERATOR_ROLE in principal.roles


@router.get("/operators/enter", include_in_schema=False)
async def enter(key: str, request: Request, services: ServicesDep) -> RedirectResponse:
    """Take the key from the printed link, leave a cookie, and go to the dashboard."""
    value = services.operations.operators.admit(key)
    if value is None:
        raise ProblemError(
            HTTPStatus.FORBIDDEN, "wrong_key", "The link is of another start. Open the one that was printed last."
        )
    # Relative, so that it leads to the right place behind any prefix.
    answer = RedirectResponse(f"..{DASHBOARD}/", HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        COOKIE, value, max_age=COOKIE_SECONDS, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return answer


@router.get("/api/dashboard")
async def dashboard(request: Request, services: ServicesDep) -> Dashboard:
    """The dashboard's address for an operator, and nothing for anybody else."""
    is_operator = services.operations.operators.principal_of(request) is not None
    return Dashboard(url=f".{DASHBOARD}/" if is_operator else None)
