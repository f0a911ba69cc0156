"""Engines: slots, lifetimes, steps, pipelines, cancellation at every tick, and clean-up that always ends."""

import asyncio
import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import isolane
import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ContextIsolationError,
    EngineClosedError,
    EngineLimitError,
    ExecutionEngineFactory,
    ExecutionEngineFactoryError,
    FairLimiter,
    LimitTimeout,
    PipelineOrderError,
    RunExpiredError,
    UnknownAgentError,
    UserExecutionContext,
    UserExecutionEngine,
    WebSocketBridgeFactory,
)
from isolane._core import user_streams
from isolane.testing import manual_clock


class Data(BaseAgent):
    name = "data"

    async def execute_with_context(
        self, context: UserExecutionContext, request: Any, results: Mapping[str, Any]
    ) -> Any:
        emitter = context.get_websocket_emitter()
        await emitter.notify_agent_thinking("reading")
        await emitter.notify_tool_executing(tool_name="load", params={"request": request})
        await asyncio.sleep(0)
        await emitter.notify_tool_completed(tool_name="load", result=3)
        return {"rows": 3}


class Optimization(BaseAgent):
    name = "optimization"
    requires = ("data",)

    async def execute_with_context(
        self, context: UserExecutionContext, request: Any, results: Mapping[str, Any]
    ) -> Any:
        assert set(results) == {"data"}
        return results["data"]["rows"] * 2


class Report(BaseAgent):
    name = "report"
    requires = ("data", "optimization")

    async def execute_with_context(
        self, context: UserExecutionContext, request: Any, results: Mapping[str, Any]
    ) -> Any:
        with pytest.raises(TypeError):
            results["forged"] = 1  # type: ignore[index]
        return f"{results['data']['rows']} rows, {results['optimization']}"


class Wait(BaseAgent):
    """Waits until it is told to go on, by user."""

    name = "wait"
    gates: ClassVar[dict[str, asyncio.Event]] = {}
    running: ClassVar[int] = 0

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        type(self).running += 1
        try:
            await self.gates.setdefault(context.user_id, asyncio.Event()).wait()
        finally:
            type(self).running -= 1
        return "waited"


class Fail(BaseAgent):
    name = "fail"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        context.get_websocket_emitter().notify_tool_executing("half", {})
        raise KeyError("lost")


class Stubborn(BaseAgent):
    """Ignores being cancelled, the first time, until it is released."""

    name = "stubborn"
    release: ClassVar[asyncio.Event]

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await self.release.wait()
        await self.release.wait()
        context.get_websocket_emitter().notify_agent_thinking("still here")
        return "late"


class Slow(BaseAgent):
    name = "slow"
    timeout_seconds = 0.02

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        await asyncio.sleep(60)


@pytest.fixture
def limiter() -> FairLimiter:
    return FairLimiter()


@pytest.fixture
def new_factory(limiter):
    registry = AgentRegistry()
    for agent in (Data, Optimization, Report, Wait, Fail, Stubborn, Slow):
        registry.register(agent)

    def make(**options: Any) -> ExecutionEngineFactory:
        return ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry), **{"limiter": limiter, **options})

    return make


