"""Twenty dashboards over real sockets while users run agents: they come, go, read slowly and are cut off."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import isolane
import pytest
from isolane.observability.dashboard import stream as stream_module
from isolane.security.crossings import violations

from tests.support.dashboard_service import READER, SECRET, bearer, make_app
from tests.support.server import serving

SECONDS = 150
WATCHERS = 20
USERS = [f"soaked-user-{number}-of-the-dashboard" for number in range(24)]
GAUGES = ("contexts_active", "engines_active", "permits_active", "permits_waiting")
LISTS = (
    *(f"users.json?sort={sort}&limit=50" for sort in ("bytes", "runs", "waiting", "longest", "engines")),
    *("runs.json?state=active", "runs.json?state=ended&limit=500", "runs.json?q=dash", "isolation.json"),
    *("snapshot.json", "alerts.json", "audit.json", "rollout.json"),
)


def named(text: str) -> list[str]:
    """What a dashboard must not say."""
    return [what for what in (*USERS, SECRET) if what in text]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0


class Soak:
    """Watchers, lists and users, all drawn from one seed."""

    def __init__(self, port: int, seed: int, seconds: float) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.seed = seed
        self.until = time.monotonic() + seconds
        self.done: Counter[str] = Counter()
        self.longest = 0.0
        self.violations = violations()
        """Those of the process before: other tests cause some on purpose."""
        self.faults: list[str] = []

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=30, limits=limits) as client:
            await asyncio.gather(
                *(self._watch(client, number) for number in range(WATCHERS)),
                *(self._list(client, number) for number in range(4)),
                *(self._use(client, user) for user in USERS),
            )

    def _draw(self, what: str) -> random.Random:
        return random.Random(f"{self.seed}:{what}")

    def _check(self, text: str, where: str) -> None:
        if found := named(text):
            self.faults.append(f"{where} says {found}")

    async def _watch(self, client: httpx.AsyncClient, number: int) -> None:
        draw = self._draw(f"watcher {number}")
        while time.monotonic() < self.until:
            # Some stay, some come for a moment, some read slowly, some leave in the midst of a line.
            most, pause = draw.choice([(1, 0.0), (3, 0.0), (1_000, 0.0), (1_000, 0.0), (4, 1.5)])
            address = f"{self.base}/dashboard/stream"
            async with client.stream("GET", address, headers=bearer(READER)) as answer:
                if answer.status_code != 200:
                    self.done[f"refused with {answer.status_code}"] += 1
                    await asyncio.sleep(0.5)
                    continue
                await self._read(answer, most, pause)
            self.done["streams"] += 1

    async def _read(self, answer: httpx.Response, most: int, pause: float) -> None:
        last, seen = time.monotonic(), 0
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            self._check(line, "the stream")
            data = json.loads(line.removeprefix("data: "))
            if "violations" in data and data["violations"]["total"] != self.violations:
                self.faults.append(f"violations: {data['violations']}")
            now = time.monotonic()
            if not pause:
                self.longest = max(self.longest, now - last)
            last, seen = now, seen + 1
            self.done["overviews"] += 1
            if seen >= most or now > self.until:
                return
            await asyncio.sleep(pause)

    async def _list(self, client: httpx.AsyncClient, number: int) -> None:
        draw = self._draw(f"list {number}")
        while time.monotonic() < self.until:
            path = draw.choice(LISTS)
            answer = await client.get(f"{self.base}/dashboard/{path}", headers=bearer(READER))
            if answer.status_code != 200:
                self.faults.append(f"{path}: {answer.status_code}")
            self._check(answer.text, path)
            if path.startswith("runs.json") and (runs := answer.json()["runs"]):
                run = draw.choice(runs)["run"]
                tree = await client.get(f"{self.base}/dashboard/runs/{run}.json", headers=bearer(READER))
                # It may have gone meanwhile.
                if tree.status_code not in {200, 404}:
                    self.faults.append(f"the tree of a run: {tree.status_code}")
                self._check(tree.text, "the tree of a run")
            self.done["lists"] += 1
            await asyncio.sleep(draw.uniform(0, 0.1))

    async def _use(self, client: httpx.AsyncClient, user: str) -> None:
        draw = self._draw(user)
        while time.monotonic() < self.until:
            agent = draw.choice(["dash_look", "dash_look", "dash_look", "dash_break"])
            answer = await client.post(
                f"{self.base}/run/{agent}", headers=bearer(user), json={"pause": draw.uniform(0, 0.5)}
            )
            if answer.status_code != 200:
                self.faults.append(f"a run: {answer.status_code}")
            elif user not in named(answer.text):
                self.faults.append("the look for names is blind")
            self.done["runs"] += 1
            await asyncio.sleep(draw.uniform(0, 0.2))


def gauges() -> dict[str, float]:
    """What a scrape says is there, when the collector has taken what is over."""
    gc.collect()
    isolane.sweep_lanes(idle_lanes=True)
    snapshot = isolane._core.metrics_snapshot()
    return {name: snapshot[f"isolane_{name}"]["series"][0]["value"] for name in GAUGES}


def until_zero(count: Any, seconds: float = 10.0) -> int:
    """Wait until something is gone. Returns how many are left."""
    limit = time.monotonic() + seconds
    while (left := count()) and time.monotonic() < limit:
        time.sleep(0.05)
    return int(left)


@pytest.mark.timeout(1_800)
def test_dashboards_come_and_go_and_leave_nothing(rounds, found, monkeypatch) -> None:
    boards: list[stream_module.Board] = []
    original = stream_module.Board.__init__

    def kept(self: stream_module.Board, application: Any) -> None:
        original(self, application)
        boards.append(self)

    monkeypatch.setattr(stream_module.Board, "__init__", kept)
    seconds = max(rounds(SECONDS), 5)
    begun = gauges()
    app = make_app()
    with serving(app) as port:
        before = open_files()
        soak = Soak(port, seed=8, seconds=seconds)
        asyncio.run(soak.run())
        assert soak.faults == []
        assert soak.done["overviews"] > WATCHERS * min(seconds, 10) / 4, soak.done
        # Those that were cut off are noticed, and with the last of them the maker ends.
        (board,) = boards
        assert until_zero(lambda: board.streams) == 0
        assert board._producer is None
        assert until_zero(lambda: max(0, open_files() - before - 5)) == 0
        assert len(board.history.series()["t"]) <= 300
    left = gauges()
    assert all(left[name] <= begun[name] for name in GAUGES), (left, begun)
    figures = ", ".join(f"{many} {what}" for what, many in sorted(soak.done.items()))
    found(f"{seconds} s, {WATCHERS} dashboards: {figures}; the longest pause {soak.longest:.1f} s")
