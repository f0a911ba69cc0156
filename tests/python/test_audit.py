"""The audit log as an application uses it: what is recorded, read, proved, erased and reported."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import isolane
import pytest
from isolane import (
    AuditClass,
    AuditKeyError,
    AuditLogError,
    AuditLogger,
    AuditSink,
    AuditTamperError,
    AuditUnavailableError,
    CallableKey,
    EncryptedAuditStorage,
    EnvKey,
    FailurePolicy,
    FileKey,
    ForkedProcessError,
    KeyProvider,
    SecurityEvent,
    SecurityMonitor,
    Severity,
    TimeRange,
    _core,
)
from isolane.cli import main
from isolane.testing import manual_clock

from tests.support.audit_programs import event, opened, storage

KEY_TEXT = base64.b64encode(b"k" * 32).decode()
DAY = 86_400


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def logger(path) -> Iterator[AuditLogger]:
    made = opened(path)
    yield made
    made.close()


def everything(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.rglob("*") if each.is_file())


def test_the_logger_is_a_sink_and_goes_by_the_names_of_the_design():
    assert issubclass(AuditLogger, AuditSink)
    assert isolane.EncryptedAuditLogger is isolane.SecurityAuditIntegration is AuditLogger
    assert isolane.SecurityAuditEvent is SecurityEvent
    assert isolane.EncryptedStorage is EncryptedAuditStorage
    assert isinstance(EnvKey(), KeyProvider)


async def test_events_are_read_back_as_they_were_recorded(logger, path):
    at = datetime(2026, 11, 22, 8, 0, 0, 42, tzinfo=UTC)
    data = {"tool": "search", "nested": {"rows": [1, 2.5, None, True]}, "text": "ä\n\u202e\x1b[31m"}
    logger.record(
        SecurityEvent(
            name="authz_fail",
            audit_class=AuditClass.PERMISSION,
            user_id="ann",
            severity=Severity.HIGH,
            data=MappingProxyType(data),
            at=at,
        )
    )
    await logger.flush()
    record = list(storage(path).records())[1]
    assert (record.name, record.user_id, record.data) == ("authz_fail", "ann", data)
    assert (record.audit_class, record.severity, record.state) == (AuditClass.PERMISSION, Severity.HIGH, "open")
    assert datetime.fromisoformat(record.at) == at
    assert abs(datetime.now(UTC) - record.recorded_at) < timedelta(minutes=5)
    assert (record.chain, record.seq) == (1, 1)


async def test_an_event_is_never_lost_for_its_data(logger, path):
    circle: dict[str, object] = {}
    circle["self"] = circle
    for data in ({"object": object()}, circle, {"large": "x" * 100_000}, {}):
        logger.record(event(AuditClass.ADMIN, "ann", **data))
    await logger.flush()
    unwritable, deep, large, empty = [record.data for record in storage(path).records()][1:]
    assert "data.object is not JSON-able" in unwritable["unwritable"]
    assert "unwritable" in deep
    assert large["truncated"] > 90_000
    assert large["beginning"].startswith('{"large":"xxx')
    assert empty == {}


async def test_the_methods_of_the_design_record_what_they_say(logger, path, new_context):
    context = new_context("ann-of-the-methods")
    logger.log_context_creation(context)
    logger.log_data_access("ann", "invoice-7", "read")
    logger.log_data_access("ann", "invoice-7", "print")
    violation = isolane.ContextIsolationError("an object of another user was refused", "bind")
    logger.log_isolation_violation(violation, user_id="bob")
    logger.log_isolation_violation({"kind": "canary", "user_id": "cem"})
    logger.log_security_event(event(AuditClass.DEBUG, None))
    await logger.flush()
    records = list(storage(path).records())[1:]
    assert [(each.name, each.user_id, each.audit_class.value) for each in records] == [
        ("context_created", "ann-of-the-methods", "lifecycle"),
        ("sensitive_read", "ann", "permission"),
        ("sensitive_access", "ann", "permission"),
        ("isolation_violation", "bob", "isolation"),
        ("isolation_violation", "cem", "isolation"),
        ("tested", None, "debug"),
    ]
    assert records[0].data["run_id"] == context.run_id
    assert records[3].data["boundary"] == "bind"
    assert records[3].severity is Severity.CRITICAL


async def test_observers_see_what_was_taken_and_harm_nobody(logger, caplog):
    seen = []

    def fails(_event: SecurityEvent) -> None:
        raise ValueError("an observer's own")

    logger.add_observer(fails)
    remove = logger.add_observer(seen.append)
    first = event(AuditClass.DEBUG, "ann")
    logger.record(first)
    remove()
    logger.record(event(AuditClass.DEBUG, "ann"))
    assert seen == [first]
    assert caplog.text.count("an observer of the audit log failed") == 2


async def test_who_makes_the_log_sick_does_not_blind_the_monitor(logger, path):
    monitor = SecurityMonitor(sinks=[])
    logger.add_observer(monitor.observe)
    logger.record(event(AuditClass.DEBUG, "ann"))
    await logger.flush()
    assert monitor.recent_alerts == ()
    logger.close()
    with pytest.raises(AuditUnavailableError):
        logger.log_isolation_violation("something", user_id="bob")
    assert [alert.rule for alert in monitor.recent_alerts] == ["isolation_violation", "audit_lost"]
    # What is dropped without an error is told as well.
    gaps = []
    logger.add_observer(gaps.append)
    logger.record(event(AuditClass.DEBUG, "ann"))
    assert [(gap.name, gap.data) for gap in gaps[1:]] == [("audit_gap", {"lost": {"debug": 1}})]


async def test_a_report_of_an_altered_log_is_shown_to_observers(path):
    async with opened(path) as logger:
        logger.record(SecurityEvent(name="audit_gap", audit_class=AuditClass.ADMIN, data={"of": "an application"}))
        await logger.checkpoint()
        seen = []
        logger.add_observer(seen.append)
        always = TimeRange(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
        report = await logger.generate_security_report(always)
        assert (report.verification.ok, report.lost, seen) == (True, {}, [])
        (leaves,) = path.rglob("*.leaves")
        leaves.write_bytes(bytes(32) + leaves.read_bytes()[32:])
        report = await logger.generate_security_report(always)
        assert not report.verification.ok
        assert [(each.name, each.data) for each in seen] == [("audit_tampered", {"chain": 1, "seq": 0})]


async def test_nothing_of_a_user_is_in_clear(logger, path):
    secret = "the-secret-of-ann"
    logger.record(event(AuditClass.ADMIN, "ann-in-clear", secret=secret))
    await logger.flush()
    stored = everything(path)
    assert secret.encode() not in stored
    assert b"ann-in-clear" not in stored
    assert b"tested" not in stored, "not even what happened"


async def test_an_erased_user_is_gone_and_the_log_still_verifies(logger, path):
    for number in range(5):
        logger.record(event(AuditClass.ADMIN, "ann", number=number))
        logger.record(event(AuditClass.ADMIN, "bob", number=number))
    assert await logger.shred_user("ann", "under a hold", legal_hold=True) == 0
    await logger.flush()
    before = (path / "keys").read_bytes()
    assert await logger.shred_user("ann", "asked to") == 1
    records = list(storage(path).records())
    assert [record.data for record in records if record.name == "<erased>"] == ["<erased>"] * 5
    assert {record.user_id for record in records if record.name == "tested"} == {"bob"}
    assert [record.data for record in records if record.name == "user_deleted"] == [{"keys": 1, "reason": "asked to"}]
    assert [record.data for record in records if record.name == "user_deletion_held"] == [{"reason": "under a hold"}]
    assert list(storage(path).records(user_id="ann")) == []
    assert len(list(storage(path).records(user_id="bob"))) == 5
    logger.close()
    found = storage(path).verify()
    assert (found.ok, found.erased) == (True, 5)
    # Neither the key, as it was wrapped, nor what tells whose it was is in any file any more.
    after, stored = (path / "keys").read_bytes(), everything(path)
    changed = [at for at in range(128, len(before), 144) if before[at : at + 144] != after[at : at + 144]]
    assert len(changed) == 1
    slot = before[changed[0] :][:144]
    tag, wrapped = slot[16:32], slot[64:128]
    assert tag not in stored
    assert wrapped not in stored


async def test_a_user_has_another_pseudonym_in_each_30_days(path):
    with manual_clock() as clock:
        async with opened(path) as logger:
            logger.record(event(AuditClass.ADMIN, "ann"))
            logger.record(event(AuditClass.ADMIN, "ann"))
            logger.record(event(AuditClass.ADMIN, "bob"))
            clock.advance(31 * DAY)
            logger.record(event(AuditClass.ADMIN, "ann"))
            await logger.flush()
            first, same, bob, later = [record.pseudonym for record in storage(path).records()][1:]
            assert first == same
            assert len({first, bob, later}) == 3
            assert await logger.shred_user("ann", "asked to") == 2


async def test_keys_are_rotated_without_touching_the_records(path, monkeypatch):
    monkeypatch.setenv("NEW_AUDIT_KEY", os.urandom(32).hex())
    async with opened(path) as logger:
        logger.record(event(AuditClass.ADMIN, "ann", number=1))
        await logger.flush()
        (segment,) = path.rglob("*.seg")
        before = segment.read_bytes()
        await logger.rotate_kek(EnvKey("NEW_AUDIT_KEY"))
        assert segment.read_bytes().startswith(before)
        logger.record(event(AuditClass.ADMIN, "ann", number=2))
    with pytest.raises(AuditKeyError, match="does not open the keystore"):
        storage(path).verify()
    rotated = EncryptedAuditStorage(path, EnvKey("NEW_AUDIT_KEY"))
    assert rotated.verify().ok
    assert [record.data["number"] for record in rotated.records(user_id="ann")] == [1, 2]


def test_keys_come_from_where_only_their_owner_reads(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text(f"{KEY_TEXT}\n")
    file.chmod(0o644)
    with pytest.raises(AuditKeyError, match="mode 0644"):
        FileKey(file).key()
    file.chmod(0o600)
    assert FileKey(file).key() == b"k" * 32
    with pytest.raises(AuditKeyError, match="cannot be read"):
        FileKey(tmp_path / "none").key()
    monkeypatch.delenv("ISOLANE_AUDIT_KEY", raising=False)
    with pytest.raises(AuditKeyError, match="not set"):
        EnvKey().key()
    monkeypatch.setenv("ISOLANE_AUDIT_KEY", "c2hvcnQ=")
    with pytest.raises(AuditKeyError, match="32 bytes") as caught:
        EnvKey().key()
    assert "c2hvcnQ" not in str(caught.value)
    with pytest.raises(AuditKeyError, match="got 3"):
        CallableKey(lambda: b"123").key()


def test_a_log_is_written_with_its_key_and_by_one_alone(path):
    with pytest.raises(AuditKeyError, match="key provider"):
        AuditLogger(EncryptedAuditStorage(path))
    assert not storage(path).is_written()
    logger = opened(path)
    assert storage(path).is_written()
    with pytest.raises(AuditLogError, match="another process"):
        opened(path)
    logger.close()
    assert not storage(path).is_written()
    with pytest.raises(AuditKeyError, match="does not open"):
        AuditLogger(EncryptedAuditStorage(path, CallableKey(lambda: b"j" * 32)))


def test_arguments_out_of_range_are_refused(path):
    for wrong in ({"queue": 0}, {"durability": "always"}, {"policy": {AuditClass.DEBUG: "ignore"}}):
        with pytest.raises(ValueError, match="must be"):
            opened(path, **wrong)
    with pytest.raises(ValueError, match="aware"):
        TimeRange(datetime(2026, 1, 1), datetime(2026, 1, 2))  # noqa: DTZ001 - that is the point


async def test_a_closed_log_refuses_by_class(path):
    logger = opened(path, policy={AuditClass.ADMIN: FailurePolicy.DROP})
    logger.record(event(AuditClass.PERMISSION, "ann"))
    assert logger.close() == 0
    assert logger.close() == 0
    with pytest.raises(AuditUnavailableError, match="closed") as caught:
        logger.record(event(AuditClass.PERMISSION, "ann"))
    assert caught.value.audit_class == "permission"
    logger.record(event(AuditClass.ADMIN, "ann"))
    logger.record(event(AuditClass.LIFECYCLE, "ann"))
    health = logger.health()
    assert (health.status, health.lost["permission"], health.lost["admin"], health.lost["lifecycle"]) == (
        "closed",
        1,
        1,
        1,
    )
    with pytest.raises(AuditLogError, match="closed"):
        await logger.flush()


async def test_checkpoints_are_handed_out_and_prove_records(path, caplog):
    notes = []
    caplog.set_level("INFO", "isolane.audit")
    async with opened(path, checkpoint_records=10, on_checkpoint=notes.append) as logger:
        for number in range(25):
            logger.record(event(AuditClass.DEBUG, "ann", number=number))
        assert await logger.checkpoint() == 26
    assert notes[-1].splitlines()[1] == "26"
    assert "audit checkpoint of 26 records" in caplog.text
    proved = storage(path).prove(5)
    assert proved is not None
    arguments = (proved.leaf, proved.seq, list(proved.proof), proved.checkpoint, proved.verifier)
    assert _core.audit_verify_inclusion(*arguments)
    assert not _core.audit_verify_inclusion(bytes(32), *arguments[1:])
    assert not _core.audit_verify_inclusion(arguments[0], 6, *arguments[2:])
    assert storage(path).prove(26) is None
    assert storage(path).verify(checkpoint=notes[-1], verifier=proved.verifier).ok
    changed = notes[-1].replace("\n26\n", "\n27\n")
    assert not storage(path).verify(checkpoint=changed).ok


async def test_a_report_counts_what_was_recorded_in_the_time(path):
    with manual_clock() as clock:
        async with opened(path) as logger:
            logger.record(event(AuditClass.DEBUG, "too-early"))
            clock.advance(100)
            start = datetime.now(UTC) + timedelta(seconds=50)
            for user in ("ann", "ann", "bob"):
                denied = SecurityEvent(name="authz_fail", audit_class=AuditClass.PERMISSION, user_id=user)
                logger.record(denied)
            logger.log_isolation_violation("something", user_id="bob")
            logger.record(event(AuditClass.LIFECYCLE, "cem"))
            await logger.shred_user("cem", "asked to")
            clock.advance(100)
            end = datetime.now(UTC) + timedelta(seconds=150)
            logger.record(event(AuditClass.DEBUG, "too-late"))
            report = await logger.generate_security_report(TimeRange(start, end))
    assert report.by_name == {"authz_fail": 3, "isolation_violation": 1, "<erased>": 1, "user_deleted": 1}
    assert (report.total, report.denied, report.users, report.erased) == (6, 3, 3, 1)
    assert report.by_class["permission"] == 3
    assert report.by_severity["critical"] == 1
    assert [violation.user_id for violation in report.violations] == ["bob"]
    assert report.verification.ok
    assert sorted(report.busiest.values()) == [1, 2, 2]
    json.dumps(report.as_dict())


def test_the_child_of_a_fork_is_refused_and_harms_nothing(path):
    logger = opened(path)
    logger.record(event(AuditClass.PERMISSION, "ann", number=1))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            logger.record(event(AuditClass.PERMISSION, "ann", number=2))
        except ForkedProcessError:
            del logger
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    logger.record(event(AuditClass.PERMISSION, "ann", number=3))
    assert logger.close() == 0
    assert [record.data.get("number") for record in storage(path).records()] == [None, 1, 3]


def test_importing_and_opening_start_no_thread(path):
    program = (
        "import os, sys, isolane\n"
        "from tests.support.audit_programs import AuditClass, event, opened\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = threads(); logger = opened(sys.argv[1]); opened = threads()\n"
        "logger.record(event(AuditClass.ADMIN, None)); recorded = threads(); logger.close()\n"
        "print(opened - before, recorded - before)\n"
    )
    root = Path(__file__).resolve().parents[2]
    package = Path(isolane.__file__).resolve().parents[1]
    search = os.pathsep.join([str(package), str(root)])
    told = subprocess.check_output(
        [sys.executable, "-c", program, str(path)], env=os.environ | {"PYTHONPATH": search}, text=True
    )
    assert told.split() == ["0", "1"]


@pytest.mark.parametrize("turn", range(4))
async def test_who_gives_up_waiting_harms_nothing(path, turn):
    time_range = TimeRange(datetime(2020, 1, 1, tzinfo=UTC), datetime(2400, 1, 1, tzinfo=UTC))
    new = CallableKey(lambda: b"n" * 32)
    logger = opened(path)
    waits = [
        logger.flush,
        logger.checkpoint,
        lambda: logger.shred_user("bob", "asked to"),
        lambda: logger.rotate_kek(new),
        lambda: logger.generate_security_report(time_range),
        lambda: logger.__aexit__(None, None, None),
    ]
    for number, wait in enumerate(waits):
        logger.record(event(AuditClass.ADMIN, "ann", number=number))
        logger.record(event(AuditClass.ADMIN, "bob", number=number))
        task = asyncio.create_task(wait())
        for _ in range(turn):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if wait is not waits[-1]:
            await logger.flush()
    logger.close()
    # What was begun in a thread was done there; what was not begun was not.
    keys = EncryptedAuditStorage(path, new if logger.storage.keys is new else storage(path).keys)
    assert keys.verify().ok
    assert [record.data["number"] for record in keys.records(user_id="ann")] == list(range(len(waits)))


# -- the command line --------------------------------------------------------------------------------------------------


def answers(capsys) -> tuple[list[dict], str]:
    shown = capsys.readouterr()
    return [json.loads(line) for line in shown.out.splitlines()], shown.err


@pytest.fixture
def filled(path, monkeypatch) -> Path:
    monkeypatch.setenv("ISOLANE_AUDIT_KEY", KEY_TEXT)

    async def fill() -> None:
        async with opened(path) as logger:
            for number in range(6):
                logger.record(event(AuditClass.PERMISSION, ["ann", "bob"][number % 2], text=f"\x1b[2J\u202e{number}"))

    asyncio.run(fill())
    return path


def test_verify_names_the_first_bad_record_and_exits_with_1(filled, capsys, monkeypatch):
    command = ["audit", "verify", str(filled)]
    assert main(command) == 0
    (found,), told = answers(capsys)
    assert (found["ok"], found["records"], found["opened"]) == (True, 7, 7)
    assert "checkpoint from elsewhere" in told
    (segment,) = filled.rglob("*.seg")
    stored = bytearray(segment.read_bytes())
    stored[-100] ^= 1
    segment.write_bytes(stored)
    for key in (True, False):
        if not key:
            monkeypatch.delenv("ISOLANE_AUDIT_KEY")
        assert main(command) == 1
        (found,), told = answers(capsys)
        assert (found["ok"], found["bad_chain"], found["bad_seq"]) == (False, 1, 6)
        assert "first bad record 6" in told
    with pytest.raises(AuditTamperError) as caught:
        opened(filled)
    assert (caught.value.chain, caught.value.seq) == (1, 6)


def test_verify_holds_the_log_against_a_checkpoint_from_elsewhere(filled, capsys, tmp_path):
    (checkpoints,) = filled.rglob("checkpoints")
    note = tmp_path / "note"
    note.write_text(checkpoints.read_text().rstrip("\n").rpartition("\n\n\n")[2] + "\n")
    last = checkpoints.read_text().split("\n\n")
    note.write_text(f"{last[-3]}\n\n{last[-2]}\n")
    (verifier,) = filled.rglob("verifier")
    command = ["audit", "verify", str(filled), "--checkpoint", str(note), "--verifier", str(verifier)]
    assert main(command) == 0
    assert "elsewhere" not in answers(capsys)[1]
    note.write_text(note.read_text().replace("\n7\n", "\n8\n"))
    assert main(command) == 1


def test_inspect_prints_no_control_characters(filled, capsys):
    assert main(["audit", "inspect", str(filled), "--user", "ann", "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert all(" " <= character <= "~" or character == "\n" for character in shown)
    lines = [json.loads(line) for line in shown.splitlines()]
    assert [line["data"]["text"] for line in lines] == ["\x1b[2J\u202e0", "\x1b[2J\u202e2"]
    assert main(["audit", "inspect", str(filled), "--to", "2001-01-01"]) == 0
    assert answers(capsys)[0] == []


def test_a_record_is_proved(filled, capsys):
    assert main(["audit", "prove", str(filled), "3"]) == 0
    ((proved,), _) = answers(capsys)
    hashes = [base64.b64decode(each) for each in proved["proof"]]
    leaf = base64.b64decode(proved["leaf"])
    assert _core.audit_verify_inclusion(leaf, 3, hashes, proved["checkpoint"], proved["verifier"])
    assert main(["audit", "prove", str(filled), "99"]) == 3


def test_a_user_is_shredded_and_keys_are_rotated(filled, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("ann\n"))
    assert main(["audit", "shred-user", str(filled), "ann", "--reason", "asked to", "--legal-hold"]) == 0
    assert answers(capsys)[0] == [{"keys_destroyed": 0, "held": True}]
    assert main(["audit", "shred-user", str(filled), "-", "--reason", "asked to"]) == 0
    assert answers(capsys)[0] == [{"keys_destroyed": 1, "held": False}]
    new = tmp_path / "new"
    new.write_text(os.urandom(32).hex())
    new.chmod(0o600)
    assert main(["audit", "rotate-key", str(filled), "--new-key-file", str(new)]) == 0
    assert main(["audit", "verify", str(filled)]) == 3
    assert "does not open the keystore" in answers(capsys)[1]
    assert main(["audit", "verify", str(filled), "--key-file", str(new)]) == 0
    assert answers(capsys)[0][0]["erased"] == 3


@pytest.mark.parametrize(
    "command",
    [
        ["verify"],
        ["inspect"],
        ["prove", "0"],
        ["shred-user", "ann", "--reason", "asked to"],
        ["rotate-key", "--new-key-env", "ISOLANE_AUDIT_KEY"],
        ["report"],
    ],
    ids=lambda command: command[0],
)
def test_where_there_is_no_log_none_is_made_and_nobody_is_erased(filled, capsys, command):
    none = filled / "typo"
    assert main(["audit", command[0], str(none), *command[1:]]) == 3
    assert "there is no audit log in" in answers(capsys)[1]
    assert not none.exists()


def test_an_erasure_that_erases_nothing_says_so(filled, capsys):
    assert main(["audit", "shred-user", str(filled), "anne", "--reason", "asked to"]) == 0
    said, told = answers(capsys)
    assert said == [{"keys_destroyed": 0, "held": False}]
    assert "Check the id" in told
    assert main(["audit", "shred-user", str(filled), "ann", "--reason", "asked to"]) == 0
    assert answers(capsys)[1] == ""


def test_the_former_key_is_no_new_one(filled, capsys):
    assert main(["audit", "rotate-key", str(filled), "--new-key-env", "ISOLANE_AUDIT_KEY"]) == 3
    assert "the new key is the former one" in answers(capsys)[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "--limit", "-1"],
        ["prove", "-1"],
        ["shred-user", "ann", "--reason", " "],
        ["shred-user", "ann"],
    ],
)
def test_wrong_arguments_are_told_as_such(filled, capsys, arguments):
    with pytest.raises(SystemExit) as exited:
        main(["audit", arguments[0], str(filled), *arguments[1:]])
    assert exited.value.code == 2
    assert "error: " in answers(capsys)[1]


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as exited:
        main(["--version"])
    assert exited.value.code == 0
    assert capsys.readouterr().out == f"isolane {isolane.__version__}\n"


def test_a_report_is_printed(filled, capsys):
    assert main(["audit", "report", str(filled), "--from", "2020-01-01", "--to", "2400-01-01"]) == 0
    ((report,), _) = answers(capsys)
    assert report["by_name"] == {"tested": 6, "chain_begin": 1}
    assert main(["audit", "report", str(filled / "none")]) == 3


def test_a_log_that_is_written_is_read_and_not_changed_by_others(filled, capsys):
    logger = opened(filled)
    assert main(["audit", "verify", str(filled)]) == 0
    assert main(["audit", "shred-user", str(filled), "ann", "--reason", "asked to"]) == 3
    assert "another process has the log" in answers(capsys)[1]
    logger.close()


@pytest.mark.parametrize("command", [["shred-user", "ann", "--reason", "asked to"], ["rotate-key"], ["inspect"]])
def test_a_directory_without_a_log_is_left_as_it_is(tmp_path, capsys, monkeypatch, command):
    monkeypatch.setenv("ISOLANE_AUDIT_KEY", KEY_TEXT)
    monkeypatch.setenv("NEW_KEY", base64.b64encode(b"n" * 32).decode())
    typo = tmp_path / "tpyo"
    name, *rest = command
    new = ["--new-key-env", "NEW_KEY"] if name == "rotate-key" else []
    assert main(["audit", name, str(typo), *rest, *new]) == 3
    assert "there is no log in" in capsys.readouterr().err
    assert not typo.exists()


def test_nobody_is_erased_by_an_empty_id(filled, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["audit", "shred-user", str(filled), "-", "--reason", "asked to"]) == 3
    assert "the id of the user is empty" in capsys.readouterr().err


def test_a_keystore_that_is_gone_is_not_replaced(filled):
    (filled / "keys").unlink()
    with pytest.raises(AuditKeyError, match="it is missing"):
        opened(filled)
    assert not (filled / "keys").exists()


def test_each_altered_chain_is_named(filled, capsys):
    def flip(chain: int) -> None:
        (segment,) = (filled / f"chain-00000{chain}").glob("*.seg")
        stored = bytearray(segment.read_bytes())
        stored[-100] ^= 1
        segment.write_bytes(stored)

    flip(1)
    opened(filled, new_chain="restored").close()
    flip(2)
    assert main(["audit", "verify", str(filled)]) == 1
    (found,), told = answers(capsys)
    assert [(chain, seq) for chain, seq, _ in found["altered"]] == [(1, 6), (2, 0)]
    assert "ALTERED: chain 1, first bad record 6" in told
    assert "ALTERED: chain 2, first bad record 0" in told
