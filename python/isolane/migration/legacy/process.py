"""Which hub the names of the process have: that of the application that runs, or one that was configured."""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from isolane.contexts.caller import current_caller
from isolane.events.bridge import WebSocketBridgeFactory
from isolane.migration.legacy.hub import LegacyHub
from isolane.migration.legacy.policy import BroadcastPolicy
from isolane.security.events import AuditSink

if TYPE_CHECKING:
    from isolane.fastapi.application import Isolane

_lock = threading.RLock()
_configured: LegacyHub | None = None
_default: LegacyHub | None = None
_of_application: weakref.WeakKeyDictionary[Any, LegacyHub] = weakref.WeakKeyDictionary()


def running_applications() -> tuple[Isolane, ...]:
    """Return the applications with isolane that run in this process, the latest last."""
    module = sys.modules.get("isolane.fastapi.application")
    found: tuple[Isolane, ...] = module.running_applications() if module is not None else ()
    return found


def current_application() -> Isolane | None:
    """Return the application whose request is served, else the one that was started last, else ``None``."""
    caller = current_caller.get()
    application: Isolane | None = caller.application if caller is not None else None
    if application is None:
        running = running_applications()
        application = running[-1] if running else None
    return application


def configure_legacy(
    factory: WebSocketBridgeFactory | None = None,
    *,
    audit: AuditSink | None = None,
    broadcast: BroadcastPolicy | str | None = None,
) -> LegacyHub:
    """Say what the legacy names of this process use. Returns the hub, which they share.

    Nobody needs it in an application that called ``isolane.fastapi.setup``: there the names use its bridge and its
    audit log. What was configured before is closed.

    Args:
        factory: makes the emitters.
        audit: records each refusal.
        broadcast: what broadcasts do. Default: ``ISOLANE_LEGACY_BROADCAST``.

    Raises:
        ValueError: the policy is none.
    """
    global _configured
    made = LegacyHub(factory, audit=audit, broadcast=broadcast)
    with _lock:
        before, _configured = _configured, made
    if before is not None:
        before.close()
    return made


def reset_legacy() -> None:
    """Forget what was configured, and close it. For tests."""
    global _configured, _default  # noqa: PLW0603 - the older names are the process's
    with _lock:
        closed = [hub for hub in (_configured, _default, *_of_application.values()) if hub is not None]
        _configured = _default = None
        _of_application.clear()
    for hub in closed:
        hub.close()


def process_hub() -> LegacyHub:
    """Return the hub of the names here and now.

    The configured one, else that of the application whose request is served, else of the one started last, else one
    without an application.
    """
    global _default  # noqa: PLW0603 - the older names are the process's
    if _configured is not None:
        return _configured
    application = current_application()
    with _lock:
        if application is None:
            if _default is None:
                _default = LegacyHub()
            return _default
        hub = _of_application.get(application)
        if hub is None:
            hub = LegacyHub(application.bridge, audit=application.audit, settings=application.settings)
            _of_application[application] = hub
        return hub
