"""Names that are like it and are not it."""

from deepagents import DeepAgentState
from deepagents.graph import DeepAgentState as Graph
from deepagents.app.agents.state import DeepAgentState as Nested
from langchain.state import DeepAgentState as Chain
from myapp.agents.states import DeepAgentState as Almost
from otherapp.agents.state import DeepAgentStateful
import deepagents.graph as graph


class Mine:
    class DeepAgentState:
        """Of this file alone."""


def use() -> object:
    return [DeepAgentState, Graph, Nested, Chain, Almost, DeepAgentStateful, graph.DeepAgentState, Mine.DeepAgentState]
