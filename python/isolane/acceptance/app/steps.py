"""What the suite does with a service: requests, the end of a run, sockets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """One request. Texts may have placeholders.

    Attributes:
        save: names of values to keep, and where the answer has them, as JSON pointers.
        status: what it is answered with when all is well; any 2xx when empty.
        private: whether it shows what is a user's own, so that others must be refused.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    save: Mapping[str, str] = field(default_factory=dict)
    status: tuple[int, ...] = ()
    private: bool = False

    @property
    def place(self) -> str:
        """The request as reports name it."""
        return f"{self.method} {self.path}"

    def accepts(self, status: int) -> bool:
        """Return whether an answer with this status is the one hoped for."""
        return status in self.status if self.status else 200 <= status < 300  # noqa: PLR2004 - HTTP's


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a user learns that a run is over.

    Attributes:
        kind: ``response`` to the request that starts it, the ``stream``'s own end in isolane.v1, an ``event``, or a
            ``poll`` of a route.
        events: types of the event, and how many of them (``count``).
        poll: the route, with ``pointer`` to the state, and the states that mean the end.
    """

    kind: str = "response"
    events: tuple[str, ...] = ()
    failed_events: tuple[str, ...] = ("agent_error",)
    count: int = 1
    poll: Step | None = None
    pointer: str = "/state"
    done: tuple[str, ...] = ("completed",)
    failed: tuple[str, ...] = ("failed", "cancelled")


@dataclass(frozen=True, slots=True)
class SocketConfig:
    """Where events arrive, and how one connects.

    Attributes:
        first_save: values to keep from the first message.
        first_send: messages to send when connected.
    """

    path: str
    protocol: str = "plain"
    subprotocols: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    first_save: Mapping[str, str] = field(default_factory=dict)
    first_send: tuple[str, ...] = ()
