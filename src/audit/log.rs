//! A log: a directory with a keystore and chains, opened by one process to write.
//!
//! ```text
//! lock                 held while a process writes
//! keys                 the keystore
//! chain-000001/        the first chain; another follows only when one was found altered
//!     verifier         the key that verifies its checkpoints
//!     checkpoints      signed notes
//!     <first>.seg      frames from that record on
//!     <first>.leaves   their leaves
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::chain::{Chain, ChainSettings, Keys, chain_path};
use super::error::{AuditError, Tampered};
use super::files::{MODE, Place};
use super::intake::{Ask, Asked, Health, Intake, IntakeSettings, Refused};
use super::keys::Kek;
use super::keystore::{KeyRing, KeyStore};
use super::record::{Entry, PerClass, Severity};
use super::recovery::{self, Recovered};
use super::segment;
use super::writer::{self, Parts, own_entry};
use crate::clock::{Clock, Moment};
use crate::events::json;
use crate::sync::Mutex;

/// How a log is opened.
#[derive(Debug, Clone, Default)]
pub struct LogSettings {
    /// How chains are written.
    pub chain: ChainSettings,
    /// The queue, and what happens when it is not emptied.
    pub intake: IntakeSettings,
    /// Why a new chain may be begun when the last one was altered; without a reason that is an error.
    pub new_chain: Option<String>,
}

/// A log that takes records. Dropping it lets the writer write what waits, and waits for nothing.
pub struct AuditLog {
    intake: Arc<Intake>,
    clock: Arc<dyn Clock>,
    /// Until the first record: then the thread has them.
    parts: Mutex<Option<Parts>>,
    started: std::sync::atomic::AtomicBool,
    chain: u32,
    recovered: Recovered,
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

/// Makes a directory that only its owner can enter, unless it is there.
pub(super) fn make_directory(path: &Path) -> Result<(), AuditError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(AuditError::io("making", path))
}

/// The keystore of a log.
pub fn keystore_path(log: &Path) -> PathBuf {
    log.join("keys")
}

/// The lock of a log, and where it is: who removes the file lets another process in.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) file: File,
    place: Place,
}

impl Lock {
    /// Looks whether the lock still keeps others out, and takes it anew when its file is gone.
    pub(super) fn keep(&mut self) -> Result<(), AuditError> {
        if self.place.check().is_ok() {
            return Ok(());
        }
        let log = self.place.path().parent().unwrap_or(Path::new("."));
        *self = lock(log)?;
        Ok(())
    }
}

fn lock_path(log: &Path) -> PathBuf {
    log.join("lock")
}

/// How often a lock is tried that another holds.
const LOOKS: usize = 10;

pub(super) fn lock(log: &Path) -> Result<Lock, AuditError> {
    let path = lock_path(log);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .open(&path)
        .map_err(AuditError::io("opening", &path))?;
    // Who only looks whether the log is written holds the lock for a moment.
    for _ in 0..LOOKS {
        match file.try_lock() {
            Ok(()) => {
                let place = Place::of(&path, &file).map_err(AuditError::io("locking", &path))?;
                return Ok(Lock { file, place });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::Error(error)) => return Err(AuditError::io("locking", &path)(error)),
        }
    }
    Err(AuditError::InUse {
        path: log.display().to_string(),
    })
}

