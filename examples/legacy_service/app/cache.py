"""Answers that were given before."""


class AnswerCache:
    """The latest answers, by question."""

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._answers: dict[str, str] = {}

    def get(self, key: str) -> str | None:
        """Return an answer, if it was given before."""
        return self._answers.get(key)

    def set(self, key: str, answer: str) -> None:
        """Keep an answer."""
        while len(self._answers) >= self._limit:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = answer


cache = AnswerCache()
