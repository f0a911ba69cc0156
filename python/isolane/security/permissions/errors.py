"""What a refusal is outward."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isolane.security.permissions.result import PermissionValidationResult

TEXTS = {
    "not_found": "there is no such resource",
    "permission_denied": "this user may not do this; a role that allows it is needed",
    "too_many_resources": "a request names at most 256 resources; ask in parts",
    "unavailable": "the permission could not be checked, so it is refused; try again later",
}
"""What a user is told. A resource of another user looks like one that does not exist."""

STATUS = {"not_found": 404, "too_many_resources": 400, "unavailable": 503}


class PermissionDeniedError(PermissionError):
    """A request was refused. The text has nobody's data; what was found is in ``result``, for operators.

    Attributes:
        code: ``permission_denied``, ``not_found``, ``too_many_resources`` or ``unavailable``.
        result: the whole result, or ``None``.
        status_code: what a HTTP answer says: 403, 404, 400 or 503.
    """

    def __init__(self, code: str, result: PermissionValidationResult | None = None) -> None:
        super().__init__(TEXTS.get(code, TEXTS["permission_denied"]))
        self.code = code
        self.result = result
        self.status_code = STATUS.get(code, 403)
