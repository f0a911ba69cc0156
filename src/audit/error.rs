//! What can go wrong with a log.

use std::io;
use std::path::Path;

/// What is stored is not what was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chain {chain}, record {seq}: {what}")]
pub struct Tampered {
    /// The chain's number, from 1.
    pub chain: u32,
    /// The first record that is not as it was written.
    pub seq: u64,
    /// What was found, without anybody's data.
    pub what: String,
}

/// Why the log could not be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The disk refused. The text names what was being done.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the operating system answered.
        source: io::Error,
    },
    /// Another process writes this log.
    #[error("another process has the log {path} open; close it there, or ask that process")]
    InUse {
        /// The log's directory.
        path: String,
    },
    /// The key of keys is another one than the keystore was wrapped with.
    #[error("the key does not open the keystore; give the key that it was made or last rotated with")]
    WrongKey,
    /// The keystore is not one, or was damaged.
    #[error("the keystore is damaged: {what}; restore it from a backup")]
    Keystore {
        /// What was found.
        what: String,
    },
    /// What is stored is not what was signed.
    #[error("the log was altered: {0}. Keep it as evidence, and begin a new chain to go on")]
    Tampered(#[from] Tampered),
    /// A file of the log was deleted, replaced or changed from outside while it was written.
    #[error("{what}")]
    Interfered {
        /// What was found.
        what: String,
    },
    /// The log takes nothing at present.
    #[error("the log takes nothing now: {what}")]
    Sick {
        /// What is wrong with it.
        what: String,
    },
    /// The writer is gone.
    #[error("the log is closed")]
    Closed,
    /// Nothing came back in time.
    #[error("the log's disk did not answer within {seconds} s")]
    TimedOut {
        /// How long was waited.
        seconds: f64,
    },
}

impl AuditError {
    /// Names what was being done with a path.
    pub(crate) fn io(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{doing} {}", path.display());
        move |source| Self::Io { what, source }
    }
}
