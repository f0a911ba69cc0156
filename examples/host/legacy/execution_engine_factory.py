"""Engines, at most two for a user."""

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from examples.host.legacy.agent_instance_factory import UserWebSocketEmitter, get_agent_instance_factory
from examples.host.legacy.user_execution_context import UserExecutionContext


class ExecutionEngineFactoryError(Exception):
    """No engine could be made."""


@dataclass
class AgentExecutionResult:
    success: bool
    agent_name: str
    error: str | None = None
    data: Any = None


class UserExecutionEngine:
    def __init__(self, context: UserExecutionContext, agent_factory: Any, websocket_emitter: Any) -> None:
        self.context = context
        self.agent_factory = agent_factory
        self.websocket_emitter = websocket_emitter

    async def execute_agent_pipeline(
        self, agent_name: str, execution_context: UserExecutionContext, input_data: Any = None
    ) -> AgentExecutionResult:
        began = time.monotonic()
        await self.websocket_emitter.notify_agent_started(agent_name)
        await self.websocket_emitter.notify_agent_thinking(agent_name, "working on the request")
        try:
            agent = self.agent_factory.create_agent_instance(agent_name, execution_context)
            result = await agent.execute(execution_context, input_data)
        except Exception as error:  # noqa: BLE001 - it is the result
            await self.websocket_emitter.notify_agent_error(agent_name, str(error))
            return AgentExecutionResult(success=False, agent_name=agent_name, error=str(error))
        await self.websocket_emitter.notify_agent_completed(agent_name, result, (time.monotonic() - began) * 1000)
        return AgentExecutionResult(success=True, agent_name=agent_name, data=result)


class ExecutionEngineFactory:
    def __init__(
        self, websocket_bridge: Any = None, database_session_manager: Any = None, redis_manager: Any = None
    ) -> None:
        if not websocket_bridge:
            raise ExecutionEngineFactoryError("ExecutionEngineFactory requires websocket_bridge")
        self._websocket_bridge = websocket_bridge
        self._database_session_manager, self._redis_manager = database_session_manager, redis_manager
        self._active_engines: dict[str, UserExecutionEngine] = {}
        self._max_engines_per_user = 2

    @contextlib.asynccontextmanager
    async def user_execution_scope(self, context: UserExecutionContext) -> AsyncIterator[UserExecutionEngine]:
        count = sum(engine.context.user_id == context.user_id for engine in self._active_engines.values())
        if count >= self._max_engines_per_user:
            raise ExecutionEngineFactoryError(f"User has reached maximum engine limit ({count}/{count})")
        ids = (context.user_id, context.thread_id, context.run_id)
        emitter = UserWebSocketEmitter(*ids, self._websocket_bridge)
        engine = UserExecutionEngine(context, get_agent_instance_factory(), emitter)
        key = f"{context.user_id}_{context.run_id}"
        self._active_engines[key] = engine
        try:
            yield engine
        finally:
            del self._active_engines[key]

    async def shutdown(self) -> None:
        self._active_engines.clear()


_STATE: dict[str, ExecutionEngineFactory] = {}


async def configure_execution_engine_factory(
    websocket_bridge: Any, database_session_manager: Any = None, redis_manager: Any = None
) -> ExecutionEngineFactory:
    _STATE["factory"] = ExecutionEngineFactory(websocket_bridge, database_session_manager, redis_manager)
    return _STATE["factory"]


@contextlib.asynccontextmanager
async def user_execution_engine(context: UserExecutionContext) -> AsyncIterator[UserExecutionEngine]:
    async with _STATE["factory"].user_execution_scope(context) as engine:
        yield engine
