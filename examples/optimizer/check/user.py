"""One user of the check: signs in, listens, uploads, runs, reads the report."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

import httpx
from isolane.client.reader import Send, StreamReader
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from examples.optimizer.check.received import Inbox

_RUN_SECONDS = 300.0
_END_SECONDS = 60.0
_POLL_SECONDS = 0.1
# The legacy bridge has no end of a stream: what still comes after the run's end is waited for this long.
_LEGACY_GRACE_SECONDS = 0.5
_FRAMES_ON_ONE_WORKER = 4


class CheckUser:
    """A signed-in user with one socket, and a connection to each worker, of which one is asked after the other.

    Of several workers the first takes the socket, and after some frames another one: it has to go on where the socket
    stood.
    """

    def __init__(
        self, name: str, clients: Sequence[httpx.AsyncClient], token: str, *, legacy: bool, first: int = 0
    ) -> None:
        self.name = name
        self.inbox = Inbox()
        self.run_id = ""
        self.sockets: list[str] = []
        self._clients = [*clients[first:], *clients[:first]]
        # The first one has the socket: what is asked begins with another one.
        self._turns = itertools.cycle([*self._clients[1:], self._clients[0]])
        self._token = token
        self._legacy = legacy
        self._reader = StreamReader()
        self._ended = asyncio.Event()
        self._welcomed = asyncio.Event()

    @classmethod
    async def sign_in(
        cls, name: str, clients: Sequence[httpx.AsyncClient], *, legacy: bool, first: int = 0
    ) -> "CheckUser":
        """Sign in under a name, at one of the workers."""
        answer = await clients[-1].post("/api/sign-in", json={"name": name})
        answer.raise_for_status()
        return cls(answer.json()["user_id"], clients, answer.json()["token"], legacy=legacy, first=first)

    async def listen(self) -> None:
        """Receive until cancelled."""
        for client in itertools.cycle(self._clients):
            await self._listen_at(client)
            # A new connection: what was asked for on the former one is not answered any more.
            self._reader.connected()

    async def _listen_at(self, client: httpx.AsyncClient) -> None:
        path = "/legacy/ws" if self._legacy else "/ws"
        url = str(client.base_url.copy_with(scheme="ws", path=path))
        bearer = f"bearer.{self._token}"
        offered = [bearer] if self._legacy else ["isolane.v1", bearer]
        self.sockets.append(client.base_url.netloc.decode())
        async with connect(url, subprotocols=[Subprotocol(entry) for entry in offered]) as socket:
            if self._legacy:
                self._welcomed.set()
            frames = 0
            async for raw in socket:
                await self._receive(socket, raw if isinstance(raw, str) else raw.decode())
                frames += '"t":"ev"' in str(raw)
                if len(self._clients) > 1 and frames >= _FRAMES_ON_ONE_WORKER:
                    return

    async def _receive(self, socket: ClientConnection, raw: str) -> None:
        body = self.inbox.add(raw)
        match body.get("t"):
            case "welcome":
                self._welcomed.set()
            case "end":
                self._ended.set()
        for effect in self._reader.receive(body):
            if isinstance(effect, Send):
                await socket.send(json.dumps(effect.frame))
        if self._reader.ack_due:
            await socket.send(json.dumps(self._reader.take_ack()))

    async def upload(self, log: bytes, file_name: str) -> str:
        """Send a log; gives the upload's id."""
        answer = await self._request("POST", "/api/uploads", params={"name": file_name}, content=log)
        return str(answer["upload_id"])

    async def ready(self) -> None:
        """Wait until the socket receives."""
        await asyncio.wait_for(self._welcomed.wait(), _RUN_SECONDS)

    async def run(self, upload_id: str) -> str:
        """Run the pipeline and wait for its end; gives the run's state."""
        self.run_id = (await self._request("POST", "/api/runs", json={"upload_id": upload_id}))["run_id"]
        state = await asyncio.wait_for(self._final_state(), _RUN_SECONDS)
        if self._legacy:
            await asyncio.sleep(_LEGACY_GRACE_SECONDS)
        else:
            # Without an end there is a verdict all the same: it says what is missing.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _END_SECONDS)
        return state

    async def _final_state(self) -> str:
        while True:
            run = await self._request("GET", f"/api/runs/{self.run_id}")
            if run["state"] != "running":
                return str(run["state"])
            await asyncio.sleep(_POLL_SECONDS)

    async def report(self, run_id: str) -> str | None:
        """The Markdown of a run's report, or None where the server says that there is none for this user."""
        answer = await next(self._turns).get(f"/api/runs/{run_id}/report", headers=self._headers)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        return str(answer.json()["markdown"])

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    async def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = await next(self._turns).request(method, path, headers=self._headers, **options)
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body

    async def set_mode(self, mode: str) -> None:
        """Switch the path that new runs take."""
        await self._request("POST", "/api/mode", json={"mode": mode})
