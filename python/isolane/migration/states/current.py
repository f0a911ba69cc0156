"""Where a service is before its migration: each request takes the legacy path or the modern one."""

from __future__ import annotations

from typing import Any, Literal

from isolane._core import UserExecutionContext
from isolane.migration.states.machine import Machine, Table, rows

Kind = Literal["legacy", "modern", "neither"]


def kind_of(request: object) -> Kind:
    """Say by what a request brought which path it takes.

    A ``UserExecutionContext`` is modern. Whatever has a ``user_id`` and a ``run_id`` of its own is a legacy state, as
    ``DeepAgentState`` is, of whatever class.
    """
    if isinstance(request, UserExecutionContext):
        return "modern"
    given: Any = request
    has_ids = all(hasattr(given, name) for name in ("user_id", "run_id"))
    return "legacy" if has_ids and request is not None else "neither"


class RequestRouting(Machine):
    """One request of a service with both patterns.

    The legacy path looks its singletons up and shares its execution with other users: their data may meet there, so
    what it answers cannot be relied upon. This machine says what happens; ``MigrationPhase`` is what to do about it.
    """

    table = Table(
        name="RequestRouting",
        start="RequestReceived",
        moves=rows(
            ("RequestReceived", "legacy", "SingletonLookup"),
            ("RequestReceived", "modern", "ContextCreation"),
            ("RequestReceived", "neither", "ErrorState"),
            ("SingletonLookup", "found", "SharedExecution"),
            ("SharedExecution", "met", "CrossUserContamination"),
            ("SharedExecution", "alone", "UnpredictableResults"),
            ("CrossUserContamination", "answered", "UnpredictableResults"),
            ("UnpredictableResults", "sent", "Ended"),
            ("ContextCreation", "created", "IsolatedExecution"),
            ("ContextCreation", "refused", "ErrorState"),
            ("IsolatedExecution", "executed", "CleanResults"),
            ("IsolatedExecution", "failed", "ErrorState"),
            ("CleanResults", "sent", "Ended"),
            ("ErrorState", "told", "Ended"),
        ),
        groups={
            "LegacyPath": ("SingletonLookup", "SharedExecution", "CrossUserContamination", "UnpredictableResults"),
            "ModernPath": ("ContextCreation", "IsolatedExecution", "CleanResults"),
        },
    )

    def route(self, request: object) -> str:
        """Take the path of a request: by its context, its legacy state, or neither. Returns the state after it.

        Raises:
            IllegalMoveError: it was routed before.
        """
        return self.move(kind_of(request))
