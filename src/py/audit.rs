//! The audit log's face: `AuditLog` takes events, `AuditReader` and `audit_verify` read what was written.

use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBytes, PyDateAccess, PyDateTime, PyDict, PyList, PyString, PyTimeAccess, PyType, PyTzInfo, PyTzInfoAccess,
};

use super::json;
use super::process::{CLOCK, Stamp};
use crate::audit::chain::ChainSettings;
use crate::audit::files::Durability;
use crate::audit::intake::Intake;
use crate::audit::intake::{IntakeSettings, Refused};
use crate::audit::keys::Kek;
use crate::audit::log::{LogSettings, chains, is_written};
use crate::audit::reading::{Body, Cursor, Reader, Wanted};
use crate::audit::record::{CLASSES, PerClass};
use crate::audit::verify::{Against, verify};
use crate::audit::{AuditClass, AuditError, Entry, OnFailure, Severity, checkpoint, content};
use crate::clock::{Civil, Clock, Micros, SystemClock, micros};
use crate::metrics::{Id, Live, Scrape};
use crate::sanitize::EventTexts;
use crate::sync::Mutex;

/// A disk hangs in real time, whatever a test's clock says: only what is written down is the time of the process.
struct ClockOfLog;

impl Clock for ClockOfLog {
    fn monotonic(&self) -> Micros {
        SystemClock.monotonic()
    }

    fn unix(&self) -> Micros {
        CLOCK.unix()
    }
}

fn class<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyType>>,
    module: &str,
    name: &str,
) -> PyResult<&'py Bound<'py, PyType>> {
    cell.import(py, module, name)
}

/// Makes the exception for an error of the log. The classes are written in Python.
fn raised(py: Python<'_>, error: &AuditError) -> PyErr {
    static TAMPER: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static KEY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static LOG: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    const MODULE: &str = "isolane.security.audit.errors";
    let made = match error {
        AuditError::Tampered(found) => class(py, &TAMPER, MODULE, "AuditTamperError")
            .and_then(|class| class.call1((error.to_string(), found.chain, found.seq))),
        AuditError::WrongKey | AuditError::Keystore { .. } => {
            class(py, &KEY, MODULE, "AuditKeyError").and_then(|class| class.call1((error.to_string(),)))
        }
        _ => class(py, &LOG, MODULE, "AuditLogError").and_then(|class| class.call1((error.to_string(),))),
    };
    made.map_or_else(|error| error, PyErr::from_value)
}

fn refused(py: Python<'_>, refused: &Refused) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    class(py, &CLASS, "isolane.security.errors", "AuditUnavailableError")
        .and_then(|class| class.call1((refused.class.name(), &refused.reason)))
        .map_or_else(|error| error, PyErr::from_value)
}

fn key_of_keys(key: &[u8]) -> PyResult<Kek> {
    Kek::new(key).ok_or_else(|| {
        PyValueError::new_err(format!(
            "the key must have 32 bytes, got {}: make one with `openssl rand -base64 32`",
            key.len()
        ))
    })
}

fn word<T>(found: Option<T>, what: &str, word: &str, allowed: &str) -> PyResult<T> {
    found.ok_or_else(|| PyValueError::new_err(format!("{what} must be one of {allowed}, got {word:?}")))
}

fn names<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str) -> String {
    all.iter().map(|each| name(*each)).collect::<Vec<_>>().join(", ")
}

/// The text of an attribute, through the enum's value where it is one.
fn text<'py>(event: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyString>> {
    let value = event.getattr(name)?;
    match value.cast_into::<PyString>() {
        Ok(text) => Ok(text),
        Err(error) => error.into_inner().str(),
    }
}

