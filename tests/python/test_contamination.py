"""The detector: what it finds, what it takes for the user's own, what it does then, and what it admits not to know."""

from __future__ import annotations

import asyncio
import base64
import collections
import concurrent.futures
import dataclasses
import functools
import gc
import json
import logging
import os
import uuid
import weakref
from typing import Any

import isolane
import pydantic
import pytest
from isolane import (
    ContaminationAuditSink,
    ContaminationDetector,
    ContaminationLogFilter,
    DataSanitizer,
    Quarantine,
    ResponseWithheldError,
    ScanMode,
    UserQuarantinedError,
)
from isolane._core import EventCursor, leak_probability, secret_bits
from isolane.security import AuditClass, SecurityEvent

ANN, BOB = "ann-of-contamination", "bob-of-contamination"
SECRET = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"


@pytest.fixture
def detector():
    return ContaminationDetector()


@pytest.fixture
def installed():
    """Return a maker of detectors that the process's boundaries ask, until the test ends."""
    made = []

    def make(modes: Any = "enforce", **options: Any) -> ContaminationDetector:
        made.append(ContaminationDetector(modes, **options))
        made[-1].install()
        return made[-1]

    yield make
    for each in made:
        each.uninstall()


class Records:
    """An audit sink that keeps what it takes."""

    def __init__(self) -> None:
        self.events: list[SecurityEvent] = []

    def record(self, event: SecurityEvent) -> None:
        self.events.append(event)


def verdicts(detector: ContaminationDetector, value: Any) -> tuple[str, str]:
    """What it says to ann, whose the value is, and to bob."""
    return detector.check_sync(ANN, value).verdict, detector.check_sync(BOB, value).verdict


# -- what it finds -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    note: str
    cells: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Slotted:
    note: str


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    note: str


class Plain:
    def __init__(self, note: str) -> None:
        self.hidden = {"note": note}


class WithSlots:
    __slots__ = ("note",)

    def __init__(self, note: str) -> None:
        self.note = note


class Mapped(collections.UserDict):
    pass


def caused(note: str) -> BaseException:
    try:
        try:
            {}[note]
        except KeyError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as error:
        return error


def noted(note: str) -> BaseException:
    error = ValueError("plain")
    error.add_note(note)
    return error


def deep(note: str, depth: int) -> Any:
    value: Any = note
    for _ in range(depth):
        value = [value]
    return value


def cyclic(note: str) -> Any:
    value: dict[str, Any] = {"inner": []}
    value["inner"].append(value)
    value["inner"].append(note)
    return value


