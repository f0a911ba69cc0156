"""Three million deliveries, each scanned: the bound that this proves, and what is left of their users after it."""

from __future__ import annotations

import gc
import json
import logging
import random
from typing import Any

import isolane
import pytest
from isolane import ContaminationDetector, ContaminationLogFilter, UserContextFactory
from isolane._core import EventCursor, user_streams
from isolane.testing import manual_clock

USERS = 20
DELIVERIES = 3_000_000
EVENTS = 250
"""Events of one run: its log, and the other logs of its user, have room for all of them."""


class Traffic:
    """Runs of users that publish, each event with a canary of its user, and a socket that reads it."""

    def __init__(self, detector: ContaminationDetector, seed: int) -> None:
        self.detector = detector
        self.draw = random.Random(seed)
        self.users = [f"soak-{seed}-{number}" for number in range(USERS)]
        self.canaries = {user: detector.mint(user) for user in self.users}
        self.read = 0
        self.foreign = 0

    def round(self) -> int:
        """One run of each user, side by side. Returns how many events were published."""
        contexts = [UserContextFactory.create_context(user) for user in self.users]
        emitters = [context.get_websocket_emitter() for context in contexts]
        cursors = [EventCursor(context.user_id, framed=False) for context in contexts]
        for context, cursor in zip(contexts, cursors, strict=True):
            cursor.subscribe(context.run_id)
        order = [at for at in range(USERS) for _ in range(EVENTS)]
        self.draw.shuffle(order)
        for number, at in enumerate(order):
            canary = self.canaries[self.users[at]]
            emitters[at].publish("mine", {"note": canary, "number": number})
        for context, cursor in zip(contexts, cursors, strict=True):
            while messages := cursor.read(1_000):
                self.read += len(messages)
                own = self.canaries[context.user_id]
                # The second judge, which has no part in the detector: a plain search.
                self.foreign += sum("iso1_" in text.replace(own, "") for text in messages)
            cursor.detach()
        return len(order)

    def residue(self) -> list[str]:
        """What is left of the users in registries, logs, caches and figures, when all has expired."""
        found = []
        for user in self.users:
            self.detector.forget_user(user)
            usage: dict[str, Any] = isolane.lane_usage(user) or {}
            found += [f"{user}: {key}" for key, value in usage.items() if value and key != "peak_bytes"]
            found += [f"{user}: stream" for _ in user_streams(user)]
            found += [f"{user}: held by the detector"] * self.detector.holds(user)
        figures = json.dumps([isolane.lane_stats(), isolane.default_limiter().stats(), self.detector.figures()])
        found += [
            f"{user}: in the figures" for user, canary in self.canaries.items() if user in figures or canary in figures
        ]
        return found


@pytest.mark.timeout(1_800)
def test_each_delivery_is_scanned_and_nothing_leaks(rounds, found, caplog) -> None:
    detector = ContaminationDetector("enforce")
    deliveries = DELIVERIES if rounds(50) > 1 else DELIVERIES // 200
    caplog.handler.addFilter(ContaminationLogFilter(detector))
    logging.getLogger("isolane").setLevel(logging.DEBUG)
    with manual_clock() as clock:
        detector.install()
        try:
            traffic, published = Traffic(detector, 2026), 0
            while published < deliveries:
                published += traffic.round()
                gc.collect()
                # Logs whose retention is over go.
                clock.advance(1_000)
                isolane.sweep_lanes()
        finally:
            detector.uninstall()
        clock.advance(1_000)
        isolane.sweep_lanes(idle_lanes=True)
    figures = detector.figures()
    bound = figures["leak_probability_upper_bound"]
    scanned = figures["boundaries"]["ws_out"]
    found(
        f"{scanned['deliveries']:,} deliveries of {USERS} users scanned, {scanned['bytes'] / 1e6:,.0f} MB, "
        f"{scanned['own']:,} canaries of their own seen, {figures['violations']} violations: "
        f"a delivery leaks with a probability below {bound:.1e} at 95 %"
    )
    assert (figures["violations"], figures["errors"], traffic.foreign) == (0, 0, 0)
    assert traffic.read >= published
    # Each event was scanned when it was published and when it was read, and its canary was seen both times.
    assert scanned["deliveries"] == published
    assert scanned["own"] == published + traffic.read
    assert bound == pytest.approx(3 / published)
    assert detector.sweep().verdict == "clean"
    assert traffic.residue() == []
    assert "iso1_" not in caplog.text


def test_the_soak_finds_one_canary_in_the_wrong_place() -> None:
    """The positive control: one event of one user carries the canary of another."""
    detector = ContaminationDetector("observe")
    detector.install()
    try:
        traffic = Traffic(detector, 7)
        one, other = traffic.users[:2]
        mine = traffic.canaries[one]
        traffic.round()
        assert detector.figures()["violations"] == 0
        context = UserContextFactory.create_context(other)
        context.get_websocket_emitter().publish("mine", {"note": mine})
        assert detector.figures()["violations"] == 1
        assert detector.holds(one)
    finally:
        detector.uninstall()
    assert any("held by the detector" in left for left in _left_before_forgetting(traffic))


def _left_before_forgetting(traffic: Traffic) -> list[str]:
    return [f"{user}: held by the detector" for user in traffic.users if traffic.detector.holds(user)]
