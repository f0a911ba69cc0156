"""Leases on Redis: one script a kind of operation, each of one step, all keys of a limit in one slot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Literal, Protocol

from isolane.cluster.protocols import LeaseAnswer, LeaseOperation, LeaseReply

WHICH: tuple[None, Literal["user"], Literal["total"]] = (None, "user", "total")


class Scripts(Protocol):
    """Runs scripts by name, such as the plane, which sends all that are asked for together in one round trip."""

    def script(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Awaitable[Any]:
        """Begin to run a script."""


class RedisLeaseBackend:
    """Keeps leases in sorted sets: when each runs out, by the server's own clock.

    Args:
        scripts: what runs the scripts ``lease_acquire``, ``lease_renew``, ``lease_release`` and ``lease_restore``.
        prefix: of all keys.
    """

    def __init__(self, scripts: Scripts, prefix: str = "isolane") -> None:
        self._scripts = scripts
        self._prefix = prefix

    def keys(self, limit_name: str, user_key: str) -> list[str]:
        """Return the keys of a limit: a user's leases, the total's, the fence. Their tag is the same."""
        tag = f"{{{self._prefix}:lim:{limit_name}}}"
        return [f"{tag}:u:{user_key}", f"{tag}:g", f"{tag}:fence"]

    async def run(self, operations: Sequence[LeaseOperation]) -> list[LeaseReply | Exception]:
        """Do each of the operations. See ``LeaseBackend.run``."""
        begun = [
            self._scripts.script(
                f"lease_{operation.kind}",
                self.keys(operation.limit_name, operation.user_key),
                [operation.ttl_ms, operation.user_limit, operation.total_limit, *operation.ids],
            )
            for operation in operations
        ]
        answers = await asyncio.gather(*begun, return_exceptions=True)
        replies: list[LeaseReply | Exception] = []
        for operation, answer in zip(operations, answers, strict=True):
            if isinstance(answer, Exception):
                replies.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                replies.append(_read(operation.kind, answer))
        return replies


def _read(kind: str, answer: Any) -> LeaseReply | Exception:
    try:
        match kind:
            case "acquire":
                return [
                    LeaseAnswer(bool(int(granted)), int(fence), WHICH[int(which)], int(retry_ms))
                    for granted, fence, which, retry_ms in answer
                ]
            case "renew":
                return [bool(int(held)) for held in answer]
            case "restore":
                return [int(fence) for fence in answer]
            case _:
                return None
    except (TypeError, ValueError, IndexError) as error:
        return error
