"""Nothing here uses it any more."""

from isolane import UserExecutionContext  # the old way

from app.agents.state import (  # all of it
    AgentMetadata,  # stays
)

if 1:
    pass

from app.agents.state import DeepAgentState as Kept  # noqa: F401

x = AgentMetadata()
