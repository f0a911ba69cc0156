"""A lock of threads while others run."""

import threading
from threading import RLock

from elsewhere import shared_lock

lock = threading.Lock()


class Manager:
    def __init__(self):
        self._guard = RLock()
        self._async_lock = None

    async def broadcast(self, message):
        with self._guard:  # MIG012
            for socket in self.sockets:
                await socket.send_json(message)

    async def stream(self, source):
        with open("x") as file, lock:  # MIG012
            async for one in source:
                file.write(one)

    async def elsewhere(self):
        with shared_lock:  # MIG012
            async with self.session():
                pass
