"""What the dashboard asks for, with 1000 users and 10 000 runs in the process."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from isolane import UserContextFactory, _core, sweep_lanes

from benches.python.measure import Case, Run, Side, calls

GROUP = "Dashboard"
USERS = 1_000
RUNS_EACH = 10
RUNS = USERS * RUNS_EACH

OVERVIEW = "the overview"
TOP_USERS = f"100 of {USERS} users, those with the most bytes"
FOUND_USERS = f"users among {USERS} by a part of a hash"
LATEST_RUNS = f"200 of {RUNS} runs"
FOUND_RUNS = f"runs among {RUNS} by a part of an id"
TREE = f"the tree of one of {RUNS} runs"
VIEWS = (OVERVIEW, TOP_USERS, FOUND_USERS, LATEST_RUNS, FOUND_RUNS, TREE)
OWN = "isolane, as JSON"

NOTE = (
    "Without HTTP. Each look goes through all lanes of the process: nothing is kept for the dashboard while nobody "
    "looks. Of each run an agent and two calls of tools are kept."
)


def _modules() -> tuple[Any, str]:
    try:
        from fastapi import FastAPI  # noqa: PLC0415 - optional
        from isolane.fastapi import setup  # noqa: PLC0415 - optional
        from isolane.observability.dashboard.history import History  # noqa: PLC0415 - optional
        from isolane.observability.dashboard.views import Views  # noqa: PLC0415 - optional
    except ImportError:
        return None, "fastapi is not installed"

    def make() -> Any:
        isolane = setup(FastAPI(), authenticate=lambda _: None)
        return Views(isolane, History(isolane))

    return make, ""


class _Filled:
    """The users with their runs, half of which go on, and what looks at them."""

    views: Any = None
    run: str = ""

    @classmethod
    @contextlib.contextmanager
    def held(cls) -> Iterator[None]:
        make, _ = _modules()
        cls.views = make()
        contexts = asyncio.run(_fill())
        found = json.loads(cls.views.runs("all", "", 1, ""))
        if found["total"] < RUNS:
            raise RuntimeError(f"{found['total']} runs are kept, and {RUNS} were made")
        cls.run = found["runs"][0]["run"]
        try:
            yield
        finally:
            asyncio.run(_close(contexts))
            cls.views = None


async def _fill() -> list[Any]:
    contexts = []
    for number in range(RUNS):
        context = UserContextFactory.create_context(f"user-{number % USERS}-of-the-dashboard")
        emitter = context.get_websocket_emitter()
        await emitter.notify_agent_started("bench")
        for tool in ("search", "pricer"):
            await emitter.notify_tool_executing(tool, {"query": "rivers"})
            await emitter.notify_tool_completed(tool, {"found": number})
        if number % 2:
            await emitter.notify_agent_completed({"ok": True})
        contexts.append(context)
    return contexts


async def _close(contexts: list[Any]) -> None:
    for context in contexts:
        await context.cleanup()
        _core.end_stream(context)
    contexts.clear()
    sweep_lanes(idle_lanes=True)


def _look(call: Callable[[Any], Any]) -> Run:
    return calls(lambda: call(_Filled.views))


def cases() -> list[Case]:
    """Each view by itself."""
    _, missing = _modules()
    looks: dict[str, Callable[[Any], Any]] = {
        OVERVIEW: lambda views: json.dumps(views.overview(), default=str),
        TOP_USERS: lambda views: views.users("bytes", 100, "", {}),
        FOUND_USERS: lambda views: views.users("bytes", 100, "7c", {}),
        LATEST_RUNS: lambda views: views.runs("all", "", 200, ""),
        FOUND_RUNS: lambda views: views.runs("all", "", 200, "7c"),
        TREE: lambda views: views.run(_Filled.run),
    }
    return [
        Case(
            GROUP,
            name,
            () if missing else (Side(OWN, _look(look)),),
            own=True,
            around=_Filled.held,
            skipped=missing,
            note=NOTE if name == OVERVIEW else "",
        )
        for name, look in looks.items()
    ]
