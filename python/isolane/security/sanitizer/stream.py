"""A text that comes in pieces."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self

from isolane._core import SanitizerCore, SanitizerStream


class StreamSanitizer:
    """Masks a text that comes in pieces, such as the answer of a language model.

    What could be the beginning of a secret is held back, 128 bytes at most, so that one that is split between two
    pieces is found. What was held for 50 ms may be asked for with ``flush``. Made by ``DataSanitizer.stream``, one for
    each text.

    What is longer than 128 bytes is found if its beginning tells it, as that of a token, a key in PEM armour or a
    bearer does; the digits of its mask are then those of the beginning.
    """

    __slots__ = ("_stream",)

    def __init__(self, core: SanitizerCore, user_id: str) -> None:
        self._stream = SanitizerStream(core, user_id)

    def feed(self, chunk: str, *, now: float | None = None) -> str:
        """Take a piece, and return what can go out. ``now`` is a clock in seconds, by default the monotonic one."""
        return self._stream.feed(chunk, monotonic() if now is None else now)

    def flush(self, *, now: float | None = None) -> str:
        """Return what has been held for 50 ms or longer; else nothing.

        It goes out as it is. When the rest of something that was split so comes later, the rest is masked.
        """
        return self._stream.flush(monotonic() if now is None else now)

    def close(self) -> str:
        """Return all that is held. The text is over; what is fed then begins a new one."""
        return self._stream.close()

    @property
    def held(self) -> int:
        """How many bytes are held back."""
        return self._stream.held

    @property
    def masked(self) -> int:
        """How many findings were masked."""
        return self._stream.masked

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
