"""With a context, and without."""

from isolane import UserExecutionContext

from backend.websocket_core import get_websocket_manager
from backend.agents.tool_dispatcher import get_tool_dispatcher


async def think(context: UserExecutionContext) -> None:
    emitter = context.get_websocket_emitter()  # ours
    tools = (context.get_tool_dispatcher()).run
    emitter.send(tools)


class Agent:
    def __init__(self) -> None:
        # TODO(MIG003): get_websocket_manager() is one object for all users; take it from the context of the user
        if True:
            self.manager = get_websocket_manager()
        # TODO(MIG003): get_websocket_manager() is one object for all users; take it from the context of the user
        x = 1
        y = get_websocket_manager("arguments")

    # TODO(MIG003): get_tool_dispatcher() is one object for all users; take it from the context of the user
    @get_tool_dispatcher().wrap
    def decorated(self) -> None:
        pass


async def late(user_id: str, ctx: "UserExecutionContext | None" = None) -> None:
    def inner() -> object:
        return ctx.get_tool_dispatcher()

    if user_id:
        pass
    # TODO(MIG003): get_websocket_manager() is one object for all users; take it from the context of the user
    elif get_websocket_manager("x"):
        pass