PLACES = {
    "text": lambda c: c,
    "bytes": lambda c: c.encode(),
    "bytearray": lambda c: bytearray(c.encode()),
    "memoryview": lambda c: memoryview(c.encode()),
    "list": lambda c: [1, None, [c]],
    "tuple": lambda c: ((c,),),
    "set": lambda c: {c},
    "frozenset": lambda c: frozenset([c]),
    "value": lambda c: {"a": {"b": c}},
    "key": lambda c: {"a": {c: 1}},
    "tuple key": lambda c: {("a", c): 1},
    "json": lambda c: json.dumps({"a": {"b": c}}),
    "dataclass": lambda c: Row("x", [c]),
    "slotted dataclass": Slotted,
    "pydantic": lambda c: Model(note=c),
    "pydantic extra": lambda c: Model(note="x", other={"deep": c}),
    "attributes": Plain,
    "slots": WithSlots,
    "mapping": lambda c: Mapped(a=c),
    "deque": lambda c: collections.deque([c]),
    "exception": lambda c: ValueError("x", c),
    "cause": caused,
    "note of an exception": noted,
    "group": lambda c: ExceptionGroup("several", [ValueError(c)]),
    "closure": lambda c: lambda: c,
    "depth": lambda c: deep(c, 64),
    "cycle": cyclic,
    "surrogate": lambda c: f"\ud800{c}",
    "percent": lambda c: "".join(f"%{ord(x):02X}" for x in c),
    "escaped": lambda c: "".join(f"\\u{ord(x):04x}" for x in c),
    "base64": lambda c: base64.b64encode(f"..{c}".encode()).decode(),
    "url-safe base64": lambda c: base64.urlsafe_b64encode(f"\xff\xfe{c}".encode()).decode(),
    "hex": lambda c: c.encode().hex(),
    "capitals": str.upper,
    "no width": "\u200b".join,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_canary_is_found_wherever_it_is(detector, place):
    assert verdicts(detector, PLACES[place](detector.mint(ANN))) == ("clean", "contaminated")


def test_a_uuid_object_is_a_text(detector):
    detector.register_secret(ANN, SECRET)
    assert detector.check_sync(BOB, {"id": uuid.UUID(SECRET)}).violations[0].tier == "secret"


def test_what_is_too_deep_is_not_called_clean(detector):
    detector.mint(ANN)
    report = detector.check_sync(ANN, deep("something", 66))
    assert (report.verdict, report.coverage.complete) == ("inconclusive", False)
    assert detector.check_sync(ANN, deep("something", 64)).verdict == "clean"


def test_an_iterator_is_not_used_up_and_not_called_clean(detector):
    canary = detector.mint(ANN)
    values = iter([canary])
    assert detector.check_sync(BOB, [values, "some text"]).verdict == "inconclusive"
    assert next(values) == canary


def test_an_object_of_another_user_is_found(detector, new_context):
    own, other = new_context(ANN), new_context(BOB)
    report = detector.check_sync(own, {"context": other, "own": own, "text": "x" * 20})
    assert [(one.tier, one.path) for one in report.violations] == [("owner_tag", "$[context]")]


async def asleep(canary: str) -> None:
    await asyncio.sleep(0, canary)


def test_what_carries_an_object_of_another_user_is_found(detector, new_context):
    own, other = new_context(ANN), new_context(BOB)
    of_other = isolane.TTLCache(BOB)
    emitter = other.get_websocket_emitter()
    for carrier in (
        *(
            of_other,
            emitter,
            emitter.publish,
            other.cleanup,
            functools.partial(print, other),
            lambda given=other: given,
        ),
        *(Plain(other), Plain.__init__.__get__(Plain(other)), isolane.WebSocketEvent("mine", BOB)),
    ):
        report = detector.check_sync(own, {"callback": carrier, "text": "x" * 20})
        assert {one.tier for one in report.violations} == {"owner_tag"}, carrier
    detector.mint(ANN)
    for carrier in (isolane.TTLCache(ANN), own.cleanup, own.get_websocket_emitter().publish):
        assert detector.check_sync(own, [carrier, "x" * 20]).verdict == "clean"


def test_what_ones_own_objects_hold_is_looked_at(detector, new_context):
    own, canary = new_context(ANN), detector.mint(BOB)
    cache = isolane.TTLCache(ANN)
    cache["a"] = [canary]
    event = isolane.WebSocketEvent("mine", ANN, {"note": canary})
    for holder in (cache, event):
        assert [one.tier for one in detector.check_sync(own, [holder]).violations] == ["canary"]
    own.agent_context["note"] = canary
    assert [one.path for one in detector.check_sync(own, [own]).violations] == ["$[0].agent_context[note]"]


def test_of_what_only_runs_later_nothing_is_known(detector):
    detector.mint(ANN)
    waiting = asleep("something")
    report = detector.check_sync(ANN, [waiting, "x" * 20])
    waiting.close()
    assert (report.verdict, report.coverage.complete) == ("inconclusive", False)


def test_a_report_says_where_and_whose_and_nothing_else(detector):
    canary = detector.mint(ANN)
    value = {"rows": [{"the note": f"so {canary}", canary: {"x": canary}}]}
    report = detector.check_sync(BOB, value)
    assert {one.path for one in report.violations} == {
        "$[rows][0][entry 0]",
        "$[rows][0][key 1]",
        "$[rows][0][entry 1][x]",
    }
    first = next(one for one in report.violations if one.path.endswith("[entry 0]"))
    assert (first.offset, first.length, first.form, first.tier) == (3, 37, "plain", "canary")
    assert len({one.evidence_id for one in report.violations}) == 1
    assert first.owner_hash != first.observer_hash
    shown = repr(report) + str(report.as_data())
    assert canary not in shown
    assert ANN not in shown
    assert BOB not in shown


def test_children_have_what_their_parents_have(detector, new_context):
    parent = new_context(ANN)
    canary = detector.mint(parent)
    assert detector.check_sync(parent.create_child_context("below"), canary).verdict == "clean"


def test_nobody_in_particular_has_nothing(detector):
    assert detector.check_sync(None, detector.mint(ANN)).verdict == "contaminated"


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_secret_is_found_in_any_place_and_is_the_users_own(detector):
    assert detector.register_secret(ANN, SECRET) == 1
    for text in (SECRET, f"user_{SECRET.upper()}", f'{{"id":"{SECRET}"}}', SECRET.replace("-", "%2d")):
        assert verdicts(detector, {"a": text}) == ("clean", "contaminated"), text


def test_what_two_users_have_is_nobodys(detector):
    detector.register_secret(ANN, SECRET)
    detector.register_secret(BOB, SECRET)
    assert detector.check_sync("eve-of-contamination", SECRET).verdict == "clean"


def test_what_is_easy_to_guess_is_refused_without_being_shown(detector):
    with pytest.raises(ValueError, match="64") as caught:
        detector.register_secret(ANN, "secret-word")
    assert "secret-word" not in str(caught.value)
    assert secret_bits("secret-word") < 64 < secret_bits(SECRET)


def test_secrets_have_a_bound(detector):
    for number in range(1_000):
        detector.register_secret(ANN, f"6f9619ff-8b86-4d01-b42d-{number:012x}")
    with pytest.raises(isolane.BudgetExceeded) as caught:
        detector.register_secret(ANN, "one-more-0123456789-secret")
    assert (caught.value.scope, caught.value.limit) == ("user", 1_000)


# -- what is no leak ---------------------------------------------------------------------------------------------------


def test_what_a_user_brought_is_told_once(detector):
    canary = detector.mint(ANN)
    assert detector.note_inbound(BOB, {"pasted": canary}) == 1
    first = detector.check_sync(BOB, canary)
    assert (first.verdict, len(first.prior_exposures)) == ("clean", 1)
    again = detector.check_sync(BOB, canary)
    assert (again.verdict, again.prior_exposures) == ("clean", ())
    assert detector.check_sync(BOB, detector.mint(ANN)).verdict == "contaminated"
    assert detector.check_sync("eve-of-contamination", canary).verdict == "contaminated"
    assert detector.figures()["violations"] == 2


class Friends:
    def __init__(self, allowed: set[tuple[str, str]]) -> None:
        self.allowed = allowed

    def allows(self, owner: str, reader: str) -> bool:
        return (owner, reader) in self.allowed


def test_what_is_granted_passes_to_whom_it_is_granted():
    detector = ContaminationDetector("enforce", grants=Friends({(ANN, BOB)}))
    canary = detector.mint(ANN)
    report = detector.check_sync(BOB, canary)
    assert (report.verdict, report.granted, report.withheld) == ("clean", 1, False)
    assert detector.check_sync("eve-of-contamination", canary).withheld
    other = ContaminationDetector("enforce", grants=Friends({(BOB, ANN)}))
    assert other.check_sync(BOB, other.mint(ANN)).withheld, "the other way round is another grant"


@pytest.mark.parametrize("shape", [" ".join, list, lambda texts: [" ".join(texts[:40]), *texts[40:]]])
def test_much_that_is_granted_hides_nothing_that_is_not(shape, installed):
    detector = installed("enforce", grants=Friends({(ANN, BOB)}))
    many = [detector.mint(ANN) for _ in range(200)]
    assert detector.check_sync(BOB, shape(many)).violations == ()
    for foreign in (
        [detector.mint("eve-of-contamination")],
        [detector.mint(f"user-{number}") for number in range(100)],
    ):
        report = detector.check_sync(BOB, shape(many + foreign))
        assert (report.withheld, len(report.violations)) == (True, len(foreign))
        with pytest.raises(ResponseWithheldError):
            isolane.TTLCache(BOB)["rows"] = shape(many + foreign)


def test_grants_that_cannot_be_asked_allow_nothing():
    class Broken:
        def allows(self, owner: str, reader: str) -> bool:
            raise OSError("no database")

    detector = ContaminationDetector("enforce", grants=Broken())
    assert detector.check_sync(BOB, detector.mint(ANN)).withheld


def test_a_shared_key_is_known_in_another_process_and_the_former_one_too():
    key, later = os.urandom(32), os.urandom(32)
    one, two = ContaminationDetector(key=key), ContaminationDetector(key=key)
    canary = one.mint(ANN)
    two.mint(ANN)
    assert verdicts(two, canary) == ("clean", "contaminated")
    two.rotate_key(later)
    assert verdicts(two, canary) == ("clean", "contaminated")
    two.rotate_key()
    assert two.check_sync(BOB, canary).verdict == "clean", "older keys are not known any more"
    with pytest.raises(ValueError, match="32 random bytes, got 3"):
        ContaminationDetector(key=b"abc")


# -- what it admits ----------------------------------------------------------------------------------------------------


def test_a_detector_that_has_seen_nothing_says_so(detector):
    assert detector.check_sync(ANN, "some text").verdict == "inconclusive", "nothing is planted"
    detector.mint(ANN)
    assert detector.check_sync(ANN, []).verdict == "inconclusive", "nothing was scanned"
    assert detector.check_sync(ANN, "some text").verdict == "clean"
    detector.set_mode("http_out", "off")
    assert detector.check_sync(ANN, "some text").verdict == "inconclusive", "nobody looks"


def test_a_sweep_asks_whether_the_boundaries_ask(installed):
    detector = ContaminationDetector()
    detector.mint(ANN)
    report = detector.sweep()
    assert report.verdict == "inconclusive", "nobody asks it"
    asked = {"ws_out", "error", "cache_get", "cache_put", "tool_in", "tool_out"}
    assert {name for name, works in report.coverage.controls.items() if not works} == asked
    detector.install()
    assert detector.sweep().verdict == "clean"
    other = installed()
    assert detector.sweep().verdict == "inconclusive", "another one is asked in its place"
    detector.install()
    detector.set_mode("ws_out", "off")
    assert "ws_out" not in detector.sweep().coverage.controls
    detector.uninstall()
    assert detector.sweep().verdict == "clean", "until then it was asked"
    other.uninstall()


def test_controls_that_fail_make_it_inconclusive(detector, monkeypatch):
    detector.mint(ANN)
    detector.install()
    detector.uninstall()
    assert detector.sweep().verdict == "clean"

    class Blind:
        def __getattr__(self, name: str) -> Any:
            return getattr(scanner, name)

        def standing(self) -> tuple[int, int, bool]:
            return (*scanner.standing()[:2], False)

    scanner = detector.scanner
    monkeypatch.setattr(detector, "scanner", Blind())
    assert detector.check_sync(ANN, "some text").verdict == "inconclusive"
    assert not detector.sweep().ok


def test_the_bound_is_three_over_the_deliveries(detector):
    detector.mint(ANN)
    for _ in range(300):
        report = detector.check_sync(ANN, "some text")
    assert report.leak_probability_upper_bound == pytest.approx(0.01)
    assert leak_probability(3_000_000) == pytest.approx(1e-6)
    assert leak_probability(0) == 1.0
    detector.check_sync(BOB, detector.mint(ANN))
    assert detector.figures()["leak_probability_upper_bound"] > 0.01


class Hostile:
    @property
    def __dict__(self) -> Any:
        raise OSError("no")

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        raise OSError("no such table")


def test_what_cannot_be_looked_into_passes_where_it_is_observed_and_not_where_it_is_enforced():
    observing, enforcing = ContaminationDetector("observe"), ContaminationDetector("enforce")
    report = observing.check_sync(ANN, [Hostile()])
    assert (report.verdict, report.withheld, report.error) == ("inconclusive", False, "OSError")
    value = [Hostile()]
    assert observing.guard(value, boundary="tool_out", context=ANN) is value
    with pytest.raises(ResponseWithheldError) as caught:
        enforcing.guard(value, boundary="tool_out", context=ANN)
    assert (caught.value.boundary, caught.value.code) == ("tool_out", "response_withheld")
    assert (observing.figures()["errors"], enforcing.figures()["errors"]) == (2, 1)


def test_wrong_words_are_refused():
    with pytest.raises(ValueError, match="elsewhere"):
        ContaminationDetector({"elsewhere": "observe"})
    with pytest.raises(ValueError, match="off, observe or enforce"):
        ContaminationDetector({"log": "maybe"})
    with pytest.raises(ValueError, match="boundary must be one of"):
        ContaminationDetector().check_sync(ANN, "x", boundary="elsewhere")
    with pytest.raises(TypeError, match="needs a user"):
        ContaminationDetector().mint(None)


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 36, 37, 200])
@pytest.mark.parametrize("form", [str, lambda c: "".join(f"%{ord(x):02x}" for x in c)], ids=["plain", "percent"])
async def test_a_stream_is_stopped_where_a_canary_is_complete(size, form):
    detector = ContaminationDetector("enforce")
    text = f"{'before ' * 60}{form(detector.mint(ANN))} after"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    own = detector.stream(ANN, "llm_out")
    assert "".join(own.feed(piece) for piece in pieces) == text
    assert own.close().coverage.observed_own == 1
    guard, passed = detector.stream(BOB, "llm_out"), ""
    with pytest.raises(ResponseWithheldError):
        for piece in pieces:
            passed += guard.feed(piece)
    assert form(detector.mint(ANN))[:5] not in passed or len(passed) < len(text) - len(" after")
    with pytest.raises(ResponseWithheldError):
        guard.feed("nothing more")
    assert detector.figures()["violations"] == 1


