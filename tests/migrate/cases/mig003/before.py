"""With a context, and without."""

from isolane import UserExecutionContext

from backend.websocket_core import get_websocket_manager
from backend.agents.tool_dispatcher import get_tool_dispatcher


async def think(context: UserExecutionContext) -> None:
    emitter = get_websocket_manager()  # ours
    tools = (await get_tool_dispatcher()).run
    emitter.send(tools)


class Agent:
    def __init__(self) -> None:
        if True:
            self.manager = get_websocket_manager()
        x = 1
        y = get_websocket_manager("arguments")

    @get_tool_dispatcher().wrap
    def decorated(self) -> None:
        pass


async def late(user_id: str, ctx: "UserExecutionContext | None" = None) -> None:
    def inner() -> object:
        return get_tool_dispatcher()

    if user_id:
        pass
    elif get_websocket_manager("x"):
        pass
