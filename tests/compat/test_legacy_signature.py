"""The host's engine runs agents of both of its signatures, from registries of both kinds."""

from typing import Any

import pytest
from isolane import AgentRegistry, BaseAgent, WebSocketBridgeFactory
from isolane.compat.agent_instance_factory import AgentInstanceFactory, UserWebSocketEmitter
from isolane.compat.execution_context import AgentExecutionContext
from isolane.compat.user_execution_engine import UserExecutionEngine

from tests.support.legacy_states import DeepAgentState, aliases

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")


class Legacy:
    def __init__(self, llm_manager: Any) -> None:
        self.llm_manager = llm_manager

    async def execute(self, state: Any, run_id: str, stream_updates: bool) -> Any:
        state.triage_result = (self.llm_manager, run_id, state.user_id)
        return state


class Derived(BaseAgent):
    async def execute(self, state: Any, run_id: str, stream_updates: bool) -> Any:
        state.triage_result = ("derived", run_id, state.user_id)


class Modern:
    async def execute(self, context: Any, state: Any) -> Any:
        return ("modern", context.run_id, context.user_id)


class Hosts:
    """A registry of the host's."""

    def get_agent_class(self, agent_name: str) -> type | None:
        return {"legacy": Legacy, "derived": Derived, "modern": Modern}.get(agent_name)


class Instances:
    """A factory of the host's."""

    def create_agent_instance(self, agent_name: str, user_context: Any) -> Any:
        return Legacy("llm") if agent_name == "legacy" else {"derived": Derived, "modern": Modern}[agent_name]()


def registered() -> AgentRegistry:
    registry = AgentRegistry()
    registry.register(Legacy, "legacy")
    registry.register(Derived, "derived")
    return registry


SERVICES = {"llm_manager": lambda _: "llm"}


@pytest.mark.parametrize("agent", ["legacy", "derived", "modern"])
@pytest.mark.parametrize(
    "factory",
    [
        lambda: AgentInstanceFactory(Hosts(), services=SERVICES),
        lambda: AgentInstanceFactory(registered(), services=SERVICES),
        Instances,
    ],
    ids=["host's registry", "isolane's registry", "host's factory"],
)
async def test_both_signatures_run_on_the_users_context(new_context, read_plain, factory, agent):
    context = new_context()
    made = factory()
    if agent == "modern" and getattr(made, "_host_registry", True) is None:
        made.registry.register(type("M", (BaseAgent,), {"execute_with_context": Modern.execute}), "modern")
    emitter = UserWebSocketEmitter(context.user_id, context.thread_id, context.run_id, WebSocketBridgeFactory())
    engine = UserExecutionEngine(context, made, emitter)
    state = DeepAgentState(user_id=context.user_id, user_request="q", messages=[{"m": []}])
    execution = AgentExecutionContext(context.run_id, context.thread_id, context.user_id, agent)
    try:
        result = await engine.execute_agent(execution, state)
    finally:
        await engine.cleanup()
    assert result.success
    expected = ({"legacy": "llm"}.get(agent, agent), context.run_id, context.user_id)
    if agent == "modern":
        assert result.data == expected
    else:
        assert result.data.triage_result == expected
        assert aliases(vars(result.data), vars(state)) == []
    await context.cleanup()
    types = [message["type"] for message in read_plain(context.user_id, context.run_id)]
    assert types == ["agent_started", "agent_thinking", "agent_completed"]
