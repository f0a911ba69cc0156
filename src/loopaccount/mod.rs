//! Who uses the event loop: the time of each step of an agent's coroutine, by run and by user, and who held the loop so long
//! that everybody else waited.
//!
//! The account is told what a step took; [`Stopwatch`] is what measures it.

mod account;
mod accounts;
mod blocks;
mod budget;
mod stopwatch;

pub use account::{Account, Figures, Longest};
pub use accounts::{Accounts, MAX_USERS};
pub use blocks::{BLOCK, Block, Blocks, MAX_BLOCKS, Place, Stood, Warning, Who};
pub use budget::{Budget, Overdrawn};
pub use stopwatch::{Begun, LONG, Step, Stopwatch};

/// Nanoseconds: a step of a coroutine is often shorter than a microsecond.
pub type Nanos = u64;

/// One second in [`Nanos`].
pub const SECOND: Nanos = 1_000_000_000;

/// Converts nanoseconds to the seconds that people read.
pub fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

/// Converts a duration given by a person, in seconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, which is what is wanted here
pub fn nanos(seconds: f64) -> Nanos {
    (seconds * 1e9) as Nanos
}
