"""Finds in what users were sent what belongs to others."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from isolane._core import Scanner
from isolane.acceptance.events import NO_WORD, EventShape, as_word
from isolane.acceptance.records import Receipt, Transcript

SHORTEST_RUN_ID = 8
"""A run id that is shorter could be part of anything."""

_LONGEST = 1024
"""A canary is shorter, however it is written."""

_BRACKETED = re.compile(r"\[([A-Za-z_][\w-]*)\]")
_ENTRY = re.compile(r"\$(?:\[b\]|\.b)\[(\d+)\]")
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Leak:
    """Data of one user that another was sent.

    Attributes:
        owner: whose it is.
        seen_by: who was sent it.
        evidence: ``canary`` or ``run id``.
        place: over which route or socket, and in which kind of event.
        path: where in it, such as ``$.payload.result``.
        form: how it was written, such as ``plain`` or ``base64``.
        count: how often it was seen there.
    """

    owner: str
    seen_by: str
    evidence: str
    place: str
    path: str
    form: str
    count: int = 1

    def __str__(self) -> str:
        """Return the leak as a sentence."""
        written = "" if self.form == "plain" else f", written as {self.form}"
        times = "once" if self.count == 1 else f"{self.count} times"
        return (
            f"leak: {self.seen_by} received a {self.evidence} of {self.owner} in {self.place} at {self.path}{written},"
            f" {times}"
        )


@dataclass(slots=True)
class Examined:
    """What a look at everything came to.

    Attributes:
        leaks: what was found of others.
        own: of each user how often own canaries were seen.
        receipts: how much was looked at.
        scanned_bytes: the same in bytes of text.
        incomplete: receipts that could not be looked at to their end.
    """

    leaks: list[Leak] = field(default_factory=list)
    own: dict[str, int] = field(default_factory=dict)
    receipts: int = 0
    scanned_bytes: int = 0
    incomplete: int = 0


def told(leaks: Sequence[Leak]) -> list[str]:
    """Return the leaks as sentences: one for each place, with whose and who, and how many others are concerned."""
    places: dict[tuple[str, str, str, str], list[Leak]] = {}
    for leak in leaks:
        places.setdefault((leak.evidence, leak.place, leak.path, leak.form), []).append(leak)
    sentences = []
    for first, *others in places.values():
        more = ""
        if others:
            pairs, times = len({(one.owner, one.seen_by) for one in others}), sum(one.count for one in others)
            more = f"; there {pairs} more pairs of users, {times} times"
        sentences.append(f"{first}{more}")
    return sentences


def examine(scanner: Scanner, transcripts: Sequence[Transcript], shape: EventShape) -> Examined:
    """Look at everything that all users were sent."""
    examined = Examined()
    owners = {run: one.user for one in transcripts for run in one.run_ids if len(run) >= SHORTEST_RUN_ID}
    found: Counter[Leak] = Counter()
    for transcript in transcripts:
        own = 0
        for receipt in transcript.receipts:
            seen, scanned, complete, leaks = _look(scanner, transcript.user, receipt, shape)
            own += seen
            examined.receipts += 1
            examined.scanned_bytes += scanned
            examined.incomplete += receipt.cut or not complete
            found.update(leaks)
            if receipt.channel != "refusal":
                # A refusal may repeat what was asked for.
                found.update(_run_ids(owners, transcript, receipt, shape))
        found.update(_cut(scanner, transcript, shape))
        examined.own[transcript.user] = examined.own.get(transcript.user, 0) + own
    examined.leaks = [
        Leak(one.owner, one.seen_by, one.evidence, one.place, one.path, one.form, count) for one, count in found.items()
    ]
    examined.leaks.sort(key=lambda one: (one.evidence != "canary", -one.count, one.seen_by, one.owner, one.place))
    return examined


def _look(scanner: Scanner, user: str, receipt: Receipt, shape: EventShape) -> tuple[int, int, bool, list[Leak]]:
    value = receipt.value
    own, scanned, complete, sightings = scanner.scan(user, value, "http_out", first=False)
    by_evidence = {one.evidence_id for one in sightings}
    if value is not receipt.data:
        # What the parser dropped, such as the first of two equal keys, was sent all the same.
        raw_own, _, raw_complete, raw = scanner.scan(user, receipt.data, "http_out", first=False)
        own, complete = max(own, raw_own), complete and raw_complete
        sightings = [*sightings, *(one for one in raw if one.evidence_id not in by_evidence)]
    leaks = [
        Leak(
            _owner(one.owner_user_id, one.owner_hash),
            user,
            one.tier,
            _place(receipt, shape, one.path),
            plain_path(one.path),
            one.form,
        )
        for one in sightings
    ]
    return own, scanned, complete, leaks


def _owner(user_id: str | None, owner_hash: str) -> str:
    return user_id if user_id is not None else f"a user of hash {owner_hash}"


def _run_ids(owners: Mapping[str, str], transcript: Transcript, receipt: Receipt, shape: EventShape) -> Iterator[Leak]:
    text = receipt.text
    for run, owner in owners.items():
        if owner == transcript.user or run not in text:
            continue
        for path in _paths_of(receipt.value, run) or ["$"]:
            yield Leak(owner, transcript.user, "run id", _place(receipt, shape, path), plain_path(path), "plain")


def _paths_of(value: Any, text: str) -> list[str]:
    found = []
    stack: list[tuple[str, Any]] = [("$", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, dict):
            for key, child in item.items():
                shown = as_word(str(key)) if text not in str(key) else NO_WORD
                if text in str(key):
                    found.append(f"{path}.{shown}")
                stack.append((f"{path}.{shown}", child))
        elif isinstance(item, list):
            stack.extend((f"{path}[{number}]", child) for number, child in enumerate(item))
        elif isinstance(item, str) and text in item:
            found.append(path)
    return found


def _cut(scanner: Scanner, transcript: Transcript, shape: EventShape) -> Iterator[Leak]:
    """Look for what was cut into several texts: events of one kind, messages of any other form, entries of a list."""
    texts: dict[tuple[str, str, str], list[str]] = {}
    for receipt in transcript.receipts:
        for key, text in _pieces(receipt, shape):
            texts.setdefault(key, []).append(text)
    for (_, place, path), pieces in texts.items():
        whole = scanner.look(transcript.user, "".join(pieces)) if len(pieces) > 1 else []
        # What a piece shows alone was found there.
        alone = (
            {one.evidence_id for piece in pieces for one in scanner.look(transcript.user, piece)} if whole else set()
        )
        for one in whole:
            if one.evidence_id not in alone:
                owner = _owner(one.owner_user_id, one.owner_hash)
                yield Leak(owner, transcript.user, one.tier, place, path, "pieces")


def _pieces(receipt: Receipt, shape: EventShape) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Return the texts of one receipt, each with what it may be a part of: the run, the place, the path."""
    if receipt.channel == "header":
        return
    events = list(shape.events_of(receipt))
    for event in events:
        for path, text in _texts(event.message):
            yield (event.run, f"several events {event.type}", path), _ends(text)
    if events:
        return
    # Answers of models are often streamed as plain text, or as JSON that names neither its type nor its run.
    for value in _values(receipt):
        for path, text in _texts(value):
            yield ("", f"several texts of {receipt.place}", path), _ends(text)


