//! Lanes: everything this process holds for one user, and the one map of them.

mod budget;
mod lane;
mod registry;

pub use budget::{Account, Charge, OverLimit};
pub use lane::{Lane, LaneHandle, LaneKey};
pub use registry::{DEFAULT_MAX_IDLE, Registry, RegistryStats, Shared};
