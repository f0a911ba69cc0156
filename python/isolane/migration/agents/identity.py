"""Whose a legacy state is. Every id must be there and real: nothing takes its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isolane._core import InvalidContextError, UserExecutionContext, _refusal
from isolane.migration.agents.attributes import read
from isolane.migration.agents.errors import LegacyIdentityError

THREAD = ("chat_thread_id", "thread_id")
"""The names under which states have their conversation, the field before its alias."""

FALLBACKS = frozenset(
    {
        *("anonymous", "anonymous_user", "guest", "legacy", "system", "unknown", "unknown_user"),
        *(f"{kind}_{what}" for kind in ("default", "legacy", "temp", "unknown") for what in ("user", "thread", "run")),
    }
)
"""What older code writes where it does not know an id. All who are called so would be one user.

A policy of placeholders may allow a real account ``default_user``: a sign-in vouches for that one, a state does not.
"""


@dataclass(frozen=True, slots=True)
class LegacyIdentity:
    """The ids of a legacy state.

    Attributes:
        user_id: whose it is.
        thread_id: the conversation.
        run_id: the run.
    """

    user_id: str
    thread_id: str
    run_id: str


def read_identity(state: object) -> LegacyIdentity:
    """Return the ids of a state. Raises ``LegacyIdentityError`` for one that is missing or is a placeholder."""
    found = LegacyIdentity(
        _checked("user_id", read(state, "user_id"), state),
        _checked("chat_thread_id", _thread_of(state), state),
        _checked("run_id", read(state, "run_id"), state),
    )
    try:
        # The rules of contexts: placeholders, lengths, control characters.
        UserExecutionContext(found.user_id, found.thread_id, found.run_id)
    except InvalidContextError as error:
        raise LegacyIdentityError(
            f"{_kind(state)} has an id that no context takes: {error}", error.field, error.value, error.rule, error.fix
        ) from None
    return found


def check_owner(state: object, context: UserExecutionContext) -> None:
    """Refuse a state of another user, conversation or run than the context.

    An id that the state leaves out is the context's, which a sign-in vouches for. Raises ``ContextIsolationError`` for
    another user's state, and ``LegacyIdentityError`` for placeholders and other ids.
    """
    user = read(state, "user_id")
    if not is_left_out(user) and _checked("user_id", user, state) != context.user_id:
        raise _refusal("the legacy state belongs to another user than the context", "bind")
    for field, value, own in (
        ("chat_thread_id", _thread_of(state), context.thread_id),
        ("run_id", read(state, "run_id"), context.run_id),
    ):
        if not is_left_out(value) and _checked(field, value, state) != own:
            raise LegacyIdentityError(
                f"{field} of {_kind(state)} is not that of the context. Make the context with the ids of the state, or "
                "leave them out of the state",
                field,
                "",
                "other_run",
                "make the context with the ids of the state",
            )


def is_left_out(value: object) -> bool:
    """Return whether a state does not say an id."""
    return value is None or value == ""


def _thread_of(state: object) -> Any:
    given = [value for name in THREAD if not is_left_out(value := read(state, name))]
    if len(given) > 1 and given[0] != given[1]:
        raise LegacyIdentityError(
            f"{_kind(state)} names two conversations, in {THREAD[0]} and in {THREAD[1]}. Set one of them",
            THREAD[0],
            "",
            "ambiguous",
            f"set {THREAD[0]} alone",
        )
    return given[0] if given else None


def _checked(field: str, value: object, state: object) -> str:
    if isinstance(value, str) and value.strip():
        if value.strip().lower() not in FALLBACKS:
            return value
        raise LegacyIdentityError(
            f"{field} of {_kind(state)} is the placeholder {value.strip()!r}, which stands for everybody whose id was "
            f"not known. Set {field} where the request is authenticated",
            field,
            value[:40],
            "placeholder",
            f"set {field} where the request is authenticated",
        )
    what = "missing" if is_left_out(value) else f"no text but {type(value).__name__}"
    raise LegacyIdentityError(
        f"{field} of {_kind(state)} is {what}. A state needs user_id, chat_thread_id (or thread_id) and run_id of the "
        f"request; there is no default. Set {field} where the request is authenticated",
        field,
        "",
        "required",
        f"set {field} where the request is authenticated",
    )


def _kind(state: object) -> str:
    return f"the legacy state ({type(state).__name__})"
