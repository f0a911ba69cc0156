//! What contexts share, as Python objects of their own: the collector counts references, so what is shared must be held
//! through one object, not through one Rust pointer from many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PySet;
use pyo3::{PyTraverseError, PyVisit};

use super::cache::TtlCache;
use crate::clock::Micros;
use crate::events::{LogBounds, StreamWriter};
use crate::mutants::mutant;
use crate::sanitize::EventMask;

/// Most callbacks of one context: a loop that registers for ever is a leak, not a use.
const MAX_CALLBACKS: usize = 1_000;

/// Names what a caller attached to a run.
pub(crate) type NoteId = u64;

/// What a caller attached to a run.
#[derive(Debug, Default)]
pub(crate) struct Note {
    pub(crate) metadata: Option<Py<PyAny>>,
    pub(crate) result: Option<Py<PyAny>>,
    pub(crate) error: Option<Py<PyAny>>,
}

impl Note {
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        let clone = |object: &Option<Py<PyAny>>| object.as_ref().map(|object| object.clone_ref(py));
        Self {
            metadata: clone(&self.metadata),
            result: clone(&self.result),
            error: clone(&self.error),
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for object in [&self.metadata, &self.result, &self.error].into_iter().flatten() {
            visit.call(object)?;
        }
        Ok(())
    }
}

/// A clean-up callback and how long it may take, in seconds.
#[derive(Debug)]
pub(crate) struct Callback {
    pub(crate) call: Py<PyAny>,
    pub(crate) timeout: f64,
}

#[derive(Debug, Default)]
struct Own {
    callbacks: Vec<Callback>,
    notes: HashMap<NoteId, Note>,
    next_note: NoteId,
    cache: Option<Py<TtlCache>>,
    /// Tasks that were started through the context and have not ended.
    tasks: Option<Py<PySet>>,
    /// When the processor time of the user was read last, and what it was.
    cpu: Option<(Micros, f64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A set that is made when it is first asked for. Making it may run the collector, so nothing is locked meanwhile.
fn set_in<T>(
    py: Python<'_>,
    place: &Mutex<T>,
    field: impl Fn(&mut T) -> &mut Option<Py<PySet>>,
) -> PyResult<Py<PySet>> {
    if let Some(set) = field(&mut lock(place)) {
        return Ok(set.clone_ref(py));
    }
    let made = PySet::empty(py)?.unbind();
    Ok(field(&mut lock(place)).get_or_insert(made).clone_ref(py))
}

/// Belongs to one context and its copies: a copy with another session is the same context.
#[pyclass(frozen, module = "isolane._core", name = "_ContextBindings")]
#[derive(Debug, Default)]
pub(crate) struct ContextBindings {
    own: Mutex<Own>,
    closing: AtomicBool,
}

impl ContextBindings {
    /// Whether a clean-up is under way.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(crate) fn end_closing(&self) {
        self.closing.store(false, Ordering::Release);
    }

    /// Adds a callback. Answers `false` when there are too many.
    pub(crate) fn push_callback(&self, callback: Callback) -> bool {
        let mut own = lock(&self.own);
        let fits = own.callbacks.len() < MAX_CALLBACKS;
        if fits {
            own.callbacks.push(callback);
        }
        fits
    }

    /// Takes the callbacks, the latest first.
    pub(crate) fn take_callbacks(&self) -> Vec<Callback> {
        let mut callbacks = std::mem::take(&mut lock(&self.own).callbacks);
        callbacks.reverse();
        callbacks
    }

    pub(crate) fn callback_count(&self) -> usize {
        lock(&self.own).callbacks.len()
    }

    pub(crate) fn add_note(&self, note: Note) -> NoteId {
        let mut own = lock(&self.own);
        own.next_note += 1;
        let id = own.next_note;
        own.notes.insert(id, note);
        id
    }

    pub(crate) fn note(&self, py: Python<'_>, id: NoteId) -> Note {
        lock(&self.own)
            .notes
            .get(&id)
            .map(|note| note.clone_ref(py))
            .unwrap_or_default()
    }

    pub(crate) fn edit_note(&self, id: NoteId, edit: impl FnOnce(&mut Note)) {
        if let Some(note) = lock(&self.own).notes.get_mut(&id) {
            edit(note);
        }
    }

    /// The cache lets go of everything and takes nothing more.
    pub(crate) fn close_cache(&self) {
        let cache = lock(&self.own).cache.take();
        if let Some(cache) = cache.filter(|_| !mutant!(CacheKeptAfterCleanup)) {
            cache.get().close();
        }
    }

    pub(crate) fn cache(&self, py: Python<'_>) -> Option<Py<TtlCache>> {
        lock(&self.own).cache.as_ref().map(|cache| cache.clone_ref(py))
    }

    /// Keeps the cache unless there is one: then answers that.
    pub(crate) fn set_cache_once(&self, py: Python<'_>, cache: &Bound<'_, TtlCache>) -> Option<Py<TtlCache>> {
        let mut own = lock(&self.own);
        if let Some(held) = &own.cache {
            return Some(held.clone_ref(py));
        }
        own.cache = Some(cache.clone().unbind());
        None
    }

    /// The tasks of the context, made when they are first asked for.
    pub(crate) fn tasks(&self, py: Python<'_>) -> PyResult<Py<PySet>> {
        set_in(py, &self.own, |own| &mut own.tasks)
    }

    pub(crate) fn pending_tasks(&self, py: Python<'_>) -> usize {
        let tasks = lock(&self.own).tasks.as_ref().map(|tasks| tasks.clone_ref(py));
        tasks.map_or(0, |tasks| tasks.bind(py).len())
    }

    pub(crate) fn take_tasks(&self) -> Option<Py<PySet>> {
        lock(&self.own).tasks.take()
    }

    /// Notes the processor time of the user, and answers what was noted before.
    pub(crate) fn note_cpu(&self, now: Micros, seconds: f64) -> Option<(Micros, f64)> {
        lock(&self.own).cpu.replace((now, seconds))
    }

    /// Takes notes of runs that are no longer remembered.
    pub(crate) fn take_notes(&self, ids: impl Iterator<Item = NoteId>) -> Vec<Note> {
        let mut own = lock(&self.own);
        ids.filter_map(|id| own.notes.remove(&id)).collect()
    }
}

#[pymethods]
impl ContextBindings {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // The collector must not wait. No Python code runs under this lock, so it is only missed beside another thread.
        let Ok(own) = self.own.try_lock() else { return Ok(()) };
        for callback in &own.callbacks {
            visit.call(&callback.call)?;
        }
        if let Some(cache) = &own.cache {
            visit.call(cache)?;
        }
        if let Some(tasks) = &own.tasks {
            visit.call(tasks)?;
        }
        own.notes.values().try_for_each(|note| note.traverse(&visit))
    }

