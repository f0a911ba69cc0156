"""``JwtVerifier``: who a JSON Web Token is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from isolane import _core
from isolane.security.authentication.claims import ClaimRules
from isolane.security.authentication.errors import InvalidTokenError, TokenExpiredError
from isolane.security.authentication.jws import _RejectedError, json_object, need_pyjwt, verify_compact
from isolane.security.authentication.keys import KeySet, check_algorithms
from isolane.security.authentication.records import note_refusal
from isolane.security.events import AuditSink

MAX_LEEWAY = 60.0

Keys = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that counts.

    Attributes:
        user_id: its subject.
        expires_at: from when on it does not count, in seconds since 1970.
        claims: everything that it says.
    """

    user_id: str
    expires_at: float
    claims: Mapping[str, Any] = field(repr=False)


class JwtVerifier:
    """Verifies JSON Web Tokens by the rules of RFC 8725. Needs the extra ``isolane[jwt]``.

    A token counts when its algorithm is one of ``algorithms`` and the one that its key is for; when the signature is
    right; when issuer and audience are exactly these; when it has an ``exp`` that is not over; when ``nbf`` and
    ``iat``, if it has them, are not in the future; when ``typ`` is what is expected; when it has no critical header;
    when it has at most 8 KiB; and when its subject is an id that contexts take. ``none`` is no algorithm.

    Args:
        keys: a JSON Web Key Set (a mapping with ``keys``), or a function that returns one and is asked for each token:
            return what you hold, and fetch it elsewhere. ``kid`` chooses among the keys and is used for nothing else.
        algorithms: what tokens may be signed with: ``HS...``, or any of ``RS...``, ``PS...``, ``ES...``, ``EdDSA``.
        issuer: the ``iss`` of the tokens.
        audience: the ``aud`` of the tokens: who they are for, which is this service.
        leeway: seconds by which the clocks may differ, at most 60. Default: 10.
        typ: what the header says as ``typ``, whatever the case, or ``None`` to not look. Default: ``JWT``.
        shared_audience: whether ``aud`` may be a list that names others as well. Default: no.
        audit: is told why a token does not count; whoever sent it is not.

    Raises:
        ModuleNotFoundError: the extra is not installed.
        ValueError: an argument is missing or out of bounds.
        KeySetError: ``keys`` is a set that must not be used.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        algorithms: Iterable[str],
        issuer: str,
        audience: str,
        leeway: float = 10.0,
        typ: str | None = "JWT",
        shared_audience: bool = False,
        audit: AuditSink | None = None,
    ) -> None:
        need_pyjwt()
        self._algorithms = check_algorithms(algorithms)
        for name, value in (("issuer", issuer), ("audience", audience)):
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} is {value!r}: it is the text that tokens carry, and is needed")
        if not 0 <= leeway <= MAX_LEEWAY:
            raise ValueError(f"leeway is {leeway}: it is 0 to {MAX_LEEWAY:.0f} seconds")
        self._rules = ClaimRules(issuer, audience, float(leeway), shared_audience)
        self._typ = None if typ is None else _bare(typ)
        self._audit = audit
        self._ask: Callable[[], Mapping[str, Any]] | None = keys if callable(keys) else None
        self._source: Any = None
        self._keys: KeySet | None = None
        if not callable(keys):
            self._keys = KeySet(keys, self._algorithms)
            if not len(self._keys):
                raise ValueError(f"no key of the set is for {', '.join(sorted(self._algorithms))}")

    def verify(self, token: str) -> VerifiedToken:
        """Return who the token is for.

        Raises:
            TokenExpiredError: it was good and is over. Code ``expired``.
            InvalidTokenError: anything else; the audit log says what. Code ``invalid_token``.
            KeySetError: the function that gives the keys gave a set that must not be used.
        """
        keys = self._current_keys()
        try:
            header, payload = verify_compact(token, keys, self._algorithms)
            if self._typ is not None and _bare(str(header.get("typ", ""))) != self._typ:
                raise _RejectedError("wrong_type")  # noqa: TRY301 - one place tells the audit log
            claims = json_object(payload)
            user_id, expires_at = self._rules.check(claims, _core.unix_time())
        except _RejectedError as error:
            reason, refused = error.reason, TokenExpiredError() if error.expired else InvalidTokenError()
        else:
            return VerifiedToken(user_id, expires_at, MappingProxyType(claims))
        note_refusal(self._audit, "authn_login_fail", error=refused, method="jwt", reason=reason)
        raise refused

    def _current_keys(self) -> KeySet:
        if self._ask is not None:
            source = self._ask()
            # A set that was changed where it lies is another one.
            if self._keys is None or source != self._source:
                self._keys = KeySet(source, self._algorithms)
                self._source = deepcopy(source)
        if self._keys is None:
            raise AssertionError("a verifier has keys")
        return self._keys

    def __repr__(self) -> str:
        return f"<JwtVerifier {', '.join(sorted(self._algorithms))}>"


def _bare(typ: str) -> str:
    return typ.lower().removeprefix("application/")
