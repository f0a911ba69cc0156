"""What the fast paths must not give up: copies that are copies, claims that are kept, one user's place for one user."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from datetime import UTC, datetime

import isolane
import pytest
from isolane import ContextIsolationError, FairLimiter, UserExecutionContext, sweep_lanes
from isolane._core import EventCursor, _deep_copy, end_stream
from isolane.testing import manual_clock


def context(user: str = "ann-hot", **fields: object) -> UserExecutionContext:
    return UserExecutionContext(user, "thread-1", "run-hot-1", **fields)


class Collecting:
    """Runs code inside of the next allocations, as a finalizer or another thread may."""

    def __init__(self, callback) -> None:
        self.callback = lambda _phase, _info: callback()

    def __enter__(self) -> None:
        gc.callbacks.append(self.callback)
        gc.set_threshold(1)

    def __exit__(self, *_: object) -> None:
        gc.set_threshold(700)
        gc.callbacks.remove(self.callback)


def test_a_deep_copy_shares_nothing_when_the_original_changes_meanwhile():
    # Empties the free list of dicts, so that a copy allocates and the collector runs in it.
    ballast = [{} for _ in range(200)]
    kept = []
    for _ in range(300):
        source = {"a": {"x": {"y": {}}}, "b": {"secret": []}}
        inner = source["b"]
        with Collecting(lambda source=source: source.pop("b", None)):
            copy = _deep_copy(source)
        kept.append(copy)
        assert copy.get("b") is not inner
    assert ballast


def test_a_deep_copy_survives_an_original_whose_values_are_replaced_meanwhile():
    program = """
import gc
from isolane._core import _deep_copy
for _ in range(60):
    source = {f"k{i}": {"x": {"q": [i]}} for i in range(64)}
    def change(phase, info):
        new = [{"x": {"q": [1]}, "z": {"w": {}}} for _ in range(64)]
        junk = [{} for _ in range(300)]
        del junk
        for i in range(64):
            source[f"k{i}"] = new[i]
        globals()["hog"] = [{} for _ in range(100)]
    gc.callbacks.append(change); gc.set_threshold(1)
    copy = _deep_copy(source)
    gc.set_threshold(700); gc.callbacks.remove(change)
    repr(copy)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr


def test_a_child_shares_nothing_that_stood_for_the_name_of_its_parents_operation():
    root = context(agent_context={"operation_name": ["mutable"]})
    child = root.create_child_context("op")
    copy = child.with_websocket_connection("socket-1")
    own, of_copy = child.agent_context["parent_operation"], copy.agent_context["parent_operation"]
    assert own == of_copy == ["mutable"]
    assert own is not root.agent_context["operation_name"]
    assert own is not of_copy


@pytest.mark.parametrize("name", ["agent_context", "audit_metadata"])
def test_a_verified_context_claims_what_is_first_read_later(name):
    ann, bob = context("ann-hot"), UserExecutionContext("bob-hot", "thread-2", "run-hot-2")
    assert ann.verify_isolation()
    bob.agent_context["planted"] = getattr(ann, name)
    with pytest.raises(ContextIsolationError):
        bob.verify_isolation()


def test_nothing_is_claimed_for_ever():
    ann, bob = context("ann-hot"), UserExecutionContext("bob-hot", "thread-2", "run-hot-2")
    assert ann.verify_isolation()
    shared = ann.agent_context
    del ann
    gc.collect()
    bob.agent_context["inherited"] = shared
    assert bob.verify_isolation()


async def test_a_new_user_inherits_nothing_of_a_lane_that_is_gone():
    with manual_clock() as clock:
        limiter = FairLimiter(3, 2, per_user_queue=1, timeout=1000)
        held = [await limiter.acquire("xavier-hot") for _ in range(2)]
        first = await limiter.acquire("ann-hot-one")
        waiting = asyncio.ensure_future(asyncio.wait_for(limiter.acquire("yolanda-hot"), None))
        await asyncio.sleep(0)
        gone = asyncio.ensure_future(asyncio.wait_for(limiter.acquire("ann-hot-one"), None))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        clock.advance(40)
        first.release()
        permit = await waiting
        del first, gone
        gc.collect()
        sweep_lanes(idle_lanes=True)
        before = limiter.stats()["users"]
        queued = asyncio.ensure_future(asyncio.wait_for(limiter.acquire("bob-hot-new"), None))
        await asyncio.sleep(0)
        # An entry of his own, though Ann's may still be there: her place in the ring and her average are not his.
        assert limiter.stats()["users"] == before + 1
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
        for each in (*held, permit):
            each.release()


def test_a_context_is_created_between_two_looks_at_the_clock():
    for _ in range(2_000):
        before = datetime.now(UTC)
        created = context().created_at
        assert before <= created <= datetime.now(UTC)


def test_ids_tell_the_time_after_a_manual_clock():
    with manual_clock() as clock:
        clock.advance(10 * 365 * 86_400)
        context()
    made = int(context().request_id[4:16], 16) / 1_000
    assert abs(made - time.time()) < 60


def test_a_run_id_used_again_and_again_does_not_fill_a_socket_that_reads_nothing():
    cursor = EventCursor("again-hot")
    for _ in range(40):
        ctx = UserExecutionContext("again-hot", "thread-1", "run-again-hot")
        ctx.get_websocket_emitter().publish("note", {"n": 1})
        end_stream(ctx)
    assert cursor.close_code == 4010
    cursor.ping()
    pings = [json.loads(text, object_pairs_hook=list) for text in cursor.read(1_000)]
    heads = [dict(frame)["head"] for frame in pings if dict(frame)["t"] == "ping"]
    assert all(len({name for name, _ in head}) == len(head) for head in heads)


def test_streams_that_were_dropped_make_no_user_full():
    kept = []
    with manual_clock() as clock:
        for _ in range(250):
            ctx = UserExecutionContext("full-hot", "thread-1", "run-full-hot")
            ctx.get_websocket_emitter().publish("note", {"n": 1})
            end_stream(ctx)
            kept.append(ctx)
        clock.advance(1_000)
        sweep_lanes()
        for number in range(20):
            ctx = UserExecutionContext("full-hot", "thread-1", f"run-full-hot-{number}")
            ctx.get_websocket_emitter().publish("note", {"n": 1})
            kept.append(ctx)


def test_a_depth_that_is_no_number_is_refused_by_name():
    with pytest.raises(isolane.InvalidContextError, match="operation_depth"):
        UserExecutionContext.from_request_supervisor("ann-hot", "t-1", "run-1-x", metadata={"operation_depth": "three"})
    child = context().create_child_context_supervisor("op", {"operation_depth": "three"})
    assert child.agent_context["operation_depth"] == "three"


def test_a_scoped_key_is_one_users_whatever_the_ids_contain():
    ids = ("thread-1", "run-hot-1")
    one = UserExecutionContext("ann:x", *ids, "request-q").get_scoped_key("cache")
    other = UserExecutionContext("ann", *ids, "x:request-q").get_scoped_key("cache")
    assert one != other
    assert context(request_id="request-1").get_scoped_key("cache") == "cache:ann-hot:request-1"


def test_a_permit_that_was_released_cannot_be_awaited():
    permit = FairLimiter().slot_nowait("ann-hot")
    permit.release()

    async def again():
        return await permit

    with pytest.raises(RuntimeError, match="was released"):
        asyncio.run(again())


def test_a_permit_that_nobody_awaits_can_be_closed_as_a_coroutine():
    limiter = FairLimiter(1, 1)
    limiter.acquire("ann-hot").close()
    assert limiter.stats()["running"] == 0
