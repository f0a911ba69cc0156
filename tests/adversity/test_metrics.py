"""Metrics under threads, forks and a switch that is thrown in the midst; what contexts with metrics leave behind."""

from __future__ import annotations

import pytest

from tests.adversity.programs import run

READING = """
import asyncio, gc, os, sys, threading, time
import isolane
from isolane import FairLimiter, ExecutionEngineFactory, UserContextFactory, WebSocketBridgeFactory, WebSocketConfig
from isolane import sweep_lanes
from isolane._core import (
    EventCursor, end_stream, metric, metrics_snapshot, render_metrics, set_metrics_enabled,
)

GAUGES = ("contexts_active", "engines_active", "permits_active", "permits_waiting", "users_active", "ws_connections",
          "memory_bytes")

def series(name, **labels):
    found = metrics_snapshot().get(name, {"series": []})["series"]
    return [one for one in found if labels.items() <= one["labels"].items()]

def total(name, **labels):
    return sum(one.get("value", one.get("count")) for one in series(name, **labels))

def gauges():
    return {name: total("isolane_" + name) for name in GAUGES}

def samples(text):
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            assert name not in found, line
            found[name] = float(value)
    return found

def growing(name):
    family = name.partition("{")[0]
    return family.endswith(("_total", "_bucket", "_count"))

class Scraper(threading.Thread):
    '''Scrapes without a pause; what only grows must not shrink, nor may a bucket be smaller than the one before it.'''

    def __init__(self):
        super().__init__(daemon=True)
        self.over, self.scrapes, self.error = False, 0, None

    def run(self):
        try:
            before = {}
            while not self.over:
                now = samples(render_metrics("openmetrics" if self.scrapes % 2 else "prometheus"))
                for name, value in before.items():
                    assert not growing(name) or now[name] >= value, (name, value, now[name])
                rows = {}
                for name, value in now.items():
                    head, found, _ = name.partition('le="')
                    if found:
                        assert value >= rows.get(head, 0), name
                        rows[head] = value
                before, self.scrapes = now, self.scrapes + 1
        except BaseException as error:
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.join(30)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        assert self.scrapes > 3, self.scrapes

def in_threads(function, count=8):
    errors = []
    barrier = threading.Barrier(count)
    def body(number):
        try:
            barrier.wait(30)
            function(number)
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]

sys.setswitchinterval(5e-5)
"""


def test_threads_that_count_while_others_scrape_lose_nothing() -> None:
    ended = run(
        READING
        + """
COUNTS, NAMES = 4_000, 250
plain, seconds = metric("isolane_forced_cleanups_total"), metric("isolane_overhead_seconds")
calls = metric("isolane_tool_calls_total")

def body(number):
    for at in range(COUNTS):
        plain.inc()
        # Each thread meets the names in another order: they race for the last places.
        calls.labels(f"tool-{(at * 7 + number * 31) % NAMES}", "ok").inc(2)
        seconds.observe(at / COUNTS)

with Scraper():
    in_threads(body)
assert plain.value == 8 * COUNTS
assert total("isolane_tool_calls_total") == 2 * 8 * COUNTS
names = {one["labels"]["tool"] for one in series("isolane_tool_calls_total")}
assert len(names) == 101 and "_other" in names, len(names)
[one] = series("isolane_overhead_seconds")
assert one["count"] == 8 * COUNTS == one["buckets"][-1][1]
assert abs(one["sum"] - 8 * sum(at / COUNTS for at in range(COUNTS))) < 1e-3
"""
    )
    assert ended.code == 0, ended.err


