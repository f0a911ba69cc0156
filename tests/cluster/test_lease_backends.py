"""One contract for every backend of leases: in memory, on Redis, on Redis Cluster."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import pytest
from isolane._core import lease_scripts
from isolane.cluster import Plane
from isolane.cluster.memory import MemoryLeaseBackend
from isolane.cluster.protocols import LeaseAnswer, LeaseOperation
from isolane.cluster.redis.leases import RedisLeaseBackend

TTL, NO_LIMIT = 60_000, -1


def some(many: int = 1) -> list[bytes]:
    return [secrets.token_bytes(16) for _ in range(many)]


@pytest.fixture(params=["memory", "redis", "cluster"])
async def backend(request):
    if request.param == "memory":
        yield MemoryLeaseBackend()
        return
    server = request.getfixturevalue({"redis": "clean_redis", "cluster": "redis_nodes"}[request.param])
    # Another prefix each time: what the test before held is another limit's.
    plane = Plane(server.url, prefix=f"test-{secrets.token_hex(4)}", call_timeout=10)
    plane.add_scripts({f"lease_{name}": text for name, text in lease_scripts().items()})
    await plane.start()
    yield RedisLeaseBackend(plane, plane.prefix)
    await plane.stop()


class Asker:
    """Says one operation in a line."""

    def __init__(self, backend) -> None:
        self.backend = backend
        self.number = 0

    def operation(
        self, kind: str, ids: Sequence[bytes], user: str = "ann", limit: int = 2, total: int = NO_LIMIT, **more
    ):
        self.number += 1
        ttl, name = more.get("ttl", TTL), more.get("name", "llm")
        return LeaseOperation(self.number, kind, name, user, list(ids), ttl, limit, total)

    async def __call__(self, kind: str, ids: Sequence[bytes], *arguments, **more):
        (reply,) = await self.backend.run([self.operation(kind, ids, *arguments, **more)])
        if isinstance(reply, Exception):
            raise reply
        return reply


@pytest.fixture
def ask(backend):
    return Asker(backend)


def granted(reply: list[LeaseAnswer]) -> list[bool]:
    return [each.granted for each in reply]


async def test_a_user_has_so_many_and_no_more_and_another_user_has_their_own(ask):
    first = await ask("acquire", some(3))
    assert granted(first) == [True, True, False]
    assert first[2].which == "user"
    assert 0 < first[2].retry_ms <= TTL
    assert first[0].fence > 0
    assert first[2].fence == 0
    assert granted(await ask("acquire", some(2), "bob")) == [True, True]


async def test_the_total_refuses_by_its_name_and_takes_nothing_of_the_user(ask):
    assert granted(await ask("acquire", some(2), "ann", 5, 2)) == [True, True]
    refused = await ask("acquire", some(1), "bob", 1, 2)
    assert (granted(refused), refused[0].which) == ([False], "total")
    assert granted(await ask("acquire", some(1), "bob", 1, NO_LIMIT)) == [True], "bob's own place was not taken"


async def test_units_of_the_total_are_of_nobody(ask):
    assert granted(await ask("acquire", some(3), "", NO_LIMIT, 2)) == [True, True, False]
    assert granted(await ask("acquire", some(1), "ann", 1, NO_LIMIT)) == [True]
    assert (await ask("acquire", some(1), "ann", 9, 2))[0].which == "total"


async def test_asking_again_for_the_same_lease_extends_it_under_a_higher_fence(ask):
    (lease,) = some()
    fences = [(await ask("acquire", [lease], "ann", 1))[0].fence for _ in range(3)]
    assert fences == sorted(set(fences))
    assert granted(await ask("acquire", some(), "ann", 1)) == [False]


async def test_a_release_frees_one_place_however_often_it_is_said(ask):
    leases = some(2)
    await ask("acquire", leases)
    for _ in range(3):
        assert await ask("release", [leases[0], *some()]) is None
    assert granted(await ask("acquire", some(2))) == [True, False]


async def test_a_lease_that_is_not_renewed_runs_out_and_one_that_is_does_not(ask):
    kept, left = some(2)
    assert granted(await ask("acquire", [kept, left], ttl=400)) == [True, True]
    for _ in range(8):
        await asyncio.sleep(0.1)
        assert await ask("renew", [kept], ttl=400) == [True]
    assert await ask("renew", [left], ttl=400) == [False]
    assert await ask("renew", [kept], ttl=400) == [True]
    assert granted(await ask("acquire", some(2))) == [True, False]


async def test_a_renewal_brings_nothing_back(ask):
    (lease,) = some()
    await ask("acquire", [lease])
    await ask("release", [lease])
    assert await ask("renew", [lease]) == [False]
    assert granted(await ask("acquire", some(3))) == [True, True, False]


async def test_what_is_restored_counts_over_the_limit_and_its_fence_grows(ask):
    held = some(3)
    before = (await ask("acquire", some(1), "ann", 1))[0].fence
    fences = await ask("restore", held, "ann", 1)
    assert [before, *fences] == sorted({before, *fences})
    assert await ask("renew", held, "ann", 1) == [True] * 3
    assert granted(await ask("acquire", some(1), "ann", 4)) == [False]
    assert granted(await ask("acquire", some(1), "ann", 5)) == [True]


async def test_both_are_released_when_a_lease_is_of_both(ask):
    (lease,) = some()
    await ask("acquire", [lease], "ann", 1, 1)
    await ask("release", [lease], "ann", 1, 1)
    assert granted(await ask("acquire", some(), "bob", 1, 1)) == [True]
    assert granted(await ask("acquire", some(), "ann", 1)) == [True]


async def test_several_operations_are_answered_in_their_order(ask, backend):
    (one,), (two,) = some(), some()
    replies = await backend.run(
        [
            ask.operation("acquire", [one], "ann", 1),
            ask.operation("acquire", [two], "ann", 1),
            ask.operation("release", [one], "ann", 1),
            ask.operation("acquire", [two], "ann", 1),
            ask.operation("acquire", [one], "ann", 1, name="other"),
        ]
    )
    assert [replies[0][0].granted, replies[1][0].granted, replies[2]] == [True, False, None]
    assert [replies[3][0].granted, replies[4][0].granted] == [True, True]


async def test_thirty_that_ask_at_once_share_the_limit(ask):
    replies = await asyncio.gather(*(ask("acquire", some(), "ann", 7) for _ in range(30)))
    assert sum(reply[0].granted for reply in replies) == 7
    assert len({reply[0].fence for reply in replies if reply[0].granted}) == 7