def _values(receipt: Receipt) -> Iterator[Any]:
    """Return what a receipt holds: one value of JSON, one in each line, or a text."""
    value = receipt.value
    if isinstance(value, (dict, list)):
        yield value
    elif receipt.channel in {"frame", "stream"}:
        # A piece that happens to be a number is a text as well.
        yield value if isinstance(value, str) else receipt.text
    else:
        for line in receipt.text.splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                yield json.loads(line)


def _ends(text: str) -> str:
    """Return what of a text may be a part of something longer: what is in its midst was found there."""
    return text if len(text) <= 2 * _LONGEST else f"{text[:_LONGEST]} {text[-_LONGEST:]}"


def _texts(value: Any, path: str = "$") -> Iterator[tuple[str, str]]:
    stack = [(path, value)]
    while stack:
        at, item = stack.pop()
        # What is put there last is looked at first: the entries of a list stay in their order.
        if isinstance(item, dict):
            stack.extend((f"{at}.{as_word(str(key))}", child) for key, child in reversed(item.items()))
        elif isinstance(item, list):
            stack.extend((f"{at}[*]", child) for child in reversed(item))
        elif isinstance(item, str):
            yield at, item


def _place(receipt: Receipt, shape: EventShape, path: str = "") -> str:
    """Return where something was received, with the kind of event. Of a frame with several, that at the path."""
    if receipt.channel == "header":
        return f"the headers of {receipt.place}"
    if receipt.channel in {"frame", "stream"}:
        events = list(shape.events_of(receipt))
        entry = _ENTRY.match(path)
        if entry is not None and int(entry[1]) < len(events):
            events = [events[int(entry[1])]]
        kinds = sorted({event.type for event in events})
        return f"{receipt.place}, event {' and '.join(kinds)}" if kinds else receipt.place
    return receipt.place


def plain_path(path: str) -> str:
    """Return a path of the scanner's as it is usually written: ``$[payload][rows][0]`` is ``$.payload.rows[*]``."""
    return _INDEX.sub("[*]", _BRACKETED.sub(r".\1", path))
