//! The scanner of contents, and the boundaries of this process that ask it.

pub(crate) mod gate;
mod walk;

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyBytesMethods, PyDict, PyString};

pub(crate) use self::walk::owner_of;
use self::walk::{Located, Walk};
use super::errors::{BudgetExceeded, to_python};
use super::policy::with_placeholders;
use super::process::Stamp;
use crate::context::Identity;
use crate::crossings;
use crate::ids::UserId;
use crate::isolation::{
    Boundary, Delivery, Depth, Found, Key, Scanner, SecretRefused, Sighting, Window, estimated_bits, upper_bound,
};

/// Something of another user that was seen on its way to one. Has nothing of the text.
#[pyclass(frozen, get_all, module = "isolane._core", name = "Sighting")]
#[derive(Debug)]
pub(crate) struct PySighting {
    /// `owner_tag`, `canary` or `secret`.
    tier: &'static str,
    /// The keyed hash of whose it is.
    owner_hash: String,
    /// The keyed hash of who was to see it.
    observer_hash: String,
    /// Where in the value.
    path: String,
    /// Where in the text, in bytes.
    offset: usize,
    /// How many bytes it takes.
    length: usize,
    /// `plain`, `folded`, `escaped`, `base64` or `hex`.
    form: &'static str,
    /// The keyed hash of what was found.
    evidence_id: String,
    /// The observer brought it.
    is_prior: bool,
    /// Whose it is, if this process knows; for grants and quarantine, not for reports.
    owner_user_id: Option<String>,
}

impl PySighting {
    fn new(located: Located, scanner: Option<&Scanner>, observer: Option<&str>) -> Self {
        let Located { path, sighting } = located;
        let Sighting {
            tier,
            owner,
            user,
            offset,
            length,
            form,
            evidence,
            is_prior,
        } = sighting;
        let observer = scanner.zip(observer).map(|(scanner, observer)| scanner.owner(observer));
        Self {
            tier: tier.name(),
            owner_hash: format!("{owner:016x}"),
            observer_hash: observer.map(|hash| format!("{hash:016x}")).unwrap_or_default(),
            path,
            offset,
            length,
            form: form.name(),
            evidence_id: format!("{evidence:016x}"),
            is_prior,
            owner_user_id: user.map(|user| user.as_str().to_owned()),
        }
    }
}

#[pymethods]
impl PySighting {
    fn __repr__(&self) -> String {
        format!("<Sighting {} of {} at {}>", self.tier, self.owner_hash, self.path)
    }
}

/// What one scan saw: canaries of the observer, bytes, whether all was seen, and what is somebody else's.
type Seen = (usize, usize, bool, Vec<PySighting>);

fn boundary(name: &str) -> PyResult<Boundary> {
    Boundary::named(name).ok_or_else(|| {
        let known = Boundary::ALL.map(Boundary::name).join(", ");
        PyValueError::new_err(format!("boundary must be one of {known}; got {name:?}"))
    })
}

fn user(py: Python<'_>, user_id: &str) -> PyResult<UserId> {
    with_placeholders(|policy| Identity::user(user_id, policy)).map_err(|error| to_python(py, error))
}

fn key(bytes: Option<&[u8]>) -> PyResult<Key> {
    match bytes {
        None => Ok(Key::fresh()),
        Some(bytes) => bytes.try_into().map(Key::from_bytes).map_err(|_| {
            PyValueError::new_err(format!(
                "a key is 32 random bytes, got {}; make one with secrets.token_bytes(32), or leave it out",
                bytes.len()
            ))
        }),
    }
}

/// Finds canaries, secrets and objects of other users. `ContaminationDetector` is what applications use.
#[pyclass(frozen, weakref, module = "isolane._core", name = "Scanner")]
pub(crate) struct PyScanner {
    inner: Arc<Scanner>,
    stamp: Stamp,
}

#[pymethods]
impl PyScanner {
    #[new]
    #[pyo3(signature = (key = None))]
    #[allow(clippy::shadow_unrelated)]
    fn new(key: Option<&Bound<'_, PyBytes>>) -> PyResult<Self> {
        Ok(Self {
            inner: Arc::new(Scanner::new(self::key(key.map(PyBytesMethods::as_bytes))?)),
            stamp: Stamp::now(),
        })
    }

