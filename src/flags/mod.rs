//! Which users run the modern way: flags with stable, salted cohorts.
//!
//! A [`Document`] says what is rolled out, a [`Store`] has the one in force with what was decided at run time (rollbacks,
//! quarantined users, the kill switch), and [`State::decide`] answers for one user. A [`Snapshot`] keeps one state for the
//! length of a run, so that no run mixes modes.

mod bucket;
mod decision;
mod document;
mod evaluate;
mod fnv;
mod json;
mod murmur3;
mod read;
mod snapshot;
mod store;

pub use self::bucket::{Algorithm, Bucketing, FULL, is_in};
pub use self::decision::{Decision, ErrorCode, Reason, Step};
pub use self::document::{Document, FlagFault, Stage};
pub use self::evaluate::{Attributes, Unit};
pub use self::fnv::fnv1a32;
pub use self::murmur3::{Murmur3, murmur3_x86_32};
pub use self::snapshot::Snapshot;
pub use self::store::{State, Store, TooMany};
