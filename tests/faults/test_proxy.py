"""The fault proxy does what it says: it is no use to test with one that does not."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.frame_scanner import FrameScanner

FRAME = b"\x81\x05hello"
LONG = b"\x81\x7e\x01\x00" + b"x" * 256
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@contextlib.asynccontextmanager
async def sending(data: bytes, *, again: float = 0.0):
    """A server that sends the same to everybody, once or again and again; yields its port."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                writer.write(data)
                await writer.drain()
                if not again:
                    break
                await asyncio.sleep(again)
            await _reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def read_all(proxy: FaultProxy, *, quiet: float = 2.0) -> tuple[bytes, str]:
    """What a client gets, and how it ends: ``reset``, ``end`` or ``silence``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    got = b""
    try:
        while True:
            data = await asyncio.wait_for(reader.read(65_536), quiet)
            if not data:
                return got, "end"
            got += data
    except ConnectionResetError:
        return got, "reset"
    except TimeoutError:
        return got, "silence"
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("inside", [0, 1, 4])
@pytest.mark.parametrize("frames", [1, 2, 4])
async def test_it_cuts_after_a_frame_or_within_the_next(frames, inside) -> None:
    async with sending(ANSWER + (FRAME + LONG) * 3) as port, FaultProxy(port) as proxy:
        for pieces in (0, 3):
            proxy.chop(pieces)
            proxy.cut_after_frames(frames, inside=inside)
            got, how = await read_all(proxy)
            whole = (FRAME + LONG) * 3
            length = sum(len(FRAME) if at % 2 == 0 else len(LONG) for at in range(frames))
            assert (got, how) == (ANSWER + whole[: length + inside], "reset")


async def test_it_cuts_after_so_many_bytes() -> None:
    async with sending(b"x" * 100) as port, FaultProxy(port) as proxy:
        proxy.cut_after(37)
        assert await read_all(proxy) == (b"x" * 37, "reset")
        assert await read_all(proxy, quiet=0.1) == (b"x" * 100, "silence")
        proxy.cut_each(5, 5)
        assert await read_all(proxy) == (b"xxxxx", "reset")


async def test_the_same_seed_cuts_at_the_same_bytes() -> None:
    async with sending(b"x" * 1_000) as port:
        lives = []
        for seed in (1, 1, 2):
            async with FaultProxy(port, seed=seed) as proxy:
                proxy.cut_each(1, 900)
                lives.append([len((await read_all(proxy))[0]) for _ in range(5)])
    assert lives[0] == lives[1] != lives[2]


async def test_half_open_swallows_both_ways_and_tells_nobody() -> None:
    async with sending(b"x", again=0.01) as port, FaultProxy(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await reader.readexactly(3)
        assert proxy.half_open() == 1
        with pytest.raises(TimeoutError):
            # What was on its way comes first.
            while await asyncio.wait_for(reader.read(65_536), 0.2):
                pass
        assert proxy.open == 1
        writer.transport.abort()


async def test_refused_hung_up_and_healed() -> None:
    async with sending(b"hello") as port, FaultProxy(port) as proxy:
        proxy.refuse()
        with contextlib.suppress(ConnectionResetError):
            assert await read_all(proxy) == (b"", "reset")
        assert proxy.refused == 1
        proxy.heal()
        reading = asyncio.create_task(read_all(proxy))
        while not proxy.bytes_down:
            await asyncio.sleep(0.01)
        assert proxy.hang_up() == 1
        assert await reading == (b"hello", "end")


async def test_paused_and_throttled() -> None:
    async with sending(b"x" * 4_000) as port, FaultProxy(port) as proxy:
        proxy.pause()
        assert await read_all(proxy, quiet=0.1) == (b"", "silence")
        proxy.resume()
        loop = asyncio.get_running_loop()
        proxy.throttle(20_000)
        began = loop.time()
        assert (await read_all(proxy, quiet=0.1))[0] == b"x" * 4_000
        # As slow as it was told to be, or slower.
        assert loop.time() - began > 0.15


def test_frames_are_found_wherever_the_bytes_are_split() -> None:
    data = ANSWER + FRAME + b"\x89\x00" + LONG + FRAME
    ends = [len(ANSWER) + 7, len(ANSWER) + 9, len(ANSWER) + 9 + len(LONG), len(data)]
    for size in (1, 2, 5, 1_000):
        scanner, found = FrameScanner(), []
        for at in range(0, len(data), size):
            found += [at + end for end in scanner.feed(data[at : at + size])]
        assert found == ends
