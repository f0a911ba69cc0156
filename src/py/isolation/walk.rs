//! Looks into a Python value: all texts in it, at any place, without recursion.

use std::collections::HashSet;

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyByteArray, PyBytes, PyDict, PyFrozenSet, PyFunction, PyList, PyMapping, PyMemoryView, PySet, PyString, PyTuple,
    PyType,
};

use super::super::cache::TtlCache;
use super::super::context::PyContext;
use crate::ids::UserId;
use crate::isolation::{Depth, Form, Found, Scanner, Sighting, Tier};
use crate::mutants::mutant;

/// Values that one walk looks at; of what has more it is said that not all was seen.
const MAX_VALUES: usize = 100_000;
/// Levels below the value; what is deeper was not seen either.
const MAX_DEPTH: usize = 64;
/// A text of fewer bytes holds neither a canary nor a secret.
pub(super) const SHORTEST: usize = 10;
/// A key of more characters is not shown in a path: it may be what was found.
const MAX_KEY: usize = 32;

/// How a value is reached from the one that holds it.
enum Step {
    Root,
    Field(String),
    Key(String),
    At(usize),
    /// A key that is not shown: the number of its entry.
    Entry(usize),
    /// The key itself, by the number of its entry.
    KeyOf(usize),
}

struct Node<'py> {
    step: usize,
    depth: usize,
    value: Bound<'py, PyAny>,
}

/// A sighting, and where in the value it was.
pub(super) struct Located {
    pub(super) path: String,
    pub(super) sighting: Sighting,
}

pub(super) struct Walk<'a, 'py> {
    scanner: &'a Scanner,
    observer: Option<&'a str>,
    steps: Vec<(usize, Step)>,
    stack: Vec<Node<'py>>,
    /// Containers that were looked into. Held, so that no other object gets their address meanwhile.
    seen: HashSet<usize>,
    held: Vec<Bound<'py, PyAny>>,
    left: usize,
    pub(super) found: Found,
    pub(super) located: Vec<Located>,
    /// Whether all of the value was seen.
    pub(super) is_complete: bool,
    /// What is looked at is what the observer brought; how much of it is new and somebody else's.
    is_inbound: bool,
    pub(super) brought: usize,
}

impl<'a, 'py> Walk<'a, 'py> {
    pub(super) fn new(scanner: &'a Scanner, observer: Option<&'a str>) -> Self {
        Self {
            scanner,
            observer,
            steps: vec![(0, Step::Root)],
            stack: Vec::new(),
            seen: HashSet::new(),
            held: Vec::new(),
            left: MAX_VALUES,
            found: Found::default(),
            located: Vec::new(),
            is_complete: true,
            is_inbound: false,
            brought: 0,
        }
    }

    /// A walk through what the observer brought.
    pub(super) fn inbound(scanner: &'a Scanner, observer: &'a str) -> Self {
        Self {
            is_inbound: true,
            ..Self::new(scanner, Some(observer))
        }
    }

    pub(super) fn run(&mut self, value: &Bound<'py, PyAny>) -> PyResult<()> {
        self.visit(0, 0, value.clone())?;
        while let Some(Node { step, depth, value }) = self.stack.pop() {
            self.look(step, depth, value)?;
        }
        Ok(())
    }

    /// Looks at a text at once, and at a container when its turn comes.
    fn visit(&mut self, step: usize, depth: usize, value: Bound<'py, PyAny>) -> PyResult<()> {
        if self.left == 0 || depth > MAX_DEPTH {
            self.is_complete = false;
            return Ok(());
        }
        self.left -= 1;
        if let Ok(text) = value.cast::<PyString>() {
            return self.string(step, text);
        }
        self.stack.push(Node { step, depth, value });
        Ok(())
    }

    fn string(&mut self, step: usize, text: &Bound<'py, PyString>) -> PyResult<()> {
        if let Ok(text) = text.to_str() {
            self.text(step, text.as_bytes());
        } else {
            // Lone surrogates: as Python's own files are written.
            let bytes = text.call_method1(intern!(text.py(), "encode"), ("utf-8", "surrogatepass"))?;
            self.text(step, bytes.cast::<PyBytes>()?.as_bytes());
        }
        Ok(())
    }