    /// A new canary of the user.
    fn mint(&self, py: Python<'_>, user_id: &str) -> PyResult<String> {
        self.stamp.check(py)?;
        let canary = self.inner.mint(&user(py, user_id)?);
        Ok(String::from_utf8_lossy(&canary).into_owned())
    }

    /// Makes canaries with another key from now on. Those of the key before are still known.
    #[pyo3(signature = (key = None))]
    fn rotate(&self, py: Python<'_>, key: Option<&Bound<'_, PyBytes>>) -> PyResult<()> {
        self.stamp.check(py)?;
        self.inner.rotate(self::key(key.map(PyBytesMethods::as_bytes))?);
        Ok(())
    }

    /// The keyed hash that stands for a user.
    fn hash_of(&self, user_id: &str) -> String {
        format!("{:016x}", self.inner.owner(user_id))
    }

    /// Names a value as the user's. Returns how many pieces of it are looked for.
    fn register(&self, py: Python<'_>, user_id: &str, value: &str) -> PyResult<usize> {
        self.stamp.check(py)?;
        let registered = self.inner.register(&user(py, user_id)?, value.as_bytes());
        registered
            .map(std::num::NonZeroUsize::get)
            .map_err(|refused| match refused {
                SecretRefused::Full { scope, limit } => {
                    BudgetExceeded::raise(py, refused.to_string(), limit, scope.to_owned())
                }
                SecretRefused::Weak { .. } | SecretRefused::Long { .. } => PyValueError::new_err(refused.to_string()),
            })
    }

    /// Lets go of everything that is held of a user. Returns how many secrets that were.
    fn forget(&self, py: Python<'_>, user_id: &str) -> PyResult<usize> {
        self.stamp.check(py)?;
        Ok(UserId::new(user_id).map_or(0, |user| self.inner.forget(&user)))
    }

    /// Whether anything is held of a user.
    fn holds(&self, user_id: &str) -> bool {
        UserId::new(user_id).is_ok_and(|user| self.inner.holds(&user))
    }

    /// Looks at what the user brought. Returns how much of it is somebody else's, and new.
    fn note_inbound(&self, py: Python<'_>, user_id: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.stamp.check(py)?;
        let mut walk = Walk::inbound(&self.inner, user_id);
        walk.run(value)?;
        Ok(walk.brought)
    }

    /// Looks at a value. `first=False` for what was scanned on its way before, which does not count for the bound.
    #[pyo3(signature = (observer, value, boundary, *, first = true)
        -> "tuple[int, int, bool, list[Sighting]]")]
    #[allow(clippy::shadow_unrelated)]
    fn scan(
        &self,
        py: Python<'_>,
        observer: Option<&str>,
        value: &Bound<'_, PyAny>,
        boundary: &str,
        first: bool,
    ) -> PyResult<Seen> {
        self.stamp.check(py)?;
        let boundary = self::boundary(boundary)?;
        let mut walk = Walk::new(&self.inner, observer);
        walk.run(value)?;
        let (found, located, is_complete) = (walk.found, walk.located, walk.is_complete);
        self.note(boundary, &found, &located, first);
        let sightings = located
            .into_iter()
            .map(|one| PySighting::new(one, Some(&self.inner), observer))
            .collect();
        Ok((found.own, found.bytes, is_complete && found.more == 0, sightings))
    }

    /// What a value has of others, without counting it as a delivery.
    fn look(&self, py: Python<'_>, observer: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<PySighting>> {
        self.stamp.check(py)?;
        let mut walk = Walk::new(&self.inner, Some(observer));
        walk.run(value)?;
        let sighting = |one| PySighting::new(one, Some(&self.inner), Some(observer));
        Ok(walk.located.into_iter().map(sighting).collect())
    }

    /// Looks for canaries as they are in a text, and for nothing else: the search whose speed is measured.
    fn count_canaries(&self, text: &str) -> usize {
        let mut found = Found::default();
        self.inner.scan(text.as_bytes(), None, Depth::Canaries, &mut found);
        found.sightings.len() + found.more
    }

    /// Looks for everything in one text. Returns how many sightings there are.
    #[pyo3(signature = (observer, text))]
    fn count_all(&self, observer: Option<&str>, text: &str) -> usize {
        let mut found = Found::default();
        self.inner
            .scan(text.as_bytes(), observer, Depth::Everything, &mut found);
        found.sightings.len() + found.more
    }

    /// What each report rests on: canaries made and secrets registered; the deliveries of the boundary that has seen most;
    /// whether the controls hold.
    fn standing(&self) -> (u64, u64, bool) {
        let deliveries = Boundary::ALL.map(|boundary| self.inner.coverage.of(boundary).deliveries);
        let planted = self.inner.minted.get() + self.inner.secrets() as u64;
        let holds = self.inner.controls();
        crossings::controlled(holds);
        (planted, deliveries.into_iter().max().unwrap_or_default(), holds)
    }

    /// Whether one of isolane's own boundaries asks it now.
    fn is_asked(&self, boundary: &str) -> PyResult<bool> {
        Ok(gate::asks(self::boundary(boundary)?, &self.inner))
    }

    /// Counts a scan that could not be done.
    fn note_error(&self) {
        self.inner.errors.increment();
    }

    /// Counts: `minted`, `secrets`, `errors`, and of each boundary `deliveries`, `bytes`, `own`, `foreign`.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("minted", self.inner.minted.get())?;
        dict.set_item("secrets", self.inner.secrets())?;
        dict.set_item("errors", self.inner.errors.get())?;
        let boundaries = PyDict::new(py);
        for boundary in Boundary::ALL {
            let figures = self.inner.coverage.of(boundary);
            let of = PyDict::new(py);
            of.set_item("deliveries", figures.deliveries)?;
            of.set_item("bytes", figures.bytes)?;
            of.set_item("own", figures.own)?;
            of.set_item("foreign", figures.foreign)?;
            boundaries.set_item(boundary.name(), of)?;
        }
        dict.set_item("boundaries", boundaries)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        "<Scanner>".to_owned()
    }
}

