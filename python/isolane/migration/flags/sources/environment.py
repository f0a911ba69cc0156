"""Flags from variables of the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isolane.migration.flags.source import FlagText
from isolane.migration.flags.sources.edits import WHOLE, empty_document
from isolane.migration.flags.sources.errors import FlagSourceError
from isolane.migration.flags.sources.file import POLL_SECONDS, FileSource

PREFIX = "ISOLANE_FLAG_"
FILE_VARIABLE = "ISOLANE_FLAGS_FILE"


class EnvironmentSource:
    """Flags from ``ISOLANE_FLAG_<NAME>``, and from the file that ``ISOLANE_FLAGS_FILE`` names.

    The name of the flag is in lower case. The value is the flag as JSON, such as ``{"state": "on", "rollout": 2500}``,
    or ``true`` for everybody, ``false`` for nobody. The environment of a process does not change: flags that are to
    change while it runs belong into the file, and a flag that stands in the file is what the file says, so that a
    roll-back there reaches the process whatever its environment has.

    Args:
        environ: the variables. Default: those of the process.
        flags_file: the file. Default: ``ISOLANE_FLAGS_FILE``, else none.
        poll_seconds: seconds between two looks at the file.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        flags_file: Path | str | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._variables = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
        path = flags_file or environ.get(FILE_VARIABLE)
        self.file = FileSource(path, poll_seconds) if path else None

    @classmethod
    def is_configured(cls, environ: Mapping[str, str] | None = None) -> bool:
        """Whether the environment has any flag, or names a file of flags."""
        environ = os.environ if environ is None else environ
        return bool(environ.get(FILE_VARIABLE)) or any(name.startswith(PREFIX) for name in environ)

    def read(self) -> FlagText:
        """Read the variables and the file.

        Raises:
            FlagSourceError: a variable is no flag, or the file cannot be read.
        """
        document = empty_document() | {"revision": 1} if self.file is None else self.file.document()
        own = {name.removeprefix(PREFIX).lower(): _flag(name, value) for name, value in self._variables.items()}
        flags = document.get("flags", {})
        if isinstance(flags, dict):
            document["flags"] = own | flags
        origin = "the environment" if self.file is None else f"{self.file.path} and the environment"
        return FlagText(json.dumps(document, default=str), origin=origin)

    async def watch(self, on_change: Callable[[], object]) -> None:
        """Look at the file until cancelled; returns at once when there is none."""
        if self.file is not None:
            await self.file.watch(on_change)


def _flag(variable: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, bool):
        return {"state": "on", "rollout": WHOLE if value else 0}
    if isinstance(value, dict):
        return value
    raise FlagSourceError(
        variable,
        "its value is no flag",
        'write the flag as JSON, such as {"state": "on", "rollout": 2500} for 2.5 %, or true, or false',
    )
