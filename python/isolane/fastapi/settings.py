"""Settings, and where each value came from."""

from __future__ import annotations

import difflib
import os
from typing import Any, Literal, Self

from pydantic import (
    AliasChoices,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from isolane.security.authentication.credentials import Method
from isolane.security.authentication.origins import OWN, check_origins
from isolane.urls import shown

PREFIX = "ISOLANE_"
FLAG_PREFIX = "ISOLANE_FLAG_"
"""Of flags of a migration, which have any names."""


class SettingsConflictError(ValueError):
    """A setting is given twice, under two names, with two values."""


def _named(seed_name: str, default: Any, **constraints: Any) -> Any:
    """A setting that the existing service knows under a name of its own."""
    return Field(default, validation_alias=AliasChoices(PREFIX + seed_name, seed_name), **constraints)


def _own(name: str, default: Any, **constraints: Any) -> Any:
    return Field(default, validation_alias=AliasChoices(PREFIX + name), **constraints)


def _listed(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]


class RedisUrl(SecretStr):
    """A URL that is shown without its password."""

    def _display(self) -> str:
        return shown(self.get_secret_value())


Scope = Literal["process", "cluster"]
SECRET = frozenset({"redis_url", "cluster_key"})
"""Settings whose values stand in no error."""


class IsolaneSettings(BaseSettings):
    """Every limit and bound, from arguments, from ``ISOLANE_*`` variables, or under the existing service's own names.

    A wrong value raises pydantic's ``ValidationError``, which names the variable, the value and what is allowed. The
    same setting under two names with different values raises ``SettingsConflictError``. ``origins()`` says where each
    came from.
    """

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="forbid")

    max_engines_per_user: int = _named("MAX_ENGINES_PER_USER", 2, ge=1, description="engines of one user at once")
    engine_timeout_seconds: float = _named("ENGINE_TIMEOUT_SECONDS", 300.0, gt=0, description="lifetime of an engine")
    cleanup_interval: float = _named("CLEANUP_INTERVAL", 60.0, gt=0, description="seconds between audit sweeps")
    permits_per_user: int = _own("PERMITS_PER_USER", 5, ge=1, description="agents of one user that execute at once")
    permits_total: int = _own("PERMITS_TOTAL", 50, ge=1, description="agents of all users that execute at once")
    drain_seconds: float = _own("DRAIN_SECONDS", 25.0, ge=0, description="how long a shutdown waits for runs")
    websocket_path: str = _own("WEBSOCKET_PATH", "/ws", pattern="^/", description="route of the event stream")
    sse_path: str = _own("SSE_PATH", "/events", pattern="^(/|$)", description="prefix of event streams; empty: none")
    signal_drain: bool = _own("SIGNAL_DRAIN", True, description="sockets leave before uvicorn handles SIGTERM")
    probe_prefix: str = _own("PROBE_PREFIX", "/_isolane", pattern="^/", description="prefix of health and readiness")
    metrics_path: str = _own("METRICS_PATH", "", pattern="^(/|$)", description="route of the metrics; empty: none")
    metrics_merged: bool = _own(
        "METRICS_MERGED", True, description="with a plane a scrape of any worker has the metrics of all"
    )
    flags_shared: bool = _own(
        "FLAGS_SHARED", False, description="the flags lie on Redis, for all workers; a file is what they begin with"
    )
    flags_file: str | None = _own("FLAGS_FILE", None, description="file with the flags of a migration, JSON or TOML")
    max_connections_per_user: int = _own("MAX_CONNECTIONS_PER_USER", 3, ge=1, description="sockets of one user")
    retention_seconds: float = _own("RETENTION_SECONDS", 300.0, ge=0, description="how long an ended log is readable")
    max_event_bytes: int = _own("MAX_EVENT_BYTES", 65536, ge=256, description="payload of one event")
    sanitize_events: Literal["secrets", "all", "off"] = _own(
        "SANITIZE_EVENTS", "secrets", description="what is masked in events when they are published"
    )
    websocket_max_events_per_user: int = _named(
        "WEBSOCKET_MAX_EVENTS_PER_USER", 1000, ge=1, description="events of one run before the oldest are folded"
    )
    websocket_event_timeout: float = _named("WEBSOCKET_EVENT_TIMEOUT", 30.0, gt=0, description="TTL of progress events")
    websocket_heartbeat_interval: float = _named(
        "WEBSOCKET_HEARTBEAT_INTERVAL", 30.0, gt=0, description="a socket idle for half of it is asked for a pong"
    )
    websocket_max_reconnect_attempts: int = _named(
        "WEBSOCKET_MAX_RECONNECT_ATTEMPTS", 3, ge=0, description="told to the client; 0 is for ever"
    )
    websocket_delivery_retries: int = _named(
        "WEBSOCKET_DELIVERY_RETRIES", 3, ge=0, description="tries again of one write"
    )
    websocket_delivery_timeout: float = _named("WEBSOCKET_DELIVERY_TIMEOUT", 5.0, gt=0, description="write deadline")
    websocket_enable_compression: bool = _named("WEBSOCKET_ENABLE_COMPRESSION", True, description="compress batches")
    websocket_enable_batching: bool = _named("WEBSOCKET_ENABLE_BATCHING", True, description="several events a frame")

    redis_url: RedisUrl | None = _own(
        "REDIS_URL", None, description="what workers share: a Redis, a Valkey or a node of a cluster; empty: nothing"
    )
    redis_prefix: str = _own(
        "REDIS_PREFIX", "isolane", pattern=r"^[A-Za-z0-9_.:/-]{1,64}$", description="what keys begin with"
    )
    redis_seal: bool = _own(
        "REDIS_SEAL", False, description="events on Redis are sealed, with keys that come from cluster_key"
    )
    cluster_key: SecretStr | None = _own(
        "CLUSTER_KEY",
        None,
        min_length=16,
        description="hides users in names of keys; empty: the first worker makes one",
    )
    engines_scope: Scope = _own("ENGINES_SCOPE", "cluster", description="whether workers share engines per user")
    permits_scope: Scope = _own("PERMITS_SCOPE", "cluster", description="whether workers share permits per user")
    total_scope: Scope = _own("TOTAL_SCOPE", "process", description="whether workers share permits of all users")
    lease_fail: Literal["local", "open", "closed"] = _own(
        "LEASE_FAIL", "local", description="shared limits without Redis: a share, as if alone, or refused"
    )
    lease_lost: Literal["cancel", "flag"] = _own(
        "LEASE_LOST", "cancel", description="what becomes of a run whose lease was lost"
    )

    allowed_origins: str = _own(
        "ALLOWED_ORIGINS", "self", description="origins of pages that may open sockets, with commas; self: its own"
    )
    websocket_auth_methods: str = _own(
        "WEBSOCKET_AUTH_METHODS",
        "ticket,subprotocol,header",
        description="how sockets may sign in, with commas; also message and cookie",
    )
    websocket_ticket_seconds: float = _own(
        "WEBSOCKET_TICKET_SECONDS", 30.0, gt=0, le=30, description="how long a ticket counts"
    )
    websocket_accept_then_close: bool = _own(
        "WEBSOCKET_ACCEPT_THEN_CLOSE", False, description="refused sockets are opened and closed, so that pages see why"
    )

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: str) -> str:
        check_origins(_listed(value))
        return value

    @field_validator("redis_url", mode="before")
    @classmethod
    def _check_redis_url(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text is None or not str(text).strip():
            return None
        if not str(text).strip().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError(f"{shown(str(text))} is no URL of a Redis; use redis://, rediss:// or unix://")
        return text

    @field_validator("websocket_auth_methods")
    @classmethod
    def _check_methods(cls, value: str) -> str:
        unknown = [name for name in _listed(value) if name not in set(Method)]
        if unknown or not _listed(value):
            raise ValueError(f"{', '.join(unknown) or 'nothing'} is no way to sign in; use some of {', '.join(Method)}")
        return value

    @property
    def origins_allowed(self) -> tuple[str, ...]:
        """The origins of ``allowed_origins``."""
        return check_origins(_listed(self.allowed_origins))

    @property
    def socket_methods(self) -> frozenset[Method]:
        """The methods of ``websocket_auth_methods``."""
        return frozenset(Method(name) for name in _listed(self.websocket_auth_methods))

    @model_validator(mode="after")
    def _check_cookies(self) -> Self:
        if Method.COOKIE in self.socket_methods and not set(self.origins_allowed) - {OWN}:
            raise ValueError(
                f"{PREFIX}WEBSOCKET_AUTH_METHODS names cookie, which browsers send for any page: name the pages that "
                f"may connect in {PREFIX}ALLOWED_ORIGINS, such as https://app.example"
            )
        return self

    @model_validator(mode="after")
    def _check_seal(self) -> Self:
        if self.redis_seal and self.cluster_key is None:
            raise ValueError(
                f"{PREFIX}REDIS_SEAL needs {PREFIX}CLUSTER_KEY: a key that workers make by themselves lies on Redis too"
            )
        return self

    @model_validator(mode="after")
    def _check_paths(self) -> Self:
        if self.sse_path.rstrip("/") == self.websocket_path.rstrip("/"):
            raise ValueError(f"sse_path and websocket_path are both {self.sse_path}; choose another for one of them")
        return self

    @classmethod
    def _variables(cls, name: str) -> list[str]:
        alias = cls.model_fields[name].validation_alias
        return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []

    @model_validator(mode="wrap")
    @classmethod
    def _name_variables(cls, values: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """A setting that has two names is refused under the one that was given."""
        try:
            return read(values)
        except ValidationError as error:
            wrong = [cls._as_given(details) for details in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(error.title, wrong) from None

    @classmethod
    def _as_given(cls, details: ErrorDetails) -> InitErrorDetails:
        first = details["loc"][0] if details["loc"] else None
        for name in cls.model_fields:
            variables = cls._variables(name)
            if first in variables:
                first = next((variable for variable in variables if variable in os.environ), first)
        location = details["loc"] if first is None else (first, *details["loc"][1:])
        given = "***" if str(first).lower().removeprefix(PREFIX.lower()) in SECRET else details["input"]
        return InitErrorDetails(type=details["type"], loc=location, input=given, ctx=details.get("ctx", {}))

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        known = {variable for name in cls.model_fields for variable in cls._variables(name)}
        for variable in os.environ:
            if variable.startswith(FLAG_PREFIX):
                continue
            if variable.startswith(PREFIX) and variable not in known and variable not in OTHER_VARIABLES:
                near = difflib.get_close_matches(variable, sorted(known), n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(sorted(known))}"
                raise ValueError(f"unknown environment variable {variable}; {hint}")
        for name in cls.model_fields:
            given = {variable: os.environ[variable] for variable in cls._variables(name) if variable in os.environ}
            if len(set(given.values())) > 1:
                both = " and ".join(f"{variable}={value!r}" for variable, value in given.items())
                raise SettingsConflictError(f"{name} is set twice: {both}; keep one of them")
        return values

    def origins(self) -> dict[str, str]:
        """Return where each value came from: ``default``, ``argument`` or ``environment NAME``."""
        origins = {}
        for name in type(self).model_fields:
            variable = next((each for each in self._variables(name) if each in os.environ), None)
            if name not in self.model_fields_set:
                origins[name] = "default"
            elif variable is not None and self._text(name) == str(self._read(name, os.environ[variable])):
                origins[name] = f"environment {variable}"
            else:
                origins[name] = "argument"
        return origins

    def _text(self, name: str) -> str:
        value = getattr(self, name)
        return str(value.get_secret_value() if isinstance(value, SecretStr) else value)

    def _read(self, name: str, text: str) -> Any:
        annotation = type(self).model_fields[name].annotation
        if annotation is bool:
            return text.strip().lower() in {"1", "true", "yes", "on", "t", "y"}
        return annotation(text) if isinstance(annotation, type) else text


OTHER_VARIABLES = frozenset(
    {
        "ISOLANE_AUDIT_DIR",
        "ISOLANE_AUDIT_KEY",
        "ISOLANE_GENAI_SEMCONV",
        "ISOLANE_LEDGER_DIR",
        "ISOLANE_LEGACY_BROADCAST",
        "ISOLANE_MUTANT",
        "ISOLANE_VECTORS",
        "ISOLANE_WARN",
        "ISOLANE_SCREENSHOTS",
        "ISOLANE_REQUIRE_ALL",
    }
)
"""The key of the audit log, which is no setting that may be printed, what other parts read, and the project's tests."""
