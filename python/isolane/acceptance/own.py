"""``OwnTarget``: isolane itself, in this process, with engines, emitters and cursors as a service uses them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar, cast

from isolane._core import (
    ContextIsolationError,
    EventCursor,
    InvalidContextError,
    UnifiedIDManager,
    UserExecutionContext,
    default_limiter,
    emitter_for_user,
    end_stream,
)
from isolane.acceptance.app.process import resident_bytes
from isolane.acceptance.app.recorder import Recorder
from isolane.acceptance.events import MISSING, EventShape, pointed
from isolane.acceptance.isolation import IsolationTester
from isolane.acceptance.names import made_up
from isolane.acceptance.records import Run, Transcript
from isolane.acceptance.target import Account, Attempt, Capabilities, RunKind, Usage, UserSession
from isolane.agents.base import BaseAgent
from isolane.client.reader import Send, StreamReader
from isolane.client.records import Ended
from isolane.engines.factory import ExecutionEngineFactory

RUN_SECONDS = 20.0
LONG_SECONDS = 0.2
_LEGACY_KEYS = ("/type", "/run_id", "/timestamp", "/payload", "/agent_name")
_PING_MS = 20_000
_targets = itertools.count(1)


class EchoAgent(BaseAgent):
    """Puts the canary that it is given into everything that an agent can write."""

    name: ClassVar[str] = "acceptance.echo"
    timeout_seconds: ClassVar[float] = RUN_SECONDS

    async def execute_with_context(
        self,
        context: UserExecutionContext,
        request: Any,
        results: Mapping[str, Any],  # noqa: ARG002 - every agent gets them
    ) -> Any:
        """Publish the canary in each kind of event, and read it from the cache of the context."""
        canary, kind = str(request["canary"]), request["kind"]
        emitter = context.get_websocket_emitter()
        await emitter.notify_agent_thinking(f"a thought with {canary}")
        context.context_cache["note"] = {"canary": canary}
        await emitter.notify_tool_executing(tool_name="echo", params={"text": canary})
        # Others get a turn here: what mixes users up mixes them up when they run beside each other.
        await asyncio.sleep(LONG_SECONDS if kind == "long" else 0.001)
        held = context.context_cache["note"]["canary"]
        await emitter.notify_tool_completed(tool_name="echo", result={"text": held})
        if kind == "failing":
            raise ValueError(f"made to fail, with {canary}")
        for part in (canary[:11], canary[11:]):
            await emitter.send_custom_event("acceptance.text", {"delta": part}, message_id="note")
        return {"canary": held}


class OwnSession:
    """A user of isolane in this process: one cursor at a time."""

    def __init__(self, account: Account, factory: ExecutionEngineFactory, mint: Callable[[str], str]) -> None:
        self.account = account
        self.transcript = Transcript(account.user)
        self.recorder = Recorder(self.transcript)
        self.cursor: EventCursor | None = None
        self.last: UserExecutionContext | None = None
        self._factory = factory
        self._mint = mint
        self._reader = StreamReader()
        self._task: asyncio.Task[None] | None = None
        self._begun: dict[int, asyncio.Task[Run]] = {}
        self._framed = True
        self._connections = 0

    async def connect(self, *, legacy: bool = False) -> None:
        """Attach a cursor, and read it from then on."""
        self._framed = not legacy
        self._connections += 1
        self._reader.connected()
        cursor = self.cursor = EventCursor(self.account.user, framed=self._framed)
        if self._framed:
            cursor.welcome(_PING_MS)
        self._task = asyncio.create_task(self._receive(cursor, self._connections), name="acceptance cursor")

    async def _receive(self, cursor: EventCursor, connection: int) -> None:
        while cursor.close_code is None:
            texts = cursor.read()
            if not texts:
                await cursor.wait()
            for text in texts:
                receipt = self.recorder.add("frame", "the event cursor", text, connection)
                if self._framed:
                    self._follow(cursor, receipt.value)

    def _follow(self, cursor: EventCursor, frame: dict[str, Any]) -> None:
        for effect in self._reader.receive(frame):
            if isinstance(effect, Send):
                cursor.handle(json.dumps(effect.frame))
            elif isinstance(effect, Ended):
                self.recorder.ended[effect.run_id] = effect.outcome
                self.recorder.wake()
        if self._reader.ack_due:
            cursor.handle(json.dumps(self._reader.take_ack()))

    async def run(self, kind: RunKind = "normal") -> Run:
        """Run the agent in an engine of its own, and wait until the end of the run was received."""
        run = Run(began=time.perf_counter(), connection=self._connections)
        self.transcript.runs.append(run)
        canary = self._mint(self.account.user)
        self.transcript.canaries.append(canary)
        context = self.last = self.context(canary)
        run.run_id = context.run_id
        self.transcript.run_ids.add(run.run_id)
        self.transcript.requests += 1
        try:
            async with self._factory.user_execution_scope(context) as engine:
                result = await engine.execute_agent(EchoAgent, {"canary": canary, "kind": kind})
            self.recorder.add("body", "the result of a run", json.dumps(result.result, default=str))
            run.outcome = "completed" if result.success else "failed"
            run.detail = "" if result.success else type(result.error).__name__
        except Exception as error:  # noqa: BLE001 - whatever it is refused with
            run.outcome, run.detail = "refused", type(error).__name__
            self.transcript.server_errors += 1
        finally:
            with contextlib.suppress(Exception):
                end_stream(context)
                await context.cleanup()
        run.seconds = time.perf_counter() - run.began
        await self._until_received(run)
        return run

    def context(self, canary: str = "") -> UserExecutionContext:
        """Make the context of a run."""
        thread = UnifiedIDManager.generate_thread_id()
        run = UnifiedIDManager.generate_run_id(thread)
        return UserExecutionContext(self.account.user, thread, run, agent_context={"note": canary})

    async def _until_received(self, run: Run) -> None:
        if self.cursor is None or not self._framed:
            # A plain client knows no end of a run: what is there is read in the next turns of the loop.
            await self.settle()
            return
        if not await self.recorder.until(lambda: run.run_id in self.recorder.ended, RUN_SECONDS):
            run.outcome, run.detail = "unanswered", "the end of its stream was not received"

    async def begin(self) -> Run:
        """Start a run, and return when its first event was received."""
        seen = len(self.transcript.receipts)
        task = asyncio.create_task(self.run("long"))
        self._begun[id(task)] = task
        await self.recorder.until(lambda: task.done() or len(self.transcript.receipts) > seen, 2.0)
        run = self.transcript.runs[-1]
        self._begun = {id(run): task}
        return run

    async def finish(self, run: Run) -> None:
        """Wait for the end of a run that was begun."""
        task = self._begun.pop(id(run), None)
        if task is not None:
            await task

    async def abandon(self) -> Run:
        """Cancel a run in the middle, as a request that is given up is cancelled."""
        task = asyncio.create_task(self.run("long"))
        try:
            await asyncio.wait({task}, timeout=LONG_SECONDS / 4)
        finally:
            task.cancel()
            await asyncio.wait({task})
        run = self.transcript.runs[-1]
        run.outcome = "cancelled"
        return run

    async def cut(self) -> None:
        """Free the cursor without a word."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self.cursor is not None:
            self.cursor.detach()
            self.cursor = None

    async def settle(self) -> None:
        """Let the cursors' tasks read what is there."""
        await asyncio.sleep(0.01)

    async def aclose(self) -> None:
        """Free the cursor, and end what still runs."""
        for task in self._begun.values():
            task.cancel()
        if self._begun:
            await asyncio.wait(set(self._begun.values()))
        await self.cut()


