"""The plane on a real redis-server: calls, scripts, hints, commands, and who else is there."""

from __future__ import annotations

import asyncio
import contextlib

from isolane.cluster import Plane
from redis.exceptions import ResponseError


@contextlib.asynccontextmanager
async def planes(url, count=1, **options):
    made = [Plane(url, **options) for _ in range(count)]
    try:
        for plane in made:
            await plane.start()
        yield made
    finally:
        for plane in made:
            await plane.stop()


async def until(holds, seconds=20.0):
    limit = asyncio.get_running_loop().time() + seconds
    while not holds():
        assert asyncio.get_running_loop().time() < limit, "it did not come to that"
        await asyncio.sleep(0.01)


async def test_a_call_has_an_answer_for_each_command_and_a_wrong_one_is_an_error_in_its_place(clean_redis):
    async with planes(clean_redis.url) as (plane,):
        replies = await plane.call(("SET", "x", "1"), ("HGET", "x", "f"), ("INCR", "x"))
    assert replies[0] == b"OK"
    assert isinstance(replies[1], ResponseError)
    assert replies[2] == 2


async def test_workers_know_each_other_and_call_a_user_by_the_same_key(clean_redis):
    async with planes(clean_redis.url, 2) as (one, other):
        assert set(other.processes()) == {one.worker, other.worker}
        assert one.user_key("ann") == other.user_key("ann") != one.user_key("ben")
