"""``LegacyExecutionAdapter``: a context of one's own, made of what a legacy state holds."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from isolane._core import UserExecutionContext, _refusal, user_streams
from isolane.agents.execution import current_step
from isolane.migration.agents.attributes import field_names, read
from isolane.migration.agents.errors import FrozenLegacyState
from isolane.migration.agents.fingerprint import Fingerprint
from isolane.migration.agents.frozen import freeze
from isolane.migration.agents.identity import THREAD, LegacyIdentity, read_identity

Writes = Literal["strict", "lenient"]

_IDS = frozenset({"user_id", "run_id", *THREAD})
_RESERVED = frozenset({"request_id", "created_at", "db_session", "websocket_client_id"})


class LegacyExecutionAdapter:
    """Makes contexts of a legacy state, such as a ``DeepAgentState``; its class is never imported.

    The state is read once, here: from then on later writes to it would be lost. With ``writes="strict"`` they raise
    ``FrozenLegacyState``; with ``"lenient"`` they come to nothing and are counted as ``ISO-D008``. Reading it works as
    before. What cannot be frozen, such as a plain dictionary, and writes past the attributes are compared when a
    context of the state is cleaned up, or by ``check_writes()``.

    Args:
        state: a pydantic model, a dataclass, a dictionary, or any object with these attributes.
        writes: what later writes come to. Default ``strict``.
        freeze_state: whether later writes are noticed at all. Default: they are.

    Raises ``LegacyIdentityError`` when ``user_id``, ``chat_thread_id`` (or ``thread_id``) or ``run_id`` is missing or a
    placeholder, and ``TypeError`` for what holds something that cannot be copied.

    Attributes:
        identity: whose the state is.
    """

    def __init__(self, state: Any, *, writes: Writes = "strict", freeze_state: bool = True) -> None:
        if writes not in {"strict", "lenient"}:
            raise ValueError(f"writes must be 'strict' or 'lenient', got {writes!r}")
        self.identity: LegacyIdentity = read_identity(state)
        self.writes = writes
        self._class_name = type(state).__name__
        self._on_write = _WriteNoticed(self._class_name, writes, isinstance(state, Mapping))
        self._data = {name: copied(read(state, name), name) for name in field_names(state) if name not in _IDS}
        self._fingerprint: Fingerprint | None = None
        if freeze_state:
            freeze(state, self._on_write)
            self._fingerprint = Fingerprint(state)

    def create_temporary_context(self) -> UserExecutionContext:
        """Make a context with the ids of the state and deep copies of its data in ``agent_context``.

        Every call makes one, which shares nothing with the others. In an agent execution of the same run it is a child
        of that one's context, and borrows its permit. While the stream of the run is open, the end of the context
        leaves it open. Names that contexts keep for themselves, such as ``created_at``, get the prefix ``legacy_``.

        The caller cleans it up. Raises ``ContextIsolationError`` when the state holds objects of another user, or when
        it is of another user than the one for whom the code runs that calls this: the execution's, or who has signed in
        on the request.
        """
        # The context copies them again: it is a context's own rule, and each gets its own.
        data = {f"legacy_{name}" if name in _RESERVED else name: value for name, value in self._data.items()}
        about = {"legacy_state": self._class_name, "legacy_adapted_at": datetime.now(UTC).isoformat()}
        from isolane.migration.legacy.identity import bound_now  # noqa: PLC0415 - its package imports much

        ids = (self.identity.user_id, self.identity.thread_id, self.identity.run_id)
        step = current_step()
        bound = bound_now()
        if bound is not None and bound.user_id != self.identity.user_id:
            raise _refusal(
                "the legacy state belongs to another user than the one for whom this code runs; a state that is kept "
                "in a module or a class is the usual cause. Make one for each request",
                "bind",
            )
        if step is not None and (step.user_id, step.thread_id, step.run_id) == ids:
            context = step.create_child_context(self._class_name, data, about)
        elif any(stream["run_id"] == ids[2] and stream["outcome"] is None for stream in user_streams(ids[0])):
            # Of a root, the end would end the stream.
            context = UserExecutionContext(*ids).create_child_context(self._class_name, data, about)
        else:
            context = UserExecutionContext.from_request(*ids, agent_context=data, audit_metadata=about)
        context.verify_isolation()
        if self._fingerprint is not None:
            context.register_cleanup_callback(self.check_writes)
        return context

    def check_writes(self) -> list[str]:
        """Compare what could not be frozen; return what was written, or raise ``FrozenLegacyState``."""
        changed = self._fingerprint.changed() if self._fingerprint is not None else []
        for name in changed:
            self._on_write(name)
        return changed

    def __repr__(self) -> str:
        return f"<LegacyExecutionAdapter of a {self._class_name}, {self.writes}>"


@dataclass(frozen=True, slots=True)
class _WriteNoticed:
    """What a later write comes to. Not the adapter: what is frozen keeps this, and the adapter keeps the state."""

    class_name: str
    writes: Writes
    holds_any_key: bool

    def __call__(self, field: str) -> None:
        # The keys of a dictionary may be somebody's data.
        name = "" if self.holds_any_key else field
        if self.writes == "strict":
            raise FrozenLegacyState(
                f"{self.class_name}{name and f'.{name}'} was written after a context was made of the state, so the "
                "write would be lost. Write into context.agent_context, or return the value from the agent",
                name,
            )
        from isolane.migration.deprecation import deprecated_call  # noqa: PLC0415 - only when it happens

        deprecated_call(f"{self.class_name}{name and f'.{name}'}", "ISO-D008")


LegacyStateAdapter = LegacyExecutionAdapter
"""Another name for the same class."""


def copied(value: Any, name: str) -> Any:
    """Return a deep copy of a field. Raises ``TypeError`` that names the field for what cannot be copied."""
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise TypeError(
            f"field {name!r} of the legacy state holds a {type(value).__name__} that cannot be copied "
            f"({type(error).__name__}). Leave services, sessions and locks out of states: contexts give them"
        ) from error
