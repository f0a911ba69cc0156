"""What contexts and lanes take, each figure from a process of its own."""

import subprocess
import sys
from pathlib import Path

from benches.python.machine import ROOT
from benches.python.measure import Case, Run, Side, Unit

GROUP = "Memory"
COUNT = 100_000
QUICK = 10_000
ROUNDS = 3

CONTEXTS = "one context of many"
UNTOUCHED = "isolane, untouched"
READ = "isolane, every field read"
DATACLASS = "frozen dataclass"
LANES = "one idle lane of many"
LIMITED = "one user of many in a limiter"
IDLE_USER = "came once"
ACTIVE_USER = "with percentiles"
LANE = "its context was dropped"
USED_LANE = "a run with a permit and three events is over, its log expired"


def _bytes(kind: str, count: int) -> Run:
    def run(_: int) -> float:
        command = [sys.executable, "-m", "benches.python.memory", kind, str(count)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return float(done.stdout)

    return run


def cases(*, thorough: bool) -> list[Case]:
    """Contexts and idle lanes. Skipped where the system does not tell the resident memory."""
    skipped = "" if Path("/proc/self/statm").is_file() else "needs /proc/self/statm, which Linux has"
    count = COUNT if thorough else QUICK
    contexts = ((UNTOUCHED, "context"), (READ, "context-read"), (DATACLASS, "dataclass"))
    lanes = ((LANE, "lane"), (USED_LANE, "lane-after-run"))
    limited = ((IDLE_USER, "limiter-user"), (ACTIVE_USER, "limiter-user-active"))
    counted = f"Growth of the resident memory over {count} objects, with the place in the list that holds them."
    return [
        Case(
            GROUP,
            name,
            tuple(Side(label, _bytes(kind, count)) for label, kind in sides),
            unit=Unit.BYTES,
            own=name in {LANES, LIMITED},
            rounds=ROUNDS,
            skipped=skipped,
            note=note,
        )
        for name, sides, note in (
            (CONTEXTS, contexts, f"{counted} All contexts are of one user."),
            (LANES, lanes, "Each lane is a user's. The registry's entry and the user's id are part of it."),
            (LIMITED, limited, "Beside the lane. Ten seconds after the last permit the percentiles are dropped."),
        )
    ]
