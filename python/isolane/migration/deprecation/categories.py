"""What is raised or shown for a legacy call."""

from __future__ import annotations


class IsolaneDeprecationWarning(DeprecationWarning):
    """A way of the legacy service was used. Its text ends with a code such as ``[ISO-D003]``.

    Attributes:
        symbol: What was called, such as ``get_websocket_manager``.
        code: The code of the table, such as ``ISO-D003``.
        instead: What takes its place.
    """

    def __init__(self, message: str = "", *, symbol: str = "", code: str = "", instead: str = "") -> None:
        super().__init__(message)
        self.symbol = symbol
        self.code = code
        self.instead = instead


class RemovedInV2Warning(IsolaneDeprecationWarning):
    """It works in isolane 1 and is gone in isolane 2.

    ``filterwarnings = ["error::isolane.RemovedInV2Warning"]`` makes it an error in your tests.
    """