async def test_async_iterators_are_read_and_passed_on():
    async def items(*values: Any) -> Any:
        for value in values:
            yield value

    detector = ContaminationDetector("enforce")
    canary = detector.mint(ANN)
    report = await detector.detect_data_contamination(BOB, items("a", canary[:20], canary[20:]))
    assert (report.verdict, report.withheld) == ("contaminated", True)
    report = await detector.detect_data_contamination(BOB, items({"rows": [canary]}))
    assert report.violations[0].path == "$[rows][0]"
    assert (await detector.detect_data_contamination(ANN, items("a", canary))).verdict == "clean"
    passed = []
    with pytest.raises(ResponseWithheldError):
        async for item in detector.passing(BOB, items("one", canary, "two"), boundary="llm_out"):
            passed.append(item)  # noqa: PERF401 - what was passed on before the error counts
    assert passed == ["one"]


# -- what it does then -------------------------------------------------------------------------------------------------


def test_the_ladder_is_gone_up_whatever_a_step_comes_to():
    class Sick:
        def record(self, event: SecurityEvent) -> None:
            raise isolane.security.AuditUnavailableError("isolation", "the disk is full")

    told: list[Any] = []
    quarantine = Quarantine(drain_seconds=0)
    before = isolane.isolation_violations()["content"]
    detector = ContaminationDetector("enforce", audit=Sick(), quarantine=quarantine, on_violation=told.append)
    assert detector.check_sync(BOB, detector.mint(ANN)).withheld
    assert set(quarantine.users()) == {ANN, BOB}
    assert [report.verdict for report in told] == ["contaminated"]
    assert detector.figures()["hook_errors"] == 1
    assert isolane.isolation_violations()["content"] == before + 1


