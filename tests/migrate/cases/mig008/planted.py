"""Copies that share what is in them."""

import copy

from app.agents.state import DeepAgentState
from isolane import UserExecutionContext

DEFAULTS = {"sources": []}


def share(parent, state: DeepAgentState, context: UserExecutionContext):
    a = parent.agent_context.copy()  # MIG008
    b = {**parent.audit_metadata}  # MIG008
    c = {"x": 1, **parent.context_tracking}  # MIG008
    d = dict(parent.quality_metrics)  # MIG008
    e = copy.copy(context.agent_context)  # MIG008
    f = state.metadata.copy()  # MIG008
    g = list(state.messages)  # MIG008
    return a, b, c, d, e, f, g
