//! The one thread that writes.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::chain::{Chain, Keys};
use super::content;
use super::error::AuditError;
use super::intake::{Ask, Asked, Intake, Turn};
use super::keys::Kek;
use super::log::Lock;
use super::record::{AuditClass, Entry, PerClass, Severity};
use crate::clock::{Clock, Moment, write_iso8601};
use crate::events::json;

/// Commits between some keys that are wrapped anew and the next.
const BATCHES_BETWEEN: usize = 8;

/// What the thread owns.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) chain: Chain,
    pub(super) keys: Keys,
    /// Held as long as the log is open.
    pub(super) lock: Lock,
}

/// A record of the log about itself.
pub(super) fn own_entry(name: &str, severity: Severity, data: &str, now: Moment) -> Entry {
    let mut at = String::new();
    write_iso8601(&mut at, now.unix);
    Entry {
        class: AuditClass::Admin,
        severity,
        user: None,
        body: content::body(name, None, &at, data),
        unix: now.unix,
        taken: now.monotonic,
    }
}

/// Says which records were not written.
fn gap(lost: &PerClass, now: Moment) -> Entry {
    let mut data = String::from(r#"{"lost":{"#);
    for (class, count) in AuditClass::ALL.iter().zip(lost).filter(|(_, count)| **count > 0) {
        json::comma(&mut data);
        let _ = write!(data, r#""{}":{count}"#, class.name());
    }
    data.push_str("}}");
    own_entry("audit_gap", Severity::High, &data, now)
}

/// Runs until the log is closed.
pub(super) fn run(intake: &Arc<Intake>, parts: Parts, clock: &dyn Clock) {
    // A panic would be a defect; then the log is sick, and nobody believes that it still writes.
    let outcome = catch_unwind(AssertUnwindSafe(|| Writer { intake, clock, parts }.run()));
    intake.ended(match outcome {
        Ok(()) => "the log is closed",
        Err(_) => "its writer failed",
    });
}

struct Writer<'a> {
    intake: &'a Intake,
    clock: &'a dyn Clock,
    parts: Parts,
}

impl Writer<'_> {
    fn run(&mut self) {
        loop {
            let due = self.parts.chain.checkpoint_due().map(|due| {
                let left = due.saturating_sub(self.clock.monotonic());
                Duration::from_micros(left)
            });
            let turn = self.intake.next(self.parts.chain.room(), due);
            let goes_on = match turn {
                Turn::Write(batch, lost) => self.write(batch, lost),
                Turn::Tick => self.write(Vec::new(), None),
                Turn::Answer(asked) => {
                    self.answer(asked);
                    true
                }
                Turn::End => {
                    let _ = self.checkpoint();
                    false
                }
            };
            if !goes_on {
                // Another may open the log from now on. The child of a fork has the descriptor, too, so closing is not enough.
                let _ = self.parts.lock.file.unlock();
                return;
            }
        }
    }

    /// Commits a batch, and does what is due. Returns whether to go on.
    fn write(&mut self, batch: Vec<Entry>, lost: Option<PerClass>) -> bool {
        let now = self.clock.now();
        let gap = lost.as_ref().map(|lost| gap(lost, now));
        let entries: Vec<&Entry> = gap.iter().chain(&batch).collect();
        let parts = &mut self.parts;
        let kept = parts.lock.keep();
        if let Err(error) = kept.and_then(|()| parts.chain.commit(entries.into_iter(), &mut parts.keys)) {
            let goes_on = self.intake.failed(batch, lost, &error.to_string());
            self.intake.rest();
            return goes_on;
        }
        if parts.keys.unkeyed() > 0 {
            self.intake.unkeyed(parts.keys.unkeyed());
        }
        let upkeep = parts.chain.upkeep(&parts.keys, now.monotonic).err();
        self.intake.signed(parts.chain.signed());
        let failed = upkeep.is_some();
        self.intake.committed(
            batch.len(),
            usize::from(gap.is_some()),
            self.clock.monotonic(),
            parts.chain.take_note(),
            upkeep.map(|error| error.to_string()),
        );
        if failed {
            self.intake.rest();
        }
        true
    }

    fn checkpoint(&mut self) -> Result<(), AuditError> {
        let now = self.clock.monotonic();
        self.parts.lock.keep()?;
        self.parts.chain.checkpoint(&self.parts.keys, now)?;
        self.intake.signed(self.parts.chain.signed());
        self.intake.committed(0, 0, now, self.parts.chain.take_note(), None);
        Ok(())
    }

    fn answer(&mut self, asked: Asked) {
        let answer = match asked.ask {
            Ask::Flush => Ok(self.parts.chain.size()),
            Ask::Checkpoint => self.checkpoint().map(|()| self.parts.chain.size()),
            Ask::Erase(user, reason) => {
                // What is under the keys is signed before they are gone: after a crash nobody could tell it from a forgery.
                let now = self.clock.monotonic();
                let parts = &mut self.parts;
                let kept = parts.lock.keep();
                let erased = kept
                    .and_then(|()| parts.chain.settle(&parts.keys, now))
                    .and_then(|()| parts.keys.erase(&user));
                if let Ok(keys) = &erased {
                    // Without the id, and under no key of theirs.
                    let mut data = format!(r#"{{"keys":{keys},"reason":"#);
                    json::string(&mut data, &reason);
                    data.push('}');
                    self.tell("user_deleted", &data);
                }
                erased
            }
            Ask::Rotate(kek) => self.rotate(&kek).map(|()| {
                self.tell("keys_rotated", "{}");
                0
            }),
        };
        let _ = asked.answer.try_send(answer);
    }

    /// Wraps all keys anew. With many that takes longer than records may wait, so they are written in between.
    fn rotate(&mut self, kek: &Kek) -> Result<(), AuditError> {
        self.parts.lock.keep()?;
        let mut rotation = self.parts.keys.store().begin_rotation(kek);
        while !self.parts.keys.store().rotate_some(&mut rotation)? {
            for _ in 0..BATCHES_BETWEEN {
                let Some(Turn::Write(batch, lost)) = self.intake.take_now(self.parts.chain.room()) else {
                    break;
                };
                self.write(batch, lost);
            }
        }
        self.parts.keys.finish_rotation(rotation)
    }

    /// Records what was done. It was done, so a disk that fails now only delays the record.
    fn tell(&mut self, name: &str, data: &str) {
        let now = self.clock.now();
        let entry = own_entry(name, Severity::Warning, data, now);
        let parts = &mut self.parts;
        match parts.chain.commit([&entry].into_iter(), &mut parts.keys) {
            Ok(()) => self
                .intake
                .committed(0, 1, now.monotonic, parts.chain.take_note(), None),
            Err(_) => self.intake.put_first(entry),
        }
    }
}
