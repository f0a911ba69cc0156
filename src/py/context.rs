//! `UserExecutionContext`.

use std::collections::hash_map::DefaultHasher;
use std::convert::Infallible;
use std::ffi::CStr;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyDeprecationWarning, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDateTime, PyDict, PyFrozenSet, PyList, PyMappingProxy, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::awaitable::ReadyAwaitable;
use super::deepcopy::deep_copy;
use super::emitter::UserWebSocketEmitter;
use super::errors::{InvalidContextError, to_python};
use super::flags::{FlagSnapshot, was_installed};
use super::lazy::Lazy;
use super::limits::Slot;
use super::policy::{PyContextPolicy, with_placeholders};
use super::process::{CLOCK, Stamp, registry};
use super::request::{Callback, ContextBindings, Note, NoteId, RequestBindings};
use super::runs::{ExecutionRun, ExecutionStatus, PyExecutionMetrics, datetime};
use super::{trace, verify};
use crate::clock::{Civil, Clock, Micros, Moment, seconds};
use crate::context::{
    CheckedIds, ContextCore, ContextError, ContextState, Identity, Ids, MAX_DEPTH, PlaceholderPolicy, RESERVED_KEYS,
    RunOutcome, RunRecord, TraceContext, is_traced, shown,
};
use crate::events::{StreamWriter, Streams};
use crate::ids::{self, RequestId};
use crate::mutants::mutant;

const METADATA_IS_OLD: &CStr = c"metadata= is the older name; pass agent_context= and audit_metadata=";
const ADDITIONAL_METADATA_IS_OLD: &CStr =
    c"additional_metadata= is the older name; pass additional_agent_context= and additional_audit_metadata=";

/// How long cancelled tasks of a context may take to end.
const TASKS_END_SECONDS: f64 = 5.0;

/// Most names of roles that one context carries.
const MAX_PERMISSIONS: usize = 256;

/// The version of the audit metadata.
const CONTEXT_VERSION: &str = "1.0";

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);
static THREAD_MISMATCHES: AtomicU64 = AtomicU64::new(0);

fn refused(py: Python<'_>, field: &str, value: &str, rule: &str, message: String, fix: &str) -> PyErr {
    let text = format!("{message}. {fix}");
    InvalidContextError::raise(
        py,
        text,
        field.to_owned(),
        value.to_owned(),
        rule.to_owned(),
        fix.to_owned(),
    )
}

fn required<'a>(value: &'a Bound<'_, PyAny>, field: &'static str) -> PyResult<&'a str> {
    let Ok(text) = value.cast::<PyString>() else {
        let repr = value
            .repr()
            .map_or_else(|_| "?".to_owned(), |repr| repr.to_string_lossy().into_owned());
        return Err(to_python(value.py(), ContextError::required(field, &repr)));
    };
    text.to_str().map_err(|_| {
        refused(
            value.py(),
            field,
            &shown(&text.to_string_lossy()),
            "surrogate",
            format!(
                "Field '{field}' contains a lone surrogate: {}",
                shown(&text.to_string_lossy())
            ),
            "Decode the id with the right encoding where it is read",
        )
    })
}

/// An id that names no lane: checked for its form alone.
fn printable<'a>(value: &'a Bound<'_, PyAny>, field: &'static str) -> PyResult<&'a str> {
    let text = required(value, field)?;
    Identity::check_form(field, text).map_err(|error| to_python(value.py(), error))?;
    Ok(text)
}

fn as_dict<'a, 'py>(value: &'a Bound<'py, PyAny>, name: &str) -> PyResult<&'a Bound<'py, PyDict>> {
    value.cast::<PyDict>().map_err(|_| {
        let kind = value
            .get_type()
            .name()
            .map_or_else(|_| "?".to_owned(), |name| name.to_string());
        let message = format!("{name} must be a dictionary, got: {kind}");
        refused(value.py(), name, &kind, "type", message, "Pass a dict with string keys")
    })
}

/// A caller's dictionary: checked and deep-copied.
fn own_dict<'py>(value: Option<&Bound<'py, PyAny>>, name: &'static str) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Some(value) = value.filter(|value| !value.is_none()) else {
        return Ok(None);
    };
    let py = value.py();
    let dict = as_dict(value, name)?;
    if dict.is_empty() {
        return Ok(None);
    }
    let reserved = reserved_in(dict)?;
    if !reserved.is_empty() {
        let keys = reserved.join("', '");
        return Err(refused(
            py,
            name,
            &keys,
            "reserved",
            format!("{name} contains reserved keys: {{'{keys}'}}"),
            "The context itself carries them; rename the keys",
        ));
    }
    copied_dict(dict, name).map(Some)
}

/// A deep copy, or an error that says what to do about data that cannot be copied.
fn copied_dict<'py>(dict: &Bound<'py, PyDict>, name: &str) -> PyResult<Bound<'py, PyDict>> {
    deep_copy(dict).map_err(|error| {
        let py = dict.py();
        let why = super::json::exception_text(error.value(py).as_any());
        refused(
            py,
            name,
            "",
            "copy",
            format!("{name} cannot be deep-copied ({})", ids::cut(&why, 120)),
            "Keep data in it; reach sessions, clients and locks through the context's bindings",
        )
    })
}

/// Reserved keys at the top level of a dictionary.
pub(crate) fn reserved_in(dict: &Bound<'_, PyDict>) -> PyResult<Vec<&'static str>> {
    static KEYS: PyOnceLock<[Py<PyString>; RESERVED_KEYS.len()]> = PyOnceLock::new();
    let py = dict.py();
    let keys = KEYS.get_or_init(py, || RESERVED_KEYS.map(|key| PyString::intern(py, key).unbind()));
    let mut found = Vec::new();
    for (key, name) in keys.iter().zip(RESERVED_KEYS) {
        if dict.contains(key)? {
            found.push(name);
        }
    }
    Ok(found)
}

/// An aware datetime as microseconds since the Unix epoch.
fn moment(value: &Bound<'_, PyAny>) -> PyResult<Micros> {
    let py = value.py();
    let aware = value.getattr(intern!(py, "tzinfo")).is_ok_and(|zone| !zone.is_none());
    let timestamp = value
        .call_method0(intern!(py, "timestamp"))
        .and_then(|timestamp| timestamp.extract::<f64>());
    match timestamp {
        Ok(seconds) if aware => Ok(crate::clock::micros(seconds)),
        _ => Err(refused(
            py,
            "created_at",
            &value.repr()?.to_string_lossy(),
            "type",
            "created_at must be an aware datetime".to_owned(),
            "Use datetime.now(timezone.utc)",
        )),
    }
}

/// Whether a key of mixed metadata speaks of audit, trace or transport: by its whole name or a known prefix, in lower case.
fn is_audit_key(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "audit",
        "compliance",
        "trace",
        "log",
        "client_ip",
        "user_agent",
        "method",
        "url",
        "content_type",
        "created_at",
        "x_request_id",
        "x_correlation_id",
        "x_trace_id",
        "parent_request_id",
    ];
    const PREFIXES: [&str; 5] = ["audit_", "compliance_", "trace_", "log_", "context_"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// One dictionary of metadata, split by what its keys speak of.
struct SplitMetadata<'py> {
    agent: Bound<'py, PyDict>,
    audit: Bound<'py, PyDict>,
    depth: i64,
    parent: Option<Bound<'py, PyAny>>,
}

impl<'py> SplitMetadata<'py> {
    /// Keys of audit, trace and transport go to the audit metadata, depth and parent to the fields, the rest to the agents.
    fn of(py: Python<'py>, metadata: Option<&Bound<'py, PyAny>>, name: &str) -> PyResult<Self> {
        let mut split = Self::of_child(py, None, name)?;
        let Some(metadata) = metadata.filter(|metadata| !metadata.is_none()) else {
            return Ok(split);
        };
        let rest = as_dict(metadata, name)?.copy()?;
        for (key, value) in super::json::entries(&rest) {
            match key.str()?.to_string_lossy().to_lowercase().as_str() {
                "operation_depth" => {
                    split.depth = value.extract().map_err(|_| {
                        let kind = value
                            .get_type()
                            .name()
                            .map_or_else(|_| "?".to_owned(), |name| name.to_string());
                        let message = format!("{name}['operation_depth'] must be an int, got: {kind}");
                        refused(
                            py,
                            "operation_depth",
                            &kind,
                            "type",
                            message,
                            "Pass the depth as a number, or leave it out",
                        )
                    })?;
                }
                "parent_request_id" => split.parent = Some(value).filter(|value| !value.is_none()),
                _ => continue,
            }
            rest.del_item(key)?;
        }
        let data = Self::of_child(py, Some(rest.as_any()), name)?;
        (split.agent, split.audit) = (data.agent, data.audit);
        Ok(split)
    }

    /// The same for a child, which has its own depth and parent: there these keys are data.
    fn of_child(py: Python<'py>, metadata: Option<&Bound<'py, PyAny>>, name: &str) -> PyResult<Self> {
        let split = Self {
            agent: PyDict::new(py),
            audit: PyDict::new(py),
            depth: 0,
            parent: None,
        };
        let Some(metadata) = metadata.filter(|metadata| !metadata.is_none()) else {
            return Ok(split);
        };
        for (key, value) in super::json::entries(as_dict(metadata, name)?) {
            let key_name = key.str()?.to_string_lossy().to_lowercase();
            let dict = if is_audit_key(&key_name) {
                &split.audit
            } else {
                &split.agent
            };
            dict.set_item(key, value)?;
        }
        Ok(split)
    }
}

/// The older spelling of two dictionaries was used: warns, and refuses both spellings at once.
fn older_spelling(py: Python<'_>, older: &str, newer: &CStr, newer_given: bool) -> PyResult<()> {
    if newer_given {
        let message = format!("{older} is given together with the newer names");
        return Err(refused(
            py,
            older,
            "",
            "conflict",
            message,
            "Pass either the older name or the newer ones",
        ));
    }
    PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), newer, 1)
}

