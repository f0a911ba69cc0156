"""What the Redis has done, by its own account."""

from typing import Any

import redis

OWN = 2
"""Commands of the reading itself that its second half finds counted."""


class RedisFigures:
    """Counts commands and processor time from when it is made. Each measurement makes one."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, decode_responses=True)
        self._client.ping()
        self._before = self._read()

    def _read(self) -> tuple[int, float]:
        found: dict[str, Any] = {**self._client.info("stats"), **self._client.info("cpu")}  # type: ignore[dict-item]
        processor = float(found["used_cpu_sys"]) + float(found["used_cpu_user"])
        return int(found["total_commands_processed"]), processor

    def version(self) -> str:
        """The program and its version."""
        found: dict[str, Any] = self._client.info("server")  # type: ignore[assignment]
        return f"{found.get('server_name', 'redis')} {found.get('valkey_version', found['redis_version'])}"

    def since(self) -> tuple[int, float]:
        """Commands, those within scripts included, and seconds of the processor."""
        commands, processor = self._read()
        before, spent = self._before
        self._client.close()
        return max(0, commands - before - OWN), processor - spent
