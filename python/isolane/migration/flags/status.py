"""A file of flags as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isolane.migration.flags.sources.edits import describe_record, percent_of
from isolane.migration.flags.sources.history import changes_of, is_edited
from isolane.migration.flags.sources.writer import FlagFile

STEPS = (100, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000)
"""Where the guard stops on the way: 0.1, 1, 5, 10, 25, 50 and 100 %."""
SHOWN = 5


def plain(value: object) -> str:
    """A text with nothing in it that a terminal would do something about."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in str(value))


def rollout_status(path: Path, held: FlagFile) -> dict[str, Any]:
    """Return what a file says of each flag, without the ids of users. ``rollout`` is in per cent."""
    flags = held.document.get("flags", {})
    return {
        "file": str(path),
        "revision": held.revision,
        "kill_switch": held.document.get("kill_switch") is True,
        "edited_by_hand": is_edited(held.document),
        "flags": {name: _flag(flag) for name, flag in flags.items() if isinstance(flag, Mapping)},
        "history": [change.to_dict() for change in changes_of(held.document)[:SHOWN]],
    }


def _flag(flag: Mapping[str, Any]) -> dict[str, Any]:
    rollout = flag.get("rollout", 0)
    return {
        "state": flag.get("state", "on"),
        "rollout": rollout / 1000,
        "ladder": _ladder_of(flag),
        "stage": flag.get("stage"),
        "rules": [{"if": rule["if"], "rollout": rule["rollout"] / 1000} for rule in flag.get("rules", [])],
        "allowed_users": len(flag.get("allow", [])),
        "denied_users": len(flag.get("deny", [])),
        "requires": list(flag.get("requires", [])),
        "algorithm": flag.get("algorithm", "mm3-mul-v1"),
        "rollback": flag.get("rollback"),
        "resumed": flag.get("resumed"),
    }


def as_text(status: Mapping[str, Any], now: datetime | None = None) -> str:
    """Write a status for a terminal."""
    now = now or datetime.now(UTC)
    lines = [f"{status['file']}  revision {status['revision']}"]
    if status["edited_by_hand"]:
        lines.append("The file was edited by hand since the last change below.")
    lines.append(f"kill switch  {'ON: nobody has any flag' if status['kill_switch'] else 'off'}")
    for name, flag in status["flags"].items():
        lines += ["", *_flag_lines(name, flag)]
    if not status["flags"]:
        lines += ["", "There is no flag yet: isolane rollout set FLAG PERCENT --create"]
    if status["history"]:
        lines += ["", "last changes"]
        lines += [_history_line(change, now) for change in status["history"]]
    return "".join(f"{plain(line)}\n" for line in lines)


def _flag_lines(name: str, flag: Mapping[str, Any]) -> list[str]:
    lines = [name]

    def row(title: str, text: str) -> None:
        lines.append(f"  {title:<11}{text}")

    if flag["rollback"] is not None:
        row("ROLLED BACK", f"  {describe_record(flag['rollback'])}")
        row("", f"  isolane rollout resume {name} --ack INCIDENT --actor NAME")
    if flag["state"] != "on":
        row("state", f"{flag['state']}: nobody has it")
    steps = round(flag["rollout"] * 1000)
    row("rollout", f"{percent_of(steps)} of users")
    row("ladder", _ladder(steps, flag["ladder"]))
    for rule in flag["rules"]:
        row("rule", f"{percent_of(round(rule['rollout'] * 1000))} of users with {condition_of(rule)}")
    if flag["stage"] is not None:
        row("stage", str(flag["stage"]))
    if flag["allowed_users"] or flag["denied_users"]:
        row("by name", f"{flag['allowed_users']} allowed, {flag['denied_users']} denied")
    if flag["requires"]:
        row("requires", ", ".join(map(str, flag["requires"])))
    if flag["resumed"] is not None:
        row("resumed", f"{flag['resumed'].get('ack')}, by {flag['resumed'].get('actor')}")
    return lines


def _ladder_of(flag: Mapping[str, Any]) -> list[float]:
    """The guard's steps, in per cent."""
    guard = flag.get("guard")
    written = guard.get("ladder") if isinstance(guard, Mapping) else None
    return [step / 1000 for step in written or STEPS if isinstance(step, int)]


def _ladder(steps: int, ladder: list[float]) -> str:
    """The steps of a rollout, with the present share in brackets."""
    shown = {step: percent_of(step).removesuffix(" %") for step in {*(round(each * 1000) for each in ladder), steps}}
    return "  ".join(f"[{text}]" if step == steps else text for step, text in sorted(shown.items())) + "  %"


def condition_of(rule: Mapping[str, Any]) -> str:
    """Say whom a rule is for."""
    wanted = {name: [values] if isinstance(values, str) else values for name, values in rule["if"].items()}
    return " and ".join(f"{name} {' or '.join(map(str, values))}" for name, values in wanted.items())


def _history_line(change: Mapping[str, Any], now: datetime) -> str:
    ago = _ago((now - datetime.fromisoformat(change["at"])).total_seconds())
    what = f"{change['flag']}  {change['summary']}" if change["flag"] else change["summary"]
    why = f"  ({change['reason']})" if change["reason"] else ""
    return f"  {change['revision']:>5}  {ago:>9}  {change['actor']}  {what}{why}"


def _ago(seconds: float) -> str:
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} ago"
    return f"{max(0, int(seconds))} s ago"
