"""What the legacy side of agents raises."""

from __future__ import annotations

from isolane._core import InvalidContextError


class LegacyIdentityError(InvalidContextError):
    """A legacy state does not say whose it is, or says what no user, thread or run is called.

    No default takes the place of an id: all users without one would become the same user.

    Fields: as ``InvalidContextError`` has them.
    """


class ContextRequiredError(RuntimeError):
    """An agent was to run, and has neither a ``UserExecutionContext`` nor a legacy state."""


class FrozenLegacyState(RuntimeError):  # noqa: N818 - the name that the documents of the move have
    """A legacy state was written after a context was made of it. The write would be lost, so it is refused.

    Attributes:
        field: what was written, such as ``metadata``; empty when it is not known.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class EntryConditionsError(RuntimeError):
    """``check_entry_conditions`` of a legacy agent said no, so the agent did not run.

    Attributes:
        agent_name: which agent.
    """

    def __init__(self, message: str, agent_name: str = "") -> None:
        super().__init__(message)
        self.agent_name = agent_name
