"""The scan of one event's contents, against patterns that know each value, as one searches without signatures."""

import json
import random
import re

from isolane._core import Scanner

from benches.python.measure import Case, Side, calls

GROUP = "Scan of an event"
SIZE = 16 * 1024
SECRETS = 1_000
CANARIES = "16 KiB, canaries"
EVERYTHING = f"16 KiB, canaries in all forms and {SECRETS} secrets"
OWN = "isolane"
PATTERN = "re, the form of a canary"
VALUES = f"re, {SECRETS} values"
USER = "ann-of-benches"


def event(draw: random.Random, own: str) -> str:
    """An event of 16 KiB with words, names, numbers and ids, and one canary of its user."""
    words = [
        "the",
        "cost",
        "of",
        "each",
        "model",
        "by",
        "day",
        "and",
        "region",
        "was",
        "compared",
        "with",
        "last",
        "month",
        "and",
        "is",
        "shown",
        "in",
        "euros",
    ]
    rows = []
    while len(json.dumps(rows)) < SIZE - 400:
        rows.append(
            {
                "id": f"{draw.getrandbits(128):032x}",
                "note": " ".join(draw.choices(words, k=12)),
                "model_name": draw.choice(["small", "large"]),
                "cost": draw.randint(1, 10**6),
                "share": "12 %",
            }
        )
    text = json.dumps({"type": "tool_completed", "payload": {"rows": rows, "note": own}})
    return text + " " * (SIZE - len(text))


def cases() -> list[Case]:
    """Both searches, on the same text."""
    draw = random.Random(2026)
    scanner = Scanner()
    text = event(draw, scanner.mint(USER))
    values = [f"{draw.getrandbits(128):032x}" for _ in range(SECRETS)]
    for value in values:
        scanner.register(USER, value)
    pattern = re.compile("iso1_[0-9a-z]{32}")
    all_values = re.compile("|".join(values))
    form = Side(PATTERN, calls(lambda: pattern.findall(text)))
    note = (
        "The pattern cannot tell a canary from what looks like one, nor whose it is; the values have to be compiled "
        "again for each user that comes."
    )
    return [
        Case(GROUP, CANARIES, (Side(OWN, calls(lambda: scanner.count_canaries(text))), form), note=note),
        Case(
            GROUP,
            EVERYTHING,
            (
                Side(OWN, calls(lambda: scanner.count_all(USER, text))),
                form,
                Side(VALUES, calls(lambda: all_values.findall(text))),
            ),
            note="Escapes, base 64, hexadecimal, capitals and characters of no width are looked into as well.",
        ),
    ]