    fn text(&mut self, step: usize, text: &[u8]) {
        if text.len() < SHORTEST {
            self.found.bytes += text.len();
            return;
        }
        if self.is_inbound {
            self.brought += self
                .observer
                .map_or(0, |observer| self.scanner.note_inbound(observer, text));
            return;
        }
        self.scanner
            .scan(text, self.observer, Depth::Everything, &mut self.found);
        self.locate(step);
    }

    fn locate(&mut self, step: usize) {
        if self.found.sightings.is_empty() {
            return;
        }
        let path = self.path(step);
        for sighting in std::mem::take(&mut self.found.sightings) {
            if sighting.is_kept(self.located.iter().map(|one| &one.sighting)) {
                let path = path.clone();
                self.located.push(Located { path, sighting });
            } else {
                self.found.more += 1;
            }
        }
    }

    fn path(&self, mut step: usize) -> String {
        let mut parts = Vec::new();
        while let (above, Some(part)) = (self.steps[step].0, self.steps.get(step).map(|(_, part)| part)) {
            parts.push(match part {
                Step::Root => break,
                Step::Field(name) => format!(".{name}"),
                Step::Key(key) => format!("[{key}]"),
                Step::At(at) => format!("[{at}]"),
                Step::Entry(at) => format!("[entry {at}]"),
                Step::KeyOf(at) => format!("[key {at}]"),
            });
            step = above;
        }
        parts.reverse();
        format!("${}", parts.concat())
    }

    fn step(&mut self, above: usize, step: Step) -> usize {
        self.steps.push((above, step));
        self.steps.len() - 1
    }

    fn look(&mut self, step: usize, depth: usize, value: Bound<'py, PyAny>) -> PyResult<()> {
        if let Ok(bytes) = value.cast::<PyBytes>() {
            self.text(step, bytes.as_bytes());
            return Ok(());
        }
        if let Ok(bytes) = value.cast::<PyByteArray>() {
            let bytes = bytes.to_vec();
            self.text(step, &bytes);
            return Ok(());
        }
        if value.is_instance_of::<PyMemoryView>() {
            let bytes = value.call_method0(intern!(value.py(), "tobytes"))?;
            self.text(step, bytes.cast::<PyBytes>()?.as_bytes());
            return Ok(());
        }
        if is_scalar(&value) || !self.seen.insert(value.as_ptr() as usize) {
            return Ok(());
        }
        self.held.push(value.clone());
        let below = depth + 1;
        if let Ok(dict) = value.cast::<PyDict>() {
            for (at, (key, inner)) in super::super::json::entries(dict).into_iter().enumerate() {
                self.entry(step, below, at, key, inner)?;
            }
        } else if let Ok(list) = value.cast::<PyList>() {
            for (at, inner) in list.iter().enumerate() {
                self.at(step, below, at, inner)?;
            }
        } else if let Ok(tuple) = value.cast::<PyTuple>() {
            for (at, inner) in tuple.iter().enumerate() {
                self.at(step, below, at, inner)?;
            }
        } else if value.is_instance_of::<PySet>() || value.is_instance_of::<PyFrozenSet>() {
            self.items(step, below, &value)?;
        } else if value.is_instance_of::<PyBaseException>() {
            self.exception(step, below, &value)?;
        } else {
            self.object(step, below, &value)?;
        }
        Ok(())
    }

    fn at(&mut self, step: usize, depth: usize, at: usize, inner: Bound<'py, PyAny>) -> PyResult<()> {
        if is_scalar(&inner) {
            return Ok(());
        }
        let step = self.step(step, Step::At(at));
        self.visit(step, depth, inner)
    }

