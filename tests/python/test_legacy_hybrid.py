"""Hybrid mode: the log is the source, and the service's own manager is told each event for the sockets that it has."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from typing import Any

import isolane
import pytest
from isolane import ContextIsolationError, UserContextFactory
from isolane._core import install_flags, lane_usage
from isolane.migration.flags import MigrationFeatureFlags
from isolane.migration.legacy import (
    BridgeSelector,
    CompatibilityAdapter,
    CrossUserSendError,
    HybridBridge,
    ModernWebSocketBridge,
    SendOutcome,
    bind_context,
)

from tests.compat.pool import WHOLE, Socket, until
from tests.support.frontend import broken_rules
from tests.support.history import faults

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")


class OlderManager:
    """The service's own manager: sockets by user, and nothing of isolane."""

    def __init__(self) -> None:
        self.sockets: dict[str, list[list[dict[str, Any]]]] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[BaseException] = []

    def socket(self, user: str) -> list[dict[str, Any]]:
        got: list[dict[str, Any]] = []
        self.sockets.setdefault(user, []).append(got)
        return got

    async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        for got in self.sockets.get(user_id, []):
            got.append(message)


class Browser:
    """A page that has opened sockets on both sides, and drops what it knows by its event_id."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []
        self.doubles = 0
        self._known: set[str] = set()

    def take(self, message: dict[str, Any]) -> None:
        assert broken_rules(message) == []
        if message["event_id"] in self._known:
            self.doubles += 1
            return
        self._known.add(message["event_id"])
        self.shown.append(message)


@pytest.fixture
def older() -> OlderManager:
    return OlderManager()


@pytest.fixture
async def bridge(older):
    made = HybridBridge(older)
    yield made
    await made.close()
    await made.factory.shutdown()


async def whole_run(bridge: HybridBridge, user: str, events: int = 1) -> isolane.UserExecutionContext:
    context = UserContextFactory.create_context(user)
    emitter = await bridge.create_user_emitter(user, context)
    await emitter.notify_agent_started("data")
    for step in range(events):
        await emitter.notify_agent_thinking(f"step {step}")
    await emitter.notify_tool_executing("load", {"q": 1})
    await emitter.notify_tool_completed("load", {"rows": 1})
    await emitter.notify_agent_completed({"rows": 1})
    return context


async def test_an_older_socket_is_sent_each_event_once_and_in_order(bridge, older, alice, bob):
    got, theirs = older.socket(alice), older.socket(bob)
    context = await whole_run(bridge, alice, events=200)
    assert await context.cleanup() == ()
    assert len(got) == 204
    assert faults(got) == []
    assert [message["seq"] for message in got] == list(range(1, 205))
    assert max(Counter(message["event_id"] for message in got).values()) == 1
    assert theirs == []
    assert bridge.get_stats()["forwarded"] == 204
    assert bridge.get_stats()["forwarding_users"] == 0
    assert lane_usage(alice)["connections"] == 0


async def test_a_page_with_sockets_on_both_sides_shows_each_event_once(bridge, older, alice):
    page, got = Browser(), older.socket(alice)
    ours = Socket()
    adapter = CompatibilityAdapter(bridge.factory)
    await adapter.connect_user(alice, ours)
    context = await whole_run(bridge, alice, events=20)
    await context.cleanup()
    await until(lambda: len(ours.texts) == len(got) == 24)
    for pair in zip(ours.messages, got, strict=True):
        for message in pair:
            page.take(message)
    assert page.doubles == 24
    assert [message["seq"] for message in page.shown] == list(range(1, 25))
    adapter.close()


async def test_two_users_at_once_see_their_own(bridge, older, new_user):
    users = [new_user() for _ in range(8)]
    got = {user: older.socket(user) for user in users}
    contexts = await asyncio.gather(*(whole_run(bridge, user, events=30) for user in users))
    await asyncio.gather(*(context.cleanup() for context in contexts))
    for user, context in zip(users, contexts, strict=True):
        assert {message["run_id"] for message in got[user]} == {context.run_id}
        assert len(got[user]) == 34


async def test_a_slow_older_bridge_holds_nobody(bridge, older, alice, bob):
    older.gate.clear()
    got, ours = older.socket(alice), Socket()
    adapter = CompatibilityAdapter(bridge.factory)
    await adapter.connect_user(alice, ours)
    context = await whole_run(bridge, alice)
    await until(lambda: len(ours.texts) == 5)
    assert got == []
    older.gate.set()
    await context.cleanup()
    assert [message["type"] for message in got] == WHOLE
    adapter.close()


async def test_an_older_bridge_that_hangs_is_given_up_event_by_event(older, alice):
    bridge = HybridBridge(older, send_seconds=0.02)
    got = older.socket(alice)
    older.gate.clear()
    context = await whole_run(bridge, alice)
    await until(lambda: bridge.get_stats()["forward_failed"] >= 1)
    await context.cleanup()
    stats = bridge.get_stats()
    assert (got, stats["forward_failed"], stats["forwarding_users"]) == ([], 5, 0)
    await bridge.close()


async def test_what_the_older_bridge_fails_to_take_is_not_sent_twice(bridge, older, alice):
    got = older.socket(alice)
    older.failures = [ConnectionError("gone")]
    await (await whole_run(bridge, alice)).cleanup()
    assert [message["type"] for message in got] == WHOLE[1:]
    stats = bridge.get_stats()
    assert (stats["forwarded"], stats["forward_failed"]) == (4, 1)


async def test_a_plain_function_will_do(alice):
    got: list[dict[str, Any]] = []

    class Plain:
        def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
            assert user_id == alice
            got.append(message)

    bridge = HybridBridge(Plain())
    await (await whole_run(bridge, alice)).cleanup()
    assert [message["type"] for message in got] == WHOLE
    await bridge.close()


async def test_it_takes_the_place_of_no_socket_and_comes_back(bridge, older, alice):
    """The user opens as many sockets as they may while a run is handed over."""
    got = older.socket(alice)
    adapter = CompatibilityAdapter(bridge.factory)
    context = UserContextFactory.create_context(alice)
    emitter = await bridge.create_user_emitter(alice, context)
    await emitter.notify_agent_started("data")
    sockets = [Socket() for _ in range(6)]
    for socket in sockets:
        await adapter.connect_user(alice, socket)
        await emitter.notify_agent_thinking("hm")
        await asyncio.sleep(0.01)
    await emitter.notify_agent_completed(1)
    await context.cleanup()
    assert [message["seq"] for message in got] == list(range(1, 9))
    await until(lambda: sockets[-1].types[-1:] == ["agent_completed"])
    assert faults(sockets[-1].messages) == []
    adapter.close()


async def test_an_event_outside_of_a_run_has_one_id_on_both_sides(bridge, older, alice, bob):
    got, ours = older.socket(alice), Socket()
    adapter = CompatibilityAdapter(bridge.factory)
    await adapter.connect_user(alice, ours)
    assert await bridge.notify_agent_event(alice, {"type": "note", "payload": {"n": 1}}) is SendOutcome.QUEUED
    for kind in ("agent_started", "agent_completed"):
        await bridge.notify_agent_event(alice, {"type": kind, "agent_name": "data", "run_id": f"run-of-{alice}"})
    await until(lambda: len(ours.texts) == len(got) == 3)
    assert [message["event_id"] for message in got] == [message["event_id"] for message in ours.messages]
    with pytest.raises(CrossUserSendError):
        await bridge.notify_agent_event(bob, {"type": "note"})
    context = UserContextFactory.create_context(alice)
    await bridge.create_user_emitter(alice, context)
    with bind_context(context):
        await bridge.notify_agent_event(alice, {"type": "note", "payload": {"n": 2}})
        with pytest.raises(CrossUserSendError):
            await bridge.notify_agent_event(bob, {"type": "note"})
    await context.cleanup()
    assert [message["payload"] for message in got if message["type"] == "note"] == [{"n": 1}, {"n": 2}]
    adapter.close()


async def test_ending_a_session_hands_over_nothing_more(bridge, older, alice):
    got = older.socket(alice)
    context = UserContextFactory.create_context(alice)
    emitter = await bridge.create_user_emitter(alice, context)
    await emitter.notify_agent_started("data")
    await until(lambda: got)
    assert await bridge.cleanup_user_session(alice) == 1
    seen = len(got)
    await bridge.factory.broadcast_to_user(alice, {"type": "note"})
    await asyncio.sleep(0.01)
    assert len(got) == seen
    assert bridge.get_stats()["forwarding_users"] == 0
    await context.cleanup()


async def test_a_context_that_is_dropped_leaves_nothing(bridge, alice):
    context = UserContextFactory.create_context(alice)
    await bridge.create_user_emitter(alice, context)
    await bridge.close()
    del context
    gc.collect()
    assert (lane_usage(alice) or {"connections": 0})["connections"] == 0


async def test_what_cannot_be_an_older_bridge(alice, bob):
    for wrong in (CompatibilityAdapter(), ModernWebSocketBridge(), object(), None):
        with pytest.raises(TypeError, match="legacy"):
            HybridBridge(wrong)  # type: ignore[arg-type]
    bridge = HybridBridge(OlderManager())
    with pytest.raises(ContextIsolationError):
        await bridge.create_user_emitter(bob, UserContextFactory.create_context(alice))
    assert bridge.get_stats()["refused"] == {"bind": 1}


class Modes:
    """Flags that can be changed while runs are going on; a run keeps what it was given."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.pinned: dict[str, str] = {}

    def bridge_mode(self, subject: Any) -> Any:
        return self.pinned.setdefault(getattr(subject, "run_id", subject), self.mode)


