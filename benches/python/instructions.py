"""Instructions of one operation, counted by valgrind's callgrind: the same on a busy machine as on a quiet one."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benches.python.counted import FEW, MANY
from benches.python.machine import ROOT

MARK = "getppid"
TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)
MISSING = "valgrind is not installed: no instructions were counted (Debian: apt-get install valgrind)"


@dataclass(frozen=True, slots=True)
class Count:
    """The instructions of one operation of a side."""

    group: str
    case: str
    side: str
    instructions: float


class NotCountedError(RuntimeError):
    """No instructions could be counted here."""


def _totals(folder: Path, marks: int) -> list[int]:
    """What was counted before each mark."""
    totals = []
    for number in range(1, marks + 1):
        found = TOTALS.search((folder / f"counts.{number}").read_text(encoding="utf-8", errors="replace"))
        if found is None:
            raise NotCountedError(f"callgrind wrote no total for mark {number}")
        totals.append(int(found[1]))
    return totals


def count(only: str = "") -> list[Count]:
    """Run the counted cases under callgrind, or those whose group or name contains a word.

    Raises `NotCountedError` when valgrind is not there or fails."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise NotCountedError(MISSING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            valgrind,
            "--tool=callgrind",
            f"--callgrind-out-file={folder / 'counts'}",
            f"--dump-before={MARK}",
            *(sys.executable, "-m", "benches.python.counted", "--only", only),
        ]
        # The order in sets and dictionaries of texts must not differ between two runs.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise NotCountedError(f"the counted run failed: {done.stderr[-500:]}")
        runs = json.loads(done.stdout)
        totals = _totals(folder, max((last for *_, last in runs), default=0))
    counted: dict[tuple[str, str, str], dict[int, int]] = {}
    for group, case, side, loops, first, last in runs:
        # Marks come in pairs: the work is between the first and the second, the third and the fourth, and so on.
        counted.setdefault((group, case, side), {})[loops] = sum(totals[first + 1 : last : 2])
    return [Count(*key, (sums[MANY] - sums[FEW]) / (MANY - FEW)) for key, sums in counted.items()]
