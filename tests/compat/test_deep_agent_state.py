"""The host's state and its adapters: their fields and answers, without defaults for ids and without shared data."""

import dataclasses

import pytest
from isolane import BaseAgent, ContextIsolationError, UserExecutionContext
from isolane.compat.deep_agent_state import (
    RESULTS,
    DeepAgentState,
    DeepAgentStateAdapter,
    MigrationValidationError,
    UserExecutionContextAdapter,
)
from isolane.migration.agents import FrozenLegacyState, LegacyExecutionAdapter, LegacyIdentityError
from isolane.migration.deprecation import RemovedInV2Warning

from tests.support.legacy_states import aliases

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")


@pytest.fixture
def ids(alice):
    return {"user_id": alice, "thread_id": f"thread-of-{alice}", "run_id": f"run-of-{alice}"}


class TestTheState:
    def test_its_fields_and_defaults_are_the_hosts(self):
        state = DeepAgentState()
        assert (state.user_request, state.step_count, state.messages) == ("default_request", 0, [])
        assert (state.user_id, state.chat_thread_id, state.run_id) == (None, None, None)
        assert all(getattr(state, name) is None for name in RESULTS)

    def test_the_conversation_has_two_names(self):
        state = DeepAgentState(thread_id="thread-7")
        assert (state.thread_id, state.chat_thread_id) == ("thread-7", "thread-7")
        state.thread_id = "thread-8"
        assert state.to_dict()["chat_thread_id"] == "thread-8"

    def test_two_states_share_nothing_of_what_they_were_made_with(self):
        shared = {"list": [1]}
        one, two = DeepAgentState(agent_input=shared), DeepAgentState(agent_input=shared)
        assert aliases({"x": one.agent_input}, {"x": two.agent_input}) == []
        assert aliases({"x": one.agent_input}, {"x": shared}) == []
        assert aliases({"x": dict(shared)}, {"x": shared}), "a shallow copy is found"

    def test_copies_share_nothing(self):
        state = DeepAgentState(messages=[{"a": []}], metadata={"k": {}})
        for made in (
            state.copy_with_updates(step_count=3),
            state.increment_step_count(),
            state.add_metadata("new", 1),
            state.clear_sensitive_data(),
        ):
            assert aliases(vars(made), vars(state)) == []
        assert state.increment_step_count().step_count == 1
        assert state.add_metadata("new", 1).metadata == {"k": {}, "new": 1}
        assert state.metadata == {"k": {}}
        with pytest.raises(ValueError, match="no field 'nothing'"):
            state.copy_with_updates(nothing=1)

    def test_what_is_sensitive_is_cleared(self):
        full = {name: {"secret": 1} for name in RESULTS}
        state = DeepAgentState(user_id="ann-7", agent_input={"x": 1}, messages=["m"], metadata={"m": 1}, **full)
        cleared = state.clear_sensitive_data()
        assert "secret" not in str(cleared.to_dict())
        assert (cleared.user_id, cleared.messages, cleared.metadata, cleared.agent_input) == ("ann-7", [], {}, None)

    def test_the_number_of_steps_is_bounded(self):
        with pytest.raises(ValueError, match="10000"):
            DeepAgentState(step_count=10_001)
        with pytest.raises(ValueError, match="greater"):
            DeepAgentState(step_count=-1)

    def test_states_of_one_user_merge_and_of_two_do_not(self):
        one = DeepAgentState(user_id="ann-7", data_result=1, metadata={"a": 1}, step_count=2)
        two = DeepAgentState(user_id="ann-7", data_result=2, triage_result={"t": []}, metadata={"a": 2, "b": 2})
        merged = one.merge_from(two)
        assert (merged.data_result, merged.triage_result, merged.metadata) == (1, {"t": []}, {"a": 1, "b": 2})
        assert merged.step_count == 2
        assert aliases(vars(merged), vars(two)) == []
        for other in (DeepAgentState(user_id="bob-7"), DeepAgentState(), {"user_id": None}):
            with pytest.raises(ContextIsolationError):
                one.merge_from(other)
        with pytest.raises(ContextIsolationError):
            DeepAgentState().merge_from(DeepAgentState())

    def test_making_one_is_counted(self):
        with pytest.warns(RemovedInV2Warning, match="ISO-D001") as told:
            DeepAgentState()
        assert told[0].filename == __file__

    async def test_given_to_an_agent_it_is_adapted_and_frozen(self, ids):
        class Agent(BaseAgent):
            async def execute_with_context(self, context, request):
                return context.user_id, context.agent_context["messages"]

        state = DeepAgentState(messages=["hello"], **ids)
        assert await Agent(deep_agent_state=state).execute("q") == (ids["user_id"], ["hello"])
        with pytest.raises(FrozenLegacyState):
            state.step_count = 1
        assert state.increment_step_count().step_count == 1
        with pytest.raises(LegacyIdentityError):
            LegacyExecutionAdapter(DeepAgentState())


