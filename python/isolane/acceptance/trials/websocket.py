"""Events: each user receives those of the own runs, in order, and each span ends once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from isolane.acceptance.events import EventShape, Places, ReceivedEvent, judged
from isolane.acceptance.executor import transcripts
from isolane.acceptance.records import Transcript
from isolane.acceptance.results import TestResult
from isolane.acceptance.trials import Bench

SHOWN = 12


async def websocket_event_isolation(bench: Bench, result: TestResult) -> None:
    """Have users run at the same time beside one who only listens, and judge the events of each."""
    if bench.target.capabilities.sockets:
        result.skipped = bench.target.capabilities.sockets
        return
    async with bench.executor.users(bench.load.users + 1, "events") as users:
        # The last one listens and runs nothing: whatever arrives there is somebody else's.
        workers = users[:-1] if len(users) > 2 else users  # noqa: PLR2004 - two are needed to be mixed up
        for _ in range(bench.load.rounds):
            bench.executor.note_runs(await bench.executor.together(workers), users, result)
        received = transcripts(users)
    judge_events(received, bench.target.shape, result)
    bench.isolation.judge(received, result)
    result.set_success("each user received the events of the own runs, in order, each span with one end")


def judge_events(received: Sequence[Transcript], shape: EventShape, result: TestResult) -> None:
    """Note what is wrong with the events of these users, and plant faults into a copy: each must be reported."""
    told = 0
    named = sum(bool(run.run_id) for one in received for run in one.runs)
    result.add_check("runs whose events were judged", named)
    if not named:
        result.add_note("events cannot be told apart by their runs: run.save does not say where the run's id is")
    events = [event for one in received for event in shape.events(one)]
    if events and not any(event.run for event in events):
        result.add_failure(f"no event has the id of its run at {_shown(shape.run)} (events.run)")
    for transcript in received:
        events = shape.events(transcript)
        result.add_check("events judged for owner and order", len(events))
        for fault in judged(transcript, events, shape):
            told += 1
            if told <= SHOWN:
                result.add_failure(str(fault))
    if told > SHOWN:
        result.add_failure(f"{told - SHOWN} more faults of events")
    _controls(received, shape, result)


def _controls(received: Sequence[Transcript], shape: EventShape, result: TestResult) -> None:
    sample = next((one for one in received if _clean_run(one, shape)), None)
    if sample is None:
        # Where not one run is right, the faults are reported above; what they would hide needs no proof.
        result.add_control(
            "faults in the events of a run: there is no run without faults to plant them into", seen=told_any(result)
        )
        return
    events = _clean_run(sample, shape)
    own = Transcript(
        sample.user, runs=[run for run in sample.runs if run.run_id == events[0].run], run_ids=sample.run_ids
    )
    for planted, plant in _PLANTS.items():
        copy = plant(list(events), shape)
        if copy is not None:
            result.add_control(planted, seen=bool(judged(own, copy, shape)))


def _shown(places: Places) -> str:
    return places if isinstance(places, str) else " or ".join(places)


def told_any(result: TestResult) -> bool:
    """Return whether anything was reported at all."""
    return bool(result.failures)


def _clean_run(transcript: Transcript, shape: EventShape) -> list[ReceivedEvent]:
    """Return the events of a completed run of which nothing is wrong."""
    events = shape.events(transcript)
    for run in transcript.completed():
        mine = [event for event in events if event.run and event.run == run.run_id]
        own = Transcript(transcript.user, runs=[run], run_ids={run.run_id})
        if mine and not judged(own, mine, shape):
            return mine
    return []


_Plant = Callable[[list[ReceivedEvent], EventShape], list[ReceivedEvent] | None]


def _foreign(events: list[ReceivedEvent], _: EventShape) -> list[ReceivedEvent]:
    stranger = replace(events[0], run=f"{events[0].run}-of-somebody-else")
    return [*events, stranger]


def _swapped(events: list[ReceivedEvent], shape: EventShape) -> list[ReceivedEvent] | None:
    end = next((number for number, event in enumerate(events) if event.type in shape.ended), None)
    begin = next((number for number, event in enumerate(events) if event.type in shape.started), None)
    if end is None or begin is None:
        return None
    events[begin], events[end] = events[end], events[begin]
    return events


def _second_end(events: list[ReceivedEvent], shape: EventShape) -> list[ReceivedEvent] | None:
    end = next((event for event in events if event.type in shape.ended), None)
    return None if end is None else [*events, replace(end, number=None)]


def _no_end(events: list[ReceivedEvent], shape: EventShape) -> list[ReceivedEvent] | None:
    end = next((event for event in events if event.type in shape.ended), None)
    return None if end is None else [event for event in events if event is not end]


def _after_end(events: list[ReceivedEvent], shape: EventShape) -> list[ReceivedEvent] | None:
    end = next((event for event in events if event.type in shape.ended), None)
    return None if end is None else [*events, replace(end, type="agent_thinking", number=None)]


def _lost(events: list[ReceivedEvent], _: EventShape) -> list[ReceivedEvent] | None:
    middle = len(events) // 2
    if middle == 0 or any(event.number is None for event in events):
        return None
    return [*events[:middle], *events[middle + 1 :]]


_PLANTS: dict[str, _Plant] = {
    "an event of a run of somebody else": _foreign,
    "the beginning and the end of a span, exchanged": _swapped,
    "a second end of a span": _second_end,
    "a span without its end": _no_end,
    "an event after the end of its span": _after_end,
    "an event left out": _lost,
}
