//! What the boundaries of this process found, and the borders that the package has of its own.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors::ContextIsolationError;
use super::process::registry;
use crate::clock::seconds;
use crate::crossings::{self, Place, Tier};
use crate::owner;

fn place(name: &str) -> PyResult<Place> {
    Place::named(name).ok_or_else(|| {
        let known = Place::NAMES.join(", ");
        PyValueError::new_err(format!("no boundary is named {name:?}; known are {known}"))
    })
}

/// Counts a violation: data of one user was found where another's is. Raises `ValueError` for a boundary or tier that is none.
#[pyfunction]
pub(crate) fn _note_violation(boundary: &str, tier: &str) -> PyResult<()> {
    let known = Tier::named(tier).ok_or_else(|| {
        let names = Tier::NAMES.join(", ");
        PyValueError::new_err(format!("no tier is named {tier:?}; known are {names}"))
    })?;
    owner::violation(place(boundary)?, known);
    Ok(())
}

/// Counts a check, whatever it came to.
#[pyfunction]
pub(crate) fn _note_check(boundary: &str) -> PyResult<()> {
    crossings::checked(place(boundary)?, 1);
    Ok(())
}

/// Counts an attempt that was refused: nothing crossed.
#[pyfunction]
pub(crate) fn _note_refused(boundary: &str) -> PyResult<()> {
    crossings::refused(place(boundary)?);
    Ok(())
}

/// Counts a positive control: a canary that must be caught, and was or was not.
#[pyfunction]
pub(crate) fn _note_control(caught: bool) {
    crossings::controlled(caught);
}

/// Counts a check and that it refused, and makes the error to raise.
#[pyfunction]
#[pyo3(signature = (text, boundary) -> "ContextIsolationError")]
pub(crate) fn _refusal(py: Python<'_>, text: String, boundary: &str) -> PyResult<Py<PyAny>> {
    let place = place(boundary)?;
    // Those two add what they refused to their checks by themselves.
    if !matches!(place, Place::Publish | Place::Write) {
        crossings::checked(place, 1);
    }
    crossings::refused(place);
    let error = ContextIsolationError::raise(py, text, boundary.to_owned());
    Ok(error.into_value(py).into_any())
}

/// What the boundaries of this process found so far: `boundaries` (of each `checks`, `refused` and, by tier, `violations`),
/// `violations` and `refused` in all, `latest` (when the latest violation was found: Unix time in seconds, or `None`), and
/// `controls` (positive controls by result).
#[pyfunction]
#[pyo3(signature = () -> "dict[str, typing.Any]")]
pub(crate) fn crossing_figures(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let events = &registry().shared().events;
    let figures = crossings::figures(events.published.get(), events.sent.get());
    let boundaries = PyDict::new(py);
    for each in &figures {
        let of = PyDict::new(py);
        of.set_item("checks", each.checks)?;
        of.set_item("refused", each.refused)?;
        let tiers = PyDict::new(py);
        for (tier, many) in Tier::NAMES.iter().zip(each.violations).filter(|(_, many)| *many > 0) {
            tiers.set_item(*tier, many)?;
        }
        of.set_item("violations", tiers)?;
        boundaries.set_item(each.name, of)?;
    }
    let all = PyDict::new(py);
    all.set_item("boundaries", boundaries)?;
    let violations: u64 = figures.iter().flat_map(|each| each.violations).sum();
    all.set_item("violations", violations)?;
    all.set_item("refused", figures.iter().map(|each| each.refused).sum::<u64>())?;
    all.set_item("latest", crossings::latest().map(seconds))?;
    let controls = PyDict::new(py);
    for (result, many) in crossings::CONTROL_RESULTS.iter().zip(crossings::controls()) {
        controls.set_item(*result, many)?;
    }
    all.set_item("controls", controls)?;
    Ok(all)
}
