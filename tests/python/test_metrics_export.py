"""What was measured, as somebody else's registry has it, and as changes for exporters that push."""

from __future__ import annotations

import gc
import math
import warnings

import pytest
from isolane._core import metric, metric_families, metrics_snapshot
from isolane.observability import metrics
from isolane.observability.metrics import MetricDrain, content_type, drain, render, snapshot
from isolane.observability.prometheus import IsolaneCollector, register, unregister
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from tests.support.metric_names import reserve

AGENT, OTHER_AGENT = reserve("export-agent", "export-other", label="agent")
(STRANGE,) = reserve('export-"quoted"\\and\nbroken', label="agent")


def samples(families) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def move() -> None:
    metric("isolane_runs_total").labels(AGENT, "completed").inc(3)
    metric("isolane_runs_total").labels(STRANGE, "failed").inc()
    for seconds in (0.02, 0.2, 60):
        metric("isolane_run_duration_seconds").labels(AGENT).observe(seconds)
    metric("isolane_loop_lag_seconds").set(0.125)


def test_both_texts_and_the_collector_say_the_same() -> None:
    move()
    # What other tests left behind is not to go between two of the texts.
    gc.collect()
    registry = CollectorRegistry()
    collector = register(registry)
    try:
        ours = samples(parse_prometheus(render("prometheus")))
        assert samples(parse_openmetrics(render())) == ours
        collected = samples(parse_prometheus(generate_latest(registry).decode()))
        assert collected == ours
        assert isinstance(collector, IsolaneCollector)
        assert ours[("isolane_runs_total", (("agent", STRANGE), ("outcome", "failed")))] >= 1
    finally:
        unregister(registry)


def test_registering_twice_is_registering_once_and_it_can_be_taken_back() -> None:
    registry = CollectorRegistry()
    first = register(registry)
    assert register(registry) is first
    assert b"isolane_runs_total" in generate_latest(registry)
    assert unregister(registry)
    assert not unregister(registry)
    assert b"isolane" not in generate_latest(registry)
    assert register(registry) is not first
    unregister(registry)


def test_a_name_that_is_taken_is_refused_on_both_sides() -> None:
    registry = CollectorRegistry()
    register(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("isolane_runs", "another", registry=registry)
    taken = CollectorRegistry()
    Counter("isolane_runs", "another", registry=taken)
    with pytest.raises(ValueError, match="Duplicated"):
        register(taken)
    assert not unregister(taken)
    unregister(registry)


def test_where_custom_collectors_vanish_it_says_so(monkeypatch: pytest.MonkeyPatch, caplog, tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry = CollectorRegistry()
        register(registry)
        unregister(registry)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="PROMETHEUS_MULTIPROC_DIR is set"):
        register(registry)
    assert "ISOLANE_METRICS_PATH" in caplog.text
    unregister(registry)


def test_the_descriptions_are_of_all_families() -> None:
    described = {family.name for family in IsolaneCollector().describe()}
    assert described == {family["name"] for family in metric_families()}
    assert snapshot().keys() == metrics_snapshot().keys()


def test_a_drain_tells_what_came_since_it_was_asked_last() -> None:
    mine, other = MetricDrain(), MetricDrain()
    move()
    mine.drain()
    move()
    changed = {(change.name, *change.labels.values()): change for change in mine.drain()}
    runs = changed[("isolane_runs_total", AGENT, "completed")]
    assert (runs.kind, runs.value, runs.count) == ("counter", 3, 0)
    took = changed[("isolane_run_duration_seconds", AGENT)]
    assert (took.kind, took.count) == ("histogram", 3)
    assert took.value == pytest.approx(60.22)
    assert (took.buckets[0], took.buckets[-1]) == ((0.05, 1), (math.inf, 3))
    assert not [change for change in changed.values() if change.name == "isolane_loop_lag_seconds"], "it is as before"
    assert mine.drain() == []
    metric("isolane_loop_lag_seconds").set(0.5)
    (level,) = mine.drain()
    assert (level.name, level.kind, level.value) == ("isolane_loop_lag_seconds", "gauge", 0.5)
    assert len(other.drain()) > len(changed), "the first answer has all that was before"
    assert other.drain() == []


def test_a_drain_goes_on_where_counting_began_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(count: int) -> dict:
        series = [{"labels": {"agent": "a"}, "value": count}]
        return {"isolane_runs_total": {"kind": "counter", "help": "", "series": series}}

    mine = MetricDrain()
    for count, change in ((5, 5), (7, 2), (3, 3)):
        monkeypatch.setattr(metrics, "metrics_snapshot", lambda count=count: told(count))
        assert [each.value for each in mine.drain()] == [change]


def test_the_drain_of_the_process_is_shared() -> None:
    move()
    assert drain()
    move()
    assert {change.name for change in drain()} >= {"isolane_runs_total", "isolane_run_duration_seconds"}
    assert drain() == []


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, "prometheus"),
        ("", "prometheus"),
        ("*/*", "prometheus"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "prometheus"),
        ("application/json", "prometheus"),
        ("application/openmetrics-text", "openmetrics"),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "openmetrics"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,*/*;q=0.2",
            "openmetrics",
        ),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.9", "prometheus"),
        ("application/openmetrics-text;version=9.9.9", "prometheus"),
        ("application/openmetrics-text;q=0,text/plain;q=0", "prometheus"),
        ("application/openmetrics-text;q=many", "prometheus"),
    ],
)
def test_the_format_is_the_one_that_is_wanted(accept: str | None, wanted: str) -> None:
    assert content_type(accept) == wanted
