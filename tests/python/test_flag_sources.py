"""Where flags come from and what changes them: files on a real disk, other processes, variables."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from isolane import FlagConfigError, FlagEngine
from isolane.migration.flags import (
    EnvironmentSource,
    FileSource,
    FlagChangeRefusedError,
    FlagFileError,
    FlagSourceError,
    FlagWatcher,
    FlagWriter,
    MigrationFeatureFlags,
)
from isolane.migration.flags.sources import locking

ROOT = Path(__file__).resolve().parents[2]
ALL = {"state": "on", "rollout": 100_000}
NOBODY = {"state": "on", "rollout": 0}


def text_of(revision: int, kill_switch: bool = False, **flags: Any) -> str:
    return json.dumps({"schema": 1, "revision": revision, "kill_switch": kill_switch, "flags": flags})


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "flags.json"
    path.write_text(text_of(1, modern_execution=ALL))
    return path


@pytest.fixture
def watcher(path) -> FlagWatcher:
    return MigrationFeatureFlags(FileSource(path, poll_seconds=0.02)).watcher


def is_on(watcher: FlagWatcher, flag: str = "modern_execution") -> bool:
    return watcher.engine.is_on(flag, "ann")


# -- files -------------------------------------------------------------------------------------------------------------


def test_json_and_toml_say_the_same(tmp_path) -> None:
    toml = tmp_path / "flags.toml"
    toml.write_text(
        "# Why is here, not in a wiki.\nschema = 1\nrevision = 3\n\n[flags.modern_execution]\nrollout = 0\n"
        '\n[[flags.modern_execution.rules]]\nif = { tier = ["enterprise"] }\nrollout = 100000\n'
    )
    engine = FlagEngine()
    text = FileSource(toml).read()
    assert (engine.load(text.text, text.origin), text.origin) == (3, str(toml))
    assert engine.is_on("modern_execution", "ann", {"tier": "enterprise"})
    assert not engine.is_on("modern_execution", "ann", {"tier": "free"})


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("flags.json", b"", "it is empty"),
        ("flags.json", b"  \n", "it is empty"),
        ("flags.json", b'{"schema": 1, "revision": 1, "fl', "it is no JSON"),
        ("flags.json", b"[]", "is a list"),
        ("flags.json", b'{"schema": 1, "schema": 1}', "'schema' stands there twice"),
        ("flags.json", b"\xff\xfe", "byte 0 is not UTF-8"),
        ("flags.json", b"[" * 100_000, "it is no JSON"),
        ("flags.json", b" " * (1024 * 1024 + 1), "more than 1 MiB"),
        ("flags.json", b'{"rollout": NaN}', "a value that no flag has"),
        ("flags.toml", b"schema = ", "it is no TOML"),
        ("flags.toml", b"schema = 1\nsince = 2026-01-01\n", "a value that no flag has"),
    ],
)
def test_what_is_no_document_is_named(name, data, problem, tmp_path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(FlagFileError) as error:
        FileSource(path).read()
    assert problem in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert error.value.fix


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "directory.json").mkdir()
    for name, problem in (("pipe", "no regular file"), ("directory", "a directory"), ("none", "no such file")):
        with pytest.raises(FlagFileError, match=problem):
            FileSource(tmp_path / f"{name}.json").read()
    with pytest.raises(FlagFileError):
        FileSource("nul\0byte").read()


def test_a_file_that_may_not_be_read_is_named(path) -> None:
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            # Root may read everything.
            os.seteuid(65_534)
        with pytest.raises(FlagFileError, match="Permission denied"):
            FileSource(path).read()
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("poll", [0, -1, float("nan")])
def test_a_poll_takes_time(poll) -> None:
    with pytest.raises(ValueError, match="above 0"):
        FileSource("flags.json", poll)


def test_errors_go_through_processes() -> None:
    error = FlagFileError("flags.json", "it is empty", "write it")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.fix) == (FlagFileError, str(error), "write it")


# -- watching ----------------------------------------------------------------------------------------------------------


async def until(condition, seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.005)


async def test_a_change_is_in_force_without_a_thread(path, watcher, caplog) -> None:
    caplog.set_level(logging.INFO, "isolane.flags")
    news = []
    watcher.add_listener(news.append)
    threads = threading.active_count()
    watcher.start()
    assert is_on(watcher)
    FlagWriter(path).set_rollout("modern_execution", 0, actor="ann")
    await until(lambda: not is_on(watcher))
    assert threading.active_count() == threads
    assert [(each.kind, each.revision, each.flags) for each in news] == [("changed", 2, ("modern_execution",))]
    await asyncio.sleep(0.2)
    await watcher.stop()
    assert [record.message for record in caplog.records] == ["flags: revision 2 is in force, changed: modern_execution"]
    FlagWriter(path).set_rollout("modern_execution", 100, actor="ann")
    await asyncio.sleep(0.1)
    assert not is_on(watcher)


def broken_by_removal(path: Path) -> None:
    path.unlink()


def broken_by_truncation(path: Path) -> None:
    os.truncate(path, 20)


def broken_by_emptying(path: Path) -> None:
    os.truncate(path, 0)


def broken_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def broken_by_a_lower_revision(path: Path) -> None:
    path.write_text(text_of(0, modern_execution=NOBODY))


def broken_by_a_wrong_name(path: Path) -> None:
    path.write_text(text_of(2, modern_execution={"rolout": 0}))


def broken_by_a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


@pytest.mark.parametrize(
    "breaking",
    [
        broken_by_removal,
        broken_by_truncation,
        broken_by_emptying,
        broken_by_a_directory,
        broken_by_a_lower_revision,
        broken_by_a_wrong_name,
        broken_by_a_link_to_nothing,
    ],
)
async def test_a_bad_file_leaves_the_former_in_force_and_says_so_once(breaking, path, watcher, caplog) -> None:
    news = []
    watcher.add_listener(news.append)
    good = path.read_bytes()
    watcher.start()
    breaking(path)
    await until(lambda: watcher.is_stale)
    assert is_on(watcher)
    assert watcher.engine.decide("modern_execution", "ann").reason == "STALE"
    # Several polls later the log still has one line.
    await asyncio.sleep(0.2)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert caplog.records[0].message.endswith("Revision 1 stays in force")
    assert watcher.figures()["problem"]
    if path.is_dir():
        path.rmdir()
    scratch = path.with_name("new")
    scratch.write_bytes(good)
    scratch.rename(path)
    await until(lambda: not watcher.is_stale)
    assert watcher.engine.decide("modern_execution", "ann").reason == "STATIC"
    assert [each.kind for each in news] == ["stale", "fresh"]
    await watcher.stop()


async def test_a_file_that_is_written_in_pieces_is_taken_when_it_is_whole(tmp_path) -> None:
    """Half of a TOML document can be a document: here one in which everybody has the flag."""
    path = tmp_path / "flags.toml"
    head = "schema = 1\nrevision = {}\n[flags.modern_execution]\nrollout = 100000\n"
    tail = 'deny = ["ann"]\n'
    path.write_text(head.format(1) + tail)
    watcher = MigrationFeatureFlags(FileSource(path, poll_seconds=0.02)).watcher
    news = []
    watcher.start()
    watcher.add_listener(lambda each: news.append((each.kind, is_on(watcher))))
    for revision in range(2, 8):
        with path.open("w") as file:
            for piece in (head.format(revision)[:30], head.format(revision)[30:], tail):
                file.write(piece)
                file.flush()
                await asyncio.sleep(0.03)
        await until(lambda revision=revision: watcher.engine.revision == revision)
    await watcher.stop()
    assert set(news) == {("changed", False)}


async def test_what_a_link_names_may_be_exchanged(tmp_path) -> None:
    """As a volume of configuration is mounted: the link is replaced, the files never change."""
    for name, flag in (("one", ALL), ("two", NOBODY)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flags.json").write_text(text_of(1 + (name == "two"), modern_execution=flag))
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "flags.json").symlink_to("data/flags.json")
    watcher = MigrationFeatureFlags(FileSource(tmp_path / "flags.json", poll_seconds=0.02)).watcher
    watcher.start()
    assert is_on(watcher)
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "data")
    await until(lambda: not is_on(watcher))
    await watcher.stop()


async def test_a_change_that_leaves_size_and_time_is_seen(path, watcher) -> None:
    """As a copy does that keeps times; and as two writes in one tick of the file system's clock."""
    before = path.stat()
    assert watcher.flags.source.has_changed(), "a file that has just been written may be written again in the same tick"
    path.write_text(path.read_text().replace("100000", "000000".replace("000000", "     0")))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    watcher.start()
    await until(lambda: not is_on(watcher))
    await watcher.stop()


