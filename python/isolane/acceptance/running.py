"""What ``isolane accept`` does."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from isolane.acceptance.app.config import AcceptanceConfig
from isolane.acceptance.app.service import ServiceTarget
from isolane.acceptance.app.tables import AcceptanceConfigError
from isolane.acceptance.candidates import Candidates, find
from isolane.acceptance.init import written
from isolane.acceptance.isolation import IsolationTester
from isolane.acceptance.reports import as_json, as_junit, as_text
from isolane.acceptance.results import AcceptanceTestResult, TestResult, Verdict
from isolane.acceptance.suite import ExecutionPatternAcceptanceTests
from isolane.acceptance.target import TargetError

_SECONDS = 30.0
_STOPPED = 130
"""What shells show for a command that was stopped."""


def run(options: argparse.Namespace) -> int:
    """Run the suite, or write a configuration."""
    try:
        if options.verb == "init":
            return _init(options)
        return _accept(options)
    except (AcceptanceConfigError, TargetError, ModuleNotFoundError) as error:
        _say(error, sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("Stopped, and the service with it.", sys.stderr)
        return _STOPPED


def _accept(options: argparse.Namespace) -> int:
    suite = suite_of(None, options.seed) if options.self else suite_of(_configured(options), options.seed)
    if options.json != "-":
        _say(f"Testing {suite.target.name} ...")
    results = asyncio.run(_run(suite, options))
    if options.json == "-":
        sys.stdout.write(as_json(results))
    else:
        sys.stdout.write("\n" + as_text(results))
        _write(options.json, as_json(results))
    _write(options.junit, as_junit(results))
    return 0 if results.success else 1


async def _run(suite: ExecutionPatternAcceptanceTests, options: argparse.Namespace) -> AcceptanceTestResult:
    """Run the suite. Who ends this process ends the service that it started as well, not by Ctrl-C alone."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - this is one
    # What is ignored, as under nohup, stays so. Signals come to the main thread alone.
    stops = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        stops = []
    for stop in stops:
        loop.add_signal_handler(stop, task.cancel)
    try:
        return await suite.run_full_acceptance_suite(options.only, on_result=_progress(options))
    finally:
        for stop in stops:
            loop.remove_signal_handler(stop)


def _configured(options: argparse.Namespace) -> AcceptanceConfig:
    config = AcceptanceConfig.read(options.config)
    if options.app and options.url:
        raise AcceptanceConfigError("--app", "stands beside --url", "one of them")
    if options.app:
        # Beside the command line a target is found from where one stands.
        config = dataclasses.replace(config, app=options.app, url="", directory=Path.cwd())
    if options.url:
        config = dataclasses.replace(config, url=options.url.rstrip("/"))
    return config


def suite_of(config: AcceptanceConfig | None, seed: int) -> ExecutionPatternAcceptanceTests:
    """Return the suite for a service, or for isolane itself without a configuration."""
    if config is None:
        return ExecutionPatternAcceptanceTests(seed=seed)
    isolation = IsolationTester(seed, config.shape)
    return ExecutionPatternAcceptanceTests(
        ServiceTarget(config, isolation, seed),
        isolation=isolation,
        thresholds=config.thresholds,
        load=config.load,
        seed=seed,
        skip=config.skip,
    )


def _say(text: object, stream: TextIO | None = None) -> None:
    (stream or sys.stdout).write(f"{text}\n")
    (stream or sys.stdout).flush()


def _progress(options: argparse.Namespace) -> Any:
    def show(result: TestResult) -> None:
        if options.json != "-":
            found = len(result.problems())
            more = (
                f", {found} problem{'s' if found > 1 else ''}" if result.verdict is not Verdict.PASSED and found else ""
            )
            _say(f"  {result.name}: {result.verdict.value}{more}")

    return show


def _write(path: str | None, text: str) -> None:
    if path:
        Path(path).write_text(text, encoding="utf-8")


def _init(options: argparse.Namespace) -> int:
    if options.output.exists() and not options.force:
        _say(f"{options.output} is there already; --force writes over it, --output takes another name", sys.stderr)
        return 2
    found = Candidates()
    if options.url:
        found = find(asyncio.run(_openapi_of(options.url.rstrip("/"))))
    elif options.app:
        described = _described(options.app, factory=options.factory)
        found = find(described["openapi"], described["sockets"])
    text = written(found, app=options.app or "", url=options.url or "")
    options.output.write_text(text, encoding="utf-8")
    guessed = [one.path for group in (found.logins[:1], found.runs[:1], found.reads[:4]) for one in group]
    _say(f"Wrote {options.output}. Routes that were found: {', '.join([*guessed, *found.sockets]) or 'none'}.")
    _say("Look it over: where {canary} is put, and how a run ends, is for you to say.")
    return 0


async def _openapi_of(url: str) -> dict[str, Any]:
    from isolane.acceptance.app.http import require_httpx  # noqa: PLC0415 - an extra

    httpx = require_httpx()
    try:
        async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
            answer = await client.get(f"{url}/openapi.json")
            found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}  # noqa: PLR2004 - HTTP's
    except (httpx.HTTPError, ValueError) as error:
        raise TargetError(f"{url}/openapi.json cannot be read: {type(error).__name__}") from error
    return found


def _described(app: str, *, factory: bool) -> dict[str, Any]:
    """Import the application in a process of its own, and return what it says of its routes."""
    command = [sys.executable, "-m", "isolane.acceptance.app.serve", app, "describe", *(["factory"] if factory else [])]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS * 2)  # noqa: S603
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it ended without a word"]
        raise TargetError(f"{app} cannot be imported: {last[0]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
