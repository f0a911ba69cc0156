"""States as the older service has them, of every kind, without anything of isolane; and a search for what two share."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, TypedDict

from pydantic import BaseModel, ConfigDict, Field


class AgentMetadata(BaseModel):
    custom_fields: dict[str, Any] = Field(default_factory=dict)


class DeepAgentState(BaseModel):
    """As the older service has it: a model that everybody writes into."""

    model_config = ConfigDict(extra="allow")

    user_request: str = "default_request"
    chat_thread_id: str | None = None
    user_id: str | None = None
    run_id: str | None = None
    agent_input: dict[str, Any] | None = None
    triage_result: Any = None
    data_result: Any = None
    messages: list[Any] = Field(default_factory=list)
    metadata: AgentMetadata = Field(default_factory=AgentMetadata)
    step_count: int = 0

    @property
    def thread_id(self) -> str | None:
        return self.chat_thread_id


@dataclasses.dataclass
class DataclassState:
    user_id: str | None = None
    thread_id: str | None = None
    run_id: str | None = None
    user_request: str = ""
    messages: list[Any] = dataclasses.field(default_factory=list)
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class SlottedState:
    user_id: str | None = None
    thread_id: str | None = None
    run_id: str | None = None
    user_request: str = ""
    messages: list[Any] = dataclasses.field(default_factory=list)
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


class DictState(TypedDict, total=False):
    user_id: str | None
    thread_id: str | None
    run_id: str | None
    messages: list[Any]
    metadata: dict[str, Any]


class PlainState:
    def __init__(self, **fields: Any) -> None:
        self.messages: list[Any] = []
        self.metadata: dict[str, Any] = {}
        vars(self).update(fields)


def model_state(**fields: Any) -> DeepAgentState:
    thread = fields.pop("thread_id", None)
    return DeepAgentState(**({"chat_thread_id": thread} if thread is not None else {}), **fields)


STATES = {
    "pydantic": model_state,
    "dataclass": DataclassState,
    "slotted": SlottedState,
    "dict": lambda **fields: DictState(**{"messages": [], "metadata": {}, **fields}),
    "namespace": lambda **fields: SimpleNamespace(**{"messages": [], "metadata": {}, **fields}),
    "plain": PlainState,
}


def aliases(mine: Any, theirs: Any, path: str = "") -> list[str]:
    """The paths of the objects that can be changed and that two values both hold, at any depth."""

    def reach(value: Any, path: str, seen: dict[int, str]) -> None:
        if isinstance(value, (str, int, float, bool, type(None), type)) or id(value) in seen:
            return
        seen[id(value)] = path
        if isinstance(value, dict):
            for key, each in value.items():
                reach(each, f"{path}.{key}", seen)
        elif isinstance(value, (list, tuple, set)):
            for at, each in enumerate(value):
                reach(each, f"{path}[{at}]", seen)
        elif hasattr(value, "__dict__"):
            reach(vars(value), path, seen)

    found: tuple[dict[int, str], dict[int, str]] = {}, {}
    reach(mine, path, found[0])
    reach(theirs, path, found[1])
    return sorted(found[0][number] for number in set(found[0]) & set(found[1]))
