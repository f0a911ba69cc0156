//! Where the process's own boundaries ask the detector that is installed.
//!
//! Nothing is asked while none is: then a boundary costs one load.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::walk::{Located, SHORTEST, Walk};
use super::{PyScanner, PySighting};
use crate::isolation::{Boundary, Delivery, Depth, Found, Scanner};
use crate::mutants::mutant;

struct Gate {
    scanner: Arc<Scanner>,
    /// Called with the boundary, the user and the sightings; answers whether what was scanned is withheld.
    handler: Py<PyAny>,
}

/// The boundaries at which the installed detector looks.
static ON: AtomicU32 = AtomicU32::new(0);
static GATE: Mutex<Option<Arc<Gate>>> = Mutex::new(None);

fn slot() -> MutexGuard<'static, Option<Arc<Gate>>> {
    GATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gate(boundary: Boundary) -> Option<Arc<Gate>> {
    if ON.load(Ordering::Relaxed) & boundary.bit() == 0 {
        return None;
    }
    slot().clone()
}

/// Whether anybody looks at a boundary.
#[inline]
pub(crate) fn is_on(boundary: Boundary) -> bool {
    ON.load(Ordering::Relaxed) & boundary.bit() != 0
}

/// Has the boundaries of this process ask `scanner`, and `handler` when something is found. Takes the place of the one before.
#[pyfunction]
pub(crate) fn _install_scanner(
    scanner: &Bound<'_, PyScanner>,
    handler: Py<PyAny>,
    boundaries: Vec<String>,
) -> PyResult<()> {
    let mut bits = 0;
    for name in boundaries {
        let known =
            Boundary::named(&name).ok_or_else(|| PyValueError::new_err(format!("no boundary is named {name}")))?;
        bits |= known.bit();
    }
    let gate = Arc::new(Gate {
        scanner: scanner.get().inner.clone(),
        handler,
    });
    let former = slot().replace(gate);
    ON.store(bits, Ordering::Relaxed);
    // Dropping a Python object may run Python code, so it happens after the lock was let go.
    drop(former);
    Ok(())
}

/// Has them ask nobody, if it is `scanner` that they ask.
#[pyfunction]
pub(crate) fn _uninstall_scanner(scanner: &Bound<'_, PyScanner>) {
    let mut held = slot();
    let is_its = held
        .as_ref()
        .is_some_and(|gate| Arc::ptr_eq(&gate.scanner, &scanner.get().inner));
    let former = if is_its {
        ON.store(0, Ordering::Relaxed);
        held.take()
    } else {
        None
    };
    drop(held);
    drop(former);
}

/// In the child of a fork nobody is asked: the detector belongs to the parent.
pub(crate) fn after_fork_in_child() {
    ON.store(0, Ordering::Relaxed);
    // Leaked rather than dropped: it may run code of the parent's.
    std::mem::forget(slot().take());
}

/// Looks at a value at a boundary that is written in Python. Raises `ResponseWithheldError` when it is withheld.
#[pyfunction]
pub(crate) fn _check_boundary(boundary: &str, user: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    match Boundary::named(boundary) {
        Some(known) if is_on(known) => check_value(known, user, value),
        Some(_) => Ok(()),
        None => Err(PyValueError::new_err(format!("no boundary is named {boundary}"))),
    }
}

/// Whether a boundary asks this scanner.
pub(super) fn asks(boundary: Boundary, scanner: &Arc<Scanner>) -> bool {
    gate(boundary).is_some_and(|gate| Arc::ptr_eq(&gate.scanner, scanner))
}

impl Gate {
    fn judge(&self, py: Python<'_>, boundary: Boundary, user: &str, located: Vec<Located>) -> PyResult<bool> {
        if mutant!(SightingNotTold) {
            return Ok(false);
        }
        let sightings = PyList::empty(py);
        for one in located {
            sightings.append(Py::new(py, PySighting::new(one, Some(&self.scanner), Some(user)))?)?;
        }
        self.handler
            .bind(py)
            .call1((boundary.name(), user, sightings))?
            .extract()
    }
}

