"""The names of the GenAI conventions, in one table: nothing else of the package spells one.

The conventions are in development, and change. ``latest`` is what ``open-telemetry/semantic-conventions-genai`` means
to make stable first: agents that run in the process, and tools. ``1.41`` is the last version that was a part of the
general conventions; it has no durations of agents and tools, so these have names of isolane's there. ``off`` has no
``gen_ai.`` name at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Convention = Literal["latest", "1.41", "off"]
"""Which names."""

VARIABLE = "ISOLANE_GENAI_SEMCONV"
"""The environment variable that chooses the names."""

DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bounds of the durations, in seconds, as the conventions advise."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one convention.

    Attributes:
        agent_span: the first word of the span of an execution; the agent's name follows.
        tool_span: the same for a call of a tool.
        agent: what every span of an execution has.
        tool: what every span of a call has.
        agent_name: the attribute that names the agent.
        tool_name: the attribute that names the tool.
        conversation: the attribute with the id of the thread.
        provider: the attribute that names whose model it is.
        agent_duration: the histogram of executions.
        tool_duration: the histogram of calls.
    """

    agent_span: str
    tool_span: str
    agent: Mapping[str, str]
    tool: Mapping[str, str]
    agent_name: str
    tool_name: str
    conversation: str
    provider: str
    agent_duration: str
    tool_duration: str


_LATEST = Names(
    agent_span="invoke_agent",
    tool_span="execute_tool",
    agent=MappingProxyType({"gen_ai.operation.name": "invoke_agent"}),
    tool=MappingProxyType({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.type": "function"}),
    agent_name="gen_ai.agent.name",
    tool_name="gen_ai.tool.name",
    conversation="gen_ai.conversation.id",
    provider="gen_ai.provider.name",
    agent_duration="gen_ai.invoke_agent.duration",
    tool_duration="gen_ai.execute_tool.duration",
)

NAMES: Mapping[Convention, Names] = MappingProxyType(
    {
        "latest": _LATEST,
        "1.41": Names(
            agent_span=_LATEST.agent_span,
            tool_span=_LATEST.tool_span,
            agent=_LATEST.agent,
            tool=_LATEST.tool,
            agent_name=_LATEST.agent_name,
            tool_name=_LATEST.tool_name,
            conversation=_LATEST.conversation,
            provider=_LATEST.provider,
            agent_duration="isolane.agent.duration",
            tool_duration="isolane.tool.duration",
        ),
        "off": Names(
            agent_span="isolane.agent",
            tool_span="isolane.tool",
            agent=MappingProxyType({}),
            tool=MappingProxyType({}),
            agent_name="isolane.agent.name",
            tool_name="isolane.tool.name",
            conversation="isolane.thread.id",
            provider="isolane.provider.name",
            agent_duration="isolane.agent.duration",
            tool_duration="isolane.tool.duration",
        ),
    }
)

RUN_SPAN = "isolane.run"
"""The span of a run: what one call of its engine does."""
PERMIT_SPAN = "isolane.permit"
"""The span, or event, of a wait for a permit."""
RUN_ID = "isolane.run.id"
REQUEST_ID = "isolane.request.id"
USER_HASH = "isolane.user.hash"
OUTCOME = "isolane.outcome"
"""``ok``, ``error`` or ``cancelled``."""
PERMIT_FOR = "isolane.permit.for"
PERMIT_SECONDS = "isolane.permit.wait_seconds"
ERROR_TYPE = "error.type"

FLAG_EVENT = "feature_flag.evaluation"
"""The event of the conventions for feature flags, which are a release candidate."""
FLAG_KEY = "feature_flag.key"
FLAG_VARIANT = "feature_flag.result.variant"
FLAG_REASON = "feature_flag.result.reason"
FLAG_PROVIDER = "feature_flag.provider.name"
FLAG_CONTEXT = "feature_flag.context.id"
FLAG_VERSION = "feature_flag.version"


def convention(asked: str | None = None) -> Convention:
    """Return which names are used: those that are asked for, else those of ``ISOLANE_GENAI_SEMCONV``, else ``latest``.

    Raises:
        ValueError: there are no such names.
    """
    chosen, where = asked, "genai"
    if chosen is None:
        # That is also what gen_ai_latest_experimental in OTEL_SEMCONV_STABILITY_OPT_IN asks for.
        chosen, where = os.environ.get(VARIABLE, "").strip() or "latest", VARIABLE
    for name in NAMES:
        if chosen == name:
            return name
    raise ValueError(f"{where} is one of {', '.join(NAMES)}, got {chosen!r}")
