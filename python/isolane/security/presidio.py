"""Recognisers of Presidio as a detector. Needs ``isolane[presidio]``; no language model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

from isolane.security.sanitizer.records import Detector

MAX_NAME = 24


class Recognizer(Protocol):
    """What Presidio's ``PatternRecognizer`` and its like are."""

    supported_entities: list[str]

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> Iterable[Any] | None:
        """Return the results for a text: each has ``entity_type``, ``start``, ``end`` and ``score``."""


def detector(*recognizers: Recognizer, threshold: float = 0.5) -> Detector:
    """Return a detector for ``DataSanitizer.register_detector`` that asks recognisers of Presidio.

    A recogniser is called as it is, without Presidio's engine: pattern recognisers work, and others do if they need no
    artefacts of a language model. A finding is named by its entity, as ``UK_NHS``.

    Args:
        recognizers: instances, such as ``presidio_analyzer.predefined_recognizers.NhsRecognizer()``.
        threshold: the score from which a result counts. A pattern without a checksum often has less than 0.5, since
            Presidio raises scores by the words around a finding, which needs its engine.

    Raises:
        ValueError: there is no recogniser, or the threshold is not from 0 to 1.
    """
    if not recognizers:
        raise ValueError("a detector needs at least one recogniser, such as PatternRecognizer(…) of presidio_analyzer")
    if not 0 <= threshold <= 1:
        raise ValueError(f"the threshold is a score from 0 to 1, got {threshold}")

    def detect(text: str) -> list[tuple[str, int, int]]:
        return [
            (_kind(result.entity_type), result.start, result.end)
            for recognizer in recognizers
            for result in recognizer.analyze(text, recognizer.supported_entities, None) or ()
            if result.score >= threshold
        ]

    return detect


def _kind(entity: str) -> str:
    """The name of an entity as that of a finding: capital letters and underscores."""
    name = re.sub(r"[^A-Z]+", "_", entity.upper())[:MAX_NAME].strip("_")
    return name if len(name) > 1 else "PRESIDIO"
