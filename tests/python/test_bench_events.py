"""The benchmark of the events: its clients notice what goes wrong, all ways are read to the end, goals are judged."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from isolane._core import EventCursor

from benches.events import __main__ as command
from benches.events import goals, percentiles, plot, report, scenarios
from benches.events.readers import ACK_EVENTS, BareSocket, BrokenDeliveryError, IsolaneSocket, Reader, SocketIoSocket
from benches.events.report import Results
from benches.events.scenarios import Scenario
from benches.events.services import bare, envelope, own, payload
from benches.events.shape import DELIVER, LABELS, MISSING, Load, Sizes, Way
from benches.python.measure import Effort, Measured
from benches.python.sockets import wire
from benches.python.sockets.client import Client
from benches.python.targets import Rule, Verdict

ROOT = Path(__file__).resolve().parents[2]
SMALL = Sizes((Load(3, 20, 0.5, 0.1),), idle=3, missed=100, resumes=2, clients=5, behind=40, rounds=1)


def or_skip(reason: str) -> None:
    if reason and os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


class TestPercentiles:
    def test_they_are_by_the_nearest_rank(self) -> None:
        hundred = list(range(1, 101))
        assert [percentiles.percentile(hundred, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
        assert percentiles.percentile([7], 0.99) == 7
        assert percentiles.percentile([1, 2, 3], 0.5) == 2

    def test_a_summary_is_in_seconds_and_of_any_order(self) -> None:
        found = percentiles.summary([3_000_000_000, 1_000_000_000, 2_000_000_000])
        assert found == {"p50": 2.0, "p99": 3.0, "max": 3.0}

    def test_of_nothing_there_are_none(self) -> None:
        with pytest.raises(ValueError, match="nothing was measured"):
            percentiles.summary([])

    def test_what_was_published_early_does_not_count(self) -> None:
        published, latencies = [5_000, 2_000_000_000, 1_000_000_005, 1_000_005_000], [1, 2, 3, 4]
        assert percentiles.after_warm_up(published, latencies, 1.0) == [2, 4]
        assert percentiles.after_warm_up(published, latencies, 0.0) == latencies


class TestTheBytesOfAWebSocket:
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
    def test_a_frame_is_read_whole_however_it_arrives(self, size: int) -> None:
        data = os.urandom(size)
        head = bytes([0x81, size]) if size < 126 else bytes([0x81, 127]) + size.to_bytes(8, "big")
        if 126 <= size <= 65_535:
            head = bytes([0x81, 126]) + size.to_bytes(2, "big")
        sent = head + data + b"\x89\x01x"
        for cut in {0, 1, 2, 3, 9, 10, len(head), len(sent) - 4, len(sent) - 3, len(sent) - 1}:
            first, rest = wire.complete(sent[:cut])
            second, rest = wire.complete(rest + sent[cut:])
            whole = first + second == [(wire.TEXT, data), (wire.PING, b"x")]
            assert (whole, rest) == (True, b""), cut

    def test_a_refused_handshake_is_an_error(self) -> None:
        assert wire.accepted(b"HTTP/1.1 101 Switching Protocols\r\n") is None
        assert wire.accepted(b"HTTP/1.1 101 Switching Protocols\r\n\r\nrest") == b"rest"
        with pytest.raises(ConnectionError, match="403"):
            wire.accepted(b"HTTP/1.1 403 Forbidden\r\n\r\n")


class Counting(Client):
    """The client that only counts, without a socket."""

    def __init__(self) -> None:
        self.framed, self.read, self.acknowledged, self.latest = True, 0, 0, {}
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def frame(self, run: str, first: int, last: int) -> None:
        items = [{"n": n, "f": n, "p": 2, "ev": {"seq": n, "payload": {"number": n}}} for n in range(first, last + 1)]
        frame = {"v": 1, "t": "ev", "s": run, "e": "one", "b": items}
        self._count([json.dumps(frame, separators=(",", ":")).encode()])


def test_the_client_that_only_counts_acknowledges_each_stream() -> None:
    client = Counting()
    client.frame("run_1", 1, 16)
    client.frame("run_2", 1, 15)
    client._count([b'{"v":1,"t":"sub","s":"run_3","e":"one","mode":"exact","n":7,"head":7}'])
    assert (client.read, client.said) == (31, [])
    client.frame("run_2", 16, 16)
    assert client.said == ['{"t": "ack", "s": {"run_1": 16, "run_2": 16}}']
    client.frame("run_1", 17, 48)
    assert client.said[1:] == ['{"t": "ack", "s": {"run_1": 48}}']


class Said(IsolaneSocket):
    """What a client says is kept, instead of written."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def frame(self, **fields: object) -> None:
        self.heard(json.dumps({"v": 1, **fields}).encode(), 10)

    def events(self, first: int, last: int, level: int = 2) -> None:
        items = [{"n": n, "f": n, "p": level, "ev": {"payload": payload(n, 1, 0)}} for n in range(first, last + 1)]
        self.frame(t="ev", s="run", e="one", b=items)


