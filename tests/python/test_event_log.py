"""The log of a run: dense numbers, well-formed spans, folding, bounds, retention and the end of a stream."""

import collections
import contextlib
import gc
import json
import random
import threading
from typing import Any

import isolane
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from isolane import (
    BudgetExceeded,
    ContextIsolationError,
    InvalidEvent,
    RunClosed,
    UserContextFactory,
    WebSocketBridgeFactory,
    WebSocketConfig,
)
from isolane._core import EventCursor, emitter_for_context, end_stream, user_streams
from isolane.testing import manual_clock

TERMINAL = {"agent_completed", "agent_error"}


def frames(user: str, run: str) -> list[dict[str, Any]]:
    """All frames of a run, for a client that has nothing yet."""
    cursor = EventCursor(user, max_connections=1_000)
    cursor.subscribe(run)
    got = []
    while read := cursor.read(1_000):
        got += [json.loads(text) for text in read]
    cursor.detach()
    return [frame for frame in got if frame.get("s") == run]


def history(user: str, run: str) -> list[dict[str, Any]]:
    """The messages of a run that were not folded."""
    return [entry["ev"] for frame in frames(user, run) if frame["t"] == "ev" for entry in frame["b"]]


def outcome(ctx: isolane.UserExecutionContext) -> str | None:
    return next(stream["outcome"] for stream in user_streams(ctx.user_id) if stream["run_id"] == ctx.run_id)


def check_spans(messages: list[dict[str, Any]], *, ended: bool) -> None:
    """Raise unless each span begins once, pairs its tools and ends exactly once, with nothing after it."""
    spans: dict[str, dict[str, Any]] = {}
    for message in messages:
        kind, span = message["type"], message["request_id"]
        if kind == "agent_started":
            assert span not in spans, "a span began twice"
            spans[span] = {"tools": [], "over": False}
        elif kind in TERMINAL or kind in {"agent_thinking", "tool_executing", "tool_completed"}:
            assert span in spans, "an event before agent_started"
            assert not spans[span]["over"], "an event after the last of its span"
            tool = message["payload"].get("tool_name")
            if kind == "tool_executing":
                spans[span]["tools"].append(tool)
            elif kind == "tool_completed":
                assert tool in spans[span]["tools"], "a tool that was not running"
                spans[span]["tools"].remove(tool)
            elif kind in TERMINAL:
                assert not spans[span]["tools"], "a tool is left open"
                spans[span]["over"] = True
    if ended:
        assert all(span["over"] for span in spans.values()), "a span has no last event"


@pytest.mark.parametrize(
    "planted",
    [
        [("agent_thinking", "a", None)],
        [("agent_started", "a", None), ("agent_started", "a", None)],
        [("agent_started", "a", None), ("agent_completed", "a", None), ("agent_error", "a", None)],
        [("agent_started", "a", None), ("tool_completed", "a", "t")],
        [("agent_started", "a", None), ("tool_executing", "a", "t"), ("agent_completed", "a", None)],
        [("agent_started", "a", None)],
    ],
)
def test_the_check_of_spans_finds_what_is_planted(planted):
    messages = [{"type": kind, "request_id": span, "payload": {"tool_name": tool}} for kind, span, tool in planted]
    with pytest.raises(AssertionError):
        check_spans(messages, ended=True)


