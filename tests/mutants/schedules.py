"""Runs the Rust tests of threads under many schedules: more of them than `make test` does."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass

from tests.mutants.builds import ROOT, Builds

SCHEDULES = 10_000
"""Schedules of each of the two kinds, for each test."""

RESULT = re.compile(r"test result: ok\. (\d+) passed")


@dataclass(frozen=True)
class Exploration:
    """What one file of tests found."""

    name: str
    tests: int
    seconds: float
    text: str

    @property
    def passed(self) -> bool:
        return self.tests > 0

    @property
    def outcome(self) -> str:
        return "passed" if self.passed else "**failed**"


def explore(builds: Builds, schedules: int = SCHEDULES) -> list[Exploration]:
    """Run each file of tests under so many schedules of each kind."""
    return [explored(builds, name, schedules) for name in sorted(builds.binaries) if name.startswith("shuttle_")]


def explored(builds: Builds, name: str, schedules: int) -> Exploration:
    """Run one file of tests."""
    began = time.monotonic()
    environment = builds.environment() | {"ISOLANE_SCHEDULES": str(schedules)}
    done = subprocess.run(
        [builds.binaries[name], f"--test-threads={os.cpu_count() or 1}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    result = RESULT.search(done.stdout)
    tests = int(result[1]) if result and done.returncode == 0 else 0
    return Exploration(name, tests, time.monotonic() - began, done.stdout)


def table(explorations: list[Exploration], schedules: int = SCHEDULES) -> list[str]:
    """Return the lines of the table."""
    rows = (
        f"| {one.name} | {one.tests} | {2 * schedules} | {one.outcome} | {one.seconds:.0f} |" for one in explorations
    )
    return ["| tests | number | schedules of each | outcome | seconds |", "|---|---|---|---|---|", *rows]
