"""Nothing here uses it any more."""

from app.agents.state import DeepAgentState  # the old way

from app.agents.state import (  # all of it
    AgentMetadata,  # stays
    DeepAgentState as State,
)

if 1:
    from app.schemas.agent_models import DeepAgentState as Tabbed

from app.agents.state import DeepAgentState as Kept  # noqa: F401

x = AgentMetadata()