def test_what_is_only_observed_puts_nobody_into_quarantine():
    audit, quarantine = Records(), Quarantine()
    detector = ContaminationDetector("observe", audit=audit, quarantine=quarantine)
    assert not detector.check_sync(BOB, detector.mint(ANN)).withheld
    (event,) = audit.events
    assert (event.name, event.audit_class, event.user_id) == ("isolation_violation", AuditClass.ISOLATION, BOB)
    assert quarantine.users() == {}


async def test_a_user_in_quarantine_starts_nothing_until_released(new_user):
    audit = Records()
    user, other = new_user("ann"), new_user("bob")
    quarantine = Quarantine(audit=audit, drain_seconds=0.01)
    factory = isolane.ExecutionEngineFactory()
    quarantine.attach(factory)
    running = await factory.create_for_user(isolane.UserContextFactory.create_context(user))
    assert quarantine.quarantine(user, "a test")
    assert not quarantine.quarantine(user, "again")
    with pytest.raises(UserQuarantinedError):
        await factory.create_for_user(isolane.UserContextFactory.create_context(user))
    await factory.cleanup_engine(await factory.create_for_user(isolane.UserContextFactory.create_context(other)))
    async with asyncio.timeout(5):
        while running.is_active() or factory.get_factory_metrics()["engines_active"]:
            await asyncio.sleep(0.005)
    assert quarantine.release(user, by="an operator", reason="looked into")
    assert not quarantine.release(user, by="an operator", reason="again")
    await factory.cleanup_engine(await factory.create_for_user(isolane.UserContextFactory.create_context(user)))
    assert [event.name for event in audit.events] == ["user_quarantined", "user_released"]
    assert audit.events[1].data == {"by": "an operator", "reason": "looked into"}