/// The data of an event as JSON. What has no JSON form is recorded as that: an event is never lost for it.
fn data_of(event: &Bound<'_, PyAny>) -> PyResult<String> {
    let py = event.py();
    let data = event.getattr(intern!(py, "data"))?;
    let mut out = String::new();
    let written = if data.is_instance_of::<PyDict>() {
        json::write(&mut out, &data, "data", &EventTexts::plain())
    } else {
        // Another mapping, such as a read-only view.
        let as_dict = py.get_type::<PyDict>().call1((&data,)).unwrap_or(data);
        json::write(&mut out, &as_dict, "data", &EventTexts::plain())
    };
    if let Err(fault) = written {
        out.clear();
        out.push_str(r#"{"unwritable":"#);
        crate::events::json::string(&mut out, &fault);
        out.push('}');
    }
    Ok(out)
}

/// When an event happened, as ISO 8601. A datetime in UTC, which nearly all are, is written without asking Python.
fn moment_of(at: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(moment) = at.cast_exact::<PyDateTime>()
        && let Some(zone) = moment.get_tzinfo()
        && zone.is(PyTzInfo::utc(at.py())?)
    {
        let civil = Civil {
            year: u16::try_from(moment.get_year()).unwrap_or_default(),
            month: moment.get_month(),
            day: moment.get_day(),
            hour: moment.get_hour(),
            minute: moment.get_minute(),
            second: moment.get_second(),
            micros: moment.get_microsecond(),
        };
        let mut out = String::with_capacity(27);
        out.push_str(str::from_utf8(&civil.iso8601()).unwrap_or_default());
        out.push('Z');
        return Ok(out);
    }
    let mut out = String::new();
    let written = json::write(&mut out, at, "at", &EventTexts::plain());
    Ok(written.map_or_else(|_| String::new(), |()| out.trim_matches('"').to_owned()))
}

/// A count for each class.
fn per_class<'py>(py: Python<'py>, counts: &PerClass) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (class, count) in AuditClass::ALL.iter().zip(counts) {
        dict.set_item(class.name(), count)?;
    }
    Ok(dict)
}

/// The logs of the process, for the metrics.
static LIVE: Live<Intake> = Live::new();

/// How much the latest checkpoints cover, of all logs that are open.
pub(super) fn collect(scrape: &mut Scrape) {
    let sizes: Vec<u64> = LIVE.living().iter().filter_map(|log| log.checkpoint_size()).collect();
    if !sizes.is_empty() {
        scrape.level(Id::AuditCheckpointSize, &[], sizes.iter().sum::<u64>() as f64);
    }
}

/// The parent's logs are not asked in the child of a fork: their locks may be held for ever.
pub(super) fn after_fork_in_child() {
    LIVE.clear();
}

/// A log that is written: a queue, and one thread that seals and writes, started with the first record.
#[pyclass(frozen, name = "AuditLog", module = "isolane._core")]
pub(crate) struct AuditLog {
    /// Never dropped in the child of a fork, where its writer is not and its lock may be held for ever.
    log: ManuallyDrop<crate::audit::AuditLog>,
    stamp: Stamp,
}

impl Drop for AuditLog {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.stamp.is_current() {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.log) };
        }
    }
}

