"""A compact JWS: taken apart strictly, and verified by PyJWT with the algorithm that its key is for."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolane.security.authentication.keys import Key, KeySet

MAX_TOKEN_BYTES = 8 * 1024
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+")


class _RejectedError(Exception):
    """Why a token does not count: for the audit log, and never for who sent it."""

    def __init__(self, reason: str, *, expired: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expired = expired


def need_pyjwt() -> None:
    """Say what to install. Raises ``ModuleNotFoundError`` without PyJWT and what it verifies signatures with."""
    for module in ("jwt", "cryptography"):
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(
                f"isolane's JwtVerifier needs {module}, which is not installed: pip install 'isolane[jwt]'",
                name=module,
            )


def verify_compact(token: str, keys: KeySet, algorithms: frozenset[str]) -> tuple[dict[str, Any], bytes]:
    """Return header and payload of a token whose signature one of the keys verifies.

    Raises:
        _RejectedError: anything about it is not as it should be.
    """
    if not isinstance(token, str) or len(token) > MAX_TOKEN_BYTES:
        raise _RejectedError("too_long")
    if not _COMPACT.fullmatch(token):
        raise _RejectedError("malformed")
    head, body, signature = token.split(".")
    header = json_object(decode(head))
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise _RejectedError("algorithm_not_allowed")
    if "crit" in header:
        # Nothing that could be named there is understood here.
        raise _RejectedError("critical_header")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _RejectedError("malformed")
    key = keys.find(kid)
    if key is None:
        raise _RejectedError("unknown_key")
    if algorithm != key.algorithm:
        raise _RejectedError("algorithm_of_another_key")
    payload = decode(body)
    decode(signature)
    _check_signature(token, key)
    return header, payload


def _check_signature(token: str, key: Key) -> None:
    import jwt  # noqa: PLC0415 - the extra may be absent

    try:
        jwt.PyJWS().decode_complete(token, key.ready, algorithms=[key.algorithm])
    except (jwt.PyJWTError, ValueError):
        raise _RejectedError("bad_signature") from None


def decode(part: str) -> bytes:
    """Return the bytes of a part. Each has one spelling: bits that are not used are zero."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise _RejectedError("malformed") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise _RejectedError("malformed")
    return data


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object. A name that comes twice could be read as either, so there is none."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _RejectedError("malformed") from None
    if not isinstance(value, dict):
        raise _RejectedError("malformed")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name comes twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
