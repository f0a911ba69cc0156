"""What an older agent is handed as its state: its own copy of the request's, or a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isolane._core import UserExecutionContext, _refusal
from isolane.migration.agents.adapter import copied
from isolane.migration.agents.attributes import field_names, is_state, read, write
from isolane.migration.agents.identity import THREAD, check_owner, is_left_out


@dataclass
class LegacyState:
    """A state with the fields that older agents read and write, for requests that are none.

    Attributes:
        user_request: the request, when it is a text.
        user_prompt: the same, under its later name.
        chat_thread_id: the conversation of the context; ``thread_id`` is the same.
        user_id: the user of the context.
        run_id: the run of the context.
        agent_input: the request, when it is no text.
    """

    user_request: str = ""
    user_prompt: str = ""
    chat_thread_id: str | None = None
    user_id: str | None = None
    run_id: str | None = None
    agent_input: Any = None
    triage_result: Any = None
    data_result: Any = None
    optimizations_result: Any = None
    action_plan_result: Any = None
    report_result: Any = None
    synthetic_data_result: Any = None
    supply_research_result: Any = None
    corpus_admin_result: Any = None
    corpus_admin_error: str | None = None
    final_report: Any = None
    step_count: int = 0
    current_step: str = ""
    messages: list[Any] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    quality_metrics: dict[str, Any] = field(default_factory=dict)
    context_tracking: dict[str, Any] = field(default_factory=dict)
    agent_context: dict[str, Any] = field(default_factory=dict)

    @property
    def thread_id(self) -> str | None:
        """The conversation."""
        return self.chat_thread_id

    @thread_id.setter
    def thread_id(self, value: str | None) -> None:
        self.chat_thread_id = value


@dataclass(slots=True)
class LegacyRequest:
    """The request of a pipeline, and what its older agents hand on to each other.

    Attributes:
        value: what the pipeline was started with.
        carried: under ``state``, the state as the agent before has left it.
    """

    value: Any
    carried: dict[str, Any]


def state_for(request: Any, context: UserExecutionContext) -> Any:
    """Return a state of one's own for an execution: nobody else holds it or anything in it.

    Raises ``ContextIsolationError`` for another user's state, ``LegacyIdentityError`` for one with placeholders or of
    another run.
    """
    given = request.carried.get("state", request.value) if isinstance(request, LegacyRequest) else request
    if not is_state(given):
        return _new_state(given, context)
    check_owner(given, context)
    state = copied(given, "state")
    _fill_in(state, context)
    return state


def hand_on(request: Any, state: Any, returned: Any, context: UserExecutionContext) -> Any:
    """Note the state that an agent leaves to the next one of its pipeline. Returns the result of the agent.

    That is what it returned, or else its state. A state that it returned must be of the context's user: an agent that
    keeps one in its class may return that of somebody else.
    """
    result = state if returned is None else returned
    left = result if is_state(result) else state
    if left is not state:
        check_owner(left, context)
    elif not is_left_out(owner := read(left, "user_id")) and owner != context.user_id:
        # Another user's was merged into it.
        raise _refusal("the agent left a state that belongs to another user than the context", "bind")
    if isinstance(request, LegacyRequest):
        request.carried["state"] = left
    return result


def text_of(request: Any) -> Any:
    """Return the request itself, for agents that want it and not the state around it."""
    value = request.value if isinstance(request, LegacyRequest) else request
    return read(value, "user_request", value) if is_state(value) else value


def _new_state(request: Any, context: UserExecutionContext) -> LegacyState:
    given = copied(request, "agent_input")
    text = given if isinstance(given, str) else ""
    if isinstance(given, Mapping):
        own = given.get("user_request")
        text = own if isinstance(own, str) else ""
    return LegacyState(
        user_request=text,
        user_prompt=text,
        chat_thread_id=context.thread_id,
        user_id=context.user_id,
        run_id=context.run_id,
        agent_input=None if isinstance(given, str) else given,
    )


def _fill_in(state: Any, context: UserExecutionContext) -> None:
    """Give a state the ids that it left out: those of the context."""
    names = set(field_names(state))
    thread = next((name for name in THREAD if name in names), None)
    for name, value in (("user_id", context.user_id), (thread, context.thread_id), ("run_id", context.run_id)):
        if name in names and read(state, name) in {None, ""}:
            write(state, name, value)
