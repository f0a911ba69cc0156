"""``ExecutionPatternAcceptanceTests``: the eight tests, against isolane itself or against a service."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from isolane.acceptance.executor import AcceptanceTestExecutor
from isolane.acceptance.isolation import IsolationTester
from isolane.acceptance.metrics import AcceptanceThresholds, MetricsValidator
from isolane.acceptance.results import AcceptanceTestResult, TestResult
from isolane.acceptance.target import Target, TargetError
from isolane.acceptance.trials import Bench, Load
from isolane.acceptance.trials.concurrency import concurrent_user_support
from isolane.acceptance.trials.errors import error_handling_recovery
from isolane.acceptance.trials.legacy import legacy_compatibility
from isolane.acceptance.trials.performance import performance_requirements
from isolane.acceptance.trials.resources import resource_management
from isolane.acceptance.trials.security import security_boundaries
from isolane.acceptance.trials.user_isolation import user_isolation_boundaries
from isolane.acceptance.trials.websocket import websocket_event_isolation

Trial = Callable[[Bench, TestResult], Awaitable[None]]

TESTS: Mapping[str, tuple[str, Trial]] = {
    "user_isolation": ("User isolation boundaries", user_isolation_boundaries),
    "performance": ("Performance requirements", performance_requirements),
    "concurrency": ("Concurrent user support", concurrent_user_support),
    "websocket_isolation": ("WebSocket event isolation", websocket_event_isolation),
    "resource_management": ("Resource management", resource_management),
    "error_handling": ("Error handling and recovery", error_handling_recovery),
    "security": ("Security boundaries", security_boundaries),
    "legacy_compatibility": ("Legacy compatibility", legacy_compatibility),
}
"""The tests in their order: their names, titles, and what they do."""


class ExecutionPatternAcceptanceTests:
    """Runs the eight acceptance tests.

    Each test plants the fault that it looks for into a copy of what it received. It passes only when nothing is wrong
    and each planted fault was reported.

    Args:
        target: what is tested. Default: isolane itself, in this process.
        isolation: makes and finds the canaries; the target's own where it has one.
        thresholds: what is asked of times, memory and shares.
        load: how many users, and how often.
        seed: makes the names of users, their canaries' key, and the order in which they start.
        skip: tests that are left out, each with the reason.

    Raises:
        ValueError: ``skip`` names a test that does not exist, or gives no reason.
    """

    __test__ = False  # no test class of pytest's, whatever its name begins with

    def __init__(
        self,
        target: Target | None = None,
        *,
        isolation: IsolationTester | None = None,
        thresholds: AcceptanceThresholds | None = None,
        load: Load | None = None,
        seed: int = 0,
        skip: Mapping[str, str] | None = None,
    ) -> None:
        self.seed = seed
        self.load = load or Load()
        self.isolation_tester = isolation or IsolationTester(seed)
        if target is None:
            from isolane.acceptance.own import OwnTarget  # noqa: PLC0415 - a service needs none of it

            target = OwnTarget(self.isolation_tester, seed)
        self.target = target
        self.isolation_tester.shape = target.shape
        self.metrics_validator = MetricsValidator(thresholds)
        self.test_executor = AcceptanceTestExecutor(target, self.isolation_tester, seed=seed)
        self.skip = dict(skip or {})
        for name, reason in self.skip.items():
            if name not in TESTS:
                raise ValueError(f"skip names {name!r}; the tests are {', '.join(TESTS)}")
            if not reason.strip():
                raise ValueError(f"skip gives no reason for leaving {name} out")

    async def run_full_acceptance_suite(
        self, only: Iterable[str] | None = None, *, on_result: Callable[[TestResult], object] | None = None
    ) -> AcceptanceTestResult:
        """Run all tests, or the named ones, one after the other, against one start of the target.

        Args:
            only: names of tests.
            on_result: called with each result when it is there.

        Raises:
            TargetError: the service cannot be used as the configuration says.
            ValueError: ``only`` names a test that does not exist.
        """
        names = list(TESTS if only is None else only)
        unknown = [name for name in names if name not in TESTS]
        if unknown:
            raise ValueError(f"there is no test {unknown[0]!r}; the tests are {', '.join(TESTS)}")
        results = AcceptanceTestResult(self.target.name, self.seed)
        try:
            await self.target.open()
            for name in names:
                result = await self.run_opened(name)
                results.add_test_result(name, result)
                if on_result is not None:
                    on_result(result)
        finally:
            await self.target.aclose()
        return results

    async def run_test(self, name: str) -> TestResult:
        """Run one test, with a start of the target of its own."""
        results = await self.run_full_acceptance_suite([name])
        return results.results[name]

    async def run_opened(self, name: str) -> TestResult:
        """Run one test against a target that is open already. Never raises for what is wrong with the target."""
        title, trial = TESTS[name]
        result = TestResult(title)
        if name in self.skip:
            result.skipped = self.skip[name]
            return result
        bench = Bench(self.target, self.test_executor, self.isolation_tester, self.metrics_validator, self.load)
        began = time.perf_counter()
        try:
            await trial(bench, result)
        except TargetError as error:
            result.add_failure(str(error))
        except Exception as error:  # noqa: BLE001 - a test that breaks off is a failure of that test, not of the others
            result.add_failure(f"the test broke off: {type(error).__name__}: {error}")
        ended = self.target.ended()
        if ended:
            # Before what follows from it.
            result.failures.insert(0, ended)
        result.seconds = time.perf_counter() - began
        return result

    async def test_user_isolation_boundaries(self) -> TestResult:
        """Test that users who run at the same time receive nothing of each other's."""
        return await self.run_test("user_isolation")

    async def test_performance_requirements(self) -> TestResult:
        """Test how long runs take, and events until they are received."""
        return await self.run_test("performance")

    async def test_concurrent_user_support(self) -> TestResult:
        """Test that as many users as asked for are served at the same time."""
        return await self.run_test("concurrency")

    async def test_websocket_event_isolation(self) -> TestResult:
        """Test owner, order and ends of the events that each user receives."""
        return await self.run_test("websocket_isolation")

    async def test_resource_management(self) -> TestResult:
        """Test that memory stays within its bound, and that connections and engines are given back."""
        return await self.run_test("resource_management")

    async def test_error_handling_recovery(self) -> TestResult:
        """Test that cut sockets, abandoned requests and failing runs touch nobody else."""
        return await self.run_test("error_handling")

    async def test_security_boundaries(self) -> TestResult:
        """Test that what belongs to others, or needs a sign-in, is refused."""
        return await self.run_test("security")

    async def test_legacy_compatibility(self) -> TestResult:
        """Test that older clients receive what they read."""
        return await self.run_test("legacy_compatibility")
