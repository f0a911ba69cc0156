"""Whether a flag is on for a user, beside the in-memory provider of OpenFeature's SDK."""

import json
from collections.abc import Callable
from typing import Any

from isolane import FlagEngine, UserContextFactory, install_flags, sweep_lanes

from benches.python.measure import Case, Run, Side, now

GROUP = "Flags"
USER = "user-7c21"
FLAG = "modern_execution"

DECIDE = "a decision by the user's bucket"
RULED = "a decision by a rule on one attribute"
SNAPSHOT = "a context with a snapshot, made and asked once"
OWN = "isolane FlagEngine.decide"
IS_ON = "isolane FlagEngine.is_on"
OPENFEATURE = "openfeature-sdk client, InMemoryProvider"
KEPT = "isolane UserExecutionContext, flags installed"
WITHOUT = "the same without flags"


def _engine() -> FlagEngine:
    """Twenty flags, as a service has them, of which one is asked for."""
    flags: dict[str, Any] = {f"other-{number}": {"rollout": 50_000} for number in range(18)}
    flags[FLAG] = {"rollout": 25_000, "allow": ["ann"], "deny": ["dan"]}
    flags["ruled"] = {"rollout": 0, "rules": [{"if": {"tier": ["enterprise"]}, "rollout": 50_000}]}
    engine = FlagEngine()
    engine.load(json.dumps({"schema": 1, "revision": 1, "flags": flags}))
    return engine


def looped(make: Callable[[], Callable[[], Any]]) -> Run:
    """What is made before it is called in a loop."""

    def run(loops: int) -> float:
        call = make()
        start = now()
        for _ in range(loops):
            call()
        return now() - start

    return run


def decides() -> Callable[[], Any]:
    """Return a decision by the user's bucket."""
    decide = _engine().decide
    return lambda: decide(FLAG, USER)


def _is_on() -> Callable[[], Any]:
    is_on = _engine().is_on
    return lambda: is_on(FLAG, USER)


def _decides_by_rule() -> Callable[[], Any]:
    decide, known = _engine().decide, {"tier": "enterprise"}
    return lambda: decide("ruled", USER, known)


def _openfeature() -> tuple[Callable[[], Callable[[], Any]] | None, str]:
    try:
        from openfeature import api  # noqa: PLC0415 - optional
        from openfeature.evaluation_context import EvaluationContext  # noqa: PLC0415 - optional
        from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider  # noqa: PLC0415 - optional
    except ImportError:
        return None, "openfeature-sdk is not installed"

    def make() -> Callable[[], Any]:
        api.set_provider(InMemoryProvider({FLAG: InMemoryFlag("on", {"on": True, "off": False})}))
        client, who = api.get_client(), EvaluationContext(targeting_key=USER)
        return lambda: client.get_boolean_details(FLAG, False, who)

    return make, ""


def _contexts(*, installed: bool) -> Run:
    def run(loops: int) -> float:
        before = install_flags(_engine() if installed else None)
        try:
            start = now()
            for _ in range(loops):
                flags = UserContextFactory.create_context(USER).flags
                if flags is not None:
                    flags.is_on(FLAG)
            return now() - start
        finally:
            install_flags(before)
            sweep_lanes()

    return run


def cases() -> list[Case]:
    """A decision, a rule, a snapshot."""
    openfeature, missing = _openfeature()
    sides = [Side(OWN, looped(decides)), Side(IS_ON, looped(_is_on))]
    if openfeature is not None:
        sides.append(Side(OPENFEATURE, looped(openfeature)))
    return [
        Case(
            GROUP,
            DECIDE,
            tuple(sides),
            note="The peer answers with the flag's default variant: it has no rollout and hashes nothing. " + missing,
        ),
        Case(GROUP, RULED, (Side(OWN, looped(_decides_by_rule)),)),
        Case(
            GROUP,
            SNAPSHOT,
            (Side(KEPT, _contexts(installed=True)), Side(WITHOUT, _contexts(installed=False))),
            own=True,
        ),
    ]
