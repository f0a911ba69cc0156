"""Requests of one user, everything recorded: bodies, headers, and the events of event streams."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isolane.acceptance.app.recorder import Recorder
from isolane.acceptance.app.steps import Step
from isolane.acceptance.app.tables import filled
from isolane.acceptance.records import Channel

if TYPE_CHECKING:
    from httpx import AsyncClient, Response

SERVER_ERROR = 500
TOO_MANY = frozenset({429, 503})
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_BYTES = 32 * 1024 * 1024
"""So much of one body is kept."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: its status, 0 where there was none, and its body as far as it was read.

    Of an event stream the body is the data of its events, one a line.
    """

    status: int
    body: bytes = b""
    problem: str = ""


def require_httpx() -> Any:
    """Return the module. Raises ``ModuleNotFoundError`` that names the extra."""
    try:
        import httpx  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "`isolane accept` needs httpx, websockets and uvicorn: pip install 'isolane[acceptance]'", name=error.name
        ) from error
    return httpx


class RecordedHttp:
    """Sends the requests of a configuration, and records what comes back."""

    def __init__(self, url: str, recorder: Recorder, seconds: float) -> None:
        httpx = require_httpx()
        self._client: AsyncClient = httpx.AsyncClient(base_url=url, timeout=seconds, trust_env=False)
        self._local = self._client.base_url.host in _LOCAL
        self._errors: tuple[type[Exception], ...] = (httpx.HTTPError, httpx.InvalidURL, TimeoutError)
        self._late: type[Exception] = httpx.TimeoutException
        self._recorder = recorder
        self._seconds = seconds

    @property
    def cookies(self) -> str:
        """The cookies as a header holds them."""
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._client.cookies.jar)

    async def send(
        self,
        step: Step,
        values: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        channel: Channel = "body",
    ) -> Answer:
        """Send a request, and record its answer. What goes wrong on the way is an answer with the status 0."""
        transcript = self._recorder.transcript
        request = self._client.build_request(
            step.method,
            filled(step.path, values),
            params=filled({**step.query, **(query or {})}, values) or None,
            headers={**filled(headers or {}, values), **filled(step.headers, values)},
            **_body(step, values),
        )
        try:
            # An answer that goes on and on is none, though each part of it comes in time.
            async with asyncio.timeout(self._seconds):
                answer = await self._client.send(request, stream=True)
                self._keep_cookies()
                try:
                    body = await self._read(step, answer, channel)
                finally:
                    await answer.aclose()
        except self._errors as error:
            transcript.requests += channel != "refusal"
            transcript.server_errors += channel != "refusal"
            late = isinstance(error, (TimeoutError, self._late))
            return Answer(0, problem=f"not to its end within {self._seconds:g} s" if late else type(error).__name__)
        if channel != "refusal":
            transcript.requests += 1
            transcript.server_errors += answer.status_code >= SERVER_ERROR
        return Answer(answer.status_code, body)

    def _keep_cookies(self) -> None:
        """Send cookies that are for https alone to this machine as well, as browsers do."""
        if self._local:
            for cookie in self._client.cookies.jar:
                cookie.secure = False

    async def _read(self, step: Step, answer: Response, channel: Channel) -> bytes:
        head = "\n".join(f"{name}: {value}" for name, value in answer.headers.multi_items())
        self._recorder.add("header" if channel == "body" else channel, step.place, head)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            events = EventStream(self._recorder, step.place)
            try:
                async for chunk in answer.aiter_bytes():
                    events.feed(chunk)
            finally:
                events.end()
            return events.body
        body, cut = bytearray(), False
        try:
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    cut = True
                    break
        finally:
            # What came before the answer broke off was sent as well.
            self._recorder.add(channel, step.place, bytes(body), cut=cut)
        return bytes(body)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    def stream(self, path: str, headers: Mapping[str, str], query: Mapping[str, str]) -> Any:
        """Return a context manager for an event stream that does not end by itself."""
        asked = {"Accept": "text/event-stream", **headers}
        return self._client.stream("GET", path, headers=asked, params=dict(query) or None, timeout=None)


def _body(step: Step, values: Mapping[str, str]) -> dict[str, Any]:
    if step.json is not None:
        return {"json": filled(step.json, values)}
    if step.form:
        return {"data": filled(step.form, values)}
    if step.text is not None:
        return {"content": filled(step.text, values).encode()}
    if step.files:
        return {"files": {name: (f"{name}.txt", filled(text, values).encode()) for name, text in step.files.items()}}
    return {}


class EventStream:
    """Takes an event stream apart: each event is one receipt."""

    def __init__(self, recorder: Recorder, place: str, connection: int = 0) -> None:
        self._recorder = recorder
        self._place = place
        self._connection = connection
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._data: list[str] = []
        self._lines: list[str] = []

    @property
    def body(self) -> bytes:
        """The data of the events until now, one a line."""
        return "\n".join(self._lines).encode()

    def feed(self, chunk: bytes) -> None:
        """Take what came."""
        self._rest += self._decode.decode(chunk)
        # A lone carriage return ends a line as well; the last one may be the first half of a pair.
        held = "\r" if self._rest.endswith("\r") else ""
        text = self._rest.removesuffix(held) if held else self._rest
        *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = rest + held
        for line in lines:
            self._take(line)

    def end(self) -> None:
        """Take what came last, though nothing ended it."""
        self._take(self._rest.removesuffix("\r"))
        self._rest = ""
        self._take("")

    def _take(self, line: str) -> None:
        if line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
        elif line:
            # Names, ids and comments are sent to the user as well.
            self._recorder.add("header", self._place, line)
        elif self._data:
            data = "\n".join(self._data)
            self._lines.append(data.replace("\n", " "))
            self._recorder.add("stream", self._place, data, self._connection)
            self._data.clear()
