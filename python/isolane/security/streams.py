"""``StreamGuard``: a look at what comes in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isolane._core import StreamWindow
from isolane.security.errors import ResponseWithheldError
from isolane.security.findings import Collected, ContaminationReport, ScanMode

if TYPE_CHECKING:
    from isolane.security.contamination import ContaminationDetector, Whose


class StreamGuard:
    """Looks at the pieces of one stream, each together with the end of what was before.

    Made by ``ContaminationDetector.stream``. What was passed on before the last piece of something forbidden came is
    gone: its beginning, at most.
    """

    def __init__(self, detector: ContaminationDetector, context: Whose, boundary: str) -> None:
        from isolane.security.contamination import user_of  # noqa: PLC0415 - which makes this

        self._detector = detector
        self._user = user_of(context)
        self._boundary = boundary
        self._window = StreamWindow(detector.scanner)
        self._withheld = False
        self.collected = Collected()
        """What was seen so far; of sightings, those that were not responded to."""

    def look(self, piece: Any) -> None:
        """Look at a piece: text, bytes, or a value as ``check_sync`` takes it."""
        if self._detector.mode(self._boundary) is ScanMode.OFF:
            return
        if isinstance(piece, (str, bytes)):
            self.collected.add(self._window.feed(self._user, piece, self._boundary))
        else:
            self.collected.add(self._detector.scanner.scan(self._user, piece, self._boundary, first=False))

    def feed(self, piece: Any) -> Any:
        """Return the piece if it may pass.

        Raises:
            ResponseWithheldError: it has, or completes, data of another user, or could not be looked at, and the
                boundary enforces. Nothing of the stream passes after that.
        """
        if not self._withheld:
            try:
                self.look(piece)
            except Exception as error:  # noqa: BLE001 - whatever a value raises when it is looked into
                self._detector._failed(error, self.collected)  # noqa: SLF001 - the other half of it
            if self.collected.sightings or self.collected.error is not None:
                self._withheld = self._respond().withheld
        if self._withheld:
            raise ResponseWithheldError(self._boundary)
        return piece

    def miss(self, error: Exception) -> None:
        """Note that a piece could not be looked at.

        Raises:
            ResponseWithheldError: the boundary enforces. Nothing of the stream passes after that.
        """
        if self._detector.mode(self._boundary) is ScanMode.OFF:
            return
        self._detector._failed(error, self.collected)  # noqa: SLF001 - the other half of it
        self._withheld = self._respond().withheld or self._withheld
        if self._withheld:
            raise ResponseWithheldError(self._boundary)

    def _respond(self) -> ContaminationReport:
        """Respond to what is new, and let go of it: a stream may go on for days."""
        sightings, self.collected.sightings = self.collected.sightings, []
        self.collected.complete = self.collected.complete and self.collected.error is None
        new = Collected(
            sightings,
            self.collected.own,
            self.collected.scanned_bytes,
            self.collected.complete,
            self.collected.error,
        )
        self.collected.error = None
        return self._detector._judge(self._user, self._boundary, new)  # noqa: SLF001 - the other half of it

    def report(self) -> ContaminationReport:
        """End the stream, and report on all that was not reported."""
        self._count()
        return self._respond()

    def close(self) -> ContaminationReport:
        """End the stream. The report has what ``feed`` has not responded to, and the coverage of all of it."""
        return self.report()

    def _count(self) -> None:
        # The stream is one delivery, however many pieces it came in.
        if self._detector.mode(self._boundary) is not ScanMode.OFF:
            self._detector.scanner.scan(self._user, "", self._boundary)
