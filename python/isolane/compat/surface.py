"""Every public name of the host's modules, and what became of it here. ``docs/compat.md`` shows this table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["SURFACE", "Module", "Name", "Status", "markdown", "names"]

Status = Literal["kept", "changed", "left out"]


@dataclass(frozen=True, slots=True)
class Name:
    """One name of the host's.

    Attributes:
        name: as it is written in its module, e.g. ``UserExecutionContext.from_request``.
        status: ``kept``, ``changed`` or ``left out``.
        note: what was changed and why, or why it was left out.
        signature: the host's positional parameters and their defaults, without ``self``; ``None`` for what is not
            called or whose parameters the host's callers do not rely on. More parameters may follow.
        of_instance: whether only an instance has it.
        older: the host's older spellings of its parameters, which are taken by keyword.
    """

    name: str
    status: Status
    note: str = ""
    signature: str | None = None
    of_instance: bool = False
    older: str = ""


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the host's.

    Attributes:
        host: the end of its path there.
        module: its name in ``isolane.compat``, or ``None`` when there is none.
        rows: its names.
    """

    host: str
    module: str | None
    rows: tuple[Name, ...]


def _all(status: Status, listed: str, note: str = "", prefix: str = "", *, of_instance: bool = False) -> list[Name]:
    """Return a row for each of the names, which share what is to be said about them."""
    return [Name(prefix + name, status, note, of_instance=of_instance) for name in listed.split()]


_CONTEXT_IDS = "user_id, thread_id, run_id"

CONTEXTS = Module(
    "services.user_execution_context",
    "user_execution_context",
    (
        Name(
            "UserExecutionContext",
            "changed",
            "isolane's class. Hashable; immutable in Rust; ids are trimmed before they are compared with placeholders; "
            "control characters, lone surrogates and more than 256 characters are refused",
            f"{_CONTEXT_IDS}, request_id=None, db_session=None, websocket_client_id=None, created_at=None, "
            "agent_context=None, audit_metadata=None, operation_depth=0, parent_request_id=None",
            older="websocket_connection_id metadata",
        ),
        *_all(
            "kept",
            "user_id thread_id run_id request_id db_session websocket_client_id created_at agent_context "
            "audit_metadata operation_depth parent_request_id websocket_connection_id",
            prefix="UserExecutionContext.",
        ),
        Name("UserExecutionContext.metadata", "changed", "read-only: writing into it raises instead of being lost"),
        Name(
            "UserExecutionContext.cleanup_callbacks",
            "left out",
            "a list that anybody can edit; use register_cleanup_callback(), which copies and children share",
        ),
        *_all(
            "left out",
            "_isolation_token _memory_refs _validation_fingerprint",
            "private to the host; ownership is in the core",
            "UserExecutionContext.",
        ),
        Name(
            "UserExecutionContext.from_request",
            "kept",
            "",
            f"{_CONTEXT_IDS}, request_id=None, db_session=None, websocket_client_id=None, agent_context=None, "
            "audit_metadata=None",
            older="websocket_connection_id metadata",
        ),
        Name(
            "UserExecutionContext.from_fastapi_request",
            "changed",
            "url is the path without its query, which may carry secrets",
            f"request, {_CONTEXT_IDS}, db_session=None, websocket_client_id=None",
            older="websocket_connection_id",
        ),
        Name(
            "UserExecutionContext.from_request_supervisor",
            "changed",
            "splits by whole names and known prefixes: login_count stays the agent's",
            f"{_CONTEXT_IDS}, request_id=None, db_session=None, websocket_connection_id=None, metadata=None",
            older="websocket_client_id",
        ),
        Name("UserExecutionContext.create_for_user", "kept", "as from_request", _CONTEXT_IDS),
        *_all(
            "left out",
            "from_agent_execution_context from_websocket_request",
            "makes ids up; use from_request() with those of UnifiedIdGenerator.generate_user_context_ids()",
            "UserExecutionContext.",
        ),
        Name(
            "UserExecutionContext.create_defensive_user_execution_context",
            "left out",
            "its request id is the same for every call, so two requests would be one",
        ),
        Name(
            "UserExecutionContext.create_child_context",
            "changed",
            "the request id names the operation: {parent}_{operation}",
            "operation_name, additional_agent_context=None, additional_audit_metadata=None",
            older="additional_metadata",
        ),
        Name(
            "UserExecutionContext.create_child_context_supervisor",
            "changed",
            "as create_child_context; metadata is split by whole names",
            "operation_name, additional_metadata=None",
        ),
        Name("UserExecutionContext.with_db_session", "kept", "", "db_session"),
        Name("UserExecutionContext.with_websocket_connection", "changed", "a blank id is refused", "connection_id"),
        Name(
            "UserExecutionContext.with_websocket_connection_supervisor",
            "changed",
            "as with_websocket_connection",
            "connection_id",
        ),
        Name(
            "UserExecutionContext.verify_isolation",
            "changed",
            "finds what it is meant to: shared containers, sessions of another user, objects of another user",
            "",
        ),
        Name(
            "UserExecutionContext.to_dict",
            "changed",
            "has the host's keys and more; implementation is isolane, compatibility_layer_active is False",
            "",
        ),
        Name("UserExecutionContext.get_correlation_id", "kept", "", ""),
        Name(
            "UserExecutionContext.get_audit_trail",
            "changed",
            "has the host's keys, and record: what happened to the context",
            "",
        ),
        Name("UserExecutionContext.to_execution_context", "left out", "raises TypeError in the host as well"),
        Name(
            "UserExecutionContext.cleanup",
            "changed",
            "awaits whatever is awaitable, each callback has a deadline, and returns what they raised",
            "",
        ),
        Name("UserExecutionContext.get_scoped_key", "kept", "", "component"),
        *_all(
            "left out",
            "get_dependency has_dependency set_dependency remove_dependency get_available_dependencies",
            "the host keeps handles among data that is deep-copied, which breaks children; sessions and tools are "
            "bound to the run, and AgentRegistry(services=...) makes what constructors want",
            "UserExecutionContext.",
        ),
        Name("UserExecutionContext.get_tool_dispatcher", "changed", "made by the factory that the run has"),
        Name("UserExecutionContext.get_llm_manager", "left out", "the application's own object"),
        Name("UserExecutionContext.get_websocket_bridge", "left out", "use get_websocket_emitter()"),
        Name("InvalidContextError", "changed", "isolane's class; is a ValueError as well, and has fields"),
        Name("ContextIsolationError", "changed", "isolane's class; is a RuntimeError as well"),
        Name("validate_user_context", "kept", "", "context"),
        Name(
            "register_shared_object",
            "changed",
            "keeps the object, so that a later one cannot be mistaken for it; at most 1000",
            "obj",
        ),
        Name("clear_shared_object_registry", "kept", "", ""),
        Name("_SHARED_OBJECT_REGISTRY", "changed", "a dict by id() instead of a set"),
        Name(
            "managed_user_context",
            "changed",
            "ends the context: callbacks run first, then the session is closed",
            "context, cleanup_db_session=True",
        ),
        Name("UserContextFactory", "kept", "isolane's class"),
        Name("UserContextFactory.create_context", "changed", "thread and run ids are generated when left out"),
        Name("UserContextFactory.create_with_session", "kept"),
        Name("UserExecutionContextFactory", "kept"),
        Name(
            "UserContextManager",
            "changed",
            "holds the contexts themselves; the host's copies them with their sessions. A key is of one user",
        ),
        *_all(
            "kept",
            "MAX_CONTEXTS_PER_USER MAX_TOTAL_CONTEXTS DEFAULT_CONTEXT_TTL CLEANUP_INTERVAL",
            prefix="UserContextManager.",
        ),
        Name("UserContextManager.get_context", "kept", "", "context_key"),
        Name("UserContextManager.set_context", "changed", "refuses a key of another user", "context_key, context"),
        Name("UserContextManager.clear_context", "kept", "", "context_key"),
        Name("UserContextManager.validate_isolation", "kept", "", "context_key"),
        Name("UserContextManager.get_audit_trail", "kept", "", "context_key"),
        *_all(
            "left out",
            "create_isolated_execution_context create_user_execution_context",
            "use UserContextFactory: create_context(), create_with_session()",
        ),
    ),
)

