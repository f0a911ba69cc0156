"""What is one over workers, with the workers' planes in this process: who is cancelled, restarts, and odd values."""

from __future__ import annotations

import asyncio
import json
import random
import types

import pytest
from isolane import _core
from isolane._core import metric, render_metrics
from isolane.cluster import Plane, tally
from isolane.cluster.flags import SharedFlagSource
from isolane.cluster.ledger import Books
from isolane.cluster.logouts import Logouts
from isolane.cluster.metrics import Measured, SharedMetrics
from isolane.cluster.quarantine import SharedQuarantine
from isolane.cluster.tickets import PlaneTicketStore
from isolane.fastapi.settings import IsolaneSettings
from isolane.migration.flags import FlagSourceError, MigrationFeatureFlags
from isolane.migration.flags.sources import FlagChangeRefusedError
from isolane.security.authentication import InvalidTokenError, Tickets
from isolane.security.authentication.principal import Principal
from isolane.security.quarantine import Quarantine

from tests.cluster.support import planes, until, until_down, until_up
from tests.support.metric_names import reserve


@pytest.fixture
def prefix():
    return f"test-{random.randbytes(4).hex()}"


async def redeemed(tickets: Tickets, ticket: str):
    try:
        return (await tickets.redeem(ticket, None)).user_id
    except InvalidTokenError:
        return None


async def test_who_is_cancelled_leaves_no_ticket_that_counts_twice_and_gets_nobody_elses(clean_redis, prefix):
    async with planes(clean_redis.url, 2, prefix=prefix, call_timeout=5) as (a, b):
        one, two = Tickets(store=PlaneTicketStore(a)), Tickets(store=PlaneTicketStore(b))
        for n in range(150):
            ticket = await one.issue(Principal(f"user-{n}"), None)
            first = asyncio.create_task(redeemed(two, ticket))
            for _ in range(n % 12):
                await asyncio.sleep(0)
            first.cancel()
            second, third = await asyncio.gather(redeemed(one, ticket), redeemed(two, ticket))
            won = [each for each in (second, third) if each is not None]
            assert len(won) <= 1
            assert won in ([], [f"user-{n}"])
            issuing = asyncio.create_task(one.issue(Principal("ann"), None))
            for _ in range(n % 7):
                await asyncio.sleep(0)
            issuing.cancel()
            await asyncio.gather(first, issuing, return_exceptions=True)


async def test_a_ticket_of_which_is_not_known_where_it_lies_counts_once_redis_can_be_asked(fresh_redis, prefix):
    async with planes(fresh_redis.url, 2, prefix=prefix) as (a, b):
        one, two = Tickets(store=PlaneTicketStore(a)), Tickets(store=PlaneTicketStore(b))
        fresh_redis.freeze()
        ticket = await one.issue(Principal("ann"), None)
        assert await redeemed(one, ticket) is None
        fresh_redis.thaw()
        await until_up(a, b)
        won = [await redeemed(each, ticket) for each in (two, one, two, one)]
        assert won.count("ann") <= 1


async def test_claims_that_json_would_change_stay_with_their_worker(clean_redis, prefix):
    async with planes(clean_redis.url, 2, prefix=prefix, call_timeout=5) as (a, b):
        one, two = Tickets(store=PlaneTicketStore(a)), Tickets(store=PlaneTicketStore(b))
        for claims in ({"a": (1, 2)}, {1: "x"}, {"a": object()}, {"a": float("nan")}):
            ticket = await one.issue(Principal("ann", claims), None)
            assert await redeemed(two, ticket) is None
            ticket = await one.issue(Principal("ann", claims), None)
            assert (await one.redeem(ticket, None)).claims is claims
            assert await redeemed(one, ticket) is None


async def test_a_ticket_is_over_when_its_time_is_and_reuse_is_told(clean_redis, prefix):
    told = []
    audit = types.SimpleNamespace(record=told.append)
    async with planes(clean_redis.url, 2, prefix=prefix, call_timeout=5) as (a, b):
        one, two = Tickets(0.05, store=PlaneTicketStore(a)), Tickets(store=PlaneTicketStore(b), audit=audit)
        ticket = await one.issue(Principal("ann"), None)
        await asyncio.sleep(0.1)
        assert await redeemed(two, ticket) is None
        ticket = await Tickets(store=PlaneTicketStore(a)).issue(Principal("ann"), None)
        assert await redeemed(two, ticket) == "ann"
        told.clear()
        assert await redeemed(Tickets(store=PlaneTicketStore(b), audit=audit), ticket) is None
        assert [event.name for event in told] == ["authn_token_reuse"]