def test_a_release_that_cannot_be_recorded_is_none():
    class Sick:
        def record(self, event: SecurityEvent) -> None:
            raise isolane.security.AuditUnavailableError("admin", "the disk is full")

    quarantine = Quarantine(audit=Sick())
    assert quarantine.quarantine(ANN, "a test"), "that takes effect all the same"
    with pytest.raises(isolane.security.AuditUnavailableError):
        quarantine.release(ANN, by="an operator", reason="a test")
    assert quarantine.is_quarantined(ANN)


# -- isolane's own boundaries ------------------------------------------------------------------------------------------


async def test_an_event_with_data_of_another_user_is_not_published(installed, new_context, read_plain):
    detector = installed()
    ctx = new_context()
    emitter = ctx.get_websocket_emitter()
    canary, own = detector.mint(ANN), detector.mint(ctx)
    emitter.publish("mine", {"note": own})
    with pytest.raises(ResponseWithheldError):
        emitter.publish("mine", {"rows": [canary]})
    await emitter.notify_agent_started("data")
    with pytest.raises(ResponseWithheldError):
        await emitter.notify_agent_error(error=ValueError(canary))
    texts = json.dumps(read_plain(ctx.user_id, ctx.run_id))
    assert own in texts
    assert canary not in texts
    boundaries = detector.figures()["boundaries"]
    assert (boundaries["ws_out"]["foreign"], boundaries["error"]["foreign"]) == (1, 1)
    assert boundaries["ws_out"]["own"] >= 2, "once when it was published, once when it was read"


async def test_the_names_of_an_event_are_looked_at_as_its_payload_is(installed, new_context, read_plain):
    detector = installed()
    detector.register_secret(ANN, SECRET)
    ctx = new_context()
    emitter = ctx.get_websocket_emitter()
    for names in (
        {"event_type": SECRET},
        {"event_type": "mine", "agent_name": SECRET},
        {"event_type": "mine", "event_id": SECRET},
        {"event_type": "mine", "priority": 3, "key": SECRET},
        {"event_type": "mine", "message": SECRET},
    ):
        with pytest.raises(ResponseWithheldError):
            await emitter.send_custom_event(payload={"a": 1}, **names)
    with pytest.raises(ResponseWithheldError):
        await emitter.notify_agent_started(agent_name=SECRET)
    await emitter.send_custom_event("mine", {"a": 1}, event_id="6f9619ff-8b86-4d01-b42d-00cf4fc964fe")
    messages = read_plain(ctx.user_id, ctx.run_id)
    assert len(messages) == 1
    assert SECRET not in json.dumps(messages)


