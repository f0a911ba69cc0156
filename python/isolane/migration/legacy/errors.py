"""What the legacy names refuse."""

from __future__ import annotations

from typing import Self

from isolane._core import ContextIsolationError


class CrossUserSendError(ContextIsolationError):
    """A legacy call names a user whose it is not: nothing was sent, and the refusal was recorded.

    Attributes:
        code: ``ISO-E-CROSSUSER``.
        call: the legacy name that was called, such as ``send_to_user``.
        reason: ``other_user`` (a context or a signed-in user is bound, and it is another one), ``not_connected`` (none
            is bound, and the user has no socket here), ``message`` (the message names another user), ``socket``,
            ``connection``, ``mapping`` or ``run`` (what was named belongs to another user).
    """

    code = "ISO-E-CROSSUSER"

    def __init__(self, message: str, boundary: str = "publish", *, call: str = "", reason: str = "other_user") -> None:
        super().__init__(message, boundary)
        self.call = call
        self.reason = reason

    def __new__(cls, message: str, boundary: str = "publish", **_: str) -> Self:
        """Make it; the core's exception takes the text and the boundary only."""
        return super().__new__(cls, message, boundary)  # type: ignore[return-value]

    @property
    def is_breach(self) -> bool:
        """Whether it is a violation of isolation. That the user has no socket any more is none."""
        return self.reason != "not_connected"


class BroadcastDeniedError(ContextIsolationError):
    """A legacy broadcast that ``ISOLANE_LEGACY_BROADCAST`` does not allow, or that has nobody to go to.

    Attributes:
        code: ``ISO-E-BROADCAST``.
    """

    code = "ISO-E-BROADCAST"
    is_breach = False
    """It is a refusal, as the audit log has it: nothing of anybody met anybody."""


class LegacyContextError(RuntimeError):
    """A legacy getter was used where no run context is bound, and what it gives belongs to one."""
