"""Which agents there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from isolane._core import UserExecutionContext
from isolane.agents.base import BaseAgent

Services = Mapping[str, Callable[[UserExecutionContext], Any]]
"""How what the constructors of older agents want is made, by the names of their parameters."""

AgentClass = TypeVar("AgentClass", bound=Callable[..., object])
"""A class; as what makes instances, since of ``type`` checkers want one that is not abstract, as older agents look."""


class UnknownAgentError(LookupError):
    """No agent of that name is registered."""


def _check_seconds(agent: str, name: str, value: object) -> None:
    # Also refuses what is not a number (nan), with which every comparison is false.
    if value is not None and not (isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0):
        raise ValueError(
            f"{name} of agent {agent!r} must be more than 0 seconds, got {value!r}; "
            "leave the class attribute out for the default"
        )


def as_agent_class(agent: object) -> type[BaseAgent] | None:
    """Return the class that an engine runs for a class of an agent, or ``None`` for what is no such class."""
    if not isinstance(agent, type):
        return None
    if issubclass(agent, BaseAgent) and not agent._is_legacy():  # noqa: SLF001 - its other half
        return agent
    from isolane.migration.agents.shim import LegacyAgentShim, is_legacy_agent  # noqa: PLC0415 - older agents only

    return LegacyAgentShim.of(agent) if is_legacy_agent(agent) else None


class AgentRegistry:
    """Classes of agents by name. Never instances: an instance would be shared by users.

    Args:
        services: what the constructors of older agents want, by the names of their parameters, such as
            ``{"llm_manager": lambda context: ...}``; called for each execution, with its context.
    """

    def __init__(self, *, services: Services = MappingProxyType({})) -> None:
        self.services = MappingProxyType(dict(services))
        self._classes: dict[str, type[BaseAgent]] = {}
        self._lock = threading.Lock()

    def register(self, agent: AgentClass, name: str | None = None) -> AgentClass:
        """Add a class, under its own name unless another is given. Usable as a decorator.

        A class of the older signature ``execute(state, run_id, stream_updates)`` is taken as it is, whatever it derives
        from; ``get`` returns an agent around it.

        Raises ``TypeError`` for instances, ``ValueError`` for a name that another class has, and for a
        ``timeout_seconds`` or ``loop_seconds`` with which no execution could end well.
        """
        cls = as_agent_class(agent)
        if cls is None:
            raise TypeError(
                f"register the class of an agent, not {agent!r}: an instance would be shared between users. "
                "A fresh one is made for each execution"
            )
        key = name or cls.name
        if not key.strip():
            raise ValueError("an agent needs a name: set the class attribute `name`")
        _check_seconds(key, "timeout_seconds", cls.timeout_seconds)
        _check_seconds(key, "loop_seconds", cls.loop_seconds)
        with self._lock:
            if self._classes.get(key, cls) is not cls:
                raise ValueError(f"another class is registered as agent {key!r}; give one of them another name")
            self._classes[key] = cls
        return agent

    def get(self, name: str) -> type[BaseAgent]:
        """Return the class. Raises ``UnknownAgentError``, which names the agents there are."""
        try:
            return self._classes[name]
        except KeyError:
            known = ", ".join(sorted(self._classes)) or "none yet"
            raise UnknownAgentError(f"no agent {name!r} is registered; registered are: {known}") from None

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._classes)

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __len__(self) -> int:
        return len(self._classes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __repr__(self) -> str:
        return f"<AgentRegistry {len(self)} agents>"
