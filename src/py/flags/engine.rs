//! `FlagEngine`, and the one that contexts take their snapshots from.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pyo3::{PyTraverseError, PyVisit};

use super::super::context::PyContext;
use super::super::errors::{BudgetExceeded, FlagConfigError};
use super::decision::FlagDecision;
use super::snapshot::FlagSnapshot;
use super::values::{self, Digits};
use crate::flags::{Algorithm, Attributes, Bucketing, Document, FlagFault, State, Store, TooMany, Unit};

/// Decides which users have a flag on, by a document in JSON.
///
/// Without a document every flag is off. `attributes_of` is asked with a user's id for what rules look at, such as
/// `{"tier": "enterprise"}`, when a decision wants it and no attributes are given. It is called on the event loop: it must be a
/// plain function that answers at once. When it raises, no rule matches and the decision says `GENERAL`.
///
/// Deciding never raises and never waits. May be used from many threads, and in the children of a fork.
#[pyclass(frozen, weakref, module = "isolane")]
#[derive(Debug)]
pub(crate) struct FlagEngine {
    store: Store,
    attributes_of: Option<Py<PyAny>>,
    attribute_failures: AtomicU64,
}

fn refused(py: Python<'_>, fault: FlagFault) -> PyErr {
    let message = fault.to_string();
    FlagConfigError::raise(py, message, fault.path, fault.problem, fault.fix)
}

fn full(py: Python<'_>, bound: TooMany) -> PyErr {
    let message = format!("{bound}; release some that are over");
    BudgetExceeded::raise(py, message, bound.limit, "process".to_owned())
}

fn document_text<'a>(text: &'a Bound<'_, PyString>) -> Result<&'a str, FlagFault> {
    text.to_str().map_err(|_| {
        let fix = "Read the file as UTF-8";
        FlagFault::new("", "it contains a lone surrogate", fix)
    })
}

impl FlagEngine {
    pub(super) fn state(&self) -> std::sync::Arc<State> {
        self.store.state()
    }

    /// Whether there is anybody to ask for attributes.
    pub(super) const fn asks(&self) -> bool {
        self.attributes_of.is_some()
    }

    /// What the application knows of a user. Runs Python; nothing is locked.
    pub(super) fn ask(&self, py: Python<'_>, document: &Document, unit: Unit<'_>) -> Attributes {
        let Some(attributes_of) = &self.attributes_of else {
            return Attributes::default();
        };
        let found = values::asked(document, attributes_of.bind(py), unit);
        if found == Attributes::failed() {
            self.attribute_failures.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// Attributes for one decision: those that are given, or those that the application knows, where a rule looks at any.
    fn attributes(
        &self,
        state: &State,
        flag: &str,
        unit: Unit<'_>,
        given: Option<&Bound<'_, PyAny>>,
        py: Python<'_>,
    ) -> Attributes {
        if !state.document().reads_attributes(flag) {
            return Attributes::default();
        }
        match given {
            Some(given) => values::attributes(state.document(), given),
            None => self.ask(py, state.document(), unit),
        }
    }
}

#[pymethods]
impl FlagEngine {
    #[new]
    #[pyo3(signature = (*, attributes_of: "collections.abc.Callable[[str], collections.abc.Mapping[str, str] | None] | None" = None))]
    fn new(attributes_of: Option<Bound<'_, PyAny>>) -> PyResult<Self> {
        if let Some(attributes_of) = attributes_of.as_ref().filter(|given| !given.is_callable()) {
            return Err(PyTypeError::new_err(format!(
                "attributes_of must be a function that takes a user id, got {}",
                attributes_of.get_type().name()?
            )));
        }
        Ok(Self {
            store: Store::new(),
            attributes_of: attributes_of.map(Bound::unbind),
            attribute_failures: AtomicU64::new(0),
        })
    }

    /// Puts a document in force and answers its revision. `origin` names where it came from. A document whose revision is lower
    /// than that in force is refused, unless `force`; its kill switch and its rollbacks count all the same. Raises
    /// `FlagConfigError`: what was in force stays, and its decisions say `STALE` until a document is loaded.
    #[pyo3(signature = (text, origin = None, *, force = false))]
    fn load(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyString>,
        origin: Option<&Bound<'_, PyString>>,
        force: bool,
    ) -> PyResult<u64> {
        // The path of a file may hold what is no UTF-8.
        let origin = origin.map(|origin| origin.to_string_lossy()).unwrap_or_default();
        let before = self.store.state();
        let read = match document_text(text) {
            // A document may be large: other threads go on meanwhile.
            Ok(text) => py.detach(|| Document::read(text, &origin)),
            Err(fault) => Err(fault),
        };
        let taken = self.store.put(read, force);
        // The same goes for what it replaces.
        py.detach(|| drop(before));
        taken.map_err(|fault| refused(py, fault))
    }

    /// Answers the revision of a document without putting it in force. Raises `FlagConfigError`.
    #[staticmethod]
    fn check(py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<u64> {
        let read = document_text(text).and_then(|text| py.detach(|| Document::read(text, "")));
        read.map(|document| document.revision())
            .map_err(|fault| refused(py, fault))
    }

    /// Says whether the document in force could not be read anew: its decisions have the reason `STALE` then. With `False` what
    /// an older document has turned off is as the one in force says.
    fn set_stale(&self, stale: bool) {
        self.store.set_stale(stale);
    }

    /// Whether decisions say `STALE`.
    #[getter]
    fn is_stale(&self) -> bool {
        self.store.state().is_stale()
    }

    /// Whether a flag is on for a user, and why. `unit` is the user's id, a text or a whole number; `attributes` is what is known
    /// of the user. Never raises, whatever it is given: what cannot be decided is off, and says why.
    #[pyo3(signature = (
        flag: "str", unit: "str | int | None", attributes: "collections.abc.Mapping[str, str] | None" = None,
    ) -> "FlagDecision")]
    fn decide(
        &self,
        flag: &Bound<'_, PyAny>,
        unit: &Bound<'_, PyAny>,
        attributes: Option<&Bound<'_, PyAny>>,
    ) -> FlagDecision {
        let mut digits = Digits::default();
        let (name, unit) = (values::flag_name(flag), values::unit(unit, &mut digits));
        let state = self.store.state();
        let known = self.attributes(&state, name, unit, attributes, flag.py());
        let decision = state.decide(name, unit, &known);
        state.count(&decision);
        decision.into()
    }

