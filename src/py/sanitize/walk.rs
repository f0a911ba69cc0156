//! Values of Python, gone through once. What is not changed is not copied: the same object is handed out again.

use std::borrow::Cow;

use pyo3::exceptions::{PyBaseException, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDate, PyDelta, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString,
    PyTime, PyTuple, PyType,
};

use super::super::isolation::owner_of;
use super::super::json::{CHANGED, EntryFault, each_entry, entries, exception_text, to_json};
use super::limit_error;
use crate::ids;
use crate::sanitize::{
    KeyRule, Kind, Kinds, LimitFault, MAX_BYTES, MAX_DEPTH, MaskKey, Mode, Modes, SECRET_NUMBER, Span, UserMask,
    is_mask, is_name, mask_with, masks_in, rule_of, scan_value, settle,
};

/// Path, kind, first and last character, and what was done.
pub(crate) type Record = (String, String, usize, usize, &'static str);

/// Most characters of a key in a path.
const MAX_STEP: usize = 60;
/// Exceptions and notes that are looked at of one exception; of one that has more the text is handed out alone.
const MAX_PARTS: usize = 256;
/// Numbers with fewer digits are no cards.
const CARD_DIGITS: usize = 13;

enum Step<'py> {
    /// A key, as it may be shown.
    Key(Bound<'py, PyAny>),
    Index(usize),
    /// The next finding is in a key itself.
    KeyItself,
}

/// One look through a value.
pub(super) struct Walk<'a, 'py> {
    py: Python<'py>,
    masks: UserMask<'a>,
    modes: Modes,
    mask: Kinds,
    report: Kinds,
    looked_for: Kinds,
    detectors: &'a [Bound<'py, PyAny>],
    /// Who may see what says whose it is; nobody asks it when absent.
    pub(super) reader: Option<&'a str>,
    path: Vec<Step<'py>>,
    records: Vec<Record>,
    spent: usize,
}

/// What a detector of the application found in one text.
struct Named {
    span: Span,
    name: String,
}

