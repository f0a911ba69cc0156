"""Locks of the loop, and locks that are let go before anything waits."""

import asyncio
import threading

lock = threading.Lock()
async_lock = asyncio.Lock()


class Manager:
    def __init__(self):
        self._lock = threading.Lock()
        self._block = object()

    async def broadcast(self, message):
        with self._lock:
            sockets = list(self.sockets)
        for socket in sockets:
            await socket.send_json(message)

    async def guarded(self):
        async with async_lock:
            await asyncio.sleep(0)

    async def defined(self):
        with lock:

            async def later():
                await asyncio.sleep(0)

            self.later = later
        await later()

    async def others(self):
        with self._block:
            await asyncio.sleep(0)

    def sync(self):
        with lock:
            return [self]