    /// Whether a flag is on for a user.
    #[pyo3(signature = (
        flag: "str", unit: "str | int | None", attributes: "collections.abc.Mapping[str, str] | None" = None,
    ) -> "bool")]
    fn is_on(&self, flag: &Bound<'_, PyAny>, unit: &Bound<'_, PyAny>, attributes: Option<&Bound<'_, PyAny>>) -> bool {
        let mut digits = Digits::default();
        let (name, unit) = (values::flag_name(flag), values::unit(unit, &mut digits));
        let state = self.store.state();
        let known = self.attributes(&state, name, unit, attributes, flag.py());
        state.is_on(name, unit, &known)
    }

    /// The flags of this moment for one user; its answers stay, whatever changes.
    #[pyo3(signature = (
        unit: "str | int | None", attributes: "collections.abc.Mapping[str, str] | None" = None,
    ) -> "FlagSnapshot")]
    fn snapshot(slf: &Bound<'_, Self>, unit: &Bound<'_, PyAny>, attributes: Option<&Bound<'_, PyAny>>) -> FlagSnapshot {
        let mut digits = Digits::default();
        FlagSnapshot::of(slf, values::unit(unit, &mut digits), attributes)
    }

    /// The snapshot that a context keeps. One that was made before the engine was installed gets it now, and its later children
    /// get the same.
    fn pin<'py>(slf: &Bound<'py, Self>, context: &Bound<'py, PyContext>) -> PyResult<Bound<'py, FlagSnapshot>> {
        let py = slf.py();
        let made = context.get().flags_or(|| {
            let user = context.get().core().identity().user.as_str();
            Py::new(py, FlagSnapshot::of(slf, Unit::of(user), None))
        })?;
        Ok(made.bind(py).clone())
    }

    /// Rolls a flag back: it is off until `release`, or until a later document says who `resumed` it. `record` says why, as
    /// text. The first record stays. Raises `BudgetExceeded` for more than 1000 names that no document has.
    fn latch(&self, py: Python<'_>, flag: &str, record: &str) -> PyResult<()> {
        self.store.latch(flag, record).map_err(|bound| full(py, bound))
    }

    /// Takes back a rollback of this process and answers whether there was one. One that stands in the document stays: the
    /// document says who resumed.
    fn release(&self, flag: &str) -> bool {
        self.store.release(flag)
    }

    /// The records of rollbacks in force, by flag: of this process and of the document.
    #[pyo3(signature = () -> "dict[str, str]")]
    fn latched<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (flag, record) in self.store.state().latched() {
            dict.set_item(&*flag, &*record)?;
        }
        Ok(dict)
    }

    /// Every flag is off for this user until `release_user`. Raises `BudgetExceeded` for more than 10 000 users.
    fn quarantine(&self, py: Python<'_>, user_id: &str) -> PyResult<()> {
        self.store.quarantine(user_id).map_err(|bound| full(py, bound))
    }

    /// Ends the quarantine of a user. Answers whether there was one.
    fn release_user(&self, user_id: &str) -> bool {
        self.store.release_user(user_id)
    }

    /// How many users are quarantined.
    #[getter]
    fn quarantined(&self) -> usize {
        self.store.state().quarantined()
    }

    /// Throws this process's kill switch: every flag is off, whatever the document says.
    fn kill(&self) {
        self.store.set_killed(true);
    }

    /// Takes the process's kill switch back. That of the document stays.
    fn unkill(&self) {
        self.store.set_killed(false);
    }

    /// Whether a kill switch is thrown, the process's or the document's.
    #[getter]
    fn is_killed(&self) -> bool {
        self.store.state().is_killed()
    }

    /// The document in force, as it was written.
    fn document<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        PyString::new(py, self.store.state().document().text())
    }

    /// The revision of the document in force; 0 before the first.
    #[getter]
    fn revision(&self) -> u64 {
        self.store.state().document().revision()
    }

    /// Where the document in force came from.
    #[getter]
    fn origin(&self) -> String {
        self.store.state().document().origin().to_owned()
    }

    /// The names of its flags, in order.
    fn flags(&self) -> Vec<String> {
        let state = self.store.state();
        state.document().flags().map(ToString::to_string).collect()
    }

    /// The stage of a flag's migration of data, as the document has it, or `None`.
    fn stage(&self, flag: &str) -> Option<&'static str> {
        self.store.state().document().stage(flag).map(crate::flags::Stage::name)
    }

    /// How often `attributes_of` raised, or answered what is no mapping.
    #[getter]
    fn attribute_failures(&self) -> u64 {
        self.attribute_failures.load(Ordering::Relaxed)
    }

    fn __repr__(&self) -> String {
        let state = self.store.state();
        format!(
            "<FlagEngine {} flags at revision {}{}>",
            state.document().flags().len(),
            state.document().revision(),
            if state.is_stale() { ", stale" } else { "" }
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.attributes_of.as_ref().map_or(Ok(()), |asked| visit.call(asked))
    }
}