#[pymethods]
impl AuditLog {
    /// Opens the log in `path`, or makes it; `key` is the key of keys.
    #[new]
    #[pyo3(signature = (path, key, *, fsync = false, on_failure = None, queue = 8_192, spill = 10_000, patience = 0.25,
        checkpoint_records = 1_024, checkpoint_seconds = 60.0, segment_bytes = 67_108_864, new_chain = None))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        key: &[u8],
        fsync: bool,
        on_failure: Option<Vec<(String, String)>>,
        queue: usize,
        spill: usize,
        patience: f64,
        checkpoint_records: u64,
        checkpoint_seconds: f64,
        segment_bytes: u64,
        new_chain: Option<String>,
    ) -> PyResult<Self> {
        let kek = key_of_keys(key)?;
        let mut intake = IntakeSettings {
            queue,
            spill,
            patience: micros(patience),
            ..IntakeSettings::default()
        };
        for (class, policy) in on_failure.unwrap_or_default() {
            let classes = names(AuditClass::ALL, AuditClass::name);
            let policies = names(OnFailure::ALL, OnFailure::name);
            let class = word(AuditClass::named(&class), "a class", &class, &classes)?;
            intake.on_failure[class as usize] = word(OnFailure::named(&policy), "a policy", &policy, &policies)?;
        }
        if [
            micros(patience),
            micros(checkpoint_seconds),
            checkpoint_records,
            segment_bytes,
            queue as u64,
        ]
        .contains(&0)
        {
            return Err(PyValueError::new_err(
                "queue, patience, checkpoint_records, checkpoint_seconds and segment_bytes must be above 0: leave them out for \
                 the defaults",
            ));
        }
        let settings = LogSettings {
            chain: ChainSettings {
                durability: if fsync { Durability::Fsync } else { Durability::Os },
                checkpoint_records,
                checkpoint_every: micros(checkpoint_seconds),
                segment_bytes,
            },
            intake,
            new_chain,
        };
        let opened = py.detach(|| crate::audit::AuditLog::open(&path, &kek, &settings, Arc::new(ClockOfLog)));
        let log = opened.map_err(|error| raised(py, &error))?;
        LIVE.add(log.intake());
        Ok(Self {
            log: ManuallyDrop::new(log),
            stamp: Stamp::now(),
        })
    }

    /// Takes a `SecurityEvent`. Returns whether something waits for `take_checkpoint` or `take_losses`.
    fn record(&self, py: Python<'_>, event: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.stamp.check(py)?;
        let class_word = text(event, intern!(py, "audit_class"))?;
        let class_word = class_word.to_str()?;
        let class = AuditClass::named(class_word).map_or_else(
            || {
                word(
                    None,
                    "audit_class",
                    class_word,
                    &names(AuditClass::ALL, AuditClass::name),
                )
            },
            Ok,
        )?;
        let severity_word = text(event, intern!(py, "severity"))?;
        let severity_word = severity_word.to_str()?;
        let severity = Severity::named(severity_word).map_or_else(
            || word(None, "severity", severity_word, &names(Severity::ALL, Severity::name)),
            Ok,
        )?;
        let user = event.getattr(intern!(py, "user_id"))?;
        let user = if user.is_none() {
            None
        } else {
            Some(user.str()?.to_string_lossy().into_owned())
        };
        let name = text(event, intern!(py, "name"))?;
        let at = moment_of(&event.getattr(intern!(py, "at"))?)?;
        let data = data_of(event)?;
        let body = content::body(&name.to_string_lossy(), user.as_deref(), &at, &data);
        let now = ClockOfLog.now();
        let entry = Entry {
            class,
            severity,
            user: user.map(String::into_boxed_str),
            body,
            unix: now.unix,
            taken: now.monotonic,
        };
        self.log.offer(entry).map_err(|error| refused(py, &error))
    }

    /// Waits until what was recorded before is written. Returns how many records the chain has.
    fn flush(&self, py: Python<'_>, timeout: f64) -> PyResult<u64> {
        self.ask(py, timeout, crate::audit::AuditLog::flush)
    }

    /// Signs the tree as it is. Returns how many records the chain has.
    fn checkpoint(&self, py: Python<'_>, timeout: f64) -> PyResult<u64> {
        self.ask(py, timeout, crate::audit::AuditLog::checkpoint)
    }

    /// Destroys the keys of a user. Returns how many there were.
    fn erase(&self, py: Python<'_>, user: &str, reason: &str, timeout: f64) -> PyResult<u64> {
        self.ask(py, timeout, |log, patience| log.erase(user, reason, patience))
    }

    /// Wraps all keys with another key of keys.
    fn rotate(&self, py: Python<'_>, key: &[u8], timeout: f64) -> PyResult<()> {
        let kek = key_of_keys(key)?;
        self.ask(py, timeout, |log, patience| log.rotate(&kek, patience))
    }

    /// The latest checkpoint, unless it was taken before.
    fn take_checkpoint(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.stamp.check(py)?;
        Ok(self.log.take_note())
    }

    /// How many records of each class were lost since this was asked last, or `None` when none was.
    #[pyo3(signature = () -> "dict[str, int] | None")]
    fn take_losses<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        self.stamp.check(py)?;
        self.log.take_losses().map(|lost| per_class(py, &lost)).transpose()
    }

    /// `status`, `reason`, `queued`, `spilled`, `lost` by class, `written`, `unkeyed`, `chain`, and what the start put right:
    /// `recovered_cut` bytes, `recovered_unsigned` records.
    #[pyo3(signature = () -> "dict[str, object]")]
    fn health<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.stamp.check(py)?;
        let health = self.log.health();
        let dict = PyDict::new(py);
        dict.set_item("status", health.status.name())?;
        dict.set_item("reason", health.reason)?;
        dict.set_item("queued", health.queued)?;
        dict.set_item("spilled", health.spilled)?;
        dict.set_item("lost", per_class(py, &health.lost)?)?;
        dict.set_item("written", health.written)?;
        dict.set_item("unkeyed", health.unkeyed)?;
        dict.set_item("chain", self.log.chain())?;
        dict.set_item("recovered_cut", self.log.recovered().cut)?;
        dict.set_item("recovered_unsigned", self.log.recovered().unsigned)?;
        Ok(dict)
    }

    /// Takes no more records and writes those that wait. Returns how many were lost at the end, or `None` when the disk did not
    /// answer within `timeout` seconds.
    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<Option<u64>> {
        self.stamp.check(py)?;
        let patience = Duration::from_micros(micros(timeout));
        Ok(py.detach(|| self.log.close(patience)))
    }
}

