//! Python values as JSON, written once, at publish: what an agent changes afterwards cannot reach the wire.
//!
//! | value | written as |
//! |---|---|
//! | `None`, `bool`, `str` | themselves; lone surrogates become U+FFFD |
//! | `int` | a number up to ±(2⁵³ − 1), beyond it a string of its digits, since JavaScript would round it |
//! | `float` | a number; NaN and infinities become `null`, as in `JSON.stringify` |
//! | `dict` | an object; keys that are `int`, `float`, `bool`, `None` or enums become strings |
//! | `list`, `tuple`, `set`, `frozenset` | an array |
//! | `datetime`, `date`, `time` | ISO 8601 |
//! | `Decimal`, `UUID`, `PurePath` | a string |
//! | `Enum` | its value |
//! | dataclass | an object of its fields |
//! | pydantic model | what `model_dump(mode="json")` gives |
//! | an exception | `"ClassName: text"` |
//!
//! Anything else is an error that names the path to it.

use pyo3::exceptions::{PyBaseException, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyDate, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTime, PyTuple, PyType,
};

use crate::events::json;
use crate::sanitize::{EventTexts, KeyRule, SECRET_NUMBER, rule_of};

/// Nested deeper than this is an error; it also ends cycles.
const MAX_DEPTH: usize = 64;
/// Largest integer that JavaScript reads exactly: 2⁵³ − 1.
const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

struct Fault {
    /// From the value outwards, in the order in which the recursion unwinds.
    path: Vec<String>,
    what: String,
}

impl Fault {
    fn new(what: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            what: what.into(),
        }
    }

    fn within(mut self, step: impl FnOnce() -> String) -> Self {
        self.path.push(step());
        self
    }
}

impl From<PyErr> for Fault {
    fn from(error: PyErr) -> Self {
        Self::new(Python::attach(|py| {
            let kind = error
                .get_type(py)
                .name()
                .map_or_else(|_| "an error".to_owned(), |name| name.to_string());
            format!("converting it raised {kind}")
        }))
    }
}

/// How texts are written: as they are, or without what must not be shown; and what the name of their key says about them.
#[derive(Clone, Copy)]
struct Style<'a> {
    texts: &'a EventTexts<'a>,
    rule: KeyRule,
}

impl Style<'_> {
    /// For what is written under a key.
    #[inline]
    fn under(self, key: &Bound<'_, PyAny>) -> Self {
        if !self.texts.looks() {
            return self;
        }
        let rule = key
            .cast::<PyString>()
            .ok()
            .and_then(|key| key.to_str().ok())
            .map_or(KeyRule::Plain, rule_of);
        // Within what is secret as a whole, what looks random is.
        let within = if self.rule == KeyRule::Plain {
            KeyRule::Plain
        } else {
            KeyRule::Suspect
        };
        Self {
            rule: rule.max(within),
            ..self
        }
    }

    fn plain(self) -> Self {
        Self {
            rule: KeyRule::Plain,
            ..self
        }
    }
}

/// Appends `value` as JSON. An error names the path from `name`, which is the name of its key.
pub(crate) fn write(
    out: &mut String,
    value: &Bound<'_, PyAny>,
    name: &str,
    texts: &EventTexts<'_>,
) -> Result<(), String> {
    let rule = if texts.looks() { rule_of(name) } else { KeyRule::Plain };
    let before = out.len();
    write_value(out, value, 0, Style { texts, rule }).map_err(|fault| {
        out.truncate(before);
        let path: String = std::iter::once(name.to_owned())
            .chain(fault.path.into_iter().rev())
            .collect();
        format!("{path} is not JSON-able: {}", fault.what)
    })
}

fn write_str(out: &mut String, value: &Bound<'_, PyString>, style: Style<'_>) {
    if let Ok(text) = value.to_str() {
        write_text(out, text, style);
        return;
    }
    // A lone surrogate: through UTF-16, so that each becomes one replacement character.
    let encoded = value.call_method1(intern!(value.py(), "encode"), ("utf-16-le", "surrogatepass"));
    let units: Vec<u16> = encoded
        .and_then(|encoded| encoded.extract::<Vec<u8>>())
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    write_text(out, &String::from_utf16_lossy(&units), style);
}

