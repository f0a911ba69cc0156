"""What a block of code changes in what is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from isolane._core import metrics_snapshot

Key = tuple[str, ...]


def _read() -> dict[Key, float]:
    values: dict[Key, float] = {}
    for name, family in metrics_snapshot().items():
        for series in family["series"]:
            key = (name, *series["labels"].values())
            values[key] = series["count"] if family["kind"] == "histogram" else series["value"]
    return values


class Changes(Mapping[Key, float]):
    """By the name of the samples and the values of the labels, by how much each series changed that did.

    Of a histogram, by how many were observed. A series that is gone changed by its value.
    """

    def __init__(self) -> None:
        self._before = _read()
        self._changes: dict[Key, float] = {}

    def look(self) -> None:
        """See what changed until now."""
        now = _read()
        changes = {key: now.get(key, 0) - self._before.get(key, 0) for key in now.keys() | self._before.keys()}
        self._changes = {key: change for key, change in changes.items() if change}

    def of(self, name: str) -> dict[Any, float]:
        """Return the changes of one family, by the values of its labels; a single one alone."""
        found = {key[1:]: change for key, change in self._changes.items() if key[0] == name}
        return {labels[0] if len(labels) == 1 else labels: change for labels, change in found.items()}

    def __getitem__(self, key: Key) -> float:
        """Return the change of one series."""
        return self._changes[key]

    def __iter__(self) -> Iterator[Key]:
        """Iterate over the series that changed."""
        return iter(self._changes)

    def __len__(self) -> int:
        """Return how many series changed."""
        return len(self._changes)


@contextmanager
def changes() -> Iterator[Changes]:
    """Yield what is filled at the end of the block."""
    found = Changes()
    yield found
    found.look()