LANES = """
limiter = FairLimiter(40, 5)
bridge = WebSocketBridgeFactory(WebSocketConfig(retention_seconds=0))

def life(number):
    async def main():
        factory = ExecutionEngineFactory(bridge, limiter=limiter)
        for at in range(60):
            user = f"user-{number}-{at % 9}-of-metrics"
            ctx = UserContextFactory.create_context(user)
            child = ctx.create_child_context("below")
            engine = await factory.create_for_user(ctx)
            cursor = EventCursor(user)
            ctx.get_websocket_emitter().publish("mine", {"at": at})
            async with limiter.slot(user, ctx=ctx):
                assert gauges()["permits_active"] > 0
            cursor.close(1000)
            await factory.cleanup_engine(engine)
            await ctx.cleanup()
            del ctx, child, engine, cursor
            if at % 10 == 0:
                sweep_lanes(idle_lanes=True)
        await factory.shutdown(0)
    asyncio.run(main())
"""


def test_scrapes_while_lanes_come_and_go_see_whole_figures_and_end_at_nothing() -> None:
    ended = run(
        READING
        + LANES
        + """
with Scraper():
    in_threads(life, 4)
gc.collect()
sweep_lanes(idle_lanes=True)
assert set(gauges().values()) == {0}, gauges()
made, closed = total("isolane_contexts_created_total"), total("isolane_contexts_closed_total")
assert made >= 4 * 60 and total("isolane_permits_total", outcome="granted") >= 4 * 60
assert closed == made, (made, closed)
"""
    )
    assert ended.code == 0, ended.err


def test_what_is_held_is_seen_by_a_scrape() -> None:
    """The positive control of the test before: each gauge that is to end at nothing is something while it is held."""
    ended = run(
        READING
        + """
async def main():
    limiter, factory = FairLimiter(1, 1), ExecutionEngineFactory(limiter=FairLimiter())
    ctx = UserContextFactory.create_context("ann-of-metrics")
    engine = await factory.create_for_user(ctx)
    cursor = EventCursor("ann-of-metrics")
    ctx.get_websocket_emitter().publish("mine", {"text": "x" * 500})
    held = limiter.slot_nowait("ann-of-metrics")
    waiting = asyncio.ensure_future(asyncio.wait_for(limiter.acquire("ann-of-metrics", timeout=30), 30))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert all(gauges().values()), gauges()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    held.release()
    assert total("isolane_permits_total", outcome="cancelled") == 1
asyncio.run(main())
"""
    )
    assert ended.code == 0, ended.err


def test_a_switch_thrown_in_the_midst_leaves_no_gauge_wrong() -> None:
    """What begins with metrics and ends without them, or the other way round, stays in no gauge."""
    ended = run(
        READING
        + LANES
        + """
over = False
def switch():
    on = False
    while not over:
        set_metrics_enabled(on)
        on = not on
        time.sleep(0.0005)

def life_without_looks(number):
    async def main():
        factory = ExecutionEngineFactory(bridge, limiter=limiter)
        for at in range(150):
            ctx = UserContextFactory.create_context(f"user-{number}-of-metrics")
            engine = await factory.create_for_user(ctx)
            async with limiter.slot(ctx.user_id, ctx=ctx):
                await asyncio.sleep(0)
            await factory.cleanup_engine(engine)
            await ctx.cleanup()
        await factory.shutdown(0)
    asyncio.run(main())

switching = threading.Thread(target=switch)
switching.start()
in_threads(life_without_looks, 4)
over = True
switching.join()
set_metrics_enabled(True)
gc.collect()
sweep_lanes(idle_lanes=True)
assert set(gauges().values()) == {0}, gauges()
"""
    )
    assert ended.code == 0, ended.err


FORKED = """
plain, seconds = metric("isolane_forced_cleanups_total"), metric("isolane_overhead_seconds")
call = metric("isolane_tool_calls_total").labels("search", "ok")
ctx = UserContextFactory.create_context("ann-of-metrics")
held = FairLimiter(2, 2)
permit = held.slot_nowait("ann-of-metrics")
plain.inc(5); call.inc(7); seconds.observe(0.5)
assert gauges()["contexts_active"] == 1 and gauges()["permits_active"] == 1

def child():
    # What the parent has counted is the parent's: otherwise a sum over processes would have it twice.
    assert (plain.value, call.value, seconds.value) == (0, 0, 0)
    assert total("isolane_contexts_created_total") == 0 and total("isolane_permits_total") == 0
    assert not any(gauges().values()), gauges()
    plain.inc(); call.inc(2); seconds.observe(0.25)
    own = UserContextFactory.create_context("bob-of-metrics")
    found = samples(render_metrics())
    assert found["isolane_forced_cleanups_total"] == 1
    assert found['isolane_tool_calls_total{tool="search",outcome="ok"}'] == 2
    assert found["isolane_overhead_seconds_count"] == 1 and found["isolane_overhead_seconds_sum"] == 0.25
    assert gauges()["contexts_active"] == 1 and total("isolane_contexts_created_total") == 1
    del own

def forked(function):
    pid = os.fork()
    if not pid:
        try:
            function()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
"""


