"""How the developers are told of legacy calls: ``ISOLANE_WARN``."""

from __future__ import annotations

import atexit
import itertools
import json
import logging
import os
import time
import warnings
from enum import StrEnum
from typing import Any

from isolane._core import LegacySite
from isolane.migration.deprecation.categories import RemovedInV2Warning
from isolane.migration.deprecation.codes import DOCUMENT
from isolane.migration.deprecation.ledger import LEDGER

logger = logging.getLogger("isolane.migration")

SUMMARY_AFTER = 60.0
"""Seconds from the first legacy call on after which the summary is due. It is logged with the next call, or at exit."""

_TOP = 5


class WarnMode(StrEnum):
    """How legacy calls are told. They are counted in every mode."""

    OFF = "off"
    """Not at all."""
    SUMMARY = "summary"
    """A warning for each line that makes one, and one line of the log for the process. The default."""
    ALWAYS = "always"
    """A warning and a line of the log for each call."""
    ERROR = "error"
    """The warning is raised, whatever the filters of `warnings` say."""


def _mode_of_environment() -> WarnMode:
    value = os.environ.get("ISOLANE_WARN", "").strip().lower()
    if not value:
        return WarnMode.SUMMARY
    try:
        return WarnMode(value)
    except ValueError:
        # A legacy call of a running service is the wrong place to fail for a typing error.
        logger.warning(
            "ISOLANE_WARN=%r is none of %s; legacy calls are told as with summary", value, ", ".join(map(str, WarnMode))
        )
        return WarnMode.SUMMARY


class _Teller:
    """Whether and how a call is told."""

    def __init__(self) -> None:
        self.mode = WarnMode.SUMMARY
        self._forced: WarnMode | None = None
        self._turns = itertools.count(1)
        self._turn = next(self._turns)
        self._filters: list[Any] | None = None
        self._first_filter: object = None
        self._many_filters = -1
        self.restart()

    def restart(self) -> None:
        """Begin as in a new process."""
        self._mode_is_known = False
        self._summary_due: float | None = None
        self._summary_is_told = False

    def force(self, mode: WarnMode | None) -> None:
        self._forced = mode
        self._mode_is_known = False

    def turn(self) -> int:
        """A number under which a line is told once."""
        if not self._mode_is_known:
            self.mode = self._forced or _mode_of_environment()
            self._mode_is_known = True
        mode = self.mode
        if mode is WarnMode.OFF:
            return 0
        if mode is not WarnMode.SUMMARY:
            return next(self._turns)
        # Other filters may show or raise what earlier ones hid: each test of pytest has its own.
        filters = warnings.filters
        if (
            filters is not self._filters
            or len(filters) != self._many_filters
            or (filters and filters[0] is not self._first_filter)
        ):
            self._turn = next(self._turns)
            self._filters = filters  # type: ignore[assignment]
            self._many_filters = len(filters)
            self._first_filter = filters[0] if filters else None
        if self._summary_due is None:
            self._summary_due = time.monotonic() + SUMMARY_AFTER
        elif not self._summary_is_told and time.monotonic() >= self._summary_due:
            self.summarise()
        return self._turn

    def tell(self, site: LegacySite, symbol: str, code: str, instead: str) -> None:
        mode = self.mode
        if mode is WarnMode.OFF:
            return
        text = f"{symbol} is removed in isolane 2; instead: {instead} [{code}] {DOCUMENT}#{code.lower()}"
        warning = RemovedInV2Warning(text, symbol=symbol, code=code, instead=instead)
        if mode is WarnMode.ERROR:
            raise warning
        if mode is WarnMode.ALWAYS:
            logger.warning("%s:%d: %s", site.file, site.line, text)
        warnings.warn_explicit(warning, None, site.file, site.line, module=site.module or None)

    def summarise(self) -> None:
        """Log the one line, unless that was done or there is nothing to say."""
        if self._summary_is_told or self.mode is not WarnMode.SUMMARY or not LEDGER.calls():
            return
        self._summary_is_told = True
        book = json.loads(LEDGER.book())
        top = sorted(book["sites"], key=lambda site: -site["count"])[:_TOP]
        lines = ", ".join(f"{site['symbol']} at {site['file']}:{site['line']} ({site['count']})" for site in top)
        logger.warning(
            "%d legacy calls of isolane from %d lines, which version 2 removes; most often: %s."
            " `isolane migrate status` shows all",
            LEDGER.calls(),
            len(book["sites"]) + book["evicted"],
            lines,
        )


TELLER = _Teller()


def set_warn_mode(mode: WarnMode | str | None) -> None:
    """Sets how legacy calls are told in this process, over ``ISOLANE_WARN``.

    Args:
        mode: ``off``, ``summary``, ``always`` or ``error``; None takes the environment variable again.

    Raises:
        ValueError: It is none of them.
    """
    if mode is not None and mode not in list(WarnMode):
        raise ValueError(f"mode is {mode!r}; allowed are {', '.join(map(str, WarnMode))}, and None for ISOLANE_WARN")
    TELLER.force(None if mode is None else WarnMode(mode))


atexit.register(TELLER.summarise)
os.register_at_fork(after_in_child=TELLER.restart)
