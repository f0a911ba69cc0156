"""OpenFeature both ways, through the real SDK: our provider behind its client, and its client as our source."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from isolane import FlagEngine, FlagWriter, UserContextFactory, install_flags, installed_flags
from isolane.migration.flags import FlagSourceError, MigrationFeatureFlags, OpenFeatureSource
from isolane.openfeature import IsolaneProvider, context_of_run
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent, ProviderEventDetails
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import ProviderStatus
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

DOCUMENT = {
    "schema": 1,
    "revision": 7,
    "flags": {
        "modern_execution": {
            "rollout": 50_000,
            "deny": ["eve"],
            "rules": [{"if": {"tier": ["enterprise"]}, "rollout": 100_000}],
        },
        "everybody": {"rollout": 100_000},
        "nobody": {"state": "off"},
    },
}


@pytest.fixture(autouse=True)
def _no_providers() -> Iterator[None]:
    yield
    api.clear_providers()
    api.clear_hooks()


def client_of(flags: MigrationFeatureFlags | FlagEngine) -> OpenFeatureClient:
    api.set_provider_and_wait(IsolaneProvider(flags))
    return api.get_client()


@pytest.fixture
def client() -> OpenFeatureClient:
    return client_of(MigrationFeatureFlags(DOCUMENT))


def user(name: str, **attributes: Any) -> EvaluationContext:
    return EvaluationContext(name, attributes)


# -- our provider ------------------------------------------------------------------------------------------------------


def test_a_decision_by_bucket_can_be_reckoned_again(client) -> None:
    engine = FlagEngine()
    engine.load(json.dumps(DOCUMENT))
    seen = set()
    for number in range(20):
        details = client.get_boolean_details("modern_execution", False, user(f"user-{number}"))
        decision = engine.decide("modern_execution", f"user-{number}")
        assert details.value is decision.value
        assert (details.reason, details.variant) == (Reason.SPLIT, "on" if decision.value else "off")
        assert details.flag_metadata == {
            "bucket": decision.bucket,
            "threshold": 50_000,
            "algorithm": "mm3-mul-v1",
            "step": "rollout",
            "revision": 7,
        }
        seen.add(details.value)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("flag", "name", "attributes", "value", "reason"),
    [
        ("everybody", "ann", {}, True, Reason.STATIC),
        ("nobody", "ann", {}, False, Reason.DISABLED),
        ("modern_execution", "eve", {"tier": "enterprise"}, False, Reason.TARGETING_MATCH),
        ("modern_execution", "ann", {"tier": "enterprise"}, True, Reason.TARGETING_MATCH),
    ],
)
def test_reasons(client, flag, name, attributes, value, reason) -> None:
    # The default is the other one, so that it is seen who has answered.
    details = client.get_boolean_details(flag, not value, user(name, **attributes))
    assert (details.value, details.reason, details.error_code) == (value, reason, None)


async def test_the_asynchronous_methods_answer_the_same(client) -> None:
    for name in ("ann", "bob", "eve"):
        given = ("modern_execution", False, user(name))
        assert await client.get_boolean_details_async(*given) == client.get_boolean_details(*given)
    details = await client.get_string_details_async("everybody", "mine", user("ann"))
    assert (details.value, details.error_code) == ("mine", ErrorCode.TYPE_MISMATCH)


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize(
    ("flag", "context", "code"),
    [
        ("unknown", EvaluationContext("ann"), ErrorCode.FLAG_NOT_FOUND),
        ("modern_execution", EvaluationContext(), ErrorCode.TARGETING_KEY_MISSING),
        ("modern_execution", None, ErrorCode.TARGETING_KEY_MISSING),
        ("modern_execution", EvaluationContext(""), ErrorCode.TARGETING_KEY_MISSING),
        ("modern_execution", EvaluationContext(True), ErrorCode.INVALID_CONTEXT),  # type: ignore[arg-type]
    ],
)
def test_an_error_is_answered_with_the_default(client, flag, context, code, default) -> None:
    details = client.get_boolean_details(flag, default, context)
    assert (details.value, details.error_code, details.reason) == (default, code, Reason.ERROR)
    assert details.error_message


def test_everybody_and_nobody_need_no_user(client) -> None:
    assert client.get_boolean_value("everybody", False) is True


@pytest.mark.parametrize(
    ("kind", "default"), [("string", "a"), ("integer", 3), ("float", 0.5), ("object", {"a": 1}), ("object", [1])]
)
async def test_other_types_are_a_mismatch(client, kind, default) -> None:
    details = getattr(client, f"get_{kind}_details")("everybody", default, user("ann"))
    assert (details.value, details.error_code, details.reason) == (default, ErrorCode.TYPE_MISMATCH, Reason.ERROR)
    assert f"of type {kind}" in str(details.error_message)
    again = await getattr(client, f"get_{kind}_details_async")("everybody", default, user("ann"))
    assert (again.value, again.error_code) == (default, ErrorCode.TYPE_MISMATCH)
    unknown = getattr(client, f"get_{kind}_details")("unknown", default, user("ann"))
    assert (unknown.value, unknown.error_code) == (default, ErrorCode.FLAG_NOT_FOUND)


def test_attributes_are_compared_as_texts() -> None:
    values = {"age": 42, "beta": True, "since": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "list": ["x"]}
    texts = {"age": "42", "beta": "true", "since": "2026-01-01T00:00:00+00:00"}
    for name, text in texts.items():
        flag = {"rollout": 0, "rules": [{"if": {name: [text]}, "rollout": 100_000}]}
        client = client_of(MigrationFeatureFlags({"schema": 1, "revision": 1, "flags": {"flag": flag}}))
        assert client.get_boolean_value("flag", False, user("ann", **values)) is True
        assert client.get_boolean_value("flag", False, user("ann", list=["x"])) is False


def test_without_attributes_the_application_is_asked() -> None:
    flags = MigrationFeatureFlags(DOCUMENT, attributes_of=lambda name: {"tier": "enterprise"} if name == "ann" else {})
    client = client_of(flags)
    details = client.get_boolean_details("modern_execution", False, user("ann"))
    assert (details.value, details.flag_metadata["rule_index"]) == (True, 0)


def test_an_engine_alone_will_do() -> None:
    engine = FlagEngine()
    with pytest.raises(Exception, match="no document of flags"):
        client_of(engine)
    assert api.get_client().get_provider_status() is ProviderStatus.ERROR
    engine.load('{"schema": 1, "revision": 1, "flags": {"everybody": {"rollout": 100000}}}')
    assert client_of(engine).get_boolean_value("everybody", False, user("ann")) is True


def test_a_run_is_answered_as_it_was_decided(client) -> None:
    before = installed_flags()
    flags = MigrationFeatureFlags(DOCUMENT).install()
    try:
        run = UserContextFactory.create_context("ann-of-a-run")
        client = client_of(flags)
        asked = context_of_run(run)
        assert client.get_boolean_value("everybody", False, asked) is True
        flags.engine.kill()
        assert client.get_boolean_value("everybody", False, user(run.user_id)) is False
        assert client.get_boolean_value("everybody", False, asked) is True
        # A child is the same run; another user's decisions are never used.
        assert client.get_boolean_value("everybody", False, context_of_run(run.create_child_context("part"))) is True
        foreign = EvaluationContext("bob", dict(asked.attributes))
        assert client.get_boolean_value("everybody", False, foreign) is False
    finally:
        install_flags(before)


class Told:
    """What a client's handlers were told, by the SDK's own threads."""

    def __init__(self, client: OpenFeatureClient) -> None:
        self.events: list[tuple[ProviderEvent, EventDetails]] = []
        self._lock = threading.Lock()
        for event in ProviderEvent:
            client.add_handler(event, lambda details, event=event: self._note(event, details))

    def _note(self, event: ProviderEvent, details: EventDetails) -> None:
        with self._lock:
            self.events.append((event, details))

    def wait(self, event: ProviderEvent) -> EventDetails:
        limit = time.monotonic() + 10
        while True:
            with self._lock:
                for at, (kind, details) in enumerate(self.events):
                    if kind is event:
                        del self.events[at]
                        return details
            assert time.monotonic() < limit, f"no {event}"
            time.sleep(0.005)


def test_a_client_is_told_of_changes_of_lost_files_and_of_their_return(tmp_path) -> None:
    path = tmp_path / "flags.json"
    writer = FlagWriter(path)
    writer.set_rollout("modern_execution", 100, actor="ann", create=True)
    writer.set_rollout("other", 100, actor="ann", create=True)
    flags = MigrationFeatureFlags(path)
    client = client_of(flags)
    told = Told(client)
    told.wait(ProviderEvent.PROVIDER_READY)
    writer.set_rollout("modern_execution", 0, actor="ann")
    flags.watcher.load()
    details = told.wait(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED)
    assert (details.flags_changed, details.metadata, details.provider_name) == (
        ["modern_execution"],
        {"revision": 3},
        "isolane",
    )
    assert client.get_boolean_value("modern_execution", True, user("ann")) is False

    good = path.read_text()
    path.write_text(good[:50])
    flags.watcher.load()
    assert "JSON" in str(told.wait(ProviderEvent.PROVIDER_STALE).message)
    assert client.get_provider_status() is ProviderStatus.STALE
    details = client.get_boolean_details("other", False, user("ann"))
    assert (details.value, details.reason) == (True, Reason.STALE)

    path.write_text(good)
    flags.watcher.load()
    told.wait(ProviderEvent.PROVIDER_READY)
    assert client.get_provider_status() is ProviderStatus.READY
    assert client.get_boolean_details("other", False, user("ann")).reason == Reason.STATIC

    # A provider that was taken away tells nobody.
    api.set_provider_and_wait(InMemoryProvider({}))
    limit = time.monotonic() + 10
    while flags.watcher._listeners:
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_without_any_document_the_provider_is_in_error_until_there_is_one(tmp_path) -> None:
    path = tmp_path / "flags.json"
    flags = MigrationFeatureFlags(path, required=False)
    with pytest.raises(Exception, match="no document of flags"):
        client_of(flags)
    client = api.get_client()
    told = Told(client)
    assert client.get_boolean_details("everybody", True, user("ann")).error_code is ErrorCode.FLAG_NOT_FOUND
    FlagWriter(path).set_rollout("everybody", 100, actor="ann", create=True)
    flags.watcher.load()
    told.wait(ProviderEvent.PROVIDER_READY)
    assert client.get_boolean_value("everybody", False, user("ann")) is True


def test_without_the_extra_its_name_is_told() -> None:
    code = (
        "import sys; sys.modules['openfeature'] = None\n"
        "from isolane.migration.flags import OpenFeatureSource\n"
        "for use in (lambda: OpenFeatureSource(None), lambda: __import__('isolane.openfeature')):\n"
        "  try: use()\n  except ModuleNotFoundError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.count("pip install 'isolane[openfeature]'"), done.stderr) == (2, "")


# -- the host's vendor as our source -----------------------------------------------------------------------------------


def of_users(flag: InMemoryFlag[bool], context: EvaluationContext) -> FlagResolutionDetails[bool]:
    """What a vendor's rule would do: all of a tier, and one by name."""
    on = context.attributes.get("tier") == "enterprise" or context.targeting_key == "ann"
    return FlagResolutionDetails(on, reason=Reason.TARGETING_MATCH)