# -- spans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "call", "why"),
    [
        ("", lambda e: e.notify_agent_thinking("x"), "agent_thinking before agent_started"),
        ("", lambda e: e.notify_tool_executing("t", {}), "tool_executing before agent_started"),
        ("", lambda e: e.notify_agent_completed(1), "agent_completed before agent_started"),
        ("", lambda e: e.notify_agent_error(error="x"), "agent_error before agent_started"),
        ("s", lambda e: e.notify_agent_started("a"), "has started already"),
        ("s", lambda e: e.notify_tool_completed("t", result=1), "tool_completed without tool_executing"),
        ("st", lambda e: e.notify_agent_completed(1), "while tool 't' is running"),
        ("st", lambda e: e.notify_agent_error(error="x"), "while tool 't' is running"),
        ("st", lambda e: e.notify_tool_completed("u", result=1), "tool 'u' is not running"),
        ("sc", lambda e: e.notify_agent_completed(1), "ended already"),
        ("sc", lambda e: e.notify_agent_error(error="x"), "ended already"),
        ("sc", lambda e: e.notify_agent_thinking("x"), "ended already"),
        ("s", lambda e: e.notify_agent_thinking("x", agent_name="other"), "agent 'other' has not started"),
    ],
)
def test_an_event_out_of_order_is_refused_and_changes_nothing(context, before, call, why):
    emitter = context.get_websocket_emitter()
    for step in before:
        {
            "s": lambda: emitter.notify_agent_started("a"),
            "t": lambda: emitter.notify_tool_executing("t", {}),
            "c": lambda: emitter.notify_agent_completed(1),
        }[step]()
    with pytest.raises(InvalidEvent, match=why):
        call(emitter)
    assert len(history(context.user_id, context.run_id)) == len(before)


def test_the_same_agent_twice_in_a_run_is_two_spans(context):
    emitter = context.get_websocket_emitter()
    for _ in range(2):
        emitter.notify_agent_started("data")
        emitter.notify_agent_completed(1)
    messages = history(context.user_id, context.run_id)
    check_spans(messages, ended=True)
    assert len({message["request_id"] for message in messages}) == 2


def test_spans_of_one_context_and_of_its_children_never_share_an_id(context):
    """The second span of a request and the second child of a name could both be called `{request}_data_2`."""
    emitter = context.get_websocket_emitter()
    for _ in range(3):
        emitter.notify_agent_started("data")
        emitter.notify_agent_completed(1)
    for _ in range(3):
        child = context.create_child_context("data").get_websocket_emitter()
        child.notify_agent_started("data")
        child.notify_agent_completed(1)
    messages = history(context.user_id, context.run_id)
    check_spans(messages, ended=True)
    assert len({message["request_id"] for message in messages}) == 6


def test_nested_agents_of_one_emitter_are_told_apart_by_name(context):
    emitter = context.get_websocket_emitter()
    emitter.notify_agent_started("outer")
    emitter.notify_agent_started("inner")
    emitter.notify_agent_thinking("of the inner one")
    emitter.notify_agent_thinking("of the outer one", agent_name="outer")
    emitter.notify_agent_completed(1)
    emitter.notify_agent_thinking("of the outer one again")
    emitter.notify_agent_completed(2)
    messages = history(context.user_id, context.run_id)
    check_spans(messages, ended=True)
    assert [message["agent_name"] for message in messages] == [
        "outer",
        "inner",
        "inner",
        "outer",
        "inner",
        "outer",
        "outer",
    ]


def test_tools_of_the_same_name_may_run_side_by_side(context):
    emitter = context.get_websocket_emitter()
    emitter.notify_agent_started("data")
    for _ in range(2):
        emitter.notify_tool_executing("t", {})
    for _ in range(2):
        emitter.notify_tool_completed("t", result=1)
    with pytest.raises(InvalidEvent):
        emitter.notify_tool_completed("t", result=1)
    emitter.notify_agent_completed(1)
    check_spans(history(context.user_id, context.run_id), ended=True)


def test_what_is_left_open_is_closed_when_the_stream_ends(context):
    emitter = context.get_websocket_emitter()
    child = context.create_child_context("inner").get_websocket_emitter()
    emitter.notify_agent_started("outer")
    child.notify_agent_started("inner")
    child.notify_tool_executing("sql", {})
    emitter.notify_tool_executing("http", {})
    end_stream(context, "cancelled", "the user went away")
    messages = history(context.user_id, context.run_id)
    check_spans(messages, ended=True)
    assert [message["type"] for message in messages[4:]] == ["tool_completed", "agent_error"] * 2
    assert all(message["message"] == "the user went away" for message in messages[4:])
    assert {message["payload"].get("retriable") for message in messages if message["type"] == "agent_error"} == {True}
    assert frames(context.user_id, context.run_id)[-1]["outcome"] == "cancelled"


