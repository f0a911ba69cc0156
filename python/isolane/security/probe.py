"""``CanaryProbe``: users that nobody is, who run through the real service and look at what they are sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from isolane._core import EventCursor, UnifiedIDManager, UserExecutionContext, end_stream
from isolane.agents.base import BaseAgent
from isolane.security.contamination import ContaminationDetector
from isolane.security.crossings import controlled, violation
from isolane.security.findings import ScanMode, Verdict

if TYPE_CHECKING:
    from isolane.engines.factory import ExecutionEngineFactory

logger = logging.getLogger("isolane.security")

ROUND_SECONDS = 20.0
"""How long one round may take; what has not arrived by then is not seen."""


class ProbeAgent(BaseAgent):
    """``isolane.probe``: puts the canary it is given into everything that an agent can write."""

    name: ClassVar[str] = "isolane.probe"
    timeout_seconds: ClassVar[float] = ROUND_SECONDS

    async def execute_with_context(
        self,
        context: UserExecutionContext,
        request: Any,
        results: Mapping[str, Any],  # noqa: ARG002 - every agent gets them
    ) -> Any:
        """Publish the canary in each kind of event, and read it from the cache of the context."""
        canary = str(request)
        emitter = context.get_websocket_emitter()
        await emitter.notify_agent_thinking(f"a thought with {canary}")
        cache = context.context_cache
        cache["probe"] = {"canary": canary}
        await emitter.notify_tool_executing(tool_name="isolane.echo", params={"text": canary})
        # Others get a turn here: what mixes users up mixes them up when they run beside each other.
        await asyncio.sleep(0)
        held = cache["probe"]["canary"]
        await emitter.notify_tool_completed(tool_name="isolane.echo", result={"text": held})
        for part in (canary[:11], canary[11:]):
            await emitter.send_custom_event("isolane.text", {"delta": part}, message_id="probe")
        return {"canary": held}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one round of the probe came to.

    Attributes:
        verdict: ``clean`` when each user saw its own canaries and nobody else's; ``inconclusive`` when one saw too
            little, such as when the service was full.
        users: users that ran.
        own: canaries that their users were sent, of those that they should be sent.
        foreign: canaries, secrets and runs of others that they were sent.
        controls: whether a canary of another user, put before the detector, was caught.
        seconds: how long it took.
        error: the name of what a user was refused with, if one was.
    """

    verdict: Verdict
    users: int
    own: int
    foreign: int
    controls: bool
    seconds: float
    error: str | None = None