def test_a_file_that_was_left_alone_is_not_read_again(path, monkeypatch) -> None:
    # The time of the inode cannot be set, only waited for.
    monkeypatch.setattr("isolane.migration.flags.sources.file._SAME_TICK_SECONDS", 0.05)
    source = FileSource(path)
    source.read()
    time.sleep(0.1)
    source.read()
    assert not source.has_changed()
    path.chmod(0o600)
    assert source.has_changed()


async def test_stopping_and_starting_again_leaves_no_task(watcher) -> None:
    before = asyncio.all_tasks()
    for _ in range(3):
        watcher.start()
        watcher.start()
        assert len(asyncio.all_tasks() - before) == 1
        await watcher.stop()
        await watcher.stop()
        assert asyncio.all_tasks() == before


async def test_a_source_whose_watch_fails_is_watched_again(path, monkeypatch, caplog) -> None:
    calls = []

    class Failing(FileSource):
        async def watch(self, on_change) -> None:
            calls.append(1)
            if len(calls) == 1:
                raise OSError("as planned")
            await super().watch(on_change)

    monkeypatch.setattr("isolane.migration.flags.sources.watcher.RETRY_SECONDS", 0.01)
    watcher = MigrationFeatureFlags(Failing(path, 0.01)).watcher
    watcher.start()
    await until(lambda: len(calls) == 2)
    FlagWriter(path).set_rollout("modern_execution", 0, actor="ann")
    await until(lambda: not is_on(watcher))
    await watcher.stop()
    assert "watching the flags failed" in caplog.text