impl<'a, 'py> Walk<'a, 'py> {
    pub(super) fn new(
        py: Python<'py>,
        key: &'a MaskKey,
        user: &'a str,
        kinds: Kinds,
        modes: Modes,
        detectors: &'a [Bound<'py, PyAny>],
    ) -> Self {
        Self {
            py,
            masks: key.of(user),
            modes,
            mask: kinds.and(modes.kinds(&[Mode::Mask])),
            report: kinds.and(modes.kinds(&[Mode::Detect, Mode::Block])),
            looked_for: kinds.and(modes.kinds(&[Mode::Detect, Mode::Mask, Mode::Block])),
            detectors,
            reader: None,
            path: Vec::new(),
            records: Vec::new(),
            spent: 0,
        }
    }

    pub(super) fn run(&mut self, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.value(value, KeyRule::Plain, 0)?.unwrap_or_else(|| value.clone()))
    }

    pub(super) fn into_records(self) -> Vec<Record> {
        self.records
    }

    fn spend(&mut self, bytes: usize) -> PyResult<()> {
        self.spent += bytes + 1;
        if self.spent > MAX_BYTES {
            return Err(limit_error(self.py, LimitFault::Bytes));
        }
        Ok(())
    }

    /// What stands in the place of a value, if it changes.
    fn value(&mut self, value: &Bound<'py, PyAny>, rule: KeyRule, depth: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
        if depth > MAX_DEPTH {
            return Err(limit_error(self.py, LimitFault::Depth));
        }
        if let Ok(text) = value.cast::<PyString>() {
            let shown = self.text(&lossy(text)?, rule)?;
            return Ok(shown.map(|shown| PyString::new(self.py, &shown).into_any()));
        }
        self.spend(0)?;
        if value.is_none() || value.is_instance_of::<PyBool>() {
            Ok(None)
        } else if value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>() {
            self.number(value, rule)
        } else if let Ok(dict) = value.cast::<PyDict>() {
            self.dict(dict, rule, depth)
        } else if value.is_instance_of::<PyList>()
            || value.is_instance_of::<PyTuple>()
            || value.is_instance_of::<PySet>()
            || value.is_instance_of::<PyFrozenSet>()
        {
            self.items(value, rule, depth)
        } else {
            self.other(value, rule, depth)
        }
    }

    fn dict(&mut self, dict: &Bound<'py, PyDict>, rule: KeyRule, depth: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
        // What changes is kept by its place: nearly always it is nothing.
        let mut changes = Vec::new();
        let mut place = 0;
        let walked = each_entry(dict, |key, value| {
            let change = self.member(key, value, rule, depth)?;
            changes.extend(change.map(|change| (place, change)));
            place += 1;
            Ok::<_, PyErr>(())
        });
        match walked {
            Ok(()) => {}
            Err(EntryFault::Of(error)) => return Err(error),
            Err(EntryFault::Changed) => return Err(PyValueError::new_err(CHANGED)),
        }
        if changes.is_empty() {
            return Ok(None);
        }
        let mut members = entries(dict);
        for (place, change) in changes {
            members[place] = change;
        }
        let copy = PyDict::new(self.py);
        for (key, value) in members {
            let mut place = key.clone();
            // Two keys with one mask stay two keys.
            let mut number = 2;
            while copy.contains(&place)? {
                place = PyString::new(self.py, &format!("{}#{number}", key.str()?.to_string_lossy())).into_any();
                number += 1;
            }
            copy.set_item(place, value)?;
        }
        Ok(Some(copy.into_any()))
    }

    /// A key and its value, if either changes.
    fn member(
        &mut self,
        key: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        rule: KeyRule,
        depth: usize,
    ) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let (mut own, mut shown_key) = (KeyRule::Plain, None);
        if let Ok(name) = key.cast::<PyString>() {
            let name = lossy(name)?;
            own = rule_of(&name);
            self.path.push(Step::KeyItself);
            let shown = self.text(&name, KeyRule::Plain);
            self.path.pop();
            shown_key = shown?.map(|shown| PyString::new(self.py, &shown).into_any());
        } else if !key.is_none() {
            if let Ok(name) = key.cast::<PyBytes>() {
                own = rule_of(&String::from_utf8_lossy(name.as_bytes()));
            }
            self.path.push(Step::KeyItself);
            let shown = self.value(key, KeyRule::Plain, depth + 1);
            self.path.pop();
            shown_key = shown?.map(|shown| hashable(&shown)).transpose()?;
        }
        // Within what is secret as a whole, what looks random is.
        let within = if rule == KeyRule::Plain {
            KeyRule::Plain
        } else {
            KeyRule::Suspect
        };
        self.path.push(Step::Key(shown_key.as_ref().unwrap_or(key).clone()));
        let shown = self.value(value, own.max(within), depth + 1);
        self.path.pop();
        Ok(match (shown_key, shown?) {
            (None, None) => None,
            (shown_key, shown) => Some((
                shown_key.unwrap_or_else(|| key.clone()),
                shown.unwrap_or_else(|| value.clone()),
            )),
        })
    }

    fn items(&mut self, value: &Bound<'py, PyAny>, rule: KeyRule, depth: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut items = held(value)?;
        let mut is_changed = false;
        for (at, item) in items.iter_mut().enumerate() {
            self.path.push(Step::Index(at));
            let shown = self.value(item, rule, depth + 1);
            self.path.pop();
            if let Some(shown) = shown? {
                *item = shown;
                is_changed = true;
            }
        }
        if !is_changed {
            return Ok(None);
        }
        let py = self.py;
        Ok(Some(if value.is_instance_of::<PyList>() {
            PyList::new(py, items)?.into_any()
        } else if let Ok(tuple) = value.cast::<PyTuple>() {
            let make = tuple.get_type().getattr_opt(intern!(py, "_make"))?;
            match make {
                Some(make) => make.call1((items,))?,
                None => PyTuple::new(py, items)?.into_any(),
            }
        } else if value.is_instance_of::<PySet>() {
            PySet::new(py, items)?.into_any()
        } else {
            PyFrozenSet::new(py, items)?.into_any()
        }))
    }

    /// A number stays one: what is masked in it becomes zero.
    fn number(&mut self, value: &Bound<'py, PyAny>, rule: KeyRule) -> PyResult<Option<Bound<'py, PyAny>>> {
        let is_int = value.is_instance_of::<PyInt>();
        let number = value.extract::<f64>().unwrap_or(f64::INFINITY).abs();
        let rule = if number >= SECRET_NUMBER as f64 {
            rule
        } else {
            KeyRule::Plain
        };
        if rule != KeyRule::Secret && (!is_int || number < 1e12) {
            return Ok(None);
        }
        let digits = if is_int && number > 1e30 {
            "0".repeat(31)
        } else {
            value.str()?.to_string_lossy().into_owned()
        };
        if rule != KeyRule::Secret && digits.len() < CARD_DIGITS {
            return Ok(None);
        }
        let shown = self.text(&digits, if rule == KeyRule::Secret { rule } else { KeyRule::Plain })?;
        Ok(shown.map(|_| {
            if is_int {
                PyInt::new(self.py, 0).into_any()
            } else {
                PyFloat::new(self.py, 0.0).into_any()
            }
        }))
    }

    /// What is of no type of JSON's.
    fn other(&mut self, value: &Bound<'py, PyAny>, rule: KeyRule, depth: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = self.py;
        let bytes = match (value.cast::<PyBytes>(), value.cast::<PyByteArray>()) {
            (Ok(bytes), _) => Some(bytes.as_bytes().to_vec()),
            (_, Ok(bytes)) => Some(bytes.to_vec()),
            _ => None,
        };
        if let Some(bytes) = bytes {
            let shown = self.text(&String::from_utf8_lossy(&bytes), rule)?;
            return Ok(shown.map(|shown| {
                if value.is_instance_of::<PyBytes>() {
                    PyBytes::new(py, shown.as_bytes()).into_any()
                } else {
                    PyByteArray::new(py, shown.as_bytes()).into_any()
                }
            }));
        }
        if value.is_instance_of::<PyDate>()
            || value.is_instance_of::<PyTime>()
            || value.is_instance_of::<PyDelta>()
            || is_plain(value)?
        {
            return Ok(None);
        }
        if let Some(reader) = self.reader
            && let Some(owner) = owner_of(&value.get_type(), value)
        {
            return Ok(self.owned(reader, &owner));
        }
        if value.is_instance_of::<PyBaseException>() {
            return self.exception(value, rule);
        }
        if value.hasattr(intern!(py, "__fspath__"))? {
            let shown = self.text(&lossy(&value.str()?)?, rule)?;
            return Ok(shown.map(|shown| PyString::new(py, &shown).into_any()));
        }
        let Ok(json) = to_json(value) else {
            let kind = value.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "{} of type {kind} cannot be looked through; pass a dict, a list, a string or a number made from it",
                self.place()
            )));
        };
        let plain = py.import("json")?.call_method1("loads", (json,))?;
        self.value(&plain, rule, depth + 1)
    }

    /// What stands in the place of an object that says whose it is: itself, for its owner.
    fn owned(&mut self, reader: &str, owner: &str) -> Option<Bound<'py, PyAny>> {
        let mode = self.modes.of(Kind::Custom);
        if owner == reader || mode == Mode::Off {
            return None;
        }
        let name = Kind::Foreign.name();
        self.records.push((self.place(), name.to_owned(), 0, 0, mode.name()));
        if mode != Mode::Mask {
            return None;
        }
        let mut mask = String::new();
        self.masks.write(&mut mask, name, owner);
        Some(PyString::new(self.py, &mask).into_any())
    }

    /// An exception, or its text alone when anything is masked in it, or in what a traceback shows beside it.
    fn exception(&mut self, error: &Bound<'py, PyAny>, rule: KeyRule) -> PyResult<Option<Bound<'py, PyAny>>> {
        let text = exception_text(error);
        let shown = self.text(&text, rule)?;
        let mut is_changed = shown.is_some();
        let mut beside = parts_of(error);
        let mut seen = vec![error.as_ptr()];
        while let Some(part) = beside.pop() {
            if part.is_none() || seen.contains(&part.as_ptr()) {
                continue;
            }
            if seen.len() >= MAX_PARTS {
                is_changed = true;
                break;
            }
            seen.push(part.as_ptr());
            if part.is_instance_of::<PyBaseException>() {
                is_changed |= self.text(&exception_text(&part), rule)?.is_some();
                beside.extend(parts_of(&part));
            } else if let Ok(note) = part.cast::<PyString>() {
                is_changed |= self.text(&lossy(note)?, rule)?.is_some();
            } else if let Ok(parts) = part.try_iter() {
                beside.extend(parts.filter_map(Result::ok).take(MAX_PARTS));
            }
        }
        Ok(is_changed.then(|| PyString::new(self.py, &shown.unwrap_or(text)).into_any()))
    }

    /// A text as it may be shown, if that differs.
    fn text(&mut self, text: &str, rule: KeyRule) -> PyResult<Option<String>> {
        self.spend(text.len())?;
        let mut found = Vec::new();
        scan_value(text, rule, self.looked_for, &mut found);
        if found.is_empty() && self.detectors.is_empty() {
            return Ok(None);
        }
        let named = if self.detectors.is_empty() {
            Vec::new()
        } else {
            self.ask(text)?
        };
        let custom: Vec<Span> = named.iter().map(|named| named.span).collect();
        let name = |span: &Span| -> &str {
            if span.kind != Kind::Custom {
                return span.kind.name();
            }
            // All of which it was made begin in it, and they are in order.
            let first = named.partition_point(|named| named.span.start < span.start);
            named.get(first).map_or(Kind::Custom.name(), |named| &named.name)
        };
        let mode = self.modes.of(Kind::Custom);
        let none: &[Span] = &[];
        let masked = if mode == Mode::Mask { &custom[..] } else { none };
        let reported = if matches!(mode, Mode::Detect | Mode::Block) {
            &custom[..]
        } else {
            none
        };
        let shown = mask_with(text, rule, self.mask, masked, &name, &self.masks);
        let masked = shown.as_ref().map_or(none, |shown| &shown.found);
        let mut places = Places::new(text);
        for span in masked {
            self.record(&mut places, span, name(span), Mode::Mask);
        }
        scan_value(text, rule, self.report, &mut found);
        if !reported.is_empty() {
            found.extend_from_slice(reported);
            settle(text.as_bytes(), &mut found);
        }
        let mut places = Places::new(text);
        for span in &found {
            let next = masked.partition_point(|other| other.end <= span.start);
            if masked.get(next).is_none_or(|other| other.start >= span.end) {
                self.record(&mut places, span, name(span), self.modes.of(span.kind));
            }
        }
        Ok(shown.map(|shown| shown.text))
    }

    fn record(&mut self, places: &mut Places<'_>, span: &Span, name: &str, mode: Mode) {
        let (start, end) = (places.characters(span.start), places.characters(span.end));
        self.records
            .push((self.place(), name.to_owned(), start, end, mode.name()));
    }

    fn place(&self) -> String {
        let mut place = "$".to_owned();
        for step in &self.path {
            match step {
                Step::Key(key) => {
                    let name = key.cast::<PyString>().ok().and_then(|key| lossy(key).ok());
                    place.push('.');
                    place.push_str(name.as_deref().map_or("…", |name| ids::cut(name, MAX_STEP)));
                }
                Step::Index(at) => {
                    place.push('[');
                    place.push_str(&at.to_string());
                    place.push(']');
                }
                Step::KeyItself => place.push_str(".~key"),
            }
        }
        place
    }

    /// What the detectors of the application find: `(kind, start, end)` each, in characters. Masks are no longer theirs.
    fn ask(&self, text: &str) -> PyResult<Vec<Named>> {
        let mut named = Vec::new();
        if text.is_empty() || is_mask(text) {
            return Ok(named);
        }
        let masks = masks_in(text);
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        for detector in self.detectors {
            for finding in detector.call1((text,))?.try_iter()? {
                let (name, start, end): (String, usize, usize) = finding?.extract()?;
                if !is_name(&name) {
                    return Err(PyValueError::new_err(format!(
                        "a detector named a finding {name:?}; a name has 2 to 24 capital letters or underscores"
                    )));
                }
                let (Some(start), Some(end)) = (places.get(start).copied(), places.get(end).copied()) else {
                    return Err(PyValueError::new_err(format!(
                        "a detector found {name} from {start} to {end} in a text of {} characters",
                        places.len() - 1
                    )));
                };
                if start < end && !masks.iter().any(|mask| mask.0 < end && start < mask.1) {
                    named.push(Named {
                        span: Span {
                            start,
                            end,
                            kind: Kind::Custom,
                        },
                        name,
                    });
                }
            }
        }
        named.sort_unstable_by_key(|named| named.span.start);
        Ok(named)
    }
}

