"""Legacy states of every kind: whose they are, that they are copied whole, and what later writes to them come to."""

import copy
import dataclasses
import gc
import pickle
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from isolane import (
    ContextIsolationError,
)
from isolane.migration.agents import (
    FrozenLegacyState,
    LegacyExecutionAdapter,
    LegacyIdentityError,
    LegacyStateAdapter,
)
from isolane.migration.agents.fingerprint import Fingerprint
from isolane.migration.agents.frozen import _told, freeze, is_frozen
from isolane.migration.deprecation import RemovedInV2Warning

from tests.support.legacy_states import STATES, AgentMetadata, DataclassState, DeepAgentState, PlainState, aliases

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")


def get(state: Any, name: str) -> Any:
    return state[name] if isinstance(state, dict) else getattr(state, name)


def put(state: Any, name: str, value: Any) -> None:
    if isinstance(state, dict):
        state[name] = value
    else:
        setattr(state, name, value)


@pytest.fixture(params=sorted(STATES))
def new_state(request, new_user):
    """A maker of states of each kind, with real ids."""

    def make(**fields: Any) -> Any:
        user = new_user()
        ids = {"user_id": user, "thread_id": f"thread-of-{user}", "run_id": f"run-of-{user}"}
        return STATES[request.param](**{**ids, **fields})

    return make


# -- the adapter -------------------------------------------------------------------------------------------------------


class TestIdentity:
    @pytest.mark.parametrize("field", ["user_id", "thread_id", "run_id"])
    @pytest.mark.parametrize("value", [None, "", "  ", 7])
    def test_an_id_that_is_missing_is_an_error_and_never_a_default(self, new_state, field, value):
        if value == 7 and "pydantic" in str(type(new_state())):
            pytest.skip("pydantic refuses it itself")
        with pytest.raises(LegacyIdentityError) as caught:
            LegacyExecutionAdapter(self.without_validation(new_state, field, value))
        assert caught.value.rule == "required"
        assert caught.value.field == ("chat_thread_id" if field == "thread_id" else field)
        assert "no default" in str(caught.value)

    @staticmethod
    def without_validation(new_state, field, value):
        if isinstance(new_state(), DeepAgentState) and isinstance(value, int):
            state = new_state()
            return state.model_copy(update={"chat_thread_id" if field == "thread_id" else field: value})
        return new_state(**{field: value})

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("user_id", "default_user"),
            ("user_id", " Default_User "),
            ("user_id", "legacy_user"),
            ("user_id", "anonymous"),
            ("user_id", "unknown"),
            ("user_id", "placeholder"),
            ("user_id", "none"),
            ("thread_id", "default_thread"),
            ("thread_id", "temp"),
            ("run_id", "default_run"),
            ("run_id", "registry"),
        ],
    )
    def test_a_placeholder_is_an_error(self, new_state, field, value):
        with pytest.raises(LegacyIdentityError) as caught:
            LegacyExecutionAdapter(new_state(**{field: value}))
        assert caught.value.rule == "placeholder"

    def test_the_ids_of_the_context_are_those_of_the_state(self, new_state):
        state = new_state()
        context = LegacyStateAdapter(state).create_temporary_context()
        assert (context.user_id, context.run_id) == (get(state, "user_id"), get(state, "run_id"))
        assert context.thread_id == f"thread-of-{context.user_id}"

    def test_two_names_of_the_conversation_must_agree(self):
        state = SimpleNamespace(user_id="ann-7", thread_id="thread-a", chat_thread_id="thread-b", run_id="run-ann-7")
        with pytest.raises(LegacyIdentityError, match="two conversations"):
            LegacyExecutionAdapter(state)

    def test_a_state_with_another_users_object_makes_no_context(self, new_context):
        state = PlainState(user_id="ann-7", thread_id="thread-a", run_id="run-ann-7", held=[new_context()])
        with pytest.raises((ContextIsolationError, TypeError)):
            LegacyExecutionAdapter(state).create_temporary_context()


