"""Tokens, keys, sessions, tickets, origins and second factors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import hashlib
import hmac
import json
import logging
import threading
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import example, given
from hypothesis import strategies as st
from isolane import _core
from isolane.fastapi import IsolaneSettings, Principal
from isolane.fastapi.authenticators import JwtAuthenticator
from isolane.fastapi.gate import Gate
from isolane.security import AuditClass, SecurityEvent
from isolane.security.authentication import (
    InvalidTokenError,
    JwtVerifier,
    KeySetError,
    MemoryTicketStore,
    MfaPolicy,
    MfaRequiredError,
    OriginPolicy,
    RolePermissions,
    SessionRegistry,
    SignInLimitError,
    Tickets,
    TokenExpiredError,
    is_multi_factor,
)
from isolane.security.authentication.credentials import subprotocol_token, token_in_query
from isolane.testing import manual_clock
from starlette.requests import HTTPConnection

SECRET = b"0123456789abcdef0123456789abcdef"
ISSUER = "https://id.example/"
AUDIENCE = "https://agents.example"


class Sink:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[SecurityEvent] = []

    def record(self, event: SecurityEvent) -> None:
        self.events.append(event)

    def reasons(self) -> list[str]:
        return [event.data["reason"] for event in self.events if "reason" in event.data]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def oct_key(secret: bytes = SECRET, **more: Any) -> dict[str, Any]:
    return {"kty": "oct", "k": b64(secret), "kid": "k1", "alg": "HS256", **more}


def claims(**more: Any) -> dict[str, Any]:
    now = _core.unix_time()
    full = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann-7", "exp": now + 300, "iat": now, **more}
    return {name: value for name, value in full.items() if value is not ...}


def sign(body: Any = None, *, key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    body = claims() if body is None else body
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return jwt.PyJWS().encode(payload, key, algorithm, {"typ": "JWT", "kid": "k1", **header})


def verifier(**options: Any) -> tuple[JwtVerifier, Sink]:
    sink = Sink()
    given = {
        "keys": {"keys": [oct_key()]},
        "algorithms": ["HS256"],
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "audit": sink,
        **options,
    }
    return JwtVerifier(given.pop("keys"), **given), sink


def refused(token: str, **options: Any) -> tuple[str, str]:
    """The public code and what the audit log has."""
    checks, sink = verifier(**options)
    with pytest.raises(InvalidTokenError) as caught:
        checks.verify(token)
    (event,) = sink.events
    assert (event.name, event.user_id) == ("authn_login_fail", None)
    assert len(token) < 8 or token not in f"{caught.value!r} {event!r}"
    return caught.value.code, event.data["reason"]


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_good_token_says_who_it_is_for() -> None:
    checks, sink = verifier()
    with manual_clock():
        token = checks.verify(sign(claims(roles=["admin"])))
        assert (token.user_id, token.claims["roles"]) == ("ann-7", ["admin"])
        assert token.expires_at == pytest.approx(_core.unix_time() + 300, abs=1e-3)
    assert sink.events == []
    with pytest.raises(TypeError):
        token.claims["sub"] = "bob"
    assert "ann-7" not in repr(checks)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iss": ...}, "no_issuer"),
        ({"iss": ISSUER[:-1]}, "wrong_issuer"),
        ({"iss": ISSUER + "x"}, "wrong_issuer"),
        ({"iss": [ISSUER]}, "wrong_issuer"),
        ({"aud": ...}, "no_audience"),
        ({"aud": AUDIENCE + "/"}, "wrong_audience"),
        ({"aud": AUDIENCE[:-1]}, "wrong_audience"),
        ({"aud": []}, "wrong_audience"),
        ({"aud": [AUDIENCE, "others"]}, "wrong_audience"),
        ({"aud": {AUDIENCE: 1}}, "wrong_audience"),
        ({"sub": ...}, "no_subject"),
        ({"sub": 7}, "no_subject"),
        ({"sub": ""}, "subject_is_no_user_id"),
        ({"sub": "default"}, "subject_is_no_user_id"),
        ({"sub": "x" * 300}, "subject_is_no_user_id"),
        ({"exp": ...}, "no_expiry"),
        ({"exp": "soon"}, "exp_is_no_time"),
        ({"exp": True}, "exp_is_no_time"),
        ({"exp": None}, "exp_is_no_time"),
        ({"exp": 10**400}, "exp_is_no_time"),
        ({"nbf": 9e12}, "not_yet_valid"),
        ({"nbf": "now"}, "nbf_is_no_time"),
        ({"iat": 9e12}, "issued_in_the_future"),
        ({"iat": []}, "iat_is_no_time"),
    ],
)
def test_claims_that_are_missing_or_wrong(change, reason) -> None:
    assert refused(sign(claims(**change))) == ("invalid_token", reason)


@pytest.mark.parametrize(
    "subject", ["auth0|5f7c8ec7c33c6c004bbafe82", "ann@example.com", "108204268033311374519", "u-1"]
)
def test_subjects_of_the_usual_providers_are_taken_as_they_are(subject) -> None:
    assert verifier()[0].verify(sign(claims(sub=subject))).user_id == subject


def test_the_neighbours_of_what_is_refused_are_taken() -> None:
    for change in ({"aud": [AUDIENCE]}, {"nbf": 1}, {"nbf": ...}, {"iat": ...}, {"exp": 9_000_000_000}):
        assert verifier()[0].verify(sign(claims(**change))).user_id == "ann-7"
    shared = verifier(shared_audience=True)[0]
    assert shared.verify(sign(claims(aud=[AUDIENCE, "others"]))).user_id == "ann-7"
    assert refused(sign(claims(aud=["others"])), shared_audience=True)[1] == "wrong_audience"


def test_a_token_is_over_after_its_time_and_the_leeway() -> None:
    with manual_clock() as clock:
        token = sign(claims(exp=_core.unix_time() + 30))
        checks, sink = verifier(leeway=5)
        clock.advance(29.9)
        checks.verify(token)
        clock.advance(5.0)
        late = checks.verify(token)
        assert late.expires_at > _core.unix_time()
        clock.advance(0.2)
        with pytest.raises(TokenExpiredError) as caught:
            checks.verify(token)
        assert (caught.value.code, sink.reasons()) == ("expired", ["expired"])
        # Who could not have used it before is not told that it is over.
        assert refused(sign(claims(exp=1, iss="another")))[0] == "invalid_token"
        assert refused(sign(claims(exp=1), key=b"x" * 32))[0] == "invalid_token"


async def test_an_end_that_is_no_number_is_over() -> None:
    gate = Gate(IsolaneSettings(), lambda _: Principal("ann", expires_at=float("nan")), Tickets())
    with pytest.raises(TokenExpiredError):
        await gate.of_request(HTTPConnection({"type": "http", "headers": []}))


async def test_a_sign_in_that_is_over_is_none() -> None:
    """Also of an application's own ``authenticate``, and of a ticket that outlived it."""
    with manual_clock() as clock:
        principal = Principal("ann-e", expires_at=_core.unix_time() + 10)
        tickets = Tickets()
        gate = Gate(IsolaneSettings(), lambda _: principal, tickets)
        conn = HTTPConnection({"type": "http", "path": "/", "query_string": b"", "headers": [], "scheme": "http"})
        ticket = await tickets.issue(principal, None)
        assert await gate.of_request(conn) is principal
        clock.advance(10)
        for ask in (gate.of_request, gate.of_stream, gate.of_socket):
            with pytest.raises(TokenExpiredError):
                await ask(conn)
        with pytest.raises(TokenExpiredError):
            await gate.of_message(conn, {"ticket": ticket})