class Vendor(InMemoryProvider):
    """The SDK's provider in memory, whose flags can be changed, and which counts what it is asked."""

    def __init__(self, **flags: Any) -> None:
        super().__init__({name: self.flag(value) for name, value in flags.items()})
        self.asked: list[tuple[str, str | None]] = []
        self.fails = False

    @staticmethod
    def flag(value: Any) -> InMemoryFlag[bool]:
        variants = {"on": True, "off": False}
        if callable(value):
            return InMemoryFlag("off", variants, context_evaluator=value)
        return InMemoryFlag("on" if value else "off", variants)

    def turn(self, name: str, value: Any) -> None:
        self._flags[name] = self.flag(value)
        self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=[name]))

    def resolve_boolean_details(self, flag_key, default_value, evaluation_context=None):
        self.asked.append((flag_key, evaluation_context.targeting_key))
        if self.fails:
            raise ConnectionError("as planned")
        return super().resolve_boolean_details(flag_key, default_value, evaluation_context)


def vendor_flags(vendor: Vendor, **options: Any) -> MigrationFeatureFlags:
    api.set_provider_and_wait(vendor)
    return MigrationFeatureFlags(OpenFeatureSource(api.get_client(), **options))


async def test_the_vendor_decides_by_its_own_rules() -> None:
    tiers = {"bob": "enterprise"}
    vendor = Vendor(modern_execution=of_users, hybrid_websocket_mode=True)
    flags = vendor_flags(vendor, attributes_of=lambda name: {"tier": tiers.get(name, "free")})
    assert [await flags.should_use_modern_execution(name) for name in ("ann", "bob", "eve")] == [True, True, False]
    assert await flags.get_websocket_bridge_mode("eve") == "hybrid"
    assert ("modern_execution", "eve") in vendor.asked


