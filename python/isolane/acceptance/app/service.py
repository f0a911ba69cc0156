"""``ServiceTarget``: a service behind HTTP, started as a process or running already."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

from isolane.acceptance.app.config import AcceptanceConfig
from isolane.acceptance.app.http import Answer, RecordedHttp, require_httpx
from isolane.acceptance.app.intrusions import intrusions
from isolane.acceptance.app.process import ServiceProcess, open_descriptors, resident_bytes
from isolane.acceptance.app.recorder import Recorder
from isolane.acceptance.app.session import AppSession
from isolane.acceptance.app.sockets import require_websockets
from isolane.acceptance.app.steps import Step
from isolane.acceptance.events import MISSING, pointed
from isolane.acceptance.isolation import IsolationTester
from isolane.acceptance.names import made_up
from isolane.acceptance.records import Transcript
from isolane.acceptance.target import Account, Attempt, Capabilities, TargetError, Usage, UserSession

NO_FAILING = "the configuration has no [run.failing]"
NO_SOCKET = "the configuration has no [socket]"
NO_LEGACY = "the configuration has no [legacy], and its socket is not plain"


class ServiceTarget:
    """A service behind HTTP.

    Args:
        config: how it is used.
        isolation: makes the canaries.
        seed: makes the names of users.
    """

    def __init__(self, config: AcceptanceConfig, isolation: IsolationTester, seed: int = 0) -> None:
        if not config.url and not config.app:
            raise TargetError("there is nothing to test: give --app, --url, or app.target in the configuration")
        self._config = _with_legacy(config)
        self._isolation = isolation
        self._seed = seed
        self._once = f"-{secrets.token_hex(2)}" if config.url else ""
        self._process = None if config.url else ServiceProcess(config)
        self._url = config.url
        self._run_ids: dict[str, set[str]] = {}
        self.name = config.url or config.app
        self.shape = config.shape
        self.capabilities = Capabilities(
            failing_runs="" if config.failing is not None else NO_FAILING,
            sockets="" if config.socket is not None else NO_SOCKET,
            legacy="" if self._config.legacy is not None else NO_LEGACY,
            resumes=config.socket is not None and config.socket.protocol == "isolane.v1",
        )

    async def open(self) -> None:
        """Start it, or see that it answers."""
        require_httpx()
        if self._config.socket is not None:
            require_websockets()
        if self._process is not None:
            await self._process.start()
            self._url = self._process.url
            return
        answer = await self._ask(Step("GET", "/"))
        if not answer.status:
            raise TargetError(f"{self._url} does not answer: {answer.problem}")

    async def aclose(self) -> None:
        """Stop it, if it was started."""
        if self._process is not None:
            await self._process.stop()
            self._process.close()

    def accounts(self, count: int, part: str) -> list[Account]:
        """Return users: those of the configuration, or made-up ones."""
        if self._config.accounts:
            return [replace(one, values={**one.values, "part": part}) for one in self._config.accounts[:count]]
        return [Account(name, {"part": part}) for name in made_up(count, part, self._seed, self._once)]

    async def sign_in(self, account: Account) -> UserSession:
        """Sign a user in."""
        run_ids = self._run_ids.setdefault(account.user, set())
        session = AppSession(self._config, self._url, account, self._isolation.mint, run_ids=run_ids, seed=self._seed)
        try:
            await session.sign_in()
        except BaseException:
            await session.aclose()
            raise
        return session

    async def intrusions(self, thief: UserSession, victim: UserSession) -> AsyncIterator[Attempt]:
        """Try what must not work."""
        async for attempt in intrusions(self._config, cast("AppSession", thief), cast("AppSession", victim)):
            yield attempt

    async def usage(self) -> Usage:
        """Look at the process, and ask the service where the configuration says how."""
        pid = self._process.pid if self._process is not None else self._config.pid
        counts: dict[str, int] = {}
        if self._config.probe is not None:
            answer = await self._ask(self._config.probe)
            value = Recorder(Transcript("")).add("body", "", answer.body).value
            for name, pointer in self._config.counts.items():
                found = pointed(value, pointer)
                if found is MISSING or not isinstance(found, int):
                    raise TargetError(
                        f"the answer to {self._config.probe.place} has no number at {pointer} (resources.counts)"
                    )
                counts[name] = found
        if pid is None:
            return Usage(counts=counts)
        return Usage(resident_bytes(pid), open_descriptors(pid), counts)

    async def _ask(self, step: Step) -> Answer:
        http = RecordedHttp(self._url, Recorder(Transcript("")), self._config.start_seconds)
        try:
            return await http.send(step, {}, channel="refusal")
        finally:
            await http.aclose()

    def ended(self) -> str:
        """Return that the process ended, and with what. What it wrote may be a user's, and is not shown."""
        code = self._process.ended if self._process is not None else None
        if code is None:
            return ""
        return f"the service ended with {code}: start it by hand, and do the same, to see what it writes"

    def legacy_faults(self, transcript: Transcript) -> list[str]:
        """Return the keys that older clients read, and that messages have not."""
        missing: dict[tuple[str, str], int] = {}
        for event in self.shape.events(transcript):
            for key in self._config.legacy_keys:
                if pointed(event.message, key) is MISSING:
                    missing[event.type, key] = missing.get((event.type, key), 0) + 1
        return [
            f"{kind} has no {key}, which older clients read, in {count} messages"
            for (kind, key), count in missing.items()
        ]


def _with_legacy(config: AcceptanceConfig) -> AcceptanceConfig:
    """A plain socket is what older clients open: it is tested as theirs unless another is named."""
    if config.legacy is None and config.socket is not None and config.socket.protocol == "plain":
        return replace(config, legacy=config.socket)
    return config
