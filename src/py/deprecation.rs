//! The ledger of legacy calls, and the walk through Python's frames to the line that made one.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pyo3::{ffi, intern};

use super::process::CLOCK;
use crate::clock::Clock;
use crate::deprecation::{Book, Folders, Ledger, Origin, Step, Walk};
use crate::metrics::{Id, SYMBOLS};
use crate::mutants::mutant;

/// Frames that are looked at before the walk gives up.
const MAX_FRAMES: usize = 256;

/// The line that made a legacy call.
#[pyclass(frozen, get_all, module = "isolane._core")]
#[derive(Debug)]
pub(crate) struct LegacySite {
    /// The file, as the interpreter names it.
    file: String,
    /// The line, from 1 on; 0 when nobody knows it.
    line: u32,
    /// The module, as its frame names itself; empty when it does not.
    module: String,
}

/// Which line made which legacy call how often: at most 4 096 lines, without anything of a user. Those that were called longest
/// ago make room.
///
/// `own`, `loops`, `library` and `installed` are beginnings of file names: of isolane, of event loops, of the standard library,
/// and of packages that are installed inside of its folder.
#[pyclass(frozen, module = "isolane._core")]
#[derive(Debug)]
pub(crate) struct DeprecationLedger {
    ledger: Ledger,
    folders: Folders,
}

#[pymethods]
impl DeprecationLedger {
    #[new]
    #[pyo3(signature = (own = Vec::new(), *, loops = Vec::new(), library = Vec::new(), installed = Vec::new(), own_module = String::new()))]
    fn new(
        own: Vec<String>,
        loops: Vec<String>,
        library: Vec<String>,
        installed: Vec<String>,
        own_module: String,
    ) -> Self {
        Self {
            ledger: Ledger::new(CLOCK.unix()),
            folders: Folders {
                own,
                loops,
                library,
                installed,
                own_module,
            },
        }
    }

    /// Counts a call that the calling code reports, by the line of the application that led to it. Answers the line when it is
    /// the first call from there for this `told`, a number of the caller's choice.
    #[pyo3(signature = (symbol, code, told = 0, also_own = None))]
    fn note(
        &self,
        py: Python<'_>,
        symbol: &str,
        code: &str,
        told: u64,
        also_own: Option<Vec<String>>,
    ) -> PyResult<Option<LegacySite>> {
        let frame = calling_frame(py, &self.folders, &also_own.unwrap_or_default())?;
        let (file, line) = match &frame {
            Some(frame) => (Some(file_of(&frame.code())?), frame.line()),
            None => (None, 0),
        };
        let file = match &file {
            Some(file) => file.to_cow()?,
            None => "<unknown>".into(),
        };
        Id::LegacyCalls.at(&[SYMBOLS.index(symbol)]).increment();
        if !self.ledger.record(symbol, code, &file, line, told, CLOCK.unix()) {
            return Ok(None);
        }
        let module = frame.as_ref().and_then(Frame::module);
        Ok(Some(LegacySite {
            file: file.into_owned(),
            line,
            module: module
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
        }))
    }

    /// Calls by symbol: the first 256 symbols by name, and `_other`.
    fn symbols(&self) -> BTreeMap<String, u64> {
        self.ledger.symbols()
    }

    /// All calls.
    fn calls(&self) -> u64 {
        self.ledger.calls()
    }

    /// What was counted, as one line of JSON.
    fn book(&self) -> String {
        self.ledger.book(CLOCK.unix()).to_json()
    }

    /// Forgets everything.
    fn clear(&self) {
        self.ledger.clear(CLOCK.unix());
    }

    fn __len__(&self) -> usize {
        self.ledger.len()
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self) -> String {
        format!(
            "DeprecationLedger(sites={}, calls={})",
            self.ledger.len(),
            self.ledger.calls()
        )
    }
}

/// Puts together what several processes counted, each as `DeprecationLedger.book` gives it. Answers the whole as JSON, or None
/// when there was none, and for each text that could not be read its place and what is wrong with it.
#[pyfunction]
#[pyo3(signature = (texts) -> "tuple[str | None, list[tuple[int, str]]]")]
pub(crate) fn merge_ledgers(py: Python<'_>, texts: Vec<String>) -> (Option<String>, Vec<(usize, String)>) {
    py.detach(|| {
        let mut unread = Vec::new();
        let mut books = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            match Book::from_json(text) {
                Ok(book) => books.push(book),
                Err(error) => unread.push((at, error.to_string())),
            }
        }
        let mut books = books.into_iter();
        let whole = books.next().map(|mut whole| {
            whole.merge(books);
            whole.to_json()
        });
        (whole, unread)
    })
}

