"""The application that the faults are done to, and the runs whose events its clients read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from fastapi import FastAPI, Request
from isolane import AgentRegistry, BaseAgent, RunClosed, UserContextFactory, UserExecutionContext
from isolane._core import emitter_for_context, end_stream, user_streams
from isolane.fastapi import Ctx, Engine, IsolaneSettings, Principal, setup
from isolane.fastapi.sockets import bearer_of
from starlette.requests import HTTPConnection

from tests.support.event_history import History, Recorder
from tests.support.framed_client import FramedClient
from tests.support.server import serving


def who(conn: HTTPConnection) -> Principal | None:
    """The token is the user's name."""
    token = bearer_of(conn.headers)
    return Principal(token) if token else None


def auth(user: str) -> dict[str, str]:
    """The headers of a request of the user's."""
    return {"Authorization": f"Bearer {user}"}


def epoch_of(user: str, run: str) -> str:
    """The latest incarnation of the run's log."""
    return next(stream["epoch"] for stream in user_streams(user) if stream["run_id"] == run)


def recorder_of(history: History, context: UserExecutionContext, **bounds: float) -> Recorder:
    """A recorder for a context of a run; ``bounds`` are those of ``emitter_for_context``."""
    emitter = emitter_for_context(context, **bounds) if bounds else context.get_websocket_emitter()
    epoch = epoch_of(context.user_id, context.run_id)
    return Recorder(history, emitter, context.run_id, epoch, context.request_id)


class Worker(BaseAgent):
    """Publishes as often as it was asked to, or until it is cancelled."""

    name = "worker"
    history: History

    async def execute_with_context(self, context, request, results) -> Any:
        recorder = recorder_of(self.history, context)
        recorder.executing()
        for step in range(request.get("events", 100_000)):
            recorder.thinking(f"step {step}")
            await asyncio.sleep(request.get("pause", 0.005))
        recorder.executed()
        return {"owner": recorder.nonce}


class Stubborn(BaseAgent):
    """Does not mind being cancelled, and publishes on."""

    name = "stubborn"
    history: History
    refused = 0
    ignored = 0
    until: Callable[[], bool] = staticmethod(lambda: False)

    async def execute_with_context(self, context, request, results) -> Any:
        recorder = recorder_of(self.history, context)
        limit = time.monotonic() + 20
        while not type(self).until() and time.monotonic() < limit:
            try:
                recorder.thinking("I go on")
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                type(self).ignored += 1
            except RunClosed:
                type(self).refused += 1
                await self._rest()

    @staticmethod
    async def _rest() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.005)


class Site:
    """The application, its history, and runs that are published into by the test itself.

    The names of users are made unique: the logs of one site outlive it, and those of another test's are not its own.
    """

    numbers = itertools.count(1)

    def __init__(self, history: History, **settings: Any) -> None:
        self.history = history
        self.mark = f".site-{next(self.numbers)}"
        self.contexts: dict[str, UserExecutionContext] = {}
        self.port = 0
        self.app = FastAPI()
        agents = AgentRegistry()
        for agent in (Worker, Stubborn):
            # Classes of their own: each site has a history of its own.
            agents.register(type(agent.__name__, (agent,), {"name": agent.name, "history": history}))
        self.agents = agents
        defaults = {"drain_seconds": 0.2, "max_connections_per_user": 4}
        self.isolane = setup(self.app, IsolaneSettings(**{**defaults, **settings}), who, registry=agents)

        @self.app.post("/start/{agent}")
        async def start(agent: str, request: Request, ctx: Ctx, engine: Engine) -> dict[str, str]:
            ctx.detach()
            ctx.get_websocket_emitter()
            history.opened(ctx.user_id, ctx.run_id, epoch_of(ctx.user_id, ctx.run_id))
            engine.start_agent_pipeline([agent], await request.json())
            return {"run_id": ctx.run_id}

        @self.app.post("/block/{milliseconds}")
        async def block(milliseconds: int) -> dict[str, int]:
            time.sleep(milliseconds / 1000)  # noqa: ASYNC251 - it is there to block the loop
            return {"blocked": milliseconds}

    @contextlib.contextmanager
    def serving(self, **options: Any) -> Iterator[int]:
        """Serve it for the length of a block."""
        with serving(self.app, log_config=None, **options) as port:
            self.port = port
            yield port

    def named(self, user: str) -> str:
        """Return the user's name in this site."""
        return user if user.endswith(self.mark) else user + self.mark

    def run(self, user: str, **bounds: float) -> Recorder:
        """Open a run of the user, to publish into from here."""
        context = UserContextFactory.create_context(self.named(user))
        recorder = recorder_of(self.history, context, **bounds)
        self.contexts[recorder.stream.run] = context
        return recorder

    def end(self, recorder: Recorder, outcome: str = "completed") -> None:
        """End the stream of a run, and note where it ended."""
        end_stream(self.contexts[recorder.stream.run], outcome)
        self.note_end(recorder.user, recorder.stream.run)

    def story(self, recorder: Recorder, events: int) -> None:
        """Publish a run of so many events, from its beginning to its end."""
        recorder.started()
        for step in range(events - 2):
            match step % 4:
                case 0 if step < events - 3:
                    recorder.executing("search")
                case 1:
                    recorder.executed("search")
                case _:
                    recorder.thinking(f"step {step} of the story, which goes on for a while")
        recorder.completed()

    async def start(self, agent: str, user: str, **request: Any) -> str:
        """Start an agent through the application. Returns its run."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            answer = await client.post(f"/start/{agent}", json=request, headers=auth(self.named(user)))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["run_id"])

    async def over(self, user: str, run: str) -> None:
        """Wait until the run has ended, and note how."""
        await settled(lambda: self.state(user, run)["outcome"] is not None)
        self.note_end(user, run)

    def state(self, user: str, run: str) -> dict[str, Any]:
        """What the core says of the user's stream."""
        return next(stream for stream in user_streams(self.named(user)) if stream["run_id"] == run)

    def note_end(self, user: str, run: str) -> None:
        """Note in the history how the stream ended."""
        state = self.state(user, run)
        stream = self.history.opened(self.named(user), run, state["epoch"])
        stream.outcome = state["outcome"]
        self.history.reached(stream, state["head"])

    def client(self, user: str, tab: str = "tab", *, port: int | None = None, **options: Any) -> FramedClient:
        """One tab of a user."""
        user = self.named(user)
        return FramedClient(port or self.port, user, self.history, f"{user} {tab}", **options)

    def sockets(self) -> int:
        """How many sockets the server has."""
        return int(self.isolane.introspect()["sockets"])


async def settled(check: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something that follows from what was done has happened."""
    limit = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < limit, f"it did not happen within {seconds} s"
        await asyncio.sleep(0.01)


def ended(*runs: str) -> Callable[[FramedClient], bool]:
    """Whether a client was told that the runs have ended."""
    return lambda client: all(run in client.ended for run in runs)
