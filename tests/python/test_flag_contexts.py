"""The rollout of a run: what it was when the run began, for all of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from isolane import (
    FlagEngine,
    MigrationFeatureFlags,
    UserContextFactory,
    UserExecutionContext,
    install_flags,
    installed_flags,
)


def document(revision: int, rollout: int, **more: Any) -> str:
    return json.dumps({"schema": 1, "revision": revision, "flags": {"modern_execution": {"rollout": rollout} | more}})


@pytest.fixture
def engine() -> Iterator[FlagEngine]:
    """An engine at 100 %, installed for one test."""
    engine = FlagEngine()
    engine.load(document(1, 100_000))
    before = install_flags(engine)
    yield engine
    install_flags(before)


def test_a_run_keeps_what_was_so_when_it_began(engine: FlagEngine, alice: str) -> None:
    context = UserContextFactory.create_context(alice)
    engine.load(document(2, 0))
    engine.kill()
    child = context.create_child_context("step")
    bound = child.with_db_session(object()).with_websocket_connection("socket-1")
    grandchild = bound.create_child_context("step")
    for held in (context, child, bound, grandchild):
        assert held.flags is context.flags
        assert held.flags is not None
        assert held.flags.is_on("modern_execution")
        assert held.to_dict()["flags"] == context.flags.to_dict()
    later = UserContextFactory.create_context(alice)
    assert later.flags is not None
    assert not later.flags.is_on("modern_execution")
    assert (context.flags.user_id, context.flags.revision, later.flags.revision) == (alice, 1, 2)


def test_two_users_have_their_own(engine: FlagEngine, alice: str, bob: str) -> None:
    engine.load(document(2, 0, allow=[alice]))
    of = {user: UserContextFactory.create_context(user).flags for user in (alice, bob)}
    assert {user: flags and flags.is_on("modern_execution") for user, flags in of.items()} == {alice: True, bob: False}
    assert {user: flags and flags.user_id for user, flags in of.items()} == {alice: alice, bob: bob}


def test_every_way_to_make_a_context_keeps_one(engine: FlagEngine, alice: str) -> None:
    ids = (alice, f"thread-of-{alice}", f"run-of-{alice}")
    made = [
        UserExecutionContext(*ids),
        UserExecutionContext.from_request(*ids),
        UserExecutionContext.create_for_user(*ids),
        UserExecutionContext.from_request_supervisor(*ids),
    ]
    assert all(context.flags is not None and context.flags.revision == 1 for context in made)
    assert engine.revision == 1


def test_attributes_are_asked_for_once_a_run(alice: str) -> None:
    asked: list[str] = []

    def attributes_of(user: str) -> dict[str, str]:
        asked.append(user)
        return {"tier": "enterprise"}

    flags = MigrationFeatureFlags(
        json.loads(document(1, 0, rules=[{"if": {"tier": "enterprise"}, "rollout": 100_000}])),
        attributes_of=attributes_of,
    )
    before = install_flags(flags.engine)
    try:
        context = UserContextFactory.create_context(alice)
        assert asked == [], "a context that nobody asks costs no look-up"
        assert flags.modes(context).is_modern
        assert flags.modes(context.create_child_context("step")).is_modern
        assert context.to_dict()["flags"]["decisions"]["modern_execution"]["step"] == "rule"
        assert asked == [alice]
    finally:
        install_flags(before)


def test_what_is_installed_can_be_taken_back(engine: FlagEngine, alice: str) -> None:
    assert installed_flags() is engine
    assert install_flags(None) is engine
    try:
        assert installed_flags() is None
        context = UserContextFactory.create_context(alice)
        assert context.flags is None
        assert context.to_dict()["flags"] is None
        pinned = engine.pin(context)
        assert context.flags is pinned
        assert engine.pin(context) is pinned
        assert context.create_child_context("step").flags is pinned
    finally:
        install_flags(engine)


FRESH = """
from isolane import UserContextFactory, MigrationFeatureFlags
context = UserContextFactory.create_context("ann-7")
assert "flags" not in context.to_dict() and context.flags is None
MigrationFeatureFlags({"modern_execution_rollout_percentage": 100}).install()
assert context.to_dict()["flags"] is None
assert UserContextFactory.create_context("ann-7").to_dict()["flags"]["decisions"]["modern_execution"]["value"]
"""


def test_without_flags_a_context_says_nothing_of_them() -> None:
    subprocess.run([sys.executable, "-c", FRESH], check=True)


async def test_no_run_mixes_modes_while_the_flag_flips(engine: FlagEngine, new_user: Any) -> None:
    """Runs of many users ask for their modes again and again, in children as well, while the rollout changes."""
    flags = MigrationFeatureFlags()
    seen: set[str] = set()
    done = False

    async def run(user: str) -> None:
        context = UserContextFactory.create_context(user)
        modes = [flags.modes(context)]
        for step in range(20):
            await asyncio.sleep(0)
            held = context.create_child_context(f"step-{step}") if step % 3 == 0 else context
            modes.append(flags.modes(held))
        assert len(set(modes)) == 1, f"{set(modes)}"
        seen.add(modes[0].execution)
        await context.cleanup()

    async def flip() -> None:
        revision = 1
        while not done:
            revision += 1
            engine.load(document(revision, 100_000 * (revision % 2)))
            await asyncio.sleep(0)

    flipping = asyncio.create_task(flip())
    for _ in range(10):
        # A turn of the loop between the beginnings, so that they see different documents.
        runs = []
        for _ in range(20):
            runs.append(asyncio.create_task(run(new_user())))
            await asyncio.sleep(0)
        await asyncio.gather(*runs)
    done = True
    await flipping
    assert seen == {"modern", "legacy"}
