"""The eight tests, one a file. Each is given the parts of the suite and a result to fill in."""

from __future__ import annotations

from dataclasses import dataclass

from isolane.acceptance.executor import AcceptanceTestExecutor
from isolane.acceptance.isolation import IsolationTester
from isolane.acceptance.metrics import MetricsValidator
from isolane.acceptance.target import Target


@dataclass(frozen=True, slots=True)
class Load:
    """How much the tests do.

    Attributes:
        users: users at the same time, in the tests of isolation.
        rounds: how often each of them runs there.
        concurrent_users: users at the same time, in the test of concurrency.
        single_runs: runs of one user, whose times are averaged.
        resource_rounds: how often all users run before the process is looked at again.
    """

    users: int = 5
    rounds: int = 2
    concurrent_users: int = 10
    single_runs: int = 10
    resource_rounds: int = 3


@dataclass(frozen=True, slots=True)
class Bench:
    """What a test works with."""

    target: Target
    executor: AcceptanceTestExecutor
    isolation: IsolationTester
    metrics: MetricsValidator
    load: Load
