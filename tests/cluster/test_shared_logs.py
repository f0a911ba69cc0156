"""Runs on some workers, sockets on others: real uvicorn processes, a real Redis, and a checker of all that was said."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import websockets

from tests.cluster.workers import GENEROUS, Workers, all_know, follow, move, settled, workers
from tests.faults.site import auth, ended
from tests.support.fault_proxy import FaultProxy
from tests.support.framed_client import FinalCloseError, FramedClient
from tests.support.redis_server import RedisServer

LEASE = 3.0
numbers = itertools.count(1)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory, redis_server):
    """Three workers that nobody harms."""
    async with workers(tmp_path_factory.mktemp("shared"), redis_server.url) as site:
        yield site


@pytest.fixture
def site(shared):
    """The same, with nothing recorded yet."""
    yield shared
    for client in shared.clients:
        client.drop()
    shared.clients.clear()


def somebody(name: str = "ann") -> str:
    """A user whom no other test has."""
    return f"{name}-{next(numbers)}"


async def test_clients_on_all_workers_see_the_runs_of_all(site):
    users = [somebody(name) for name in ("ann", "bob", "cyd")]
    clients = {user: [site.client(user, worker, worker.name) for worker in site.workers] for user in users}
    for client in itertools.chain(*clients.values()):
        await client.connect()
    runs = {user: [await worker.start("teller", user, events=80) for worker in site.workers] for user in users}
    await asyncio.gather(*(follow(client, ended(*runs[user])) for user in users for client in clients[user]))
    for user in users:
        for client in clients[user]:
            assert {client.ended[run] for run in runs[user]} == {"completed"}
            assert set(client.modes) == {"exact"}
            assert set(client.messages) == set(runs[user])
    totals = site.check()
    assert totals["delivered"] > 3 * 9 * 40


async def test_a_client_goes_on_where_it_was_on_another_worker(site):
    user = somebody()
    home = site.workers[0]
    run = await home.start("teller", user, events=300, pause=0.01)
    client = site.client(user, site.workers[1])
    for at, worker in enumerate([site.workers[2], home, site.workers[1], site.workers[2]], start=1):
        await follow(client, lambda tab, at=at: len(tab.messages[run]) > 40 * at or run in tab.ended)
        move(client, worker)
    await follow(client, ended(run))
    assert client.ended[run] == "completed"
    assert set(client.modes) == {"exact"}
    assert client.connections == 5
    site.check()


async def test_a_welcome_lists_the_runs_of_all_workers(site):
    user = somebody()
    runs = [await worker.start("teller", user, events=100_000) for worker in site.workers]
    for worker in site.workers:
        await settled(lambda worker=worker: listed(site, user, worker, runs))
        states = {stream["s"]: stream["state"] for stream in (await welcome(site, user, worker))["streams"]}
        assert states == dict.fromkeys(runs, "running")
    for run in runs:
        assert await site.workers[0].ask("POST", f"/cancel/{run}", user) == {"state": "accepted"}
    last = site.client(user, site.workers[0], "last")
    await follow(last, ended(*runs))
    assert set(last.ended.values()) == {"cancelled"}


async def welcome(site: Workers, user: str, worker) -> dict:
    client = FramedClient(worker.port, user, site.history, f"{user} {next(numbers)}", asks=False, complete=False)
    await client.connect()
    frame = await client.receive(GENEROUS)
    client.drop()
    assert frame["t"] == "welcome"
    return frame


async def listed(site: Workers, user: str, worker, runs: list[str]) -> bool:
    return {stream["s"] for stream in (await welcome(site, user, worker))["streams"]} >= set(runs)


async def test_a_run_is_cancelled_from_a_socket_on_another_worker(site):
    user = somebody()
    home, other, _ = site.workers
    run = await home.start("worker", user)
    client = site.client(user, other)
    await follow(client, lambda tab: len(tab.messages[run]) > 5)
    await client.say(t="cancel", s=run, cid="c1")
    await follow(client, ended(run))
    assert client.ended[run] == "cancelled"
    assert [(frame["cid"], frame["state"]) for frame in client.cancels] == [("c1", "accepted")]
    kinds = [event["type"] for event in client.messages[run]]
    assert kinds[-2:] == ["tool_completed", "agent_error"]
    await client.say(t="cancel", s=run, cid="c2")
    await follow(client, lambda tab: len(tab.cancels) == 2)
    assert client.cancels[1]["state"] == "ended"
    site.check()


async def test_nobody_cancels_or_reads_the_run_of_another_user_on_another_worker(site):
    ann, eve = somebody("ann"), somebody("eve")
    home, other, _ = site.workers
    run = await home.start("teller", ann, events=150)
    spy = site.client(eve, other)
    await spy.connect()
    await spy.say(t="cancel", s=run, cid="c1")
    await spy.subscribe(run)
    await follow(spy, lambda tab: tab.cancels and run in tab.gone)
    assert spy.cancels[0]["state"] == "gone"
    assert await other.ask("POST", f"/cancel/{run}", eve) == {"state": "gone"}
    owner = site.client(ann, other)
    await follow(owner, ended(run))
    assert owner.ended[run] == "completed"
    assert not spy.messages
    site.check()


async def test_a_user_who_signs_out_is_signed_out_everywhere(site):
    ann, bob = somebody("ann"), somebody("bob")
    clients = [site.client(ann, worker, worker.name, complete=False) for worker in site.workers]
    others = [site.client(bob, worker, worker.name) for worker in site.workers]
    for client in clients + others:
        await client.connect()
    assert await site.workers[0].ask("POST", "/logout", ann) == {"closed": 1}

    async def closed(client: FramedClient) -> int:
        with pytest.raises(FinalCloseError) as error:
            await follow(client, lambda _: False)
        return error.value.code

    assert await asyncio.gather(*(closed(client) for client in clients)) == [4501] * 3
    run = await site.workers[2].start("teller", bob, events=5)
    await asyncio.gather(*(follow(client, ended(run)) for client in others))
    assert all(client.connections == 1 for client in others)


async def test_an_event_stream_of_a_run_on_another_worker(site):
    user = somebody()
    home, other, _ = site.workers
    run = await home.start("teller", user, events=60)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{other.port}", timeout=GENEROUS) as http:
        await settled(lambda: found(http, run, user))
        async with http.stream("GET", f"/events/{run}", headers=auth(user)) as answer:
            lines = [line async for line in answer.aiter_lines()]
    events = [line for line in lines if line.startswith("event: ")]
    assert events[-1] == "event: isolane.end"
    assert "event: agent_started" in events
    assert "event: agent_completed" in events


async def test_an_event_stream_goes_on_on_another_worker(site):
    user = somebody()
    home, other, _ = site.workers
    run = await home.start("worker", user, events=100, pause=0.02)
    ids: list[str] = []
    for worker, headers in ((home, {}), (other, {"Last-Event-ID": ""})):
        if ids:
            headers["Last-Event-ID"] = ids[-1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{worker.port}", timeout=GENEROUS) as http:
            await settled(lambda http=http: found(http, run, user))
            async with http.stream("GET", f"/events/{run}", headers=auth(user) | headers) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("id: "):
                        ids.append(line.removeprefix("id: "))
                    if worker is home and len(ids) > 10:
                        break
    epoch = ids[0].split(":")[-2]
    numbers_of = [int(each.split(":")[-1]) for each in ids if not each.endswith(":end")]
    assert numbers_of == list(range(numbers_of[0], numbers_of[0] + len(numbers_of)))
    assert all(f":{epoch}:" in each for each in ids)
    assert ids[-1].endswith(":end")


async def found(http: httpx.AsyncClient, run: str, user: str) -> bool:
    async with http.stream("GET", f"/events/{run}", headers=auth(user)) as answer:
        return answer.status_code == 200


async def test_a_long_run_comes_as_a_snapshot_to_who_is_late(site):
    user = somebody()
    home, other, third = site.workers
    follower = site.client(user, third)
    await follower.connect()
    run = await home.start("teller", user, events=4000, pause=0.001, burst=20)
    await follow(follower, ended(run))
    late = site.client(user, other, "late")
    await follow(late, ended(run))
    assert late.ended[run] == follower.ended[run] == "completed"
    assert late.positions[run] == follower.positions[run]
    assert "snapshot" in late.modes
    site.check()


async def test_hints_that_are_lost_cost_a_moment_and_nothing_else(tmp_path, redis_server):
    async with workers(tmp_path, redis_server.url, 2, redis_prefix="deaf", deaf=True) as site:
        user = somebody()
        client = site.client(user, site.workers[1])
        await client.connect()
        run = await site.workers[0].start("teller", user, events=100)
        await follow(client, ended(run))
        assert (client.ended[run], set(client.modes)) == ("completed", {"exact"})
        site.check()


async def closed_as_lost(site: Workers, run: str, clients: list[FramedClient]) -> None:
    """Each client was told once that the worker of the run is lost; what the others know of it is a whole log."""
    client = clients[0]
    epoch, head = client.positions[run]
    for each in clients:
        assert each.ended[run] == "lost"
        assert each.positions[run] == (epoch, head)
        last = each.messages[run][-1]
        assert (last["type"], last["payload"]["code"], last["payload"]["retriable"]) == (
            "agent_error",
            "worker_lost",
            True,
        )
        codes = [event["payload"].get("code") for event in each.messages[run]]
        assert codes.count("worker_lost") == 1
    closing = [
        event["seq"]
        for event in client.messages[run]
        if event["payload"].get("code") == "worker_lost" or event["payload"].get("status") == "unfinished"
    ]
    former = next(stream for stream in site.history.streams.values() if stream.run == run)
    assert former.lost
    assert former.epoch != epoch
    stream = site.history.opened(former.user, run, epoch)
    stream.published = [event for event in former.published if event.number < closing[0]]
    # The library publishes the first one itself.
    assert [event.number for event in stream.published] == list(range(2, closing[0]))
    stream.outcome, stream.head = "lost", head


async def test_runs_of_a_worker_that_is_killed_are_closed_by_another(tmp_path, redis_server):
    async with workers(tmp_path, redis_server.url, redis_prefix="killed", lease=LEASE) as site:
        dead, *alive = site.workers
        users = [somebody() for _ in range(6)]
        await rested(site)
        runs = [await dead.start("worker", user) for user in users]
        clients = {user: [site.client(user, worker, worker.name) for worker in alive] for user in users}
        for user, run in zip(users, runs, strict=True):
            # Nobody follows the last one.
            for client in clients[user] if user != users[-1] else ():
                await follow(client, lambda tab, run=run: len(tab.messages[run]) > 20)
        seen = {
            client.name: client.positions[run][1]
            for user, run in zip(users, runs, strict=True)
            for client in clients[user]
            if run in client.positions
        }
        dead.kill()
        await asyncio.gather(
            *(follow(client, ended(run)) for user, run in zip(users, runs, strict=True) for client in clients[user])
        )
        figures = [(await worker.figures())["ClusterLogs"] for worker in alive]
        assert sum(each.get("adopted", 0) for each in figures) == len(runs)
        site.collect()
        for user, run in zip(users, runs, strict=True):
            await closed_as_lost(site, run, clients[user])
            for client in clients[user]:
                assert client.positions[run][1] > seen.get(client.name, 0)
        # The next runs are as before.
        run = await alive[0].start("teller", users[0], events=20)
        await asyncio.gather(*(follow(client, ended(run)) for client in clients[users[0]]))
        site.check()


async def test_a_worker_that_stops_in_order_tells_the_end_of_its_runs_itself(tmp_path, redis_server):
    async with workers(tmp_path, redis_server.url, 2, redis_prefix="stopped") as site:
        leaving, other = site.workers
        user = somebody()
        run = await leaving.start("worker", user)
        client = site.client(user, other)
        await follow(client, lambda tab: len(tab.messages[run]) > 10)
        leaving.process.terminate()
        await follow(client, ended(run))
        assert (await other.figures())["ClusterLogs"].get("adopted", 0) == 0
        assert client.messages[run][-1]["type"] == "agent_error"
        assert client.messages[run][-1]["payload"].get("code") != "worker_lost"
        await asyncio.to_thread(leaving.process.wait, GENEROUS)
        site.check()


async def test_a_worker_that_stops_ends_no_runs_that_it_only_shows(tmp_path, redis_server):
    async with workers(tmp_path, redis_server.url, 3, redis_prefix="leaving") as site:
        home, leaving, other = site.workers
        user = somebody()
        run = await home.start("worker", user)
        client = site.client(user, leaving)
        await follow(client, lambda tab: len(tab.messages[run]) > 10)
        leaving.process.terminate()
        await asyncio.to_thread(leaving.process.wait, GENEROUS)
        move(client, other)
        count = len(client.messages[run])
        await follow(client, lambda tab: len(tab.messages[run]) > count + 20)
        assert set(client.modes) == {"exact"}
        assert await other.ask("POST", f"/cancel/{run}", user) == {"state": "accepted"}
        await follow(client, ended(run))
        assert client.ended[run] == "cancelled"
        site.check()


async def rested(site: Workers) -> bool:
    """Whether the workers have been there for long enough to close what others leave."""
    await asyncio.sleep(LEASE)
    return True


async def test_a_worker_that_was_away_for_too_long_writes_no_more(tmp_path, redis_server):
    async with workers(tmp_path, redis_server.url, redis_prefix="paused", lease=LEASE) as site:
        zombie, *alive = site.workers
        user = somebody()
        await rested(site)
        run = await zombie.start("worker", user)
        clients = [site.client(user, worker, worker.name) for worker in alive]
        for client in clients:
            await follow(client, lambda tab: len(tab.messages[run]) > 20)
        zombie.pause()
        await asyncio.gather(*(follow(client, ended(run)) for client in clients))
        epoch, head = clients[0].positions[run]
        zombie.go_on()
        await settled(lambda: gave_up(zombie, user, run))
        assert (await zombie.figures())["ClusterLogs"]["refused"] >= 1
        # What it said meanwhile has reached nobody.
        late = site.client(user, alive[0], "late")
        await follow(late, ended(run))
        assert late.positions[run] == (epoch, head)
        site.collect()
        await closed_as_lost(site, run, [*clients, late])
        # A client of the worker that was away is told the same.
        back = site.client(user, zombie, "back")
        await follow(back, lambda tab: tab.positions.get(run) == (epoch, head) and run in tab.ended)
        assert back.ended[run] == "lost"
        site.check()


async def gave_up(worker, user: str, run: str) -> bool:
    """Whether the worker does not run it any more."""
    return (await worker.stream(user, run)).get("outcome") == "lost"


@pytest.mark.parametrize("keeps", [True, False], ids=["with its data", "without"])
async def test_redis_is_restarted_in_the_midst_of_runs(tmp_path: Path, keeps):
    with RedisServer(tmp_path / "redis", keep=keeps) as server:
        async with workers(tmp_path, server.url, 2) as site:
            home, other = site.workers
            ann, bob = somebody("ann"), somebody("bob")
            run = await home.start("teller", ann, events=400, pause=0.01)
            silent = await home.start("worker", bob, pause=1000)
            client, waiting = site.client(ann, other), site.client(bob, other)
            await follow(client, lambda tab: len(tab.messages[run]) > 30)
            await follow(waiting, lambda tab: len(tab.messages[silent]) > 1)
            await asyncio.to_thread(server.restart, empty=not keeps)
            await follow(client, ended(run))
            assert (client.ended[run], set(client.modes)) == ("completed", {"exact"})
            # Also a run of which nothing new was published is there for who comes now.
            late = site.client(bob, other, "late")
            await follow(late, lambda tab: len(tab.messages[silent]) > 1)
            assert await other.ask("POST", f"/cancel/{silent}", bob) == {"state": "accepted"}
            await asyncio.gather(*(follow(each, ended(silent)) for each in (waiting, late)))
            assert waiting.ended[silent] == late.ended[silent] == "cancelled"
            third = site.client(ann, other, "third")
            await follow(third, ended(run))
            assert third.positions[run] == client.positions[run]
            site.check()


async def test_clients_move_about_while_redis_comes_and_goes(tmp_path):
    """Nobody's events are lost, doubled or another's, whatever happens at once."""
    draw = random.Random(9)
    with RedisServer(tmp_path / "redis") as server:
        async with workers(tmp_path, server.url, 3) as site:
            users = [somebody() for _ in range(5)]
            runs = {
                user: [await worker.start("teller", user, events=400, pause=0.02) for worker in site.workers]
                for user in users
            }

            async def wander(client: FramedClient, own: list[str]) -> None:
                while not ended(*own)(client):
                    until = time.monotonic() + draw.uniform(0.3, 1.2)
                    with contextlib.suppress(TimeoutError):
                        await client.follow(
                            lambda tab, until=until: ended(*own)(tab) or time.monotonic() > until, seconds=GENEROUS
                        )
                    if not ended(*own)(client):
                        move(client, draw.choice(site.workers))

            clients = [
                (site.client(user, draw.choice(site.workers), tab), runs[user]) for user in users for tab in "ab"
            ]
            wandering = [asyncio.create_task(wander(client, own)) for client, own in clients]
            for _ in range(2):
                await asyncio.sleep(draw.uniform(0.5, 1.5))
                server.freeze()
                await asyncio.sleep(draw.uniform(0.2, 1.0))
                server.thaw()
                await asyncio.sleep(draw.uniform(0.5, 1.5))
                await asyncio.to_thread(server.restart, empty=True)
            async with asyncio.timeout(2 * GENEROUS):
                await asyncio.gather(*wandering)
            for client, own in clients:
                assert {client.ended[run] for run in own} == {"completed"}
            totals = site.check()
            assert totals["unaccounted"] == 0


async def test_a_redis_that_stands_still_for_longer_than_a_lease_costs_no_run(tmp_path):
    with RedisServer(tmp_path / "redis") as server:
        async with workers(tmp_path, server.url, 3, lease=LEASE) as site:
            user = somebody()
            await rested(site)
            runs = [await worker.start("worker", user, pause=0.05) for worker in site.workers]
            client = site.client(user, site.workers[0])
            await follow(client, lambda tab: all(len(tab.messages[run]) > 5 for run in runs))
            server.freeze()
            await asyncio.sleep(2.5 * LEASE)
            server.thaw()
            counts = {run: len(client.messages[run]) for run in runs}
            await follow(client, lambda tab: all(len(tab.messages[run]) > counts[run] + 60 for run in runs))
            assert not client.ended
            assert not client.gone
            figures = [(await worker.figures())["ClusterLogs"] for worker in site.workers]
            assert sum(each.get("adopted", 0) + each.get("refused", 0) for each in figures) == 0
            for run in runs:
                assert await site.workers[1].ask("POST", f"/cancel/{run}", user) == {"state": "accepted"}
            await follow(client, ended(*runs))
            site.check()


async def test_without_redis_each_worker_goes_on_by_itself(tmp_path):
    with RedisServer(tmp_path / "redis") as server:
        async with workers(tmp_path, server.url, 2) as site:
            home, other = site.workers
            user = somebody()
            await asyncio.to_thread(server.kill)
            near, far = site.client(user, home, "near"), site.client(user, other, "far")
            await far.connect()
            run = await home.start("teller", user, events=100)
            await follow(near, ended(run))
            assert near.ended[run] == "completed"
            assert run not in far.messages
            await asyncio.to_thread(server.start)
            await follow(far, ended(run))
            assert far.ended[run] == "completed"
            assert far.positions[run] == near.positions[run]
            site.check()


async def test_a_worker_that_is_cut_off_from_redis_gives_up_what_a_peer_has_closed(tmp_path, redis_server):
    async with (
        FaultProxy(redis_server.port) as proxy,
        workers(tmp_path, redis_server.url, 2, redis_prefix="cut", lease=LEASE) as site,
    ):
        lonely = site.begin(f"redis://127.0.0.1:{proxy.port}/0")
        await asyncio.to_thread(lonely.ready)
        await settled(lambda: all_know(site, 3))
        await rested(site)
        user = somebody()
        run = await lonely.start("worker", user)
        near, far = site.client(user, lonely, "near"), site.client(user, site.workers[0], "far")
        await asyncio.gather(*(follow(client, lambda tab: len(tab.messages[run]) > 20) for client in (near, far)))
        proxy.refuse()
        proxy.cut()
        await follow(far, ended(run))
        # It knows nothing of that yet, and its clients are served.
        count = len(near.messages[run])
        await follow(near, lambda tab: len(tab.messages[run]) > count + 20)
        assert run not in near.ended
        proxy.accept()
        await follow(near, lambda tab: tab.positions.get(run) == far.positions[run] and run in tab.ended)
        assert near.ended[run] == far.ended[run] == "lost"
        site.collect()
        await closed_as_lost(site, run, [far])
        again = await lonely.start("teller", user, events=10)
        await asyncio.gather(*(follow(client, ended(again)) for client in (near, far)))
        site.check()


async def test_workers_on_a_redis_cluster(tmp_path, redis_nodes):
    async with workers(tmp_path, redis_nodes.url, 2, redis_prefix="nodes", lease=LEASE) as site:
        home, other = site.workers
        await rested(site)
        users = [somebody() for _ in range(4)]
        clients = [site.client(user, other) for user in users]
        runs = [await home.start("worker", user) for user in users]
        for client, run in zip(clients, runs, strict=True):
            await follow(client, lambda tab, run=run: len(tab.messages[run]) > 10)
        await clients[0].say(t="cancel", s=runs[0], cid="c1")
        await follow(clients[0], ended(runs[0]))
        assert clients[0].ended[runs[0]] == "cancelled"
        # Before its worker dies: what a process did last it may not have written down.
        await settled(lambda: written_down(site, runs[0]))
        home.kill()
        await asyncio.gather(*(follow(client, ended(run)) for client, run in zip(clients[1:], runs[1:], strict=True)))
        site.collect()
        for client, run in zip(clients[1:], runs[1:], strict=True):
            await closed_as_lost(site, run, [client])
        site.check()


async def written_down(site: Workers, run: str) -> bool:
    """Whether the worker of a run has written down how it ended."""
    site.collect()
    return any(stream.run == run and stream.outcome for stream in site.history.streams.values())


@pytest.mark.parametrize("seals", [True, False])
async def test_what_users_say_cannot_be_read_on_redis_when_it_is_sealed(tmp_path, redis_server, seals):
    prefix = f"sealed-{seals}"
    key = {"redis_seal": True, "cluster_key": "a key of thirty-two characters.."} if seals else {}
    async with workers(tmp_path, redis_server.url, 2, redis_prefix=prefix, **key) as site:
        user = somebody("secretive")
        run = await site.workers[0].start("teller", user, events=50)
        client = site.client(user, site.workers[1])
        await follow(client, ended(run))
        with redis_server.client() as redis:
            kept = b""
            for name in redis.scan_iter(f"*{prefix}*"):
                kept += name + (redis.dump(name) or b"")
                if redis.type(name) == b"stream":
                    kept += repr(redis.xrange(name)).encode()
        assert user.encode() not in kept
        assert (site.history.nonce(user).encode() in kept) is not seals
        site.check()


async def test_who_waits_for_an_event_hears_of_clients_on_other_workers(site):
    user = somebody()
    home, other, _ = site.workers
    client = site.client(user, other)
    await client.connect()
    waiting = asyncio.create_task(home.ask("POST", "/wait", user))
    run = ""

    def over(tab: FramedClient) -> bool:
        nonlocal run
        run = next(iter(tab.ended), "")
        return bool(run)

    await follow(client, over)
    assert await waiting == {"stored": True, "sent": True, "acked": True}


async def test_a_worker_closes_a_socket_that_no_longer_fits_before_it_says_anything(site):
    """A client with a position of a log that nobody knows is told so, on any worker."""
    user = somebody()
    client = site.client(user, site.workers[1], complete=False)
    await client.connect()
    await client.subscribe("run_of_nobody", "e0", 5)
    await follow(client, lambda tab: "run_of_nobody" in tab.gone)
    with pytest.raises((TimeoutError, websockets.ConnectionClosed)):
        await client.receive(0.2)