PLANTED = {"custom": {"list": [{"leaf": ["secret"]}]}}


class TestCopies:
    def planted(self, new_state):
        return new_state(messages=[{"content": ["hello"]}], metadata=copy.deepcopy(PLANTED))

    def of_model(self, new_state):
        return new_state(messages=[{"content": ["hello"]}], metadata=AgentMetadata(custom_fields=PLANTED))

    def state(self, new_state):
        make = self.of_model if isinstance(new_state(), DeepAgentState) else self.planted
        return make(new_state)

    def test_nothing_is_shared_at_any_depth(self, new_state):
        state = self.state(new_state)
        held = {name: get(state, name) for name in ("messages", "metadata")}
        adapter = LegacyExecutionAdapter(state)
        # Who holds a list of the state itself can still write into it: the adapter has read it already.
        held["messages"][0]["content"].append("later")
        one, two = adapter.create_temporary_context(), adapter.create_temporary_context()
        for context in (one, two):
            data = {name: context.agent_context[name] for name in held}
            assert aliases(data, held) == []
            assert aliases(data, {name: get(state, name) for name in held}) == []
            assert context.agent_context["messages"] == [{"content": ["hello"]}]
        assert aliases(dict(one.agent_context), dict(two.agent_context)) == []
        one.agent_context["messages"][0]["content"].append("mine")
        assert two.agent_context["messages"] == [{"content": ["hello"]}]
        assert held["messages"] == [{"content": ["hello", "later"]}]

    def test_the_search_finds_a_shallow_copy(self, new_state):
        """The positive control: what older services do, `state.agent_context.copy()`, is seen."""
        state = self.state(new_state)
        held = {name: get(state, name) for name in ("messages", "metadata")}
        shallow = {name: copy.copy(value) for name, value in held.items()}
        found = aliases(shallow, held)
        assert ".messages[0]" in found
        assert ".messages[0].content" in found
        assert any(path.endswith("leaf") for path in found)

    def test_the_copy_of_the_adapter_is_what_keeps_them_apart(self, new_state, monkeypatch):
        """The same search over an adapter whose copies are shallow, and a context that is not asked to copy."""
        monkeypatch.setattr("isolane.migration.agents.adapter.copied", lambda value, _name: copy.copy(value))
        state = self.state(new_state)
        held = {name: get(state, name) for name in ("messages", "metadata")}
        adapter = LegacyExecutionAdapter(state, freeze_state=False)
        assert aliases(adapter._data, held)

    def test_what_cannot_be_copied_is_named(self):
        state = PlainState(user_id="ann-7", thread_id="thread-a", run_id="run-ann-7", lock=threading.Lock())
        with pytest.raises(TypeError, match="field 'lock'"):
            LegacyExecutionAdapter(state)
        assert not is_frozen(state), "what failed left the state as it was"

    def test_names_that_contexts_keep_get_a_prefix(self):
        state = PlainState(user_id="ann-7", thread_id="thread-a", run_id="run-ann-7", created_at="then", request_id="r")
        context = LegacyExecutionAdapter(state).create_temporary_context()
        assert context.agent_context["legacy_created_at"] == "then"
        assert context.agent_context["legacy_request_id"] == "r"
        assert "user_id" not in context.agent_context
        assert context.audit_metadata["legacy_state"] == "PlainState"


FREEZABLE = {"pydantic", "dataclass", "plain"}


