"""Copies."""

from typing import Any


def share(parent: Any) -> Any:
    a = parent.agent_context.copy()  # a
    b = {
        **parent.audit_metadata,  # theirs
        "mine": 1,
    }
    c = dict(parent.quality_metrics)
    d = {**parent.agent_context}["x"]
    return a, b, c, d


def hides(parent, copy):
    return parent.agent_context.copy()