impl AuditLog {
    /// Asks the writer without holding the interpreter.
    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        timeout: f64,
        ask: impl FnOnce(&crate::audit::AuditLog, Duration) -> Result<T, AuditError> + Send,
    ) -> PyResult<T> {
        self.stamp.check(py)?;
        let patience = Duration::from_micros(micros(timeout));
        py.detach(|| ask(&self.log, patience))
            .map_err(|error| raised(py, &error))
    }
}

/// Verifies the log in `path`; the texts `verifier` (a verifier key) and `checkpoint` (a signed note) are from elsewhere.
///
/// Returns `chains`, `records`, `checkpoints`, `signed`, `erased`, `opened`, and of the first record that is not as it was
/// written `bad_chain`, `bad_seq` and `problem`, or three times `None`; `altered` has the three of each chain with such a one.
#[pyfunction]
#[pyo3(signature = (path, key = None, verifier = None, checkpoint = None) -> "dict[str, object]")]
pub(crate) fn audit_verify<'py>(
    py: Python<'py>,
    path: PathBuf,
    key: Option<&[u8]>,
    verifier: Option<&str>,
    checkpoint: Option<&str>,
) -> PyResult<Bound<'py, PyDict>> {
    let kek = key.map(key_of_keys).transpose()?;
    let verifier = verifier
        .map(|text| {
            checkpoint::parse_verifier_key(text)
                .map(|(_, key)| key)
                .ok_or_else(|| PyValueError::new_err("the verifier key must have the form <name>+<hash>+<base64>"))
        })
        .transpose()?;
    let found = py.detach(|| {
        let reader = Reader::open(&path, kek.as_ref())?;
        let against = Against {
            ring: reader.ring(),
            verifier,
            checkpoint,
        };
        verify(&path, &against)
    });
    let found = found.map_err(|error| raised(py, &error))?;
    let dict = PyDict::new(py);
    dict.set_item("chains", found.chains)?;
    dict.set_item("records", found.records)?;
    dict.set_item("checkpoints", found.checkpoints)?;
    dict.set_item("signed", found.signed)?;
    dict.set_item("erased", found.erased)?;
    dict.set_item("opened", found.opened)?;
    let tampered = found.tampered.as_ref();
    dict.set_item("bad_chain", tampered.map(|found| found.chain))?;
    dict.set_item("bad_seq", tampered.map(|found| found.seq))?;
    dict.set_item("problem", tampered.map(|found| found.what.as_str()))?;
    let altered: Vec<_> = found
        .altered
        .iter()
        .map(|found| (found.chain, found.seq, found.what.as_str()))
        .collect();
    dict.set_item("altered", altered)?;
    Ok(dict)
}

/// Whether a process writes the log in `path` at this moment.
#[pyfunction]
pub(crate) fn audit_is_written(path: PathBuf) -> bool {
    is_written(&path)
}

/// The numbers of the chains of the log in `path`.
#[pyfunction]
pub(crate) fn audit_chains(py: Python<'_>, path: PathBuf) -> PyResult<Vec<u32>> {
    chains(&path).map_err(|error| raised(py, &error))
}

/// Goes through the records of a log, from the first chain on.
#[pyclass(frozen, name = "AuditReader", module = "isolane._core")]
pub(crate) struct AuditReader {
    reader: Reader,
    cursor: Mutex<Cursor>,
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    checkpoint::hex(&mut out, bytes);
    out
}

