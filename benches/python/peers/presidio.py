"""Presidio's pattern recognisers, without a language model."""

from collections.abc import Callable, Iterable
from typing import Any

MISSING = ""
try:
    import tldextract
    import tldextract.tldextract
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        UsSsnRecognizer,
    )
except ImportError:
    MISSING = "presidio-analyzer is not installed: requirements/dev.txt"


def recognisers() -> list[Any]:
    """Those for what isolane looks for as well: addresses, cards, accounts, social security numbers."""
    # The list of top-level domains that comes with it; otherwise it is fetched from the network.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())
    return [CreditCardRecognizer(), EmailRecognizer(), IbanRecognizer(), UsSsnRecognizer()]


def analyse(texts: Iterable[str]) -> Callable[[], int]:
    """Return what looks through the texts and counts what it finds."""
    asked = [(recogniser, recogniser.supported_entities) for recogniser in recognisers()]
    kept = list(texts)

    def work() -> int:
        return sum(len(each.analyze(text, entities, None) or ()) for text in kept for each, entities in asked)

    return work
