"""Deep copies, and copies of other things."""

import copy

from isolane import UserExecutionContext


def own(parent, context: UserExecutionContext, record):
    a = copy.deepcopy(parent.agent_context)
    b = {**copy.deepcopy(parent.audit_metadata)}
    c = record.metadata.copy()
    d = dict(parent.options)
    e = list(record.messages)
    f = parent.agent_context.copy(deep=True)
    return a, b, c, d, e, f, context


def hidden(parent, dict):
    return dict(parent.agent_context)