#[pymethods]
impl AuditReader {
    /// Of the records of `user`, from `from_ns` to before `until_ns`, which count nanoseconds since the Unix epoch.
    #[new]
    #[pyo3(signature = (path, key = None, from_ns = 0, until_ns = None, user = None))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        key: Option<&[u8]>,
        from_ns: u64,
        until_ns: Option<u64>,
        user: Option<String>,
    ) -> PyResult<Self> {
        let kek = key.map(key_of_keys).transpose()?;
        let wanted = Wanted {
            from_ns,
            until_ns,
            user,
        };
        let made = py.detach(|| {
            let reader = Reader::open(&path, kek.as_ref())?;
            let cursor = reader.records(wanted)?;
            Ok((reader, cursor))
        });
        let (reader, cursor) = made.map_err(|error: AuditError| raised(py, &error))?;
        Ok(Self {
            reader,
            cursor: Mutex::new(cursor),
        })
    }

    /// The next records, at most `count`; an empty list at the end. Each is a tuple of chain, seq, nanoseconds, class, severity,
    /// pseudonym, key id, epoch, state (`open`, `erased` or `sealed`), and the body's JSON, empty unless it is open.
    #[pyo3(signature = (count) -> "list[tuple[int, int, int, str, str, str, str, int, str, str]]")]
    fn read<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Bound<'py, PyList>> {
        let records = py.detach(|| {
            let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
            self.reader.read(&mut cursor, count)
        });
        let list = PyList::empty(py);
        for record in records.map_err(|error| raised(py, &error))? {
            let header = record.header;
            let (state, body) = match record.body {
                Body::Text(text) => ("open", text),
                Body::Erased => ("erased", String::new()),
                Body::Sealed => ("sealed", String::new()),
            };
            list.append((
                record.chain,
                header.seq,
                header.ts_ns,
                header.class.name(),
                header.severity.name(),
                hex(&header.pseudonym),
                hex(&header.kid),
                header.epoch,
                state,
                body,
            ))?;
        }
        Ok(list)
    }
}

/// Proves that record `seq` is in chain `chain`: `origin`, `seq`, `leaf` and `proof` (bytes), `note` and `verifier` (texts), or
/// `None` when no checkpoint covers it yet.
#[pyfunction]
#[pyo3(signature = (path, chain, seq) -> "dict[str, object] | None")]
pub(crate) fn audit_prove(py: Python<'_>, path: PathBuf, chain: u32, seq: u64) -> PyResult<Option<Bound<'_, PyDict>>> {
    let proved = py
        .detach(|| Reader::open(&path, None)?.prove(chain, seq))
        .map_err(|error| raised(py, &error))?;
    let Some(proved) = proved else {
        return Ok(None);
    };
    let dict = PyDict::new(py);
    dict.set_item("chain", proved.chain)?;
    dict.set_item("seq", proved.seq)?;
    dict.set_item("leaf", PyBytes::new(py, &proved.leaf))?;
    let proof = proved.proof.iter().map(|hash| PyBytes::new(py, hash));
    dict.set_item("proof", PyList::new(py, proof)?)?;
    dict.set_item("note", proved.note)?;
    dict.set_item("verifier", proved.verifier)?;
    Ok(Some(dict))
}

/// Whether an inclusion proof holds against a checkpoint that the verifier key signed.
#[pyfunction]
pub(crate) fn audit_verify_inclusion(
    leaf: &[u8],
    seq: u64,
    proof: Vec<Vec<u8>>,
    note: &str,
    verifier: &str,
) -> PyResult<bool> {
    let (origin, key) = checkpoint::parse_verifier_key(verifier)
        .ok_or_else(|| PyValueError::new_err("the verifier key must have the form <name>+<hash>+<base64>"))?;
    let Ok(signed) = checkpoint::Checkpoint::verify(note, &origin, &key) else {
        return Ok(false);
    };
    let proof: Result<Vec<_>, _> = proof.into_iter().map(TryInto::try_into).collect();
    let proof = proof.map_err(|_| PyValueError::new_err("a hash of the proof has not 32 bytes"))?;
    Ok(crate::audit::merkle::verify_inclusion(
        leaf,
        seq,
        signed.size,
        &proof,
        &signed.root,
    ))
}

const _: () = assert!(CLASSES == 5, "docs/audit.md lists the classes");
