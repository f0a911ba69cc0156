"""A process that writes an audit log is killed again and again."""

from __future__ import annotations

import pytest

from tests.support.audit_processes import kill_and_recover


@pytest.mark.timeout(1_800)
def test_an_audit_log_survives_the_kills_of_its_writer(tmp_path, rounds, found):
    kills = rounds(150)
    records = kill_and_recover(tmp_path / "log", kills, seed=7)
    found(f"{kills} kills, {records} records, every log a valid prefix with all that was told to be written")