/// What a container has, whatever its class makes of iterating: what is written as JSON is this.
fn held<'py>(value: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    if let Ok(list) = value.cast::<PyList>() {
        Ok(list.iter().collect())
    } else if let Ok(tuple) = value.cast::<PyTuple>() {
        Ok(tuple.iter().collect())
    } else {
        value.try_iter()?.collect()
    }
}

/// What a traceback shows beside an exception: its causes, its notes, and the members of a group.
fn parts_of<'py>(error: &Bound<'py, PyAny>) -> Vec<Bound<'py, PyAny>> {
    ["__cause__", "__context__", "__notes__", "exceptions"]
        .iter()
        .filter_map(|name| error.getattr(*name).ok())
        .collect()
}

/// A key as it may be shown. What became a dictionary is no key: then its text is.
fn hashable<'py>(key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if key.hash().is_ok() {
        return Ok(key.clone());
    }
    Ok(key.str()?.into_any())
}

/// Counts the characters before the places of a text, which are asked for in order: each is counted once.
struct Places<'t> {
    text: &'t str,
    bytes: usize,
    characters: usize,
}

impl<'t> Places<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            bytes: 0,
            characters: 0,
        }
    }

    fn characters(&mut self, at: usize) -> usize {
        self.characters += self.text[self.bytes..at].chars().count();
        self.bytes = at;
        self.characters
    }
}

/// The text; a lone surrogate is one replacement character.
fn lossy<'t>(text: &'t Bound<'_, PyString>) -> PyResult<Cow<'t, str>> {
    if let Ok(text) = text.to_str() {
        return Ok(Cow::Borrowed(text));
    }
    let encoded = text.call_method1(intern!(text.py(), "encode"), ("utf-16-le", "surrogatepass"))?;
    let bytes: Vec<u8> = encoded.extract()?;
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    Ok(Cow::Owned(String::from_utf16_lossy(&units)))
}

/// Whether it is an id, a number or a choice, which has no text of anybody's.
fn is_plain(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    static PLAIN: [(PyOnceLock<Py<PyType>>, &str, &str); 3] = [
        (PyOnceLock::new(), "decimal", "Decimal"),
        (PyOnceLock::new(), "uuid", "UUID"),
        (PyOnceLock::new(), "enum", "Enum"),
    ];
    for (cell, module, name) in &PLAIN {
        if value.is_instance(cell.import(value.py(), module, name)?)? {
            return Ok(true);
        }
    }
    Ok(false)
}
