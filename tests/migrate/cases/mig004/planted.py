"""Getters and await that do not fit."""

from backend.websocket_core import get_websocket_manager
from isolane.migration.legacy import get_websocket_manager as both


async def get_execution_engine() -> object:
    return object()


async def run() -> None:
    manager = await get_websocket_manager()  # MIG004
    (await get_websocket_manager()).send(manager)  # MIG004


async def later() -> None:
    from backend.agents.supervisor.execution_engine import get_execution_engine as remote

    remote().start()


async def ours() -> None:
    await both()
    both().send({})
