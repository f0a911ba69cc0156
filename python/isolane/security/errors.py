"""Errors of the security boundary."""

from __future__ import annotations

from typing import Self, cast

from isolane._core import ContextIsolationError


class AuditUnavailableError(RuntimeError):
    """The audit log takes no record now, and the class of the event says that the operation must not go on without one.

    Attributes:
        audit_class: the class of the event that could not be recorded.
        reason: what is wrong with the log, for operators; it carries nobody's data.
    """

    status_code = 503

    def __init__(self, audit_class: str, reason: str) -> None:
        super().__init__(
            f"the audit log takes no record of class {audit_class!r}: {reason}. The operation was refused, since it "
            "must be recorded; see to the log's disk, or set another failure policy for this class"
        )
        self.audit_class = audit_class
        self.reason = reason


class ResponseWithheldError(ContextIsolationError):
    """What was to be delivered held data of another user, or could not be looked at, so it was not delivered.

    Attributes:
        code: always ``response_withheld``, which is all that a client is told.
    """

    code = "response_withheld"

    def __new__(cls, boundary: str = "http_out") -> Self:
        """Make the error of a boundary."""
        text = (
            f"the delivery was withheld at the {boundary} boundary; the audit log says why. Whoever is responsible for "
            "the service must look at it; trying again is of no use"
        )
        return cast("Self", super().__new__(cls, text, boundary))


class UserQuarantinedError(RuntimeError):
    """A violation was found in which the user has a part, so no run is started for the user until an operator releases.

    Attributes:
        code: always ``quarantined``.
    """

    code = "quarantined"

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message
            or "no run is started for this user while an isolation violation is looked into; an operator ends that "
            "with Quarantine.release(user_id, by=..., reason=...)"
        )
