"""``python -m benches.audit``: print figures, and write docs/audit-benchmark.md. Slow is no failure."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from isolane import AuditClass, AuditLogger, CallableKey, EncryptedAuditStorage, SecurityEvent, _core

from benches.audit.peers import PEERS
from benches.python import machine

DOCUMENT = machine.ROOT / "docs" / "audit-benchmark.md"
BODY = 300
"""Bytes of a record's body, as it is sealed."""

TARGET = 200_000
"""Records a second with durability ``os``."""

HEADER = (
    "| side | proves | records/s, best | median | caller's processor time | writer's | to record, p50 | p99 "
    "| until written, p50 | p99 |"
)

USERS = 100
COMMIT = 256
FRAME = BODY + 107

INTRODUCTION = """\
# Audit benchmark

Written by `make bench-audit`. Do not edit it: the next run replaces it.

Records of 300 bytes from one thread, over 100 users, until all are written: wall time, so it depends on what else the
machine does. Processor time does not: that of the caller, and that of the log's own thread, which seals and writes
meanwhile; the larger of the two bounds the rate on two free cores. All sides took turns.

What a peer proves is beside it. "to record" is what the caller waits for; "until written" is the time from the call
until the record is committed, one at a time, when nothing waits.
"""


def events() -> list[SecurityEvent]:
    """Events whose bodies have 300 bytes."""
    made = []
    for number in range(USERS):
        event = SecurityEvent(
            name="authz_fail",
            audit_class=AuditClass.PERMISSION,
            user_id=f"user-{number:03}",
            data={"tool": "search", "run": f"run-{number:06}", "text": ""},
        )
        around = len(_body(event))
        event.data["text"] = "x" * (BODY - around)  # type: ignore[index]
        made.append(event)
    return made


def _body(event: SecurityEvent) -> str:
    head = {
        "name": event.name,
        "user_id": event.user_id,
        "at": event.at.isoformat()[:26] + "Z",
        "data": dict(event.data),
    }
    return _core.to_json(head)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took.

    Attributes:
        rate: records a second, wall time.
        waits: seconds of single calls.
        caller: processor time of the calling thread for a record, in seconds.
        writer: that of all other threads.
    """

    rate: float
    waits: list[float] = field(default_factory=list)
    caller: float = 0.0
    writer: float = 0.0


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def micro(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} µs" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def own(folder: Path, durability: str, count: int, made: list[SecurityEvent]) -> Run:
    """Record until all are written."""
    storage = EncryptedAuditStorage(folder / "log", CallableKey(lambda: b"k" * 32))
    logger = AuditLogger(storage, durability=durability, patience=30.0)  # type: ignore[arg-type]
    log, record, waits = logger._log, logger.record, []  # noqa: SLF001 - without the thread that awaits it
    for event in made:
        record(event)
    log.flush(30.0)
    clock = time.perf_counter
    started, thread, process = clock(), time.thread_time(), time.process_time()
    for block in range(0, count, USERS):
        # A caller that is faster than the disk would be refused: it waits for half of the queue instead.
        while log.health()["queued"] > 4_000:
            time.sleep(0.0002)
        for event in made:
            record(event)
        if block % (USERS * 20) == 0:
            before = clock()
            record(made[0])
            waits.append(clock() - before)
    thread = time.thread_time() - thread
    log.flush(60.0)
    took, process = clock() - started, time.process_time() - process
    health = logger.health()
    assert sum(health.lost.values()) == 0, health
    logger.close()
    found = storage.verify()
    assert found.ok, found
    done = count + len(waits)
    return Run(done / took, waits, thread / done, (process - thread) / done)


def written(folder: Path, durability: str, count: int, made: list[SecurityEvent]) -> list[float]:
    """The time from a call until its record is committed."""
    storage = EncryptedAuditStorage(folder / "single", CallableKey(lambda: b"k" * 32))
    logger = AuditLogger(storage, durability=durability, patience=30.0)  # type: ignore[arg-type]
    log, taken = logger._log, []  # noqa: SLF001 - as above
    for number in range(count):
        before = time.perf_counter()
        logger.record(made[number % USERS])
        log.flush(30.0)
        taken.append(time.perf_counter() - before)
    logger.close()
    return taken


def disk(folder: Path, count: int) -> tuple[float, list[float]]:
    """Plain writes of a commit's size with fdatasync: what the disk gives, in records a second and seconds a sync."""
    buffer, taken = os.urandom(COMMIT * FRAME), []
    descriptor = os.open(folder / "plain", os.O_WRONLY | os.O_CREAT)
    started = time.perf_counter()
    for _ in range(count):
        before = time.perf_counter()
        os.write(descriptor, buffer)
        os.fdatasync(descriptor)
        taken.append(time.perf_counter() - before)
    rate = count * COMMIT / (time.perf_counter() - started)
    os.close(descriptor)
    return rate, taken


