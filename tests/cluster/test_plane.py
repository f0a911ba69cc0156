"""The plane on a real redis-server: calls, scripts, hints, commands, and who else is there."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys

import pytest
from isolane.cluster import Command, Plane, PlaneUnavailableError
from isolane.cluster.redis import Target
from isolane.cluster.redis.link import key_of
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from tests.cluster.support import left, planes, until, until_up
from tests.support.redis_server import RedisServer, free_port

SECRET = "kept-to-itself-9"


# -- calls -------------------------------------------------------------------------------------------------------------


async def test_a_call_has_an_answer_for_each_command_and_a_wrong_one_is_an_error_in_its_place(clean_redis):
    async with planes(clean_redis.url) as (plane,):
        replies = await plane.call(("SET", "x", "1"), ("HGET", "x", "f"), ("INCR", "x"))
        assert await plane.call() == []
    assert replies[0] == b"OK"
    assert isinstance(replies[1], ResponseError)
    assert replies[2] == 2


@pytest.mark.parametrize("word", [None, True, [1], object()])
async def test_what_cannot_be_sent_is_refused_before_anything_is(word, clean_redis):
    async with planes(clean_redis.url) as (plane,):
        with pytest.raises(TypeError, match="Redis takes bytes, texts and numbers"):
            plane.call(("SET", "x", 1), ("SET", "y", word))
        assert await plane.call(("EXISTS", "x"), ("SET", "y", 1.5), ("GET", b"y")) == [0, b"OK", b"1.5"]
        assert plane.figures()["link"]["connections"] == 1


async def test_a_script_is_run_and_what_it_raises_is_raised(clean_redis):
    async with planes(clean_redis.url) as (plane,):
        plane.add_scripts(
            {"test.pair": "return {KEYS[1], ARGV[1]}", "test.fails": "return redis.call('INCR', KEYS[1])"}
        )
        assert await plane.script("test.pair", ["{a}k"], ["v"]) == [b"{a}k", b"v"]
        await plane.call(("SET", "{a}text", "x"))
        with pytest.raises(ResponseError):
            await plane.script("test.fails", ["{a}text"])
        replies = await plane.call(
            plane.script_command("test.pair", ["{a}k"], [1]),
            ("GET", "{a}text"),
            plane.script_command("test.pair", ["k"], [2]),
        )
        assert replies == [[b"{a}k", b"1"], b"x", [b"k", b"2"]]
        with pytest.raises(ValueError, match="another script"):
            plane.add_scripts({"test.pair": "return 1"})


async def test_a_script_that_the_server_lost_is_sent_again(clean_redis):
    async with planes(clean_redis.url) as (plane,):
        plane.add_scripts({"test.count": "return redis.call('INCR', KEYS[1])"})
        for count in (1, 2, 3):
            assert await plane.script("test.count", ["n"]) == count
            clean_redis.do("SCRIPT", "FLUSH")


async def test_values_are_bytes_whatever_the_applications_client_makes_of_them(clean_redis):
    client = Redis(host="127.0.0.1", port=clean_redis.port, decode_responses=True, protocol=3)
    async with planes(client) as (plane,):
        assert await plane.call(("SET", "x", b"\xff"), ("GET", "x"), ("HSET", "h", "a", 1), ("HGETALL", "h")) == [
            b"OK",
            b"\xff",
            1,
            [b"a", b"1"],
        ]
    await client.aclose()


@pytest.mark.parametrize("kind", ["url", "client", "pool", "blocking", "several urls"])
async def test_what_a_plane_can_be_made_of(kind, clean_redis):
    url = clean_redis.url
    sources = {
        "url": lambda: url,
        "client": lambda: Redis.from_url(url, health_check_interval=1, retry_on_timeout=True, max_connections=3),
        "pool": lambda: ConnectionPool.from_url(url, socket_timeout=0.001),
        "blocking": lambda: Redis(connection_pool=BlockingConnectionPool.from_url(url, max_connections=1, timeout=1)),
        "several urls": lambda: f"redis://127.0.0.1:1/0, {url}",
    }
    source = sources[kind]()
    async with planes(source) as (plane,):
        await until_up(plane)
        assert await plane.call(("PING",)) == [b"PONG"]
        if isinstance(source, Redis):
            assert not source.connection_pool._in_use_connections
            assert not source.connection_pool._available_connections, "a connection of the application's was used"


@pytest.mark.parametrize("source", [None, 5, object(), Redis])
def test_what_it_cannot_be_made_of(source):
    with pytest.raises(TypeError, match="takes a URL, or a client"):
        Plane(source)


def test_a_url_of_something_else_is_refused_without_its_password():
    with pytest.raises(ValueError, match="is no URL of a Redis") as refused:
        Plane(f"http://ann:{SECRET}@host/0")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("prefix", ["", "a{b}", "a b", "a*"])
def test_a_prefix_that_would_spoil_keys_is_refused(prefix):
    with pytest.raises(ValueError, match="prefix"):
        Plane("redis://127.0.0.1:1/0", prefix=prefix)


async def test_a_user_and_a_password_are_sent_and_never_shown(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with RedisServer(tmp_path / "acl") as server:
        server.do(
            "ACL",
            "SETUSER",
            "lane",
            "on",
            f">{SECRET}",
            "~isolane:*",
            "~{isolane:*",
            "&isolane:*",
            "+@all",
            "-@dangerous",
        )
        url = f"redis://lane:{SECRET}@127.0.0.1:{server.port}/0"
        client = Redis.from_url(url)
        for source in (url, client):
            async with planes(source) as (plane,):
                assert plane.state == "up"
                assert (await plane.call(("ACL", "WHOAMI")))[0] is not None
                assert (await plane.call(("CLIENT", "GETNAME")))[0] == f"isolane-{plane.worker}".encode()
                heard = []
                plane.listen("news", heard.append)
                await until(lambda heard=heard: heard)
                assert SECRET not in str(plane.figures()) + str(plane.target) + repr(plane)
        await client.aclose()
        wrong = f"redis://lane:not-{SECRET}@127.0.0.1:{server.port}/0"
        async with planes(wrong) as (plane,):
            assert plane.state == "down"
            with pytest.raises(PlaneUnavailableError) as refused:
                await plane.call(("PING",))
            assert SECRET not in str(refused.value) + plane.reason
    assert SECRET not in caplog.text


async def test_a_unix_socket(tmp_path):
    path = tmp_path / "redis.sock"
    with RedisServer(tmp_path / "unix", "--unixsocket", str(path)):
        async with planes(f"unix://{path}") as (plane,):
            assert await plane.call(("PING",)) == [b"PONG"]


def certified(folder):
    certificate, key = folder / "server.crt", folder / "server.key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    return certificate, key


async def test_an_encrypted_connection(tmp_path):
    certificate, key = certified(tmp_path)
    tls = free_port()
    options = ("--tls-port", str(tls), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    with RedisServer(tmp_path / "tls", *options, "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"):
        async with planes(f"rediss://127.0.0.1:{tls}/0?ssl_ca_certs={certificate}") as (plane,):
            assert await plane.call(("PING",)) == [b"PONG"]
        async with planes(f"rediss://127.0.0.1:{tls}/0") as (plane,):
            assert plane.state == "down", "a certificate that nobody vouches for was taken"


# -- users and workers -------------------------------------------------------------------------------------------------


async def test_workers_know_each_other_and_call_a_user_by_the_same_key(clean_redis):
    async with planes(clean_redis.url, 2) as (one, other):
        assert set(other.processes()) == {one.worker, other.worker}
        assert one.user_key("ann") == other.user_key("ann") != one.user_key("ben")
        assert re.fullmatch(r"[0-9a-f]{32}", one.user_key("ann"))
        await other.stop()
        await one._beat()
        assert one.processes() == (one.worker,), "a worker that said goodbye is still there"


async def test_workers_of_another_prefix_are_others(clean_redis):
    async with planes(clean_redis.url, prefix="a") as (one,), planes(clean_redis.url, prefix="b") as (other,):
        assert one.processes() == (one.worker,)
        assert other.processes() == (other.worker,)
        assert one.user_key("ann") != other.user_key("ann")


async def test_a_worker_that_dies_is_forgotten_by_the_servers_clock(clean_redis):
    async with planes(clean_redis.url) as (plane,):
        procs = plane.key("plane", "procs")
        now = int(clean_redis.do("TIME")[0]) * 1000
        clean_redis.do("ZADD", procs, now - 16_000, "dead", now - 10_000, "living")
        await plane._beat()
        assert set(plane.processes()) == {plane.worker, "living"}


async def test_a_key_of_the_settings_is_used_and_not_kept_in_redis(clean_redis, caplog):
    key = "0123456789abcdef-of-settings"
    async with planes(clean_redis.url, key=key) as (one,), planes(clean_redis.url, key=key) as (other,):
        assert one.user_key("ann") == other.user_key("ann")
        kept = b" ".join(clean_redis.do("GET", name) or b"" for name in (one.key("plane", "secret"),))
        assert key.encode() not in kept
        assert not caplog.records or all(record.levelno < logging.ERROR for record in caplog.records)
        async with planes(clean_redis.url, key="another-0123456789") as (wrong,):
            assert wrong.user_key("ann") != one.user_key("ann")
            assert "other workers have another ISOLANE_CLUSTER_KEY" in caplog.text
        async with planes(clean_redis.url) as (without,):
            with pytest.raises(PlaneUnavailableError, match="give it the same"):
                without.user_key("ann")


async def test_a_plane_that_is_started_again_is_another_worker(clean_redis):
    plane = Plane(clean_redis.url)
    workers = set()
    for _ in range(2):
        await plane.start()
        await plane.start()
        workers.add(plane.worker)
        assert await plane.call(("PING",)) == [b"PONG"]
        await plane.stop()
        await plane.stop()
        with pytest.raises(PlaneUnavailableError) as refused:
            await plane.call(("PING",))
        assert (refused.value.reason, refused.value.sent) == ("stopped", False)
    assert len(workers) == 2
    assert not left()


def test_it_is_started_again_on_another_loop(clean_redis):
    plane = Plane(clean_redis.url)
    ticks = []

    async def tick() -> None:
        ticks.append(1)

    plane.every(0.01, tick, "test")

    async def live() -> None:
        await plane.start()
        before = len(ticks)
        await until(lambda: len(ticks) > before + 2)
        await plane.stop()

    asyncio.run(live())
    asyncio.run(live())


FORKED = """
import asyncio, os, sys
from isolane.cluster import Plane, PlaneUnavailableError

