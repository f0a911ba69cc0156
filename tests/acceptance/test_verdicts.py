"""What the parts say of what they are given: verdicts, leaks, events, measures."""

from __future__ import annotations

import json

import pytest
from isolane.acceptance import AcceptanceThresholds, Bound, IsolationTester, MetricsValidator, TestResult, Verdict
from isolane.acceptance.events import EventShape, judged
from isolane.acceptance.leaks import plain_path
from isolane.acceptance.records import Receipt, Run, Transcript
from isolane.acceptance.target import Usage
from isolane.acceptance.trials.concurrency import most_at_once
from isolane.acceptance.trials.resources import left

tester = IsolationTester(7)


def test_a_test_passes_only_with_checks_and_controls_that_were_seen() -> None:
    result = TestResult("x")
    result.set_success("all is well")
    assert result.verdict is Verdict.INCONCLUSIVE
    result.add_check("something")
    assert result.problems() == ["inconclusive: nothing was planted"]
    result.add_control("a fault", seen=True)
    assert result.verdict is Verdict.PASSED
    result.add_check("nothing of this", 0)
    assert result.problems() == ["inconclusive: there was nothing to check: nothing of this"]
    result.add_failure("wrong")
    assert (result.verdict, result.problems()) == (Verdict.FAILED, ["wrong"])


def test_a_control_that_is_not_seen_makes_it_inconclusive() -> None:
    result = TestResult("x")
    result.add_check("something")
    result.add_control("a fault", seen=False)
    assert (result.verdict, result.success) == (Verdict.INCONCLUSIVE, False)


def two(*receipts: Receipt) -> list[Transcript]:
    return [Transcript("ann", list(receipts), run_ids={"run-of-ann"}), Transcript("bob", run_ids={"run-of-bob-1"})]


@pytest.mark.parametrize(
    ("receipt", "place", "path"),
    [
        (lambda mark: Receipt("body", "GET /x", f'{{"a": [1, {{"b": "{mark}"}}]}}', 0), "GET /x", "$.a[*].b"),
        (lambda mark: Receipt("body", "GET /x", b"\xff\xfe" + mark.encode(), 0), "GET /x", "$"),
        (lambda mark: Receipt("header", "GET /x", f"etag: {mark}", 0), "the headers of GET /x", "$"),
        (lambda mark: Receipt("body", "GET /x", f'{{"a": "{mark}", "a": "nothing"}}', 0), "GET /x", "$"),
        (
            lambda mark: Receipt("frame", "/ws", json.dumps({"type": "t", "payload": {mark: 1}}), 0),
            "/ws, event t",
            "$.payload[key 0]",
        ),
        (
            lambda mark: Receipt(
                "frame", "/ws", json.dumps({"t": "ev", "b": [{"n": 1, "ev": {"type": "t", "x": mark}}]}), 0
            ),
            "/ws, event t",
            "$.b[*].ev.x",
        ),
    ],
    ids=["json", "bytes", "header", "doubled key", "key", "framed"],
)
def test_a_canary_of_another_is_found_with_its_place(receipt, place, path) -> None:
    found = tester.examine(two(receipt(tester.mint("bob")))).leaks
    assert [(one.owner, one.seen_by, one.place, one.path, one.count) for one in found] == [
        ("bob", "ann", place, path, 1)
    ]
    # Its nearest neighbour, an own one, is no leak.
    own = tester.examine(two(receipt(tester.mint("ann"))))
    assert (own.leaks, own.own["ann"]) == ([], 1)


def test_a_run_id_of_another_is_found_and_a_refusal_may_repeat_it() -> None:
    body = json.dumps({"rows": [{"run": "run-of-bob-1"}], "own": "run-of-ann"})
    (leak,) = tester.examine(two(Receipt("body", "GET /x", body, 0))).leaks
    assert (leak.evidence, leak.owner, leak.path) == ("run id", "bob", "$.rows[*].run")
    assert tester.examine(two(Receipt("refusal", "GET /x", body, 0))).leaks == []


def test_reports_show_names_and_no_data() -> None:
    rows = {"ann@example.com has a key": {"rows": {"run-of-bob-1": 1}}, "run": "run-of-bob-1"}
    found = tester.examine(two(Receipt("body", "GET /x", json.dumps(rows), 0))).leaks
    assert sorted(one.path for one in found) == ["$.(no word).rows.(no word)", "$.run"]
    told = said(event("the secret of bob", 1, run="r2"))
    assert "foreign event: ann, (no word) of a run of somebody else over /ws" in told


