"""``deprecated_call``: a legacy call is counted where it came from, and told once."""

from __future__ import annotations

from collections.abc import Sequence

from isolane.migration.deprecation.codes import CODES
from isolane.migration.deprecation.keeping import KEEPER
from isolane.migration.deprecation.ledger import LEDGER
from isolane.migration.deprecation.telling import TELLER


def deprecated_call(symbol: str, code: str, instead: str = "", *, stacklevel_skip_prefixes: Sequence[str] = ()) -> None:
    """Counts a legacy call in the ledger and warns about it once for each line that makes it.

    The line is the innermost one that is not isolane's. Lines of the standard library are passed over, and so is
    ``super().__init__()``: who makes the object is the caller. Where an event loop or a thread called it with no line
    of the application between, that line of theirs is named.

    Args:
        symbol: What was called, such as ``get_websocket_manager``. A name of the source, never a value.
        code: A code of the table, such as ``ISO-D003``.
        instead: What takes its place; by default what the table says.
        stacklevel_skip_prefixes: Beginnings of file names whose lines are not the caller either.

    Raises:
        KeyError: The code is not in the table.
        RemovedInV2Warning: ``ISOLANE_WARN=error``, or the filters of `warnings` make it an error.
    """
    entry = CODES[code]
    also_own = list(stacklevel_skip_prefixes) if stacklevel_skip_prefixes else None
    site = LEDGER.note(symbol, code, TELLER.turn(), also_own)
    if site is not None:
        KEEPER.begin_if_configured()
        TELLER.tell(site, symbol, code, instead or entry.instead)
