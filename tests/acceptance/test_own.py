"""The suite against isolane itself, in this process."""

from __future__ import annotations

import asyncio
import json
import time

import isolane
import pytest
from isolane.acceptance import (
    TESTS,
    AcceptanceThresholds,
    Bound,
    ExecutionPatternAcceptanceTests,
    Load,
    Verdict,
)
from isolane.acceptance.names import made_up
from isolane.acceptance.own import EchoAgent, OwnSession, OwnTarget
from isolane.acceptance.records import Run
from isolane.acceptance.target import Attempt

# A busy machine is no fault of isolane's.
PATIENT = AcceptanceThresholds(response=Bound(20, 20, "s"), concurrent=Bound(30, 30, "s"), event=Bound(10, 10, "s"))


async def test_isolane_passes_all_eight_within_ten_seconds() -> None:
    began = time.monotonic()
    results = await ExecutionPatternAcceptanceTests(thresholds=PATIENT).run_full_acceptance_suite()
    assert list(results.failures()) == []
    assert results.success
    assert {name: one.verdict for name, one in results.results.items()} == dict.fromkeys(TESTS, Verdict.PASSED)
    assert time.monotonic() - began < 60


async def test_each_test_can_be_run_alone_by_its_name() -> None:
    suite = ExecutionPatternAcceptanceTests(thresholds=PATIENT)
    for name in (
        "user_isolation_boundaries",
        "performance_requirements",
        "concurrent_user_support",
        "websocket_event_isolation",
        "resource_management",
        "error_handling_recovery",
        "security_boundaries",
        "legacy_compatibility",
    ):
        result = await getattr(suite, f"test_{name}")()
        assert result.success, (name, result.problems())


async def test_the_same_seed_makes_the_same_users_and_checks() -> None:
    assert made_up(20, "events", 11) == made_up(20, "events", 11)
    assert not set(made_up(20, "events", 11)) & {*made_up(20, "events", 12), *made_up(20, "errors", 11)}

    async def order(seed: int) -> list[str]:
        began = []

        class Session:
            def __init__(self, number: int) -> None:
                self.number = number

            async def run(self, kind):
                began.append(self.number)

            async def settle(self):
                pass

        suite = ExecutionPatternAcceptanceTests(seed=seed)
        await suite.test_executor.together([Session(number) for number in range(20)])
        return began

    assert await order(3) == await order(3) != await order(4)
    # A canary of an earlier run is known by the same seed.
    one, again, other = (ExecutionPatternAcceptanceTests(seed=seed).isolation_tester for seed in (5, 5, 6))
    assert again.scanner.look("bob", one.mint("ann"))
    assert not other.scanner.look("bob", one.mint("ann"))


async def test_a_leak_in_the_agents_is_reported(monkeypatch) -> None:
    latest = {"canary": ""}
    right = EchoAgent.execute_with_context

    async def leaking(self, context, request, results):
        before, latest["canary"] = latest["canary"], request["canary"]
        answer = await right(self, context, request, results)
        return {**answer, "before": before}

    monkeypatch.setattr(EchoAgent, "execute_with_context", leaking)
    results = await ExecutionPatternAcceptanceTests().run_full_acceptance_suite(["user_isolation"])
    told = "\n".join(results.results["user_isolation"].problems())
    assert "in the result of a run at $.before" in told
    assert "in the event cursor, event agent_completed" in told


async def test_a_run_that_never_ends_and_an_engine_that_is_kept_are_reported(monkeypatch) -> None:
    monkeypatch.setattr("isolane.acceptance.trials.resources.BACK_SECONDS", 0.2)
    kept = []
    right = OwnSession.run

    async def keeping(self, kind="normal"):
        if not kept:
            kept.append(await self._factory.create_for_user(self.context()))
        return await right(self, kind)

    # The first run warms up: what is kept from there is no difference.
    suite = ExecutionPatternAcceptanceTests()
    original = OwnTarget.usage
    looked = []

    async def usage(self):
        found = await original(self)
        if not looked:
            looked.append(found)
            monkeypatch.setattr(OwnSession, "run", keeping)
        return found

    monkeypatch.setattr(OwnTarget, "usage", usage)
    result = await suite.test_resource_management()
    assert any("1 engines are held" in problem for problem in result.problems()), result.problems()
    for engine in kept:
        await engine.cleanup()


