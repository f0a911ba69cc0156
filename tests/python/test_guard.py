"""The guard of a rollout: what it is told, what it does to the flag, and what survives."""

import asyncio
import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from isolane import (
    FlagChangeRefusedError,
    FlagConfigError,
    FlagWriter,
    GuardPolicy,
    MetricPolicy,
    MigrationFeatureFlags,
    RolloutGuard,
)
from isolane.migration.flags import EnvironmentSource
from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, SecurityEvent
from isolane.testing import manual_clock

FLAG = "modern_execution"
SMALL = GuardPolicy(min_samples=5, min_dwell_seconds=10)


def document(rollout: int = 100_000, **more: Any) -> dict[str, Any]:
    return {"schema": 1, "revision": 3, "flags": {FLAG: {"rollout": rollout, "salt": "old", **more}}}


class Audit:
    """Keeps what it is told, unless it is sick."""

    def __init__(self) -> None:
        self.events: list[SecurityEvent] = []
        self.sick = False

    def record(self, event: SecurityEvent) -> None:
        if self.sick:
            raise AuditUnavailableError("the disk is full", "full")
        self.events.append(event)

    def names(self) -> list[str]:
        return [event.name for event in self.events]


def healthy(guard: RolloutGuard, many: int = 5) -> None:
    for metric in ("run_error", "slow_run", "slow_event", "dropped_event"):
        assert guard.observe(metric, 0, seen=many) is None
    guard.observe("slow_run", 0, "legacy", seen=many)


def break_it(guard: RolloutGuard) -> Any:
    for _ in range(20):
        record = guard.observe("run_error", True)
        if record is not None:
            return record
    pytest.fail("twenty errors in a row are no proof")


def test_a_rollback_takes_the_flag_from_everybody_before_the_call_returns() -> None:
    flags = MigrationFeatureFlags(document())
    told: list[Any] = []
    guard = RolloutGuard(flags, on_rollback=lambda record: told.append((record, flags.is_on(FLAG, "ann"))))
    assert flags.is_on(FLAG, "ann")
    record = break_it(guard)
    assert told == [(record, False)]
    assert not flags.is_on(FLAG, "ann")
    assert flags.decide(FLAG, "ann").step == "rollback"
    assert (record.metric, record.threshold, record.stage, record.revision) == ("run_error", 0.005, 100_000, 3)
    assert record.at.tzinfo is not None
    status = guard.status()
    assert (status.state, status.health, status.record) == ("rolled_back", "critical", record)
    assert json.loads(json.dumps(status.to_dict()))["record"]["reason"] == record.reason
    assert guard.observe("run_error", True) is None, "it is told once"
    assert len(told) == 1


@pytest.mark.parametrize("state", ["idle", "collecting", "healthy", "paused", "rolled_back"])
async def test_one_violation_of_isolation_is_enough_in_every_state(state: str) -> None:
    flags = MigrationFeatureFlags(document(0 if state == "idle" else 100_000))
    guard = RolloutGuard(flags, policy=GuardPolicy(min_samples=5, min_dwell_seconds=0))
    if state == "healthy":
        healthy(guard)
        guard.tick()
    if state == "paused":
        await guard.pause(actor="ops")
    if state == "rolled_back":
        guard.rollback("a feeling", "ops")
    if state != "paused":
        assert guard.status().state == state
    record = guard.observe("isolation_violation", True)
    assert record is not None
    assert (record.mode, record.metric) == ("abort", "isolation_violation")
    assert not flags.is_on(FLAG, "ann")
    assert guard.observe("isolation_violation", True) is None


def test_a_violation_on_the_legacy_side_is_counted_and_rolls_nothing_back() -> None:
    guard = RolloutGuard(MigrationFeatureFlags(document()))
    assert guard.observe("isolation_violation", True, "legacy") is None
    status = guard.status()
    assert (status.state, status.metrics["isolation_violation"].legacy_bad) == ("collecting", 1)


@pytest.mark.parametrize("duration", [math.nan, -0.1, math.inf])
def test_what_is_no_duration_is_refused(duration: float) -> None:
    guard = RolloutGuard(MigrationFeatureFlags(document()))
    for observe in (guard.observe_run, guard.observe_delay, guard.record_run):
        with pytest.raises(ValueError, match="0 or more seconds, and finite"):
            observe(duration)
    with pytest.raises(ValueError, match="the wait at most as long"):
        guard.record_run(1.0, waited=1.5)
    with pytest.raises(ValueError, match="the wait at most as long"):
        guard.record_run(1.0, waited=math.nan)
    assert guard.record_run(1.0, waited=1.0) is None
    assert [metric.seen for metric in guard.status().metrics.values()] == [0, 1, 1, 0, 0]


