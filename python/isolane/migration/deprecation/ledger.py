"""The ledger of this process."""

from __future__ import annotations

import asyncio
import os
import sysconfig
from pathlib import Path
from typing import Final

import isolane
from isolane._core import DeprecationLedger


def _folder(path: str) -> str:
    return path.rstrip(os.sep) + os.sep


def _ledger() -> DeprecationLedger:
    paths = sysconfig.get_paths()
    installed = {_folder(paths[name]) for name in ("purelib", "platlib")}
    return DeprecationLedger(
        [_folder(str(Path(isolane.__file__).parent))],
        # uvloop is C but for its runner.
        loops=[_folder(str(Path(asyncio.__file__).parent)), *(folder + "uvloop" + os.sep for folder in installed)],
        library=sorted({_folder(paths[name]) for name in ("stdlib", "platstdlib")}),
        installed=sorted(installed | {_folder(paths["stdlib"]) + "dist-packages" + os.sep}),
        own_module="isolane",
    )


LEDGER: Final = _ledger()
"""What this process has counted."""


def legacy_calls() -> dict[str, int]:
    """Legacy calls of this process by symbol: the values of the counter ``isolane_legacy_calls_total{symbol}``.

    The first 256 symbols have their names; the rest is counted as ``_other``.
    """
    return LEDGER.symbols()


# What the parent counted is the parent's: the child would write it down a second time.
os.register_at_fork(after_in_child=LEDGER.clear)