def test_close_open_closes_the_callers_own_spans_or_only_their_tools(context):
    one, two = (context.create_child_context(name).get_websocket_emitter() for name in "ab")
    for emitter in (one, two):
        emitter.notify_agent_started("x")
        emitter.notify_tool_executing("t", {})
    one.close_open("tools only", spans=False)
    one.notify_agent_completed(1)
    two.close_open("all of it")
    with pytest.raises(InvalidEvent):
        two.notify_agent_completed(1)
    one.close_open("nothing is open")
    messages = history(context.user_id, context.run_id)
    check_spans(messages, ended=True)
    assert len(messages) == 8


class SpanMachine(RuleBasedStateMachine):
    """Random events, legal and not, of a context and its children: what is accepted is always well-formed."""

    def __init__(self) -> None:
        super().__init__()
        self.root = UserContextFactory.create_context("ann-of-spans")
        contexts = [self.root, self.root.create_child_context("a"), self.root.create_child_context("b")]
        self.emitters = [ctx.get_websocket_emitter() for ctx in contexts]
        self.accepted = 0

    def attempt(self, call: Any) -> None:
        try:
            call()
        except InvalidEvent as error:
            assert str(error)  # noqa: PT017 - a refusal is as good as any
        else:
            self.accepted += 1

    @rule(at=st.integers(0, 2), agent=st.sampled_from("xy"))
    def started(self, at: int, agent: str) -> None:
        self.attempt(lambda: self.emitters[at].notify_agent_started(agent))

    @rule(at=st.integers(0, 2), agent=st.sampled_from(["x", "y", None]))
    def thinking(self, at: int, agent: str | None) -> None:
        self.attempt(lambda: self.emitters[at].notify_agent_thinking(content="hm", agent_name=agent))

    @rule(at=st.integers(0, 2), tool=st.sampled_from("tu"), agent=st.sampled_from(["x", "y", None]))
    def executing(self, at: int, tool: str, agent: str | None) -> None:
        self.attempt(lambda: self.emitters[at].notify_tool_executing(tool_name=tool, agent_name=agent))

    @rule(at=st.integers(0, 2), tool=st.sampled_from("tu"), agent=st.sampled_from(["x", "y", None]))
    def completed_tool(self, at: int, tool: str, agent: str | None) -> None:
        self.attempt(lambda: self.emitters[at].notify_tool_completed(tool_name=tool, agent_name=agent, result=1))

    @rule(at=st.integers(0, 2), agent=st.sampled_from(["x", "y", None]), well=st.booleans())
    def ended(self, at: int, agent: str | None, well: bool) -> None:
        emitter = self.emitters[at]
        if well:
            self.attempt(lambda: emitter.notify_agent_completed(result=1, agent_name=agent))
        else:
            self.attempt(lambda: emitter.notify_agent_error(error="x", agent_name=agent))

    @rule(at=st.integers(0, 2))
    def custom(self, at: int) -> None:
        self.attempt(lambda: self.emitters[at].publish("mine"))

    @rule(at=st.integers(0, 2), spans=st.booleans())
    def repair(self, at: int, spans: bool) -> None:
        self.emitters[at].close_open("repaired", spans=spans)
        self.accepted = self.emitters[0].get_event_stats()["stream_head"]

    @invariant()
    def numbers_are_dense(self) -> None:
        assert self.emitters[0].get_event_stats()["stream_head"] == self.accepted

    def teardown(self) -> None:
        end_stream(self.root)
        messages = history(self.root.user_id, self.root.run_id)
        assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
        check_spans(messages, ended=True)


SpanMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=40)
TestSpans = SpanMachine.TestCase


# -- order and threads -------------------------------------------------------------------------------------------------


def test_many_threads_publish_into_one_log_in_one_order(context):
    """Numbers are dense; a publish that returned before another has the smaller one; a reader runs beside them."""
    numbers: dict[int, list[int]] = {}
    children = [context.create_child_context("t").get_websocket_emitter() for _ in range(8)]
    reader = EventCursor(context.user_id, framed=False, max_connections=1_000)
    reader.subscribe(context.run_id)
    seen: list[int] = []

    def publish(at: int) -> None:
        numbers[at] = [children[at].publish("mine", {"thread": at, "i": i}) for i in range(100)]

    def read() -> None:
        while len(seen) < 800:
            seen.extend(json.loads(text)["seq"] for text in reader.read(7))

    threads = [threading.Thread(target=publish, args=(at,)) for at in range(8)] + [threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(number for own in numbers.values() for number in own) == list(range(1, 801))
    assert all(own == sorted(own) for own in numbers.values())
    assert seen == list(range(1, 801))
    messages = history(context.user_id, context.run_id)
    for at, own in numbers.items():
        assert [message["seq"] for message in messages if message["payload"]["thread"] == at] == own
        assert [message["payload"]["i"] for message in messages if message["payload"]["thread"] == at] == list(
            range(100)
        )


# -- folding and bounds ------------------------------------------------------------------------------------------------


def small(ctx: isolane.UserExecutionContext, **bounds: int) -> isolane.UserWebSocketEmitter:
    return emitter_for_context(ctx, **bounds)


def snapshot(ctx: isolane.UserExecutionContext) -> dict[str, Any]:
    return next(frame for frame in frames(ctx.user_id, ctx.run_id) if frame["t"] == "snap")


def test_a_full_log_folds_into_the_latest_of_each_span_and_key(context):
    emitter = small(context, max_events=4)
    emitter.notify_agent_started("data")
    for at in range(3):
        emitter.notify_agent_thinking(f"thought {at}")
    emitter.notify_tool_executing("sql", {})
    emitter.notify_tool_completed("sql", result=1)
    for at in range(10):
        emitter.publish("progress", {"at": at})
    got = frames(context.user_id, context.run_id)
    assert [frame["t"] for frame in got] == ["sub", "snap", "ev"]
    # A client that never had anything is not told "exact" when the beginning is gone.
    assert got[0]["mode"] == "snapshot"
    assert [entry["n"] for entry in got[2]["b"]] == [13, 14, 15, 16]
    assert got[1]["n"] == 12
    body = got[1]["b"]
    assert [message["type"] for message in body] == ["agent_started", "agent_thinking", "tool_completed", "progress"]
    assert body[1]["payload"]["reasoning"] == "thought 2"
    assert body[3]["payload"] == {"at": 5}
    assert [message["seq"] for message in body] == [1, 4, 6, 12]


def test_a_snapshot_opens_again_each_tool_that_still_runs(context):
    emitter = small(context, max_events=2)
    emitter.notify_agent_started("data")
    emitter.notify_tool_executing("sql", {"q": 1})
    emitter.notify_tool_executing("sql", {"q": 2})
    emitter.notify_tool_completed("sql", result=1)
    for _ in range(3):
        emitter.publish("progress")
    body = snapshot(context)["b"]
    # With the end of the first call stays its beginning: the end alone would close the second one.
    assert [message["payload"].get("parameters") for message in body if message["type"] == "tool_executing"] == [
        {"q": 1},
        {"q": 2},
    ]
    _, running = still_open(body)
    assert list(running.values()) == [1]
    emitter.notify_tool_completed("sql", result=2)
    for _ in range(3):
        emitter.publish("progress")
    assert not [message for message in snapshot(context)["b"] if message["type"] == "tool_executing"]


def test_two_thoughts_are_two_events_until_they_are_folded(context):
    emitter = small(context, max_events=10)
    emitter.notify_agent_started("data")
    emitter.notify_agent_thinking("one")
    emitter.notify_agent_thinking("two")
    assert [message["payload"].get("reasoning") for message in history(context.user_id, context.run_id)] == [
        None,
        "one",
        "two",
    ]


def test_the_last_events_of_a_span_survive_any_number_of_others(context):
    emitter = small(context, max_events=3)
    child = context.create_child_context("inner").get_websocket_emitter()
    child.notify_agent_started("inner")
    child.notify_agent_error(error="broken")
    emitter.notify_agent_started("outer")
    for at in range(500):
        emitter.notify_agent_thinking(f"{at}")
    kinds = [(message["agent_name"], message["type"]) for message in snapshot(context)["b"]]
    assert ("outer", "agent_started") in kinds
    assert ("outer", "agent_thinking") in kinds


def test_a_log_stays_within_its_events_and_bytes(context):
    emitter = small(context, max_events=50, max_run_bytes=20_000)
    emitter.notify_agent_started("data")
    for at in range(2_000):
        emitter.publish(f"kind-{at % 300}", {"text": "x" * random.Random(at).randrange(500)})
        usage = isolane.lane_usage(context.user_id)
        assert usage["event_bytes"] <= 20_000
    assert emitter.get_event_stats()["stream_head"] == 2_001
    assert len(history(context.user_id, context.run_id)) <= 50


async def test_the_logs_of_a_user_stay_within_the_users_bytes(alice, new_context):
    bridge = WebSocketBridgeFactory(WebSocketConfig(max_user_bytes=60_000))
    contexts = [new_context(alice) for _ in range(4)]
    emitters = [await bridge.create_user_emitter(alice, ctx) for ctx in contexts]
    refused = 0
    for at in range(400):
        try:
            emitters[at % 4].publish("mine", {"text": "x" * 300})
        except BudgetExceeded as error:
            refused += 1
            assert "the user's event memory" in str(error)  # noqa: PT017 - counted as well
        assert isolane.lane_usage(alice)["event_bytes"] <= 60_000
    assert refused == 0


def test_an_ended_log_makes_room_for_the_users_next_one(alice, new_context):
    first = new_context(alice)
    small(first, max_user_bytes=30_000).publish("mine", {"text": "x" * 20_000})
    end_stream(first)
    second = new_context(alice)
    small(second, max_user_bytes=30_000).publish("mine", {"text": "x" * 20_000})
    assert [stream["run_id"] for stream in user_streams(alice)] == [second.run_id]
    assert frames(alice, first.run_id) == [{"v": 1, "t": "sub", "s": first.run_id, "mode": "gone"}]


def test_a_bound_that_nothing_fits_says_which_and_how_to_mend_it(context):
    emitter = small(context, max_run_bytes=1_000)
    with pytest.raises(BudgetExceeded, match="the run's event memory is full") as caught:
        emitter.publish("mine", {"text": "x" * 2_000})
    assert caught.value.limit == 1_000
    assert "raise the bound" in str(caught.value)


def test_the_streams_of_a_user_are_bounded_and_ended_ones_make_room(alice, new_context):
    contexts = [new_context(alice) for _ in range(256)]
    for ctx in contexts:
        ctx.get_websocket_emitter()
    with pytest.raises(BudgetExceeded, match="the user's number of streams"):
        new_context(alice).get_websocket_emitter()
    end_stream(contexts[7])
    assert new_context(alice).get_websocket_emitter().publish("mine") == 1


def test_open_tools_are_bounded(context):
    emitter = context.get_websocket_emitter()
    emitter.notify_agent_started("data")
    for at in range(256):
        emitter.notify_tool_executing(f"t{at}", {})
    with pytest.raises(BudgetExceeded, match="open tool calls"):
        emitter.notify_tool_executing("one more", {})


def still_open(messages: list[dict[str, Any]]) -> tuple[set[str], dict[tuple[str, str], int]]:
    """Return the spans, and how many calls of each tool, that a client shows as running."""
    spans: set[str] = set()
    tools: collections.Counter[tuple[str, str]] = collections.Counter()
    for message in messages:
        span, kind = message["request_id"], message["type"]
        if kind == "agent_started":
            spans.add(span)
        elif kind in TERMINAL:
            spans.discard(span)
        elif kind == "tool_executing":
            tools[span, message["payload"]["tool_name"]] += 1
        elif kind == "tool_completed" and tools[span, message["payload"]["tool_name"]]:
            # Without its beginning, which was folded away, it stands for a call that is over.
            tools[span, message["payload"]["tool_name"]] -= 1
    return spans, {call: count for call, count in tools.items() if count}


@settings(max_examples=60)
@example([("s", 0), ("u", 0), ("u", 0), ("U", 0), ("s", 0)], 1)
@example([("s", 0), ("u", 0), ("u", 0), ("u", 0), ("U", 0), ("U", 0), ("p", 0), ("U", 0), ("p", 0)], 1)
@given(st.lists(st.tuples(st.sampled_from("sstTuUcep"), st.integers(0, 2)), max_size=80), st.integers(1, 12))
def test_after_any_fold_a_late_client_sees_open_what_is_open(steps, max_events):
    """The snapshot and the rest name exactly the spans and tools that the whole history leaves open."""
    root = UserContextFactory.create_context("ann-of-folds")
    emitters = [small(root.create_child_context(f"c{at}"), max_events=max_events) for at in range(3)]
    fast = EventCursor(root.user_id, framed=False, max_connections=1_000)
    fast.subscribe(root.run_id)
    everything: list[dict[str, Any]] = []
    calls = {
        "s": lambda emitter: emitter.notify_agent_started("data"),
        "t": lambda emitter: emitter.notify_tool_executing("t", {}),
        "T": lambda emitter: emitter.notify_tool_completed("t", result=1),
        "u": lambda emitter: emitter.notify_tool_executing("u", {}),
        "U": lambda emitter: emitter.notify_tool_completed("u", result=1),
        "c": lambda emitter: emitter.notify_agent_completed(1),
        "e": lambda emitter: emitter.notify_agent_error(error="x"),
        "p": lambda emitter: emitter.publish("mine"),
    }
    for step, at in steps:
        with contextlib.suppress(InvalidEvent):
            calls[step](emitters[at])
        everything += [json.loads(text) for text in fast.read()]
    got = frames(root.user_id, root.run_id)
    shown = [message for frame in got if frame["t"] == "snap" for message in frame["b"]]
    shown += [entry["ev"] for frame in got if frame["t"] == "ev" for entry in frame["b"]]
    assert [message["seq"] for message in shown] == sorted({message["seq"] for message in shown})
    assert [message["seq"] for message in everything] == list(range(1, len(everything) + 1))
    assert still_open(shown) == still_open(everything)
    fast.detach()
    end_stream(root)


# -- the end of a stream -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "expected"),
    [("", "completed"), ("c", "completed"), ("cc", "completed"), ("e", "failed"), ("ce", "partial"), ("o", "failed")],
)
async def test_the_outcome_follows_from_the_executions(context, ends, expected):
    for at, end in enumerate(ends):
        emitter = context.create_child_context(f"c{at}").get_websocket_emitter()
        emitter.notify_agent_started("data")
        if end == "c":
            emitter.notify_agent_completed(1)
        elif end == "e":
            emitter.notify_agent_error(error="x")
    context.get_websocket_emitter()
    await context.cleanup()
    last = frames(context.user_id, context.run_id)[-1]
    head = len(ends) * 2
    assert (last["t"], last["n"], last["outcome"]) == ("end", head, expected)
    assert outcome(context) == expected
    with pytest.raises(RunClosed):
        context.get_websocket_emitter()


