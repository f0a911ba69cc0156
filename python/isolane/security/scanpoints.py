"""Scan points for what is not isolane's own: log handlers and audit sinks."""

from __future__ import annotations

import logging

from isolane.security.contamination import ContaminationDetector
from isolane.security.events import AuditSink, SecurityEvent
from isolane.security.findings import ScanMode

WITHHELD = "a log line was withheld: it had data of a user"
OF_RECORDS = frozenset(
    {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName", "isolane_user"}
)
"""What each record has; the rest came in by ``extra=``."""
PLAIN = (str, bytes, dict, list, tuple, set, frozenset)
"""What is written as it is. Behind other objects, such as a connection that logs, may be all of the process."""


class ContaminationLogFilter(logging.Filter):
    """Looks at log records, with their arguments and exceptions, at the boundary ``log``.

    A log is read by people who may see no user's canary or secret, so anybody's is a violation. A record that names
    its user (``extra={"isolane_user": user_id}``) may have what is that user's. Add it to a handler, so that it sees
    the records of all loggers. Texts and containers that a record has by ``extra=`` are looked at as well. Where the
    boundary enforces, the line is replaced, and they and its exception are left out.
    """

    def __init__(self, detector: ContaminationDetector) -> None:
        super().__init__()
        self.detector = detector

    def filter(self, record: logging.LogRecord) -> bool:
        """Look at a record; it always passes, as it is or replaced."""
        if self.detector.mode("log") is ScanMode.OFF or record.name == "isolane.security":
            return True
        try:
            line = record.getMessage()
        except Exception:  # noqa: BLE001 - the handler says itself what is wrong with the arguments
            line = str(record.msg)
        user = getattr(record, "isolane_user", None)
        error = record.exc_info[1] if record.exc_info else None
        given = vars(record).items()
        extra = {name: value for name, value in given if name not in OF_RECORDS and isinstance(value, PLAIN)}
        seen = (line, record.args, error, record.exc_text, record.stack_info, extra)
        if self.detector.check_sync(user, seen, boundary="log").withheld:
            record.msg, record.args = WITHHELD, ()
            record.exc_info = record.exc_text = record.stack_info = None
            for name in extra:
                # A format that names it still finds it.
                setattr(record, name, "")
        return True


class ContaminationAuditSink:
    """Looks at events on their way into an audit log, at the boundary ``audit``, and passes them on.

    An event may have data of the user it is about. Where the boundary enforces, the data is left out of the event; the
    event itself is never lost.
    """

    def __init__(self, detector: ContaminationDetector, sink: AuditSink) -> None:
        self.detector = detector
        self.sink = sink

    def record(self, event: SecurityEvent) -> None:
        """Pass an event on.

        Raises:
            AuditUnavailableError: the sink takes no record of this class.
        """
        if self.detector.check_sync(event.user_id, dict(event.data), boundary="audit").withheld:
            event = SecurityEvent(
                name=event.name,
                audit_class=event.audit_class,
                user_id=event.user_id,
                severity=event.severity,
                data={"withheld": True},
                at=event.at,
            )
        self.sink.record(event)
