"""Broadcasts that are for everybody, and others' methods of that name."""

import numpy as np


async def maintenance(manager, text):
    await manager.broadcast_message({"type": "system_notice", "text": text})


def shapes(user_id, tensor):
    return np.broadcast(user_id, tensor.broadcast(user_id))


class Manager:
    async def broadcast_message(self, message):
        for user_id in self.sockets:
            await self.send(user_id, message)

    async def broadcast_to_all(self, user_id, message):
        await self.broadcast_message(message)
        await super().broadcast_message(message)
