"""``Grants``: what owners let others reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isolane._core import GrantBook, UserExecutionContext
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity


def _user_of(user: str | UserExecutionContext) -> str:
    return user if isinstance(user, str) else user.user_id


class Grants:
    """What owners let others reach: the only thing that opens the wall, one way and for one reader.

    A grant does not stand in for a role: the reader's roles must allow the action as well. At most 1000 grants a user
    and 100 000 in all; those that have ended make room.

    Args:
        audit: records each change before it takes effect. When it cannot, nothing is changed.
    """

    def __init__(self, audit: AuditSink | None = None) -> None:
        self._book = GrantBook()
        self._audit = audit

    def _record(self, name: str, audit_class: AuditClass, owner: str, **data: Any) -> None:
        if self._audit is not None:
            severity = Severity.WARNING if audit_class is AuditClass.ADMIN else Severity.INFO
            self._audit.record(
                SecurityEvent(name=name, audit_class=audit_class, user_id=owner, severity=severity, data=data)
            )

    def share(
        self,
        owner_user: str | UserExecutionContext,
        with_user: str | UserExecutionContext,
        resource: str | None = None,
        *,
        actions: Sequence[str] = (),
        seconds: float | None = None,
    ) -> None:
        """Let a user reach what is another one's.

        Args:
            owner_user: whose it is.
            with_user: who is let in.
            resource: the name of a resource or a pattern with ``*``. Default: everything of the owner's.
            actions: patterns of actions. Default: all that the reader's roles allow.
            seconds: how long. Default: until it is revoked.

        Raises ``ValueError`` for what is no id or pattern, ``RuntimeError`` when there are too many grants, and
        ``AuditUnavailableError`` when it cannot be recorded.
        """
        owner, reader = _user_of(owner_user), _user_of(with_user)
        self._record(
            *("authz_change", AuditClass.PERMISSION, owner),
            with_user=reader,
            resource=resource,
            actions=list(actions),
            seconds=seconds,
        )
        self._book.give(owner, reader, resource, list(actions), seconds)

    def open_support_access(
        self,
        owner_user: str | UserExecutionContext,
        operator: str | UserExecutionContext,
        *,
        reason: str,
        seconds: float,
        resource: str | None = None,
        actions: Sequence[str] = (),
    ) -> None:
        """Let an operator look into a user's data for a time, for a reason that is recorded.

        Raises what ``share`` raises, and ``ValueError`` without a reason.
        """
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError("support access needs a reason, such as the number of the ticket; it is recorded")
        owner, reader = _user_of(owner_user), _user_of(operator)
        self._record(
            *("authz_admin", AuditClass.ADMIN, owner),
            operator=reader,
            reason=reason,
            resource=resource,
            actions=list(actions),
            seconds=seconds,
        )
        self._book.give(owner, reader, resource, list(actions), seconds, support=True)

    def revoke(
        self,
        owner_user: str | UserExecutionContext,
        with_user: str | UserExecutionContext,
        resource: str | None = None,
    ) -> int:
        """Take grants back: those of one resource or pattern, or all that the owner gave this reader.

        Returns how many there were. It takes effect also when it cannot be recorded; then that is raised.
        """
        owner, reader = _user_of(owner_user), _user_of(with_user)
        gone = self._book.revoke(owner, reader, resource)
        if gone:
            self._record(
                "authz_change", AuditClass.PERMISSION, owner, revoked_from=reader, resource=resource, grants=gone
            )
        return gone

    def forget_user(self, user_id: str) -> int:
        """Take back all that a user gave and was given. Returns how many grants there were."""
        return self._book.forget(user_id)

    def allows(self, owner: str, reader: str, resource: str | None = None, action: str | None = None) -> bool:
        """Return whether the reader may reach a resource of the owner's.

        Without a resource: whether everything of the owner's. One shared document is not everything.
        """
        return self._book.allows(owner, reader, resource, action)

    def __len__(self) -> int:
        return len(self._book)

    def __repr__(self) -> str:
        return f"<Grants {len(self)}>"