/// A frame of the interpreter.
struct Frame<'py>(Bound<'py, PyAny>);

#[allow(unsafe_code)]
impl<'py> Frame<'py> {
    /// The one that runs, if any does in this thread.
    fn current(py: Python<'py>) -> Option<Self> {
        // SAFETY: this thread is attached; the answer is null or a borrowed reference to a frame.
        let frame = unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyEval_GetFrame().cast()) };
        frame.map(Self)
    }

    fn back(&self) -> Option<Self> {
        // SAFETY: `self` is a frame; the answer is null or a new reference to one, and no exception is set.
        let frame =
            unsafe { Bound::from_owned_ptr_or_opt(self.0.py(), ffi::PyFrame_GetBack(self.0.as_ptr().cast()).cast()) };
        frame.map(Self)
    }

    fn code(&self) -> Bound<'py, PyAny> {
        // SAFETY: `self` is a frame; the answer is a new reference and never null.
        unsafe { Bound::from_owned_ptr(self.0.py(), ffi::PyFrame_GetCode(self.0.as_ptr().cast()).cast()) }
    }

    fn line(&self) -> u32 {
        // SAFETY: `self` is a frame.
        let line = unsafe { ffi::PyFrame_GetLineNumber(self.0.as_ptr().cast()) };
        u32::try_from(line).unwrap_or_default()
    }

    /// The name that the frame's module has. None when it has none, or says something else than a text.
    fn module(&self) -> Option<Bound<'py, PyString>> {
        let py = self.0.py();
        let globals = self.0.getattr(intern!(py, "f_globals")).ok()?;
        let name = globals
            .cast::<PyDict>()
            .ok()?
            .get_item(intern!(py, "__name__"))
            .ok()??;
        name.cast_into().ok()
    }

    /// What the function that runs was given first, which is `self` or the class in what makes an object.
    fn first_argument(&self, code: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        let py = self.0.py();
        let many: usize = code.getattr(intern!(py, "co_argcount")).ok()?.extract().ok()?;
        if many == 0 {
            return None;
        }
        let name = code.getattr(intern!(py, "co_varnames")).ok()?.get_item(0).ok()?;
        self.0.getattr(intern!(py, "f_locals")).ok()?.get_item(name).ok()
    }
}

fn file_of<'py>(code: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    Ok(code.getattr(intern!(code.py(), "co_filename"))?.cast_into()?)
}

fn name_of<'py>(code: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    code.getattr(intern!(code.py(), "co_name"))
}

/// Whether a frame passes on the making of the object that the frame inside of it makes: `super().__init__()`. The line that
/// wants the object is further out.
fn passes_on(outer: &Frame<'_>, outer_code: &Bound<'_, PyAny>, inner: &Frame<'_>) -> bool {
    let py = outer.0.py();
    let Ok(of_outer) = name_of(outer_code) else {
        return false;
    };
    let makes = [intern!(py, "__init__"), intern!(py, "__new__")]
        .into_iter()
        .any(|maker| of_outer.eq(maker).unwrap_or(false));
    if !makes || mutant!(LegacySiteIsSuperCall) {
        return false;
    }
    let inner_code = inner.code();
    if !name_of(&inner_code).is_ok_and(|of_inner| of_inner.eq(&of_outer).unwrap_or(false)) {
        return false;
    }
    match (outer.first_argument(outer_code), inner.first_argument(&inner_code)) {
        (Some(of_outer), Some(of_inner)) => of_outer.is(&of_inner),
        _ => false,
    }
}

fn calling_frame<'py>(py: Python<'py>, folders: &Folders, also_own: &[String]) -> PyResult<Option<Frame<'py>>> {
    let mut walk = Walk::default();
    let mut inner: Option<Frame<'py>> = None;
    let mut at = Frame::current(py);
    for _ in 0..MAX_FRAMES {
        let Some(frame) = at.take() else { break };
        let code = frame.code();
        let file = file_of(&code)?;
        let file = file.to_cow()?;
        let module = file.starts_with('<').then(|| frame.module()).flatten();
        let module = module.as_ref().and_then(|name| name.to_str().ok());
        let origin = folders.origin(&file, also_own, || module);
        let is_passed_on = origin != Origin::Own && inner.as_ref().is_some_and(|inner| passes_on(&frame, &code, inner));
        let origin = if is_passed_on { Origin::Own } else { origin };
        at = frame.back();
        let copy = Frame(frame.0.clone());
        if walk.step(origin, frame) == Step::Done {
            break;
        }
        inner = Some(copy);
    }
    Ok(walk.site())
}
