"""The six events of an agent's execution, as older services send them: in any order, and under many names."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from isolane._core import InvalidEvent, UserWebSocketEmitter, to_json
from isolane.compat.run_spans import RunSpans
from isolane.migration.legacy.messages import LegacyMessage
from isolane.migration.legacy.policy import AGENT_EVENTS

Result = TypeVar("Result")

UNNAMED = "agent"
"""What an agent is called whose messages do not say it."""

BOUNDS = frozenset({"agent_started", "agent_completed", "agent_error"})
"""The beginning and the ends of an execution."""

_SAID = {
    "agent_thinking": ("reasoning", "thinking", "content", "thought", "message"),
    "tool_executing": ("parameters", "params", "tool_input", "input", "args"),
    "tool_completed": ("result", "tool_output", "output"),
    "agent_completed": ("result", "output", "response"),
    "agent_error": ("error_message", "error", "message"),
}
"""Under which names older services say what an event is about."""

_TOOL = ("tool_name", "tool", "name")


def at_once(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Return what a coroutine returns that never waits, as publishing does not.

    A message is published in one turn, under a lock, so that no cancellation finds half of it.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    coroutine.close()
    raise RuntimeError("publishing has waited, which it must not; this is a defect of isolane")


def publish(spans: RunSpans, message: LegacyMessage) -> bool:
    """Publish one of the six into a run. Returns ``False`` for a beginning that was told already.

    An execution that was not begun is begun, and a tool that was not called is called, before what presumes them.
    Raises ``InvalidEvent`` for a payload that is not JSON-able, and what publishing raises.
    """
    check_payload(message.payload)
    agent = message.agent_name or _latest(spans)
    if message.kind == "agent_started":
        if spans.has(agent):
            return False
        at_once(spans.started(agent, **_rest(message.payload, ("agent_name", "status"))))
        return True
    if not spans.has(agent):
        at_once(spans.started(agent, implied=True))
    tell(spans.of(agent), message, agent, spans.run_id)
    if message.kind in BOUNDS:
        spans.ended(agent)
    return True


def tell(emitter: UserWebSocketEmitter, message: LegacyMessage, agent: str | None, run_id: str | None) -> None:
    """Publish one of the six, but no beginning, by an emitter whose execution is open.

    Without an agent the event goes to the execution that is open. The names are given by keyword, so that no text of a
    message is taken for another argument.
    """
    whose: dict[str, Any] = {} if agent is None else {"agent_name": agent}
    if run_id is not None and agent is not None:
        whose["run_id"] = run_id
    kind, payload = message.kind, message.payload
    said, used = _first(payload, _SAID[kind])
    if kind == "agent_thinking":
        if used is None:
            said = message.message or ""
        metadata = _rest(payload, (used, "agent_name"))
        emitter.notify_agent_thinking(**whose, **_as("thinking", "content", said, whose), metadata=metadata)
    elif kind in {"tool_executing", "tool_completed"}:
        _tell_of_tool(emitter, kind, payload, said, used, whose)
    elif kind == "agent_completed":
        emitter.close_open("the agent ended without completing the tool", spans=False)
        metadata = _rest(payload, (used, "agent_name"))
        emitter.notify_agent_completed(**whose, result=said, metadata=metadata)
    else:
        emitter.close_open("the agent ended without completing the tool", spans=False)
        if used is None:
            said = message.message or "the agent failed"
        metadata = _rest(payload, (used, "agent_name"))
        emitter.notify_agent_error(**whose, error=said if isinstance(said, str) else str(said), metadata=metadata)


def _tell_of_tool(
    emitter: UserWebSocketEmitter,
    kind: str,
    payload: dict[str, Any],
    said: Any,
    used: str | None,
    whose: dict[str, Any],
) -> None:
    tool, named = _first(payload, _TOOL)
    tool = str(tool) if named is not None and str(tool).strip() else "tool"
    metadata = _rest(payload, (used, named, "agent_name"))
    if kind == "tool_executing":
        emitter.notify_tool_executing(
            **whose, tool_name=tool, **_as("tool_input", "params", said, whose), metadata=metadata
        )
        return
    error = payload.get("error")
    told: dict[str, Any] = {} if error is None else {"error": str(error)}
    metadata.pop("error", None)

    def completed() -> None:
        result = _as("tool_output", "result", said, whose)
        emitter.notify_tool_completed(**whose, tool_name=tool, **result, **told, metadata=metadata)

    try:
        completed()
    except InvalidEvent:
        # The payload is JSON-able, so it is its place that is missing.
        emitter.notify_tool_executing(**whose, tool_name=tool, **_as("tool_input", "params", {}, whose))
        completed()


def _as(first: str, second: str, value: Any, whose: dict[str, Any]) -> dict[str, Any]:
    """Return a value under the name that goes with the other arguments: with a run it has the one of the first form."""
    return {first if "run_id" in whose else second: value}


def _first(payload: dict[str, Any], names: tuple[str, ...]) -> tuple[Any, str | None]:
    return next(((payload[name], name) for name in names if payload.get(name) is not None), (None, None))


def _rest(payload: dict[str, Any], used: tuple[str | None, ...]) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if name not in used}


def _latest(spans: RunSpans) -> str:
    """Return the agent that began last and has not ended."""
    return next(reversed(spans.executions), UNNAMED)


def check_payload(payload: dict[str, Any]) -> None:
    """Raise ``InvalidEvent`` for a payload that has no JSON form: before anything of the message is published."""
    try:
        to_json(payload)
    except ValueError as error:
        raise InvalidEvent(str(error)) from None


__all__ = ["AGENT_EVENTS", "BOUNDS", "at_once", "check_payload", "publish", "tell"]
