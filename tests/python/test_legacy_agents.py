"""Agents of an older service, written as it writes them, run on contexts of their users by engines and by hand."""

import asyncio
import gc
import inspect
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, ClassVar

import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ContextIsolationError,
    ExecutionEngineFactory,
    FairLimiter,
    PermissionEngine,
    RunCancelledError,
    UnifiedToolDispatcherFactory,
    UserExecutionContext,
)
from isolane._core import user_streams
from isolane.agents.execution import current_step
from isolane.migration.agents import (
    ContextRequiredError,
    EntryConditionsError,
    FrozenLegacyState,
    LegacyIdentityError,
)
from isolane.migration.agents.shim import LegacyAgentShim
from isolane.migration.agents.state import LegacyState
from isolane.migration.deprecation import RemovedInV2Warning
from isolane.migration.legacy import get_websocket_manager

from tests.support.legacy_states import DeepAgentState, aliases

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")

# -- agents of the older service, run by engines -----------------------------------------------------------------------


class TriageSubAgent:
    """As the older service writes them: nothing of isolane, a mutated state, entry conditions, a clean-up."""

    cleaned: ClassVar[list[str]] = []

    def __init__(self, tool_dispatcher: Any = None) -> None:
        self.tool_dispatcher = tool_dispatcher

    async def check_entry_conditions(self, state: DeepAgentState, run_id: str) -> bool:
        return bool(state.user_request)

    async def execute(self, state: DeepAgentState, run_id: str, stream_updates: bool) -> DeepAgentState:
        assert state.run_id == run_id
        assert stream_updates is True
        state.triage_result = {"category": state.user_request.upper()}
        state.messages.append({"from": "triage", "user": state.user_id})
        await asyncio.sleep(0)
        state.step_count += 1
        return state

    async def cleanup(self, state: DeepAgentState, run_id: str) -> None:
        self.cleaned.append(run_id)


class DataSubAgent(BaseAgent):
    """As the older service writes those that derive from its base class: a constructor, and nothing returned."""

    name = "data"

    def __init__(self, tool_dispatcher: Any) -> None:
        super().__init__()
        self.tool_dispatcher = tool_dispatcher

    async def execute(self, state: DeepAgentState, run_id: str, stream_updates: bool) -> None:
        rows = await self.tool_dispatcher.execute_tool("rows_of", {"what": state.triage_result["category"]})
        state.data_result = rows
        state.messages.append({"from": "data", "user": state.user_id})


class Report(BaseAgent):
    """A modern one."""

    name = "report"
    requires = ("triage", "data")

    async def execute_with_context(self, context: UserExecutionContext, request: Any, results: Any) -> Any:
        emitter = context.get_websocket_emitter()
        await emitter.notify_agent_thinking("writing")
        return {"rows": results["data"].data_result, "category": results["triage"].triage_result["category"]}


def rows_of(what: str, context: UserExecutionContext) -> list[str]:
    return [f"{what} of {context.user_id}"]


TOOLS = UnifiedToolDispatcherFactory([rows_of], permissions=PermissionEngine.for_tools({"everyone": ["*"]}))


def engines_of(*agents: Any, **options: Any) -> ExecutionEngineFactory:
    registry = AgentRegistry()
    names = {TriageSubAgent: "triage"}
    for agent in agents:
        registry.register(agent, names.get(agent))
    services = options.pop("services", {})
    return ExecutionEngineFactory(
        agent_factory=AgentInstanceFactory(registry, services=services), tool_dispatcher_factory=TOOLS, **options
    )


@pytest.fixture
def kinds(read_plain):
    """Return a reader of a run: type and agent of each event, and how many ends each span has."""

    def read(context: UserExecutionContext) -> list[tuple[str, str]]:
        messages = read_plain(context.user_id, context.run_id)
        spans: dict[str, list[str]] = {}
        for message in messages:
            spans.setdefault(message["request_id"], []).append(message["type"])
        for span in spans.values():
            assert span[0] == "agent_started"
            ends = [kind for kind in span if kind in {"agent_completed", "agent_error"}]
            assert len(ends) == 1, span
            assert span[-1] == ends[0]
        return [(message["type"], message["agent_name"]) for message in messages]

    return read


def state_of(context: UserExecutionContext, **fields: Any) -> DeepAgentState:
    return DeepAgentState(user_id=context.user_id, chat_thread_id=context.thread_id, run_id=context.run_id, **fields)


