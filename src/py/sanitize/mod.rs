//! The sanitizer for Python: what `isolane.security.sanitizer` is made of.

mod stream;
mod walk;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

pub(crate) use self::stream::SanitizerStream;
use self::walk::Walk;
use super::errors::SanitizeLimitError;
use crate::sanitize::{self, Kind, Kinds, LimitFault, MaskKey, Mode, Modes, open_field, process_key, seal_field};

/// What looks through values: the kinds that are looked for, and the key of the masks.
#[pyclass(frozen, module = "isolane._core", name = "SanitizerCore")]
#[derive(Debug)]
pub(crate) struct SanitizerCore {
    key: Option<MaskKey>,
    kinds: Kinds,
}

impl SanitizerCore {
    fn key(&self) -> &MaskKey {
        match &self.key {
            Some(key) => key,
            None => process_key(),
        }
    }
}

fn mode(name: &str) -> PyResult<Mode> {
    Mode::ALL
        .into_iter()
        .find(|mode| mode.name() == name)
        .ok_or_else(|| PyValueError::new_err(format!("{name:?} is no mode; use off, detect, mask or block")))
}

fn limit_error(py: Python<'_>, fault: LimitFault) -> PyErr {
    let limit = match fault {
        LimitFault::Bytes => "bytes",
        LimitFault::Depth => "depth",
    };
    let message = format!("the value cannot be looked through: {fault}; pass less of it, or its parts one by one");
    SanitizeLimitError::raise(py, message, limit.to_owned())
}

#[pymethods]
impl SanitizerCore {
    /// `key` are at least 16 bytes that all processes share; without them the masks of each process differ. `kinds` are names.
    #[new]
    #[pyo3(signature = (key = None, kinds = None))]
    fn new(key: Option<&[u8]>, kinds: Option<Vec<String>>) -> PyResult<Self> {
        if key.is_some_and(|key| key.len() < 16) {
            return Err(PyValueError::new_err(
                "the key of masks must have at least 16 bytes; use secrets.token_bytes(32)",
            ));
        }
        let kinds = kinds.map_or(Ok(Kinds::DEFAULT), |names| {
            names.iter().try_fold(Kinds::NONE, |set, name| {
                let known = Kind::of(name).filter(|kind| !matches!(kind, Kind::Foreign | Kind::Custom));
                known.map(|kind| set.with(kind)).ok_or_else(|| {
                    let known: Vec<_> = Self::kind_names().into_iter().map(|(name, ..)| name).collect();
                    PyValueError::new_err(format!(
                        "{name:?} is no kind of finding; known are {}",
                        known.join(", ")
                    ))
                })
            })
        })?;
        Ok(Self {
            key: key.map(MaskKey::new),
            kinds,
        })
    }

    /// Name, whether it is a secret, and whether it is looked for by default, of each kind.
    #[staticmethod]
    fn kind_names() -> Vec<(&'static str, bool, bool)> {
        Kind::ALL
            .iter()
            .filter(|kind| !matches!(kind, Kind::Foreign | Kind::Custom))
            .map(|kind| {
                let secret = kind.group() == sanitize::Group::Secret;
                (kind.name(), secret, Kinds::DEFAULT.has(*kind))
            })
            .collect()
    }

    /// What is done at each boundary unless something else is said: with secrets, and with what is personal.
    #[staticmethod]
    fn default_modes() -> Vec<(&'static str, &'static str, &'static str, bool)> {
        sanitize::Boundary::ALL
            .into_iter()
            .map(|boundary| {
                let modes = boundary.default_modes();
                let replaces = boundary.replaces_what_is_too_large();
                (boundary.name(), modes.secret.name(), modes.personal.name(), replaces)
            })
            .collect()
    }

    /// What the name of a key says about its value: `secret`, `suspect` or `plain`.
    #[staticmethod]
    fn key_rule(name: &str) -> &'static str {
        match sanitize::rule_of(name) {
            sanitize::KeyRule::Secret => "secret",
            sanitize::KeyRule::Suspect => "suspect",
            sanitize::KeyRule::Plain => "plain",
        }
    }

    /// Looks through a value. Returns it, or what is masked in its place, and `(path, kind, start, end, action)` of each finding.
    /// With `owners` objects of isolane's are asked whose they are: those of others are findings, and the user's own pass.
    #[pyo3(
        signature = (value, user_id, secret, personal, detectors, *, owners = false)
            -> "tuple[typing.Any, list[tuple[str, str, int, int, str]]]"
    )]
    fn walk<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        user_id: &str,
        secret: &str,
        personal: &str,
        detectors: Vec<Bound<'py, PyAny>>,
        owners: bool,
    ) -> PyResult<(Bound<'py, PyAny>, Vec<walk::Record>)> {
        let modes = Modes {
            secret: mode(secret)?,
            personal: mode(personal)?,
        };
        let mut walk = Walk::new(value.py(), self.key(), user_id, self.kinds, modes, &detectors);
        walk.reader = owners.then_some(user_id);
        let shown = walk.run(value)?;
        Ok((shown, walk.into_records()))
    }

    /// A mask as it would stand for a text.
    fn mask(&self, user_id: &str, name: &str, text: &str) -> String {
        let mut out = String::new();
        self.key().of(user_id).write(&mut out, name, text);
        out
    }

    /// Seals bytes for a place with a key of 32 bytes.
    #[staticmethod]
    fn seal<'py>(py: Python<'py>, key: &[u8], place: &[u8], plaintext: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &seal_field(key_of_32(key)?, place, plaintext)))
    }

    /// Opens what was sealed for this place, or returns `None`.
    #[staticmethod]
    fn open<'py>(py: Python<'py>, key: &[u8], place: &[u8], sealed: &[u8]) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let opened = open_field(key_of_32(key)?, place, sealed).ok();
        Ok(opened.map(|plaintext| PyBytes::new(py, &plaintext)))
    }
}

fn key_of_32(key: &[u8]) -> PyResult<&[u8; 32]> {
    key.try_into()
        .map_err(|_| PyValueError::new_err(format!("a key of a user has 32 bytes, got {}", key.len())))
}

/// How often each kind was found in the events that this process has published.
#[pyfunction]
#[pyo3(signature = () -> "dict[str, int]")]
pub(crate) fn event_findings(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let counts = PyDict::new(py);
    for (name, count) in sanitize::event_findings().filter(|(_, count)| *count > 0) {
        counts.set_item(name, count)?;
    }
    Ok(counts)
}
