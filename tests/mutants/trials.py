"""Runs the tests that must notice a fault, in a process that has it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.mutants.builds import ROOT, Builds

SECONDS = 60
"""A test that takes longer hangs, which is a way to notice a fault."""

TESTS_FAILED = 1
"""What pytest answers then. Its other answers say that there was no such test, or that pytest itself failed."""

HARNESS_FAILED = 101
"""What a Rust test answers. It is killed by a signal when it fails while it fails, which is a negative number here."""


@dataclass(frozen=True)
class Trial:
    """What became of a fault."""

    mutant: str
    killer: str | None
    """The test that noticed it, or none."""
    how: str
    seconds: float


class BrokenTrialError(Exception):
    """A test that could not be run, so that it says nothing."""


def command(builds: Builds, tests: list[str]) -> list[str]:
    """Return how these tests are run; all of them are of pytest, or of one Rust binary."""
    binary = binary_of(tests[0])
    if binary is None:
        quiet = ["-q", "-x", "-p", "no:cacheprovider", f"--timeout={SECONDS // 2}", "--no-header", "--tb=line"]
        return [sys.executable, "-m", "pytest", *quiet, *tests]
    return [str(builds.binaries[binary]), "--exact", *(test.removeprefix(f"{binary}::") for test in tests)]


def binary_of(test: str) -> str | None:
    """Return the Rust binary that a test is in, or ``None`` for one of pytest."""
    return None if test.startswith("tests/") else test.partition("::")[0]


def run(builds: Builds, mutant: str, tests: list[str], seconds: float = SECONDS) -> tuple[str, str]:
    """Return ``passed``, ``failed`` or ``hung``, and what the tests wrote.

    Raises ``BrokenTrialError`` when they did not run.
    """
    try:
        done = subprocess.run(
            command(builds, tests),
            cwd=ROOT,
            env=builds.environment(mutant),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return "hung", ""
    rust = binary_of(tests[0]) is not None
    if rust and f"running {len(tests)} test" not in done.stdout:
        raise BrokenTrialError(f"{', '.join(tests)}: not all of them exist")
    if done.returncode == 0:
        return "passed", done.stdout
    if done.returncode == (HARNESS_FAILED if rust else TESTS_FAILED) or done.returncode < 0:
        return ("hung" if "Timeout (>" in done.stdout else "failed"), done.stdout
    raise BrokenTrialError(f"{', '.join(tests)}: could not be run\n{done.stdout}")


def baseline(builds: Builds, tests: set[str]) -> list[str]:
    """Run the tests in the same builds without a fault; return what failed."""
    groups: dict[str | None, list[str]] = {}
    for test in sorted(tests):
        groups.setdefault(binary_of(test), []).append(test)
    failed = []
    for group in groups.values():
        outcome, text = run(builds, "", group, SECONDS * len(group))
        if outcome != "passed":
            failed.append(f"{', '.join(group)}: {outcome}\n{text}")
    return failed


def attempt(builds: Builds, mutant: str, tests: tuple[str, ...]) -> Trial:
    """Run the tests one after the other until one notices the fault."""
    began = time.monotonic()
    for test in tests:
        outcome, text = run(builds, mutant, [test])
        if outcome != "passed":
            how = "hang" if outcome == "hung" else reason(text)
            return Trial(mutant, test, how, time.monotonic() - began)
    return Trial(mutant, None, "", time.monotonic() - began)


def reason(text: str) -> str:
    """Return in a word what the test said."""
    if re.search(r"deadlock!|exceeded max_steps", text):
        return "deadlock"
    if re.search(r"PanicException|attempt to (?:subtract|add) with overflow", text):
        return "panic"
    return "assertion"
