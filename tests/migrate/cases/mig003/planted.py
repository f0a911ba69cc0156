"""Calls of singleton getters."""

from backend.websocket_core import get_websocket_manager
from backend.websocket_core import get_websocket_manager as getter
import backend.websocket_core.manager
from fastapi import Depends
from isolane.migration.legacy import get_tool_dispatcher
from backend.services.agent_websocket_bridge import *


async def route(manager=Depends(get_websocket_manager), other=Depends(print)):  # MIG003
    return manager, other


class Agent:
    manager = get_websocket_manager()  # MIG003

    def __init__(self) -> None:
        self.tools = get_tool_dispatcher()  # MIG003

    async def send(self) -> None:
        await getter().send({})  # MIG003
        bridge = get_agent_websocket_bridge()  # MIG003
        backend.websocket_core.manager.get_websocket_manager(1)  # MIG003
        return bridge
