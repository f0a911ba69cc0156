"""Alerts: rules over a window of the metrics, states, sinks, and what others raise. Time is the manual clock."""

from __future__ import annotations

import gc
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Self

import pytest
from isolane import SecurityEvent, SecurityMonitor, SecurityRule, Severity, WebhookAlertSink, _core
from isolane.observability import (
    Alert,
    AlertManager,
    AlertRule,
    AtLeast,
    CallbackAlertSink,
    Increase,
    Level,
    Mean,
    MetricsManager,
    PerformanceThresholds,
    Quantile,
    Share,
    While,
    default_rules,
)
from isolane.observability.alerts import HISTORY, MAX_RAISED, MOST_PER_MINUTE
from isolane.observability.windows import MAX_SAMPLES, MAX_SELECTIONS
from isolane.security.events import AuditClass
from isolane.testing import manual_clock

from tests.support.metric_names import reserve

reserve("deep", "raised", label="rule")


@pytest.fixture(autouse=True)
def clock():
    with manual_clock() as clock:
        yield clock


class Registry:
    """What the metrics are, set by hand: values of counters and gauges, values that a histogram has seen."""

    def __init__(self) -> None:
        self.families: dict[str, dict[str, Any]] = {}

    def set(self, name: str, value: float, kind: str = "counter", **labels: str) -> None:
        family = self.families.setdefault(name, {"kind": kind, "help": "", "series": []})
        for series in family["series"]:
            if series["labels"] == labels:
                series["value"] = value
                return
        family["series"].append({"labels": labels, "value": value})

    def seen(self, name: str, *values: float, bounds: tuple[float, ...] = (0.05, 0.1, 0.25, 1, 2.5, 5)) -> None:
        family = self.families.setdefault(
            name,
            {
                "kind": "histogram",
                "help": "",
                "series": [
                    {"labels": {}, "count": 0, "sum": 0.0, "buckets": [[b, 0] for b in (*bounds, float("inf"))]}
                ],
            },
        )
        series = family["series"][0]
        for value in values:
            series["count"] += 1
            series["sum"] += value
            for bucket in series["buckets"]:
                bucket[1] += value <= bucket[0]

    def snapshot(self, _names: Any) -> dict[str, dict[str, Any]]:
        return self.families


def manager_of(*rules: AlertRule, **options: Any) -> tuple[AlertManager, Registry, list[Alert]]:
    registry, told = Registry(), []
    manager = AlertManager(
        rules or None, [CallbackAlertSink(told.append)], metrics=MetricsManager(registry.snapshot), **options
    )
    manager.metrics.sample()
    return manager, registry, told


def depth(**options: Any) -> AlertRule:
    return AlertRule(
        **{"name": "deep", "value": Level("depth"), "threshold": 10, "summary": "the water is deep", **options}
    )


def look(manager: AlertManager, clock: Any, seconds: float = 5.0) -> list[str]:
    clock.advance(seconds)
    return [f"{alert.rule} {alert.state}" for alert in manager.tick()]


# -- states ---------------------------------------------------------------------------------------------------------


def test_an_alert_begins_beyond_the_threshold_and_ends_at_clear(clock):
    manager, registry, told = manager_of(depth(clear=6))
    courses = [(10, []), (11, ["deep firing"]), (9, []), (10.5, []), (7, []), (6, ["deep resolved"]), (10, [])]
    for level, expected in courses:
        registry.set("depth", level, "gauge")
        assert look(manager, clock) == expected, level
    assert [(each.state, each.value, each.threshold) for each in told] == [("firing", 11, 10), ("resolved", 6, 10)]
    assert told[0].since == told[1].since <= told[1].at


def test_below_is_the_other_way_round(clock):
    manager, registry, _ = manager_of(depth(direction="below", clear=12))
    for level, expected in [(10, []), (9, ["deep firing"]), (11, []), (12, ["deep resolved"])]:
        registry.set("depth", level, "gauge")
        assert look(manager, clock) == expected, level