    fn items(&mut self, step: usize, depth: usize, value: &Bound<'py, PyAny>) -> PyResult<()> {
        for (at, inner) in value.try_iter()?.enumerate() {
            if self.left == 0 {
                self.is_complete = false;
                return Ok(());
            }
            self.at(step, depth, at, inner?)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        step: usize,
        depth: usize,
        at: usize,
        key: Bound<'py, PyAny>,
        inner: Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let name = key.cast::<PyString>().ok().and_then(|key| key.to_str().ok());
        let shown = name.filter(|name| {
            name.len() <= MAX_KEY
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'-'))
        });
        let below = match shown {
            Some(name) => Step::Key(name.to_owned()),
            None => Step::Entry(at),
        };
        if !mutant!(KeysNotScanned) && shown.is_none_or(|name| name.len() >= SHORTEST) {
            let of_key = self.step(step, Step::KeyOf(at));
            self.visit(of_key, depth, key)?;
        }
        if is_scalar(&inner) {
            return Ok(());
        }
        let below = self.step(step, below);
        self.visit(below, depth, inner)
    }

    fn field(&mut self, step: usize, depth: usize, value: &Bound<'py, PyAny>, name: &str) -> PyResult<()> {
        // Whatever reading it raises, there is nothing to be seen.
        if let Ok(inner) = value.getattr(name)
            && !inner.is_none()
        {
            let step = self.step(step, Step::Field(name.to_owned()));
            self.visit(step, depth, inner)?;
        }
        Ok(())
    }

    fn exception(&mut self, step: usize, depth: usize, value: &Bound<'py, PyAny>) -> PyResult<()> {
        for name in [
            "args",
            "__cause__",
            "__context__",
            "__notes__",
            "exceptions",
            "__dict__",
        ] {
            self.field(step, depth, value, name)?;
        }
        Ok(())
    }

    fn object(&mut self, step: usize, depth: usize, value: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = value.py();
        let kind = value.get_type();
        if let Some(owner) = owner_of(&kind, value) {
            return self.owned(step, depth, value, &owner);
        }
        if is_written(&kind) {
            return self.string(step, &value.str()?);
        }
        if let Ok(function) = value.cast::<PyFunction>() {
            for name in ["__defaults__", "__kwdefaults__", "__dict__"] {
                self.field(step, depth, value, name)?;
            }
            if let Ok(cells) = function.getattr(intern!(py, "__closure__"))
                && let Ok(cells) = cells.cast_into::<PyTuple>()
            {
                for cell in cells {
                    self.field(step, depth, &cell, "cell_contents")?;
                }
            }
            return Ok(());
        }
        if value.is_instance_of::<PyType>() {
            return Ok(());
        }
        // What a method, or a call with some of its arguments, was made of.
        let parts: &[&str] = match kind.module() {
            Ok(module) if value.is_callable() && module.to_str().is_ok_and(|name| name == "builtins") => {
                &["__self__", "__func__"]
            }
            Ok(module) if module.to_str().is_ok_and(|name| name == "functools") => &["func", "args", "keywords"],
            _ => &[],
        };
        for name in parts {
            self.field(step, depth, value, name)?;
        }
        if self.dataclass(step, depth, value)? {
            // Its class may have a dictionary for more.
        } else if let Ok(mapping) = value.cast::<PyMapping>() {
            for (at, pair) in mapping.items()?.iter().enumerate() {
                let (key, inner) = pair.extract()?;
                self.entry(step, depth, at, key, inner)?;
            }
            return Ok(());
        } else if value.hasattr(intern!(py, "__len__"))? && value.hasattr(intern!(py, "__iter__"))? {
            self.items(step, depth, value)?;
        } else if ["__next__", "__anext__", "cr_frame"]
            .iter()
            .any(|name| value.hasattr(*name).unwrap_or(false))
        {
            // Reading it would take it away from whoever it is for; of what a coroutine is about nothing can be seen.
            self.is_complete = false;
            return Ok(());
        }
        for name in ["__dict__", "__pydantic_extra__", "__pydantic_private__"] {
            self.field(step, depth, value, name)?;
        }
        for class in kind.mro() {
            if let Ok(slots) = class.getattr(intern!(py, "__slots__")) {
                let names = match slots.extract::<String>() {
                    Ok(name) => vec![name],
                    Err(_) => slots
                        .try_iter()?
                        .filter_map(|name| name.ok()?.extract().ok())
                        .collect::<Vec<String>>(),
                };
                for name in names.iter().filter(|name| !name.starts_with("__")) {
                    self.field(step, depth, value, name)?;
                }
            }
        }
        Ok(())
    }

    /// Looks at the fields of a dataclass. Answers whether it is one.
    fn dataclass(&mut self, step: usize, depth: usize, value: &Bound<'py, PyAny>) -> PyResult<bool> {
        let Ok(fields) = value.get_type().getattr(intern!(value.py(), "__dataclass_fields__")) else {
            return Ok(false);
        };
        for name in fields.try_iter()? {
            self.field(step, depth, value, &name?.extract::<String>()?)?;
        }
        Ok(true)
    }

    /// An object of isolane's says itself whose it is. Into what is the observer's own it is looked as far as it holds data:
    /// its other parts are the process's, and lead to everybody.
    fn owned(&mut self, step: usize, depth: usize, value: &Bound<'py, PyAny>, owner: &str) -> PyResult<()> {
        if self.observer.is_some_and(|observer| observer == owner) {
            if value.is_instance_of::<PyContext>() {
                for name in ["agent_context", "audit_metadata"] {
                    self.field(step, depth, value, name)?;
                }
            } else if value.is_instance_of::<TtlCache>() {
                let held = value.call_method0(intern!(value.py(), "items"))?;
                self.visit(step, depth, held)?;
            } else {
                self.dataclass(step, depth, value)?;
            }
            return Ok(());
        }
        let hash = self.scanner.owner(owner);
        self.found.push(Sighting {
            tier: Tier::Owner,
            owner: hash,
            user: UserId::new(owner).ok(),
            offset: 0,
            length: 0,
            form: Form::Plain,
            evidence: hash,
            is_prior: false,
        });
        self.locate(step);
        Ok(())
    }
}

