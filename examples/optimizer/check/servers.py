"""Workers of the check, each with an address of its own, so that it is known which of them is asked."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from examples.optimizer.shared_redis import shared_redis
from examples.optimizer.workers import common_folder, worker_environment

_START_SECONDS = 120.0
_END_SECONDS = 40.0
_SAID = "Optimizer on "


@contextmanager
def worker_processes(count: int) -> Iterator[list[str]]:
    """The URLs of so many workers that share a Redis and a folder, as several hosts would."""
    with ExitStack() as stack:
        redis_url, _ = stack.enter_context(shared_redis())
        folder = stack.enter_context(common_folder(None))
        environment = worker_environment(folder, redis_url)
        started = [stack.enter_context(_worker(folder, environment)) for _ in range(count)]
        yield [_url_of(process) for process in started]


@contextmanager
def _worker(folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "examples.optimizer", "--port", "0", "--data-dir", str(folder)]
    command += ["--log-level", "warning"]
    # Where the application is found is the same as here, whatever the folder this was started in.
    paths = os.pathsep.join([*sys.path, environment.get("PYTHONPATH", "")])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**environment, "PYTHONPATH": paths})  # noqa: S603 - this module, no shell
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _url_of(process: subprocess.Popen[str]) -> str:
    """What it says of itself when it listens, which is before it serves: a request waits for that."""
    until = time.monotonic() + _START_SECONDS
    while process.stdout is not None and time.monotonic() < until:
        line = process.stdout.readline()
        if line.startswith(_SAID):
            return line.removeprefix(_SAID).split()[0]
        if not line:
            break
    raise RuntimeError("A worker did not start; its log above says why.")
