"""Lanes: one for each user, a bounded registry, and bytes that are counted."""

import gc
import subprocess
import sys
import textwrap
import threading

import isolane
import pytest
from isolane import UserContextFactory, lane_stats, lane_usage
from isolane._core import EventCursor, end_stream
from isolane.testing import manual_clock


@pytest.fixture
def few_idle_lanes():
    """A registry that keeps ten idle lanes, and none of other tests."""
    gc.collect()
    isolane.sweep_lanes(idle_lanes=True)
    isolane.set_max_idle_lanes(10)
    yield 10
    isolane.set_max_idle_lanes(10_000)


def visit(user: str) -> None:
    """Make a lane and leave it idle."""
    UserContextFactory.create_context(user)


def test_a_user_has_one_lane(alice, new_context):
    assert lane_usage(alice) is None
    contexts = [new_context(alice) for _ in range(3)]
    assert lane_usage(alice)["handles"] == 3
    before = lane_stats()["lanes"]
    contexts.append(new_context(alice))
    assert lane_stats()["lanes"] == before
    contexts.clear()
    gc.collect()
    assert lane_usage(alice)["handles"] == 0


def test_idle_lanes_are_bounded_and_the_one_idle_longest_goes_first(few_idle_lanes, new_user):
    with manual_clock() as clock:
        users = [new_user("u") for _ in range(25)]
        for user in users:
            clock.advance(1)
            visit(user)
            assert lane_stats()["idle"] <= few_idle_lanes + 1
        kept = [user for user in users if lane_usage(user) is not None]
        assert 8 <= len(kept) <= few_idle_lanes + 1
        assert kept == users[-len(kept) :]
        # A visit makes a lane young again.
        clock.advance(1)
        visit(kept[0])
        for _ in range(4):
            clock.advance(1)
            visit(new_user("u"))
        assert lane_usage(kept[0]) is not None
        assert lane_usage(kept[1]) is None


def test_ten_thousand_idle_lanes_are_kept_by_default():
    gc.collect()
    before = lane_stats()["evicted"]
    for at in range(10_500):
        visit(f"user-{at}-of-ten-thousand")
    stats = lane_stats()
    assert 9_000 <= stats["idle"] <= 10_001
    assert stats["evicted"] > before
    bytes_full = stats["bytes"]
    isolane.sweep_lanes(idle_lanes=True)
    stats = lane_stats()
    assert stats["idle"] == 0
    assert bytes_full - stats["bytes"] > 9_000 * 64


@pytest.mark.parametrize("use", ["context", "permit", "waiter", "cursor", "emitter", "log"])
async def test_a_lane_in_use_is_never_evicted(few_idle_lanes, new_user, use):
    user = new_user(use)
    limiter = isolane.FairLimiter(1, 1)
    held: list = []
    if use == "context":
        held.append(UserContextFactory.create_context(user))
    elif use == "permit":
        held.append(limiter.slot_nowait(user))
    elif use == "waiter":
        held.append(limiter.slot_nowait("another-user"))
        held.append(limiter.acquire(user, timeout=60))
    elif use == "cursor":
        held.append(EventCursor(user))
    elif use == "emitter":
        bridge = isolane.WebSocketBridgeFactory()
        held.append(await bridge.create_user_emitter(user, "thread-7"))
    else:
        ctx = UserContextFactory.create_context(user)
        ctx.get_websocket_emitter().publish("mine")
        end_stream(ctx)
        del ctx
    gc.collect()
    for _ in range(200):
        visit(new_user("u"))
    isolane.sweep_lanes(idle_lanes=True)
    assert lane_usage(user) is not None
    held.clear()
    gc.collect()
    if use == "log":
        assert lane_usage(user)["streams"] == 1
        with manual_clock() as clock:
            clock.advance(301)
            isolane.sweep_lanes(idle_lanes=True)
    isolane.sweep_lanes(idle_lanes=True)
    assert lane_usage(user) is None


def test_dropping_a_lane_frees_all_its_bytes(alice, new_context):
    gc.collect()
    with manual_clock() as clock:
        # The ended logs of other tests would go in between.
        clock.advance(1_000)
        isolane.sweep_lanes(idle_lanes=True)
        before = lane_stats()["bytes"]
        ctx = new_context(alice)
        for _ in range(100):
            ctx.get_websocket_emitter().publish("mine", {"text": "x" * 1_000})
        assert lane_stats()["bytes"] - before > 100_000
        assert lane_usage(alice)["event_bytes"] > 100_000
        end_stream(ctx)
        del ctx
        gc.collect()
        clock.advance(301)
        isolane.sweep_lanes(idle_lanes=True)
        assert lane_usage(alice) is None
        assert lane_stats()["bytes"] == before


def test_expired_logs_go_without_a_sweep_when_new_lanes_come(alice, new_context, new_user):
    with manual_clock() as clock:
        ctx = new_context(alice)
        ctx.get_websocket_emitter()
        end_stream(ctx)
        clock.advance(301)
        visit(new_user("u"))
        assert lane_usage(alice)["streams"] == 0


def test_lanes_come_and_go_in_many_threads(few_idle_lanes, new_user):
    users = [new_user("u") for _ in range(40)]
    errors: list[BaseException] = []

    def work(offset: int) -> None:
        try:
            for at in range(300):
                user = users[(at * 7 + offset) % len(users)]
                ctx = UserContextFactory.create_context(user)
                ctx.get_websocket_emitter().publish("mine")
                assert ctx.verify_isolation()
                assert lane_usage(user)["handles"] > 0
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    gc.collect()
    with manual_clock() as clock:
        clock.advance(301)
        isolane.sweep_lanes(idle_lanes=True)
    assert all(lane_usage(user) is None for user in users)


def test_usage_of_an_unknown_or_impossible_user_is_none():
    assert lane_usage("nobody-was-here") is None
    assert lane_usage("") is None
    assert lane_usage("a\nb") is None


FORKED = """
    import asyncio, os, sys
    import isolane
    from isolane._core import EventCursor

    ctx = isolane.UserContextFactory.create_context("ann-of-forks")
    emitter = ctx.get_websocket_emitter()
    emitter.notify_agent_started("data")
    limiter = isolane.FairLimiter(1, 1)
    permit = limiter.slot_nowait("ann-of-forks")
    cursor = EventCursor("ann-of-forks")
    ids = isolane.UnifiedIDManager.generate_request_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        calls = [
            ctx.verify_isolation, ctx.get_websocket_emitter, lambda: ctx.create_child_context("op"), permit.release,
            lambda: emitter.notify_agent_completed(1), lambda: limiter.slot_nowait("ann-of-forks"), cursor.read,
        ]
        for call in calls:
            try:
                call()
            except isolane.ForkedProcessError:
                continue
            os._exit(1)
        # A new one works, and the ids are not those of the parent.
        fresh = isolane.UserContextFactory.create_context("ann-of-forks")
        assert fresh.get_websocket_emitter().publish("mine") == 1
        assert isolane.lane_usage("ann-of-forks")["streams"] == 1
        os.write(write, isolane.UnifiedIDManager.generate_request_id().encode())
        del permit, emitter, cursor, ctx
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the child used what is its parent's"
    assert os.read(read, 100).decode() != isolane.UnifiedIDManager.generate_request_id()
    assert permit.release() and limiter.stats()["running"] == 0
    assert emitter.notify_agent_completed(1) is not None
    assert isolane.lane_usage("ann-of-forks")["connections"] == 1
"""


def test_a_child_process_does_not_use_what_belongs_to_its_parent():
    subprocess.run([sys.executable, "-c", textwrap.dedent(FORKED)], check=True, timeout=60)