async def test_what_is_masked_before_it_is_published_is_no_leak(installed, new_context, read_plain):
    detector = installed()
    key = "sk-proj-9fJ2kQ7xLmZ4vB8nT5yR3wP1aB2cD3eF4gH5iJ6kL7mN8oP9"
    detector.register_secret(ANN, key)
    ctx = new_context()
    emitter = ctx.get_websocket_emitter()
    await emitter.send_custom_event("mine", {"note": f"with {key}"}, message=f"with {key}")
    (message,) = read_plain(ctx.user_id, ctx.run_id)
    assert message["payload"]["note"].startswith("with [OPENAI_KEY:")
    assert detector.figures()["violations"] == 0
    plain = isolane.WebSocketBridgeFactory(isolane.WebSocketConfig(sanitize="off"))
    other = new_context()
    with pytest.raises(ResponseWithheldError):
        await (await plain.create_user_emitter(other.user_id, other)).send_custom_event("mine", {"note": f"with {key}"})


async def test_a_canary_that_is_cut_over_parts_of_a_text_is_found(installed, new_context):
    detector = installed()
    ctx = new_context()
    emitter = ctx.get_websocket_emitter()
    canary = detector.mint(ANN)
    await emitter.send_custom_event("text", {"delta": canary[:20]}, message_id="m")
    with pytest.raises(ResponseWithheldError):
        await emitter.send_custom_event("text", {"delta": canary[20:]}, message_id="m")
    await emitter.send_custom_event("text", {"delta": canary[20:]}, message_id="another")


async def test_what_is_in_the_log_already_is_not_written_to_a_socket(installed, new_context):
    ctx = new_context()
    made = installed("off")
    canary = made.mint(ANN)
    ctx.get_websocket_emitter().publish("mine", {"note": canary})
    made.set_mode("ws_out", "enforce")
    cursor = EventCursor(ctx.user_id, framed=False)
    cursor.subscribe(ctx.run_id)
    assert cursor.read() == []
    assert cursor.close_code == 4503
    made.set_mode("ws_out", "observe")
    other = EventCursor(ctx.user_id, framed=False)
    other.subscribe(ctx.run_id)
    assert canary in "".join(other.read())
    assert made.figures()["violations"] == 2


def test_a_cache_takes_and_gives_nothing_of_another_user(installed, new_user):
    detector = installed({"cache_put": "enforce", "cache_get": "off"})
    cache = isolane.TTLCache(new_user())
    canary = detector.mint(ANN)
    with pytest.raises(ResponseWithheldError):
        cache["rows"] = {"note": [canary]}
    assert "rows" not in cache
    detector.set_mode("cache_put", "off")
    cache["rows"] = {"note": [canary]}
    detector.set_mode("cache_get", "enforce")
    with pytest.raises(ResponseWithheldError):
        cache.get("rows")
    for read in (cache.items, cache.values, cache.popitem, lambda: cache["rows"], lambda: cache.pop("rows")):
        with pytest.raises((ResponseWithheldError, KeyError)):
            read()
    detector.set_mode("cache_put", "off")
    cache["rows"] = {"note": [canary]}
    detector.set_mode("cache_get", "observe")
    assert cache["rows"] == {"note": [canary]}
    own = detector.mint(cache_owner := new_user("own"))
    of_own = isolane.TTLCache(cache_owner)
    of_own["a"] = own
    assert of_own["a"] == own


def test_a_value_that_cannot_be_looked_into_is_the_caches_to_judge(installed, new_user):
    detector = installed({"cache_put": "observe", "cache_get": "off"})
    cache = isolane.TTLCache(new_user())
    cache.set("a", Hostile(), size=8)
    detector.set_mode("cache_put", "enforce")
    with pytest.raises(ResponseWithheldError):
        cache.set("b", Hostile(), size=8)
    assert detector.figures()["errors"] == 2


def test_one_detector_is_asked_at_a_time_and_then_none(installed, new_user):
    first, second = installed(), installed()
    cache = isolane.TTLCache(new_user())
    # Each has a key of its own, so the second knows nothing of the first one's canaries.
    cache["a"] = first.mint(ANN)
    first.uninstall()
    with pytest.raises(ResponseWithheldError):
        cache["b"] = second.mint(ANN)
    second.uninstall()
    cache["b"] = second.mint(ANN)


