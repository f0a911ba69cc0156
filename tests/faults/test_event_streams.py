"""Server-sent events over connections that break: ``Last-Event-ID`` resumes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.faults.site import auth, settled


class Reader:
    """A client of one event stream, which comes back with the id of the last whole event it had."""

    def __init__(self, port: int, user: str, run: str) -> None:
        self.url = f"http://127.0.0.1:{port}/events/{run}"
        self.user = user
        self.last_id = ""
        self.events: list[dict[str, Any]] = []
        self.outcome: str | None = None
        self.connections = 0
        self.status: int | None = None
        self.resets = 0

    async def follow(self) -> None:
        """Read until the stream has ended."""
        async with asyncio.timeout(40), httpx.AsyncClient(timeout=3) as http:
            while self.outcome is None:
                headers = auth(self.user) | ({"Last-Event-ID": self.last_id} if self.last_id else {})
                try:
                    async with http.stream("GET", self.url, headers=headers) as answer:
                        self.connections += 1
                        self.status = answer.status_code
                        assert answer.status_code == 200, answer.status_code
                        await self._read(answer)
                except httpx.HTTPError:
                    await asyncio.sleep(0.01)

    async def _read(self, answer: httpx.Response) -> None:
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if not line and fields:
                self._take(fields)
                fields = {}
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")

    def _take(self, fields: dict[str, str]) -> None:
        if fields.get("event") == "isolane.end":
            self.outcome = json.loads(fields["data"])["outcome"]
        elif fields.get("event") == "isolane.reset":
            self.resets += 1
            self.events.clear()
        elif "data" in fields:
            event = json.loads(fields["data"])
            assert event["type"] == fields["event"]
            self.events.append(event)
        # An event counts when all of it was there.
        self.last_id = fields.get("id", self.last_id)


async def test_an_event_stream_that_is_cut_again_and_again_misses_nothing(proxied) -> None:
    site, proxy = proxied
    proxy.cut_each(1_500, 6_000)
    proxy.chop(100)
    recorder = site.run("sse")
    reader = Reader(proxy.port, recorder.user, recorder.stream.run)
    following = asyncio.create_task(reader.follow())
    recorder.started()
    for step in range(150):
        recorder.thinking(f"step {step}")
        await asyncio.sleep(0.002)
    recorder.completed()
    site.end(recorder)
    await asyncio.sleep(0.3)
    proxy.cut_each(0, 0)
    await following
    assert proxy.cuts > 5
    assert reader.connections > 5
    assert reader.outcome == "completed"
    assert [event["seq"] for event in reader.events] == list(range(1, 153))
    published = [event.uid for event in sorted(recorder.stream.published, key=lambda each: each.number)]
    uids = [event["payload"].get("uid") or event["payload"]["result"]["uid"] for event in reader.events]
    assert uids == published
    await settled(lambda: site.sockets() == 0)


async def test_the_end_is_told_and_then_there_is_no_more(proxied) -> None:
    site, proxy = proxied
    recorder = site.run("sse-end")
    site.story(recorder, 30)
    site.end(recorder)
    reader = Reader(proxy.port, recorder.user, recorder.stream.run)
    await reader.follow()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}") as http:
        headers = auth(recorder.user)
        again = await http.get(f"/events/{recorder.stream.run}", headers=headers | {"Last-Event-ID": reader.last_id})
        assert again.status_code == 204
        foreign = await http.get(f"/events/{recorder.stream.run}", headers=auth("somebody-else"))
        unknown = await http.get("/events/run_of_nobody", headers=headers)
        nobody = await http.get(f"/events/{recorder.stream.run}")
    assert (foreign.status_code, unknown.status_code, nobody.status_code) == (404, 404, 401)
    assert recorder.nonce not in foreign.text
    assert len(reader.events) == 30


@pytest.mark.parametrize(
    "last_id", ["nonsense", "::", "run:epoch:-1", "{run}:{epoch}:99999", "{run}:other:5", "x" * 3_000]
)
async def test_an_id_that_is_no_position_starts_over(proxied, last_id) -> None:
    site, proxy = proxied
    recorder = site.run("sse-positions")
    site.story(recorder, 20)
    site.end(recorder)
    reader = Reader(proxy.port, recorder.user, recorder.stream.run)
    reader.last_id = last_id.format(run=recorder.stream.run, epoch=recorder.stream.epoch)
    await reader.follow()
    assert [event["seq"] for event in reader.events] == list(range(1, 21))
    assert reader.resets == 1, "it is told that it begins anew"