class OwnTarget:
    """Isolane itself.

    Args:
        isolation: makes the canaries.
        seed: makes the names of users.
    """

    name = "isolane in this process"
    capabilities = Capabilities(resumes=True)

    def __init__(self, isolation: IsolationTester, seed: int = 0) -> None:
        self.shape = EventShape(
            span=("/request_id",),
            merged=("acceptance.text",),
            required=("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"),
        )
        self._isolation = isolation
        self._seed = seed
        number = next(_targets)
        self._once = f"-{number}" if number > 1 else ""
        self._factory: ExecutionEngineFactory | None = None

    async def open(self) -> None:
        """Make the factory of engines."""
        self._factory = ExecutionEngineFactory()

    async def aclose(self) -> None:
        """Shut the factory down."""
        if self._factory is not None:
            await self._factory.shutdown()

    def accounts(self, count: int, part: str) -> list[Account]:
        """Return made-up users."""
        return [Account(name) for name in made_up(count, part, self._seed, self._once)]

    async def sign_in(self, account: Account) -> UserSession:
        """Nobody has to show anything in one process."""
        assert self._factory is not None  # noqa: S101 - it is open
        return OwnSession(account, self._factory, self._isolation.mint)

    async def usage(self) -> Usage:
        """Count engines and permits."""
        assert self._factory is not None  # noqa: S101 - it is open
        counts = {
            "engines": int(self._factory.get_factory_metrics()["engines_active"]),
            "permits": int(default_limiter().stats()["running"]),
        }
        return Usage(resident_bytes(os.getpid()), None, counts)

    async def intrusions(self, thief: UserSession, victim: UserSession) -> AsyncIterator[Attempt]:
        """Try what must not work."""
        for attempt in _subscriptions(cast("OwnSession", thief), cast("OwnSession", victim)):
            yield attempt
        async for attempt in _emitters(cast("OwnSession", thief), cast("OwnSession", victim)):
            yield attempt
        yield _refusal("a context of a made-up user", thief.account.user, {}, control=True)
        yield _refusal("a context of nobody in particular", "default_user", {})
        yield _refusal("a context that names another user in its data", thief.account.user, {"user_id": "somebody"})

    def ended(self) -> str:
        """It is this process."""
        return ""

    def legacy_faults(self, transcript: Transcript) -> list[str]:
        """Return the keys that older clients read, and that messages have not."""
        return [
            f"{event.type} has no {key}, which older clients read"
            for event in self.shape.events(transcript)
            for key in _LEGACY_KEYS
            if pointed(event.message, key) is MISSING
        ]


