"""Ledgers of workers: written, put together, and what the removal gate makes of them. Real processes and real disks."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from isolane._core import merge_ledgers
from isolane.migration.deprecation import (
    DeprecationLedger,
    LedgerFolder,
    LedgerReading,
    RemovedInV2Warning,
    deprecated_call,
    keep_ledger,
)
from isolane.migration.deprecation import folder as folder_module
from isolane.migration.deprecation.gate import parse_age, removal_gate
from isolane.migration.deprecation.keeping import LedgerKeeper
from isolane.migration.deprecation.status import add_status, run_status

WORKER = """
import sys, time, warnings
warnings.simplefilter("ignore")
from isolane.migration.deprecation import deprecated_call
def call(symbol):
    deprecated_call(symbol, "ISO-D003")
for _ in range(int(sys.argv[1])):
    call("shared")
call("only-" + sys.argv[2])
print("done", flush=True)
if sys.argv[3] == "stay":
    time.sleep(60)
"""


def worker(folder: Path, calls: int, name: str, mode: str = "leave", **options) -> subprocess.Popen[str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("ISOLANE_")}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(calls), name, mode],
        env={**own, "ISOLANE_LEDGER_DIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def until(condition, seconds: float = 30.0):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def test_many_workers_at_once_are_put_together(tmp_path):
    workers = [worker(tmp_path / "ledgers", 100 + number, str(number)) for number in range(4)]
    for one in workers:
        assert one.communicate(timeout=60)[0] == "done\n"
    reading = LedgerFolder(tmp_path / "ledgers").read()
    assert reading.symbols == {"shared": 406, **{f"only-{number}": 1 for number in range(4)}}
    assert (reading.files, reading.unread) == (4, {})
    (shared,) = [line for line in reading.lines if line.symbol == "shared"]
    assert (shared.count, shared.file, shared.line, shared.code) == (406, "<string>", 6, "ISO-D003")
    assert reading.since <= shared.first <= shared.last <= reading.until
    # A symbol of the same line is a line of its own.
    assert len(reading.lines) == 5


def test_a_killed_worker_leaves_what_it_wrote(tmp_path):
    one = worker(tmp_path, 10, "killed", "stay")
    folder = LedgerFolder(tmp_path)
    try:
        until(lambda: folder.read().symbols.get("shared") == 10)
    finally:
        one.send_signal(signal.SIGKILL)
        one.communicate(timeout=30)
    reading = folder.read()
    assert (reading.symbols["shared"], reading.unread) == (10, {})
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.name.startswith("worker")) == [".json"]


def test_a_worker_that_is_terminated_properly_loses_no_call(tmp_path):
    one = worker(tmp_path, 12_345, "a")
    assert one.communicate(timeout=60)[0] == "done\n"
    assert LedgerFolder(tmp_path).read().symbols == {"shared": 12_345, "only-a": 1}


# A disk that refuses.


def test_a_full_disk_is_counted_and_nobody_notices(tmp_path, caplog):
    keeper = LedgerKeeper()
    keeper.begin(tmp_path)
    try:
        until(lambda: keeper.figures().writes)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
        try:
            folder, name = keeper.current()
            assert not keeper._write(folder, name)
            assert not keeper._write(folder, name)
            with pytest.warns(RemovedInV2Warning):
                deprecated_call("on-a-full-disk", "ISO-D003")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        figures = keeper.figures()
        assert (figures.failures >= 2, figures.last_failure) == (True, "File too large")
        # The former file is whole, nothing half-written lies about, and the next write has everything.
        assert not list(tmp_path.glob(".*.tmp"))
        assert LedgerFolder(tmp_path).read().unread == {}
        assert keeper._write(folder, name)
        assert LedgerFolder(tmp_path).read().symbols["on-a-full-disk"] >= 1
    finally:
        keeper.end()
    told = [record for record in caplog.records if "cannot be written" in record.getMessage()]
    assert len(told) == 1
    assert "File too large" in told[0].getMessage()


def test_a_folder_that_cannot_be_made_is_counted(tmp_path):
    (tmp_path / "file").write_text("")
    keeper = LedgerKeeper()
    keeper.begin(tmp_path / "file" / "ledgers")
    until(lambda: keeper.figures().failures)
    keeper.end()
    assert keeper.figures().writes == 0


def test_a_ledger_is_kept_where_it_was_asked_and_only_there(tmp_path, monkeypatch):
    monkeypatch.delenv("ISOLANE_LEDGER_DIR", raising=False)
    assert not keep_ledger()
    keeper = LedgerKeeper()
    keeper.begin(tmp_path / "one")
    keeper.begin(tmp_path / "one")
    until(lambda: keeper.figures().writes)
    keeper.begin(tmp_path / "two")
    until(lambda: list((tmp_path / "two").glob("worker-*.json")))
    keeper.end()
    keeper.end()
    assert len(list((tmp_path / "one").glob("worker-*.json"))) == 1
    assert keeper.figures().directory is None


# Files of others.


def book(since=1.0, until_=2.0, sites=(), **more):
    now = time.time()
    return json.dumps(
        {
            "schema": 1,
            "since": int((now + since) * 1e6),
            "until": int((now + until_) * 1e6),
            "evicted": 0,
            "symbols": {symbol: count for symbol, _, count, _ in sites},
            "sites": [
                {
                    "symbol": symbol,
                    "code": "ISO-D003",
                    "file": "/srv/app.py",
                    "line": line,
                    "count": count,
                    "first": int((now + last) * 1e6),
                    "last": int((now + last) * 1e6),
                }
                for symbol, line, count, last in sites
            ],
            **more,
        }
    )


def worker_file(pid: int, number: int) -> str:
    return f"worker-{folder_module._host()}-{pid}-{number:08x}.json"


def gone_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_what_is_no_ledger_is_named_and_the_rest_counts(tmp_path):
    (tmp_path / worker_file(1, 1)).write_text(book(-10, -5, [("a", 1, 3, -7)]))
    (tmp_path / worker_file(1, 2)).write_text('{"schema": 1, "since"')
    (tmp_path / worker_file(1, 3)).write_text(book(-10, -5).replace('"schema": 1', '"schema": 7'))
    (tmp_path / worker_file(1, 4)).write_bytes(b"\xff\xfe")
    (tmp_path / worker_file(1, 5)).write_text("[" * 100_000)
    (tmp_path / "merged-other.json").write_text("[1]")
    (tmp_path / "notes.json").write_text("not one of ours")
    reading = LedgerFolder(tmp_path).read()
    assert (reading.symbols, reading.files) == ({"a": 3}, 1)
    assert sorted(reading.unread) == sorted(
        [worker_file(1, 2), worker_file(1, 3), worker_file(1, 4), worker_file(1, 5), "merged-other.json"]
    )
    assert "schema 7" in reading.unread[worker_file(1, 3)]
    assert LedgerFolder(tmp_path / "nowhere").read() == LedgerReading()


def test_ledgers_of_workers_that_are_gone_become_one(tmp_path):
    pid = gone_pid()
    for number in range(40):
        (tmp_path / worker_file(pid, number)).write_text(book(-100, -50, [("a", number % 3, 2, -60)]))
    (tmp_path / worker_file(os.getpid(), 99)).write_text(book(-100, -50, [("mine", 1, 1, -60)]))
    (tmp_path / worker_file(pid, 77)).write_text("broken")
    (tmp_path / ".worker-left-over.tmp").write_text("x")
    folder = LedgerFolder(tmp_path)
    before = folder.read()
    assert folder.compact(gone_after=3_600) == 0, "written a moment ago: it may be another container's"
    assert folder.compact(from_files=100, gone_after=-5) == 0, "too few to be worth it"
    assert folder.compact(gone_after=-5) == 40
    left = {path.name for path in tmp_path.glob("*.json")}
    assert left == {worker_file(os.getpid(), 99), worker_file(pid, 77), f"merged-{folder_module._host()}.json"}
    assert not (tmp_path / ".worker-left-over.tmp").exists()
    after = folder.read()
    assert (after.symbols, after.lines) == (before.symbols, before.lines) == ({"a": 80, "mine": 1}, before.lines)
    # And again, into the same one.
    for number in range(40, 80):
        (tmp_path / worker_file(pid, number)).write_text(book(-100, -50, [("a", 0, 1, -60)]))
    assert folder.compact(gone_after=-5) == 40
    assert folder.read().symbols == {"a": 120, "mine": 1}


def test_cut_off_while_putting_together_nothing_counts_twice(tmp_path, monkeypatch):
    pid = gone_pid()
    for number in range(40):
        (tmp_path / worker_file(pid, number)).write_text(book(-100, -50, [("a", 1, 2, -60)]))
    folder = LedgerFolder(tmp_path)
    with monkeypatch.context() as patched:
        removed = iter(range(7))
        remove = LedgerFolder._remove

        def power_goes(self, name):
            if next(removed, None) is None:
                raise KeyboardInterrupt
            remove(self, name)

        patched.setattr(LedgerFolder, "_remove", power_goes)
        with pytest.raises(KeyboardInterrupt):
            folder.compact(gone_after=-5)
    assert len(list(tmp_path.glob("worker-*.json"))) == 33
    assert folder.read().symbols == {"a": 80}
    folder.compact(gone_after=-5)
    assert len(list(tmp_path.glob("worker-*.json"))) == 0
    assert folder.read().symbols == {"a": 80}


def test_one_process_at_a_time_puts_together(tmp_path):
    pid = gone_pid()
    for number in range(40):
        (tmp_path / worker_file(pid, number)).write_text(book(-100, -50, [("a", 1, 2, -60)]))
    folder = LedgerFolder(tmp_path)
    with folder._only_one() as mine:
        assert mine
        assert LedgerFolder(tmp_path).compact(gone_after=-5) == 0
    assert folder.compact(gone_after=-5) == 40


def test_a_folder_of_too_many_files_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MAX_FILES", 3)
    for number in range(5):
        path = tmp_path / worker_file(1, number)
        path.write_text(book(-100, -50, [("a", number, 1, -60)]))
        os.utime(path, (number, number))
    reading = LedgerFolder(tmp_path).read()
    assert reading.unread == {"2 files": "the folder has more than 3"}
    assert sorted(line.line for line in reading.lines) == [2, 3, 4], "those written last"


def test_merging_says_which_text_is_wrong():
    ledger = DeprecationLedger()
    ledger.note("a", "ISO-D003")
    whole, problems = merge_ledgers([ledger.book(), "{}", ledger.book()])
    assert json.loads(whole)["symbols"] == {"a": 2}
    assert [at for at, _ in problems] == [1]
    assert merge_ledgers([]) == (None, [])


# The gate.

NOW = datetime.now(UTC)


def at(ago: str) -> datetime:
    return NOW - parse_age(ago)


def reading(since="8d", until_="1m", **more) -> LedgerReading:
    return LedgerReading(since=NOW - parse_age(since), until=NOW - parse_age(until_), **more)


def lines(last: str):
    text = book(0, 0, [("a", 1, 1, -parse_age(last).total_seconds())])
    return LedgerReading.of(text).lines


@pytest.mark.parametrize(
    ("seen", "findings", "why"),
    [
        (reading(), 0, None),
        (reading(lines=lines("8d")), 0, None),
        (reading(lines=lines("6d")), 0, "1 line made a legacy call"),
        (reading(), 3, "the scan has 3 findings"),
        (LedgerReading(), 0, "no worker has counted in the window"),
        (reading("30d", "8d"), 0, "no worker has counted in the window"),
        (reading("2d"), 0, "only 47 h of 7 d were counted"),
        (reading(spans=((at("8d"), at("7d")), (at("1h"), at("1m")))), 0, "nobody counted for 6 d"),
        (reading(spans=((at("30d"), at("30d")), (at("1h"), at("1m")))), 0, "nobody counted for 6 d"),
        (reading(spans=((at("8d"), at("2d")), (at("36h"), at("1m")))), 0, None),
        (reading(spans=((at("30d"), at("20d")), (at("8d"), at("1m")))), 0, None),
        (reading("8d", "2d"), 0, "the latest word of a worker is 2 d old"),
        (reading(unread={"worker-1": "broken"}), 0, "worker-1 could not be read: broken"),
        (reading(evicted=3, evicted_last=NOW - timedelta(days=1)), 0, "had to make room"),
        (reading(evicted=3, evicted_last=NOW - timedelta(days=9)), 0, None),
    ],
)
def test_the_gate(seen, findings, why):
    gate = removal_gate(seen, window=parse_age("7d"), findings=findings, now=NOW)
    assert gate.is_open == (why is None), gate.reasons
    if why is not None:
        assert len(gate.reasons) == 1
        assert why in gate.reasons[0]


def test_less_than_the_window_can_be_enough_but_never_nothing():
    def gate(seen):
        return removal_gate(seen, window=parse_age("7d"), observed_at_least=parse_age("0s"), now=NOW)

    assert gate(reading("1h", "5m")).is_open
    assert not gate(LedgerReading()).is_open


def test_the_gate_sees_that_nobody_counted_between_two_workers(tmp_path, monkeypatch):
    day = 86_400
    (tmp_path / worker_file(1, 1)).write_text(book(-9 * day, -8 * day))
    (tmp_path / worker_file(1, 2)).write_text(book(-60, -1))
    assert [len(LedgerFolder(tmp_path).read().spans)] == [2]

    def reasons():
        return removal_gate(LedgerFolder(tmp_path).read(), window=parse_age("7d"), findings=0).reasons

    assert len(reasons()) == 1
    assert "nobody counted for 6 d" in reasons()[0]
    # Put together into one file, and again, it is still known.
    monkeypatch.setattr(LedgerFolder, "_is_gone", lambda *_: True)
    assert LedgerFolder(tmp_path).compact(from_files=2) == 2
    assert "nobody counted for 6 d" in reasons()[0]
    (tmp_path / worker_file(1, 3)).write_text(book(-50, -1))
    assert LedgerFolder(tmp_path).compact(from_files=1) == 1
    assert "nobody counted for 6 d" in reasons()[0]
    # Somebody else was there.
    (tmp_path / worker_file(1, 4)).write_text(book(-8 * day, -30))
    assert reasons() == ()


@pytest.mark.parametrize("text", ["7", "d", "-1d", "7 d", "1e3s", "9999999999s", "900000w", ""])
def test_times_that_are_none(text):
    with pytest.raises(ValueError, match="7d"):
        parse_age(text)


# The command.

MODERN = "async def execute(self, context):\n    return context.user_id\n"
LEGACY = "from app.websocket.manager import get_websocket_manager\n\nmanager = get_websocket_manager()\n"


def status(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_status(parser.add_subparsers(dest="verb"))
    return run_status(parser.parse_args(["status", *arguments]))


def test_the_command_says_what_is_left(tmp_path, capsys):
    (source := tmp_path / "app").mkdir()
    (source / "app.py").write_text(MODERN)
    (ledgers := tmp_path / "ledgers").mkdir()
    (ledgers / worker_file(1, 1)).write_text(book(-900_000, -1))
    gate = ("--ledger", str(ledgers), "--fail-on-legacy", "--max-age", "7d", str(source))
    assert status(*gate) == 0, capsys.readouterr().out
    assert "The legacy ways can be removed." in capsys.readouterr().out

    (ledgers / worker_file(1, 2)).write_text(book(-100, -1, [("get_\x1b[2Jmanager", 7, 12, -3_600)]))
    assert status(*gate) == 1
    out = capsys.readouterr().out
    assert "get_?[2Jmanager at /srv/app.py:7" in out, "nothing in a file reaches the terminal as a command"
    assert "ISO-D003: instead" in out
    assert status(*gate, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["gate"]["open"], document["gate"]["lines_in_window"]) == (False, 1)
    assert document["ledger"]["sites"][0]["count"] == 12
    assert status("--ledger", str(ledgers), str(source)) == 0, "nobody asked for the gate"

    (ledgers / worker_file(1, 2)).unlink()
    (source / "old.py").write_text(LEGACY)
    assert status(*gate) == 1
    assert "the scan has" in capsys.readouterr().out


def test_the_command_refuses_what_it_cannot_look_at(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ISOLANE_LEDGER_DIR", raising=False)
    assert status("--fail-on-legacy", str(tmp_path)) == 2
    assert "ISOLANE_LEDGER_DIR" in capsys.readouterr().err
    assert status("--ledger", str(tmp_path / "none"), str(tmp_path)) == 2
    assert status("--ledger", str(tmp_path), str(tmp_path / "none")) == 2
    assert status("--ledger", str(tmp_path), "--fail-on-legacy", "--observed-at-least", "0s", str(tmp_path)) == 1
    assert "no Python file was scanned" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        status("--max-age", "soon")
    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(PermissionError(13, "no", str(path))))
        assert status("--ledger", str(tmp_path), "--fail-on-legacy", str(tmp_path)) == 2
    monkeypatch.setenv("ISOLANE_LEDGER_DIR", str(tmp_path))
    assert status(str(tmp_path)) == 0


def test_importing_starts_no_thread_and_reads_no_file():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import sys, threading
                import isolane
                opened = []
                sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
                import isolane.migration.deprecation
                print([name for name in map(str, opened) if not name.endswith((".py", ".pyc", ".so"))])
                print(threading.active_count())
                """
            ),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[]\n1\n", done.stdout
