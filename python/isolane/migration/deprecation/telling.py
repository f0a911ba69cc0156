"""How the developers are told of legacy calls: ``ISOLANE_WARN``."""

from __future__ import annotations

import atexit
import itertools
import json
import logging
import os
import time
import warnings
from collections.abc import Sequence
from enum import StrEnum

from isolane._core import LegacySite
from isolane.migration.deprecation.categories import RemovedInV2Warning
from isolane.migration.deprecation.codes import DOCUMENT
from isolane.migration.deprecation.ledger import LEDGER

logger = logging.getLogger("isolane.migration")

SUMMARY_AFTER = 60.0
"""Seconds from the first legacy call on after which the summary is due. It is logged with the next new
line, or at exit."""

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
        self._forced: WarnMode | None = None
        self._turns = itertools.count(1)
        self._turn = 0
        self._filters: Sequence[object] = ()
        self._first: object = None
        self._many = 0
        self.restart()

    def restart(self) -> None:
        """Begin as in a new process."""
        self._mode: WarnMode | None = None
        self._is_settled = False
        self._summary_due: float | None = None
        self._summary_is_told = False

    def force(self, mode: WarnMode | None) -> None:
        self._forced = mode
        self._mode = None
        self._is_settled = False

    def turn(self) -> int:
        """A number under which a line is told once."""
        # Other filters may show or raise what earlier ones hid: each test of pytest has its own.
        filters = warnings.filters
        if self._is_settled and filters is self._filters and len(filters) == self._many and filters[0] is self._first:
            return self._turn
        return self._other_turn()

    def _other_turn(self) -> int:
        if self._mode is None:
            self._mode = self._forced or _mode_of_environment()
        if self._mode is not WarnMode.OFF:
            self._turn = next(self._turns)
        filters = self._filters = warnings.filters
        self._many = len(filters)
        self._first = filters[0] if filters else None
        self._is_settled = self._mode is WarnMode.SUMMARY and bool(filters)
        return self._turn

    def tell(self, site: LegacySite, symbol: str, code: str, instead: str) -> None:
        mode = self._mode
        if mode is WarnMode.OFF:
            return
        if self._summary_due is None:
            self._summary_due = time.monotonic() + SUMMARY_AFTER
        elif time.monotonic() >= self._summary_due:
            self.summarise()
        text = f"{symbol} is removed in isolane 2; instead: {instead} [{code}] {DOCUMENT}#{code.lower()}"
        warning = RemovedInV2Warning(text, symbol=symbol, code=code, instead=instead)
        if mode is WarnMode.ERROR:
            raise warning
        if mode is WarnMode.ALWAYS:
            logger.warning("%s:%d: %s", site.file, site.line, text)
        # Without a module the C implementation says nothing.
        warnings.warn_explicit(warning, None, site.file, site.line, module=site.module or "<unknown>")

    def summarise(self) -> None:
        """Log the one line, unless that was done or there is nothing to say."""
        if self._summary_is_told or self._mode is not WarnMode.SUMMARY or not LEDGER.calls():
            return
        self._summary_is_told = True
        book = json.loads(LEDGER.book())
        top = sorted(book["sites"], key=lambda site: -site["count"])[:_TOP]
        lines = ", ".join(f"{site['symbol']} at {site['file']}:{site['line']} ({site['count']})" for site in top)
        logger.warning(
            "legacy calls that isolane 2 removes: %d, from %d lines; most often: %s."
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
