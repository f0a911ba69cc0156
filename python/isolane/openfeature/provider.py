"""The provider: what an OpenFeature client asks when isolane decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata

from isolane._core import FlagDecision, FlagEngine, FlagSnapshot, UserExecutionContext
from isolane.migration.flags import MigrationFeatureFlags
from isolane.migration.flags.sources.watcher import FlagNews, NewsKind

PINNED = "isolane.flags"
"""The attribute of an evaluation context that has the decisions of a run."""

Value = TypeVar("Value")
Objects = Sequence[FlagValueType] | Mapping[str, FlagValueType]


def context_of_run(context: UserExecutionContext) -> EvaluationContext:
    """Return an evaluation context with which a client decides as the run has decided, however the flags change since.

    Without an installed engine there is nothing to pin, and the client decides as of now.

    Args:
        context: of the run, or of one of its children.
    """
    snapshot: Any = context.flags
    return EvaluationContext(context.user_id, {} if snapshot is None else {PINNED: snapshot})


class IsolaneProvider(AbstractProvider):
    """Answers booleans from isolane's flags; the targeting key is the user's id.

    A flag is on or off, so that other types are answered with ``TYPE_MISMATCH`` and their default. ``variant`` is
    ``on`` or ``off``, the reason OpenFeature's own, and ``flag_metadata`` has what a person needs to reckon the
    decision again: ``bucket``, ``threshold``, ``algorithm``, ``rule_index`` where there are any, ``step`` and
    ``revision``. Attributes that are texts, numbers, truth values or times are compared as texts with those of rules;
    others are left out.

    It tells the client of a new document (``PROVIDER_CONFIGURATION_CHANGED`` with the flags that changed), of a source
    that cannot be read (``PROVIDER_STALE``, ``PROVIDER_ERROR`` when there was no document before), and when it can be
    read again (``PROVIDER_READY``).

    Args:
        flags: what decides. Of an engine alone nobody is told of changes.
    """

    def __init__(self, flags: MigrationFeatureFlags | FlagEngine) -> None:
        super().__init__()
        self._engine = flags if isinstance(flags, FlagEngine) else flags.engine
        self._watcher = None if isinstance(flags, FlagEngine) else flags.watcher
        self._remove: Callable[[], None] | None = None

    def get_metadata(self) -> Metadata:
        """Return the provider's name, ``isolane``."""
        return Metadata(name="isolane")

    def initialize(self, evaluation_context: EvaluationContext) -> None:  # noqa: ARG002 - the protocol's
        """Load a document if there is none yet.

        Raises:
            ProviderNotReadyError: there is none to load.
        """
        if self._watcher is not None and self._remove is None:
            self._remove = self._watcher.add_listener(self._told)
        if self._engine.revision == 0 and self._watcher is not None:
            self._watcher.load()
        if self._engine.revision == 0:
            raise ProviderNotReadyError(
                "no document of flags is in force: give MigrationFeatureFlags a source that has one"
            )

    def shutdown(self) -> None:
        """Tell the client no more. The flags stay as they are."""
        if self._remove is not None:
            self._remove()
            self._remove = None

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Decide a flag. Never raises."""
        decision = self._decide(flag_key, evaluation_context)
        if decision.error_code is not None:
            return FlagResolutionDetails(
                default_value,
                error_code=ErrorCode(decision.error_code),
                error_message=_EXPLAINED.get(decision.error_code),
                reason=Reason.ERROR,
                flag_metadata=_metadata(decision),
            )
        return FlagResolutionDetails(
            decision.value,
            reason=Reason(decision.reason),
            variant=decision.variant,
            flag_metadata=_metadata(decision),
        )

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,
        evaluation_context: EvaluationContext | None = None,  # noqa: ARG002 - the protocol's
    ) -> FlagResolutionDetails[str]:
        """Return the default, with ``TYPE_MISMATCH``."""
        return self._mismatch(flag_key, default_value, "string")

    def resolve_integer_details(
        self,
        flag_key: str,
        default_value: int,
        evaluation_context: EvaluationContext | None = None,  # noqa: ARG002 - the protocol's
    ) -> FlagResolutionDetails[int]:
        """Return the default, with ``TYPE_MISMATCH``."""
        return self._mismatch(flag_key, default_value, "integer")

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,  # noqa: ARG002 - the protocol's
    ) -> FlagResolutionDetails[float]:
        """Return the default, with ``TYPE_MISMATCH``."""
        return self._mismatch(flag_key, default_value, "float")

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Objects,
        evaluation_context: EvaluationContext | None = None,  # noqa: ARG002 - the protocol's
    ) -> FlagResolutionDetails[Objects]:
        """Return the default, with ``TYPE_MISMATCH``."""
        return self._mismatch(flag_key, default_value, "object")

    def _decide(self, flag: str, context: EvaluationContext | None) -> FlagDecision:
        user = context.targeting_key if context is not None else None
        given: Mapping[str, Any] = context.attributes if context is not None else {}
        pinned = given.get(PINNED)
        # Of another user's run it would be the other user's decision.
        if isinstance(pinned, FlagSnapshot) and pinned.user_id == user:
            return pinned.decide(flag)
        return self._engine.decide(flag, user, _attributes(given) or None)

    def _mismatch(self, flag: str, default: Value, kind: str) -> FlagResolutionDetails[Value]:
        known = flag in self._engine.flags()
        return FlagResolutionDetails(
            default,
            error_code=ErrorCode.TYPE_MISMATCH if known else ErrorCode.FLAG_NOT_FOUND,
            error_message=f"{flag} is a boolean, not a flag of type {kind}" if known else _EXPLAINED["FLAG_NOT_FOUND"],
            reason=Reason.ERROR,
        )

    def _told(self, news: FlagNews) -> None:
        details = ProviderEventDetails(message=news.message, metadata={"revision": news.revision})
        match news.kind:
            case NewsKind.CHANGED:
                details.flags_changed = list(news.flags)
                self.emit_provider_configuration_changed(details)
            case NewsKind.STALE if news.revision:
                self.emit_provider_stale(details)
            case NewsKind.STALE:
                details.error_code = ErrorCode.PARSE_ERROR
                self.emit_provider_error(details)
            case NewsKind.FRESH:
                self.emit_provider_ready(details)


_EXPLAINED = {
    "FLAG_NOT_FOUND": "the document in force has no flag of this name",
    "TARGETING_KEY_MISSING": "give the user's id as targeting_key of the evaluation context",
    "INVALID_CONTEXT": "the targeting key is no user's id",
    "GENERAL": "the user's attributes could not be looked up",
}


def _metadata(decision: FlagDecision) -> dict[str, bool | int | float | str]:
    named = {
        "bucket": decision.bucket,
        "threshold": decision.threshold,
        "rule_index": decision.rule_index,
        "algorithm": decision.algorithm,
        "step": decision.step,
        "revision": decision.revision,
    }
    return {name: value for name, value in named.items() if value is not None}


def _attributes(given: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in given.items():
        if isinstance(value, bool):
            found[name] = "true" if value else "false"
        elif isinstance(value, str | int | float):
            found[name] = str(value)
        elif isinstance(value, datetime):
            found[name] = value.isoformat()
    return found
