"""What is one over several worker processes on a real Redis: tickets, sign-outs, quarantine, flags, ledger, metrics."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys

import pytest

from tests.cluster.shared_workers import crew, eventually


def value(text: str, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


RUNS = 'isolane_runs_total{agent="helper",outcome="completed"}'


async def all_up(workers):
    for worker in workers:
        await eventually(worker.state, lambda state: state[0] == "up")


async def all_down(workers):
    for worker in workers:
        await eventually(worker.state, lambda state: state[0] == "down")


async def taken_over(server, workers, kind):
    """Wait until what a dead worker has counted is kept. Who asked for it may not have had the answer in time."""
    key = f"{{{workers.prefix}:tally:{kind}}}:kept"
    await eventually(lambda: asyncio.to_thread(server.do, "HGET", key, "revision"), lambda said: said == b"1")


# Tickets.


async def test_a_ticket_counts_on_every_worker_and_on_all_of_them_once(clean_redis, tmp_path):
    async with crew(clean_redis, tmp_path) as workers:
        a, b, c = workers.members
        for n in range(20):
            ticket = await a.issue("ann", session="s1", tier="gold")
            answers = await asyncio.gather(*(worker.redeem(ticket) for worker in (a, b, c)))
            won = [answer for answer in answers if answer is not None]
            assert won == [["ann", {"tier": "gold"}, ["r"], "s1", 99.5]], n
        assert await b.redeem("unknown") is None
        # Of another page: used up all the same.
        ticket = await a.issue("ann", origin="https://one.example")
        assert await b.redeem(ticket, origin="https://two.example") is None
        assert await c.redeem(ticket, origin="https://one.example") is None


async def test_nothing_of_a_user_can_be_read_in_redis(clean_redis, tmp_path):
    async with crew(clean_redis, tmp_path, 1) as workers:
        (a,) = workers.members
        ticket = await a.issue("ann-the-user", session="session-of-ann", token="secret-claim")
        await a.logout("bob-the-user")
        await a.put("eve-the-user", "canary-of-eve")
        await eventually(a.figures, lambda said: said["SharedQuarantine"]["untold"] == said["Logouts"]["untold"] == 0)
        with clean_redis.client() as client:
            held = [key + b" " + (client.dump(key) or b"") for key in client.scan_iter(f"*{workers.prefix}*")]
        assert len(held) > 8
        for text in (ticket, "ann-the-user", "session-of-ann", "secret-claim", "bob-the-user", "eve-", "of-eve"):
            assert not any(text.encode() in each for each in held), text


async def test_a_user_has_at_most_sixteen_tickets_over_all_workers(clean_redis, tmp_path):
    async with crew(clean_redis, tmp_path, 2) as workers:
        a, b = workers.members
        tickets = [await (a, b)[n % 2].issue("ann") for n in range(18)]
        assert [await b.redeem(ticket) is not None for ticket in tickets] == [False] * 2 + [True] * 16


async def test_who_signs_out_on_one_worker_is_signed_out_on_all(clean_redis, tmp_path):
    async with crew(clean_redis, tmp_path) as workers:
        a, b, c = workers.members
        for worker in (a, b, c):
            await worker.open_socket("ann", "s1")
            await worker.open_socket("ann", "s2")
            await worker.open_socket("bob", "s1")
        of_s1, of_s2, of_bob = await b.issue("ann", "s1"), await b.issue("ann", "s2"), await b.issue("bob", "s1")
        assert await a.logout("ann", "s1") == 1
        took = [await eventually(lambda w=w: w.closed("ann", "s1"), lambda code: code == 4501) for w in (b, c)]
        print(f"sign-out on other workers after {max(took) * 1000:.0f} ms")
        assert [await w.closed("ann", "s2") for w in (a, b, c)] == [None] * 3
        assert await c.redeem(of_s1) is None
        assert (await c.redeem(of_s2))[3] == "s2"
        assert await c.redeem(of_bob) is not None
        # And in again: what is given out afterwards counts everywhere.
        assert await b.redeem(await c.issue("ann", "s1")) is not None
        await b.logout("ann")
        for worker in (a, c):
            await eventually(lambda w=worker: w.closed("ann", "s2"), lambda code: code == 4501)
            assert await worker.closed("bob", "s1") is None


async def test_tickets_and_sign_outs_go_on_without_redis_and_catch_up(fresh_redis, tmp_path):
    async with crew(fresh_redis, tmp_path, 2) as workers:
        a, b = workers.members
        await b.open_socket("ann", "s1")
        there = await a.issue("bob")
        fresh_redis.kill()
        await all_down([a, b])
        mine = await a.issue("ann")
        later = await a.issue("cat")
        assert await b.redeem(mine) is None
        assert await a.redeem(mine) is not None
        assert await a.redeem(mine) is None
        # Nobody can know whether another worker has taken it.
        assert await a.redeem(there) is None
        await a.logout("ann", "s1")
        fresh_redis.start()
        await eventually(lambda: b.closed("ann", "s1"), lambda code: code == 4501)
        await eventually(a.figures, lambda said: said["PlaneTicketStore"].get("shared_later", 0) >= 1)
        assert await b.redeem(later) is not None
        assert await a.redeem(later) is None
        assert "goes on by itself" in workers.said()


# Quarantine.


async def test_who_is_in_quarantine_is_so_on_all_workers(clean_redis, tmp_path):
    async with crew(clean_redis, tmp_path) as workers:
        a, b, c = workers.members
        await a.put("eve", "a canary of ann was in her answer")
        for worker in (b, c):
            await eventually(worker.quarantined, lambda users: "eve" in users)
        assert (await c.quarantined())["eve"] == "a canary of ann was in her answer"
        # Also on one that is started later.
        d = await workers.hire()
        assert list(await d.quarantined()) == ["eve"]
        assert await c.release("eve")
        for worker in (a, b, d):
            await eventually(worker.quarantined, lambda users: not users)
        await b.put("eve", "again")
        await eventually(a.quarantined, lambda users: users == {"eve": "again"})


async def test_quarantine_outlives_a_redis_that_comes_back_empty(fresh_redis, tmp_path):
    async with crew(fresh_redis, tmp_path, 2) as workers:
        a, b = workers.members
        await a.put("eve", "first")
        await eventually(b.quarantined, lambda users: "eve" in users)
        fresh_redis.kill()
        await all_down([a, b])
        await a.put("mal", "while nobody could be told")
        assert "mal" not in await b.quarantined()
        assert await b.release("eve")
        fresh_redis.start()
        await eventually(b.quarantined, lambda users: "mal" in users)
        # What was released was released, and nobody else was.
        await eventually(a.quarantined, lambda users: list(users) == ["mal"])
        fresh_redis.flush()
        c = await workers.hire()
        await eventually(c.quarantined, lambda users: list(users) == ["mal"])
        assert list(await b.quarantined()) == ["mal"]


# Flags.


async def test_a_rollback_on_one_worker_is_in_force_on_all_and_no_run_mixes_modes(clean_redis, tmp_path):
    async with crew(clean_redis, tmp_path) as workers:
        a, b, c = workers.members
        for worker in (a, b, c):
            await eventually(worker.decide, lambda said: said == [True, 1, False])
            assert await worker.begin("before") == "modern"
        assert await b.rollback()
        assert (await b.decide())[0] is False
        took = [await eventually(w.decide, lambda said: said[:2] == [False, 2]) for w in (a, c)]
        print(f"rollback on other workers after {max(took) * 1000:.0f} ms")
        for worker in (a, b, c):
            assert await worker.begin("after") == "legacy"
            assert await worker.mode("before") == "modern"
            await eventually(worker.guard_status, lambda said: said == ["rolled_back", True])
        # A worker that is started now begins with it.
        d = await workers.hire()
        assert (await d.decide())[:2] == [False, 2]
        await c.resume()
        await eventually(a.guard_status, lambda said: said[0] != "rolled_back")
        assert (await a.decide())[0] is False


def rollout(workers, *arguments):
    command = [sys.executable, "-m", "isolane.cli", "rollout", *arguments]
    command += ["--redis", workers.url, "--redis-prefix", workers.prefix]
    return subprocess.run(command, capture_output=True, text=True, check=False)


async def test_the_command_changes_the_flags_of_all_workers(clean_redis, tmp_path):
    async with crew(clean_redis, tmp_path, 2) as workers:
        a, b = workers.members
        await eventually(a.decide, lambda said: said[1] == 1)
        done = await asyncio.to_thread(rollout, workers, "kill", "--actor", "ops", "--reason", "INC-7")
        assert (done.returncode, done.stderr) == (0, "")
        assert "revision 2 of the flags on Redis" in done.stdout
        for worker in (a, b):
            await eventually(worker.decide, lambda said: said == [False, 2, False])
        status = await asyncio.to_thread(rollout, workers, "status")
        assert "kill switch  ON" in status.stdout
        # Of changes at the same moment none is lost.
        changes = [
            asyncio.to_thread(rollout, workers, "set", f"flag{n}", "10", "--create", "--actor", "ops") for n in range(4)
        ]
        assert [done.returncode for done in await asyncio.gather(*changes)] == [0] * 4
        await eventually(b.decide, lambda said: said[1] == 6)
        status = await asyncio.to_thread(rollout, workers, "status")
        assert all(f"flag{n}" in status.stdout for n in range(4))
    clean_redis.kill()
    done = await asyncio.to_thread(rollout, workers, "kill")
    assert done.returncode == 3
    assert "Redis" in done.stderr


async def test_flags_stay_in_force_without_redis_and_what_it_lost_is_put_back(fresh_redis, tmp_path):
    async with crew(fresh_redis, tmp_path, 2) as workers:
        a, b = workers.members
        await eventually(b.decide, lambda said: said == [True, 1, False])
        fresh_redis.kill()
        for worker in (a, b):
            await eventually(worker.decide, lambda said: said == [True, 1, True])
        # In force here at once, and elsewhere when it can be written.
        assert await a.rollback()
        assert (await a.decide())[0] is False
        assert (await a.guard_status()) == ["rolled_back", False]
        assert (await b.decide())[0] is True
        fresh_redis.start()
        await eventually(b.decide, lambda said: said == [False, 2, False])
        await eventually(a.guard_status, lambda said: said == ["rolled_back", True])
        fresh_redis.flush()
        await eventually(
            lambda: asyncio.to_thread(fresh_redis.do, "HGET", f"{{{workers.prefix}:flags}}:document", "revision"),
            lambda said: said == b"2",
        )
        c = await workers.hire()
        assert (await c.decide())[:2] == [False, 2]


# Metrics.


async def test_a_scrape_of_any_worker_has_all_and_no_counter_falls(clean_redis, tmp_path):
    async with crew(clean_redis, tmp_path) as workers:
        a, b, c = workers.members
        for many, worker in enumerate((a, b, c), 1):
            await worker.count(many)
            await worker.gauge(many)
            await worker.scrape()
        for worker in (a, b, c):
            text, _ = await worker.scrape()
            assert value(text, RUNS) == 6
            assert value(text, 'isolane_run_duration_seconds_count{agent="helper"}') == 3
            assert value(text, 'isolane_run_duration_seconds_bucket{agent="helper",le="+Inf"}') == 3
            assert value(text, 'isolane_alerts_active{rule="slow"}') == 6
            assert value(text, "isolane_cluster_processes") == 3
        latest, total = 6.0, 6

        async def scrape_all() -> None:
            nonlocal latest
            for worker in workers.members:
                if worker.process.returncode is None:
                    text, _ = await worker.scrape()
                    assert value(text, RUNS) >= latest
                    latest = value(text, RUNS)

        for n in range(30):
            await workers.members[n % 3].count(1)
            total += 1
            await scrape_all()
        assert latest == total == 36
        await b.kill()
        await scrape_all()
        took = await eventually(a.scrape, lambda said: value(said[0], 'isolane_alerts_active{rule="slow"}') == 4)
        print(f"the gauges of a killed worker are gone after {took:.1f} s")
        for _ in range(10):
            await scrape_all()
        await taken_over(clean_redis, workers, "metrics")
        d = await workers.hire()
        await d.count(4)
        await scrape_all()
        assert latest == 40
        # In order: gone at once.
        await d.gauge(100)
        await d.scrape()
        await d.stop()
        text, _ = await a.scrape()
        assert value(text, 'isolane_alerts_active{rule="slow"}') == 4
        assert value(text, RUNS) == 40


async def test_a_worker_that_was_thought_dead_counts_nothing_twice(clean_redis, tmp_path):
    async with crew(clean_redis, tmp_path, 2) as workers:
        a, b = workers.members
        await a.count(5)
        await b.count(7)
        await b.legacy(3, "caller")
        await b.scrape()
        await b.ledger()
        b.signal(signal.SIGSTOP)
        await taken_over(clean_redis, workers, "metrics")
        await taken_over(clean_redis, workers, "ledger")
        assert value((await a.scrape())[0], RUNS) == 12
        b.signal(signal.SIGCONT)
        await b.count(2)
        await b.legacy(1, "caller")
        for worker in (b, a, b):
            assert value((await worker.scrape())[0], RUNS) == 14
            assert (await b.ledger())["lines"] == {"/app/caller.py": 4}
        assert (await b.figures())["SharedMetrics"]["thought_dead"] == 1


async def test_scrapes_go_on_without_redis_and_nothing_kept_is_lost_with_it(fresh_redis, tmp_path):
    async with crew(fresh_redis, tmp_path, 2) as workers:
        a, b = workers.members
        await b.count(7)
        await b.stop()
        await taken_over(fresh_redis, workers, "metrics")
        await a.count(1)
        assert value((await a.scrape())[0], RUNS) == 8
        fresh_redis.kill()
        await all_down([a])
        await a.count(1)
        text, _ = await a.scrape()
        assert (value(text, RUNS), value(text, 'isolane_cluster_state{state="down"}')) == (9, 1)
        fresh_redis.start()
        await all_up([a])
        await eventually(a.figures, lambda said: said["SharedMetrics"].get("restored", 0) == 1)
        c = await workers.hire()
        assert value((await c.scrape())[0], RUNS) == 9


# The ledger.


async def test_legacy_calls_of_all_workers_stand_in_one_ledger(clean_redis, tmp_path):
    async with crew(clean_redis, tmp_path, 2) as workers:
        a, b = workers.members
        await a.legacy(2, "one")
        await b.legacy(3, "two")
        await b.legacy(1, "one")
        await b.ledger()
        assert await a.ledger() == {"calls": 6, "lines": {"/app/one.py": 3, "/app/two.py": 3}}
        await b.kill()
        await taken_over(clean_redis, workers, "ledger")
        assert await a.ledger() == {"calls": 6, "lines": {"/app/one.py": 3, "/app/two.py": 3}}


@pytest.mark.parametrize("name", ["shared"])
async def test_on_a_cluster_of_servers_as_well(redis_nodes, tmp_path, name):
    async with crew(redis_nodes, tmp_path, 2) as workers:
        a, b = workers.members
        assert await b.redeem(await a.issue("ann")) is not None
        await b.open_socket("ann")
        await a.logout("ann")
        await a.put("eve", name)
        await a.count(3)
        await a.legacy(2, "one")
        await a.scrape()
        await a.ledger()
        await eventually(lambda: b.closed("ann"), lambda code: code == 4501)
        await eventually(b.quarantined, lambda users: users == {"eve": name})
        assert value((await b.scrape())[0], RUNS) == 3
        assert (await b.ledger())["calls"] == 2
        done = await asyncio.to_thread(rollout, workers, "kill", "modern_execution", "--actor", "ops")
        assert (done.returncode, done.stderr) == (0, "")
        await eventually(b.decide, lambda said: said[:2] == [False, 2])