    fn __clear__(&self) {
        let cleared = self.own.try_lock().map(|mut own| std::mem::take(&mut *own));
        drop(cleared);
    }
}

#[derive(Debug, Default)]
struct Family {
    session_factory: Option<Py<PyAny>>,
    tool_factory: Option<Py<PyAny>>,
    session: Option<Py<PyAny>>,
    writer: Option<StreamWriter>,
    bounds: LogBounds,
    mask: EventMask,
    /// Tasks that were started through any of the contexts and have not ended.
    tasks: Option<Py<PySet>>,
    /// Whether the root context was cleaned up.
    ended: bool,
}

/// Belongs to a request: the root context, its copies and all its children.
#[pyclass(frozen, module = "isolane._core", name = "_RequestBindings")]
#[derive(Debug, Default)]
pub(crate) struct RequestBindings {
    family: Mutex<Family>,
}

impl RequestBindings {
    pub(crate) fn set_session_factory(&self, factory: Py<PyAny>) {
        let old = lock(&self.family).session_factory.replace(factory);
        drop(old);
    }

    pub(crate) fn session_factory(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        lock(&self.family)
            .session_factory
            .as_ref()
            .map(|factory| factory.clone_ref(py))
    }

    pub(crate) fn set_tool_factory(&self, factory: Py<PyAny>) {
        let old = lock(&self.family).tool_factory.replace(factory);
        drop(old);
    }

    pub(crate) fn tool_factory(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let family = lock(&self.family);
        family.tool_factory.as_ref().map(|factory| factory.clone_ref(py))
    }

    pub(crate) fn session(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        lock(&self.family).session.as_ref().map(|session| session.clone_ref(py))
    }

    /// Keeps the session unless there is one: then answers that.
    pub(crate) fn set_session_once(&self, py: Python<'_>, session: &Bound<'_, PyAny>) -> Option<Py<PyAny>> {
        let mut family = lock(&self.family);
        if let Some(held) = &family.session {
            return Some(held.clone_ref(py));
        }
        family.session = Some(session.clone().unbind());
        None
    }

    pub(crate) fn take_session(&self) -> Option<Py<PyAny>> {
        lock(&self.family).session.take()
    }

    /// The tasks of all contexts, made when they are first asked for.
    pub(crate) fn tasks(&self, py: Python<'_>) -> PyResult<Py<PySet>> {
        set_in(py, &self.family, |family| &mut family.tasks)
    }

    pub(crate) fn take_tasks(&self) -> Option<Py<PySet>> {
        lock(&self.family).tasks.take()
    }

    /// The root context was cleaned up: nothing is opened any more.
    pub(crate) fn end(&self) {
        lock(&self.family).ended = true;
    }

    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.family).ended
    }

    /// Sets the bounds of the event stream, for when it is opened, and what is masked in its events.
    pub(crate) fn set_bounds(&self, bounds: LogBounds, mask: EventMask) {
        let mut family = lock(&self.family);
        (family.bounds, family.mask) = (bounds, mask);
    }

    pub(crate) fn event_mask(&self) -> EventMask {
        lock(&self.family).mask
    }

    pub(crate) fn bounds(&self) -> LogBounds {
        lock(&self.family).bounds
    }

    pub(crate) fn writer(&self) -> Option<StreamWriter> {
        lock(&self.family).writer.clone()
    }

    pub(crate) fn set_writer(&self, writer: StreamWriter) {
        let old = lock(&self.family).writer.replace(writer);
        drop(old);
    }

    pub(crate) fn take_writer(&self) -> Option<StreamWriter> {
        lock(&self.family).writer.take()
    }
}

#[pymethods]
impl RequestBindings {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(family) = self.family.try_lock() else {
            return Ok(());
        };
        let objects = [&family.session_factory, &family.tool_factory, &family.session];
        for object in objects.into_iter().flatten() {
            visit.call(object)?;
        }
        family.tasks.as_ref().map_or(Ok(()), |tasks| visit.call(tasks))
    }

    fn __clear__(&self) {
        let cleared = self.family.try_lock().map(|mut family| std::mem::take(&mut *family));
        drop(cleared);
    }
}
