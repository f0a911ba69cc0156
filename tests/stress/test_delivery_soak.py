"""Twenty clients of ten users behind proxies that do what networks do, for a minute: nothing may be missing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from isolane.fastapi import sockets

from tests.faults.site import Site
from tests.support.event_history import History, Recorder
from tests.support.fault_proxy import FaultProxy
from tests.support.framed_client import FramedClient

USERS = [f"soak-{letter}" for letter in "abcdefghij"]
TABS = ("first", "second")
PROXIES = 4


class Soak:
    """Publishers, clients and faults, all drawn from one seed."""

    def __init__(self, seed: int, seconds: float) -> None:
        self.seed = seed
        self.seconds = seconds
        self.history = History(seed)
        self.site = Site(self.history, websocket_heartbeat_interval=1.0, max_connections_per_user=20)
        self.users = [self.site.named(user) for user in USERS]
        self.runs: dict[str, list[Recorder]] = {user: [] for user in self.users}
        self.proxies: list[FaultProxy] = []
        self.clients: list[FramedClient] = []
        self.done: Counter[str] = Counter()
        self.publishing = True

    async def run(self) -> None:
        """From the first connection until every client has what it shall have."""
        with self.site.serving() as port:
            for number in range(PROXIES):
                self.proxies.append(FaultProxy(port, seed=self.seed + number))
                await self.proxies[-1].__aenter__()
            try:
                await self._play()
            finally:
                for proxy in self.proxies:
                    await proxy.__aexit__()

    async def _play(self) -> None:
        for at, (user, tab) in enumerate((user, tab) for user in self.users for tab in TABS):
            client = self.site.client(
                user,
                tab,
                port=self.proxies[at % PROXIES].port,
                read_pause=0.02 if at % 5 == 0 else 0.0,
                silence=1.5,
                query="?compress=deflate-raw" if at % 3 == 0 else "",
            )
            self.clients.append(client)
        following = [asyncio.create_task(self._follow(client)) for client in self.clients]
        until = asyncio.get_running_loop().time() + self.seconds
        publishers = [asyncio.create_task(self._publish(user, until)) for user in self.users]
        faults = [asyncio.create_task(self._harm(at, until)) for at in range(PROXIES)]
        curious = asyncio.create_task(self._be_curious(until))
        try:
            await asyncio.gather(*publishers, *faults, curious)
            self.publishing = False
            for proxy in self.proxies:
                proxy.heal()
            for client in self.clients:
                client.read_pause = 0
            await asyncio.gather(*following)
        finally:
            for task in (*following, *publishers, *faults, curious):
                task.cancel()
            await asyncio.gather(*following, *publishers, *faults, curious, return_exceptions=True)
            for client in self.clients:
                await client.close()

    async def _follow(self, client: FramedClient) -> None:
        def has_all(tab: FramedClient) -> bool:
            return not self.publishing and all(each.stream.run in tab.ended for each in self.runs[tab.user])

        try:
            await client.follow(has_all, seconds=self.seconds + 45)
        except TimeoutError:
            missing = [each.stream for each in self.runs[client.user] if each.stream.run not in client.ended]
            where = {stream.run[-8:]: (client.positions.get(stream.run), stream.head) for stream in missing}
            raise AssertionError(f"{client.name} misses {where}; gone: {client.gone}, codes: {client.codes}") from None

    # What is published.

    async def _publish(self, user: str, until: float) -> None:
        draw = random.Random(f"{self.seed}:{user}")
        while asyncio.get_running_loop().time() < until:
            await asyncio.gather(*(self._run(user, draw, until) for _ in range(draw.choice([1, 1, 2]))))
            await asyncio.sleep(draw.uniform(0, 0.2))

    async def _run(self, user: str, draw: random.Random, until: float) -> None:
        # A page that is loaded again reads all logs anew: none of them may be dropped to make room.
        recorder = self.site.run(user, max_events=draw.choice([40, 150, 1_000]), max_user_bytes=64 << 20)
        self.runs[user].append(recorder)
        recorder.started()
        for step in range(draw.randint(5, 150)):
            if asyncio.get_running_loop().time() > until:
                break
            self._events(recorder, draw, step)
            await asyncio.sleep(draw.choice([0.0, 0.005, 0.02, 0.05]))
        recorder.completed()
        self.site.end(recorder)
        self.done["runs"] += 1

    @staticmethod
    def _events(recorder: Recorder, draw: random.Random, step: int) -> None:
        match draw.choices(["think", "tool", "text", "progress", "trace", "note"], [4, 3, 4, 3, 3, 1])[0]:
            case "think":
                recorder.thinking(f"step {step} " + "of a thought " * draw.randint(0, 20))
            case "tool":
                recorder.executing("search")
                recorder.executed("search")
            case "text":
                for part in range(draw.randint(1, 12)):
                    recorder.publish("text", {"delta": f"{step}.{part} "}, message_id=f"m{step // 10}")
            case "progress":
                for part in range(draw.randint(1, 6)):
                    recorder.publish("progress", {"at": part}, priority=3, key=draw.choice(["bar", "files"]))
            case "trace":
                for part in range(draw.choice([1, 5, 30])):
                    recorder.publish("trace", {"at": part}, priority=4)
            case _:
                recorder.publish("note", {"rows": ["x" * draw.randint(0, 3_000)]})

    # What is done to the connections.

    async def _harm(self, at: int, until: float) -> None:
        draw, proxy = random.Random(f"{self.seed}:harm:{at}"), self.proxies[at]
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(draw.uniform(0.05, 0.6))
            what = draw.choice(
                ["cut", "cut_each", "half_open", "pause", "throttle", "chop", "refuse", "delay", "hang_up"]
            )
            self.done[what] += 1
            match what:
                case "cut":
                    proxy.cut()
                case "hang_up":
                    proxy.hang_up()
                case "half_open":
                    proxy.half_open()
                case "cut_each":
                    proxy.cut_each(500, 20_000)
                case "pause":
                    proxy.pause()
                case "throttle":
                    proxy.throttle(draw.choice([8_000, 40_000]))
                case "chop":
                    proxy.chop(draw.choice([3, 40, 1_000]))
                case "refuse":
                    proxy.refuse()
                case "delay":
                    proxy.delay(draw.uniform(0.001, 0.05))
            await asyncio.sleep(draw.uniform(0.05, 0.8))
            proxy.heal()

    async def _be_curious(self, until: float) -> None:
        """Clients load their page again, ask again for what they have, and ask for the runs of other users."""
        draw = random.Random(f"{self.seed}:curious")
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.1)
            client = draw.choice(self.clients)
            if draw.random() < 0.1:
                client.reload()
                self.done["reloaded"] += 1
                continue
            foreign = [each.stream.run for user in self.users if user != client.user for each in self.runs[user][-1:]]
            if client.socket is not None and foreign:
                try:
                    if draw.random() < 0.3 and client.positions:
                        run, (epoch, number) = draw.choice(sorted(client.positions.items()))
                        await client.subscribe(run, epoch, max(0, number - draw.randint(0, 30)))
                    await client.subscribe(draw.choice(foreign))
                except Exception:  # noqa: BLE001 - the connection was cut meanwhile
                    continue


def seconds_of(rounds: Any) -> float:
    """A minute, or a few seconds in the short form."""
    return 60.0 if rounds(50) > 1 else 4.0


@pytest.mark.timeout(240)
async def test_twenty_clients_behind_faulty_networks_miss_nothing(rounds, found, monkeypatch) -> None:
    monkeypatch.setattr(sockets, "PONG_SECONDS", 1.0)
    soak = Soak(2611, seconds_of(rounds))
    await soak.run()
    violations = soak.history.violations()
    kinds, totals = Counter(violation.kind for violation in violations), soak.history.totals()
    published = sum(stream.head for stream in soak.history.streams.values())
    connections = sum(client.connections for client in soak.clients)
    foreign, order = kinds["foreign"], kinds["order"] + kinds["hole"] + kinds["content"]
    found(
        f"{published} events in {soak.done['runs']} runs to {len(soak.clients)} clients, {connections} connections: "
        f"{totals['delivered']} delivered, {totals['merged']} merged, {totals['skipped']} declared skipped, "
        f"{totals['snapshot']} in snapshots, {totals['doubled']} ignored as known; "
        f"{sum(proxy.cuts for proxy in soak.proxies)} cuts, {soak.done['half_open']} times half-open, "
        f"{soak.done['reloaded']} pages reloaded; "
        f"{totals['unaccounted']} unaccounted numbers, {foreign} foreign frames, {order} order violations"
    )
    assert violations == [], (dict(kinds), violations[:10])
    assert totals["unaccounted"] == 0
    assert totals["delivered"] > 20 * soak.seconds


async def test_the_delivery_soak_finds_a_frame_that_was_taken_away(monkeypatch) -> None:
    """The positive control: of what one client recorded, one frame with events is taken out."""
    monkeypatch.setattr(sockets, "PONG_SECONDS", 1.0)
    soak = Soak(7, 1.5)
    await soak.run()
    assert soak.history.violations() == []
    log = soak.clients[3].log
    taken = next(step for step in reversed(log.steps) if step[0] == "got" and '"t":"ev"' in step[1])
    log.steps.remove(taken)
    kinds = {violation.kind for violation in soak.history.violations()}
    assert kinds & {"hole", "uncovered"}
    assert "position" in kinds
