"""``PermissionEngine``: the wall and the roles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from isolane._core import OwnershipWall, RolePolicy, UserExecutionContext, Verdict
from isolane.security.permissions.answers import PermissionAnswer, PolicyCompliance, ResourceAccess
from isolane.security.permissions.grants import Grants
from isolane.security.permissions.result import PermissionValidationResult

RolesOf = Callable[[str], Iterable[str]]

PASSES = frozenset({"own", "granted", "shared"})
REASONS = {"foreign": "foreign_resource", "unknown": "owner_unknown", "malformed": "resource_not_understood"}


class PermissionEngine:
    """Decides by ownership first and by roles second. What no role allows is denied, and one denial overrides all else.

    Roles are ``{"analyst": {"allow": [...], "deny": [...], "inherits": [...]}}``; a rule is ``{"actions": [...],
    "resources": [...]}``, with patterns in which ``*`` stands for any characters, or an action alone. The role
    ``everyone`` is everybody's.

    Args:
        roles: the policy. Default: empty, so that nothing is allowed.
        roles_of: the roles of a user by the id, beside those of ``context.permissions``. It must not wait.
        grants: what owners let others reach. Default: nothing.
        unknown_owner: what about resources whose owner is unknown: ``deny``, or ``roles``, which lets the roles decide.
        shared_kinds: kinds of resources that belong to nobody, such as ``model``. ``tool`` always does.
        allow_blanket: accept a rule that allows every action on every resource.

    Raises ``PolicyLoadError`` for a policy that is not valid.
    """

    def __init__(
        self,
        roles: Mapping[str, Any] | None = None,
        *,
        roles_of: RolesOf | None = None,
        grants: Grants | None = None,
        unknown_owner: Literal["deny", "roles"] = "deny",
        shared_kinds: Iterable[str] = (),
        allow_blanket: bool = False,
    ) -> None:
        self.grants = grants if grants is not None else Grants()
        self._roles_of = roles_of
        self._policy = RolePolicy(dict(roles or {}), allow_blanket=allow_blanket)
        self._wall = OwnershipWall(self.grants._book, unknown_owner, list(shared_kinds))  # noqa: SLF001 - its other half

    @classmethod
    def for_tools(cls, tools: Mapping[str, Iterable[str]], **options: Any) -> PermissionEngine:
        """Make an engine that allows roles to use tools: ``{"everyone": ["search"], "analyst": ["report_*"]}``.

        Options are those of the class.
        """
        roles = {
            role: {"allow": [{"actions": ["tool.execute"], "resources": [f"tool:{name}" for name in names]}]}
            for role, names in tools.items()
        }
        return cls(roles, **options)

    def load(self, roles: Mapping[str, Any]) -> str:
        """Put another policy in place, for all checks from now on. Returns its revision.

        Raises ``PolicyLoadError`` for one that is not valid; then the one before stays in force.
        """
        return self._policy.load(dict(roles))

    @property
    def revision(self) -> str:
        """Names the policy in force: the same for the same rules, in whatever order they are written."""
        return self._policy.revision

    def roles_for(self, user: str | UserExecutionContext) -> list[str]:
        """Return the names of a user's roles, without ``everyone``. Of a user by the id, only those of ``roles_of``."""
        user_id, given = (user, ()) if isinstance(user, str) else (user.user_id, user.permissions)
        more = self._roles_of(user_id) if self._roles_of is not None else ()
        if isinstance(more, str):
            raise TypeError("roles_of must return a collection of names, got one string")
        return [*given, *more]

    def _roles_beside(self, context: UserExecutionContext) -> list[str] | None:
        """Return all roles of a context, or ``None`` when they are those that it carries."""
        return None if self._roles_of is None else self.roles_for(context)

    def _asker(self, user_id: str, context_data: Any) -> str | UserExecutionContext:
        """Return the context when there is one of this user. Other data is the caller's word, and gives no role."""
        if isinstance(context_data, UserExecutionContext) and context_data.user_id == user_id:
            return context_data
        return user_id

    def check_user_permission(self, user_id: str, action: str, context_data: Any = None) -> PermissionAnswer:
        """Return whether a user may do this to anything at all.

        ``context_data`` may be the user's context, whose ``permissions`` count then; anything else in it gives no role.
        """
        roles = self.roles_for(self._asker(user_id, context_data))
        permitted = self._policy.may_ever(roles, action)
        return PermissionAnswer(permitted, "permitted" if permitted else "action_not_permitted")

    def validate_resource_access(
        self, user_id: str, resource_id: Any, access_type: str, context_data: Any = None
    ) -> ResourceAccess:
        """Return whether a user may do this to a resource: by ownership first, then by roles."""
        asker = self._asker(user_id, context_data)
        passage = self._wall.passage(asker, resource_id, access_type)
        if passage not in PASSES and not (passage == "unknown" and self._lets_roles_decide):
            return ResourceAccess(permitted=False, reason=REASONS[passage])
        if not isinstance(resource_id, str):
            # An object has no name of its own: only a rule for everything can be meant.
            resource_id = ""
        permitted, policies = self._policy.rule(self.roles_for(asker), access_type, resource_id)
        reason = "permitted" if permitted else "denied_by_role" if policies else "not_permitted_by_any_role"
        return ResourceAccess(permitted, reason, tuple(policies))

    @property
    def _lets_roles_decide(self) -> bool:
        return self._wall.unknown_owner == "roles"

    def validate_security_policies(
        self, context: UserExecutionContext, requested_action: str, target_resources: Sequence[Any] = ()
    ) -> PolicyCompliance:
        """Return whether a request complies with ownership and roles. Only a boundary system records its checks."""
        result = PermissionValidationResult(requested_action)
        verdict = result._verdict  # noqa: SLF001 - its other half
        self._evaluate(context, requested_action, tuple(target_resources), (), verdict)
        verdict.complete()
        verdict.close()
        return PolicyCompliance(result.permitted, result.violations)

    def _evaluate(
        self,
        context: UserExecutionContext,
        action: str,
        resources: tuple[Any, ...],
        mentioned: tuple[Any, ...],
        verdict: Verdict,
    ) -> bool:
        """Check by the wall and the roles. Returns whether nothing was found."""
        roles = self._roles_beside(context)
        return self._wall.evaluate(context, action, resources, mentioned, self._policy, verdict, roles)

    def __repr__(self) -> str:
        return f"<PermissionEngine {len(self._policy)} roles, revision {self.revision}>"