def test_clocks_may_differ_by_the_leeway() -> None:
    with manual_clock():
        early = claims(nbf=_core.unix_time() + 20, iat=_core.unix_time() + 20)
        assert verifier(leeway=20.1)[0].verify(sign(early)).user_id == "ann-7"
        assert refused(sign(early), leeway=19)[1] == "not_yet_valid"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"typ": "at+jwt"}, "wrong_type"),
        ({"typ": None}, "wrong_type"),
        ({"crit": ["exp"], "exp": 1}, "critical_header"),
        ({"crit": []}, "critical_header"),
        ({"kid": "../../etc/passwd"}, "unknown_key"),
        ({"kid": "' OR 1=1"}, "unknown_key"),
    ],
)
def test_headers_that_do_not_fit(header, reason) -> None:
    assert refused(_handmade({"alg": "HS256", "typ": "JWT", "kid": "k1", **header})) == ("invalid_token", reason)


def _handmade(header: dict[str, Any] | str, payload: bytes | None = None) -> str:
    """A token with a right signature and any header."""
    text = header if isinstance(header, str) else json.dumps({k: v for k, v in header.items() if v is not None})
    body = payload if payload is not None else json.dumps(claims()).encode()
    signed = f"{b64(text.encode())}.{b64(body)}"
    algorithm = jwt.get_algorithm_by_name("HS256")
    return f"{signed}.{b64(algorithm.sign(signed.encode(), algorithm.prepare_key(SECRET)))}"