class TestInEngines:
    async def test_two_users_at_once_in_pipelines_beside_modern_agents(self, new_context, kinds):
        factory = engines_of(TriageSubAgent, DataSubAgent, Report)

        async def run(request: str) -> tuple[UserExecutionContext, Any, DeepAgentState]:
            context = new_context()
            state = state_of(context, user_request=request)
            async with factory.user_execution_scope(context) as engine:
                return context, await engine.execute_agent_pipeline(["triage", "data", "report"], state), state

        runs = await asyncio.gather(*(run(f"request-{number}") for number in range(2)))
        for number, (context, outcome, given) in enumerate(runs):
            category = f"REQUEST-{number}"
            assert outcome.success, outcome.error
            assert outcome.result == {"rows": [f"{category} of {context.user_id}"], "category": category}
            assert [message["user"] for message in outcome.results["data"].messages] == [context.user_id] * 2
            # What triage left is not changed by who came after, and the caller's object by nobody.
            assert len(outcome.results["triage"].messages) == 1
            assert (given.messages, given.triage_result) == ([], None)
            assert kinds(context) == [
                ("agent_started", "triage"),
                ("agent_completed", "triage"),
                ("agent_started", "data"),
                ("tool_executing", "data"),
                ("tool_completed", "data"),
                ("agent_completed", "data"),
                ("agent_started", "report"),
                ("agent_thinking", "report"),
                ("agent_completed", "report"),
            ]
            assert TriageSubAgent.cleaned.count(context.run_id) == 1
        results = [outcome.results["data"] for _, outcome, _ in runs]
        assert aliases(vars(results[0]), vars(results[1])) == []

    async def test_the_older_signature_is_counted(self, new_context):
        factory = engines_of(TriageSubAgent)
        async with factory.user_execution_scope(new_context()) as engine:
            with pytest.warns(RemovedInV2Warning, match="ISO-D002") as told:
                assert (await engine.execute_agent("triage", "a text")).success
        assert "TriageSubAgent.execute" in str(told[0].message)

    async def test_a_request_that_is_no_state_becomes_one(self, new_context):
        factory = engines_of(TriageSubAgent)
        for request, text in (("a text", "a text"), ({"user_request": "in a dict", "n": [1]}, "in a dict")):
            async with factory.user_execution_scope(context := new_context()) as engine:
                result = (await engine.execute_agent("triage", request)).result
            assert isinstance(result, LegacyState)
            assert (result.user_id, result.run_id, result.thread_id) == (
                context.user_id,
                context.run_id,
                context.thread_id,
            )
            assert result.triage_result == {"category": text.upper()}
            assert result.agent_input == (None if isinstance(request, str) else request)
            assert result.agent_input is not request

    async def test_entry_conditions_that_are_not_met_end_the_span(self, new_context, kinds):
        factory = engines_of(TriageSubAgent)
        async with factory.user_execution_scope(context := new_context()) as engine:
            outcome = await engine.execute_agent("triage", state_of(context, user_request=""))
        assert isinstance(outcome.error, EntryConditionsError)
        assert outcome.error.agent_name == "TriageSubAgent"
        assert kinds(context) == [("agent_started", "triage"), ("agent_error", "triage")]

    async def test_a_state_of_another_user_is_refused(self, new_context, kinds):
        factory = engines_of(TriageSubAgent)
        other = state_of(new_context(), user_request="mine")
        async with factory.user_execution_scope(context := new_context()) as engine:
            outcome = await engine.execute_agent("triage", other)
        assert isinstance(outcome.error, ContextIsolationError)
        assert kinds(context)[-1] == ("agent_error", "triage")

    @pytest.mark.parametrize("field", ["user_id", "chat_thread_id", "run_id"])
    async def test_placeholders_and_other_runs_are_refused_and_what_is_left_out_is_the_contexts(
        self, new_context, field
    ):
        factory = engines_of(TriageSubAgent)
        wrong = ["default_run", "legacy_user"] + ([] if field == "user_id" else ["another-one-77"])
        for value in wrong:
            async with factory.user_execution_scope(context := new_context()) as engine:
                state = state_of(context, user_request="x").model_copy(update={field: value})
                outcome = await engine.execute_agent("triage", state)
            assert isinstance(outcome.error, LegacyIdentityError), value
        for value in (None, ""):
            async with factory.user_execution_scope(context := new_context()) as engine:
                state = state_of(context, user_request="x").model_copy(update={field: value})
                outcome = await engine.execute_agent("triage", state)
            assert state_of(context).model_dump(include={field}) == outcome.result.model_dump(include={field})

    async def test_a_state_that_an_agent_keeps_for_all_users_is_not_handed_on(self, new_context):
        class Keeps:
            name = "keeps"
            kept: Any = None

            async def execute(self, state: Any, run_id: str, stream_updates: bool) -> Any:
                if Keeps.kept is None:
                    Keeps.kept = state
                return Keeps.kept

        factory = engines_of(Keeps)
        outcomes = []
        for _ in range(2):
            async with factory.user_execution_scope(new_context()) as engine:
                outcomes.append(await engine.execute_agent("keeps", "text"))
        assert outcomes[0].success
        assert isinstance(outcomes[1].error, ContextIsolationError)

    async def test_an_exception_a_timeout_and_a_cancellation_end_the_span_once(self, new_context, kinds):
        class Raises:
            name = "raises"

            async def execute(self, state, run_id, stream_updates=False):
                raise KeyError("broken")

        class Slow:
            name = "slow"
            timeout_seconds = 0.01

            async def execute(self, state, run_id, stream_updates):
                await asyncio.sleep(60)

        class Waits:
            name = "waits"
            began: asyncio.Event
            ended: ClassVar[list[str]] = []

            async def execute(self, state, run_id, stream_updates):
                self.began.set()
                await asyncio.sleep(60)

            def cleanup(self, state, run_id):
                self.ended.append(run_id)

        factory = engines_of(Raises, Slow, Waits)
        for name, error in (("raises", KeyError), ("slow", TimeoutError)):
            async with factory.user_execution_scope(context := new_context()) as engine:
                outcome = await engine.execute_agent(name, "x")
            assert isinstance(outcome.error, error)
            assert kinds(context) == [("agent_started", name), ("agent_error", name)]
        Waits.began = asyncio.Event()
        context = new_context()
        engine = await factory.create_for_user(context)
        task = asyncio.create_task(engine.execute_agent("waits", "x"))
        await Waits.began.wait()
        task.cancel()
        with pytest.raises((asyncio.CancelledError, RunCancelledError)):
            await task
        await factory.cleanup_engine(engine)
        assert kinds(context) == [("agent_started", "waits"), ("agent_error", "waits")]
        assert Waits.ended == [context.run_id]
        assert [run.status.value for run in context.run_history] == ["failed"]
        assert user_streams(context.user_id)[0]["outcome"] == "cancelled"

    async def test_an_agent_that_tells_its_end_itself_has_one_end(self, new_context, kinds):
        class Tells(BaseAgent):
            name = "tells"

            async def execute_with_context(self, context, request):
                emitter = context.get_websocket_emitter()
                await emitter.notify_agent_completed(agent_name="tells", result="told")
                if request == "opens":
                    await emitter.notify_agent_started(agent_name="left open")
                if request == "raises":
                    raise ValueError("afterwards")
                return "returned"

        factory = engines_of(Tells)
        for request in ("ends", "raises", "opens"):
            async with factory.user_execution_scope(context := new_context()) as engine:
                outcome = await engine.execute_agent("tells", request)
            assert outcome.success is (request != "raises")
            assert kinds(context)[:2] == [("agent_started", "tells"), ("agent_completed", "tells")]

    async def test_a_class_is_made_for_each_execution_and_inside_of_it(self, new_context):
        made: list[Any] = []

        class Fetches:
            name = "fetches"

            def __init__(self):
                self.owner = current_step().user_id
                made.append(self)

            def execute(self, state, run_id):
                return [self.owner, state.user_id]

        factory = engines_of(Fetches)
        for _ in range(2):
            async with factory.user_execution_scope(context := new_context()) as engine:
                assert (await engine.execute_agent(Fetches)).result == [context.user_id] * 2
        assert made[0] is not made[1]

    async def test_constructors_get_services_by_name(self, new_context):
        class Wants:
            def __init__(self, llm_manager, tool_dispatcher, user_context, redis_manager=None, **rest):
                self.got = (llm_manager, user_context.user_id, redis_manager)

            async def execute(self, state, run_id, stream_updates):
                return self.got

        factory = engines_of(Wants, services={"llm_manager": lambda context: f"llm of {context.user_id}"})
        async with factory.user_execution_scope(context := new_context()) as engine:
            outcome = await engine.execute_agent("Wants")
        assert outcome.result == (f"llm of {context.user_id}", context.user_id, None)
        factory = engines_of(Wants)
        async with factory.user_execution_scope(new_context()) as engine:
            outcome = await engine.execute_agent("Wants")
        assert isinstance(outcome.error, TypeError)
        assert "services={'llm_manager'" in str(outcome.error)

    async def test_an_agent_may_be_given_a_dispatcher_that_there_is_not_and_use_none(self, new_context):
        registry = AgentRegistry()
        registry.register(TriageSubAgent)
        registry.register(DataSubAgent)
        factory = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry))
        async with factory.user_execution_scope(context := new_context()) as engine:
            outcome = await engine.execute_agent_pipeline(
                ["TriageSubAgent", "data"], state_of(context, user_request="q")
            )
        assert "TriageSubAgent" in outcome.results
        assert isinstance(outcome.error, RuntimeError)
        assert "no tools" in str(outcome.error)

    @pytest.mark.parametrize(
        ("execute", "expected"),
        [
            (lambda self, state: state.user_request, "asked"),
            (lambda self, state, run_id: (state.user_request, run_id), None),
            (lambda self, request: request, "asked"),
            (lambda self, text: text, "asked"),
            (lambda self, state, *, run_id, thread_id, user_id: state.user_request, "asked"),
            (lambda self, context, state: state.user_request, "asked"),
            (lambda self, state, run_id, stream_updates=False, extra=3, *more, **rest: extra, 3),
            (lambda self, state, run_id, extra=3, *, stream_updates: (extra, stream_updates), (3, True)),
            (lambda self, some_state, run_id: some_state.user_request, "asked"),
        ],
    )
    async def test_signatures_of_the_family(self, new_context, execute, expected):
        agent = type("Family", (), {"execute": execute})
        factory = engines_of(agent)
        async with factory.user_execution_scope(context := new_context()) as engine:
            outcome = await engine.execute_agent("Family", state_of(context, user_request="asked"))
        assert outcome.success, outcome.error
        assert outcome.result == (expected if expected is not None else ("asked", context.run_id))

    async def test_a_parameter_that_nothing_fits_is_named(self, new_context):
        class Odd:
            async def execute(self, state, run_id, moon_phase):
                return 1

        factory = engines_of(Odd)
        async with factory.user_execution_scope(new_context()) as engine:
            outcome = await engine.execute_agent("Odd", "x")
        assert isinstance(outcome.error, TypeError)
        assert "moon_phase" in str(outcome.error)

    async def test_a_clean_up_that_fails_hides_nothing(self, new_context):
        class Leaves:
            async def execute(self, state, run_id, stream_updates):
                return 7

            def cleanup(self, unknown, also_unknown):
                raise AssertionError

        factory = engines_of(Leaves)
        async with factory.user_execution_scope(new_context()) as engine:
            assert (await engine.execute_agent("Leaves")).result == 7