def test_an_alert_waits_for_its_time_and_one_that_goes_away_meanwhile_begins_anew(clock):
    manager, registry, _ = manager_of(depth(for_seconds=9, keep_seconds=9))
    registry.set("depth", 11, "gauge")
    assert [look(manager, clock), look(manager, clock)] == [[], []]
    assert manager.get_statistics()["pending"] == ["deep"]
    registry.set("depth", 1, "gauge")
    assert look(manager, clock) == []
    registry.set("depth", 11, "gauge")
    assert [look(manager, clock) for _ in range(3)] == [[], [], ["deep firing"]]
    registry.set("depth", 1, "gauge")
    assert [look(manager, clock), look(manager, clock)] == [[], []]
    registry.set("depth", 11, "gauge")
    assert look(manager, clock) == []
    registry.set("depth", 1, "gauge")
    assert [look(manager, clock) for _ in range(3)] == [[], [], ["deep resolved"]]


def test_no_number_is_no_alert_and_ends_one(clock):
    numbers = iter([None, 11.0, float("nan"), None])
    manager, _, _ = manager_of(depth(value=lambda _window: next(numbers)))
    assert [look(manager, clock) for _ in range(4)] == [[], ["deep firing"], ["deep resolved"], []]


def test_a_value_without_end_is_an_alert_that_json_can_say(clock):
    manager, _, told = manager_of(depth(value=lambda _window: float("inf")))
    assert look(manager, clock) == ["deep firing"]
    manager.raise_alert("raised", "info", "x", value=float("nan"))
    texts = [json.dumps(alert.to_dict(), allow_nan=False) for alert in (*told, *manager.active)]
    assert [json.loads(text)["value"] for text in texts] == [None] * 4


def test_a_rule_that_fails_changes_nothing_and_keeps_no_other_from_its_alert(clock, caplog):
    answers: list[Any] = [11.0, ZeroDivisionError("secret"), ZeroDivisionError("secret"), "no number", 1.0]

    def value(_window: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    manager, registry, _ = manager_of(depth(value=value), depth(name="other", value=Level("depth")))
    registry.set("depth", 11, "gauge")
    with caplog.at_level(logging.ERROR, "isolane.alerts"):
        assert look(manager, clock) == ["deep firing", "other firing"]
        assert [look(manager, clock) for _ in range(4)] == [[], [], [], ["deep resolved"]]
    assert manager.get_statistics()["failed"] == 3
    assert [record.getMessage() for record in caplog.records] == [
        "the rule deep: ZeroDivisionError failed",
        "the rule deep: ValueError failed",
    ]


def test_a_source_that_fails_does_not_stop_the_looks(clock):
    def broken(_names: Any) -> Any:
        raise OSError("no metrics")

    manager = AlertManager([depth(value=lambda _window: 11.0)], [], metrics=MetricsManager(broken))
    assert [alert.state for alert in manager.tick()] == ["firing"]
    assert manager.get_statistics()["failed"] == 1


def test_what_cannot_be_measured_is_not_over(clock):
    manager, registry, _ = manager_of(depth(value=Increase("jobs_total"), threshold=0, window=60))
    registry.set("jobs_total", 1)
    assert look(manager, clock) == ["deep firing"]
    families, registry.families = registry.families, None
    assert [look(manager, clock, 30) for _ in range(4)] == [[]] * 4
    registry.families = families
    assert [look(manager, clock, 30) for _ in range(3)] == [["deep resolved"], [], []]


# -- telling --------------------------------------------------------------------------------------------------------


def test_what_flaps_is_told_once_a_cooldown_and_what_goes_on_after_it_is_told(clock):
    manager, registry, told = manager_of(depth(cooldown=58))
    for level in (11, 1, 11, 1, 11):
        registry.set("depth", level, "gauge")
        look(manager, clock)
    assert [alert.state for alert in told] == ["firing", "resolved"]
    assert [alert.state for alert in manager.history] == ["firing", "resolved"] * 2 + ["firing"]
    assert [look(manager, clock, 10) for _ in range(5)] == [[]] * 5
    assert [(alert.state, alert.count) for alert in told] == [("firing", 1), ("resolved", 1), ("firing", 2)]
    registry.set("depth", 1, "gauge")
    assert look(manager, clock) == ["deep resolved"]
    assert told[-1].state == "resolved"
    assert manager.get_statistics() == {
        **manager.get_statistics(),
        "fired": 3,
        "resolved": 3,
        "sent": 4,
        "held_back": 2,
        "active": [],
    }


def test_in_a_minute_only_so_many_are_told_and_the_others_later(clock):
    rules = [depth(name=f"r{number}", cooldown=0) for number in range(MOST_PER_MINUTE + 2)]
    manager, registry, told = manager_of(*rules)
    registry.set("depth", 11, "gauge")
    assert len(look(manager, clock)) == MOST_PER_MINUTE + 2
    assert len(told) == MOST_PER_MINUTE
    look(manager, clock, 30)
    assert len(told) == MOST_PER_MINUTE
    look(manager, clock, 31)
    assert len(told) == MOST_PER_MINUTE + 2


def test_a_sink_that_fails_keeps_no_other_from_the_alert(clock, caplog):
    told: list[Alert] = []

    def broken(_alert: Alert) -> None:
        raise OSError("a token is in here")

    manager = AlertManager(
        [depth(value=lambda _window: 11.0)], [CallbackAlertSink(broken), CallbackAlertSink(told.append)]
    )
    with caplog.at_level(logging.ERROR, "isolane.alerts"):
        manager.tick()
    assert [alert.rule for alert in told] == ["deep"]
    assert "token" not in caplog.text
    assert manager.get_statistics()["failed"] == 1


def test_a_sink_may_raise_an_alert_of_its_own(clock):
    manager, registry, told = manager_of(depth())
    seen: list[str] = []

    def more(alert: Alert) -> None:
        seen.append(alert.rule)
        if alert.rule == "deep":
            manager.raise_alert("raised", "warning", "somebody saw it")

    manager.sinks = (*manager.sinks, CallbackAlertSink(more))
    registry.set("depth", 11, "gauge")
    look(manager, clock)
    assert seen == ["deep", "raised"]
    assert {alert.rule for alert in told} == {"deep", "raised"}


def test_the_log_says_value_and_limit_at_the_level_of_the_severity(clock, caplog):
    manager = AlertManager([depth(value=lambda _window: 11.0, unit="m", severity=Severity.CRITICAL)])
    with caplog.at_level(logging.INFO, "isolane.alerts"):
        manager.tick()
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.CRITICAL, "isolane.alerts")
    assert record.getMessage() == "deep firing: the water is deep (11 m, the limit is 10 m)"
    assert record.alert["value"] == 11


