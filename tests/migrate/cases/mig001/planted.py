"""Imports of the legacy state, by both of its modules."""

from typing import TYPE_CHECKING

from app.agents.state import DeepAgentState  # MIG001
from service.app.agents.state import AgentMetadata, DeepAgentState as State  # MIG001
from service.backend.schemas.agent_models import (
    DeepAgentState as Other,  # MIG001
    Result,
)
import service.app.agents.state as states

if TYPE_CHECKING:
    from app.agents.state import DeepAgentState as Later  # MIG001

try:
    from app.agents.state import DeepAgentState as Maybe  # MIG001
except ImportError:
    Maybe = None


def make() -> object:
    return states.DeepAgentState()  # MIG001


def local() -> object:
    from app.agents.state import DeepAgentState as Inner  # MIG001

    return [DeepAgentState, State, Other, Inner, Maybe, Result, AgentMetadata]