class TestLaterWrites:
    def writes(self, state):
        """Each way in which older code writes into a state."""
        metadata = get(state, "metadata")
        fields = metadata.custom_fields if isinstance(metadata, AgentMetadata) else metadata
        messages = get(state, "messages")
        return {
            "append": lambda: messages.append(1),
            "iadd": lambda: messages.__iadd__([1]),
            "slice": lambda: messages.__setitem__(slice(0, 1), []),
            "nested": lambda: messages[0].update(x=1),
            "pop": messages.pop,
            "key": lambda: fields.__setitem__("x", 1),
            "setdefault": lambda: fields.setdefault("x", []),
            "popitem": fields.popitem,
        }

    def state(self, new_state):
        fields = {"a": 1}
        metadata = AgentMetadata(custom_fields=fields) if isinstance(new_state(), DeepAgentState) else fields
        return new_state(messages=[{"content": "hello"}], metadata=metadata)

    def test_strict_they_raise(self, new_state):
        state = self.state(new_state)
        before = copy.deepcopy(state)
        context = LegacyExecutionAdapter(state).create_temporary_context()
        for write in self.writes(state).values():
            with pytest.raises(FrozenLegacyState, match="would be lost"):
                write()
        assert copy.deepcopy(state) == before or isinstance(state, PlainState)
        assert get(state, "messages") == [{"content": "hello"}]
        assert context.agent_context["messages"] == [{"content": "hello"}]

    def test_strict_setting_a_field_raises_at_once_or_at_the_end(self, new_state, request):
        state = self.state(new_state)
        adapter = LegacyExecutionAdapter(state)
        if any(f"[{kind}" in request.node.name for kind in FREEZABLE):
            with pytest.raises(FrozenLegacyState) as caught:
                put(state, "messages", [])
            assert caught.value.field == "messages"
            if not isinstance(state, dict):
                with pytest.raises(FrozenLegacyState):
                    del state.messages
            assert adapter.check_writes() == []
        else:
            put(state, "messages", [])
            with pytest.raises(FrozenLegacyState):
                adapter.check_writes()

    async def test_lenient_they_come_to_nothing_and_are_counted(self, new_state):
        state = self.state(new_state)
        context = LegacyExecutionAdapter(state, writes="lenient").create_temporary_context()
        for name, write in self.writes(state).items():
            with pytest.warns(RemovedInV2Warning, match="ISO-D008") as told:
                write()
            assert told[0].filename == __file__, name
        assert get(state, "messages") == [{"content": "hello"}]
        with pytest.warns(RemovedInV2Warning, match="ISO-D008"):
            await self.put_and_end(state, context)
        assert context.status.value == "cleaned"

    async def put_and_end(self, state, context):
        put(state, "messages", [])
        assert await context.cleanup() == ()

    def test_lenient_what_is_taken_out_is_still_there(self):
        state = PlainState(
            user_id="ann-7", thread_id="t-7", run_id="run-7", messages=[1, 2], metadata={"k": 1}, names={"x"}
        )
        LegacyExecutionAdapter(state, writes="lenient")
        assert (state.messages.pop(), state.messages.pop(0), state.messages) == (2, 1, [1, 2])
        assert (state.metadata.pop("k"), state.metadata.pop("no", 3), state.metadata.popitem()) == (1, 3, ("k", 1))
        with pytest.raises(KeyError):
            state.metadata.pop("no")
        assert (state.metadata.setdefault("k", 5), state.metadata.setdefault("no", 5), state.metadata) == (
            1,
            5,
            {"k": 1},
        )
        state.messages += [3]
        state.metadata |= {"x": 1}
        state.names |= {"y"}
        assert (state.messages, state.metadata, state.names, state.names.pop()) == ([1, 2], {"k": 1}, {"x"}, "x")

    def test_reading_works_as_before(self, new_state):
        state = self.state(new_state)
        kind = type(state)
        LegacyExecutionAdapter(state)
        assert isinstance(state, kind)
        if isinstance(state, DeepAgentState):
            assert state.model_dump()["messages"] == [{"content": "hello"}]
            assert state.model_dump_json() == type(state).model_validate(state.model_dump()).model_dump_json()
        again = LegacyExecutionAdapter(state).create_temporary_context()
        assert again.agent_context["messages"] == [{"content": "hello"}]

    def test_copies_can_be_written(self, new_state):
        state = self.state(new_state)
        kind = type(state)
        LegacyExecutionAdapter(state)
        copies = [copy.deepcopy(state), pickle.loads(pickle.dumps(state))]
        if isinstance(state, DeepAgentState):
            copies.append(state.model_copy(deep=True, update={"step_count": 3}))
        for copied in copies:
            assert type(copied) is kind
            get(copied, "messages").append(1)
            put(copied, "messages", [])
        assert get(state, "messages") == [{"content": "hello"}]

    def test_a_shallow_copy_is_its_own_object(self):
        state = DataclassState("ann-7", "thread-7", "run-7")
        LegacyExecutionAdapter(state)
        copied = copy.copy(state)
        assert type(copied) is DataclassState
        assert copied == state
        copied.user_request = "mine"
        assert dataclasses.replace(state, user_request="mine") == copied

    def test_what_is_shared_below_is_frozen_once_and_cycles_end(self):
        shared: dict[str, Any] = {"x": []}
        shared["self"] = shared
        state = PlainState(user_id="ann-7", thread_id="t-7", run_id="run-7", one=shared, two=[shared, (shared, [1])])
        LegacyExecutionAdapter(state)
        assert state.one is state.two[0] is state.one["self"]
        for write in (lambda: state.one["x"].append(1), lambda: state.two[1][1].append(1)):
            with pytest.raises(FrozenLegacyState):
                write()

    def test_what_others_hold_as_well_is_not_frozen(self):
        """A default of the process, say: what is frozen below a state is the state's own copy."""
        shared = AgentMetadata(custom_fields={"a": 1})
        state = PlainState(
            user_id="ann-7", thread_id="t-7", run_id="run-7", metadata=shared, names=shared.custom_fields
        )
        LegacyExecutionAdapter(state)
        for write in (
            lambda: setattr(state.metadata, "custom_fields", {}),
            lambda: state.metadata.custom_fields.update(b=2),
            lambda: state.names.update(b=2),
        ):
            with pytest.raises(FrozenLegacyState):
                write()
        assert state.metadata == shared
        shared.custom_fields["b"] = 2
        shared.custom_fields = {}

    def test_fields_that_the_model_does_not_declare_are_frozen(self):
        state = DeepAgentState(user_id="ann-7", chat_thread_id="t-7", run_id="run-7", more=[1])
        adapter = LegacyExecutionAdapter(state)
        with pytest.raises(FrozenLegacyState):
            state.more.append(2)
        assert state.model_dump()["more"] == [1]
        assert adapter.create_temporary_context().agent_context["more"] == [1]

    def test_services_of_a_state_are_left_alone(self):
        class Service:
            def __deepcopy__(self, memo):
                return self

        service = Service()
        LegacyExecutionAdapter(PlainState(user_id="ann-7", thread_id="t-7", run_id="run-7", service=service))
        service.counter = 1

    def test_a_state_that_nobody_holds_goes(self):
        state = PlainState(user_id="ann-7", thread_id="t-7", run_id="run-7")
        reference = weakref.ref(state)
        adapter = LegacyExecutionAdapter(state)
        assert id(state) in _told
        number = id(state)
        del state, adapter
        gc.collect()
        assert reference() is None
        assert number not in _told

    def test_fingerprints_tell_what_was_added_and_taken_away(self):
        state = {"a": 1, "b": []}
        fingerprint = Fingerprint(state)
        assert fingerprint.changed() == []
        state["c"] = 1
        del state["a"]
        assert sorted(fingerprint.changed()) == ["a", "c"]

    def test_modes_are_checked(self):
        with pytest.raises(ValueError, match="strict"):
            LegacyExecutionAdapter(PlainState(), writes="loose")  # type: ignore[arg-type]
        assert freeze({}, lambda _: None) is False
