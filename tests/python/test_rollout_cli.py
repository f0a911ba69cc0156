"""``isolane rollout`` as a person and a script use it."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from isolane import AuditLogger, EncryptedAuditStorage, EnvKey, FlagEngine, cli
from isolane.migration.flags.sources import locking

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "flags.json"
    for name in ("ISOLANE_FLAGS_FILE", "ISOLANE_AUDIT_DIR", "ISOLANE_AUDIT_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ISOLANE_FLAGS_FILE", str(path))
    return path


@pytest.fixture
def rollout(capsys) -> Any:
    """Run the command, and return its exit code, what it printed and what it complained of."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main(["rollout", *arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def begun(path, rollout) -> Path:
    assert rollout("set", "modern_execution", "0.1", "--create", "--reason", "week 1")[0] == 0
    assert rollout("set", "modern_execution", "50", "--if", "tier=enterprise", "--actor", "bob")[0] == 0
    assert rollout("set", "modern_execution", "25", "--actor", "bob")[0] == 0
    return path


STATUS = """\
{path}  revision 3
kill switch  off

modern_execution
  rollout    25 % of users
  ladder     0.1  1  5  10  [25]  50  100  %
  rule       50 % of users with tier enterprise

last changes
      3    0 s ago  bob  modern_execution  0.1 % -> 25 %
      2    0 s ago  bob  modern_execution  tier=enterprise: 0 % -> 50 %
      1    0 s ago  {user}  modern_execution  0 % -> 0.1 %  (week 1)
"""


def test_status_for_a_person(begun, rollout, monkeypatch) -> None:
    monkeypatch.setattr("isolane.migration.flags.status._ago", lambda _: "0 s ago")
    user = pwd.getpwuid(os.getuid()).pw_name
    assert rollout("status") == (0, STATUS.format(path=begun, user=user), "")


def test_status_tells_of_everything_and_of_nobody(path, rollout) -> None:
    record = {"metric": "run_error", "measured": 0.05, "threshold": 0.005, "n": 113, "stage": 25_000}
    record |= {"reason": "too many errors", "actor": "guard", "at": 1_700_000_000_000_000}
    flag = {
        "state": "off",
        "rollout": 7_000,
        "deny": ["eve@example.com"],
        "allow": ["ann@example.com", "bob@example.com"],
        "requires": ["other"],
        "stage": "shadow",
        "rules": [{"if": {"tier": "enterprise", "region": ["eu", "us"]}, "rollout": 1}],
        "rollback": record,
        "resumed": {"ack": "INC-1", "actor": "ann"},
    }
    document = {"schema": 1, "revision": 9, "kill_switch": True, "flags": {"modern_execution": flag, "other": {}}}
    path.write_text(json.dumps(document))
    code, text, _ = rollout("status")
    assert code == 0
    for line in (
        "kill switch  ON: nobody has any flag",
        "ROLLED BACK  too many errors (run_error 0.05 of 113, at most 0.005, at 25 %, by guard, 2023-11-14 22:13 UTC)",
        "isolane rollout resume modern_execution --ack INCIDENT --actor NAME",
        "state      off: nobody has it",
        "ladder     0.1  1  5  [7]  10  25  50  100  %",
        "rule       0.001 % of users with tier enterprise and region eu or us",
        "stage      shadow",
        "by name    2 allowed, 1 denied",
        "requires   other",
        "resumed    INC-1, by ann",
    ):
        assert line in text, text
    assert "example.com" not in text + rollout("status", "--json")[1]
    status = json.loads(rollout("status", "--json")[1])
    assert status["flags"]["modern_execution"]["rollback"] == record
    assert (status["kill_switch"], status["flags"]["modern_execution"]["rollout"]) == (True, 7.0)


def test_a_file_that_was_edited_by_hand_is_told(begun, rollout) -> None:
    assert "by hand" not in rollout("status")[1]
    begun.write_text(begun.read_text().replace("25000", "26000"))
    assert "edited by hand" in rollout("status")[1]
    rollout("set", "modern_execution", "30")
    assert "by hand" not in rollout("status")[1]


def test_a_terminal_is_told_nothing_by_what_stands_in_a_file(begun, rollout) -> None:
    begun.write_text(begun.read_text().replace("week 1", "\\u001b[2Jgone"))
    code, text, _ = rollout("status")
    assert code == 0
    assert "?[2Jgone" in text
    assert "\x1b" not in text + rollout("status", "--json")[1]


def test_kill_and_resume_a_flag(begun, rollout) -> None:
    engine = FlagEngine()
    code, text, _ = rollout("kill", "modern_execution", "--reason", "too many errors", "--actor", "ann")
    assert (code, text) == (0, f"modern_execution: 25 % -> rolled back\nrevision 4 of {begun}\n")
    engine.load(begun.read_text())
    assert engine.decide("modern_execution", "ann", {"tier": "enterprise"}).step == "rollback"
    code, text, error = rollout("set", "modern_execution", "5")
    assert (code, text) == (1, "")
    assert "was rolled back: too many errors" in error
    assert "isolane rollout resume modern_execution" in error
    code, _, error = rollout("resume", "modern_execution")
    assert code == 2
    assert "--ack, --actor" in error
    assert rollout("resume", "modern_execution", "--ack", " ", "--actor", "ann")[0] == 2
    assert rollout("resume", "modern_execution", "--ack", "INC-1", "--actor", "ann")[0] == 0
    engine.load(begun.read_text())
    # Nobody, those of the rule neither, until somebody says so.
    assert not engine.is_on("modern_execution", "ann", {"tier": "enterprise"})
    assert rollout("set", "modern_execution", "100")[0] == 0
    engine.load(begun.read_text())
    assert engine.is_on("modern_execution", "ann")