class CanaryProbe:
    """Runs synthetic users through the application's engines, emitters, caches and cursors, every ``interval`` seconds.

    They are real users to all of the service but its limits of users, and cost it two short runs a round. What they are
    sent is looked at for anybody's canaries and secrets; what they put into their data is known to no other user, so a
    canary of theirs in the stream of a real user is a violation, which the installed detector finds there.

    Args:
        factory: makes the engines, such as ``app.state.isolane.factory``.
        detector: makes the canaries and looks for them.
        users: how many run beside each other; at least 2.
        interval: seconds between rounds.

    Raises:
        ValueError: fewer than 2 users, or an interval that is not more than 0.
    """

    def __init__(
        self,
        factory: ExecutionEngineFactory,
        detector: ContaminationDetector,
        *,
        users: int = 2,
        interval: float = 60.0,
    ) -> None:
        if users < 2:  # noqa: PLR2004 - one alone could see nobody else's
            raise ValueError(f"users must be at least 2, so that there is somebody to be mixed up with; got {users}")
        if not interval > 0:
            raise ValueError(f"interval must be more than 0 seconds, got {interval!r}")
        self.factory = factory
        self.detector = detector
        self.interval = interval
        mark = secrets.token_hex(8)
        self.user_ids = tuple(f"isolane-probe-{mark}-{number}" for number in range(users))
        self.rounds = 0
        """Rounds so far, of which ``inconclusive`` showed nothing."""
        self.inconclusive = 0
        self.violations = 0
        self.last: ProbeResult | None = None
        """The latest round."""
        self._task: asyncio.Task[None] | None = None

    # -- coming and going ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, on the running loop; the first round is now. Does nothing while it runs."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="isolane canary probe")

    async def stop(self) -> None:
        """End, with the round that is under way. Once stopped it can be started again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # Waiting does not take on its cancellation, nor lose our own.
            await asyncio.wait({task})
        self._forget()

    async def _run(self) -> None:
        while True:
            try:
                result = await self.run_once()
            except Exception:
                logger.exception("a round of the canary probe failed")
            else:
                if result.verdict != "clean":
                    logger.error("the canary probe is %s", result.verdict)
            await asyncio.sleep(self.interval)

    def _forget(self) -> None:
        for user in self.user_ids:
            self.detector.forget_user(user)

    # -- a round ---------------------------------------------------------------------------------------------------

    async def run_once(self) -> ProbeResult:
        """Run all users beside each other, once."""
        began = time.monotonic()
        canaries = {user: self.detector.mint(user) for user in self.user_ids}
        errors: list[str] = []
        try:
            async with asyncio.timeout(ROUND_SECONDS):
                found = await asyncio.gather(*(self._user(user, canaries[user], errors) for user in self.user_ids))
        except TimeoutError:
            found = []
            errors.append("TimeoutError")
        own, foreign = sum(seen for seen, _ in found), sum(others for _, others in found)
        controls = self._controls(canaries)
        seen_all = len(found) == len(canaries) and all(seen >= PLANTED for seen, _ in found)
        verdict: Verdict = "clean" if seen_all and controls and not errors else "inconclusive"
        if foreign:
            verdict = "contaminated"
        self.rounds += 1
        self.violations += foreign
        self.inconclusive += verdict == "inconclusive"
        error = errors[0] if errors else None
        self.last = ProbeResult(verdict, len(found), own, foreign, controls, time.monotonic() - began, error)
        return self.last

    def _controls(self, canaries: Mapping[str, str]) -> bool:
        """Put the canary of one before the eyes of another, where it is not delivered: it must be caught."""
        one, other = self.user_ids[:2]
        seen, _, _, sightings = self.detector.scanner.scan(one, [canaries[one], canaries[other]], "ws_out", first=False)
        caught = seen == 1 and [sighting.tier for sighting in sightings] == ["canary"]
        controlled(caught)
        return caught

    async def _user(self, user: str, canary: str, errors: list[str]) -> tuple[int, int]:
        """Run one user. Returns how many of its own canaries it was sent, and how much of others."""
        cursor = EventCursor(user, framed=False)
        context = self._context(user)
        sent: list[str] = []
        try:
            cursor.subscribe(context.run_id)
            async with self.factory.user_execution_scope(context) as engine:
                result = await engine.execute_agent(ProbeAgent, canary)
                if not result.success:
                    errors.append(type(result.error).__name__)
            end_stream(context)
            while messages := cursor.read():
                sent += messages
        except Exception as error:  # noqa: BLE001 - whatever the service refuses it with
            errors.append(type(error).__name__)
        finally:
            with contextlib.suppress(Exception):
                await context.cleanup()
            cursor.detach()
        return self._look(user, context.run_id, sent)

    @staticmethod
    def _context(user: str) -> UserExecutionContext:
        thread = UnifiedIDManager.generate_thread_id()
        return UserExecutionContext(user, thread, UnifiedIDManager.generate_run_id(thread))

    def _look(self, user: str, run: str, sent: list[str]) -> tuple[int, int]:
        own = foreign = 0
        if self.detector.mode("ws_out") is ScanMode.OFF:
            return own, foreign
        guard = self.detector.stream(user, "ws_out")
        for text in sent:
            message = json.loads(text)
            # A run of somebody else in the stream of a user is a violation, whatever is in it.
            foreign += message.get("run_id") != run
            guard.look(text)
        report = guard.close()
        if foreign and not report.violations:
            # What the detector found there it has counted itself.
            violation("ws_out", "foreign_run")
        return report.coverage.observed_own, foreign + len(report.violations)


PLANTED = 4
"""Canaries that a user is sent in a round at the least: a thought, a tool's parameters and result, and the agent's."""
