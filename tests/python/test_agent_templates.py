"""The templates: records, events, permits and results of agents that are made for a context, on every way out."""

import asyncio
import contextlib
import dataclasses
from typing import Any, ClassVar

import isolane
import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BudgetExceeded,
    ContextIsolationError,
    ExecutionEngineFactory,
    ExecutionResult,
    FairLimiter,
    LimitTimeout,
    PermissionEngine,
    RunClosed,
    UnifiedToolDispatcherFactory,
    UserExecutionContext,
)
from isolane._core import end_stream, user_streams
from isolane.migration.agents import (
    AgentMigrationTemplate,
    CollaborationResult,
    CollaborativeAgent,
    ContextRequiredError,
    DataProcessingAgent,
    DataResult,
)
from isolane.migration.agents.data_processing import check_rows
from pydantic import BaseModel


class Analyst(AgentMigrationTemplate):
    name = "analyst"
    depth = 3

    async def _execute_agent_logic(self, request: Any) -> Any:
        await self._websocket_emitter.notify_agent_thinking("hm")
        if isinstance(request, BaseException):
            raise request
        if request == "wait":
            await asyncio.sleep(60)
        return {"user": self._user_context.user_id, "asked": request, "depth": self.depth}


@pytest.fixture
def spans(read_plain):
    """Return a reader of a run's spans, each with its one end at its end."""

    def read(context: UserExecutionContext) -> list[list[str]]:
        found: dict[str, list[str]] = {}
        for message in read_plain(context.user_id, context.run_id):
            found.setdefault(message["request_id"], []).append(message["type"])
        for span in found.values():
            assert span[0] == "agent_started"
            assert [kind in {"agent_completed", "agent_error"} for kind in span] == [False] * (len(span) - 1) + [True]
        return list(found.values())

    return read


