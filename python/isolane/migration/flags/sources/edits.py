"""Changes of a document of flags: each takes the document as it is, changes it in place, and says what it did."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from isolane.migration.flags.sources.errors import FlagChangeRefusedError

WHOLE = 100_000
"""Steps of a rollout: a thousandth of a per cent each."""
_EACH = Decimal(1000)

Document = dict[str, Any]


def empty_document() -> Document:
    """A document without flags, before its first revision."""
    return {"schema": 1, "revision": 0, "kill_switch": False, "flags": {}}


def steps_of(percent: str | float | Decimal) -> int:
    """Return per cent as steps of 0.001 %.

    Raises:
        FlagChangeRefusedError: it is no number from 0 to 100 with at most three decimals.
    """
    text = str(percent).strip().removesuffix("%").strip()
    try:
        steps = Decimal(text) * _EACH
        # Through infinities, and what has more decimals than there are steps.
        fits = steps.is_finite() and steps == steps.to_integral_value() and 0 <= steps <= WHOLE
    except InvalidOperation:
        fits = False
    if isinstance(percent, bool) or not fits:
        raise FlagChangeRefusedError(
            f"{str(percent)!r} is no share of users: give per cent from 0 to 100 with at most three decimals, such as "
            "25 or 0.1"
        )
    return int(steps)


def percent_of(steps: Any) -> str:
    """Write steps of 0.001 % as per cent, without zeros at the end."""
    if not isinstance(steps, int) or isinstance(steps, bool):
        return "?"
    return f"{(Decimal(steps) / _EACH).normalize():f} %"


def set_rollout(
    document: Document,
    flag: str,
    steps: int,
    *,
    when: tuple[str, str] | None = None,
    create: bool = False,
    turn_on: bool = False,
    only_from: int | None = None,
) -> str:
    """Let so many users have a flag: all of them, or those of one rule."""
    if create and flag not in _flags(document):
        document.setdefault("flags", {})[flag] = {"state": "on", "rollout": 0}
    held = _flag(document, flag, "; to add it to the file, say so with --create")
    if steps and "rollback" in held:
        raise FlagChangeRefusedError(
            f"{flag} was rolled back: {describe_record(held['rollback'])}; find out why, then let it go on with "
            f"`isolane rollout resume {flag} --ack INCIDENT --actor NAME`"
        )
    if steps and held.get("state", "on") != "on":
        if not turn_on:
            raise FlagChangeRefusedError(
                f"{flag} has state {held['state']!r}, so that nobody has it whatever its rollout; if it may be turned "
                "on, say so with --on"
            )
        held["state"] = "on"
    if only_from is not None and held.get("rollout", 0) != only_from:
        raise FlagChangeRefusedError(
            f"{flag} is at {percent_of(held.get('rollout', 0))} and no longer at {percent_of(only_from)}: somebody has "
            "changed it meanwhile; look at it with `isolane rollout status`, and decide anew"
        )
    if when is None:
        before, held["rollout"] = held.get("rollout", 0), steps
        return f"{percent_of(before)} -> {percent_of(steps)}"
    rule = _rule(held, when)
    before, rule["rollout"] = rule.get("rollout", 0), steps
    return f"{when[0]}={when[1]}: {percent_of(before)} -> {percent_of(steps)}"


def kill(document: Document) -> str:
    """Turn the switch that takes every flag from everybody."""
    before, document["kill_switch"] = document.get("kill_switch", False), True
    return "kill switch on" if before is not True else "kill switch on, as before"


def unkill(document: Document) -> str:
    """Turn it back."""
    if document.get("kill_switch") is not True:
        raise FlagChangeRefusedError("the kill switch is off; to let a flag go on that was rolled back, name the flag")
    document["kill_switch"] = False
    return "kill switch off"


def roll_back(
    document: Document,
    flag: str,
    record: Mapping[str, Any],
    actor: str,
    reason: str,
    at: datetime,
    *,
    create: bool = False,
) -> str:
    """Take a flag from everybody until it is resumed, and keep why. Its salt stays: the same users are first again.

    What the record leaves out is filled in, so that every record has the fields of a guard's.
    """
    if create and flag not in _flags(document):
        document.setdefault("flags", {})[flag] = {"state": "on", "rollout": 0}
    held = _flag(document, flag, "; if it stands in a variable of the environment, say so with --create")
    if "rollback" in held:
        # Every process has a guard: the first of them says why. That runs must end is for all of them, though.
        if record.get("mode") == "abort" and isinstance(held["rollback"], dict):
            held["rollback"]["mode"] = "abort"
        return "rolled back, as before"
    before = held.get("rollout", 0)
    known = {
        "flag": flag,
        "metric": "manual",
        "measured": None,
        "threshold": None,
        "n": 0,
        "e_value": None,
        "stage": before,
        "revision": document.get("revision", 0),
        "at": int(at.timestamp() * 1e6),
        "mode": "drain",
        "actor": actor,
        "reason": reason or "by hand",
    }
    held["rollback"] = json.loads(json.dumps(known | dict(record), default=str))
    held.pop("resumed", None)
    # Whoever resumes it begins with nobody.
    for share in (held, *held.get("rules", [])):
        share["rollout"] = 0
    return f"{percent_of(before)} -> rolled back"


def resume(document: Document, flag: str, ack: str, actor: str, at: str) -> str:
    """Let a flag be rolled out again. Its rollout stays what it is, which is 0 after a roll-back."""
    held = _flag(document, flag)
    held.pop("rollback", None)
    held["resumed"] = {"ack": ack, "actor": actor, "at": at}
    return f"resumed ({ack}), at {percent_of(held.get('rollout', 0))}"


def describe_record(record: Any) -> str:
    """Say in a line why a flag was rolled back, at which share, by whom and when."""
    if not isinstance(record, Mapping):
        return str(record)
    parts = []
    if record.get("measured") is not None:
        parts.append(
            f"{record.get('metric')} {record['measured']} of {record.get('n')}, at most {record.get('threshold')}"
        )
    if record.get("stage") is not None:
        parts.append(f"at {percent_of(record['stage'])}")
    if record.get("actor"):
        parts.append(f"by {record['actor']}")
    at = record.get("at")
    if isinstance(at, int | float):
        parts.append(f"{datetime.fromtimestamp(at / 1e6, UTC):%Y-%m-%d %H:%M} UTC")
    elif at:
        parts.append(str(at))
    return f"{record.get('reason') or record.get('metric') or 'no reason is recorded'} ({', '.join(parts)})"


def _flags(document: Document) -> dict[str, Any]:
    flags = document.get("flags", {})
    return flags if isinstance(flags, dict) else {}


def _flag(document: Document, flag: str, more: str = "") -> dict[str, Any]:
    flags = _flags(document)
    held = flags.get(flag)
    if isinstance(held, dict):
        return held
    near = difflib.get_close_matches(flag, flags, n=1)
    known = f"did you mean {near[0]}?" if near else f"known are: {', '.join(sorted(flags)) or 'none'}"
    raise FlagChangeRefusedError(f"there is no flag {flag!r} in the file; {known}{more}")


def _rule(held: dict[str, Any], when: tuple[str, str]) -> dict[str, Any]:
    """The rule of exactly this condition; a new one goes before the others, because the first that matches counts."""
    name, value = when
    rules: list[Any] = held.setdefault("rules", [])
    for rule in rules:
        if isinstance(rule, dict) and rule.get("if") == {name: [value]}:
            return rule
    rule = {"if": {name: [value]}, "rollout": 0}
    rules.insert(0, rule)
    return rule
