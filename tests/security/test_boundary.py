"""The borders in one place: refusals, the sweep for violations, and the emergency, on real contexts and engines."""

from __future__ import annotations

import asyncio
import gc
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ContextIsolationError,
    ExecutionEngineFactory,
    MemoryLimitExceededError,
    PermissionBoundarySystem,
    PermissionEngine,
    SecurityMonitor,
    UserContextFactory,
    WebSocketEvent,
)
from isolane._core import EventCursor
from isolane.memory import MemoryLimits, MemoryOptimizationManager
from isolane.security import AuditUnavailableError
from isolane.security.boundary import SecurityBoundaryManager
from isolane.security.enforcer import IsolationEnforcer
from isolane.security.events import AuditClass, SecurityEvent, Severity
from isolane.security.queries import ForeignQueryError

_numbers = itertools.count(1)


class Kept:
    """An audit sink that keeps what it is given, and may be sick."""

    def __init__(self) -> None:
        self.events: list[SecurityEvent] = []
        self.is_sick = False

    def record(self, event: SecurityEvent) -> None:
        if self.is_sick:
            raise AuditUnavailableError(event.audit_class, "the disk is full")
        self.events.append(event)

    def names(self) -> list[str]:
        return [event.name for event in self.events]


@pytest.fixture
def audit() -> Kept:
    return Kept()


@pytest.fixture
def users() -> tuple[str, str]:
    number = next(_numbers)
    return f"ann-{number}-of-borders", f"bob-{number}-of-borders"


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    gc.collect()


def shared_pair(users: tuple[str, str]) -> tuple[Any, Any]:
    """Two contexts of two users that hold one list: what a shallow copy leads to."""
    shared = ["of nobody in particular"]
    contexts = [UserContextFactory.create_context(user) for user in users]
    for context in contexts:
        context.agent_context["rows"] = shared
    assert contexts[0].verify_isolation()
    return contexts[0], contexts[1]


def test_a_context_that_shares_is_refused_and_recorded(users, audit) -> None:
    own, foreign = shared_pair(users)
    enforcer = IsolationEnforcer(audit=audit)
    enforcer.enforce_memory_isolation(own)
    assert audit.events == []
    with pytest.raises(ContextIsolationError):
        enforcer.enforce_memory_isolation(foreign)
    (event,) = audit.events
    assert (event.name, event.audit_class, event.user_id) == ("isolation_violation", AuditClass.ISOLATION, users[1])


def test_a_refusal_that_cannot_be_recorded_is_still_one(users, audit) -> None:
    _, foreign = shared_pair(users)
    audit.is_sick = True
    enforcer = IsolationEnforcer(audit=audit)
    with pytest.raises(AuditUnavailableError):
        enforcer.enforce_memory_isolation(foreign)
    with pytest.raises(AuditUnavailableError):
        enforcer.enforce_data_access_boundaries({"user_id": users[1]}, users[0])


def test_a_query_comes_back_as_it_was_or_not_at_all(users, audit) -> None:
    enforcer = IsolationEnforcer(audit=audit)
    query = {"user_id": users[0], "text": "x"}
    assert enforcer.enforce_data_access_boundaries(query, users[0]) is query
    assert audit.events == []
    with pytest.raises(ForeignQueryError):
        enforcer.enforce_data_access_boundaries(query, users[1])
    (event,) = audit.events
    assert (event.name, event.user_id, event.data["code"]) == ("authz_fail", users[1], "owner_missing")


@pytest.mark.parametrize(
    ("violations", "withheld", "passes"), [((), False, True), (("one",), False, False), ((), True, False)]
)
def test_an_event_passes_when_the_detector_finds_nothing_in_it(users, violations, withheld, passes) -> None:
    asked = []

    class Detector:
        def check_sync(self, context: Any, result: Any, *, boundary: str = "") -> Any:
            asked.append((context, dict(result), boundary))
            return SimpleNamespace(violations=violations, withheld=withheld)

    event = WebSocketEvent("note", users[0], {"text": "x"})
    assert IsolationEnforcer(detector=Detector()).enforce_websocket_isolation(event) is passes
    assert asked == [(users[0], {"text": "x"}, "ws_out")]


def test_what_is_no_event_of_a_user_does_not_pass(users) -> None:
    enforcer = IsolationEnforcer()
    assert enforcer.enforce_websocket_isolation({"type": "note"}) is False
    assert enforcer.enforce_websocket_isolation(WebSocketEvent("note", users[0])) is True


def test_a_user_that_holds_too_much_may_begin_nothing(users) -> None:
    limits = MemoryLimits(user_throttle=1000, user_refuse=2000, user_alarm=3000)
    memory = MemoryOptimizationManager(limits=limits)
    enforcer = IsolationEnforcer(memory=memory)
    context = UserContextFactory.create_context(users[0])
    manager = SecurityBoundaryManager(enforcer=enforcer)
    manager.enforce_isolation_boundaries(context)
    assert enforcer.detect_boundary_violations(context) == []
    charge = memory.charge(context, 1000)
    context.get_websocket_emitter().publish("note", {"text": "x" * 2000})
    with pytest.raises(MemoryLimitExceededError):
        manager.enforce_isolation_boundaries(context)
    assert [violation.code for violation in enforcer.detect_boundary_violations(context)] == ["memory_limit"]
    charge.release()


