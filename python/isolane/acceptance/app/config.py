"""``accept.toml``: how the suite uses a service. `AcceptanceConfig.read` reads it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from isolane.acceptance.app.steps import RunEnd, SocketConfig, Step
from isolane.acceptance.app.tables import AcceptanceConfigError, Table, from_environment, placeholders
from isolane.acceptance.events import EventShape
from isolane.acceptance.metrics import AcceptanceThresholds, Bound, threshold_names
from isolane.acceptance.names import TEST_NAMES
from isolane.acceptance.target import Account
from isolane.acceptance.trials import Load

ENDS = ("response", "stream", "event", "poll")
PROTOCOLS = ("isolane.v1", "plain", "sse")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
GIVEN = frozenset({"user", "canary", "nonce", "run", "part"})
"""Placeholders that are always there."""
_TARGET = re.compile(r"[^:\s]+:[^:\s]+")
LEGACY_KEYS = ("/type", "/run_id", "/timestamp", "/payload")


@dataclass(frozen=True, slots=True)
class AcceptanceConfig:
    """A whole ``accept.toml``."""

    app: str
    run: Step
    end: RunEnd
    url: str = ""
    pid: int | None = None
    factory: bool = False
    directory: Path = Path()
    env: Mapping[str, str] = field(default_factory=dict)
    start_seconds: float = 30.0
    accounts: tuple[Account, ...] = ()
    login: Step | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    prepare: tuple[Step, ...] = ()
    failing: Step | None = None
    long: Step | None = None
    run_seconds: float = 30.0
    reads: tuple[Step, ...] = ()
    socket: SocketConfig | None = None
    settle_seconds: float = 0.3
    legacy: SocketConfig | None = None
    legacy_keys: tuple[str, ...] = LEGACY_KEYS
    shape: EventShape = field(default_factory=EventShape)
    refused: tuple[int, ...] = (401, 403)
    hidden: tuple[int, ...] = (401, 403, 404, 410)
    query_tokens: tuple[str, ...] = ("token", "access_token")
    probe: Step | None = None
    counts: Mapping[str, str] = field(default_factory=dict)
    thresholds: AcceptanceThresholds = field(default_factory=AcceptanceThresholds)
    load: Load = field(default_factory=Load)
    skip: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> AcceptanceConfig:
        """Read a file.

        Raises:
            AcceptanceConfigError: it is not there, is no TOML, or has a value that is not allowed.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            problem = error.strerror or str(error)
            raise AcceptanceConfigError(str(path), problem, "a file; `isolane accept init` writes one") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise AcceptanceConfigError(str(path), f"is no TOML: {error}", "TOML 1.0") from error
        return cls.parse(data, path.parent)

    @classmethod
    def parse(cls, data: Mapping[str, Any], directory: Path) -> AcceptanceConfig:
        """Make it of what TOML says. Relative folders are taken from ``directory``."""
        top = Table(dict(data))
        top.whole("schema", 1, least=1, most=1)
        parts: dict[str, Any] = {}
        parts.update(_app(top.table("app"), directory))
        parts.update(_users(top))
        parts.update(_login(top.table("login")))
        parts["prepare"] = tuple(_step(one) for one in top.tables("prepare"))
        parts.update(_run(top.table("run")))
        parts["reads"] = tuple(_step(one, private="{run}" in str(one.raw("path"))) for one in top.tables("read"))
        parts.update(_sockets(top))
        parts["shape"] = _shape(top.table("events"))
        parts.update(_security(top.table("security")))
        parts.update(_resources(top.table("resources")))
        parts["thresholds"] = _thresholds(top.table("thresholds"))
        parts["load"] = _load(top.table("load"))
        parts["skip"] = _skip(top)
        top.done()
        config = cls(**parts)
        _check_placeholders(config)
        _check_end(config)
        return config


