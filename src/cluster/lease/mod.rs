//! Leases: limits that hold over several processes.
//!
//! A limiter that is shared lets a unit run only under a lease: its own mark, in the store, that expires unless it is
//! renewed. Nothing is held while somebody waits. Who lacks only a lease waits in the limiter's own queue, the desk asks for
//! as many as would run, and what is granted makes the queue move.
//!
//! `table` is what one limiter holds, `desk` what is sent and what came back, over all limiters.

mod bell;
mod breaker;
mod desk;
mod jitter;
mod operation;
pub(crate) mod table;

pub use bell::{Bell, Ring};
pub use desk::{Desk, DeskFigures, DeskSettings, Lost, Share, ShareError, ShareFigures, Waiting};
pub use operation::{Granted, Kind, LeaseId, Operation, Reply, Which};
pub use table::{Fail, OnLost};

/// The scripts that carry an operation out, by its kind.
pub const SCRIPTS: [(&str, &str); 4] = [
    ("acquire", include_str!("acquire.lua")),
    ("renew", include_str!("renew.lua")),
    ("release", include_str!("release.lua")),
    ("restore", include_str!("restore.lua")),
];
