"""Runs the programs of ``audit_programs`` in processes, and kills them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import isolane

from tests.support.audit_programs import opened, storage

ROOT = Path(__file__).resolve().parents[2]


def environment(**more: str) -> dict[str, str]:
    package = Path(isolane.__file__).resolve().parents[1]
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])} | more


def start(program: str, path: Path, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.audit_programs", program, str(path)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(**more), stdout=subprocess.PIPE, text=True)


def run(program: str, path: Path, **more: str) -> dict[str, object]:
    """Run it to its end; return all that it said."""
    with start(program, path, **more) as process:
        out, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    said: dict[str, object] = {}
    for line in out.splitlines():
        said |= json.loads(line)
    return said


def kill_and_recover(log: Path, rounds: int, seed: int) -> int:
    """Kill a process that records, at random, and open its log; so many times. Return how many records are there.

    Each run must be an unbroken prefix of what it recorded, with all that it was told to be written, and the log must
    verify after each.
    """
    chance = random.Random(seed)
    told = 0
    for _ in range(rounds):
        written = 0
        with start("steadily", log) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 40)):
                written = json.loads(process.stdout.readline())["written"]
            # Somewhere within the next commits.
            time.sleep(chance.random() * 0.03)
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().splitlines()
        told += max([written, *(json.loads(line)["written"] for line in rest if line.endswith("}"))])
        logger = opened(log)
        # One checkpoint may be due, and one commit on its way to it.
        assert logger.health().recovered_unsigned <= 16
        assert logger.close() == 0
        found = storage(log).verify()
        assert found.ok, found.problem
    numbers = [record.data["number"] for record in storage(log).records() if record.name == "tested"]
    runs: list[list[int]] = []
    for number in numbers:
        if number == 0:
            runs.append([])
        runs[-1].append(number)
    assert len(runs) == rounds
    for each in runs:
        assert each == list(range(len(each)))
    assert len(numbers) >= told
    return len(numbers)