async def test_a_stream_ends_once(context):
    emitter = context.get_websocket_emitter()
    emitter.notify_agent_started("data")
    end_stream(context, "cancelled")
    end_stream(context, "failed")
    await emitter.cleanup()
    await context.cleanup()
    assert outcome(context) == "cancelled"
    assert [frame["t"] for frame in frames(context.user_id, context.run_id)].count("end") == 1
    with pytest.raises(TypeError, match="completed, partial, failed, cancelled or lost"):
        end_stream(context, "finished")


def test_a_run_that_is_dropped_while_an_agent_runs_is_lost(alice, new_context):
    ctx = new_context(alice)
    run = ctx.run_id
    ctx.get_websocket_emitter().notify_agent_started("data")
    del ctx
    gc.collect()
    got = frames(alice, run)
    assert got[-1]["outcome"] == "lost"
    check_spans([entry["ev"] for frame in got if frame["t"] == "ev" for entry in frame["b"]], ended=True)


def test_a_run_id_that_is_used_again_gets_a_new_epoch(alice):
    epochs, ids = [], []
    for _ in range(2):
        ctx = isolane.UserExecutionContext(alice, "thread-7", f"{alice}-run")
        ctx.get_websocket_emitter().publish("mine")
        (got,) = [frame for frame in frames(alice, ctx.run_id) if frame["t"] == "ev"]
        epochs.append(got["e"])
        ids.append(got["b"][0]["ev"]["event_id"])
        end_stream(ctx)
    assert len(set(epochs)) == len(set(ids)) == 2


