"""What crossed a boundary is told apart from what one refused, and each is counted once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    ContextIsolationError,
    ExecutionEngineFactory,
    PermissionBoundarySystem,
    PermissionEngine,
    ResponseWithheldError,
    UserContextFactory,
    UserExecutionContext,
    audit_isolation,
    isolation_violations,
    resource_name,
)
from isolane.compat.context_manager import UserContextManager
from isolane.events.event import WebSocketEvent
from isolane.migration.legacy.errors import CrossUserSendError
from isolane.migration.legacy.refusals import Refusals
from isolane.security import ContaminationDetector
from isolane.security.crossings import (
    BoundaryFigures,
    crossings,
    latest_violation,
    positive_controls,
    refused_attempts,
    violation,
    violations,
)
from isolane.security.enforcer import IsolationEnforcer
from isolane.security.probe import CanaryProbe
from isolane.security.queries import ForeignQueryError

_numbers = itertools.count(1)


class Change:
    """What changed between two looks."""

    def __init__(self) -> None:
        self.before = crossings()
        self.found: dict[str, int] = {}
        self.refused: dict[str, int] = {}

    def look(self) -> None:
        for name, now in crossings().items():
            before = self.before[name]
            for tier, many in now.violations.items():
                if more := many - before.violations.get(tier, 0):
                    self.found[f"{name}/{tier}"] = more
            if more := now.refused - before.refused:
                self.refused[name] = more


@contextmanager
def changes() -> Iterator[Change]:
    change = Change()
    yield change
    change.look()


@pytest.fixture
def users() -> tuple[str, str]:
    number = next(_numbers)
    return f"ann-{number}-of-crossings", f"bob-{number}-of-crossings"


def new(user: str) -> Any:
    return UserContextFactory.create_context(user, f"thread-of-{user}", f"run-{next(_numbers)}-of-{user}")


# -- refused: nothing crossed ------------------------------------------------------------------------------------------


def test_a_wall_that_said_no_leaves_the_big_zero_at_zero(users) -> None:
    ann, bob = users
    boundary = PermissionBoundarySystem(
        PermissionEngine({"admin": {"allow": [{"actions": ["*"]}]}}, allow_blanket=True)
    )
    context = new(ann)
    total = refused_attempts()
    with changes() as change:
        assert not boundary.check(context, "document.read", [resource_name("document", bob, "7")]).permitted
    assert (change.found, change.refused) == ({}, {"access": 1})
    assert refused_attempts() == total + 1


def test_checks_are_counted_whatever_they_came_to(users) -> None:
    ann, bob = users
    boundary = PermissionBoundarySystem(PermissionEngine({}))
    context = new(ann)
    before = crossings()["access"].checks
    boundary.check(context, "read", [resource_name("document", ann, "1"), resource_name("document", bob, "1")])
    assert crossings()["access"].checks == before + 2


def test_an_event_into_the_run_of_another_user_is_refused(users) -> None:
    ann, bob = users
    context, foreign = new(ann), new(bob)
    foreign.get_websocket_emitter().notify_agent_started("data")
    published = crossings()["publish"].checks
    with changes() as change, pytest.raises(ContextIsolationError):
        context.get_websocket_emitter().notify_agent_started("data", foreign.run_id)
    assert change.found == {}
    assert sum(change.refused.values()) == 1
    context.get_websocket_emitter().notify_agent_started("data")
    assert crossings()["publish"].checks > published


def test_what_the_package_refuses_by_itself_is_counted_at_its_boundary(users) -> None:
    ann, bob = users
    event = WebSocketEvent("note", bob)
    with changes() as change:
        with pytest.raises(ContextIsolationError) as caught:
            WebSocketEvent.of(ann, event)
        with pytest.raises(ForeignQueryError):
            IsolationEnforcer().enforce_data_access_boundaries({"user_id": bob}, ann)
        IsolationEnforcer().enforce_data_access_boundaries({"user_id": ann}, ann)
    assert caught.value.boundary == "publish"
    assert (change.found, change.refused) == ({}, {"publish": 1, "data_access": 1})


def test_of_the_older_names_only_what_is_another_users_counts() -> None:
    refusals = Refusals()
    with changes() as change:
        refusals.note(CrossUserSendError("no", reason="other_user"), "ann", "send_to_user")
        refusals.note(CrossUserSendError("no", reason="not_connected"), "ann", "send_to_user")
        # What the core refused it has counted itself.
        refusals.note(ContextIsolationError("no", "publish"), "ann", "send_to_user")
    assert (change.found, change.refused) == ({}, {"legacy": 1})


def test_what_was_refused_was_checked(users) -> None:
    ann, bob = users
    before = crossings()
    Refusals().note(CrossUserSendError("no", reason="other_user"), ann, "send_to_user")
    with pytest.raises(ContextIsolationError):
        WebSocketEvent.of(ann, WebSocketEvent("note", bob))
    contexts = UserContextManager()
    contexts.set_context("one", new(ann))
    with pytest.raises(ContextIsolationError):
        contexts.set_context("one", new(bob))
    run = f"run-{next(_numbers)}-of-{ann}"
    UserExecutionContext(ann, "thread-1", run).get_websocket_emitter().notify_agent_started("data")
    with pytest.raises(ContextIsolationError):
        UserExecutionContext(bob, "thread-1", run).get_websocket_emitter().notify_agent_started("data")
    grown = {
        name: (now.checks - before[name].checks, now.refused - before[name].refused)
        for name, now in crossings().items()
        if now.refused > before[name].refused
    }
    assert grown.keys() >= {"legacy", "publish", "bind"}
    assert all(checks >= refused for checks, refused in grown.values()), grown
    assert grown["legacy"] == (1, 1)


# -- found: something crossed ------------------------------------------------------------------------------------------


def test_what_a_context_holds_of_another_user_is_a_violation(users) -> None:
    ann, bob = users
    context = new(ann)
    context.agent_context["thing"] = SimpleNamespace(user_id=bob)
    began = datetime.now(UTC)
    with changes() as change, pytest.raises(ContextIsolationError):
        context.verify_isolation()
    assert (change.found, change.refused) == ({"verify/foreign_object": 1}, {})
    latest = latest_violation()
    assert latest is not None
    assert abs((latest - began).total_seconds()) < 5
    with changes() as change, pytest.raises(ContextIsolationError):
        IsolationEnforcer().enforce_memory_isolation(context)
    assert change.found == {"verify/foreign_object": 1}, "once, although two look"
    context.agent_context.clear()
    with changes() as change:
        context.verify_isolation()
    assert change.found == {}


def test_a_container_of_two_contexts_is_a_violation(users) -> None:
    shared: list[int] = []
    contexts = [new(user) for user in users]
    for context in contexts:
        context.agent_context["rows"] = shared
    with changes() as change:
        found = [each for each in audit_isolation() if each.user_id in users]
    assert [each.kind for each in found] == ["shared_container"]
    assert change.found["verify/shared_container"] >= 1


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_canary_before_the_wrong_user_counts_once(users, mode: str) -> None:
    ann, bob = users
    detector = ContaminationDetector(mode)
    leak = {"rows": [detector.mint(ann), detector.mint(ann)]}
    before = violations()
    with changes() as change:
        if mode == "enforce":
            with pytest.raises(ResponseWithheldError):
                detector.guard(leak, boundary="http_out", context=bob)
        else:
            detector.guard(leak, boundary="http_out", context=bob)
        detector.guard(leak, boundary="http_out", context=ann)
    assert (change.found, change.refused) == ({"http_out/canary": 1}, {})
    assert violations() == before + 1
    assert isolation_violations()["content"] > 0


def test_a_report_with_several_tiers_counts_under_the_most_certain(users) -> None:
    ann, bob = users
    detector = ContaminationDetector()
    detector.register_secret(ann, "sk-live-4f9a8c7b6d5e4f3a2b1c")
    with changes() as change:
        report = detector.check_sync(bob, ["sk-live-4f9a8c7b6d5e4f3a2b1c", detector.mint(ann)])
    assert {one.tier for one in report.violations} == {"secret", "canary"}
    assert change.found == {"http_out/canary": 1}


async def test_a_foreign_run_that_no_canary_shows_is_a_violation(users) -> None:
    factory = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(AgentRegistry()))
    probe = CanaryProbe(factory, ContaminationDetector())
    ann = probe.user_ids[0]
    with changes() as change:
        assert probe._look(ann, "run-of-ann", ['{"run_id": "run-of-ann"}']) == (0, 0)
        assert probe._look(ann, "run-of-ann", ['{"run_id": "run-of-bob"}'])[1] == 1
    assert change.found == {"ws_out/foreign_run": 1}
    with changes() as change:
        canary = probe.detector.mint(probe.user_ids[1])
        assert probe._look(ann, "run-of-ann", [f'{{"run_id": "run-of-bob", "text": "{canary}"}}'])[1] == 2
    assert change.found == {"ws_out/canary": 1}, "the detector counted it"
    await factory.shutdown(0)


async def test_positive_controls_are_counted_by_what_they_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(AgentRegistry()))
    probe = CanaryProbe(factory, ContaminationDetector())
    canaries = {user: probe.detector.mint(user) for user in probe.user_ids}
    before = positive_controls()
    with changes() as change:
        assert probe._controls(canaries)
    assert change.found == {}, "a control is no violation"
    assert positive_controls() == {"caught": before["caught"] + 1, "missed": before["missed"]}
    # A canary that the detector does not know, as one of another key.
    foreign = dict.fromkeys(probe.user_ids, ContaminationDetector().mint("somebody"))
    assert not probe._controls(foreign)
    assert positive_controls()["missed"] == before["missed"] + 1
    await factory.shutdown(0)


def test_there_are_no_other_boundaries_and_tiers() -> None:
    with pytest.raises(ValueError, match='no boundary is named "ann"; known are publish, subscribe'):
        violation("ann", "canary")
    with pytest.raises(ValueError, match='no tier is named "ann"; known are owner_tag, canary'):
        violation("http_out", "ann")
    assert isinstance(crossings()["publish"], BoundaryFigures)
    assert "content" not in crossings()
