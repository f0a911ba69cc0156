"""``UnifiedToolDispatcher``: the tool calls of one request."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import time
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from isolane._core import (
    BudgetExceeded,
    EventTooLarge,
    InvalidEvent,
    LimitRejected,
    RunClosed,
    UnifiedIDManager,
    UserExecutionContext,
    UserWebSocketEmitter,
    _check_boundary,
    _refusal,
)
from isolane.limits import LimitTimeout
from isolane.observability import seams
from isolane.security.errors import ResponseWithheldError
from isolane.security.permissions.answers import PermissionAnswer
from isolane.security.permissions.errors import PermissionDeniedError
from isolane.security.permissions.result import PermissionValidationResult, ViolationType
from isolane.tools.errors import (
    ParameterProblem,
    ToolDispatcherClosedError,
    ToolDispatchError,
    ToolExecutionError,
    ToolLimitError,
    ToolNotFoundError,
    ToolParameterError,
    ToolSanitizeError,
    ToolTimeoutError,
)
from isolane.tools.registry import add
from isolane.tools.request import DispatchStrategy, ToolDispatchRequest, ToolDispatchResponse
from isolane.tools.tool import Tool

if TYPE_CHECKING:
    from isolane.tools.factory import UnifiedToolDispatcherFactory

EXECUTE = "tool.execute"
"""The action of a tool call."""
ADMINISTER = "tool.admin"
"""The action of a call of a tool of administration."""
OWN_SPAN = "tools"
"""The name under which calls are shown that no agent makes."""
CLEANUP_SECONDS = 5.0
"""How long cancelled calls may take to end at the clean-up."""

_Begun = tuple[Tool, dict[str, Any], float, int]
"""The tool, its parameters, its seconds, and the number of the call."""

NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})

DISPATCHER_REQUIRED = "admin_dispatcher_required"
"""Told to operators: the user is an administrator, and the dispatcher was not made by ``create_for_admin``."""


class UnifiedToolDispatcher:
    """Calls tools for one request. Made by ``UnifiedToolDispatcherFactory``, or by ``context.get_tool_dispatcher()``.

    Each call is validated, checked by the wall and by permission, shown as ``tool_executing``, executed under a
    deadline, sanitized, recorded, and shown as ``tool_completed``, once on every way out.

    Attributes:
        user_context: the context of the request.
        strategy: what kind of dispatcher it is.
        dispatcher_id: unique name.
        created_at: aware UTC datetime.
    """

    def __init__(
        self,
        user_context: UserExecutionContext,
        *,
        _factory: UnifiedToolDispatcherFactory | None = None,
        _tools: Mapping[str, Tool] = MappingProxyType({}),
        _strategy: DispatchStrategy = DispatchStrategy.DEFAULT,
        _emitter: UserWebSocketEmitter | None = None,
    ) -> None:
        if _factory is None:
            raise TypeError(
                "Direct instantiation of UnifiedToolDispatcher is forbidden: a factory makes it, which knows what its "
                "user may do: use UnifiedToolDispatcherFactory(...).create_dispatcher(context)"
            )
        if not isinstance(user_context, UserExecutionContext):
            raise TypeError(
                f"Expected UserExecutionContext, got: {type(user_context).__name__}. Make one with from_request(...)"
            )
        if _emitter is not None and _emitter.user_id != user_context.user_id:
            raise _refusal("the emitter belongs to another user than the context", "bind")
        self.user_context = user_context
        self.strategy = _strategy
        self.dispatcher_id = f"dispatcher_{UnifiedIDManager.generate_request_id()[4:]}"
        self.created_at = datetime.now(UTC)
        self._factory = _factory
        self._registry = _tools
        self._own: dict[str, Tool] = {}
        self._emitter = _emitter
        self._looks = _factory.sanitizer is not None or _strategy is DispatchStrategy.ISOLATED
        """Whether what goes in and comes out is copied or sanitized."""
        self._closed = False
        self._running: set[int] = set()
        self._shown_alone = 0
        """Calls under way that are shown in an execution of the dispatcher's own."""
        self._executed = self._failed = self._checks = self._denials = self._crossings = self._events = 0
        self._took = 0.0
        self._last: float | None = None

    def __await__(self) -> Generator[Any, None, UnifiedToolDispatcher]:
        """It is there already: ``await factory.create_dispatcher(context)`` is the same as without ``await``."""
        yield from ()
        return self

    # -- tools -----------------------------------------------------------------------------------------------------

    def register_tool(self, tool: Any, **description: Any) -> Tool:
        """Add a tool to this dispatcher alone; the keywords are those of ``Tool.of``. Registering permits nothing.

        Raises ``ToolRegistrationError`` for what cannot be a tool and for a name that is taken.
        """
        self._check_open("")
        made = Tool.of(tool, **description)
        add(self._own, made, beside=self._registry)
        return made

    def _find(self, name: str) -> Tool:
        tool = self._own.get(name) or self._registry.get(name)
        if tool is None:
            raise ToolNotFoundError(str(name)[:128])
        return tool

    def has_tool(self, tool_name: str) -> bool:
        """Return whether there is a tool of this name, whoever may use it."""
        return tool_name in self._own or tool_name in self._registry

    def get_available_tools(self) -> list[str]:
        """Return the names of the tools that this user may use, in order. Services are not asked."""
        return sorted(name for name in {*self._registry, *self._own} if self._may_use(self._find(name)))

    def _may_use(self, tool: Tool) -> bool:
        if self._is_admin(tool) and not self._is_administrator():
            return False
        boundary = self._factory.permissions
        return boundary._may(self.user_context, self._action(tool), tool.resource)  # noqa: SLF001 - its other half

    def _is_admin(self, tool: Tool) -> bool:
        return tool.admin or tool.name in self._factory.admin_tools

    def _is_administrator(self) -> bool:
        return self.strategy is DispatchStrategy.ADMIN and self._factory.has_admin_role(self.user_context)

    # -- permission ------------------------------------------------------------------------------------------------

    def validate_permissions(self, tool_name: str, user_id: str | None = None) -> PermissionAnswer:
        """Return whether the user may use a tool. It is recorded as a check. ``await`` gives a ``bool``.

        A ``user_id`` that is not the context's is refused, and so is a tool that there is not.
        """
        if user_id is not None and user_id != self.user_context.user_id:
            self._note(
                self._factory.permissions.refuse(
                    *(self.user_context, EXECUTE, (f"tool:{tool_name}",)),
                    *(ViolationType.CROSS_USER_ACCESS_RISK, "foreign_user"),
                )
            )
            return PermissionAnswer(permitted=False, code="not_found")
        if self._closed or not self.has_tool(tool_name):
            return PermissionAnswer(permitted=False, code="tool_not_found")
        result = self._check(self._find(tool_name), NO_PARAMETERS, None)
        return PermissionAnswer(result.permitted, result.code)

    def _check(
        self, tool: Tool, arguments: Mapping[str, Any], given: Mapping[str, Any] | None
    ) -> PermissionValidationResult:
        is_admin = tool.admin or tool.name in self._factory.admin_tools
        result = self._check_admin(tool) if is_admin else None
        if result is None:
            action = ADMINISTER if is_admin else EXECUTE
            mentioned = _mentioned(tool, arguments, given)
            result = self._factory.permissions.check(self.user_context, action, (tool.resource,), mentioned=mentioned)
        self._note(result)
        return result

    async def _check_waiting(
        self, tool: Tool, arguments: Mapping[str, Any], given: Mapping[str, Any] | None, seconds: float
    ) -> PermissionValidationResult:
        """The same with services that may have to be awaited, which count against the time of the call."""
        result = self._check_admin(tool)
        if result is None:
            limit = asyncio.timeout(seconds)
            try:
                async with limit:
                    result = await self._factory.permissions.validate_execution_permissions(
                        *(self.user_context, self._action(tool), (tool.resource,)),
                        mentioned=_mentioned(tool, arguments, given),
                    )
            except TimeoutError:
                self._checks += 1
                self._denials += 1
                raise ToolTimeoutError(tool.name, seconds) from None
            if limit.expired():
                # A service kept its cancellation to itself, and the time of the call is over all the same.
                self._note(result)
                raise ToolTimeoutError(tool.name, seconds)
        self._note(result)
        return result

    def _admit(self, tool: Tool, arguments: Mapping[str, Any], given: Mapping[str, Any] | None, seconds: float) -> int:
        """Check a call and let it begin, in one step where roles decide alone. Returns its number."""
        factory = self._factory
        permissions, book = factory.permissions, factory.calls.book
        alone = permissions._alone  # noqa: SLF001 - its other half
        if alone is None or tool.admin or tool.name in factory.admin_tools:
            self._check(tool, arguments, given).raise_for_refusal()
            return book.begin(self.user_context, tool.name, seconds)
        admitted = book.admit(
            *alone, self.user_context, EXECUTE, tool.resource, _mentioned(tool, arguments, given), tool.name, seconds
        )
        if isinstance(admitted, int):
            self._checks += 1
            return admitted
        result = permissions._of_verdict(EXECUTE, admitted)  # noqa: SLF001 - its other half
        self._note(result)
        raise PermissionDeniedError(result.code, result)

    def _action(self, tool: Tool) -> str:
        return ADMINISTER if self._is_admin(tool) else EXECUTE

    def _check_admin(self, tool: Tool) -> PermissionValidationResult | None:
        """Refuse a tool of administration to whoever is no administrator, whatever the dispatcher is called."""
        if not self._is_admin(tool) or self._is_administrator():
            return None
        has_role = self._factory.has_admin_role(self.user_context)
        return self._factory.permissions.refuse(
            *(self.user_context, ADMINISTER, (tool.resource,)),
            *(ViolationType.INSUFFICIENT_PERMISSIONS, DISPATCHER_REQUIRED if has_role else "admin_role_required"),
        )

    def _note(self, result: PermissionValidationResult) -> None:
        self._checks += 1
        if not result.permitted:
            self._denials += 1
            self._crossings += result.code == "not_found"

    # -- calling ---------------------------------------------------------------------------------------------------

    async def execute_tool(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the dispatcher's own, which shows and counts it
    ) -> Any:
        """Call a tool, and return what it returns.

        Args:
            tool_name: which tool.
            parameters: by name. A parameter never stands in for the user's context, however it is called.
            timeout: seconds for this call; never more than the tool's own, or else the factory's.

        Raises ``ToolNotFoundError``, ``ToolParameterError``, ``PermissionDeniedError``, ``ToolLimitError``,
        ``ToolTimeoutError``, ``ToolExecutionError`` when the tool raised (its ``__cause__``),
        ``ToolDispatcherClosedError``, what publishing an event raises: ``RunClosed`` and ``BudgetExceeded``, and
        ``ResponseWithheldError`` when the installed detector enforces, and parameters, result, or what the tool raised,
        have data of another user.
        """
        call = self._call if seams.tracing is None else self._traced_call
        return await call(tool_name, parameters, timeout, {})

    async def dispatch_tool(
        self,
        request: ToolDispatchRequest | str,
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the dispatcher's own, which shows and counts it
    ) -> ToolDispatchResponse:
        """Call a tool, and return what it came to: a call that fails is a response as well.

        Takes a request, or the name of a tool and its parameters. Raises ``ToolDispatcherClosedError`` after the
        clean-up.
        """
        if isinstance(request, ToolDispatchRequest):
            tool_name, parameters = request.tool_name, request.parameters
        else:
            tool_name = request
        self._check_open(tool_name)
        about: dict[str, Any] = {"tool_name": tool_name, "code": "ok", "execution_time_ms": 0.0}
        try:
            call = self._call if seams.tracing is None else self._traced_call
            result = await call(tool_name, parameters, timeout, about)
        except (ToolDispatchError, PermissionDeniedError, ResponseWithheldError, RunClosed, BudgetExceeded) as error:
            about["code"] = getattr(error, "code", "run_closed" if isinstance(error, RunClosed) else "budget_exceeded")
            if isinstance(error, ToolParameterError):
                about["problems"] = [{"path": each.path, "message": each.message} for each in error.problems]
            if isinstance(error, ToolExecutionError):
                about["error_type"] = error.error_type
            return ToolDispatchResponse(
                success=False, error=str(error), metadata=MappingProxyType(about), exception=error
            )
        return ToolDispatchResponse(success=True, result=result, metadata=MappingProxyType(about))

    def _begin(self, tool_name: str, parameters: Mapping[str, Any] | None, timeout: float | None) -> _Begun:
        """Let a call begin, if what it asks for is valid and its user may do it. What is refused is counted."""
        if self._closed:
            self._check_open(tool_name)
        try:
            tool, arguments, seconds = self._prepared(tool_name, parameters, timeout)
            return tool, arguments, seconds, self._admit(tool, arguments, parameters, seconds)
        except Exception as error:
            self._count_refused(tool_name, error)
            raise

    async def _begin_waiting(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None,
        timeout: float | None,  # noqa: ASYNC109 - the dispatcher's own, which shows and counts it
    ) -> _Begun:
        """The same with services that may have to be awaited."""
        self._check_open(tool_name)
        try:
            tool, arguments, seconds = self._prepared(tool_name, parameters, timeout)
            now = asyncio.get_running_loop().time
            due = now() + seconds
            result = await self._check_waiting(tool, arguments, parameters, seconds)
            # The request may have ended meanwhile.
            self._check_open(tool_name)
            result.raise_for_refusal()
            left = max(due - now(), 0.0)
            return tool, arguments, left, self._factory.calls.book.begin(self.user_context, tool.name, left)
        except Exception as error:
            self._count_refused(tool_name, error)
            raise

    def _prepared(
        self, tool_name: str, parameters: Mapping[str, Any] | None, timeout: float | None
    ) -> tuple[Tool, dict[str, Any], float]:
        tool = self._find(tool_name)
        seconds = self._factory.timeout if tool.timeout is None else tool.timeout
        if timeout is not None:
            seconds = min(seconds, _seconds(timeout))
        arguments = tool.arguments(parameters)
        return tool, self._inward(tool, arguments) if self._looks else arguments, seconds

    def _count_refused(self, tool_name: str, error: Exception) -> None:
        """Count a call that never began. Raises ``ToolLimitError`` for one that had no room."""
        self._factory.calls.book.refuse(tool_name if self.has_tool(tool_name) else "_unknown")
        if isinstance(error, LimitRejected):
            raise ToolLimitError(tool_name, str(error), error.retry_after) from error

    async def _traced_call(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None,
        timeout: float | None,  # noqa: ASYNC109 - the dispatcher's own, which shows and counts it
        about: dict[str, Any],
    ) -> Any:
        tracing = seams.tracing
        if tracing is None:
            return await self._call(tool_name, parameters, timeout, about)
        # A model may ask for any name: one that there is not is nobody's to read.
        span = tracing.tool(self.user_context, tool_name if self.has_tool(tool_name) else "_unknown")
        try:
            result = await self._call(tool_name, parameters, timeout, about)
        except BaseException as error:
            span.end(error)
            raise
        span.end()
        return result

    async def _call(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None,
        timeout: float | None,  # noqa: ASYNC109 - the dispatcher's own, which shows and counts it
        about: dict[str, Any],
    ) -> Any:
        """Let a call begin, show it, run it under its deadline, and note how it ended."""
        factory = self._factory
        if factory.permissions.services:
            tool, arguments, seconds, number = await self._begin_waiting(tool_name, parameters, timeout)
        else:
            tool, arguments, seconds, number = self._begin(tool_name, parameters, timeout)
        task = factory.calls.follow(number, seconds)
        self._running.add(number)
        cancels = 0 if task is None else task.cancelling()
        how, problem, value, shown = "failed", "tool_failed", None, None
        refused: Exception | None = None
        try:
            _check_boundary("tool_in", self.user_context.user_id, arguments)
            shown = self._show_begin(tool, arguments)
            if tool.is_async:
                value = await tool.start(self.user_context, arguments)
            else:
                value = await self._in_thread(tool, arguments, seconds)
            if self._looks:
                value = self._outward(tool, value)
            _check_boundary("tool_out", self.user_context.user_id, value)
            if factory.calls.is_expired(number):
                # It kept its cancellation to itself; what it returned comes too late.
                raise asyncio.CancelledError  # noqa: TRY301 - one place for both
            how = "ok"
        except asyncio.CancelledError:
            how, problem, instead = self._of_cancellation(tool, seconds, number, task, cancels)
            if instead is None:
                raise
            raise instead from None
        except (ToolDispatchError, ResponseWithheldError, RunClosed, BudgetExceeded) as error:
            problem, value = getattr(error, "code", problem), None
            raise
        except Exception as error:  # noqa: BLE001 - whatever a tool raises; it is raised below
            is_own = self._is_own_cancellation(number, task, cancels)
            how, problem, refused = self._refusal(tool, error, seconds if is_own else None)
        finally:
            self._end(number, tool, how, problem, value, shown, about)
        if refused is None:
            return value
        # Raised here, where what the tool raised is behind it only if it was put there.
        raise refused

    def _of_cancellation(
        self, tool: Tool, seconds: float, number: int, task: asyncio.Task[Any] | None, cancels: int
    ) -> tuple[str, str, ToolDispatchError | None]:
        """Return how a call ended that was left by a cancellation, and what is raised instead, if anything is."""
        if self._is_own_cancellation(number, task, cancels):
            return "timed_out", ToolTimeoutError.code, ToolTimeoutError(tool.name, seconds)
        if task is not None and task.cancelling() <= cancels:
            # Nobody cancels this task: the tool awaited something else that was cancelled.
            kind = asyncio.CancelledError.__name__
            return "failed", kind, ToolExecutionError(tool.name, kind)
        return "cancelled", "cancelled", None

    def _is_own_cancellation(self, number: int, task: asyncio.Task[Any] | None, cancels: int) -> bool:
        """Return whether a cancellation came from the deadline alone, and take it back. As ``asyncio.timeout`` does."""
        return self._factory.calls.is_expired(number) and task is not None and task.uncancel() <= cancels

    async def _in_thread(self, tool: Tool, arguments: Mapping[str, Any], seconds: float) -> Any:
        threads = self._factory.threads
        try:
            permit = await threads.acquire(self.user_context.user_id, seconds)
        except (LimitRejected, LimitTimeout) as error:
            raise ToolLimitError(tool.name, str(error), error.retry_after) from error
        result = await threads.run(permit, partial(tool.start, self.user_context, arguments))
        # A plain function may hand out a coroutine, as a lambda around an async one does.
        return await result if inspect.isawaitable(result) else result

    def _refusal(self, tool: Tool, error: Exception, seconds: float | None) -> tuple[str, str, Exception]:
        """Return how a call ended whose tool raised, the problem in one word, and what its caller gets.

        That has what the tool raised as its cause, which the caller may show, unless it has data of another user.
        """
        name = type(error).__name__
        refused: Exception = ToolExecutionError(tool.name, name)
        how, problem = "failed", name
        if seconds is not None:
            how, problem, refused = "timed_out", ToolTimeoutError.code, ToolTimeoutError(tool.name, seconds)
        try:
            _check_boundary("tool_out", self.user_context.user_id, error)
        except ResponseWithheldError as withheld:
            return (
                (how, withheld.code, ResponseWithheldError("tool_out")) if seconds is None else (how, problem, refused)
            )
        refused.__cause__ = error
        return how, problem, refused

    def _inward(self, tool: Tool, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters as the tool gets them."""
        if self.strategy is DispatchStrategy.ISOLATED:
            try:
                arguments = copy.deepcopy(arguments)
            except Exception as error:
                problem = ParameterProblem("", "they cannot be copied, as an isolated dispatcher does", "copy")
                raise ToolParameterError(tool.name, [problem]) from error
        sanitized: dict[str, Any] = self._sanitized(tool, arguments, "tool_params")
        return sanitized

    def _outward(self, tool: Tool, value: Any) -> Any:
        """Return the result as the caller gets it."""
        if self.strategy is DispatchStrategy.ISOLATED:
            value = copy.deepcopy(value)
        return self._sanitized(tool, value, "llm")

    def _sanitized(self, tool: Tool, value: Any, boundary: str) -> Any:
        sanitizer = self._factory.sanitizer
        if sanitizer is None:
            return value
        try:
            return sanitizer.sanitize(value, boundary=boundary, context=self.user_context).value
        except Exception as error:
            # What cannot be looked through does not pass.
            raise ToolSanitizeError(tool.name) from error

    # -- showing ---------------------------------------------------------------------------------------------------

    def _show_begin(self, tool: Tool, arguments: Mapping[str, Any]) -> tuple[UserWebSocketEmitter, bool]:
        """Publish ``tool_executing``. Returns the emitter, and whether the call is shown in an execution of its own."""
        emitter = self._emitter if self._emitter is not None else self.user_context.get_websocket_emitter()
        if not self._shown_alone:
            has_place = type(emitter) is not UserWebSocketEmitter or emitter._has_execution()  # noqa: SLF001 - its own
            if has_place and self._announced(emitter, tool, arguments):
                return emitter, False
            # No agent runs here, and an event of a tool has its place in an execution.
            emitter.notify_agent_started(agent_name=OWN_SPAN)
        self._shown_alone += 1
        try:
            self._announce(emitter, tool, arguments)
        except BaseException:
            self._leave_own_span(emitter)
            raise
        return emitter, True

    def _announce(self, emitter: UserWebSocketEmitter, tool: Tool, arguments: Mapping[str, Any]) -> None:
        if not self._announced(emitter, tool, arguments):
            raise ToolDispatchError(tool.name, f"the call of tool {tool.name} could not be shown, so it was not made")

    def _announced(self, emitter: UserWebSocketEmitter, tool: Tool, arguments: Mapping[str, Any]) -> bool:
        """Publish, if need be without parameters that cannot be sent. ``False``: there is no place for it."""
        try:
            if type(emitter) is UserWebSocketEmitter:
                emitter._show_tool_begin(tool.name, arguments)  # noqa: SLF001 - without an answer nobody awaits
            else:
                emitter.notify_tool_executing(tool_name=tool.name, params=arguments)
        except (InvalidEvent, EventTooLarge) as refused:
            try:
                metadata = {"parameters_omitted": type(refused).__name__}
                emitter.notify_tool_executing(tool_name=tool.name, params=None, metadata=metadata)
            except InvalidEvent:
                return False
        self._events += 1
        return True

    def _leave_own_span(self, emitter: UserWebSocketEmitter) -> None:
        self._shown_alone -= 1
        if not self._shown_alone:
            with contextlib.suppress(InvalidEvent, RunClosed, BudgetExceeded):
                emitter.notify_agent_completed(agent_name=OWN_SPAN, result=None)

    def _end(
        self,
        number: int,
        tool: Tool,
        how: str,
        problem: str,
        value: Any,
        shown: tuple[UserWebSocketEmitter, bool] | None,
        about: dict[str, Any],
    ) -> None:
        """Record the end of a call and publish ``tool_completed``: on every way out, and once."""
        self._running.discard(number)
        took = self._factory.calls.end(number, how)
        self._executed += 1
        self._failed += how != "ok"
        self._last = time.time()
        if took is None:
            return
        self._took += took
        about["execution_time_ms"] = took
        if shown is None:
            return
        emitter, alone = shown
        try:
            self._show_end(emitter, tool, None if how == "ok" else problem, value)
        finally:
            if alone:
                self._leave_own_span(emitter)

    def _show_end(self, emitter: UserWebSocketEmitter, tool: Tool, problem: str | None, value: Any) -> None:
        try:
            if problem is not None:
                emitter.notify_tool_completed(tool_name=tool.name, error=problem)
            else:
                try:
                    if type(emitter) is UserWebSocketEmitter:
                        emitter._show_tool_end(tool.name, value)  # noqa: SLF001 - without an answer nobody awaits
                    else:
                        emitter.notify_tool_completed(tool_name=tool.name, result=value)
                except (InvalidEvent, EventTooLarge) as refused:
                    metadata = {"result_omitted": type(refused).__name__}
                    emitter.notify_tool_completed(tool_name=tool.name, result=None, metadata=metadata)
                except ResponseWithheldError as withheld:
                    emitter.notify_tool_completed(tool_name=tool.name, error=withheld.code)
                    self._events += 1
                    raise
        except (InvalidEvent, RunClosed):
            # The run ended meanwhile, or its agent did: what was open was closed then, with its last event.
            return
        except BudgetExceeded:
            # There is always room for the last event of what is open.
            emitter.close_open("the tool ended, and its result found no room", spans=False)
        self._events += 1

    # -- state -----------------------------------------------------------------------------------------------------

    def _check_open(self, tool_name: object) -> None:
        if self._closed:
            raise ToolDispatcherClosedError(str(tool_name)[:128])

    @property
    def is_closed(self) -> bool:
        """Whether it was cleaned up."""
        return self._closed

    def get_metrics(self) -> dict[str, Any]:
        """Return counts of this dispatcher. Those of each tool, with percentiles, are the factory's."""
        return {
            "dispatcher_id": self.dispatcher_id,
            "user_id": self.user_context.user_id,
            "strategy": self.strategy.value,
            "created_at": self.created_at,
            "tools_executed": self._executed,
            "successful_executions": self._executed - self._failed,
            "failed_executions": self._failed,
            "running_executions": len(self._running),
            "total_execution_time_ms": self._took,
            "last_execution_time": None if self._last is None else datetime.fromtimestamp(self._last, UTC),
            "websocket_events_sent": self._events,
            "permission_checks": self._checks,
            "permission_denials": self._denials,
            "security_violations": self._crossings,
        }

    def _close(self) -> None:
        """Take no more calls, and let go of the tools. The context calls it when it is cleaned up."""
        self._closed = True
        self._own.clear()
        self._registry = MappingProxyType({})

    async def cleanup(self) -> None:
        """Take no more calls; cancel those that run, and wait up to 5 s for them. Calling it again does nothing."""
        self._close()
        tasks = self._factory.calls.cancel(list(self._running))
        if tasks:
            await asyncio.wait(tasks, timeout=CLEANUP_SECONDS)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._running)} running"
        return f"<UnifiedToolDispatcher {self.strategy.value}, {len(self._registry) + len(self._own)} tools, {state}>"


def _seconds(timeout: float) -> float:
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, got {timeout!r}")
    return timeout


def _mentioned(tool: Tool, arguments: Mapping[str, Any], given: Mapping[str, Any] | None) -> tuple[Any, ...]:
    if not tool.resources and "user_id" not in arguments and (not given or "user_id" not in given):
        return ()
    try:
        return tuple(tool.mentioned(arguments, given))
    except Exception as error:
        problem = ParameterProblem("", "the resources that they name cannot be told", "resources")
        raise ToolParameterError(tool.name, [problem]) from error
