"""A worker of an application, in a process of its own, that does what its parent writes to it.

Each line is JSON: a name of a method of ``Worker``, and its arguments. Each answer is a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from fastapi import FastAPI
from isolane._core import UserExecutionContext, metric, monotonic
from isolane.cluster.flags import SharedFlagSource
from isolane.cluster.tickets import PlaneTicketStore
from isolane.fastapi import IsolaneSettings, setup
from isolane.fastapi.principal import Principal
from isolane.migration.deprecation import deprecated
from isolane.migration.flags import MigrationFeatureFlags
from isolane.migration.guard import RolloutGuard
from isolane.security.authentication import InvalidTokenError, Tickets
from isolane.security.contamination import ContaminationDetector
from isolane.security.quarantine import Quarantine

logger = logging.getLogger("tests.worker")

DOCUMENT = {"schema": 1, "revision": 1, "flags": {"modern_execution": {"rollout": 100_000}}}


class Socket:
    """One that only knows whether it was closed."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.cursor = self
        self.code: int | None = None

    def close(self, code: int) -> None:
        self.code = code


class Worker:
    """What a parent may ask for."""

    def __init__(self, url: str, prefix: str) -> None:
        self.quarantine = Quarantine(drain_seconds=3600)
        self.flags = MigrationFeatureFlags(SharedFlagSource(DOCUMENT), required=False)
        self.guard = RolloutGuard(self.flags, mode="drain")
        self.app = FastAPI()
        self.isolane = setup(
            self.app,
            IsolaneSettings(redis_url=url, redis_prefix=prefix, signal_drain=False),
            authenticate=lambda _: None,
            contamination=ContaminationDetector("observe", quarantine=self.quarantine),
            rollout=self.flags,
            guard=self.guard,
        )
        self.plane = self.isolane.plane
        self.contexts: dict[str, UserExecutionContext] = {}
        self.sockets: dict[str, Socket] = {}
        assert isinstance(self.isolane.shared.tickets, PlaneTicketStore)
        self.tickets: Tickets = self.isolane.gate._tickets

    async def state(self) -> Any:
        return [self.plane.state, len(self.plane.processes()), self.plane.worker]

    async def issue(self, user: str, session: str | None = None, origin: str | None = None, **claims: Any) -> Any:
        principal = Principal(user, claims, roles=["r"], session_id=session, expires_at=99.5)
        return await self.tickets.issue(principal, origin)

    async def redeem(self, ticket: str, origin: str | None = None) -> Any:
        try:
            who = await self.tickets.redeem(ticket, origin)
        except InvalidTokenError:
            return None
        return [who.user_id, dict(who.claims), sorted(who.roles), who.session_id, who.expires_at]

    async def open_socket(self, user: str, session: str | None = None) -> Any:
        self.sockets[f"{user}/{session}"] = socket = Socket(Principal(user, session_id=session))
        self.isolane.deliveries.add(socket)

    async def closed(self, user: str, session: str | None = None) -> Any:
        return self.sockets[f"{user}/{session}"].code

    async def logout(self, user: str, session: str | None = None) -> Any:
        return self.isolane.logout(user, session)

    async def put(self, user: str, reason: str) -> Any:
        return await asyncio.to_thread(self.quarantine.quarantine, user, reason)

    async def release(self, user: str) -> Any:
        return self.quarantine.release(user, by="ops", reason="looked into")

    async def quarantined(self) -> Any:
        return self.quarantine.users()

    async def begin(self, run: str) -> Any:
        context = UserExecutionContext.from_request("ann", "thread", run)
        self.contexts[run] = context
        return self.flags.modes(context).execution

    async def mode(self, run: str) -> Any:
        return self.flags.modes(self.contexts[run]).execution

    async def decide(self) -> Any:
        decision = self.flags.decide("modern_execution", "ann")
        return [decision.value, self.flags.engine.revision, self.flags.watcher.is_stale]

    async def rollback(self) -> Any:
        return self.guard.rollback("it is too slow", "ops") is not None

    async def guard_status(self) -> Any:
        status = self.guard.status()
        return [status.state, status.is_written]

    async def resume(self) -> Any:
        await self.guard.resume(actor="ops", ack="INC-1")

    async def count(self, many: int) -> Any:
        metric("isolane_runs_total").labels("helper", "completed").inc(many)
        metric("isolane_run_duration_seconds").labels("helper").observe(0.2)

    async def gauge(self, value: float) -> Any:
        metric("isolane_alerts_active").labels("slow").set(value)

    async def scrape(self) -> Any:
        began = monotonic()
        text = await self.isolane.shared.metrics.render("prometheus")
        return [text, monotonic() - began]

    async def legacy(self, times: int, line: str) -> Any:
        scope: dict[str, Any] = {"deprecated": deprecated}
        source = "@deprecated('ISO-D001')\ndef old():\n    pass\n"
        exec(compile(source, "/app/old.py", "exec"), scope)
        call = compile(f"for _ in range({times}): old()", f"/app/{line}.py", "exec")
        exec(call, scope)

    async def ledger(self) -> Any:
        reading = await self.isolane.shared.ledger.reading()
        return {"calls": reading.calls, "lines": {line.file: line.count for line in reading.lines}}

    async def figures(self) -> Any:
        return self.plane.figures()


def hurry() -> None:
    """The dead are counted as such sooner than 15 s after, so that tests need not wait."""
    from isolane.cluster import ledger, metrics, tally  # noqa: PLC0415

    tally.DEAD_SECONDS = 4.0
    metrics.TELL_SECONDS = ledger.TELL_SECONDS = 0.5


async def main() -> None:
    hurry()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(relativeCreated)d %(name)s %(message)s")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    worker = Worker(sys.argv[1], sys.argv[2])
    async with worker.isolane.running():
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while line := await reader.readline():
            name, arguments, options = json.loads(line)
            try:
                answer = {"is": await getattr(worker, name)(*arguments, **options)}
            except Exception as error:
                logger.exception("%s failed", name)
                answer = {"failed": repr(error)}
            sys.stdout.write(json.dumps(answer, default=str) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
