"""The metrics of the core: what is counted, how it is told, and what a name may do to it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    AuditClass,
    AuditUnavailableError,
    BaseAgent,
    EngineLimitError,
    ExecutionEngineFactory,
    FairLimiter,
    LimitRejected,
    LimitTimeout,
)
from isolane._core import (
    charge_memory,
    metric,
    metric_families,
    metrics_enabled,
    metrics_snapshot,
    render_metrics,
    set_metrics_enabled,
)
from isolane.testing import manual_clock

from tests.support.audit_programs import event, opened
from tests.support.measuring import changes
from tests.support.metric_names import reserve

prometheus = pytest.importorskip("prometheus_client.parser")
openmetrics = pytest.importorskip("prometheus_client.openmetrics.parser")

AGENT, OTHER_AGENT = reserve("metrics-agent", "metrics-other-agent", label="agent")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str, text_format: str = "openmetrics") -> Samples:
    """Return what the parser of the format's own reference reads."""
    parse = {"openmetrics": openmetrics, "prometheus": prometheus}[text_format].text_string_to_metric_families
    found: Samples = {}
    for family in parse(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def of_snapshot(snapshot: dict[str, dict[str, Any]]) -> Samples:
    """Return the samples that a snapshot comes to."""
    found: Samples = {}
    for name, family in snapshot.items():
        for series in family["series"]:
            labels = series["labels"]
            if family["kind"] != "histogram":
                found[name, frozenset(labels.items())] = series["value"]
                continue
            for bound, count in series["buckets"]:
                le = "+Inf" if bound == float("inf") else str(float(bound))
                found[f"{name}_bucket", frozenset({**labels, "le": le}.items())] = count
            found[f"{name}_sum", frozenset(labels.items())] = series["sum"]
            found[f"{name}_count", frozenset(labels.items())] = series["count"]
    return found


def level(name: str) -> float:
    """Return the value of a gauge without labels."""
    (series,) = metrics_snapshot()[name]["series"]
    return series["value"]


def elsewhere(program: str, given: object = None) -> Any:
    """Run a program in a process of its own, where names are its own: returns what it prints as JSON."""
    begin = (
        "import json, os, sys\n"
        "from isolane._core import metric, metrics_snapshot, render_metrics\n"
        "given = json.load(sys.stdin)\n"
    )
    command = [sys.executable, "-c", begin + program]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- the texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_format", ["openmetrics", "prometheus"])
def test_the_snapshot_and_the_text_say_the_same(text_format: str) -> None:
    for seconds in (0.0, 0.05, 0.06, 3.0, 100.0):
        metric("isolane_run_duration_seconds").labels(AGENT).observe(seconds)
    metric("isolane_loop_lag_seconds").set(0.0025)
    # Between the two nothing may be measured.
    gc.collect()
    text, snapshot = render_metrics(text_format), metrics_snapshot()
    assert samples(text, text_format) == pytest.approx(of_snapshot(snapshot))
    families = {family["sample"]: family for family in metric_families()}
    for name, told in snapshot.items():
        assert told["kind"] == families[name]["kind"]
        for series in told["series"] if told["kind"] == "histogram" else ():
            counts = [count for _, count in series["buckets"]]
            bounds = [bound for bound, _ in series["buckets"]]
            assert counts == sorted(counts)
            assert counts[-1] == series["count"]
            assert bounds == [*families[name]["buckets"], float("inf")]


def test_a_histogram_counts_into_the_bucket_that_ends_at_the_value() -> None:
    series = metric("isolane_run_duration_seconds").labels(OTHER_AGENT)

    def counts() -> dict[float, int]:
        all_series = metrics_snapshot()["isolane_run_duration_seconds"]["series"]
        (found,) = (each for each in all_series if each["labels"]["agent"] == OTHER_AGENT)
        return dict(map(tuple, found["buckets"]))

    before = counts()
    for seconds in (0.05, 0.0501, 30.0, 30.1, -1.0, float("nan")):
        series.observe(seconds)
    grown = {bound: count - before[bound] for bound, count in counts().items()}
    assert grown[0.05] == 3  # a negative one and one that is no number count as zero
    assert grown[0.1] == 4
    assert grown[10.0] == 4
    assert grown[30.0] == 5
    assert grown[float("inf")] == 6


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.text(
            st.one_of(st.sampled_from('\\"\n{},= #'), st.characters(codec="utf-8", exclude_categories=("Cs",))),
            min_size=1,
            max_size=20,
        ),
        min_size=1,
        max_size=60,
        unique=True,
    )
)
def test_no_name_leaves_its_quotes(names: list[str]) -> None:
    program = """
for at, name in enumerate(given):
    metric("isolane_tool_calls_total").labels(name, "ok").inc(at + 1)
print(json.dumps([render_metrics("openmetrics"), render_metrics("prometheus")]))
"""
    for text, text_format in zip(elsewhere(program, names), ["openmetrics", "prometheus"], strict=True):
        found = samples(text, text_format)
        for at, name in enumerate(names):
            labels = frozenset({"tool": name, "outcome": "ok"}.items())
            assert found["isolane_tool_calls_total", labels] == at + 1


