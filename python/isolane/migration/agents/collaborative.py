"""``CollaborativeAgent``: has another agent do a part of the work, in a child context."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from isolane.agents.result import ExecutionResult
from isolane.migration.agents.template import AgentMigrationTemplate


@dataclass(frozen=True, slots=True)
class CollaborationResult:
    """What a collaborative agent returns.

    Attributes:
        primary_result: what it made of the parts.
        sub_agent_results: what each part came to, in order.
        collaboration_metadata: ``child_contexts``, their ids, and ``total_execution_time`` in seconds.
    """

    primary_result: Any
    sub_agent_results: Sequence[ExecutionResult] = ()
    collaboration_metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


class CollaborativeAgent(AgentMigrationTemplate):
    """Runs its ``sub_agents`` one after another, and makes one result of theirs.

    Each runs in a child context, which is cleaned up whatever happens, under the permit of this one, and is shown as an
    execution of its own. Write ``_process_collaborative_result(request, results)``.

    Class attributes:
        sub_agents: classes of ``AgentMigrationTemplate``.
        thinking: what the user is shown first; an empty text for nothing.
    """

    sub_agents: ClassVar[tuple[type[AgentMigrationTemplate], ...]] = ()
    thinking: ClassVar[str] = "Initiating collaborative analysis..."

    def sub_request(self, agent: type[AgentMigrationTemplate], request: Any) -> Any:  # noqa: ARG002 - for overriding
        """Return what a part is asked. Default: ``request.sub_request``, or the request itself."""
        return getattr(request, "sub_request", request)

    @abstractmethod
    async def _process_collaborative_result(self, request: Any, results: Sequence[ExecutionResult]) -> Any:
        """Return the result, made of those of the parts. A part that failed has ``success`` false and its ``error``."""

    async def delegate(
        self,
        agent: type[AgentMigrationTemplate],
        request: Any,
        agent_config: Mapping[str, Any] | None = None,
    ) -> tuple[ExecutionResult, str]:
        """Run an agent in a child context. Returns what it came to and the id of its context. May be overridden."""
        context = self._user_context
        child = context.create_child_context(agent.name)
        try:
            made = agent.create_with_context(child, agent_config)
            result = await made.execute_with_isolation(
                request, execution_metadata={"parent_run_id": context.current_run_id}
            )
            return result, child.context_id
        finally:
            await child.cleanup()

    async def _execute_agent_logic(self, request: Any) -> CollaborationResult:
        if self.thinking:
            await self._websocket_emitter.notify_agent_thinking(content=self.thinking)
        results: list[ExecutionResult] = []
        children: list[str] = []
        for agent in self.sub_agents:
            result, child = await self.delegate(agent, self.sub_request(agent, request))
            results.append(result)
            children.append(child)
        primary = await self._process_collaborative_result(request, tuple(results))
        took = sum(result.execution_time for result in results)
        about = {"child_contexts": tuple(children), "total_execution_time": took}
        return CollaborationResult(primary, tuple(results), MappingProxyType(about))
