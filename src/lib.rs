//! isolane: per-user isolation, limits and event delivery for AI agents behind `FastAPI`.
//!
//! The core decides and does not know Python; `py` translates. ARCHITECTURE.md is the map.

pub mod audit;
pub mod cache;
pub mod clock;
pub mod cluster;
pub mod context;
pub mod crossings;
pub mod deprecation;
pub mod engines;
pub mod error;
pub mod events;
pub mod flags;
pub mod guard;
pub mod ids;
pub mod isolation;
pub mod lanes;
pub mod limits;
pub mod loopaccount;
pub mod metrics;
pub mod mutants;
pub mod owner;
mod py;
pub mod sanitize;
mod sync;
pub mod tools;
pub mod views;

/// The native core of isolane. Import `isolane`, not this.
#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    use crate::py::awaitable::{ReadyAwaitable, ReadyNone, answer_without_exception};
    use crate::py::cluster::{DeskAwaitable, ReplicaAwaitable};
    use crate::py::connection::CursorAwaitable;
    use crate::py::emitter::DeliveryAwaitable;
    use crate::py::limits::PermitAwaitable;
    use crate::py::trampoline::step_without_exception;

    #[pymodule_export]
    use crate::py::{
        adaptive::AdaptiveController,
        audit::{
            AuditLog, AuditReader, audit_chains, audit_is_written, audit_prove, audit_verify, audit_verify_inclusion,
        },
        cache::TtlCache,
        cluster::{
            LeaseDesk, LeaseOperation, LogAppend, LogMirror, LogReplica, cluster_user_key, lease_scripts,
            stream_is_mirrored,
        },
        connection::{EventCursor, bye_frame, cancel_stream, stream_state},
        context::PyContext,
        crossings::{_note_check, _note_control, _note_refused, _note_violation, _refusal, crossing_figures},
        deepcopy::_deep_copy,
        delivery::{LatencyHistogram, close_connection, delivery_figures, event_figures, user_connections},
        deprecation::{DeprecationLedger, LegacySite, merge_ledgers},
        emitter::{
            FailedEvent, UserWebSocketEmitter, bind_event_bounds, emitter_for_context, emitter_for_user, end_stream,
            stream_has_ended, user_streams,
        },
        engines::{PyEngineBook, PyFence},
        errors::{
            BudgetExceeded, ContextIsolationError, ContextStateError, EventTooLarge, FlagConfigError,
            ForkedProcessError, InvalidContextError, InvalidEvent, LimitRejected, LoopBudgetExceeded,
            MemoryLimitExceededError, PolicyLoadError, RunClosed, RunFenced, SanitizeLimitError,
        },
        flags::{FlagDecision, FlagEngine, FlagSnapshot, bucket, install_flags, installed_flags},
        guard::{GuardCore, log_accounts, run_deliveries, set_end_code, set_late_after},
        ids::UnifiedIDManager,
        isolation::{
            PyScanner, PySighting, PyWindow,
            gate::{_check_boundary, _install_scanner, _uninstall_scanner},
            leak_probability, secret_bits,
        },
        json::to_json,
        lanes::{
            _advance_clock, _manual_clock, lane_stats, lane_usage, monotonic, set_max_idle_lanes, sweep_lanes,
            unix_time,
        },
        limits::{PyFairLimiter, PyPermit, Slot, Suspension, SyncSlot, default_limiter, set_default_limiter},
        loopaccount::{LoopAccount, account, loop_account, loop_blockers},
        loops::_before_exit,
        memory::{
            MemoryCharge, charge_memory, clear_caches, expire_caches, memory_of, memory_users, shed_caches,
            show_throttled,
        },
        metrics::{
            Metric, Series, metric, metric_families, metrics_enabled, metrics_snapshot, render_metrics,
            set_metrics_enabled,
        },
        policy::{PyContextPolicy, PyPlaceholderPolicy, set_placeholder_policy},
        process::_after_fork_in_child,
        resources::{bind_context_cache, resources_of},
        runs::{ExecutionRun, ExecutionStatus, PyExecutionMetrics},
        sanitize::{SanitizerCore, SanitizerStream, event_findings},
        size::estimate_size,
        tools::{GrantBook, OwnershipWall, PyDispatchBook, PyVerdict, RolePolicy, resource_name},
        trace::_set_trace_source,
        trampoline::AccountedCoroutine,
        verify::{IsolationFinding, audit_isolation, isolation_violations},
        views::{
            _set_pseudonym_key, Pace, run_counts, run_view, runs_view, user_of_pseudonym, user_pseudonym, users_view,
        },
    };

    // A build for tests says so; a released one has neither name.
    #[cfg(feature = "mutants")]
    #[pymodule_export]
    use crate::py::mutants::{_mutant, _mutants};

    /// The version of the extension, which is that of the package.
    #[allow(non_upper_case_globals)] // Python's name for it
    #[pymodule_export]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// The WebSocket subprotocol.
    #[pymodule_export]
    const SUBPROTOCOL: &str = crate::py::connection::SUBPROTOCOL;

    #[pymodule_init]
    fn init(py: Python<'_>) -> PyResult<()> {
        crate::py::process::refuse_sub_interpreter()?;
        crate::py::rooms::note_python(py);
        answer_without_exception::<ReadyAwaitable>(py);
        answer_without_exception::<ReadyNone>(py);
        answer_without_exception::<PyPermit>(py);
        answer_without_exception::<CursorAwaitable>(py);
        answer_without_exception::<DeliveryAwaitable>(py);
        answer_without_exception::<DeskAwaitable>(py);
        answer_without_exception::<PermitAwaitable>(py);
        answer_without_exception::<ReplicaAwaitable>(py);
        step_without_exception(py);
        // Child processes of a fork must not use what belongs to their parent.
        let os = py.import("os")?;
        if os.hasattr("register_at_fork")? {
            let options = pyo3::types::PyDict::new(py);
            options.set_item("after_in_child", wrap_pyfunction!(_after_fork_in_child, py)?)?;
            os.call_method("register_at_fork", (), Some(&options))?;
        }
        py.import("atexit")?
            .call_method1("register", (wrap_pyfunction!(_before_exit, py)?,))?;
        Ok(())
    }
}
