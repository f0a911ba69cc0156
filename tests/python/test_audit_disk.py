"""The audit log in processes that are killed, and on disks that are full, slow or taken away."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from isolane import AuditClass, AuditLogger, AuditTamperError, AuditUnavailableError

from tests.support.audit_processes import kill_and_recover, run
from tests.support.audit_programs import event, opened, storage

ROOT = Path(__file__).resolve().parents[2]


def missing(why: str) -> None:
    if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
        pytest.fail(f"it cannot be left out here: {why}")
    pytest.skip(why)


def test_a_process_that_is_killed_leaves_a_valid_prefix(tmp_path):
    assert kill_and_recover(tmp_path / "log", rounds=6, seed=20_261_122) > 0


def test_a_process_that_ends_without_closing_writes_what_waits(tmp_path):
    run("left_open", tmp_path / "log")
    found = storage(tmp_path / "log").verify()
    assert (found.ok, found.records, found.signed) == (True, 101, 101)


@pytest.fixture(scope="session")
def hanging_disk(tmp_path_factory) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        missing("there is no C compiler to make a disk hang with")
    library = tmp_path_factory.mktemp("hanging") / "hanging_disk.so"
    source = ROOT / "tests" / "support" / "hanging_disk.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return str(library)


def test_a_hanging_disk_refuses_spills_and_drops_and_never_holds_the_loop(tmp_path, hanging_disk):
    log = tmp_path / "log"
    said = run("with_a_hanging_disk", log, LD_PRELOAD=hanging_disk, HANG_WHILE=str(tmp_path / "gate"))
    assert "has not answered" in said["reason"]
    # The loop took all its turns while the writer stood in one write.
    assert (said["turns"], said["written_meanwhile"], said["status"]) == (500, 0, "sick")
    assert (said["refused"], said["kept"], said["spilled"]) == (500, 1_000, 400)
    assert said["lost"] == {"permission": 500, "isolation": 0, "admin": 0, "lifecycle": 100, "debug": 500}
    assert said["lost_at_the_end"] == 0
    assert storage(log).verify().ok
    records = list(storage(log).records())
    gaps = [record.data["lost"] for record in records if record.name == "audit_gap"]
    assert sum(gap.get("permission", 0) for gap in gaps) == 500
    assert sum(gap.get("lifecycle", 0) for gap in gaps) == 100
    assert sum(gap.get("debug", 0) for gap in gaps) == 500
    spilled = [record.data["sick"] for record in records if "sick" in (record.data or {})]
    assert spilled == list(range(100, 500)), "the newest of the ring, in order"
    assert [key for record in records for key in record.data if key in {"before", "hangs", "after"}] == [
        "before",
        "hangs",
        "after",
    ]


def check_full(log: Path, said: dict[str, object]) -> None:
    assert (said["turns"], said["refused"], said["written_meanwhile"]) == (100, 100, 0)
    found = storage(log).verify()
    assert found.ok, found.problem
    records = list(storage(log).records())
    numbers = [record.data["number"] for record in records if "number" in record.data]
    assert numbers == list(range(said["recorded"])), "all that was taken is there"
    lost = sum(record.data["lost"].get("permission", 0) for record in records if record.name == "audit_gap")
    assert lost == said["lost"]["permission"] >= 100
    assert sum("sick" in record.data for record in records) == 50, "what the ring held"


def test_a_file_that_may_not_grow_refuses_and_goes_on_when_it_may(tmp_path):
    said = run("with_a_full_disk", tmp_path / "log")
    assert "writing" in said["reason"]
    check_full(tmp_path / "log", said)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system; the limit of a file's size is tested above")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(small_disk):
    (small_disk / "ballast").write_bytes(b"x" * 600_000)
    said = run("with_a_full_disk", small_disk / "log", SMALL_DISK="1")
    assert "No space left" in said["reason"]
    check_full(small_disk / "log", said)


async def sick(logger: AuditLogger) -> str:
    while logger.health().status != "sick":
        await asyncio_sleep()
    return logger.health().reason


async def asyncio_sleep() -> None:
    import asyncio  # noqa: PLC0415

    await asyncio.sleep(0.005)


@pytest.mark.parametrize("name", ["*.seg", "*.leaves", "keys"])
async def test_a_file_that_is_deleted_is_noticed(tmp_path, name):
    log = tmp_path / "log"
    logger = opened(log)
    logger.record(event(AuditClass.PERMISSION, "ann", number=0))
    await logger.flush()
    (path,) = log.rglob(name)
    path.unlink()
    logger.record(event(AuditClass.PERMISSION, "ann", number=1))
    assert "deleted or renamed" in await sick(logger)
    with pytest.raises(AuditUnavailableError, match="deleted or renamed"):
        logger.record(event(AuditClass.ISOLATION, "ann", number=2))
    assert logger.close() > 0, "what the deleted file did not take is lost, and said to be"
    if name == "*.seg":
        with pytest.raises(AuditTamperError):
            opened(log)


async def test_permissions_that_change_are_noticed_and_put_right(tmp_path):
    log = tmp_path / "log"
    async with opened(log) as logger:
        logger.record(event(AuditClass.PERMISSION, "ann", number=0))
        await logger.flush()
        (path,) = log.rglob("*.seg")
        path.chmod(0o666)
        logger.record(event(AuditClass.PERMISSION, "ann", number=1))
        assert "permissions changed from 600" in await sick(logger)
        path.chmod(0o600)
        while logger.health().status != "ok":
            await asyncio_sleep()
    assert [record.data.get("number") for record in storage(log).records()] == [None, 0, 1]
    for path in log.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, "nobody else reads it"
