"""The same for what watches over the others: the monitor, and the isolation of a user in an emergency."""

from __future__ import annotations

from isolane import AuditClass, SecurityBoundaryManager, SecurityEvent, SecurityMonitor
from isolane._core import EventCursor

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks


class Records:
    """Takes security events."""

    def __init__(self) -> None:
        self.events: list[SecurityEvent] = []

    def record(self, event: SecurityEvent) -> None:
        self.events.append(event)


@uses("SecurityMonitor.process_security_event")
async def an_event_is_watched(world: World) -> None:
    monitor = SecurityMonitor()
    await ticks(1)
    await monitor.process_security_event(
        SecurityEvent(name="authn_login_fail", audit_class=AuditClass.PERMISSION, user_id=world.user)
    )
    assert monitor.get_statistics()["events"] == 1


@uses("SecurityBoundaryManager.emergency_isolation_restore")
async def a_user_is_isolated(world: World) -> None:
    await world.factory.create_for_user(world.context())
    cursor, records = EventCursor(world.user), Records()
    manager = SecurityBoundaryManager(audit=records, factories=[world.factory])
    try:
        report = await manager.emergency_isolation_restore([world.user])
        assert report.restored, report
    finally:
        # Cancelled as well: the sockets are cut off, and it stands in the record.
        assert cursor.close_code is not None
        assert [event.name for event in records.events] == ["emergency_isolation"]