def test_unknown_names_are_refused_where_they_are_given() -> None:
    flags = MigrationFeatureFlags(document())
    guard = RolloutGuard(flags)
    with pytest.raises(ValueError, match=r"there is no metric .run_eror.; known are"):
        guard.observe("run_eror", True)
    with pytest.raises(ValueError, match=r"there is no cohort .new."):
        guard.observe("run_error", True, "new")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of 1 observations 2 cannot be bad"):
        guard.observe("run_error", 2)
    with pytest.raises(FlagConfigError) as caught:
        RolloutGuard(flags, policy=GuardPolicy(metrics={"run_eror": MetricPolicy(bound=0.1)}))
    assert caught.value.path == "/metrics/run_eror"
    with pytest.raises(FlagConfigError) as caught:
        RolloutGuard(MigrationFeatureFlags(document(guard={"min_sample": 3})))
    assert caught.value.path == f"/flags/{FLAG}/guard/min_sample"
    with pytest.raises(TypeError, match="flags must be"):
        RolloutGuard({})


def test_the_policy_of_the_document_counts_unless_another_is_given() -> None:
    flags = MigrationFeatureFlags(document(guard={"metrics": {"run_error": {"bound": 0.25}}, "mode": "abort"}))
    assert RolloutGuard(flags).status().metrics["run_error"].bound == 0.25
    assert RolloutGuard(flags, policy=GuardPolicy()).status().metrics["run_error"].bound == 0.005
    assert RolloutGuard(flags).rollback("a feeling", "ops").mode == "abort"  # type: ignore[union-attr]


def test_it_climbs_the_ladder_with_samples_and_time_and_with_neither_alone() -> None:
    flags = MigrationFeatureFlags(document(100))
    guard = RolloutGuard(flags, policy=SMALL)
    with manual_clock() as clock:
        guard = RolloutGuard(flags, policy=SMALL)
        clock.advance(3_600)
        assert any("run_error has 0 of 5" in why for why in guard.tick())
        healthy(guard)
        assert guard.tick() == ()
        assert flags.engine.revision == 3, "the next change of its source is not older than it"
        assert json.loads(flags.engine.document())["flags"][FLAG] == {"rollout": 1_000, "salt": "old"}
        healthy(guard)
        assert guard.tick() == ("the step has lasted 0 of 10 s",)
        clock.advance(9)
        assert guard.tick() == ("the step has lasted 9 of 10 s",)
        clock.advance(1)
        assert guard.tick() == ()
        assert guard.status().rollout == 5_000


async def test_a_person_begins_pauses_forces_and_resumes_with_a_name() -> None:
    flags, audit = MigrationFeatureFlags(document(0)), Audit()
    guard = RolloutGuard(flags, policy=SMALL, audit=audit)
    assert guard.status().state == "idle"
    assert guard.tick()[0].startswith("it has not begun")
    with pytest.raises(ValueError, match="actor is empty"):
        await guard.advance(actor=" ")
    assert await guard.advance(actor="ops", reason="monday") == 100
    with pytest.raises(RuntimeError, match="does not advance: the step has lasted"):
        await guard.advance(actor="ops")
    assert await guard.advance(actor="ops", force=True) == 1_000
    await guard.pause(actor="ops", reason="lunch")
    assert "it is paused" in guard.status().holds
    await guard.resume(actor="ops")
    with pytest.raises(RuntimeError, match="nothing to resume"):
        await guard.resume(actor="ops")
    break_it(guard)
    with pytest.raises(RuntimeError, match="rolled back because of run_error"):
        await guard.advance(actor="ops", force=True)
    with pytest.raises(ValueError, match="with ack="):
        await guard.resume(actor="ops")
    with pytest.raises(ValueError, match="not 'other'"):
        await guard.resume("other", actor="ops", ack="INC-1")
    await guard.resume(FLAG, actor="ops", ack="INC-1")
    status = guard.status()
    assert (status.state, status.rollout, status.record) == ("idle", 0, None)
    assert not flags.is_on(FLAG, "ann"), "it begins with nobody"
    assert await guard.advance(actor="ops") == 100
    assert json.loads(flags.engine.document())["flags"][FLAG]["salt"] == "old", "the same users are first"
    assert audit.names() == [
        *("rollout_advanced", "rollout_advanced", "rollout_paused", "rollout_resumed"),
        *("rollout_rolled_back", "rollout_resumed", "rollout_advanced"),
    ]
    classes = {event.name: event.audit_class for event in audit.events}
    assert classes["rollout_rolled_back"] is AuditClass.ISOLATION
    assert audit.events[-2].data == {"flag": FLAG, "by": "ops", "ack": "INC-1"}


