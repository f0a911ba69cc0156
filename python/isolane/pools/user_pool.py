"""The connections of one user over all pools."""

from __future__ import annotations

from isolane.pools.gate import Gate
from isolane.pools.statistics import PoolStatistics


class UserResourcePool:
    """A view of what one user may have and has. It holds nothing itself, and stays right when the user was forgotten.

    Attributes:
        user_id: whose it is.
    """

    __slots__ = ("_connection_timeout", "_gate", "user_id")

    def __init__(self, gate: Gate, user_id: str, connection_timeout: float) -> None:
        self._gate, self.user_id, self._connection_timeout = gate, user_id, connection_timeout

    @property
    def max_connections(self) -> int:
        """Connections that the user may have at once, over all pools."""
        return self._gate.accounts.limit_of(self.user_id)

    @property
    def in_use(self) -> int:
        """Connections that the user holds now."""
        return self.stats.in_use

    @property
    def stats(self) -> PoolStatistics:
        """The user's figures now."""
        return self._gate.accounts.of_user(self.user_id)

    @property
    def connection_timeout(self) -> float:
        """Seconds that a request may take when it names no other time."""
        return self._connection_timeout

    async def increase_capacity(self, capacity: float) -> int:
        """Allow at least so many connections, rounded up, at most ``max_per_user``. Returns what is allowed now."""
        return self._gate.set_capacity(self.user_id, capacity, grow=True)

    async def reduce_capacity(self, capacity: float) -> int:
        """Allow at most so many connections, rounded up, at least ``min_per_user``. Returns what is allowed now.

        Nothing that is held is taken back.
        """
        return self._gate.set_capacity(self.user_id, capacity, grow=False)

    def __repr__(self) -> str:
        stats = self.stats
        return f"<UserResourcePool {stats.in_use}/{stats.limit} in use, {stats.waiting} waiting>"
