"""Ids of the run in each line of a log: for the standard library, structlog and loguru.

They are read from the context that the code runs for, where the line is written. Nothing is bound beforehand, so
nothing is left over when a run is done. A user is written as a pseudonym unless the id is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from isolane._core import UserExecutionContext
from isolane.agents.execution import step_context
from isolane.contexts.caller import current_caller
from isolane.security.pseudonyms import pseudonym

NONE = "-"
FIELDS = ("user", "run_id", "thread_id", "request_id", "agent")


def current_ids(*, raw_user: bool = False) -> dict[str, str]:
    """Return the ids of the run that this code works for, by name; what is not known is not there.

    ``user``: a pseudonym, see ``isolane.security.pseudonyms``; ``run_id``, ``thread_id``, ``request_id``; ``agent``:
    inside of an agent. Within a request that has no run context, ``user`` alone, once somebody asked who is signed in.
    Outside of both, nothing: that costs two look-ups of a context variable.

    Args:
        raw_user: the user's id and no pseudonym. Then the log has personal data in it.
    """
    step = step_context.get()
    if step is not None:
        # What an agent left behind goes on to be its user's, also when the context is gone.
        return _ids(step(), step.user_id, step.agent, raw_user=raw_user)
    caller = current_caller.get()
    if caller is None:
        return {}
    return _ids(caller.run_context, caller.user_id, None, raw_user=raw_user)


def _ids(
    context: UserExecutionContext | None, user_id: str | None, agent: str | None, *, raw_user: bool
) -> dict[str, str]:
    found: dict[str, str] = {}
    if user_id is not None:
        found["user"] = user_id if raw_user else pseudonym(user_id)
    if context is not None:
        found["run_id"] = context.run_id
        found["thread_id"] = context.thread_id
        found["request_id"] = context.request_id
    if agent is not None:
        found["agent"] = agent
    return found


class StructlogProcessor:
    """A processor of structlog that adds ``current_ids()`` to each event. What the event names itself stays.

    Args:
        raw_user: see ``current_ids``.
    """

    def __init__(self, *, raw_user: bool = False) -> None:
        self._raw_user = raw_user

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Add the ids."""
        for name, value in current_ids(raw_user=self._raw_user).items():
            event.setdefault(name, value)
        return event


structlog_processor = StructlogProcessor()
"""The processor with pseudonyms: ``structlog.configure(processors=[structlog_processor, ...])``."""


class _RawIds(dict[str, str]):
    """Ids with that of the user as it is."""


class ContextLogFilter(logging.Filter):
    """Adds ``current_ids()`` to each record, and lets all pass. Put it on the handlers: ``handler.addFilter(...)``.

    A format may use ``%(isolane_user)s``, ``%(isolane_run_id)s``, ``%(isolane_thread_id)s``,
    ``%(isolane_request_id)s`` and ``%(isolane_agent)s``, which are ``-`` where there is none. ``record.isolane`` has
    those that there are, for a formatter of JSON. When one handler writes ids of users and another pseudonyms, add that
    with the ids first: what is a pseudonym already stays one.

    Args:
        raw_user: see ``current_ids``.
    """

    def __init__(self, *, raw_user: bool = False) -> None:
        super().__init__()
        self._raw_user = raw_user

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids."""
        # A record that comes to several handlers, maybe in another thread, is filled where it was written.
        ids = getattr(record, "isolane", None)
        if ids is None:
            ids = current_ids(raw_user=self._raw_user)
            self._fill(record, _RawIds(ids) if self._raw_user else ids)
        elif isinstance(ids, _RawIds) and not self._raw_user:
            # Another handler writes the id. This one does not.
            hidden = {"user": pseudonym(ids["user"])} if "user" in ids else {}
            self._fill(record, {**ids, **hidden})
        return True

    @staticmethod
    def _fill(record: logging.LogRecord, ids: dict[str, str]) -> None:
        record.isolane = ids
        for name in FIELDS:
            setattr(record, f"isolane_{name}", ids.get(name, NONE))


class LoguruPatcher:
    """Adds ``current_ids()`` to ``extra`` of each record of loguru: ``logger.configure(patcher=loguru_patcher)``.

    Args:
        raw_user: see ``current_ids``.
    """

    def __init__(self, *, raw_user: bool = False) -> None:
        self._raw_user = raw_user

    def __call__(self, record: Any) -> None:
        """Add the ids."""
        extra = record["extra"]
        for name, value in current_ids(raw_user=self._raw_user).items():
            extra.setdefault(name, value)


loguru_patcher = LoguruPatcher()
"""The patcher with pseudonyms."""