class Webhook:
    """Takes posts on the loopback."""

    def __enter__(self) -> Self:
        received = self.received = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def test_a_webhook_gets_the_alert_and_its_end_and_after_close_again_once_started_anew(clock):
    with Webhook() as hook:
        registry, sink = Registry(), WebhookAlertSink(hook.url)
        manager = AlertManager([depth(cooldown=0)], [sink], metrics=MetricsManager(registry.snapshot))
        for level in (11, 1):
            registry.set("depth", level, "gauge")
            look(manager, clock)
        manager.close()
        assert [(each["rule"], each["state"], each["value"]) for each in hook.received] == [
            ("deep", "firing", 11),
            ("deep", "resolved", 1),
        ]
        assert set(hook.received[0]) >= {"severity", "threshold", "unit", "since", "summary", "action"}
        registry.set("depth", 11, "gauge")
        look(manager, clock)
        assert sink.dropped == 1
        sink.reopen()
        registry.set("depth", 1, "gauge")
        look(manager, clock)
        manager.close()
        assert [each["state"] for each in hook.received] == ["firing", "resolved", "resolved"]


# -- what others raise ----------------------------------------------------------------------------------------------


def test_what_is_raised_ends_when_it_is_quiet(clock):
    manager, _, told = manager_of(depth())
    assert manager.raise_alert("raised", "warning", "it rains", value=3, threshold=2, unit="mm").state == "firing"
    clock.advance(200)
    assert manager.raise_alert("raised", "warning", "it rains", value=4) is None
    assert look(manager, clock, 200) == []
    assert [(alert.rule, alert.value) for alert in manager.active] == [("raised", 4)]
    assert look(manager, clock, 101) == ["raised resolved"]
    assert [alert.state for alert in told] == ["firing", "resolved"]
    assert manager.active == ()