fn is_scalar(value: &Bound<'_, PyAny>) -> bool {
    use pyo3::types::{PyBool, PyComplex, PyFloat, PyInt, PyModule};
    value.is_none()
        || value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyFloat>()
        || value.is_instance_of::<PyBool>()
        || value.is_instance_of::<PyComplex>()
        || value.is_instance_of::<PyModule>()
}

/// The user of an object of isolane's, or of a class that an application derived from one.
pub(crate) fn owner_of(kind: &Bound<'_, PyType>, value: &Bound<'_, PyAny>) -> Option<String> {
    if let Ok(cache) = value.cast::<TtlCache>() {
        return Some(cache.get().tag().user().as_str().to_owned());
    }
    if !kind.mro().iter().any(|class| is_ours(&class)) {
        return None;
    }
    let owner = value.getattr(intern!(value.py(), "user_id")).ok()?;
    Some(owner.cast::<PyString>().ok()?.to_string_lossy().into_owned())
}

fn is_ours(class: &Bound<'_, PyAny>) -> bool {
    let module = class.getattr(intern!(class.py(), "__module__"));
    module.is_ok_and(|module| {
        let module = module.cast::<PyString>().ok().and_then(|module| module.to_str().ok());
        module.is_some_and(|module| module == "isolane" || module.starts_with("isolane."))
    })
}

/// Whether the value is a text under another type.
fn is_written(kind: &Bound<'_, PyType>) -> bool {
    let named = kind.module().and_then(|module| Ok((module, kind.name()?)));
    named.is_ok_and(|(module, name)| {
        matches!(
            (module.to_str(), name.to_str()),
            (Ok("uuid"), Ok("UUID"))
                | (
                    Ok("pathlib" | "pathlib._local"),
                    Ok("PosixPath" | "PurePosixPath" | "WindowsPath")
                )
        )
    })
}