class TestTheAdapter:
    def test_a_context_has_the_results_and_where_they_came_from(self, ids):
        state = DeepAgentState(data_result={"rows": [1]}, step_count=4, **ids)
        context = DeepAgentStateAdapter.from_deep_agent_state(state, *ids.values(), "socket-7")
        assert isinstance(context, UserExecutionContext)
        assert (context.user_id, context.websocket_client_id) == (ids["user_id"], "socket-7")
        assert context.agent_context["data_result"] == {"rows": [1]}
        assert aliases(dict(context.agent_context), vars(state)) == []
        audit = context.audit_metadata
        assert audit["original_user_id"] == ids["user_id"]
        assert (audit["legacy_state"], audit["legacy_step_count"]) == ("DeepAgentState", 4)
        assert "migration_timestamp" in audit

    @pytest.mark.parametrize("field", ["user_id", "thread_id", "run_id"])
    @pytest.mark.parametrize("validate", [True, False])
    def test_ids_that_differ_are_an_error_always(self, ids, field, validate):
        state = DeepAgentState(**{**ids, field: "another-one-77"})
        with pytest.raises(MigrationValidationError, match=field):
            DeepAgentStateAdapter.from_deep_agent_state(state, *ids.values(), validate_isolation=validate)

    def test_ids_that_the_state_has_not_are_the_ones_that_are_passed(self, ids):
        context = DeepAgentStateAdapter.from_deep_agent_state(DeepAgentState(), *ids.values())
        assert context.run_id == ids["run_id"]

    @pytest.mark.parametrize("placeholder", ["default_user", "", "anonymous", None])
    def test_nobody_is_made_up(self, ids, placeholder):
        with pytest.raises(MigrationValidationError):
            DeepAgentStateAdapter.from_deep_agent_state(DeepAgentState(), placeholder, ids["thread_id"], ids["run_id"])

    def test_a_state_of_any_class_will_do(self, ids):
        @dataclasses.dataclass
        class Own:
            user_id: str
            triage_result: dict

        context = DeepAgentStateAdapter.from_deep_agent_state(Own(ids["user_id"], {"t": []}), *ids.values())
        assert context.agent_context["triage_result"] == {"t": []}

    def test_there_and_back(self, ids):
        state = DeepAgentState(data_result={"rows": [1]}, user_request="q", messages=[{"m": []}], **ids)
        context = DeepAgentStateAdapter.from_deep_agent_state(state, *ids.values())
        back = DeepAgentStateAdapter.to_deep_agent_state(context)
        assert back == state
        assert aliases(vars(back), dict(context.agent_context)) == []
        assert DeepAgentStateAdapter.to_deep_agent_state(context, preserve_results=False).data_result is None
        with pytest.raises(TypeError):
            DeepAgentStateAdapter.to_deep_agent_state(state)

    def test_what_does_not_fit_is_told(self, new_context):
        with pytest.raises(MigrationValidationError):
            DeepAgentStateAdapter.to_deep_agent_state(new_context(agent_context={"step_count": "many"}))

    def test_every_use_is_counted(self, ids, context):
        with pytest.warns(RemovedInV2Warning, match="ISO-D011"):
            DeepAgentStateAdapter.to_deep_agent_state(context)
        with pytest.warns(RemovedInV2Warning, match="ISO-D011"):
            UserExecutionContextAdapter(context)


class TestAContextAsAState:
    def test_ids_are_the_contexts_and_the_rest_is_its_data(self, new_context):
        context = new_context(agent_context={"triage_result": {"t": 1}})
        state = UserExecutionContextAdapter(context)
        assert (state.user_id, state.thread_id, state.chat_thread_id, state.run_id) == (
            context.user_id,
            context.thread_id,
            context.thread_id,
            context.run_id,
        )
        assert (state.triage_result, state.data_result, state.user_request) == ({"t": 1}, None, "default_request")
        state.data_result = [1]
        state.messages.append("hello")
        assert (context.agent_context["data_result"], context.agent_context["messages"]) == ([1], ["hello"])
        assert state.user_context is context
        with pytest.raises(AttributeError, match="cannot be set"):
            state.user_id = "somebody-else"
        with pytest.raises(AttributeError, match="neither"):
            state.nothing  # noqa: B018 - it is what is tested
        with pytest.raises(TypeError):
            UserExecutionContextAdapter(DeepAgentState())