def _subscriptions(thief: OwnSession, victim: OwnSession) -> list[Attempt]:
    run = victim.transcript.runs[0].run_id
    attempts = []
    for session, what in ((victim, "an own run"), (thief, "another user's run")):
        with contextlib.closing(_Detached(session.account.user)) as attached:
            mode = attached.cursor.subscribe(run)
            for text in attached.cursor.read():
                session.recorder.add("refusal", "a subscription", text)
        attempts.append(Attempt(f"a subscription to {what}", mode == "gone", f"mode {mode}", control=session is victim))
    return attempts


class _Detached:
    def __init__(self, user: str) -> None:
        self.cursor = EventCursor(user, framed=False)

    def close(self) -> None:
        self.cursor.detach()


async def _emitters(thief: OwnSession, victim: OwnSession) -> AsyncIterator[Attempt]:
    """Publish under the id of a run: the own one, and another user's."""
    for owner, what in ((thief, "an own run"), (victim, "another user's run")):
        context = owner.context()
        emitter = emitter_for_user(thief.account.user, context.thread_id)
        # The run is known as the owner's once it has a stream.
        context.get_websocket_emitter()
        try:
            await emitter.notify_agent_started("acceptance.echo", context.run_id)
        except ContextIsolationError as error:
            yield Attempt(f"publishing into {what}", refused=True, outcome=type(error).__name__, control=owner is thief)
        else:
            yield Attempt(f"publishing into {what}", refused=False, outcome="published", control=owner is thief)
        finally:
            owner.transcript.run_ids.add(context.run_id)
            end_stream(context, "cancelled")
            await context.cleanup()


def _refusal(what: str, user: str, data: dict[str, Any], *, control: bool = False) -> Attempt:
    thread = UnifiedIDManager.generate_thread_id()
    try:
        UserExecutionContext(user, thread, UnifiedIDManager.generate_run_id(thread), agent_context=data)
    except InvalidContextError as error:
        return Attempt(what, refused=True, outcome=type(error).__name__, control=control)
    return Attempt(what, refused=False, outcome="made", control=control)
