"""``TTLCache``: what it returns, what it holds, what it charges, and to whom."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import os
import pickle
import random
import threading
import weakref
from collections import OrderedDict

import isolane
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from isolane import TTLCache
from isolane._core import bind_context_cache, expire_caches
from isolane.memory import estimate_size
from isolane.testing import manual_clock


class Thing:
    """Something that can be referred to weakly."""


def held(user: str) -> int:
    usage = isolane.lane_usage(user)
    return usage["bytes"] if usage else 0


def test_it_is_a_dictionary_of_text(alice):
    cache = TTLCache(alice)
    cache["b"] = 1
    cache["a"] = 2
    assert (cache["b"], cache.get("a"), cache.get("c"), cache.get("c", 3)) == (1, 2, None, 3)
    assert ("a" in cache, "c" in cache, len(cache)) == (True, False, 2)
    assert (list(cache), cache.keys(), cache.values(), cache.items()) == (
        ["b", "a"], ["b", "a"], [1, 2], [("b", 1), ("a", 2)],
    )  # fmt: skip
    assert (cache.setdefault("a", 9), cache.setdefault("d", 9), cache["d"]) == (2, 9, 9)
    assert (cache.pop("d"), cache.pop("d", None), cache.pop("d", 4)) == (9, None, 4)
    del cache["b"]
    assert cache.popitem() == ("a", 2)
    for missing in (lambda: cache["a"], lambda: cache.pop("a"), lambda: cache.__delitem__("a"), cache.popitem):
        with pytest.raises(KeyError):
            missing()
    with pytest.raises(KeyError, match=r"^'a'$"):
        cache["a"]
    with pytest.raises(TypeError):
        cache[1] = 2
    with pytest.raises(TypeError):
        cache.pop("a", 1, 2)


def test_none_is_a_value_and_not_a_gap(alice):
    cache = TTLCache(alice)
    cache["a"] = None
    assert "a" in cache
    assert cache["a"] is None
    assert cache.pop("a", 5) is None


def test_settings_out_of_range_are_refused(alice):
    for arguments in ({"maxsize": 0}, {"ttl": 0.0}, {"ttl": -1.0}, {"ttl": float("nan")}):
        with pytest.raises(ValueError, match=r"must be"):
            TTLCache(alice, **arguments)
    with pytest.raises(TypeError, match="owner"):
        TTLCache(5)
    with pytest.raises(isolane.InvalidContextError):
        TTLCache("placeholder")
    cache = TTLCache(alice)
    assert (cache.maxsize, cache.ttl, cache.maxbytes, cache.currsize) == (1000, 300.0, 64 * 1024 * 1024, 0)


def test_an_entry_lives_for_its_time_and_setting_it_begins_anew(alice):
    with manual_clock() as clock:
        cache = TTLCache(alice, ttl=10)
        cache["a"] = 1
        cache["b"] = 2
        clock.advance(6)
        cache["a"] = 3
        assert cache["b"] == 2, "reading does not make it live longer"
        clock.advance(4)
        assert ("b" in cache, cache.get("b"), list(cache), len(cache)) == (False, None, ["a"], 1)
        clock.advance(5.999)
        assert cache["a"] == 3
        clock.advance(0.001)
        assert cache.pop("a", "gone") == "gone"
        assert cache.stats()["expirations"] == 2


def test_what_has_expired_is_freed_by_the_sweep_of_lanes(alice):
    with manual_clock() as clock:
        cache = TTLCache(alice)
        empty = held(alice)
        thing = Thing()
        cache["a"] = thing
        gone = weakref.ref(thing)
        del thing
        assert held(alice) > empty
        clock.advance(299)
        isolane.sweep_lanes()
        assert gone() is not None
        clock.advance(1)
        isolane.sweep_lanes()
        assert gone() is None
        assert cache.stats()["entries"] == 0


def test_what_was_used_longest_ago_makes_room(alice):
    cache = TTLCache(alice, maxsize=3)
    for key in "abc":
        cache[key] = key
    assert cache["a"] == "a"
    assert "b" in cache, "asking whether it is there is no use"
    cache["d"] = "d"
    assert sorted(cache) == ["a", "c", "d"]
    cache["c"] = "again"
    cache["e"] = "e"
    assert sorted(cache) == ["c", "d", "e"]
    assert cache.stats()["evictions"] == 2


def test_bytes_are_bounded_and_a_giant_changes_nothing(alice):
    cache = TTLCache(alice, maxbytes=1000)
    for key in "abcd":
        cache.set(key, key, size=332)
    assert list(cache) == ["b", "c", "d"]
    with pytest.raises(ValueError, match=r"1001 bytes does not fit into a cache of 1000"):
        cache.set("b", "giant", size=1000)
    assert cache["b"] == "b"
    assert cache.nbytes < 1000 + 2000
    assert cache.shed(100) == 3
    assert len(cache) == 0


def test_the_user_is_charged_and_every_byte_returns(alice, bob):
    before = isolane.lane_stats()["bytes"]
    keeper = TTLCache(alice)
    own, foreign = held(alice), TTLCache(bob)
    bobs = held(bob)
    cache = TTLCache(alice)
    for number in range(500):
        cache[f"key-{number}"] = "x" * 1000
    assert 500 * 1049 < held(alice) - own < 500 * 1300
    assert held(bob) == bobs
    assert isolane.lane_usage(alice)["peak_bytes"] >= held(alice)
    cache.clear()
    assert held(alice) - own < 1000, "the tables went as well"
    cache["a"] = "x" * 1000
    del cache
    assert held(alice) == own
    del keeper, foreign
    isolane.sweep_lanes(idle_lanes=True)
    assert isolane.lane_stats()["bytes"] <= before


def test_a_cache_that_is_forgotten_is_seen_in_the_account(alice):
    """The positive control of the test above: what leaks is charged."""
    leak = []
    for _ in range(10):
        cache = TTLCache(alice)
        cache.set("a", "v", size=1_000)
        leak.append(cache)
    assert held(alice) > 10_000
    gc.collect()
    assert held(alice) > 10_000
    leak.clear()
    assert held(alice) < 10_000


def test_a_value_may_come_back_into_the_cache_when_it_ends(alice):
    """Values that end run Python code, which may use the cache: nothing is locked then."""
    cache = TTLCache(alice, maxsize=2)

    class Last:
        def __init__(self, name):
            self.name = name

        def __del__(self):
            with contextlib.suppress(ValueError):
                cache[f"last words of {self.name}"] = self.name

    cache["a"] = Last("a")
    cache["a"] = 1
    cache["b"] = Last("b")
    assert sorted(cache) == ["a", "b"] or sorted(cache) == ["b", "last words of a"]
    cache.clear()
    assert cache.get("last words of b") == "b"
    cache["c"] = Last("c")
    cache.pop("c")
    cache["d"] = Last("d")
    for number in range(10):
        cache[f"more-{number}"] = number
    assert len(cache) == 2


def test_the_collector_finds_a_cache_that_holds_itself(alice):
    cache = TTLCache(alice)
    thing = Thing()
    thing.cache = cache
    cache["me"] = thing
    gone = weakref.ref(thing)
    del cache, thing
    gc.collect()
    assert gone() is None
    isolane.sweep_lanes(idle_lanes=True)
    assert held(alice) == 0


# -- weak ----------------------------------------------------------------------------------------------------------


def test_a_weak_entry_ends_with_its_object(alice):
    cache = TTLCache(alice, weak=True)
    empty = cache.nbytes
    thing = Thing()
    thing.data = "x" * 100_000
    cache["a"] = thing
    assert cache["a"] is thing
    assert cache.nbytes < empty + 2_000, "what the cache does not hold is not charged to it"
    del thing
    assert len(cache) == 0
    assert cache.get("a", "gone") == "gone"
    cache["b"] = "text cannot be referred to weakly"
    gc.collect()
    assert cache["b"].startswith("text")


def test_the_end_of_an_earlier_value_leaves_the_later_one(alice):
    cache = TTLCache(alice, weak=True)
    first, second = Thing(), Thing()
    cache["a"] = first
    cache["a"] = second
    del first
    gc.collect()
    assert cache["a"] is second
    cycle = Thing()
    cycle.me = cycle
    cache["c"] = cycle
    del cycle
    gc.collect()
    assert list(cache) == ["a"]


@pytest.mark.parametrize("is_told_first", [True, False])
def test_a_value_that_is_set_while_the_earlier_one_is_collected_stays(alice, is_told_first):
    """The collector calls all callbacks of an object, also of references that went away in the meantime."""
    cache = TTLCache(alice, weak=True)
    cycle, later = Thing(), Thing()
    cycle.me = cycle
    watchers = []

    def watch(thing: Thing) -> None:
        watchers.append(weakref.ref(thing, lambda _: cache.set("c", later)))

    if is_told_first:
        watch(cycle)
    cache["c"] = cycle
    if not is_told_first:
        watch(cycle)
    del cycle
    gc.collect()
    assert cache["c"] is later


def test_objects_may_end_after_their_weak_cache(alice):
    cache = TTLCache(alice, weak=True)
    things = [Thing() for _ in range(5)]
    for number, thing in enumerate(things):
        cache[str(number)] = thing
    del cache
    things.clear()
    isolane.sweep_lanes(idle_lanes=True)
    assert held(alice) == 0


# -- compression ---------------------------------------------------------------------------------------------------

PLAIN = {"rows": [{"id": n, "name": "north", "cost": n / 7} for n in range(300)], "t": (1, None, True), 5: 2**70}
VALUES = {
    "text": "the same words, " * 1_000 + "ä€😀",
    "bytes": b"\x00\x01" * 10_000,
    "tree": PLAIN,
    "list": ["again"] * 5_000,
    "special floats": [float("inf"), -0.0, *([1.5] * 3_000)],
}


@pytest.mark.parametrize("name", VALUES)
def test_what_is_compressed_comes_back_as_it_was(alice, name):
    value = VALUES[name]
    cache = TTLCache(alice, compress=True)
    cache["a"] = value
    assert cache.nbytes < 2_000 + estimate_size(value) / 2
    first = cache["a"]
    assert first == value
    assert type(first) is type(value)
    assert first is not value
    assert repr(cache.values()[0]) == repr(value)
    assert repr(cache.pop("a")) == repr(value)


def test_what_cannot_be_compressed_without_loss_stays_itself(alice):
    class Rows(list):
        pass

    deep: list = []
    for _ in range(200):
        deep = [deep]
    cycle: list = ["x" * 10_000]
    cycle.append(cycle)
    values = [
        Rows(["x"] * 10_000), [bytearray(10_000)], "\ud800" * 10_000, os.urandom(20_000), deep, cycle,
        {"a": Thing(), "b": "x" * 10_000}, Thing(), "short", {"set": {1, 2}, "x": "x" * 9_999},
    ]  # fmt: skip
    cache = TTLCache(alice, compress=True)
    for value in values:
        cache["a"] = value
        assert cache["a"] is value


def test_what_is_there_is_compressed_on_demand(alice):
    cache = TTLCache(alice)
    noise = os.urandom(20_000)
    cache["noise"] = noise
    for number in range(10):
        cache[f"text-{number}"] = f"{number}: " + "the same words, " * 1_000
    before = cache.nbytes
    saved = cache.compress(limit=100_000)
    assert saved > 40_000, "some"
    assert cache.nbytes == before - saved
    while more := cache.compress(limit=100_000):
        saved += more
    assert saved > 150_000, "all, though the first one does not shrink"
    assert cache["noise"] is noise
    assert all(cache[f"text-{number}"].startswith(f"{number}: the same") for number in range(10))


# -- estimates -----------------------------------------------------------------------------------------------------


def test_the_estimate_counts_what_is_inside_once():
    text = "x" * 1_000
    assert estimate_size(text) == text.__sizeof__()
    shared = [text] * 50
    assert text.__sizeof__() < estimate_size(shared) < 2 * text.__sizeof__() + 500
    thing = Thing()
    thing.field = {"a": (text, {text}, frozenset([text]))}
    assert 1_000 < estimate_size(thing) < 2_500
    cycle: list = [text]
    cycle.append(cycle)
    assert estimate_size(cycle) < 1_500
    assert estimate_size(Thing) < 5_000, "a class is not walked through"


def test_the_estimate_of_many_is_reckoned_from_some():
    rows = [f"row number {number:06}" for number in range(100_000)]
    exact = rows.__sizeof__() + sum(row.__sizeof__() for row in rows)
    assert 0.8 * exact < estimate_size(rows) < 2.5 * exact

    class Odd:
        def __sizeof__(self):
            raise RuntimeError("no")

    assert 0 < estimate_size([Odd()]) < 1_000


# -- owners --------------------------------------------------------------------------------------------------------


def test_a_context_has_a_cache_of_its_own(new_context, alice, bob):
    context, other, foreign = new_context(alice), new_context(alice), new_context(bob)
    cache = context.context_cache
    cache["a"] = "of this run"
    assert context.context_cache is cache
    assert context.with_db_session(object()).context_cache is cache, "a copy is the same context"
    child = context.create_child_context("step")
    for stranger in (child, other, foreign):
        assert "a" not in stranger.context_cache
    assert (cache.maxsize, cache.ttl) == (1000, 300.0)


def test_a_cache_of_another_user_is_refused(new_context, alice, bob):
    mine, foreign = TTLCache(alice, 5), TTLCache(bob)
    context = new_context(alice)
    violations = isolane.isolation_violations()["bind"]
    with pytest.raises(isolane.ContextIsolationError) as caught:
        bind_context_cache(context, foreign)
    assert caught.value.boundary == "bind"
    assert isolane.isolation_violations()["bind"] == violations + 1
    bind_context_cache(context, mine)
    assert context.context_cache is mine
    with pytest.raises(isolane.ContextStateError):
        bind_context_cache(context, TTLCache(alice))


def test_a_cache_cannot_be_copied_into_another_context(alice, new_context):
    cache = TTLCache(alice)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="belongs to one user"):
            attempt(cache)
    with pytest.raises(isolane.InvalidContextError) as caught:
        new_context(agent_context={"cache": cache})
    assert caught.value.rule == "copy"


def test_cleaning_reaches_one_user_only(alice, bob):
    mine, other = TTLCache(alice), TTLCache(bob)
    mine["a"] = other["a"] = 1
    from isolane._core import clear_caches, shed_caches  # noqa: PLC0415 - what is tested

    assert shed_caches(alice, 0)[0] == 1
    assert other["a"] == 1
    mine["a"] = 1
    entries, nbytes = clear_caches(alice)
    assert entries == 1
    assert nbytes > 0
    assert (len(mine), other["a"]) == (0, 1)
    assert clear_caches("nobody-of-tests") == (0, 0)


async def test_the_cache_ends_with_its_context(new_context, alice):
    context = new_context(alice)
    cache = context.context_cache
    thing = Thing()
    cache["a"] = thing
    gone = weakref.ref(thing)
    del thing
    seen = []
    context.register_cleanup_callback(lambda: seen.append("a" in cache))
    await context.cleanup()
    assert seen == [True], "callbacks still have it"
    assert gone() is None
    with pytest.raises(isolane.ContextStateError, match="cleaned up"):
        cache["b"] = 1
    with pytest.raises(isolane.ContextStateError):
        context.context_cache  # noqa: B018 - what is tested
    assert len(cache) == 0
    await context.cleanup()


async def test_a_thousand_contexts_with_caches_leave_nothing(new_context, alice):
    for number in range(1_000):
        context = new_context(alice)
        context.context_cache["a"] = "x" * 1_000
        if number % 2:
            await context.cleanup()
    del context
    gc.collect()
    isolane.sweep_lanes(idle_lanes=True)
    assert held(alice) == 0


def test_a_child_process_does_not_use_the_cache_of_its_parent(alice):
    cache = TTLCache(alice)
    cache["a"] = 1
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            cache["a"]
            answer = b"returned"
        except isolane.ForkedProcessError:
            answer = b"refused"
        os.write(write, answer)
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 20) == b"refused"
    os.close(read)
    os.close(write)
    assert cache["a"] == 1


# -- many threads --------------------------------------------------------------------------------------------------


def test_many_threads_use_one_cache(alice):
    cache = TTLCache(alice, maxsize=50, maxbytes=20_000, compress=True, compress_over=500)
    failures = []
    stop = threading.Event()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(2_000):
                key = f"key-{rng.randrange(80)}"
                action = rng.randrange(6)
                if action < 2:
                    cache[key] = f"{key} " * rng.randrange(1, 300)
                elif action < 4:
                    value = cache.get(key)
                    assert value is None or value.startswith(f"{key} ")
                elif action == 4:
                    cache.pop(key, None)
                else:
                    assert all(value.startswith(f"{name} ") for name, value in cache.items())
        except BaseException as error:
            failures.append(error)
            raise

    def sweep() -> None:
        while not stop.is_set():
            expire_caches()
            gc.collect(0)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    sweeper.join()
    assert failures == []
    assert len(cache) <= 50
    tables = held(alice) - cache.nbytes
    cache.clear()
    assert held(alice) == tables + cache.nbytes
    assert cache.nbytes < 1_000


# -- against a model -----------------------------------------------------------------------------------------------

KEYS = st.sampled_from("abcdefg")


class CacheMachine(RuleBasedStateMachine):
    """A cache of four entries and 400 bytes beside a model: values with deadlines in the order of use."""

    @initialize()
    def begin(self) -> None:
        self.clock = contextlib.ExitStack()
        self.time = self.clock.enter_context(manual_clock())
        self.now = 0
        self.user = f"machine-{id(self)}-of-tests"
        self.cache = TTLCache(self.user, maxsize=4, ttl=10, maxbytes=400)
        self.model: OrderedDict[str, tuple[object, int, int, int]] = OrderedDict()
        self.counts = {"hits": 0, "misses": 0, "evictions": 0, "expirations": 0}
        self.writes = 0

    def teardown(self) -> None:
        if hasattr(self, "clock"):
            self.clock.close()
            del self.cache
            assert held(self.user) <= isolane.lane_stats()["bytes"]
            isolane.sweep_lanes(idle_lanes=True)
            assert held(self.user) == 0

    def expire(self) -> None:
        for key in [key for key, (_, _, deadline, _) in self.model.items() if deadline <= self.now]:
            del self.model[key]
            self.counts["expirations"] += 1

    def bytes(self) -> int:
        return sum(size + len(key) for key, (_, size, _, _) in self.model.items())

    @rule(key=KEYS, value=st.integers(), size=st.integers(0, 450))
    def set_value(self, key, value, size):
        self.expire()
        if size + len(key) > 400:
            with pytest.raises(ValueError, match="does not fit"):
                self.cache.set(key, value, size=size)
            return
        self.cache.set(key, value, size=size)
        self.model.pop(key, None)
        while len(self.model) >= 4 or self.bytes() + size + len(key) > 400:
            self.model.popitem(last=False)
            self.counts["evictions"] += 1
        self.writes += 1
        self.model[key] = (value, size, self.now + 10, self.writes)

    @rule(key=KEYS)
    def get(self, key):
        self.expire()
        expected = self.model.get(key)
        self.counts["hits" if expected else "misses"] += 1
        if expected:
            self.model.move_to_end(key)
        assert self.cache.get(key, "missing") == (expected[0] if expected else "missing")

    @rule(key=KEYS)
    def contains(self, key):
        live = key in self.model and self.model[key][2] > self.now
        assert (key in self.cache) == live

    @rule(key=KEYS)
    def pop(self, key):
        self.expire()
        expected = self.model.pop(key, None)
        assert self.cache.pop(key, "missing") == (expected[0] if expected else "missing")

    @rule()
    def popitem(self):
        self.expire()
        if not self.model:
            with pytest.raises(KeyError):
                self.cache.popitem()
            return
        key, (value, *_) = self.model.popitem(last=False)
        assert self.cache.popitem() == (key, value)

    @rule(seconds=st.integers(0, 6))
    def wait(self, seconds):
        self.now += seconds
        self.time.advance(seconds)

    @rule(larger_than=st.integers(0, 450))
    def shed(self, larger_than):
        large = [key for key, (_, size, _, _) in self.model.items() if size + len(key) > larger_than]
        for key in large:
            del self.model[key]
        self.counts["evictions"] += len(large)
        assert self.cache.shed(larger_than) == len(large)

    @rule()
    def clear(self):
        self.cache.clear()
        self.model.clear()

    @rule()
    def sweep(self):
        self.expire()
        isolane.sweep_lanes()

    @invariant()
    def it_is_what_the_model_is(self):
        if not hasattr(self, "cache"):
            return
        self.expire()
        in_order = sorted(self.model.items(), key=lambda item: item[1][3])
        assert self.cache.items() == [(key, value) for key, (value, *_) in in_order]
        stats = self.cache.stats()
        assert {name: stats[name] for name in self.counts} == self.counts
        assert stats["entries"] == len(self.model)
        tables = stats["bytes"] - self.bytes()
        assert 0 < tables < 2_000


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCacheMachine = CacheMachine.TestCase


async def test_tasks_share_the_cache_of_their_context(new_context):
    cache = new_context().context_cache

    async def work(number: int) -> None:
        for step in range(50):
            cache[f"{number}-{step}"] = step
            await asyncio.sleep(0)
            assert cache[f"{number}-{step}"] == step

    await asyncio.gather(*(work(number) for number in range(10)))
    assert len(cache) == 500
