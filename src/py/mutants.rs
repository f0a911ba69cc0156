//! Which faults a build for tests can have, and which this process has.

use pyo3::prelude::*;

use crate::mutants::{Mutant, active};

/// The fault of this process, or `None`. Panics when `ISOLANE_MUTANT` names none.
#[pyfunction]
pub(crate) fn _mutant() -> Option<String> {
    active().map(|mutant| format!("{mutant:?}"))
}

/// The faults by name, and what each breaks.
#[pyfunction]
pub(crate) fn _mutants() -> Vec<(&'static str, &'static str)> {
    Mutant::ALL.iter().map(|(_, name, breaks)| (*name, *breaks)).collect()
}