async def test_the_user_is_told_that_something_was_withheld_and_not_what(installed, new_user, read_plain):
    detector = installed()
    canary = detector.mint(ANN)

    class Leaking(isolane.BaseAgent):
        async def execute_with_context(self, context: Any, request: Any, results: Any) -> Any:
            if request == "event":
                await context.get_websocket_emitter().notify_agent_thinking(canary)
            return {"rows": [canary]}

    for how in ("event", "result"):
        ctx = isolane.UserContextFactory.create_context(new_user())
        async with isolane.ExecutionEngineFactory().user_execution_scope(ctx) as engine:
            await engine.execute_agent(Leaking, how)
        messages = read_plain(ctx.user_id, ctx.run_id)
        assert [message["type"] for message in messages] == ["agent_started", "agent_error"]
        assert messages[1]["payload"]["code"] == "response_withheld"
        assert canary not in json.dumps(messages)


def test_a_detector_that_is_installed_is_collected_after_it_is_not():
    detector = ContaminationDetector()
    detector.install()
    seen = weakref.ref(detector)
    detector.uninstall()
    del detector
    gc.collect()
    assert seen() is None


# -- taking out --------------------------------------------------------------------------------------------------------


def test_the_sanitizer_takes_out_what_the_detector_knows(detector, new_context):
    sanitizer = isolane.DataSanitizer(references=detector)
    own, foreign = detector.mint(ANN), detector.mint(BOB)
    detector.register_secret(BOB, SECRET)
    coded = base64.b64encode(f"..{foreign}".encode()).decode()
    value = {
        "text": f"größer: {own}, {foreign} und {SECRET}",
        foreign: [coded, (f"\u200b{foreign}",)],
        "objects": [new_context(ANN), new_context(BOB), isolane.TTLCache(BOB)],
        (foreign, 1): {foreign.encode(): 2},
    }
    shown = sanitizer.remove_cross_user_references(value, ANN)
    assert detector.check_sync(ANN, shown).verdict == "clean"
    assert shown["text"].startswith(f"größer: {own}, [FOREIGN:")
    assert shown["text"].count("[FOREIGN:") == 2
    assert shown["objects"][0] is value["objects"][0]
    assert [each.startswith("[FOREIGN:") for each in shown["objects"][1:]] == [True, True]
    assert list(shown)[1].startswith("[FOREIGN:")
    assert sanitizer.remove_cross_user_references(shown, ANN) is shown
    assert detector.figures()["boundaries"]["http_out"]["deliveries"] == 1, "taking out is no delivery"
    many = " ".join([foreign] * 100)
    assert foreign not in sanitizer.remove_cross_user_references(many, ANN)
    assert sanitizer.remove_cross_user_references(many, BOB) is many
    assert not sanitizer.validate_data_boundaries(foreign, ANN)
    assert sanitizer.validate_data_boundaries(own, ANN)


def test_what_is_granted_or_was_brought_is_not_taken_out():
    detector = ContaminationDetector(grants=Friends({(ANN, BOB)}))
    canary = detector.mint(ANN)
    assert detector.foreign_spans(f"é {canary}", BOB) == []
    assert detector.foreign_spans(f"é {canary}", "eve-of-contamination") == [(2, 39)]
    detector.note_inbound("eve-of-contamination", canary)
    assert detector.foreign_spans(canary, "eve-of-contamination") == []
    assert not any(each["foreign"] for each in detector.figures()["boundaries"].values()), "it is no delivery"


# -- logs and audit ----------------------------------------------------------------------------------------------------


def test_a_log_line_with_data_of_a_user_is_replaced():
    detector = ContaminationDetector("enforce")
    canary = detector.mint(ANN)
    lines: list[str] = []
    extras: list[Any] = []
    handler = logging.Handler()

    def emit(record: logging.LogRecord) -> None:
        lines.append(handler.format(record))
        extras.append(getattr(record, "rows", None))

    handler.emit = emit  # type: ignore[method-assign]
    handler.addFilter(ContaminationLogFilter(detector))
    logger = logging.getLogger("tests.contamination")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        logger.error("plain %d", 7)
        logger.error("of %s", canary)
        logger.error("of %s", canary, extra={"isolane_user": ANN})
        logger.error("fine", extra={"rows": [{"note": canary}]})
        logger.error("fine", extra={"rows": ["fine"]})
        try:
            int(canary)
        except ValueError:
            logger.exception("failed")
    finally:
        logger.removeHandler(handler)
    assert lines[0] == "plain 7"
    assert lines[2] == f"of {canary}"
    assert (lines[3] != "fine", lines[4], extras) == (True, "fine", [None, None, None, "", ["fine"], None])
    assert [canary in line for line in lines] == [False, False, True, False, False, False]
    assert detector.figures()["boundaries"]["log"]["foreign"] >= 2


