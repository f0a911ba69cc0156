"""``IsolationTester``: whether a user received anything of another's, and whether that would have been seen."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from isolane._core import Scanner, UserExecutionContext
from isolane.acceptance.events import EventShape
from isolane.acceptance.leaks import SHORTEST_RUN_ID, Examined, examine, told
from isolane.acceptance.records import Receipt, Transcript
from isolane.acceptance.results import TestResult
from isolane.security.contamination import ContaminationDetector
from isolane.security.findings import ContaminationReport

SHOWN = 12
"""So many places of leaks are told in full."""


class IsolationTester:
    """Makes signed canaries, looks for them in everything that users received, and plants some to see them reported.

    Args:
        seed: makes the key of the canaries: the same seed knows those of an earlier run.
        shape: where the events have what is looked at.
    """

    def __init__(self, seed: int = 0, shape: EventShape | None = None) -> None:
        key = hashlib.sha256(f"isolane acceptance {seed}".encode()).digest()
        self.detector = ContaminationDetector(key=key)
        self.shape = shape or EventShape()

    @property
    def scanner(self) -> Scanner:
        """What finds the canaries."""
        return self.detector.scanner

    def mint(self, user: str) -> str:
        """Make a canary of a user."""
        return self.detector.mint(user)

    async def detect_data_contamination(self, context: UserExecutionContext | str, result: Any) -> ContaminationReport:
        """Look into one value for what is not the user's."""
        return await self.detector.detect_data_contamination(context, result)

    def examine(self, transcripts: Sequence[Transcript]) -> Examined:
        """Look at everything that all of these users were sent."""
        return examine(self.scanner, transcripts, self.shape)

    def judge(self, transcripts: Sequence[Transcript], result: TestResult) -> Examined:
        """Look at everything, note what was found, and plant leaks into a copy: each must be reported.

        A user whose own canary never came back has shown nothing: that is noted as a failure as well.
        """
        examined = self.examine(transcripts)
        result.add_check("bodies, headers and frames scanned for canaries of others", examined.receipts)
        result.add_check("own canaries seen", sum(examined.own.values()))
        sentences = told(examined.leaks)
        for sentence in sentences[:SHOWN]:
            result.add_failure(sentence)
        if len(sentences) > SHOWN:
            result.add_failure(f"leak: in {len(sentences) - SHOWN} more places")
        if examined.incomplete:
            result.add_failure(f"{examined.incomplete} bodies or frames are too large to be looked at to their end")
        blind = [one.user for one in transcripts if one.runs and not examined.own.get(one.user)]
        if blind:
            result.add_failure(
                f"{', '.join(blind)} never received an own canary, so a foreign one might not be shown either: put"
                " {canary} where the service shows it again"
            )
        self._controls(transcripts, result)
        return examined

    def _controls(self, transcripts: Sequence[Transcript], result: TestResult) -> None:
        pair = _pair(transcripts)
        if pair is None:
            result.add_control("a canary of another user: there are no two users", seen=False)
            return
        reader, owner = pair
        before = self._count(reader, owner)
        foreign = self.mint(owner.user)
        for planted, plant in _PLANTS.items():
            copy = plant(self.shape, reader.copy(), foreign)
            if copy is not None:
                result.add_control(f"a canary of {owner.user} {planted}", seen=self._count(copy, owner) > before)
        run = next((run for run in sorted(owner.run_ids) if len(run) >= SHORTEST_RUN_ID), None)
        if run is not None:
            copy = reader.copy()
            copy.receipts.append(Receipt("body", _PLANTED, json.dumps({"run": run}), 0.0))
            seen = self._count(copy, owner, "run id") > self._count(reader, owner, "run id")
            result.add_control(f"the id of a run of {owner.user}", seen=seen)

    def _count(self, reader: Transcript, owner: Transcript, evidence: str = "canary") -> int:
        other = Transcript(owner.user, run_ids=owner.run_ids)
        return sum(
            leak.count
            for leak in self.examine([reader, other]).leaks
            if (leak.seen_by, leak.owner, leak.evidence) == (reader.user, owner.user, evidence)
        )


_PLANTED = "the planted answer"
_Plant = Callable[[EventShape, Transcript, str], Transcript | None]


def _pair(transcripts: Sequence[Transcript]) -> tuple[Transcript, Transcript] | None:
    """Return who shall see what is planted, and whose it is."""
    if len({one.user for one in transcripts}) < 2:  # noqa: PLR2004 - one alone has nobody to see
        return None
    reader = max(transcripts, key=lambda one: len(one.receipts))
    owner = next(one for one in transcripts if one.user != reader.user)
    return reader, owner


def _exchanged(_: EventShape, copy: Transcript, foreign: str) -> Transcript | None:
    """Put the other's canary where the own one was received."""
    for number, receipt in enumerate(copy.receipts):
        own = next((one for one in copy.canaries if one in receipt.text), None)
        if own is not None:
            copy.receipts[number] = replace(receipt, data=receipt.text.replace(own, foreign))
            return copy
    return None


def _in_header(_: EventShape, copy: Transcript, foreign: str) -> Transcript:
    copy.receipts.insert(len(copy.receipts) // 2, Receipt("header", _PLANTED, f"x-note: {foreign}", 0.0))
    return copy


def _in_base64(_: EventShape, copy: Transcript, foreign: str) -> Transcript:
    hidden = base64.b64encode(f"a note: {foreign}".encode()).decode()
    copy.receipts.append(Receipt("body", _PLANTED, json.dumps({"attachment": hidden}), 0.0))
    return copy


def _as_key(_: EventShape, copy: Transcript, foreign: str) -> Transcript:
    escaped = "".join(f"\\u{ord(character):04x}" for character in foreign)
    copy.receipts.append(Receipt("frame", _PLANTED, f'{{"{escaped}": 1}}', 0.0))
    return copy


def _in_pieces(shape: EventShape, copy: Transcript, foreign: str) -> Transcript | None:
    run = next(iter(sorted(copy.run_ids)), None)
    if run is None or not shape.type:
        return None
    for piece in (foreign[:15], foreign[15:]):
        message = shape.message("text_delta", run, {"delta": piece})
        copy.receipts.append(Receipt("frame", _PLANTED, json.dumps(message), 0.0))
    return copy


def _in_texts(_: EventShape, copy: Transcript, foreign: str) -> Transcript:
    copy.receipts += [Receipt("frame", _PLANTED, piece, 0.0) for piece in (foreign[:15], foreign[15:])]
    return copy


_PLANTS: dict[str, _Plant] = {
    "in place of an own one": _exchanged,
    "in a header": _in_header,
    "in base 64": _in_base64,
    "as a key of JSON, escaped": _as_key,
    "cut over two events": _in_pieces,
    "cut over two messages of plain text": _in_texts,
}
