"""``AlertRule``, the rules that are looked at by default, and the same as a file for Prometheus."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from isolane.memory.limits import MB
from isolane.observability.readings import BY, AtLeast, Figure, Increase, Level, Mean, Quantile, Share, While, Window
from isolane.observability.thresholds import PerformanceThresholds
from isolane.security.events import Severity

PAGE = "operations.md"
MINUTE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """A value, and from where on it is an alert.

    Attributes:
        name: the alert's name.
        value: a figure of ``isolane.observability.readings``, or a function of the window that returns a number, or
            ``None`` when there is none. No number is never beyond a threshold, and ends an alert.
        threshold: beyond it there is an alert.
        summary: what it means, in a sentence without anybody's data.
        direction: ``above`` or ``below`` the threshold. Default: above.
        clear: on the other side of it, or at it, the alert is over. Default: the threshold.
        for_seconds: so long it must be beyond. Default: 0, at once.
        keep_seconds: so long it must be clear. Default: 0.
        window: seconds over which the value is computed. Default: 300.
        cooldown: seconds from telling that it began until telling that it began again. Default: 60.
        severity: how bad it is.
        unit: of value and threshold.
        action: what to do: the page that says it.

    Raises:
        ValueError: a rule that could never or always fire, or would not end.
    """

    name: str
    value: Figure | Callable[[Window], float | None]
    threshold: float
    summary: str
    direction: Literal["above", "below"] = "above"
    clear: float | None = None
    for_seconds: float = 0.0
    keep_seconds: float = 0.0
    window: float = 300.0
    cooldown: float = 60.0
    severity: Severity = Severity.HIGH
    unit: str = ""
    action: str = ""

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("_", "").isalnum():
            raise ValueError(f"a rule's name has letters, digits and underscores, got {self.name!r}")
        if not (isinstance(self.value, Figure) or callable(self.value)):
            raise ValueError(f"the value of the rule {self.name!r} is a figure or a function, got {self.value!r}")  # noqa: TRY004
        if self.direction not in {"above", "below"}:
            raise ValueError(f"the direction of the rule {self.name!r} is above or below, got {self.direction!r}")
        for what in ("threshold", "clear", "for_seconds", "keep_seconds", "window", "cooldown"):
            given = getattr(self, what)
            if given is not None and not math.isfinite(given):
                raise ValueError(f"{what} of the rule {self.name!r} is {given}, which is no number")
        if not self.window > 0 or min(self.for_seconds, self.keep_seconds, self.cooldown) < 0:
            raise ValueError(f"the rule {self.name!r} needs a window of more than 0 seconds, and no negative times")
        if self.clear is not None and (self.clear > self.threshold if self.is_above else self.clear < self.threshold):
            raise ValueError(
                f"the rule {self.name!r} is over at {self.clear:g}, where it is beyond its threshold "
                f"{self.threshold:g}: its alert would begin and end at once"
            )

    @property
    def is_above(self) -> bool:
        """Whether more is worse."""
        return self.direction == "above"

    @property
    def clears_at(self) -> float:
        """``clear``, or else the threshold."""
        return self.threshold if self.clear is None else self.clear

    def is_beyond(self, value: float | None) -> bool:
        """Return whether a value is an alert."""
        if value is None:
            return False
        return value > self.threshold if self.is_above else value < self.threshold

    def is_clear(self, value: float | None) -> bool:
        """Return whether a value ends one."""
        if value is None:
            return True
        return value <= self.clears_at if self.is_above else value >= self.clears_at

    def renamed(self, name: str) -> Self:
        """Return the same under another name."""
        return replace(self, name=name)


def default_rules(thresholds: PerformanceThresholds | None = None) -> tuple[AlertRule, ...]:
    """Return the seed's rules, one for each alert figure of the thresholds. Each ends at its target."""
    limits = thresholds if thresholds is not None else PerformanceThresholds()
    return (
        AlertRule(
            name="isolation_violation",
            value=Increase("isolane_isolation_violations_total"),
            threshold=limits.isolation_violations,
            window=900.0,
            severity=Severity.CRITICAL,
            unit="violations",
            summary="data of one user met a boundary of another",
            action=f"see at which boundary, and take the newer side back: {PAGE}#isolation-violation",
        ),
        AlertRule(
            name="slow_runs",
            value=Mean("isolane_run_duration_seconds"),
            threshold=limits.alert_response_time_ms / 1000,
            clear=_nearest(limits.alert_response_time_ms, limits.max_response_time_ms, limits.avg_response_time_ms)
            / 1000,
            unit="s",
            summary="agents take too long on average",
            action=f"see whether runs wait for permits, for the loop or for their model: {PAGE}#slow-runs",
        ),
        AlertRule(
            name="few_users",
            value=While(
                # Not who is there: whoever waits is there as well.
                Level("isolane_users_served"),
                (
                    AtLeast(Level("isolane_permits_waiting"), 1),
                    # Who waits because of a limit of their own keeps nobody out.
                    AtLeast(Level("isolane_permits_active"), Level("isolane_permits_limit")),
                ),
            ),
            threshold=limits.alert_concurrent_users,
            direction="below",
            clear=limits.concurrent_users,
            for_seconds=MINUTE,
            unit="users",
            summary="runs wait for permits while fewer users are served than the service is made for",
            action=f"see who holds the permits that others wait for: {PAGE}#few-users",
        ),
        AlertRule(
            name="user_memory",
            value=Level("isolane_user_memory_max_bytes"),
            threshold=limits.alert_memory_bytes,
            clear=_nearest(
                limits.alert_memory_per_user_mb, limits.max_memory_per_user_mb, limits.memory_usage_per_user_mb
            )
            * MB,
            unit="bytes",
            summary="a user holds more memory than any user should",
            action=f"see which user, and what it is that they hold: {PAGE}#user-memory",
        ),
        AlertRule(
            name="event_latency",
            value=Quantile(0.99, "isolane_ws_event_latency_seconds"),
            threshold=limits.alert_event_latency_ms / 1000,
            clear=limits.websocket_event_latency_ms / 1000,
            unit="s",
            summary="one event of a hundred reaches its socket late",
            action=f"see whether it is the loop or one socket: {PAGE}#event-latency",
        ),
        AlertRule(
            name="error_rate",
            value=Share("isolane_runs_total", {"outcome": ("failed", "timeout")}),
            threshold=limits.alert_error_rate_percent,
            clear=limits.error_rate_percent,
            unit="%",
            summary="too many runs of agents fail",
            action=f"see which agent, and whether its runs fail or time out: {PAGE}#error-rate",
        ),
        AlertRule(
            name="availability",
            value=Share("isolane_health_checks_total", {"result": "ok"}),
            threshold=limits.alert_availability_percent,
            direction="below",
            clear=limits.availability_percent,
            window=1800.0,
            severity=Severity.CRITICAL,
            unit="%",
            summary="the readiness route answered too often that the service is not ready",
            action=f"see whether the process drains, and whether it is asked at all: {PAGE}#availability",
        ),
    )


