"""Where a legacy call came from: the frame of the application, not one of isolane or of an event loop."""

from __future__ import annotations

import sys
from types import FrameType
from typing import NamedTuple

from isolane import __file__ as _package

OWN = _package.removesuffix("__init__.py")


class Site(NamedTuple):
    """A line of the application's source."""

    file: str
    line: int
    module: str


def call_site(skip: tuple[str, ...] = ()) -> Site:
    """The innermost frame that is not isolane's."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - what it is for
    prefixes = (OWN, *skip)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(prefixes):
            return Site(file, frame.f_lineno, str(frame.f_globals.get("__name__", "")))
        frame = frame.f_back
    return Site("<unknown>", 0, "")
