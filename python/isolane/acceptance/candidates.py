"""Finds in an OpenAPI document which routes sign in, start runs and show results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_LOGIN = re.compile(r"log[-_]?in|sign[-_]?in|token|session|auth", re.IGNORECASE)
_NOT_LOGIN = re.compile(r"log[-_]?out|sign[-_]?out|refresh|revoke|ticket|callback", re.IGNORECASE)
_RUN = re.compile(r"run|chat|ask|agent|message|quer(y|ies)|execut|task|invoke|complet", re.IGNORECASE)
_TEXT = re.compile(
    r"text|question|message|prompt|query|content|input|request|note|title|body|description", re.IGNORECASE
)
_USER = re.compile(r"user|name|email|login", re.IGNORECASE)
_PASSWORD = re.compile(r"password|secret|passphrase", re.IGNORECASE)
_TOKEN = re.compile(r"token|jwt", re.IGNORECASE)
_RUN_ID = re.compile(r"^(run|task|job|execution|request|id)(_?id)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route that could be used.

    Attributes:
        body: an example of what it takes, with placeholders.
        form: whether it takes a form instead of JSON.
        answers: names in its answer.
        likely: how much speaks for it.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    form: bool = False
    answers: tuple[str, ...] = ()
    likely: int = 0

    def answer_like(self, pattern: re.Pattern[str]) -> str | None:
        """Return the name in its answer that fits."""
        return next((name for name in self.answers if pattern.search(name)), None)


@dataclass(slots=True)
class Candidates:
    """What was found, the most likely first."""

    logins: list[Candidate] = field(default_factory=list)
    runs: list[Candidate] = field(default_factory=list)
    prepares: list[Candidate] = field(default_factory=list)
    reads: list[Candidate] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)

    @property
    def token(self) -> str | None:
        """Where the answer to the sign-in has the token."""
        return self.logins[0].answer_like(_TOKEN) if self.logins else None

    @property
    def run_id(self) -> str | None:
        """Where the answer to the start of a run has its id."""
        return self.runs[0].answer_like(_RUN_ID) if self.runs else None

    @property
    def guessed_id(self) -> str:
        """What a run's id may be called where the document does not say: as in the path that shows a run."""
        return next((name for one in self.reads for name in re.findall(r"{(\w+)}", one.path)), "run_id")


def find(openapi: Mapping[str, Any], sockets: list[str] | None = None) -> Candidates:
    """Return the routes of a document that could be used."""
    found = Candidates(sockets=list(sockets or []))
    posts: list[Candidate] = []
    for one in _routes(openapi):
        if one.method == "GET":
            found.reads.append(one)
        elif _LOGIN.search(one.path) and not _NOT_LOGIN.search(one.path) and one.body is not None:
            found.logins.append(one)
        elif one.body is not None or _RUN.search(one.path):
            posts.append(one)
    posts.sort(key=lambda one: -one.likely)
    found.runs = posts[:1]
    found.prepares = [one for one in posts[1:] if "{" not in one.path]
    run = found.runs[0].path if found.runs else ""
    found.reads = [one for one in found.reads if run and one.path.startswith(f"{run}/") and one.path.count("{") == 1]
    return found


def _routes(openapi: Mapping[str, Any]) -> Iterator[Candidate]:
    paths = openapi.get("paths")
    for path, operations in (paths if isinstance(paths, dict) else {}).items():
        for method, operation in (operations if isinstance(operations, dict) else {}).items():
            if method not in {"get", "post"} or not isinstance(operation, dict):
                continue
            body, form = _body(openapi, operation)
            answers = tuple(_answers(openapi, operation))
            words = sum(isinstance(value, str) and "{canary}" in value for value in (body or {}).values())
            likely = 4 * bool(_RUN.search(path)) + 2 * bool(words) + 2 * any(_RUN_ID.match(name) for name in answers)
            yield Candidate(method.upper(), path, body, form, answers, likely - 3 * ("{" in path))


def _resolved(openapi: Mapping[str, Any], schema: Any, depth: int = 0) -> Mapping[str, Any]:
    """Return a schema with what it refers to in its place."""
    if not isinstance(schema, dict) or depth > 8:  # noqa: PLR2004 - references may go in a circle
        return {}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target: Any = openapi
        for part in reference.removeprefix("#/").split("/"):
            target = target.get(part, {}) if isinstance(target, dict) else {}
        return _resolved(openapi, target, depth + 1)
    for name in ("allOf", "anyOf", "oneOf"):
        if isinstance(schema.get(name), list) and schema[name] and "properties" not in schema:
            return _resolved(openapi, schema[name][0], depth + 1)
    return schema


def _body(openapi: Mapping[str, Any], operation: Mapping[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    content = _resolved(openapi, operation.get("requestBody")).get("content")
    if not isinstance(content, dict):
        return None, False
    for kind, form in (("application/json", False), ("application/x-www-form-urlencoded", True)):
        if kind in content:
            schema = _resolved(openapi, content[kind].get("schema"))
            return _example(openapi, schema), form
    return None, False


def _example(openapi: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    required = schema.get("required", [])
    example: dict[str, Any] = {}
    properties = schema.get("properties")
    for name, part in (properties if isinstance(properties, dict) else {}).items():
        value = _value(name, _resolved(openapi, part))
        if name in required or (isinstance(value, str) and "{" in value):
            example[name] = value
    return example


def _value(name: str, schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type", "string")
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    if kind != "string":
        given = {"integer": 1, "number": 1.0, "boolean": False, "array": [], "object": {}}
        return schema.get("default", given.get(str(kind), ""))
    if _PASSWORD.search(name):
        return "{password}"
    if _TEXT.search(name):
        return "the reference is {canary}"
    if _USER.search(name):
        return "{user}"
    return schema.get("default") or f"a {name}"


def _answers(openapi: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[str]:
    responses = operation.get("responses")
    for status, response in (responses if isinstance(responses, dict) else {}).items():
        content = response.get("content") if str(status).startswith("2") and isinstance(response, dict) else None
        if isinstance(content, dict):
            schema = _resolved(openapi, content.get("application/json", {}).get("schema"))
            properties = schema.get("properties")
            yield from properties if isinstance(properties, dict) else ()