async def test_each_run_has_the_bridge_of_its_mode(older, alice):
    modes = Modes("legacy")
    selector = BridgeSelector(modes, older)
    got = older.socket(alice)
    contexts = {}
    for mode in ("legacy", "hybrid", "modern", "unheard of"):
        modes.mode = mode
        contexts[mode] = UserContextFactory.create_context(alice)
        selector.bridge_of(contexts[mode])
    modes.mode = "modern"
    assert selector.bridge_of(contexts["legacy"]) is older
    assert selector.bridge_of(contexts["unheard of"]) is older
    assert selector.bridge_of(contexts["modern"]) is selector.modern
    assert await selector.create_user_emitter(alice, contexts["legacy"]) is None
    for mode in ("hybrid", "modern"):
        emitter = await selector.create_user_emitter(alice, contexts[mode])
        await emitter.notify_agent_started("data")
        await emitter.notify_agent_completed(mode)
    for context in contexts.values():
        await context.cleanup()
    assert {message["run_id"] for message in got} == {contexts["hybrid"].run_id}
    await selector.hybrid.close()


async def test_flags_that_flip_under_runs_lose_nothing_and_mix_nothing(older, new_user):
    """Real flags, flipped while runs go on: each event is where its run's mode wants it, once."""
    flags = MigrationFeatureFlags(document(1, 0)).install()
    selector = BridgeSelector(flags, older)
    got: dict[str, list[dict[str, Any]]] = {}
    modes: dict[str, str] = {}
    logs: dict[str, int] = {}

    async def one_run(user: str) -> None:
        got.setdefault(user, older.socket(user))
        context = UserContextFactory.create_context(user)
        modes[context.run_id] = flags.bridge_mode(context)
        emitter = await selector.create_user_emitter(user, context)
        assert emitter is not None
        await emitter.notify_agent_started("data")
        for step in range(20):
            await emitter.notify_agent_thinking(f"step {step}")
            await asyncio.sleep(0)
            assert flags.bridge_mode(context) == modes[context.run_id]
        await emitter.notify_agent_completed("done")
        logs[context.run_id] = 22
        await context.cleanup()

    async def flip() -> None:
        for revision in range(2, 40):
            flags.load(document(revision, 100_000 if revision % 2 else 0))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    users = [new_user() for _ in range(6)]
    try:
        flipping = asyncio.create_task(flip())
        for _ in range(4):
            await asyncio.gather(*map(one_run, users))
        await flipping
    finally:
        install_flags(None)
    assert set(modes.values()) == {"hybrid", "modern"}
    handed = Counter(message["run_id"] for user in users for message in got[user])
    assert handed == {run: 22 for run, mode in modes.items() if mode == "hybrid"}
    for user in users:
        assert len({message["event_id"] for message in got[user]}) == len(got[user])
    await selector.hybrid.close()


def document(revision: int, rollout: int) -> str:
    flags = {"modern_execution": {"rollout": rollout}, "hybrid_websocket_mode": {"rollout": 100_000}}
    return json.dumps({"schema": 1, "revision": revision, "flags": flags})