def test_the_child_of_a_fork_counts_from_nothing_and_the_parent_goes_on() -> None:
    ended = run(
        READING
        + FORKED
        + """
forked(child)
assert (plain.value, call.value, seconds.value) == (5, 7, 1)
assert gauges()["contexts_active"] == 1 and gauges()["permits_active"] == 1
permit.release()
"""
    )
    assert ended.code == 0, ended.err


def test_a_fork_while_threads_count_and_scrape_hangs_nobody() -> None:
    ended = run(
        READING
        + FORKED
        + """
over = False
def work(number):
    at = 0
    while not over:
        at += 1
        metric("isolane_tool_calls_total").labels(f"tool-{number}-{at % 40}", "ok").inc()
        below = ctx.create_child_context("op")
        render_metrics()

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
try:
    for _ in range(15):
        forked(child)
finally:
    over = True
    for thread in threads:
        thread.join()
""",
        options=("-W", "ignore::DeprecationWarning"),
    )
    assert ended.code == 0, ended.err


LEFT = """
async def lives(count, keep):
    kept = []
    limiter = FairLimiter(40, 5)
    bridge = WebSocketBridgeFactory(WebSocketConfig(retention_seconds=0))
    factory = ExecutionEngineFactory(bridge, limiter=limiter)
    for number in range(count):
        ctx = UserContextFactory.create_context(f"user-{number}-of-leaks")
        engine = await factory.create_for_user(ctx)
        await engine.execute_agent(Agent)
        await factory.cleanup_engine(engine)
        await ctx.cleanup()
        if keep and number == count // 2:
            kept.append(ctx)
    await factory.shutdown(0)
    return kept

class Agent(isolane.BaseAgent):
    name = "leaky"
    async def execute_with_context(self, context, request):
        await context.get_websocket_emitter().notify_tool_executing(tool_name="tool", params={})
        await context.get_websocket_emitter().notify_tool_completed(tool_name="tool", result=1)
        return request

def left():
    gc.collect()
    sweep_lanes(idle_lanes=True)
    contexts = sum(isinstance(each, isolane.UserExecutionContext) for each in gc.get_objects())
    spans = sum(type(each).__name__ == "_Span" for each in gc.get_objects())
    return {"contexts": contexts, "spans": spans, **gauges()}
"""

TRACED = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from isolane.observability import otel

class Counting(SpanExporter):
    seen = 0
    def export(self, spans):
        Counting.seen += len(spans)
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Counting()))
otel.instrument(tracer_provider=provider)
"""


@pytest.mark.parametrize("tracing", [False, True], ids=["metrics", "metrics and tracing"])
def test_contexts_that_are_counted_leave_nothing(tracing) -> None:
    ended = run(
        READING
        + LEFT
        + (TRACED if tracing else "")
        + """
asyncio.run(lives(20, False))
before = left()
assert set(before.values()) == {0}, before
asyncio.run(lives(300, False))
assert left() == before, (before, left())
# The positive control: one that is kept is seen.
kept = asyncio.run(lives(20, True))
after = left()
assert after["contexts"] == after["users_active"] == 1 and after["memory_bytes"] > 0, after
assert total("isolane_runs_total", agent="leaky", outcome="completed") == 340
"""
        + ("assert Counting.seen >= 340, Counting.seen\n" if tracing else "")
    )
    assert ended.code == 0, ended.err