def test_a_log_is_read_until_its_retention_is_over_and_then_frees_everything(alice, new_context):
    with manual_clock() as clock:
        # The ended logs of other tests would go in between.
        gc.collect()
        clock.advance(1_000)
        isolane.sweep_lanes()
        ctx = new_context(alice)
        baseline = isolane.lane_usage(alice)
        total = isolane.lane_stats()["bytes"]
        ctx.get_websocket_emitter().publish("mine", {"text": "x" * 5_000})
        grown = isolane.lane_usage(alice)
        assert grown["event_bytes"] > 5_000
        assert grown["bytes"] - baseline["bytes"] >= grown["event_bytes"]
        assert isolane.lane_stats()["bytes"] - total == grown["bytes"] - baseline["bytes"]
        end_stream(ctx)
        clock.advance(299)
        isolane.sweep_lanes()
        assert len(history(alice, ctx.run_id)) == 1
        assert user_streams(alice)[0]["ended_seconds_ago"] == pytest.approx(299)
        clock.advance(2)
        isolane.sweep_lanes()
        assert user_streams(alice) == []
        run = ctx.run_id
        del ctx
        gc.collect()
        after = isolane.lane_usage(alice)
        assert (after["bytes"], after["event_bytes"], after["streams"]) == (baseline["bytes"], 0, 0)
        assert after["handles"] == 0
        assert isolane.lane_stats()["bytes"] == total
        # The run id is free again, even for somebody else.
        other = isolane.UserExecutionContext(f"{alice}-2", "thread-7", run)
        assert other.get_websocket_emitter().publish("mine") == 1


def test_a_run_id_belongs_to_one_user_while_its_log_lives(alice, bob):
    run = f"{alice}-run"
    mine = isolane.UserExecutionContext(alice, "thread-7", run)
    mine.get_websocket_emitter()
    with pytest.raises(ContextIsolationError) as caught:
        isolane.UserExecutionContext(bob, "thread-7", run).get_websocket_emitter()
    assert alice not in str(caught.value)
    end_stream(mine)
    with pytest.raises(ContextIsolationError):
        isolane.UserExecutionContext(bob, "thread-7", run).get_websocket_emitter()