def test_what_is_raised_under_the_name_of_a_rule_is_the_rules(clock):
    manager, registry, told = manager_of(depth())
    assert manager.raise_alert("deep", "critical", "ignored", value=99).severity is Severity.CRITICAL
    registry.set("depth", 11, "gauge")
    assert look(manager, clock, 301) == []
    registry.set("depth", 1, "gauge")
    assert look(manager, clock) == ["deep resolved"]
    assert told[0].summary == "the water is deep"


def test_what_was_raised_of_a_rule_is_not_said_of_its_own_value(clock):
    manager, registry, _ = manager_of(depth(severity=Severity.WARNING))
    manager.raise_alert("deep", "critical", "ignored", value=99, threshold=50)
    registry.set("depth", 11, "gauge")
    look(manager, clock)
    assert [(each.severity, each.value, each.threshold) for each in manager.active] == [(Severity.CRITICAL, 99, 50)]
    look(manager, clock, 301)
    assert [(each.severity, each.value, each.threshold) for each in manager.active] == [(Severity.WARNING, 11, 10)]


def test_what_is_raised_where_nobody_looks_begins_again_after_it_was_quiet(clock):
    manager, _, told = manager_of(depth())
    assert manager.raise_alert("raised", "warning", "it rains").state == "firing"
    clock.advance(299)
    assert manager.raise_alert("raised", "warning", "it rains") is None
    clock.advance(301)
    assert manager.raise_alert("raised", "warning", "it rains").state == "firing"
    assert [alert.state for alert in told] == ["firing", "resolved", "firing"]
    clock.advance(301)
    assert manager.raise_alert("other", "warning", "it snows").rule == "other"
    assert [alert.rule for alert in manager.active] == ["other"]


def test_names_from_elsewhere_are_made_to_fit(clock):
    manager, _, told = manager_of(depth())
    rule = SecurityRule(name="token reuse (b)", events=frozenset({"authn_token_reuse"}), summary="used again")
    monitor = SecurityMonitor([rule], sinks=[manager])
    monitor.observe(
        SecurityEvent(name="authn_token_reuse", audit_class=AuditClass.ISOLATION, severity=Severity.HIGH, user_id="a-1")
    )
    manager.trigger(
        [{"metric": "queue-depth", "value": 3, "threshold": 2}, {"metric": "-", "value": 3, "threshold": 2}]
    )
    assert [alert.rule for alert in told] == ["token_reuse__b_", "queue_depth", "_other"]


def test_an_alert_of_the_security_monitor_is_an_alert_without_the_user(clock):
    manager, _, told = manager_of()
    monitor = SecurityMonitor(sinks=[manager])
    shared: dict[str, Any] = {"audit_class": AuditClass.ISOLATION, "severity": Severity.HIGH}
    monitor.observe(SecurityEvent(name="authn_token_reuse", user_id="ann-01", **shared))
    monitor.observe(SecurityEvent(name="isolation_violation", user_id="ann-01", **shared))
    assert [(alert.rule, alert.severity) for alert in told] == [
        ("token_reuse", Severity.HIGH),
        ("isolation_violation", Severity.CRITICAL),
    ]
    assert [alert.rule for alert in manager.active] == ["isolation_violation", "token_reuse"]
    text = json.dumps([alert.to_dict() for alert in told])
    assert "ann-01" not in text
    assert monitor.pseudonym("ann-01") not in text


async def test_the_seeds_violations_are_alerts(clock):
    manager, _, _ = manager_of()
    began = await manager.trigger_performance_alerts(
        [
            {"metric": "response_time", "value": 2100, "threshold": 2000, "severity": "critical"},
            {"metric": "queue", "value": 3, "threshold": 2, "severity": "high"},
        ]
    )
    assert [(each.rule, each.severity.value, each.value, each.unit) for each in began] == [
        ("response_time", "critical", 2100, "ms"),
        ("queue", "high", 3, ""),
    ]
    again = [{"metric": "queue", "value": 3, "threshold": 2, "severity": "high"}]
    assert await manager.trigger_performance_alerts(again) == []


