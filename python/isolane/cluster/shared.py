"""What is one over all workers beside limits and runs: tickets, sign-outs, quarantine, flags, ledger and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isolane.cluster.flags import SharedFlagSource
from isolane.cluster.ledger import SharedLedger
from isolane.cluster.logouts import Logouts
from isolane.cluster.metrics import SharedMetrics
from isolane.cluster.quarantine import SharedQuarantine
from isolane.cluster.tickets import PlaneTicketStore

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane
    from isolane.fastapi.application import Isolane


class Shared:
    """The parts of a plane that an application has by itself.

    Attributes:
        tickets: keeps tickets for sockets, or ``None`` where the application has a store of its own.
        logouts: tells who is signed out.
        quarantine: of the application's detector, or ``None``.
        ledger: the legacy calls of all workers.
        metrics: of all workers, or ``None`` where that is switched off.
    """

    def __init__(self, plane: Plane, *, own_tickets: bool, merged_metrics: bool) -> None:
        self._plane = plane
        self.tickets = None if own_tickets else PlaneTicketStore(plane)
        self.ledger = SharedLedger(plane)
        self.metrics = SharedMetrics(plane) if merged_metrics else None
        self.quarantine: SharedQuarantine | None = None
        self.logouts: Logouts

    def attach(self, isolane: Isolane) -> None:
        """Be told of what happens in an application, and tell it what happened elsewhere."""

        def signed_out(user_id: str, session_id: str | None) -> int:
            if self.tickets is None:
                return isolane.logout_here(user_id, session_id)
            # Redis knows since when no ticket counts: one that was given out since does.
            self.tickets.end_here(user_id, session_id)
            return isolane.close_sockets(user_id, session_id)

        self.logouts = Logouts(self._plane, signed_out)
        detector = isolane.contamination
        if detector is not None and detector.quarantine is not None:
            self.quarantine = SharedQuarantine(self._plane, detector.quarantine)
        if isolane.rollout is not None:
            flags, guard = isolane.rollout.flags, isolane.rollout.guard
            if isinstance(flags.source, SharedFlagSource):
                flags.source.bind(self._plane)
                if guard is not None:
                    guard.write_by(flags.source.writer())
        for part in (self.tickets, self.logouts, self.quarantine, self.ledger, self.metrics):
            if part is not None:
                self._plane.add(part)