SUPERVISOR_CONTEXTS = Module(
    "agents.supervisor.user_execution_context, models.user_execution_context",
    "user_execution_context",
    (
        Name(
            "UserExecutionContext",
            "changed",
            "the class above takes the place of both. metadata is split by whole names as in from_request_supervisor; "
            "the fourth argument is request_id, where agents.supervisor has db_session",
            _CONTEXT_IDS,
            older="metadata websocket_connection_id",
        ),
        *_all("left out", "clear_shared_objects _SHARED_OBJECTS", "use clear_shared_object_registry()"),
        Name("UserExecutionContext with attributes that can be set", "left out", "a context is immutable"),
    ),
)

RUN_TRACKING = Module(
    "agents.supervisor.execution_factory, the context",
    "user_execution_context",
    (
        Name("UserExecutionContext.session_id", "kept"),
        *_all("kept", "update_activity is_healthy", prefix="UserExecutionContext."),
        Name("UserExecutionContext.status", "changed", "follows from the runs, and is an ExecutionStatus"),
        Name("UserExecutionContext.active_runs", "changed", "records instead of dictionaries; a copy"),
        Name("UserExecutionContext.run_history", "changed", "records instead of dictionaries; the latest 100; a copy"),
        Name("UserExecutionContext.execution_metrics", "changed", "a record with attributes instead of keys"),
        Name(
            "UserExecutionContext.record_run_start",
            "changed",
            "the run id may be left out; the agent's name is agent_type",
            "run_id",
        ),
        Name("UserExecutionContext.record_run_success", "changed", "the time is measured, not told", "run_id"),
        Name("UserExecutionContext.record_run_failure", "kept", "", "run_id, error=None"),
        Name("UserExecutionContext.get_status_summary", "changed", "other keys", ""),
        Name("UserExecutionContext._is_cleaned", "left out", "read status"),
    ),
)