# -- names -------------------------------------------------------------------------------------------------------------


def test_the_hundred_and_first_name_is_other_in_every_family() -> None:
    program = """
runs, durations = metric("isolane_runs_total"), metric("isolane_run_duration_seconds")
for number in range(150):
    runs.labels(f"agent-{number}", "completed").inc()
for number in range(150):
    runs.labels(f"agent-{number}", "completed").inc()
    durations.labels(f"agent-{number}").observe(1)
print(json.dumps(metrics_snapshot()))
"""
    told = elsewhere(program)
    for name, per_name in (("isolane_runs_total", 2), ("isolane_run_duration_seconds", 1)):
        values = {each["labels"]["agent"]: each.get("value", each.get("count")) for each in told[name]["series"]}
        assert values.pop("_other") == 50 * per_name
        assert values == {f"agent-{number}": per_name for number in range(100)}


def test_the_text_of_a_full_registry_is_bounded_and_quick() -> None:
    program = """
import itertools, time
from isolane._core import metric_families
for family in metric_families():
    if family["collected"]:
        continue
    names = [
        values if isinstance(values, list) else [f"{label}-{n}" for n in range(3 * values)]
        for label, values in family["labels"].items()
    ]
    every = itertools.product(*names)
    taken = metric(family["name"])
    for labels in every:
        series = taken.labels(*labels) if labels else taken
        move = {"counter": series.inc, "gauge": lambda: series.set(1), "histogram": lambda: series.observe(1)}
        move[family["kind"]]()
took = []
for _ in range(20):
    began = time.perf_counter()
    text = render_metrics()
    took.append(time.perf_counter() - began)
print(json.dumps([len(text.splitlines()), min(took)]))
"""
    lines, took = elsewhere(program)
    assert 4_000 < lines < 10_000
    assert took < 0.01


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda: metric("isolane_runs"[:-1]), "no metric of this name"),
        (lambda: metric("isolane_runs_total").labels(AGENT), "has 2 labels"),
        (lambda: metric("isolane_runs_total").labels(AGENT, "perhaps"), "it is one of 'completed'"),
        (lambda: metric("isolane_runs_total").inc(), "take one series with labels"),
        (lambda: metric("isolane_runs_total").labels(AGENT, "completed").set(1), "which has no set; use inc"),
        (lambda: metric("isolane_runs_total").labels(AGENT, "completed").inc(-1), "only grows"),
        (lambda: metric("isolane_loop_lag_seconds").observe(1), "use set and add"),
        (lambda: metric("isolane_overhead_seconds").inc(), "use observe"),
        (lambda: metric("isolane_contexts_active"), "take it from metrics_snapshot"),
        (lambda: render_metrics("xml"), "'openmetrics' or 'prometheus'"),
    ],
)
def test_what_is_refused_says_what_is_allowed(wrong: Callable[[], object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        wrong()


def test_a_family_has_its_name_with_and_without_the_ending() -> None:
    assert metric("isolane_runs").name == metric("isolane_runs_total").name == "isolane_runs_total"
    assert metric("isolane_overhead_seconds").kind == "histogram"


def test_no_family_has_a_label_for_users() -> None:
    assert not [family for family in metric_families() if any("user" in label for label in family["labels"])]


# -- contexts and runs -------------------------------------------------------------------------------------------------


async def test_contexts_are_counted_until_they_are_cleaned_up(new_context) -> None:
    gc.collect()
    active = level("isolane_contexts_active")
    with changes() as made:
        root = new_context()
        child = root.create_child_context("part")
    assert made.of("isolane_contexts_created_total") == {"root": 1, "child": 1}
    assert level("isolane_contexts_active") == active + 2
    with changes() as ended:
        child.record_run_failure(child.record_run_start(agent_type=AGENT), ValueError("no"))
        await child.cleanup()
        await root.cleanup()
        await root.cleanup()
        del child
    assert ended.of("isolane_contexts_closed_total") == {"failed": 1, "completed": 1}
    assert level("isolane_contexts_active") == active
    with changes() as dropped:
        del root
    assert not dropped.of("isolane_contexts_closed_total")


async def test_a_root_that_nobody_cleans_up_is_dropped_and_a_child_is_not(new_context) -> None:
    gc.collect()
    with changes() as found:
        root = new_context()
        child = root.create_child_context("part")
        del child
        gc.collect()
        await root.cleanup()
        lost = new_context()
        del lost, root
        gc.collect()
    assert found.of("isolane_contexts_closed_total") == {"completed": 2, "dropped": 1}


async def test_runs_are_told_by_how_they_ended(context) -> None:
    ends: dict[str, BaseException | None] = {
        "failed": ValueError("no"),
        "cancelled": asyncio.CancelledError(),
        "timeout": TimeoutError(),
    }
    with changes() as found:
        for error in (*ends.values(), None):
            context.record_run_failure(context.record_run_start(agent_type=AGENT), error)
        context.record_run_success(context.record_run_start(agent_type=AGENT))
        context.record_run_start(agent_type=AGENT)
        await context.cleanup()
    outcomes = {labels[1]: count for labels, count in found.of("isolane_runs_total").items()}
    assert outcomes == {"completed": 1, "failed": 2, "cancelled": 2, "timeout": 1}
    assert found.of("isolane_run_duration_seconds") == {AGENT: 6}


@pytest.mark.parametrize("why", ["rejected", "timeout"])
async def test_what_got_no_permit_is_refused_and_what_failed_for_want_of_one_is_not(new_context, why: str) -> None:
    class Limited(BaseAgent):
        name = AGENT

        async def execute_with_context(self, context, request, results) -> None:
            # A limit of the application's own, which a run meets that has begun.
            own = FairLimiter(1, 1, queue=0 if why == "rejected" else 5)
            with own.slot_nowait("somebody"):
                await own.acquire("somebody", timeout=0.01)

    agents = AgentRegistry()
    agents.register(Limited)
    limiter = FairLimiter(1, 1, queue=0 if why == "rejected" else 5)
    factory = ExecutionEngineFactory(
        agent_factory=AgentInstanceFactory(agents), limiter=limiter, admission_timeout=0.01
    )
    raised = LimitRejected if why == "rejected" else LimitTimeout
    async with factory.user_execution_scope(new_context()) as engine:
        with changes() as found:
            assert isinstance((await engine.execute_agent(AGENT)).error, raised)
    assert found.of("isolane_runs_total") == {(AGENT, "failed" if why == "rejected" else "timeout"): 1}
    assert found.of("isolane_run_duration_seconds") == {AGENT: 1}
    async with factory.user_execution_scope(new_context()) as engine:
        with changes() as found, limiter.slot_nowait("somebody"), pytest.raises(raised):
            await engine.execute_agent(AGENT)
    assert found.of("isolane_runs_total") == {(AGENT, "refused"): 1}
    assert not found.of("isolane_run_duration_seconds"), "it took no time"
    await factory.shutdown(0)


async def test_the_time_of_a_run_is_that_of_the_clock(context) -> None:
    def total() -> float:
        all_series = metrics_snapshot()["isolane_run_duration_seconds"]["series"]
        return next(each["sum"] for each in all_series if each["labels"]["agent"] == AGENT)

    metric("isolane_run_duration_seconds").labels(AGENT)
    before = total()
    with manual_clock() as clock:
        run = context.record_run_start(agent_type=AGENT)
        clock.advance(1.75)
        context.record_run_success(run)
    assert total() - before == pytest.approx(1.75, abs=1e-6)


# -- permits and engines -----------------------------------------------------------------------------------------------


async def test_permits_are_told_by_what_became_of_the_request(alice, bob) -> None:
    limiter = FairLimiter(1, 1, queue=2, per_user_queue=1)
    gc.collect()
    active, waiting = level("isolane_permits_active"), level("isolane_permits_waiting")
    with changes() as found, manual_clock() as clock:
        held = await limiter.acquire(alice)
        granted = asyncio.ensure_future(limiter.acquire(alice, timeout=50))
        given_up = asyncio.ensure_future(limiter.acquire(bob, timeout=50))
        await asyncio.sleep(0)
        assert level("isolane_permits_active") == active + 1
        assert level("isolane_permits_waiting") == waiting + 2
        with pytest.raises(LimitRejected):
            await limiter.acquire(bob, timeout=50)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        clock.advance(3.0)
        held.release()
        permit = await granted
        permit.release()
    assert found.of("isolane_permits_total") == {"granted": 2, "rejected": 1, "cancelled": 1}
    assert level("isolane_permits_active") == active
    assert level("isolane_permits_waiting") == waiting
    with changes() as late, limiter.slot_nowait(alice), pytest.raises(LimitTimeout):
        await limiter.acquire(bob, timeout=0.01)
    assert late.of("isolane_permits_total") == {"granted": 1, "timeout": 1}


async def test_the_time_that_was_waited_for_a_permit_is_that_of_the_clock(alice) -> None:
    def total() -> float:
        (series,) = metrics_snapshot()["isolane_permit_wait_seconds"]["series"]
        return series["sum"]

    limiter = FairLimiter(1, 1)
    before = total()
    with manual_clock() as clock:
        held = await limiter.acquire(alice)
        asked = asyncio.ensure_future(limiter.acquire(alice, timeout=50))
        await asyncio.sleep(0)
        clock.advance(3.5)
        held.release()
        (await asked).release()
    assert total() - before == pytest.approx(3.5, abs=1e-6)


def test_a_limiter_that_is_gone_is_not_asked(alice) -> None:
    gc.collect()
    active = level("isolane_permits_active")
    limiter = FairLimiter(1, 1)
    slot = limiter.slot_nowait(alice)
    assert level("isolane_permits_active") == active + 1
    del slot, limiter
    gc.collect()
    assert level("isolane_permits_active") == active


async def test_engines_take_no_permits_to_run_and_their_refusals_are_their_own(new_context, alice, bob) -> None:
    agents = AgentInstanceFactory(AgentRegistry())
    factory = ExecutionEngineFactory(
        agent_factory=agents, max_engines_per_user=1, max_engines=2, limiter=FairLimiter(8, 4)
    )
    gc.collect()
    active = level("isolane_engines_active")
    with changes() as found:
        engines = [await factory.create_for_user(new_context(user)) for user in (alice, bob)]
        assert level("isolane_engines_active") == active + 2
        for user in (alice, None):
            with pytest.raises(EngineLimitError):
                await factory.create_for_user(new_context(user))
    assert found.of("isolane_engine_limit_rejections_total") == {"user": 1, "process": 1}
    assert not found.of("isolane_permits_total")
    for engine in engines:
        await factory.cleanup_engine(engine)
    assert level("isolane_engines_active") == active


async def test_users_who_hold_a_permit_are_served_and_who_waits_is_not(alice, bob) -> None:
    gc.collect()
    served = level("isolane_users_served")
    first, second = FairLimiter(2, 2), FairLimiter(1, 1)
    held = [first.slot_nowait(alice), first.slot_nowait(alice), second.slot_nowait(alice)]
    waiting = asyncio.ensure_future(first.acquire(bob, timeout=5))
    await asyncio.sleep(0)
    assert level("isolane_users_served") == served + 1
    held.pop(0).release()
    bobs = await waiting
    assert level("isolane_users_served") == served + 2
    for permit in (*held, bobs):
        permit.release()
    assert level("isolane_users_served") == served


# -- users, memory, the audit log --------------------------------------------------------------------------------------


def test_users_and_the_heaviest_of_them_are_told_without_a_name(new_context, alice, bob) -> None:
    gc.collect()
    users, held = level("isolane_users_active"), level("isolane_memory_bytes")
    contexts = [new_context(user) for user in (alice, alice, bob)]
    assert level("isolane_users_active") == users + 2
    with charge_memory(contexts[0], 700_000_000), charge_memory(contexts[2], 900_000_000):
        assert level("isolane_memory_bytes") - held == pytest.approx(1_600_000_000, abs=100_000)
        assert level("isolane_user_memory_max_bytes") == pytest.approx(900_000_000, abs=100_000)
    assert alice not in render_metrics()
    assert level("isolane_user_memory_max_bytes") < 900_000_000


async def test_audit_records_are_told_by_class_and_what_became_of_them(tmp_path, alice) -> None:
    logger = opened(tmp_path / "audit", checkpoint_records=2)
    with changes() as found:
        for audit_class in (AuditClass.PERMISSION, AuditClass.PERMISSION, AuditClass.LIFECYCLE):
            logger.record(event(audit_class, alice))
        await logger.flush()
    assert found.of("isolane_audit_records_total") == {("permission", "written"): 2, ("lifecycle", "written"): 1}
    assert not found.of("isolane_audit_lost_total")
    size = level("isolane_audit_checkpoint_size")
    assert size >= 3
    logger.close()
    with changes() as late:
        with pytest.raises(AuditUnavailableError):
            logger.record(event(AuditClass.PERMISSION, alice))
        logger.record(event(AuditClass.DEBUG, alice))
    assert late.of("isolane_audit_records_total") == {("permission", "refused"): 1, ("debug", "lost"): 1}
    assert late.of("isolane_audit_lost_total") == {"permission": 1, "debug": 1}


# -- on, off, and forks ------------------------------------------------------------------------------------------------


async def test_nothing_is_counted_while_metrics_are_off_and_levels_are_right_after_it(new_context, alice) -> None:
    limiter = FairLimiter(1, 1)
    gc.collect()
    active = level("isolane_contexts_active")
    assert metrics_enabled()
    assert set_metrics_enabled(False)
    try:
        assert not metrics_enabled()
        with changes() as found:
            root = new_context()
            root.record_run_success(root.record_run_start(agent_type=AGENT))
            with limiter.slot_nowait(alice):
                metric("isolane_loop_lag_seconds").set(17)
                metric("isolane_overhead_seconds").observe(1)
        counters = {family["sample"] for family in metric_families() if not family["collected"]}
        assert not [key for key in found if key[0] in counters]
    finally:
        assert not set_metrics_enabled(True)
    assert level("isolane_contexts_active") == active + 1
    with changes() as ended:
        await root.cleanup()
    assert ended.of("isolane_contexts_closed_total") == {"completed": 1}
    assert level("isolane_contexts_active") == active


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_the_child_of_a_fork_counts_for_itself() -> None:
    program = """
from isolane import FairLimiter, UserContextFactory
make = lambda number: UserContextFactory.create_context("ann-of-forks", f"thread-{number}-x", f"run-{number}-x")
ours = [make(number) for number in range(3)]
limiter = FairLimiter(2, 2)
slot = limiter.slot_nowait("ann-of-forks")
metric("isolane_runs_total").labels("some", "completed").inc(7)
def told():
    seen = metrics_snapshot()
    one = lambda name: sum(each["value"] for each in seen[name]["series"])
    names = "runs_total", "contexts_created_total", "contexts_closed_total"
    names += "contexts_active", "permits_active", "users_active"
    return [one(f"isolane_{name}") for name in names]
reader, writer = os.pipe()
if not os.fork():
    first = told()
    mine = make(9)
    ours.clear()
    os.write(writer, json.dumps([first, told()]).encode())
    os._exit(0)
os.wait()
print(json.dumps([told(), *json.loads(os.read(reader, 1000))]))
"""
    parent, first, later = elsewhere(program)
    assert parent == [7, 3, 0, 3, 1, 1]
    assert first == [0, 0, 0, 0, 0, 0]
    # Contexts of the parent that the child lets go of are not the child's.
    assert later == [0, 1, 0, 1, 0, 1]


def test_importing_starts_no_thread() -> None:
    assert elsewhere("import threading\nrender_metrics()\nprint(json.dumps(threading.active_count()))") == 1
