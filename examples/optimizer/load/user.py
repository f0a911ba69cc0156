"""One synthetic user: signs in, keeps a socket open, and runs the agents at its pace until it is cancelled."""

import asyncio
import contextlib
from collections import Counter, deque
from typing import Any

import httpx
from isolane.client import Client, Ended, connect

from examples.optimizer.load.plan import Deed, Plan

_RUN_SECONDS = 120.0
_RETRY_SECONDS = 2.0
_LONGEST_RETRY_SECONDS = 30.0
_REMEMBERED_ENDS = 64
_CROWD = 3
_UNHEARD = "not heard of"
_WAITED_FOR = frozenset({httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE})


class SyntheticUser:
    """A user with a plan.

    Attributes:
        counts: how the runs of all users ended; the users share it.
    """

    def __init__(self, plan: Plan, client: httpx.AsyncClient, counts: Counter[str]) -> None:
        self.counts = counts
        self._plan = plan
        self._client = client
        self._token = ""
        self._latest_run = ""
        self._uploads: dict[Deed, str] = {}
        self._ended: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED_ENDS)
        self._some_end = asyncio.Event()
        self._is_listening = False
        self._begun = asyncio.Event()

    async def live(self) -> None:
        """Do what the plan says, for ever; a server that is away or refuses is waited for."""
        await asyncio.sleep(self._plan.first_pause())
        while True:
            try:
                await self._sign_in()
                await self._work()
            except httpx.HTTPStatusError as error:
                # A server that was started anew knows neither token nor uploads: begin from the sign-in.
                self.counts[f"answered {error.response.status_code}"] += 1
            except httpx.TransportError:
                self.counts["server away"] += 1
            await asyncio.sleep(_RETRY_SECONDS)

    async def _sign_in(self) -> None:
        self._token = ""
        self._uploads.clear()
        self._token = (await self._request("POST", "/api/sign-in", json={"name": self._plan.name}))["token"]

    async def _work(self) -> None:
        url = str(self._client.base_url.copy_with(path="/ws"))
        async with connect(url, token=self._token) as socket:
            reading = asyncio.create_task(self._read(socket))
            self._is_listening = True
            try:
                while not reading.done():
                    pause = asyncio.create_task(asyncio.sleep(self._plan.pause()))
                    await self._do(self._plan.deed(), socket)
                    await pause
            finally:
                reading.cancel()
                await asyncio.wait({reading})

    async def _read(self, socket: Client) -> None:
        """Take every event, as a page would, and note the ends."""
        try:
            async for record in socket.events():
                if isinstance(record, Ended):
                    self._ended.append((record.run_id, record.outcome))
                    self._some_end.set()
        finally:
            self._is_listening = False
            self._some_end.set()

    async def _do(self, deed: Deed, socket: Client) -> None:
        runs = [self._run(deed) for _ in range(_CROWD if deed is Deed.CROWDED else 1)]
        cancelling = asyncio.create_task(self._cancel_soon(socket)) if deed is Deed.CANCELLED else None
        try:
            await asyncio.gather(*runs)
        finally:
            if cancelling is not None:
                cancelling.cancel()

    async def _run(self, deed: Deed) -> None:
        """Start a run and wait for its end; a refusal is obeyed, and the run left."""
        try:
            upload_id = await self._upload(deed)
            run_id = (await self._request("POST", "/api/runs", json={"upload_id": upload_id}))["run_id"]
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in _WAITED_FOR:
                raise
            self.counts["refused"] += 1
            await asyncio.sleep(_retry_after(error.response))
            return
        self._latest_run = run_id
        self._begun.set()
        try:
            outcome = await asyncio.wait_for(self._end_of(run_id), _RUN_SECONDS)
        except TimeoutError:
            outcome = _UNHEARD
        self.counts[outcome] += 1
        if outcome == "completed":
            await self._request("GET", f"/api/runs/{run_id}/report")

    async def _cancel_soon(self, socket: Client) -> None:
        self._begun.clear()
        await self._begun.wait()
        await asyncio.sleep(self._plan.patience())
        with contextlib.suppress(ConnectionError, RuntimeError):
            await socket.cancel(self._latest_run)

    async def _end_of(self, run_id: str) -> str:
        while True:
            self._some_end.clear()
            for ended, outcome in self._ended:
                if ended == run_id:
                    return outcome
            if not self._is_listening:
                return _UNHEARD
            await self._some_end.wait()

    async def _upload(self, deed: Deed) -> str:
        """The log for a deed: sent once, and anew when the server has let it go for newer ones."""
        kind = Deed.SHORT if deed is Deed.CROWDED else deed
        if kind not in self._uploads:
            answer = await self._request(
                "POST", "/api/uploads", params={"name": f"{kind}.csv"}, content=self._plan.log(kind)
            )
            self._uploads[kind] = str(answer["upload_id"])
        return self._uploads[kind]

    async def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        answer = await self._client.request(method, path, headers=headers, **options)
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body


def _retry_after(answer: httpx.Response) -> float:
    """What the server asks to wait."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked), _LONGEST_RETRY_SECONDS) if asked.isdigit() else _RETRY_SECONDS
