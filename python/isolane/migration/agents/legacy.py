"""Running an agent of the older signature, ``execute(state, run_id, stream_updates)``, on a context of its user."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from isolane._core import UserExecutionContext
from isolane.migration.agents.errors import EntryConditionsError
from isolane.migration.agents.state import hand_on, state_for, text_of
from isolane.migration.deprecation import deprecated_call

logger = logging.getLogger("isolane.migration")

CLEANUP_SECONDS = 5.0
"""How long ``cleanup(state, run_id)`` of an older agent may take."""

_STATES = frozenset({"state", "agent_state", "deep_agent_state"})
_REQUESTS = frozenset({"message", "query", "request", "user_request"})
_CONTEXTS = frozenset({"context", "user_context", "user_execution_context"})


async def run_legacy(
    agent: Any, context: UserExecutionContext, request: Any, results: Mapping[str, Any], name: str = ""
) -> Any:
    """Run an older agent: ``check_entry_conditions``, ``execute``, ``cleanup``, as far as it has them.

    Its parameters get by their names: ``state``, a state of its own; ``run_id``, ``thread_id`` and ``user_id`` of the
    context; ``stream_updates``, true; ``context``; ``request``; ``results``. All three may be plain functions.

    Returns what ``execute`` returns, or the state when it returns nothing. Raises ``EntryConditionsError`` when the
    conditions are not met, ``TypeError`` for a parameter that nothing fits, and what the agent raises.
    """
    cls = type(agent)
    name = name or str(getattr(cls, "name", "") or cls.__name__)
    deprecated_call(f"{cls.__module__}.{cls.__qualname__}.execute", "ISO-D002")
    state = state_for(request, context)
    given = _Given(state, context, request, results)
    try:
        check = getattr(agent, "check_entry_conditions", None)
        if callable(check) and not await _called(check, given):
            raise EntryConditionsError(
                f"agent {name!r} did not run: its check_entry_conditions said no. Run the agents that it builds upon "
                "first, or give it what it looks for",
                name,
            )
        returned = await _called(agent.execute, given)
        return hand_on(request, state, returned, context)
    finally:
        await _cleaned_up(agent, given)


def has_legacy_signature(execute: Callable[..., Any]) -> bool:
    """Return whether something takes a state and a run, as opposed to a context and a request."""
    names = [name for name in inspect.signature(execute).parameters if name != "self"]
    return bool(names) and (names[0] in _STATES or "run_id" in names)


class _Given:
    """What there is for the parameters of an older agent, by their names."""

    def __init__(self, state: Any, context: UserExecutionContext, request: Any, results: Mapping[str, Any]) -> None:
        self._state = state
        self._request = text_of(request)
        self._by_name: dict[str, Any] = {
            **dict.fromkeys(_STATES, state),
            **dict.fromkeys(_CONTEXTS, context),
            **dict.fromkeys(_REQUESTS, self._request),
            "run_id": context.run_id,
            "thread_id": context.thread_id,
            "chat_thread_id": context.thread_id,
            "user_id": context.user_id,
            "stream_updates": True,
            "results": results,
        }

    def arguments(self, function: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return positional and keyword arguments. Raises ``TypeError`` for a parameter that nothing fits."""
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        parameters = inspect.signature(function).parameters
        may_be_positional = True
        for at, parameter in enumerate(parameters.values()):
            if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
                continue
            if parameter.name in self._by_name:
                value = self._by_name[parameter.name]
            elif parameter.default is not parameter.empty:
                may_be_positional = False
                continue
            elif at == 0:
                # Whatever it is called: a state where the run is named as well, else the request.
                value = self._state if len(parameters) > 1 else self._request
            else:
                raise TypeError(
                    f"{function.__qualname__} has a parameter {parameter.name!r} that an engine cannot give. Known are "
                    f"{', '.join(sorted(self._by_name))}; give the others a default, or write execute_with_context"
                )
            if may_be_positional and parameter.kind is not parameter.KEYWORD_ONLY:
                positional.append(value)
            else:
                keywords[parameter.name] = value
        return positional, keywords


async def _called(function: Callable[..., Any], given: _Given) -> Any:
    positional, keywords = given.arguments(function)
    made = function(*positional, **keywords)
    return await made if inspect.isawaitable(made) else made


async def _cleaned_up(agent: Any, given: _Given) -> None:
    cleanup = getattr(agent, "cleanup", None)
    if not callable(cleanup):
        return
    try:
        async with asyncio.timeout(CLEANUP_SECONDS):
            await _called(cleanup, given)
    except Exception:
        # What the agent came to must stay what is seen.
        logger.warning("the clean-up of an older agent failed", exc_info=True)
