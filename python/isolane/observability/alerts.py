"""``AlertManager``: rules over the metrics, and alerts that begin and end."""

from __future__ import annotations

import inspect
import logging
import math
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, runtime_checkable

from isolane._core import metric, monotonic
from isolane.events.ticker import Ticker
from isolane.observability.readings import Figure, Window
from isolane.observability.rules import AlertRule, default_rules
from isolane.observability.thresholds import PerformanceThresholds
from isolane.observability.windows import MetricsManager
from isolane.security.alerts import LoggingAlertSink, SecurityAlert
from isolane.security.events import Severity

logger = logging.getLogger("isolane.alerts")

EVERY_SECONDS = 5.0
HISTORY = 256
MAX_RULES = 64
MAX_RAISED = 64
"""Names of alerts that others raise; of more, the one that has been over for longest is forgotten."""
QUIET_SECONDS = 300.0
MOST_PER_MINUTE = 60
OTHER = "_other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something began that a person should look at, or is over.

    Attributes:
        rule: the name of the rule.
        severity: how bad it is.
        state: ``firing`` or ``resolved``.
        summary: what it means, in a sentence without anybody's data.
        action: what to do.
        value: what was measured; ``None`` when nothing was, as after the last run.
        threshold: what it was compared with.
        unit: of both, such as ``s``.
        since: when it began, aware UTC.
        at: when this was said, aware UTC.
        count: how often it began since the last time this was said.
    """

    rule: str
    severity: Severity
    state: Literal["firing", "resolved"]
    summary: str
    action: str = ""
    value: float | None = None
    threshold: float | None = None
    unit: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    count: int = 1

    def in_a_line(self) -> str:
        """Return it as a line of a log."""
        if self.value is None or self.threshold is None:
            measured = ""
        else:
            unit = f" {self.unit}" if self.unit else ""
            measured = f" ({self.value:.4g}{unit}, the limit is {self.threshold:.4g}{unit})"
        return f"{self.rule} {self.state}: {self.summary}{measured}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values. JSON has no infinite numbers: such a value is ``None``."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "state": self.state,
            "value": _finite(self.value),
            "threshold": _finite(self.threshold),
            "unit": self.unit,
            "since": self.since.isoformat(),
            "at": self.at.isoformat(),
            "summary": self.summary,
            "action": self.action,
            "count": self.count,
        }


@runtime_checkable
class AlertReceiver(Protocol):
    """Takes alerts to where somebody sees them: ``LoggingAlertSink``, ``WebhookAlertSink``, ``CallbackAlertSink``."""

    def send(self, alert: Alert) -> None:
        """Take an alert without waiting for a network."""


class CallbackAlertSink:
    """Calls a function with each alert. It must be quick and not await; what it raises is logged and counted."""

    def __init__(self, call: Callable[[Alert], object]) -> None:
        if not callable(call):
            raise TypeError(f"CallbackAlertSink takes a function, got {type(call).__name__}")
        if _is_async(call):
            raise TypeError(
                "CallbackAlertSink takes a function that does not await: put the alert into a queue, or start a task"
            )
        self._call = call

    def send(self, alert: Alert) -> None:
        """Call the function."""
        self._call(alert)


@dataclass(slots=True)
class _State:
    rule: AlertRule
    condition: Literal["inactive", "pending", "firing"] = "inactive"
    value: float | None = None
    since: float = 0.0
    since_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    clear_since: float | None = None
    held_until: float = -math.inf
    raised: float | None = None
    """What was measured by who raised it."""
    severity: Severity | None = None
    threshold: float | None = None
    announced: bool = False
    announced_at: float = -math.inf
    unannounced: int = 0


class AlertManager:
    """Looks at the metrics every so often, and says when a rule's alert begins and when it is over.

    ``setup(alerts=manager)`` lets it look every 5 s while the application runs. An alert begins when a rule's value is
    beyond its threshold for ``for_seconds``, and is over when the value is back behind ``clear`` for ``keep_seconds``.
    While a rule's ``cooldown`` lasts nobody is told that it began again; when it still goes on after that, they are. In
    a minute at most 60 beginnings are told, and the ends of those that were. It is a sink of a ``SecurityMonitor`` as
    well: its alerts are over when nothing came for five minutes. It may be used from any thread.

    Args:
        rules: what to look for. Default: ``default_rules(thresholds)``.
        sinks: where alerts go. Default: the log ``isolane.alerts``. A sink that fails keeps no other from its alerts.
        thresholds: the figures of the default rules, as ``PerformanceThresholds`` or a mapping with some of them.
        metrics: takes the samples. Default: one over the metrics of this process.
        every: seconds between two looks. Default: 5.

    Raises:
        ValueError: two rules have one name, there are more than 64, or the time is not positive.
        TypeError: a rule or a sink is none.
    """

    def __init__(
        self,
        rules: Iterable[AlertRule] | None = None,
        sinks: Iterable[AlertReceiver] | None = None,
        *,
        thresholds: PerformanceThresholds | Mapping[str, float] | None = None,
        metrics: MetricsManager | None = None,
        every: float = EVERY_SECONDS,
    ) -> None:
        self.thresholds = PerformanceThresholds.of(thresholds)
        self.rules = tuple(rules) if rules is not None else default_rules(self.thresholds)
        self.sinks: tuple[AlertReceiver, ...] = tuple(sinks) if sinks is not None else (LoggingAlertSink(logger),)
        for rule in self.rules:
            if not isinstance(rule, AlertRule):
                raise TypeError(f"a rule is an AlertRule, got {type(rule).__name__}")
        for sink in self.sinks:
            _check_sink(sink)
        if len({rule.name for rule in self.rules}) < len(self.rules):
            raise ValueError("two rules have the same name; their alerts would mix")
        if len(self.rules) > MAX_RULES:
            raise ValueError(f"at most {MAX_RULES} rules are looked at, got {len(self.rules)}")
        if not (math.isfinite(every) and every > 0):
            raise ValueError(f"every must be more than 0 seconds, got {every}")
        self.metrics = metrics if metrics is not None else MetricsManager()
        self.metrics.watch(*(rule.value for rule in self.rules if isinstance(rule.value, Figure)))
        for rule in self.rules:
            if rule.window > self.metrics.keep_seconds:
                raise ValueError(
                    f"the rule {rule.name!r} looks {rule.window:g} s back, the metrics are kept for "
                    f"{self.metrics.keep_seconds:g} s"
                )
        self._lock = threading.Lock()
        self._states = {rule.name: _State(rule) for rule in self.rules}
        self._raised: OrderedDict[str, _State] = OrderedDict()
        self._history: deque[Alert] = deque(maxlen=HISTORY)
        self._sent_at: deque[float] = deque(maxlen=MOST_PER_MINUTE)
        self._ticker = Ticker(every, lambda _late: self.tick())
        self._counts = {"looks": 0, "fired": 0, "resolved": 0, "sent": 0, "held_back": 0, "failed": 0}
        self._complained: set[str] = set()

    # -- looking ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look every so often from now on, on the running loop, and let sinks that were closed take alerts again."""
        for sink in self.sinks:
            reopen = getattr(sink, "reopen", None)
            if reopen is not None:
                self._guarded(sink, reopen)
        try:
            self.metrics.sample()
        except Exception as error:  # noqa: BLE001 - an application starts also when its metrics do not
            self._complain("a sample of the metrics", error)
        self._ticker.start()

    def stop(self) -> None:
        """Stop looking. Alerts that go on stay as they are."""
        self._ticker.stop()

    def close(self) -> None:
        """Stop looking, and close the sinks that can be closed: a webhook posts what waits, for 10 s at most.

        The gauge ``isolane_alerts_active`` is zero afterwards, since nobody looks any more.
        """
        self.stop()
        self._show(is_over=True)
        for sink in self.sinks:
            close = getattr(sink, "close", None)
            if close is not None:
                self._guarded(sink, close)

    @property
    def is_running(self) -> bool:
        """Whether it looks."""
        return self._ticker.is_running

    def tick(self) -> list[Alert]:
        """Take a sample and look at each rule, once. Returns what began or ended."""
        is_sampled = True
        try:
            self.metrics.sample()
        except Exception as error:  # noqa: BLE001 - the loop's timer goes on
            self._complain("a sample of the metrics", error)
            is_sampled = False
        # What could not be measured is not over.
        values = [
            (rule, self._value(rule) if is_sampled or not isinstance(rule.value, Figure) else (False, None))
            for rule in self.rules
        ]
        now = monotonic()
        changes: list[Alert] = []
        send: list[Alert] = []
        with self._lock:
            self._counts["looks"] += 1
            for rule, (known, value) in values:
                state = self._states[rule.name]
                if known:
                    state.value = value
                    self._judge(state, now, changes, send)
                else:
                    self._remind(state, now, send)
            for state in self._raised.values():
                self._judge(state, now, changes, send)
        # Also when nothing changed: metrics that were off meanwhile do not know it.
        self._show()
        self._send(send)
        return changes

    def _show(self, *, is_over: bool = False) -> None:
        """Set the gauge of each rule."""
        with self._lock:
            firing = {name: state.condition == "firing" for name, state in self._everything()}
        gauge = metric("isolane_alerts_active")
        for name, fires in firing.items():
            gauge.labels(name).set(1.0 if fires and not is_over else 0.0)

    def _value(self, rule: AlertRule) -> tuple[bool, float | None]:
        """Return whether the rule's value is known, and the value; ``None`` when nothing was measured."""
        try:
            window: Window = self.metrics.window(rule.window)
            value = rule.value.read(window) if isinstance(rule.value, Figure) else rule.value(window)
            number = None if value is None else float(value)
        except Exception as error:  # noqa: BLE001 - one rule's failure is not another's
            self._complain(f"the rule {rule.name}", error)
            return False, None
        return True, None if number is None or math.isnan(number) else number

    # -- states -----------------------------------------------------------------------------------------------------

    def _judge(self, state: _State, now: float, changes: list[Alert], send: list[Alert]) -> None:
        rule, value = state.rule, state.value
        held = now < state.held_until
        if not held and rule.is_beyond(value):
            # What others said of a rule is over, and the rule's own value goes on.
            state.raised = state.severity = state.threshold = None
        if state.condition != "firing":
            if not (held or rule.is_beyond(value)):
                state.condition = "inactive"
                return
            if state.condition == "inactive":
                state.condition, state.since, state.since_at = "pending", now, datetime.now(UTC)
            if held or now - state.since >= rule.for_seconds:
                self._begin(state, now, changes, send)
            return
        if held or not rule.is_clear(value):
            state.clear_since = None
            self._remind(state, now, send)
            return
        if state.clear_since is None:
            state.clear_since = now
        if now - state.clear_since >= rule.keep_seconds:
            self._end(state, changes, send)
        else:
            self._remind(state, now, send)

    def _begin(self, state: _State, now: float, changes: list[Alert], send: list[Alert]) -> None:
        state.condition, state.clear_since = "firing", None
        state.unannounced += 1
        self._counts["fired"] += 1
        alert = self._alert(state, "firing")
        self._keep(alert)
        changes.append(alert)
        if not self._remind(state, now, send):
            self._counts["held_back"] += 1

    def _end(self, state: _State, changes: list[Alert], send: list[Alert]) -> None:
        state.condition, state.clear_since = "inactive", None
        self._counts["resolved"] += 1
        alert = self._alert(state, "resolved")
        self._keep(alert)
        changes.append(alert)
        if state.announced:
            send.append(alert)
        state.announced = False
        state.raised = state.severity = state.threshold = None

    def _remind(self, state: _State, now: float, send: list[Alert]) -> bool:
        """Say that it began, unless that was said, or the rule is in its cooldown, or too much was said."""
        if state.condition != "firing" or state.announced:
            return state.announced
        if now - state.announced_at < state.rule.cooldown:
            return False
        if len(self._sent_at) == MOST_PER_MINUTE and now - self._sent_at[0] < 60:  # noqa: PLR2004 - a minute
            return False
        self._sent_at.append(now)
        send.append(self._alert(state, "firing"))
        state.announced, state.announced_at, state.unannounced = True, now, 0
        return True

    def _alert(self, state: _State, condition: Literal["firing", "resolved"]) -> Alert:
        rule = state.rule
        value = state.value if state.raised is None else state.raised
        return Alert(
            rule=rule.name,
            severity=state.severity or rule.severity,
            state=condition,
            summary=rule.summary,
            action=rule.action,
            value=value,
            threshold=rule.threshold if state.threshold is None else state.threshold,
            unit=rule.unit,
            since=state.since_at,
            count=max(state.unannounced, 1),
        )

    def _keep(self, alert: Alert) -> None:
        self._history.append(alert)
        metric("isolane_alerts_total").labels(alert.rule, alert.state).inc()

    def _everything(self) -> Iterable[tuple[str, _State]]:
        return (*self._states.items(), *self._raised.items())

    # -- what others raise ------------------------------------------------------------------------------------------

    def raise_alert(
        self,
        rule: str,
        severity: Severity | str,
        summary: str,
        *,
        value: float | None = None,
        threshold: float | None = None,
        unit: str = "",
        action: str = "",
        quiet_seconds: float = QUIET_SECONDS,
    ) -> Alert | None:
        """Raise an alert that no rule here looks for; it is over when it was not raised for ``quiet_seconds``.

        One with the name of a rule is that rule's, and goes on at least as long. Returns the alert when it began, and
        ``None`` when it goes on. Texts must have nobody's data in them.
        """
        if not (math.isfinite(quiet_seconds) and quiet_seconds > 0):
            raise ValueError(f"quiet_seconds must be more than 0, got {quiet_seconds}")
        level = Severity(severity)
        now = monotonic()
        changes: list[Alert] = []
        send: list[Alert] = []
        with self._lock:
            # Also where nobody looks every so often: what was quiet for long enough is over, and begins anew.
            for other in (*self._raised.values(), *filter(None, (self._states.get(rule),))):
                if other.condition == "firing" and now >= other.held_until:
                    self._judge(other, now, changes, send)
            state = self._states.get(rule) or self._raised_state(
                AlertRule(
                    name=rule,
                    value=_nothing,
                    threshold=0.0 if threshold is None else threshold,
                    severity=level,
                    summary=summary,
                    unit=unit,
                    action=action,
                )
            )
            state.held_until = max(state.held_until, now + quiet_seconds)
            state.raised = value
            state.threshold = threshold
            state.severity = level
            self._judge(state, now, changes, send)
        for each in changes:
            # A name that is over may be forgotten before the next look.
            if each.state == "resolved":
                metric("isolane_alerts_active").labels(each.rule).set(0.0)
        self._send(send)
        return next((each for each in changes if (each.rule, each.state) == (state.rule.name, "firing")), None)

    def send(self, alert: SecurityAlert) -> None:
        """Take an alert of a ``SecurityMonitor``, whose sink this is. Whom it is about is not told on."""
        self.raise_alert(_name_of(alert.rule), alert.severity, alert.summary, value=float(alert.count), unit="events")

    async def trigger_performance_alerts(self, violations: Iterable[Mapping[str, Any]]) -> list[Alert]:
        """Raise an alert for each of the seed's violations: ``metric``, ``value``, ``threshold``, ``severity``.

        Nothing is waited for. Returns those that began.
        """
        return self.trigger(violations)

    def trigger(self, violations: Iterable[Mapping[str, Any]]) -> list[Alert]:
        """Do what ``trigger_performance_alerts`` does."""
        began = []
        for violation in violations:
            name = str(violation["metric"])
            summary, unit, action = VIOLATIONS.get(name, (f"{name} misses its threshold", "", ""))
            alert = self.raise_alert(
                _name_of(name),
                violation.get("severity", Severity.HIGH),
                summary,
                value=float(violation["value"]),
                threshold=float(violation["threshold"]),
                unit=unit,
                action=action,
            )
            if alert is not None:
                began.append(alert)
        return began

    def _raised_state(self, rule: AlertRule) -> _State:
        held = self._raised.get(rule.name)
        if held is not None:
            held.rule = rule
            self._raised.move_to_end(rule.name)
            return held
        if len(self._raised) >= MAX_RAISED:
            over = next((name for name, state in self._raised.items() if state.condition != "firing"), None)
            if over is None:
                # All of them go on: one more name stands for all others.
                rule = rule.renamed(OTHER)
                if OTHER in self._raised:
                    return self._raised[OTHER]
            else:
                del self._raised[over]
        state = self._raised[rule.name] = _State(rule)
        return state

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def active(self) -> tuple[Alert, ...]:
        """The alerts that go on, the worst first."""
        with self._lock:
            firing = [self._alert(state, "firing") for _, state in self._everything() if state.condition == "firing"]
        return tuple(sorted(firing, key=lambda alert: (-ORDER[alert.severity], alert.since)))

    @property
    def history(self) -> tuple[Alert, ...]:
        """The latest 256 beginnings and ends, the oldest first; also those that nobody was told of."""
        with self._lock:
            return tuple(self._history)

    def get_statistics(self) -> dict[str, Any]:
        """Return counts, and what goes on by rule.

        ``looks``, ``fired``, ``resolved``, ``sent`` (to each sink once), ``held_back`` by a cooldown or the limit of a
        minute, ``failed`` rules and sinks; ``pending`` and ``active``: names.
        """
        with self._lock:
            names = {
                condition: sorted(name for name, state in self._everything() if state.condition == condition)
                for condition in ("pending", "firing")
            }
            return {
                **self._counts,
                "rules": len(self.rules),
                "pending": names["pending"],
                "active": names["firing"],
                "is_running": self.is_running,
            }

    # -- sinks ------------------------------------------------------------------------------------------------------

    def _send(self, alerts: Iterable[Alert]) -> None:
        # Outside the lock: a sink may take its time, or raise an alert of its own.
        for alert in alerts:
            for sink in self.sinks:
                if self._guarded(sink, sink.send, alert):
                    with self._lock:
                        self._counts["sent"] += 1

    def _guarded(self, sink: AlertReceiver, call: Callable[..., object], *arguments: object) -> bool:
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 - one sink's failure is not another's
            self._complain(f"the sink {type(sink).__name__}", error)
            return False
        return True

    def _complain(self, what: str, error: Exception) -> None:
        """Count a failure, and log each kind of it once: a rule that fails does so every 5 s."""
        kind = f"{what}: {type(error).__name__}"
        with self._lock:
            self._counts["failed"] += 1
            first = kind not in self._complained and len(self._complained) < HISTORY
            if first:
                self._complained.add(kind)
        if first:
            logger.error("%s failed", kind)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _check_sink(sink: object) -> None:
    send = getattr(sink, "send", None)
    if not callable(send):
        raise TypeError(f"a sink has a method send(alert), {type(sink).__name__} has none")
    if _is_async(send):
        raise TypeError(f"send of a sink does not await, and that of {type(sink).__name__} is a coroutine")


def _is_async(call: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


def _name_of(text: str) -> str:
    """Return a name from elsewhere as a rule may have it."""
    name = re.sub(r"\W", "_", text)
    return name if name.strip("_") else OTHER


def _nothing(_window: Window) -> None:
    """What is raised from outside has no value of its own."""


ORDER = {Severity.INFO: 0, Severity.WARNING: 1, Severity.HIGH: 2, Severity.CRITICAL: 3}

VIOLATIONS = {
    "response_time": ("an execution took longer than the longest that is allowed", "ms", "operations.md#slow-runs"),
    "avg_response_time": ("executions take longer on average than they should", "ms", "operations.md#slow-runs"),
    "memory_usage": ("a user holds more memory than a user should", "MB", "operations.md#user-memory"),
    "websocket_event_latency": ("events reach their sockets late", "ms", "operations.md#event-latency"),
    "error_rate": ("more executions fail than should", "%", "operations.md#error-rate"),
}
"""Summary, unit and page of the seed's violations."""