fn write_text(out: &mut String, text: &str, style: Style<'_>) {
    if style.texts.looks() {
        json::string(out, &style.texts.shown(text, style.rule));
    } else {
        json::string(out, text);
    }
}

fn write_int(out: &mut String, value: &Bound<'_, PyAny>, style: Style<'_>) -> PyResult<()> {
    match value.extract::<i64>() {
        // What a secret key has is no number for others, unless it is a count.
        Ok(number)
            if style.texts.looks() && style.rule == KeyRule::Secret && number.unsigned_abs() >= SECRET_NUMBER =>
        {
            out.push('0');
        }
        Ok(number) if (-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(&number) => {
            if number < 0 {
                out.push('-');
            }
            json::number(out, number.unsigned_abs());
        }
        _ => {
            static INT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            // `int.__repr__`, so that a subclass cannot write what it likes.
            let repr = INT.get_or_try_init(value.py(), || {
                value.py().get_type::<PyInt>().getattr("__repr__").map(Bound::unbind)
            })?;
            write_str(out, repr.bind(value.py()).call1((value,))?.cast::<PyString>()?, style);
        }
    }
    Ok(())
}

fn write_value(out: &mut String, value: &Bound<'_, PyAny>, depth: usize, style: Style<'_>) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::new(format!(
            "it is nested deeper than {MAX_DEPTH} levels, or contains itself"
        )));
    }
    if let Ok(text) = value.cast_exact::<PyString>() {
        write_str(out, text, style);
    } else if let Ok(dict) = value.cast_exact::<PyDict>() {
        write_dict(out, dict, depth, style)?;
    } else if value.cast_exact::<PyInt>().is_ok() {
        write_int(out, value, style)?;
    } else if let Ok(number) = value.cast_exact::<PyFloat>() {
        json::float(out, number.value());
    } else if value.is_none() {
        out.push_str("null");
    } else if let Ok(truth) = value.cast_exact::<PyBool>() {
        out.push_str(if truth.is_true() { "true" } else { "false" });
    } else if let Ok(list) = value.cast_exact::<PyList>() {
        write_items(out, list.iter(), depth, style)?;
    } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        write_items(out, tuple.iter(), depth, style)?;
    } else {
        write_other(out, value, depth, style)?;
    }
    Ok(())
}

fn write_items<'py>(
    out: &mut String,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    depth: usize,
    style: Style<'_>,
) -> Result<(), Fault> {
    out.push('[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_value(out, &item, depth + 1, style).map_err(|fault| fault.within(|| format!("[{at}]")))?;
    }
    out.push(']');
    Ok(())
}

fn write_dict(out: &mut String, dict: &Bound<'_, PyDict>, depth: usize, style: Style<'_>) -> Result<(), Fault> {
    out.push('{');
    write_members(out, dict, depth, style)?;
    out.push('}');
    Ok(())
}

/// The entries as they are now. For loops whose body may run Python code, which may change the dictionary.
pub(crate) fn entries<'py>(dict: &Bound<'py, PyDict>) -> Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    dict.iter().collect()
}

/// Why a dictionary could not be gone through, or what `write` said of an entry.
pub(crate) enum EntryFault<E> {
    Changed,
    Of(E),
}

/// Calls `write` with each entry. Writing a value may run Python code; a dictionary whose size that changes is refused.
#[allow(unsafe_code)]
pub(crate) fn each_entry<'py, E>(
    dict: &Bound<'py, PyDict>,
    mut write: impl FnMut(&Bound<'py, PyAny>, &Bound<'py, PyAny>) -> Result<(), E>,
) -> Result<(), EntryFault<E>> {
    let (py, size) = (dict.py(), dict.len());
    let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: `PyDict_Next` reads the table as it is at each call and hands out borrowed references, which are made owned before
    // anything else runs.
    while unsafe { ffi::PyDict_Next(dict.as_ptr(), &raw mut at, &raw mut key, &raw mut value) } != 0 {
        // SAFETY: both references were set by the call above.
        let (key, value) = unsafe { (Bound::from_borrowed_ptr(py, key), Bound::from_borrowed_ptr(py, value)) };
        write(&key, &value).map_err(EntryFault::Of)?;
        if dict.len() != size {
            return Err(EntryFault::Changed);
        }
    }
    Ok(())
}

