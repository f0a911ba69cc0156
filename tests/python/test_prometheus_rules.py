"""The file of rules for Prometheus: what the product writes, of metrics that there are, checked and run by promtool."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from isolane import _core
from isolane.cli import main
from isolane.observability import AlertRule, Increase, default_rules, prometheus_rules
from isolane.observability.rules import as_yaml, promql_of

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/prometheus/isolane-rules.yaml"


def test_the_file_is_what_the_command_writes(capsys):
    assert main(["alerts", "rules"]) == 0
    assert capsys.readouterr().out == FILE.read_text(encoding="utf-8")


def test_the_file_says_what_the_rules_are():
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert document == prometheus_rules()
    names = {rule["labels"]["rule"] for group in document["groups"] for rule in group["rules"]}
    assert names == {rule.name for rule in default_rules()} | {"gone"}


def test_other_thresholds_are_written_and_unknown_ones_refused(capsys):
    assert main(["alerts", "rules", "--set", "alert_response_time_ms=3500"]) == 0
    assert "> 3.5 or" in capsys.readouterr().out
    assert main(["alerts", "rules", "--set", "alert_respons_time_ms=3500"]) == 2
    assert "did you mean alert_response_time_ms" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["alerts", "rules", "--set", "nonsense"])


def test_each_metric_and_label_of_the_file_is_in_the_registry():
    samples: dict[str, dict[str, Any]] = {}
    for family in _core.metric_families():
        name = family["name"].removesuffix("_total")
        endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[family["kind"]]
        for ending in endings:
            samples[name + ending] = family["labels"]
    text = FILE.read_text(encoding="utf-8")
    used = re.findall(r"\b(isolane_\w+)(?:\{([^}]*)\})?", "\n".join(re.findall(r"expr: (.*)", text)))
    assert len({name for name, _ in used}) >= 10
    for name, matchers in used:
        assert name in samples, name
        for label, values in re.findall(r'(\w+)=~?\\"([^"\\]*)\\"', matchers):
            allowed = samples[name][label]
            assert isinstance(allowed, int) or set(values.split("|")) <= set(allowed), (name, label, values)


def test_a_rule_that_prometheus_cannot_compute_is_refused():
    rule = AlertRule(name="own", value=lambda _window: 1.0, threshold=1, summary="one of the application's")
    with pytest.raises(ValueError, match="Prometheus cannot call"):
        promql_of(rule)


ODD = ("c++ (new)", 'says "hi"', "back\\slash", "two\nlines", "plain")


@pytest.mark.parametrize("names", [*((name,) for name in ODD), ODD])
def test_prometheus_finds_an_agent_whatever_it_is_called(names, promtool, tmp_path):
    value = Increase("isolane_runs_total", {"agent": names, "outcome": "failed"})
    rule = AlertRule(name="own", value=value, threshold=len(names) - 0.5, window=60, summary="one of the application's")
    file, test = tmp_path / "rules.yaml", tmp_path / "test.yaml"
    file.write_text(as_yaml(prometheus_rules([rule])), encoding="utf-8")
    series = [f'isolane_runs_total{{agent={json.dumps(name)},outcome="failed"}}' for name in (*names, "ccc (new)")]
    found = {"expr": 'count(ALERTS{alertname="IsolaneOwn"})', "eval_time": "5m"}
    cases = {
        "interval": "1m",
        "input_series": [{"series": each, "values": "_ _ _ _ _ 1"} for each in series],
        "promql_expr_test": [{**found, "exp_samples": [{"labels": "{}", "value": 1}]}],
    }
    test.write_text(yaml.safe_dump({"rule_files": [str(file)], "tests": [cases]}), encoding="utf-8")
    run(promtool, "test", "rules", str(test))


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        reason = "promtool is not installed (Debian: prometheus)"
        if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return str(found)


def run(promtool: str, *arguments: str) -> str:
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_file(promtool):
    assert f"{len(default_rules()) + 1} rules found" in run(promtool, "check", "rules", str(FILE))


SCRAPED = 'job="svc", instance="a:1"'
CASES: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = {
    # alert: series that make it, and their nearest neighbours that do not; each lasts 30 minutes, a value a minute
    "IsolaneIsolationViolation": (
        [('isolane_isolation_violations_total{boundary="publish",tier="exact"}', "0x9 1x20")],
        [('isolane_isolation_violations_total{boundary="publish",tier="exact"}', "1x30")],
    ),
    "IsolaneSlowRuns": (
        [("isolane_run_duration_seconds_sum", "0+26x30"), ("isolane_run_duration_seconds_count", "0+10x30")],
        [("isolane_run_duration_seconds_sum", "0+24x30"), ("isolane_run_duration_seconds_count", "0+10x30")],
    ),
    "IsolaneFewUsers": (
        [
            ("isolane_users_served", "7x30"),
            ("isolane_permits_waiting", "1x30"),
            ("isolane_permits_active", "10x30"),
            ("isolane_permits_limit", "10x30"),
        ],
        [
            ("isolane_users_served", "7x30"),
            ("isolane_permits_waiting", "1x30"),
            ("isolane_permits_active", "9x30"),
            ("isolane_permits_limit", "10x30"),
        ],
    ),
    "IsolaneUserMemory": (
        [("isolane_user_memory_max_bytes", "1300000000x30")],
        [("isolane_user_memory_max_bytes", "1250000000x30")],
    ),
    "IsolaneEventLatency": (
        [
            ('isolane_ws_event_latency_seconds_bucket{type="a",le="0.1"}', "0+98x30"),
            ('isolane_ws_event_latency_seconds_bucket{type="a",le="0.25"}', "0+100x30"),
            ('isolane_ws_event_latency_seconds_bucket{type="a",le="+Inf"}', "0+100x30"),
        ],
        [
            ('isolane_ws_event_latency_seconds_bucket{type="a",le="0.1"}', "0+992x30"),
            ('isolane_ws_event_latency_seconds_bucket{type="a",le="0.25"}', "0+1000x30"),
            ('isolane_ws_event_latency_seconds_bucket{type="a",le="+Inf"}', "0+1000x30"),
        ],
    ),
    "IsolaneErrorRate": (
        [
            ('isolane_runs_total{agent="a",outcome="completed"}', "0+994x30"),
            ('isolane_runs_total{agent="a",outcome="timeout"}', "0+6x30"),
        ],
        [
            ('isolane_runs_total{agent="a",outcome="completed"}', "0+996x30"),
            ('isolane_runs_total{agent="a",outcome="timeout"}', "0+4x30"),
            ('isolane_runs_total{agent="b",outcome="cancelled"}', "0+100x30"),
        ],
    ),
    "IsolaneAvailability": (
        [
            ('isolane_health_checks_total{result="ok"}', "0+994x35"),
            ('isolane_health_checks_total{result="failed"}', "0+6x35"),
        ],
        [
            ('isolane_health_checks_total{result="ok"}', "0+996x35"),
            ('isolane_health_checks_total{result="failed"}', "0+4x35"),
        ],
    ),
    "IsolaneGone": ([("isolane_users_active", "1x30")], [('isolane_build_info{version="1"}', "1x30")]),
}


def scraped(series: list[tuple[str, str]]) -> list[dict[str, str]]:
    rows = []
    for name, values in series:
        family, _, labels = name.partition("{")
        rows.append({"series": f"{family}{{{SCRAPED}{', ' + labels if labels else '}'}", "values": values})
    return rows


def asked(alert: str, tmp_path: Path, series: list[tuple[str, str]], at: str, fires: bool) -> Path:
    rule = next(each for each in prometheus_rules()["groups"][0]["rules"] if each["alert"] == alert)
    series = series if alert == "IsolaneGone" else [*series, ('isolane_build_info{version="1"}', "1x40")]
    firing = [] if alert == "IsolaneGone" else [{"exp_labels": {**rule["labels"], "job": "svc", "instance": "a:1"}}]
    if alert == "IsolaneGone":
        firing = [{"exp_labels": rule["labels"]}]
    test = {
        "rule_files": [str(FILE)],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "1m",
                "input_series": scraped(series),
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                        "eval_time": at,
                        "exp_samples": [{"labels": "{}", "value": len(firing) if fires else 0}],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test), encoding="utf-8")
    return path


def test_each_rule_of_the_file_has_a_case():
    assert set(CASES) == {rule["alert"] for rule in prometheus_rules()["groups"][0]["rules"]}


@pytest.mark.parametrize("alert", CASES)
def test_promtool_sees_the_alert_fire_and_its_neighbour_not(alert, promtool, tmp_path):
    makes, neighbour = CASES[alert]
    at = "20m" if alert != "IsolaneAvailability" else "33m"
    run(promtool, "test", "rules", str(asked(alert, tmp_path, makes, at, fires=True)))
    run(promtool, "test", "rules", str(asked(alert, tmp_path, neighbour, "29m", fires=False)))


def test_a_series_that_begins_with_a_violation_is_an_alert_and_ends_after_a_quarter_of_an_hour(promtool, tmp_path):
    born = [('isolane_isolation_violations_total{boundary="publish",tier="exact"}', "_x5 1x30")]
    for at, fires in [("4m", False), ("7m", True), ("18m", True), ("25m", False)]:
        run(promtool, "test", "rules", str(asked("IsolaneIsolationViolation", tmp_path, born, at, fires=fires)))


def test_an_alert_of_the_file_ends_at_its_target_and_not_before(promtool, tmp_path):
    # Above the limit of 1.2 GB; below it and above nine tenths of it; below these.
    levels = [("isolane_user_memory_max_bytes", "1300000000x9 1240000000x9 1000000000x12")]
    for at, fires in [("5m", True), ("15m", True), ("25m", False)]:
        run(promtool, "test", "rules", str(asked("IsolaneUserMemory", tmp_path, levels, at, fires=fires)))
    never = [("isolane_user_memory_max_bytes", "1240000000x30")]
    run(promtool, "test", "rules", str(asked("IsolaneUserMemory", tmp_path, never, "15m", fires=False)))


def test_the_text_is_in_quotes_that_yaml_reads_as_json_does():
    odd = AlertRule(
        name="odd", value=default_rules()[0].value, threshold=0, summary='a "quote", a # and a: colon', unit="%"
    )
    assert yaml.safe_load(as_yaml(prometheus_rules([odd]))) == prometheus_rules([odd])
