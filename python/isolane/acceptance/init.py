"""``isolane accept init``: writes an ``accept.toml`` to begin with, each part with a word on what it is for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from isolane.acceptance.candidates import Candidate, Candidates

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def written(found: Candidates, *, app: str = "", url: str = "") -> str:
    """Return the text of a configuration for what was found. What was not found stands there as an example."""
    parts = [
        _head(app, url),
        _users(found),
        _login(found),
        _prepare(found),
        _run(found),
        _reads(found),
        _socket(found),
        _REST,
    ]
    return "\n".join(line for part in parts for line in (*part, ""))


def _head(app: str, url: str) -> Iterator[str]:
    yield "# How `isolane accept --config accept.toml` uses the service: sign-in, what starts a run, where events come."
    yield "# Texts may hold {user}, {canary}, {nonce}, {run}, {part} (which part of the suite), and what `save` keeps."
    yield '# A value such as "env:NAME" is taken from the environment, so that no secret stands here.'
    yield "schema = 1"
    yield ""
    yield "[app]"
    if url:
        yield f"url = {toml(url)}          # runs already; `target` instead has it started on a free port"
        yield "# pid = 1234               # its process, if it is on this machine: memory and sockets are looked at"
    else:
        yield f"target = {toml(app or 'main:app')}"
        yield "# factory = true           # the target is a function that makes the application"
        yield '# env = { MODE = "test" }'


def _users(found: Candidates) -> Iterator[str]:
    password = any("{password}" in str(one.body) for one in found.logins[:1])
    if password:
        yield "# Users that exist: at least 2, better 10."
        yield "[[users.accounts]]"
        yield 'user = "ann"'
        yield 'password = "env:ANN_PASSWORD"'
        yield ""
        yield "[[users.accounts]]"
        yield 'user = "bob"'
        yield 'password = "env:BOB_PASSWORD"'
    else:
        yield "# Users are made up, as many as are needed. Where they must exist, name them:"
        yield "# [[users.accounts]]"
        yield '# user = "ann"'
        yield '# password = "env:ANN_PASSWORD"'


def _login(found: Candidates) -> Iterator[str]:
    yield "# How a user signs in. Cookies are kept by themselves."
    token = found.token
    if found.logins:
        yield "[login.request]"
        yield from _request(found.logins[0], {"token": f"/{token}"} if token else {})
        yield from (f"# also possible: {one.method} {one.path}" for one in found.logins[1:])
    else:
        yield "# [login.request]"
        yield '# path = "/login"'
        yield '# json = { user = "{user}" }'
        yield '# save = { token = "/token" }'
    yield ""
    yield "# What each request carries from then on, beside the cookies."
    if token:
        yield "[login.headers]"
        yield 'Authorization = "Bearer {token}"'
    elif found.logins:
        yield '# save = { token = "/token" } in [login.request] keeps what this header needs.'
        yield "# [login.headers]"
        yield '# Authorization = "Bearer {token}"'
    else:
        yield "[login.headers]"
        yield 'X-User = "{user}"'


def _prepare(found: Candidates) -> Iterator[str]:
    yield "# What is done before each run, such as an upload. A good place for {canary}."
    for one in found.prepares[:3]:
        yield "# [[prepare]]"
        yield from (f"# {line}" for line in _request(one, {}))
    if not found.prepares:
        yield "# [[prepare]]"
        yield '# path = "/notes"'
        yield '# json = { text = "the reference is {canary}" }'


def _run(found: Candidates) -> Iterator[str]:
    yield "# What starts a run. {canary} must stand here or in a [[prepare]], where the service shows it again."
    yield "[run]"
    run_id = found.run_id
    if found.runs:
        one = found.runs[0]
        body = dict(one.body or {})
        if "{canary}" not in json.dumps(body):
            yield "# No field of it looks like a text: put {canary} into one."
        if run_id is None:
            yield "# OpenAPI does not say where the answer has the id of the run: look whether it is there."
        yield from _request(one, {"run": f"/{run_id or found.guessed_id}"})
    else:
        yield 'path = "/runs"'
        yield 'json = { text = "the reference is {canary}" }'
        yield 'save = { run = "/run_id" }'
    yield "# How a user learns that it is over: response, stream (isolane.v1), event, or poll."
    yield 'ends = "response"'
    yield "seconds = 30               # how long a run may take"
    yield ""
    yield '# Needed where ends is "event":'
    yield "# [run.end]"
    yield '# events = ["agent_completed"]'
    yield "# count = 1                # so many of them"
    yield ""
    yield '# Needed where ends is "poll":'
    yield "# [run.poll]"
    yield f'# path = "{found.runs[0].path if found.runs else "/runs"}/{{run}}"'
    yield '# pointer = "/state"'
    yield '# done = ["completed"]'
    yield ""
    yield "# A run that fails, so that it can be seen that nobody else is touched."
    yield "# [run.failing]"
    yield '# json = { text = "" }'


def _reads(found: Candidates) -> Iterator[str]:
    yield "# What shows the result of a run. Others must be refused it, unless private = false."
    for one in found.reads[:4]:
        yield "[[read]]"
        yield f"path = {toml(re.sub(r'{[^}]*}', '{run}', one.path))}"
    if not found.reads:
        yield "# [[read]]"
        yield '# path = "/runs/{run}"'


def _socket(found: Candidates) -> Iterator[str]:
    yield "# Where events arrive: a WebSocket that speaks isolane.v1 or plain JSON, or an event stream (sse)."
    on = "" if found.sockets else "# "
    token = found.token
    yield f"{on}[socket]"
    yield f"{on}path = {toml(found.sockets[0] if found.sockets else '/ws')}"
    yield f'{on}protocol = "plain"         # or "isolane.v1", with "isolane.v1" among the subprotocols'
    if token:
        yield '# subprotocols = ["bearer.{token}"]   # where the header is not read, as from browsers'
    yield from (f"# also there: {path}" for path in found.sockets[1:])


_REST = (
    "# What an older client opens, and the keys that it reads. Without it a plain [socket] is taken for theirs.",
    "# [legacy]",
    '# path = "/ws"',
    '# keys = ["/type", "/run_id", "/timestamp", "/payload"]',
    "",
    "# Where events have what is looked at, as JSON pointers, and which types must come in each run.",
    "[events]",
    'type = "/type"',
    'run = "/run_id"',
    'span = ["/request_id", "/agent_name"]   # the first that is there says which execution of an agent it is',
    'number = "/seq"             # empty where events are not numbered',
    'timestamp = "/timestamp"    # with a time zone, for the way of events',
    'required = ["agent_started", "agent_completed"]',
    "",
    "# [resources]                # where the service counts what it holds",
    '# path = "/healthz"',
    '# counts = { engines = "/engines/active", connections = "/connections/active" }',
    "",
    "# What is asked for; these are the defaults.",
    "# [thresholds]",
    "# response = { target = 2.0, alert = 2.5 }      # seconds, mean",
    "# concurrent = { target = 3.0, alert = 3.75 }   # seconds until all are done",
    "# users = { target = 10, alert = 8 }",
    "# memory = { target = 1073741824, alert = 1288490188 }   # bytes for each user",
    "# event = { target = 0.05, alert = 0.1 }        # seconds, 95th percentile",
    "# errors = { target = 0.001, alert = 0.005 }    # share of requests",
    "# available = { target = 0.999, alert = 0.995 }",
    "",
    "# Tests that are left out, each with its reason, which the report shows.",
    "# [skip]",
    '# legacy_compatibility = "there are no older clients"',
)


def _request(one: Candidate, save: Mapping[str, str]) -> Iterator[str]:
    if one.method != "POST":
        yield f"method = {toml(one.method)}"
    yield f"path = {toml(one.path)}"
    if one.body:
        yield f"{'form' if one.form else 'json'} = {toml(dict(one.body))}"
    if save:
        yield f"save = {toml(dict(save))}"


def toml(value: Any) -> str:
    """Return a value as TOML writes it in one line."""
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {toml(one)}" for key, one in value.items() if one is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    # A basic string of TOML has JSON's escapes.
    return json.dumps(str(value), ensure_ascii=False)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)
