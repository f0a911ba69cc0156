"""A user of a service behind HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from isolane.acceptance.app.config import AcceptanceConfig
from isolane.acceptance.app.http import TOO_MANY, Answer, RecordedHttp
from isolane.acceptance.app.recorder import Recorder
from isolane.acceptance.app.sockets import SocketRefusedError, UserSocket
from isolane.acceptance.app.steps import SocketConfig, Step
from isolane.acceptance.events import MISSING, EventShape, ReceivedEvent, pointed
from isolane.acceptance.records import Run, Transcript
from isolane.acceptance.target import Account, RunKind, TargetError
from isolane.client.reader import StreamReader

ABANDON_SECONDS = 0.02
"""So long a request lives that is given up."""
BEGUN_SECONDS = 2.0
_POLL_SECONDS = 0.05


class AppSession:
    """A signed-in user of a service: cookies, saved values, one socket at a time."""

    def __init__(
        self,
        config: AcceptanceConfig,
        url: str,
        account: Account,
        mint: Callable[[str], str],
        *,
        run_ids: set[str],
        seed: int,
    ) -> None:
        self.account = account
        self.transcript = Transcript(account.user, run_ids=run_ids)
        self.recorder = Recorder(self.transcript)
        self.values: dict[str, str] = {"user": account.user, **account.values}
        self.http = RecordedHttp(url, self.recorder, config.run_seconds)
        self.config = config
        self.url = url
        self.socket: UserSocket | None = None
        self._mint = mint
        self._reader = StreamReader()
        self._connections = 0
        self._chance = random.Random(f"{seed} {account.user}")  # noqa: S311 - the same text for the same seed
        self._begun: dict[int, asyncio.Task[Run]] = {}
        self._abandoned = False
        self._legacy = False

    # -- coming in ---------------------------------------------------------------------------------------------------

    async def sign_in(self) -> None:
        """Sign in. Raises `TargetError` when that does not work."""
        step = self.config.login
        if step is not None:
            answer = await self.http.send(step, self.values)
            if not step.accepts(answer.status):
                raise TargetError(
                    f"{self.account.user} could not sign in: {step.place} answered {_shown(answer)} (login.request)"
                )
            self._save(step, answer, "login.request")

    @property
    def credentials(self) -> dict[str, str]:
        """The headers that each request carries, as the configuration writes them, and the cookies for sockets."""
        return dict(self.config.headers)

    def socket_headers(self) -> dict[str, str]:
        """The headers of a handshake: credentials, and the cookies that HTTP has."""
        cookies = self.http.cookies
        return {**self.credentials, **({"Cookie": cookies} if cookies else {})}

    async def connect(self, *, legacy: bool = False) -> None:
        """Open the socket. Where its path names a run, that is done when a run has been started."""
        self._legacy = legacy
        config = self.socket_config()
        if config is None or "{run}" in config.path:
            return
        try:
            await self._open(config)
        except SocketRefusedError as error:
            raise TargetError(f"the socket {config.path} was refused to {self.account.user}: {error}") from error

    def socket_config(self) -> SocketConfig | None:
        """Return how this user connects."""
        return self.config.legacy if self._legacy else self.config.socket

    async def _open(self, config: SocketConfig) -> None:
        self._connections += 1
        reader = self._reader if config.protocol == "isolane.v1" else None
        # Kept before it is open, so that it is closed whatever becomes of this.
        self.socket = UserSocket(config, self.url, self.recorder, self._connections, reader)
        query = {} if config.query else self.config.query
        await self.socket.open(self.values, self.socket_headers(), self.http, query)

    # -- runs --------------------------------------------------------------------------------------------------------

    async def run(self, kind: RunKind = "normal") -> Run:
        """Start a run, and wait for its end."""
        run = Run(began=time.perf_counter(), connection=self._connections)
        self.transcript.runs.append(run)
        values = self._fresh()
        for step in self.config.prepare:
            answer = await self._send(step, values)
            if not step.accepts(answer.status):
                self._refused(run, answer, step)
                return run
            self._save(step, answer, "prepare", values)
        run.began = time.perf_counter()
        step = self._step(kind)
        answer = await self._send(step, values)
        await self._ended(run, step, answer, values)
        run.seconds = run.seconds or time.perf_counter() - run.began
        if run.ok:
            await self._read(values)
        return run

    def _fresh(self) -> dict[str, str]:
        """Return the values of a new run: with a canary that no other run has."""
        canary = self._mint(self.account.user)
        self.transcript.canaries.append(canary)
        self.values["canary"] = canary
        self.values["nonce"] = f"{self._chance.getrandbits(48):012x}"
        return dict(self.values)

    def _step(self, kind: RunKind) -> Step:
        config = self.config
        return {"failing": config.failing, "long": config.long}.get(kind) or config.run

    async def _send(self, step: Step, values: Mapping[str, str]) -> Answer:
        return await self.http.send(step, values, headers=self.credentials, query=self.config.query)

    async def _ended(self, run: Run, step: Step, answer: Answer, values: dict[str, str]) -> None:
        run.status = answer.status
        with contextlib.suppress(TargetError):
            self._save(step, answer, "run", values)
        self._name(run, values if "run" in step.save else {})
        if not step.accepts(answer.status):
            self._refused(run, answer, step)
            return
        if "run" in step.save and not run.run_id:
            run.outcome, run.detail = "failed", f"the answer has no {step.save['run']} (run.save)"
            return
        config = self.socket_config()
        if config is not None and "{run}" in config.path:
            with contextlib.suppress(SocketRefusedError):
                await self._open(config)
        await self._wait(run, values)

    def _name(self, run: Run, values: Mapping[str, str]) -> None:
        run.run_id = values.get("run", "")
        if run.run_id:
            self.transcript.run_ids.add(run.run_id)
            self.values["run"] = run.run_id

    def _refused(self, run: Run, answer: Answer, step: Step) -> None:
        run.status = answer.status
        run.outcome = "refused" if answer.status in TOO_MANY else "failed" if answer.status else "unanswered"
        run.detail = f"{step.place} answered {_shown(answer)}"
        run.seconds = time.perf_counter() - run.began

    async def _wait(self, run: Run, values: Mapping[str, str]) -> None:
        end, seconds = self.config.end, self.config.run_seconds
        late = f"its end did not come within {seconds:g} s (run.ends = {end.kind!r})"
        if end.kind == "response":
            run.outcome = "completed"
        elif end.kind == "stream" and not self._legacy:
            await self.recorder.until(lambda: run.run_id in self.recorder.ended or bool(self._closed()), seconds)
            if run.run_id not in self.recorder.ended:
                run.outcome, run.detail = "unanswered", self._closed() or late
                return
            said = self.recorder.ended[run.run_id]
            run.outcome, run.detail = ("completed", "") if said == "completed" else ("failed", f"its outcome is {said}")
        elif end.kind == "poll":
            await self._poll(run, values, late)
        else:
            await self._wait_for_event(run, late)
        run.seconds = time.perf_counter() - run.began

    async def _wait_for_event(self, run: Run, late: str) -> None:
        """Wait for the last event of the run. An older client has no other way to know."""
        end, shape = self.config.end, self.config.shape
        kinds = end.events or shape.ended
        count = end.count if end.events else 1

        def seen() -> list[ReceivedEvent]:
            return [one for one in self._events(shape) if one.run == run.run_id and one.type in kinds]

        def over() -> bool:
            found = seen()
            return len(found) >= count or any(one.type in end.failed_events for one in found)

        await self.recorder.until(lambda: over() or bool(self._closed()), self.config.run_seconds)
        if not over():
            run.outcome, run.detail = "unanswered", self._closed() or late
        elif any(one.type in end.failed_events for one in seen()):
            run.outcome, run.detail = "failed", "its events say so"
        else:
            run.outcome = "completed"

    def _closed(self) -> str:
        """Return that the socket was closed by the server, and how; nothing while it is open or was cut here."""
        closed = self.socket.closed if self.socket is not None else ""
        return f"the server closed the socket with {closed}" if closed else ""

    def _events(self, shape: EventShape) -> list[ReceivedEvent]:
        return shape.events(self.transcript)

    async def _poll(self, run: Run, values: Mapping[str, str], late: str) -> None:
        end = self.config.end
        assert end.poll is not None  # noqa: S101 - the configuration was checked
        limit = time.monotonic() + self.config.run_seconds
        while time.monotonic() < limit:
            answer = await self._send(end.poll, {**values, "run": run.run_id})
            state = pointed(_json(answer.body), end.pointer)
            if state in end.done or state in end.failed:
                run.outcome = "completed" if state in end.done else "failed"
                run.detail = "" if run.ok else f"its state is {state}"
                return
            await asyncio.sleep(_POLL_SECONDS)
        run.outcome, run.detail = "unanswered", late

    async def _read(self, values: Mapping[str, str]) -> None:
        for step in self.config.reads:
            await self._send(step, {**self.values, **values})

    def _save(self, step: Step, answer: Answer, key: str, values: dict[str, str] | None = None) -> None:
        sent = list(_jsons(answer.body)) if step.save else []
        for name, pointer in step.save.items():
            found = next((one for body in sent if (one := pointed(body, pointer)) is not MISSING), MISSING)
            if found is MISSING or isinstance(found, (dict, list)):
                raise TargetError(f"the answer to {step.place} has nothing at {pointer} ({key}.save.{name})")
            self.values[name] = str(found)
            if values is not None:
                values[name] = str(found)

    # -- mishaps -----------------------------------------------------------------------------------------------------

    async def begin(self) -> Run:
        """Start a run, and return when it is under way."""
        seen = len(self.transcript.receipts)
        task = asyncio.create_task(self.run("long"))
        self._begun[id(task)] = task
        channels = {"frame", "stream"}
        await self.recorder.until(
            lambda: task.done() or any(one.channel in channels for one in self.transcript.receipts[seen:]),
            BEGUN_SECONDS,
        )
        run = self.transcript.runs[-1]
        self._begun = {id(run): task}
        return run

    async def finish(self, run: Run) -> None:
        """Wait for the end of a run that was begun."""
        task = self._begun.pop(id(run), None)
        if task is not None:
            await task

    async def abandon(self) -> Run:
        """Give a request up before it is answered."""
        self._abandoned = True
        task = asyncio.create_task(self.run("long"))
        try:
            await asyncio.wait({task}, timeout=ABANDON_SECONDS)
        finally:
            task.cancel()
            await asyncio.wait({task})
        run = self.transcript.runs[-1]
        if not task.cancelled() and task.exception() is None:
            return run
        run.outcome = "cancelled"
        return run

    async def cut(self) -> None:
        """Drop the socket."""
        if self.socket is not None:
            await self.socket.drop()
            self.socket = None

    async def settle(self) -> None:
        """Wait for what is still under way to this user."""
        if self.socket is not None:
            await asyncio.sleep(self.config.settle_seconds)

    async def aclose(self) -> None:
        """Close the socket and the connections of HTTP."""
        for task in self._begun.values():
            task.cancel()
        if self._begun:
            await asyncio.wait(set(self._begun.values()))
        if self.socket is not None:
            await self.socket.close()
        await self.http.aclose()


def _jsons(body: bytes) -> Iterator[Any]:
    """Return what a body holds: one value, or one in each line, as of a stream."""
    whole = _json(body)
    if whole is not None:
        yield whole
        return
    for line in body.splitlines():
        value = _json(line)
        if value is not None:
            yield value


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _shown(answer: Answer) -> str:
    return str(answer.status) if answer.status else f"nothing ({answer.problem})"
