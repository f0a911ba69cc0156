"""What must not work against a service: each attempt beside the nearest thing that must."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from isolane.acceptance.app.config import AcceptanceConfig
from isolane.acceptance.app.http import Answer, RecordedHttp
from isolane.acceptance.app.session import AppSession
from isolane.acceptance.app.sockets import SocketRefusedError, UserSocket
from isolane.acceptance.app.steps import SocketConfig, Step
from isolane.acceptance.app.tables import placeholders
from isolane.acceptance.target import Attempt

OPEN_SECONDS = 0.2
"""So long a socket must stay open that is allowed."""
CLOSED_SECONDS = 1.0
"""So long a socket may stay open that the server accepts in order to close it with a code."""
_GARBLED = "x-wrong-"
_UNPROCESSABLE = 422


async def intrusions(config: AcceptanceConfig, thief: AppSession, victim: AppSession) -> AsyncIterator[Attempt]:
    """Try everything."""
    for step in (config.run, *config.reads):
        async for attempt in _credentials(config, thief, step):
            yield attempt
    for step in _private(config):
        async for attempt in _others(config, thief, victim, step):
            yield attempt
    if config.socket is not None:
        async for attempt in _sockets(config, config.socket, thief, victim):
            yield attempt
    # Last, since a run is started in the name of another's conversation.
    async for attempt in _conversation(config, thief, victim):
        yield attempt


def _private(config: AcceptanceConfig) -> Iterator[Step]:
    steps = [*config.reads, *([config.end.poll] if config.end.poll is not None else [])]
    return (step for step in steps if step.private)


async def _credentials(config: AcceptanceConfig, thief: AppSession, step: Step) -> AsyncIterator[Attempt]:
    answer = await thief.http.send(step, thief.values, headers=config.headers, query=config.query, channel="refusal")
    yield Attempt(f"{step.place} with a credential", not step.accepts(answer.status), _shown(answer), control=True)
    for what, headers, query in _doubtful(config, thief):
        async with _stranger(thief) as http:
            answer = await http.send(step, thief.values, headers=headers, query=query, channel="refusal")
        yield Attempt(f"{step.place} {what}", answer.status in config.refused, _shown(answer))


def _doubtful(config: AcceptanceConfig, thief: AppSession) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """Return ways to come without a credential that counts."""
    yield "without a credential", {}, {}
    names = _secret_names(config)
    if names or thief.http.cookies:
        wrong = {name: _GARBLED + thief.values.get(name, "")[::-1] for name in names}
        yield "with a wrong credential", _swapped(config.headers, wrong), _swapped(config.query, wrong)
    for name in config.query_tokens if not config.query else ():
        for secret in sorted(names):
            yield f"with the credential in the query, as {name}", {}, {name: thief.values.get(secret, "")}


def _secret_names(config: AcceptanceConfig) -> set[str]:
    """Return which saved values are credentials: those that the headers carry."""
    return placeholders([config.headers, config.query]) - {"user"}


def _swapped(texts: Mapping[str, str], wrong: Mapping[str, str]) -> dict[str, str]:
    swapped = dict(texts)
    for name, value in wrong.items():
        swapped = {key: text.replace("{" + name + "}", value) for key, text in swapped.items()}
    return swapped


@contextlib.asynccontextmanager
async def _stranger(thief: AppSession) -> AsyncIterator[RecordedHttp]:
    """Have requests without the thief's cookies; what they are answered is recorded as the thief's."""
    http = RecordedHttp(thief.url, thief.recorder, thief.config.run_seconds)
    try:
        yield http
    finally:
        await http.aclose()


async def _others(
    config: AcceptanceConfig, thief: AppSession, victim: AppSession, step: Step
) -> AsyncIterator[Attempt]:
    values = _stolen(thief, victim, step)
    own = await victim.http.send(step, victim.values, headers=config.headers, query=config.query)
    yield Attempt(f"{step.place} of an own run", not step.accepts(own.status), _shown(own), control=True)
    answer = await thief.http.send(step, values, headers=config.headers, query=config.query, channel="refusal")
    yield Attempt(f"{step.place} of another user's run", answer.status in config.hidden, _shown(answer))


def _stolen(thief: AppSession, victim: AppSession, step: Step) -> dict[str, str]:
    """Return the thief's values, but what names a thing is the victim's."""
    kept = _secret_names(thief.config) | {"user", *thief.account.values}
    named = (
        placeholders([step.path, step.query, step.headers, step.json, step.form, step.text])
        - kept
        - {"canary", "nonce"}
    )
    return {**thief.values, **{name: victim.values[name] for name in named if name in victim.values}}


async def _conversation(config: AcceptanceConfig, thief: AppSession, victim: AppSession) -> AsyncIterator[Attempt]:
    """Start a run with what the victim prepared. A service may allow it where it means the thief's own thing."""
    step = config.run
    values = _stolen(thief, victim, step)
    if all(thief.values.get(name) == value for name, value in values.items()):
        return
    answer = await thief.http.send(step, values, headers=config.headers, query=config.query, channel="refusal")
    refused = answer.status in {*config.hidden, _UNPROCESSABLE}
    yield Attempt(f"{step.place} with what another user prepared", refused, _shown(answer))


