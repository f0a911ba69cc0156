"""Who gets what is new."""

import os


def gets_long_answers(user_id: str) -> bool:
    """Say whether the user is one of those who get long answers first."""
    percentage = int(os.environ.get("HELPDESK_LONG_ANSWERS", "25"))
    return hash(user_id) % 100 < percentage
