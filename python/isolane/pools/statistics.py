"""Figures of a pool or of a user, as a record that does not change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a shared pool, or one user over all pools, asked for and got.

    Attributes:
        name: the pool's name, or the user's id.
        limit: connections at once that are allowed now.
        in_use: connections held now.
        waiting: requests that wait now.
        peak: the most connections that were held at once.
        granted: requests that got a connection.
        timeouts: requests that waited until their deadline.
        refused: requests that were refused at once: a full queue, or an unhealthy pool.
        cancelled: requests that were cancelled while they waited.
        collected: connections that nobody released; the garbage collector returned them.
        average_concurrent: connections held and asked for, averaged over time in the last window (60 s by default).
        wait_p50: half of the recent requests waited less, in seconds. Recent are the last 64 of a user, 512 of a pool.
        wait_p99: 99 of 100 recent requests waited less, in seconds.
    """

    name: str
    limit: int
    in_use: int = 0
    waiting: int = 0
    peak: int = 0
    granted: int = 0
    timeouts: int = 0
    refused: int = 0
    cancelled: int = 0
    collected: int = 0
    average_concurrent: float = 0.0
    wait_p50: float = 0.0
    wait_p99: float = 0.0

    @property
    def utilization(self) -> float:
        """The part of the limit that is in use, from 0 to 1; over 1 while a lowered limit is not yet reached."""
        return self.in_use / self.limit