def test_names_that_are_raised_are_bounded(clock):
    manager, _, _ = manager_of(depth())
    for number in range(MAX_RAISED + 5):
        manager.raise_alert(f"name{number}", "info", "one of many")
    names = [alert.rule for alert in manager.active]
    assert len(names) == MAX_RAISED + 1
    assert "_other" in names
    clock.advance(301)
    manager.tick()
    assert manager.active == ()
    manager.raise_alert("fresh", "info", "there is room again")
    assert [alert.rule for alert in manager.active] == ["fresh"]


def test_the_history_is_bounded(clock):
    manager, registry, _ = manager_of(depth())
    for step in range(HISTORY + 10):
        registry.set("depth", 11 if step % 2 else 1, "gauge")
        look(manager, clock)
    assert len(manager.history) == HISTORY


# -- what is wrong is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "two words"}, "letters, digits"),
        ({"value": 7}, "a figure or a function"),
        ({"threshold": float("nan")}, "no number"),
        ({"window": 0}, "window of more than 0"),
        ({"for_seconds": -1}, "negative"),
        ({"clear": 11}, "begin and end at once"),
        ({"clear": 9, "direction": "below"}, "begin and end at once"),
        ({"direction": "sideways"}, "above or below"),
    ],
)
def test_a_rule_that_could_not_work_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        depth(**options)


def test_a_manager_that_could_not_work_is_refused():
    with pytest.raises(ValueError, match="same name"):
        AlertManager([depth(), depth()])
    with pytest.raises(ValueError, match="at most 64"):
        AlertManager([depth(name=f"r{number}") for number in range(65)])
    with pytest.raises(ValueError, match="3600 s back"):
        AlertManager([depth(window=3600)])
    with pytest.raises(TypeError, match="send"):
        AlertManager([], [print])
    with pytest.raises(TypeError, match="AlertRule"):
        AlertManager(["deep"])
    with pytest.raises(ValueError, match="every"):
        AlertManager(every=0)

    async def wait(_alert: Alert) -> None:
        pass

    class Waits:
        send = staticmethod(wait)
        __call__ = staticmethod(wait)

    for call in (wait, Waits()):
        with pytest.raises(TypeError, match="does not await"):
            CallbackAlertSink(call)
    with pytest.raises(TypeError, match="does not await"):
        AlertManager([], [Waits()])
    with pytest.raises(TypeError, match="a function"):
        CallbackAlertSink("print")
    with pytest.raises(ValueError, match="quiet_seconds"):
        AlertManager([]).raise_alert("raised", "info", "x", quiet_seconds=0)


# -- figures --------------------------------------------------------------------------------------------------------


def test_figures_are_of_the_window_and_not_of_the_whole_life(clock):
    registry = Registry()
    metrics = MetricsManager(registry.snapshot)
    rise, mean = Increase("jobs_total", {"outcome": "failed"}), Mean("seconds")
    p99, share = Quantile(0.99, "seconds"), Share("jobs_total", {"outcome": ["failed", "timeout"]})
    figures = (rise, mean, p99, share)
    metrics.watch(*figures)
    registry.set("jobs_total", 100, outcome="failed")
    registry.set("jobs_total", 100, outcome="completed")
    registry.seen("seconds", *[4.0] * 100)
    metrics.sample()
    assert [figure.read(metrics.window(60)) for figure in figures] == [None] * 4
    clock.advance(5)
    metrics.sample()
    assert [figure.read(metrics.window(60)) for figure in figures] == [0, None, None, None]
    clock.advance(5)
    registry.set("jobs_total", 101, outcome="failed")
    registry.set("jobs_total", 1, outcome="timeout")
    registry.set("jobs_total", 108, outcome="completed")
    registry.seen("seconds", *[0.2] * 98, 2.0, 2.0)
    metrics.sample()
    window = metrics.window(60)
    assert rise.read(window) == 1
    assert share.read(window) == pytest.approx(20)
    assert mean.read(window) == pytest.approx(0.236)
    # Two of a hundred are in the bucket from 1 to 2.5: its middle is the 99th.
    assert p99.read(window) == pytest.approx(1.75)
    clock.advance(61)
    metrics.sample()
    assert rise.read(metrics.window(60)) == 0


