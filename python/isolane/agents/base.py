"""The base class of agents."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from isolane._core import UserExecutionContext

if TYPE_CHECKING:
    from isolane.migration.agents.adapter import LegacyExecutionAdapter


NO_RESULTS: Mapping[str, Any] = types.MappingProxyType({})


class BaseAgent(ABC):
    """One agent. An instance serves one execution of one user, so it may keep state in attributes.

    An engine gives the context to ``execute_with_context``. An instance that is made by hand, as services do that are
    being moved, is given ``user_execution_context=``, or ``deep_agent_state=`` of the older kind, and run by
    ``execute(request)``. A class that has ``execute(state, run_id, stream_updates)`` and no ``execute_with_context``
    runs as it is, on a context of the user: see the page on older agents.

    Class attributes:
        name: what pipelines and events call it. Default: the class name.
        requires: agents whose results it needs; they must come before it in a pipeline.
        timeout_seconds: how long one execution may take. Default 30.
        resources: named resources of the limiter that each execution holds, all or nothing. Default: none.
        loop_seconds: how much of the event loop's time one execution may use; more ends it with
            ``LoopBudgetExceeded``. Default: no limit.
        legacy_state_writes: what later writes to the state of ``deep_agent_state=`` come to: ``strict`` raises
            ``FrozenLegacyState``, ``lenient`` counts them. Default ``strict``.

    Args:
        deep_agent_state: a legacy state of any class. Deprecated: ``ISO-D001``.
        user_execution_context: the context that ``execute`` runs on.
        attributes: kept as attributes of the instance, as older base classes do.

    Raises ``ValueError`` for both at once, and ``LegacyIdentityError`` for a state that does not say whose it is.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[tuple[str, ...]] = ()
    timeout_seconds: ClassVar[float] = 30.0
    resources: ClassVar[tuple[str, ...]] = ()
    loop_seconds: ClassVar[float | None] = None
    legacy_state_writes: ClassVar[Literal["strict", "lenient"]] = "strict"

    _user_execution_context: UserExecutionContext | None = None
    _legacy_state: LegacyExecutionAdapter | None = None

    def __init__(
        self,
        *,
        deep_agent_state: Any = None,
        user_execution_context: UserExecutionContext | None = None,
        **attributes: Any,
    ) -> None:
        if deep_agent_state is not None and user_execution_context is not None:
            raise ValueError(
                "Cannot specify both legacy and modern contexts: pass user_execution_context= alone, and put what the "
                "state holds into its agent_context"
            )
        if user_execution_context is not None and not isinstance(user_execution_context, UserExecutionContext):
            raise TypeError(
                f"Expected UserExecutionContext, got: {type(user_execution_context).__name__}. A state of the "
                "older kind is passed as deep_agent_state="
            )
        for name, value in attributes.items():
            setattr(self, name, value)
        self._user_execution_context = user_execution_context
        if deep_agent_state is not None:
            from isolane.migration.agents.adapter import LegacyExecutionAdapter  # noqa: PLC0415 - older agents only
            from isolane.migration.deprecation import deprecated_call  # noqa: PLC0415 - the same

            deprecated_call(f"{type(self).__qualname__}(deep_agent_state=...)", "ISO-D001")
            self._legacy_state = LegacyExecutionAdapter(deep_agent_state, writes=self.legacy_state_writes)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class its own name unless it has chosen one, and an older agent the method that engines call."""
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__
        if cls._is_legacy() and cls.execute_with_context is BaseAgent.execute_with_context:
            cls.execute_with_context = _run_legacy  # type: ignore[method-assign]

    @classmethod
    def _is_legacy(cls) -> bool:
        """Return whether it has its own ``execute`` and no ``execute_with_context``."""
        modern: Callable[..., Any] = cls.execute_with_context
        return modern in {BaseAgent.execute_with_context, _run_legacy} and cls.execute is not BaseAgent.execute

    @classmethod
    def _taken(cls, request: Any, _carried: dict[str, Any]) -> Any:
        """Return what an execution in a pipeline is given as its request."""
        return request

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

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run the agent: ``await agent.execute(request)``, on the context or the state that it was made with.

        It runs under a permit of the user, within ``timeout_seconds``, and is shown as one execution of the run. Of a
        state a temporary context is made, which is cleaned up whatever happens. Engines do not call this.

        Returns what ``execute_with_context`` returns, and raises what it raises. Raises ``ContextRequiredError``, a
        ``RuntimeError``, without context and state; ``LimitTimeout`` when no permit is to be had.
        """
        from isolane.migration.agents.dual import execute  # noqa: PLC0415 - agents that are run by hand only

        return await execute(self, *args, **kwargs)


async def _run_legacy(
    self: BaseAgent,
    context: UserExecutionContext,
    request: Any,
    results: Mapping[str, Any] = NO_RESULTS,
) -> Any:
    """Run ``execute(state, run_id, stream_updates)`` of an older agent on a context of its user."""
    from isolane.migration.agents.legacy import run_legacy  # noqa: PLC0415 - older agents only

    return await run_legacy(self, context, request, results)