@pytest.fixture
async def client() -> Said:
    said = Said(Reader("ann"))
    said.frame(t="welcome", streams=[])
    said.frame(t="sub", s="run", e="one", mode="reset", n=0, head=0)
    return said


class TestTheClient:
    async def test_it_acknowledges_class_1_and_every_32_events(self, client: Said) -> None:
        client.events(1, 16)
        client.events(17, ACK_EVENTS - 1)
        assert client.said == []
        client.events(ACK_EVENTS, ACK_EVENTS)
        assert client.said == ['{"t": "ack", "s": {"run": 32}}']
        client.events(33, 33, level=1)
        assert client.said[1:] == ['{"t": "ack", "s": {"run": 33}}']

    async def test_it_ignores_what_it_has(self, client: Said) -> None:
        client.events(1, 5)
        client.events(3, 7)
        assert (client.reader.read, list(client.reader.latencies)) == (7, [9] * 7)

    async def test_a_hole_ends_the_measurement(self, client: Said) -> None:
        client.events(1, 2)
        with pytest.raises(BrokenDeliveryError, match="is at 2 and got 4 to 4"):
            client.events(4, 4)

    @pytest.mark.parametrize("kind", ["snap", "skip", "bye", "end"])
    async def test_so_does_what_leaves_something_out(self, client: Said, kind: str) -> None:
        with pytest.raises(BrokenDeliveryError, match=kind):
            client.frame(t=kind, s="run", e="one")

    async def test_it_comes_back_with_its_position_and_counts_on(self, client: Said) -> None:
        client.events(1, 10)
        again = Said(client.reader.copy())
        again.frame(t="welcome", streams=[{"s": "run", "e": "one", "n": 12}])
        assert json.loads(again.said[0]) == {"t": "sub", "s": "run", "e": "one", "n": 10}
        again.frame(t="sub", s="run", e="one", mode="exact", n=10, head=12)
        complete = again.reader.until(12)
        again.events(11, 12)
        assert complete.result() == 10
        assert (client.reader.read, len(again.reader.latencies)) == (10, 2)

    async def test_an_answer_from_elsewhere_ends_the_measurement(self, client: Said) -> None:
        client.events(1, 10)
        with pytest.raises(BrokenDeliveryError, match="is at 10"):
            client.frame(t="sub", s="run", e="one", mode="reset", n=0, head=10)

    async def test_it_answers_a_ping(self, client: Said) -> None:
        client.frame(t="ping", head={"run": 0})
        assert client.said == ['{"t":"pong"}']

    @pytest.mark.parametrize(
        ("kind", "text"),
        [(BareSocket, '{{"payload":{0}}}'), (SocketIoSocket, '42["agent_progress",{{"payload":{0}}}]')],
    )
    async def test_the_peers_are_held_to_the_same(self, kind: type, text: str) -> None:
        socket = kind(Reader("ann"))
        for number in (1, 2):
            socket.heard(text.format(json.dumps(payload(number, 4, 3))).encode(), 10)
        assert (list(socket.reader.latencies), list(socket.reader.delays)) == ([6, 6], [7, 7])
        for wrong in (2, 4):
            with pytest.raises(BrokenDeliveryError, match="after event 2"):
                socket.heard(text.format(json.dumps(payload(wrong, 4, 3))).encode(), 10)

    async def test_who_waits_is_told_of_an_error(self, client: Said) -> None:
        complete = client.reader.until(5)
        client.open = True
        client.data_received(b"\x81\x02{}")
        with pytest.raises(KeyError):
            await complete


