"""What an operator may do on the dashboard. Each thing is recorded before it is done, or it is not done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import HTTPException

from isolane._core import FlagConfigError, user_of_pseudonym
from isolane.fastapi.application import Isolane
from isolane.migration.flags.sources.errors import FlagChangeRefusedError, FlagFileError
from isolane.observability.dashboard.access import Viewer
from isolane.observability.dashboard.parts import is_rollback_written, writer_of
from isolane.observability.dashboard.views import Views
from isolane.security.authentication.records import note_refusal
from isolane.security.events import AuditClass, SecurityEvent, Severity

logger = logging.getLogger("isolane.dashboard")

VERIFY_SECONDS = 60.0
"""How long an answer waits for a verification, which then goes on and is shown when it is done."""
MAX_REVEALED = 1_000
"""Users whose ids are shown to one viewer; of more the one revealed first is hidden again."""
MAX_VIEWERS = 256
MAX_REASON = 500
HERE_ALONE = (
    "It is in force in this process alone: the flags come from no file that can be written. A restart forgets it; take "
    "the flag back at its source as well"
)


@dataclass(frozen=True, slots=True)
class Command:
    """What somebody asks for.

    Attributes:
        viewer: who.
        action: ``rollback``, ``reveal`` or ``verify``.
        target: the flag, or the pseudonym of a user; ``None`` for the audit log.
        reason: why.
    """

    viewer: Viewer
    action: str
    target: str | None
    reason: str = ""


class Actions:
    """What can be done with one application."""

    def __init__(self, isolane: Isolane, views: Views) -> None:
        self._isolane = isolane
        self._views = views
        self._revealed: OrderedDict[str, OrderedDict[str, str]] = OrderedDict()
        self._writing = threading.Lock()
        self._verifying: asyncio.Task[dict[str, Any]] | None = None

    # -- records -----------------------------------------------------------------------------------------------------

    def refuse(self, command: Command, why: str) -> None:
        """Record that somebody was refused. A log that takes nothing changes nothing about it."""
        logger.warning("%s was refused on the dashboard: %s", command.action, why)
        note_refusal(
            self._isolane.audit,
            "authz_fail",
            command.viewer.name or None,
            audit_class=AuditClass.PERMISSION,
            command=f"dashboard_{command.action}",
            target=command.target,
            why=why,
        )

    def _record(self, command: Command, severity: Severity, *, about: str | None = None, **data: Any) -> None:
        """Record what is about to be done, and about whom.

        Raises:
            HTTPException: 503 when it cannot be recorded: then it is not done.
        """
        logger.warning("%s on the dashboard, by %s: %s", command.action, command.viewer.name, command.target)
        audit = self._isolane.audit
        if audit is None:
            return
        event = SecurityEvent(
            name=f"dashboard_{command.action}",
            audit_class=AuditClass.ADMIN,
            user_id=about,
            severity=severity,
            data={"by": command.viewer.name, "target": command.target, "why": command.reason, **data},
        )
        try:
            audit.record(event)
        except Exception as error:
            logger.exception("%s was not done, because it could not be recorded", command.action)
            raise HTTPException(
                503,
                "The audit log takes no records now, so this was not done: see to the log, and try again",
                {"Retry-After": "5", "Cache-Control": "no-store"},
            ) from error

    # -- rolling back ------------------------------------------------------------------------------------------------

    async def rollback(self, command: Command) -> dict[str, Any]:
        """Take a flag from everybody: in this process at once, and for all where there is a file to write.

        Raises:
            HTTPException: 404 for a flag that is not there, 409 where no flags are, 503 when it cannot be recorded.
        """
        rollout = self._isolane.rollout
        if rollout is None:
            raise HTTPException(409, "No flags are set up: there is nothing to roll back")
        engine, flag = rollout.flags.engine, command.target or ""
        if flag not in engine.flags() and flag not in engine.latched():
            raise HTTPException(404, "There is no such flag")
        already = flag in engine.latched()
        is_written = is_rollback_written(engine.document(), flag)
        if already and (is_written or writer_of(self._isolane) is None):
            problem = None if is_written else HERE_ALONE
            return {"flag": flag, "rolled_back": True, "already": True, "persisted": is_written, "problem": problem}
        # One that could not be written before, such as on a full disk, is written now.
        self._record(command, Severity.HIGH, revision=engine.revision)
        reason = command.reason or "rolled back on the dashboard"
        guard = rollout.guard
        if guard is not None and guard.flag == flag and not already:
            guard.rollback(reason, command.viewer.name)
        record = {
            "metric": "manual",
            "actor": command.viewer.name,
            "reason": reason,
            "at": datetime.now(UTC).isoformat(),
        }
        if flag not in engine.latched():
            # From here on nobody begins a run with the flag on, whatever the disk says.
            engine.latch(flag, json.dumps(record))
        if guard is not None and guard.flag == flag:
            await guard.settled()
        persisted, problem = await self._persist(flag, record, command)
        return {"flag": flag, "rolled_back": True, "already": already, "persisted": persisted, "problem": problem}

    async def _persist(self, flag: str, record: dict[str, Any], command: Command) -> tuple[bool, str | None]:
        """Write a rollback where all processes read it. Returns whether it stands there, and why not."""
        rollout = self._isolane.rollout
        writer = writer_of(self._isolane)
        if rollout is None or writer is None:
            return False, HERE_ALONE

        def write() -> None:
            with self._writing:
                held = writer.read().document.get("flags", {}).get(flag, {})
                # The guard may have written it, another process, or somebody else here.
                if not held.get("rollback"):
                    writer.roll_back(flag, record, actor=command.viewer.name, reason=record["reason"], create=True)
                rollout.flags.refresh()

        try:
            await asyncio.to_thread(write)
        except (FlagChangeRefusedError, FlagFileError, FlagConfigError, OSError, ValueError) as error:
            logger.exception("the rollback of %s is in force here, and could not be written", flag)
            return (
                False,
                f"It is in force in this process, and could not be written: {type(error).__name__}. See the log",
            )
        return True, None

    # -- revealing ---------------------------------------------------------------------------------------------------

    async def reveal(self, command: Command) -> dict[str, Any]:
        """Return who a user is, and show it to this viewer from now on; nothing is waited for.

        Raises:
            HTTPException: 404 for a user of whom nothing is held, 503 when it cannot be recorded.
        """
        pseudonym = command.target or ""
        user_id = user_of_pseudonym(pseudonym)
        if user_id is None:
            raise HTTPException(404, "There is no such user any more")
        self._record(command, Severity.WARNING, about=user_id)
        names = self._revealed.setdefault(command.viewer.name, OrderedDict())
        self._revealed.move_to_end(command.viewer.name)
        names[pseudonym] = user_id
        while len(names) > MAX_REVEALED:
            names.popitem(last=False)
        while len(self._revealed) > MAX_VIEWERS:
            self._revealed.popitem(last=False)
        return {"user": pseudonym, "name": user_id}

    def names_for(self, viewer: Viewer) -> dict[str, str]:
        """Return the users that were revealed to a viewer, by pseudonym."""
        return dict(self._revealed.get(viewer.name, {})) if viewer.name else {}

    # -- verifying ---------------------------------------------------------------------------------------------------

    async def verify(self, command: Command) -> dict[str, Any]:
        """Hold the audit log against what was signed, in a thread. One at a time: who asks meanwhile gets the same.

        Raises:
            HTTPException: 409 without a log that can be read, 503 when it cannot be recorded.
        """
        storage = getattr(self._isolane.audit, "storage", None)
        if not callable(getattr(storage, "verify", None)):
            raise HTTPException(409, "No audit log is set up that can be verified")
        self._record(command, Severity.INFO)
        if self._verifying is None or self._verifying.done():
            self._verifying = asyncio.create_task(
                self._verify(self._isolane.audit, storage), name="isolane dashboard verify"
            )
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self._verifying), VERIFY_SECONDS)
        return {"state": "running", "ok": None}

    async def _verify(self, audit: Any, storage: Any) -> dict[str, Any]:
        began = datetime.now(UTC)
        flush = getattr(audit, "flush", None)
        try:
            if callable(flush):
                # What was recorded until now is looked at as well.
                await flush()
            found = await asyncio.to_thread(storage.verify)
        except Exception as error:
            logger.exception("the audit log could not be verified")
            result: dict[str, Any] = {"ok": False, "problem": f"it could not be read: {type(error).__name__}"}
        else:
            result = {
                "ok": found.ok,
                "problem": found.problem,
                "records": found.records,
                "checkpoints": found.checkpoints,
                "signed": found.signed,
                "erased": found.erased,
                "chains": found.chains,
                "bad_chain": found.bad_chain,
                "bad_seq": found.bad_seq,
            }
        seconds = (datetime.now(UTC) - began).total_seconds()
        result |= {"state": "done", "at": began.isoformat(), "seconds": round(seconds, 3)}
        self._views.note_verified(result)
        return result