class TestTheTemplate:
    async def test_it_records_shows_and_answers(self, context, spans):
        agent = Analyst.create_with_context(context, {"depth": 5})
        result = await agent.execute_with_isolation("q", {"why": "asked"})
        assert isinstance(result, ExecutionResult)
        assert result.success
        assert result.result == {"user": context.user_id, "asked": "q", "depth": 5}
        (record,) = context.run_history
        assert (record.run_id, record.agent_type, record.status.value) == (result.run_id, "analyst", "completed")
        assert result.execution_time == context.get_run_duration(result.run_id) > 0
        assert spans(context) == [["agent_started", "agent_thinking", "agent_completed"]]
        assert isolane.default_limiter().stats(context.user_id)["running"] == 0

    async def test_it_runs_under_the_users_lock(self, new_context):
        context = new_context()
        seen = []

        class Looks(Analyst):
            async def _execute_agent_logic(self, request: Any) -> Any:
                seen.append(isolane.default_limiter().stats(context.user_id)["running"])

        await Looks.create_with_context(context).execute_with_isolation("q")
        assert seen == [1]

    async def test_what_it_raises_is_the_result_and_the_end(self, context, spans):
        error = KeyError("broken")
        result = await Analyst.create_with_context(context).execute_with_isolation(error)
        assert (result.success, result.error, result.result) == (False, error, None)
        assert context.run_history[0].status.value == "failed"
        assert spans(context) == [["agent_started", "agent_thinking", "agent_error"]]

    async def test_its_time_is_bounded(self, context, spans):
        class Short(Analyst):
            timeout_seconds = 0.01

        result = await Short.create_with_context(context).execute_with_isolation("wait")
        assert isinstance(result.error, TimeoutError)
        assert "timeout_seconds" in str(result.error)
        assert spans(context) == [["agent_started", "agent_thinking", "agent_error"]]

    async def test_a_time_out_of_its_own_is_its_own(self, context):
        result = await Analyst.create_with_context(context).execute_with_isolation(TimeoutError("of a call"))
        assert str(result.error) == "of a call"

    async def test_a_cancellation_ends_record_and_span_and_gives_the_permit_back(self, context, spans):
        task = asyncio.create_task(Analyst.create_with_context(context).execute_with_isolation("wait"))
        while not context.active_runs:
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not context.active_runs
        assert [record.status.value for record in context.run_history] == ["failed"]
        assert spans(context)[0][-1] == "agent_error"
        assert isolane.default_limiter().stats(context.user_id)["running"] == 0

    async def test_what_ends_a_process_ends_the_record_as_well(self, context, spans):
        class Leaves(BaseException):
            pass

        with pytest.raises(Leaves):
            await Analyst.create_with_context(context).execute_with_isolation(Leaves())
        assert not context.active_runs
        assert spans(context)[0][-1] == "agent_error"

    async def test_a_record_that_cannot_begin_is_the_error_and_not_another(self, context):
        agent = Analyst.create_with_context(context)
        await context.cleanup()
        with pytest.raises(RunClosed):
            await agent.execute_with_isolation("q")

    async def test_a_stream_that_has_ended_is_the_error_and_the_record_ends(self, context):
        emitter = context.get_websocket_emitter()
        await emitter.notify_agent_started(agent_name="x")
        end_stream(context, None, "ended")
        with pytest.raises((RunClosed, BudgetExceeded)):
            await Analyst.create_with_context(context).execute_with_isolation("q")
        assert not context.active_runs
        assert [record.status.value for record in context.run_history] == ["failed"]

    async def test_a_permit_that_is_not_to_be_had_begins_nothing(self, new_context, monkeypatch):
        limiter = FairLimiter(1, 1, timeout=0.01)
        before = isolane.default_limiter()
        isolane.set_default_limiter(limiter)
        try:
            context, other = new_context(), new_context()
            held = limiter.slot_nowait(other.user_id)
            monkeypatch.setattr(Analyst, "lock_seconds", 0.01)
            agent = Analyst.create_with_context(context)
            with pytest.raises((LimitTimeout, isolane.LimitRejected)):
                await agent.execute_with_isolation("q")
            held.release()
            assert not context.run_history
            assert user_streams(context.user_id) == []
        finally:
            isolane.set_default_limiter(before)

    async def test_again_is_another_span(self, context, spans):
        agent = Analyst.create_with_context(context)
        for number in range(2):
            assert (await agent.execute_with_isolation(number)).success
        assert len(spans(context)) == 2
        assert len(context.run_history) == 2

    async def test_two_at_once_on_one_context_are_two_spans(self, context, spans):
        async def one(number: int) -> Any:
            return await Analyst.create_with_context(context).execute_with_isolation(number)

        results = await asyncio.gather(one(1), one(2))
        assert [result.result["asked"] for result in results] == [1, 2]
        assert len(spans(context)) == 2

    async def test_engines_run_it_with_one_span(self, new_context, spans):
        registry = AgentRegistry()
        registry.register(Analyst)
        factory = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry))
        async with factory.user_execution_scope(context := new_context()) as engine:
            outcome = await engine.execute_agent("analyst", "q")
        assert outcome.result["user"] == context.user_id
        assert spans(context) == [["agent_started", "agent_thinking", "agent_completed"]]

    async def test_without_a_context_it_says_what_is_missing(self):
        with pytest.raises(ContextRequiredError, match="create_with_context"):
            await Analyst().execute_with_isolation("q")
        with pytest.raises(TypeError, match="LegacyExecutionAdapter"):
            Analyst.create_with_context({"user_id": "ann"})  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["deep", "_bound", "execute_with_isolation", "name_of"])
    def test_a_setting_that_there_is_not_is_refused(self, context, name):
        with pytest.raises(ValueError, match="depth"):
            Analyst.create_with_context(context, {name: 1})