async def test_all_ways_send_messages_of_one_length() -> None:
    service = own.IsolaneService()
    await service.open(["ann-7c21"])
    cursor = EventCursor("ann-7c21", framed=False)
    now = 123_456_789_012_345
    await service.emit("ann-7c21")(417, now, now)
    cursor.subscribe(service.contexts["ann-7c21"].run_id)
    [text] = cursor.read()
    cursor.detach()
    message = json.dumps(envelope.message(payload(417, now, now)), separators=(",", ":"))
    theirs = bare.BareService()
    await theirs.emit("ann")(417, now, now)
    assert theirs.sent["ann"] == [message]
    assert set(json.loads(text)) == set(json.loads(message))
    assert json.loads(text)["payload"] == payload(417, now, now)
    assert len(text) == pytest.approx(len(message), abs=30)


@pytest.mark.parametrize("way", DELIVER)
def test_each_way_is_read_to_its_end(way: Way) -> None:
    if way is Way.SOCKETIO:
        or_skip(MISSING)
    found = [scenario.run(way) for scenario in scenarios.all_scenarios(SMALL) if scenario.group != scenarios.MEMORY]
    for values in found:
        assert 0 < values["p50"] <= values["p99"] <= values["max"] < 30
    live = found[0]
    assert 0 < live["processor"] < 1
    assert live["due"] > 0


def test_memory_is_of_each_connection() -> None:
    assert scenarios.memory(Way.ISOLANE, 40)["held"] > 5_000


def figures(values: dict[Way, dict[str, tuple[float, ...]]], sizes: Sizes = SMALL) -> list[Measured]:
    """All scenarios, with figures that nobody measured, one after the other."""
    results = []
    rounds = len(values[Way.ISOLANE]["p99"])
    values = {way: values.get(way, each_metric(*[1.0] * rounds)) for way in Way}
    for scenario in scenarios.all_scenarios(sizes):
        turn = dict.fromkeys(values, 0)

        def run(way: Way, turn: dict[Way, int] = turn) -> dict[str, float]:
            turn[way] += 1
            return {metric: each[turn[way] - 1] for metric, each in values[way].items()}

        found = scenarios.measure(replace(scenario, run=run), rounds)
        results += found
        if scenario.group == scenarios.MEMORY:
            results += [scenarios.beyond(found[0], way) for way in scenarios.BEYOND]
    return results


def each_metric(*values: float) -> dict[str, tuple[float, ...]]:
    return dict.fromkeys(("p50", "p99", "max", "due", "processor", "held"), values)


def verdict(judged: list[Verdict], what: str, rule: Rule) -> Verdict:
    return next(each for each in judged if what in each.target.what and each.target.rule is rule)