def test_an_audit_record_keeps_its_event_and_loses_what_is_anothers():
    detector = ContaminationDetector("enforce")
    kept = Records()
    sink = ContaminationAuditSink(detector, kept)
    own, other = detector.mint(ANN), detector.mint(BOB)
    for data in ({"note": own}, {"note": other}):
        sink.record(SecurityEvent(name="sensitive_read", audit_class=AuditClass.DEBUG, user_id=ANN, data=data))
    assert [event.data for event in kept.events] == [{"note": own}, {"withheld": True}]


# -- what is left ------------------------------------------------------------------------------------------------------


def test_a_user_who_is_forgotten_leaves_nothing(detector):
    detector.mint(ANN)
    detector.register_secret(ANN, SECRET)
    detector.note_inbound(ANN, detector.mint(BOB))
    detector.check_sync(ANN, detector.mint(BOB))
    assert detector.holds(ANN)
    detector.forget_user(ANN)
    assert not detector.holds(ANN)
    assert detector.check_sync(BOB, SECRET).verdict == "clean"


def test_modes_are_words(detector):
    assert detector.mode("log") is ScanMode.OBSERVE
    assert detector.check_sync(ANN, "x").coverage.scan_points["log"] == "observe"


def test_many_numbers_are_no_reason_to_doubt(detector):
    canary = detector.mint(ANN)
    value = [list(range(200_000)), {"rows": [1.5] * 200_000}, canary]
    report = detector.check_sync(ANN, value)
    assert (report.verdict, report.coverage.observed_own) == ("clean", 1)
    many = detector.check_sync(ANN, [canary, *(["text"] * 100_001)])
    assert (many.verdict, many.coverage.complete) == ("inconclusive", False)


def in_a_child_process(work: Any) -> str:
    """Run something in the child of a fork; return what it returns."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as answers:
        answer = answers.read().decode()
    os.waitpid(child, 0)
    return answer


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_child_of_a_fork_has_a_detector_of_its_own_or_none(installed, new_user):
    detector = installed()
    canary, user = detector.mint(ANN), new_user()

    def of_the_parent() -> str:
        try:
            detector.scanner.mint(ANN)
        except isolane.ForkedProcessError:
            return "refused"
        return "used"

    def of_the_child() -> str:
        own = ContaminationDetector("enforce")
        own.install()
        cache = isolane.TTLCache(user)
        cache["a"] = canary
        try:
            cache["b"] = own.mint(ANN)
        except ResponseWithheldError:
            return "withheld"
        return "passed"

    assert in_a_child_process(of_the_parent) == "refused"
    assert in_a_child_process(of_the_child) == "withheld"
    with pytest.raises(ResponseWithheldError):
        isolane.TTLCache(user)["a"] = canary


def test_many_threads_look_at_once(detector):
    canaries = {user: detector.mint(user) for user in (ANN, BOB)}

    def look(number: int) -> int:
        user = (ANN, BOB)[number % 2]
        reports = [detector.check_sync(user, {"rows": [canaries[user]] * 20}) for _ in range(50)]
        return sum(len(report.violations) for report in reports)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(look, range(16))) == 0
    figures = detector.figures()
    assert figures["boundaries"]["http_out"]["own"] == 16 * 50 * 20
    assert figures["deliveries"] == 16 * 50


@pytest.mark.parametrize(
    ("before", "write", "after"),
    [
        ("see ", str, " there"),
        ("ä\U0001f600 ", str, " ü"),
        ("", str.upper, " there"),
        ("at ", lambda canary: base64.b64encode(canary.encode()).decode(), " there"),
        ("at ", lambda canary: canary.encode().hex(), " there"),
        ("at ", lambda canary: "".join(f"%{ord(letter):02x}" for letter in canary), " there"),
        ("at ", "\u200b".join, " ü"),
    ],
)
def test_what_the_detector_knows_is_what_the_sanitizer_takes_out(before, write, after) -> None:
    detector = ContaminationDetector()
    own, foreign = detector.mint("ann-of-references"), detector.mint("bob-of-references")
    sanitizer = DataSanitizer(references=detector)
    value = {"note": before + write(foreign) + after, "own": own, "clean": "ü"}
    shown = sanitizer.remove_cross_user_references(value, "ann-of-references")
    assert "[FOREIGN:" in shown["note"]
    assert (shown["own"], shown["clean"]) == (own, "ü")
    assert not detector.check_sync("ann-of-references", shown).violations
    if write is str:
        assert shown["note"].startswith(f"{before}[FOREIGN:")
        assert shown["note"].endswith(f"]{after}")
    assert sanitizer.validate_data_boundaries(shown, "ann-of-references")
    assert not sanitizer.validate_data_boundaries(value, "ann-of-references")
    assert sanitizer.remove_cross_user_references(value, "bob-of-references")["note"] is value["note"]


def test_references_that_know_nothing_are_refused_when_the_sanitizer_is_made() -> None:
    with pytest.raises(TypeError, match="foreign_spans"):
        DataSanitizer(references=Quarantine())
