//! The bounds of an intake, and what is told of one.

use std::time::Duration;

use super::record::{AuditClass, CLASSES, OnFailure, PerClass};
use crate::clock::Micros;

/// Bounds and times of an intake.
#[derive(Debug, Clone)]
pub struct IntakeSettings {
    /// Records that may wait for the writer.
    pub queue: usize,
    /// Records that may wait for a log that takes nothing.
    pub spill: usize,
    /// Records of one commit.
    pub batch: usize,
    /// How long a record may wait for others to be committed with.
    pub linger: Duration,
    /// Records that have waited this long with no commit in between: the log is sick.
    pub patience: Micros,
    /// How long after a failed commit the next is tried.
    pub retry: Duration,
    /// What becomes of the records of each class while the log is sick.
    pub on_failure: [OnFailure; CLASSES],
}

impl Default for IntakeSettings {
    fn default() -> Self {
        Self {
            queue: 8_192,
            spill: 10_000,
            batch: 256,
            linger: Duration::from_millis(50),
            patience: 250_000,
            retry: Duration::from_millis(100),
            on_failure: [
                OnFailure::Refuse,
                OnFailure::Refuse,
                OnFailure::Refuse,
                OnFailure::Spill,
                OnFailure::Drop,
            ],
        }
    }
}

/// The record was not taken, and its class says that the caller must not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// The class of the record.
    pub class: AuditClass,
    /// What is wrong with the log.
    pub reason: String,
}

/// How a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It takes records.
    Ok,
    /// It does, or will again: records are in the spill ring or were lost, and that is not on the disk yet.
    Degraded,
    /// It takes none.
    Sick,
    /// It was closed.
    Closed,
}

impl Status {
    /// The word in Python.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Sick => "sick",
            Self::Closed => "closed",
        }
    }
}

/// Figures of a log.
#[derive(Debug, Clone)]
pub struct Health {
    /// How it is.
    pub status: Status,
    /// What is wrong when it is sick, for operators.
    pub reason: String,
    /// Records that wait for the writer, those of the commit under way included.
    pub queued: usize,
    /// Records in the spill ring.
    pub spilled: usize,
    /// Records that were not written, by class, since the log was opened.
    pub lost: PerClass,
    /// Records that were committed since the log was opened.
    pub written: u64,
    /// Of those, records without what they say, since their users could have no key.
    pub unkeyed: u64,
}
