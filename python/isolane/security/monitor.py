"""``SecurityMonitor``: rules over the stream of security events."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from isolane._core import monotonic
from isolane.security.alerts import AlertSink, LoggingAlertSink, SecurityAlert
from isolane.security.events import SecurityEvent, Severity
from isolane.security.pseudonyms import pseudonym

logger = logging.getLogger("isolane.security")

MAX_WINDOWS = 10_000
"""Counts of rules and users that are kept; of more the one that was touched least recently is forgotten."""
RECENT_ALERTS = 256
COOLDOWN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityRule:
    """So many events within so long are worth an alert.

    Attributes:
        name: the alert's name.
        events: names of the events that count.
        threshold: so many of them. Default: 1.
        window: within so many seconds. Default: 60.
        per_user: counted for each user by itself, or for the whole process. Default: each user.
        severity: how bad that is.
        summary: what it means, in a sentence without anybody's data.
        isolates: whether the monitor's ``on_isolate`` is called. Default: no.

    Raises:
        ValueError: a rule that could never or always fire.
    """

    name: str
    events: frozenset[str]
    summary: str
    threshold: int = 1
    window: float = 60.0
    per_user: bool = True
    severity: Severity = Severity.HIGH
    isolates: bool = False

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError(f"the rule {self.name!r} names no events")
        if self.threshold < 1 or not self.window > 0:
            raise ValueError(
                f"the rule {self.name!r} needs a threshold of at least 1 and a window of more than 0 seconds, got "
                f"{self.threshold} and {self.window}"
            )


DEFAULT_RULES = (
    SecurityRule(
        name="isolation_violation",
        events=frozenset({"isolation_violation"}),
        severity=Severity.CRITICAL,
        isolates=True,
        summary="an object of one user met a boundary of another; it was stopped there",
    ),
    SecurityRule(
        name="token_reuse",
        events=frozenset({"authn_token_reuse"}),
        summary="a credential that is good once was used again: it may have been stolen",
    ),
    SecurityRule(
        name="foreign_references",
        events=frozenset({"malicious_direct_reference"}),
        threshold=3,
        window=300.0,
        summary="somebody tries resources of other users one after the other",
    ),
    SecurityRule(
        name="many_refusals",
        events=frozenset({"authz_fail"}),
        threshold=10,
        severity=Severity.WARNING,
        summary="a user is refused again and again: a broken client, missing rights, or a search for a gap",
    ),
    SecurityRule(
        name="failed_sign_ins",
        events=frozenset({"authn_login_fail"}),
        threshold=20,
        per_user=False,
        summary="many credentials were refused in a minute, over all users",
    ),
    SecurityRule(
        name="many_contexts",
        events=frozenset({"context_created"}),
        threshold=300,
        severity=Severity.WARNING,
        summary="a user begins more than five runs a second, for a minute",
    ),
    SecurityRule(
        name="audit_lost",
        events=frozenset({"audit_gap", "audit_tampered"}),
        per_user=False,
        severity=Severity.CRITICAL,
        summary="records of the audit log are missing or were changed",
    ),
)
"""What is watched for by default."""


class SecurityMonitor:
    """Watches the stream of security events, and alerts when a rule's events are too many.

    It is an observer of the audit log (``audit.add_observer(monitor.observe)``), and an application may hand it events
    of its own. Counting is by the monotonic clock; at most 10 000 counts are kept. After an alert the same rule is
    silent about the same user for ``cooldown`` seconds; what it holds back is counted in the next one. It may be used
    from any thread.

    Args:
        rules: what to watch for. Default: ``DEFAULT_RULES``.
        sinks: where alerts go. Default: the log. A sink that fails does not keep the others from theirs.
        cooldown: seconds between two alerts of a rule about a user. Default: 60.
        on_isolate: called with the alert and the user, for rules that ask for it; never more often than the alerts.

    Raises:
        ValueError: two rules have one name, or the time is negative.
    """

    def __init__(
        self,
        rules: Iterable[SecurityRule] = DEFAULT_RULES,
        sinks: Iterable[AlertSink] | None = None,
        *,
        cooldown: float = COOLDOWN_SECONDS,
        on_isolate: Callable[[SecurityAlert, str | None], None] | None = None,
    ) -> None:
        self.rules = tuple(rules)
        self.sinks = tuple(sinks) if sinks is not None else (LoggingAlertSink(),)
        if len({rule.name for rule in self.rules}) < len(self.rules):
            raise ValueError("two rules have the same name; their counts and alerts would mix")
        if cooldown < 0:
            raise ValueError(f"cooldown must not be negative, got {cooldown}")
        self.on_isolate = on_isolate
        self._cooldown = cooldown
        self._by_event: dict[str, list[SecurityRule]] = {}
        for rule in self.rules:
            for name in rule.events:
                self._by_event.setdefault(name, []).append(rule)
        self._lock = threading.Lock()
        self._windows: OrderedDict[tuple[str, str | None], _Window] = OrderedDict()
        self._recent: deque[SecurityAlert] = deque(maxlen=RECENT_ALERTS)
        self._events = 0
        self._forgotten = 0
        self._suppressed = 0
        self._failed = 0
        self._alerts = dict.fromkeys((rule.name for rule in self.rules), 0)

    def pseudonym(self, user_id: str) -> str:
        """Return what a user is called in alerts, logs and the dashboard: see ``isolane.security.pseudonyms``."""
        return pseudonym(user_id)

    async def process_security_event(self, event: SecurityEvent) -> list[SecurityAlert]:
        """Take an event, as ``observe`` does; nothing is waited for."""
        return self.observe(event)

    def observe(self, event: SecurityEvent) -> list[SecurityAlert]:
        """Take an event. Returns the alerts that it made."""
        now = monotonic()
        made: list[tuple[SecurityRule, SecurityAlert]] = []
        with self._lock:
            self._events += 1
            for rule in self._by_event.get(event.name, ()):
                alert = self._count(rule, event, now)
                if alert is not None:
                    made.append((rule, alert))
        # Outside the lock: a sink may take its time, or hand in an event of its own.
        for rule, alert in made:
            self._send(alert)
            if rule.isolates and self.on_isolate is not None:
                self._isolate(self.on_isolate, alert, event.user_id)
        return [alert for _, alert in made]

    @property
    def recent_alerts(self) -> tuple[SecurityAlert, ...]:
        """The latest 256 alerts, the oldest first."""
        with self._lock:
            return tuple(self._recent)

    def get_statistics(self) -> dict[str, Any]:
        """Return ``events``, ``alerts`` by rule, ``suppressed``, ``forgotten`` counts and ``failed`` deliveries."""
        with self._lock:
            return {
                "events": self._events,
                "alerts": dict(self._alerts),
                "suppressed": self._suppressed,
                "forgotten": self._forgotten,
                "failed": self._failed,
                "counts": len(self._windows),
            }

    def _count(self, rule: SecurityRule, event: SecurityEvent, now: float) -> SecurityAlert | None:
        user = event.user_id if rule.per_user else None
        key = (rule.name, user)
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= MAX_WINDOWS:
                self._windows.popitem(last=False)
                self._forgotten += 1
            window = self._windows[key] = _Window(rule.threshold)
        self._windows.move_to_end(key)
        window.times.append(now)
        if len(window.times) < rule.threshold or now - window.times[0] > rule.window:
            return None
        window.times.clear()
        if window.alerted_at is not None and now - window.alerted_at < self._cooldown:
            window.suppressed += 1
            self._suppressed += 1
            return None
        alert = SecurityAlert(
            rule=rule.name,
            severity=rule.severity,
            summary=rule.summary,
            subject=self.pseudonym(user) if user is not None else None,
            count=rule.threshold,
            suppressed=window.suppressed,
            at=event.at,
        )
        window.alerted_at = now
        window.suppressed = 0
        self._alerts[rule.name] += 1
        self._recent.append(alert)
        return alert

    def _send(self, alert: SecurityAlert) -> None:
        for sink in self.sinks:
            try:
                sink.send(alert)
            except Exception as error:  # noqa: BLE001 - one sink's failure is not another's
                self._note_failure("a sink for alerts", error)

    def _isolate(
        self, on_isolate: Callable[[SecurityAlert, str | None], None], alert: SecurityAlert, user_id: str | None
    ) -> None:
        try:
            on_isolate(alert, user_id)
        except Exception as error:  # noqa: BLE001 - whoever records an event is not the one to hear of it
            self._note_failure("an emergency isolation", error)

    def _note_failure(self, what: str, error: Exception) -> None:
        with self._lock:
            self._failed += 1
        logger.error("%s failed: %s", what, type(error).__name__)


class _Window:
    """When the latest events of a rule and user were, and when it last alerted."""

    __slots__ = ("alerted_at", "suppressed", "times")

    def __init__(self, threshold: int) -> None:
        self.times: deque[float] = deque(maxlen=threshold)
        self.alerted_at: float | None = None
        self.suppressed = 0
