//! Locks and atomics of what is tested under a controlled scheduler: the standard library's, or shuttle's.
//!
//! With the feature `shuttle` each operation on them is a point at which the scheduler may change threads. Nothing else of
//! the crate may be used outside a shuttle execution then, so only `tests/rust/shuttle_*.rs` are run with the feature. What
//! no test of theirs decides upon stays with the standard library: counters of metrics, ids, the registry's map.

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicIsize, AtomicU16, AtomicU64, AtomicUsize},
};

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicIsize, AtomicU16, AtomicU64, AtomicUsize},
};