def test_a_change_at_the_vendor_reaches_new_runs_and_no_run_that_has_begun() -> None:
    before = installed_flags()
    vendor = Vendor(modern_execution=True, hybrid_websocket_mode=False)
    flags = vendor_flags(vendor).install()
    try:
        run = UserContextFactory.create_context("ann-at-a-vendor")
        assert flags.modes(run).execution == "modern"
        vendor.turn("modern_execution", False)
        assert flags.modes(UserContextFactory.create_context("ann-at-a-vendor")).execution == "legacy"
        asked = len(vendor.asked)
        assert flags.modes(run).execution == flags.modes(run.create_child_context("part")).execution == "modern"
        assert len(vendor.asked) == asked, "what was decided is not asked again"
    finally:
        install_flags(before)


def test_what_isolane_decides_first_stays_in_force() -> None:
    flags = vendor_flags(Vendor(modern_execution=True))
    assert flags.is_on("modern_execution", "ann")
    flags.engine.latch("modern_execution", '{"metric": "run_error"}')
    assert not flags.is_on("modern_execution", "ann")
    flags.engine.release("modern_execution")
    flags.engine.kill()
    assert not flags.is_on("modern_execution", "ann")


def test_a_vendor_without_an_answer_is_a_no() -> None:
    vendor = Vendor(modern_execution=True)
    flags = vendor_flags(vendor)
    assert flags.is_on("modern_execution", "ann")
    assert not flags.is_on("hybrid_websocket_mode", "ann")
    vendor.fails = True
    assert not flags.is_on("modern_execution", "ann")


