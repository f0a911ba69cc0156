"""``CompatibilityAdapter`` and ``LegacyWebSocketBridge``: the older bridge over isolane's lanes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from isolane.events.bridge import WebSocketBridgeFactory
from isolane.events.event import WebSocketEvent
from isolane.migration.deprecation import deprecated
from isolane.migration.legacy.errors import CrossUserSendError
from isolane.migration.legacy.face import LegacyManagers
from isolane.migration.legacy.hub import LegacyHub
from isolane.migration.legacy.identity import bound_now
from isolane.migration.legacy.mappings import clean
from isolane.migration.legacy.messages import convert_legacy_message
from isolane.migration.legacy.policy import BroadcastPolicy
from isolane.security.events import AuditSink

if TYPE_CHECKING:
    from isolane.fastapi.settings import IsolaneSettings


@deprecated("ISO-D004", symbol="CompatibilityAdapter")
class CompatibilityAdapter(LegacyManagers):
    """The names of the older bridge, for as long as a service is on its way.

    Args:
        factory: makes the emitters, and has the bounds of the logs. Default: one of its own.
        audit: records each refusal. Default: nobody.
        broadcast: what broadcasts do. Default: ``ISOLANE_LEGACY_BROADCAST``.
        settings: of the deliveries to sockets. Default: from the environment.

    Raises:
        ValueError: the policy is none.
    """

    def __init__(
        self,
        factory: WebSocketBridgeFactory | None = None,
        *,
        audit: AuditSink | None = None,
        broadcast: BroadcastPolicy | str | None = None,
        settings: IsolaneSettings | None = None,
    ) -> None:
        hub = LegacyHub(factory, audit=audit, broadcast=broadcast, settings=settings)
        super().__init__(lambda: hub)

    @property
    def factory(self) -> WebSocketBridgeFactory:
        """What makes the emitters."""
        return self.hub.factory

    @property
    def legacy_user_mappings(self) -> Mapping[str, str]:
        """For whom legacy user ids stand. Read-only; ``map_user`` adds to it."""
        return MappingProxyType(self.hub.mappings)

    def map_user(self, legacy_id: str, user_id: str) -> None:
        """Let a legacy user id stand for a user, for good: it cannot be made to stand for another one.

        Raises:
            CrossUserSendError: it stands for another user, or the code runs for another one. Recorded.
            BudgetExceeded: 10 000 ids are mapped.
        """
        hub, bound = self.hub, bound_now()
        foreign = bound is not None and bound.user_id != clean(user_id)
        if foreign or not hub.mappings.add(legacy_id, user_id):
            hub.refuse(
                CrossUserSendError(
                    "a legacy id cannot be made to stand for another user than the one that it stands for, nor than "
                    "the one for whom this code runs; remove it with unmap_user, where no user is bound",
                    "bind",
                    call="map_user",
                    reason="mapping",
                ),
                bound,
                "map_user",
            )

    def unmap_user(self, legacy_id: str) -> bool:
        """Let a legacy id stand for itself again. Returns whether it was mapped.

        Raises:
            CrossUserSendError: the code runs for another user than the one that it stands for. Recorded.
        """
        hub, bound = self.hub, bound_now()
        if bound is not None:
            hub.check(legacy_id, bound, "unmap_user")
        return hub.mappings.remove(legacy_id)

    @staticmethod
    def convert_legacy_message(message: object, user_id: str) -> WebSocketEvent:
        """Return a legacy message as an event of a user.

        Raises ``InvalidEvent`` for one without a type, ``CrossUserSendError`` for one that names another user.
        """
        return convert_legacy_message(message, user_id)

    def close(self) -> None:
        """Let go of the sockets that were added, which stay open, and end the runs."""
        self.hub.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self.hub.connections)} sockets>"


@deprecated("ISO-D004", symbol="LegacyWebSocketBridge")
class LegacyWebSocketBridge(CompatibilityAdapter):
    """The older bridge by its own name: ``broadcast_message``, ``send_to_user``, ``add_connection``."""
