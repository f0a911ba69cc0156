"""Whatever a connection does to frames, a client shows each event once and in order, and catches up."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isolane.client.reader import StreamReader

from tests.clients.channel import ModelLog, View
from tests.clients.python_reader import PythonReader, take

EACH = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
NUMBERS = st.integers(1, 40)


def frames_of(log: ModelLog) -> st.SearchStrategy[dict]:
    """Any frame that a server with this log, or an earlier connection to it, may have sent."""
    spans = st.tuples(NUMBERS, NUMBERS).map(lambda pair: (min(pair), max(pair)))
    return st.one_of(
        spans.map(lambda span: log.events(*span)),
        spans.map(lambda span: log.merged(*span)),
        spans.map(lambda span: log.skip(*span)),
        NUMBERS.map(log.snapshot),
        st.sampled_from(["exact", "snapshot", "reset", "gone"]).map(
            lambda mode: {"v": 1, "t": "sub", "s": log.run, "e": log.epoch, "mode": mode, "n": 0, "head": 0}
        ),
        st.just(log.welcome()),
        st.just({"v": 1, "t": "ping", "head": {log.run: 40}}),
        NUMBERS.map(lambda head: ModelLog(log.run, log.epoch, head).end()),
    )


STEPS = st.lists(
    st.one_of(
        st.sampled_from([ModelLog("r", "A"), ModelLog("r", "B"), ModelLog("x", "C")])
        .flatmap(frames_of)
        .map(lambda frame: {"receive": frame}),
        st.just({"connected": True}),
        st.sampled_from(["r", "x"]).map(lambda run: {"subscribe": run}),
    ),
    max_size=40,
)


@given(steps=STEPS)
@EACH
def test_both_clients_do_the_same(javascript_reader, steps) -> None:
    """On any frames at all."""
    assert javascript_reader.run(steps) == PythonReader().run(steps)


@st.composite
def channels(draw):
    """A log that grows, in pieces, and what becomes of each piece on the way."""
    pieces = draw(st.lists(st.integers(1, 6), min_size=1, max_size=12))
    faults = draw(st.lists(st.sampled_from(["pass", "drop", "double", "late", "cut"]), min_size=40, max_size=40))
    kinds = draw(st.lists(st.sampled_from(["events", "merged", "skip"]), min_size=12, max_size=12))
    fold_at = draw(st.integers(0, 12))
    restart_at = draw(st.one_of(st.none(), st.integers(1, 11)))
    return pieces, faults, kinds, fold_at, restart_at, draw(st.booleans())


@given(channels())
@EACH
def test_through_any_channel_the_client_catches_up(drawn) -> None:
    """Frames of events are dropped, doubled, held back, connections are cut, logs folded and lost."""
    pieces, faults, kinds, fold_at, restart_at, again = drawn
    log, reader, view = ModelLog(), StreamReader(), View()
    faults_left = iter(faults)
    held: list[dict] = []
    acked = 0

    def receive(frame: dict) -> None:
        nonlocal acked
        effects = take(reader, {"receive": frame})
        view.apply(frame, effects)
        for effect in effects:
            if effect[0] == "send" and effect[1]["t"] == "sub":
                # The answer comes through the same channel, before anything that is sent later.
                for answer in log.answer(effect[1]):
                    arrive(answer)
            elif effect[0] == "send" and effect[1]["t"] == "ack":
                assert effect[1]["s"]["r"] <= max(log.head, acked), "an ack above what was sent"
                acked = effect[1]["s"]["r"]

    def connect() -> None:
        held.clear()
        reader.connected()
        receive(log.welcome())

    def arrive(frame: dict) -> None:
        fault = next(faults_left, "pass")
        if frame["t"] not in {"ev", "skip", "snap"} and fault != "cut":
            fault = "pass"
        if fault == "late":
            held.append(frame)
            return
        if fault == "cut":
            connect()
            return
        for _ in range({"drop": 0, "double": 2}.get(fault, 1)):
            receive(frame)
        while held and fault == "pass":
            receive(held.pop())

    connect()
    for index, length in enumerate(pieces):
        if index == restart_at:
            log = ModelLog("r", "B")
            if again:
                # The run id was used again: the connection goes on, and may still bring frames of the old log.
                arrive({"v": 1, "t": "sub", "s": "r", "e": "B", "mode": "reset", "n": 0, "head": 0})
            else:
                connect()
        first = log.head + 1
        log.head += length
        arrive({"events": log.events, "merged": log.merged, "skip": log.skip}[kinds[index]](first, log.head))
        if index == fold_at:
            log.folded = log.head
    log.ended = True
    faults_left = iter(())
    arrive(log.end())
    connect()
    connect()
    assert (view.covered, view.epoch or log.epoch) == (log.head, log.epoch)
    assert view.ends.count(log.epoch) == 1
    assert reader.position("r").ended


def test_what_is_remembered_is_bounded(reader) -> None:
    """Positions of ended runs are forgotten, the oldest first; those of live runs are not."""
    logs = [ModelLog(f"r{index}", "A", 1) for index in range(1200)]
    live = ModelLog("live", "A", 1)
    steps: list[dict] = [{"connected": True}]
    for log in (live, *logs):
        steps += [{"subscribe": log.run}, {"receive": log.answer({"n": 0})[0]}, {"receive": log.events(1, 1)}]
        if log is not live:
            steps.append({"receive": log.end()})
        if log is logs[0]:
            # Used again after its end, it is live.
            again = ModelLog("r0", "B", 1)
            steps += [{"receive": again.answer({"e": "A", "n": 1})[0]}, {"receive": again.events(1, 1)}]
    asks = [{"subscribe": run} for run in ("live", "r0", "r1", "r1199")]
    asked = [effects[0][1] for effects in reader.run([*steps, {"connected": True}, *asks])[-4:]]
    assert [frame.get("n") for frame in asked] == [1, 1, 0, 1]