def test_a_handmade_token_is_taken() -> None:
    """The positive control of the tests around it."""
    assert verifier()[0].verify(_handmade({"alg": "HS256", "typ": "JWT", "kid": "k1"})).user_id == "ann-7"
    assert verifier()[0].verify(_handmade({"alg": "HS256", "typ": "application/jwt"})).user_id == "ann-7"
    access = verifier(typ="at+JWT")[0]
    assert access.verify(_handmade({"alg": "HS256", "typ": "at+jwt"})).user_id == "ann-7"
    assert verifier(typ=None)[0].verify(_handmade({"alg": "HS256"})).user_id == "ann-7"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "HS512", "RS256", None, 7, ["HS256"]])
def test_the_header_does_not_choose_the_algorithm(algorithm) -> None:
    body = b64(json.dumps(claims()).encode())
    for signature in ("", "x", b64(b"0" * 32)):
        head = b64(json.dumps({"alg": algorithm, "typ": "JWT", "kid": "k1"}).encode())
        code, reason = refused(f"{head}.{body}.{signature}")
        assert (code, reason) in {("invalid_token", "malformed"), ("invalid_token", "algorithm_not_allowed")}


def test_a_public_key_is_no_secret() -> None:
    """The confusion that gave the rule its name: the public key, which anybody has, used as a secret."""
    private = rsa.generate_private_key(65537, 2048)
    public = private.public_key()
    jwk = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(public)), "kid": "k1", "alg": "RS256"}
    jwk.pop("key_ops", None)
    options = {"keys": {"keys": [jwk]}, "algorithms": ["RS256"]}
    assert verifier(**options)[0].verify(sign(key=private, algorithm="RS256")).user_id == "ann-7"
    for secret in (jwk["n"].encode(), base64.urlsafe_b64decode(jwk["n"] + "=="), json.dumps(jwk).encode()):
        head = {"alg": "HS256", "typ": "JWT", "kid": "k1"}
        signed = ".".join(b64(json.dumps(part).encode()) for part in (head, claims()))
        forged = f"{signed}.{b64(hmac.digest(secret, signed.encode(), 'sha256'))}"
        assert refused(forged, **options)[1] == "algorithm_not_allowed"
    for mixed in (["RS256", "HS256"], ["HS256", "EdDSA"]):
        with pytest.raises(ValueError, match="do not go together"):
            verifier(keys={"keys": [jwk]}, algorithms=mixed)
    # Another algorithm of the same key, though it is allowed: the key is bound to its own.
    both = {"keys": {"keys": [jwk]}, "algorithms": ["RS256", "PS256"]}
    assert refused(sign(key=private, algorithm="PS256"), **both)[1] == "algorithm_of_another_key"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "eyJ",
        "\0.a.b",
        "ä.b.c",
        '{"payload":"x"}',
        _handmade("[]"),
        _handmade('"x"'),
        _handmade("{" + '"a":' * 800),
        _handmade("[" * 3000),
        _handmade('{"alg":"HS256","alg":"HS256","typ":"JWT"}'),
        _handmade('{"alg":"HS256","typ":"JWT","x":NaN}'),
        _handmade('{"alg":"HS256","typ":"JWT","kid":7}'),
        _handmade({"alg": "HS256", "typ": "JWT"}, b"[1]"),
        _handmade({"alg": "HS256", "typ": "JWT"}, b"\xff\xfe"),
        _handmade({"alg": "HS256", "typ": "JWT"}, b'{"sub":"a","sub":"b"}'),
        _handmade({"alg": "HS256", "typ": "JWT"}, b'{"exp":' + b"9" * 5000 + b"}"),
        _handmade({"alg": "HS256", "typ": "JWT"}) + "=",
        _handmade({"alg": "HS256", "typ": "JWT"}) + "\n",
    ],
)
def test_what_is_no_token(token) -> None:
    assert refused(token) == ("invalid_token", "malformed")