def test_a_counter_that_begins_again_goes_on_where_it_was(clock):
    registry = Registry()
    metrics = MetricsManager(registry.snapshot)
    rise, mean = Increase("jobs_total"), Mean("seconds")
    metrics.watch(rise, mean)
    registry.set("jobs_total", 50)
    registry.seen("seconds", 1, 1, 1)
    metrics.sample()
    clock.advance(5)
    registry.set("jobs_total", 3)
    registry.families.pop("seconds")
    registry.seen("seconds", 2.0)
    metrics.sample()
    assert rise.read(metrics.window(60)) == 3
    assert mean.read(metrics.window(60)) == 2.0


def test_what_rose_before_it_was_watched_is_no_rise(clock):
    registry = Registry()
    metrics = MetricsManager(registry.snapshot)
    registry.set("jobs_total", 50)
    registry.seen("seconds", 9, 9, 9)
    metrics.sample()
    rule = depth(value=Increase("jobs_total"), threshold=0)
    manager, mean = AlertManager([rule], [], metrics=metrics), Mean("seconds")
    metrics.watch(mean)
    assert [look(manager, clock), look(manager, clock)] == [[], []]
    assert mean.read(metrics.window(60)) is None
    registry.set("jobs_total", 52)
    registry.seen("seconds", 1)
    assert look(manager, clock) == ["deep firing"]
    assert manager.active[0].value == 2
    assert mean.read(metrics.window(60)) == 1


def test_two_who_take_samples_at_once_see_no_counter_begin_again(clock):
    entered, go, count = threading.Event(), threading.Event(), iter(range(100, 200))

    def slow(_names: Any) -> Any:
        value = next(count)
        if value == 101:
            entered.set()
            go.wait(10)
        return {"jobs_total": {"kind": "counter", "series": [{"labels": {}, "value": value}]}}

    metrics, rise = MetricsManager(slow), Increase("jobs_total")
    metrics.watch(rise)
    metrics.sample()
    clock.advance(5)
    first, second = threading.Thread(target=metrics.sample), threading.Thread(target=metrics.sample)
    first.start()
    assert entered.wait(10)
    second.start()
    second.join(0.2)
    go.set()
    first.join(10)
    second.join(10)
    assert rise.read(metrics.window(60)) == 2


def test_many_samples_cover_all_the_time_that_is_kept(clock):
    registry = Registry()
    metrics, rise = MetricsManager(registry.snapshot), Increase("jobs_total")
    metrics.watch(rise)
    for second in range(2000):
        registry.set("jobs_total", second)
        metrics.sample()
        clock.advance(1)
    assert metrics.samples <= MAX_SAMPLES
    for window in (10, 60, 300, 1800):
        assert rise.read(metrics.window(window)) == pytest.approx(window, abs=10), window


def test_a_condition_decides_whether_there_is_a_figure(clock):
    registry = Registry()
    metrics = MetricsManager(registry.snapshot)
    figure = While(Level("users"), (AtLeast(Level("waiting"), 1), AtLeast(Level("active"), Level("limit"))))
    metrics.watch(figure)
    for waiting, active, expected in [(0, 3, None), (1, 2, None), (1, 3, 2)]:
        for name, value in {"users": 2, "waiting": waiting, "active": active, "limit": 3}.items():
            registry.set(name, value, "gauge")
        metrics.sample()
        assert figure.read(metrics.window(60)) == expected


def test_what_is_kept_is_bounded(clock):
    registry = Registry()
    metrics = MetricsManager(registry.snapshot)
    metrics.watch(Level("depth"))
    for _ in range(MAX_SAMPLES + 50):
        clock.advance(0.1)
        metrics.sample()
    assert metrics.samples == MAX_SAMPLES
    clock.advance(10_000)
    metrics.sample()
    assert metrics.samples <= 2
    with pytest.raises(ValueError, match="selections"):
        metrics.watch(*(Level(f"depth{number}") for number in range(MAX_SELECTIONS)))
    with pytest.raises(ValueError, match="a window is"):
        metrics.window(3600)


# -- the default rules ----------------------------------------------------------------------------------------------