class Session:
    """A session with transactions, which says when they are open."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows
        self.is_open = False
        self.closed = False

    @contextlib.asynccontextmanager
    async def begin(self):
        self.is_open = True
        try:
            yield self
        finally:
            self.is_open = False

    async def execute(self) -> list[Any]:
        assert self.is_open
        await asyncio.sleep(0)
        return self.rows

    async def close(self) -> None:
        self.closed = True


class Rows(DataProcessingAgent):
    name = "rows"

    async def fetch_data(self, session: Session, request: Any) -> Any:
        return await session.execute()


class TestDataProcessing:
    def prepared(self, new_context, rows):
        context = new_context()
        session = Session(rows(context))
        open_in_tool = []

        async def data_analyzer(data: list[Any]) -> int:
            open_in_tool.append(session.is_open)
            return len(data)

        tools = UnifiedToolDispatcherFactory(
            [data_analyzer], permissions=PermissionEngine.for_tools({"everyone": ["*"]})
        )
        context.bind_tool_dispatcher_factory(tools)
        context.bind_session_factory(lambda _: session)
        return context, session, open_in_tool

    async def test_it_reads_in_a_transaction_and_calls_the_tool_after_it(self, new_context, spans):
        context, session, open_in_tool = self.prepared(new_context, lambda context: [{"user_id": context.user_id}] * 3)
        result = await Rows.create_with_context(context).execute_with_isolation("q")
        assert isinstance(result.result, DataResult)
        assert (result.result.analysis, result.result.user_id) == (3, context.user_id)
        assert result.result.processed_at.tzinfo is not None
        assert open_in_tool == [False]
        assert spans(context) == [
            ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]
        ]
        await context.cleanup()
        assert session.closed

    @pytest.mark.parametrize("kind", [dict, lambda **fields: type("Row", (), fields)()])
    async def test_a_row_of_another_user_is_not_handed_to_the_tool(self, new_context, kind):
        context, _, open_in_tool = self.prepared(
            new_context, lambda context: [kind(user_id=context.user_id), kind(user_id="somebody-else")]
        )
        result = await Rows.create_with_context(context).execute_with_isolation("q")
        assert isinstance(result.error, ContextIsolationError)
        assert open_in_tool == []

    @pytest.mark.parametrize("rows", [[1, 2], (), [{"total": 3}]])
    async def test_what_has_no_owner_passes(self, new_context, rows):
        context, _, _ = self.prepared(new_context, lambda _: rows)
        result = await Rows.create_with_context(context).execute_with_isolation("q")
        assert result.success, result.error

    def test_one_value_is_looked_at_as_well(self):
        class Row(BaseModel):
            user_id: str

        check_rows(Row(user_id="ann"), "ann")
        check_rows("text", "ann")
        for other in (Row(user_id="bob"), {"user_id": "bob"}, {Frozen("bob")}):
            with pytest.raises(ContextIsolationError):
                check_rows(other, "ann")


@dataclasses.dataclass(frozen=True)
class Frozen:
    user_id: str


class Part(AgentMigrationTemplate):
    name = "part"
    contexts: ClassVar[list[UserExecutionContext]] = []

    async def _execute_agent_logic(self, request: Any) -> Any:
        self.contexts.append(self._user_context)
        if request == "fail":
            raise ValueError("the part")
        if request == "wait":
            await asyncio.sleep(60)
        return f"{request} of {self._user_context.user_id}"


class Whole(CollaborativeAgent):
    name = "whole"
    sub_agents = (Part, Part)

    async def _process_collaborative_result(self, request: Any, results: Any) -> Any:
        return [result.result if result.success else str(result.error) for result in results]


class TestCollaboration:
    async def test_parts_run_in_children_under_one_permit(self, new_context, spans):
        Part.contexts.clear()
        limiter, before = FairLimiter(1, 1), isolane.default_limiter()
        isolane.set_default_limiter(limiter)
        try:
            context = new_context()
            result = await Whole.create_with_context(context).execute_with_isolation("q")
        finally:
            isolane.set_default_limiter(before)
        assert result.success, result.error
        collaboration = result.result
        assert isinstance(collaboration, CollaborationResult)
        assert collaboration.primary_result == [f"q of {context.user_id}"] * 2
        ids = collaboration.collaboration_metadata["child_contexts"]
        assert ids == tuple(child.context_id for child in Part.contexts)
        assert len(set(ids)) == 2
        assert collaboration.collaboration_metadata["total_execution_time"] > 0
        assert [child.status.value for child in Part.contexts] == ["cleaned", "cleaned"]
        assert len(spans(context)) == 3

    async def test_a_part_that_fails_is_a_part_of_the_result(self, context, spans):
        result = await Whole.create_with_context(context).execute_with_isolation("fail")
        assert result.result.primary_result == ["the part", "the part"]
        assert [span[-1] for span in spans(context)] == ["agent_completed", "agent_error", "agent_error"]

    async def test_a_cancellation_reaches_the_part_and_ends_all_spans(self, context, spans):
        Part.contexts.clear()
        task = asyncio.create_task(Whole.create_with_context(context).execute_with_isolation("wait"))
        while not Part.contexts:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [span[-1] for span in spans(context)] == ["agent_error", "agent_error"]
        assert Part.contexts[0].status.value == "cleaned"
        assert not context.active_runs
