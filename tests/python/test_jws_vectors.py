"""Signatures: Wycheproof's files of signed objects and keys, and a few tokens that another library has signed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from isolane.security.authentication import KeySetError
from isolane.security.authentication.jws import _RejectedError, decode, verify_compact
from isolane.security.authentication.keys import ALGORITHMS, KeySet

ROOT = Path(__file__).resolve().parents[2]
VECTORS = Path(os.environ.get("ISOLANE_VECTORS", ROOT.parent / "shared" / "vectors")) / "wycheproof"
OWN = json.loads((Path(__file__).parent / "vectors" / "jws.json").read_text(encoding="utf-8"))

_BOUND = "the key names another algorithm than the token: keys are bound to theirs"
_LENIENT = "a character that is not base64, which lenient decoders pass over"
_SAME = "the file has lost the padding that it means: byte for byte it is case 357, which is valid"
DIFFERENT = {
    **dict.fromkeys((346, 347, 350, 351), (False, _BOUND)),
    **dict.fromkeys((372, 373), (False, _LENIENT)),
    **dict.fromkeys((367, 370), (True, _SAME)),
}
"""Cases of the file of signed objects with another outcome than the file says, and why. All others have the file's."""


def cases(name: str) -> list[Any]:
    """Each case of a file with the keys that its group has."""
    path = VECTORS / name
    if not path.exists():
        return []
    found = []
    for group in json.loads(path.read_text(encoding="utf-8"))["testGroups"]:
        keys = group.get("public") or group["private"]
        found += [
            pytest.param(keys, test, id=f"{test['tcId']}-{group['comment']}-{test['comment']}")
            for test in group["tests"]
        ]
    return found


def accepts(keys: dict[str, Any], token: Any) -> bool:
    """Whether a verifier of a service that has these keys takes the token: with the algorithms that the keys name."""
    members = keys.get("keys", [keys])
    named = {key.get("alg") for key in members} & set(ALGORITHMS)
    # A key that names none is for what its owner signs with, which the verifier is told.
    fitting = {("RSA", None): "PS384", ("EC", "P-521"): "ES512", ("oct", None): "HS256", ("EC", "P-256"): "ES256"}
    named |= {fitting[key["kty"], key.get("crv")] for key in members if "alg" not in key}
    if not named:
        return False
    algorithms = frozenset(named)
    try:
        verify_compact(token, KeySet(keys, algorithms), algorithms)
    except (_RejectedError, KeySetError):
        return False
    return True


SIGNED, KEYED = cases("json_web_signature_test.json"), cases("json_web_key_test.json")


def test_the_files_are_there() -> None:
    if not VECTORS.exists() and not os.environ.get("ISOLANE_REQUIRE_ALL"):
        pytest.skip("Wycheproof's files were not tried: 427 cases; ISOLANE_VECTORS says where they are")
    assert (len(SIGNED), len(KEYED)) == (401, 26)
    results = [case.values[1]["result"] for case in (*SIGNED, *KEYED)]
    assert results.count("valid") > 30
    assert results.count("invalid") > 300


@pytest.mark.parametrize(("keys", "case"), [*SIGNED, *KEYED])
def test_wycheproof(keys, case) -> None:
    token = case["jws"] if isinstance(case["jws"], str) else json.dumps(case["jws"])
    expected, why = DIFFERENT.get(case["tcId"], (case["result"] == "valid", "as the file says"))
    assert accepts(keys, token) is expected, (case, why)


def test_the_cases_with_another_outcome_are_what_is_said_of_them() -> None:
    by_id = {case.values[1]["tcId"]: case.values for case in SIGNED}
    for number in by_id.keys() & DIFFERENT.keys():
        keys, case = by_id[number]
        expected, why = DIFFERENT[number]
        assert expected is not (case["result"] == "valid")
        if why == _SAME:
            assert case["jws"] == by_id[357][1]["jws"]
            assert by_id[357][1]["result"] == "valid"
        elif why == _BOUND:
            assert json.loads(decode(case["jws"].split(".")[0]))["alg"] != keys["alg"]
        else:
            assert "?" in case["jws"]


@pytest.mark.parametrize("vector", OWN, ids=lambda vector: vector["alg"])
def test_tokens_of_another_library(vector) -> None:
    assert accepts(vector["key"], vector["valid"])
    for why, token in vector["invalid"].items():
        assert not accepts(vector["key"], token), why


@pytest.mark.parametrize("vector", OWN, ids=lambda vector: vector["alg"])
def test_a_key_is_for_one_algorithm(vector) -> None:
    """The algorithm is the key's, whatever the header says and whatever else is allowed."""
    family = {"RS256": ["RS256", "PS256"], "PS384": ["PS384", "RS384"]}.get(vector["alg"], [vector["alg"]])
    other = next((name for name in family if name != vector["alg"]), None)
    keys = KeySet(vector["key"], frozenset(family))
    verify_compact(vector["valid"], keys, frozenset(family))
    if other is not None:
        bound = KeySet({**vector["key"], "alg": other}, frozenset(family))
        with pytest.raises(_RejectedError, match="algorithm_of_another_key"):
            verify_compact(vector["valid"], bound, frozenset(family))