async def test_sign_outs_from_threads_and_before_redis_is_there_arrive(fresh_redis, prefix):
    heard = []
    async with planes(fresh_redis.url, 2, prefix=prefix) as (a, b):
        out, _ = Logouts(a, lambda *_: 0), Logouts(b, lambda *who: heard.append(who) or 0)
        fresh_redis.kill()
        await until_down(a, b)
        for n in range(600):
            out.tell(f"user-{n}", None)
        await asyncio.to_thread(out.tell, "ann", "s1")
        fresh_redis.start()
        await until(lambda: len(heard) == 601)
        assert heard[-1] == ("ann", "s1")
        # Nobody is signed out again because Redis was emptied.
        fresh_redis.flush()
        out.tell("bob")
        await until(lambda: ("bob", None) in heard)
        assert len(heard) == 602


async def test_a_release_is_of_the_entry_that_it_was_meant_for(clean_redis, prefix):
    here, there = Quarantine(), Quarantine()
    async with planes(clean_redis.url, 2, prefix=prefix, call_timeout=5) as (a, b):
        parts = [SharedQuarantine(a, here), SharedQuarantine(b, there)]
        a.add(parts[0])
        b.add(parts[1])
        here.quarantine("eve", "first")
        await until(lambda: there.is_quarantined("eve"))
        there.release("eve", by="ops", reason="fine")
        there.quarantine("eve", "again at once")
        again = parts[1]._names["eve"]
        # The same user, and another entry: whoever has not heard of the release is not released by it.
        await until(lambda: parts[0]._names == {"eve": again})
        assert here.is_quarantined("eve")
        assert there.is_quarantined("eve")
        here.release("eve", by="ops", reason="fine as well")
        await until(lambda: not there.is_quarantined("eve"))


async def test_flags_are_read_at_the_start_and_said_to_be_stale_before(fresh_redis, prefix):
    fresh_redis.kill()
    source = SharedFlagSource({"schema": 1, "revision": 4, "flags": {"modern_execution": {"rollout": 100_000}}})
    flags = MigrationFeatureFlags(source, required=False)
    assert source.read() is None
    plane = Plane(fresh_redis.url, prefix=prefix)
    source.bind(plane)
    with pytest.raises(ValueError, match="another plane"):
        source.bind(Plane(fresh_redis.url))
    await plane.start()
    flags.watcher.start()
    try:
        with pytest.raises(FlagSourceError, match="cannot be read"):
            source.read()
        assert flags.watcher.is_stale
        assert not flags.is_on("modern_execution", "ann")
        fresh_redis.start()
        await until(lambda: flags.is_on("modern_execution", "ann") and not flags.watcher.is_stale)
        with pytest.raises(RuntimeError, match="to_thread"):
            source.writer().read()
        held = await asyncio.to_thread(source.writer().read)
        assert held.revision == 4
        await asyncio.to_thread(lambda: source.writer().set_rollout("modern_execution", 50, actor="ops"))
        assert flags.status()["flags"]["modern_execution"]["rollout_percent"] == 50
        with pytest.raises(FlagChangeRefusedError):
            await asyncio.to_thread(lambda: source.writer().set_rollout("unknown", 50, actor="ops"))
    finally:
        await flags.watcher.stop()
        await plane.stop()


def test_flags_on_redis_need_a_redis(monkeypatch):
    from fastapi import FastAPI  # noqa: PLC0415
    from isolane.fastapi import setup  # noqa: PLC0415

    monkeypatch.delenv("ISOLANE_REDIS_URL", raising=False)
    with pytest.raises(TypeError, match="no Redis is known"):
        setup(FastAPI(), IsolaneSettings(flags_shared=True), authenticate=lambda _: None)


RUNS = ("isolane_runs_total", *reserve("restarted", label="agent"), "completed")


def counted(text: str) -> float:
    sample = f'{RUNS[0]}{{agent="{RUNS[1]}",outcome="{RUNS[2]}"}} '
    return next((float(line.removeprefix(sample)) for line in text.splitlines() if line.startswith(sample)), 0.0)


