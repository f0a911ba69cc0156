//! What several processes decide together.

mod append;
mod desk;
mod key;
mod mirror;
mod replica;

pub(crate) use append::LogAppend;
pub(crate) use desk::{DeskAwaitable, LeaseDesk, LeaseOperation, lease_scripts};
pub(crate) use key::cluster_user_key;
pub(crate) use mirror::{LogMirror, stream_is_mirrored};
pub(crate) use replica::{LogReplica, ReplicaAwaitable};