async def test_a_checker_that_sees_nothing_makes_a_test_inconclusive(monkeypatch) -> None:
    suite = ExecutionPatternAcceptanceTests()
    monkeypatch.setattr("isolane.acceptance.leaks._look", lambda scanner, user, *_: (1, 1, True, []))
    result = (await suite.run_full_acceptance_suite(["user_isolation"])).results["user_isolation"]
    assert result.verdict is Verdict.INCONCLUSIVE
    assert not result.success
    assert any("in base 64" in problem for problem in result.problems())


async def test_judging_no_events_makes_a_test_inconclusive(monkeypatch) -> None:
    suite = ExecutionPatternAcceptanceTests()
    monkeypatch.setattr("isolane.acceptance.trials.websocket.judged", lambda *_: [])
    result = (await suite.run_full_acceptance_suite(["websocket_isolation"])).results["websocket_isolation"]
    assert result.verdict is Verdict.INCONCLUSIVE
    assert any("a second end of a span" in problem for problem in result.problems())


async def test_a_door_that_is_shut_for_everybody_is_inconclusive(monkeypatch) -> None:
    async def shut(self, thief, victim):
        yield Attempt("another's", refused=True, outcome="HTTP 401")
        yield Attempt("an own", refused=True, outcome="HTTP 401", control=True)

    monkeypatch.setattr(OwnTarget, "intrusions", shut)
    result = await ExecutionPatternAcceptanceTests().test_security_boundaries()
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.problems() == ["inconclusive: not reported though it was planted: an own, which is allowed"]


@pytest.mark.parametrize("name", ["user_isolation", "websocket_isolation", "error_handling", "security"])
async def test_a_suite_that_is_cancelled_leaves_nothing(name) -> None:
    """Cancelled at its 1st, 10th, 19th ... turn of the loop."""
    for turns in range(1, 120, 9):
        task = asyncio.create_task(
            ExecutionPatternAcceptanceTests(load=Load(users=2, rounds=1)).run_full_acceptance_suite([name])
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() or task.result()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert isolane.default_limiter().stats()["running"] == 0


async def test_users_who_hear_nothing_have_shown_nothing(monkeypatch) -> None:

    async def deaf(self, kind="normal"):
        run = Run(run_id="run-of-nobody", outcome="completed")
        self.transcript.runs.append(run)
        return run

    monkeypatch.setattr(OwnSession, "run", deaf)
    results = await ExecutionPatternAcceptanceTests().run_full_acceptance_suite(
        ["user_isolation", "websocket_isolation"]
    )
    assert not results.success
    told = "\n".join(problem for _, problem in results.failures())
    assert "never received an own canary" in told


async def test_the_seeds_question_is_answered_for_one_value() -> None:
    tester = ExecutionPatternAcceptanceTests().isolation_tester
    foreign = tester.mint("ben-alone")
    report = await tester.detect_data_contamination("ada-alone", {"rows": [foreign]})
    assert report.verdict == "contaminated"
    report = await tester.detect_data_contamination("ben-alone", {"rows": [foreign]})
    assert report.verdict == "clean"


def test_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="skip names 'speed'; the tests are user_isolation"):
        ExecutionPatternAcceptanceTests(skip={"speed": "why not"})
    with pytest.raises(ValueError, match="gives no reason for leaving security out"):
        ExecutionPatternAcceptanceTests(skip={"security": " "})
    with pytest.raises(ValueError, match="there is no test 'speed'"):
        asyncio.run(ExecutionPatternAcceptanceTests().run_full_acceptance_suite(["speed"]))


async def test_what_is_left_out_is_told_and_is_no_success_alone() -> None:
    suite = ExecutionPatternAcceptanceTests(skip={"security": "tested elsewhere"})
    results = await suite.run_full_acceptance_suite(["security"])
    assert results.results["security"].verdict is Verdict.SKIPPED
    assert not results.success
    assert json.loads(json.dumps(results.as_data()))["tests"]["security"]["skipped"] == "tested elsewhere"