def test_a_token_has_8_kib_at_most() -> None:
    def padded(length: int) -> str:
        token = sign(claims(fill=""))
        return sign(claims(fill="x" * ((length - len(token)) * 3 // 4)))

    small = padded(8 * 1024 - 8)
    assert 8_000 < len(small) <= 8 * 1024
    assert verifier()[0].verify(small).user_id == "ann-7"
    assert refused(padded(8 * 1024 + 100))[1] == "too_long"


def test_keys_are_asked_for_and_read_again_when_they_change() -> None:
    current = {"keys": [oct_key()]}
    asked = []

    def keys() -> dict[str, Any]:
        asked.append(1)
        return current

    checks, sink = verifier(keys=keys)
    assert asked == []
    checks.verify(sign())
    first = checks._keys
    checks.verify(sign())
    assert checks._keys is first
    assert len(asked) == 2
    # Changed where it lies, as a fetcher may do it.
    other = b"fedcba9876543210fedcba9876543210"
    current["keys"] = [oct_key(other, kid="k2")]
    with pytest.raises(InvalidTokenError):
        checks.verify(sign())
    assert sink.reasons() == ["unknown_key"]
    checks.verify(sign(key=other, kid="k2"))
    current["keys"] = [oct_key(b"short")]
    with pytest.raises(KeySetError, match="5 bytes"):
        checks.verify(sign())


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (oct_key(b"short"), "needs 32"),
        (oct_key(kid=7), "is a text"),
        (oct_key(k="not base64!"), "base64url"),
        ({"kty": "oct", "kid": "k1", "alg": "HS256"}, "has not all of k"),
        ({"keys": [oct_key(), oct_key()]}, "same kid"),
        ({"keys": [oct_key(), {"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}, "keep them apart"),
        ({"keys": [oct_key(kid=f"k{n}") for n in range(65)]}, "at most 64"),
        ({"keys": "none"}, "a key set is"),
        ([], "a key set is"),
    ],
)
def test_keys_that_are_not_taken(key, says) -> None:
    with pytest.raises(KeySetError, match=says) as caught:
        verifier(keys=key)
    assert b64(SECRET) not in str(caught.value)


def test_public_keys_that_are_not_taken() -> None:
    weak = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key()))
    with pytest.raises(KeySetError, match="1024 bits"):
        verifier(keys={**weak, "alg": "RS256", "key_ops": ["verify"]}, algorithms=["RS256"])
    private = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(KeySetError, match="private key"):
        verifier(keys={**private, "alg": "ES256", "key_ops": ["verify"]}, algorithms=["ES256"])
    rsa_key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key()))
    with pytest.raises(KeySetError, match="would all fit"):
        verifier(keys={"kty": "RSA", "n": rsa_key["n"], "e": "AQAB"}, algorithms=["RS256", "PS256"])
    # Keys for something else stand beside those for signatures.
    beside = {"keys": [{**rsa_key, "use": "enc", "alg": "RSA-OAEP", "kid": "e"}, {**rsa_key, "alg": "RS256"}]}
    assert len(verifier(keys=beside, algorithms=["RS256"])[0]._keys) == 1
    with pytest.raises(ValueError, match="no key of the set"):
        verifier(keys={"keys": beside["keys"][:1]}, algorithms=["RS256"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"algorithms": []}, "no algorithm is named"),
        ({"algorithms": ["none"]}, "none cannot be used"),
        ({"algorithms": ["HS256", "none"]}, "none cannot be used"),
        ({"algorithms": "HS256"}, "a list of names"),
        ({"issuer": ""}, "issuer"),
        ({"audience": None}, "audience"),
        ({"leeway": 61}, "0 to 60"),
        ({"leeway": -1}, "0 to 60"),
        ({"leeway": float("nan")}, "0 to 60"),
    ],
)
def test_a_verifier_that_would_take_too_much_cannot_be_made(options, says) -> None:
    with pytest.raises(ValueError, match=says):
        verifier(**options)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk", "x"]), JSON), JSON | st.binary())
