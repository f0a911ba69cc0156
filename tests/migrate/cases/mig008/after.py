"""Copies."""

import copy
from typing import Any


def share(parent: Any) -> Any:
    a = copy.deepcopy(parent.agent_context)  # a
    b = {
        **copy.deepcopy(parent.audit_metadata),  # theirs
        "mine": 1,
    }
    c = copy.deepcopy(parent.quality_metrics)
    d = copy.deepcopy(parent.agent_context)["x"]
    return a, b, c, d


def hides(parent, copy):
    return parent.agent_context.copy()
