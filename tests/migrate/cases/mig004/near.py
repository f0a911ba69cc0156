"""Awaited and not awaited as it should be, and others' getters."""

from otherlib import get_websocket_manager


async def run() -> None:
    manager = await get_websocket_manager()
    manager.send()
    await manager.get_websocket_manager()
