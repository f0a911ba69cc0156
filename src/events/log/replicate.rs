//! What of a log is handed to whoever stores it: what follows a position, as a socket reads it, but as it was appended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::codec::{Seal, Summary, encode, encode_gone, encode_snapshot};
use super::entry::Entry;
use super::waits::Level;
use super::{Inner, Outcome, RunLog};
use crate::clock::Moment;
use crate::events::connection::Wake;
use crate::events::event::Class;
use crate::events::fold::{Fold, Slot};
use crate::lanes::LaneHandle;
use crate::metrics::EVENT_KINDS;
use crate::mutants::mutant;

/// Whether a log is to be looked at: not at all, soon, at once.
#[derive(Debug, Default)]
pub(super) struct Marked(AtomicU8);

const SOON: u8 = 1;
const NOW: u8 = 2;

/// What follows a position of a log.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Events by number. Each says which number precedes it.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// What stands for everything up to a number. With it the store needs nothing up to there.
    pub snapshot: Option<(u64, Vec<u8>)>,
    /// The position before it.
    pub after: u64,
    /// The position after it.
    pub upto: u64,
    /// Whether there is more.
    pub has_more: bool,
    /// How the stream ended, once everything before its end is taken.
    pub ended: Option<Outcome>,
    /// Whether the log was dropped: there is nothing to come.
    pub is_last: bool,
}

impl Chunk {
    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        let entries = self.entries.iter().map(|(_, bytes)| bytes.len());
        entries.sum::<usize>() + self.snapshot.as_ref().map_or(0, |(_, bytes)| bytes.len())
    }
}

impl RunLog {
    /// Tells whoever stores logs, if anybody does, that there is something new. No lock is held.
    #[inline]
    pub(super) fn tell_replica(&self, lane: &LaneHandle, class: Class) {
        if lane.shared().replica.is_on() {
            self.mark(lane, class);
        }
    }

    #[cold]
    fn mark(&self, lane: &LaneHandle, class: Class) {
        if self.is_mirror() {
            return;
        }
        let level = if class == Class::Critical { NOW } else { SOON };
        let before = self.marked.0.fetch_max(level, Ordering::SeqCst);
        if before < level {
            lane.shared().replica.mark(self.serial, before == 0, level == NOW);
        }
    }

    /// What is published from here on marks the log again.
    pub(in crate::events) fn unmark(&self) {
        self.marked.0.store(0, Ordering::SeqCst);
    }

    pub(super) fn seal(&self) -> Seal {
        Seal::new(self.owner.user().as_str(), self.run.as_str(), &self.epoch)
    }

    /// What follows `after`, as much as fits into `max_bytes` or one event. A position before the fold gets the snapshot, and
    /// with `wants_snapshot` any.
    pub(in crate::events) fn chunk(&self, after: u64, wants_snapshot: bool, max_bytes: usize) -> Chunk {
        let seal = self.seal();
        let inner = self.inner();
        let mut chunk = Chunk {
            after,
            upto: after,
            is_last: inner.lane.is_none(),
            ..Chunk::default()
        };
        if chunk.is_last {
            // Dropped before it was taken: that is told, and not passed over.
            if after < inner.head {
                let fold = Fold::default();
                chunk.snapshot = Some((inner.head, self.snapshot(seal, &inner, inner.head, &fold)));
                chunk.upto = inner.head;
            }
            chunk.ended = Some(inner.ended.map_or(Outcome::Lost, |(outcome, _)| outcome));
            return chunk;
        }
        if (after < inner.folded && !mutant!(ReplicaForgetsFold)) || (wants_snapshot && inner.folded > 0) {
            chunk.snapshot = Some((inner.folded, self.snapshot(seal, &inner, inner.folded, &inner.fold)));
        }
        chunk.upto = after.max(inner.folded);
        let mut bytes = 0;
        for entry in inner.entries.after(chunk.upto) {
            if entry.is_dropped() {
                continue;
            }
            if bytes >= max_bytes && bytes > 0 {
                chunk.has_more = true;
                break;
            }
            let before = if mutant!(ReplicaForgetsShed) {
                entry.number - 1
            } else {
                chunk.upto
            };
            let encoded = encode(seal, entry, before);
            bytes += encoded.len();
            chunk.entries.push((entry.number, encoded));
            chunk.upto = entry.number;
        }
        if !chunk.has_more {
            if chunk.upto < inner.head && !mutant!(ReplicaForgetsShed) {
                chunk
                    .entries
                    .push((inner.head, encode_gone(seal, inner.head, chunk.upto)));
                chunk.upto = inner.head;
            }
            chunk.ended = inner.ended.map(|(outcome, _)| outcome);
        }
        chunk
    }

    /// A fold as it travels. Its summary is of the events up to `upto`.
    fn snapshot(&self, seal: Seal, inner: &Inner, upto: u64, fold: &Fold) -> Vec<u8> {
        let kind_of = |name: &str| EVENT_KINDS.iter().position(|kind| *kind == name);
        let later = |slot: Slot, name: &str| {
            let kind = kind_of(name);
            let is_it = |entry: &&Entry| entry.key.1 == slot && Some(usize::from(entry.kind)) == kind;
            u32::try_from(inner.entries.after(upto).filter(is_it).count()).unwrap_or(u32::MAX)
        };
        let (executions, deepest) = inner.spans.extent();
        let (completed, failed) = inner.spans.ended();
        let summary = Summary {
            upto,
            opened: inner.opened.unix,
            folded: if inner.lane.is_none() {
                upto
            } else {
                inner.folded_events
            },
            executions: executions.saturating_sub(later(Slot::Started, "agent_started")),
            completed: completed.saturating_sub(later(Slot::Terminal, "agent_completed")),
            failed: failed.saturating_sub(later(Slot::Terminal, "agent_error")),
            deepest,
            first: inner.spans.first().map(|agent| Box::from(&**agent)),
        };
        let cut: Vec<_> = fold.cut().collect();
        encode_snapshot(seal, &summary, cut.into_iter(), fold.moving())
    }

    /// A store has everything up to this number. Answers who waits for that, to be woken when no lock is held.
    #[must_use = "who waits is to be woken, when no lock is held"]
    pub(in crate::events) fn note_stored(&self, number: u64) -> Vec<Arc<dyn Wake>> {
        self.waits.note(Level::Stored, number)
    }

    /// Nobody stores it any more. Answers who waits for that.
    #[must_use = "who waits is to be woken, when no lock is held"]
    pub(in crate::events) fn stop_storing(&self) -> Vec<Arc<dyn Wake>> {
        self.waits.take_level(Level::Stored)
    }

    /// The time by the clock of its lane, while it has one.
    pub(in crate::events) fn now(&self) -> Option<Moment> {
        let lane = self.inner().lane.clone()?;
        Some(lane.shared().clock.now())
    }

    /// Events and bytes after which what a store keeps of the log is to become less.
    pub(in crate::events) fn trim_after(&self) -> (usize, usize) {
        (2 * self.bounds.events, 2 * self.bounds.bytes)
    }
}
