"""Requests of one user, everything recorded: bodies, headers, and the events of event streams."""

from __future__ import annotations

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
MAX_BYTES = 32 * 1024 * 1024
"""So much of one body is kept."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: its status, 0 where there was none, and its body as far as it was read."""

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
        self._errors: tuple[type[Exception], ...] = (httpx.HTTPError, httpx.InvalidURL)
        self._recorder = recorder

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
            answer = await self._client.send(request, stream=True)
            try:
                body = await self._read(step, answer, channel)
            finally:
                await answer.aclose()
        except self._errors as error:
            transcript.requests += channel != "refusal"
            transcript.server_errors += channel != "refusal"
            return Answer(0, problem=type(error).__name__)
        if channel != "refusal":
            transcript.requests += 1
            transcript.server_errors += answer.status_code >= SERVER_ERROR
        return Answer(answer.status_code, body)

    async def _read(self, step: Step, answer: Response, channel: Channel) -> bytes:
        head = "\n".join(f"{name}: {value}" for name, value in answer.headers.multi_items())
        self._recorder.add("header" if channel == "body" else channel, step.place, head)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            events = EventStream(self._recorder, step.place)
            async for chunk in answer.aiter_bytes():
                events.feed(chunk)
            return b""
        body = bytearray()
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > MAX_BYTES:
                break
        self._recorder.add(channel, step.place, bytes(body))
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
        self.first = True

    def feed(self, chunk: bytes) -> None:
        """Take what came."""
        self._rest += self._decode.decode(chunk)
        *lines, self._rest = self._rest.replace("\r\n", "\n").split("\n")
        for line in lines:
            if line.startswith("data:"):
                self._data.append(line[5:].removeprefix(" "))
            elif line:
                # Names, ids and comments are sent to the user as well.
                self._recorder.add("header", self._place, line)
            elif self._data:
                self._recorder.add("stream", self._place, "\n".join(self._data), self._connection)
                self._data.clear()