class TestJudging:
    def test_the_ways_take_turns(self) -> None:
        order: list[Way] = []

        def run(way: Way) -> dict[str, float]:
            order.append(way)
            return {"p99": 1.0}

        scenarios.measure(Scenario("group", "name", (("p99", "p99"),), run), 2)
        first, second, third = DELIVER
        assert order == [first, second, third, second, third, first]

    def test_a_ratio_is_taken_within_each_round(self) -> None:
        # A slow second round meets both. Over all rounds the medians would say 1.0.
        ours, bare_ = each_metric(0.012, 0.12, 0.012), each_metric(0.010, 0.10, 0.02)
        judged = goals.verdicts(figures({Way.ISOLANE: ours, Way.BARE: bare_}), SMALL)
        found = verdict(judged, "events/s, p99", Rule.SHARE)
        assert (found.measured, found.met) == (pytest.approx(1.2), True)
        assert verdict(judged, "events/s, p99", Rule.TIME).measured == 0.012

    @pytest.mark.parametrize(("p99", "met"), [(0.0129, True), (0.0131, False)])
    def test_the_limit_is_1_3_times_the_bare_loop(self, p99: float, met: bool) -> None:
        judged = goals.verdicts(figures({Way.ISOLANE: each_metric(p99), Way.BARE: each_metric(0.010)}), SMALL)
        assert verdict(judged, "events/s, p99", Rule.SHARE).met is met

    def test_memory_is_what_is_beyond_an_idle_route_in_the_same_round(self) -> None:
        ours, alone, bare_ = each_metric(34_000, 36_500), each_metric(30_000, 31_000), each_metric(45_000, 41_000)
        results = figures({Way.ISOLANE: ours, Way.FASTAPI: alone, Way.BARE: bare_})
        beyond = next(each for each in results if each.case.name == scenarios.BEYOND[Way.FASTAPI])
        shown = {figure.side: figure.values for figure in beyond.figures}
        assert shown[LABELS[Way.ISOLANE]] == (4_000, 5_500)
        assert shown[LABELS[Way.BARE]] == (15_000, 10_000)
        assert set(shown) == {LABELS[way] for way in DELIVER}
        found = verdict(goals.verdicts(results, SMALL), "idle route", Rule.BYTES)
        assert (found.measured, found.met) == (4_750, False)

    def test_who_holds_no_more_than_the_idle_route_has_met_the_goal(self) -> None:
        results = figures({Way.ISOLANE: each_metric(29_000), Way.FASTAPI: each_metric(30_000)})
        assert verdict(goals.verdicts(results, SMALL), "idle route", Rule.BYTES).met

    def test_a_storm_is_over_with_its_last_client(self) -> None:
        ours = each_metric(0.001) | {"max": (2.1,)}
        judged = goals.verdicts(figures({Way.ISOLANE: ours, Way.BARE: each_metric(0.001)}), SMALL)
        assert verdict(judged, "recovered", Rule.TIME).met is False
        assert verdict(judged, "resume", Rule.TIME).met is True

    @pytest.mark.parametrize("sizes", [Sizes.full(), Sizes.quick(), SMALL])
    def test_each_goal_names_a_side_that_exists(self, sizes: Sizes) -> None:
        results = figures({way: each_metric(1.0) for way in Way}, sizes)
        cases = {(each.case.group, each.case.name): each.case for each in results}
        cases |= {(case.group, case.name): case for case in command.shared_cases()}
        assert len(cases) == len(results) + len(command.shared_cases())
        for goal in goals.all_goals(sizes):
            case = cases[goal.group, goal.case]
            sides = {side.name for side in case.sides}
            assert case.skipped or {goal.side, goal.peer or goal.side} <= sides, goal
        assert len(goals.all_goals(sizes)) == 11 + 2 * len(sizes.loads)


def some_results(sizes: Sizes = SMALL) -> Results:
    return Results(figures({way: each_metric(0.004 * (number + 1), 0.002) for number, way in enumerate(Way)}, sizes))


