//! What several processes decide together.

mod desk;

pub(crate) use desk::{DeskAwaitable, LeaseDesk, LeaseOperation, lease_scripts};