def _nearest(alert: float, *targets: float) -> float:
    """Return the first target that an alert figure is not below; the last one is none."""
    return next(target for target in targets if target <= alert)


def _camel(name: str) -> str:
    return "Isolane" + "".join(part.capitalize() for part in name.split("_"))


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole // 60}m" if whole and not whole % 60 else f"{whole}s"


def promql_of(rule: AlertRule) -> str:
    """Return the expression that is an alert of the rule.

    Where it ends elsewhere than it begins, an alert that goes on keeps itself alive until then.

    Raises:
        ValueError: the rule's value is a function, which Prometheus cannot call.
    """
    if not isinstance(rule.value, Figure):
        raise ValueError(f"the value of the rule {rule.name!r} is a function, which Prometheus cannot call")  # noqa: TRY004
    value = rule.value.promql(_duration(rule.window))
    beyond = ">" if rule.is_above else "<"
    expression = f"({value}) {beyond} {rule.threshold:.12g}"
    if rule.clears_at == rule.threshold:
        return expression
    firing = f'ALERTS{{alertname="{_camel(rule.name)}",alertstate="firing"}}'
    return f"{expression} or (({value}) {beyond} {rule.clears_at:.12g} and on ({BY}) {firing})"


def prometheus_rules(rules: Iterable[AlertRule] | None = None) -> dict[str, Any]:
    """Return the rules as the document of a file for Prometheus, with one more: nobody answers a scrape."""
    written: list[dict[str, Any]] = []
    for rule in default_rules() if rules is None else rules:
        entry: dict[str, Any] = {"alert": _camel(rule.name), "expr": promql_of(rule)}
        if rule.for_seconds:
            entry["for"] = _duration(rule.for_seconds)
        if rule.keep_seconds:
            entry["keep_firing_for"] = _duration(rule.keep_seconds)
        entry["labels"] = {"severity": rule.severity.value, "rule": rule.name}
        entry["annotations"] = {
            "summary": rule.summary,
            "description": f'{{{{ $value | printf "%.4g" }}}} {rule.unit}, the limit is {rule.threshold:g} {rule.unit}',
            "runbook": rule.action,
        }
        written.append(entry)
    written.append(
        {
            "alert": "IsolaneGone",
            "expr": "absent(isolane_build_info)",
            "for": "1m",
            "labels": {"severity": Severity.CRITICAL.value, "rule": "gone"},
            "annotations": {
                "summary": "no process answers a scrape",
                "description": "Prometheus has seen no metrics of isolane for a minute",
                "runbook": f"{PAGE}#gone",
            },
        }
    )
    return {"groups": [{"name": "isolane", "rules": written}]}


HEAD = """\
# Alerts of isolane for Prometheus 2.42 or newer. Written by `isolane alerts rules`: change the thresholds there.
# The same rules are looked at in the process by AlertManager; those need no Prometheus, and do not outlive the process.
"""


def as_yaml(document: dict[str, Any]) -> str:
    """Return rules as the text of a file. Every text is in quotes, as JSON writes it, which YAML reads the same."""
    lines = ["groups:"]
    for group in document["groups"]:
        lines += [f"  - name: {json.dumps(group['name'])}", "    rules:"]
        for rule in group["rules"]:
            lead = "      - "
            for name, value in rule.items():
                if isinstance(value, dict):
                    lines.append(f"{lead}{name}:")
                    lines += [f"          {key}: {json.dumps(text)}" for key, text in value.items()]
                else:
                    lines.append(f"{lead}{name}: {json.dumps(value)}")
                lead = "        "
    return HEAD + "\n".join(lines) + "\n"
