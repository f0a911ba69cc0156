//! What is left of the oldest events when a log is full: the latest of each span and key, in log order.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

use super::log::LogEntry;
use crate::mutants::mutant;

/// What an event is the latest of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    Started,
    Thinking,
    /// A tool call that has begun, by its number in the span and the number of the tool's name.
    ToolBegun(u32, u32),
    /// The latest ended call of a tool, by the number of the tool's name.
    ToolEnded(u32),
    /// How the latest ended call of a tool began, kept while another call of that tool is open: a client counts, and the end
    /// alone would close the other one.
    ToolPaired(u32),
    Terminal,
    /// An application's own event, by the number of its type.
    Custom(u32),
}

/// The span (0 for none) and the slot.
pub(super) type FoldKey = (u32, Slot);

/// The prefix of a log as a state.
#[derive(Debug, Default)]
pub(super) struct Fold {
    by_number: BTreeMap<u64, LogEntry>,
    latest: HashMap<FoldKey, u64, RandomState>,
    /// How many calls of a tool have begun here and not ended, by the span and the number of the tool's name.
    open_calls: HashMap<(u32, u32), u32, RandomState>,
    bytes: usize,
    forgotten: u64,
}

impl Fold {
    /// Takes in the oldest entry of the log.
    pub(super) fn take(&mut self, entry: LogEntry) {
        match entry.key {
            (span, Slot::ToolBegun(_, tool)) => *self.open_calls.entry((span, tool)).or_default() += 1,
            (span, Slot::ToolEnded(tool)) => self.end_call(span, tool, entry.closes),
            _ => {}
        }
        if let Some(earlier) = self.latest.insert(entry.key, entry.number) {
            if mutant!(FoldDropsLatest) {
                self.latest.insert(entry.key, earlier);
                return;
            }
            self.drop_number(earlier);
        }
        self.bytes += entry.weight();
        self.by_number.insert(entry.number, entry);
    }

    /// A call of the tool has ended: how it began goes, unless the end needs it.
    fn end_call(&mut self, span: u32, tool: u32, begun: Option<FoldKey>) {
        let earlier = self.latest.remove(&(span, Slot::ToolPaired(tool)));
        if let Some(earlier) = earlier {
            self.drop_number(earlier);
        }
        let Some(begun) = begun.and_then(|begun| self.forget(begun)) else {
            return;
        };
        if self.open_calls.contains_key(&(span, tool)) {
            self.latest.insert((span, Slot::ToolPaired(tool)), begun);
        } else {
            self.drop_number(begun);
        }
    }

    /// Forgets what was the latest of a key. Answers its number.
    fn forget(&mut self, key: FoldKey) -> Option<u64> {
        let number = self.latest.remove(&key)?;
        if let (span, Slot::ToolBegun(_, tool)) = key
            && let Entry::Occupied(mut open) = self.open_calls.entry((span, tool))
        {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
        Some(number)
    }

    fn drop_number(&mut self, number: u64) {
        if let Some(entry) = self.by_number.remove(&number) {
            self.bytes -= entry.weight();
        }
    }

    /// Makes room by dropping the oldest events that no open span needs, then the oldest thoughts and messages of open ones.
    /// What remains at the worst is how each open span and its open tools began.
    pub(super) fn shrink(&mut self, max_bytes: usize, max_events: usize, is_open: impl Fn(u32) -> bool) {
        for keep_open_spans in [true, false] {
            while self.bytes > max_bytes || self.by_number.len() > max_events {
                let victim = self.by_number.values().find(|entry| {
                    if keep_open_spans {
                        !is_open(entry.key.0) || mutant!(FoldForgetsOpenSpans)
                    } else {
                        matches!(entry.key.1, Slot::Thinking | Slot::Custom(_))
                    }
                });
                let Some((number, key)) = victim.map(|entry| (entry.number, entry.key)) else {
                    break;
                };
                if self.forget(key).is_none()
                    && let (span, Slot::ToolBegun(_, tool)) = key
                {
                    self.latest.remove(&(span, Slot::ToolPaired(tool)));
                }
                self.drop_number(number);
                self.forgotten += 1;
            }
        }
    }

    /// The events that stand for the prefix, in log order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &LogEntry> {
        self.by_number.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events dropped because the snapshot itself was full.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