@example({"alg": "HS256", "typ": "JWT", "kid": "k1"}, {"aud": [AUDIENCE], "iss": ISSUER, "exp": float("inf")})
def test_whatever_is_signed_is_answered_by_one_error(header, body) -> None:
    """With a right signature: what is in it is nobody's to trust."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    with contextlib.suppress(InvalidTokenError):
        verifier()[0].verify(_handmade(json.dumps({"alg": "HS256", **header}), payload))
        raise AssertionError("none of these has all the claims")


@given(st.text(alphabet="eyJ.-_=A0é ", max_size=40))
def test_whatever_is_no_token_is_answered_by_one_error(text) -> None:
    with pytest.raises(InvalidTokenError):
        verifier()[0].verify(text)


MEMBERS = ["kty", "kid", "alg", "use", "key_ops", "k", "n", "e", "crv", "x", "y", "d"]
WORDS = st.sampled_from(
    ["oct", "RSA", "EC", "OKP", "P-256", "Ed25519", "sig", "ES256", "HS256", "AQAB", "AA", "verify"]
)


@given(st.lists(st.dictionaries(st.sampled_from(MEMBERS), WORDS | JSON), max_size=3))
def test_whatever_is_no_key_is_answered_by_one_error(keys) -> None:
    for algorithms in (["HS256"], ["ES256", "RS256", "EdDSA"]):
        with contextlib.suppress(ValueError):
            verifier(keys={"keys": keys}, algorithms=algorithms)


def test_nothing_of_a_token_is_logged(caplog) -> None:
    caplog.set_level(logging.DEBUG)
    token = sign(key=b"another secret, which is 32 bytes")
    refused(token)
    assert not any(part in caplog.text for part in token.split("."))


class Connection:
    """What an authenticator looks at."""

    def __init__(self, **headers: str) -> None:
        from starlette.datastructures import Headers  # noqa: PLC0415 - only here

        self.headers = Headers({name.replace("_", "-"): value for name, value in headers.items()})


def test_names_of_a_principal_are_a_collection_and_no_single_text() -> None:
    principal = Principal("ann-r", roles=["user", "user"], permissions=("runs:cancel",), amr={"pwd"})
    assert principal.roles | principal.permissions | principal.amr == {"user", "runs:cancel", "pwd"}
    for name in ("roles", "permissions", "amr"):
        with pytest.raises(TypeError, match=f"{name} must be a collection"):
            Principal("ann-r", **{name: "admin"})


def test_a_principal_has_roles_permissions_factors_and_an_end() -> None:
    permissions = RolePermissions({"admin": ["runs:cancel", "runs:read"], "viewer": ["runs:read"]})
    signs_in = JwtAuthenticator(verifier()[0], roles="realm.roles", permissions=permissions)
    body = claims(realm={"roles": ["admin", "unknown", 7]}, amr=["pwd", "otp"], sid="s-1")
    principal = signs_in(Connection(authorization=f"Bearer {sign(body)}"))
    assert (principal.user_id, principal.session_id) == ("ann-7", "s-1")
    assert principal.roles == {"admin", "unknown"}
    assert principal.permissions == {"runs:cancel", "runs:read"}
    assert principal.amr == {"pwd", "otp"}
    assert principal.expires_at == pytest.approx(body["exp"])
    assert signs_in(Connection()) is None
    bare = signs_in(Connection(authorization=f"bearer {sign(claims(amr='mfa', realm='roles'))}"))
    assert (bare.roles, bare.permissions, bare.amr) == (set(), set(), set())


@pytest.mark.parametrize("answer", [True, None, "yes"])
def test_a_revoked_principal_is_refused(answer) -> None:
    signs_in = JwtAuthenticator(verifier()[0], is_revoked=lambda principal: answer)
    with pytest.raises(InvalidTokenError):
        signs_in.principal_of(sign())
    assert JwtAuthenticator(verifier()[0], is_revoked=lambda principal: False).principal_of(sign()).user_id == "ann-7"


# -- what a connection carries -----------------------------------------------------------------------------------------


def test_a_subprotocol_may_be_a_token_or_its_base64url() -> None:
    token = sign()
    for prefix in ("jwt.", "jwt-auth.", "bearer.", "JWT."):
        assert subprotocol_token(prefix + token) == token
        assert subprotocol_token(prefix + b64(token.encode())) == token
    # What is no JSON Web Token is taken as it is, also if it could be decoded.
    assert subprotocol_token("bearer.alice") == "alice"
    assert subprotocol_token("bearer." + b64(b"alice")) == b64(b"alice")
    assert subprotocol_token("jwt.") is None
    for marker in ("isolane.v1", "jwt", "jwt-auth", "bearer", "jwtx.y"):
        assert subprotocol_token(marker) is None


def test_a_token_in_the_address_is_seen_under_any_name() -> None:
    assert token_in_query([("token", "anything")])
    assert token_in_query([("Access_Token", "x")])
    assert token_in_query([("x", sign())])
    assert not token_in_query([("token", ""), ("ticket", "x" * 43), ("after", "run:1:2"), ("thread_id", "eyJ.x")])


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example", True),
        ("https://APP.example", True),
        ("https://app.example:443", True),
        ("http://localhost:5173", True),
        ("http://app.example", False),
        ("https://app.example:444", False),
        ("https://app.example.evil", False),
        ("https://app.examplee", False),
        ("https://evil-app.example", False),
        ("https://x.app.example", False),
        ("https://app.example/", False),
        ("https://app.example@evil", False),
        ("null", False),
        ("", False),
        ("*", False),
        ("https://app.example, https://evil", False),
    ],
)
def test_origins_are_compared_whole(origin, allowed) -> None:
    policy = OriginPolicy(["https://app.example", "http://localhost:5173"])
    assert policy.allows(origin, scheme="wss", host="api.example") is allowed


@pytest.mark.parametrize(
    ("origin", "scheme", "host", "allowed"),
    [
        ("https://a.example", "wss", "a.example", True),
        ("http://a.example", "ws", "a.example", True),
        ("http://a.example", "ws", "a.example:80", True),
        ("https://a.example", "ws", "a.example", True),
        ("http://a.example", "wss", "a.example", False),
        ("http://a.example:81", "ws", "a.example", False),
        ("http://b.example", "ws", "a.example", False),
        ("null", "ws", "null", False),
        ("http://[::1]:8000", "ws", "[::1]:8000", True),
    ],
)
def test_without_a_list_only_the_services_own_pages_connect(origin, scheme, host, allowed) -> None:
    assert OriginPolicy().allows(origin, scheme=scheme, host=host) is allowed


@pytest.mark.parametrize(
    "origin", ["*", "null", "https://*.example", "app.example", "https://a.example/path", "ftp://a"]
)
def test_what_is_no_origin_is_not_taken_for_one(origin) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        OriginPolicy([origin])


# -- tickets -----------------------------------------------------------------------------------------------------------

PAGE = "https://app.example"


async def test_a_ticket_counts_once() -> None:
    sink = Sink()
    tickets = Tickets(audit=sink)
    principal = Principal("ann-t", roles=frozenset({"admin"}))
    ticket = await tickets.issue(principal, PAGE)
    assert len(base64.urlsafe_b64decode(ticket + "=")) == 32
    assert await tickets.redeem(ticket, PAGE) is principal
    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            await tickets.redeem(ticket, PAGE)
    assert [event.name for event in sink.events] == ["authn_token_created", *["authn_token_reuse"] * 2]
    assert ticket not in repr(sink.events)


async def test_of_many_who_show_a_ticket_at_the_same_moment_one_comes_in() -> None:
    tickets = Tickets()
    ticket = await tickets.issue(Principal("ann-t"), PAGE)
    answers = await asyncio.gather(*(tickets.redeem(ticket, PAGE) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(answer, Principal) for answer in answers) == 1
    # And from several threads.
    ticket = await tickets.issue(Principal("ann-t"), PAGE)
    came_in, barrier = [], threading.Barrier(8)

    def show() -> None:
        barrier.wait()
        with contextlib.suppress(InvalidTokenError):
            came_in.append(asyncio.run(tickets.redeem(ticket, PAGE)))

    threads = [threading.Thread(target=show) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert len(came_in) == 1


@pytest.mark.parametrize("origin", [None, "https://evil.example", PAGE + "/", PAGE.upper()])
async def test_a_ticket_is_of_one_page_and_burnt_by_another(origin) -> None:
    tickets = Tickets()
    ticket = await tickets.issue(Principal("ann-t"), PAGE)
    with pytest.raises(InvalidTokenError):
        await tickets.redeem(ticket, origin)
    with pytest.raises(InvalidTokenError):
        await tickets.redeem(ticket, PAGE)


async def test_a_request_without_an_origin_may_be_of_the_own_page() -> None:
    tickets = Tickets()
    for own, answer in ((PAGE, True), ("https://other.example", False)):
        ticket = await tickets.issue(Principal("ann-t"), PAGE)
        redeemed = tickets.redeem(ticket, None, is_own=lambda origin, own=own: origin == own)
        if answer:
            assert (await redeemed).user_id == "ann-t"
        else:
            with pytest.raises(InvalidTokenError):
                await redeemed
    ticket = await tickets.issue(Principal("ann-t"), PAGE)
    with pytest.raises(InvalidTokenError):
        await tickets.redeem(ticket, "https://other.example", is_own=lambda _: True)


async def test_a_ticket_is_over_after_its_time() -> None:
    with manual_clock() as clock:
        tickets = Tickets(20)
        ticket, later = await tickets.issue(Principal("ann-t"), None), await tickets.issue(Principal("ann-t"), None)
        clock.advance(19.9)
        assert (await tickets.redeem(later, None)).user_id == "ann-t"
        clock.advance(0.2)
        with pytest.raises(InvalidTokenError):
            await tickets.redeem(ticket, None)
    with pytest.raises(ValueError, match="0 to 30"):
        Tickets(31)


async def test_a_ticket_ends_with_the_sign_in_that_it_was_given_to(monkeypatch) -> None:
    with manual_clock() as clock:
        sink = Sink()
        tickets = Tickets(audit=sink)
        ann, other, bob = Principal("ann", session_id="s1"), Principal("ann", session_id="s2"), Principal("bob")

        async def counts(ticket: str) -> bool:
            with contextlib.suppress(InvalidTokenError):
                return bool(await tickets.redeem(ticket, None))
            return False

        given = [await tickets.issue(who, None) for who in (ann, other, bob)]
        clock.advance(1)
        tickets.end(" ann ", "s1")
        assert [await counts(ticket) for ticket in given] == [False, True, True]
        assert sink.reasons() == ["signed_out"]
        given = [await tickets.issue(who, None) for who in (other, bob)]
        tickets.end("ann")
        clock.advance(1)
        assert [await counts(ticket) for ticket in given] == [False, True]
        assert await counts(await tickets.issue(ann, None)), "who has signed in again"

        monkeypatch.setattr("isolane.security.authentication.tickets.PER_PROCESS", 4)
        given = [await tickets.issue(who, None) for who in (ann, bob)]
        clock.advance(1)
        tickets.end("ann")
        for number in range(8):
            tickets.end(f"user-{number}")
        assert [await counts(ticket) for ticket in given] == [False, False], "what is not kept is refused"


async def test_tickets_are_bounded_and_kept_as_hashes() -> None:
    with manual_clock() as clock:
        store = MemoryTicketStore(per_user=2, per_process=3)
        tickets = Tickets(store=store)
        first, second, third = [await tickets.issue(Principal("ann-t"), None) for _ in range(3)]
        assert len(store) == 2
        with pytest.raises(InvalidTokenError):
            await tickets.redeem(first, None)
        assert (await tickets.redeem(second, None)).user_id == "ann-t"
        for name in ("bob-t", "cyd-t"):
            await tickets.issue(Principal(name), None)
        with pytest.raises(SignInLimitError):
            await tickets.issue(Principal("dan-t"), None)
        assert set(store._of_user) == {"ann-t", "bob-t", "cyd-t"}
        held = repr([(key, value) for key, value in store._tickets.items()])
        assert third not in held
        assert hashlib.sha256(third.encode()).digest() in store._tickets
        clock.advance(31)
        await tickets.issue(Principal("dan-t"), None)
        assert (len(store), list(store._of_user), len(store._taken)) == (1, ["dan-t"], 0)


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_a_session_lasts_while_it_is_used_and_not_for_ever() -> None:
    ended = []
    with manual_clock() as clock:
        sessions = SessionRegistry(absolute_seconds=100, idle_seconds=30)
        sessions.add_listener(lambda session: ended.append(session.principal.user_id))
        token, session = sessions.create(Principal("ann-s", roles=frozenset({"admin"})))
        assert session.principal.roles == {"admin"}
        assert session.principal.session_id == session.id
        assert session.principal.expires_at == pytest.approx(_core.unix_time() + 100)
        for _ in range(4):
            clock.advance(24)
            assert sessions.touch(token).id == session.id
        clock.advance(5)
        with pytest.raises(TokenExpiredError):
            sessions.touch(token)
        assert ended == ["ann-s"]
        with pytest.raises(InvalidTokenError):
            sessions.touch(token)
        idle, _ = sessions.create(Principal("ann-s"))
        clock.advance(31)
        assert sessions.sweep() == 1
        assert (len(sessions), ended) == (0, ["ann-s", "ann-s"])
        with pytest.raises(InvalidTokenError):
            sessions.touch(idle)


def test_nonsense_makes_nobody_look_at_every_session() -> None:
    with manual_clock() as clock:
        sessions = SessionRegistry(idle_seconds=60)
        tokens = [sessions.create(Principal(f"user-{number}"))[0] for number in range(8)]
        clock.advance(61)
        with pytest.raises(InvalidTokenError):
            sessions.touch("nonsense")
        assert len(sessions) == 8
        with pytest.raises(TokenExpiredError):
            sessions.touch(tokens[0])
        assert len(sessions) == 7
        assert sessions.sweep() == 7


def test_a_session_ends_with_the_sign_in_it_is_made_of() -> None:
    with manual_clock() as clock:
        sessions = SessionRegistry()
        token, session = sessions.create(Principal("ann-s", expires_at=_core.unix_time() + 10))
        assert session.expires_at == pytest.approx(_core.unix_time() + 10)
        clock.advance(11)
        with pytest.raises(TokenExpiredError):
            sessions.touch(token)


def test_sessions_end_by_logout_alone_or_together() -> None:
    sink, ended = Sink(), []
    sessions = SessionRegistry(audit=sink)
    sessions.add_listener(lambda session: 1 / 0)
    sessions.add_listener(lambda session: ended.append(session.id))
    tokens = [sessions.create(Principal("ann-s")) for _ in range(3)]
    bobs, _ = sessions.create(Principal("bob-s"))
    assert sessions.logout(tokens[0][0])
    assert not sessions.logout(tokens[0][0])
    assert not sessions.is_live(tokens[0][1].id)
    assert sessions.is_live(tokens[1][1].id)
    assert [session.id for session in sessions.of_user("ann-s")] == [tokens[1][1].id, tokens[2][1].id]
    assert sessions.logout_user("ann-s") == 2
    assert ended == [session.id for _, session in tokens]
    assert sessions.touch(bobs).principal.user_id == "bob-s"
    names = [event.name for event in sink.events]
    assert (names.count("session_created"), names.count("session_expired")) == (4, 3)
    assert not any(token in repr(sink.events) for token, _ in tokens)


def test_a_token_that_was_rotated_is_noticed_when_it_comes_back() -> None:
    sink = Sink()
    sessions = SessionRegistry(audit=sink)
    first, session = sessions.create(Principal("ann-s"))
    second = sessions.rotate(first)
    assert sessions.touch(second).id == session.id
    with pytest.raises(InvalidTokenError):
        sessions.touch(first)
    with pytest.raises(InvalidTokenError):
        sessions.rotate(first)
    assert [event.name for event in sink.events].count("authn_token_reuse") == 2
    third = sessions.rotate(second)
    assert len(sessions._former) == 1
    sessions.logout(third)
    assert (sessions._former, sessions._ids, sessions._of_user) == ({}, {}, {})


def test_sessions_are_bounded() -> None:
    with manual_clock() as clock:
        sessions = SessionRegistry(max_per_user=2, max_sessions=3, idle_seconds=50)
        tokens = []
        for _ in range(2):
            clock.advance(1)
            tokens.append(sessions.create(Principal("ann-s"))[0])
        clock.advance(1)
        sessions.touch(tokens[0])
        sessions.create(Principal("ann-s"))
        assert sessions.touch(tokens[0])
        with pytest.raises(InvalidTokenError):
            sessions.touch(tokens[1])
        sessions.create(Principal("bob-s"))
        with pytest.raises(SignInLimitError):
            sessions.create(Principal("cyd-s"))
        assert len(sessions) == 3
        # A user at the own limit changes places with itself.
        sessions.create(Principal("ann-s"))
        clock.advance(51)
        sessions.create(Principal("cyd-s"))
        assert len(sessions) == 1
    with pytest.raises(ValueError, match="above 0"):
        SessionRegistry(idle_seconds=0)


def test_what_must_be_recorded_and_is_not_begins_no_session() -> None:
    class Sick:
        def record(self, event: SecurityEvent) -> None:
            raise RuntimeError("full")

    sessions = SessionRegistry(audit=Sick())
    with pytest.raises(RuntimeError):
        sessions.create(Principal("ann-s"))
    assert (len(sessions), sessions._ids, sessions._of_user) == (0, {}, {})


def test_sessions_in_threads_end_once() -> None:
    ended = []
    sessions = SessionRegistry(max_per_user=1000)
    sessions.add_listener(lambda session: ended.append(session.id))
    tokens = [sessions.create(Principal("ann-s"))[0] for _ in range(200)]
    barrier = threading.Barrier(4)

    def end() -> None:
        barrier.wait()
        for token in tokens:
            sessions.logout(token)

    threads = [threading.Thread(target=end) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == len(set(ended)) == 200
    gc.collect()


# -- second factors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amr", "enough"),
    [
        (["mfa"], True),
        (["pwd", "otp"], True),
        (["hwk", "fpt"], True),
        (["pwd"], False),
        (["pwd", "pin"], False),
        (["otp", "sms"], False),
        (["pwd", "invented"], False),
        ([], False),
    ],
)
def test_two_factors_are_of_two_kinds(amr, enough) -> None:
    assert is_multi_factor(amr) is enough


def test_a_policy_asks_some_for_everything_and_all_for_some() -> None:
    policy = MfaPolicy(roles=["admin"], actions=["delete"])
    admin, user = Principal("ann-m", roles=frozenset({"admin"})), Principal("bob-m", amr=frozenset({"pwd"}))
    policy.check(user, "read")
    policy.check(user)
    for who, action in ((admin, None), (admin, "read"), (user, "delete")):
        with pytest.raises(MfaRequiredError):
            policy.check(who, action)
    policy.check(Principal("ann-m", roles=frozenset({"admin"}), amr=frozenset({"mfa"})), "delete")
    with pytest.raises(ValueError, match="a list"):
        MfaPolicy(roles="admin")


def test_what_happens_to_tokens_is_recorded_and_stops_nothing() -> None:
    checks, sink = verifier()
    with pytest.raises(InvalidTokenError):
        checks.verify("x")
    assert [event.audit_class for event in sink.events] == [AuditClass.LIFECYCLE]