@pytest.fixture
def factory(new_factory) -> ExecutionEngineFactory:
    return new_factory()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a timer of the loop is to bring about."""
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.01)


def outcome(ctx: UserExecutionContext) -> str | None:
    return next(stream["outcome"] for stream in user_streams(ctx.user_id) if stream["run_id"] == ctx.run_id)


def nothing_left(factory: ExecutionEngineFactory, limiter: FairLimiter) -> bool:
    """Whether no engine, slot, permit or waiter is left, of any user."""
    slots, permits = factory._slots.stats(), limiter.stats()
    return (
        (slots["running"], slots["queued"], permits["running"], permits["queued"]) == (0, 0, 0, 0)
        and factory.get_factory_metrics()["engines_active"] == 0
        and factory.get_active_engines_summary() == []
    )


async def test_the_check_for_leaks_finds_a_planted_one(factory, limiter, context):
    assert nothing_left(factory, limiter)
    engine = await factory.create_for_user(context)
    assert not nothing_left(factory, limiter)
    await engine.cleanup()
    with limiter.slot_nowait(context.user_id):
        assert not nothing_left(factory, limiter)
    assert nothing_left(factory, limiter)


# -- slots -------------------------------------------------------------------------------------------------------------


async def test_a_user_has_two_engines_and_is_told_so(factory, limiter, new_context, alice, bob):
    engines = [await factory.create_for_user(new_context(alice)) for _ in range(2)]
    with pytest.raises(EngineLimitError, match=r"reached maximum engine limit \(2/2\)") as caught:
        await factory.create_for_user(new_context(alice))
    assert (caught.value.limit, caught.value.retry_after >= 1) == ("user", True)
    assert alice not in str(caught.value)
    engines.append(await factory.create_for_user(new_context(bob)))
    await engines[0].cleanup()
    engines.append(await factory.create_for_user(new_context(alice)))
    metrics = factory.get_factory_metrics()
    assert (metrics["engines_created"], metrics["engines_active"], metrics["engines_cleaned"]) == (4, 3, 1)
    assert (metrics["total_users"], metrics["concurrent_peak"], metrics["user_limit_rejections"]) == (2, 3, 1)
    for engine in engines:
        await factory.cleanup_engine(engine)
    assert nothing_left(factory, limiter)


async def test_the_process_may_have_a_limit_of_engines_too(new_factory, limiter, new_context):
    factory = new_factory(max_engines=1)
    engine = await factory.create_for_user(new_context())
    with pytest.raises(EngineLimitError, match="The service") as caught:
        await factory.create_for_user(new_context())
    assert caught.value.limit == "global"
    await engine.cleanup()
    assert nothing_left(factory, limiter)


async def test_waiting_for_a_slot_is_an_option(new_factory, limiter, new_context, alice):
    factory = new_factory(max_engines_per_user=1, at_limit="wait", wait_timeout=0.02)
    first = await factory.create_for_user(new_context(alice))
    with pytest.raises(EngineLimitError):
        await factory.create_for_user(new_context(alice))
    waiting = asyncio.create_task(factory.create_for_user(new_context(alice)))
    await turns()
    assert not waiting.done()
    await first.cleanup()
    await (await waiting).cleanup()
    assert nothing_left(factory, limiter)


@pytest.mark.parametrize("ticks", range(13))
@pytest.mark.parametrize("free_at", [None, 0, 3, 6])
async def test_a_wait_for_a_slot_cancelled_at_any_tick_leaves_nothing(
    new_factory, limiter, new_context, alice, ticks, free_at
):
    factory = new_factory(max_engines_per_user=1, at_limit="wait", wait_timeout=5)
    first = await factory.create_for_user(new_context(alice))

    async def use() -> None:
        async with factory.user_execution_scope(new_context(alice)):
            await turns(3)

    task = asyncio.create_task(use())
    for tick in range(ticks):
        if tick == free_at:
            await first.cleanup()
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await first.cleanup()
    assert nothing_left(factory, limiter)


async def test_a_slot_goes_back_whatever_fails_while_the_engine_is_made(new_factory, limiter, new_context, alice):
    class Broken(WebSocketBridgeFactory):
        error: BaseException = OSError("no bridge")

        async def create_user_emitter(self, *_: Any) -> Any:
            raise self.error

    bridge = Broken()
    factory = new_factory(websocket_bridge=bridge)
    for _ in range(5):
        with pytest.raises(ExecutionEngineFactoryError, match="Engine creation failed: no bridge"):
            await factory.create_for_user(new_context(alice))
    bridge.error = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await factory.create_for_user(new_context(alice))
    assert factory.get_factory_metrics()["creation_errors"] == 6
    assert factory.get_factory_metrics()["engines_created"] == 0
    assert nothing_left(factory, limiter)


async def test_a_slow_construction_keeps_its_slot_and_gives_it_back_when_cancelled(
    new_factory, limiter, new_context, alice
):
    class Slow(WebSocketBridgeFactory):
        async def create_user_emitter(self, *_: Any) -> Any:
            await asyncio.sleep(60)

    factory = new_factory(websocket_bridge=Slow())
    tasks = [asyncio.create_task(factory.create_for_user(new_context(alice))) for _ in range(3)]
    await turns()
    # Reserved before construction: the third is refused while two are being made.
    assert isinstance(tasks[2].exception(), EngineLimitError)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert nothing_left(factory, limiter)


async def test_only_contexts_without_a_violation_get_an_engine(factory, limiter, new_context):
    with pytest.raises(
        ExecutionEngineFactoryError, match=r"Invalid user context: Expected UserExecutionContext, got: dict"
    ):
        await factory.create_for_user({"user_id": "x"})
    one, two = new_context(), new_context()
    one.agent_context["rows"] = two.agent_context["rows"] = [1]
    await (await factory.create_for_user(one)).cleanup()
    with pytest.raises(ContextIsolationError):
        await factory.create_for_user(two)
    one.agent_context.clear()
    assert nothing_left(factory, limiter)


async def test_children_share_the_engine_above_them_at_any_depth(factory, limiter, context):
    async with factory.user_execution_scope(context) as engine:
        child = context.create_child_context("op")
        grandchild = child.create_child_context("op").create_child_context("op")
        for below in (child, grandchild):
            async with factory.user_execution_scope(below) as shared:
                assert shared is engine
            assert engine.is_active()
        assert factory.get_factory_metrics()["engines_created"] == 1
    assert nothing_left(factory, limiter)


async def test_engines_are_made_by_the_factory(factory, context):
    with pytest.raises(TypeError, match="create_for_user"):
        UserExecutionEngine(context, AgentInstanceFactory(), context.get_websocket_emitter())


@pytest.mark.parametrize(
    "options",
    [{"at_limit": "evict"}, {"engine_timeout_seconds": 0}, {"cleanup_interval": -1}, {"max_engines_per_user": 0}],
)
def test_wrong_settings_of_the_factory_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        ExecutionEngineFactory(**options)


async def test_a_context_that_ended_gets_no_engine(factory, limiter, context):
    """Its engine could run nothing, and would hold a slot and a stream that nobody ends."""
    await context.cleanup()
    with pytest.raises((ExecutionEngineFactoryError, isolane.ContextStateError)):
        await factory.create_for_user(context)
    assert user_streams(context.user_id) == []
    assert nothing_left(factory, limiter)


async def test_the_end_of_one_engine_does_not_end_the_stream_of_another_of_the_same_run(factory, limiter, context):
    """Either a run has one engine, or its stream lives as long as the last of them."""
    first = await factory.create_for_user(context)
    try:
        second = await factory.create_for_user(context)
    except ExecutionEngineFactoryError:
        pass
    else:
        if second is not first:
            await first.cleanup()
            assert (await second.execute_agent("data")).success
            await second.cleanup()
    await first.cleanup()
    assert nothing_left(factory, limiter)


async def test_a_second_engine_of_a_run_works_or_is_refused_when_it_is_made(factory, limiter, context):
    """Not in the middle of a step, by an error about events."""
    async with factory.user_execution_scope(context) as engine:
        assert (await engine.execute_agent("data")).success
    try:
        engine = await factory.create_for_user(context)
    except ExecutionEngineFactoryError as error:
        assert "context" in str(error)  # noqa: PT017 - either answer is right
    else:
        assert (await engine.execute_agent("data")).success
        await engine.cleanup()
    assert nothing_left(factory, limiter)


# -- one execution -----------------------------------------------------------------------------------------------------


async def test_a_pipeline_passes_results_on_and_emits_one_span_a_step(factory, limiter, context, read_plain):
    async with factory.user_execution_scope(context) as engine:
        result = await engine.execute_agent_pipeline(["data", "optimization", Report], request={"q": 1})
        assert (result.success, result.result, result.error) == (True, "3 rows, 6", None)
        assert dict(result.results) == {"data": {"rows": 3}, "optimization": 6, "report": "3 rows, 6"}
        assert (result.run_id, result.agent_name, result.execution_time > 0) == (context.run_id, "report", True)
        assert engine.get_user_context() is context
        stats = engine.get_user_execution_stats()
        assert (stats["total_executions"], stats["failed_executions"], stats["concurrent_executions"]) == (3, 0, 0)
        assert context.execution_metrics.agent_type_counts == {"data": 1, "optimization": 1, "report": 1}
    messages = read_plain(context.user_id, context.run_id)
    assert [message["type"] for message in messages] == [
        "agent_started",
        "agent_thinking",
        "tool_executing",
        "tool_completed",
        "agent_completed",
        "agent_started",
        "agent_completed",
        "agent_started",
        "agent_completed",
    ]
    spans = {message["request_id"] for message in messages}
    assert len(spans) == 3
    assert {message["parent_request_id"] for message in messages} == {context.request_id}
    assert outcome(context) == "completed"
    assert nothing_left(factory, limiter)


async def test_a_step_gets_the_results_that_it_requires_and_no_others(factory, context):
    seen = []

    class Look(BaseAgent):
        requires = ("optimization",)

        async def execute_with_context(self, context: UserExecutionContext, request: Any, results: Any) -> Any:
            seen.append(dict(results))

    class Free(BaseAgent):
        async def execute_with_context(self, context: UserExecutionContext, request: Any, results: Any) -> Any:
            seen.append(dict(results))

    async with factory.user_execution_scope(context) as engine:
        assert (await engine.execute_agent_pipeline(["data", "optimization", Look, Free])).success
    assert seen == [{"optimization": 6}, {}]


@pytest.mark.parametrize(
    ("pipeline", "error", "why"),
    [
        (["optimization", "data"], PipelineOrderError, "run them in the order: data, optimization"),
        (["data", "report"], PipelineOrderError, "'optimization'"),
        (["report"], PipelineOrderError, "data, optimization, report"),
        (["data", "nobody"], UnknownAgentError, "registered are: data, fail"),
        ([], ValueError, "at least one agent"),
        ([Data()], TypeError, "an instance cannot be run"),
    ],
)
async def test_a_wrong_pipeline_is_refused_before_anything_runs(factory, context, pipeline, error, why):
    async with factory.user_execution_scope(context) as engine:
        for run in (engine.execute_agent_pipeline, engine.start_agent_pipeline):
            with pytest.raises(error, match=why):
                await run(pipeline)
        assert engine.get_user_execution_stats()["total_executions"] == 0
        assert engine.websocket_emitter.get_event_stats()["stream_head"] == 0


async def test_the_failure_of_a_step_is_the_result_and_stops_the_pipeline(factory, limiter, context, read_plain):
    async with factory.user_execution_scope(context) as engine:
        result = await engine.execute_agent_pipeline(["data", "fail", "optimization"])
        assert (result.success, result.result, result.agent_name) == (False, None, "fail")
        assert isinstance(result.error, KeyError)
        assert dict(result.results) == {"data": {"rows": 3}}
        assert engine.get_user_execution_stats()["failed_executions"] == 1
        assert context.run_history[-1].error is result.error
    messages = read_plain(context.user_id, context.run_id)
    # The tool that the agent left open is closed before the span ends.
    assert [message["type"] for message in messages[-3:]] == ["tool_executing", "tool_completed", "agent_error"]
    assert messages[-1]["payload"]["error_type"] == "KeyError"
    assert outcome(context) == "partial"
    assert nothing_left(factory, limiter)


async def test_an_agent_that_takes_too_long_fails_with_a_time_out_that_names_the_remedy(
    factory, limiter, context, read_plain
):
    async with factory.user_execution_scope(context) as engine:
        result = await engine.execute_agent("slow")
        assert isinstance(result.error, TimeoutError)
        assert "raise its timeout_seconds" in str(result.error)
        assert engine.get_user_execution_stats()["timeout_executions"] == 1
    assert [message["type"] for message in read_plain(context.user_id, context.run_id)] == [
        "agent_started",
        "agent_error",
    ]
    assert nothing_left(factory, limiter)


async def test_a_time_out_of_the_agents_own_is_its_failure_and_not_the_engines(factory, context):
    class Own(BaseAgent):
        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            raise TimeoutError("of a database")

    async with factory.user_execution_scope(context) as engine:
        result = await engine.execute_agent(Own)
        assert str(result.error) == "of a database"
        assert engine.get_user_execution_stats()["timeout_executions"] == 0


async def test_a_result_that_cannot_be_sent_still_ends_its_span(factory, context, read_plain):
    class Odd(BaseAgent):
        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            return object() if request == "object" else "x" * 100_000

    async with factory.user_execution_scope(context) as engine:
        for request in ("object", "long"):
            result = await engine.execute_agent(Odd, request)
            assert result.success
            assert result.result is not None
    ends = [
        message["payload"]
        for message in read_plain(context.user_id, context.run_id)
        if message["type"] == "agent_completed"
    ]
    assert [payload["result"] for payload in ends] == [None, None]
    assert all(payload["result_omitted"] for payload in ends)


async def test_an_error_whose_text_is_too_long_still_ends_its_span(factory, limiter, context, read_plain):
    class Long(BaseAgent):
        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            raise ValueError("x" * 100_000)

    async with factory.user_execution_scope(context) as engine:
        result = await engine.execute_agent(Long)
        assert isinstance(result.error, ValueError)
        assert "x" * 1_000 in str(result.error)
    assert [message["type"] for message in read_plain(context.user_id, context.run_id)] == [
        "agent_started",
        "agent_error",
    ]
    assert outcome(context) == "failed"
    assert nothing_left(factory, limiter)


async def test_each_execution_has_an_instance_and_a_context_of_its_own(factory, context):
    seen = []

    class Look(BaseAgent):
        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            seen.append((self, context))

    async with factory.user_execution_scope(context) as engine:
        await asyncio.gather(*(engine.execute_agent(Look) for _ in range(3)))
    agents, contexts = zip(*seen, strict=True)
    assert len(set(map(id, agents))) == 3
    assert len({ctx.request_id for ctx in contexts}) == 3
    assert {ctx.parent_request_id for ctx in contexts} == {context.request_id}
    assert {ctx.status.value for ctx in contexts} == {"cleaned"}


async def test_an_agent_may_run_others_through_its_engine_under_its_own_permit(new_factory, context):
    limiter = FairLimiter(1, 1)
    factory = new_factory(limiter=limiter)
    engines = []

    class Outer(BaseAgent):
        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            async with factory.user_execution_scope(context) as engine:
                engines.append(engine)
                inner = [engine.execute_agent("data") for _ in range(2)]
                return [result.result for result in await asyncio.gather(*inner)]

    async with factory.user_execution_scope(context) as engine:
        result = await asyncio.wait_for(engine.execute_agent(Outer), 5)
        assert result.error is None
        assert result.result == [{"rows": 3}] * 2
        assert engines == [engine]
    assert nothing_left(factory, limiter)


async def test_the_older_forms_of_a_call_work(factory, context, bob):
    class Execution:
        agent_name = "data"

        def __init__(self, user_id: str) -> None:
            self.user_id = user_id

    async with factory.user_execution_scope(context) as engine:
        assert (await engine.execute_agent(Execution(context.user_id), {"q": 1})).success
        assert (await engine.execute_agent_pipeline("data", None, {"q": 1})).success
        with pytest.raises(ContextIsolationError) as caught:
            await engine.execute_agent(Execution(bob))
        assert bob not in str(caught.value)


async def test_a_single_agent_can_be_given_the_results_it_requires(factory, context):
    async with factory.user_execution_scope(context) as engine:
        assert (await engine.execute_agent("optimization", results={"data": {"rows": 4}})).result == 8
        with pytest.raises(PipelineOrderError):
            await engine.execute_agent("optimization")


def test_a_registry_holds_classes_and_never_instances():
    registry = AgentRegistry()
    assert registry.register(Data) is Data
    registry.register(Data)
    with pytest.raises(TypeError, match="would be shared between users"):
        registry.register(Data())
    with pytest.raises(ValueError, match="another class"):
        registry.register(type("Other", (Data,), {"name": "data"}))
    with pytest.raises(UnknownAgentError, match="registered are: data"):
        registry.get("nobody")
    assert (registry.names(), len(registry), "data" in registry) == (["data"], 1, True)


@pytest.mark.parametrize("name", ["timeout_seconds", "loop_seconds"])
@pytest.mark.parametrize("seconds", [0, -1.5, float("nan"), "30", True])
def test_an_agent_that_could_not_end_well_is_refused_when_it_is_registered(name, seconds):
    registry = AgentRegistry()
    agent = type("Hasty", (Data,), {"name": "hasty", name: seconds})
    with pytest.raises(
        ValueError, match=rf"{name} of agent 'hasty' must be more than 0 seconds, got {seconds!r}; leave"
    ):
        registry.register(agent)
    assert len(registry) == 0
    registry.register(type("Patient", (Data,), {"name": "patient", name: 1}))


# -- permits of steps --------------------------------------------------------------------------------------------------


async def test_the_first_permit_must_be_had_and_a_later_one_is_waited_for(new_factory, new_context, alice, monkeypatch):
    monkeypatch.setattr("isolane.engines.engine.ADMISSION_SECONDS", 0.02)
    limiter = FairLimiter(1, 1)
    factory = new_factory(limiter=limiter)
    async with factory.user_execution_scope(new_context(alice)) as engine:
        with limiter.slot_nowait(alice), pytest.raises(LimitTimeout):
            await engine.execute_agent("data")
        assert engine.context.status.value == "active"
        assert (await engine.execute_agent("data")).success
        held = limiter.slot_nowait(alice)
        waiting = asyncio.create_task(engine.execute_agent("data"))
        await asyncio.sleep(0.06)
        # Longer than an admission may take, and visible.
        assert engine.context.status.value == "throttled"
        held.release()
        assert (await waiting).success
    assert nothing_left(factory, limiter)


async def test_a_factory_says_how_long_a_run_may_wait_for_its_first_permit(
    new_factory, new_context, alice, monkeypatch
):
    monkeypatch.setattr("isolane.engines.engine.ADMISSION_SECONDS", 0.0)
    limiter = FairLimiter(1, 1)
    patient, hasty = new_factory(limiter=limiter, admission_timeout=30), new_factory(limiter=limiter)
    held = limiter.slot_nowait(alice)
    async with hasty.user_execution_scope(new_context(alice)) as engine:
        with pytest.raises(LimitTimeout):
            await engine.execute_agent("data")
    async with patient.user_execution_scope(new_context(alice)) as engine:
        waiting = asyncio.create_task(engine.execute_agent("data"))
        await until(lambda: engine.context.status.value == "throttled")
        held.release()
        assert (await waiting).success
    with pytest.raises(ValueError, match="admission_timeout must be 0 or more seconds"):
        new_factory(admission_timeout=-1)
    assert nothing_left(patient, limiter)


async def test_between_its_steps_a_run_holds_no_permit(new_factory, new_context):
    limiter = FairLimiter(1, 1)
    factory = new_factory(limiter=limiter)
    contexts = [new_context() for _ in range(3)]

    async def use(ctx: UserExecutionContext) -> bool:
        async with factory.user_execution_scope(ctx) as engine:
            return (await engine.execute_agent_pipeline(["data", "optimization", "report"])).success

    assert await asyncio.gather(*(use(ctx) for ctx in contexts)) == [True] * 3
    assert limiter.stats()["peak"] == 1
    assert nothing_left(factory, limiter)


# -- cancellation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", range(13))
@pytest.mark.parametrize("busy", [False, True])
async def test_an_execution_cancelled_at_any_tick_leaves_nothing_and_ends_its_span(
    new_factory, context, read_plain, ticks, busy
):
    limiter = FairLimiter(1, 1)
    factory = new_factory(limiter=limiter)
    held = limiter.slot_nowait(context.user_id) if busy else None
    async with factory.user_execution_scope(context) as engine:
        task = asyncio.create_task(engine.execute_agent_pipeline(["data", "optimization"]))
        for tick in range(ticks):
            await asyncio.sleep(0)
            if tick == 4 and held:
                held.release()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if held:
            held.release()
        assert context.active_runs == {}
        assert context.status.value == "active"
        assert limiter.stats()["running"] == 0
        messages = read_plain(context.user_id, context.run_id)
        started = [message["request_id"] for message in messages if message["type"] == "agent_started"]
        ended = [message["request_id"] for message in messages if message["type"] in {"agent_completed", "agent_error"}]
        assert sorted(started) == sorted(ended)
        tools = [message["type"] for message in messages if message["type"].startswith("tool")]
        assert tools.count("tool_executing") == tools.count("tool_completed")
    assert nothing_left(factory, limiter)


async def test_cancel_ends_what_runs_and_the_stream_says_so(factory, limiter, context, read_plain):
    async with factory.user_execution_scope(context) as engine:
        task = asyncio.create_task(engine.execute_agent("wait"))
        await turns()
        assert context.status.value == "executing"
        engine.cancel("the user pressed stop")
        with pytest.raises(asyncio.CancelledError):
            await task
    messages = read_plain(context.user_id, context.run_id)
    assert [message["type"] for message in messages] == ["agent_started", "agent_error"]
    assert messages[-1]["payload"]["error_message"] == "the user pressed stop"
    assert outcome(context) == "cancelled"
    assert nothing_left(factory, limiter)


async def test_a_run_whose_task_is_cancelled_ends_as_cancelled(factory, limiter, context):
    """As when the server cancels the handler of a client that went away."""

    async def handler() -> None:
        async with factory.user_execution_scope(context) as engine:
            await engine.execute_agent("wait")

    task = asyncio.create_task(handler())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcome(context) == "cancelled"
    assert nothing_left(factory, limiter)


async def test_a_scope_that_raises_ends_its_engine(factory, limiter, context):
    with pytest.raises(ZeroDivisionError):
        async with factory.user_execution_scope(context) as engine:
            1 / 0  # noqa: B018 - raises on purpose
    assert not engine.is_active()
    assert nothing_left(factory, limiter)


# -- ending ------------------------------------------------------------------------------------------------------------


async def test_clean_up_is_idempotent_and_an_ended_engine_runs_nothing(factory, limiter, context):
    engine = await factory.create_for_user(context)
    await asyncio.gather(engine.cleanup(), factory.cleanup_engine(engine), engine.cleanup())
    await engine.cleanup()
    await factory.cleanup_engine(None)
    assert not engine.is_active()
    with pytest.raises(EngineClosedError, match="create_for_user"):
        await engine.execute_agent("data")
    with pytest.raises(EngineClosedError):
        engine.start_agent_pipeline("data")
    assert factory.get_factory_metrics()["engines_cleaned"] == 1
    assert nothing_left(factory, limiter)


async def test_clean_up_cancels_what_runs(factory, limiter, context):
    engine = await factory.create_for_user(context)
    task = asyncio.create_task(engine.execute_agent("wait"))
    await turns()
    assert Wait.running == 1
    await engine.cleanup()
    assert Wait.running == 0
    assert task.cancelled()
    assert outcome(context) == "cancelled"
    assert nothing_left(factory, limiter)


async def test_the_slot_is_free_before_a_clean_up_that_takes_long(new_factory, limiter, new_context, alice):
    """Failure 21: an engine whose clean-up fails counted against the limit for ever."""
    factory = new_factory(max_engines_per_user=1, grace=5)
    engine = await factory.create_for_user(new_context(alice))
    Stubborn.release = asyncio.Event()
    task = asyncio.create_task(engine.execute_agent("stubborn"))
    await turns()
    ending = asyncio.create_task(engine.cleanup())
    await turns()
    assert not ending.done()
    second = await factory.create_for_user(new_context(alice))
    Stubborn.release.set()
    await ending
    await task
    await second.cleanup()
    assert nothing_left(factory, limiter)


async def test_a_clean_up_that_fails_frees_everything_and_is_counted(
    new_factory, limiter, new_context, alice, monkeypatch, caplog
):
    factory = new_factory(max_engines_per_user=1)

    async def fail(*_: Any) -> bool:
        raise OSError("no clean-up")

    for _ in range(3):
        engine = await factory.create_for_user(new_context(alice))
        monkeypatch.setattr(engine, "_close", fail)
        with caplog.at_level(logging.CRITICAL, "isolane.engines"):
            await engine.cleanup()
    assert factory.get_factory_metrics()["cleanup_errors"] == 3
    assert nothing_left(factory, limiter)


async def test_all_engines_of_a_user_can_be_ended(factory, limiter, new_context, alice, bob):
    for user in (alice, alice, bob):
        await factory.create_for_user(new_context(user))
    assert await factory.cleanup_user_context(alice) is True
    assert await factory.cleanup_user_context(alice) is False
    assert [view["user_id"] for view in factory.get_active_engines_summary()] == [bob]
    await factory.cleanup_user_context(bob)
    assert nothing_left(factory, limiter)


async def test_a_run_in_the_background_ends_its_engine_and_its_detached_context(factory, limiter, context):
    closed = []
    context.register_cleanup_callback(lambda: closed.append(1))
    engine = await factory.create_for_user(context.detach())
    task = engine.start_agent_pipeline(["data", "optimization"])
    with pytest.raises(RuntimeError, match="in the background already"):
        engine.start_agent_pipeline("data")
    assert (await task).result == 6
    assert closed == [1]
    assert context.status.value == "cleaned"
    assert nothing_left(factory, limiter)


async def test_a_run_in_the_background_leaves_a_context_that_is_not_detached(factory, limiter, context):
    engine = await factory.create_for_user(context)
    await engine.start_agent_pipeline("data")
    assert not engine.is_active()
    assert context.status.value == "active"
    assert nothing_left(factory, limiter)


@pytest.mark.parametrize("ticks", range(8))
async def test_a_background_run_cancelled_at_any_tick_leaves_nothing(factory, limiter, context, ticks):
    engine = await factory.create_for_user(context.detach())
    task = engine.start_agent_pipeline(["data", "optimization"])
    await turns(ticks)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await turns()
    if engine.is_active():
        # Cancelled before its first step, the task never began: the engine is its factory's to end.
        await engine.cleanup()
    assert context.status.value == "cleaned"
    assert nothing_left(factory, limiter)


async def test_a_background_run_cancelled_before_it_began_ends_its_engine_all_the_same(factory, limiter, context):
    engine = await factory.create_for_user(context.detach())
    task = engine.start_agent_pipeline("data")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await turns()
    assert not engine.is_active()
    assert nothing_left(factory, limiter)


# -- lifetime ----------------------------------------------------------------------------------------------------------


async def test_an_engine_ends_at_its_deadline(new_factory, limiter, context, read_plain):
    factory = new_factory(engine_timeout_seconds=0.05)
    engine = await factory.create_for_user(context)
    task = asyncio.create_task(engine.execute_agent("wait"))
    await turns()
    assert 0 < engine.seconds_left <= 0.05
    with pytest.raises(RunExpiredError):
        await asyncio.wait_for(task, 2)
    await asyncio.sleep(0.01)
    assert not engine.is_active()
    assert factory.get_factory_metrics()["engines_expired"] == 1
    last = read_plain(context.user_id, context.run_id)[-1]
    assert last["type"] == "agent_error"
    assert "took longer than" in last["payload"]["error_message"]
    assert nothing_left(factory, limiter)


async def test_the_earliest_deadline_is_met_first_and_the_others_follow(new_factory, limiter, new_context):
    factory = new_factory(engine_timeout_seconds=0.6)
    first = await factory.create_for_user(new_context())
    await asyncio.sleep(0.3)
    second = await factory.create_for_user(new_context())
    await asyncio.sleep(0.45)
    assert (first.is_active(), second.is_active()) == (False, True)
    await asyncio.sleep(0.4)
    assert not second.is_active()
    assert nothing_left(factory, limiter)


async def test_an_agent_that_ignores_the_end_is_left_behind_without_slot_and_permit(
    new_factory, limiter, context, read_plain, caplog
):
    factory = new_factory(engine_timeout_seconds=0.05, grace=0.05)
    engine = await factory.create_for_user(context)
    Stubborn.release = asyncio.Event()
    task = asyncio.create_task(engine.execute_agent("stubborn"))
    try:
        await until(lambda: factory.get_factory_metrics()["engines_forced"] == 1)
        assert not engine.is_active()
        assert not task.done()
        assert outcome(context) == "cancelled"
        before = len(read_plain(context.user_id, context.run_id))
        assert nothing_left(factory, limiter)
    finally:
        Stubborn.release.set()
        await asyncio.gather(task, return_exceptions=True)
    # What it publishes afterwards is refused, and what it gives back is not given back twice.
    assert len(read_plain(context.user_id, context.run_id)) == before
    assert nothing_left(factory, limiter)
    assert "by force" in caplog.text


async def test_the_audit_sweep_finds_what_the_deadlines_missed(new_factory, limiter, context):
    with manual_clock() as clock:
        factory = new_factory(cleanup_interval=0.03)
        engine = await factory.create_for_user(context)
        # The timer of the deadline runs by the loop's clock, so it misses what the core's clock says.
        clock.advance(299)
        await asyncio.sleep(0.05)
        assert engine.is_active()
        clock.advance(10)
        await until(lambda: not engine.is_active())
        assert factory.get_factory_metrics()["found_by_audit"] == 1
        assert nothing_left(factory, limiter)


async def test_the_summary_shows_ages_and_what_is_left(factory, context):
    with manual_clock() as clock:
        engine = await factory.create_for_user(context)
        clock.advance(7)
        (view,) = factory.get_active_engines_summary()
        assert (view["user_id"], view["run_id"], view["active_runs"], view["status"]) == (
            context.user_id,
            context.run_id,
            0,
            "active",
        )
        assert view["age_seconds"] == pytest.approx(7)
        assert view["seconds_left"] == pytest.approx(293)
        await engine.cleanup()


async def test_a_factory_that_nobody_holds_is_collected_with_its_timers(new_factory, context):
    import weakref  # noqa: PLC0415 - only here

    factory = new_factory()
    engine = await factory.create_for_user(context)
    await engine.cleanup()
    held = weakref.ref(factory)
    del factory, engine
    gc.collect()
    assert held() is None


# -- shutdown ----------------------------------------------------------------------------------------------------------


async def test_shutdown_waits_for_what_runs_and_refuses_what_is_new(factory, limiter, new_context, alice):
    Wait.gates[alice] = asyncio.Event()
    engine = await factory.create_for_user(new_context(alice).detach())
    task = engine.start_agent_pipeline("wait")
    await turns()
    closing = asyncio.create_task(factory.shutdown(drain=5))
    await turns()
    with pytest.raises(ExecutionEngineFactoryError, match="shutting down") as caught:
        await factory.create_for_user(new_context())
    assert caught.value.retry_after >= 1
    assert not closing.done()
    Wait.gates[alice].set()
    await asyncio.wait_for(closing, 2)
    assert (await task).result == "waited"
    assert nothing_left(factory, limiter)


async def test_shutdown_cancels_what_does_not_end_in_time(factory, limiter, new_context, bob):
    ctx = new_context(bob)
    engine = await factory.create_for_user(ctx)
    task = asyncio.create_task(engine.execute_agent("wait"))
    idle = await factory.create_for_user(new_context())
    await turns()
    await asyncio.wait_for(factory.shutdown(drain=0.02), 2)
    assert task.cancelled()
    assert not idle.is_active()
    assert outcome(ctx) == "cancelled"
    await asyncio.wait_for(factory.shutdown(drain=0.02), 2)
    assert nothing_left(factory, limiter)


async def test_who_waits_for_a_slot_gets_none_from_a_shutdown(new_factory, limiter, new_context, alice):
    factory = new_factory(max_engines_per_user=1, at_limit="wait", wait_timeout=5)
    await factory.create_for_user(new_context(alice))
    waiting = asyncio.create_task(factory.create_for_user(new_context(alice)))
    await turns()
    await asyncio.wait_for(factory.shutdown(drain=0.02), 2)
    with pytest.raises(ExecutionEngineFactoryError):
        await asyncio.wait_for(waiting, 1)
    assert nothing_left(factory, limiter)


# -- many users --------------------------------------------------------------------------------------------------------


async def test_many_users_at_once_see_only_their_own(new_factory, new_context, new_user, read_plain):
    factory = new_factory(limiter=FairLimiter(10, 5), at_limit="wait", wait_timeout=30)

    class Echo(BaseAgent):
        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            context.agent_context["mine"] = request
            await context.get_websocket_emitter().notify_agent_thinking(f"{request}")
            await turns(2)
            assert context.agent_context["mine"] == request
            return request

    async def use(user: str) -> None:
        ctx = new_context(user)
        async with factory.user_execution_scope(ctx) as engine:
            result = await engine.execute_agent_pipeline([Echo], request=f"nonce of {user}")
            assert result.result == f"nonce of {user}"
        for message in read_plain(user, ctx.run_id):
            assert message["payload"].get("reasoning", f"nonce of {user}") == f"nonce of {user}"

    users = [new_user(f"u{at}") for at in range(20)]
    await asyncio.gather(*(use(user) for user in users for _ in range(3)))
    assert factory.get_factory_metrics()["engines_created"] == 60
    assert nothing_left(factory, factory.limiter)


def test_engines_in_two_threads_with_loops_of_their_own(new_factory, limiter, new_context):
    factories = [new_factory() for _ in range(2)]
    done = []

    async def main(factory: ExecutionEngineFactory) -> None:
        for _ in range(20):
            async with factory.user_execution_scope(new_context()) as engine:
                done.append((await engine.execute_agent("data")).success)

    threads = [threading.Thread(target=asyncio.run, args=(main(factory),)) for factory in factories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done == [True] * 40
    assert all(nothing_left(factory, limiter) for factory in factories)


async def test_a_user_that_only_its_own_policy_allows_runs_to_the_end(factory, limiter, read_plain):
    """Failure 3: ids that were valid in one layer were refused in the next."""
    policy = isolane.ContextPolicy(placeholders=isolane.PlaceholderPolicy(allow=["default_admin"]))
    ctx = UserExecutionContext("default_admin", "thread-7", "run-of-default-admin", policy=policy)
    async with factory.user_execution_scope(ctx) as engine:
        assert (await engine.execute_agent("data")).success
    async with ctx.acquire_execution_lock():
        pass
    assert nothing_left(factory, limiter)


async def test_a_run_that_gets_no_permit_says_so_in_its_stream(new_factory, context, read_plain, monkeypatch):
    """Whoever only watches would otherwise wait for ever."""
    monkeypatch.setattr("isolane.engines.engine.ADMISSION_SECONDS", 0.05)
    limiter = FairLimiter(1, 1)
    factory = new_factory(limiter=limiter)
    held = await limiter.acquire("somebody-else")
    engine = await factory.create_for_user(context)
    with pytest.raises(LimitTimeout):
        await engine.start_agent_pipeline(["data"])
    held.release()
    messages = read_plain(context.user_id, context.run_id)
    assert [message["type"] for message in messages] == ["agent_started", "agent_error"]
    assert messages[1]["payload"]["retriable"] is True
    assert outcome(context) == "failed"


@pytest.mark.parametrize(("works", "end"), [(False, "failed"), (True, "partial_failure")])
async def test_a_step_that_gets_no_permit_is_a_failed_run_of_its_context(new_factory, context, works, end):
    """The state follows from the runs: without a record of it, a run of which nothing ran would have completed."""
    limiter = FairLimiter(1, 1)
    factory = new_factory(limiter=limiter, admission_timeout=0.02)
    states = []
    context.register_cleanup_callback(lambda: states.append(context.status.value))
    async with factory.user_execution_scope(context) as engine:
        held = limiter.slot_nowait("somebody-else")
        waiting = asyncio.create_task(engine.execute_agent("data"))
        await until(lambda: context.status.value == "throttled")
        with pytest.raises(LimitTimeout):
            await waiting
        # The engine lives and may run more.
        assert context.status.value == "active"
        (failed,) = context.run_history
        assert (failed.agent_type, context.execution_metrics.failed_runs, context.active_runs) == ("data", 1, {})
        held.release()
        if works:
            assert (await engine.execute_agent("data")).success
    await context.cleanup()
    assert states == [end]
    assert nothing_left(factory, limiter)


async def test_a_callback_that_awaits_a_task_it_has_cancelled_cancels_nobody_else(context):
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    ran = []

    async def stop() -> None:
        task.cancel()
        await task

    context.register_cleanup_callback(lambda: ran.append("last"))
    context.register_cleanup_callback(stop)
    assert await context.cleanup() == ()
    assert ran == ["last"]
    assert context.status.value == "cleaned"


async def test_an_agent_holds_the_resources_that_its_class_names(new_context, alice, bob):
    running: list[int] = []

    class CallsTheModel(BaseAgent):
        name = "calls-the-model"
        resources = ("llm",)

        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> None:
            running.append(limiter.stats()["resources"]["llm"]["running"])
            await asyncio.sleep(0)

    registry = AgentRegistry()
    registry.register(CallsTheModel)
    limiter = FairLimiter(resources={"llm": 1})
    factory = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry), limiter=limiter)
    engines = [await factory.create_for_user(new_context(user)) for user in (alice, bob)]
    results = await asyncio.gather(*(engine.execute_agent("calls-the-model") for engine in engines))
    assert all(result.success for result in results)
    assert running == [1, 1], "one after the other"
    assert limiter.stats()["resources"]["llm"] == {"limit": 1, "running": 0, "peak": 1, "granted": 2}
    await factory.shutdown(0)