/// Whether a process writes the log at this moment.
pub fn is_written(log: &Path) -> bool {
    OpenOptions::new()
        .write(true)
        .open(lock_path(log))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The numbers of a log's chains, in order.
pub fn chains(log: &Path) -> Result<Vec<u32>, AuditError> {
    let entries = match fs::read_dir(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(AuditError::io("reading", log))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(AuditError::io("reading", log))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("chain-"));
        found.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether a chain was never begun: the process ended while it made the directory.
fn is_unbegun(chain: &Path) -> Result<bool, AuditError> {
    let notes = fs::metadata(segment::notes_path(chain)).map_or(0, |notes| notes.len());
    Ok(notes == 0 && segment::segments(chain)?.is_empty())
}

fn begin(
    path: &Path,
    number: u32,
    entry: &Entry,
    keys: &mut Keys,
    settings: ChainSettings,
    now: Moment,
) -> Result<Chain, AuditError> {
    let mut chain = Chain::create(path, number, keys, settings, now.monotonic)?;
    chain.commit([entry].into_iter(), keys)?;
    // From the first record on, a chain that is missing is missed.
    chain.checkpoint(keys, now.monotonic)?;
    Ok(chain)
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    json::string(&mut out, text);
    out
}

/// What the first record of a chain says that follows an altered one.
fn chain_break(tampered: &Tampered, reason: &str) -> String {
    format!(
        r#"{{"altered_chain":{},"first_bad_seq":{},"found":{},"reason":{}}}"#,
        tampered.chain,
        tampered.seq,
        quoted(&tampered.what),
        quoted(reason)
    )
}

impl AuditLog {
    /// Opens the log in a directory, or makes it. Reads the last segment to its end: what a crash cut short is cut off, and
    /// what is left must be what was signed.
    pub fn open(path: &Path, kek: &Kek, settings: &LogSettings, clock: Arc<dyn Clock>) -> Result<Self, AuditError> {
        make_directory(path)?;
        let lock = lock(path)?;
        let now = clock.now();
        let keystore = keystore_path(path);
        let last = chains(path)?.pop();
        let begun = match last {
            Some(number) => !is_unbegun(&chain_path(path, number))?,
            None => false,
        };
        if begun && settings.new_chain.is_none() && !keystore.exists() {
            return Err(AuditError::Keystore {
                what: "it is missing, and there are records under its keys".to_owned(),
            });
        }
        let mut keys = Keys::new(KeyStore::open(&keystore, kek, now.unix, settings.chain.durability)?);
        let mut recovered = Recovered::default();
        let started = |name: &str, data: &str| own_entry(name, Severity::Info, data, now);
        let chain = match last {
            Some(number) if begun => {
                let ring = KeyRing::read(&keystore, kek)?;
                match recovery::recover(&chain_path(path, number), number, &ring, settings.chain, now.monotonic) {
                    Ok((mut chain, found)) => {
                        if found != recovered {
                            recovered = found;
                            chain.checkpoint(&keys, now.monotonic)?;
                            let data =
                                format!(r#"{{"cut_bytes":{},"unsigned_records":{}}}"#, found.cut, found.unsigned);
                            let entry = own_entry("log_recovered", Severity::Warning, &data, now);
                            chain.commit([&entry].into_iter(), &mut keys)?;
                        }
                        chain
                    }
                    Err(AuditError::Tampered(tampered)) => {
                        let Some(reason) = &settings.new_chain else {
                            return Err(tampered.into());
                        };
                        let data = chain_break(&tampered, reason);
                        let entry = own_entry("chain_break", Severity::Critical, &data, now);
                        begin(path, number + 1, &entry, &mut keys, settings.chain, now)?
                    }
                    Err(error) => return Err(error),
                }
            }
            unbegun => {
                let entry = started("chain_begin", "{}");
                begin(path, unbegun.unwrap_or(1), &entry, &mut keys, settings.chain, now)?
            }
        };
        let intake = Intake::new(settings.intake.clone(), now.monotonic);
        intake.signed(chain.signed());
        Ok(Self {
            intake: Arc::new(intake),
            clock,
            chain: chain.number(),
            parts: Mutex::new(Some(Parts { chain, keys, lock })),
            started: std::sync::atomic::AtomicBool::new(false),
            recovered,
        })
    }

    /// What the start had to put right.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Where its records wait, and what is told of it.
    pub fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    /// The chain that is written.
    pub fn chain(&self) -> u32 {
        self.chain
    }

    /// Takes a record. Never waits for the disk. Returns whether a checkpoint or losses wait to be taken.
    pub fn offer(&self, entry: Entry) -> Result<bool, Refused> {
        self.start();
        self.intake.offer(entry)
    }

    /// Starts the writer, once.
    fn start(&self) {
        use std::sync::atomic::Ordering;
        if self.started.load(Ordering::Acquire) {
            return;
        }
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(parts) = parts.take() else {
            return;
        };
        let (intake, clock) = (self.intake.clone(), self.clock.clone());
        let thread = std::thread::Builder::new().name("isolane-audit".to_owned());
        if let Err(error) = thread.spawn(move || writer::run(&intake, parts, &*clock)) {
            self.intake.ended(&format!("its thread could not be started: {error}"));
        }
        self.started.store(true, Ordering::Release);
    }

    fn ask(&self, ask: Ask, patience: Duration) -> Result<u64, AuditError> {
        self.start();
        let (answer, answered) = sync_channel(1);
        self.intake.ask(Asked { ask, answer, after: 0 });
        answered.recv_timeout(patience).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Err(AuditError::TimedOut {
                seconds: patience.as_secs_f64(),
            }),
            RecvTimeoutError::Disconnected => Err(AuditError::Closed),
        })
    }

    /// Waits until all records that were taken before are committed. Returns how many records the chain has.
    pub fn flush(&self, patience: Duration) -> Result<u64, AuditError> {
        self.ask(Ask::Flush, patience)
    }

    /// Signs the tree as it is. Returns how many records the chain has.
    pub fn checkpoint(&self, patience: Duration) -> Result<u64, AuditError> {
        self.ask(Ask::Checkpoint, patience)
    }

    /// Destroys the keys of a user, and records that for a reason, without the id. Returns how many keys there were.
    pub fn erase(&self, user: &str, reason: &str, patience: Duration) -> Result<u64, AuditError> {
        self.ask(Ask::Erase(user.into(), reason.to_owned()), patience)
    }

    /// Wraps all keys with another key of keys.
    pub fn rotate(&self, kek: &Kek, patience: Duration) -> Result<(), AuditError> {
        self.ask(Ask::Rotate(kek.clone()), patience).map(|_| ())
    }

    /// How it is.
    pub fn health(&self) -> Health {
        self.intake.health(self.clock.monotonic())
    }

    /// The latest checkpoint, unless it was taken before.
    pub fn take_note(&self) -> Option<String> {
        self.intake.take_note()
    }

    /// What was lost since this was asked last, when anything was.
    pub fn take_losses(&self) -> Option<PerClass> {
        self.intake.take_losses()
    }

    /// Takes no more records, writes those that wait and a last checkpoint. Returns how many records were lost, or `None` when
    /// the disk did not answer within `patience`; the writer goes on.
    pub fn close(&self, patience: Duration) -> Option<u64> {
        self.start();
        self.intake.close(patience)
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.intake.let_go();
    }
}
