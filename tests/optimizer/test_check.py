"""`make demo-check` as it is run: it passes on the isolated path and fails on the leaking one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples.optimizer.serving import listen

ROOT = Path(__file__).parents[2]


def run_check(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.optimizer.check", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.timeout(250)
def test_the_isolated_path_passes() -> None:
    """Both users get their own run, whole and alone."""
    done = run_check("--rows", "5000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
    assert done.stdout.count(" 0 foreign") == 2
    assert "PROBLEM" not in done.stdout


@pytest.mark.timeout(250)
def test_several_workers_pass() -> None:
    """What a user asks of one worker runs there, and reaches the socket wherever that is, and wherever it goes."""
    if shutil.which("redis-server") is None:
        if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
            pytest.fail("required, but there is no redis-server (apt-get install redis-server)")
        pytest.skip("left out: there is no redis-server (apt-get install redis-server)")
    done = run_check("--workers", "2", "--rows", "5000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
    assert done.stdout.count(" 0 foreign") == 2
    assert done.stdout.count("the socket was with ") == 2


@pytest.mark.timeout(250)
def test_the_leaking_path_fails_and_names_what_leaked() -> None:
    """The same check finds foreign events and foreign data."""
    done = run_check("--legacy")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED" in done.stdout
    assert "PROBLEM foreign event: " in done.stdout
    assert "foreign data: " in done.stdout


def test_a_taken_port_is_named_with_a_way_out() -> None:
    """The start says which port is taken and how to choose another."""
    with listen("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
        command = [sys.executable, "-m", "examples.optimizer", "--port", port]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken." in done.stderr
    assert "--port" in done.stderr
