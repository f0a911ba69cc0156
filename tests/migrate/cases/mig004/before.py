from backend.websocket_core import get_websocket_manager
from backend.services.websocket_bridge_factory import get_websocket_bridge_factory


async def run():
    manager = await get_websocket_manager()  # a comment
    await (await get_websocket_manager()).send(1)
    return [await get_websocket_manager() for _ in (await get_websocket_bridge_factory(),)]