def test_paths_are_written_as_usual() -> None:
    assert plain_path("$[payload][rows][0].note") == "$.payload.rows[*].note"


SHAPE = EventShape(required=("agent_started",))


def event(kind: str, seq: int | None, run: str = "r1", span: str = "s", **payload) -> Receipt:
    message = {"type": kind, "run_id": run, "request_id": span, "payload": payload}
    return Receipt("frame", "/ws", json.dumps(message if seq is None else {**message, "seq": seq}), 0)


def said(*receipts: Receipt, runs: tuple[str, ...] = ("r1",)) -> list[str]:
    transcript = Transcript("ann", list(receipts), [Run(run, outcome="completed") for run in runs], set(runs))
    return [str(fault) for fault in judged(transcript, SHAPE.events(transcript), SHAPE)]


RIGHT = (
    event("agent_started", 1),
    event("tool_executing", 2, tool_name="t"),
    event("tool_completed", 3, tool_name="t"),
    event("agent_completed", 4),
)


def test_right_events_have_no_faults() -> None:
    assert said(*RIGHT) == []


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ((RIGHT[0], RIGHT[3]), "missing: ann, nothing with number 2 came before agent_completed"),
        ((*RIGHT[1:],), "missing: ann, nothing with number 1 came before tool_executing"),
        (
            (RIGHT[0], RIGHT[2], RIGHT[1], RIGHT[3]),
            "out of order: ann, tool_executing has number 2 and came after number 3",
        ),
        ((*RIGHT, RIGHT[3]), "doubled: ann, agent_completed: a second end of one span"),
        ((*RIGHT[:3],), "missing: ann, the end of a span"),
        ((RIGHT[0], RIGHT[1], event("agent_completed", 3)), "missing: ann, the end of a call of the tool t"),
        ((*RIGHT, event("agent_thinking", 5)), "out of order: ann, agent_thinking came after the end of its span"),
        (
            (*RIGHT, event("agent_thinking", 1, run="r2")),
            "foreign event: ann, agent_thinking of a run of somebody else over /ws",
        ),
        ((event("agent_thinking", 1),), "missing: ann, a completed run without agent_started"),
    ],
)
def test_each_fault_of_events_is_said(events, says) -> None:
    assert says in said(*events)


def test_agents_without_span_names_may_run_again() -> None:
    again = [event("agent_started", None), event("agent_completed", None)]
    assert said(*again, *again) == []
    assert said(again[0], *again) == ["doubled: ann, agent_started of a span that has begun"]


def test_measures_are_held_against_their_bounds() -> None:
    metrics = MetricsValidator(AcceptanceThresholds(response=Bound(1.0, 2.0, "s")))
    result = TestResult("x")
    metrics.average("response", [0.1, 0.2], result, "the time")
    assert result.success
    metrics.average("response", [0.1, 3.0], result, "the time")
    assert result.failures == ["the time is 1550.0 ms; asked for is at most 1000.0 ms"]
    metrics.single("users", 9, result, "users")
    assert result.failures[-1] == "users is 9 users; asked for is at least 10 users"
    metrics.single("users", 7, result, "users")
    assert result.failures[-1] == "users is 7 users and is beyond the alert; asked for is at least 10 users"


def test_no_values_are_no_pass() -> None:
    result = TestResult("x")
    MetricsValidator().average("response", [], result, "the time")
    result.add_control("a", seen=True)
    assert result.verdict is Verdict.INCONCLUSIVE


def test_thresholds_are_those_that_are_asked_for() -> None:
    thresholds = AcceptanceThresholds()
    assert (thresholds.response.target, thresholds.response.alert) == (2.0, 2.5)
    assert (thresholds.users.target, thresholds.users.alert) == (10, 8)
    assert (thresholds.memory.target, thresholds.memory.alert) == (1024**3, 1.2 * 1024**3)
    assert (thresholds.event.target, thresholds.event.alert) == (0.05, 0.1)
    assert (thresholds.errors.target, thresholds.errors.alert) == (0.001, 0.005)
    assert (thresholds.available.target, thresholds.available.alert) == (0.999, 0.995)


def test_what_is_left_and_what_overlaps() -> None:
    assert left(Usage(counts={"runs": 1}), Usage(counts={"runs": 1})) == []
    assert len(left(Usage(descriptors=10), Usage(descriptors=30, counts={"runs": 2}))) == 2
    assert most_at_once([Run(began=0, seconds=2), Run(began=1, seconds=2), Run(began=2.5, seconds=1)]) == 2