/// The socket's id by either of its names. Two different ids are refused: one of them would be lost silently.
fn either_socket<'a, 'py>(
    client: Option<&'a Bound<'py, PyAny>>,
    connection: Option<&'a Bound<'py, PyAny>>,
) -> PyResult<Option<&'a Bound<'py, PyAny>>> {
    let given = |id: &&'a Bound<'py, PyAny>| !id.is_none();
    let (client, connection) = (client.filter(given), connection.filter(given));
    if let (Some(client), Some(connection)) = (client, connection)
        && !client.eq(connection)?
    {
        return Err(refused(
            client.py(),
            "websocket_client_id",
            "",
            "conflict",
            "websocket_client_id and websocket_connection_id are two names of one field and differ".to_owned(),
            "Pass one of them",
        ));
    }
    Ok(client.or(connection))
}

/// The names of roles that a caller gives; none are the same as nothing.
fn role_names(given: &Bound<'_, PyAny>) -> PyResult<Option<Arc<[Box<str>]>>> {
    let py = given.py();
    let wrong = |value: &str, message: String| {
        let fix = "Pass the names of roles that authentication gave the user, such as permissions=[\"analyst\"]";
        refused(py, "permissions", value, "type", message, fix)
    };
    if given.is_none() {
        return Ok(None);
    }
    if given.is_instance_of::<PyString>() {
        return Err(wrong(
            "",
            "permissions must be a collection of names, got one string".to_owned(),
        ));
    }
    let mut names: Vec<Box<str>> = Vec::new();
    for name in given.try_iter()? {
        let name = printable(&name?, "permissions")?.into();
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() > MAX_PERMISSIONS {
            return Err(wrong("", format!("permissions has more than {MAX_PERMISSIONS} names")));
        }
    }
    Ok((!names.is_empty()).then(|| names.into()))
}

fn depth_within_bound(py: Python<'_>, depth: i64) -> PyResult<u32> {
    if let Some(depth) = u32::try_from(depth).ok().filter(|depth| *depth <= MAX_DEPTH) {
        return Ok(depth);
    }
    let depth = depth.to_string();
    let message = format!("Maximum operation depth ({MAX_DEPTH}) exceeded. Current depth: {depth}");
    let fix = "A depth is between 0 and the maximum; start from a context nearer the root";
    Err(refused(py, "operation_depth", &depth, "depth", message, fix))
}

/// A run id that names another thread is counted, and in strict mode refused.
fn check_thread(py: Python<'_>, checked: &CheckedIds<'_>, strict: bool) -> PyResult<()> {
    let Some(thread) = checked.mismatched_thread() else {
        return Ok(());
    };
    THREAD_MISMATCHES.fetch_add(1, Ordering::Relaxed);
    if !strict {
        return Ok(());
    }
    let run = shown(checked.run().as_str());
    let message = format!(
        "run_id names thread {}, thread_id is {}",
        shown(thread),
        shown(checked.thread().as_str())
    );
    let fix = "Generate the run id with UnifiedIDManager.generate_run_id(thread_id)";
    Err(refused(py, "run_id", &run, "mismatch", message, fix))
}

/// `FrozenInstanceError`, as a frozen dataclass raises it.
fn frozen(py: Python<'_>, what: &str, name: &Bound<'_, PyString>) -> PyErr {
    static ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let message = format!(
        "cannot {what} field '{}': a context is immutable; use with_db_session, with_websocket_connection or \
         create_child_context",
        name.to_string_lossy()
    );
    match ERROR.import(py, "dataclasses", "FrozenInstanceError") {
        Ok(error) => PyErr::from_type(error.clone(), message),
        Err(error) => error,
    }
}

/// The ids of a user's request, immutable, with the data, runs and resources that belong to it and to nobody else.
///
/// `user_id`, `thread_id` and `run_id` are required; `request_id` is generated when absent. `agent_context` and
/// `audit_metadata` are deep-copied. `created_at` must be an aware datetime (default: now, UTC). `websocket_connection_id` is
/// another name for `websocket_client_id`. `policy` replaces the process's policy.
///
/// Raises `InvalidContextError` for ids that are blank, placeholders, too long (over 256 characters) or contain control
/// characters or lone surrogates, and for dictionaries with reserved keys.
#[pyclass(frozen, weakref, name = "UserExecutionContext", module = "isolane")]
pub(crate) struct PyContext {
    core: Arc<ContextCore<NoteId>>,
    /// Tells copies of one context apart.
    serial: u64,
    stamp: Stamp,
    session: Option<Py<PyAny>>,
    /// Whether the session is counted as bound to the user.
    session_bound: AtomicBool,
    /// Whether it was verified: then what is made later is claimed when it is handed out.
    pub(super) verified: AtomicBool,
    websocket_client: Option<Box<str>>,
    session_id: Option<Box<str>>,
    strict: bool,
    /// What callers passed as ids, handed out again instead of new strings.
    texts: IdTexts,
    given_agent: Option<Py<PyDict>>,
    /// `given_agent` with the keys of a child, made when it is first read.
    agent_context: Lazy<PyDict>,
    given_audit: Option<Py<PyDict>>,
    /// `given_audit` with the keys that the context adds, made when it is first read.
    audit: Lazy<PyDict>,
    /// The operation of a child, as long as it is not in the dictionaries yet.
    operation: Option<Operation>,
    created_at: Lazy<PyDateTime>,
    /// Whether the caller gave the time: then in the caller's time zone.
    created_given: bool,
    own: Lazy<ContextBindings>,
    request: Lazy<RequestBindings>,
    emitter: Lazy<UserWebSocketEmitter>,
    /// Made by the factory of tool dispatchers that the request has.
    tools: Lazy<PyAny>,
    /// Names of roles that authentication gave the user. Children have the same.
    permissions: Option<Arc<[Box<str>]>>,
    /// The rollout as it was when the run began. Children have the same.
    flags: Lazy<FlagSnapshot>,
    /// Containers that the last verification found to be this context's own; held, so that no address is used again.
    pub(super) claims: Mutex<Vec<Py<PyAny>>>,
}

/// The ids as Python has them.
#[derive(Default)]
struct IdTexts {
    user: Lazy<PyString>,
    thread: Lazy<PyString>,
    run: Lazy<PyString>,
    request: Lazy<PyString>,
}

impl IdTexts {
    fn of(
        user: &Bound<'_, PyAny>,
        thread: &Bound<'_, PyAny>,
        run: &Bound<'_, PyAny>,
        request: Option<&Bound<'_, PyAny>>,
    ) -> Self {
        // A subclass may carry anything: of it the plain text is handed out.
        let plain = |text: &Bound<'_, PyAny>| text.cast_exact::<PyString>().ok().map(|text| text.clone().unbind());
        Self {
            user: Lazy::with(plain(user)),
            thread: Lazy::with(plain(thread)),
            run: Lazy::with(plain(run)),
            request: Lazy::with(request.and_then(plain)),
        }
    }

    /// Those of another span of the same run.
    fn of_child(&self, py: Python<'_>) -> Self {
        let shared = |text: &Lazy<PyString>| Lazy::with(text.get().map(|text| text.clone_ref(py)));
        Self {
            user: shared(&self.user),
            thread: shared(&self.thread),
            run: shared(&self.run),
            request: Lazy::new(),
        }
    }
}

fn text<'py>(py: Python<'py>, held: &Lazy<PyString>, id: &str) -> Bound<'py, PyString> {
    held.get_or_make(|| Ok::<_, Infallible>(PyString::new(py, id).unbind()))
        .unwrap_or_else(|never| match never {})
        .bind(py)
        .clone()
}

/// What a child's dictionaries say about it.
struct Operation {
    name: Py<PyString>,
    parent: Py<PyAny>,
    /// Whether the audit metadata has it already.
    audited: bool,
}

struct Parts<'py> {
    created_given: bool,
    core: Arc<ContextCore<NoteId>>,
    texts: IdTexts,
    operation: Option<Operation>,
    session: Option<Py<PyAny>>,
    websocket_client: Option<Box<str>>,
    session_id: Option<Box<str>>,
    strict: bool,
    agent_context: Option<Bound<'py, PyDict>>,
    audit: Option<Bound<'py, PyDict>>,
    permissions: Option<Arc<[Box<str>]>>,
    flags: Option<Py<FlagSnapshot>>,
}

impl PyContext {
    fn make(parts: Parts<'_>) -> Self {
        let context = Self {
            core: parts.core,
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            stamp: Stamp::now(),
            session: parts.session,
            session_bound: AtomicBool::new(false),
            verified: AtomicBool::new(false),
            websocket_client: parts.websocket_client,
            session_id: parts.session_id,
            strict: parts.strict,
            texts: parts.texts,
            given_agent: parts.agent_context.map(Bound::unbind),
            agent_context: Lazy::new(),
            operation: parts.operation,
            given_audit: parts.audit.map(Bound::unbind),
            audit: Lazy::new(),
            created_at: Lazy::new(),
            created_given: parts.created_given,
            own: Lazy::new(),
            request: Lazy::new(),
            emitter: Lazy::new(),
            tools: Lazy::new(),
            permissions: parts.permissions,
            flags: Lazy::with(parts.flags),
            claims: Mutex::default(),
        };
        if let Some(session) = &context.session {
            verify::bind_session(session, context.core.identity());
            context.session_bound.store(true, Ordering::Relaxed);
        }
        context
    }

