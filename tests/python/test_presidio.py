"""Recognisers of Presidio as detectors."""

import os
import re

import pytest
from isolane import DataSanitizer
from isolane.security import presidio


@pytest.fixture(scope="module")
def recognizers():
    if not os.environ.get("ISOLANE_REQUIRE_ALL"):
        pytest.importorskip("presidio_analyzer")
    import presidio_analyzer.predefined_recognizers  # noqa: PLC0415 - only where it is installed

    return presidio_analyzer


@pytest.mark.filterwarnings("default")
def test_a_recogniser_finds_what_isolane_does_not_know(recognizers):
    nhs = recognizers.predefined_recognizers.NhsRecognizer()
    ticket = recognizers.PatternRecognizer(
        supported_entity="TICKET_2", patterns=[recognizers.Pattern("ticket", r"\bTCK-\d{4}\b", 0.6)]
    )
    sanitizer = DataSanitizer()
    sanitizer.register_detector(presidio.detector(nhs, ticket))
    text = "größer: patient 943 476 5919 and TCK-1234, alice@example.com"
    shown = sanitizer.sanitize({"text": text}, boundary="log", context="ann")
    assert [(finding.kind, text[finding.start : finding.end]) for finding in shown.findings] == [
        ("UK_NHS", "943 476 5919"),
        ("TICKET", "TCK-1234"),
        ("EMAIL", "alice@example.com"),
    ]
    assert re.search(r"\[UK_NHS:\w{4}\] and \[TICKET:\w{4}\], \[EMAIL", shown.value["text"])
    # A wrong check digit, and a threshold above the score.
    assert sanitizer.sanitize("943 476 5918").findings == ()
    strict = DataSanitizer()
    strict.register_detector(presidio.detector(ticket, threshold=0.7))
    assert strict.sanitize("TCK-1234").findings == ()


def test_what_is_no_detector():
    with pytest.raises(ValueError, match="at least one recogniser"):
        presidio.detector()
    with pytest.raises(ValueError, match="from 0 to 1"):
        presidio.detector(object(), threshold=2)
