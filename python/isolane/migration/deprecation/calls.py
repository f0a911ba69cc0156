"""``deprecated_call``: a legacy call is counted where it came from, and told once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from isolane.migration.deprecation.categories import RemovedInV2Warning
from isolane.migration.deprecation.codes import CODES
from isolane.migration.deprecation.sites import call_site


def deprecated_call(symbol: str, code: str, instead: str = "", *, stacklevel_skip_prefixes: Sequence[str] = ()) -> None:
    """Counts a legacy call in the ledger and warns about it once for each line that makes it.

    Args:
        symbol: What was called, such as ``get_websocket_manager``. A name of the source, never a value.
        code: A code of the table, such as ``ISO-D003``.
        instead: What takes its place; by default what the table says.
        stacklevel_skip_prefixes: Folders or files whose frames are not the caller, besides isolane's own.

    Raises:
        KeyError: The code is not in the table.
        RemovedInV2Warning: ``ISOLANE_WARN=error``, or the filters of `warnings` make it an error.
    """
    entry = CODES[code]
    site = call_site(tuple(stacklevel_skip_prefixes))
    instead = instead or entry.instead
    text = f"{symbol} is removed in isolane 2; instead: {instead} [{code}]"
    warning = RemovedInV2Warning(text, symbol=symbol, code=code, instead=instead)
    warnings.warn_explicit(warning, None, site.file, site.line, module=site.module or None)