async def test_a_plane_that_is_started_again_counts_nothing_twice(clean_redis, prefix):
    plane = Plane(clean_redis.url, prefix=prefix, call_timeout=5)
    metrics = SharedMetrics(plane)
    plane.add(metrics)
    runs = metric(RUNS[0]).labels(*RUNS[1:])
    runs.inc(3)
    before = counted(render_metrics("prometheus"))
    for n in range(4):
        await plane.start()
        assert counted(await metrics.render("prometheus")) == before + n
        runs.inc(1)
        await plane.stop()
    assert "alone" not in await metrics.render("prometheus")


async def test_a_scrape_that_is_cancelled_leaves_nothing(clean_redis, prefix):
    async with planes(clean_redis.url, 1, prefix=prefix, call_timeout=5) as (plane,):
        metrics = SharedMetrics(plane)
        plane.add(metrics)
        await until(lambda: metrics.figures() and not metrics._tally._is_over)
        for n in range(30):
            scrape = asyncio.create_task(metrics.render("openmetrics"))
            for _ in range(n % 10):
                await asyncio.sleep(0)
            scrape.cancel()
            await asyncio.gather(scrape, return_exceptions=True)
        async with asyncio.timeout(20):
            assert (await metrics.render("openmetrics")).endswith("# EOF\n")


@pytest.mark.parametrize("form", ["openmetrics", "prometheus"])
def test_the_text_of_one_worker_is_the_core_s_own(form):
    metric("isolane_runs_total").labels('odd "agent"\\\n', "completed").inc(2)
    metric("isolane_run_duration_seconds").labels("helper").observe(0.25)
    metric("isolane_loop_lag_seconds").set(0.125)
    measured = Measured()
    mine = measured.render(measured.together([json.loads(measured.own())]), form).splitlines()
    theirs = render_metrics(form).splitlines()
    names = [sorted(line.rpartition(" ")[0] for line in lines) for lines in (mine, theirs)]
    assert names[0] == names[1]
    # What the process measures by itself, and what other tests left running, may have changed in between.
    assert len(set(mine) ^ set(theirs)) < len(theirs) / 10


def test_what_counts_anew_goes_on_from_where_it_was(monkeypatch):
    measured = Measured()
    told = {"kind": "counter", "help": "", "series": [{"labels": {"result": "ok"}, "value": 7}]}
    monkeypatch.setattr("isolane.cluster.metrics.metrics_snapshot", lambda: {"isolane_cluster_calls_total": told})
    values = []
    for value in (7, 2, 3, 0, 1):
        told["series"][0]["value"] = value
        values.append(json.loads(measured.own())["isolane_cluster_calls_total"][2]["ok"])
    assert values == [7, 9, 10, 10, 11]


def test_names_of_workers_that_come_and_go_are_bounded():
    measured = Measured()
    each = [{"isolane_runs_total": ["counter", None, {f"agent-{n}\x1fcompleted": 1}]} for n in range(2500)]
    whole = measured.together(each)["isolane_runs_total"][2]
    assert len(whole) <= 2001
    assert sum(whole.values()) == 2500
    assert whole["_other\x1fcompleted"] == 500


def test_a_ledger_without_what_was_taken_of_it_has_the_rest():
    books = Books()

    def book(**sites: int) -> str:
        lines = [
            {"symbol": "s", "code": "ISO-D001", "file": file, "line": 1, "count": n, "first": 5, "last": 9}
            for file, n in sites.items()
        ]
        symbols = {"s": sum(sites.values())}
        told = {"schema": 1, "since": 1, "until": 10, "evicted": 0, "evicted_last": None}
        return json.dumps({**told, "symbols": symbols, "sites": lines})

    before, now = book(a=3, b=1), book(a=5, b=1, c=2)
    rest = books.without(now, before)
    assert {site["file"]: site["count"] for site in json.loads(rest)["sites"]} == {"a": 2, "c": 2}
    together = json.loads(books.added([before, rest]))
    assert {site["file"]: site["count"] for site in together["sites"]} == {"a": 5, "b": 1, "c": 2}
    assert together["symbols"] == {"s": 8}


def test_a_tally_that_cannot_be_opened_is_left_out():
    assert tally._opened(b"no zlib") is None
    assert tally._opened(tally._packed("x" * 100)) == "x" * 100
    assert _core.monotonic() > 0
