"""Flags as they are decided: by documents, never by accident, the same in every process."""

from __future__ import annotations

import asyncio
import enum
import gc
import json
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isolane import BudgetExceeded, FlagConfigError, FlagDecision, FlagEngine
from isolane.migration.flags import bucket


def document(revision: int = 1, **flags: Any) -> str:
    return json.dumps({"schema": 1, "revision": revision, "flags": flags})


def engine_of(attributes_of: Any = None, **flags: Any) -> FlagEngine:
    engine = FlagEngine(attributes_of=attributes_of)
    engine.load(document(**flags))
    return engine


# -- decisions --------------------------------------------------------------------------------------------------------


def test_a_decision_says_why() -> None:
    engine = engine_of(flag={"rollout": 25_000})
    decision = engine.decide("flag", "ann")
    at = bucket("mm3-mul-v1", "flag", "ann")
    assert decision.to_dict() == {
        "flag": "flag",
        "variant": "on" if at < 25_000 else "off",
        "value": at < 25_000,
        "reason": "SPLIT",
        "error_code": None,
        "step": "rollout",
        "bucket": at,
        "threshold": 25_000,
        "rule_index": None,
        "revision": 1,
        "algorithm": "mm3-mul-v1",
    }
    assert {name: getattr(decision, name) for name in decision.to_dict()} == decision.to_dict()
    assert bool(decision) is decision.value
    assert decision == engine.decide("flag", "ann")
    assert hash(decision) == hash(engine.decide("flag", "ann"))
    assert decision != engine.decide("flag", "somebody else")
    with pytest.raises(AttributeError):
        decision.value = True  # type: ignore[misc]


def test_without_a_document_everything_is_off() -> None:
    engine = FlagEngine()
    decision = engine.decide("flag", "ann")
    assert (decision.value, decision.reason, decision.error_code, engine.revision) == (
        False,
        "ERROR",
        "FLAG_NOT_FOUND",
        0,
    )
    assert json.loads(engine.document()) == {"schema": 1, "revision": 0, "flags": {}}


class Loud(str):
    """A text that raises wherever Python would ask it."""

    __slots__ = ()

    def _raise(self, *_: object) -> Any:
        raise SystemExit("asked")

    __eq__ = __str__ = __hash__ = __repr__ = __format__ = __len__ = encode = _raise  # type: ignore[assignment]


class LoudNumber(int):
    __int__ = __index__ = __str__ = __repr__ = __hash__ = __eq__ = Loud._raise  # type: ignore[assignment]