def test_thresholds_are_the_seeds():
    thresholds = PerformanceThresholds()
    seed = {
        "max_response_time_ms": 2000,
        "avg_response_time_ms": 1500,
        "concurrent_users": 10,
        "memory_usage_per_user_mb": 256,
        "websocket_event_latency_ms": 50,
        "error_rate_percent": 0.1,
    }
    assert {name: thresholds[name] for name in seed} == seed
    assert PerformanceThresholds.of(seed) == thresholds
    success = {
        # No cross-user event, less than 2 s on average, ten users, less than 1 GB, 50 ms, 0.1 %, 99.9 %.
        "isolation_violations": 0,
        "max_response_time_ms": 2000,
        "concurrent_users": 10,
        "max_memory_per_user_mb": 1024,
        "websocket_event_latency_ms": 50,
        "error_rate_percent": 0.1,
        "availability_percent": 99.9,
    }
    assert {name: thresholds[name] for name in success} == success
    ends = {rule.name: rule.clears_at for rule in default_rules()}
    assert ends == {
        "isolation_violation": 0,
        "slow_runs": 2.0,
        "few_users": 10,
        "user_memory": 1024**3,
        "event_latency": 0.05,
        "error_rate": 0.1,
        "availability": 99.9,
    }
    limits = {rule.name: (rule.direction, rule.threshold) for rule in default_rules()}
    assert limits == {
        "isolation_violation": ("above", 0),
        "slow_runs": ("above", 2.5),
        "few_users": ("below", 8),
        "user_memory": ("above", pytest.approx(1.2 * 1024**3)),
        "event_latency": ("above", 0.1),
        "error_rate": ("above", 0.5),
        "availability": ("below", 99.5),
    }