EXECUTION_FACTORY = Module(
    "agents.supervisor.execution_factory, the rest",
    None,
    (
        Name("ExecutionEngineFactory", "left out", "isolane.ExecutionEngineFactory has these metric keys"),
        Name("IsolatedExecutionEngine", "left out", "isolane.IsolatedExecutionEngine"),
        Name("ExecutionFactoryConfig", "left out", "see IsolaneSettings"),
        Name("UserExecutionContext.create_child_context(child_id)", "left out", "use create_child_context(name)"),
    ),
)

ID_GENERATOR = Module(
    "id_generation.unified_id_generator",
    "unified_id_generator",
    (
        Name("UnifiedIdGenerator", "kept"),
        Name(
            "UnifiedIdGenerator.generate_base_id",
            "changed",
            "{prefix}_{32 hex digits}; the digits cannot be left out or shortened",
            "prefix='id', include_random=True, random_length=8",
        ),
        Name(
            "UnifiedIdGenerator.generate_user_context_ids",
            "changed",
            "no two are equal; the run id names the thread",
            "user_id, operation='context'",
        ),
        Name("UnifiedIdGenerator.generate_websocket_client_id", "changed", "32 hex digits at the end", "user_id"),
        Name("UnifiedIdGenerator.generate_websocket_connection_id", "changed", "32 hex digits at the end", "user_id"),
        Name("UnifiedIdGenerator.parse_id", "changed", "prefix, timestamp and random; there is no counter"),
        Name("UnifiedIdGenerator.is_valid_id", "changed", "a prefix is compared by whole words"),
        Name(
            "UnifiedIdGenerator.get_or_create_user_session",
            "changed",
            "found by user and thread, with a lifetime and a bound; returns a dict of ids",
            "user_id, thread_id=None, run_id=None, operation='session'",
        ),
        Name("UnifiedIdGenerator.ids_match_for_cleanup", "left out", "true for ids of two users; free by handle"),
        *_all(
            "left out",
            "generate_message_id generate_session_id generate_agent_execution_id generate_tool_execution_id",
            "use generate_base_id(prefix)",
            "UnifiedIdGenerator.",
        ),
    ),
)

ID_MANAGER = Module(
    "core.unified_id_manager, shared.types.core_types",
    "unified_id_manager",
    (
        Name("UnifiedIDManager", "changed", "isolane's ids; remembers none"),
        Name("UnifiedIDManager.generate_run_id", "changed", "32 hex digits at the end", "thread_id"),
        Name("UnifiedIDManager.generate_thread_id", "changed", "thread_{32 hex digits}", ""),
        Name("UnifiedIDManager.extract_thread_id", "kept", "", "run_id"),
        Name("UnifiedIDManager.validate_run_id", "kept", "", "run_id"),
        Name("UnifiedIDManager.parse_run_id", "changed", "the timestamp of isolane's ids has 13 digits", "run_id"),
        Name("UnifiedIDManager.generate_id", "changed", "32 hex digits instead of a number", "id_type, prefix=None"),
        Name(
            "UnifiedIDManager.is_valid_id_format",
            "changed",
            "UUIDs and structured ids; what a context refuses as a placeholder is not valid here",
            "value",
        ),
        Name("IDType", "changed", "the members are isolane's choice"),
        Name("ensure_user_id", "left out", "a user id is opaque; what a context accepts, everything accepts"),
    ),
)

ENGINE_FACTORY = Module(
    "agents.supervisor.execution_engine_factory",
    "execution_engine_factory",
    (
        Name(
            "ExecutionEngineFactory",
            "changed",
            "a subclass of isolane's; a child context shares the engine of the context above it",
            "websocket_bridge=None, database_session_manager=None, redis_manager=None",
        ),
        *_all(
            "kept",
            "_websocket_bridge _database_session_manager _redis_manager _active_engines _engine_lock "
            "_engine_timeout_seconds _cleanup_interval _tool_dispatcher_factory _factory_metrics _cleanup_task "
            "_shutdown_event",
            prefix="ExecutionEngineFactory.",
            of_instance=True,
        ),
        Name(
            "ExecutionEngineFactory._max_engines_per_user",
            "changed",
            "cannot be set while there are engines",
            of_instance=True,
        ),
        Name(
            "ExecutionEngineFactory.create_for_user",
            "changed",
            "reserves a slot before it builds; registers only what was built; keys do not collide. Refuses a context "
            "whose stream has ended",
            "context",
        ),
        Name("ExecutionEngineFactory.create_execution_engine", "kept", "", "context"),
        Name("ExecutionEngineFactory.user_execution_scope", "kept", "", "context"),
        Name("ExecutionEngineFactory.cleanup_engine", "changed", "frees the slot first, whatever fails", "engine"),
        Name("ExecutionEngineFactory._cleanup_inactive_engines", "kept", "", ""),
        Name("ExecutionEngineFactory.get_factory_metrics", "kept", "the host's keys", ""),
        Name("ExecutionEngineFactory.get_active_engines_summary", "changed", "a list, oldest first", ""),
        Name("ExecutionEngineFactory.get_active_contexts", "kept", "", ""),
        Name("ExecutionEngineFactory.cleanup_user_context", "kept", "", "user_id"),
        Name("ExecutionEngineFactory.cleanup_all_contexts", "changed", "as shutdown", ""),
        Name(
            "ExecutionEngineFactory.shutdown",
            "changed",
            "waits up to 25 s for what runs; no engines are made until reopen()",
        ),
        Name("ExecutionEngineFactory.set_tool_dispatcher_factory", "kept", "", "tool_dispatcher_factory"),
        Name("ExecutionEngineFactoryError", "kept", "isolane's class; limits raise its subclass EngineLimitError"),
        Name(
            "get_execution_engine_factory",
            "changed",
            "looks at the application that is passed; there is no global one",
            "",
        ),
        Name(
            "configure_execution_engine_factory",
            "changed",
            "the factory before makes no more engines",
            "websocket_bridge, database_session_manager=None, redis_manager=None",
        ),
        Name("user_execution_engine", "kept", "", "context"),
        *_all(
            "kept",
            "_factory_instance _factory_lock UserExecutionEngine UserWebSocketEmitter get_agent_instance_factory "
            "validate_user_context",
            "looked up when it is needed, so that it can be replaced",
        ),
        *_all("kept", "UserExecutionEngineError UserIsolationError", "another name for isolane's class"),
        Name("SSOTValidationError", "left out", "nothing would raise it"),
        Name("UserExecutionEngineManager", "left out", "the factory does it"),
    ),
)

