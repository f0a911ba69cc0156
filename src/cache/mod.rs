//! The cache of one user: entries live for a time, in a bounded number of entries and bytes, charged to the user's lane.
//!
//! Own code and not a library's. `moka` drops and expires in batches some time later, and `quick_cache` knows no time; both,
//! like `lru`, drop values inside, where a lock is held. Here values are Python objects, whose end runs Python code, so
//! everything that leaves is handed to the caller to be dropped after the lock. The bytes are charged when an entry comes and
//! returned when it goes, and time is a value, so that a stopped clock shows exactly what has expired.

mod figures;
mod order;
mod pack;
mod shelf;
mod store;

pub use figures::{Bounds, CacheStats, EntryView, TooLarge};
pub use pack::{inflate, pack};
pub use shelf::{Reclaim, Reclaimed, Shelf, Shelves};
pub use store::Cache;