async def test_what_cannot_be_recorded_is_not_done_but_a_rollback_is() -> None:
    flags, audit = MigrationFeatureFlags(document(100)), Audit()
    guard = RolloutGuard(flags, policy=SMALL, audit=audit)
    audit.sick = True
    with pytest.raises(AuditUnavailableError):
        await guard.advance(actor="ops", force=True)
    with pytest.raises(AuditUnavailableError):
        await guard.pause(actor="ops")
    assert (guard.status().rollout, guard.status().paused) == (100, False)
    assert break_it(guard) is not None
    assert not flags.is_on(FLAG, "ann")
    with pytest.raises(AuditUnavailableError):
        await guard.resume(actor="ops", ack="INC-1")
    assert guard.status().state == "rolled_back"


def written(path: Path) -> Any:
    return json.loads(path.read_text())["flags"][FLAG]


def replace(path: Path, text: str) -> str:
    """Write another text into a file. Returns the one before."""
    before = path.read_text()
    path.write_text(text)
    return before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps(document(100_000, rules=[{"if": {"tier": ["enterprise"]}, "rollout": 100_000}])))
    return path


async def test_a_rollback_is_written_survives_a_restart_and_is_resumed_for_all(path: Path) -> None:
    def begin() -> tuple[MigrationFeatureFlags, RolloutGuard]:
        flags = MigrationFeatureFlags(path)
        return flags, RolloutGuard(flags, policy=SMALL, writer=FlagWriter(path))

    (flags, guard), (others, other) = begin(), begin()
    record = break_it(guard)
    assert not flags.is_on(FLAG, "ann"), "in this process at once"
    await guard.settled()
    assert guard.status().is_written
    held = written(path)
    assert (held["rollout"], held["rollback"]["metric"], held["salt"]) == (0, "run_error", "old")
    others.refresh()
    other.tick()
    assert other.status().record == record, "in another process as soon as it reads the file"
    assert not others.is_on(FLAG, "ann")
    flags, guard = begin()
    assert guard.status().record == record, "after a restart"
    assert guard.observe("run_error", True) is None
    with pytest.raises(RuntimeError, match="rolled back because of run_error"):
        await guard.advance(actor="ops")
    await guard.resume(actor="ops", ack="INC-1")
    assert guard.status().state == "idle"
    others.refresh()
    other.tick()
    assert other.status().state == "idle"
    assert await other.advance(actor="ops") == 100
    assert written(path)["rollout"] == 100


async def test_a_rollback_that_cannot_be_written_holds_here_and_is_tried_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = MigrationFeatureFlags(path)
    guard = RolloutGuard(flags, writer=FlagWriter(path))
    text = replace(path, "nonsense")
    break_it(guard)
    await guard.settled()
    assert not guard.status().is_written
    assert not flags.is_on(FLAG, "ann")
    assert "is tried again" in caplog.text
    replace(path, text)
    guard.tick()
    await guard.settled()
    assert guard.status().is_written
    assert written(path)["rollback"]["metric"] == "run_error"


def test_without_a_loop_it_is_written_before_the_call_returns(path: Path) -> None:
    guard = RolloutGuard(MigrationFeatureFlags(path), writer=FlagWriter(path))
    break_it(guard)
    assert written(path)["rollback"]["metric"] == "run_error"


def test_a_rollback_that_somebody_wrote_by_hand_is_taken_over() -> None:
    flags = MigrationFeatureFlags(document(rollback={"why": "a feeling"}))
    guard = RolloutGuard(flags)
    status = guard.status()
    assert status.state == "rolled_back"
    assert status.record is not None
    assert "a feeling" in status.record.reason


def test_what_on_rollback_raises_keeps_nothing_from_happening(caplog: pytest.LogCaptureFixture) -> None:
    flags = MigrationFeatureFlags(document())

    def fail(_: Any) -> None:
        raise OSError("no network")

    assert break_it(RolloutGuard(flags, on_rollback=fail)) is not None
    assert not flags.is_on(FLAG, "ann")
    assert "on_rollback failed" in caplog.text


def test_of_many_threads_one_rolls_it_back() -> None:
    flags = MigrationFeatureFlags(document())
    records: list[Any] = []
    guard = RolloutGuard(flags, on_rollback=records.append)
    barrier = threading.Barrier(8)

    def observe() -> None:
        barrier.wait()
        for _ in range(200):
            guard.observe("run_error", True)
            guard.tick()

    threads = [threading.Thread(target=observe) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records) == 1
    assert guard.status().state == "rolled_back"
    assert not flags.is_on(FLAG, "ann")


