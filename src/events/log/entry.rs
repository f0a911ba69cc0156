//! One event in a log.

use crate::clock::Micros;
use crate::events::fold::FoldKey;

/// One event, as it goes to every client.
#[derive(Debug)]
pub(in crate::events) struct Entry {
    pub(in crate::events) number: u64,
    pub(in crate::events) class: u8,
    pub(in crate::events) unix: Micros,
    pub(in crate::events) key: FoldKey,
    /// What it makes needless in a snapshot: the beginning of the tool call that it ends.
    pub(in crate::events) closes: Option<FoldKey>,
    /// The bare JSON message.
    pub(in crate::events) text: Box<str>,
}

impl Entry {
    /// Bytes charged for it.
    pub(in crate::events) fn weight(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }
}
