"""``LegacyAgentShim``: an older agent's class as an agent of isolane, made anew for each execution."""

from __future__ import annotations

import importlib
import inspect
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from isolane._core import UserExecutionContext, _refusal
from isolane.agents.base import BaseAgent
from isolane.agents.execution import current_step_user
from isolane.agents.registry import Services
from isolane.migration.agents.legacy import run_legacy
from isolane.migration.agents.state import LegacyRequest

_CONTEXTS = ("context", "user_context", "user_execution_context")
_BRIDGES = ("websocket_manager", "websocket_bridge", "ws_manager", "websocket")

_shims: weakref.WeakKeyDictionary[type, weakref.ref[type[LegacyAgentShim]]] = weakref.WeakKeyDictionary()


class LegacyAgentShim(BaseAgent):
    """Runs a class that has ``execute(state, run_id, stream_updates)``. Made by ``LegacyAgentShim.of(cls)``.

    The older agent is made inside of the execution, so that what its constructor fetches from getters of singletons is
    bound to the execution's user. Its constructor gets by the names of its parameters: ``tool_dispatcher`` of the
    context, ``websocket_manager`` (or ``websocket_bridge``), ``context``, and what ``services`` has.

    Class attributes:
        legacy_class: the older agent's class.
        services: see ``AgentInstanceFactory``.
    """

    legacy_class: ClassVar[type]
    services: Services = {}  # noqa: RUF012 - set by the factory of the instance, never written into

    @staticmethod
    def of(cls: type) -> type[LegacyAgentShim]:  # noqa: PLW0211 - the older agent's class
        """Return the agent for an older agent's class: the same as long as anybody holds it."""
        reference = _shims.get(cls)
        shim = reference() if reference is not None else None
        if shim is None:
            shim = _made(cls)
            _shims[cls] = weakref.ref(shim)
        return shim

    @classmethod
    def _taken(cls, request: Any, carried: dict[str, Any]) -> Any:
        return LegacyRequest(request, carried)

    async def execute_with_context(
        self, context: UserExecutionContext, request: Any, results: Mapping[str, Any]
    ) -> Any:
        """Make the older agent, and run it."""
        agent = construct(self.legacy_class, context, self.services)
        return await run_legacy(agent, context, request, results, self.name)


def _made(cls: type) -> type[LegacyAgentShim]:
    body: dict[str, Any] = {"legacy_class": cls, "__module__": cls.__module__, "__doc__": cls.__doc__}
    name = getattr(cls, "name", None)
    body["name"] = name if isinstance(name, str) and name.strip() else cls.__name__
    for attribute in ("requires", "timeout_seconds", "resources", "loop_seconds"):
        if hasattr(cls, attribute):
            body[attribute] = getattr(cls, attribute)
    return cast("type[LegacyAgentShim]", type(cls.__name__, (LegacyAgentShim,), body))


def is_legacy_agent(agent: object) -> bool:
    """Return whether something is the class of an older agent: it has ``execute``, and no ``execute_with_context``."""
    if not isinstance(agent, type):
        return False
    if issubclass(agent, BaseAgent):
        return not issubclass(agent, LegacyAgentShim) and agent._is_legacy()  # noqa: SLF001 - its other half
    return callable(getattr(agent, "execute", None)) and not hasattr(agent, "execute_with_context")


def construct(cls: type, context: UserExecutionContext, services: Services) -> Any:
    """Make an older agent for one execution. Raises ``TypeError`` for a parameter that nothing is known for."""
    given: dict[str, Any] = {}
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        made, value = _service(parameter.name, context, services)
        if made:
            given[parameter.name] = value
        elif parameter.default is parameter.empty:
            raise TypeError(
                f"the constructor of {cls.__name__} wants {parameter.name!r}, which nothing is known for. Say how it "
                f"is made: AgentRegistry(services={{{parameter.name!r}: lambda context: ...}})"
            )
    return cls(**given)


def _service(name: str, context: UserExecutionContext, services: Services) -> tuple[bool, Any]:
    if name in services:
        return True, services[name](context)
    if name == "tool_dispatcher":
        return True, LateToolDispatcher(context)
    if name in _BRIDGES:
        # Few agents want it.
        legacy = importlib.import_module("isolane.migration.legacy")

        return True, legacy.get_websocket_manager()
    return name in _CONTEXTS, context


class LateToolDispatcher:
    """The tool dispatcher of a context, fetched when it is first used: an agent may be given it and call no tool."""

    def __init__(self, context: UserExecutionContext) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        user = current_step_user()
        if user is not None and user != self._context.user_id:
            raise _refusal(
                "this tool dispatcher was given to an agent of another user; an agent that keeps its dispatcher in a "
                "class or a module is the usual cause. Keep it in the instance",
                "access",
            )
        return getattr(self._context.get_tool_dispatcher(), name)

    def __repr__(self) -> str:
        return "<the tool dispatcher of the context>"
