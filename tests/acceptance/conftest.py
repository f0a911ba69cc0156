"""Runs of the suite against the service with a fault of choice."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from isolane.acceptance import AcceptanceConfig, AcceptanceTestResult
from isolane.acceptance.running import suite_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def pytest_configure(config) -> None:
    config.addinivalue_line("markers", "long: runs with --prove only")


def pytest_collection_modifyitems(config, items) -> None:
    """Leave the long ones out, unless they were asked for."""
    if config.getoption("--prove") and not config.getoption("--short"):
        return
    left_out = [item for item in items if item.path.is_relative_to(HERE) and item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def config() -> AcceptanceConfig:
    return AcceptanceConfig.read(HERE / "accept.toml")


@pytest.fixture(scope="session")
def running_service() -> Iterator[tuple[str, int]]:
    """Serve the application in one process for all tests. Yields its address and its process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, descriptor = listener.getsockname()[1], listener.fileno()
        command = [sys.executable, "-m", "isolane.acceptance.app.serve", "tests.acceptance.control_app:app"]
        process = subprocess.Popen(
            [*command, str(descriptor)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, pass_fds=(descriptor,)
        )
    try:
        url = f"http://127.0.0.1:{port}"
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            try:
                httpx.get(f"{url}/held", trust_env=False)
                break
            except httpx.HTTPError:
                time.sleep(0.05)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def suite_with(config, running_service, monkeypatch) -> Callable[..., Awaitable[AcceptanceTestResult]]:
    """Return a coroutine function that runs tests against the service with a fault."""
    url, pid = running_service
    # What is kept is kept for ever: nobody has to wait for it.
    monkeypatch.setattr("isolane.acceptance.trials.resources.BACK_SECONDS", 0.5)

    async def run(fault: str, *names: str) -> AcceptanceTestResult:
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.post(f"{url}/fault/{fault or 'none'}")).raise_for_status()
        faulty = dataclasses.replace(config, url=url, pid=pid)
        return await suite_of(faulty, 5).run_full_acceptance_suite(names or None)

    return run