class Broadcasting:
    """As the older service writes them: everything from singletons, and its own lifecycle told by itself."""

    name = "broadcasting"

    def __init__(self, tool_dispatcher: Any) -> None:
        self.tool_dispatcher = tool_dispatcher
        self.websocket_bridge = get_websocket_manager()

    async def execute(self, state: DeepAgentState, run_id: str, stream_updates: bool) -> dict[str, Any]:
        manager = await get_websocket_manager()
        told = {"agent_name": self.name, "run_id": run_id}
        await manager.send_to_user(state.user_id, {"type": "agent_started", **told})
        await self.websocket_bridge.broadcast_message({"type": "agent_thinking", "content": f"of {state.user_id}"})
        await asyncio.sleep(0)
        rows = await self.tool_dispatcher.execute_tool("rows_of", {"what": state.user_request})
        await manager.send_to_user(state.user_id, {"type": "progress_report", "payload": {"rows": rows}})
        if state.user_request.startswith("bob"):
            await manager.send_to_user("somebody-else", {"type": "progress_report", "payload": {"rows": rows}})
        await manager.send_to_user(state.user_id, {"type": "agent_completed", "result": rows, **told})
        return {"rows": rows}


class TestSingletons:
    async def test_two_users_at_once_get_what_is_theirs_and_each_span_one_end(self, new_context, kinds, read_plain):
        """Getters of singletons, a broadcast, and events of the agent's own, in one class that nobody has changed."""
        factory = engines_of(Broadcasting, Report)

        async def run(request: str) -> tuple[UserExecutionContext, Any]:
            context = new_context()
            async with factory.user_execution_scope(context) as engine:
                return context, await engine.execute_agent("broadcasting", state_of(context, user_request=request))

        runs = await asyncio.gather(run("a"), run("b"))
        for (context, outcome), request in zip(runs, "ab", strict=True):
            assert outcome.success, outcome.error
            assert outcome.result == {"rows": [f"{request} of {context.user_id}"]}
            messages = read_plain(context.user_id, context.run_id)
            others = [other.user_id for other, _ in runs if other is not context]
            assert not any(other in str(messages) for other in others)
            assert [kind for kind, _ in kinds(context)] == [
                "agent_started",
                "agent_thinking",
                "tool_executing",
                "tool_completed",
                "progress_report",
                "agent_completed",
            ]
            assert f"of {context.user_id}" in str(messages[1]["payload"])

    async def test_a_message_to_another_user_is_refused_and_ends_the_span(self, new_context, kinds):
        factory = engines_of(Broadcasting)
        async with factory.user_execution_scope(context := new_context()) as engine:
            outcome = await engine.execute_agent("broadcasting", state_of(context, user_request="bob's"))
        assert isinstance(outcome.error, ContextIsolationError)
        assert kinds(context)[-1] == ("agent_error", "broadcasting")
        assert user_streams("somebody-else") == []


