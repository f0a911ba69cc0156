"""The removal gate: whether the legacy ways can go, by what production did and by what the source says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from isolane.migration.deprecation.folder import PAUSE, LedgerReading, LegacyLine

_NAMED = 5
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}


def parse_age(text: str) -> timedelta:
    """Reads a time such as ``7d``, ``36h``, ``90m``, ``30s`` or ``2w``.

    Raises:
        ValueError: It is none, or more than 100 years.
    """
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    age = None if match is None else timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    if age is None or age > timedelta(days=36_500):
        raise ValueError(f"{text!r} is no time such as 7d, 36h, 90m or 30s")
    return age


@dataclass(frozen=True, slots=True)
class RemovalGate:
    """What stands against removing the legacy ways.

    Attributes:
        window: How far back it was looked.
        lines: Lines that made a legacy call in it, the latest call first.
        findings: What the scan of the source found; None when nothing was scanned.
        observed: How much of the window the ledger covers, from the first worker's beginning to the latest word of one,
            pauses included.
        reasons: Why nothing may be removed; empty when it may.
    """

    window: timedelta
    lines: tuple[LegacyLine, ...]
    findings: int | None
    observed: timedelta
    reasons: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        """Whether the legacy ways can go."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """The gate for JSON."""
        return {
            "open": self.is_open,
            "window_seconds": self.window.total_seconds(),
            "observed_seconds": self.observed.total_seconds(),
            "lines_in_window": len(self.lines),
            "findings": self.findings,
            "reasons": list(self.reasons),
        }


def removal_gate(
    reading: LedgerReading,
    *,
    window: timedelta,
    observed_at_least: timedelta | None = None,
    findings: int | None = None,
    problems: Sequence[str] = (),
    now: datetime | None = None,
) -> RemovalGate:
    """Decides whether the legacy ways can be removed.

    It needs that no legacy call was made in the window, that somebody counted for the whole of it, without a pause of
    more than an hour and a tenth of it, that every ledger could be read, and that the scan of the source found nothing.

    Args:
        reading: What the workers counted.
        window: How far back to look.
        observed_at_least: How much of the window must have been counted; by default all of it.
        findings: What the scan of the source found; None when nothing was scanned.
        problems: What kept the scan from seeing everything.
        now: Default: now.
    """
    now = now or datetime.now(UTC)
    needed = window if observed_at_least is None else observed_at_least
    begin = now - window
    lines = tuple(line for line in reading.lines if line.last >= begin)
    reasons = []
    if lines:
        calls = f"{len(lines)} line{'s' * (len(lines) != 1)}"
        reasons.append(f"{calls} made a legacy call in the window; the latest: {lines[0].symbol} at {_at(lines[0])}")
    if reading.evicted_last is not None and reading.evicted_last >= begin:
        reasons.append("lines that had to make room in the ledger made a legacy call in the window")
    observed = timedelta()
    if reading.since is None or reading.until is None or reading.until < begin:
        reasons.append("no worker has counted in the window: set ISOLANE_LEDGER_DIR where the service runs")
    else:
        observed = max(min(reading.until, now) - max(reading.since, begin), timedelta())
        if now - reading.since < needed:
            reasons.append(f"only {_said(observed)} of {_said(needed)} were counted: wait, or ask for less of it")
        # A worker says every ten minutes that it still counts: no word for much longer is odd.
        odd = max(needed / 10, PAUSE)
        silence = now - reading.until
        if needed and silence > odd:
            reasons.append(f"the latest word of a worker is {_said(silence)} old: is the ledger still kept?")
        pause, since = _longest_pause(reading, now - needed)
        if needed and pause > odd:
            reasons.append(f"nobody counted for {_said(pause)} from {since:%Y-%m-%d %H:%M} UTC on")
    reasons += [f"{name} could not be read: {problem}" for name, problem in list(reading.unread.items())[:_NAMED]]
    if len(reading.unread) > _NAMED:
        reasons.append(f"{len(reading.unread) - _NAMED} more files could not be read")
    if findings:
        reasons.append(f"the scan has {findings} finding{'s' * (findings != 1)}: isolane migrate scan")
    reasons += problems
    return RemovalGate(window, lines, findings, observed, tuple(reasons))


def _longest_pause(reading: LedgerReading, begin: datetime) -> tuple[timedelta, datetime]:
    """The longest time, from `begin` on, in which no worker counted between two that did, and when it began."""
    pairs = zip(reading.spans, reading.spans[1:], strict=False)
    pauses = [(after[0] - max(before[1], begin), max(before[1], begin)) for before, after in pairs]
    return max(pauses, default=(timedelta(), begin))


def _at(line: LegacyLine) -> str:
    return f"{line.file}:{line.line}"


def _said(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