def test_everything_that_is_wrong_with_a_context_is_told_at_once_and_not_recorded(users, audit) -> None:
    class Full:
        def check(self, _: Any) -> None:
            raise MemoryLimitExceededError("full", "user", 2, 1)

    _, foreign = shared_pair(users)
    enforcer = IsolationEnforcer(memory=Full(), audit=audit)
    found = enforcer.detect_boundary_violations(foreign)
    assert [(one.boundary, one.code) for one in found] == [("memory", "foreign_object"), ("resources", "memory_limit")]
    assert {one.users for one in found} == {(users[1],)}
    assert audit.events == []


def test_a_context_is_valid_or_not(users, audit) -> None:
    own, foreign = shared_pair(users)
    manager = SecurityBoundaryManager(audit=audit)
    assert manager.validate_user_context(own) is True
    assert manager.validate_user_context(foreign) is False
    assert manager.validate_user_context("a context") is False
    assert audit.names() == ["isolation_violation"]
    with pytest.raises(ContextIsolationError):
        manager.enforce_isolation_boundaries(foreign)


def test_a_request_is_sanitized_at_the_boundary_of_input(users) -> None:
    class Sanitizer:
        def sanitize(self, value: Any, *, boundary: str, context: Any) -> Any:
            return SimpleNamespace(value=(value, boundary, context))

    request = {"q": 1}
    assert SecurityBoundaryManager().sanitize_execution_request(request) is request
    manager = SecurityBoundaryManager(sanitizer=Sanitizer())
    assert manager.sanitize_execution_request(request) == (request, "input", None)


def test_events_go_to_the_audit_log(audit) -> None:
    event = SecurityEvent(name="sys_startup", audit_class=AuditClass.LIFECYCLE)
    SecurityBoundaryManager().audit_security_event(event)
    SecurityBoundaryManager(audit=audit).audit_security_event(event)
    assert audit.events == [event]


class TestSweep:
    def test_contexts_that_share_are_found_with_their_users_and_recorded_for_each(self, users, audit) -> None:
        manager = SecurityBoundaryManager(audit=audit)
        assert manager.detect_isolation_violations() == []
        pair = shared_pair(users)
        found = manager.detect_isolation_violations()
        assert [(one.boundary, one.code, set(one.users)) for one in found] == [
            ("context", "shared_container", set(users))
        ]
        assert not any(user in one.detail for one in found for user in users)
        assert [event.user_id for event in audit.events] == list(found[0].users)
        # The sweep counts what it finds; that is no violation of its own.
        assert [one.boundary for one in manager.detect_isolation_violations()] == ["context"]
        del pair[1].agent_context["rows"]
        assert manager.detect_isolation_violations() == []

    def test_what_a_boundary_has_stopped_since_is_told_once(self, users) -> None:
        manager = SecurityBoundaryManager()
        own, foreign = shared_pair(users)
        for _ in range(3):
            with pytest.raises(ContextIsolationError):
                foreign.verify_isolation()
        del foreign.agent_context["rows"]
        (stopped,) = manager.detect_isolation_violations()
        assert (stopped.boundary, stopped.code, stopped.count) == ("verify", "stopped", 3)
        assert manager.detect_isolation_violations() == []
        assert own.verify_isolation()

    def test_what_the_detector_has_found_since_is_told_once(self) -> None:
        figures = {"violations": 2}
        manager = SecurityBoundaryManager(detector=SimpleNamespace(figures=lambda: figures))
        assert manager.detect_isolation_violations() == []
        figures["violations"] = 5
        (found,) = manager.detect_isolation_violations()
        assert (found.boundary, found.count, found.severity) == ("delivery", 3, Severity.CRITICAL)
        assert manager.detect_isolation_violations() == []

    def test_a_violation_that_cannot_be_recorded_is_an_error(self, users, audit) -> None:
        manager = SecurityBoundaryManager(audit=audit)
        pair = shared_pair(users)
        audit.is_sick = True
        with pytest.raises(AuditUnavailableError):
            manager.detect_isolation_violations()
        assert pair

    def test_what_could_not_be_recorded_is_told_by_the_next_sweep(self, users, audit) -> None:
        figures = {"violations": 0}
        manager = SecurityBoundaryManager(audit=audit, detector=SimpleNamespace(figures=lambda: figures))
        own, foreign = shared_pair(users)
        with pytest.raises(ContextIsolationError):
            foreign.verify_isolation()
        figures["violations"] = 1
        audit.is_sick = True
        with pytest.raises(AuditUnavailableError):
            manager.detect_isolation_violations()
        audit.is_sick = False
        del own.agent_context["rows"]
        told = [(one.boundary, one.count) for one in manager.detect_isolation_violations()]
        assert told == [("verify", 1), ("delivery", 1)]
        assert manager.detect_isolation_violations() == []

    def test_a_resource_of_another_that_was_refused_is_no_violation_to_be_woken_up_for(self, users, audit) -> None:
        manager = SecurityBoundaryManager(audit=audit)
        monitor = SecurityMonitor()
        wall = PermissionBoundarySystem(PermissionEngine({}))
        assert wall.check(UserContextFactory.create_context(users[0]), "invoice.read", [f"invoice:{users[1]}/1"]).code
        (refused,) = manager.detect_isolation_violations()
        assert (refused.boundary, refused.count, refused.severity) == ("access", 1, Severity.WARNING)
        (event,) = audit.events
        assert (event.name, event.audit_class) == ("authz_fail", AuditClass.PERMISSION)
        assert monitor.observe(event) == []


