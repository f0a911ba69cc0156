"""Broadcasts by functions that know a user."""

from backend.websocket_core.manager import broadcast_message
from isolane import UserExecutionContext


async def tell(manager, user_id, message):
    await manager.broadcast_message(message)  # MIG006
    await broadcast_message(message)  # MIG006


class Agent:
    async def think(self, context: UserExecutionContext, text):
        await self.websocket_manager.broadcast({"text": text})  # MIG006

    async def send(self, run_id, payload):
        await self.bridge.broadcast_to_all({"run_id": run_id, **payload})  # MIG006

    async def by_state(self, state):
        message = {"user": state.user_id}
        await self.manager.broadcast_message(message)  # MIG006


async def assigned(request, ws_manager):
    uid = request.session["uid"]
    await ws_manager.broadcast(uid)  # MIG006