ENGINE = Module(
    "agents.supervisor.user_execution_engine",
    "user_execution_engine",
    (
        Name(
            "UserExecutionEngine",
            "changed",
            "a subclass of isolane's: agents run under fair permits of user and process. The older orders of arguments "
            "are not taken",
            "context, agent_factory, websocket_emitter",
        ),
        *_all(
            "kept",
            "context agent_factory websocket_emitter run_history execution_stats max_concurrent semaphore created_at "
            "database_session_manager redis_manager",
            prefix="UserExecutionEngine.",
            of_instance=True,
        ),
        Name("UserExecutionEngine.active_runs", "changed", "those of the context; a copy"),
        Name("UserExecutionEngine.engine_id", "changed", "engine_{32 hex digits}", of_instance=True),
        Name("UserExecutionEngine.AGENT_EXECUTION_TIMEOUT", "kept"),
        Name(
            "UserExecutionEngine.execute_agent",
            "changed",
            "always one last event, on time-outs and cancels as well; LimitTimeout and LimitRejected pass as they are",
            "context, state=None",
        ),
        Name(
            "UserExecutionEngine.execute_agent_pipeline",
            "kept",
            "",
            "agent_name, execution_context, input_data=None",
        ),
        Name("UserExecutionEngine.get_user_execution_stats", "kept", "has isolane's counts as well", ""),
        Name("UserExecutionEngine.is_active", "kept", "", ""),
        Name("UserExecutionEngine.get_user_context", "kept", "", ""),
        Name("UserExecutionEngine.cleanup", "changed", "cancels what runs", ""),
    ),
)

EXECUTION_CONTEXT = Module(
    "agents.supervisor.execution_context",
    "execution_context",
    (
        Name(
            "AgentExecutionContext",
            "kept",
            "",
            "run_id, thread_id, user_id, agent_name, retry_count=0, max_retries=3, timeout=None",
        ),
        *_all("kept", "metadata started_at correlation_id", prefix="AgentExecutionContext.", of_instance=True),
        Name(
            "AgentExecutionResult", "kept", "", "success, agent_name='', user_context=None, error=None, duration=None"
        ),
        *_all("kept", "metadata metrics data", prefix="AgentExecutionResult.", of_instance=True),
    ),
)

# -- bridges and emitters --------------------------------------------------------------------------------------------

_EMITTER_A = "agent_name, run_id"

