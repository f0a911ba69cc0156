"""A plugin of pytest's: ``--isolane-accept accept.toml`` adds the eight tests to a run.

They share one start of the service. It is stopped when the last of them has run. The options are declared, and this
module registered, by the plugin that pytest finds by itself, which imports nothing of isolane until it is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from isolane.acceptance.names import TEST_NAMES

if TYPE_CHECKING:
    import asyncio

    from isolane.acceptance.results import TestResult
    from isolane.acceptance.suite import ExecutionPatternAcceptanceTests

OPTION = "--isolane-accept"
SEED = "--isolane-accept-seed"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the eight tests, before ``-k`` chooses among all."""
    path = config.getoption(OPTION, None)
    # With xdist each worker would start the service: the first one alone does.
    worker = getattr(config, "workerinput", {}).get("workerid", "gw0")
    if not path or worker != "gw0":
        return
    from isolane.acceptance.app.tables import AcceptanceConfigError  # noqa: PLC0415 - only where it is asked for

    try:
        service = Service(Path(path), config.getoption(SEED, 0) or 0)
    except AcceptanceConfigError as error:
        raise pytest.UsageError(f"{path}: {error}") from error
    config.pluginmanager.register(service)
    collector = Acceptance.from_parent(session, name="isolane-accept", nodeid=f"isolane-accept::{Path(path).name}")
    items += [AcceptanceItem.from_parent(collector, name=name, service=service) for name in TEST_NAMES]


class Service:
    """One start of the service for all of the tests."""

    def __init__(self, path: Path, seed: int) -> None:
        from isolane.acceptance.app.config import AcceptanceConfig  # noqa: PLC0415 - only where it is asked for
        from isolane.acceptance.running import suite_of  # noqa: PLC0415 - the same

        self.suite: ExecutionPatternAcceptanceTests = suite_of(AcceptanceConfig.read(path), seed)
        self._runner: asyncio.Runner | None = None

    def run(self, name: str) -> TestResult:
        """Run one test; the first one starts the service."""
        import asyncio  # noqa: PLC0415 - only where it is asked for

        if self._runner is None:
            self._runner = asyncio.Runner()
            self._runner.run(self.suite.target.open())
        return self._runner.run(self.suite.run_opened(name))

    def pytest_sessionfinish(self) -> None:
        """Stop the service."""
        if self._runner is not None:
            try:
                self._runner.run(self.suite.target.aclose())
            finally:
                self._runner.close()
                self._runner = None


class Acceptance(pytest.Collector):
    """What the tests hang on."""

    def collect(self) -> list[pytest.Item]:
        """Return nothing: the tests are added when all others are there."""
        return []


class AcceptanceItem(pytest.Item):
    """One of the eight tests."""

    def __init__(self, *, service: Service, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._service = service

    def runtest(self) -> None:
        """Run it."""
        from isolane.acceptance.results import Verdict  # noqa: PLC0415 - only where it is asked for

        result = self._service.run(self.name)
        checked = "\n".join(f"{count} {what}" for what, count in result.checks.items())
        planted = "\n".join(
            f"planted, {'reported' if one.seen else 'NOT reported'}: {one.planted}" for one in result.controls
        )
        self.add_report_section("call", "isolane", f"{checked}\n{planted}")
        if result.verdict is Verdict.SKIPPED:
            pytest.skip(result.skipped)
        if not result.success:
            raise _FailedError("\n".join(result.problems()))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return what was wrong, without a traceback of the suite."""
        if isinstance(excinfo.value, _FailedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        """Return the name of the test."""
        return "isolane-accept", None, f"isolane accept: {self.name}"


class _FailedError(Exception):
    """A test of the suite did not pass. The text says why."""
