"""Errors of the security boundary."""

from __future__ import annotations


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
