"""Decisions of whole documents beside an evaluation in plain Python that shares nothing with the core but the hash."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from isolane import FlagEngine
from isolane.migration.flags import bucket

USERS = ["ann", "ben", "eve", "42"]
NAMES = ["a", "b", "c"]
STEPS = {"mm3-mul-v1": 1, "unleash": 1000, "growthbook-v2": 10}
ROLLOUTS = st.sampled_from([0, 1_000, 25_000, 50_000, 75_000, 99_000, 100_000])
CONDITIONS = st.dictionaries(
    st.sampled_from(["tier", "region"]),
    st.one_of(st.sampled_from(["x", "y"]), st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=2)),
    min_size=1,
)


def fields(requires: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """A flag that may require those."""
    ids = st.lists(st.sampled_from(USERS), max_size=2)
    return st.fixed_dictionaries(
        {},
        optional={
            "state": st.sampled_from(["on", "on", "on", "off"]),
            "salt": st.sampled_from(["s", "t"]),
            "algorithm": st.sampled_from(list(STEPS)),
            "deny": ids,
            "allow": ids,
            "requires": st.lists(st.sampled_from(requires), max_size=2) if requires else st.just([]),
            "rules": st.lists(st.fixed_dictionaries({"if": CONDITIONS, "rollout": ROLLOUTS}), max_size=2),
            "rollout": ROLLOUTS,
            "rollback": st.just({"reason": "errors"}),
        },
    )


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    # A flag requires only what comes after it: no circles. What turns off for everybody is rare, to see what is behind.
    flags = {name: draw(fields(NAMES[at + 1 :])) for at, name in enumerate(NAMES)}
    for flag in flags.values():
        if draw(st.integers(0, 4)):
            flag.pop("rollback", None)
    return {"schema": 1, "revision": 1, "kill_switch": draw(st.integers(0, 9)) == 0, "flags": flags}


class Model:
    """The evaluation, step by step, as the page on flags has it."""

    def __init__(self, document: dict[str, Any], latched: set[str], quarantined: set[str], *, killed: bool) -> None:
        self.document, self.latched, self.quarantined, self.killed = document, latched, quarantined, killed

    def decide(  # noqa: PLR0911 - one for each step
        self, name: str, user: str, known: dict[str, str]
    ) -> tuple[bool, str, str, int | None, int | None]:
        """Return value, step, reason, bucket and rule."""
        flag = self.document["flags"][name]
        if self.document["kill_switch"] or self.killed:
            return False, "kill_switch", "DISABLED", None, None
        if name in self.latched or "rollback" in flag:
            return False, "rollback", "DISABLED", None, None
        if flag.get("state") == "off":
            return False, "state", "DISABLED", None, None
        listed = {"quarantine": self.quarantined, "deny": flag.get("deny", []), "allow": flag.get("allow", [])}
        for step, users in listed.items():
            if user in users:
                return step == "allow", step, "TARGETING_MATCH", None, None
        if not all(self.decide(required, user, known)[0] for required in flag.get("requires", [])):
            return False, "requires", "DEFAULT", None, None
        for number, rule in enumerate(flag.get("rules", [])):
            if all(known.get(key) in ([want] if isinstance(want, str) else want) for key, want in rule["if"].items()):
                value, reason, at = self._split(name, flag, rule["rollout"], user, "TARGETING_MATCH")
                return value, "rule", reason, at, number
        if "rollout" in flag:
            value, reason, at = self._split(name, flag, flag["rollout"], user, "STATIC")
            return value, "rollout", reason, at, None
        return False, "control", "DEFAULT", None, None

    @staticmethod
    def _split(name: str, flag: dict[str, Any], rollout: int, user: str, same: str) -> tuple[bool, str, int | None]:
        if rollout in {0, 100_000}:
            return rollout > 0, same, None
        at = bucket(flag.get("algorithm", "mm3-mul-v1"), flag.get("salt", name), user)
        return at < rollout, "SPLIT", at


@settings(deadline=None)
@given(
    documents(),
    st.sets(st.sampled_from(NAMES), max_size=1),
    st.sets(st.sampled_from(USERS), max_size=1),
    st.integers(0, 9).map(lambda number: number == 0),
    st.dictionaries(st.sampled_from(["tier", "region", "other"]), st.sampled_from(["x", "y", "z"])),
)
def test_each_decision_is_that_of_the_model(
    document: dict[str, Any], latched: set[str], quarantined: set[str], killed: bool, known: dict[str, str]
) -> None:
    engine = FlagEngine()
    engine.load(json.dumps(document))
    for flag in latched:
        engine.latch(flag, "{}")
    for user in quarantined:
        engine.quarantine(user)
    if killed:
        engine.kill()
    model = Model(document, latched, quarantined, killed=killed)
    for user in USERS:
        snapshot = engine.snapshot(user, known)
        for name in NAMES:
            decision = engine.decide(name, user, known)
            found = (decision.value, decision.step, decision.reason, decision.bucket, decision.rule_index)
            assert found == model.decide(name, user, known)
            assert snapshot.decide(name) == decision
            assert decision.error_code is None