def _app(table: Table | None, directory: Path) -> dict[str, Any]:
    if table is None:
        return {"app": "", "directory": directory}
    parts: dict[str, Any] = {
        "app": table.text("target", ""),
        "url": table.text("url", "").rstrip("/"),
        "pid": table.whole("pid", 0, least=0, most=2**31) or None,
        "factory": table.flag("factory", default=False),
        "directory": (directory / table.text("directory", ".")).resolve(),
        "env": table.mapping("env"),
        "start_seconds": table.number("start_seconds", 30.0, least=0.1, most=600),
    }
    table.done()
    if parts["app"] and parts["url"]:
        raise AcceptanceConfigError("app.url", "stands beside app.target", "one of them")
    if parts["app"] and not _TARGET.fullmatch(parts["app"]):
        raise AcceptanceConfigError("app.target", f"is {parts['app']!r}", "module:app, such as app.main:app")
    if parts["url"] and not parts["url"].startswith(("http://", "https://")):
        raise AcceptanceConfigError(
            "app.url", f"is {parts['url']!r}", "an address that begins with http:// or https://"
        )
    if not parts["directory"].is_dir():
        raise AcceptanceConfigError(
            "app.directory", f"is {table.text('directory', '.')!r}", "a folder that is there, from where this file is"
        )
    return parts


def _skip(top: Table) -> dict[str, str]:
    skip = top.mapping("skip")
    for name, reason in skip.items():
        if name not in TEST_NAMES:
            raise AcceptanceConfigError(f"skip.{name}", "is no test", ", ".join(TEST_NAMES))
        if not reason.strip():
            raise AcceptanceConfigError(f"skip.{name}", "is empty", "the reason why the test is left out")
    return skip


def _users(top: Table) -> dict[str, Any]:
    table = top.table("users")
    if table is None:
        return {}
    accounts: list[Account] = []
    for one in table.tables("accounts"):
        values = {name: from_environment(one.key(name), str(one.raw(name))) for name in list(one._data)}  # noqa: SLF001
        if not values.get("user"):
            raise AcceptanceConfigError(one.key("user"), "is missing", "the id of a user")
        if any(other.user == values["user"] for other in accounts):
            raise AcceptanceConfigError(one.key("user"), "is that of an account above", "another user for each account")
        accounts.append(Account(values.pop("user"), values))
    if len(accounts) == 1:
        raise AcceptanceConfigError(
            table.key("accounts"), "has one user", "at least 2, or none: then names are made up"
        )
    table.done()
    return {"accounts": tuple(accounts)}


def _login(table: Table | None) -> dict[str, Any]:
    if table is None:
        return {}
    request = table.table("request")
    parts = {
        "login": None if request is None else _step(request),
        "headers": table.mapping("headers"),
        "query": table.mapping("query"),
    }
    table.done()
    return parts


def _step(table: Table, *, private: bool = False, base: Step | None = None) -> Step:
    """Read a request; what is missing is that of ``base``."""
    method = table.text("method", base.method if base else "POST" if not private else "GET", one_of=METHODS)
    path = table.text("path", base.path if base else None)
    if not path.startswith("/"):
        raise AcceptanceConfigError(table.key("path"), f"is {path!r}", "a path that begins with /")
    bodies = [name for name in ("json", "form", "text", "files") if table.has(name)]
    if len(bodies) > 1:
        raise AcceptanceConfigError(table.key(bodies[1]), f"stands beside {bodies[0]}", "one body")
    inherited = base is not None and not bodies
    step = Step(
        method=method,
        path=path,
        query=table.mapping("query") or (base.query if base else {}),
        headers=table.mapping("headers") or (base.headers if base else {}),
        json=base.json if inherited and base else table.tree("json"),
        form=base.form if inherited and base else table.mapping("form"),
        text=base.text if inherited and base else (table.text("text", "") if table.has("text") else None),
        files=base.files if inherited and base else table.mapping("files"),
        save=table.mapping("save") or (base.save if base else {}),
        status=table.wholes("status", base.status if base else ()),
        private=table.flag("private", private),
    )
    # The keys that were not asked for are known all the same.
    for name in ("json", "form", "text", "files"):
        table.raw(name)
    for name, pointer in step.save.items():
        if not pointer.startswith("/"):
            raise AcceptanceConfigError(f"{table.key('save')}.{name}", f"is {pointer!r}", "a JSON pointer such as /id")
    if base is None:
        _done(table)
    return step


