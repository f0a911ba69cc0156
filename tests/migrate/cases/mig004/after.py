from backend.websocket_core import get_websocket_manager
from backend.services.websocket_bridge_factory import get_websocket_bridge_factory


async def run():
    manager = get_websocket_manager()  # a comment
    await (get_websocket_manager()).send(1)
    return [(get_websocket_manager()) for _ in (get_websocket_bridge_factory(),)]
