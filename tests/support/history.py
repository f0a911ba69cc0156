"""Checks a client's transcript after the fact: what events.md promises of one user's messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any


def faults(messages: Iterable[dict[str, Any]]) -> list[str]:
    """Return what is missing, doubled, out of order or ill-formed in the messages of one client."""
    found: list[str] = []
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in messages:
        runs[message["run_id"]].append(message)
    for run, events in runs.items():
        numbers = [event["seq"] for event in events]
        if numbers != list(range(1, len(numbers) + 1)):
            found.append(f"run {run[-8:]}: the numbers are not 1..{len(numbers)} in order: {numbers[:20]}")
        spans: dict[str, list[str]] = defaultdict(list)
        open_tools: dict[str, list[str]] = defaultdict(list)
        for event in events:
            span, kind = event["request_id"], event["type"]
            history = spans[span]
            if kind == "agent_started" and history:
                found.append(f"span {span[-20:]}: started twice")
            if kind in {"agent_thinking", "tool_executing", "tool_completed", "agent_completed", "agent_error"}:
                if not history or history[0] != "agent_started":
                    found.append(f"span {span[-20:]}: {kind} before agent_started")
                if "agent_completed" in history or "agent_error" in history:
                    found.append(f"span {span[-20:]}: {kind} after its end")
            if kind == "tool_executing":
                open_tools[span].append(event["payload"]["tool_name"])
            if kind == "tool_completed":
                if event["payload"]["tool_name"] not in open_tools[span]:
                    found.append(f"span {span[-20:]}: tool_completed without tool_executing")
                else:
                    open_tools[span].remove(event["payload"]["tool_name"])
            history.append(kind)
        for span, history in spans.items():
            ends = sum(kind in {"agent_completed", "agent_error"} for kind in history)
            if history[0] == "agent_started" and ends != 1:
                found.append(f"span {span[-20:]}: {ends} last events instead of one")
            if open_tools[span]:
                found.append(f"span {span[-20:]}: tools left open: {open_tools[span]}")
    return found