_LATER = ("ends", "seconds", "end", "poll", "failing", "long", "counts")


def _done(table: Table) -> None:
    for name in _LATER:
        if table.path in {"run", "resources"}:
            table.raw(name)
    table.done()


def _run(table: Table | None) -> dict[str, Any]:
    if table is None:
        raise AcceptanceConfigError("run", "is missing", "a table with the request that starts a run")
    step = _step(table)
    end = _end(table)
    variants: dict[str, Step | None] = {}
    for name in ("failing", "long"):
        other = table.table(name)
        variants[name] = None if other is None else _step(other, base=step)
        if other is not None:
            other.done()
    seconds = table.number("seconds", 30.0, least=0.1, most=3600)
    return {"run": step, "end": end, **variants, "run_seconds": seconds}


def _end(table: Table) -> RunEnd:
    kind = table.text("ends", "response", one_of=ENDS)
    end = RunEnd(kind)
    event = table.table("end")
    if event is not None:
        end = replace(
            end,
            events=event.texts("events"),
            failed_events=event.texts("failed", end.failed_events),
            count=event.whole("count", 1),
        )
        event.done()
    poll = table.table("poll")
    if poll is not None:
        pointer, done, failed = (
            poll.text("pointer", "/state"),
            poll.texts("done", end.done),
            poll.texts("failed", end.failed),
        )
        end = replace(end, poll=_step(poll, private=True), pointer=pointer, done=done, failed=failed)
    if kind == "event" and not end.events:
        raise AcceptanceConfigError("run.end.events", "is missing", "types of events, since run.ends is event")
    if kind == "poll" and end.poll is None:
        raise AcceptanceConfigError("run.poll", "is missing", "a request, since run.ends is poll")
    return end


def _sockets(top: Table) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    table = top.table("socket")
    if table is not None:
        parts["settle_seconds"] = table.number("settle_seconds", 0.3, most=60)
        parts["socket"] = _socket(table)
        table.done()
    legacy = top.table("legacy")
    if legacy is not None:
        parts["legacy_keys"] = legacy.texts("keys", LEGACY_KEYS)
        parts["legacy"] = _socket(legacy)
        legacy.done()
        if parts["legacy"].protocol == "isolane.v1":
            raise AcceptanceConfigError("legacy.protocol", "is 'isolane.v1'", "plain or sse: what older clients speak")
    return parts


def _socket(table: Table) -> SocketConfig:
    first = table.table("first")
    saved: dict[str, str] = {}
    sent: tuple[str, ...] = ()
    if first is not None:
        saved, sent = first.mapping("save"), first.texts("send")
        first.done()
    return SocketConfig(
        path=table.text("path"),
        protocol=table.text("protocol", "plain", one_of=PROTOCOLS),
        subprotocols=table.texts("subprotocols"),
        headers=table.mapping("headers"),
        query=table.mapping("query"),
        first_save=saved,
        first_send=sent,
    )


_TYPES = ("started", "ended", "tool_started", "tool_ended", "required", "merged", "ignored")


def _shape(table: Table | None) -> EventShape:
    if table is None:
        return EventShape()
    given: dict[str, Any] = {}
    for one in fields(EventShape):
        if not table.has(one.name):
            table.raw(one.name)
        elif one.name == "spans":
            given[one.name] = table.flag(one.name, default=True)
        elif one.name in _TYPES:
            given[one.name] = table.texts(one.name)
        else:
            given[one.name] = table.places(one.name)
    table.done()
    return EventShape(**given)


def _security(table: Table | None) -> dict[str, Any]:
    if table is None:
        return {}
    parts = {
        "refused": table.wholes("refused", (401, 403)),
        "hidden": table.wholes("hidden", (401, 403, 404, 410)),
        "query_tokens": table.texts("query_tokens", ("token", "access_token")),
    }
    table.done()
    return parts


