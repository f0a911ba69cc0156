"""Where a document of flags comes from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class FlagText:
    """A document as a source has it.

    Attributes:
        text: The document, in JSON.
        etag: Changes when the text does; empty when the source cannot tell.
        origin: Where it came from, for messages.
    """

    text: str
    etag: str = ""
    origin: str = ""


@runtime_checkable
class FlagSource(Protocol):
    """What a document of flags is read from. A source may also have `watch`, see `WatchedSource`."""

    def read(self) -> FlagText | None:
        """Reads the document; `None` when there is none yet.

        Raises:
            OSError: It cannot be read.
            ValueError: What was read is no text.
        """
        ...


@runtime_checkable
class WatchedSource(FlagSource, Protocol):
    """A source that notices changes by itself."""

    def watch(self, on_change: Callable[[], None]) -> Awaitable[None]:
        """Calls `on_change` in the running loop whenever `read` may answer something else, until it is cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class FixedSource:
    """A document that never changes by itself."""

    document: FlagText

    def read(self) -> FlagText:
        """The document."""
        return self.document