BRIDGES: tuple[Module, ...] = (
    Module(
        "services.websocket_bridge_factory",
        "websocket_bridge_factory",
        (
            Name(
                "WebSocketFactoryConfig",
                "changed",
                "heartbeat, compression and batching are taken and have no effect",
            ),
            Name("WebSocketFactoryConfig.from_env", "kept", "a wrong value is an error that names the variable", ""),
            *_all("kept", "ConnectionStatus"),
            *_all("kept", "INITIALIZING HEALTHY UNHEALTHY FAILED CLOSED", prefix="ConnectionStatus."),
            Name(
                "WebSocketEvent",
                "changed",
                "a record of an event; on the wire it has the shape of the browser's client",
                "event_type, user_id, thread_id, data",
            ),
            *_all("kept", "timestamp event_id retry_count max_retries", prefix="WebSocketEvent.", of_instance=True),
            Name("UserWebSocketContext", "kept", "", "user_id, thread_id, connection_id, session_id=None"),
            *_all(
                "kept",
                "created_at last_heartbeat connection_status reconnect_attempts cleanup_callbacks",
                prefix="UserWebSocketContext.",
                of_instance=True,
            ),
            Name(
                "UserWebSocketContext.event_queue",
                "changed",
                "counts what the socket has not been sent; the log holds it",
                of_instance=True,
            ),
            Name("UserWebSocketContext.sent_events", "kept", "what was written to the socket", of_instance=True),
            Name("UserWebSocketContext.failed_events", "changed", "the latest 256", of_instance=True),
            Name(
                "WebSocketBridgeFactory",
                "changed",
                "a subclass of isolane's; every socket of a user is sent all of the user's events",
                "config=None",
            ),
            Name(
                "WebSocketBridgeFactory.configure",
                "kept",
                "registry and monitor are kept and not called",
                "connection_pool, agent_registry=None, health_monitor=None",
            ),
            Name(
                "WebSocketBridgeFactory.create_user_emitter",
                "changed",
                "also (user_id, context). A socket that carries another user's events is refused. A socket that is new "
                "is sent the user's live runs and those of the last minute",
                "user_id, thread_id, connection_id=None",
            ),
            Name(
                "WebSocketBridgeFactory.cleanup_user_context",
                "changed",
                "lets go of the socket; runs go on. Returns how many events it had not taken",
                "user_id, connection_id",
            ),
            Name("WebSocketBridgeFactory.get_factory_metrics", "kept", "sent means written to a socket", ""),
            Name("get_websocket_bridge_factory", "kept", "", ""),
            Name(
                "UserWebSocketEmitter",
                "changed",
                "made by the factory. Events out of order are refused; what the log has taken is not lost by a socket",
            ),
            Name("UserWebSocketEmitter.notify_agent_started", "kept", "", _EMITTER_A),
            Name("UserWebSocketEmitter.notify_agent_thinking", "kept", "", f"{_EMITTER_A}, thinking"),
            Name(
                "UserWebSocketEmitter.notify_tool_executing",
                "changed",
                "secrets are found by whole words of the key, in lists as well",
                f"{_EMITTER_A}, tool_name, tool_input",
            ),
            Name("UserWebSocketEmitter.notify_tool_completed", "kept", "", f"{_EMITTER_A}, tool_name, tool_output"),
            Name("UserWebSocketEmitter.notify_agent_completed", "kept", "", f"{_EMITTER_A}, result"),
            Name("UserWebSocketEmitter.notify_agent_error", "kept", "", f"{_EMITTER_A}, error"),
            Name(
                "UserWebSocketEmitter.cleanup",
                "changed",
                "waits for the socket, and returns how many events it did not take",
                "",
            ),
        ),
    ),
    Module(
        "agents.supervisor.agent_instance_factory",
        "agent_instance_factory",
        (
            Name("AgentInstanceFactory", "changed", "a subclass of isolane's; takes the host's registry of classes"),
            Name("get_agent_instance_factory", "kept", "", ""),
            Name("configure_agent_instance_factory", "kept", "", "agent_registry=None"),
            Name(
                "UserWebSocketEmitter",
                "changed",
                "takes the host's bridge as it is; over isolane's log when the bridge is one of isolane's factories",
                "user_id, thread_id, run_id, websocket_bridge",
            ),
            Name("UserWebSocketEmitter.notify_agent_started", "kept", "", "agent_name, context=None"),
            Name(
                "UserWebSocketEmitter.notify_agent_thinking",
                "kept",
                "",
                "agent_name, reasoning, step_number=None, progress_percentage=None",
            ),
            Name("UserWebSocketEmitter.notify_tool_executing", "kept", "", "agent_name, tool_name, parameters=None"),
            Name(
                "UserWebSocketEmitter.notify_tool_completed",
                "changed",
                "over the log the time is measured, not told",
                "agent_name, tool_name, result=None, execution_time_ms=None",
            ),
            Name(
                "UserWebSocketEmitter.notify_agent_completed",
                "changed",
                "over the log the time is measured, not told",
                "agent_name, result=None, execution_time_ms=None",
            ),
            Name("UserWebSocketEmitter.notify_agent_error", "kept", "", "agent_name, error, error_context=None"),
            Name("UserWebSocketEmitter.get_emitter_status", "changed", "other keys", ""),
        ),
    ),
    Module(
        "services.user_websocket_emitter",
        "user_websocket_emitter",
        (
            Name(
                "UserWebSocketEmitter",
                "changed",
                "publishes into the run's log, which every socket of the user is sent; the router is kept and not "
                "called. Methods as in agents.supervisor.agent_instance_factory",
                "context, router=None, connection_id=None",
            ),
        ),
    ),
    Module(
        "websocket_core.unified_emitter",
        "unified_emitter",
        (
            Name("CRITICAL_EVENTS", "kept"),
            Name(
                "UnifiedWebSocketEmitter",
                "changed",
                "refuses a context of another user. Over the log, where nothing is lost by a socket and nothing is "
                "tried again; a manager of the host's is called as it is",
                "manager=None, user_id=None, context=None",
                older="websocket_manager",
            ),
            Name("UnifiedWebSocketEmitter.CRITICAL_EVENTS", "kept"),
            Name("UnifiedWebSocketEmitter.emit", "changed", "True when the event was taken", "event_type, data=None"),
            *_all(
                "kept",
                "emit_agent_started emit_agent_thinking emit_tool_executing emit_tool_completed emit_agent_completed",
                prefix="UnifiedWebSocketEmitter.",
            ),
            *_all(
                "changed",
                "notify_agent_started notify_agent_thinking notify_tool_executing notify_tool_completed "
                "notify_agent_completed notify_agent_error notify_progress_update notify_custom",
                "True when the event was taken; the host's answer nothing",
                "UnifiedWebSocketEmitter.",
            ),
            *_all(
                "changed", "acquire release cleanup", "nothing is held, so nothing is done", "UnifiedWebSocketEmitter."
            ),
            Name("UnifiedWebSocketEmitter.get_stats", "kept", "", ""),
        ),
    ),
)