def test_what_a_listener_raises_harms_nobody(path, watcher, caplog) -> None:
    told = []

    def failing(_: Any) -> None:
        raise LookupError("as planned")

    watcher.add_listener(failing)
    remove = watcher.add_listener(told.append)
    FlagWriter(path).kill(actor="ann")
    assert watcher.load()
    assert told[0].flags == ("modern_execution",)
    assert "a listener of the flags failed" in caplog.text
    remove()
    FlagWriter(path).unkill(ack="INC-1", actor="ann")
    assert watcher.load()
    assert len(told) == 1


def test_a_source_that_raises_anything_leaves_the_former_in_force(path, watcher, caplog) -> None:
    watcher.flags.source.read = lambda: 1 / 0
    assert not watcher.load()
    assert is_on(watcher)
    assert watcher.is_stale
    assert "ZeroDivisionError" in caplog.text


# -- the environment ---------------------------------------------------------------------------------------------------


def engine_of(source: EnvironmentSource) -> FlagEngine:
    engine = FlagEngine()
    engine.load(source.read().text)
    return engine


def test_flags_of_the_environment() -> None:
    assert not EnvironmentSource.is_configured({"ISOLANE_DRAIN_SECONDS": "1"})
    environ = {
        "ISOLANE_FLAG_MODERN_EXECUTION": '{"rollout": 100000, "deny": ["eve"]}',
        "ISOLANE_FLAG_HYBRID_WEBSOCKET_MODE": "true",
        "ISOLANE_FLAG_OTHER": "false",
    }
    assert EnvironmentSource.is_configured(environ)
    engine = engine_of(EnvironmentSource(environ))
    assert engine.flags() == ["hybrid_websocket_mode", "modern_execution", "other"]
    assert [engine.is_on(flag, "ann") for flag in engine.flags()] == [True, True, False]
    assert not engine.is_on("modern_execution", "eve")


@pytest.mark.parametrize("value", ["25", '"on"', "on", "null", "[]", ""])
def test_a_variable_that_is_no_flag_is_named(value) -> None:
    with pytest.raises(FlagSourceError, match="ISOLANE_FLAG_MODERN_EXECUTION") as error:
        EnvironmentSource({"ISOLANE_FLAG_MODERN_EXECUTION": value}).read()
    assert "2.5 %" in error.value.fix


async def test_the_file_counts_before_the_environment_so_that_a_rollback_reaches_the_process(path) -> None:
    environ = {
        "ISOLANE_FLAGS_FILE": str(path),
        "ISOLANE_FLAG_MODERN_EXECUTION": "true",
        "ISOLANE_FLAG_HYBRID_WEBSOCKET_MODE": "true",
    }
    watcher = MigrationFeatureFlags(EnvironmentSource(environ, poll_seconds=0.02)).watcher
    watcher.start()
    assert is_on(watcher)
    FlagWriter(path).roll_back("modern_execution", {"metric": "run_error"}, actor="guard")
    await until(lambda: not is_on(watcher))
    assert is_on(watcher, "hybrid_websocket_mode")
    await watcher.stop()


