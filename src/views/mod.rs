//! What operators are shown of users and runs: lists and trees as JSON, written straight from the lanes.
//!
//! Nobody is named: a user is a keyed hash, in ids of runs as well. Of events there are numbers, kinds and times, and of
//! errors their classes; no payload and no text is read into a view.

mod pseudonym;
mod run;
mod runs;
mod users;

pub use pseudonym::{Pseudonyms, set_pseudonym_key, user_pseudonym};
pub use run::run;
pub use runs::{RunState, RunsQuery, run_counts, runs};
pub use users::{UsersOrder, UsersQuery, users};
