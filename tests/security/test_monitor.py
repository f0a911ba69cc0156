"""Rules over the stream of security events."""

from __future__ import annotations

import logging
import threading

import pytest
from isolane.security.alerts import LoggingAlertSink, SecurityAlert
from isolane.security.events import AuditClass, SecurityEvent, Severity
from isolane.security.monitor import DEFAULT_RULES, MAX_WINDOWS, SecurityMonitor, SecurityRule
from isolane.testing import manual_clock

THREE_IN_TEN = SecurityRule(
    name="three", events=frozenset({"authz_fail"}), threshold=3, window=10.0, summary="three were refused"
)


class Kept:
    def __init__(self) -> None:
        self.alerts: list[SecurityAlert] = []

    def send(self, alert: SecurityAlert) -> None:
        self.alerts.append(alert)


def refused(user: str | None = "ann-01", name: str = "authz_fail") -> SecurityEvent:
    return SecurityEvent(name=name, audit_class=AuditClass.PERMISSION, user_id=user, data={"secret": "of ann"})


@pytest.fixture
def clock():
    with manual_clock() as clock:
        yield clock


def monitor_of(*rules: SecurityRule, **options) -> tuple[SecurityMonitor, Kept]:
    kept = Kept()
    return SecurityMonitor(rules, [kept], **options), kept


def test_so_many_events_within_the_window_make_an_alert_without_anybodys_data(clock) -> None:
    monitor, kept = monitor_of(THREE_IN_TEN)
    for _ in range(2):
        assert monitor.observe(refused()) == []
        clock.advance(4)
    (alert,) = monitor.observe(refused())
    assert kept.alerts == [alert]
    assert (alert.rule, alert.count, alert.severity) == ("three", 3, Severity.HIGH)
    assert alert.subject == monitor.pseudonym("ann-01")
    assert "ann" not in str(alert.to_dict())


def test_events_that_are_too_far_apart_make_none(clock) -> None:
    monitor, kept = monitor_of(THREE_IN_TEN)
    for _ in range(20):
        monitor.observe(refused())
        clock.advance(5.1)
    assert kept.alerts == []


def test_users_are_counted_each_by_itself_unless_the_rule_says_otherwise(clock) -> None:
    everybody = SecurityRule(
        name="all", events=frozenset({"authz_fail"}), threshold=3, per_user=False, summary="three of anybody"
    )
    monitor, kept = monitor_of(THREE_IN_TEN, everybody)
    for user in ("ann-01", "bob-01", "cid-01"):
        monitor.observe(refused(user))
    assert [(alert.rule, alert.subject) for alert in kept.alerts] == [("all", None)]


def test_after_an_alert_the_rule_is_silent_about_the_user_and_counts_what_it_holds_back(clock) -> None:
    once = SecurityRule(name="once", events=frozenset({"authz_fail"}), summary="one was refused")
    monitor, kept = monitor_of(once, cooldown=30)
    for _ in range(5):
        monitor.observe(refused())
    monitor.observe(refused("bob-01"))
    assert [alert.suppressed for alert in kept.alerts] == [0, 0]
    # Not 30: seconds as floats may differ by a little less.
    clock.advance(30.5)
    monitor.observe(refused())
    assert [alert.suppressed for alert in kept.alerts] == [0, 0, 4]
    assert monitor.get_statistics()["suppressed"] == 4


def test_a_rule_of_isolation_asks_for_it_once_and_by_id(clock) -> None:
    asked = []
    monitor = SecurityMonitor(sinks=[], on_isolate=lambda alert, user: asked.append((alert.rule, user)))
    for _ in range(3):
        monitor.observe(refused("ann-01", "isolation_violation"))
    monitor.observe(refused("ann-01"))
    assert asked == [("isolation_violation", "ann-01")]


def test_a_sink_that_fails_keeps_nobody_from_anything(clock, caplog) -> None:
    class Broken:
        def send(self, _: SecurityAlert) -> None:
            raise OSError("disk of ann-01 is full")

    def isolate(*_: object) -> None:
        raise RuntimeError("cannot isolate ann-01")

    kept = Kept()
    monitor = SecurityMonitor(sinks=[Broken(), kept], on_isolate=isolate)
    monitor.observe(refused("ann-01", "isolation_violation"))
    assert len(kept.alerts) == 1
    assert monitor.get_statistics()["failed"] == 2
    assert "ann-01" not in caplog.text


def test_counts_are_bounded_and_the_one_touched_least_recently_goes(clock) -> None:
    monitor, kept = monitor_of(THREE_IN_TEN)
    monitor.observe(refused("first"))
    for _ in range(2):
        monitor.observe(refused("second"))
    for number in range(MAX_WINDOWS - 2):
        monitor.observe(refused(f"user-{number}"))
    monitor.observe(refused("first"))
    assert monitor.get_statistics()["forgotten"] == 0
    monitor.observe(refused("one-more"))
    statistics = monitor.get_statistics()
    assert (statistics["counts"], statistics["forgotten"]) == (MAX_WINDOWS, 1)
    monitor.observe(refused("second"))
    assert kept.alerts == [], "what was counted of the second is forgotten"
    monitor.observe(refused("first"))
    assert len(kept.alerts) == 1


def test_each_event_counts_for_one_alert(clock) -> None:
    monitor, kept = monitor_of(THREE_IN_TEN, cooldown=0)
    for _ in range(7):
        monitor.observe(refused())
    assert len(kept.alerts) == 2


def test_threads_lose_no_event() -> None:
    rule = SecurityRule(name="all", events=frozenset({"authz_fail"}), threshold=4000, summary="many", per_user=False)
    monitor, kept = monitor_of(rule)
    threads = [
        threading.Thread(target=lambda: [monitor.observe(refused(f"user-{at}")) for at in range(500)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept.alerts) == 1
    assert monitor.get_statistics()["events"] == 4000


def test_a_sink_may_hand_in_an_event_of_its_own(clock) -> None:
    class Telling:
        def send(self, _: SecurityAlert) -> None:
            monitor.observe(refused("system-1", "note"))

    monitor = SecurityMonitor([SecurityRule(name="a", events=frozenset({"x"}), summary="s")], [Telling()])
    monitor.observe(refused(name="x"))
    assert monitor.get_statistics()["events"] == 2


async def test_the_awaited_form_is_the_same(clock) -> None:
    monitor, kept = monitor_of(*DEFAULT_RULES)
    (alert,) = await monitor.process_security_event(refused(name="isolation_violation"))
    assert kept.alerts == [alert]
    assert monitor.recent_alerts == (alert,)


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"window": 0}, {"window": float("nan")}, {"events": frozenset()}])
def test_a_rule_that_could_never_or_always_fire_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="the rule 'r'"):
        SecurityRule(**{"name": "r", "events": frozenset({"x"}), "summary": "s", **wrong})


def test_rules_of_one_name_and_a_negative_cooldown_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        SecurityMonitor([THREE_IN_TEN, THREE_IN_TEN])
    with pytest.raises(ValueError, match="cooldown"):
        SecurityMonitor(cooldown=-1)


def test_the_log_gets_the_alert_at_the_level_of_its_severity(caplog) -> None:
    sink = LoggingAlertSink()
    with caplog.at_level(logging.INFO):
        for severity in Severity:
            sink.send(SecurityAlert(rule="r", severity=severity, summary="s"))
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "ERROR", "CRITICAL"]
    assert caplog.records[0].alert["rule"] == "r"
