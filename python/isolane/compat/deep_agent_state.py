"""The host's ``DeepAgentState``, and its adapters between states and contexts. The model needs pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

from isolane._core import UserExecutionContext, _refusal
from isolane.migration.agents.adapter import copied
from isolane.migration.agents.attributes import field_names, read
from isolane.migration.agents.errors import LegacyIdentityError
from isolane.migration.agents.identity import THREAD, read_identity
from isolane.migration.deprecation import deprecated_call

try:
    from pydantic import BaseModel, ConfigDict, Field
except ModuleNotFoundError as missing:
    if missing.name != "pydantic":
        raise
    raise ModuleNotFoundError(
        "isolane.compat.deep_agent_state needs pydantic: pip install 'isolane[tools]'. LegacyExecutionAdapter of "
        "isolane reads states without it",
        name=missing.name,
    ) from missing

__all__ = [
    "DeepAgentState",
    "DeepAgentStateAdapter",
    "MigrationValidationError",
    "UserExecutionContextAdapter",
]

RESULTS = (
    "triage_result",
    "data_result",
    "optimizations_result",
    "action_plan_result",
    "report_result",
    "synthetic_data_result",
    "supply_research_result",
    "corpus_admin_result",
    "final_report",
)
"""What agents leave in a state."""

_IDS = frozenset({"user_id", "run_id", "request_id", "created_at", "db_session", "websocket_client_id", *THREAD})

_SENSITIVE = (*RESULTS, "corpus_admin_error", "agent_input")


class MigrationValidationError(Exception):
    """A state and a context do not belong together, or something would be lost between them."""


class DeepAgentState(BaseModel):
    """The host's mutable state of a request. Ids have no default but ``None``. Deprecated: ``ISO-D001``.

    The methods that change it return a copy, which shares nothing with it.
    """

    model_config = ConfigDict(validate_assignment=True)

    user_request: str = "default_request"
    user_prompt: str | None = None
    chat_thread_id: str | None = None
    user_id: str | None = None
    run_id: str | None = None
    agent_input: dict[str, Any] | None = None
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
    current_step: str = ""
    step_count: int = Field(default=0, ge=0, le=10_000)
    messages: list[Any] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    quality_metrics: dict[str, Any] = Field(default_factory=dict)
    context_tracking: dict[str, Any] = Field(default_factory=dict)
    agent_context: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, **fields: Any) -> None:
        deprecated_call("DeepAgentState", "ISO-D001")
        thread = fields.pop("thread_id", None)
        if thread is not None:
            fields.setdefault("chat_thread_id", thread)
        # A caller's lists and dictionaries stay the caller's: users who share one do not share what is written here.
        super().__init__(**{name: copied(value, name) for name, value in fields.items()})

    @property
    def thread_id(self) -> str | None:
        """The same as ``chat_thread_id``."""
        return self.chat_thread_id

    @thread_id.setter
    def thread_id(self, value: str | None) -> None:
        self.chat_thread_id = value

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__("chat_thread_id" if name == "thread_id" else name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able data."""
        return self.model_dump(mode="json")

    def copy_with_updates(self, **updates: Any) -> Self:
        """Return a deep copy with other values. Raises ``ValueError`` for a field that there is not."""
        unknown = sorted(set(updates) - set(type(self).model_fields) - {"thread_id"})
        if unknown:
            raise ValueError(f"DeepAgentState has no field {unknown[0]!r}; use metadata for what it has no field for")
        made = self.model_copy(deep=True)
        for name, value in updates.items():
            setattr(made, name, copied(value, name))
        return made

    def increment_step_count(self) -> Self:
        """Return a copy with one step more."""
        return self.copy_with_updates(step_count=self.step_count + 1)

    def add_metadata(self, key: str, value: Any) -> Self:
        """Return a copy with one more entry in ``metadata``."""
        return self.copy_with_updates(metadata={**self.metadata, key: value})

    def clear_sensitive_data(self) -> Self:
        """Return a copy without results, input, messages and dictionaries."""
        empty: dict[str, Any] = dict.fromkeys(_SENSITIVE)
        lists: dict[str, Any] = {
            name: {} for name in ("metadata", "quality_metrics", "context_tracking", "agent_context")
        }
        return self.copy_with_updates(**empty, **lists, messages=[])

    def merge_from(self, other_state: Any) -> Self:
        """Return a copy with what another state of the same user has and this one has not.

        Raises ``ContextIsolationError`` for a state of another user, or when one of the two says nobody's.
        """
        owner = read(other_state, "user_id")
        if not owner or owner != self.user_id:
            raise _refusal("the states belong to different users, or one of them to nobody", "bind")
        updates: dict[str, Any] = {}
        for name in RESULTS:
            if getattr(self, name) is None and read(other_state, name) is not None:
                updates[name] = read(other_state, name)
        for name in ("metadata", "quality_metrics", "context_tracking", "agent_context"):
            updates[name] = {**(read(other_state, name) or {}), **getattr(self, name)}
        updates["step_count"] = max(self.step_count, read(other_state, "step_count", 0) or 0)
        return self.copy_with_updates(**updates)