def peer(make: Callable[[Path], object], folder: Path, count: int, made: list[SecurityEvent]) -> Run:
    """The same of a peer."""
    it, waits = make(folder), []
    record = it.record  # type: ignore[attr-defined]
    started, thread = time.perf_counter(), time.thread_time()
    for block in range(0, count, USERS):
        for event in made:
            record(event)
        if block % (USERS * 20) == 0:
            before = time.perf_counter()
            record(made[0])
            waits.append(time.perf_counter() - before)
    it.flush()  # type: ignore[attr-defined]
    done = count + len(waits)
    run = Run(done / (time.perf_counter() - started), waits, (time.thread_time() - thread) / done)
    it.close()  # type: ignore[attr-defined]
    return run


def row(name: str, proves: str, runs: list[Run], late: list[float]) -> str:
    rates = [run.rate for run in runs]
    waits = [wait for run in runs for wait in run.waits]
    called = f"{micro(percentile(waits, 0.5))} | {micro(percentile(waits, 0.99))}" if waits else "- | -"
    until = f"{micro(percentile(late, 0.5))} | {micro(percentile(late, 0.99))}" if late else "- | -"
    caller, writer = (min(getattr(run, side) for run in runs) for side in ("caller", "writer"))
    spent = f"{micro(caller) if caller else '-'} | {micro(writer) if writer else '-'}"
    return f"| {name} | {proves} | {max(rates):,.0f} | {statistics.median(rates):,.0f} | {spent} | {called} | {until} |"


def rows(rounds: int, count: int, singles: int) -> Iterator[str]:
    made = events()
    runs: dict[str, list[Run]] = {}
    late: dict[str, list[float]] = {}
    missing = {}

    def note(name: str, run: Run) -> None:
        runs.setdefault(name, []).append(run)
        print(f"{name}: {run.rate:,.0f} records/s", file=sys.stderr, flush=True)

    for _ in range(rounds):
        for durability in ("os", "fsync"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder)
                note(durability, own(path, durability, count, made))
                late.setdefault(durability, []).extend(written(path, durability, singles, made))
        with tempfile.TemporaryDirectory() as folder:
            rate, taken = disk(Path(folder), max(20, count // COMMIT // 4))
            note("disk", Run(rate))
            late.setdefault("disk", []).extend(taken)
        for each in PEERS:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    note(each.name, peer(each, Path(folder), count // 4, made))
                except ModuleNotFoundError as error:
                    missing[each.name] = f"SKIPPED: {error}"
    met = max(run.rate for run in runs["os"]) >= TARGET
    target = f"target ≥ {TARGET:,}{'' if met else ', missed'}"
    yield row(f"isolane, `os` ({target})", "all of docs/audit.md", runs["os"], late["os"])
    yield row("isolane, `fsync`", "the same, after a loss of power", runs["fsync"], late["fsync"])
    yield row("write and fdatasync of 256 records' bytes: the disk", "-", runs["disk"], late["disk"])
    for each in PEERS:
        if each.name in missing:
            yield f"| {each.name} | {each.proves} | {missing[each.name]} | | | | | | | |"
        else:
            yield row(each.name, each.proves, runs[each.name], [])


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benches.audit", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few records, no document: shows that it runs")
    parser.add_argument("--output", type=Path, default=DOCUMENT)
    options = parser.parse_args()
    about = machine.describe()
    table = [
        HEADER,
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(rows(1, 4_000, 50) if options.quick else rows(5, 200_000, 1_000)),
    ]
    text = "\n".join([INTRODUCTION, *(f"- {name}: {value}" for name, value in about.items()), "", *table, ""])
    print(text)
    if not options.quick:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