pub(crate) const CHANGED: &str = "the dictionary changed while it was written; pass a copy of it";

/// Appends the members of `dict` to an object that is open.
fn write_members(out: &mut String, dict: &Bound<'_, PyDict>, depth: usize, style: Style<'_>) -> Result<(), Fault> {
    each_entry(dict, |key, value| {
        json::comma(out);
        write_key(out, key, style.plain())?;
        out.push(':');
        write_value(out, value, depth + 1, style.under(key)).map_err(|fault| {
            fault.within(|| match key.cast::<PyString>() {
                Ok(text) => format!(".{}", crate::ids::cut(&text.to_string_lossy(), 60)),
                Err(_) => "[…]".to_owned(),
            })
        })
    })
    .map_err(|fault| match fault {
        EntryFault::Changed => Fault::new(CHANGED),
        EntryFault::Of(fault) => fault,
    })
}

/// Appends members of `dict` to an open object, apart from those in `except`.
pub(crate) fn write_members_except(
    out: &mut String,
    dict: &Bound<'_, PyDict>,
    except: &[&str],
    texts: &EventTexts<'_>,
) -> Result<(), String> {
    let style = Style {
        texts,
        rule: KeyRule::Plain,
    };
    each_entry(dict, |key, value| {
        if let Ok(name) = key.cast::<PyString>()
            && let Ok(name) = name.to_str()
        {
            if !except.contains(&name) {
                json::comma(out);
                write_text(out, name, style);
                out.push(':');
                write(out, value, name, texts)?;
            }
            return Ok(());
        }
        json::comma(out);
        write_key(out, key, style).map_err(|fault| format!("a key is not JSON-able: {}", fault.what))?;
        out.push(':');
        write(out, value, "[…]", texts)
    })
    .map_err(|fault| match fault {
        EntryFault::Changed => format!("payload is not JSON-able: {CHANGED}"),
        EntryFault::Of(fault) => fault,
    })
}

fn write_key(out: &mut String, key: &Bound<'_, PyAny>, style: Style<'_>) -> Result<(), Fault> {
    if let Ok(text) = key.cast_exact::<PyString>() {
        write_str(out, text, style);
        return Ok(());
    }
    if let Some(inner) = enum_value(key)? {
        return write_key(out, &inner, style);
    }
    if let Ok(text) = key.cast::<PyString>() {
        write_str(out, text, style);
        return Ok(());
    }
    if key.is_none()
        || key.is_instance_of::<PyBool>()
        || key.is_instance_of::<PyInt>()
        || key.is_instance_of::<PyFloat>()
    {
        let mut inner = String::new();
        write_value(&mut inner, key, 0, style)?;
        // A number that was written as a string keeps its quotes.
        if inner.starts_with('"') {
            out.push_str(&inner);
        } else {
            out.push('"');
            out.push_str(&inner);
            out.push('"');
        }
        return Ok(());
    }
    Err(Fault::new(format!(
        "a key of type {} is not allowed; use strings",
        type_name(key)
    )))
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value
        .get_type()
        .name()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string())
}

fn imported<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyType>>,
    module: &str,
    name: &str,
) -> PyResult<&'py Bound<'py, PyType>> {
    cell.get_or_try_init(py, || {
        Ok::<_, PyErr>(py.import(module)?.getattr(name)?.cast_into::<PyType>()?.unbind())
    })
    .map(|class| class.bind(py))
}

fn is_a(value: &Bound<'_, PyAny>, cell: &'static PyOnceLock<Py<PyType>>, module: &str, name: &str) -> PyResult<bool> {
    value.is_instance(imported(value.py(), cell, module, name)?)
}

fn enum_value<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    static ENUM: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    if is_a(value, &ENUM, "enum", "Enum")? {
        value.getattr(intern!(value.py(), "value")).map(Some)
    } else {
        Ok(None)
    }
}

