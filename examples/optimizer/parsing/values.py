"""Cells to values: a time, a token count, a model name, a number of requests."""

from datetime import UTC, datetime
from typing import NamedTuple

from examples.optimizer.parsing.errors import LogError, shown

MAX_TOKENS = 1_000_000_000_000
_MAX_DIGITS = len(str(MAX_TOKENS))
_MAX_MODEL_CHARACTERS = 100
_EARLIEST = datetime(2015, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
# Epoch numbers by size: seconds until the year 5138, then milliseconds, microseconds, nanoseconds.
_EPOCH_UNITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (1e20, 1_000_000_000))
_DATE_CHARACTERS = len("2026-03-01")
_ALLOWED_TIMES = "Write it like 2026-03-01T14:05:00Z, 2026-03-01 14:05:00 or as a Unix time."


class CallTime(NamedTuple):
    """When a call was made; a bare date has no time of day, so nothing may be concluded from its hour."""

    at: datetime
    has_clock: bool


def read_time(cell: object, *, line: int, column: str) -> CallTime:
    """The time in a cell, in UTC; a time without an offset is taken as UTC."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float) or cell == "":
        raise _bad_time("has no time.", line, column)
    moment = _from_epoch(cell) if not isinstance(cell, str) else _from_text(cell.strip())
    if moment is None:
        raise _bad_time(f"{shown(cell)} is not a time.", line, column)
    if not _EARLIEST <= moment < _LATEST:
        raise _bad_time(f"{shown(cell)} is the year {moment.year}, outside 2015 to 2099.", line, column)
    return CallTime(moment, not (isinstance(cell, str) and len(cell.strip()) == _DATE_CHARACTERS and "-" in cell))


def _from_text(text: str) -> datetime | None:
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return _from_epoch(number)
    if text.endswith(" UTC"):
        text = text[: -len(" UTC")] + "+00:00"
    if text[4:5] == "/":
        text = text.replace("/", "-", 2)
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _from_epoch(number: float) -> datetime | None:
    for limit, per_second in _EPOCH_UNITS:
        if 0 <= number < limit:
            return datetime.fromtimestamp(number / per_second, UTC)
    return None


def _bad_time(problem: str, line: int, column: str) -> LogError:
    return LogError(problem, fix=_ALLOWED_TIMES, line=line, column=column)


def read_count(cell: object, *, line: int, column: str) -> int:
    """A whole number from zero up; nothing is rounded and nothing is guessed."""
    if type(cell) is int:
        number = cell
    elif isinstance(cell, str) and (text := cell.strip()).isascii() and text.isdigit():
        number = int(text) if len(text) <= _MAX_DIGITS else MAX_TOKENS + 1
    else:
        raise LogError(_count_problem(cell), fix=_count_fix(cell), line=line, column=column)
    if number < 0:
        raise LogError(f"{shown(cell)} is negative.", fix="Write 0 or more.", line=line, column=column)
    if number > MAX_TOKENS:
        raise LogError(
            f"{shown(cell)} is larger than any call.", fix=f"Write at most {MAX_TOKENS:,}.", line=line, column=column
        )
    return number


def _count_problem(cell: object) -> str:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return "has no number."
    text = str(cell).strip()
    if text.startswith("-") and text[1:].isdigit():
        return f"{shown(cell)} is negative."
    try:
        float(text)
    except ValueError:
        return f"{shown(cell)} is not a number."
    return f"{shown(cell)} is not a whole number."


def _count_fix(cell: object) -> str:
    if isinstance(cell, str) and any(separator in cell for separator in ",'_ "):
        return "Write digits only, without thousands separators, such as 1234."
    return "Write a whole number of 0 or more, such as 1234."


def read_model(cell: object, *, line: int, column: str) -> str:
    """A model's name as the log spells it."""
    if not isinstance(cell, str) or not (name := cell.strip()):
        problem = "has no model name." if cell is None or cell == "" else f"{shown(cell)} is not a model name."
        raise LogError(problem, fix="Write the model of each call, such as gpt-4o-mini.", line=line, column=column)
    if len(name) > _MAX_MODEL_CHARACTERS:
        raise LogError(
            f"{shown(name)} has {len(name)} characters, too many for a model name.",
            fix="Check that the right column is taken as the model.",
            line=line,
            column=column,
        )
    return name
