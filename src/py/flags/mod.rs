//! Flags as Python has them: the engine, decisions, and the snapshot of a run.

mod decision;
mod engine;
mod snapshot;
mod values;

pub(crate) use self::decision::FlagDecision;
pub(crate) use self::engine::{FlagEngine, bucket, install_flags, installed_flags, installed_state, was_installed};
pub(crate) use self::snapshot::FlagSnapshot;