class Waiting(BaseAgent):
    name = "waiting"

    async def execute_with_context(self, context: Any, request: Any) -> None:
        await asyncio.sleep(60)


class Quarantine:
    def __init__(self) -> None:
        self.users: dict[str, str] = {}

    def quarantine(self, user_id: str, reason: str) -> None:
        self.users[user_id] = reason


class TestEmergency:
    async def test_the_users_of_a_violation_are_isolated_and_nobody_else(self, users, audit) -> None:
        registry = AgentRegistry()
        registry.register(Waiting)
        factory = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry))
        quarantine = Quarantine()
        manager = SecurityBoundaryManager(audit=audit, quarantine=quarantine, factories=[factory])
        bystander = f"cid-{next(_numbers)}-of-borders"
        contexts = {user: UserContextFactory.create_context(user) for user in (*users, bystander)}
        runs, cursors = {}, {}
        for user, context in contexts.items():
            engine = await factory.create_for_user(context)
            runs[user] = asyncio.create_task(engine.execute_agent("waiting", None))
            cursors[user] = EventCursor(user)
            context.context_cache.set("key", "value")
        await asyncio.sleep(0.01)
        pair = shared_pair(users)
        report = await manager.emergency_isolation_restore(reason="found by hand")
        assert report.users == tuple(sorted(users))
        assert (report.runs_ended, report.sockets_closed, report.cache_entries) == (2, 2, 2)
        assert not report.restored, "the two contexts still share"
        assert quarantine.users == dict.fromkeys(users, "found by hand")
        assert {user: cursors[user].close_code for user in contexts} == {
            users[0]: 4010,
            users[1]: 4010,
            bystander: None,
        }
        for user in users:
            await asyncio.wait({runs[user]}, timeout=5)
            assert runs[user].done()
        assert not runs[bystander].done()
        assert contexts[bystander].context_cache.get("key") == "value"
        assert audit.names() == ["emergency_isolation"] * 2
        del pair[0].agent_context["rows"]
        assert (await manager.emergency_isolation_restore(users)).restored
        await factory.shutdown(0)
        await asyncio.wait({runs[bystander]}, timeout=5)
        for run in runs.values():
            assert run.cancelled() or run.exception() is not None

    async def test_it_goes_on_whatever_fails_and_says_so(self, users, audit) -> None:
        class Broken:
            async def cleanup_user_context(self, user_id: str) -> bool:
                raise OSError(user_id)

            def quarantine(self, user_id: str, reason: str) -> None:
                raise RuntimeError(user_id + reason)

        cursor = EventCursor(users[0])
        manager = SecurityBoundaryManager(audit=audit, quarantine=Broken(), factories=[Broken()])
        report = await manager.emergency_isolation_restore([users[0]])
        assert sorted(report.failed) == ["OSError", "RuntimeError"]
        assert not report.restored
        assert (report.sockets_closed, cursor.close_code) == (1, 4010)
        assert audit.events[0].data["failed"] == list(report.failed)

    async def test_what_was_stopped_before_is_still_told_by_the_sweep_after(self, users) -> None:
        manager = SecurityBoundaryManager()
        pair = shared_pair(users)
        with pytest.raises(ContextIsolationError):
            pair[1].verify_isolation()
        await manager.emergency_isolation_restore()
        del pair[0].agent_context["rows"]
        (stopped,) = manager.detect_isolation_violations()
        assert (stopped.boundary, stopped.count) == ("verify", 1)

    async def test_a_report_that_cannot_be_recorded_is_not_lost(self, users, audit) -> None:
        audit.is_sick = True
        report = await SecurityBoundaryManager(audit=audit).emergency_isolation_restore([users[0]])
        assert (report.users, report.failed, report.restored) == ((users[0],), ("AuditUnavailableError",), False)

    async def test_one_text_is_no_list_of_users(self, users) -> None:
        quarantine = Quarantine()
        with pytest.raises(TypeError, match="list"):
            await SecurityBoundaryManager(quarantine=quarantine).emergency_isolation_restore(users[0])
        assert not quarantine.users

    async def test_without_a_violation_nobody_is_isolated(self, audit) -> None:
        report = await SecurityBoundaryManager(audit=audit).emergency_isolation_restore()
        assert report.restored
        assert report.users == ()
        assert audit.events[0].user_id is None