async def test_an_environment_without_a_file_is_watched_by_nobody() -> None:
    watcher = MigrationFeatureFlags(EnvironmentSource({"ISOLANE_FLAG_MODERN_EXECUTION": "true"})).watcher
    before = asyncio.all_tasks()
    watcher.start()
    await asyncio.sleep(0.01)
    assert is_on(watcher)
    assert asyncio.all_tasks() == before
    await watcher.stop()


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_change_raises_the_revision_and_leaves_the_rest(path) -> None:
    held = {**ALL, "salt": "mine", "deny": ["eve"], "rules": [{"if": {"tier": "free"}, "rollout": 1}]}
    path.write_text(text_of(41, modern_execution=held, other=NOBODY))
    writer = FlagWriter(path)
    change = writer.set_rollout("modern_execution", "12.345 %", actor="ann", reason="week 2")
    document = writer.read().document
    assert document["flags"]["modern_execution"] == {**held, "rollout": 12_345}
    assert document["flags"]["other"] == NOBODY
    assert (document["revision"], change.revision) == (42, 42)
    assert (change.summary, change.actor, change.reason) == ("100 % -> 12.345 %", "ann", "week 2")
    assert writer.history() == [change]


@pytest.mark.parametrize("percent", ["-1", "100.001", "0.0001", "many", "", "nan", "inf", "1e99", True, 101])
def test_what_is_no_share_is_refused(percent, path) -> None:
    before = path.read_bytes()
    with pytest.raises(FlagChangeRefusedError, match="per cent from 0 to 100"):
        FlagWriter(path).set_rollout("modern_execution", percent, actor="ann")
    assert path.read_bytes() == before


@pytest.mark.parametrize(("percent", "steps"), [(0, 0), (0.1, 100), ("0.001", 1), ("50%", 50_000), (100, 100_000)])
def test_what_is_a_share_is_written(percent, steps, path) -> None:
    writer = FlagWriter(path)
    writer.set_rollout("modern_execution", percent, actor="ann")
    assert writer.read().document["flags"]["modern_execution"]["rollout"] == steps


def test_a_flag_that_is_not_there_is_added_only_when_asked(tmp_path) -> None:
    writer = FlagWriter(tmp_path / "flags.json")
    with pytest.raises(FlagFileError, match="no such file"):
        writer.set_rollout("modern_execution", 5, actor="ann")
    writer.set_rollout("modern_execution", 5, actor="ann", create=True)
    with pytest.raises(FlagChangeRefusedError, match=r"did you mean modern_execution\?"):
        writer.set_rollout("modern_exection", 5, actor="ann")
    with pytest.raises(FlagChangeRefusedError, match="known are: modern_execution"):
        writer.kill(actor="ann") and writer.roll_back("zzz", {}, actor="ann")
    assert writer.read().revision == 2


def test_a_rolled_back_flag_goes_on_only_after_it_is_resumed(path) -> None:
    writer, engine = FlagWriter(path), FlagEngine()
    record = {"metric": "run_error", "measured": 0.05, "threshold": 0.005, "n": 113, "stage": 25_000}
    writer.roll_back("modern_execution", record, actor="guard")
    engine.load(path.read_text())
    assert not engine.is_on("modern_execution", "ann")
    latched = json.loads(engine.latched()["modern_execution"])
    assert latched.items() > record.items()
    assert (latched["actor"], latched["mode"], latched["revision"]) == ("guard", "drain", 1)
    with pytest.raises(FlagChangeRefusedError, match=r"0\.05 of 113, at most 0\.005, at 25 %, by guard"):
        writer.set_rollout("modern_execution", 5, actor="ann")
    writer.set_rollout("modern_execution", 0, actor="ann")
    with pytest.raises(FlagChangeRefusedError, match="ack is empty"):
        writer.resume("modern_execution", ack=" ", actor="ann")
    writer.resume("modern_execution", ack="INC-123", actor="ann")
    engine.load(path.read_text())
    assert engine.latched() == {}
    assert not engine.is_on("modern_execution", "ann"), "it starts again from nobody"
    writer.set_rollout("modern_execution", 100, actor="ann")
    engine.load(path.read_text())
    assert engine.is_on("modern_execution", "ann")
    assert [change.action for change in writer.history()] == ["set", "resume", "set", "rollback"]


def test_of_several_processes_that_roll_back_the_first_says_why(path) -> None:
    writer = FlagWriter(path)
    for name in ("run_error", "slow_run"):
        writer.roll_back("modern_execution", {"metric": name}, actor="guard")
    assert writer.read().document["flags"]["modern_execution"]["rollback"]["metric"] == "run_error"
    assert [change.summary for change in writer.history()] == ["rolled back, as before", "100 % -> rolled back"]


