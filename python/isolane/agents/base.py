"""The base class of agents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from isolane._core import UserExecutionContext


class BaseAgent(ABC):
    """One agent. An instance serves one execution of one user, so it may keep state in attributes.

    Class attributes:
        name: what pipelines and events call it. Default: the class name.
        requires: agents whose results it needs; they must come before it in a pipeline.
        timeout_seconds: how long one execution may take. Default 30.
        resources: named resources of the limiter that each execution holds, all or nothing. Default: none.
        loop_seconds: how much of the event loop's time one execution may use; more ends it with
            ``LoopBudgetExceeded``. Default: no limit.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[tuple[str, ...]] = ()
    timeout_seconds: ClassVar[float] = 30.0
    resources: ClassVar[tuple[str, ...]] = ()
    loop_seconds: ClassVar[float | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class its own name unless it has chosen one."""
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    @abstractmethod
    async def execute_with_context(
        self, context: UserExecutionContext, request: Any, results: Mapping[str, Any]
    ) -> Any:
        """Do the work, and return the result.

        Args:
            context: a child context of the run, whose emitter publishes this execution's events.
            request: what the pipeline was started with.
            results: the results of the agents that it requires, by name; read-only.

        An agent that needs no results may leave the last parameter out.
        """