EXAMPLE = """
import asyncio, json
from app.agents import DraftAgent, ResearchAgent, ReviewAgent
from app.agents.state import DEFAULT_METADATA, DeepAgentState
from isolane import (AgentInstanceFactory, AgentRegistry, ExecutionEngineFactory, PermissionEngine,
    UnifiedToolDispatcherFactory, UserContextFactory, UserExecutionContext)

async def search_notes(words: str, context: UserExecutionContext) -> list[str]:
    await asyncio.sleep(0.01)
    return [f"note of {context.user_id}"]

async def run(engines, user):
    context = UserContextFactory.create_context(user)
    state = DeepAgentState(
        user_request=f"asked by {user}", user_id=user, chat_thread_id=context.thread_id, run_id=context.run_id
    )
    async with engines.user_execution_scope(context) as engine:
        outcome = await engine.execute_agent_pipeline(["research", "draft", "review"], state)
    return outcome.result.model_dump(), repr(outcome.error)

async def main():
    registry = AgentRegistry()
    for agent in (ResearchAgent, DraftAgent, ReviewAgent):
        registry.register(agent)
    tools = UnifiedToolDispatcherFactory([search_notes], permissions=PermissionEngine.for_tools({"everyone": ["*"]}))
    engines = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry), tool_dispatcher_factory=tools)
    results = await asyncio.gather(run(engines, "ann"), run(engines, "bob"))
    print(json.dumps([results, DEFAULT_METADATA]))

asyncio.run(main())
"""