def test_attributes_that_cannot_be_had_are_a_no() -> None:
    flags = vendor_flags(Vendor(modern_execution=True), attributes_of=lambda name: 1 / 0)
    decision = flags.decide("modern_execution", "ann")
    assert (decision.value, decision.error_code) == (False, "GENERAL")


def test_attributes_of_the_host_cannot_stand_for_an_answer() -> None:
    flags = vendor_flags(
        Vendor(modern_execution=False), attributes_of=lambda name: {"openfeature.modern_execution": "true"}
    )
    assert not flags.is_on("modern_execution", "ann")


async def test_events_of_the_vendor_are_heard_on_the_loop_until_it_is_stopped() -> None:
    vendor = Vendor(modern_execution=True)
    flags = vendor_flags(vendor)
    flags.watcher.start()
    await asyncio.sleep(0)
    vendor.emit_provider_stale(ProviderEventDetails(message="as planned"))
    limit = time.monotonic() + 10
    while not flags.watcher.is_stale:
        assert time.monotonic() < limit
        await asyncio.sleep(0.005)
    decision = flags.decide("modern_execution", "ann")
    assert (decision.value, decision.reason) == (True, "STALE")
    vendor.emit_provider_ready(ProviderEventDetails())
    while flags.watcher.is_stale:
        assert time.monotonic() < limit
        await asyncio.sleep(0.005)
    await flags.watcher.stop()
    from openfeature import _event_support  # noqa: PLC0415

    handlers = _event_support._client_handlers.get(flags.source.client, {})
    assert not any(handlers.values())


def test_a_provider_that_is_not_ready_is_waited_for() -> None:
    class Slow(Vendor):
        go = threading.Event()

        def initialize(self, evaluation_context: EvaluationContext) -> None:
            assert self.go.wait(20)

    vendor = Slow(modern_execution=True)
    api.set_provider(vendor)
    with pytest.raises(FlagSourceError, match="not ready"):
        MigrationFeatureFlags(OpenFeatureSource(api.get_client()))
    flags = MigrationFeatureFlags(OpenFeatureSource(api.get_client()), required=False)
    assert not flags.is_on("modern_execution", "ann")
    vendor.go.set()
    limit = time.monotonic() + 10
    while not flags.is_on("modern_execution", "ann"):
        assert time.monotonic() < limit
        flags.watcher.load()
        time.sleep(0.005)


@pytest.mark.parametrize("flags", [[], "modern_execution"])
def test_flags_are_named_as_a_list(flags) -> None:
    with pytest.raises(ValueError, match="name the flags"):
        OpenFeatureSource(api.get_client(), flags)


def test_our_own_provider_can_be_the_vendor(tmp_path: Path) -> None:
    """Both ways at once: nobody is asked in a circle."""
    ours = MigrationFeatureFlags({"schema": 1, "revision": 1, "flags": {"modern_execution": {"rollout": 100_000}}})
    flags = MigrationFeatureFlags(OpenFeatureSource(client_of(ours)))
    assert flags.is_on("modern_execution", "ann")
