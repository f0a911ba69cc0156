"""Lines of a log know whose run they are of: structlog, loguru and the standard library, two users at once."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from isolane import AgentRegistry, BaseAgent, UserExecutionContext
from isolane.agents.execution import run_in_span
from isolane.fastapi import Ctx, Engine, IsolaneSettings, OptionalCtx, Principal, setup
from isolane.fastapi.sockets import bearer_of
from isolane.observability import ContextLogFilter, LoguruPatcher, StructlogProcessor, current_ids
from isolane.observability.logs import loguru_patcher, structlog_processor
from isolane.security.pseudonyms import pseudonym

from tests.support.server import serving

USERS = ("ann-01", "bob-02")


def needed(name: str) -> Any:
    if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
        return __import__(name)
    return pytest.importorskip(name)


def context_of(user: str) -> UserExecutionContext:
    return UserExecutionContext(user, f"thread-{user}", f"run-{user}")


# -- what is known --------------------------------------------------------------------------------------------------


def test_outside_of_a_run_there_is_nothing():
    assert current_ids() == {}


async def test_inside_of_an_agent_the_ids_are_the_runs_and_two_users_do_not_mix():
    seen: dict[str, list[dict[str, str]]] = {user: [] for user in USERS}
    turn = asyncio.Barrier(len(USERS))

    async def work(context: UserExecutionContext) -> None:
        for _ in range(3):
            await turn.wait()
            seen[context.user_id].append(current_ids())

    contexts = {user: context_of(user) for user in USERS}
    try:
        await asyncio.gather(
            *(run_in_span(context, f"agent-of-{user}", work, timeout_seconds=5) for user, context in contexts.items())
        )
        for user, context in contexts.items():
            assert seen[user] == 3 * [
                {
                    "user": pseudonym(user),
                    "run_id": context.run_id,
                    "thread_id": context.thread_id,
                    "request_id": context.request_id,
                    "agent": f"agent-of-{user}",
                }
            ]
    finally:
        for context in contexts.values():
            await context.cleanup()


async def test_a_task_that_outlives_its_run_keeps_its_user_and_nothing_of_the_run():
    left: list[asyncio.Task[dict[str, str]]] = []
    go = asyncio.Event()

    async def later() -> dict[str, str]:
        await go.wait()
        return current_ids(raw_user=True)

    async def work(_context: UserExecutionContext) -> None:
        left.append(asyncio.get_running_loop().create_task(later()))

    context = context_of("ann-01")
    await run_in_span(context, "leaver", work, timeout_seconds=5)
    await context.cleanup()
    del context
    go.set()
    ids = await left[0]
    assert ids["user"] == "ann-01"
    assert ids["agent"] == "leaver"


# -- the standard library -------------------------------------------------------------------------------------------


@pytest.fixture
def lines():
    """A logger of its own whose lines are kept."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(isolane_user)s %(isolane_run_id)s %(isolane_agent)s %(message)s"))
    handler.addFilter(ContextLogFilter())
    log = logging.getLogger("tests.log_processors")
    log.propagate = False
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield log, text
    log.removeHandler(handler)


async def test_a_format_may_name_the_ids_inside_and_outside_of_a_run(lines):
    log, text = lines
    context = context_of("ann-01")

    async def work(_context: UserExecutionContext) -> None:
        log.info("inside")

    log.info("outside")
    await run_in_span(context, "writer", work, timeout_seconds=5)
    await context.cleanup()
    assert text.getvalue().splitlines() == [
        "- - - outside",
        f"{pseudonym('ann-01')} {context.run_id} writer inside",
    ]


def test_a_record_is_filled_where_it_was_written():
    record = logging.makeLogRecord({"msg": "x"})
    record.isolane = {"user": "somebody"}
    assert ContextLogFilter().filter(record)
    assert record.isolane == {"user": "somebody"}


async def test_a_handler_that_writes_ids_gives_none_to_one_that_writes_pseudonyms():
    written: dict[str, io.StringIO] = {"raw": io.StringIO(), "hidden": io.StringIO()}
    log = logging.getLogger("tests.log_processors.two")
    log.propagate = False
    log.setLevel(logging.INFO)
    for name, text in written.items():
        handler = logging.StreamHandler(text)
        handler.setFormatter(logging.Formatter("%(isolane_user)s %(isolane)s"))
        handler.addFilter(ContextLogFilter(raw_user=name == "raw"))
        log.addHandler(handler)
    log.info("outside")
    context = await inside(lambda: log.info("inside"))
    raw, hidden = (text.getvalue().splitlines() for text in written.values())
    assert raw[0] == hidden[0] == "- {}"
    assert raw[1].startswith("ann-01 {")
    assert hidden[1].startswith(f"{pseudonym('ann-01')} {{")
    assert context.run_id in hidden[1]
    assert "'user': 'ann-01'" not in hidden[1]


# -- structlog and loguru -------------------------------------------------------------------------------------------