class TestThePage:
    def test_the_goals_stand_first_and_the_worst_round_is_the_maximum(self) -> None:
        results = some_results()
        judged = goals.verdicts(results.all, SMALL)
        text = report.document(results, SMALL, judged, {"CPU": "one"}, "images/plot.svg")
        assert text.index("## Goals") < text.index("](images/plot.svg)") < text.index(f"## {scenarios.LIVE}")
        assert "| isolane.v1, with acks | 3 ms | 3 ms | 4 ms | 3 ms | 3 ms |" in text
        assert "SKIPPED" not in text
        assert all(len(line) <= 120 or line.startswith(("|", "!")) for line in text.splitlines())

    def test_a_missed_goal_is_said_with_what_was_measured(self) -> None:
        results = some_results()
        judged = goals.verdicts(results.all, SMALL)
        for text in (report.document(results, SMALL, judged, {}), report.text(results, SMALL, judged)):
            assert "missed" in text
            assert "not measured" in text
        assert "| publish of a 265-byte dict | ≤ 1 µs | none | not measured |" in report.document(
            results, SMALL, judged, {}
        )

    def test_what_could_not_be_compared_is_said_loudly(self) -> None:
        text = report.document(Results([]), SMALL, [], {}, "", "no such library")
        assert "python-socketio: SKIPPED: no such library" in text

    def test_the_plot_follows_the_page(self, tmp_path: Path) -> None:
        try:
            import matplotlib  # noqa: F401, ICN001, PLC0415 - it may not be there
        except ImportError:
            or_skip("matplotlib is not installed")
        full = Sizes.full()
        plot.draw(some_results(full), full, tmp_path / "images" / "plot.svg")
        svg = (tmp_path / "images" / "plot.svg").read_text(encoding="utf-8")
        ET.fromstring(svg)
        assert "prefers-color-scheme: dark" in svg
        assert {"1000 connections x 3 events/s", "python-socketio"} <= set(ET.fromstring(svg).itertext())
        drawing = svg.split("</style>", 1)[1]
        assert not [light for light, _ in plot.COLOURS.values() if light in drawing]
        plot.draw(some_results(full), full, tmp_path / "again.svg")
        assert (tmp_path / "again.svg").read_text(encoding="utf-8") == svg
        plot.draw(Results([]), full, tmp_path / "empty.svg")


class TestTheCommand:
    def test_a_missed_goal_fails_nothing(self, monkeypatch, capsys, tmp_path: Path) -> None:
        def slow(scenario: Scenario) -> Scenario:
            values = {metric: 1e6 for metric, _ in scenario.metrics}
            return replace(scenario, run=lambda _: values)

        everything = [slow(scenario) for scenario in scenarios.all_scenarios(Sizes.quick())]
        monkeypatch.setattr(scenarios, "all_scenarios", lambda _: everything)
        monkeypatch.setattr(command, "shared_cases", list)
        monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--output", str(tmp_path / "page.md")])
        assert command.main() == 0
        assert "missed" in capsys.readouterr().out
        assert "| missed |" in (tmp_path / "page.md").read_text(encoding="utf-8")

    def test_it_runs_a_part_and_writes_nothing(self) -> None:
        folder = ROOT / "docs"
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("events-benchmark*")}
        run = [sys.executable, "-m", "benches.events", "--quick", "--only", "clients at once"]
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "100 clients at once, all recovered" in done.stdout
        assert "1 targets" in done.stdout
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("events-benchmark*")}

    def test_a_system_with_too_few_files_is_told(self, monkeypatch, capsys) -> None:
        monkeypatch.setattr(command, "too_few_files", lambda wanted: f"{wanted} files are too many")
        monkeypatch.setattr(command, "shared_cases", list)
        assert list(command._measure_all(Sizes.full(), Effort.quick(), "")) == []
        assert "SKIPPED: 1300 files are too many" in capsys.readouterr().err


async def test_a_client_that_is_refused_ends_its_process() -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benches.events.client", "bare", str(port)),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, errors = await process.communicate(b'{"do":"connect","clients":1}\n')
    server.close()
    await server.wait_closed()
    assert (out, process.returncode) == (b"", 1)
    assert b"403 Forbidden" in errors