impl PyScanner {
    fn note(&self, boundary: Boundary, found: &Found, located: &[Located], first: bool) {
        let foreign = located.iter().filter(|one| !one.sighting.is_prior).count() + found.more;
        self.inner
            .coverage
            .note(boundary, found.bytes, found.own, foreign, first);
    }
}

/// The end of one stream, kept so that nothing is missed because it was cut in two.
#[pyclass(frozen, module = "isolane._core", name = "StreamWindow")]
pub(crate) struct PyWindow {
    scanner: Arc<Scanner>,
    window: Mutex<Window>,
    stamp: Stamp,
}

#[pymethods]
impl PyWindow {
    #[new]
    fn new(scanner: &Bound<'_, PyScanner>) -> Self {
        Self {
            scanner: scanner.get().inner.clone(),
            window: Mutex::new(Window::default()),
            stamp: Stamp::now(),
        }
    }

    /// Looks at the next piece, a text or bytes.
    #[pyo3(signature = (observer, piece, boundary) -> "tuple[int, int, bool, list[Sighting]]")]
    #[allow(clippy::shadow_unrelated)]
    fn feed(&self, py: Python<'_>, observer: Option<&str>, piece: &Bound<'_, PyAny>, boundary: &str) -> PyResult<Seen> {
        self.stamp.check(py)?;
        let boundary = self::boundary(boundary)?;
        let bytes: std::borrow::Cow<'_, [u8]> = if let Ok(text) = piece.cast::<PyString>() {
            text.to_cow()?.into_owned().into_bytes().into()
        } else {
            piece.extract::<Vec<u8>>()?.into()
        };
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let found = window.feed(&self.scanner, observer, &bytes);
        drop(window);
        self.scanner.note(boundary, &found, Delivery::Again);
        let (own, bytes, is_complete) = (found.own, found.bytes, found.more == 0);
        let sightings = found.sightings.into_iter().map(|sighting| {
            let located = Located {
                path: "stream".to_owned(),
                sighting,
            };
            PySighting::new(located, Some(&self.scanner), observer)
        });
        Ok((own, bytes, is_complete, sightings.collect()))
    }
}

/// How likely one delivery leaks at most, at 95 %, after so many of which `leaks` did. Never 0.
#[pyfunction]
#[pyo3(signature = (scanned, leaks = 0))]
pub(crate) fn leak_probability(scanned: u64, leaks: u64) -> f64 {
    upper_bound(scanned, leaks)
}

/// How many bits it takes to guess a text, as `register_secret` estimates it.
#[pyfunction]
pub(crate) fn secret_bits(value: &str) -> f64 {
    estimated_bits(value.as_bytes())
}