    pub(crate) fn core(&self) -> &Arc<ContextCore<NoteId>> {
        &self.core
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The roles that authentication gave the user.
    pub(crate) fn roles(&self) -> &[Box<str>] {
        self.permissions.as_deref().unwrap_or_default()
    }

    /// The rollout of the run; made now where the context was made before there was any.
    pub(crate) fn flags_or(&self, make: impl FnOnce() -> PyResult<Py<FlagSnapshot>>) -> PyResult<&Py<FlagSnapshot>> {
        self.flags.get_or_make(make)
    }

    fn inherited_flags(&self, py: Python<'_>) -> Option<Py<FlagSnapshot>> {
        if mutant!(SnapshotNotInherited) {
            return FlagSnapshot::installed(py, self.core.identity().user.as_str());
        }
        self.flags.get().map(|flags| flags.clone_ref(py))
    }

    pub(crate) fn session_object(&self) -> Option<&Py<PyAny>> {
        self.session.as_ref()
    }

    pub(crate) fn agent_dict<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyDict>> {
        let made = self.agent_context.get_or_make(|| {
            let dict = match &self.given_agent {
                Some(given) => given.bind(py).clone(),
                None => PyDict::new(py),
            };
            if let Some(operation) = &self.operation {
                dict.set_item(intern!(py, "parent_operation"), &operation.parent)?;
                dict.set_item(intern!(py, "operation_name"), &operation.name)?;
                dict.set_item(intern!(py, "operation_depth"), self.core.lineage().depth())?;
            }
            Ok::<_, PyErr>(dict.unbind())
        })?;
        Ok(made.bind(py))
    }

    /// What is in the dictionary of agents, without the keys of a child.
    pub(super) fn agent_data(&self) -> Option<&Py<PyDict>> {
        self.agent_context.get().or(self.given_agent.as_ref())
    }

    /// What is in the audit metadata, perhaps without the keys that the context adds.
    pub(super) fn audit_data(&self) -> Option<&Py<PyDict>> {
        self.audit.get().or(self.given_audit.as_ref())
    }

    /// Adds a child's own audit metadata, which may speak of its operation but not for the context.
    fn add_audit(&mut self, py: Python<'_>, more: &Bound<'_, PyDict>) -> PyResult<()> {
        let created = self.iso(py)?;
        let audit = self
            .given_audit
            .get_or_insert_with(|| PyDict::new(py).unbind())
            .bind(py);
        if let Some(operation) = &mut self.operation {
            audit.set_item(intern!(py, "operation_name"), &operation.name)?;
            audit.set_item(intern!(py, "child_created_at"), created)?;
            operation.audited = true;
        }
        audit.update(more.as_mapping())
    }

    /// The name of the operation that this context is for, as a child may keep it: read from `copy`, the child's own copy of the
    /// agents' dictionary, since anything may stand there.
    fn operation_name<'py>(&self, py: Python<'py>, copy: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        if self.agent_context.get().is_none()
            && let Some(operation) = &self.operation
        {
            return Ok(operation.name.bind(py).clone().into_any());
        }
        let named = match copy {
            Some(agent) => agent.get_item(intern!(py, "operation_name"))?,
            None => None,
        };
        Ok(named.unwrap_or_else(|| intern!(py, "root").clone().into_any()))
    }

    pub(crate) fn audit_dict<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyDict>> {
        let made = self.audit.get_or_make(|| {
            let dict = match &self.given_audit {
                Some(given) => given.bind(py).clone(),
                None => PyDict::new(py),
            };
            let created = self.iso(py)?;
            if let Some(operation) = self.operation.as_ref().filter(|operation| !operation.audited) {
                dict.set_item(intern!(py, "operation_name"), &operation.name)?;
                dict.set_item(intern!(py, "child_created_at"), &created)?;
            }
            dict.set_item(intern!(py, "context_created_at"), created)?;
            dict.set_item(intern!(py, "context_version"), intern!(py, CONTEXT_VERSION))?;
            dict.set_item(intern!(py, "isolation_verified"), true)?;
            dict.set_item(intern!(py, "operation_depth"), self.core.lineage().depth())?;
            if let Some(parent) = self.core.lineage().parent() {
                dict.set_item(intern!(py, "parent_request_id"), parent.as_str())?;
            }
            Ok::<_, PyErr>(dict.unbind())
        })?;
        Ok(made.bind(py))
    }

    /// `created_at.isoformat()`.
    fn iso<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.created_given {
            return self.created(py)?.call_method0(intern!(py, "isoformat"));
        }
        let civil = Civil::of(self.core.created());
        let written = civil.iso8601();
        let mut text = [0; 32];
        // Python leaves out microseconds that are zero.
        let used = if civil.micros == 0 { 19 } else { 26 };
        text[..used].copy_from_slice(&written[..used]);
        text[used..used + 6].copy_from_slice(b"+00:00");
        let text = str::from_utf8(&text[..used + 6]).unwrap_or_default();
        Ok(PyString::new(py, text).into_any())
    }

    fn created<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyDateTime>> {
        Ok(self
            .created_at
            .get_or_make(|| datetime(py, self.core.created()).map(Bound::unbind))?
            .bind(py))
    }

    pub(super) fn own_if_made<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, ContextBindings>> {
        self.own.get().map(|own| own.bind(py))
    }

    pub(super) fn request_if_made<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, RequestBindings>> {
        self.request.get().map(|request| request.bind(py))
    }

    pub(super) fn own<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, ContextBindings>> {
        Ok(self
            .own
            .get_or_make(|| Py::new(py, ContextBindings::default()))?
            .bind(py))
    }

    pub(crate) fn request<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, RequestBindings>> {
        Ok(self
            .request
            .get_or_make(|| Py::new(py, RequestBindings::default()))?
            .bind(py))
    }

    fn unbind_session(&self) {
        if let Some(session) = &self.session
            && self.session_bound.swap(false, Ordering::Relaxed)
        {
            verify::unbind_session(session, self.core.identity());
        }
    }

    /// A dictionary as callers get it. From then on it can be shared, so a verified context claims it.
    fn hand_out<'py>(
        context: &Bound<'py, Self>,
        dict: &Bound<'py, PyDict>,
        is_new: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let inner = context.get();
        if is_new && inner.verified.load(Ordering::Acquire) {
            verify::claim_later(context, dict)?;
        }
        Ok(inner.read_only(dict))
    }

    fn read_only<'py>(&self, dict: &Bound<'py, PyDict>) -> Bound<'py, PyAny> {
        if self.strict {
            PyMappingProxy::new(dict.py(), dict.as_mapping()).into_any()
        } else {
            dict.clone().into_any()
        }
    }

    fn fault(py: Python<'_>, fault: crate::context::ContextFault) -> PyErr {
        to_python(py, fault)
    }

    /// Drops what was attached to runs that are no longer remembered.
    fn drop_notes(&self, dropped: Vec<RunRecord<NoteId>>) {
        if dropped.is_empty() {
            return;
        }
        if let Some(own) = self.own.get() {
            let notes = own.get().take_notes(dropped.into_iter().map(|record| record.payload));
            drop(notes);
        }
    }

    fn end_run(&self, py: Python<'_>, run_id: &str, outcome: RunOutcome, edit: impl FnOnce(&mut Note)) -> PyResult<()> {
        self.stamp.check(py)?;
        self.check_fence(py)?;
        let mut note = None;
        let dropped = self
            .core
            .end_run(run_id, outcome, &CLOCK, |id| note = Some(*id))
            .map_err(|fault| Self::fault(py, fault))?;
        if let Some(note) = note {
            self.own(py)?.get().edit_note(note, edit);
        }
        self.drop_notes(dropped.into_iter().collect());
        Ok(())
    }

    /// Ids, times and what is bound, as the views have them.
    fn put_ids(&self, py: Python<'_>, dict: &Bound<'_, PyDict>) -> PyResult<()> {
        dict.set_item("user_id", self.user_id(py))?;
        dict.set_item("thread_id", self.thread_id(py))?;
        dict.set_item("run_id", self.run_id(py))?;
        dict.set_item("request_id", self.request_id(py))?;
        dict.set_item("created_at", self.iso(py)?)?;
        dict.set_item("operation_depth", self.operation_depth())?;
        dict.set_item("parent_request_id", self.parent_request_id())?;
        dict.set_item("has_db_session", self.session.is_some())
    }

    /// Raises `RunFenced` when the run was ended by force.
    pub(crate) fn check_fence(&self, py: Python<'_>) -> PyResult<()> {
        self.core
            .pass()
            .map_err(|fenced| to_python(py, crate::context::ContextFault::from(fenced)))
    }

    fn check_not_ended(&self, py: Python<'_>) -> PyResult<()> {
        let ended = self.request.get().is_some_and(|request| request.get().has_ended());
        if ended || self.core.state() == ContextState::Cleaned {
            let message = "the context was cleaned up and its event stream has ended";
            return Err(super::errors::RunClosed::raise(py, message.to_owned()));
        }
        Ok(())
    }

    /// Joins or opens the event stream of the run, which the request keeps open until its root context is cleaned up.
    pub(crate) fn open_stream(&self, py: Python<'_>) -> PyResult<StreamWriter> {
        self.check_fence(py)?;
        let request = self.request(py)?.get();
        self.check_not_ended(py)?;
        if let Some(writer) = request.writer() {
            return Ok(writer);
        }
        let identity = self.core.identity();
        let writer = Streams::open(self.core.lane(), &identity.run, &identity.thread, request.bounds())
            .map_err(|error| to_python(py, error))?;
        request.set_writer(writer.clone());
        Ok(writer)
    }

    fn run(&self, py: Python<'_>, record: &RunRecord<NoteId>) -> PyResult<ExecutionRun> {
        Ok(ExecutionRun::new(
            record.clone(),
            self.own(py)?.get().note(py, record.payload),
        ))
    }

    /// A copy that is the same context with another session or socket.
    fn copied<'py>(
        &self,
        py: Python<'py>,
        session: Option<Py<PyAny>>,
        websocket_client: Option<Box<str>>,
    ) -> PyResult<Bound<'py, Self>> {
        self.stamp.check(py)?;
        if let Some(operation) = &self.operation
            && !operation.parent.bind(py).is_exact_instance_of::<PyString>()
        {
            // It may be changed, so it is to be copied with the rest.
            self.agent_dict(py)?;
        }
        let copied = |dict: &Py<PyDict>, name| copied_dict(dict.bind(py), name);
        let not_made = |made: &Lazy<PyDict>, given: &Option<Py<PyDict>>, name| {
            let given = given.as_ref().filter(|_| made.get().is_none());
            given.map(|given| copied(given, name)).transpose()
        };
        let copy = Self::make(Parts {
            core: self.core.clone(),
            created_given: self.created_given,
            texts: self.texts.of_child(py),
            operation: self.operation.as_ref().map(|operation| Operation {
                name: operation.name.clone_ref(py),
                parent: operation.parent.clone_ref(py),
                audited: operation.audited,
            }),
            session,
            websocket_client,
            session_id: self.session_id.clone(),
            strict: self.strict,
            agent_context: not_made(&self.agent_context, &self.given_agent, "agent_context")?,
            audit: not_made(&self.audit, &self.given_audit, "audit_metadata")?,
            permissions: self.permissions.clone(),
            flags: self.inherited_flags(py),
        });
        if let Some(made) = self.agent_context.get() {
            copy.agent_context.set(copied(made, "agent_context")?.unbind());
        }
        if let Some(made) = self.audit.get() {
            copy.audit.set(copied(made, "audit_metadata")?.unbind());
        }
        copy.own.set(self.own(py)?.clone().unbind());
        copy.request.set(self.request(py)?.clone().unbind());
        if let Some(created) = self.created_at.get() {
            copy.created_at.set(created.clone_ref(py));
        }
        Bound::new(py, copy)
    }
}

