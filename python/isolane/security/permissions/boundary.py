"""``PermissionBoundarySystem``: every check of a request, in its fixed order, with its record."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Iterable, Sequence
from itertools import islice
from typing import Any

from isolane._core import ContextIsolationError, UserExecutionContext, Verdict
from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity
from isolane.security.permissions.engine import PermissionEngine
from isolane.security.permissions.result import PermissionValidationResult, ViolationType
from isolane.security.permissions.service import PermissionService

logger = logging.getLogger("isolane.security")

MAX_RESOURCES = 256
"""Most resources of one request."""
MAX_NAME = 256
"""So much of a resource's name is recorded."""
MAX_ACTION = 128
"""Longest name of an action."""

SEVERITIES = tuple(Severity)
"""From the least to the worst."""

UNANSWERED: Any = object()
"""Stands for the answer of a service that gave none; why is noted already."""


def _names(resources: Iterable[Any]) -> tuple[str, ...]:
    """Return the resources as services and records see them."""
    return tuple(each if isinstance(each, str) else f"object:{type(each).__name__}" for each in resources)


class PermissionBoundarySystem:
    """Checks requests: the context, the wall, the action, each resource, then the services. All that is found is told.

    A result is refused from the beginning, is finished and recorded on every way out, and is refused when it cannot be
    recorded.

    Args:
        engine: the wall and the roles. Default: without services nothing is allowed; with services they decide behind
            the wall.
        services: further deciders. Each must permit. They are asked only about what passed the wall and the roles.
        audit: records every check. Default: nothing is recorded.
        service_timeout: seconds that one service may take.
        verify_context: look for foreign objects in the context as well (``verify_isolation``).
    """

    def __init__(
        self,
        engine: PermissionEngine | None = None,
        *,
        services: Sequence[PermissionService] = (),
        audit: AuditSink | None = None,
        service_timeout: float = 1.0,
        verify_context: bool = True,
    ) -> None:
        if not service_timeout > 0:
            raise ValueError(f"service_timeout must be more than 0 seconds, got {service_timeout!r}")
        self.permission_engine = engine if engine is not None else PermissionEngine()
        self.services = tuple(services)
        for service in self.services:
            if not callable(getattr(service, "authorize", None)):
                raise TypeError(f"a permission service has authorize(context, action, resources), got: {service!r}")
        self._asks_roles = engine is not None or not self.services
        self._audit = audit
        self._service_timeout = service_timeout
        self._verify_context = verify_context
        # What every check asks, without a way through the engine.
        held = self.permission_engine
        self._ask_wall = held._wall.evaluate  # noqa: SLF001 - the engine's other half
        self._policy = held._policy if self._asks_roles else None  # noqa: SLF001
        self._roles_beside = held._roles_beside if self._asks_roles and held._roles_of is not None else None  # noqa: SLF001
        named = ["roles"] if self._asks_roles else []
        self._engine_name = "+".join(named + [type(service).__name__ for service in self.services])
        # Where the wall and the roles decide alone and nobody wants a record, a dispatcher asks both in one step.
        alone = type(self) is PermissionBoundarySystem and not self.services and audit is None
        alone = alone and not verify_context and self._roles_beside is None
        self._alone = (held._wall, held._policy) if alone else None  # noqa: SLF001

    # -- checking --------------------------------------------------------------------------------------------------

    def check(
        self,
        context: UserExecutionContext,
        requested_action: str,
        target_resources: Iterable[Any] = (),
        *,
        mentioned: Iterable[Any] = (),
    ) -> PermissionValidationResult:
        """Check a request at once. A service that would have to be awaited refuses.

        Args:
            context: who asks.
            requested_action: what is to be done, such as ``document.read``.
            target_resources: to what: names such as ``document:ann/7``, ids of runs, or objects with a ``user_id``.
            mentioned: what else the request names, such as parameters of a tool. The wall is asked about it; it needs
                no role that allows it, but none may deny it.
        """
        result = PermissionValidationResult(requested_action, self._engine_name)
        resources: tuple[Any, ...] = ()
        others: tuple[Any, ...] = ()
        try:
            resources, others = self._resources(target_resources), self._resources(mentioned)
            if self._evaluate(result, context, requested_action, resources, others):
                for service in self.services:
                    answer = service.authorize(context, requested_action, _names(resources + others))
                    if inspect.isawaitable(answer):
                        _close(answer)
                        answer = UNANSWERED
                        self._violate(result, ViolationType.VALIDATION_ERROR, "service_is_async")
                    self._note(result, service, answer)
                result._verdict.complete()  # noqa: SLF001 - the result's other half
        except Exception as error:  # noqa: BLE001 - whatever went wrong, it refuses
            self._broke_off(result, error)
        finally:
            self._finish(result, context, resources + others)
        return result

    async def validate_execution_permissions(
        self,
        context: UserExecutionContext,
        requested_action: str,
        target_resources: Iterable[Any] = (),
        *,
        mentioned: Iterable[Any] = (),
    ) -> PermissionValidationResult:
        """Check a request as ``check`` does, and await services that are to be awaited.

        It completes in its first step when no service is. Each service has ``service_timeout`` seconds; one that raises
        or takes longer refuses. A check that is cancelled is refused and recorded as well.
        """
        result = PermissionValidationResult(requested_action, self._engine_name)
        resources: tuple[Any, ...] = ()
        others: tuple[Any, ...] = ()
        try:
            resources, others = self._resources(target_resources), self._resources(mentioned)
            if self._evaluate(result, context, requested_action, resources, others):
                for service in self.services:
                    answer = service.authorize(context, requested_action, _names(resources + others))
                    if inspect.isawaitable(answer):
                        answer = await self._awaited(result, answer)
                    self._note(result, service, answer)
                result._verdict.complete()  # noqa: SLF001 - the result's other half
        except Exception as error:  # noqa: BLE001 - whatever went wrong, it refuses
            self._broke_off(result, error)
        except BaseException:
            self._violate(result, ViolationType.VALIDATION_ERROR, "check_cancelled")
            raise
        finally:
            self._finish(result, context, resources + others)
        return result

    def _may(self, context: UserExecutionContext, action: str, resource: str) -> bool:
        """Return what the roles say, to list what somebody may do. Nothing is recorded, and no service is asked."""
        engine = self.permission_engine
        if not self._asks_roles:
            return True
        return engine._policy.rule(engine.roles_for(context), action, resource)[0]  # noqa: SLF001 - its other half

    def refuse(
        self,
        context: UserExecutionContext,
        requested_action: str,
        target_resources: Iterable[Any],
        violation: ViolationType,
        code: str,
    ) -> PermissionValidationResult:
        """Refuse a request for a reason of the caller's own, and record it as a check."""
        result = PermissionValidationResult(requested_action, self._engine_name)
        resources: tuple[Any, ...] = ()
        try:
            resources = self._resources(target_resources)
            self._violate(result, violation, code)
            result._verdict.complete()  # noqa: SLF001 - the result's other half
        finally:
            self._finish(result, context, resources)
        return result

    def _of_verdict(self, action: str, verdict: Verdict) -> PermissionValidationResult:
        """Return what a dispatcher's own check came to."""
        return PermissionValidationResult(action, self._engine_name, verdict)

    def _resources(self, given: Iterable[Any]) -> tuple[Any, ...]:
        if type(given) is tuple and len(given) <= MAX_RESOURCES:
            return given
        if isinstance(given, str):
            # One name, and not its letters.
            return (given,)
        return tuple(islice(given, MAX_RESOURCES + 1))

    def _evaluate(
        self,
        result: PermissionValidationResult,
        context: Any,
        action: Any,
        resources: tuple[Any, ...],
        mentioned: tuple[Any, ...],
    ) -> bool:
        """The steps that are decided at once. Returns whether nothing was found so far."""
        if not isinstance(context, UserExecutionContext):
            self._violate(result, ViolationType.CONTEXT_INTEGRITY_FAILURE, "not_a_context")
            return False
        if self._verify_context:
            try:
                context.verify_isolation()
            except ContextIsolationError:
                self._violate(result, ViolationType.CONTEXT_INTEGRITY_FAILURE, "context_not_isolated")
                return False
        roles = self._roles_beside(context) if self._roles_beside is not None else None
        verdict = result._verdict  # noqa: SLF001 - the result's other half
        return self._ask_wall(context, action, resources, mentioned, self._policy, verdict, roles)

    async def _awaited(self, result: PermissionValidationResult, answer: Awaitable[bool]) -> Any:
        limit = asyncio.timeout(self._service_timeout)
        try:
            async with limit:
                said = await answer
        except TimeoutError:
            if not limit.expired():
                raise
        # Also one that kept its cancellation to itself and answered afterwards.
        if limit.expired():
            self._violate(result, ViolationType.VALIDATION_ERROR, "service_timeout")
            return UNANSWERED
        return said

    def _note(self, result: PermissionValidationResult, service: PermissionService, answer: Any) -> None:
        # Not what counts as true: a list of reasons, or a coroutine that nobody awaited, would permit.
        if answer is not True and answer is not UNANSWERED:
            result._verdict.decided_by([type(service).__name__])  # noqa: SLF001 - the result's other half
            self._violate(result, ViolationType.POLICY_VIOLATION, "refused_by_service")

    @staticmethod
    def _violate(result: PermissionValidationResult, kind: ViolationType, code: str) -> None:
        result._verdict.violate(kind, code)  # noqa: SLF001 - the result's other half

    def _broke_off(self, result: PermissionValidationResult, error: Exception) -> None:
        # The text of an exception may have anybody's data in it: it goes to the log of the process and nowhere else.
        logger.error("a permission check failed, so it was refused", exc_info=error)
        self._violate(result, ViolationType.VALIDATION_ERROR, "check_failed")

    # -- recording -------------------------------------------------------------------------------------------------

    def _finish(self, result: PermissionValidationResult, context: Any, resources: tuple[Any, ...]) -> None:
        """Finish a result and record it: on every way out of a check."""
        verdict = result._verdict  # noqa: SLF001 - the result's other half
        if not verdict.close() or self._audit is None:
            return
        try:
            self._audit.record(self._event(result, context, resources))
        except AuditUnavailableError:
            verdict.withdraw()
        except Exception:
            logger.exception("a permission check could not be recorded, so it was refused")
            verdict.withdraw()

    @staticmethod
    def _event(result: PermissionValidationResult, context: Any, resources: tuple[Any, ...]) -> SecurityEvent:
        verdict = result._verdict  # noqa: SLF001 - the result's other half
        violations = verdict.violations
        crossed = any(kind == ViolationType.CROSS_USER_ACCESS_RISK for kind, *_ in violations)
        data: dict[str, Any] = {
            "action": str(result.action)[:MAX_ACTION],
            "resources": [name[:MAX_NAME] for name in _names(resources)[:MAX_RESOURCES]],
            "permitted": verdict.permitted,
            "evaluated": verdict.evaluated,
            "violations": [[kind, code, resource] for kind, code, resource, _ in violations],
            "policies": verdict.policies,
            "policy_revision": verdict.revision,
            "engine": result.engine,
            "micros": verdict.micros,
        }
        user_id = None
        if isinstance(context, UserExecutionContext):
            user_id = context.user_id
            data["run_id"], data["request_id"] = context.run_id, context.request_id
        severities = [Severity(severity) for *_, severity in violations]
        return SecurityEvent(
            name=_event_name(permitted=verdict.permitted, crossed=crossed),
            audit_class=AuditClass.ISOLATION if crossed else AuditClass.PERMISSION,
            user_id=user_id,
            severity=max(severities, key=SEVERITIES.index) if severities else Severity.INFO,
            data=data,
        )

    def __repr__(self) -> str:
        return f"<PermissionBoundarySystem {self._engine_name}>"


def _event_name(*, permitted: bool, crossed: bool) -> str:
    if permitted:
        return "authz_permitted"
    return "malicious_direct_reference" if crossed else "authz_fail"


def _close(answer: Any) -> None:
    """A coroutine that nobody will await is closed, so that it does not warn about itself."""
    close = getattr(answer, "close", None)
    if callable(close):
        close()