async def inside(call: Any) -> UserExecutionContext:
    context = context_of("ann-01")

    async def work(_context: UserExecutionContext) -> None:
        call()

    await run_in_span(context, "writer", work, timeout_seconds=5)
    await context.cleanup()
    return context


@pytest.mark.parametrize(
    ("processor", "user"), [(structlog_processor, None), (StructlogProcessor(raw_user=True), "ann-01")]
)
async def test_structlog_has_the_ids_and_what_an_event_names_itself_stays(processor, user):
    structlog = needed("structlog")
    written: list[dict[str, Any]] = []

    def keep(_logger: Any, _method: str, event: dict[str, Any]) -> Any:
        written.append(dict(event))
        raise structlog.DropEvent

    log = structlog.wrap_logger(None, processors=[processor, keep], wrapper_class=structlog.BoundLogger)
    log.info("outside")
    context = await inside(lambda: log.info("inside", agent="another"))
    assert written == [
        {"event": "outside"},
        {
            "event": "inside",
            "user": user or pseudonym("ann-01"),
            "run_id": context.run_id,
            "thread_id": context.thread_id,
            "request_id": context.request_id,
            "agent": "another",
        },
    ]


@pytest.mark.parametrize(("patcher", "user"), [(loguru_patcher, None), (LoguruPatcher(raw_user=True), "ann-01")])
async def test_loguru_has_the_ids(patcher, user):
    loguru = needed("loguru")
    text = io.StringIO()
    log = loguru.logger.patch(patcher)
    number = loguru.logger.add(text, format="{message} {extra}")
    try:
        log.info("outside")
        context = await inside(lambda: log.info("inside"))
    finally:
        loguru.logger.remove(number)
    outside, line = text.getvalue().splitlines()
    assert outside == "outside {}"
    assert context.run_id in line
    assert (user or pseudonym("ann-01")) in line
    assert user is not None or "'ann-01'" not in line


# -- a real server --------------------------------------------------------------------------------------------------


def test_two_users_of_a_real_server_have_their_own_ids_in_their_own_lines():
    structlog = needed("structlog")
    written: list[dict[str, Any]] = []
    accesses = io.StringIO()

    def keep(_logger: Any, _method: str, event: dict[str, Any]) -> Any:
        written.append(dict(event))
        raise structlog.DropEvent

    log = structlog.wrap_logger(None, processors=[structlog_processor, keep], wrapper_class=structlog.BoundLogger)

    class Talker(BaseAgent):
        name = "talker"

        async def execute_with_context(self, context, request, results) -> Any:
            for step in range(5):
                log.info("step", of=request["user"], step=step)
                await asyncio.sleep(0.01)

    agents = AgentRegistry()
    agents.register(Talker)
    app = FastAPI()

    def who(conn: Any) -> Principal | None:
        token = bearer_of(conn.headers)
        return Principal(token) if token else None

    setup(app, IsolaneSettings(drain_seconds=0.2, max_engines_per_user=8), who, registry=agents)

    @app.post("/talk")
    async def talk(ctx: Ctx, engine: Engine) -> dict[str, str]:
        log.info("request", of=ctx.user_id)
        await engine.execute_agent_pipeline(["talker"], {"user": ctx.user_id})
        log.info("done", of=ctx.user_id)
        return {"run": ctx.run_id}

    @app.get("/open")
    async def open_to_all(ctx: OptionalCtx) -> dict[str, bool]:
        log.info("open", of=None)
        return {"ok": ctx is None}

    async def everybody(port: int) -> dict[str, list[str]]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def ask(user: str) -> str:
                answer = await client.post("/talk", headers={"Authorization": f"Bearer {user}"})
                return str(answer.json()["run"])

            runs = await asyncio.gather(*(ask(user) for user in USERS * 4))
            assert (await client.get("/open")).json() == {"ok": True}
            return {user: list(runs[place :: len(USERS)]) for place, user in enumerate(USERS)}

    handler = logging.StreamHandler(accesses)
    handler.setFormatter(logging.Formatter("%(isolane_user)s %(message)s"))
    handler.addFilter(ContextLogFilter())
    access = logging.getLogger("uvicorn.access")
    with serving(app) as port:
        access.addHandler(handler)
        level = access.level
        access.setLevel(logging.INFO)
        try:
            runs = asyncio.run(everybody(port))
        finally:
            access.removeHandler(handler)
            access.setLevel(level)
    for user in USERS:
        lines = [line for line in written if line["of"] == user]
        assert len(lines) == 4 * 7
        assert {line["user"] for line in lines} == {pseudonym(user)}
        assert {line["run_id"] for line in lines} == set(runs[user])
        assert {line.get("agent") for line in lines if line["event"] == "step"} == {"talker"}
        assert {line.get("agent") for line in lines if line["event"] != "step"} == {None}
    assert [line for line in written if line["event"] == "open"] == [{"event": "open", "of": None}]
    served = [line.split()[0] for line in accesses.getvalue().splitlines() if "/talk" in line]
    assert sorted(served) == sorted([pseudonym(user) for user in USERS] * 4)
    assert not any(user in json.dumps([{**line, "of": ""} for line in written]) for user in USERS)