/// What the exception of a run says of its end.
fn why_failed(error: &Bound<'_, PyAny>) -> RunOutcome {
    use pyo3::exceptions::{PyTimeoutError, asyncio::CancelledError};
    if error.is_instance_of::<CancelledError>() {
        RunOutcome::Cancelled
    } else if error.is_instance_of::<PyTimeoutError>() {
        RunOutcome::TimedOut
    } else {
        RunOutcome::Failure
    }
}

impl Drop for PyContext {
    fn drop(&mut self) {
        self.unbind_session();
        verify::release_claims(
            self.serial,
            self.claims.get_mut().unwrap_or_else(PoisonError::into_inner),
        );
    }
}

#[pymethods]
impl PyContext {
    #[new]
    #[pyo3(signature = (
        user_id, thread_id, run_id, request_id = None, db_session = None, websocket_client_id = None, created_at = None,
        agent_context = None, audit_metadata = None, operation_depth = 0, parent_request_id = None, *,
        session_id = None, websocket_connection_id = None, policy = None, metadata = None,
        permissions: "collections.abc.Iterable[str] | None" = None,
    ))]
    fn new(
        py: Python<'_>,
        user_id: &Bound<'_, PyAny>,
        thread_id: &Bound<'_, PyAny>,
        run_id: &Bound<'_, PyAny>,
        request_id: Option<&Bound<'_, PyAny>>,
        db_session: Option<Bound<'_, PyAny>>,
        websocket_client_id: Option<&Bound<'_, PyAny>>,
        created_at: Option<&Bound<'_, PyAny>>,
        agent_context: Option<&Bound<'_, PyAny>>,
        audit_metadata: Option<&Bound<'_, PyAny>>,
        operation_depth: i64,
        parent_request_id: Option<&Bound<'_, PyAny>>,
        session_id: Option<&Bound<'_, PyAny>>,
        websocket_connection_id: Option<&Bound<'_, PyAny>>,
        policy: Option<&Bound<'_, PyContextPolicy>>,
        metadata: Option<&Bound<'_, PyAny>>,
        permissions: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        if let Some(metadata) = metadata.filter(|metadata| !metadata.is_none()) {
            older_spelling(
                py,
                "metadata",
                METADATA_IS_OLD,
                agent_context.is_some() || audit_metadata.is_some(),
            )?;
            let split = SplitMetadata::of(py, Some(metadata), "metadata")?;
            return Self::new(
                py,
                user_id,
                thread_id,
                run_id,
                request_id,
                db_session,
                websocket_client_id,
                created_at,
                Some(split.agent.as_any()),
                Some(split.audit.as_any()),
                operation_depth.max(split.depth),
                parent_request_id.or(split.parent.as_ref()),
                session_id,
                websocket_connection_id,
                policy,
                None,
                permissions,
            );
        }
        let strict = policy.is_some_and(|policy| policy.get().strict);
        let own_policy = policy.and_then(|policy| policy.get().placeholders.as_ref());
        let ids = Ids {
            user: required(user_id, "user_id")?,
            thread: required(thread_id, "thread_id")?,
            run: required(run_id, "run_id")?,
            request: request_id.map(|request| required(request, "request_id")).transpose()?,
        };
        let parent = parent_request_id
            .map(|parent| required(parent, "parent_request_id"))
            .transpose()?;
        let check = |policy: &PlaceholderPolicy| {
            let checked = CheckedIds::new(ids, policy)?;
            let parent = parent.map(|parent| Identity::check("parent_request_id", parent, policy));
            parent.transpose().map(|parent| (checked, parent))
        };
        let checked = match own_policy {
            Some(own) => check(&own.0.inner),
            None => with_placeholders(check),
        };
        let (checked, parent) = checked.map_err(|error| to_python(py, error))?;
        let operation_depth = depth_within_bound(py, operation_depth)?;
        check_thread(py, &checked, strict)?;
        let websocket_client = either_socket(websocket_client_id, websocket_connection_id)?
            .map(|id| printable(id, "websocket_client_id").map(Box::from))
            .transpose()?;
        let session_id = session_id
            .map(|id| printable(id, "session_id").map(Box::from))
            .transpose()?;
        let created = created_at.map(moment).transpose()?;
        let permissions = permissions.map(role_names).transpose()?.flatten();
        let agent_context = own_dict(agent_context, "agent_context")?;
        let audit = own_dict(audit_metadata, "audit_metadata")?;
        let now = CLOCK.now();
        let lane = registry().lane_of(checked.user());
        // The context and its lane share the text of the id.
        let identity = checked.identity(lane.user().clone(), CLOCK.millis_for_ids(now));
        let now = Moment {
            unix: created.unwrap_or(now.unix),
            ..now
        };
        let flags = FlagSnapshot::installed(py, identity.user.as_str());
        let trace = is_traced()
            .then(|| trace::place_of(py, identity.user.as_str()))
            .flatten();
        let core = ContextCore::root(identity, lane, operation_depth, parent.map(RequestId::from), now);
        if let Some(trace) = trace {
            core.set_trace(Some(Arc::new(trace)));
        }
        let context = Self::make(Parts {
            core: Arc::new(core),
            created_given: created_at.is_some(),
            texts: IdTexts::of(user_id, thread_id, run_id, request_id),
            operation: None,
            session: db_session.map(Bound::unbind),
            websocket_client,
            session_id,
            strict,
            agent_context,
            audit,
            permissions,
            flags,
        });
        if let Some(created_at) = created_at {
            context
                .created_at
                .set(created_at.cast::<PyDateTime>()?.clone().unbind());
        }
        Ok(context)
    }

    /// A context from the ids of a request. A blank `request_id` is generated.
    #[classmethod]
    #[pyo3(signature = (
        user_id, thread_id, run_id, request_id = None, db_session = None, websocket_client_id = None,
        agent_context = None, audit_metadata = None, *, websocket_connection_id = None, policy = None, metadata = None,
        permissions: "collections.abc.Iterable[str] | None" = None,
    ))]
    fn from_request(
        cls: &Bound<'_, PyType>,
        user_id: &Bound<'_, PyAny>,
        thread_id: &Bound<'_, PyAny>,
        run_id: &Bound<'_, PyAny>,
        request_id: Option<&Bound<'_, PyAny>>,
        db_session: Option<Bound<'_, PyAny>>,
        websocket_client_id: Option<&Bound<'_, PyAny>>,
        agent_context: Option<&Bound<'_, PyAny>>,
        audit_metadata: Option<&Bound<'_, PyAny>>,
        websocket_connection_id: Option<&Bound<'_, PyAny>>,
        policy: Option<&Bound<'_, PyContextPolicy>>,
        metadata: Option<&Bound<'_, PyAny>>,
        permissions: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let request_id = match request_id {
            Some(request) if request.is_truthy()? => Some(request),
            _ => None,
        };
        Self::new(
            cls.py(),
            user_id,
            thread_id,
            run_id,
            request_id,
            db_session,
            websocket_client_id,
            None,
            agent_context,
            audit_metadata,
            0,
            None,
            None,
            websocket_connection_id,
            policy,
            metadata,
            permissions,
        )
    }

    /// The same as `from_request`, with everything but the three ids by keyword.
    #[classmethod]
    #[pyo3(signature = (user_id, thread_id, run_id, **fields))]
    fn create_for_user<'py>(
        cls: &Bound<'py, PyType>,
        user_id: &Bound<'py, PyAny>,
        thread_id: &Bound<'py, PyAny>,
        run_id: &Bound<'py, PyAny>,
        fields: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Self>> {
        let made = cls.call_method(intern!(cls.py(), "from_request"), (user_id, thread_id, run_id), fields)?;
        Ok(made.cast_into()?)
    }

    /// A context from a Starlette or `FastAPI` request. The audit metadata gets `client_ip`, `user_agent`, `method`, `url` (the
    /// path: queries carry secrets), `content_type`, and the request, correlation, trace and forwarded headers that are there.
    #[classmethod]
    #[pyo3(signature = (
        request, user_id, thread_id, run_id, db_session = None, websocket_client_id = None, *, websocket_connection_id = None,
        permissions: "collections.abc.Iterable[str] | None" = None,
    ))]
    fn from_fastapi_request(
        cls: &Bound<'_, PyType>,
        request: &Bound<'_, PyAny>,
        user_id: &Bound<'_, PyAny>,
        thread_id: &Bound<'_, PyAny>,
        run_id: &Bound<'_, PyAny>,
        db_session: Option<Bound<'_, PyAny>>,
        websocket_client_id: Option<&Bound<'_, PyAny>>,
        websocket_connection_id: Option<&Bound<'_, PyAny>>,
        permissions: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = cls.py();
        let audit = PyDict::new(py);
        let text = |value: PyResult<Bound<'_, PyAny>>| {
            let text = value
                .ok()
                .filter(|value| !value.is_none())
                .and_then(|value| value.str().ok());
            text.map_or_else(
                || "unknown".to_owned(),
                |text| ids::cut(&text.to_string_lossy(), 512).to_owned(),
            )
        };
        let header = |name: &str| {
            let value = request
                .getattr("headers")
                .and_then(|headers| headers.call_method1("get", (name,)));
            Some(text(value)).filter(|value| value != "unknown")
        };
        let unknown = || "unknown".to_owned();
        audit.set_item(
            "client_ip",
            text(request.getattr("client").and_then(|client| client.getattr("host"))),
        )?;
        audit.set_item("user_agent", header("user-agent").unwrap_or_else(unknown))?;
        audit.set_item("method", text(request.getattr("method")))?;
        audit.set_item("url", text(request.getattr("url").and_then(|url| url.getattr("path"))))?;
        audit.set_item("content_type", header("content-type").unwrap_or_else(unknown))?;
        for name in [
            "x-request-id",
            "x-correlation-id",
            "x-trace-id",
            "traceparent",
            "x-forwarded-for",
            "forwarded",
        ] {
            if let Some(value) = header(name) {
                audit.set_item(name.replace('-', "_"), value)?;
            }
        }
        Self::new(
            py,
            user_id,
            thread_id,
            run_id,
            None,
            db_session,
            websocket_client_id,
            None,
            None,
            Some(audit.as_any()),
            0,
            None,
            None,
            websocket_connection_id,
            None,
            None,
            permissions,
        )
    }

    /// A context from one dictionary of metadata, which is split: keys that speak of audit, trace and transport by their
    /// whole name or a known prefix go to the audit metadata, the rest to the agent's.
    #[classmethod]
    #[pyo3(signature = (
        user_id, thread_id, run_id, request_id = None, db_session = None, websocket_connection_id = None, metadata = None, *,
        websocket_client_id = None,
    ))]
    fn from_request_supervisor(
        cls: &Bound<'_, PyType>,
        user_id: &Bound<'_, PyAny>,
        thread_id: &Bound<'_, PyAny>,
        run_id: &Bound<'_, PyAny>,
        request_id: Option<&Bound<'_, PyAny>>,
        db_session: Option<Bound<'_, PyAny>>,
        websocket_connection_id: Option<&Bound<'_, PyAny>>,
        metadata: Option<&Bound<'_, PyAny>>,
        websocket_client_id: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = cls.py();
        let split = SplitMetadata::of(py, metadata, "metadata")?;
        let request_id = match request_id {
            Some(request) if request.is_truthy()? => Some(request),
            _ => None,
        };
        Self::new(
            py,
            user_id,
            thread_id,
            run_id,
            request_id,
            db_session,
            websocket_client_id,
            None,
            Some(split.agent.as_any()),
            Some(split.audit.as_any()),
            split.depth,
            split.parent.as_ref(),
            None,
            websocket_connection_id,
            None,
            None,
            None,
        )
    }

    // -- fields ---------------------------------------------------------------------------------------------------------

    /// Whose it is.
    #[getter]
    fn user_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        text(py, &self.texts.user, self.core.identity().user.as_str())
    }

    /// The conversation. Only unique together with the user.
    #[getter]
    fn thread_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        text(py, &self.texts.thread, self.core.identity().thread.as_str())
    }

    /// The run; the name of its event stream.
    #[getter]
    fn run_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        text(py, &self.texts.run, self.core.identity().run.as_str())
    }

    /// This execution inside the run.
    #[getter]
    fn request_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        text(py, &self.texts.request, self.core.identity().request.as_str())
    }

    /// The same as `request_id`.
    #[getter]
    fn context_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        self.request_id(py)
    }

    /// The database session given at construction, or `None`.
    #[getter]
    fn db_session(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.session.as_ref().map(|session| session.clone_ref(py))
    }

    /// The socket that the request came from, or `None`.
    #[getter]
    fn websocket_client_id(&self) -> Option<&str> {
        self.websocket_client.as_deref()
    }

    /// The same as `websocket_client_id`.
    #[getter]
    fn websocket_connection_id(&self) -> Option<&str> {
        self.websocket_client.as_deref()
    }

    /// The names of roles that authentication gave the user. What each allows, a `PermissionEngine` says. Nothing that an agent
    /// writes into the context adds to them.
    #[getter]
    fn permissions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(py, self.roles().iter().map(|role| &**role))
    }

    /// The rollout as it was when the run began, the same for the run and all its children; `None` when no engine of flags was
    /// installed then.
    #[getter]
    fn flags<'py>(&self, py: Python<'py>) -> Option<Bound<'py, FlagSnapshot>> {
        self.flags.get().map(|flags| flags.bind(py).clone())
    }

    /// Where the run stands in a trace, as the W3C's `traceparent`; children stand where their parent does, until a span of their
    /// own begins. `None` when nobody traces, or the run was begun outside of any span.
    #[getter]
    fn traceparent(&self) -> Option<String> {
        self.core.trace().map(|trace| trace.parent().to_owned())
    }

    /// `traceparent`, `tracestate`, and whether another process began that span.
    fn _trace(&self) -> Option<(String, Option<String>, bool)> {
        let trace = self.core.trace()?;
        Some((
            trace.parent().to_owned(),
            trace.state().map(str::to_owned),
            trace.is_remote(),
        ))
    }

    /// Puts this context into a trace, and those below it that have no place of their own. Without `traceparent` it is where its
    /// parent is again. Answers whether what was given is a `traceparent`.
    #[pyo3(signature = (traceparent, tracestate = None, is_remote = false))]
    fn _set_trace(&self, traceparent: Option<&str>, tracestate: Option<&str>, is_remote: bool) -> bool {
        let trace = traceparent.and_then(|parent| TraceContext::new(parent, tracestate, is_remote));
        let is_one = trace.is_some();
        if is_one || traceparent.is_none() {
            self.core.set_trace(trace.map(Arc::new));
        }
        is_one
    }

    /// The session of the browser, or `None`.
    #[getter]
    fn session_id(&self) -> Option<&str> {
        self.session_id.as_deref()
    }

    /// When it was created: an aware UTC datetime.
    #[getter]
    fn created_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDateTime>> {
        self.created(py).cloned()
    }

    /// The agent's own scratch dictionary, shared with nobody. Read-only in strict mode.
    #[getter]
    fn agent_context<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let context = slf.get();
        let is_new = context.agent_context.get().is_none();
        Self::hand_out(slf, context.agent_dict(slf.py())?, is_new)
    }

    /// The caller's audit metadata with `context_created_at`, `context_version`, `isolation_verified`, `operation_depth` and,
    /// for children, `parent_request_id`. Read-only in strict mode.
    #[getter]
    fn audit_metadata<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let context = slf.get();
        let is_new = context.audit.get().is_none();
        Self::hand_out(slf, context.audit_dict(slf.py())?, is_new)
    }

    /// How many operations are above this one; at most 10.
    #[getter]
    fn operation_depth(&self) -> u32 {
        self.core.lineage().depth()
    }

    /// The request that started this one, or `None`.
    #[getter]
    fn parent_request_id(&self) -> Option<&str> {
        self.core.lineage().parent().map(ids::RequestId::as_str)
    }

    /// Numbers of the contexts from the root to this one.
    #[getter]
    fn _lineage(&self) -> Vec<u64> {
        self.core.lineage().path().to_vec()
    }

    /// Where it is in its life; follows from its runs.
    #[getter]
    fn status(&self) -> ExecutionStatus {
        self.core.state().into()
    }

    /// `agent_context` and `audit_metadata` merged (the latter wins), as a read-only copy.
    #[getter(metadata)]
    fn read_only_metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyMappingProxy::new(py, self.merged_metadata(py)?.as_mapping()).into_any())
    }

    /// `agent_context` and `audit_metadata` merged (the latter wins), as a deep copy of one's own.
    #[pyo3(name = "get_metadata", signature = () -> "dict[str, typing.Any]")]
    fn merged_metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let merged = copied_dict(self.agent_dict(py)?, "agent_context")?;
        merged.update(copied_dict(self.audit_dict(py)?, "audit_metadata")?.as_mapping())?;
        Ok(merged)
    }

    // -- children and copies --------------------------------------------------------------------------------------------

    /// A context for an operation below this one: same user, thread, run, session and socket; a new request id
    /// `{parent}_{operation}`, depth + 1, deep copies of the dictionaries with the operation's name in them.
    /// `agent_name` is another name for `operation_name`. Raises `InvalidContextError` at depth 10.
    #[pyo3(signature = (
        operation_name = None, additional_agent_context = None, additional_audit_metadata = None, *, agent_name = None,
        additional_metadata = None,
    ))]
    fn create_child_context<'py>(
        &self,
        py: Python<'py>,
        operation_name: Option<&Bound<'py, PyAny>>,
        additional_agent_context: Option<&Bound<'py, PyAny>>,
        additional_audit_metadata: Option<&Bound<'py, PyAny>>,
        agent_name: Option<&Bound<'py, PyAny>>,
        additional_metadata: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        self.stamp.check(py)?;
        self.check_fence(py)?;
        if let Some(metadata) = additional_metadata.filter(|metadata| !metadata.is_none()) {
            let newer = additional_agent_context.is_some() || additional_audit_metadata.is_some();
            older_spelling(py, "additional_metadata", ADDITIONAL_METADATA_IS_OLD, newer)?;
            let split = SplitMetadata::of_child(py, Some(metadata), "additional_metadata")?;
            let (agent, audit) = (split.agent.as_any(), split.audit.as_any());
            return self.create_child_context(py, operation_name, Some(agent), Some(audit), agent_name, None);
        }
        let name = operation_name
            .or(agent_name)
            .and_then(|name| name.cast::<PyString>().ok());
        let operation = name.and_then(|name| name.to_str().ok()).unwrap_or_default();
        // All that may be refused comes before the child takes its name.
        let more_agent = own_dict(additional_agent_context, "additional_agent_context")?;
        let more_audit = own_dict(additional_audit_metadata, "additional_audit_metadata")?;
        let copied = |dict: &Py<PyDict>, name| copied_dict(dict.bind(py), name);
        let agent = self
            .agent_data()
            .map(|agent| {
                if mutant!(ChildAliasesParent) {
                    return Ok(agent.bind(py).clone());
                }
                copied(agent, "agent_context")
            })
            .transpose()?;
        let audit = self
            .audit_data()
            .map(|audit| copied(audit, "audit_metadata"))
            .transpose()?;
        let parent = self.operation_name(py, agent.as_ref())?;
        let core = self
            .core
            .child(operation, CLOCK.now())
            .map_err(|error| to_python(py, error))?;
        let name = match name {
            Some(name) if name.is_exact_instance_of::<PyString>() => name.clone(),
            _ => PyString::new(py, operation),
        };
        let mut child = Self::make(Parts {
            core: Arc::new(core),
            created_given: false,
            texts: self.texts.of_child(py),
            operation: Some(Operation {
                name: name.unbind(),
                parent: parent.unbind(),
                audited: false,
            }),
            session: self.session.as_ref().map(|session| session.clone_ref(py)),
            websocket_client: self.websocket_client.clone(),
            session_id: self.session_id.clone(),
            strict: self.strict,
            agent_context: agent,
            audit,
            permissions: self.permissions.clone(),
            flags: self.inherited_flags(py),
        });
        if let Some(more) = more_agent {
            child.agent_dict(py)?.update(more.as_mapping())?;
        }
        if let Some(more) = more_audit {
            child.add_audit(py, &more)?;
        }
        child.request.set(self.request(py)?.clone().unbind());
        Bound::new(py, child)
    }

    /// The same, with one dictionary of metadata for both.
    #[pyo3(signature = (operation_name, additional_metadata = None))]
    fn create_child_context_supervisor<'py>(
        &self,
        py: Python<'py>,
        operation_name: &Bound<'py, PyAny>,
        additional_metadata: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let split = SplitMetadata::of_child(py, additional_metadata, "additional_metadata")?;
        let (agent, audit) = (split.agent.as_any(), split.audit.as_any());
        self.create_child_context(py, Some(operation_name), Some(agent), Some(audit), None, None)
    }

    /// The same context with a database session. `None` is refused.
    fn with_db_session<'py>(&self, py: Python<'py>, db_session: Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        if db_session.is_none() {
            let message = "db_session must not be None".to_owned();
            return Err(refused(
                py,
                "db_session",
                "None",
                "required",
                message,
                "Pass the session of this request",
            ));
        }
        self.copied(py, Some(db_session.unbind()), self.websocket_client.clone())
    }

    /// The same context with a socket. A blank id is refused.
    fn with_websocket_connection<'py>(
        &self,
        py: Python<'py>,
        connection_id: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Self>> {
        let id = printable(connection_id, "connection_id")?;
        self.copied(
            py,
            self.session.as_ref().map(|session| session.clone_ref(py)),
            Some(Box::from(id)),
        )
    }

    /// The same as `with_websocket_connection`.
    fn with_websocket_connection_supervisor<'py>(
        &self,
        py: Python<'py>,
        connection_id: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Self>> {
        self.with_websocket_connection(py, connection_id)
    }

    /// A key for what a component keeps for this request: `component:user:request`, where `:` and `%` inside of a part are written
    /// as `%3A` and `%25`, so that no two requests share a key. Raises `ValueError` for a blank component.
    fn get_scoped_key(&self, component: &str) -> PyResult<String> {
        if component.trim().is_empty() {
            return Err(PyValueError::new_err(
                "component must be a non-empty string, e.g. 'cache'",
            ));
        }
        let identity = self.core.identity();
        let part = |part: &str| part.replace('%', "%25").replace(':', "%3A");
        let (user, request) = (identity.user.as_str(), identity.request.as_str());
        Ok([component, user, request].map(part).join(":"))
    }

    // -- checks and views -----------------------------------------------------------------------------------------------

    /// Whether what the context holds is its own: `True`, or `ContextIsolationError`. Finds a database session that another
    /// user's context holds, reserved keys and objects of another user in the dictionaries, and a container that a context
    /// verified before holds too. Looks at 10 000 values at most. `isolane.audit_isolation()` compares all contexts.
    fn verify_isolation(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        slf.get().stamp.check(py)?;
        match verify::inspect(slf)?.into_iter().next() {
            None => {
                slf.get()
                    .core
                    .record("isolation_verified", slf.get().core.identity().request.as_str(), &CLOCK);
                Ok(true)
            }
            Some(finding) => Err(finding.into_error(py)),
        }
    }

    /// `user:thread:run:request`, eight characters of each.
    fn get_correlation_id(&self) -> String {
        self.core.identity().correlation()
    }

    /// Ids, times and the audit metadata, with `record`: what happened to the context, which nobody can edit.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn get_audit_trail<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let trail = PyDict::new(py);
        trail.set_item("correlation_id", self.get_correlation_id())?;
        self.put_ids(py, &trail)?;
        trail.set_item("has_websocket", self.websocket_client.is_some())?;
        trail.set_item("audit_metadata", copied_dict(self.audit_dict(py)?, "audit_metadata")?)?;
        trail.set_item("context_age_seconds", seconds(self.core.age(&CLOCK)))?;
        let (entries, dropped) = self.core.audit();
        let record = PyList::empty(py);
        for entry in entries {
            let line = PyDict::new(py);
            line.set_item("at", datetime(py, entry.at)?.call_method0(intern!(py, "isoformat"))?)?;
            line.set_item("event", entry.event)?;
            line.set_item("subject", &*entry.subject)?;
            record.append(line)?;
        }
        trail.set_item("record", record)?;
        trail.set_item("record_dropped", dropped)?;
        Ok(trail)
    }

    /// The context as JSON-able data, without the session.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        self.put_ids(py, &dict)?;
        dict.set_item("context_id", self.request_id(py))?;
        dict.set_item("session_id", self.session_id())?;
        dict.set_item("status", self.core.state().name())?;
        dict.set_item("websocket_client_id", self.websocket_client_id())?;
        dict.set_item("websocket_connection_id", self.websocket_client_id())?;
        dict.set_item("agent_context", copied_dict(self.agent_dict(py)?, "agent_context")?)?;
        dict.set_item("audit_metadata", copied_dict(self.audit_dict(py)?, "audit_metadata")?)?;
        dict.set_item("metadata", self.merged_metadata(py)?)?;
        if was_installed() {
            let flags = self.flags.get().map(|flags| flags.get().to_dict(py)).transpose()?;
            dict.set_item("flags", flags)?;
        }
        dict.set_item("implementation", "isolane")?;
        dict.set_item("compatibility_layer_active", false)?;
        Ok(dict)
    }

    // -- runs -----------------------------------------------------------------------------------------------------------

    /// Records that a run of an agent began. Returns its id, made when absent. Raises `ValueError` for an id that is active,
    /// `ContextStateError` when the context has ended.
    #[pyo3(signature = (run_id = None, agent_type = "agent", metadata = None))]
    fn record_run_start(
        &self,
        py: Python<'_>,
        run_id: Option<&str>,
        agent_type: &str,
        metadata: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        self.stamp.check(py)?;
        self.check_fence(py)?;
        let id = run_id.map_or_else(|| ids::fresh_with("exec"), str::to_owned);
        let own = self.own(py)?.get();
        let note = own.add_note(Note {
            metadata,
            ..Note::default()
        });
        if let Err(fault) = self.core.start_run(&id, agent_type, note, &CLOCK) {
            drop(own.take_notes(std::iter::once(note)));
            return Err(Self::fault(py, fault));
        }
        Ok(id)
    }

    /// Records that a run ended well.
    #[pyo3(signature = (run_id, result = None))]
    fn record_run_success(&self, py: Python<'_>, run_id: &str, result: Option<Py<PyAny>>) -> PyResult<()> {
        self.end_run(py, run_id, RunOutcome::Success, |note| note.result = result)
    }

    /// Records that a run failed.
    #[pyo3(signature = (run_id, error = None))]
    fn record_run_failure(&self, py: Python<'_>, run_id: &str, error: Option<Py<PyAny>>) -> PyResult<()> {
        let outcome = error
            .as_ref()
            .map_or(RunOutcome::Failure, |error| why_failed(error.bind(py)));
        self.end_run(py, run_id, outcome, |note| note.error = error)
    }

    /// Records a run that got no permit, so that it never began.
    fn _record_refusal(&self, py: Python<'_>, agent_type: &str, error: Py<PyAny>) -> PyResult<()> {
        let id = self.record_run_start(py, None, agent_type, None)?;
        self.end_run(py, &id, RunOutcome::Refused, |note| note.error = Some(error))
    }

    /// Records that one run of this context started another.
    fn add_child_run(&self, py: Python<'_>, run_id: &str, child_run_id: &str) -> PyResult<()> {
        self.stamp.check(py)?;
        self.check_fence(py)?;
        self.core
            .add_child_run(run_id, child_run_id)
            .map_err(|fault| Self::fault(py, fault))
    }

    /// Seconds that a run took, or has taken so far; `None` for an unknown run.
    fn get_run_duration(&self, run_id: &str) -> Option<f64> {
        self.core.with_runs(|runs| {
            let record = runs.get(run_id)?;
            let so_far = || crate::clock::Clock::monotonic(&CLOCK).saturating_sub(record.started_monotonic);
            Some(seconds(record.duration.unwrap_or_else(so_far)))
        })
    }

    /// The run that began last and has not ended, or `None`.
    #[getter]
    fn current_run_id(&self) -> Option<String> {
        self.core.with_runs(|runs| runs.current().map(str::to_owned))
    }

    /// Runs that have not ended, by id.
    #[getter]
    fn active_runs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let records = self.core.with_runs(|runs| runs.active().cloned().collect::<Vec<_>>());
        let active = PyDict::new(py);
        for record in records {
            active.set_item(&record.id, Py::new(py, self.run(py, &record)?)?)?;
        }
        Ok(active)
    }

    /// The last 100 runs that ended, oldest first.
    #[getter]
    fn run_history(&self, py: Python<'_>) -> PyResult<Vec<ExecutionRun>> {
        let records = self.core.with_runs(|runs| runs.history().cloned().collect::<Vec<_>>());
        records.iter().map(|record| self.run(py, record)).collect()
    }

    /// Totals over all runs.
    #[getter]
    fn execution_metrics(&self) -> PyExecutionMetrics {
        self.core.with_runs(|runs| PyExecutionMetrics::of(runs.metrics()))
    }

    // -- life -----------------------------------------------------------------------------------------------------------

    /// Takes one of the user's and the process's execution permits: `async with context.acquire_execution_lock(): …`.
    /// `timeout` in seconds covers the whole wait. Steps and children under it borrow the permit. Raises `LimitTimeout`.
    #[pyo3(signature = (timeout = 30.0))]
    fn acquire_execution_lock(slf: &Bound<'_, Self>, timeout: f64) -> PyResult<Slot> {
        slf.get().stamp.check(slf.py())?;
        slf.get().check_fence(slf.py())?;
        let limiter = super::limits::default_limiter(slf.py())?;
        Slot::in_context(limiter.bind(slf.py()), slf, timeout)
    }

    /// Registers what `cleanup` is to call, last registered first. `callback` takes no arguments and may be a coroutine
    /// function; `timeout` is its own deadline in seconds. At most 1 000.
    #[pyo3(signature = (callback, timeout = 5.0))]
    fn register_cleanup_callback(&self, py: Python<'_>, callback: Bound<'_, PyAny>, timeout: f64) -> PyResult<()> {
        self.stamp.check(py)?;
        self.check_fence(py)?;
        if !callback.is_callable() {
            return Err(PyTypeError::new_err(
                "callback must be callable without arguments; pass the function, not its result",
            ));
        }
        if self.core.state() == ContextState::Cleaned {
            let message = "the context was cleaned up, the callback would never run; register it before cleanup()";
            return Err(super::errors::ContextStateError::raise(py, message.to_owned()));
        }
        if self.own(py)?.get().push_callback(Callback {
            call: callback.unbind(),
            timeout,
        }) {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(
            "1000 cleanup callbacks are registered already; register one that cleans up many things",
        ))
    }

    /// Ends the context: runs that have not ended are failures; its tasks are cancelled; callbacks run, last registered first;
    /// the session made for the request is closed; the cache is emptied; the event stream ends. Calling it again does nothing.
    /// Returns the exceptions that callbacks raised.
    #[pyo3(signature = () -> "collections.abc.Awaitable[tuple[BaseException, ...]]")]
    fn cleanup<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static CLOSE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        let context = slf.get();
        context.stamp.check(py)?;
        let nothing = || {
            let none = PyTuple::empty(py).into_any().unbind();
            Ok(Bound::new(py, ReadyAwaitable::value(none))?.into_any())
        };
        if context.own.get().is_some_and(|own| own.get().is_closing()) {
            return nothing();
        }
        let (_, dropped) = context.core.conclude(&CLOCK);
        context.drop_notes(dropped);
        let is_root = context.core.lineage().path().len() == 1;
        let request = context
            .request
            .get()
            .map(|request| request.bind(py))
            .filter(|_| is_root);
        let session = request.and_then(|request| request.get().take_session());
        let callbacks = context
            .own
            .get()
            .map(|own| own.get().take_callbacks())
            .unwrap_or_default();
        let cancel_tasks = context.canceller(py, is_root)?;
        if callbacks.is_empty() && session.is_none() && cancel_tasks.is_none() {
            context.finish(py);
            return nothing();
        }
        context.own(py)?.get().begin_closing();
        let close = CLOSE.get_or_try_init(py, || {
            py.import("isolane.contexts.closing")?
                .getattr("close_context")
                .map(Bound::unbind)
        })?;
        // Tasks first: what the callbacks free may be in use by them.
        let cancel_tasks = cancel_tasks.map(|cancel| (cancel.unbind(), TASKS_END_SECONDS));
        let callbacks = callbacks.into_iter().map(|callback| (callback.call, callback.timeout));
        let callbacks: Vec<_> = cancel_tasks.into_iter().chain(callbacks).collect();
        close.bind(py).call1((slf, callbacks, session))
    }

    /// Ends the context as failed, whatever its runs came to. Used by the engine whose time is over.
    #[pyo3(name = "_fail")]
    fn fail(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        self.stamp.check(py)?;
        let (_, dropped) = self.core.fail(reason, &CLOCK);
        self.drop_notes(dropped);
        Ok(())
    }

    /// The last step of `cleanup`.
    #[pyo3(name = "_finish")]
    fn finish(&self, py: Python<'_>) {
        if let Some(tools) = self.tools.get()
            && let Err(error) = tools.bind(py).call_method0(intern!(py, "_close"))
        {
            error.write_unraisable(py, Some(tools.bind(py)));
        }
        if let Some(own) = self.own.get() {
            own.get().end_closing();
            own.get().close_cache();
        }
        if self.core.lineage().path().len() == 1
            && let Some(request) = self.request.get()
        {
            use crate::clock::Clock;
            request.get().end();
            if let Some(writer) = request.get().take_writer() {
                writer.log().end(None, "the run ended", CLOCK.unix(), CLOCK.monotonic());
            }
        }
        let dropped = self.core.clean(&CLOCK);
        self.drop_notes(dropped);
        self.unbind_session();
        let mut claims = std::mem::take(&mut *self.claims.lock().unwrap_or_else(PoisonError::into_inner));
        verify::release_claims(self.serial, &mut claims);
    }

    /// The cache of this context: 1000 entries, 64 MiB, 300 s, made when it is first read, charged to the user, emptied with the
    /// context. Copies share it; children have their own. Raises `ContextStateError` after the clean-up.
    #[getter]
    fn context_cache<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, super::cache::TtlCache>> {
        self.cache_of(py)
    }

    /// Starts a task that is cancelled when this context, or the root of the run, is cleaned up. At most 1000 at a time: one more
    /// is a `RuntimeError`. Raises `ContextStateError` when the context has ended; the coroutine is closed then.
    #[pyo3(signature = (coro: "collections.abc.Coroutine[typing.Any, typing.Any, typing.Any]", *, name = None) -> "asyncio.Task[typing.Any]")]
    fn create_task<'py>(
        slf: &Bound<'py, Self>,
        coro: Bound<'py, PyAny>,
        name: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::start_task(slf, coro, name)
    }

    /// What the user and the process hold now, as `ResourceMetrics`.
    #[pyo3(signature = () -> "isolane.memory.ResourceMetrics")]
    fn get_resource_usage<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static MEASURE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        let measure = MEASURE.get_or_try_init(py, || {
            py.import("isolane.memory.metrics")?
                .getattr("measure")
                .map(Bound::unbind)
        })?;
        measure.bind(py).call1((slf,))
    }

    /// Lets the context outlive its request: the middleware will not close it, the engine that runs it does. Returns itself.
    fn detach(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().stamp.check(slf.py())?;
        slf.get().check_fence(slf.py())?;
        slf.get()
            .core
            .detach(&CLOCK)
            .map_err(|fault| Self::fault(slf.py(), fault))?;
        Ok(slf)
    }

    /// Whether it outlives its request.
    #[getter]
    fn is_detached(&self) -> bool {
        self.core.is_detached()
    }

    /// Notes that something happened.
    fn update_activity(&self) {
        self.core.touch(&CLOCK);
    }

    /// Whether it belongs to this process, has not ended, and no more runs failed than succeeded.
    fn is_healthy(&self) -> bool {
        let counts = self.core.with_runs(crate::context::RunBook::counts);
        self.stamp.is_current() && !self.core.state().is_over() && counts.failed <= counts.succeeded.max(1)
    }

    /// State, ages and counts.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn get_status_summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let summary = PyDict::new(py);
        self.put_ids(py, &summary)?;
        let counts = self.core.with_runs(crate::context::RunBook::counts);
        summary.set_item("status", self.core.state().name())?;
        summary.set_item("is_healthy", self.is_healthy())?;
        summary.set_item("is_detached", self.is_detached())?;
        summary.set_item("active_runs", counts.executing)?;
        summary.set_item("waiting_runs", counts.parked)?;
        summary.set_item("age_seconds", seconds(self.core.age(&CLOCK)))?;
        summary.set_item("idle_seconds", seconds(self.core.idle(&CLOCK)))?;
        let callbacks = self.own.get().map_or(0, |own| own.get().callback_count());
        summary.set_item("cleanup_callbacks", callbacks)?;
        summary.set_item(
            "execution_metrics",
            self.execution_metrics()
                .into_pyobject(py)?
                .call_method0("get_performance_summary")?,
        )?;
        Ok(summary)
    }

    // -- bindings -------------------------------------------------------------------------------------------------------

    /// The emitter that publishes this context's events into the stream of its run.
    fn get_websocket_emitter<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, UserWebSocketEmitter>> {
        self.stamp.check(py)?;
        self.check_fence(py)?;
        self.check_not_ended(py)?;
        let emitter = self.emitter.get_or_make(|| {
            let writer = self.open_stream(py)?;
            let mask = self.request(py)?.get().event_mask();
            Py::new(py, UserWebSocketEmitter::for_context(self, writer, mask))
        })?;
        Ok(emitter.bind(py).clone())
    }

    /// The database session of the run: made on first use by what `setup(session_factory=…)` was given, closed with the run;
    /// or the session given at construction. Raises `RuntimeError` when there is neither.
    fn get_database_session<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let context = slf.get();
        context.stamp.check(py)?;
        context.check_fence(py)?;
        let request = context.request(py)?.get();
        if let Some(session) = request.session(py) {
            return Ok(session.into_bound(py));
        }
        let Some(factory) = request.session_factory(py) else {
            return context.db_session(py).map(|session| session.into_bound(py)).ok_or_else(|| {
                PyRuntimeError::new_err(
                    "No database session: pass session_factory to isolane.fastapi.setup, or db_session to the context",
                )
            });
        };
        if request.has_ended() || context.core.state() == ContextState::Cleaned {
            let message = "the context was cleaned up, a new session would never be closed";
            return Err(super::errors::ContextStateError::raise(py, message.to_owned()));
        }
        let session = factory.bind(py).call1((slf,))?;
        if super::loops::is_coroutine(&session)? {
            session.call_method0(intern!(py, "close"))?;
            return Err(PyTypeError::new_err(
                "session_factory must return a session, not a coroutine; use a plain function",
            ));
        }
        if let Some(held) = request.set_session_once(py, &session) {
            // Another thread was faster. Its session is the one; this one is closed with the context.
            if let Ok(close) = session.getattr(intern!(py, "close")) {
                context.register_cleanup_callback(py, close, 5.0)?;
            }
            return Ok(held.into_bound(py));
        }
        Ok(session)
    }

    /// Sets what makes the database session of the run: called with the context, on first use.
    fn bind_session_factory(&self, py: Python<'_>, session_factory: Py<PyAny>) -> PyResult<()> {
        self.stamp.check(py)?;
        self.check_fence(py)?;
        self.request(py)?.get().set_session_factory(session_factory);
        Ok(())
    }

    /// Sets what makes the tool dispatchers of the run: an `UnifiedToolDispatcherFactory`, or what has its
    /// `create_dispatcher(context)`.
    fn bind_tool_dispatcher_factory(&self, py: Python<'_>, factory: Py<PyAny>) -> PyResult<()> {
        self.stamp.check(py)?;
        self.check_fence(py)?;
        self.request(py)?.get().set_tool_factory(factory);
        Ok(())
    }

    /// The tool dispatcher of this context, made on first use by the factory that the run has. A child has its own, so that its
    /// tool calls are shown in its own execution. Raises `RuntimeError` when the run has no factory.
    #[pyo3(signature = () -> "isolane.tools.UnifiedToolDispatcher")]
    fn get_tool_dispatcher<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let context = slf.get();
        context.stamp.check(py)?;
        context.check_fence(py)?;
        if let Some(tools) = context.tools.get() {
            return Ok(tools.bind(py).clone());
        }
        context.check_not_ended(py)?;
        let Some(factory) = context.request(py)?.get().tool_factory(py) else {
            return Err(PyRuntimeError::new_err(
                "this run has no tools: pass tools=UnifiedToolDispatcherFactory(...) to setup in a FastAPI application, \
                 tool_dispatcher_factory= to the ExecutionEngineFactory elsewhere, or bind one with \
                 context.bind_tool_dispatcher_factory(factory)",
            ));
        };
        let made = factory
            .bind(py)
            .call_method1(intern!(py, "create_dispatcher"), (slf,))?;
        context.tools.set(made.unbind());
        let tools = context.tools.get().expect("set by this thread or by another");
        Ok(tools.bind(py).clone())
    }

    // -- protocol -------------------------------------------------------------------------------------------------------

    fn __setattr__(&self, py: Python<'_>, name: &Bound<'_, PyString>, _value: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(frozen(py, "assign to", name))
    }

    fn __delattr__(&self, py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<()> {
        Err(frozen(py, "delete", name))
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let Ok(other) = other.cast::<Self>() else {
            return Ok(py.NotImplemented());
        };
        let other = other.get();
        let same = self.core.identity() == other.core.identity()
            && self.core.created() == other.core.created()
            && self.core.lineage().depth() == other.core.lineage().depth()
            && self.core.lineage().parent() == other.core.lineage().parent()
            && self.websocket_client == other.websocket_client
            && self.permissions == other.permissions
            && self.agent_dict(py)?.eq(other.agent_dict(py)?)?
            && self.audit_dict(py)?.eq(other.audit_dict(py)?)?;
        Ok(same.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.core.identity().hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        let identity = self.core.identity();
        format!(
            "<UserExecutionContext user={} thread={} run={} request={} depth={} {}>",
            ids::shorten(identity.user.as_str()),
            ids::shorten(identity.thread.as_str()),
            ids::shorten(identity.run.as_str()),
            ids::shorten(identity.request.as_str()),
            self.core.lineage().depth(),
            self.core.state().name()
        )
    }

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(&self, _memo: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a UserExecutionContext cannot be deep-copied: it owns live resources of its request. Use create_child_context, \
             or pass the context itself",
        ))
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a UserExecutionContext cannot be pickled: it belongs to one request in one process. Send to_dict() and make a new \
             context on the other side",
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(session) = &self.session {
            visit.call(session)?;
        }
        for given in [&self.given_agent, &self.given_audit].into_iter().flatten() {
            visit.call(given)?;
        }
        if let Some(operation) = &self.operation {
            visit.call(&operation.parent)?;
        }
        self.agent_context.traverse(&visit)?;
        self.created_at.traverse(&visit)?;
        self.audit.traverse(&visit)?;
        self.own.traverse(&visit)?;
        self.request.traverse(&visit)?;
        self.emitter.traverse(&visit)?;
        self.tools.traverse(&visit)?;
        self.flags.traverse(&visit)?;
        if let Ok(claims) = self.claims.try_lock() {
            for container in claims.iter() {
                visit.call(container)?;
            }
        }
        Ok(())
    }
}
