"""Buckets beside those of Unleash and GrowthBook, and beside a few of another implementation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from isolane.migration.flags import FlagEngine, bucket

ROOT = Path(__file__).resolve().parents[2]
VECTORS = Path(os.environ.get("ISOLANE_VECTORS", ROOT.parent / "shared" / "vectors"))
OWN = json.loads((Path(__file__).parent / "vectors" / "flags.json").read_text(encoding="utf-8"))["buckets"]

UNLEASH_FILES = {
    "03-gradual-rollout-user-id-strategy.json": 6,
    "04-gradual-rollout-session-id-strategy.json": 6,
    "10-flexible-rollout-strategy.json": 10,
    "12-custom-stickiness.json": 5,
}
GRADUAL = {"gradualRolloutUserId": "userId", "gradualRolloutSessionId": "sessionId"}

ALL_NEED_NO_USER = {
    "Feature.A3 should be disabled when no user on context",
    "Feature.A4 should be disabled when no user on context",
}
"""Cases with another outcome than Unleash's: 100 % is everybody here, also who is not known yet."""


def unleash_cases() -> list[Any]:
    """Each case of a file with the strategies of its flag."""
    cases = []
    for name in UNLEASH_FILES:
        path = VECTORS / "unleash" / name
        if not path.exists():
            return []
        found = json.loads(path.read_text(encoding="utf-8"))
        strategies = {feature["name"]: feature["strategies"] for feature in found["state"]["features"]}
        cases += [
            pytest.param(strategies[test["toggleName"]], test, id=f"{name[:2]} {test['description']}")
            for test in found["tests"]
        ]
    return cases


def growthbook_cases() -> list[Any]:
    """Each hash of the second version."""
    path = VECTORS / "growthbook" / "cases.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))["hash"]
    return [(seed, value, share) for seed, value, version, share in found if version == 2]


UNLEASH, GROWTHBOOK = unleash_cases(), growthbook_cases()


def test_the_files_are_there() -> None:
    if not VECTORS.exists() and not os.environ.get("ISOLANE_REQUIRE_ALL"):
        pytest.skip("Unleash's and GrowthBook's files were not tried: 34 cases; ISOLANE_VECTORS says where they are")
    assert (len(UNLEASH), len(GROWTHBOOK)) == (sum(UNLEASH_FILES.values()), 7)
    outcomes = [case.values[1]["expectedResult"] for case in UNLEASH]
    assert outcomes.count(True) > 5
    assert outcomes.count(False) > 5
    described = {case.values[1]["description"] for case in UNLEASH}
    assert described >= ALL_NEED_NO_USER, "a difference that is listed is no longer in the files"


def sticky(strategy: dict[str, Any], context: dict[str, Any]) -> str | None:
    """What Unleash buckets by."""
    field = GRADUAL.get(strategy["name"]) or strategy["parameters"]["stickiness"]
    if field == "default":
        return context.get("userId") or context.get("sessionId")
    return context.get(field) or context.get("properties", {}).get(field)


@pytest.mark.parametrize(("strategies", "case"), UNLEASH)
def test_unleash(strategies: list[dict[str, Any]], case: dict[str, Any]) -> None:
    outcomes = []
    for strategy in strategies:
        if strategy["name"] == "default":
            outcomes.append(True)
            continue
        parameters = strategy["parameters"]
        percent = int(parameters.get("percentage") or parameters["rollout"])
        flag = {"algorithm": "unleash", "salt": parameters["groupId"], "rollout": percent * 1000}
        engine = FlagEngine()
        engine.load(json.dumps({"schema": 1, "revision": 1, "flags": {"flag": flag}}))
        outcomes.append(engine.is_on("flag", sticky(strategy, case["context"])))
    differs = case["description"] in ALL_NEED_NO_USER
    assert any(outcomes) is (case["expectedResult"] is not differs)


@pytest.mark.parametrize(("seed", "value", "share"), GROWTHBOOK)
def test_growthbook(seed: str, value: str, share: float) -> None:
    assert bucket("growthbook-v2", seed, value) == round(share * 100_000)


@pytest.mark.parametrize(("algorithm", "salt", "unit", "wanted"), OWN)
def test_own(algorithm: str, salt: str, unit: str, wanted: int) -> None:
    assert bucket(algorithm, salt, unit) == wanted
    if salt:
        step = {"mm3-mul-v1": 1, "unleash": 1000, "growthbook-v2": 10}[algorithm]
        above = min(100_000, (wanted // step + 1) * step)
        engine = FlagEngine()
        rollouts = {"at": wanted, "above": above}
        flags = {name: {"algorithm": algorithm, "salt": salt, "rollout": rollout} for name, rollout in rollouts.items()}
        engine.load(json.dumps({"schema": 1, "revision": 1, "flags": flags}))
        assert not engine.is_on("at", unit)
        assert engine.is_on("above", unit)


def test_another_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match="mm3-mul-v1, unleash, growthbook-v2"):
        bucket("md5", "salt", "ann")
