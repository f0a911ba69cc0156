//! What a cache may hold, what it holds, and what it says of both.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::clock::Micros;

/// How much a cache may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Entries.
    pub entries: NonZeroUsize,
    /// Bytes of keys and values.
    pub bytes: usize,
    /// How long an entry lives after it was set.
    pub ttl: Micros,
}

/// A value that is larger than the whole cache may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value of {bytes} bytes does not fit into a cache of {limit}; raise maxbytes or keep the data elsewhere")]
pub struct TooLarge {
    /// Bytes of key and value.
    pub bytes: usize,
    /// Bytes that the cache may hold.
    pub limit: usize,
}

/// Counts of a cache since it was made, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Look-ups that found an entry.
    pub hits: u64,
    /// Look-ups that found none.
    pub misses: u64,
    /// Entries that made room for others.
    pub evictions: u64,
    /// Entries whose time was over.
    pub expirations: u64,
    /// Entries held.
    pub entries: usize,
    /// Bytes charged for the cache: keys, values and its own tables.
    pub bytes: usize,
}

/// An entry as it is looked at.
#[derive(Debug)]
pub struct EntryView<'a, V> {
    /// The key.
    pub key: &'a Arc<str>,
    /// The value.
    pub value: &'a V,
    /// Bytes of both.
    pub bytes: usize,
    /// The number of the entry, which no other of the cache has.
    pub serial: u64,
}