# -- tools, states, managers ------------------------------------------------------------------------------------------


_REQUEST_TOOLS = "user_context, tools=None, websocket_emitter=None"

TOOLS: tuple[Module, ...] = (
    Module(
        "core.tools.unified_tool_dispatcher",
        "unified_tool_dispatcher",
        (
            Name("ToolDispatchRequest", "changed", "isolane's class, a frozen dataclass", "tool_name, parameters"),
            Name(
                "ToolDispatchResponse",
                "changed",
                "isolane's class, a frozen dataclass; metadata says in one word why a call failed",
                "success, result=None, error=None",
            ),
            Name("ToolExecutionResult", "kept", "", "success, result=None, error=None"),
            *_all(
                "kept",
                "tool_name user_id status error_message execution_time_ms permission_check created_at",
                prefix="ToolExecutionResult.",
                of_instance=True,
            ),
            *_all("kept", "DispatchStrategy"),
            *_all("kept", "DEFAULT ADMIN ISOLATED LEGACY", prefix="DispatchStrategy."),
            Name(
                "UnifiedToolDispatcher",
                "changed",
                "over isolane's dispatcher: every call is checked by the wall and by roles, and without roles "
                "nothing may be called; see UnifiedToolDispatcherFactory.configure(). No parameter stands in for the "
                "context",
            ),
            Name(
                "UnifiedToolDispatcher.create_for_user",
                "changed",
                "there at once, and awaitable. A user's eleventh ends the oldest",
                "user_context, websocket_bridge=None, tools=None, enable_admin_tools=False",
            ),
            Name(
                "UnifiedToolDispatcher.create_scoped",
                "kept",
                "",
                "user_context, websocket_bridge=None, tools=None, enable_admin_tools=False",
            ),
            *_all(
                "kept",
                "user_context websocket_manager strategy created_at",
                prefix="UnifiedToolDispatcher.",
                of_instance=True,
            ),
            Name("UnifiedToolDispatcher.dispatcher_id", "changed", "dispatcher_{32 hex digits}", of_instance=True),
            *_all("changed", "registry tools", "read-only mappings of names to tools", "UnifiedToolDispatcher."),
            Name("UnifiedToolDispatcher.has_tool", "kept", "", "tool_name"),
            Name("UnifiedToolDispatcher.register_tool", "changed", "permits nobody to use it", "tool"),
            Name("UnifiedToolDispatcher.get_available_tools", "changed", "those that the user may use", ""),
            Name(
                "UnifiedToolDispatcher.execute_tool",
                "changed",
                "require_permission_check=False does not leave the check out; a tool that succeeds is shown as one",
                "tool_name, parameters=None, require_permission_check=True",
            ),
            Name(
                "UnifiedToolDispatcher.dispatch_tool",
                "changed",
                "returns the ToolDispatchResponse that it is annotated with. A request, or a name and parameters",
                "request, parameters=None",
            ),
            Name("UnifiedToolDispatcher.dispatch", "kept", "", "tool_name"),
            Name("UnifiedToolDispatcher.get_metrics", "kept", "the host's keys", ""),
            Name("UnifiedToolDispatcher.cleanup", "changed", "cancels what runs; what is used later raises", ""),
            Name("UnifiedToolDispatcherFactory", "kept"),
            Name("UnifiedToolDispatcherFactory.set_tool_registry", "kept", "", "registry"),
            Name("UnifiedToolDispatcherFactory.create_dispatcher", "kept", "", "user_context"),
            Name("UnifiedToolDispatcherFactory.cleanup_all_dispatchers", "kept", "returns how many were open", ""),
            Name("UnifiedToolDispatcherFactory.create_for_request", "changed", "there at once, and awaitable"),
            Name(
                "UnifiedToolDispatcherFactory.create_for_admin",
                "changed",
                "who is an administrator is in context.permissions, not in what an agent or the user object says",
                "user_context, db, user",
            ),
            Name(
                "UnifiedToolDispatcherFactory.create_legacy_global",
                "changed",
                "looks like one of all users, and is that of the user for whom the agent runs that uses it",
            ),
            Name("create_request_scoped_dispatcher", "kept", "", "user_context"),
            Name("AuthenticationError", "kept"),
            Name("SecurityViolationError", "changed", "another name for isolane's ContextIsolationError"),
            Name(
                "PermissionError", "left out", "hides the builtin of that name; isolane's PermissionDeniedError is one"
            ),
        ),
    ),
    Module(
        "agents.request_scoped_tool_dispatcher",
        "request_scoped_tool_dispatcher",
        (
            Name(
                "RequestScopedToolDispatcher",
                "changed",
                "over the dispatcher above, and has all of its methods",
                _REQUEST_TOOLS,
            ),
            Name("RequestScopedToolDispatcher.dispatch", "kept", "", "tool_name"),
            Name(
                "RequestScopedToolDispatcher.dispatch_tool",
                "kept",
                "a state or a run of another request is answered as a tool that there is not",
                "tool_name, parameters, state, run_id",
            ),
            Name("RequestScopedToolDispatcher.cleanup", "kept", "", ""),
        ),
    ),
)