def test_resuming_in_the_file_releases_what_a_process_has_latched(path) -> None:
    writer, engine = FlagWriter(path), FlagEngine()
    engine.load(path.read_text())
    engine.latch("modern_execution", "{}")
    writer.set_rollout("modern_execution", 100, actor="ann")
    engine.load(path.read_text())
    assert not engine.is_on("modern_execution", "ann"), "a new rollout does not undo a roll-back"
    writer.resume("modern_execution", ack="INC-1", actor="ann")
    engine.load(path.read_text())
    assert engine.is_on("modern_execution", "ann")


def test_a_flag_that_is_off_is_turned_on_only_when_asked(path) -> None:
    path.write_text(text_of(1, modern_execution={"state": "off"}))
    writer = FlagWriter(path)
    with pytest.raises(FlagChangeRefusedError, match="state 'off'"):
        writer.set_rollout("modern_execution", 5, actor="ann")
    writer.set_rollout("modern_execution", 0, actor="ann")
    writer.set_rollout("modern_execution", 5, actor="ann", turn_on=True)
    assert writer.read().document["flags"]["modern_execution"] == {"state": "on", "rollout": 5_000}


def test_the_share_of_some_users_is_the_first_rule(path) -> None:
    writer, engine = FlagWriter(path), FlagEngine()
    path.write_text(text_of(1, modern_execution={"rollout": 0, "rules": [{"if": {"region": ["eu"]}, "rollout": 0}]}))
    for percent in (50, 100):
        writer.set_rollout("modern_execution", percent, actor="ann", when=("tier", "enterprise"))
    held = writer.read().document["flags"]["modern_execution"]
    assert [rule["if"] for rule in held["rules"]] == [{"tier": ["enterprise"]}, {"region": ["eu"]}]
    engine.load(path.read_text())
    assert engine.is_on("modern_execution", "ann", {"tier": "enterprise", "region": "eu"})
    assert not engine.is_on("modern_execution", "ann", {"tier": "free"})


def test_what_no_process_would_take_is_not_written(path) -> None:
    path.write_text(text_of(1, modern_execution={"rollout": 0, "algorithm": "unleash"}))
    before = path.read_bytes()
    with pytest.raises(FlagConfigError) as error:
        FlagWriter(path).set_rollout("modern_execution", "0.5", actor="ann")
    assert error.value.path == "/flags/modern_execution/rollout"
    assert path.read_bytes() == before


def test_toml_is_read_only(tmp_path) -> None:
    path = tmp_path / "flags.toml"
    path.write_text("schema = 1\nrevision = 1\n[flags.modern_execution]\nrollout = 5\n")
    assert FlagWriter(path).read().document["flags"]["modern_execution"]["rollout"] == 5
    with pytest.raises(FlagFileError, match="comments would be lost"):
        FlagWriter(path).set_rollout("modern_execution", 5, actor="ann")


def test_a_written_file_keeps_its_mode_and_its_link(tmp_path) -> None:
    (tmp_path / "deep").mkdir()
    real = tmp_path / "deep" / "real.json"
    real.write_text(text_of(1, modern_execution=ALL))
    real.chmod(0o640)
    link = tmp_path / "flags.json"
    link.symlink_to("deep/real.json")
    for name in (".real.json.0123456789abcdef.tmp", ".real.json.mine.tmp"):
        (tmp_path / "deep" / name).touch()
    FlagWriter(link).kill(actor="ann")
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert json.loads(real.read_text())["kill_switch"] is True
    # What a killed writer left is gone, what somebody else has beside it is not.
    assert sorted(each.name for each in real.parent.iterdir()) == [".real.json.mine.tmp", "real.json"]


def test_the_history_is_bounded(path) -> None:
    document = json.loads(text_of(500, modern_execution=NOBODY))
    line = {"at": "2026-01-01T00:00:00+00:00", "actor": "a", "action": "set", "flag": "", "summary": "", "reason": ""}
    document["history"] = [{**line, "revision": number} for number in range(400)] + ["no line", {"revision": "x"}]
    path.write_text(json.dumps(document))
    writer = FlagWriter(path)
    writer.set_rollout("modern_execution", 1, actor="ann", reason="long " * 1000)
    assert len(writer.read().document["history"]) == 100
    assert len(writer.history()) == 98
    assert len(writer.history()[0].reason) == 500


