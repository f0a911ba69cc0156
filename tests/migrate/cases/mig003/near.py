"""Getters of others, and names that are hidden."""

from otherlib import get_websocket_manager
from backend.websocket_core import get_websocket_manager as real


def use(real) -> object:
    return [get_websocket_manager(), real(), real]


def depends(Depends):
    return Depends(real)


def mention() -> object:
    return real


def get_tool_dispatcher() -> object:
    return object()


class Own:
    def get_websocket_manager(self) -> object:
        return self.get_websocket_manager()


tools = get_tool_dispatcher()
