"""The ledgers of legacy calls of all workers, put together on Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from isolane._core import merge_ledgers
from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.tally import All, Tally
from isolane.migration.deprecation.folder import LedgerReading, spans_of
from isolane.migration.deprecation.ledger import LEDGER

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane

TELL_SECONDS = 5.0


class Books:
    """What this process has counted of legacy calls."""

    def own(self) -> str:
        """Return the ledger."""
        return LEDGER.book()

    def added(self, texts: Sequence[str]) -> str | None:
        """Return several ledgers together."""
        whole, unread = merge_ledgers(list(texts))
        if whole is None:
            return None
        lost = {at for at, _ in unread}
        spans = spans_of(text for at, text in enumerate(texts) if at not in lost)
        return json.dumps({**json.loads(whole), "spans": spans})

    def without(self, text: str, taken: str) -> str:
        """Return the calls that came since it was taken."""
        book, before = json.loads(text), json.loads(taken)
        sites = {_site(site): site["count"] for site in before["sites"]}
        rest = [{**site, "count": site["count"] - sites.get(_site(site), 0)} for site in book["sites"]]
        symbols = {name: many - before["symbols"].get(name, 0) for name, many in book["symbols"].items()}
        return json.dumps(
            {
                **book,
                "evicted": max(0, book["evicted"] - before["evicted"]),
                "sites": [site for site in rest if site["count"] > 0],
                "symbols": {name: many for name, many in symbols.items() if many > 0},
            }
        )

    def lasting(self, text: str) -> str:
        """Return all of it: calls stay made."""
        return text


class SharedLedger:
    """The legacy calls of all workers: each says every 5 s what it has counted, and none is lost with its worker.

    Args:
        plane: what the workers share.
    """

    def __init__(self, plane: Plane) -> None:
        self._books = Books()
        self._tally = Tally(plane, "ledger", self._books, TELL_SECONDS)

    async def start(self, plane: Plane) -> None:
        """Begin."""
        del plane
        self._tally.begin()

    async def stop(self) -> None:
        """Tell what was counted last."""
        await self._tally.leave()

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        return self._tally.figures()

    async def reading(self) -> LedgerReading:
        """Return the ledgers of all workers as one; while Redis is away, as they were known last."""
        unread: dict[str, str] = {}
        found: All | None
        try:
            found = await self._tally.read()
        except PlaneUnavailableError:
            found = self._tally.whole
        if found is None:
            texts = [self._tally.current()]
            unread["other workers"] = "Redis is away, and was not read yet"
        else:
            texts = [*([found.kept] if found.kept is not None else []), *found.dead.values(), *found.live.values()]
        whole = self._books.added(texts)
        spans = None if whole is None else [(since, until) for since, until in json.loads(whole)["spans"]]
        return LedgerReading.of(whole, spans=spans, files=len(texts), unread=unread)


def _site(site: dict[str, Any]) -> tuple[str, str, int]:
    return site["symbol"], site["file"], site["line"]