/// The engine that contexts take their snapshots from.
static INSTALLED: Mutex<Option<Py<FlagEngine>>> = Mutex::new(None);
/// Whether there is one: what a context looks at first.
static IS_INSTALLED: AtomicBool = AtomicBool::new(false);
/// Whether there ever was one.
static WAS_INSTALLED: AtomicBool = AtomicBool::new(false);

fn lock() -> MutexGuard<'static, Option<Py<FlagEngine>>> {
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn installed(py: Python<'_>) -> Option<Py<FlagEngine>> {
    if !IS_INSTALLED.load(Ordering::Acquire) {
        return None;
    }
    lock().as_ref().map(|engine| engine.clone_ref(py))
}

/// The state in force of the engine that is installed.
pub(crate) fn installed_state() -> Option<std::sync::Arc<State>> {
    if !IS_INSTALLED.load(Ordering::Acquire) {
        return None;
    }
    lock().as_ref().map(|engine| engine.get().state())
}

/// Whether an engine was ever installed.
pub(crate) fn was_installed() -> bool {
    WAS_INSTALLED.load(Ordering::Acquire)
}

/// Makes contexts keep a snapshot of this engine from now on, or of none. Answers the one before.
#[pyfunction]
#[pyo3(signature = (engine))]
pub(crate) fn install_flags(engine: Option<Py<FlagEngine>>) -> Option<Py<FlagEngine>> {
    let is_there = engine.is_some();
    let mut held = lock();
    let before = std::mem::replace(&mut *held, engine);
    IS_INSTALLED.store(is_there, Ordering::Release);
    WAS_INSTALLED.fetch_or(is_there, Ordering::AcqRel);
    before
}

/// The engine that contexts take their snapshots from, or `None`.
#[pyfunction]
pub(crate) fn installed_flags(py: Python<'_>) -> Option<Py<FlagEngine>> {
    installed(py)
}

/// The bucket of a user, from 0 to 99999: `algorithm` is `mm3-mul-v1`, `unleash` or `growthbook-v2`. For comparing with what
/// another system computes. Raises `ValueError` for another algorithm.
#[pyfunction]
pub(crate) fn bucket(algorithm: &str, salt: &str, unit: &str) -> PyResult<u32> {
    let Some(algorithm) = Algorithm::named(algorithm) else {
        let names = Algorithm::ALL.map(Algorithm::name).join(", ");
        return Err(PyValueError::new_err(format!(
            "algorithm must be one of {names}, got {algorithm:?}"
        )));
    };
    Ok(Bucketing::new(algorithm, salt).bucket(unit))
}
