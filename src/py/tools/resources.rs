//! What a caller names as resources: texts, and objects that say whose they are.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyString, PyTuple};

use super::super::context::PyContext;
use crate::tools::{MAX_RESOURCES, Target, encode_owner};

/// A resource, held while it is checked.
pub(super) enum Held {
    /// By its name.
    Name(PyBackedStr),
    /// An object.
    Object { name: String, owner: PyBackedStr },
}

impl Held {
    /// `None` for what is neither a name nor says whose it is.
    pub(super) fn of(value: &Bound<'_, PyAny>) -> Option<Self> {
        if value.is_instance_of::<PyString>() {
            return value.extract().ok().map(Self::Name);
        }
        let kind = value.get_type().name().ok()?.to_string();
        let owner: PyBackedStr = value
            .getattr(intern!(value.py(), "user_id"))
            .ok()
            .filter(PyAnyMethods::is_instance_of::<PyString>)?
            .extract()
            .ok()?;
        let id = value.cast::<PyContext>().map_or_else(
            |_| kind.clone(),
            |context| context.get().core().identity().request.as_str().to_owned(),
        );
        let name = format!("object:{}/{id}", encode_owner(&owner));
        Some(Self::Object { name, owner })
    }

    pub(super) fn target(&self) -> Target<'_> {
        match self {
            Self::Name(name) => Target::Name(name),
            Self::Object { name, owner } => Target::Object { name, owner },
        }
    }
}

/// The resources of a request.
#[derive(Default)]
pub(super) struct Understood {
    pub(super) held: Vec<Held>,
    /// What is not understood, by its place.
    pub(super) odd: Vec<String>,
    /// How many there are of both. More than may be asked about are not looked at.
    pub(super) count: usize,
}

impl Understood {
    /// One name.
    pub(super) fn of(name: PyBackedStr) -> Self {
        Self {
            held: vec![Held::Name(name)],
            odd: Vec::new(),
            count: 1,
        }
    }
}

/// Reads the resources of a request.
pub(super) fn held(resources: &Bound<'_, PyTuple>, what: &str) -> Understood {
    let mut found = Understood {
        count: resources.len(),
        ..Understood::default()
    };
    if found.count > MAX_RESOURCES {
        return found;
    }
    for (at, value) in resources.iter().enumerate() {
        match Held::of(&value) {
            Some(held) => found.held.push(held),
            None => found.odd.push(format!("{what}[{at}]")),
        }
    }
    found
}
