"""The measurements themselves: the peers do the same work, targets are judged right, a run writes what it says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from isolane import UserExecutionContext

from benches.python import measure, memory, report, targets
from benches.python.cases import all_cases, events, sockets, tracing
from benches.python.cases.data import PAYLOAD_BYTES, nodes, tree
from benches.python.instructions import Count
from benches.python.measure import Case, Effort, Figure, Measured, Side, Unit
from benches.python.peers.dataclass_context import DataclassContext
from benches.python.peers.engine_factory import EngineFactory, EngineLimitError
from benches.python.peers.pydantic_context import PydanticContext
from benches.python.sockets.client import Client
from benches.python.sockets.shape import Shape, Way
from benches.python.targets import Rule, Target, Verdict

ROOT = Path(__file__).resolve().parents[2]
IDS = {"user_id": "user-7c21", "thread_id": "thread-5d0a", "run_id": "run-93ab"}
KINDS = (UserExecutionContext, DataclassContext, PydanticContext)


def or_skip(module: str):
    if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
        return __import__(module)
    return pytest.importorskip(module)


@pytest.mark.parametrize("make", KINDS)
class TestThePeersDoTheSameWork:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"user_id": ""},
            {"user_id": "   "},
            {"user_id": "u" * 257},
            {"user_id": "user\x00"},
            {"user_id": "user\ud800"},
            {"user_id": "Placeholder"},
            {"run_id": "mock_run"},
            {"thread_id": 7},
            {"request_id": "default"},
            {"agent_context": {"user_id": "other"}},
            {"audit_metadata": {"run_id": "other"}},
            {"created_at": datetime(2026, 1, 1)},  # noqa: DTZ001 - the wrong one
        ],
        ids=repr,
    )
    def test_they_refuse_what_isolane_refuses(self, make, wrong) -> None:
        with pytest.raises((ValueError, TypeError)):
            make(**{**IDS, **wrong})

    @pytest.mark.parametrize(
        "right",
        [
            {"user_id": "u" * 256},
            {"user_id": "user\u00a0é"},
            {"run_id": "mock_run_of_twenty_and_more"},
            {"agent_context": {"user": "other", "inner": {"user_id": "x"}}},
            {"created_at": datetime(2026, 1, 1, tzinfo=UTC)},
        ],
        ids=repr,
    )
    def test_they_take_the_nearest_neighbours(self, make, right) -> None:
        make(**{**IDS, **right})

    def test_they_copy_deeply(self, make) -> None:
        given = {"inner": {"list": [1]}}
        context = make(**IDS, agent_context=given)
        given["inner"]["list"].append(2)
        assert context.agent_context == {"inner": {"list": [1]}}

    def test_their_children_have_the_same_fields(self, make) -> None:
        given = UserExecutionContext(**IDS, agent_context={"a": 1}, audit_metadata={"b": 2})
        own, other = (
            given.create_child_context("step"),
            make(**IDS, agent_context={"a": 1}, audit_metadata={"b": 2}).create_child_context("step"),
        )
        assert set(own.agent_context) == set(other.agent_context)
        assert set(own.audit_metadata) == set(other.audit_metadata)
        assert other.operation_depth == 1
        assert other.request_id.endswith("_step")

    def test_they_number_siblings_of_one_name(self, make) -> None:
        root = make(**IDS)
        names = [root.create_child_context("step").request_id.removeprefix(root.request_id) for _ in range(3)]
        assert names == ["_step", "_step_2", "_step_3"]

    def test_they_end_at_the_same_depth(self, make) -> None:
        context = make(**IDS)
        for _ in range(10):
            context = context.create_child_context("step")
        with pytest.raises(ValueError, match="depth"):
            context.create_child_context("step")


class TestTheEngineFactoryOfThePeer:
    async def test_it_holds_the_limit_and_frees_the_slot(self) -> None:
        factory = EngineFactory()
        contexts = [DataclassContext("user-7c21", "thread-1", f"run-{number}") for number in range(3)]
        first, second = [await factory.create_for_user(context) for context in contexts[:2]]
        with pytest.raises(EngineLimitError):
            await factory.create_for_user(contexts[2])
        await factory.cleanup_engine(first)
        await factory.cleanup_engine(first)
        third = await factory.create_for_user(contexts[2])
        for engine in (second, third):
            await factory.cleanup_engine(engine)
        assert (factory.counts, factory.engines, factory.logs, factory.timer) == ({}, {}, {}, None)


class TestMeasuring:
    def test_the_sides_take_turns(self) -> None:
        order = []

        def side(name: str) -> Side:
            def run(loops: int) -> float:
                order.append(name)
                return loops * 1.0

            return Side(name, run)

        case = Case("group", "case", (side("a"), side("b")), rounds=3)
        found = measure.measure(case, Effort(1.0, 3, thorough=True))
        assert order == ["a", "b", "b", "a", "a", "b"]
        assert [figure.values for figure in found.figures] == [(1.0,) * 3] * 2

    def test_a_ratio_is_taken_within_each_repeat(self) -> None:
        own, peer = Figure("own", (1.0, 10.0, 1.0)), Figure("peer", (3.0, 30.0, 4.0))
        assert peer.times(own) == 3.0

    def test_the_processor_time_leaves_out_waiting(self) -> None:
        async def wait(_: int) -> float:
            start = measure.now()
            await asyncio.sleep(0.2)
            return measure.now() - start

        assert measure.awaits(wait)(1) < 0.1

    def test_a_skipped_case_runs_nothing(self) -> None:
        case = Case("group", "case", (Side("a", lambda _: pytest.fail("it ran")),), skipped="no such thing")
        assert measure.measure(case, Effort.quick()).figures == ()

    def test_the_values_are_as_large_as_the_targets_say(self) -> None:
        assert PAYLOAD_BYTES == 265
        assert 55 <= nodes(tree()) <= 70


def judged(rule: Rule, limit: float, own: float, peer: float | None) -> Verdict:
    figures = [Figure("own", (own,)), *([Figure("peer", (peer,))] if peer is not None else [])]
    results = [Measured(Case("group", "case", ()), tuple(figures))]
    target = Target("what", "group", "case", "own", rule, limit, "peer" if peer is not None else "")
    return targets.judge(target, results)


class TestTargets:
    @pytest.mark.parametrize(
        ("rule", "limit", "own", "peer", "measured", "met"),
        [
            (Rule.SPEEDUP, 15, 1.0, 15.0, 15.0, True),
            (Rule.SPEEDUP, 15, 1.0, 14.9, 14.9, False),
            (Rule.RATE, 0.95, 1.0, 0.96, 0.96, True),
            (Rule.RATE, 0.95, 1.0, 0.94, 0.94, False),
            (Rule.SHARE, 0.4, 0.39, 1.0, 0.39, True),
            (Rule.SHARE, 0.4, 0.41, 1.0, 0.41, False),
            (Rule.TIME, 1e-6, 0.9e-6, None, 0.9e-6, True),
            (Rule.TIME, 1e-6, 1.1e-6, None, 1.1e-6, False),
            (Rule.EXTRA, 80e-9, 279e-9, 200e-9, 79e-9, True),
            (Rule.EXTRA, 80e-9, 281e-9, 200e-9, 81e-9, False),
            (Rule.EXTRA, 80e-9, 199e-9, 200e-9, 1e-10, True),
            (Rule.BYTES, 512, 512, None, 512, True),
            (Rule.BYTES, 512, 513, None, 513, False),
        ],
    )
    def test_each_rule_is_judged_in_its_direction(self, rule, limit, own, peer, measured, met) -> None:
        verdict = judged(rule, limit, own, peer)
        assert verdict.measured == pytest.approx(measured)
        assert verdict.met is met
        assert (verdict.score >= 1) is met

    def test_each_target_names_a_side_that_exists(self) -> None:
        cases = {(case.group, case.name): case for case in all_cases(thorough=True)}
        for target in targets.all_targets():
            case = cases[target.group, target.case]
            sides = {side.name for side in case.sides}
            assert case.skipped or {target.side, target.peer or target.side} <= sides, target
        assert len(targets.all_targets()) == 77

    def test_what_was_not_measured_is_not_met(self) -> None:
        verdict = targets.judge(targets.all_targets()[0], [])
        assert (verdict.measured, verdict.met) == (None, False)
        assert "not measured" in report.target_text([verdict])

    def test_case_names_are_unique(self) -> None:
        names = [(case.group, case.name) for case in all_cases(thorough=False)]
        assert len(names) == len(set(names))


class TestMemory:
    def test_it_counts_bytes_of_one_object(self) -> None:
        # A new process: here other tests have left free memory behind.
        code = "from benches.python import memory\nprint(memory.bytes_each(lambda _: bytearray(5_000), 20_000))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert float(done.stdout) == pytest.approx(5_100, rel=0.03)

    def test_each_kind_makes_what_it_says(self) -> None:
        assert memory.KINDS["context"](7).run_id == "run-00000007"
        assert memory.KINDS["context-read"](7).operation_depth == 0
        assert memory.KINDS["lane"](7) is None


class TestSockets:
    def test_each_way_and_shape_is_read_to_its_end(self) -> None:
        server = sockets.Server()
        ways = {
            Shape.DRAIN: (Way.ISOLANE, Way.FRAMES, Way.BARE),
            Shape.BURSTS: (Way.ISOLANE, Way.FRAMES, Way.BARE, Way.QUEUE),
            Shape.SINGLE: (Way.ISOLANE, Way.FRAMES, Way.BARE, Way.QUEUE),
        }
        with server.running():
            for shape, each in ways.items():
                for way in each:
                    spent = server.seconds(shape, way)
                    assert 0 < spent.processor < 10, (shape, way)
                    assert 0 < spent.wall < 30, (shape, way)
        assert server.child is not None
        assert server.child.process.poll() is not None

    def test_all_sides_send_the_same_messages(self) -> None:
        server = sockets.Server()
        texts = {}
        with server.running():
            for way in (Way.ISOLANE, Way.BARE):
                with Client(server.port, f"/{way}?way={way}&shape=drain&user=user-{way}-7c21", framed=False) as client:
                    texts[way] = client.first_text()
        own, bare = (json.loads(texts[way]) for way in (Way.ISOLANE, Way.BARE))
        assert set(own) == set(bare)
        assert own["payload"] == bare["payload"]
        assert len(texts[Way.ISOLANE]) == pytest.approx(len(texts[Way.BARE]), abs=20)


def some_results() -> list[Measured]:
    """All cases, with figures that nobody measured."""
    return [
        Measured(case, () if case.skipped else tuple(Figure(side.name, (2e-6, 1e-6, 4e-6)) for side in case.sides))
        for case in all_cases(thorough=True)
    ]


class TestTheReport:
    def test_the_targets_stand_first(self) -> None:
        results = some_results()
        verdicts = targets.verdicts(results)
        counts = [Count("group", "case", "isolane", 1000.0), Count("group", "case", "peer", 2500.0)]
        text = report.markdown(results, verdicts, counts, {"CPU": "one"}, "images/benchmarks.svg")
        assert text.index("## Targets") < text.index("](images/benchmarks.svg)") < text.index("## All cases")
        assert "| free permit | ≤ 0.4x the time of: two nested asyncio.Semaphore | 1.00x | missed |" in text
        assert "|  | peer | 2,500 | 2.5x |" in text
        assert all(len(line) <= 120 or line.startswith("|") for line in text.splitlines())

    def test_what_is_missing_is_said_loudly(self) -> None:
        case = Case("Group", "case", (), skipped="no such thing")
        text = report.markdown([Measured(case, ())], [], "valgrind is not installed", {})
        assert "case: SKIPPED: no such thing" in text
        assert "SKIPPED: valgrind is not installed" in text

    def test_the_floor_of_a_missed_target_is_printed(self) -> None:
        missed, met = judged(Rule.BYTES, 512, 600, None), judged(Rule.BYTES, 512, 500, None)
        for verdict, printed in ((missed, True), (met, False)):
            target = Target(**{name: getattr(verdict.target, name) for name in Target.__slots__} | {"floor": "a floor"})
            text = report.markdown([], [Verdict(target, verdict.measured)], [], {})
            assert ("a floor" in text) is printed

    def test_rates_and_bytes_have_their_units(self) -> None:
        assert report.value(Unit.MESSAGES, 1e-5) == "100 k/s"
        assert report.value(Unit.BYTES, 700.4) == "700 B"
        assert report.value(Unit.SECONDS, 1.5e-6) == "1.5 µs"

    def test_the_plot_follows_the_page(self, tmp_path: Path) -> None:
        or_skip("matplotlib")
        from benches.python import plot  # noqa: PLC0415 - matplotlib may not be there

        plot.draw(targets.verdicts(some_results()), tmp_path / "images" / "plot.svg")
        svg = (tmp_path / "images" / "plot.svg").read_text(encoding="utf-8")
        ET.fromstring(svg)
        assert "prefers-color-scheme: dark" in svg
        assert "free permit (vs two nested asyncio.Semaphore)" in svg
        drawing = svg.split("</style>", 1)[1]
        assert not [light for light, _ in plot.COLOURS.values() if light in drawing]
        plot.draw(targets.verdicts(some_results()), tmp_path / "again.svg")
        assert (tmp_path / "again.svg").read_text(encoding="utf-8") == svg


class TestTheCommand:
    def test_it_runs_a_part_and_writes_nothing(self) -> None:
        document = ROOT / "docs" / "benchmarks.md"
        before = document.stat().st_mtime_ns
        command = [sys.executable, "-m", "benches.python", "--quick", "--only", "free permit, user"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "two nested asyncio.Semaphore" in done.stdout
        assert "1 targets" in done.stdout
        assert document.stat().st_mtime_ns == before

    def test_the_counted_runs_mark_their_work(self) -> None:
        command = [sys.executable, "-m", "benches.python.counted", "--only", "free permit, user"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        runs = json.loads(done.stdout)
        assert [(side, loops) for _, _, side, loops, _, _ in runs] == [
            (side, loops)
            for side in ("isolane FairLimiter.slot", "two nested asyncio.Semaphore")
            for loops in (50, 150)
        ]
        assert [(first, last) for *_, first, last in runs] == [(0, 2), (2, 4), (4, 6), (6, 8)]


class TestTracing:
    def test_the_events_of_the_traced_side_are_in_a_trace(self) -> None:
        or_skip("opentelemetry.sdk")
        from isolane._core import EventCursor  # noqa: PLC0415

        seen: list[str] = []

        async def publishing(loops: int) -> float:
            async with events.isolane_emitter() as emitter:
                cursor = EventCursor("user-7c21")
                cursor.subscribe(emitter.run_id)
                emitter.publish("agent_progress", {"n": loops})
                seen.append("".join(cursor.read()))
            return 1.0

        run = measure.awaits(publishing)
        run(1)
        tracing._in_a_span(run, tracing._providers()[tracing.SAMPLED])(1)
        plain, traced = (re.search(r'"traceparent": ?"00-[0-9a-f]{32}-', text) is not None for text in seen)
        assert (plain, traced) == (False, True), seen
