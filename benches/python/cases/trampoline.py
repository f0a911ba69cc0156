"""What it costs to account for a step of a coroutine: the same coroutine bare and driven."""

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from isolane import LoopAccount, UserContextFactory

from benches.python.measure import Case, Run, Side, now

GROUP = "Loop account"
USER = "user-7c21"
LONGER = 150
"""Turns of an empty loop that take a few microseconds."""


@types.coroutine
def _turn() -> Generator[None, None, None]:
    yield


async def _steps() -> None:
    while True:
        await _turn()


async def _pause(coroutine: Coroutine[Any, Any, None]) -> None:
    await coroutine


async def _longer_steps() -> None:
    while True:
        for _ in range(LONGER):
            pass
        await _turn()


def _bare(coroutine: Coroutine[Any, Any, None]) -> Any:
    return coroutine


def _driven(coroutine: Coroutine[Any, Any, None]) -> Any:
    account = LoopAccount(UserContextFactory.create_context(USER))
    return account.drive(coroutine, "bench")


def _stepped(make: Callable[[], Coroutine[Any, Any, None]], drive: Callable[[Any], Any], *, awaited: bool) -> Run:
    def run(loops: int) -> float:
        coroutine = drive(make())
        # As the engine awaits an agent, or as a task steps what it was made of.
        outer = _pause(coroutine) if awaited else coroutine
        send = outer.send
        send(None)
        turns = range(loops)
        start = now()
        for _ in turns:
            send(None)
        taken = now() - start
        outer.close()
        return taken

    return run


OWN = "isolane, accounted"
PEER = "the bare coroutine"
STEP = "one step of an awaited coroutine"
SENT = "one step that is sent by hand"
LONG = "one step of a few microseconds"


def cases() -> list[Case]:
    """Short steps, where every nanosecond shows, and longer ones, more of which fall to a reading of processor time."""
    rows = (
        (STEP, _steps, True, "The event loop is not part of it: its turn takes many times as long as either."),
        (SENT, _steps, False, ""),
        (
            LONG,
            _longer_steps,
            True,
            "In all three the processor time is read each millisecond, which is a system call.",
        ),
    )
    kinds = ((OWN, _driven), (PEER, _bare))
    return [
        Case(
            GROUP,
            name,
            tuple(Side(label, _stepped(make, drive, awaited=awaited)) for label, drive in kinds),
            note=note,
        )
        for name, make, awaited, note in rows
    ]
