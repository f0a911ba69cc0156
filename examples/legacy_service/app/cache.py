"""What was found before."""


class SearchCache:
    """The latest searches, by their words. A new note empties it."""

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._found: dict[str, list[str]] = {}

    def get(self, key: str) -> list[str] | None:
        """Return what was found, if it was looked for before."""
        return self._found.get(key)

    def set(self, key: str, found: list[str]) -> None:
        """Keep what was found."""
        while len(self._found) >= self._limit:
            del self._found[next(iter(self._found))]
        self._found[key] = found

    def clear(self) -> None:
        """Forget everything."""
        self._found.clear()


cache = SearchCache()