_STATE_FIELDS = (
    "user_request user_prompt chat_thread_id thread_id user_id run_id agent_input triage_result data_result "
    "optimizations_result action_plan_result report_result synthetic_data_result supply_research_result "
    "corpus_admin_result corpus_admin_error final_report current_step step_count messages quality_metrics "
    "context_tracking agent_context"
)

STATE = Module(
    "agents.state, schemas.agent_models, agents.migration.deepagentstate_adapter",
    "deep_agent_state",
    (
        Name(
            "DeepAgentState",
            "changed",
            "one class for both; needs pydantic. What it is made with is copied. Making one is counted as ISO-D001",
        ),
        *_all("kept", _STATE_FIELDS, prefix="DeepAgentState.", of_instance=True),
        Name("DeepAgentState.metadata", "changed", "a dictionary instead of AgentMetadata", of_instance=True),
        Name("DeepAgentState.to_dict", "kept", "", ""),
        Name("DeepAgentState.copy_with_updates", "changed", "a deep copy; a field that there is not is refused"),
        *_all("changed", "increment_step_count clear_sensitive_data", "a deep copy", "DeepAgentState."),
        Name("DeepAgentState.add_metadata", "changed", "a deep copy", "key, value"),
        Name(
            "DeepAgentState.merge_from", "changed", "a state of another user, or of nobody, is refused", "other_state"
        ),
        Name("DeepAgentStateAdapter", "kept"),
        Name(
            "DeepAgentStateAdapter.from_deep_agent_state",
            "changed",
            "ids are always compared, and never made up; deep copies",
            f"state, {_CONTEXT_IDS}, websocket_client_id=None, validate_isolation=True",
        ),
        Name(
            "DeepAgentStateAdapter.to_deep_agent_state",
            "changed",
            "shares nothing with the context",
            "context, preserve_results=True",
        ),
        Name("MigrationValidationError", "kept"),
        Name("UserExecutionContextAdapter", "changed", "ids are the context's; the rest is in its agent_context"),
    ),
)

_WHOSE = "a call for another user than the one for whom the code runs is refused and recorded"

MANAGERS = Module(
    "websocket_core.manager, .unified_manager, .migration_adapter",
    "websocket_core",
    (
        *_all(
            "changed",
            "WebSocketManager UnifiedWebSocketManager WebSocketManagerAdapter",
            "each instance is the manager of the process, over isolane's lanes; the three have the same methods",
        ),
        *_all(
            "changed",
            "get_websocket_manager get_legacy_websocket_manager",
            "what it returns works at once and when it is awaited",
        ),
        Name("WebSocketManager.send_to_user", "changed", f"an event in the user's log; {_WHOSE}", "user_id, message"),
        Name(
            "WebSocketManager.send_to_thread",
            "changed",
            "false where nobody has the conversation",
            "thread_id, message",
        ),
        Name(
            "WebSocketManager.send_to_connection",
            "changed",
            "to every socket of the connection's user",
            "connection_id, message",
        ),
        Name("WebSocketManager.emit_critical_event", "changed", "as send_to_user", "user_id, event_type, data"),
        Name(
            "WebSocketManager.connect_user",
            "changed",
            "the user is compared with who signed in on the socket",
            "user_id, websocket, thread_id=None, client_ip=None",
        ),
        Name(
            "WebSocketManager.add_connection",
            "changed",
            "also a record of the host's; works without an await. Metadata cannot say whose it is",
            "user_id, websocket=None, metadata=None",
        ),
        Name(
            "WebSocketManager.disconnect_user",
            "changed",
            "ends no run; leaves the socket open",
            "user_id, websocket=None",
        ),
        Name(
            "WebSocketManager.remove_connection", "changed", "also (user_id, websocket)", "connection, websocket=None"
        ),
        Name("WebSocketManager.update_connection_thread", "kept", "", "connection_id, thread_id"),
        *_all(
            "changed",
            "broadcast_message broadcast_to_all broadcast",
            "ISOLANE_LEGACY_BROADCAST says what it does: by default it goes to the bound user",
            "WebSocketManager.",
        ),
        *_all(
            "changed",
            "get_user_connections is_connection_active get_connection_health",
            "of the bound user only, where one is bound",
            "WebSocketManager.",
        ),
        Name("WebSocketManager.get_stats", "changed", "other keys, and nobody's id", ""),
        Name(
            "broadcast_message",
            "changed",
            "as the method; a room is no way to reach others",
            "message, user_id=None, room_id=None",
        ),
    ),
)