async def main():
    plane = Plane(sys.argv[1])
    before = plane.worker
    await plane.start()
    assert plane.worker == before
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert plane.worker != before
            async def in_the_child():
                try:
                    await plane.call(("PING",))
                except PlaneUnavailableError as error:
                    assert "forked" in str(error), error
                else:
                    raise AssertionError("the child used its parent's connection")
                await plane.stop()
                await plane.start()
                assert plane.worker != before
                assert await plane.call(("PING",)) == [b"PONG"]
                assert set(plane.processes()) == {plane.worker, before}
                await plane.stop()
            asyncio._set_running_loop(None)
            asyncio.run(in_the_child())
            code = 0
        except BaseException as error:
            print("child:", repr(error), flush=True)
        os._exit(code)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        assert await plane.call(("PING",)) == [b"PONG"]
        await asyncio.sleep(0.01)
    for _ in range(100):
        assert await plane.call(("PING",)) == [b"PONG"]
    await plane.stop()
    print("good")

asyncio.run(main())
"""


def test_a_child_leaves_its_parents_connections_alone(clean_redis):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, clean_redis.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.stdout == "good\n", done.stdout + done.stderr


# -- hints and commands ------------------------------------------------------------------------------------------------


async def test_a_hint_reaches_who_listens_and_nobody_else(clean_redis):
    async with planes(clean_redis.url, 2) as (one, other):
        heard, elsewhere = [], []
        other.listen("runs", heard.append)
        other.listen("flags", elsewhere.append)
        await until(lambda: heard and elsewhere)
        assert heard == elsewhere == [b""], "it was not told to look when it began to listen"
        assert one.hint("runs", b"1 is new")
        await until(lambda: len(heard) > 1)
        assert heard == [b"", b"1 is new"]
        assert elsewhere == [b""]
        other.unlisten("runs")
        other.unlisten("runs")
        await asyncio.sleep(0.05)
        one.hint("runs", b"2 is new")
        one.hint("flags", b"x")
        await until(lambda: len(elsewhere) > 1)
        assert len(heard) == 2
        other.listen("runs", heard.append)
        await until(lambda: len(heard) > 2)
        with pytest.raises(ValueError, match="listens"):
            other.listen("runs", heard.append)


async def test_a_handler_that_fails_is_told_of_once_and_the_others_hear(clean_redis, caplog):
    async with planes(clean_redis.url) as (plane,):
        heard = []

        def fails(payload: bytes) -> None:
            raise KeyError(payload)

        plane.listen("bad", fails)
        plane.listen("good", heard.append)
        await until(lambda: heard)
        for _ in range(5):
            plane.hint("bad")
            plane.hint("good", b"x")
        await until(lambda: len(heard) == 6)
    assert caplog.text.count("what listens to") == 1


async def test_a_command_is_obeyed_once_by_the_worker_that_it_is_for(clean_redis):
    async with planes(clean_redis.url, 3) as (one, two, three):
        got = {plane.worker: [] for plane in (one, two, three)}
        for plane in (one, two, three):
            plane.on_command("stop", got[plane.worker].append)
        for n in range(300):
            await one.send(two.worker, "stop", b"%d" % n)
        await one.send(one.worker, "stop", b"myself")
        await until(lambda: len(got[two.worker]) == 300 and got[one.worker])
        await two._collect()
        assert got[two.worker] == [Command("stop", b"%d" % n, one.worker) for n in range(300)]
        assert got[one.worker] == [Command("stop", b"myself", one.worker)]
        assert got[three.worker] == []
        await until(lambda: not two._read or two._command_ticker.wake() or False)
        assert clean_redis.do("XLEN", two.key(f"w:{two.worker}", "cmd")) == 0
        with pytest.raises(ValueError, match="handler"):
            one.on_command("stop", print)


async def test_a_command_that_comes_twice_is_obeyed_once(clean_redis):
    async with planes(clean_redis.url) as (plane,):
        got = []
        plane.on_command("stop", got.append)
        key = plane.key(f"w:{plane.worker}", "cmd")
        for _ in range(2):
            clean_redis.do("XADD", key, "*", "i", "the same", "k", "stop", "f", "someone", "p", "x")
        clean_redis.do("XADD", key, "*", "i", "another", "k", "stop", "f", "someone", "p", "y")
        clean_redis.do("XADD", key, "*", "k", "unknown")
        await until(lambda: len(got) == 2)
        assert [command.payload for command in got] == [b"x", b"y"]
        await until(lambda: plane.figures().get("commands_unknown") == 1)


async def test_a_command_whose_hint_was_lost_is_found_by_looking(clean_redis, monkeypatch):
    async with planes(clean_redis.url, 2) as (one, other):
        got = []
        other.on_command("stop", got.append)
        monkeypatch.setattr(one, "hint_command", lambda *_: ("PING",))
        await one.send(other.worker, "stop", b"x")
        await until(lambda: got)


async def test_a_command_that_takes_long_holds_up_nothing_and_one_that_fails_is_logged(clean_redis, caplog):
    async with planes(clean_redis.url) as (plane,):
        let_go, done = asyncio.Event(), []

        async def slow(command: Command) -> None:
            await let_go.wait()
            done.append(command.payload)

        async def fails(command: Command) -> None:
            raise KeyError(command.kind)

        def fails_at_once(command: Command) -> None:
            raise KeyError(command.kind)

        plane.on_command("slow", slow)
        plane.on_command("fails", fails)
        plane.on_command("fails at once", fails_at_once)
        plane.on_command("quick", lambda command: done.append(command.payload))
        for kind in ("slow", "fails", "fails at once", "quick"):
            await plane.send(plane.worker, kind, kind.encode())
        await until(lambda: done)
        assert done == [b"quick"]
        let_go.set()
        await until(lambda: done == [b"quick", b"slow"])
    assert caplog.text.count("KeyError: ") == 2


async def test_work_is_done_again_and_again_and_at_once_when_asked(clean_redis, caplog):
    async with planes(clean_redis.url) as (plane,):
        times, errors = [], [KeyError("a"), KeyError("a"), ValueError("b"), PlaneUnavailableError("c")]

        async def fails() -> None:
            times.append(1)
            if errors:
                raise errors.pop(0)

        ticker = plane.every(3_600, fails, "the work of a test")
        for count in range(1, 8):
            await until(lambda count=count: len(times) >= count)
            ticker.wake()
        assert ticker.failures == 4
    assert caplog.text.count("the work of a test failed") == 2, "the same error is logged once, and none of the plane's"
    assert not left()


class Recorded:
    def __init__(self, name, said, *, raises=None):
        self.name, self.said, self.raises = name, said, raises

    async def start(self, plane):
        self.said.append(f"{self.name} starts, {plane.state}")
        if self.raises:
            raise self.raises

    async def stop(self):
        self.said.append(f"{self.name} stops")

    def figures(self):
        return {"name": self.name}


async def test_parts_start_after_the_plane_in_order_and_stop_before_it_in_reverse(clean_redis):
    said = []
    plane = Plane(clean_redis.url)
    plane.add(Recorded("a", said))
    plane.add(Recorded("b", said, raises=PlaneUnavailableError("not yet")))
    await plane.start()
    plane.add(Recorded("c", said))
    await until(lambda: len(said) == 3)
    assert plane.figures()["Recorded"] == {"name": "c"}
    await plane.stop()
    assert said == ["a starts, up", "b starts, up", "c starts, up", "c stops", "b stops", "a stops"]


# -- a cluster ---------------------------------------------------------------------------------------------------------


async def test_in_a_cluster_each_command_goes_where_its_key_is(redis_nodes):
    redis_nodes.flush()
    client = RedisCluster.from_url(redis_nodes.url)
    await client.initialize()
    for source in (redis_nodes.url, redis_nodes.urls, client):
        async with planes(source) as (plane,):
            assert plane.state == "up"
            keys = [f"key-{n}" for n in range(100)]
            assert await plane.call(*(("SET", key, key) for key in keys)) == [b"OK"] * 100
            assert await plane.call(*(("GET", key) for key in keys)) == [key.encode() for key in keys]
            plane.add_scripts({"test.tag": "return redis.call('INCR', KEYS[1])"})
            for n in range(20):
                assert await plane.script("test.tag", [plane.key(f"tag-{n}", "k")]) >= 1
            assert len({line.name for line in plane._link._nodes.values()}) == 3
    await client.aclose()
    assert sum(node.do("DBSIZE") for node in redis_nodes.servers) > 100
    assert all(node.do("DBSIZE") > 10 for node in redis_nodes.servers)


async def test_in_a_cluster_hints_and_commands_reach_all(redis_nodes):
    redis_nodes.flush()
    async with planes(redis_nodes.url) as (one,), planes(redis_nodes.servers[2].url) as (other,):
        heard, got = [], []
        other.listen("runs", heard.append)
        other.on_command("stop", got.append)
        await until(lambda: heard)
        one.hint("runs", b"new")
        await one.send(other.worker, "stop", b"x")
        await until(lambda: b"new" in heard and got)
        await until(lambda: len(one.processes()) == 2 or one._beat_ticker.wake())


async def test_in_a_cluster_a_slot_that_moves_is_followed(redis_nodes):
    redis_nodes.flush()
    key = "moving"
    slot = redis_nodes.servers[0].do("CLUSTER", "KEYSLOT", key)
    async with planes(redis_nodes.url) as (plane,):
        assert await plane.call(("SET", key, "1")) == [b"OK"]
        source = redis_nodes.owner(key)
        target = next(node for node in redis_nodes.servers if node is not source)
        to, of = target.do("CLUSTER", "MYID").decode(), source.do("CLUSTER", "MYID").decode()
        target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", of)
        source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", to)
        source.do("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        # Asked where it was, it says where it is for now.
        assert await plane.call(("GET", key)) == [b"1"]
        assert await plane.call(("INCR", key), ("GET", key)) == [2, b"2"]
        for node in (target, source, *redis_nodes.servers):
            node.do("CLUSTER", "SETSLOT", slot, "NODE", to)
        assert await plane.call(("INCR", key)) == [3]
        before = plane._link._slots[slot]
        assert before[1] == target.port
        # Back again.
        source.do("CLUSTER", "SETSLOT", slot, "IMPORTING", to)
        target.do("CLUSTER", "SETSLOT", slot, "MIGRATING", of)
        target.do("MIGRATE", "127.0.0.1", source.port, key, 0, 5000)
        for node in (source, target, *redis_nodes.servers):
            node.do("CLUSTER", "SETSLOT", slot, "NODE", of)
        assert await plane.call(("INCR", key)) == [4]


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "a"), b"a"),
        (("set", b"a", 1), b"a"),
        (("EVALSHA", "sha", 2, "a", "b", "c"), b"a"),
        (("EVAL", "return 1", 0), None),
        (("XREAD", "COUNT", 1, "STREAMS", "a", "0"), b"a"),
        (("XINFO", "STREAM", "a"), b"a"),
        (("PUBLISH", "a", "b"), None),
        (("PING",), None),
    ],
)
def test_the_key_of_a_command(command, key):
    assert key_of(command) == key


def test_a_target_says_where_it_is_and_not_how_to_get_in():
    assert str(Target(f"redis://ann:{SECRET}@host:1/2?password={SECRET}")) == "redis://***@host:1/2"
    assert str(Target(Redis(host="host", port=1, password=SECRET))) == "host:1"