def test_the_agents_of_the_example_run_unchanged_for_two_users_at_once():
    """Its states share a default and its dispatcher a user; here neither is shared."""
    folder = Path(__file__).resolve().parents[2] / "examples" / "legacy_service"
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE],
        cwd=folder,
        env={**os.environ, "ISOLANE_WARN": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results, default = json.loads(done.stdout)
    for user, other, (state, error) in zip(("ann", "bob"), ("bob", "ann"), results, strict=True):
        assert error == "None"
        assert state["research_result"] == state["metadata"]["sources"] == [f"note of {user}"]
        assert state["step_count"] == 3
        assert f"asked by {user}" in state["report_result"]
        assert other not in json.dumps(state)
    assert default["sources"] == []


class TestRegistering:
    def test_a_class_is_given_back_as_it_is_and_its_agent_stays_the_same(self):
        registry = AgentRegistry()
        assert registry.register(TriageSubAgent, "triage") is TriageSubAgent
        assert registry.register(TriageSubAgent, "triage") is TriageSubAgent
        agent = registry.get("triage")
        assert issubclass(agent, BaseAgent)
        assert agent.legacy_class is TriageSubAgent
        with pytest.raises(ValueError, match="another class"):
            registry.register(DataSubAgent, "triage")

    def test_attributes_of_the_class_count(self):
        class Declares:
            name = "declares"
            timeout_seconds = 3
            requires = ("other",)

            async def execute(self, state, run_id, stream_updates):
                return 1

        registry = AgentRegistry()
        registry.register(Declares)
        agent = registry.get("declares")
        assert (agent.timeout_seconds, agent.requires) == (3, ("other",))
        Declares.timeout_seconds = -1
        registry = AgentRegistry()
        with pytest.raises(ValueError, match="timeout_seconds"):
            registry.register(type("Other", (Declares,), {}))

    @pytest.mark.parametrize("what", [TriageSubAgent(), object, "triage", type("NoExecute", (), {}), None])
    def test_what_is_no_class_of_an_agent_is_refused(self, what):
        with pytest.raises(TypeError, match="class of an agent"):
            AgentRegistry().register(what)

    def test_a_modern_agent_with_an_execute_of_its_own_is_modern(self):
        class Modern(BaseAgent):
            async def execute(self, request):
                return request

            async def execute_with_context(self, context, request):
                return await self.execute(request)

        registry = AgentRegistry()
        registry.register(Modern)
        assert registry.get("Modern") is Modern

    def test_an_agent_with_neither_is_still_abstract(self):
        class Neither(BaseAgent):
            pass

        with pytest.raises(TypeError, match="abstract"):
            Neither()

    def test_a_class_that_nobody_holds_goes(self):
        cls = type("Gone", (), {"execute": lambda self, state: 1})
        assert LegacyAgentShim.of(cls) is not None
        reference = weakref.ref(cls)
        del cls
        gc.collect()
        assert reference() is None


# -- agents that are made by hand --------------------------------------------------------------------------------------


class Dual(BaseAgent):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        await context.get_websocket_emitter().notify_agent_thinking("hm")
        if isinstance(request, BaseException):
            raise request
        if request == "wait":
            await asyncio.sleep(60)
        return context.user_id, request, dict(context.agent_context)


def own_state(user: str, **fields: Any) -> DeepAgentState:
    return DeepAgentState(user_id=user, chat_thread_id=f"thread-of-{user}", run_id=f"run-of-{user}", **fields)


class TestDualMode:
    def test_both_is_an_error(self, context):
        with pytest.raises(ValueError, match="both"):
            Dual(deep_agent_state=own_state("ann-7"), user_execution_context=context)
        with pytest.raises(TypeError, match="deep_agent_state="):
            Dual(user_execution_context=own_state("ann-7"))

    async def test_neither_is_an_error(self):
        with pytest.raises(ContextRequiredError) as caught:
            await Dual().execute("request")
        assert isinstance(caught.value, RuntimeError)
        assert "must be initialized with an execution context" in str(caught.value)

    async def test_a_state_is_not_truthy_and_counts_all_the_same(self):
        with pytest.raises(LegacyIdentityError):
            Dual(deep_agent_state={})

    async def test_on_a_context_it_is_one_execution(self, context, kinds):
        assert (await Dual(user_execution_context=context).execute("q"))[:2] == (context.user_id, "q")
        await context.cleanup()
        assert kinds(context) == [("agent_started", "Dual"), ("agent_thinking", "Dual"), ("agent_completed", "Dual")]
        assert context.execution_metrics.successful_runs == 1

    async def test_on_a_state_it_has_a_context_that_ends(self, alice, read_plain):
        state = own_state(alice, messages=[{"content": ["x"]}])
        messages = state.messages
        user, request, data = await Dual(deep_agent_state=state).execute("q")
        assert (user, request, data["messages"]) == (alice, "q", [{"content": ["x"]}])
        assert aliases(data, {"messages": messages}) == []
        types = [message["type"] for message in read_plain(alice, f"run-of-{alice}")]
        assert types == ["agent_started", "agent_thinking", "agent_completed"]
        assert user_streams(alice)[0]["outcome"] == "completed"
        with pytest.raises(FrozenLegacyState):
            state.messages.append("later")

    async def test_what_it_raises_is_raised_and_shown_once(self, alice, kinds, context):
        with pytest.raises(KeyError):
            await Dual(user_execution_context=context).execute(KeyError("broken"))
        assert kinds(context)[-1] == ("agent_error", "Dual")
        with pytest.raises(KeyError):
            await Dual(deep_agent_state=own_state(alice)).execute(KeyError("broken"))
        assert user_streams(alice)[0]["outcome"] == "failed"

    async def test_a_cancellation_and_a_timeout_end_record_span_and_context(self, alice, new_context, kinds):
        class Short(Dual):
            timeout_seconds = 0.01

        context = new_context()
        with pytest.raises(TimeoutError, match="timeout_seconds"):
            await Short(user_execution_context=context).execute("wait")
        assert kinds(context)[-1] == ("agent_error", "Short")
        context = new_context()
        task = asyncio.create_task(Dual(user_execution_context=context).execute("wait"))
        while not context.active_runs:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not context.active_runs
        assert [run.status.value for run in context.run_history] == ["failed"]
        assert kinds(context)[-1] == ("agent_error", "Dual")

    async def test_a_class_of_the_older_signature_made_with_a_state_runs_as_it_did(self, alice):
        class Older(BaseAgent):
            async def execute(self, state, run_id, stream_updates):
                state.triage_result = run_id
                return state

        own = own_state(alice)
        assert (await Older().execute(own, own.run_id, True)) is own
        assert own.triage_result == own.run_id

    def test_the_warning_names_the_line_that_makes_the_agent(self, alice):
        """And not the constructor between, which calls ``super().__init__``."""
        state = own_state(alice)
        line = inspect.currentframe().f_lineno + 2
        with pytest.warns(RemovedInV2Warning, match="ISO-D001") as told:
            Dual(deep_agent_state=state)
        assert [(one.filename, one.lineno) for one in told] == [(__file__, line)]

    def test_other_keywords_are_kept_as_attributes(self, context):
        agent = Dual(user_execution_context=context, tool_dispatcher="tools", llm_manager=None)
        assert (agent.tool_dispatcher, agent.llm_manager) == ("tools", None)

    async def test_in_a_step_of_the_same_run_it_is_a_child_and_borrows_the_permit(self, new_context, kinds):
        class Outer(BaseAgent):
            async def execute_with_context(self, context, request):
                inner = Dual(deep_agent_state=state_of(context, messages=[1]))
                user, _, data = await inner.execute("inner")
                by_context = await Dual(user_execution_context=context).execute("again")
                return user, data["messages"], by_context[0]

        factory = engines_of(Outer, limiter=FairLimiter(1, 1))
        async with factory.user_execution_scope(context := new_context()) as engine:
            outcome = await engine.execute_agent("Outer")
            assert outcome.result == (context.user_id, [1], context.user_id), outcome.error
            again = await engine.execute_agent("Outer")
            assert again.success
        assert [kind for kind, _ in kinds(context)].count("agent_started") == 6

    async def test_in_a_step_of_another_user_it_is_refused(self, new_context, alice):
        class Outer(BaseAgent):
            async def execute_with_context(self, context, request):
                return await Dual(deep_agent_state=own_state(alice)).execute("inner")

        factory = engines_of(Outer)
        async with factory.user_execution_scope(new_context()) as engine:
            outcome = await engine.execute_agent("Outer")
        assert isinstance(outcome.error, ContextIsolationError)

    async def test_the_end_of_a_temporary_context_leaves_the_stream_of_a_live_run_open(self, new_context, kinds):
        context = new_context()
        emitter = context.get_websocket_emitter()
        await emitter.notify_agent_started(agent_name="outer")
        await Dual(deep_agent_state=state_of(context)).execute("q")
        gc.collect()
        await emitter.notify_agent_completed(agent_name="outer", result=1)
        await context.cleanup()
        assert kinds(context)[-1] == ("agent_completed", "outer")
        assert user_streams(context.user_id)[0]["outcome"] == "completed"

    async def test_a_write_to_a_state_that_could_only_be_compared_is_told_at_the_end(self, alice):
        state = {"user_id": alice, "thread_id": "thread-7", "run_id": f"run-of-{alice}", "messages": []}

        class Writes(BaseAgent):
            async def execute_with_context(self, context, request):
                state["more"] = 1
                if request is not None:
                    raise request

        with pytest.raises(FrozenLegacyState):
            await Writes(deep_agent_state=state).execute()
        state = {"user_id": alice, "thread_id": "thread-7", "run_id": f"run-2-of-{alice}", "messages": []}
        with pytest.raises(KeyError):
            await Writes(deep_agent_state=state).execute(KeyError("its own"))