fn write_text_of(out: &mut String, text: &Bound<'_, PyAny>, style: Style<'_>) -> PyResult<()> {
    write_str(out, text.cast::<PyString>()?, style);
    Ok(())
}

/// What is not of a JSON type itself.
fn write_other(out: &mut String, value: &Bound<'_, PyAny>, depth: usize, style: Style<'_>) -> Result<(), Fault> {
    static DECIMAL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static UUID: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static PATH: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = value.py();
    // Before the base types: an enum may be a str or an int as well.
    if let Some(inner) = enum_value(value)? {
        return write_value(out, &inner, depth + 1, style);
    }
    if let Ok(text) = value.cast::<PyString>() {
        write_str(out, text, style);
    } else if let Ok(dict) = value.cast::<PyDict>() {
        write_dict(out, dict, depth, style)?;
    } else if value.is_instance_of::<PyInt>() {
        write_int(out, value, style)?;
    } else if let Ok(number) = value.cast::<PyFloat>() {
        json::float(out, number.value());
    } else if value.is_instance_of::<PyList>()
        || value.is_instance_of::<PyTuple>()
        || value.is_instance_of::<PySet>()
        || value.is_instance_of::<PyFrozenSet>()
    {
        let items: Vec<_> = value.try_iter()?.collect::<PyResult<_>>()?;
        write_items(out, items.into_iter(), depth, style)?;
    } else if value.is_instance_of::<PyDate>() || value.is_instance_of::<PyTime>() {
        // A datetime is a date.
        write_text_of(out, &value.call_method0(intern!(py, "isoformat"))?, style)?;
    } else if is_a(value, &DECIMAL, "decimal", "Decimal")?
        || is_a(value, &UUID, "uuid", "UUID")?
        || is_a(value, &PATH, "pathlib", "PurePath")?
    {
        write_text_of(out, value.str()?.as_any(), style)?;
    } else if value.is_instance_of::<PyBaseException>() {
        write_text(out, &exception_text(value), style);
    } else if value.is_instance_of::<PyType>() {
        return Err(Fault::new("a class has no JSON form; send its name"));
    } else if value.hasattr(intern!(py, "__dataclass_fields__"))? {
        write_dataclass(out, value, depth, style)?;
    } else if value.hasattr(intern!(py, "model_dump"))? {
        let options = PyDict::new(py);
        options.set_item("mode", "json")?;
        let dumped = value.call_method(intern!(py, "model_dump"), (), Some(&options))?;
        write_value(out, &dumped, depth + 1, style)?;
    } else {
        return Err(Fault::new(format!(
            "type {} has no JSON form; send a dict, a list, a string or a number made from it",
            type_name(value)
        )));
    }
    Ok(())
}

fn write_dataclass(out: &mut String, value: &Bound<'_, PyAny>, depth: usize, style: Style<'_>) -> Result<(), Fault> {
    let fields = value.getattr(intern!(value.py(), "__dataclass_fields__"))?;
    let fields = fields
        .cast::<PyDict>()
        .map_err(|_| Fault::new("its __dataclass_fields__ are no dict"))?;
    out.push('{');
    for (name, _) in entries(fields) {
        let Ok(name) = name.cast_into::<PyString>() else {
            continue;
        };
        // Class variables are among the fields; those without a value of the instance are left out.
        let Ok(inner) = value.getattr(&name) else { continue };
        json::comma(out);
        write_str(out, &name, style.plain());
        out.push(':');
        write_value(out, &inner, depth + 1, style.under(name.as_any()))
            .map_err(|fault| fault.within(|| format!(".{}", name.to_string_lossy())))?;
    }
    out.push('}');
    Ok(())
}

/// `ClassName: text`, for an exception.
pub(crate) fn exception_text(error: &Bound<'_, PyAny>) -> String {
    let text = error
        .str()
        .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned());
    if text.is_empty() {
        type_name(error)
    } else {
        format!("{}: {text}", type_name(error))
    }
}

/// The JSON of a value, as publishing would write it. For tests and for agents that want to look before they publish.
#[pyfunction]
pub(crate) fn to_json(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut out = String::new();
    write(&mut out, value, "value", &EventTexts::plain()).map_err(PyValueError::new_err)?;
    Ok(out)
}