def _resources(table: Table | None) -> dict[str, Any]:
    if table is None:
        return {}
    counts = table.mapping("counts")
    return {"probe": _step(table, private=True), "counts": counts}


def _thresholds(table: Table | None) -> AcceptanceThresholds:
    thresholds = AcceptanceThresholds()
    if table is None:
        return thresholds
    given: dict[str, Bound] = {}
    for name in threshold_names():
        bound = thresholds.bound(name)
        one = table.table(name)
        if one is not None:
            target = one.number("target", bound.target)
            given[name] = Bound(target, one.number("alert", max(target, bound.alert)), bound.unit, bound.at_least)
            one.done()
    table.done()
    return replace(thresholds, **given)


def _load(table: Table | None) -> Load:
    if table is None:
        return Load()
    given = {one.name: table.whole(one.name, int(one.default), least=1) for one in fields(Load)}  # type: ignore[arg-type]
    if given["users"] < 2:  # noqa: PLR2004 - one alone has nobody to be mixed up with
        raise AcceptanceConfigError(table.key("users"), f"is {given['users']}", "at least 2")
    table.done()
    return Load(**given)


def _steps(config: AcceptanceConfig) -> Iterator[tuple[str, Step]]:
    if config.login is not None:
        yield "login.request", config.login
    yield from ((f"prepare[{number}]", step) for number, step in enumerate(config.prepare))
    yield "run", config.run
    yield from ((name, step) for name, step in (("run.failing", config.failing), ("run.long", config.long)) if step)
    if config.end.poll is not None:
        yield "run.poll", config.end.poll
    yield from ((f"read[{number}]", step) for number, step in enumerate(config.reads))


def _check_placeholders(config: AcceptanceConfig) -> None:
    """Refuse placeholders that nothing fills in, and a configuration that puts the canary nowhere."""
    known = set(GIVEN).union(*(account.values for account in config.accounts))
    canaries = 0
    if config.socket is not None:
        known |= set(config.socket.first_save)
    for _, step in _steps(config):
        known |= set(step.save)
    named: list[tuple[str, Any]] = [("login.headers", config.headers), ("login.query", config.query)]
    for key, step in _steps(config):
        body = [step.path, step.query, step.headers, step.json, step.form, step.text, step.files]
        named.append((key, body))
        canaries += "canary" in placeholders(body) and key.partition("[")[0] in {"prepare", "run"}
    for key, socket in (("socket", config.socket), ("legacy", config.legacy)):
        if socket is not None:
            body = [socket.path, socket.subprotocols, socket.headers, socket.query, socket.first_send]
            named.append((key, body))
    for key, value in named:
        for name in sorted(placeholders(value) - known):
            shown = ", ".join("{" + one + "}" for one in sorted(known))
            raise AcceptanceConfigError(key, f"has the placeholder {{{name}}}, which nothing fills in", shown)
    if not canaries:
        raise AcceptanceConfigError("run", "puts {canary} nowhere", "{canary} in a text of the run or of a [[prepare]]")


def _check_end(config: AcceptanceConfig) -> None:
    if config.end.kind in {"stream", "event"} and config.socket is None:
        raise AcceptanceConfigError("run.ends", f"is {config.end.kind!r} and there is no [socket]", "response, poll")
    if config.end.kind == "stream" and config.socket is not None and config.socket.protocol != "isolane.v1":
        raise AcceptanceConfigError("run.ends", "is 'stream', which only isolane.v1 has", "response, event, poll")
    shown = [step.path for step in config.reads] + ([config.socket.path] if config.socket is not None else [])
    if any("{run}" in path for path in shown) and "run" not in config.run.save:
        raise AcceptanceConfigError("run.save", "does not name run, and {run} stands in a path", 'run = "/run_id"')
    if config.end.kind in {"stream", "event", "poll"} and "run" not in config.run.save:
        raise AcceptanceConfigError(
            "run.save", "does not name run", 'run = "/run_id": where the answer has the run\'s id'
        )