async def test_a_cancelled_step_by_hand_leaves_a_whole_document(path: Path) -> None:
    guard = RolloutGuard(MigrationFeatureFlags(path), policy=SMALL, writer=FlagWriter(path))
    FlagWriter(path).set_rollout(FLAG, 1, actor="ops")
    guard.flags.refresh()
    task = asyncio.create_task(guard.advance(actor="ops", force=True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(200):
        if written(path)["rollout"] == 5_000:
            break
        await asyncio.sleep(0.01)
    guard.flags.refresh()
    assert guard.status().rollout == 5_000


async def test_without_a_writer_its_steps_do_not_outdate_what_the_file_says_next(path: Path) -> None:
    replace(path, json.dumps(document(100)))
    flags = MigrationFeatureFlags(path)
    guard = RolloutGuard(flags)
    for _ in range(3):
        await guard.advance(actor="ops", force=True)
    assert guard.status().rollout == 10_000
    FlagWriter(path).roll_back(FLAG, {}, actor="ops", reason="INC-1")
    assert flags.refresh(), flags.problem
    assert guard.status().state == "rolled_back"
    assert flags.decide(FLAG, "ann").step == "rollback"


@pytest.mark.parametrize("by_hand", [True, False])
async def test_a_step_does_not_undo_what_somebody_has_set_meanwhile(path: Path, by_hand: bool) -> None:
    writer = FlagWriter(path)
    writer.set_rollout(FLAG, 25, actor="ops")
    flags = MigrationFeatureFlags(path)
    guard = RolloutGuard(flags, policy=GuardPolicy(min_samples=5, min_dwell_seconds=0), writer=writer)
    healthy(guard)
    writer.set_rollout(FLAG, 1, actor="ops", reason="something is odd")
    if by_hand:
        with pytest.raises(FlagChangeRefusedError, match="at 1 % and no longer at 25 %"):
            await guard.advance(actor="eve")
    else:
        guard.tick()
        await guard.settled()
    assert written(path)["rollout"] == 1_000
    assert guard.status().rollout == 1_000, "what was refused is read"


async def test_a_guard_of_a_flag_that_no_document_has_says_so(caplog: pytest.LogCaptureFixture) -> None:
    guard = RolloutGuard(MigrationFeatureFlags(document()), flag="modern_exection")
    assert guard.tick()[0] == "the document has no flag modern_exection"
    guard.tick()
    assert caplog.text.count("watches nobody") == 1


def test_a_rollback_that_comes_between_two_looks_is_not_taken_for_a_resumption(path: Path) -> None:
    flags = MigrationFeatureFlags(path)
    writer, refusals = FlagWriter(path), [OSError("the disk is full")]

    class Writer:
        """Fails once."""

        def roll_back(self, *given: Any, **more: Any) -> Any:
            if refusals:
                raise refusals.pop()
            return writer.roll_back(*given, **more)

    guard = RolloutGuard(flags, writer=Writer())  # type: ignore[arg-type]

    class Engine:
        """Answers what was true before another thread rolled the flag back."""

        def __getattr__(self, name: str) -> Any:
            return getattr(flags.engine, name)

        def latched(self) -> dict[str, str]:
            before = flags.engine.latched()
            if not rolling.ident:
                rolling.start()
                rolling.join(0.2)
            return before

    rolling = threading.Thread(target=break_it, args=(guard,))
    guard.engine = Engine()  # type: ignore[assignment]
    guard.status()
    rolling.join()
    guard.tick()
    assert guard.status().state == "rolled_back"
    assert written(path)["rollback"]["metric"] == "run_error"


@pytest.mark.parametrize("sick", [False, True])
async def test_the_kill_switch_is_thrown_here_whatever_fails_and_for_all_and_on_record_if_nothing_does(
    path: Path, sick: bool
) -> None:
    flags, audit = MigrationFeatureFlags(path), Audit()
    guard = RolloutGuard(flags, writer=FlagWriter(path), audit=audit)
    audit.sick = sick
    if sick:
        replace(path, "nonsense")
    await guard.kill("the data of users is damaged", actor="procedure")
    assert flags.engine.is_killed
    if not sick:
        others = MigrationFeatureFlags(path)
        assert others.engine.is_killed
        assert audit.events[-1].name == "rollout_killed"
        assert audit.events[-1].data == {"flag": FLAG, "by": "procedure", "why": "the data of users is damaged"}


async def test_a_flag_of_the_environment_is_rolled_back_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.touch()
    replace(path, json.dumps({"schema": 1, "revision": 1, "flags": {}}))
    environ = {"ISOLANE_FLAG_MODERN_EXECUTION": "true", "ISOLANE_FLAGS_FILE": str(path)}
    flags, others = (MigrationFeatureFlags(EnvironmentSource(environ)) for _ in range(2))
    guard = RolloutGuard(flags, writer=FlagWriter(path))
    assert others.is_on(FLAG, "ann")
    break_it(guard)
    await guard.settled()
    assert guard.status().is_written
    others.refresh()
    assert others.decide(FLAG, "ann").step == "rollback"
