"""``[tool.isolane.migrate]``: what the rules look for in a code base, beside what they know."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from isolane.migration.codemod.errors import MigrateConfigError
from isolane.migration.codemod.names import NameList

STATES = ("app.agents.state.DeepAgentState", "schemas.agent_models.DeepAgentState", "agents.state.DeepAgentState")
CONTEXTS = (
    "isolane.UserExecutionContext",
    "isolane.compat.user_execution_context.UserExecutionContext",
    "services.user_execution_context.UserExecutionContext",
    "agents.supervisor.user_execution_context.UserExecutionContext",
    "agents.supervisor.execution_factory.UserExecutionContext",
    "models.user_execution_context.UserExecutionContext",
)
EMITTER_GETTERS = (
    "websocket.manager.get_websocket_manager",
    "websocket_core.get_websocket_manager",
    "websocket_core.manager.get_websocket_manager",
    "websocket_core.unified_manager.get_websocket_manager",
    "websocket_core.migration_adapter.get_legacy_websocket_manager",
    "services.agent_websocket_bridge.get_agent_websocket_bridge",
    "services.websocket_bridge_factory.get_websocket_bridge_factory",
    "isolane.migration.legacy.get_websocket_manager",
    "isolane.migration.legacy.get_websocket_bridge",
    "isolane.migration.legacy.get_agent_websocket_bridge",
)
DISPATCHER_GETTERS = (
    "tools.dispatcher.get_tool_dispatcher",
    "core.tools.unified_tool_dispatcher.get_tool_dispatcher",
    "agents.tool_dispatcher.get_tool_dispatcher",
    "isolane.migration.legacy.get_tool_dispatcher",
)
OTHER_GETTERS = (
    "engine.get_execution_engine",
    "agents.supervisor.execution_engine.get_execution_engine",
    "agents.supervisor.execution_engine_factory.get_execution_engine_factory",
    "isolane.migration.legacy.get_execution_engine",
)
PER_USER_CLASSES = (
    *STATES,
    *CONTEXTS,
    "isolane.UserExecutionEngine",
    "isolane.UserWebSocketEmitter",
    "isolane.UnifiedToolDispatcher",
    "agents.supervisor.user_execution_engine.UserExecutionEngine",
    "agents.supervisor.agent_instance_factory.UserWebSocketEmitter",
    "services.user_websocket_emitter.UserWebSocketEmitter",
    "websocket_core.unified_emitter.UnifiedWebSocketEmitter",
    "core.tools.unified_tool_dispatcher.UnifiedToolDispatcher",
    "tools.dispatcher.ToolDispatcher",
    "agents.tool_dispatcher.ToolDispatcher",
    "agents.supervisor.execution_engine.ExecutionEngine",
    "websocket.manager.WebSocketManager",
    "websocket_core.manager.WebSocketManager",
)


@dataclass(frozen=True)
class MigrateConfig:
    """What to look for. Lists of ``[tool.isolane.migrate]`` are added to these; ``extend = false`` leaves these out.

    Fully qualified names stand for themselves and for the same name below any package; a name without a module is
    refused, because other libraries have classes of the same names.

    Attributes:
        states: classes of the legacy state that all agents share (MIG001, MIG002).
        contexts: classes of the per-user context; a parameter annotated with one is a context in scope.
        emitter_getters: singleton getters whose place ``context.get_websocket_emitter()`` takes (MIG003, MIG004).
        dispatcher_getters: those whose place ``context.get_tool_dispatcher()`` takes.
        singleton_getters: other singleton getters, for which nothing is put in place but a marker.
        async_getters: those of them that are coroutine functions. What the scanned files define is known without it.
        legacy_methods: methods with ``state, run_id`` as parameters, annotated or not (MIG002).
        per_user_classes: classes of which a module must not keep an instance (MIG005).
        broadcast_methods: methods that send to everybody (MIG006).
        send_method: the method that sends to one user, taking the user's id and the message (MIG006).
        user_names: names of variables that hold the id of a user (MIG006, MIG009).
        identity_names: names of what identifies a user or run (MIG007).
        identity_literals: texts that stand for nobody in particular (MIG007).
        context_fields: attributes with data of one user's run (MIG008).
        flag: the flag that a fix of MIG009 asks for.
        cache_names: words in the names of caches (MIG011).
        user_words: words in a cache key that make it a user's own (MIG011).
        exclude: patterns of paths, from the project's folder, that are left out.
        ignore: codes of rules that are off.
        per_file_ignores: patterns of paths, each with codes of rules that are off there.
        root: the project's folder: that of ``pyproject.toml``.
    """

    states: tuple[str, ...] = STATES
    contexts: tuple[str, ...] = CONTEXTS
    emitter_getters: tuple[str, ...] = EMITTER_GETTERS
    dispatcher_getters: tuple[str, ...] = DISPATCHER_GETTERS
    singleton_getters: tuple[str, ...] = OTHER_GETTERS
    async_getters: tuple[str, ...] = ()
    legacy_methods: tuple[str, ...] = ("execute", "check_entry_conditions", "execute_core_logic")
    per_user_classes: tuple[str, ...] = PER_USER_CLASSES
    broadcast_methods: tuple[str, ...] = ("broadcast_message", "broadcast_to_all", "broadcast")
    send_method: str = "send_to_user"
    user_names: tuple[str, ...] = ("user_id", "uid", "current_user_id", "user_uuid", "account_id", "customer_id")
    identity_names: tuple[str, ...] = ("user_id", "thread_id", "chat_thread_id", "run_id", "tenant_id", "session_id")
    identity_literals: tuple[str, ...] = (
        "default",
        "default_user",
        "legacy_user",
        "anonymous",
        "anonymous_user",
        "unknown_user",
        "default_thread",
        "default_run",
        "default_tenant",
    )
    context_fields: tuple[str, ...] = ("agent_context", "audit_metadata", "context_tracking", "quality_metrics")
    flag: str = "modern_execution"
    cache_names: tuple[str, ...] = ("cache", "redis", "memcache", "memcached")
    user_words: tuple[str, ...] = (
        *("user", "users", "uid", "tenant", "account", "owner", "principal", "session", "sid", "org"),
        *("organization", "customer", "member", "sub", "context", "ctx"),
    )
    exclude: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    per_file_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    root: Path = field(default_factory=Path.cwd)

    def __post_init__(self) -> None:
        for name in QUALIFIED:
            bare = [one for one in getattr(self, name) if "." not in one]
            if bare:
                raise MigrateConfigError(
                    f"{name} has {bare[0]!r}, a name without a module; write it as 'app.module.{bare[0]}', because "
                    "other libraries have names like it"
                )

    # What the rules ask, ready to be asked often.

    @cached_property
    def state_list(self) -> NameList:
        """The classes of the legacy state."""
        return NameList(self.states)

    @cached_property
    def context_list(self) -> NameList:
        """The classes of the per-user context."""
        return NameList(self.contexts)

    @cached_property
    def getter_list(self) -> NameList:
        """All singleton getters."""
        return NameList((*self.emitter_getters, *self.dispatcher_getters, *self.singleton_getters, *self.async_getters))

    @cached_property
    def async_list(self) -> NameList:
        """The getters that are coroutine functions."""
        return NameList(self.async_getters)

    @cached_property
    def emitter_list(self) -> NameList:
        """The getters of what sends to sockets."""
        return NameList(self.emitter_getters)

    @cached_property
    def dispatcher_list(self) -> NameList:
        """The getters of what calls tools."""
        return NameList(self.dispatcher_getters)

    @cached_property
    def per_user_list(self) -> NameList:
        """The classes of which every user has their own."""
        return NameList(self.per_user_classes)

    def excludes(self, path: str) -> bool:
        """Say whether a path, with slashes and from the project's folder, is left out."""
        return any(matches(path, pattern) for pattern in self.exclude)

    def ignored(self, path: str) -> frozenset[str]:
        """Return the codes of the rules that are off for a path."""
        return frozenset(self.ignore).union(
            *(codes for pattern, codes in self.per_file_ignores.items() if matches(path, pattern))
        )


