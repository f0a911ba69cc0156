"""The plane while Redis is slow, frozen, gone, back, empty, or another server; and callers that leave.

Never a hang, never another's answer, and one line of the log for each change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import subprocess
import time

import pytest
from isolane.cluster import Plane, PlaneUnavailableError
from isolane.cluster.redis import link as link_module
from redis.asyncio.connection import Connection
from redis.asyncio.sentinel import Sentinel

from tests.cluster.support import QUICK, left, planes, until, until_down, until_up
from tests.support.fault_proxy import FaultProxy
from tests.support.redis_server import RedisNodes, RedisServer, free_port, program

LONGEST = 20.0
"""Seconds that a call may take before this is a hang. They take 50 ms, on a machine that has nothing else to do."""


async def outcome(plane: Plane, *commands) -> object:
    """What a call comes to; fails when it does not come to an end."""
    async with asyncio.timeout(LONGEST):
        try:
            return await plane.call(*(commands or (("PING",),)))
        except PlaneUnavailableError as error:
            return error


async def until_answered(plane: Plane) -> None:
    """Until a call is answered in time."""
    until_then = time.monotonic() + 60
    while await outcome(plane) != [b"PONG"]:
        assert time.monotonic() < until_then, "no call is answered in time"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def proxied(server, **options):
    async with FaultProxy(server.port) as proxy, planes(f"redis://127.0.0.1:{proxy.port}/0", **options) as (plane,):
        yield proxy, plane


# -- callers that leave ------------------------------------------------------------------------------------------------


async def test_without_care_the_next_caller_gets_the_answer_of_one_who_left(clean_redis):
    """The positive control: what a client does that leaves an answer on its connection."""
    connection = Connection(host="127.0.0.1", port=clean_redis.port, protocol=2, socket_timeout=None)
    await connection.connect()

    async def ask(what: str) -> bytes:
        await connection.send_command("ECHO", what)
        return await connection.read_response(disconnect_on_error=False)

    first = asyncio.create_task(ask("of ann"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    assert await ask("of ben") == b"of ann"
    await connection.disconnect(nowait=True)


async def test_10_000_callers_that_leave_at_any_time_get_and_give_nobody_elses_answer(clean_redis, request):
    draw = random.Random(9)
    wrong, answered, cancelled, unavailable = [], 0, 0, 0

    async def ask(plane: Plane, n: int) -> None:
        nonlocal answered, unavailable
        try:
            if n % 3:
                replies = await plane.call(("ECHO", f"{n}-a"), ("ECHO", f"{n}-b"))
            else:
                replies = await plane.script("test.echo", ["{k}"], [f"{n}-a", f"{n}-b"])
        except PlaneUnavailableError:
            unavailable += 1
            return
        if replies != [b"%d-a" % n, b"%d-b" % n]:
            wrong.append((n, replies))
        answered += 1

    async with proxied(clean_redis) as (proxy, plane):
        plane.add_scripts({"test.echo": "return {ARGV[1], ARGV[2]}"})
        n = 0
        while cancelled < 10_000:
            tasks = [asyncio.create_task(ask(plane, n + more)) for more in range(40)]
            n += len(tasks)
            leaving = draw.sample(tasks, 30)
            for task in leaving:
                if draw.random() < 0.3:
                    await asyncio.sleep(0)
                elif draw.random() < 0.02:
                    await asyncio.sleep(draw.uniform(0, 0.002))
                cancelled += task.cancel()
            if n % 8_000 == 0:
                proxy.cut()
            if n % 2_000 == 0:
                proxy.chop(draw.choice([0, 1, 7, 200]))
            if n % 6_000 == 0:
                clean_redis.do("SCRIPT", "FLUSH")
            await asyncio.gather(*tasks, return_exceptions=True)
            assert wrong == []
            if plane.state == "down":
                await until_up(plane)
        assert wrong == []
        assert answered > 1_000
        await until(lambda: plane._link.held == 0 and plane._link.held_bytes == 0)
    print(f"{cancelled} cancelled, {answered} answered, {unavailable} unavailable")


async def test_a_connection_that_was_cut_is_not_made_again_behind_the_planes_back(fresh_redis, monkeypatch):
    """What the client library would do with the next command, without what a connection begins with."""
    draw, wrong = random.Random(9), []
    monkeypatch.setattr("isolane.cluster.redis.line.LAST_DELAY", 0.02)

    async def ask(plane: Plane, n: int) -> None:
        with contextlib.suppress(PlaneUnavailableError):
            if (reply := await plane.call(("ECHO", str(n)))) != [b"%d" % n]:
                wrong.append((n, reply))

    async with planes(fresh_redis.url) as (plane,):
        for n in range(100):
            tasks = [asyncio.create_task(ask(plane, 10 * n + more)) for more in range(5)]
            for _ in range(draw.randrange(6)):
                await asyncio.sleep(0)
            plane._link.cut()
            tasks += [asyncio.create_task(ask(plane, 10 * n + 5 + more)) for more in range(5)]
            await asyncio.gather(*tasks)
            await until_up(plane)
        assert wrong == []
        with fresh_redis.client() as client:
            before = client.info("stats")["total_connections_received"]
            of_tests = before - plane._subscriber.connections - plane._link.figures()["connections"]
        with RedisServer(fresh_redis.folder.parent / "other") as other, other.client() as client:
            assert of_tests == client.info("stats")["total_connections_received"], (
                "a connection was made behind its back"
            )


async def test_who_leaves_before_it_was_sent_is_not_sent(clean_redis):
    async with planes(clean_redis.url) as (plane,):
        plane.call(("SET", "left", "1")).cancel()
        await plane.call(("SET", "stayed", "1"))
        assert await plane.call(("EXISTS", "left"), ("EXISTS", "stayed")) == [0, 1]


async def test_a_start_and_a_stop_that_are_cancelled_leave_nothing(clean_redis):
    over, at = False, 0
    while not over:
        plane = Plane(clean_redis.url)
        task = asyncio.create_task(plane.start())
        for _ in range(at):
            await asyncio.sleep(0)
        over = task.done()
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            assert not plane.is_started
        await plane.stop()
        await until(lambda: not left())
        at += 1
    over, most, at = False, at, 0
    while not over:
        plane = Plane(clean_redis.url)
        await plane.start()
        waiting = plane.call(("DEBUG", "SLEEP", "0.01"), timeout=60)
        task = asyncio.create_task(plane.stop())
        for _ in range(at):
            await asyncio.sleep(0)
        over = task.done()
        task.cancel()
        await asyncio.wait([task])
        if not at:
            # It had not begun.
            await plane.stop()
        assert not plane.is_started
        await until(lambda: not left())
        assert waiting.done(), "somebody waits for a plane that was stopped"
        at += 1
        assert at < 5_000
    assert most > 3
    assert at > 1


# -- Redis is slow, frozen, gone ---------------------------------------------------------------------------------------


FAULTS = {
    "cut": lambda proxy, server: proxy.cut(),
    "hung up": lambda proxy, server: proxy.hang_up(),
    "half open": lambda proxy, server: proxy.half_open(),
    "black hole": lambda proxy, server: (proxy.pause(), proxy.half_open()),
    "refused": lambda proxy, server: (proxy.refuse(), proxy.cut()),
    "slow": lambda proxy, server: proxy.delay(0.4),
    "in pieces": lambda proxy, server: proxy.chop(3),
    "frozen": lambda proxy, server: server.freeze(),
    "killed": lambda proxy, server: server.kill(),
}
HARMLESS = {"in pieces", "cut", "hung up"}


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_call_hangs_and_all_is_well_again_afterwards(fault, clean_redis, caplog):
    caplog.set_level(logging.INFO, "isolane.cluster")
    states = []
    async with proxied(clean_redis, call_timeout=QUICK) as (proxy, plane):
        plane.on_state(states.append)
        await until_answered(plane)
        FAULTS[fault](proxy, clean_redis)
        began, longest, failed = time.monotonic(), 0.0, 0
        while time.monotonic() - began < 2.5:
            asked = time.monotonic()
            result = await outcome(plane)
            longest = max(longest, time.monotonic() - asked)
            failed += isinstance(result, PlaneUnavailableError)
            await asyncio.sleep(0.005)
        if fault not in HARMLESS and fault != "half open":
            assert failed, "the fault was not felt"
            await until_down(plane)
        proxy.heal()
        clean_redis.thaw()
        clean_redis.start()
        await until_up(plane)
        await until(lambda: plane._link.held == 0)
        await until_answered(plane)
        print(f"{fault}: the longest call took {longest * 1000:.0f} ms, {failed} failed")
    lines = [record.getMessage() for record in caplog.records if record.name == "isolane.cluster"]
    downs = sum("cannot be used" in line for line in lines)
    assert downs == states.count("down")
    assert states == [("down", "up")[n % 2] for n in range(len(states))], "a change was told that was none"


async def test_calls_fail_at_once_while_it_is_known_that_nobody_answers(fresh_redis):
    async with planes(fresh_redis.url, call_timeout=QUICK) as (plane,):
        await until_answered(plane)
        fresh_redis.freeze()
        # What the plane asks by itself counts as well.
        first = await outcome(plane)
        assert (first.reason, first.sent) == ("timeout", True)
        while plane.state == "up":
            assert isinstance(await outcome(plane), PlaneUnavailableError)
        asked = time.monotonic()
        for _ in range(500):
            error = await outcome(plane)
            assert (error.reason, error.sent) == ("down", False)
        assert time.monotonic() - asked < LONGEST, "500 calls waited for a server that does not answer"
        assert not plane.hint("x")
        fresh_redis.thaw()
        await until_up(plane)


async def test_a_redis_that_is_not_there_at_the_start_is_waited_for(fresh_redis, caplog):
    caplog.set_level(logging.INFO, "isolane.cluster")
    fresh_redis.kill()
    async with planes(fresh_redis.url) as (plane,):
        assert plane.state == "down"
        assert "cannot be used" in caplog.text
        with pytest.raises(PlaneUnavailableError):
            plane.user_key("ann")
        heard = []
        plane.listen("runs", heard.append)
        fresh_redis.start()
        await until_up(plane)
        assert plane.user_key("ann")
        await until(lambda: heard)
    assert caplog.text.count("cannot be used") == 1


async def test_a_redis_that_takes_connections_and_says_nothing_holds_up_no_start(fresh_redis):
    fresh_redis.freeze()
    began = time.monotonic()
    async with asyncio.timeout(LONGEST), planes(fresh_redis.url) as (plane,):
        print(f"started in {time.monotonic() - began:.1f} s")
        assert plane.state == "down"
        fresh_redis.thaw()
        await until_up(plane)


async def test_what_waits_is_bounded(fresh_redis, monkeypatch):
    monkeypatch.setattr(link_module, "MAX_CALLS", 200)
    monkeypatch.setattr(link_module, "MAX_BYTES", 100_000)
    async with planes(fresh_redis.url, call_timeout=QUICK) as (plane,):
        await until_answered(plane)
        fresh_redis.freeze()
        waiting = [plane.call(("PING",)) for _ in range(300)]
        assert plane._link.held == 200
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [error.reason for error in results[200:]] == ["full"] * 100
        assert {error.reason for error in results[:200]} <= {"timeout", "down"}
        assert plane.figures()["link"]["refused"] >= 100
        fresh_redis.thaw()
        await until_up(plane)
        await until(lambda: plane._link.held == 0 and plane._link.held_bytes == 0)
        too_much = [plane.call(("SET", "x", b"x" * 30_000), timeout=LONGEST) for _ in range(4)]
        results = await asyncio.gather(*too_much, return_exceptions=True)
        assert [getattr(result, "reason", "ok") for result in results] == ["ok", "ok", "ok", "full"]
        assert plane._link.held_bytes == 0


async def test_more_than_the_network_takes_at_once_arrives(clean_redis):
    async with proxied(clean_redis) as (proxy, plane):
        proxy.throttle(20_000_000)
        many = [plane.call(("SET", f"k{n}", b"x" * 50_000), ("STRLEN", f"k{n}"), timeout=LONGEST) for n in range(200)]
        assert [size for _, size in await asyncio.gather(*many)] == [50_000] * 200
        assert len((await plane.call(("GET", "k1"), timeout=LONGEST))[0]) == 50_000


async def test_a_burst_larger_than_50_ms_of_work_is_answered_by_a_server_that_is_well(clean_redis):
    async with planes(clean_redis.url, call_timeout=QUICK) as (plane,):
        began, failed = time.monotonic(), 1
        # At the first try, on a machine that has nothing else to do.
        while failed:
            assert time.monotonic() - began < 60
            await until_up(plane)
            results = await asyncio.gather(*(outcome(plane) for _ in range(5_000)))
            failed = sum(result != [b"PONG"] for result in results)
            print(f"{failed} of 5000 calls were not answered in time")


async def test_a_loop_that_was_held_up_does_not_take_redis_for_gone(clean_redis):
    async def held_up() -> bool:
        """Whether all calls were answered though the loop stood still."""
        async with planes(clean_redis.url, call_timeout=QUICK) as (plane,):
            if plane.state != "up":
                return False
            for seconds in (0.2, 0.2, 0.2, 1.5):
                waiting = asyncio.create_task(outcome(plane))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                time.sleep(seconds)  # noqa: ASYNC251 - it is what is tested
                if await waiting != [b"PONG"]:
                    return False
            return plane.state == "up" and plane.figures()["link"]["connections"] == 1

    began = time.monotonic()
    while not await held_up():
        assert time.monotonic() - began < 60, "a loop that stood still takes Redis for gone"


# -- Redis is back, empty, or another one ------------------------------------------------------------------------------


async def test_a_redis_that_lost_its_data_is_told_to_who_follows(fresh_redis, caplog):
    async with planes(fresh_redis.url, 2) as (one, other):
        user = one.user_key("ann")
        emptied = []
        one.on_emptied(lambda: emptied.append((one.life, one.user_key("ann"))))
        life = one.life
        assert life == other.life
        fresh_redis.restart(empty=True)
        await until(lambda: emptied and one.life == other.life and one.state == other.state == "up")
        assert emptied == [(one.life, user)], "users have other keys than before"
        assert one.life != life
        assert set(other.processes()) | {one.worker} == {one.worker, other.worker}
        fresh_redis.flush()
        one._beat_ticker.wake()
        await until(lambda: len(emptied) == 2)
        assert one.user_key("ann") == other.user_key("ann") == user
    assert "has lost its data" in caplog.text


async def test_a_redis_that_kept_its_data_is_as_before(tmp_path):
    with RedisServer(tmp_path / "kept", keep=True) as server:
        async with planes(server.url) as (plane,):
            emptied, life = [], plane.life
            plane.on_emptied(lambda: emptied.append(1))
            assert await plane.call(("SET", "x", "1"), timeout=LONGEST) == [b"OK"]
            server.restart(empty=False)
            await until(lambda: plane.figures()["link"]["connections"] > 1 and plane.state == "up")
            assert await plane.call(("GET", "x"), timeout=LONGEST) == [b"1"]
            await plane._beat()
            assert (emptied, plane.life) == ([], life)


async def test_hints_that_were_lost_are_made_up_for_by_a_look(clean_redis):
    async with proxied(clean_redis) as (proxy, plane):
        heard = []
        plane.listen("runs", heard.append)
        await until(lambda: heard == [b""])
        for count in (2, 3):
            proxy.cut()
            await until(lambda count=count: len(heard) >= count)
        assert set(heard) == {b""}
        await until(lambda: plane.hint("runs", b"new") and b"new" in heard)


async def test_a_deaf_connection_for_hints_is_noticed(clean_redis, monkeypatch):
    monkeypatch.setattr("isolane.cluster.redis.subscriber.PING_SECONDS", 0.1)
    monkeypatch.setattr("isolane.cluster.redis.subscriber.DEAF_SECONDS", 0.5)
    async with proxied(clean_redis) as (proxy, plane):
        heard = []
        plane.listen("runs", heard.append)
        await until(lambda: heard == [b""])
        proxy.half_open()
        await until(lambda: len(heard) > 1)
        # One that goes out before the fault is noticed on that connection is lost.
        await until(lambda: plane.hint("runs", b"new") and b"new" in heard)


async def test_a_command_is_found_though_no_hint_ever_comes(clean_redis):
    async with planes(clean_redis.url, 2) as (one, other):
        got = []
        other.on_command("stop", got.append)
        ending = other._subscriber.cancel()
        await asyncio.wait(ending)
        await one.send(other.worker, "stop", b"x")
        began = time.monotonic()
        await until(lambda: got)
        print(f"found after {time.monotonic() - began:.2f} s")


async def test_a_server_that_became_a_replica_is_left_and_found_again(tmp_path):
    with RedisServer(tmp_path / "a") as first, RedisServer(tmp_path / "b") as second:
        async with planes(first.url) as (plane,):
            first.do("REPLICAOF", "127.0.0.1", second.port)
            error = await outcome(plane, ("SET", "x", "1"))
            assert isinstance(error, PlaneUnavailableError)
            await until_down(plane)
            first.promote()
            await until_up(plane)
            assert await outcome(plane, ("SET", "x", "1")) == [b"OK"]


async def test_a_server_that_loads_or_is_full_is_unavailable_and_no_error_of_the_command(fresh_redis):
    async with planes(fresh_redis.url) as (plane,):
        await plane.call(("SET", "x", b"x" * 100_000))
        fresh_redis.do("CONFIG", "SET", "maxmemory", "100kb")
        error = await outcome(plane, ("SET", "y", "1"))
        assert (error.reason, error.sent) == ("refused", True)
        plane._beat_ticker.wake()
        await until_down(plane)
        assert "maxmemory" in plane.reason
        fresh_redis.do("CONFIG", "SET", "maxmemory", "0")
        await until_up(plane)
        assert await outcome(plane, ("SET", "y", "1")) == [b"OK"]


async def test_a_client_that_the_server_throws_out_comes_back(clean_redis):
    async with planes(clean_redis.url) as (plane,):
        for _ in range(3):
            clean_redis.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            clean_redis.do("CLIENT", "KILL", "TYPE", "pubsub")
            await until_up(plane)
            await asyncio.sleep(0.01)
        await until_answered(plane)


class Sentinels:
    """One sentinel that watches a primary with a replica; it decides alone."""

    def __init__(self, folder):
        self.first = RedisServer(folder / "first")
        self.folder, self.port, self.process = folder, 0, None

    def __enter__(self):
        self.first.start()
        self.second = self.first.replica(self.folder / "second")
        self.port = free_port()
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor main 127.0.0.1 {self.first.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        )
        with (self.folder / "sentinel.log").open("wb") as log:
            self.process = subprocess.Popen(
                [program(), str(config), "--sentinel"], stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        self.first.kill()
        self.second.kill()


async def test_a_primary_that_sentinels_replace_is_followed(tmp_path):
    with Sentinels(tmp_path) as sentinels:
        sentinel = Sentinel([("127.0.0.1", sentinels.port)], sentinel_kwargs={"socket_timeout": 5})
        client = sentinel.master_for("main")
        async with planes(client) as (plane,):
            await until_up(plane)
            assert await outcome(plane, ("SET", "x", "1")) == [b"OK"]
            # The sentinel has to know of the replica before it can promote it.
            until_known = time.monotonic() + 30
            while not (await sentinel.sentinels[0].sentinel_slaves("main")) and time.monotonic() < until_known:
                await asyncio.sleep(0.2)
            began = time.monotonic()
            sentinels.first.kill()
            await until_down(plane)
            await until(lambda: plane.state == "up", 60)
            print(f"back after {time.monotonic() - began:.1f} s")
            assert await outcome(plane, ("SET", "x", "2")) == [b"OK"]
            assert sentinels.second.do("GET", "x") == b"2"
        await client.aclose()
        for each in sentinel.sentinels:
            await each.aclose()


@pytest.mark.parametrize(
    "command",
    [
        ("SUBSCRIBE", "a", "b"),
        (b"blpop", "a", 0),
        ("MULTI",),
        ("QUIT",),
        ("SELECT", 1),
        ("XREAD", "BLOCK", 0, "STREAMS", "a", 0),
        ("CLIENT", "REPLY", "OFF"),
    ],
)
async def test_what_would_change_the_connection_for_others_is_not_sent(command, clean_redis):
    async with planes(clean_redis.url) as (plane,):
        with pytest.raises(ValueError, match="connection of all"):
            plane.call(("PING",), command)
        assert await plane.call(("PING",)) == [b"PONG"]
        # Its neighbours are.
        near = (("SET", "a", "BLOCK"), ("XADD", "s", "1-0", "BLOCK", "1"), ("XREAD", "COUNT", 1, "STREAMS", "s", 0))
        assert len(await plane.call(*near, ("DEL", "a", "s"))) == 4


async def test_an_answer_that_nobody_asked_for_ends_the_connection(clean_redis, monkeypatch):
    monkeypatch.setattr(link_module, "NOT_SHARED", frozenset())
    async with planes(clean_redis.url) as (plane,):
        # Two answers to one command. The second one is nobody's.
        assert await plane.call(("SUBSCRIBE", "a", "b")) == [[b"subscribe", b"a", 1]]
        await until(lambda: plane.figures()["link"]["connections"] == 2)
        await until(lambda: plane.state == "up")
        assert await plane.call(("PING",)) == [b"PONG"]


async def test_a_server_that_is_no_redis_stops_no_application():
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                writer.write(b"+PONG\r\n" * 50)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with planes(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"):
        await asyncio.sleep(0.05)
    server.close()
    await asyncio.sleep(0.05)


# -- a cluster ---------------------------------------------------------------------------------------------------------


async def test_in_a_cluster_a_node_that_dies_takes_only_its_keys_away_until_its_replica_is_promoted(tmp_path):
    with RedisNodes(tmp_path, replicas=1) as nodes:
        async with planes(nodes.url) as (plane,):
            home = nodes.owner(plane.key("plane", "procs"))
            names = {nodes.owner(f"key-{n}").port: f"key-{n}" for n in range(50)}
            victim = next(port for port in names if port != home.port)
            other = next(port for port in names if port not in {home.port, victim})
            lost = next(node for node in nodes.servers if node.port == victim)
            began = time.monotonic()
            lost.kill()
            assert isinstance(await outcome(plane, ("GET", names[victim])), PlaneUnavailableError)
            assert await outcome(plane, ("GET", names[other])) == [None]
            assert plane.state == "up"
            back = None
            while not isinstance(back, list):
                back = await outcome(plane, ("SET", names[victim], "1"))
                assert time.monotonic() - began < 60
                await asyncio.sleep(0.05)
            print(f"its keys were back after {time.monotonic() - began:.1f} s")
            # And the one that says how the plane is.
            home.kill()
            await until(lambda: plane.state == "down")
            await until(lambda: plane.state == "up", 60)
            assert await outcome(plane, ("SET", names[home.port], "1")) == [b"OK"]