async def _sockets(
    config: AcceptanceConfig, socket: SocketConfig, thief: AppSession, victim: AppSession
) -> AsyncIterator[Attempt]:
    opened, outcome = await _opens(socket, thief, thief.socket_headers(), thief.values, config.query, OPEN_SECONDS)
    yield Attempt(f"the socket {socket.path} with a credential", not opened, outcome, control=True)
    bare = {name: value for name, value in thief.values.items() if name not in _secret_names_of(config, socket)}
    opened, outcome = await _opens(_without(socket), thief, {}, bare, {})
    yield Attempt(f"the socket {socket.path} without a credential", not opened, outcome)
    wrong = {name: _GARBLED + thief.values.get(name, "")[::-1] for name in _secret_names_of(config, socket)}
    if wrong:
        headers = _swapped(config.headers, wrong)
        opened, outcome = await _opens(socket, thief, headers, {**thief.values, **wrong}, config.query)
        yield Attempt(f"the socket {socket.path} with a wrong credential", not opened, outcome)
    if "{run}" in socket.path:
        values = {**thief.values, "run": victim.values.get("run", "")}
        opened, outcome = await _opens(socket, thief, thief.socket_headers(), values, config.query)
        yield Attempt(f"the socket {socket.path} of another user's run", not opened, outcome)
    elif socket.protocol == "isolane.v1":
        async for attempt in _subscriptions(socket, thief, victim):
            yield attempt


def _secret_names_of(config: AcceptanceConfig, socket: SocketConfig) -> set[str]:
    named = placeholders([socket.subprotocols, socket.headers, socket.query]) | _secret_names(config)
    return named - {"user", "run", *socket.first_save}


def _without(socket: SocketConfig) -> SocketConfig:
    """Return how one connects who has nothing to show."""
    offered = tuple(name for name in socket.subprotocols if not placeholders(name))
    bare = {name: text for name, text in socket.query.items() if not placeholders(text)}
    kept = {name: text for name, text in socket.headers.items() if not placeholders(text)}
    return SocketConfig(socket.path, socket.protocol, offered, kept, bare, {}, socket.first_send)


async def _opens(
    socket: SocketConfig,
    thief: AppSession,
    headers: Mapping[str, str],
    values: Mapping[str, str],
    query: Mapping[str, str],
    seconds: float = CLOSED_SECONDS,
) -> tuple[bool, str]:
    """Return whether the server keeps a socket open, and what happened."""
    async with _stranger(thief) as http:
        connection = UserSocket(socket, thief.url, thief.recorder, 0)
        connection.channel = "refusal"
        try:
            await connection.open(dict(values), headers, http, {} if socket.query else query)
        except SocketRefusedError as error:
            return False, str(error)
        limit = asyncio.get_running_loop().time() + seconds
        while connection.is_open and asyncio.get_running_loop().time() < limit:
            if socket.protocol == "isolane.v1" and connection.welcomed.is_set():
                break
            await asyncio.sleep(0.02)
        stayed = connection.is_open
        await connection.close()
        return stayed, "accepted" if stayed else "closed by the server"


async def _subscriptions(socket: SocketConfig, thief: AppSession, victim: AppSession) -> AsyncIterator[Attempt]:
    run = victim.values.get("run", "")
    if not run:
        return
    told = await _asks(socket, victim, run)
    yield Attempt("a subscription to an own run", told == "gone", told, control=True)
    told = await _asks(socket, thief, run)
    yield Attempt("a subscription to another user's run", told == "gone", f"the server answered {told}")


async def _asks(socket: SocketConfig, session: AppSession, run: str) -> str:
    """Ask for a run on a connection of its own. Returns what the server says of it."""
    connection = UserSocket(socket, session.url, session.recorder, 0)
    connection.channel = "refusal"
    seen = len(session.transcript.receipts)

    def answers() -> list[Any]:
        values = [one.value for one in session.transcript.receipts[seen:] if one.channel == "refusal"]
        return [one for one in values if isinstance(one, dict) and one.get("t") == "sub" and one.get("s") == run]

    try:
        await connection.open(
            session.values, session.socket_headers(), session.http, {} if socket.query else session.config.query
        )
        await connection.say({"t": "sub", "s": run, "n": 0})
        await session.recorder.until(lambda: bool(answers()), 5.0)
    except SocketRefusedError as error:
        return str(error)
    finally:
        await connection.close()
    found = answers()
    return str(found[-1].get("mode")) if found else "nothing"


def _shown(answer: Answer) -> str:
    return f"HTTP {answer.status}" if answer.status else f"no answer: {answer.problem}"