QUALIFIED = (
    *("states", "contexts", "emitter_getters", "dispatcher_getters", "singleton_getters", "async_getters"),
    "per_user_classes",
)
_SINGLE = ("send_method", "flag")
_LISTS = tuple(one.name for one in fields(MigrateConfig) if one.name not in {*_SINGLE, "per_file_ignores", "root"})
_CODE = re.compile(r"MIG0(?:0[1-9]|1[0-2])")


def matches(path: str, pattern: str) -> bool:
    """Say whether a path is one of a pattern, or is in a folder that is one."""
    pattern = pattern.rstrip("/")
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}/*")


def load_config(path: Path | None = None, *, start: Path | None = None) -> MigrateConfig:
    """Read ``[tool.isolane.migrate]`` of a ``pyproject.toml``.

    Args:
        path: the file. Default: the nearest ``pyproject.toml`` above ``start``; without one, the defaults count.
        start: where to begin to look. Default: the current folder.

    Raises:
        MigrateConfigError: the file cannot be read, or says something unknown or of the wrong type.
    """
    if path is None:
        start = (start or Path.cwd()).resolve()
        path = next((one for folder in (start, *start.parents) if (one := folder / "pyproject.toml").is_file()), None)
        if path is None:
            return MigrateConfig(root=Path.cwd())
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MigrateConfigError(f"{path} cannot be read: {error}") from error
    table = document
    for key in ("tool", "isolane", "migrate"):
        table = table.get(key, {})
        if not isinstance(table, dict):
            raise MigrateConfigError(f"{path}: {key} is not a table")
    return config_from(table, root=path.resolve().parent)


def config_from(table: Mapping[str, Any], *, root: Path) -> MigrateConfig:
    """Make a configuration of what ``[tool.isolane.migrate]`` says. Raises ``MigrateConfigError``."""
    table = dict(table)
    extend = table.pop("extend", True)
    if not isinstance(extend, bool):
        raise MigrateConfigError(f"extend is true or false, got {extend!r}")
    values = {(name := key.replace("-", "_")): _value(name, value) for key, value in table.items()}
    for code in (*values.get("ignore", ()), *chain.from_iterable(values.get("per_file_ignores", {}).values())):
        if not _CODE.fullmatch(code):
            raise MigrateConfigError(f"there is no rule {code!r}; the rules are MIG001 to MIG012")
    known = MigrateConfig(root=root)
    if extend:
        values |= {
            name: tuple(dict.fromkeys((*getattr(known, name), *values[name]))) for name in _LISTS if name in values
        }
    else:
        values = {**dict.fromkeys(QUALIFIED, ()), **values}
    return MigrateConfig(**values, root=root)


def _value(name: str, value: Any) -> Any:
    """Return one setting as ``MigrateConfig`` has it. Raises ``MigrateConfigError``."""
    if name in _LISTS:
        return _texts(name, value)
    if name in _SINGLE:
        if not isinstance(value, str) or not value:
            raise MigrateConfigError(f"{name} is a text, got {value!r}")
        return value
    if name == "per_file_ignores":
        if not isinstance(value, dict):
            raise MigrateConfigError("per_file_ignores is a table of patterns, each with a list of codes")
        return {pattern: _texts(f"per_file_ignores.{pattern}", codes) for pattern, codes in value.items()}
    allowed = ", ".join(sorted([*_LISTS, *_SINGLE, "per_file_ignores", "extend"]))
    raise MigrateConfigError(f"tool.isolane.migrate has no {name!r}; it has {allowed}")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise MigrateConfigError(f"{name} is a list of texts, got {value!r}")
    return tuple(value)