fn withheld(py: Python<'_>, boundary: Boundary) -> PyErr {
    let class = py
        .import("isolane.security.errors")
        .and_then(|module| module.getattr("ResponseWithheldError"));
    match class.and_then(|class| class.call1((boundary.name(),))) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

fn decide(
    py: Python<'_>,
    gate: &Gate,
    boundary: Boundary,
    user: &str,
    path: &str,
    found: &mut Found,
) -> PyResult<bool> {
    if found.sightings.is_empty() {
        return Ok(false);
    }
    let located = std::mem::take(&mut found.sightings);
    let located = located.into_iter().map(|sighting| Located {
        path: path.to_owned(),
        sighting,
    });
    gate.judge(py, boundary, user, located.collect())
}

/// Looks at a text on its way to a user. Raises `ResponseWithheldError` when it is withheld.
pub(crate) fn check_text(
    py: Python<'_>,
    boundary: Boundary,
    user: &str,
    (path, text): (&str, &str),
    delivery: Delivery,
) -> PyResult<()> {
    let Some(gate) = gate(boundary) else { return Ok(()) };
    let mut found = Found::default();
    gate.scanner
        .scan(text.as_bytes(), Some(user), Depth::Everything, &mut found);
    gate.scanner.note(boundary, &found, delivery);
    if decide(py, &gate, boundary, user, path, &mut found)? {
        return Err(withheld(py, boundary));
    }
    Ok(())
}

/// The same for a part of a text that comes in parts, of the run and the name.
pub(crate) fn check_part(
    py: Python<'_>,
    boundary: Boundary,
    user: &str,
    text: (&str, &str),
    part: &str,
) -> PyResult<()> {
    let Some(gate) = gate(boundary) else { return Ok(()) };
    let mut found = gate.scanner.scan_part(text, user, part.as_bytes());
    // The event that carries the part counts as the delivery.
    gate.scanner.note(boundary, &found, Delivery::Again);
    if decide(py, &gate, boundary, user, "payload.delta", &mut found)? {
        return Err(withheld(py, boundary));
    }
    Ok(())
}

/// Looks at a name that is published beside a text: of an agent, a tool, a type, or an id that the publisher chose.
pub(crate) fn check_name(py: Python<'_>, boundary: Boundary, user: &str, (path, name): (&str, &str)) -> PyResult<()> {
    if name.len() < SHORTEST || mutant!(NamesNotScanned) {
        return Ok(());
    }
    // The event that carries the name counts as the delivery.
    check_text(py, boundary, user, (path, name), Delivery::Again)
}

/// Looks at a text that was scanned when it was published, on its way to one socket. Answers whether it may pass.
pub(crate) fn may_write(py: Python<'_>, user: &str, text: &str) -> bool {
    let Some(gate) = gate(Boundary::WsOut) else { return true };
    let mut found = Found::default();
    gate.scanner
        .scan(text.as_bytes(), Some(user), Depth::Canaries, &mut found);
    gate.scanner.note(Boundary::WsOut, &found, Delivery::Again);
    // What the handler raises it has counted itself: the text is withheld.
    !decide(py, &gate, Boundary::WsOut, user, "frame", &mut found).unwrap_or(true)
}

/// Looks at a value on its way to a user.
pub(crate) fn check_value(boundary: Boundary, user: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = value.py();
    let Some(gate) = gate(boundary) else { return Ok(()) };
    let mut walk = Walk::new(&gate.scanner, Some(user));
    if walk.run(value).is_err() {
        // What it raised is the value's own; whether it passes unseen is the boundary's to say.
        if gate
            .handler
            .bind(py)
            .call1((boundary.name(), user, py.None()))?
            .extract()?
        {
            return Err(withheld(py, boundary));
        }
        return Ok(());
    }
    walk.found.more += walk.located.iter().filter(|one| !one.sighting.is_prior).count();
    gate.scanner.note(boundary, &walk.found, Delivery::First);
    let located = std::mem::take(&mut walk.located);
    drop(walk);
    if !located.is_empty() && gate.judge(py, boundary, user, located)? {
        return Err(withheld(py, boundary));
    }
    Ok(())
}