def test_an_alert_below_what_is_allowed_at_most_ends_at_the_average():
    limits = PerformanceThresholds(alert_response_time_ms=1800, alert_memory_per_user_mb=500)
    ends = {rule.name: rule.clears_at for rule in default_rules(limits)}
    assert (ends["slow_runs"], ends["user_memory"]) == (1.5, 256 * 1024**2)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"max_respons_time_ms": 1}, ValueError, "did you mean max_response_time_ms"),
        ({"error_rate_percent": -1}, ValueError, "at least 0"),
        ({"availability_percent": 101}, ValueError, "at most 100"),
        ({"alert_response_time_ms": 1000}, ValueError, "while all is well"),
        ({"alert_concurrent_users": 11}, ValueError, "while all is well"),
        ({"concurrent_users": "ten"}, TypeError, "is a number"),
        ([], TypeError, "a mapping"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(given, error, text):
    with pytest.raises(error, match=text):
        PerformanceThresholds.of(given)
    with pytest.raises(KeyError):
        PerformanceThresholds()["_secret"]


def counters(registry: Registry, ok: float, failed: float, name: str, label: str) -> None:
    registry.set(name, ok, **{label: "ok" if label == "result" else "completed"})
    registry.set(name, failed, **{label: "failed"})


PROVOKED = {
    # rule: what makes it, what ends it
    "isolation_violation": (
        lambda registry: registry.set("isolane_isolation_violations_total", 1),
        lambda registry: None,
    ),
    "slow_runs": (
        lambda registry: registry.seen("isolane_run_duration_seconds", 2.6),
        lambda registry: registry.seen("isolane_run_duration_seconds", *[0.1] * 100),
    ),
    "user_memory": (
        lambda registry: registry.set("isolane_user_memory_max_bytes", 1.3 * 1024**3, "gauge"),
        lambda registry: registry.set("isolane_user_memory_max_bytes", 1.0 * 1024**3, "gauge"),
    ),
    "event_latency": (
        lambda registry: registry.seen("isolane_ws_event_latency_seconds", *[0.2] * 10),
        lambda registry: registry.seen("isolane_ws_event_latency_seconds", *[0.01] * 10_000),
    ),
    "error_rate": (
        lambda registry: counters(registry, 100, 1, "isolane_runs_total", "outcome"),
        lambda registry: counters(registry, 10_000, 1, "isolane_runs_total", "outcome"),
    ),
    "availability": (
        lambda registry: counters(registry, 100, 1, "isolane_health_checks_total", "result"),
        lambda registry: counters(registry, 10_000, 1, "isolane_health_checks_total", "result"),
    ),
}


@pytest.mark.parametrize("name", PROVOKED)
def test_each_default_rule_fires_and_ends(name, clock):
    manager, registry, _ = manager_of()
    registry.seen("isolane_run_duration_seconds")
    registry.seen("isolane_ws_event_latency_seconds")
    make, end = PROVOKED[name]
    assert look(manager, clock) == []
    make(registry)
    assert look(manager, clock) == [f"{name} firing"]
    end(registry)
    assert look(manager, clock, 901 if name == "isolation_violation" else 5) == [f"{name} resolved"]


def test_few_users_is_an_alert_only_while_others_are_kept_out(clock):
    manager, registry, _ = manager_of()

    def serve(users: int, waiting: int, active: int) -> list[str]:
        for name, value in {"users_served": users, "permits_waiting": waiting, "permits_active": active}.items():
            registry.set(f"isolane_{name}", value, "gauge")
        registry.set("isolane_permits_limit", 10, "gauge")
        return [name for _ in range(14) for name in look(manager, clock)]

    assert serve(2, 0, 2) == []
    assert serve(1, 9, 5) == [], "who waits for a limit of their own keeps nobody out"
    assert serve(8, 9, 10) == []
    assert serve(7, 9, 10) == ["few_users firing"]
    assert serve(9, 9, 10) == [], "the target is ten"
    assert serve(10, 9, 10) == ["few_users resolved"]
    assert serve(7, 9, 10) == ["few_users firing"]
    assert serve(7, 0, 7) == ["few_users resolved"], "nobody is kept out"


# -- the metrics of the process -------------------------------------------------------------------------------------


def figure_of(name: str, **labels: str) -> float:
    (family,) = [each for key, each in _core.metrics_snapshot().items() if key.removesuffix("_total") == name]
    return sum(series["value"] for series in family["series"] if series["labels"] == labels)


def test_alerts_are_counted_and_shown_also_after_the_metrics_were_off(clock):
    gc.collect()
    manager, registry, _ = manager_of(depth())
    before = figure_of("isolane_alerts", rule="deep", state="firing")
    ended = figure_of("isolane_alerts", rule="deep", state="resolved")
    look(manager, clock)
    registry.set("depth", 11, "gauge")
    was = _core.set_metrics_enabled(False)
    try:
        look(manager, clock)
        assert figure_of("isolane_alerts_active", rule="deep") == 0
        _core.set_metrics_enabled(True)
        look(manager, clock)
        assert figure_of("isolane_alerts_active", rule="deep") == 1
        registry.set("depth", 1, "gauge")
        look(manager, clock)
        assert figure_of("isolane_alerts_active", rule="deep") == 0
        assert figure_of("isolane_alerts", rule="deep", state="firing") == before
        assert figure_of("isolane_alerts", rule="deep", state="resolved") == ended + 1
        registry.set("depth", 11, "gauge")
        look(manager, clock)
        assert figure_of("isolane_alerts_active", rule="deep") == 1
        manager.close()
        assert figure_of("isolane_alerts_active", rule="deep") == 0, "nobody looks any more"
    finally:
        _core.set_metrics_enabled(was)


def test_a_name_that_was_raised_and_is_forgotten_is_not_shown_as_active(clock):
    manager, _, _ = manager_of(depth())
    manager.raise_alert("raised", "info", "it rains")
    manager.tick()
    assert figure_of("isolane_alerts_active", rule="raised") == 1
    clock.advance(301)
    for number in range(MAX_RAISED + 1):
        manager.raise_alert(f"name{number}", "info", "one of many")
    manager.tick()
    assert figure_of("isolane_alerts_active", rule="raised") == 0


def test_every_default_rule_reads_metrics_that_there_are(clock):
    families = {family["name"]: family for family in _core.metric_families()}
    manager = AlertManager()
    manager.metrics.sample()
    for rule in manager.rules:
        for selection in rule.value.selections():
            family = families[selection.family.removesuffix("_total")]
            assert family["kind"] == selection.kind, selection.family
            for label, values in selection.where.items():
                allowed = family["labels"][label]
                assert isinstance(allowed, int) or set([values] if isinstance(values, str) else values) <= set(allowed)
