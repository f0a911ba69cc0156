//! What callers give as users and attributes. Anything may be given: nothing here raises.

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt, PyString};

use super::super::loops::is_coroutine;
use crate::flags::{Attributes, Document, Unit};

/// Longest number that is a user id, in digits.
const DIGITS: usize = 39;

/// A whole number as text, without memory of its own.
#[derive(Default)]
pub(super) struct Digits {
    buffer: itoa::Buffer,
}

/// Who is meant: a text as it is, a whole number as decimal text. A truth value is no id: it would put all users into two buckets.
pub(super) fn unit<'a>(value: &'a Bound<'_, PyAny>, digits: &'a mut Digits) -> Unit<'a> {
    if let Ok(text) = value.cast::<PyString>() {
        // A lone surrogate has no UTF-8.
        return text.to_str().map_or(Unit::Invalid, Unit::of);
    }
    if value.is_none() {
        return Unit::Missing;
    }
    if value.is_instance_of::<PyBool>() || !value.is_instance_of::<PyInt>() {
        return Unit::Invalid;
    }
    debug_assert!(i128::MAX.to_string().len() <= DIGITS);
    // A subclass cannot answer here: the number itself is read.
    match value.extract::<i128>() {
        Ok(number) => Unit::Id(digits.buffer.format(number)),
        Err(_) => Unit::Invalid,
    }
}

/// The name of a flag; the empty one, which no flag has, for what is none.
pub(super) fn flag_name<'a>(value: &'a Bound<'_, PyAny>) -> &'a str {
    let name = value.cast::<PyString>().ok();
    name.and_then(|name| name.to_str().ok()).unwrap_or_default()
}

fn value_text(value: &Bound<'_, PyAny>) -> Option<Box<str>> {
    if let Ok(text) = value.cast::<PyString>() {
        return text.to_str().ok().map(Box::from);
    }
    if let Ok(truth) = value.cast::<PyBool>() {
        return Some(if truth.is_true() { "true" } else { "false" }.into());
    }
    if !value.is_instance_of::<PyInt>() {
        return None;
    }
    let number = value.extract::<i64>().ok()?;
    Some(itoa::Buffer::new().format(number).into())
}

/// Reads the attributes that the rules of a document look at. Texts are taken as they are, whole numbers as decimal text, truth
/// values as `true` and `false`; anything else matches no rule.
pub(super) fn attributes(document: &Document, given: &Bound<'_, PyAny>) -> Attributes {
    if given.is_none() {
        return Attributes::default();
    }
    let py = given.py();
    let dict = given.cast_exact::<PyDict>().ok();
    let mut values = Vec::with_capacity(document.attributes().len());
    for name in document.attributes() {
        let found = match dict {
            Some(dict) => dict.get_item(&**name),
            None => match given.get_item(&**name) {
                Ok(value) => Ok(Some(value)),
                Err(error) if error.is_instance_of::<PyKeyError>(py) => Ok(None),
                Err(error) => Err(error),
            },
        };
        match found {
            Ok(value) => values.push(value.as_ref().and_then(value_text)),
            Err(_) => return Attributes::failed(),
        }
    }
    Attributes::new(values)
}

/// Asks the application what it knows of a user.
pub(super) fn asked(document: &Document, attributes_of: &Bound<'_, PyAny>, unit: Unit<'_>) -> Attributes {
    let Unit::Id(id) = unit else {
        return Attributes::default();
    };
    let Ok(answer) = attributes_of.call1((id,)) else {
        return Attributes::failed();
    };
    if is_coroutine(&answer).unwrap_or(false) {
        // Nobody will await it. Closed, it does not warn of that wherever it is collected.
        let _ = answer.call_method0("close");
        return Attributes::failed();
    }
    attributes(document, &answer)
}