def test_kill_and_resume_everything(begun, rollout) -> None:
    code, text, _ = rollout("kill", "--json", "--actor", "ann", "--reason", "now")
    change = json.loads(text)
    assert (code, change["action"], change["actor"], change["reason"]) == (0, "kill", "ann", "now")
    assert change["file"] == str(begun)
    code, _, error = rollout("set", "modern_execution", "30")
    assert code == 0
    assert "The kill switch is on" in error
    assert rollout("kill")[:2] == (0, f"kill switch on, as before\nrevision 6 of {begun}\n")
    assert rollout("resume", "--ack", "INC-1", "--actor", "ann")[0] == 0
    code, _, error = rollout("resume", "--ack", "INC-1", "--actor", "ann")
    assert code == 1
    assert "the kill switch is off" in error


def test_a_share_of_all_leaves_rules_and_says_so(begun, rollout) -> None:
    code, _, error = rollout("set", "modern_execution", "0")
    assert (code, error) == (0, "By a rule that was not changed: 50 % of users with tier enterprise.\n")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["set", "modern_exec", "5"], 1, "did you mean modern_execution?"),
        (["set", "modern_execution", "500"], 1, "per cent from 0 to 100"),
        (["set", "modern_execution"], 2, "percent"),
        (["set", "modern_execution", "5", "--if", "enterprise"], 2, "tier=enterprise"),
        (["kill", "modern_exec"], 1, "did you mean modern_execution?"),
        (["status", "--file", "none.json"], 3, "no such file"),
        (["set", "a", "5", "--create", "--file", "none/flags.json"], 3, "a directory that is there"),
        (["set", "a", "5", "--file", "flags.toml"], 3, "comments would be lost"),
        (["stats"], 2, "invalid choice"),
    ],
)
def test_what_is_wrong_is_said_with_a_code_and_nothing_is_changed(arguments, code, text, begun, rollout) -> None:
    before = begun.read_bytes()
    found, out, error = rollout(*arguments)
    assert (found, out) == (code, "")
    assert text in error
    assert "Traceback" not in error
    assert begun.read_bytes() == before


def test_without_a_file_the_variable_is_named(rollout, monkeypatch) -> None:
    monkeypatch.delenv("ISOLANE_FLAGS_FILE", raising=False)
    code, _, error = rollout("status")
    assert code == 3
    assert "set ISOLANE_FLAGS_FILE, or give --file FILE" in error


def test_a_document_that_no_process_would_take_is_shown_with_its_place(path, rollout) -> None:
    path.write_text('{"schema": 1, "revision": 1, "flags": {"modern_execution": {"rolout": 5}}}')
    for arguments in (["status"], ["kill"]):
        code, _, error = rollout(*arguments)
        assert code == 3
        assert "/flags/modern_execution/rolout" in error


def test_toml_has_a_status(tmp_path, path, rollout) -> None:
    toml = tmp_path / "flags.toml"
    toml.write_text("schema = 1\nrevision = 4\n[flags.modern_execution]\nrollout = 5000\n")
    code, text, _ = rollout("status", "--file", str(toml))
    assert code == 0
    assert "5 % of users" in text


# -- the audit log -----------------------------------------------------------------------------------------------------


@pytest.fixture
def audit(tmp_path, path, monkeypatch) -> Path:
    monkeypatch.setenv("ISOLANE_AUDIT_KEY", KEY)
    monkeypatch.setenv("ISOLANE_AUDIT_DIR", str(tmp_path / "audit"))
    return tmp_path / "audit"


def recorded(directory: Path) -> list[Any]:
    return [event for event in EncryptedAuditStorage(directory, EnvKey()).records() if event.name.startswith("rollout")]


def test_each_change_is_recorded_when_an_audit_log_is_configured(audit, begun, rollout) -> None:
    rollout("kill", "--actor", "ann", "--reason", "now")
    rollout("resume", "--ack", "INC-1", "--actor", "ann")
    rollout("set", "modern_execution", "500")
    events = recorded(audit)
    assert [event.name for event in events] == ["rollout_set"] * 3 + ["rollout_kill", "rollout_resume"]
    assert events[3].data["actor"] == "ann"
    assert events[3].severity == "critical"


def test_a_log_that_cannot_be_opened_keeps_the_file_from_changing_but_for_a_kill(audit, begun, rollout) -> None:
    before = begun.read_bytes()
    with_log_open = AuditLogger(EncryptedAuditStorage(audit, EnvKey()))
    try:
        code, out, error = rollout("set", "modern_execution", "30")
        assert (code, out) == (3, "")
        assert error
        assert begun.read_bytes() == before
        code, out, error = rollout("kill")
        assert (code, out.splitlines()[0]) == (3, "kill switch on")
        assert "The change was made, but it is not in the audit log" in error
        assert json.loads(begun.read_text())["kill_switch"] is True
    finally:
        with_log_open.close()


# -- as processes ------------------------------------------------------------------------------------------------------


def test_commands_at_once_lose_no_change(begun) -> None:
    def command(*arguments: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "isolane.cli", "rollout", *arguments]
        return subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    commands = [command("set", f"flag_{number}", "5", "--create") for number in range(4)]
    for each in commands:
        assert each.wait(60) == 0, each.stderr.read()
        each.stderr.close()
    document = json.loads(begun.read_text())
    assert document["revision"] == 3 + 4
    assert {f"flag_{number}" for number in range(4)} < set(document["flags"])


def test_a_lock_that_is_never_let_go_is_named(begun, rollout, monkeypatch) -> None:
    monkeypatch.setattr("isolane.migration.flags.cli.LOCK_SECONDS", 0.05)
    with locking.locked(begun.with_name("flags.json.lock"), 1):
        code, _, error = rollout("kill")
    assert code == 3
    assert "another process has held the lock" in error
