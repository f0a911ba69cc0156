"""Keys that tokens are verified with: each is bound to one algorithm, and weak ones are refused when they are read."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

from isolane.security.authentication.errors import KeySetError

SYMMETRIC = ("HS256", "HS384", "HS512")
_KINDS: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(SYMMETRIC, ("oct", None)),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""For each algorithm the type of its keys and their curve."""

ALGORITHMS = tuple(_KINDS)
"""What may be named in ``algorithms``. ``none`` is not among them."""

MAX_KEYS = 64
MIN_RSA_BITS = 2048
MIN_EXPONENT = 65537
"""As FIPS 186-5 has it; every identity provider uses this one."""

_SECRET_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth")
_MEMBERS = {"oct": ("k",), "RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A key and the one algorithm that it is for.

    Attributes:
        kid: its name in the set, or ``None``.
        algorithm: the one algorithm.
        ready: what PyJWT verifies with, made of the members that the key consists of and of nothing else.
    """

    kid: str | None
    algorithm: str
    ready: Any

    def __repr__(self) -> str:
        return f"<Key {self.algorithm}>"


def check_algorithms(algorithms: Iterable[str]) -> frozenset[str]:
    """Return the algorithms as a set.

    Raises:
        ValueError: none was named, one is unknown, or secrets are mixed with public keys.
    """
    if isinstance(algorithms, str):
        raise ValueError(f"algorithms is a list of names, such as [{algorithms!r}]")  # noqa: TRY004 - one error for all
    named = frozenset(algorithms)
    unknown = sorted(str(name) for name in named if name not in _KINDS)
    if not named or unknown:
        what = f"{', '.join(unknown)} cannot be used" if unknown else "no algorithm is named"
        raise ValueError(f"{what}: name the algorithms that your keys are for, of {', '.join(ALGORITHMS)}")
    if named & set(SYMMETRIC) and named - set(SYMMETRIC):
        raise ValueError(
            "secrets (HS...) and public keys do not go together: whoever knows a public key could sign with it as a "
            "secret. Make a verifier for each"
        )
    return named


class KeySet:
    """The keys of a JSON Web Key Set that serve some algorithms.

    Keys for encryption, and keys of algorithms that are not asked for, are left out: identity providers publish them
    beside the others.

    Args:
        jwks: the set, as RFC 7517 has it: a mapping with ``keys``. A single key is a set of one.
        algorithms: what tokens may be signed with.

    Raises:
        KeySetError: two keys of one ``kid``, secrets beside public keys, a private key, a key that is too weak or
            malformed, one that several algorithms would fit, or none at all.
    """

    def __init__(self, jwks: Mapping[str, Any], algorithms: frozenset[str]) -> None:
        keys = jwks.get("keys", [jwks]) if isinstance(jwks, Mapping) else None
        if not isinstance(keys, list) or not all(isinstance(key, Mapping) for key in keys):
            raise KeySetError('a key set is {"keys": [{"kty": ...}, ...]}')
        if len(keys) > MAX_KEYS:
            raise KeySetError(f"the key set has {len(keys)} keys: at most {MAX_KEYS} are read")
        kinds = {str(key.get("kty")) for key in keys}
        if "oct" in kinds and kinds != {"oct"}:
            raise KeySetError("the key set has secrets (oct) beside public keys: keep them apart")
        self._by_kid: dict[str, Key] = {}
        self._keys: list[Key] = []
        names = [key["kid"] for key in keys if "kid" in key]
        if len(set(map(str, names))) != len(names):
            raise KeySetError("two keys of the set have the same kid: name each once")
        for jwk in keys:
            key = _read(jwk, algorithms)
            if key is None:
                continue
            self._keys.append(key)
            if key.kid is not None:
                self._by_kid[key.kid] = key

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, kid: str | None) -> Key | None:
        """Return the key of that name. Without a name only a set of one key has an answer."""
        if kid is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return self._by_kid.get(kid)


def _read(jwk: Mapping[str, Any], algorithms: frozenset[str]) -> Key | None:
    """Return the key, or ``None`` if it is for something else. Raises ``KeySetError`` for one that must not be used."""
    algorithm = _algorithm_of(jwk, algorithms)
    if algorithm is None:
        return None
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise KeySetError("the kid of a key is a text")
    name = "the key without kid" if kid is None else f"key {kid[:64]!r}"
    if jwk["kty"] != "oct" and any(member in jwk for member in _SECRET_MEMBERS):
        raise KeySetError(f"{name} is a private key: give the verifier the public one")
    members = {member: jwk.get(member) for member in _MEMBERS[jwk["kty"]]}
    if not all(isinstance(value, str) and value for value in members.values()):
        raise KeySetError(f"{name} has not all of {', '.join(members)}")
    numbers = {member: _bytes(value, name) for member, value in members.items() if member != "crv"}
    if jwk["kty"] == "oct":
        _check_secret(numbers["k"], algorithm, name)
    elif jwk["kty"] == "RSA":
        _check_rsa(int.from_bytes(numbers["n"]), int.from_bytes(numbers["e"]), name)
    return Key(kid, algorithm, _prepared({"kty": jwk["kty"], **members}, algorithm, name))


def _prepared(members: dict[str, Any], algorithm: str, name: str) -> Any:
    import jwt  # noqa: PLC0415 - the extra may be absent

    try:
        return jwt.PyJWK(members, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError) as error:
        # Such as a point that is not on its curve.
        raise KeySetError(f"{name} cannot be used for {algorithm}: {type(error).__name__}") from None


def _algorithm_of(jwk: Mapping[str, Any], algorithms: frozenset[str]) -> str | None:
    """Return the one algorithm that a key is for, or ``None`` if it is not for any of these."""
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    kind = (jwk.get("kty"), jwk.get("crv"))
    fitting = sorted(name for name in algorithms if _KINDS[name] == kind)
    if "alg" in jwk:
        return jwk["alg"] if jwk["alg"] in fitting else None
    if len(fitting) > 1:
        raise KeySetError(f"a key of type {kind[0]} says no alg, and {', '.join(fitting)} would all fit: say it")
    return fitting[0] if fitting else None


def _bytes(text: Any, name: str) -> bytes:
    if not _BASE64URL.fullmatch(text):
        raise KeySetError(f"{name} is not written in base64url")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        raise KeySetError(f"{name} is not written in base64url") from None


def _check_secret(secret: bytes, algorithm: str, name: str) -> None:
    least = int(algorithm.removeprefix("HS")) // 8
    if len(secret) < least:
        raise KeySetError(f"{name} has {len(secret)} bytes: {algorithm} needs {least}")


def _check_rsa(modulus: int, exponent: int, name: str) -> None:
    if modulus.bit_length() < MIN_RSA_BITS:
        raise KeySetError(f"{name} has {modulus.bit_length()} bits: RSA needs {MIN_RSA_BITS}")
    if exponent < MIN_EXPONENT or exponent % 2 == 0:
        raise KeySetError(f"the exponent of {name} is too small: {MIN_EXPONENT} is usual")
    if _is_of_roca(modulus):
        raise KeySetError(f"{name} was made by a generator whose keys can be factored (CVE-2017-15361): replace it")


_ROCA_PRIMES = (
    *(3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107),
    *(109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167),
)


def _is_of_roca(modulus: int) -> bool:
    """Whether the modulus is a power of 65537 modulo each of these primes, which no sound key is."""
    return all(modulus % prime in _powers(prime) for prime in _ROCA_PRIMES if gcd(65537, prime) == 1)


def _powers(prime: int) -> set[int]:
    powers, power = set(), 1
    while power not in powers:
        powers.add(power)
        power = power * 65537 % prime
    return powers