class Hostile:
    """Raises whatever is done with it."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)

    __eq__ = __str__ = __hash__ = __repr__ = __bool__ = __iter__ = __getitem__ = __len__ = __index__ = (  # type: ignore[assignment]
        Loud._raise
    )


class Tier(enum.StrEnum):
    PRO = "pro"


def test_an_id_is_a_text_or_a_whole_number() -> None:
    engine = engine_of(flag={"rollout": 50_000}, all={"rollout": 100_000})
    assert engine.decide("flag", 42) == engine.decide("flag", "42")
    assert engine.decide("flag", -(2**80)) == engine.decide("flag", str(-(2**80)))
    assert engine.decide("flag", Loud("ann")).bucket == engine.decide("flag", "ann").bucket
    assert engine.decide("flag", LoudNumber(7)).bucket == engine.decide("flag", "7").bucket
    assert engine.decide("flag", " ann").bucket != engine.decide("flag", "ann").bucket, "nothing is trimmed"
    for missing in (None, ""):
        decision = engine.decide("flag", missing)
        assert (decision.value, decision.error_code, decision.bucket) == (False, "TARGETING_KEY_MISSING", None)
        assert engine.is_on("all", missing)
    invalid = (True, False, 1.5, float("nan"), b"ann", [], object(), Hostile(), "\ud800", 10**5000, Tier, ...)
    for unit in invalid:
        decision = engine.decide("flag", unit)  # type: ignore[arg-type]
        assert (decision.value, decision.reason, decision.error_code) == (False, "ERROR", "INVALID_CONTEXT")
        assert engine.is_on("all", unit)  # type: ignore[arg-type]
    for flag in (None, 7, Hostile(), "\ud800", "", "x" * 100_000):
        decision = engine.decide(flag, "ann")  # type: ignore[arg-type]
        assert (decision.value, decision.error_code) == (False, "FLAG_NOT_FOUND")
        assert len(decision.flag) <= 128


class Failing(Mapping[str, str]):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, key: str) -> str:
        raise self.error

    def __iter__(self) -> Any:
        raise self.error

    def __len__(self) -> int:
        raise self.error


class Colliding:
    """Has the hash of the attribute that rules look at, and raises when it is compared."""

    def __hash__(self) -> int:
        return hash("tier")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")


RULED = {"rollout": 0, "rules": [{"if": {"tier": ["pro", "7", "true"]}, "rollout": 100_000}]}


def test_rules_look_at_attributes() -> None:
    engine = engine_of(flag=RULED)
    for tier in ("pro", Tier.PRO, 7, True):
        decision = engine.decide("flag", "ann", {"tier": tier})  # type: ignore[dict-item]
        assert (decision.value, decision.reason, decision.rule_index) == (True, "TARGETING_MATCH", 0), tier
    for given_ in ({}, {"tier": "free"}, {"tier": None}, {"tier": ["pro"]}, {"Tier": "pro"}, {"tier": "\ud800"}, None):
        decision = engine.decide("flag", "ann", given_)  # type: ignore[arg-type]
        assert (decision.value, decision.error_code, decision.step) == (False, None, "rollout"), given_
    assert engine.decide("flag", "ann", Failing(KeyError("tier"))).error_code is None, "not there"
    hostile = (7, "text", Hostile(), Failing(ValueError()), Failing(SystemExit()), {Colliding(): 1})
    for given_ in hostile:
        decision = engine.decide("flag", "ann", given_)  # type: ignore[arg-type]
        assert (decision.value, decision.reason, decision.error_code) == (False, "ERROR", "GENERAL")
        assert not engine.snapshot("ann", given_).is_on("flag")  # type: ignore[arg-type]


def test_attributes_are_asked_for_where_a_rule_wants_them() -> None:
    asked: list[str] = []

    def attributes_of(user: str) -> dict[str, str]:
        asked.append(user)
        if user == "eve":
            raise LookupError(user)
        return {"tier": "pro"} if user == "ann" else {}

    engine = engine_of(attributes_of, flag=RULED, plain={"rollout": 50_000}, above={"requires": ["flag"], "rollout": 7})
    engine.decide("plain", "ann")
    assert asked == []
    assert engine.decide("flag", "ann").value
    assert not engine.decide("flag", "ben").value
    assert engine.decide("above", "ann").bucket is not None
    assert asked == ["ann", "ben", "ann"]
    assert not engine.decide("flag", "ann", {}).value, "given attributes are the only ones"
    assert not engine.decide("flag", None).value
    assert len(asked) == 3
    failed = engine.decide("flag", "eve")
    assert (failed.value, failed.error_code, engine.attribute_failures) == (False, "GENERAL", 1)


def test_what_answers_with_a_coroutine_or_with_itself_is_a_failure() -> None:
    async def later(_user: str) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"tier": "pro"}

    engine = engine_of(later, flag=RULED)
    assert engine.decide("flag", "ann").error_code == "GENERAL"
    nested: list[FlagEngine] = []
    nested.append(engine_of(lambda user: {"tier": nested[0].decide("flag", user).variant}, flag=RULED))
    assert not nested[0].decide("flag", "ann").value
    with pytest.raises(TypeError, match="takes a user id"):
        FlagEngine(attributes_of=7)  # type: ignore[arg-type]


# -- documents --------------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_document_is_said_with_its_place() -> None:
    engine = engine_of(flag={"rollout": 100_000})
    with pytest.raises(FlagConfigError, match="25 % is 25000") as refused:
        engine.load(document(2, flag={"rollout": "25%"}), "flags.json")
    assert isinstance(refused.value, ValueError)
    assert refused.value.path == "/flags/flag/rollout"
    assert refused.value.problem == "a whole number is wanted, got a string"
    assert refused.value.fix.startswith("It is counted in 100 000ths")
    decision = engine.decide("flag", "ann")
    assert (decision.value, decision.reason, decision.revision) == (True, "STALE", 1)
    assert engine.load(document(2, flag={"rollout": 100_000})) == 2
    assert engine.decide("flag", "ann").reason == "STATIC"
    with pytest.raises(FlagConfigError, match="older than 2") as refused:
        engine.load(document(1, flag={"rollout": 0}))
    assert refused.value.path == "/revision"
    assert engine.is_on("flag", "ann")
    assert engine.load(document(1, flag={"rollout": 0}), force=True) == 1
    with pytest.raises(FlagConfigError, match="surrogate"):
        engine.load('{"\ud800": 1}')
    with pytest.raises(FlagConfigError, match="recursion limit"):
        FlagEngine.check('{"schema":' + "[" * 10_000)
    assert FlagEngine.check(document(9)) == 9
    assert FlagEngine().load(document(1), "a name of a file that is no UTF-8: \udce9") == 1
    assert engine.revision == 1


def test_ids_in_a_document_are_not_told() -> None:
    with pytest.raises(FlagConfigError) as refused:
        FlagEngine.check(document(flag={"allow": ["ann@example.org", ["ben@example.org"]]}))
    assert refused.value.path == "/flags/flag/allow/1"
    assert "example.org" not in str(refused.value)


def test_long_lists_are_looked_up_not_gone_through() -> None:
    ids = [f"user-{number}" for number in range(200_000)]
    engine = engine_of(flag={"allow": ids[:100_000], "deny": ids[100_000:], "rollout": 50_000})
    assert engine.decide("flag", ids[99_999]).step == "allow"
    assert engine.decide("flag", ids[199_999]).step == "deny"
    assert engine.decide("flag", "user-200000").step == "rollout"


def test_a_rollback_outlives_documents_until_somebody_resumes() -> None:
    engine = engine_of(flag={"rollout": 100_000})
    engine.latch("flag", '{"metric": "run_error"}')
    assert engine.decide("flag", "ann").step == "rollback"
    engine.load(document(2, flag={"rollout": 100_000}))
    assert engine.latched() == {"flag": '{"metric": "run_error"}'}
    assert not engine.is_on("flag", "ann")
    resumed = {"ack": "INC-1", "actor": "ann", "at": "2026-01-01T00:00:00Z"}
    engine.load(document(3, flag={"rollout": 100_000, "resumed": resumed}))
    assert engine.is_on("flag", "ann")
    engine.latch("flag", "again")
    engine.load(document(4, flag={"rollout": 100_000, "resumed": resumed}))
    assert not engine.is_on("flag", "ann"), "who resumed before does not resume this one"
    assert engine.release("flag")
    assert engine.is_on("flag", "ann")
    engine.load(document(5, flag={"rollout": 100_000, "rollback": {"reason": "by hand"}}))
    assert engine.latched() == {"flag": '{"reason":"by hand"}'}
    assert not engine.release("flag")


def test_the_kill_switch_and_quarantine() -> None:
    engine = engine_of(flag={"rollout": 100_000, "allow": ["ann"]})
    engine.kill()
    assert engine.is_killed
    assert engine.decide("flag", "ann").step == "kill_switch"
    engine.unkill()
    engine.quarantine("ann")
    assert engine.decide("flag", "ann").step == "quarantine"
    assert engine.is_on("flag", "ben")
    assert engine.quarantined == 1
    assert engine.release_user("ann")
    assert engine.is_on("flag", "ann")
    for number in range(1_000):
        engine.latch(f"other-{number}", "")
    with pytest.raises(BudgetExceeded, match="1000 rolled back flags"):
        engine.latch("one more", "")
    engine.latch("flag", "always possible for a flag of the document")


# -- the same everywhere ----------------------------------------------------------------------------------------------

USERS = st.one_of(st.text(max_size=40), st.integers(), st.none(), st.floats(), st.binary(max_size=8), st.booleans())
ATTRIBUTES = st.one_of(
    st.none(), st.integers(), st.dictionaries(st.sampled_from(["tier", "region"]), USERS), st.lists(st.text())
)
ENGINE = engine_of(
    flag=RULED | {"rollout": 30_000},
    unleash={"algorithm": "unleash", "rollout": 30_000},
    growthbook={"algorithm": "growthbook-v2", "rollout": 30_000},
    above={"requires": ["flag"], "rollout": 60_000},
)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=12), st.sampled_from(["flag", "unleash", "growthbook", "above"])), USERS, ATTRIBUTES)
def test_whatever_is_given_there_is_one_answer(flag: str, user: Any, attributes: Any) -> None:
    decision = ENGINE.decide(flag, user, attributes)
    assert isinstance(decision, FlagDecision)
    assert decision == ENGINE.decide(flag, user, attributes)
    assert ENGINE.is_on(flag, user, attributes) is decision.value
    assert ENGINE.snapshot(user, attributes).decide(flag) == decision
    assert (decision.error_code is not None) == (decision.reason == "ERROR")
    if decision.bucket is not None:
        assert 0 <= decision.bucket < 100_000


@settings(deadline=None)
@given(
    st.sampled_from(["mm3-mul-v1", "unleash", "growthbook-v2"]),
    st.text(st.characters(exclude_characters=":", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=20),
    st.tuples(st.integers(0, 100), st.integers(0, 100)),
)
def test_a_larger_rollout_keeps_everybody(algorithm: str, salt: str, users: list[str], both: tuple[int, int]) -> None:
    less, more = sorted(both)
    flag = {"algorithm": algorithm, "salt": salt}
    engine = engine_of(less=flag | {"rollout": less * 1000}, more=flag | {"rollout": more * 1000})
    assert {user for user in users if engine.is_on("less", user)} <= {
        user for user in users if engine.is_on("more", user)
    }


TRY = """
import json
from isolane.migration.flags import FlagEngine
engine = FlagEngine()
flags = {name: {"algorithm": name, "rollout": 30_000} for name in ("mm3-mul-v1", "unleash", "growthbook-v2")}
flags["ruled"] = {"rollout": 0, "rules": [{"if": {"a": ["1", "2"], "b": ["3"]}, "rollout": 40_000}]}
engine.load(json.dumps({"schema": 1, "revision": 1, "flags": flags}))
known = {"a": "2", "b": "3"}
print("".join(str(int(engine.is_on(flag, f"user-{n}", known))) for flag in flags for n in range(500)))
"""


def test_every_process_has_the_same_cohorts() -> None:
    answers = set()
    for seed in ("0", "1", "4242"):
        told = subprocess.run(
            [sys.executable, "-c", TRY],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        answers.add(told.stdout)
    assert len(answers) == 1
    assert 500 < answers.pop().count("1") < 800, "about a third of 2000"


# -- threads, memory --------------------------------------------------------------------------------------------------


def test_deciding_while_documents_change() -> None:
    """Each answer is of one document as a whole: at even revisions everybody is on, at odd ones nobody."""
    engine = FlagEngine()
    rollouts = [{"rollout": 100_000 * (number % 2)} for number in range(399)]
    texts = [document(at, one=rollout, two=rollout) for at, rollout in enumerate(rollouts, 1)]
    engine.load(texts[0])
    wrong: list[Any] = []
    done = threading.Event()

    def decide() -> None:
        while not done.is_set():
            snapshot = engine.snapshot("ann")
            one, two = snapshot.decide("one"), snapshot.decide("two")
            if not (one.value == two.value == (one.revision % 2 == 0) and one.revision == two.revision):
                wrong.append((one, two))

    threads = [threading.Thread(target=decide) for _ in range(3)]
    for thread in threads:
        thread.start()
    for text in texts:
        engine.load(text)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert engine.revision == 399


def test_an_engine_that_nobody_has_is_collected() -> None:
    class Directory:
        engine: FlagEngine

        def attributes_of(self, _user: str) -> dict[str, str]:
            return {}

    directory = Directory()
    directory.engine = engine_of(directory.attributes_of, flag=RULED)
    snapshot = directory.engine.snapshot("ann")
    gone = weakref.ref(directory)
    del directory
    gc.collect()
    assert gone() is not None, "the snapshot may ask it"
    del snapshot
    gc.collect()
    assert gone() is None


def test_what_belongs_to_a_process_is_not_pickled() -> None:
    engine = engine_of(flag={"rollout": 1})
    for thing in (engine, engine.snapshot("ann")):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


def test_snapshots_are_mappings_of_their_moment() -> None:
    engine = engine_of(one={"rollout": 100_000}, two={"rollout": 0})
    snapshot = engine.snapshot("ann")
    engine.load(document(2, one={"rollout": 0}))
    engine.kill()
    assert (snapshot.keys(), list(snapshot), len(snapshot)) == (["one", "two"], ["one", "two"], 2)
    assert snapshot["one"].value
    assert "one" in snapshot
    assert "three" not in snapshot
    assert Hostile() not in snapshot
    with pytest.raises(KeyError, match="three"):
        snapshot["three"]
    assert (snapshot.user_id, snapshot.revision, snapshot.is_stale) == ("ann", 1, False)
    told = snapshot.to_dict()
    assert told["decisions"]["one"] == snapshot["one"].to_dict()
    assert (told["revision"], told["is_stale"]) == (1, False)
    assert "ann" not in repr(engine)


def test_a_snapshot_asks_for_attributes_once() -> None:
    tiers = iter(["pro", "free", "pro"])
    engine = engine_of(lambda _user: {"tier": next(tiers)}, flag=RULED)
    snapshot = engine.snapshot("ann")
    assert [snapshot.is_on("flag") for _ in range(3)] == [True] * 3
    assert snapshot.decide("flag").value
    assert not engine.snapshot("ann").is_on("flag"), "the next one asks again"
