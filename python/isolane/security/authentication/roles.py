"""What roles allow, and who needs a second factor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from isolane.security.authentication.errors import MfaRequiredError
from isolane.security.authentication.principal import Principal

_FACTORS: dict[str, str] = {
    **dict.fromkeys(("pwd", "pin", "kba"), "knows"),
    **dict.fromkeys(("otp", "hwk", "swk", "sc", "sms", "tel", "pop"), "has"),
    **dict.fromkeys(("face", "fpt", "iris", "retina", "vbm"), "is"),
}
"""Of the values of RFC 8176, what each shows: something that the user knows, has or is."""


def is_multi_factor(amr: Iterable[str]) -> bool:
    """Whether these ways to sign in are more than one factor: ``mfa``, or values of two kinds, such as pwd and otp."""
    values = set(amr)
    return "mfa" in values or len({_FACTORS[value] for value in values if value in _FACTORS}) > 1


def check_mfa(principal: Principal) -> None:
    """Let a user pass who signed in with two factors.

    Raises:
        MfaRequiredError: it was one, or nothing is known of it.
    """
    if not is_multi_factor(principal.amr):
        raise MfaRequiredError


@dataclass(frozen=True, slots=True, init=False)
class MfaPolicy:
    """Who needs a second factor, and for what.

    Args:
        roles: users with one of these roles need it for everything.
        actions: everybody needs it for these.
    """

    roles: frozenset[str]
    actions: frozenset[str]

    def __init__(self, *, roles: Iterable[str] = (), actions: Iterable[str] = ()) -> None:
        object.__setattr__(self, "roles", _names(roles, "roles"))
        object.__setattr__(self, "actions", _names(actions, "actions"))

    def check(self, principal: Principal, action: str | None = None) -> None:
        """Let a user pass who needs no second factor for this, or has one. Raises ``MfaRequiredError``."""
        if principal.roles & self.roles or action in self.actions:
            check_mfa(principal)


class RolePermissions:
    """Which permissions each role has. A role that is not named has none.

    Args:
        permissions: the permissions of each role.
    """

    def __init__(self, permissions: Mapping[str, Iterable[str]]) -> None:
        self._of = {role: _names(names, "the permissions of a role") for role, names in permissions.items()}

    def of(self, roles: Iterable[str]) -> frozenset[str]:
        """Return what these roles allow together."""
        return frozenset().union(*(self._of.get(role, frozenset()) for role in roles))


def _names(names: Iterable[str], what: str) -> frozenset[str]:
    if isinstance(names, str):
        raise ValueError(f"{what} are a list of names, such as [{names!r}]")  # noqa: TRY004 - as for other lists
    return frozenset(names)
