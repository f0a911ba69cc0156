"""Programs that write an audit log: ``python -m tests.support.audit_programs NAME DIR``."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from isolane import AuditClass, AuditLogger, AuditUnavailableError, CallableKey, EncryptedAuditStorage, SecurityEvent

KEY = b"k" * 32
KEYS = CallableKey(lambda: KEY)


def storage(path: str | Path) -> EncryptedAuditStorage:
    return EncryptedAuditStorage(path, KEYS)


def opened(path: str | Path, **settings: Any) -> AuditLogger:
    """Open a log that no busy machine makes sick."""
    return AuditLogger(storage(path), **{"patience": 60.0} | settings)


def event(audit_class: AuditClass, user: str | None, **data) -> SecurityEvent:
    return SecurityEvent(name="tested", audit_class=audit_class, user_id=user, data=data)


def say(**what) -> None:
    print(json.dumps(what), flush=True)


async def steadily(path: str) -> None:
    """Record for ever; say each number once it is written."""
    logger = opened(path, checkpoint_records=16, segment_bytes=20_000)
    number = 0
    while True:
        for _ in range(7):
            logger.record(event(AuditClass.PERMISSION, f"user-{number % 5}", number=number, text="x" * (number % 300)))
            number += 1
        await logger.flush()
        say(written=number)


async def until(logger: AuditLogger, *statuses: str) -> None:
    while logger.health().status not in statuses:
        await asyncio.sleep(0.005)


async def turns_while_sick(logger: AuditLogger, count: int) -> dict[str, int]:
    """Record in every turn of the loop, and count the turns and what became of the events."""
    found = {"turns": 0, "refused": 0, "kept": 0}
    written = logger.health().written
    for number in range(count):
        for audit_class in (AuditClass.PERMISSION, AuditClass.LIFECYCLE, AuditClass.DEBUG):
            try:
                logger.record(event(audit_class, "ann", sick=number))
                found["kept"] += 1
            except AuditUnavailableError:
                found["refused"] += 1
        await asyncio.sleep(0)
        found["turns"] += 1
    found["written_meanwhile"] = logger.health().written - written
    return found


async def with_a_hanging_disk(path: str) -> None:
    """The writer hangs in a write until the gate is gone."""
    gate = Path(os.environ["HANG_WHILE"])
    logger = AuditLogger(storage(path), spill=400)
    logger.record(event(AuditClass.PERMISSION, "ann", before=1))
    await logger.flush()
    gate.touch()  # noqa: ASYNC240 - at once
    logger.record(event(AuditClass.PERMISSION, "ann", hangs=1))
    await until(logger, "sick")
    reason = logger.health().reason
    found = await turns_while_sick(logger, 500)
    say(**found, reason=reason, status=logger.health().status, spilled=logger.health().spilled)
    gate.unlink()  # noqa: ASYNC240 - at once
    await until(logger, "ok")
    logger.record(event(AuditClass.PERMISSION, "ann", after=1))
    say(lost_at_the_end=logger.close(20), lost=dict(logger.health().lost))


MORE_THAN_FITS = 550


async def with_a_full_disk(path: str) -> None:
    """The disk takes no more bytes: the limit of a file's size, or a small file system."""
    small = "SMALL_DISK" in os.environ
    logger = opened(path, spill=50, segment_bytes=1 << 30)
    if not small:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    recorded = 0
    # More than there is room for, and less than there will be: else a slow machine, which notices late, is full again.
    while logger.health().status != "sick" and recorded < MORE_THAN_FITS:
        try:
            logger.record(event(AuditClass.PERMISSION, "ann", number=recorded, text="x" * 900))
            recorded += 1
        except AuditUnavailableError:
            break
        await asyncio.sleep(0)
    await until(logger, "sick")
    reason = logger.health().reason
    found = await turns_while_sick(logger, 100)
    say(**found, reason=reason)
    if small:
        Path(path).with_name("ballast").unlink()
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await until(logger, "ok")
    say(recorded=recorded, lost_at_the_end=logger.close(20), lost=dict(logger.health().lost))


async def left_open(path: str) -> None:
    """Nobody closes the log before the process ends."""
    logger = opened(path)
    for number in range(100):
        logger.record(event(AuditClass.PERMISSION, "ann", number=number))


PROGRAMS = {
    "steadily": steadily,
    "with_a_hanging_disk": with_a_hanging_disk,
    "with_a_full_disk": with_a_full_disk,
    "left_open": left_open,
}

if __name__ == "__main__":
    asyncio.run(PROGRAMS[sys.argv[1]](sys.argv[2]))
