from isolane import UserExecutionContext


async def tell(manager, user_id, message):
    await manager.broadcast_message(
        {  # the message
            "text": message,
        }
    )
    await manager.broadcast_to_all(message, exclude_users=[user_id])


async def think(bridge, context: UserExecutionContext):
    await bridge.broadcast_to_all({"a": 1})


async def known_by_run(manager, run_id):
    await manager.broadcast_message({"run_id": run_id})