FACTORY_ADAPTER = Module(
    "services.factory_adapter",
    "factory_adapter",
    (
        Name(
            "FactoryAdapter",
            "changed",
            "an error sends nobody the older way by itself; a context of another user is refused. "
            "FACTORY_TIMEOUT_SECONDS, FACTORY_ENABLE_MIGRATION_LOGGING, FACTORY_LOG_LEGACY_CALLS and "
            "FACTORY_TRACK_METRICS are not read: time-outs and logging are the factories' own, and the ledger counts",
            "execution_engine_factory, websocket_bridge_factory",
        ),
        *_all(
            "changed",
            "get_execution_engine get_websocket_bridge",
            "takes a context or its ids; the older way wants legacy_engine= or legacy_bridge=",
            "FactoryAdapter.",
        ),
        *_all("kept", "enable_factory_for_route disable_factory_for_route", prefix="FactoryAdapter."),
        Name("FactoryAdapter.get_migration_status", "changed", "other keys", ""),
        Name("MigrationMode", "kept"),
        *_all("kept", "LEGACY_ONLY FACTORY_PREFERRED FACTORY_ONLY GRADUAL", prefix="MigrationMode."),
    ),
)

DEPENDENCIES = Module(
    "dependencies",
    "dependencies",
    (
        Name("RequestScopedContext", "left out", "use isolane.fastapi.Ctx"),
        *_all(
            "changed",
            "get_request_scoped_user_context get_user_session_context RequestScopedContextDep UserSessionContextDep",
            "as isolane.fastapi.Ctx: of who has signed in; an invalid id is 4xx",
        ),
        *_all(
            "left out",
            "get_user_execution_context create_user_execution_context",
            "use isolane.fastapi.Ctx: whose a context is, is no argument",
        ),
        Name("get_factory_execution_engine", "changed", "as isolane.fastapi.Engine"),
        Name("get_factory_websocket_emitter", "changed", "as isolane.fastapi.Emitter"),
        *_all("changed", "ExecutionEngineFactoryDep WebSocketBridgeFactoryDep", "those of setup()"),
        *_all("left out", "get_request_scoped_supervisor IsolatedSupervisorDep", "use isolane.fastapi.Engine"),
        *_all("left out", "configure_factory_dependencies get_factory_health_status", "use isolane.fastapi.setup()"),
        Name("FactoryAdapterDep", "kept", "app.state.factory_adapter"),
        Name("get_factory_adapter", "kept"),
    ),
)

FLAGS = Module(
    "shared.feature_flags",
    "feature_flags",
    (
        Name(
            "ProductionFeatureFlags",
            "changed",
            "over MigrationFeatureFlags, which it is given; nothing of Redis",
        ),
        Name(
            "ProductionFeatureFlags.is_enabled_for_user",
            "changed",
            "the same answer in every process; works at once and when it is awaited",
            "flag_name, user_id",
        ),
        Name("ProductionFeatureFlags.emergency_disable_all", "changed", "in this process", "reason=''"),
        *_all("kept", "get_rollout_stage emergency_enable_all", prefix="ProductionFeatureFlags."),
        Name("RolloutStage", "changed", "follows from the rollout of a flag; it is not set"),
        *_all("kept", "OFF INTERNAL CANARY STAGED FULL", prefix="RolloutStage."),
    ),
)

SURFACE: tuple[Module, ...] = (
    CONTEXTS,
    SUPERVISOR_CONTEXTS,
    RUN_TRACKING,
    EXECUTION_FACTORY,
    ID_GENERATOR,
    ID_MANAGER,
    ENGINE_FACTORY,
    ENGINE,
    EXECUTION_CONTEXT,
    *BRIDGES,
    *TOOLS,
    STATE,
    MANAGERS,
    FACTORY_ADAPTER,
    DEPENDENCIES,
    FLAGS,
)
"""All modules, in the order of the document."""


def names() -> Iterator[tuple[Module, Name]]:
    """Return every name with its module."""
    for module in SURFACE:
        for row in module.rows:
            yield module, row


def _grouped(rows: tuple[Name, ...]) -> Iterator[tuple[list[str], Name]]:
    """Put names together that are told in one line: neighbours without a signature and with the same note."""
    group: list[str] = []
    before: Name | None = None
    for row in rows:
        same = before is not None and (before.status, before.note) == (row.status, row.note)
        if not same or row.signature is not None or (before is not None and before.signature is not None):
            if before is not None:
                yield group, before
            group = []
        group.append(row.name)
        before = row
    if before is not None:
        yield group, before


def _shortened(group: list[str]) -> Iterator[str]:
    """Leave the class out where it is that of the name before."""
    before = ""
    for name in group:
        owner, dot, last = name.rpartition(".")
        yield f".{last}" if dot and owner == before else name
        before = owner


def _note(row: Name) -> str:
    """Return what is said about a name, older spellings included."""
    older = ", ".join(f"`{name}`" for name in row.older.split())
    return ". ".join(part for part in (row.note, f"Also by keyword: {older}" if older else "") if part)


def markdown() -> str:
    """Return the table as the document shows it."""
    lines: list[str] = []
    for module in SURFACE:
        where = f"`isolane.compat.{module.module}`" if module.module is not None else "no module"
        lines += [f"### {module.host}", "", f"In isolane: {where}.", "", "| name | status | note |", "|---|---|---|"]
        for group, row in _grouped(module.rows):
            cell = ", ".join(f"`{name}`" for name in _shortened(group))
            if row.signature is not None:
                cell = f"`{row.name}({row.signature})`"
            lines.append(f"| {cell} | {row.status} | {_note(row)} |")
        lines.append("")
    return "\n".join(lines)
