"""The benchmark of several workers: all sides are read to the end, goals name what is measured."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import redis

from benches.events.shape import MISSING, Load, Way
from benches.python.measure import Case, Figure, Measured, Side, Unit
from benches.scale import goals, plot, report, scenarios
from benches.scale.scenarios import ADDED, HERE, LIVE, P50, P99, THERE, WAYS, case_name
from benches.scale.server_figures import RedisFigures
from benches.scale.shape import ANOTHER, MANY, SAME, Burst, Cycles, Holder, Sizes
from examples.optimizer.shared_redis import started_redis

ROOT = Path(__file__).resolve().parents[2]
SMALL = Sizes(
    cycles=(Cycles(ANOTHER, 20, 20, 1), Cycles(SAME, 20, 1, 1), Cycles(MANY, 64, 64, 32)),
    shared=Cycles(MANY, 64, 64, 32),
    workers=(1, 2),
    load=Load(3, 20, 1, 0.5),
    burst=Burst(3, 20),
    rounds=1,
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def needs_redis() -> None:
    if shutil.which("redis-server") is None:
        if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
            pytest.fail("required, but there is no redis-server (apt-get install redis-server)")
        pytest.skip("left out: there is no redis-server (apt-get install redis-server)")


def made_up(sizes: Sizes = SMALL, rounds: int = 3) -> list[Measured]:
    """Figures of a machine that is not there."""
    chance = random.Random(7)
    found = []
    for scenario in scenarios.all_scenarios(sizes):
        for _, title, unit in scenario.metrics:
            sides = tuple(Side(name, lambda _: 0.0) for name in scenario.sides)
            figures = tuple(
                Figure(side.name, tuple(chance.uniform(1e-4, 2e-4) for _ in range(rounds))) for side in sides
            )
            found.append(Measured(Case(scenario.group, scenario.title(title), sides, unit=unit), figures))
    return report.in_order(found)


def test_every_goal_names_a_figure_that_is_measured() -> None:
    """Also of the full run, whose names are others."""
    for sizes in (SMALL, Sizes.quick(), Sizes.full()):
        judged = goals.verdicts(made_up(sizes), sizes)
        assert len(judged) >= 12
        if not MISSING:
            assert [verdict.why for verdict in judged if verdict.measured is None] == []


def test_what_the_way_adds_is_the_difference_within_each_round() -> None:
    """And stands right after what it is of."""

    def live(name: str, metric: str, *values: tuple[float, ...]) -> Measured:
        sides = tuple(Side(side, lambda _: 0.0) for side in WAYS.values())
        figures = tuple(Figure(side.name, each) for side, each in zip(sides, values, strict=True))
        return Measured(Case(LIVE, case_name(name, metric), sides), figures)

    near = [live(HERE, metric[1], (0.001, 0.002), (0.005, 0.001)) for metric in (P50, P99)]
    far = [live(THERE, metric[1], (0.004, 0.004), (0.006, 0.004)) for metric in (P50, P99)]
    after = made_up()[-1]
    ordered = report.in_order([*near, *far, after])
    assert [each.case.name for each in ordered[4:6]] == [case_name(ADDED, "p50"), case_name(ADDED, "p99")]
    assert ordered[-1] is after
    own, peer = ordered[4].figures
    assert own.values == pytest.approx((0.003, 0.002))
    assert peer.values == pytest.approx((0.001, 0.003))
    assert report.in_order([after]) == [after]


def test_a_ratio_is_isolanes_by_the_peers_and_of_rates_the_other_way() -> None:
    """Figures are seconds for one; twice the time is half the rate."""
    sides = (Side("own", lambda _: 0.0), Side("peer", lambda _: 0.0))
    figures = (Figure("own", (2e-3, 4e-3)), Figure("peer", (1e-3, 2e-3)))
    times, rates = (Measured(Case("g", "c; m", sides, unit=unit), figures) for unit in (Unit.SECONDS, Unit.MESSAGES))
    assert report.compared(times, figures[1]) == "2x"
    assert report.compared(rates, figures[1]) == "0.5x"
    assert report.compared(times, figures[0]) == ""
    nothing = Figure("peer", (0.0, -1e-3))
    assert report.compared(Measured(times.case, (figures[0], nothing)), nothing) == ""
    assert report.shown(Measured(Case("g", f"{ADDED}; p50", sides), (nothing,)), nothing) == "-500 µs"


def test_the_document_has_a_table_for_each_measurement_and_a_picture(tmp_path: Path) -> None:
    """Written from figures alone."""
    results = made_up()
    text = report.document(results, SMALL, goals.verdicts(results, SMALL), {"CPU": "none"}, "images/a.svg")
    for group in (scenarios.PLACES, scenarios.SHARED, scenarios.LIVE, scenarios.BURST):
        assert f"\n## {group}\n" in text
    assert text.count("| isolane") == sum(1 for _ in scenarios.all_scenarios(SMALL)) + bool(not MISSING)
    assert max(len(line) for line in text.splitlines() if not line.startswith(("|", "!["))) <= 120
    pytest.importorskip("matplotlib")
    plot.draw(results, SMALL, tmp_path / "picture.svg")
    drawn = ET.parse(tmp_path / "picture.svg").getroot()
    assert drawn.tag.endswith("svg")
    assert "var(--line0)" in (tmp_path / "picture.svg").read_text(encoding="utf-8")


def test_labels_do_not_cover_each_other() -> None:
    """In their order, each at its place where there is room."""
    assert plot.apart({"a": 10.0, "b": 1.0, "c": 10.5}, 2.0) == {"b": 1.0, "a": 10.0, "c": 12.0}


@pytest.mark.usefixtures("needs_redis")
def test_only_what_others_did_is_counted() -> None:
    """The readings themselves are not."""
    with started_redis() as url, redis.Redis.from_url(url) as client:
        client.ping()
        figures = RedisFigures(url)
        for _ in range(10):
            client.incr("x")
        commands, processor = figures.since()
        assert 10 <= commands <= 13
        assert processor >= 0
        assert "redis" in RedisFigures(url).version() or "valkey" in RedisFigures(url).version()


@pytest.mark.usefixtures("needs_redis")
@pytest.mark.parametrize("holder", list(Holder))
def test_places_are_taken_by_all_sides(holder: Holder) -> None:
    """In two workers at once."""
    found = scenarios.places(holder, SMALL.shared, 2)
    assert found.keys() == {"p50", "p99", "rate", "processor", "redis", "commands"}
    assert min(found.values()) >= 0
    assert found["commands"] >= 2
    assert 0 < found["p50"] <= found["p99"]


@pytest.mark.usefixtures("needs_redis")
@pytest.mark.parametrize("way", list(WAYS))
def test_events_reach_sockets_of_another_worker(way: Way) -> None:
    """All of them: a client that misses one ends the measurement."""
    if way is Way.SOCKETIO and MISSING:
        pytest.skip(MISSING)
    far = scenarios.live(way, SMALL.load, 1)
    assert 0 < far["p50"] <= far["p99"] <= far["max"]
    # One that came from the log of an earlier measurement would be much older.
    assert far["max"] < 30
    burst = scenarios.burst(way, SMALL.burst, 2)
    assert burst["rate"] > 0
    assert burst["commands"] > 0


@pytest.mark.parametrize("options", [["--quick"], []])
def test_without_a_redis_the_command_says_so(tmp_path: Path, options: list[str]) -> None:
    """No traceback, and no document."""
    command = [sys.executable, "-m", "benches.scale", *options, "--output", str(tmp_path / "doc.md")]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "redis-server" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "doc.md").exists()