def test_a_lock_that_is_held_for_too_long_is_named(path) -> None:
    writer = FlagWriter(path, lock_seconds=0.05)
    with locking.locked(path.with_name("flags.json.lock"), 1), pytest.raises(FlagFileError, match="another process"):
        writer.kill(actor="ann")
    assert writer.kill(actor="ann").revision == 2


def test_a_directory_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(FlagFileError, match="a directory that is there"):
        FlagWriter(tmp_path / "none" / "flags.json").set_rollout("a", 1, actor="ann", create=True)


def child(*arguments: object) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "tests.support.flag_writers", *map(str, arguments)]
    return subprocess.Popen(program, cwd=ROOT, stderr=subprocess.PIPE)


def test_many_processes_that_write_at_once_lose_no_write(path) -> None:
    writers = [child("many", path, f"flag_{number}", 12) for number in range(4)]
    for writer in writers:
        assert writer.wait(60) == 0, writer.stderr.read()
        writer.stderr.close()
    held = FlagWriter(path).read()
    assert held.revision == 1 + 4 * 12
    assert {held.document["flags"][f"flag_{number}"]["rollout"] for number in range(4)} == {11_000}
    history = FlagWriter(path).history()
    assert [change.revision for change in history] == list(range(49, 1, -1))


def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_file(path) -> None:
    many = {
        f"flag_{number}": {"rollout": number, "allow": [f"user-{each}" for each in range(200)]} for number in range(40)
    }
    path.write_text(text_of(1, modern_execution=NOBODY, **many))
    draw = random.Random(7)
    ready = path.with_name("ready")
    left = killed = 0
    while killed < 5 or not left:
        killed += 1
        assert killed < 100, "no writer was killed between the beginning and the end of a write"
        ready.unlink(missing_ok=True)
        writer = child("for_ever", path, ready)
        limit = time.monotonic() + 30
        while not ready.exists():
            assert writer.poll() is None, writer.stderr.read()
            assert time.monotonic() < limit
            # Read while it writes: all of the former one, or all of the new one.
            FlagEngine().load(path.read_text())
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.02))
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
        writer.stderr.close()
        left += any(each.name.endswith(".tmp") for each in path.parent.iterdir())
        before = FlagEngine().load(path.read_text())
        # The next writer is not kept waiting by the lock of the dead, and removes what it left.
        assert FlagWriter(path, lock_seconds=2).kill(actor="ann").revision == before + 1
        assert not [each for each in path.parent.iterdir() if each.name.endswith(".tmp")]


def test_what_an_operator_stops_is_off_also_when_an_old_copy_was_written_back(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    document = {"schema": 1, "revision": 42, "flags": {"modern_execution": {"rollout": 100_000}}}
    path.write_text(json.dumps(document))
    flags = MigrationFeatureFlags(path)
    path.write_text(json.dumps(document | {"revision": 3}))
    assert not flags.refresh()
    assert flags.is_on("modern_execution", "ann"), "an old copy changes nothing"
    writer = FlagWriter(path)
    writer.kill(actor="ops", reason="INC-1")
    assert not flags.refresh()
    assert "older than 42" in flags.problem
    assert flags.decide("modern_execution", "ann").step == "kill_switch"
    assert flags.engine.is_killed
    writer.unkill(ack="INC-1", actor="ops")
    flags.refresh()
    assert flags.is_on("modern_execution", "ann")
    writer.roll_back("modern_execution", {}, actor="ops")
    flags.refresh()
    assert flags.decide("modern_execution", "ann").step == "rollback"
    assert "modern_execution" in flags.engine.latched()
    path.write_text(json.dumps(document))
    flags.refresh()
    assert flags.is_on("modern_execution", "ann")
    assert not flags.problem


def test_settings_that_no_guard_can_have_are_neither_loaded_nor_written(tmp_path: Path) -> None:
    flag = {"rollout": 0, "guard": {"metrics": {"run_eror": {"bound": 0.01}}}}
    document = {"schema": 1, "revision": 1, "flags": {"modern_execution": flag}}
    with pytest.raises(FlagConfigError) as refused:
        FlagEngine().load(json.dumps(document))
    assert refused.value.path == "/flags/modern_execution/guard/metrics/run_eror"
    path = tmp_path / "flags.json"
    path.write_text(json.dumps(document))
    with pytest.raises(FlagConfigError, match="run_eror"):
        FlagWriter(path).set_rollout("modern_execution", 5, actor="ops")
