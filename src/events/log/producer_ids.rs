//! The ids that producers chose, so that an event that is published again is known.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

/// Ids that one log remembers, the latest.
const REMEMBERED: usize = 1_000;

/// The latest ids of a log with their numbers.
#[derive(Debug, Default)]
pub(super) struct ProducerIds {
    numbers: HashMap<Arc<str>, u64, RandomState>,
    order: VecDeque<Arc<str>>,
    bytes: usize,
}

impl ProducerIds {
    fn weight(id: &str) -> usize {
        id.len() + size_of::<(Arc<str>, u64)>() + size_of::<Arc<str>>()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number that an event with this id has.
    pub(super) fn number(&self, id: &str) -> Option<u64> {
        self.numbers.get(id).copied()
    }

    /// Remembers an id that is not known, and forgets the oldest of too many, or of more than so many bytes.
    pub(super) fn remember(&mut self, id: Arc<str>, number: u64, max_bytes: usize) {
        let weight = Self::weight(&id);
        while (self.order.len() >= REMEMBERED || self.bytes + weight > max_bytes)
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= Self::weight(&oldest);
            self.numbers.remove(&oldest);
        }
        self.bytes += weight;
        self.order.push_back(id.clone());
        self.numbers.insert(id, number);
    }
}
