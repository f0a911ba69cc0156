//! A cache behind its lock, and the caches of a lane.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};

use super::figures::Bounds;
use super::store::Cache;
use crate::clock::Micros;
use crate::lanes::LaneHandle;
use crate::owner::OwnerTag;
use crate::sync::{Mutex, MutexGuard};

/// What was taken out of a cache. The values are to be dropped by who asked, holding no lock.
pub struct Reclaimed {
    /// Entries.
    pub entries: usize,
    /// Bytes that the account got back.
    pub bytes: usize,
    _values: Box<dyn Any + Send>,
}

impl fmt::Debug for Reclaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reclaimed")
            .field("entries", &self.entries)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// What can be asked of any cache, whatever it holds.
pub trait Reclaim: Send + Sync {
    /// Takes out what has expired.
    fn expire(&self, now: Micros) -> Reclaimed;
    /// Takes out what is larger than `bytes`.
    fn shed(&self, bytes: usize) -> Reclaimed;
    /// Takes everything out.
    fn clear(&self) -> Reclaimed;
    /// Bytes charged for it.
    fn bytes(&self) -> usize;
}

/// A cache of one user, which keeps the user's lane in use.
pub struct Shelf<V> {
    lane: LaneHandle,
    cache: Mutex<Cache<V>>,
}

impl<V> fmt::Debug for Shelf<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

impl<V: Send + 'static> Shelf<V> {
    /// An empty cache of the lane's user, which the lane knows of.
    pub fn new(lane: LaneHandle, bounds: Bounds) -> Arc<Self> {
        let cache = Mutex::new(Cache::new(lane.account().clone(), bounds));
        let shelf = Arc::new(Self { lane, cache });
        let known: Weak<Self> = Arc::downgrade(&shelf);
        shelf.lane.caches().add(known);
        shelf
    }

    /// Whose it is.
    pub fn tag(&self) -> &OwnerTag {
        self.lane.tag()
    }

    /// The entries. Nothing of Python may be called or dropped meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, Cache<V>> {
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The same without waiting.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, Cache<V>>> {
        self.cache.try_lock().ok()
    }

    fn reclaim(&self, take: impl FnOnce(&mut Cache<V>, &mut Vec<V>) -> usize) -> Reclaimed {
        let mut gone = Vec::new();
        let mut cache = self.lock();
        let before = cache.stats().bytes;
        let entries = take(&mut cache, &mut gone);
        let bytes = before.saturating_sub(cache.stats().bytes);
        drop(cache);
        Reclaimed {
            entries,
            bytes,
            _values: Box::new(gone),
        }
    }
}

impl<V: Send + 'static> Reclaim for Shelf<V> {
    fn expire(&self, now: Micros) -> Reclaimed {
        self.reclaim(|cache, gone| cache.expire(now, gone))
    }

    fn shed(&self, bytes: usize) -> Reclaimed {
        self.reclaim(|cache, gone| cache.shed(bytes, gone))
    }

    fn clear(&self) -> Reclaimed {
        self.reclaim(Cache::clear)
    }

    fn bytes(&self) -> usize {
        self.lock().stats().bytes
    }
}

/// The caches of a lane, held weakly: a cache ends with who made it.
#[derive(Default)]
pub struct Shelves(Mutex<Vec<Weak<dyn Reclaim>>>);

impl fmt::Debug for Shelves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shelves").finish_non_exhaustive()
    }
}

impl Shelves {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn Reclaim>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn add(&self, cache: Weak<dyn Reclaim>) {
        let mut known = self.lock();
        // Looked through when the list would grow: constant time for each that was added.
        if known.len() == known.capacity() {
            known.retain(|cache| cache.strong_count() > 0);
        }
        known.push(cache);
    }

    /// Those that live.
    pub fn live(&self) -> Vec<Arc<dyn Reclaim>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }
}
