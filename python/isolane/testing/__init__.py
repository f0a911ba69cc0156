"""Help for tests: users, canaries, recorded events, faults, a clock that stands still. A pytest plugin brings them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from isolane.testing.clock import ManualClock, manual_clock

if TYPE_CHECKING:
    from isolane.testing.application import LabApplication
    from isolane.testing.asgi import AsyncWsClient, Message, NoMessageError, SocketEndedError
    from isolane.testing.canaries import CanaryCrossedError, CanaryKit
    from isolane.testing.faults import Cancelled, FaultInjector, FaultNeverCameError, InjectedError
    from isolane.testing.lab import InconclusiveError, IsolationLab, IsolationLeakError, LabReport
    from isolane.testing.recording import EventRecorder
    from isolane.testing.transport import Answer, InMemoryTransport
    from isolane.testing.users import LabUser, UserFactory

FakeClock = ManualClock
"""The name by which others know it."""

_MODULES = {
    "Answer": "transport",
    "AsyncWsClient": "asgi",
    "CanaryCrossedError": "canaries",
    "CanaryKit": "canaries",
    "Cancelled": "faults",
    "EventRecorder": "recording",
    "FaultInjector": "faults",
    "FaultNeverCameError": "faults",
    "InMemoryTransport": "transport",
    "InconclusiveError": "lab",
    "InjectedError": "faults",
    "IsolationLab": "lab",
    "IsolationLeakError": "lab",
    "LabApplication": "application",
    "LabReport": "lab",
    "LabUser": "users",
    "Message": "asgi",
    "NoMessageError": "asgi",
    "SocketEndedError": "asgi",
    "UserFactory": "users",
}
"""Where a name is: loaded when it is first asked for. `LabApplication` needs the extra ``fastapi``."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(f"isolane.testing.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


__all__ = [
    "Answer",
    "AsyncWsClient",
    "CanaryCrossedError",
    "CanaryKit",
    "Cancelled",
    "EventRecorder",
    "FakeClock",
    "FaultInjector",
    "FaultNeverCameError",
    "InMemoryTransport",
    "InconclusiveError",
    "InjectedError",
    "IsolationLab",
    "IsolationLeakError",
    "LabApplication",
    "LabReport",
    "LabUser",
    "ManualClock",
    "Message",
    "NoMessageError",
    "SocketEndedError",
    "UserFactory",
    "manual_clock",
]