class DeepAgentStateAdapter:
    """Makes contexts of states, and states of contexts. Deprecated: ``ISO-D011``."""

    @staticmethod
    def from_deep_agent_state(
        state: Any,
        user_id: str,
        thread_id: str,
        run_id: str,
        websocket_client_id: str | None = None,
        validate_isolation: bool = True,
    ) -> UserExecutionContext:
        """Make a context with deep copies of what a state of any class holds.

        Args:
            state: the state. Ids that it has must be the ones that are passed; ids that it has not are not asked for.
            user_id: whose it is, as the request was authenticated.
            thread_id: the conversation.
            run_id: the run.
            websocket_client_id: the socket that the request came from.
            validate_isolation: whether the context is searched for objects of another user. Ids are always compared.

        Raises ``MigrationValidationError`` when the ids differ, and ``InvalidContextError`` for bad ones.
        """
        deprecated_call("DeepAgentStateAdapter.from_deep_agent_state", "ISO-D011")
        thread = next((value for name in THREAD if (value := read(state, name))), None)
        originals = {"user_id": read(state, "user_id"), "thread_id": thread, "run_id": read(state, "run_id")}
        given = {"user_id": user_id, "thread_id": thread_id, "run_id": run_id}
        for name, original in originals.items():
            if original and original != given[name]:
                raise MigrationValidationError(
                    f"{name} of the state is not the one that was passed: the state belongs to somebody or something "
                    "else. Make it for this request"
                )
        try:
            read_identity({**given, "chat_thread_id": thread_id})
        except LegacyIdentityError as error:
            raise MigrationValidationError(str(error)) from error
        held = {name: copied(read(state, name), name) for name in field_names(state) if name not in _IDS}
        about = {
            **{f"original_{name}": value for name, value in originals.items() if value},
            "legacy_state": type(state).__name__,
            "legacy_step_count": held.get("step_count", 0),
            "migration_timestamp": datetime.now(UTC).isoformat(),
        }
        context = UserExecutionContext.from_request(
            user_id,
            thread_id,
            run_id,
            websocket_client_id=websocket_client_id,
            agent_context=held,
            audit_metadata=about,
        )
        lost = [name for name in RESULTS if held.get(name) is not None and name not in context.agent_context]
        if lost:
            raise MigrationValidationError(f"{', '.join(lost)} of the state would be lost")
        if validate_isolation:
            context.verify_isolation()
        return context

    @staticmethod
    def to_deep_agent_state(context: UserExecutionContext, preserve_results: bool = True) -> DeepAgentState:
        """Make a state of a context, for code that wants one. It shares nothing with the context.

        Raises ``TypeError`` for what is no context, and ``MigrationValidationError`` for values that no state takes.
        """
        deprecated_call("DeepAgentStateAdapter.to_deep_agent_state", "ISO-D011")
        if not isinstance(context, UserExecutionContext):
            raise TypeError(f"Expected UserExecutionContext, got: {type(context).__name__}")
        known = {name: value for name, value in context.agent_context.items() if name in DeepAgentState.model_fields}
        if not preserve_results:
            known = {name: value for name, value in known.items() if name not in RESULTS}
        known |= {"user_id": context.user_id, "chat_thread_id": context.thread_id, "run_id": context.run_id}
        try:
            return DeepAgentState(**known)
        except ValueError as error:
            raise MigrationValidationError(f"the context does not fit into a DeepAgentState: {error}") from error


class UserExecutionContextAdapter:
    """A context under the names of a ``DeepAgentState``. Deprecated: ``ISO-D011``.

    Ids are those of the context and cannot be set; everything else is read from, and written into, its
    ``agent_context``, in place. Nothing is copied: it is the same user's.
    """

    __slots__ = ("_context",)

    def __init__(self, context: UserExecutionContext) -> None:
        deprecated_call("UserExecutionContextAdapter", "ISO-D011")
        if not isinstance(context, UserExecutionContext):
            raise TypeError(f"Expected UserExecutionContext, got: {type(context).__name__}")
        object.__setattr__(self, "_context", context)

    @property
    def user_context(self) -> UserExecutionContext:
        """The context."""
        context: UserExecutionContext = object.__getattribute__(self, "_context")
        return context

    @property
    def user_id(self) -> str:
        """Whose it is."""
        return self.user_context.user_id

    @property
    def thread_id(self) -> str:
        """The conversation."""
        return self.user_context.thread_id

    @property
    def chat_thread_id(self) -> str:
        """The same."""
        return self.user_context.thread_id

    @property
    def run_id(self) -> str:
        """The run."""
        return self.user_context.run_id

    def __getattr__(self, name: str) -> Any:
        held: Mapping[str, Any] = self.user_context.agent_context
        if name in held:
            return held[name]
        known = DeepAgentState.model_fields.get(name)
        if known is None:
            raise AttributeError(f"neither the context nor a DeepAgentState has {name!r}")
        value = known.get_default(call_default_factory=True)
        if isinstance(value, (list, dict)):
            # Kept, so that what is appended to it is there at the next look.
            self.user_context.agent_context[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            raise AttributeError(  # noqa: TRY004 - as for every attribute that cannot be set
                f"{name} is the context's and cannot be set; make a context for another request"
            )
        self.user_context.agent_context[name] = value

    def __repr__(self) -> str:
        return f"<UserExecutionContextAdapter of {self.user_context!r}>"
