"""Usage logs that can be told apart: what belongs to a user carries the user's nonce."""

import random
from datetime import UTC, datetime, timedelta

_START = datetime(2026, 11, 2, tzinfo=UTC)
_SPAN = timedelta(days=14)
_PRICED = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5")
_NONCE_SHARE = 4


def nonce_model(nonce: str) -> str:
    """A model name that only one user's log holds; no price table knows it."""
    return f"house-{nonce}"


def make_log(nonce: str, rows: int) -> bytes:
    """A CSV of so many calls, every fourth of which names the user's own model."""
    chance = random.Random(nonce)  # noqa: S311 - the same log for the same nonce, nothing to guard
    lines = ["timestamp,model,prompt_tokens,completion_tokens"]
    for number in range(rows):
        at = _START + _SPAN * (number / rows)
        model = nonce_model(nonce) if number % _NONCE_SHARE == 0 else chance.choice(_PRICED)
        lines.append(f"{at:%Y-%m-%dT%H:%M:%SZ},{model},{chance.randint(40, 4000)},{chance.randint(5, 900)}")
    return ("\n".join(lines) + "\n").encode()
