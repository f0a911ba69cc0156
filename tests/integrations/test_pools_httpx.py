"""Pools over real httpx and a real server: the admission is held until the body is read, and always comes back."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading

import httpx
import httpx2
import pytest
import uvicorn
from isolane import LimitTimeout, ResourcePoolManager
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route

from tests.integrations.pool_cancelling import cancel_everywhere, settled

SIZE = 2
active: set[int] = set()
most: list[int] = []


async def fast(request: Request) -> JSONResponse:
    return JSONResponse({"cookies": request.cookies, "who": request.headers.get("x-who")})


async def stream(request: Request) -> StreamingResponse:
    async def body():
        active.add(id(request))
        most.append(len(active))
        try:
            for number in range(5):
                yield f"part {number}\n"
                await asyncio.sleep(0.002)
        finally:
            active.discard(id(request))

    return StreamingResponse(body())


async def hang(request: Request) -> StreamingResponse:
    async def body():
        yield "a beginning"
        await asyncio.sleep(60)

    return StreamingResponse(body())


async def silent(request: Request) -> PlainTextResponse:
    await asyncio.sleep(60)
    return PlainTextResponse("too late")


async def sign_in(request: Request) -> PlainTextResponse:
    response = PlainTextResponse("welcome")
    response.set_cookie("session", request.query_params["who"])
    return response


async def moved(request: Request) -> RedirectResponse:
    return RedirectResponse("/stream")


@pytest.fixture(scope="module")
def address():
    routes = [Route(f"/{call.__name__}", call) for call in (fast, stream, hang, silent, sign_in, moved)]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=routes), log_level="critical", timeout_graceful_shutdown=0)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
async def client(request, address):
    library = request.param
    limits = library.Limits(max_connections=SIZE)
    async with library.AsyncClient(base_url=address, limits=limits, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
async def pools():
    pools = ResourcePoolManager({"http": SIZE, "database": 1}, connection_timeout=5)
    yield pools
    await settled(pools)


def library_of(client):
    return httpx if isinstance(client, httpx.AsyncClient) else httpx2


def in_use(pools: ResourcePoolManager) -> int:
    return pools.statistics()["http"].in_use


async def test_a_request_is_admitted_until_its_body_is_read(client, pools):
    http = pools.httpx("ann", client)
    assert isinstance(http, type(client))
    assert (await http.get("/fast")).status_code == 200
    assert in_use(pools) == 0
    async with http.stream("GET", "/stream") as response:
        assert in_use(pools) == 1, "it was returned at the headers"
        parts = response.aiter_lines()
        assert await anext(parts) == "part 0"
        assert in_use(pools) == 1
        assert [part async for part in parts][-1] == "part 4"
        assert in_use(pools) == 0
    response = await http.send(http.build_request("GET", "/hang"), stream=True)
    assert in_use(pools) == 1
    await response.aclose()
    assert in_use(pools) == 0
    assert pools.user_statistics("ann").granted == 3


async def test_the_client_of_the_application_is_left_as_it_is(client, pools):
    async with pools.httpx("ann", client) as http:
        await http.get("/fast")
    await http.aclose()
    assert (await client.get("/fast")).status_code == 200
    assert in_use(pools) == 0
    await client.aclose()
    with pytest.raises(RuntimeError, match="is closed"):
        await http.get("/fast")


async def test_without_the_pools_the_next_user_sends_the_last_ones_cookie(client):
    """The positive control: the client keeps cookies."""
    await client.get("/sign_in", params={"who": "ann"})
    assert (await client.get("/fast")).json()["cookies"] == {"session": "ann"}


async def test_what_a_server_or_a_user_sets_is_nobody_elses(client, pools):
    ann, ben = pools.httpx("ann", client), pools.httpx("ben", client)
    await ann.get("/sign_in", params={"who": "ann"})
    ann.headers["x-who"] = "ann"
    seen = []

    async def note(request) -> None:
        seen.append(request.url.path)

    ann.event_hooks["request"].append(note)
    assert (await ann.get("/fast")).json() == {"cookies": {"session": "ann"}, "who": "ann"}
    assert (await ben.get("/fast")).json() == {"cookies": {}, "who": None}
    assert (await client.get("/fast")).json() == {"cookies": {}, "who": None}
    assert (await pools.httpx("ben", client).get("/fast")).json()["cookies"] == {}
    assert seen == ["/fast"]


async def test_redirects_take_one_admission_and_errors_none(client, pools):
    http = pools.httpx("ann", client)
    assert (await http.get("/moved", follow_redirects=True)).text.endswith("part 4\n")
    assert pools.statistics()["http"].granted == 1
    library = library_of(client)
    with pytest.raises(library.ConnectError):
        await http.get("http://127.0.0.1:1/")
    for path in ("/silent", "/hang"):
        with pytest.raises(library.ReadTimeout):
            await http.get(path, timeout=0.05)
    assert in_use(pools) == 0


async def test_a_flow_of_authentication_that_reads_the_body_returns_the_admission(client, pools):
    class Reads(library_of(client).Auth):
        requires_response_body = True

        def auth_flow(self, request):
            response = yield request
            assert response.text

    await pools.httpx("ann", client).get("/fast", auth=Reads())
    assert in_use(pools) == 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["get", "stream"])
async def test_cancelled_wherever_it_waits_it_leaves_nothing(kind, late, client, pools, address):
    # Without a bound of its own: httpcore sometimes loses a connection of a stream that is cancelled, with the pools
    # and without them.
    library = library_of(client)
    unbounded = library.AsyncClient(
        base_url=address, limits=library.Limits(max_connections=None), timeout=30, trust_env=False
    )
    http = pools.httpx("ann", unbounded)

    async def scenario() -> None:
        if kind == "get":
            await http.get("/stream")
            return
        async with http.stream("GET", "/stream") as response:
            async for _ in response.aiter_bytes():
                await asyncio.sleep(0)

    async def check(when: str) -> None:
        await settled(pools)
        # As many as there are can be had at once.
        async with pools.connection("ben", "http", timeout=0), pools.connection("ben", "http", timeout=0):
            assert in_use(pools) == SIZE, when

    assert await cancel_everywhere(scenario, check, late=late, least=3) >= 3
    await unbounded.aclose()


async def test_a_server_that_hangs_is_left_by_cancelling(client, pools):
    http = pools.httpx("ann", client)
    tasks = [asyncio.create_task(http.get(path)) for path in ("/hang", "/silent")]
    async with asyncio.timeout(10):
        while in_use(pools) < SIZE:
            await asyncio.sleep(0.005)
    with pytest.raises(LimitTimeout) as caught:
        await pools.httpx("ben", client, timeout=0.02).get("/fast")
    assert caught.value.limit == "global"
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert in_use(pools) == 0
    assert (await pools.httpx("ben", client).get("/fast")).status_code == 200


async def test_a_response_that_is_dropped_returns_its_admission(client, pools):
    response = await pools.httpx("ann", client).send(client.build_request("GET", "/hang"), stream=True)
    assert in_use(pools) == 1
    with pytest.warns(ResourceWarning, match="was never released"):  # noqa: PT031
        del response
        gc.collect()
    assert in_use(pools) == 0


async def test_twenty_users_share_two_connections(client, pools):
    most.clear()

    async def user(name: str) -> None:
        http = pools.httpx(name, client, timeout=30)
        for turn in range(4):
            try:
                async with asyncio.timeout(0.006 if turn == 2 else 30):
                    assert (await http.get("/stream")).text.endswith("part 4\n")
            except TimeoutError:
                pass

    await asyncio.gather(*(user(f"user-{number}") for number in range(20)))
    await settled(pools)
    record = pools.statistics()["http"]
    assert record.peak == SIZE
    assert record.granted >= 60
    assert record.wait_p99 >= record.wait_p50 > 0


async def test_the_user_has_so_many_at_once(client):
    pools = ResourcePoolManager({"http": 30}, per_user=1, connection_timeout=5)
    http = pools.httpx("ann", client)
    async with http.stream("GET", "/hang"):
        with pytest.raises(LimitTimeout) as caught:
            await pools.httpx("ann", client, timeout=0.02).get("/fast")
        assert caught.value.limit == "user"
        assert (await pools.httpx("ben", client).get("/fast")).status_code == 200
    await settled(pools)


async def test_a_client_that_is_smaller_than_its_pool_is_told_once(client, caplog):
    pools = ResourcePoolManager({"http": SIZE + 1, "llm": SIZE})
    with caplog.at_level(logging.WARNING, "isolane.pools"):
        for _ in range(2):
            pools.httpx("ann", client)
            pools.httpx("ann", client, pool="llm")
    assert [
        record.getMessage() for record in caplog.records if "at most 2 connections at once, and 3" in record.message
    ]
    assert len(caplog.records) == 1


def test_only_a_client_of_httpx_is_taken(pools):
    with pytest.raises(TypeError, match="no AsyncClient of httpx"):
        pools.httpx("ann", object())
    with httpx.Client(trust_env=False) as client, pytest.raises(TypeError, match="no AsyncClient of httpx"):
        pools.httpx("ann", client)
